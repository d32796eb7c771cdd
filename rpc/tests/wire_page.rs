//! The worked examples of `docs/wire.md`, played against a provider: what the page says that a
//! caller sends is sent, and what comes back has to be what the page says, byte for byte.

#![allow(clippy::unwrap_used, reason = "in tests a panic is the report")]

mod common;
mod page;

use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use common::{LONG, Socket};
use page::{Example, Sender, Step, examples};
use prost::Message;
use rpc::{
    Code, Done, Keepalive, Limits, ProviderHandle, ProviderOptions, ReplySlot, RpcContext,
    RpcError, RpcProvider, Service, StreamSender,
};

#[derive(Clone, PartialEq, Message)]
struct Text {
    #[prost(string, tag = "1")]
    text: String,
}

/// The service of the page's framed examples.
struct Echo;

impl Service for Echo {
    fn name(&self) -> &'static str {
        "Echo"
    }

    fn methods(&self) -> &'static [&'static str] {
        &["Say", "Find", "Count", "Hold"]
    }

    fn is_streaming(&self, method: usize) -> bool {
        self.methods()[method] == "Count"
    }

    fn call(&self, method: usize, context: RpcContext, args: Bytes, reply: ReplySlot) {
        let args = Text::decode(args).unwrap();
        match self.methods()[method] {
            "Say" => {
                if context.metadata().get_str("tenant") == Some("blue") {
                    let trace = context.trace().unwrap().to_string();
                    let sent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
                    assert_eq!(trace, sent);
                    context.add_reply_metadata("node", "east");
                }
                Done::new(reply).run(args);
            }
            "Find" => reply.fail(RpcError::new(Code::NotFound, "no such")),
            "Count" => {
                let sender = StreamSender::<Text>::new(reply);
                // It waits for credit, which is not for the loop's thread to do.
                thread::spawn(move || {
                    for text in ["a", "b", "c", "d"] {
                        sender.send(&Text { text: text.into() }).unwrap();
                    }
                    sender.finish();
                });
            }
            _ => {
                let reply = Mutex::new(Some(reply));
                context.on_cancel(move || {
                    let reply = reply.lock().unwrap().take().unwrap();
                    reply.fail(RpcError::new(Code::Cancelled, "given up"));
                });
            }
        }
    }
}

/// Answers the original's callers with the bytes that the original answers with.
struct Original {
    name: &'static str,
    methods: &'static [&'static str],
}

impl Service for Original {
    fn name(&self) -> &'static str {
        self.name
    }

    fn methods(&self) -> &'static [&'static str] {
        self.methods
    }

    fn call(&self, method: usize, _context: RpcContext, args: Bytes, reply: ReplySlot) {
        #[derive(Clone, PartialEq, Message)]
        struct Reply {
            #[prost(bytes = "bytes", tag = "1")]
            err: Bytes,
            #[prost(bytes = "bytes", repeated, tag = "2")]
            more: Vec<Bytes>,
        }
        #[derive(Clone, PartialEq, Message)]
        struct Friends {
            #[prost(message, optional, tag = "1")]
            result: Option<()>,
            #[prost(bytes = "bytes", repeated, tag = "2")]
            friends: Vec<Bytes>,
        }
        let answer = |err: &'static str, more: &[&'static str]| Reply {
            err: err.into(),
            more: more.iter().map(|&text| text.into()).collect(),
        };
        match (self.methods[method], &args[..]) {
            ("GetFriendsList", [0x08, 0xe8, 0x07]) => reply.reply(&Friends {
                result: Some(()),
                friends: vec!["gao yang".into(), "liu hong".into(), "wang shuo".into()],
            }),
            ("PutAppend", _) => reply.reply(&answer("OK", &[])),
            ("Get", [0x0a, 5, b'h', ..]) => reply.reply(&answer("OK", &["world"])),
            ("Get", _) => reply.reply(&answer("ErrNoKey", &[])),
            (_, args) => panic!("these are not the page's arguments: {args:?}"),
        }
    }
}

