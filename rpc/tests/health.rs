//! The builtin health service: asked, watched, set from any thread, and drained.

#![allow(clippy::unwrap_used, reason = "in tests a panic is the report")]

mod by_hand;
mod common;
mod server_side;

use std::thread;

use common::*;
use prost::Message;
use rpc::builtin::{HEALTH_CHECK, HEALTH_WATCH, HealthHandle, HealthReply, HealthRequest};
use rpc::{
    Code, ProviderError, ProviderHandle, RpcChannel, RpcController, RpcError, RpcProvider,
    RpcStream, builtin::ServingStatus,
};
use server_side::{control, kind, one_thread, receive_frame, until_pong};

use ServingStatus::{NotServing, Serving, Unknown};

fn serve_health() -> (ProviderHandle, HealthHandle) {
    let (echo, _held, _gate) = echo();
    let mut provider = RpcProvider::new(one_thread());
    provider.notify_builtin_services().unwrap();
    provider.notify_service(echo).unwrap();
    let handle = provider.start("127.0.0.1:0").unwrap();
    (handle, provider.health())
}

fn of(service: &str) -> HealthRequest {
    HealthRequest {
        service: service.to_owned(),
    }
}

fn check(channel: &RpcChannel, service: &str) -> ServingStatus {
    let mut controller = RpcController::with_timeout(LONG);
    let reply: HealthReply = channel
        .call(&HEALTH_CHECK, &mut controller, &of(service))
        .unwrap();
    reply.status()
}

fn watch(channel: &RpcChannel, service: &str) -> RpcStream<HealthReply> {
    let mut controller = RpcController::with_timeout(LONG);
    channel
        .open_stream(&HEALTH_WATCH, &mut controller, &of(service))
        .unwrap()
}

fn next(stream: &mut RpcStream<HealthReply>) -> Option<Result<ServingStatus, RpcError>> {
    stream.next().map(|item| item.map(|reply| reply.status()))
}

fn channel_of(handle: &ProviderHandle) -> RpcChannel {
    channel_to(handle.local_addr(), rpc::ChannelOptions::default())
}

#[test]
fn each_service_is_as_it_was_set_and_serving_before() {
    let (handle, health) = serve_health();
    let channel = channel_of(&handle);
    for service in ["", "Echo", "Health", "Reflection"] {
        assert_eq!(check(&channel, service), Serving, "{service}");
        assert_eq!(health.status(service), Serving);
    }
    assert_eq!(check(&channel, "Nobody"), Unknown);
    let other = health.clone();
    thread::spawn(move || other.set("Echo", NotServing))
        .join()
        .unwrap();
    assert_eq!(check(&channel, "Echo"), NotServing);
    assert_eq!(check(&channel, ""), Serving, "the others stay as they were");
    // A part of the server that is no service.
    health.set("disk", NotServing);
    assert_eq!(check(&channel, "disk"), NotServing);
    // A status refuses no call.
    assert_eq!(say(&channel, "x").unwrap().data, "x");
}

#[test]
fn whoever_watches_is_told_now_and_of_every_change() {
    let (handle, health) = serve_health();
    let channel = channel_of(&handle);
    let mut echo = watch(&channel, "Echo");
    let mut nobody = watch(&channel, "disk");
    assert_eq!(next(&mut echo), Some(Ok(Serving)));
    assert_eq!(next(&mut nobody), Some(Ok(Unknown)));
    health.set("Echo", NotServing);
    assert_eq!(next(&mut echo), Some(Ok(NotServing)));
    // What changes nothing is not told.
    health.set("Echo", NotServing);
    health.set("", NotServing);
    health.set("Echo", Serving);
    assert_eq!(next(&mut echo), Some(Ok(Serving)));
    health.set("disk", Serving);
    assert_eq!(next(&mut nobody), Some(Ok(Serving)));
}

#[test]
fn a_slow_watcher_is_told_the_latest_and_a_gone_one_is_forgotten() {
    let (handle, health) = serve_health();
    let mut socket = Socket::connect(handle.local_addr());
    let args = of("Echo").encode_to_vec();
    let request = by_hand::Request {
        service: HEALTH_WATCH.service.to_owned(),
        method: HEALTH_WATCH.method.to_owned(),
        args_size: u32::try_from(args.len()).unwrap(),
        id: 1,
        credit: 1,
        ..by_hand::Request::default()
    };
    socket.send(&[request.encode_length_delimited_to_vec(), args].concat());
    let status = |frame: &server_side::Frame| {
        assert_eq!((frame.kind, frame.request_id), (kind::ITEM, 1));
        HealthReply::decode(&frame.body[..]).unwrap().status()
    };
    assert_eq!(status(&receive_frame(&mut socket)), Serving);
    // The item took more than all of the credit.
    for set in [NotServing, Serving, NotServing] {
        health.set("Echo", set);
    }
    assert_eq!(until_pong(&mut socket), []);
    socket.send(&control(server_side::CREDIT, 1, 1_000));
    assert_eq!(status(&receive_frame(&mut socket)), NotServing);
    assert_eq!(until_pong(&mut socket), []);
    health.set("Echo", Serving);
    assert_eq!(status(&receive_frame(&mut socket)), Serving);

    assert!(format!("{health:?}").contains("watchers: 1"), "{health:?}");
    socket.send(&control(server_side::CANCEL, 1, 0));
    let end = receive_frame(&mut socket);
    assert_eq!((end.kind, end.request_id), (kind::REPLY, 1));
    assert!(format!("{health:?}").contains("watchers: 0"), "{health:?}");
}

