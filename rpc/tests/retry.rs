//! Calls that a channel repeats.

#![allow(clippy::unwrap_used, reason = "in tests a panic is the report")]

mod by_hand;
mod common;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use by_hand::*;
use common::{Blob, LONG, SAY, begin, blob, channel_to, end, serve_at};
use rpc::{
    Backoff, ChannelOptions, ClientInterceptor, Code, MethodDescriptor, OutgoingCall,
    ProviderOptions, RetryPolicy, RpcController, RpcError, RpcStream,
};

static LIST: MethodDescriptor = MethodDescriptor {
    service: "Echo",
    method: "List",
};

fn patient() -> RpcController {
    RpcController::with_timeout(LONG)
}

fn every(pause: Duration) -> Backoff {
    Backoff {
        min: pause,
        max: pause,
    }
}

/// Up to `max_attempts` with `pause` in between; a server that failed may be dialled at once.
fn retrying(max_attempts: u32, pause: Duration) -> ChannelOptions {
    ChannelOptions {
        backoff: every(Duration::ZERO),
        retry: Some(RetryPolicy {
            max_attempts,
            backoff: every(pause),
        }),
        ..ChannelOptions::default()
    }
}

/// Counts attempts.
#[derive(Default)]
struct Attempts(AtomicU32);

impl ClientInterceptor for Attempts {
    fn before(&self, call: &mut OutgoingCall<'_>) -> Result<(), RpcError> {
        let before = self.0.fetch_add(1, Ordering::Relaxed);
        assert_eq!(call.attempt, before + 1);
        Ok(())
    }
}

fn counted(mut options: ChannelOptions) -> (ChannelOptions, Arc<Attempts>) {
    let attempts = Arc::new(Attempts::default());
    options.interceptors = vec![Arc::clone(&attempts) as Arc<dyn ClientInterceptor>];
    (options, attempts)
}

/// An address at which nobody listens.
fn nobody() -> SocketAddr {
    ByHand::listen().addr
}

#[test]
fn a_call_is_repeated_until_its_server_is_there() {
    let addr = nobody();
    let channel = channel_to(addr, retrying(u32::MAX, Duration::from_millis(2)));
    let early = begin(&channel, &SAY, patient(), "early");
    let caller = channel.clone();
    let blocking = std::thread::spawn(move || common::say(&caller, "blocking"));
    let _server = serve_at(addr, ProviderOptions::default());
    assert_eq!(end(&early).unwrap().data, "early");
    assert_eq!(blocking.join().unwrap().unwrap().data, "blocking");
}

#[test]
fn a_call_is_tried_as_often_as_the_policy_says() {
    let (options, attempts) = counted(retrying(4, Duration::ZERO));
    let channel = channel_to(nobody(), options);
    let error = end(&begin(&channel, &SAY, patient(), "x")).unwrap_err();
    assert_eq!(
        (error.code(), error.may_have_executed()),
        (Code::Unavailable, false)
    );
    assert_eq!(attempts.0.load(Ordering::Relaxed), 4);
}

#[test]
fn a_call_is_repeated_only_if_there_is_time_for_it() {
    let (options, attempts) = counted(retrying(4, LONG * 10));
    let channel = channel_to(nobody(), options);
    let error = end(&begin(&channel, &SAY, patient(), "x")).unwrap_err();
    assert_eq!(error.code(), Code::Unavailable);
    assert_eq!(attempts.0.load(Ordering::Relaxed), 1);
}

#[test]
fn a_call_that_may_have_been_executed_is_repeated_only_if_it_is_idempotent() {
    let server = ByHand::listen();
    let channel = channel_to(server.addr, retrying(3, Duration::ZERO));
    let call = begin(&channel, &SAY, patient(), "once");
    server.accept().next_call();
    let error = end(&call).unwrap_err();
    assert_eq!(
        (error.code(), error.may_have_executed()),
        (Code::Unavailable, true)
    );

    let controller = patient();
    controller.set_idempotent(true);
    let call = begin(&channel, &SAY, controller, "twice");
    server.accept().next_call();
    let mut link = server.accept();
    let request = link.next_call();
    link.reply(request.id, "twice");
    assert_eq!(end(&call).unwrap().data, "twice");
}

