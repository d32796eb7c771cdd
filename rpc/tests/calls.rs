//! Calls end to end: a channel and a provider that know each other.

#![allow(clippy::cast_possible_truncation, reason = "test data")]
#![allow(clippy::unwrap_used, reason = "in tests a panic is the report")]

mod common;

use std::sync::mpsc::{self, Sender};
use std::thread;
use std::time::Duration;

use common::*;
use rpc::{
    ChannelOptions, Code, EventLoops, MethodDescriptor, ProviderOptions, RpcChannel, RpcController,
};

#[test]
fn a_blocking_call_returns_its_reply() {
    let server = serve();
    let channel = server.channel();
    for text in ["", "hello", "\0\n|\u{e9}"] {
        let mut controller = RpcController::new();
        let reply: Blob = channel.call(&SAY, &mut controller, &blob(text)).unwrap();
        assert_eq!(reply.data, text);
        assert!(!controller.failed());
    }
    assert_eq!(channel.in_flight(), 0);
}

#[test]
fn a_channel_with_default_options_runs_on_the_common_loop() {
    let server = serve();
    let (one, other) = (
        RpcChannel::new(server.addr()),
        RpcChannel::new(server.addr()),
    );
    assert_eq!(say(&one, "a").unwrap().data, "a");
    drop(one);
    assert_eq!(say(&other, "b").unwrap().data, "b");
}

#[test]
fn one_event_loop_carries_a_provider_and_its_channels() {
    let loops = EventLoops::start(1, "node").unwrap();
    let options = ProviderOptions {
        loops: Some(loops.clone()),
        ..ProviderOptions::default()
    };
    let server = serve_with(options);
    let options = ChannelOptions {
        loops: Some(loops),
        ..ChannelOptions::default()
    };
    let channel = RpcChannel::with_options(server.addr(), options);
    for i in 0..100 {
        assert_eq!(say(&channel, format!("{i}")).unwrap().data, format!("{i}"));
    }
}

#[test]
fn bodies_of_many_sizes_go_both_ways() {
    let server = serve();
    let channel = server.channel();
    for len in [
        1,
        1_000,
        16 << 10,
        64 << 10,
        (128 << 10) - 20,
        128 << 10,
        1 << 20,
        20 << 20,
    ] {
        let data: Vec<u8> = (0..len).map(|i: usize| (i * 31 % 251) as u8).collect();
        assert!(say(&channel, &data).unwrap().data == data, "{len} bytes");
    }
}

#[test]
fn replies_come_in_any_order() {
    let server = serve();
    let channel = server.channel();
    let calls: Vec<_> = (0..10)
        .map(|i| begin(&channel, &HOLD, RpcController::new(), format!("{i}")))
        .collect();
    let mut held: Vec<_> = calls.iter().map(|_| server.next_held()).collect();
    while let Some(call) = held.pop() {
        call.echo();
    }
    for (i, call) in calls.iter().enumerate() {
        assert_eq!(end(call).unwrap().data, format!("{i}"));
    }
}

/// In the original, threads that share a connection mix their replies up.
#[test]
fn eight_threads_share_a_channel() {
    let server = serve();
    let channel = server.channel();
    thread::scope(|scope| {
        for thread in 0..8 {
            let channel = channel.clone();
            scope.spawn(move || {
                for i in 0..500 {
                    let text = format!("{thread}/{i}");
                    assert_eq!(say(&channel, &text).unwrap().data, text);
                }
            });
        }
    });
    assert_eq!(server.handle.connections(), 1);
}

#[test]
fn done_runs_on_other_threads() {
    let server = serve();
    let channel = server.channel();
    let calls: Vec<_> = (0..400)
        .map(|i| {
            begin(
                &channel,
                &HOLD,
                RpcController::new(),
                vec![i as u8; i * 150],
            )
        })
        .collect();
    let held: Vec<_> = calls.iter().map(|_| server.next_held()).collect();
    thread::scope(|scope| {
        let mut held = held.into_iter();
        loop {
            let some: Vec<_> = held.by_ref().take(100).collect();
            if some.is_empty() {
                break;
            }
            scope.spawn(move || some.into_iter().for_each(Held::echo));
        }
    });
    for (i, call) in calls.iter().enumerate() {
        assert_eq!(end(call).unwrap().data, vec![i as u8; i * 150]);
    }
}