#[test]
fn a_draining_server_serves_nothing_and_ends_the_streams() {
    let (mut handle, health) = serve_health();
    let channel = channel_of(&handle);
    let mut server = watch(&channel, "");
    let mut disk = watch(&channel, "disk");
    assert_eq!(next(&mut server), Some(Ok(Serving)));
    assert_eq!(next(&mut disk), Some(Ok(Unknown)));
    assert!(handle.drain(LONG), "watchers hold nothing up");
    assert_eq!(next(&mut server), Some(Ok(NotServing)));
    assert_eq!(next(&mut server), None);
    assert_eq!(next(&mut disk), None);
    // What was set stays as it was, for the provider's next server.
    assert_eq!(health.status(""), Serving);
}

#[test]
fn while_it_drains_a_server_answers_that_it_does_not_serve() {
    let (handle, health) = serve_health();
    let mut held_socket = Socket::connect(handle.local_addr());
    held_socket.send(&echo_request(&HOLD, 1, "x"));
    let mut socket = Socket::connect(handle.local_addr());
    socket.send(&request("Health", "Check", 1, 0, &of("").encode_to_vec()));
    assert_eq!(receive_frame(&mut socket).body, [0x08, 1]);
    let mut handle = handle;
    let drained = thread::spawn(move || handle.drain(LONG));
    assert_eq!(receive_frame(&mut socket).kind, kind::GOAWAY);
    socket.send(&request("Health", "Check", 2, 0, &of("").encode_to_vec()));
    assert_eq!(receive_frame(&mut socket).body, [0x08, 2]);
    health.set("", Serving);
    socket.send(&request("Health", "Check", 3, 0, &of("").encode_to_vec()));
    assert_eq!(receive_frame(&mut socket).body, [0x08, 2]);
    // One who begins to watch now is told, and that is all.
    socket.send(&request("Health", "Watch", 4, 0, b""));
    assert_eq!(receive_frame(&mut socket).body, [0x08, 2]);
    assert_eq!(receive_frame(&mut socket).kind, kind::REPLY);
    drop((socket, held_socket));
    drained.join().unwrap();
}

#[test]
fn the_names_of_builtin_services_are_taken_and_bad_arguments_refused() {
    struct Impostor;
    impl rpc::Service for Impostor {
        fn name(&self) -> &'static str {
            "Health"
        }
        fn methods(&self) -> &'static [&'static str] {
            &["Check"]
        }
        fn call(&self, _: usize, _: rpc::RpcContext, _: bytes::Bytes, reply: rpc::ReplySlot) {
            drop(reply);
        }
    }
    let mut provider = RpcProvider::new(one_thread());
    provider.notify_builtin_services().unwrap();
    let error = provider.notify_service(Impostor).unwrap_err();
    assert!(matches!(
        error,
        ProviderError::DuplicateService { name: "Health" }
    ));
    let mut provider = RpcProvider::new(one_thread());
    provider.notify_service(Impostor).unwrap();
    assert!(provider.notify_builtin_services().is_err());

    let (handle, _health) = serve_health();
    let mut socket = Socket::connect(handle.local_addr());
    socket.send(&request("Health", "Check", 1, 0, b"\xff"));
    let reply = receive_frame(&mut socket);
    assert!(
        reply.is(Code::InvalidArgument) && reply.refused,
        "{reply:?}"
    );
}

/// Which it would have to keep for as long as they are watched.
#[test]
fn long_names_are_refused() {
    let (handle, health) = serve_health();
    let channel = channel_of(&handle);
    assert_eq!(check(&channel, &"n".repeat(256)), Unknown);
    let long = of(&"n".repeat(257));
    let mut controller = RpcController::with_timeout(LONG);
    let error = channel
        .call::<_, HealthReply>(&HEALTH_CHECK, &mut controller, &long)
        .unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument, "{error}");
    let end = next(&mut watch(&channel, &long.service)).unwrap();
    assert_eq!(end.unwrap_err().code(), Code::InvalidArgument);
    assert!(format!("{health:?}").contains("watchers: 0"), "{health:?}");
}
