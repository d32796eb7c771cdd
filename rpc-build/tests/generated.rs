//! The code generated for `golden/*.proto` (`compile.rs` holds it to what is generated) compiles,
//! and does what it should against a running provider.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::sync::{Arc, mpsc};
use std::time::Duration;

use prost::Message as _;
use protox::prost_reflect::DescriptorPool;
use rpc::{
    Code, Done, MethodDescriptor, ProviderHandle, ProviderOptions, RpcChannel, RpcContext,
    RpcController, RpcError, RpcProvider, Service, StreamSender,
};

use bare::{Bare, BareService, BareStub, Nothing};
use goods::{Change, Item};
use shop::{
    Amount, Stock, StockService, StockStub, TillRpc, TillRpcService, TillRpcStub, WatchArgs,
};

#[allow(
    dead_code,
    missing_docs,
    unreachable_pub,
    clippy::pedantic,
    reason = "generated"
)]
mod shop {
    include!("golden/shop.rs");
}

#[allow(
    dead_code,
    missing_docs,
    unreachable_pub,
    clippy::pedantic,
    reason = "generated"
)]
mod goods {
    include!("golden/goods.rs");
}

#[allow(
    dead_code,
    missing_docs,
    unreachable_pub,
    clippy::pedantic,
    reason = "generated"
)]
mod bare {
    include!("golden/_.rs");
}

struct Shop;

impl Stock for Shop {
    fn count(&self, _context: RpcContext, args: Item, done: Done<Amount>) {
        done.run(Amount {
            amount: args.name.len() as u64,
        });
    }

    /// Changes by 1, 2, 3; none wanted: fails after the first.
    fn watch(&self, _context: RpcContext, args: WatchArgs, stream: StreamSender<Change>) {
        for by in 1..=args.changes.max(1) {
            let item = Some(Item {
                name: "fig".to_owned(),
            });
            stream
                .send(&Change {
                    item,
                    by: by.into(),
                })
                .unwrap();
        }
        match args.changes {
            0 => stream.fail(RpcError::new(Code::NotFound, "no more figs")),
            _ => stream.finish(),
        }
    }

    fn r#type(&self, _context: RpcContext, _args: WatchArgs, done: Done<Amount>) {
        done.run(Amount { amount: 7 });
    }

    fn self_(&self, _context: RpcContext, _args: WatchArgs, stream: StreamSender<Amount>) {
        stream.finish();
    }
}

impl TillRpc for Shop {
    fn open(&self, _context: RpcContext, _args: WatchArgs, done: Done<Amount>) {
        done.run(Amount { amount: 100 });
    }
}

impl Bare for Shop {
    fn ping(&self, _context: RpcContext, _args: Nothing, done: Done<Nothing>) {
        done.run(Nothing {});
    }
}

fn serve() -> (ProviderHandle, RpcChannel) {
    let mut provider = RpcProvider::new(ProviderOptions::default());
    let shop = Arc::new(Shop);
    provider
        .notify_service(StockService::new(Arc::clone(&shop)))
        .unwrap();
    provider
        .notify_service(TillRpcService::new(Arc::clone(&shop)))
        .unwrap();
    provider.notify_service(BareService::new(shop)).unwrap();
    let handle = provider.start("127.0.0.1:0").unwrap();
    let channel = RpcChannel::new(handle.local_addr());
    (handle, channel)
}

fn controller() -> RpcController {
    RpcController::with_timeout(Duration::from_secs(20))
}

