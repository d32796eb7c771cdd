//! The provider's life: registration, worker pools, shutdown in order.

#![allow(clippy::cast_possible_truncation, reason = "test data")]
#![allow(clippy::unwrap_used, reason = "in tests a panic is the report")]

mod common;

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use common::*;
use rpc::{
    ChannelOptions, Code, EventLoops, ProviderError, ProviderHandle, ProviderOptions,
    RpcController, RpcProvider, WorkerPoolOptions,
};

#[test]
fn a_name_can_be_registered_once() {
    let mut provider = RpcProvider::new(ProviderOptions::default());
    provider.notify_service(echo().0).unwrap();
    let error = provider.notify_service(echo().0).unwrap_err();
    assert!(
        matches!(error, ProviderError::DuplicateService { name: "Echo" }),
        "{error}"
    );
    let options = WorkerPoolOptions::default();
    let error = provider
        .notify_blocking_service(echo().0, options)
        .unwrap_err();
    assert!(
        matches!(error, ProviderError::DuplicateService { .. }),
        "{error}"
    );
}

#[test]
fn an_address_in_use_and_one_that_is_none_are_named() {
    let server = serve();
    let provider = RpcProvider::new(ProviderOptions::default());
    let error = provider.start(server.addr()).unwrap_err();
    assert!(matches!(error, ProviderError::Listen { addr, .. } if addr == server.addr()));
    assert_eq!(
        error.to_string(),
        format!("cannot listen at {}", server.addr())
    );
    let error = provider.start("no address").unwrap_err();
    assert!(matches!(error, ProviderError::Address(_)), "{error}");
}

/// The original's defect 28 (`docs/failures.md`): its echo server served one connection.
#[test]
fn connections_are_dealt_to_all_loops() {
    let server = serve_with(ProviderOptions {
        threads: 3,
        ..ProviderOptions::default()
    });
    let channels: Vec<_> = (0..9).map(|_| server.channel()).collect();
    thread::scope(|scope| {
        for channel in &channels {
            scope.spawn(move || {
                for _ in 0..50 {
                    say(channel, "x").unwrap();
                }
            });
        }
    });
    assert_eq!(server.handle.connections(), 9);
}

fn serve_blocking(options: WorkerPoolOptions) -> (ProviderHandle, EchoControls) {
    let (echo, held, gate) = echo();
    let mut provider = RpcProvider::new(ProviderOptions {
        threads: 1,
        ..ProviderOptions::default()
    });
    provider.notify_blocking_service(echo, options).unwrap();
    (
        provider.start("127.0.0.1:0").unwrap(),
        EchoControls { held, gate },
    )
}

/// In the original, handlers that block hold up everything else.
#[test]
fn blocking_handlers_run_on_their_pool_and_are_refused_when_it_is_full() {
    let (handle, server) = serve_blocking(WorkerPoolOptions {
        threads: 1,
        queue: 2,
    });
    let channel = channel_to(handle.local_addr(), ChannelOptions::default());
    let gate = server.gate.lock().unwrap();
    // One may run and two wait, so of four calls one or two are refused; only those can end.
    let (sender, ended) = mpsc::channel();
    for _ in 0..4 {
        let sender = sender.clone();
        let controller = RpcController::with_timeout(LONG);
        channel.call_async(&BLOCK, controller, &blob("x"), move |result| {
            let _ = sender.send(result.map(|reply: Blob| reply.data));
        });
    }
    let refused = ended.recv_timeout(LONG).unwrap().unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert!(
        refused.text().contains("WorkerPoolOptions::queue"),
        "{refused}"
    );
    assert!(!refused.may_have_executed());
    drop(gate);
    let rest: Vec<_> = (0..3).map(|_| ended.recv_timeout(LONG).unwrap()).collect();
    assert!(
        rest.iter().filter(|result| result.is_ok()).count() >= 2,
        "{rest:?}"
    );
    // The pool goes on, also after a panic.
    let error = call(&channel, &PANIC, "").unwrap_err();
    assert_eq!(
        (error.code(), error.text()),
        (Code::Internal, "the handler panicked")
    );
    assert_eq!(call(&channel, &SAY, "x").unwrap().data, "x");
}