/// Calls `left` more times, each from the callback of the one before; then tells its thread.
fn call_again(channel: &RpcChannel, left: u32, sender: Sender<Option<String>>) {
    let next = channel.clone();
    channel.call_async(&SAY, RpcController::new(), &blob("x"), move |result| {
        let _: Blob = result.unwrap();
        if left == 0 {
            sender
                .send(thread::current().name().map(str::to_owned))
                .unwrap();
        } else {
            call_again(&next, left - 1, sender);
        }
    });
}

#[test]
fn callbacks_may_call_again_and_run_on_the_loop() {
    let server = serve();
    let channel = server.channel();
    let (sender, ended) = mpsc::channel();
    call_again(&channel, 1_000, sender);
    assert_eq!(
        ended.recv_timeout(LONG).unwrap().as_deref(),
        Some("client-0")
    );
}

/// The original is silent about a method or service that it does not have.
#[test]
fn an_unknown_service_or_method_is_told_what_exists() {
    static NO_SERVICE: MethodDescriptor = MethodDescriptor {
        service: "Ecko",
        method: "Say",
    };
    static NO_METHOD: MethodDescriptor = MethodDescriptor {
        service: "Echo",
        method: "Sing",
    };
    let server = serve();
    let channel = server.channel();
    let error = call(&channel, &NO_SERVICE, "").unwrap_err();
    assert_eq!(error.code(), Code::Unimplemented);
    assert_eq!(error.text(), "no service \"Ecko\"; there is Echo");
    assert!(!error.may_have_executed());
    let error = call(&channel, &NO_METHOD, "").unwrap_err();
    assert_eq!(error.code(), Code::Unimplemented);
    assert!(
        error
            .text()
            .contains("no method \"Sing\"; it has Say, Hold"),
        "{error}"
    );
}

#[test]
fn a_handlers_failure_reaches_its_caller() {
    let server = serve();
    let channel = server.channel();
    for code in Code::ALL.into_iter().filter(|&code| code != Code::Ok) {
        let mut controller = RpcController::new();
        let result: Result<Blob, _> =
            channel.call(&FAIL, &mut controller, &blob([code.number() as u8]));
        let error = result.unwrap_err();
        assert_eq!(
            (error.code(), error.text()),
            (code, &*format!("as asked: {code}"))
        );
        assert!(error.may_have_executed(), "a handler said it");
        assert!(controller.failed());
        assert_eq!(
            (controller.error_code(), controller.error_text()),
            (code, error.text().into())
        );
        controller.reset();
        assert!(!controller.failed());
    }
}

/// A failure stays one, whatever a handler calls it.
#[test]
fn a_failure_with_the_code_ok_is_internal() {
    let server = serve();
    let error = call(&server.channel(), &FAIL, [0]).unwrap_err();
    assert_eq!(
        (error.code(), error.text()),
        (Code::Internal, "as asked: OK")
    );
}

#[test]
fn a_forgotten_call_and_a_panic_answer_internal() {
    let server = serve();
    let channel = server.channel();
    let error = call(&channel, &FORGET, "").unwrap_err();
    assert_eq!(error.code(), Code::Internal);
    assert!(error.text().contains("dropped the call"), "{error}");
    let error = call(&channel, &PANIC, "").unwrap_err();
    assert_eq!(
        (error.code(), error.text()),
        (Code::Internal, "the handler panicked")
    );
    assert!(error.may_have_executed());
    server.assert_serves();
}

#[test]
fn a_call_that_is_given_no_time_is_not_sent() {
    let server = serve();
    let channel = server.channel();
    let mut controller = RpcController::with_timeout(Duration::ZERO);
    let result: Result<Blob, _> = channel.call(&HOLD, &mut controller, &blob("x"));
    let error = result.unwrap_err();
    assert_eq!(error.code(), Code::DeadlineExceeded);
    assert!(!error.may_have_executed());
    server.assert_serves();
    assert!(server.held.try_recv().is_err(), "a handler has seen it");
}