#[test]
fn a_stub_calls_the_services_of_a_file_by_message_types_of_several_packages() {
    let (_server, channel) = serve();
    let (stock, till) = (
        StockStub::new(channel.clone()),
        TillRpcStub::new(channel.clone()),
    );
    let item = Item {
        name: "fig".to_owned(),
    };
    let args = WatchArgs::default();
    assert_eq!(stock.count(&mut controller(), &item).unwrap().amount, 3);
    assert_eq!(stock.r#type(&mut controller(), &args).unwrap().amount, 7);
    assert_eq!(till.open(&mut controller(), &args).unwrap().amount, 100);
    BareStub::new(channel)
        .ping(&mut controller(), &Nothing {})
        .unwrap();

    let (sender, replies) = mpsc::channel();
    stock.type_async(controller(), &args, move |reply| {
        sender.send(reply).unwrap();
    });
    assert_eq!(replies.recv().unwrap().unwrap().amount, 7);
}

#[test]
fn a_stream_is_an_iterator_whose_end_tells_why_it_ended() {
    let (_server, channel) = serve();
    let stock = StockStub::new(channel);
    let watch = |changes| {
        let args = WatchArgs { changes };
        let stream = stock.watch(&mut controller(), &args).unwrap();
        let items = stream.map(|item| item.map(|change| change.by).map_err(|error| error.code()));
        items.collect::<Vec<_>>()
    };
    assert_eq!(watch(3), [Ok(1), Ok(2), Ok(3)]);
    assert_eq!(watch(0), [Ok(1), Err(Code::NotFound)]);
    let args = WatchArgs::default();
    assert!(
        stock
            .self_(&mut controller(), &args)
            .unwrap()
            .next()
            .is_none()
    );
}

#[test]
fn the_callback_form_of_a_stream_hands_over_items_and_then_the_end() {
    let (_server, channel) = serve();
    let stock = StockStub::new(channel);
    let (events, told) = mpsc::channel();
    let ended = events.clone();
    stock.watch_async(
        controller(),
        &WatchArgs { changes: 2 },
        move |change| events.send(Ok(change.by)).unwrap(),
        move |end| ended.send(Err(end)).unwrap(),
    );
    let told: Vec<_> = told.iter().collect();
    assert_eq!(told, [Ok(1), Ok(2), Err(Ok(()))]);
}

#[test]
fn arguments_that_do_not_decode_are_refused() {
    static WATCH: MethodDescriptor = MethodDescriptor {
        service: "Stock",
        method: "Watch",
    };
    let (_server, channel) = serve();
    let mut stream = channel
        .open_stream_raw(&WATCH, &mut controller(), vec![0x08].into())
        .unwrap();
    let error = stream.next().unwrap().unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
    assert!(error.text().contains("WatchArgs"), "{error}");
    assert!(!error.may_have_executed(), "no handler has seen it");
}

#[test]
fn an_adapter_knows_its_full_name_its_streams_and_its_descriptors() {
    let shop = Arc::new(Shop);
    let (stock, till) = (
        StockService::new(Arc::clone(&shop)),
        TillRpcService::new(Arc::clone(&shop)),
    );
    assert_eq!((stock.name(), stock.full_name()), ("Stock", "shop.Stock"));
    assert_eq!(BareService::new(shop).full_name(), "Bare");
    let streaming: Vec<_> = (0..stock.methods().len())
        .map(|method| stock.is_streaming(method))
        .collect();
    assert_eq!(streaming, [false, true, false, true]);
    assert!(!till.is_streaming(0));

    assert_eq!(stock.file_descriptor_set(), till.file_descriptor_set());
    let pool = DescriptorPool::decode(stock.file_descriptor_set()).unwrap();
    let files: Vec<_> = pool.files().map(|file| file.name().to_owned()).collect();
    assert_eq!(files, ["goods.proto", "shop.proto"], "and not bare.proto");
    for service in [stock.full_name(), till.full_name()] {
        assert!(pool.get_service_by_name(service).is_some(), "{service}");
    }
    let in_order =
        protox::prost_reflect::prost_types::FileDescriptorSet::decode(stock.file_descriptor_set())
            .unwrap();
    assert_eq!(in_order.file[0].name(), "goods.proto", "imports come first");
    assert!(
        (in_order.file.iter()).all(|file| file.source_code_info.is_none()),
        "comments stay out"
    );
}