fn serve(options: ProviderOptions) -> ProviderHandle {
    let mut provider = RpcProvider::new(options);
    provider.notify_service(Echo).unwrap();
    for (name, methods) in [
        ("kvServerRpc", &["PutAppend", "Get"][..]),
        ("FiendServiceRpc", &["GetFriendsList"]),
    ] {
        provider.notify_service(Original { name, methods }).unwrap();
    }
    provider.start("127.0.0.1:0").unwrap()
}

/// The example with this title. Each is played by one test; see the last one.
fn example(title: &str) -> Example {
    let found = examples()
        .into_iter()
        .find(|example| example.title == title);
    found.unwrap_or_else(|| panic!("docs/wire.md has no example {title:?}"))
}

fn play(socket: &mut Socket, steps: &[Step]) {
    for step in steps {
        match step.sender {
            Sender::Caller => socket.send(&step.bytes),
            Sender::Server => {
                let came = socket.receive(step.bytes.len());
                let hex = |bytes: &[u8]| format!("{bytes:02x?}");
                assert_eq!(hex(&came), hex(&step.bytes), "docs/wire.md:{}", step.line);
            }
        }
    }
}

/// Plays an example, and sees that the server has nothing more to say.
fn play_whole(title: &str) {
    let mut handle = serve(ProviderOptions::default());
    let mut socket = Socket::connect(handle.local_addr());
    play(&mut socket, &example(title).steps);
    socket.stream.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(socket.receive_until_closed(), b"", "after {title:?}");
    handle.shutdown();
}

const PLAYED_WHOLE: [&str; 7] = [
    "The C++ original: Put, Get",
    "The C++ original: friends",
    "A call",
    "Failures",
    "Metadata and a trace",
    "A stream",
    "Cancel",
];

#[test]
fn conversations_go_as_the_page_says() {
    for title in PLAYED_WHOLE {
        play_whole(title);
    }
}

#[test]
fn the_server_waits_for_the_credit_of_the_streams_example() {
    let handle = serve(ProviderOptions::default());
    let mut socket = Socket::connect(handle.local_addr());
    let steps = example("A stream").steps;
    let credit = 1 + steps[1..]
        .iter()
        .position(|step| step.sender == Sender::Caller)
        .unwrap();
    play(&mut socket, &steps[..credit]);
    // What comes next without the credit is the answer to a question, not an item.
    play(&mut socket, &example("Signs of life").steps[..2]);
    play(&mut socket, &steps[credit..]);
}

#[test]
fn a_silent_caller_is_asked_as_the_page_says() {
    let handle = serve(ProviderOptions {
        keepalive: Keepalive {
            after: Duration::from_millis(50),
            timeout: LONG,
        },
        ..ProviderOptions::default()
    });
    let mut socket = Socket::connect(handle.local_addr());
    play(&mut socket, &example("Signs of life").steps);
}

#[test]
fn a_server_that_leaves_says_goodbye_as_the_page_says() {
    let mut handle = serve(ProviderOptions::default());
    let mut socket = Socket::connect(handle.local_addr());
    let steps = example("Goodbye").steps;
    play(&mut socket, &steps[..1]);
    // The call has begun when what was sent after it is answered.
    play(&mut socket, &example("Signs of life").steps[..2]);
    let drained = thread::spawn(move || handle.drain(LONG));
    play(&mut socket, &steps[1..]);
    assert_eq!(socket.receive_until_closed(), b"");
    assert!(drained.join().unwrap(), "no call was cut off");
}

#[test]
fn a_full_server_says_so_as_the_page_says() {
    let handle = serve(ProviderOptions {
        limits: Limits {
            max_connections: 1,
            ..Limits::default()
        },
        ..ProviderOptions::default()
    });
    let mut first = Socket::connect(handle.local_addr());
    play(&mut first, &example("Signs of life").steps[..2]);
    let mut second = Socket::connect(handle.local_addr());
    play(&mut second, &example("No room").steps);
    play(&mut first, &example("A call").steps);
}

#[test]
fn no_example_is_left_out() {
    let played_by_themselves = ["Signs of life", "Goodbye", "No room"];
    for example in examples() {
        let title = &example.title;
        assert!(
            PLAYED_WHOLE.contains(title) || played_by_themselves.contains(title),
            "no test plays {title:?}"
        );
        assert!(!example.steps.is_empty(), "{title:?} has no frames");
    }
}