#[test]
fn a_call_that_expires_in_the_pools_queue_is_refused() {
    let (handle, server) = serve_blocking(WorkerPoolOptions {
        threads: 1,
        queue: 10,
    });
    let mut socket = Socket::connect(handle.local_addr());
    let gate = server.gate.lock().unwrap();
    socket.send(&echo_request(&BLOCK, 1, "x"));
    socket.send(&request("Echo", "Hold", 2, 100, b""));
    // The time itself is what is waited for: the deadline has to pass.
    thread::sleep(Duration::from_millis(600));
    drop(gate);
    // On a loaded machine it may expire before it comes to the pool, and is answered first then.
    let mut replies = [socket.receive_reply(), socket.receive_reply()];
    replies.sort_by_key(|reply| reply.request_id);
    assert_eq!(
        replies.map(|reply| reply.code),
        [0, Code::DeadlineExceeded.number().into()]
    );
    assert!(server.held.try_recv().is_err(), "the handler was called");
}

#[test]
fn shutdown_lets_running_calls_finish_and_takes_no_new_ones() {
    let mut server = serve_with(ProviderOptions {
        shutdown_grace: LONG,
        ..ProviderOptions::default()
    });
    let addr = server.addr();
    let channel = server.channel();
    let call = begin(&channel, &HOLD, RpcController::with_timeout(LONG), "x");
    let held = server.next_held();
    let (sender, down) = mpsc::channel();
    let stopper = thread::spawn(move || {
        server.handle.shutdown();
        sender.send(()).unwrap();
    });
    // Accepts no more: the port can be had again while the old connection is still served.
    let successor = loop {
        let mut provider = RpcProvider::new(ProviderOptions::default());
        provider.notify_service(echo().0).unwrap();
        match provider.start(addr) {
            Ok(handle) => break handle,
            Err(ProviderError::Listen { .. }) => thread::yield_now(),
            Err(error) => panic!("{error}"),
        }
    };
    assert!(down.try_recv().is_err(), "a call is still running");
    held.echo();
    assert_eq!(end(&call).unwrap().data, "x");
    down.recv_timeout(LONG).unwrap();
    stopper.join().unwrap();
    drop(successor);
}

#[test]
fn shutdown_waits_for_running_calls_only_so_long() {
    let grace = Duration::from_millis(50);
    let mut server = serve_with(ProviderOptions {
        shutdown_grace: grace,
        ..ProviderOptions::default()
    });
    let channel = server.channel();
    let call = begin(&channel, &HOLD, RpcController::with_timeout(LONG), "x");
    let held = server.next_held();
    server.handle.shutdown();
    assert_eq!(end(&call).unwrap_err().code(), Code::Unavailable);
    held.echo();
    server.handle.shutdown();
    assert_eq!(server.handle.connections(), 0);
}

/// A reply on the loop's own thread takes no detour, so it must see for itself that its connection
/// has gone and that another one has its place.
#[test]
fn a_late_reply_does_not_reach_a_connections_successor() {
    let loops = EventLoops::start(1, "node").unwrap();
    let server = serve_with(ProviderOptions {
        loops: Some(loops.clone()),
        ..ProviderOptions::default()
    });
    let other = serve();
    let on_loop = rpc::RpcChannel::with_options(
        other.addr(),
        ChannelOptions {
            loops: Some(loops),
            ..ChannelOptions::default()
        },
    );
    let mut gone = server.socket();
    gone.send(&echo_request(&HOLD, 1, "for one that has gone"));
    let held = server.next_held();
    // A socket that is closed with unread bytes resets the connection, which ends it at once.
    gone.send(&echo_request(&SAY, 2, "never read"));
    gone.stream.peek(&mut [0]).unwrap();
    drop(gone);
    while server.handle.connections() > 0 {
        thread::yield_now();
    }
    let mut successor = server.socket();
    successor.send(&echo_request(&SAY, 2, "x"));
    assert_eq!(successor.receive_reply().request_id, 2);
    let (sender, done) = mpsc::channel();
    let controller = RpcController::with_timeout(LONG);
    on_loop.call_async(&SAY, controller, &blob("x"), move |result| {
        held.echo();
        sender.send(result.map(|reply: Blob| reply.data)).unwrap();
    });
    done.recv_timeout(LONG).unwrap().unwrap();
    successor.send(&echo_request(&SAY, 3, "x"));
    assert_eq!(successor.receive_reply().request_id, 3);
}

#[test]
fn a_provider_on_shared_loops_goes_and_the_loops_stay() {
    let loops = EventLoops::start(1, "shared").unwrap();
    let options = ProviderOptions {
        loops: Some(loops.clone()),
        ..ProviderOptions::default()
    };
    let (first, second) = (serve_with(options.clone()), serve_with(options));
    let channel = rpc::RpcChannel::with_options(
        second.addr(),
        ChannelOptions {
            loops: Some(loops),
            ..ChannelOptions::default()
        },
    );
    assert_eq!(say(&channel, "x").unwrap().data, "x");
    drop(first);
    assert_eq!(say(&channel, "y").unwrap().data, "y");
}