#[test]
fn refused_calls_are_repeated_and_failed_ones_are_not() {
    let server = ByHand::listen();
    let channel = channel_to(server.addr, retrying(3, Duration::ZERO));
    let call = begin(&channel, &SAY, patient(), "x");
    let mut link = server.accept();
    for code in [Code::ResourceExhausted, Code::Unavailable] {
        let id = link.next_call().id;
        link.fail(id, code, true);
    }
    let id = link.next_call().id;
    link.reply(id, "third");
    assert_eq!(end(&call).unwrap().data, "third");

    for (code, refused) in [
        (Code::ResourceExhausted, false),
        (Code::Unavailable, false),
        (Code::NotFound, true),
    ] {
        let call = begin(&channel, &SAY, patient(), "x");
        let id = link.next_call().id;
        link.fail(id, code, refused);
        let error = end(&call).unwrap_err();
        assert_eq!((error.code(), error.may_have_executed()), (code, !refused));
    }
}

#[test]
fn a_pause_is_as_long_as_the_server_is_not_dialled() {
    let addr = nobody();
    let mut options = retrying(2, Duration::ZERO);
    options.backoff = every(Duration::from_millis(100));
    let (options, attempts) = counted(options);
    let channel = channel_to(addr, options);
    let error = end(&begin(&channel, &SAY, patient(), "x")).unwrap_err();
    assert_eq!(attempts.0.load(Ordering::Relaxed), 2);
    // Otherwise the second would have failed at once.
    assert!(error.text().contains("cannot connect"), "{error}");
}

#[test]
fn a_call_can_be_cancelled_while_it_waits_for_its_next_attempt() {
    let server = ByHand::listen();
    // Longer than anybody here waits for a call.
    let mut options = retrying(3, LONG * 10);
    options.default_timeout = LONG * 100;
    let channel = channel_to(server.addr, options);
    let controller = RpcController::new();
    let call = begin(&channel, &SAY, controller.clone(), "x");
    let mut link = server.accept();
    let id = link.next_call().id;
    link.fail(id, Code::Unavailable, true);
    // A call behind it shows that the failure has arrived, and begun the pause.
    let behind = RpcController::new();
    let last = begin(&channel, &SAY, behind, "y");
    let id = link.next_call().id;
    link.reply(id, "y");
    end(&last).unwrap();
    controller.start_cancel();
    let error = end(&call).unwrap_err();
    assert_eq!(error.code(), Code::Cancelled);
}

#[test]
fn the_end_of_a_channel_ends_the_calls_that_wait() {
    let mut options = retrying(3, LONG * 10);
    options.default_timeout = LONG * 100;
    let server = ByHand::listen();
    let channel = channel_to(server.addr, options);
    let call = begin(&channel, &SAY, RpcController::new(), "x");
    let mut link = server.accept();
    let id = link.next_call().id;
    link.fail(id, Code::Unavailable, true);
    let last = begin(&channel, &SAY, RpcController::new(), "y");
    let id = link.next_call().id;
    link.reply(id, "y");
    end(&last).unwrap();
    drop(channel);
    assert_eq!(end(&call).unwrap_err().code(), Code::Cancelled);
}

#[test]
fn a_stream_is_repeated_until_its_first_item() {
    let server = ByHand::listen();
    let channel = channel_to(server.addr, retrying(3, Duration::ZERO));
    let mut stream: RpcStream<Blob> = channel
        .open_stream(&LIST, &mut patient(), &blob("all"))
        .unwrap();
    let mut link = server.accept();
    let id = link.next_call().id;
    link.fail(id, Code::Unavailable, true);
    let request = link.next_call();
    assert!(request.credit > 0);
    link.item(request.id, "one");
    link.fail(request.id, Code::Unavailable, true);
    assert_eq!(stream.next().unwrap().unwrap().data, "one");
    let error = stream.next().unwrap().unwrap_err();
    assert_eq!(error.code(), Code::Unavailable);
    assert!(stream.next().is_none());
}
