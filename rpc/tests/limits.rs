//! The bounds of a server, by name, and what it expects of its peers in time.

#![allow(clippy::unwrap_used, reason = "in tests a panic is the report")]

mod common;
mod server_side;

use std::io::Write;
use std::net::Shutdown;
use std::time::Duration;

use common::*;
use rpc::{
    Code, Keepalive, Limits, ProviderError, ProviderOptions, RpcProvider, WorkerPoolOptions,
};
use server_side::*;

const SHORT: Duration = Duration::from_millis(100);

fn say(request_id: u64) -> Vec<u8> {
    spring("Say", request_id, "x", Extra::default())
}

fn hold(request_id: u64) -> Vec<u8> {
    spring("Hold", request_id, "held", Extra::default())
}

fn limited(limits: Limits) -> SpringServer {
    serve_spring(ProviderOptions {
        limits,
        ..one_thread()
    })
}

// ---- bounds

#[test]
fn calls_of_a_whole_provider_are_bounded() {
    let server = limited(Limits {
        max_calls: 3,
        ..Limits::default()
    });
    let (mut first, mut second) = (server.socket(), server.socket());
    first.send(&[hold(1), hold(2)].concat());
    let mut held = vec![server.next_held(), server.next_held()];
    second.send(&[hold(1), hold(2)].concat());
    let refused = receive_frame(&mut second);
    assert!(
        refused.is(Code::ResourceExhausted) && refused.refused,
        "{refused:?}"
    );
    assert!(
        refused.error_text.contains("Limits::max_calls"),
        "{refused:?}"
    );
    assert_eq!(refused.request_id, 2);
    held.push(server.next_held());
    assert_eq!(server.handle.running_calls(), 3);
    // An answer makes room, and so does a connection that goes.
    held.remove(0).echo();
    assert_eq!(receive_frame(&mut first).request_id, 1);
    second.send(&hold(3));
    held.push(server.next_held());
    drop(first);
    while server.handle.connections() > 1 {
        std::thread::yield_now();
    }
    second.send(&hold(4));
    held.push(server.next_held());
    drop(held);
}

#[test]
fn a_connection_at_its_limit_of_calls_still_hears_what_is_said_of_them() {
    let server = limited(Limits {
        max_in_flight: 1,
        ..Limits::default()
    });
    let mut socket = server.socket();
    socket.send(&pour(1, 1));
    let stream = server.next_stream();
    socket.send(&[say(2), control(CREDIT, 1, 1_000)].concat());
    let refused = receive_frame(&mut socket);
    assert!(refused.is(Code::ResourceExhausted), "{refused:?}");
    assert!(
        refused.error_text.contains("Limits::max_in_flight"),
        "{refused:?}"
    );
    assert_eq!(until_pong(&mut socket), []);
    stream.sender.try_send(&blob("one")).unwrap();
    stream.sender.try_send(&blob("two")).unwrap();
    socket.send(&control(CANCEL, 1, 0));
    while !stream.sender.is_closed() {
        std::thread::yield_now();
    }
}

#[test]
fn a_framed_caller_beyond_the_limit_of_connections_is_told_so() {
    let server = limited(Limits {
        max_connections: 1,
        ..Limits::default()
    });
    let mut first = server.socket();
    first.send(&say(1));
    receive_frame(&mut first);
    let mut over = server.socket();
    let request = spring("Say", 1, vec![7; 100_000], Extra::default());
    // Its first header is enough; the rest need not arrive.
    over.send(&request[..50]);
    let goaway = receive_frame(&mut over);
    assert_eq!(goaway.kind, kind::GOAWAY);
    assert!(goaway.is(Code::ResourceExhausted), "{goaway:?}");
    assert!(
        goaway.error_text.contains("Limits::max_connections"),
        "{goaway:?}"
    );
    assert_eq!(over.receive_until_closed(), b"");
    // A legacy caller would take the words for a reply.
    let mut legacy = server.socket();
    legacy.send(&say(0));
    assert_eq!(legacy.receive_until_closed(), b"");
    let mut silent = server.socket();
    assert_eq!(silent.receive_until_closed(), b"");
    assert_eq!(server.handle.connections(), 1);
    first.send(&say(2));
    assert_eq!(receive_frame(&mut first).request_id, 2);
}

#[test]
fn so_many_refused_connections_are_told_and_no_more() {
    let server = limited(Limits {
        max_connections: 0,
        ..Limits::default()
    });
    // Those that say nothing hold all the places for being told.
    let silent: Vec<Socket> = (0..256).map(|_| server.socket()).collect();
    let mut closed_at_once = server.socket();
    closed_at_once.receive_until_closed();
    drop(silent);
    // The places are free again once those have gone.
    loop {
        let mut socket = server.socket();
        let _ = socket.stream.write_all(&say(1));
        let mut byte = [0];
        if let Ok(1) = socket.stream.peek(&mut byte) {
            assert_eq!(receive_frame(&mut socket).kind, kind::GOAWAY);
            break;
        }
    }
}

#[test]
fn a_flood_of_pings_that_nobody_reads_the_answers_to_is_not_read() {
    let server = limited(Limits {
        max_unsent_bytes: 10_000,
        ..Limits::default()
    });
    let mut socket = server.socket();
    socket.stream.set_nonblocking(true).unwrap();
    let pings = control(PING, 1 << 62, 0).repeat(1_000);
    let mut refusals = 0;
    let mut taken = 0;
    while refusals < 50 && taken < 1 << 28 {
        // A write may end inside a frame; the next one goes on there.
        if let Ok(bytes) = socket.stream.write(&pings[taken % pings.len()..]) {
            taken += bytes;
            refusals = 0;
        } else {
            refusals += 1;
            let mut other = server.socket();
            until_pong(&mut other);
        }
    }
    assert_eq!(refusals, 50, "the server went on reading");
}

// ---- time

#[test]
fn a_quiet_peer_is_asked_and_given_up_when_it_does_not_answer() {
    let server = serve_spring(ProviderOptions {
        keepalive: Keepalive {
            after: SHORT,
            timeout: SHORT * 20,
        },
        ..one_thread()
    });
    let mut legacy = server.socket();
    legacy.send(&say(0));
    assert_eq!(legacy.receive(3), b"\x0a\x01x");
    let mut socket = server.socket();
    socket.send(&hold(1));
    let held = server.next_held();
    let mut last = 0;
    // Any frame is a sign of life.
    for answer in [PONG, PING, CREDIT, CANCEL, PONG] {
        let ping = receive_frame(&mut socket);
        assert_eq!(ping.kind, kind::PING);
        assert!(ping.request_id > 1 << 62 && ping.request_id != last);
        last = ping.request_id;
        socket.send(&control(answer, ping.request_id, 0));
        if answer == PING {
            assert_eq!(receive_frame(&mut socket).kind, kind::PONG);
        }
    }
    assert_eq!(receive_frame(&mut socket).kind, kind::PING);
    assert_eq!(socket.receive_until_closed(), b"");
    while !held.context.is_canceled() {
        std::thread::yield_now();
    }
    // A legacy caller may be idle for ever.
    legacy.send(&say(0));
    assert_eq!(legacy.receive(3), b"\x0a\x01x");
}

/// However long an answer may take.
#[test]
fn a_peer_that_has_answered_is_asked_again_as_soon_as_it_is_quiet() {
    let server = serve_spring(ProviderOptions {
        keepalive: Keepalive {
            after: SHORT,
            timeout: LONG * 2,
        },
        ..one_thread()
    });
    let mut socket = server.socket();
    socket.send(&say(1));
    receive_frame(&mut socket);
    for _ in 0..3 {
        let ping = receive_frame(&mut socket);
        assert_eq!(ping.kind, kind::PING);
        socket.send(&control(PONG, ping.request_id, 0));
    }
}

/// The clock of a slow request does not count for what follows it, be that more than one turn takes.
#[test]
fn a_frame_behind_a_slow_one_and_a_full_turn_has_its_own_time() {
    let server = serve_spring(ProviderOptions {
        frame_timeout: SHORT * 20,
        ..one_thread()
    });
    let (mut socket, mut slow, mut bystander) = (server.socket(), server.socket(), server.socket());
    let requests: Vec<u8> = (1..=33).flat_map(say).collect();
    socket.send(&requests[..1]);
    slow.send(&requests[..1]);
    until_pong(&mut bystander);
    std::thread::sleep(SHORT * 10);
    let (rest, last_byte) = requests[1..].split_at(requests.len() - 2);
    socket.send(rest);
    for id in 1..=32 {
        assert_eq!(receive_frame(&mut socket).request_id, id);
    }
    // The time of the first one is over before this.
    assert_eq!(slow.receive_until_closed(), b"");
    socket.send(last_byte);
    assert_eq!(receive_frame(&mut socket).request_id, 33);
}

#[test]
fn a_sender_of_one_byte_at_a_time_is_given_up() {
    let server = serve_spring(ProviderOptions {
        frame_timeout: SHORT * 10,
        ..one_thread()
    });
    let request = spring("Say", 1, vec![7; 10_000], Extra::default());
    // At once or byte by byte, framed or legacy: what counts is the rate.
    let legacy = spring("Say", 0, vec![7; 10_000], Extra::default());
    for slow in [&request, &legacy] {
        let mut socket = server.socket();
        for byte in slow {
            if socket.stream.write_all(&[*byte]).is_err() {
                break;
            }
            socket.stream.set_nonblocking(true).unwrap();
            let seen = socket.stream.peek(&mut [0]);
            socket.stream.set_nonblocking(false).unwrap();
            match seen {
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                _ => break,
            }
            std::thread::sleep(Duration::from_millis(30));
        }
        assert_eq!(socket.receive_until_closed(), b"");
    }
    // One that is slow but not that slow is waited for.
    let mut socket = server.socket();
    for part in request.chunks(500) {
        socket.send(part);
        std::thread::sleep(Duration::from_millis(60));
    }
    assert_eq!(receive_frame(&mut socket).data(), vec![7; 10_000]);
}

#[test]
fn a_connection_that_never_asks_is_closed_if_that_is_wanted() {
    let server = serve_spring(ProviderOptions {
        first_request_timeout: Some(SHORT * 10),
        ..one_thread()
    });
    let mut asks = server.socket();
    asks.send(&say(1));
    receive_frame(&mut asks);
    let mut silent = server.socket();
    assert_eq!(silent.receive_until_closed(), b"");
    asks.send(&say(2));
    assert_eq!(receive_frame(&mut asks).request_id, 2);
}

#[test]
fn an_idle_caller_is_asked_to_go_and_a_busy_or_legacy_one_is_not() {
    let server = serve_spring(ProviderOptions {
        idle_timeout: Some(SHORT),
        ..one_thread()
    });
    let mut legacy = server.socket();
    legacy.send(&say(0));
    assert_eq!(legacy.receive(3), b"\x0a\x01x");
    let (mut busy, mut idle) = (server.socket(), server.socket());
    busy.send(&hold(1));
    let held = server.next_held();
    idle.send(&say(1));
    assert_eq!(receive_frame(&mut idle).request_id, 1);
    assert_eq!(receive_frame(&mut idle).kind, kind::GOAWAY);
    assert_eq!(idle.receive_until_closed(), b"");
    held.echo();
    assert_eq!(receive_frame(&mut busy).request_id, 1);
    assert_eq!(receive_frame(&mut busy).kind, kind::GOAWAY);
    legacy.send(&say(0));
    assert_eq!(legacy.receive(3), b"\x0a\x01x");
}

#[test]
fn a_caller_that_sends_no_more_is_not_expected_to_answer() {
    let server = serve_spring(ProviderOptions {
        keepalive: Keepalive {
            after: SHORT,
            timeout: SHORT,
        },
        ..one_thread()
    });
    let mut socket = server.socket();
    socket.send(&hold(1));
    let held = server.next_held();
    socket.stream.shutdown(Shutdown::Write).unwrap();
    // Once, to find out whether it is there at all.
    assert_eq!(receive_frame(&mut socket).kind, kind::PING);
    std::thread::sleep(SHORT * 4);
    assert!(!held.context.is_canceled());
    held.echo();
    assert_eq!(receive_frame(&mut socket).request_id, 1);
    assert_eq!(socket.receive_until_closed(), b"");
}

// ---- workers

#[test]
fn only_the_methods_that_block_go_to_the_workers() {
    let (echo, held, gate) = echo();
    let mut provider = RpcProvider::new(one_thread());
    let options = WorkerPoolOptions {
        threads: 1,
        queue: 2,
    };
    let error = provider
        .notify_blocking_methods(common::echo().0, &["Say", "Sag"], options.clone())
        .unwrap_err();
    assert!(matches!(error, ProviderError::UnknownMethod { .. }));
    assert_eq!(error.to_string(), "service Echo has no method Sag");
    provider
        .notify_blocking_methods(echo, &["Block"], options)
        .unwrap();
    let handle = provider.start("127.0.0.1:0").unwrap();
    let mut socket = Socket::connect(handle.local_addr());
    let shut = gate.lock().unwrap();
    socket.send(&echo_request(&BLOCK, 1, "x"));
    // It runs once nothing waits any more; others run on the loop meanwhile.
    let waiting = || handle.worker_queues()[0].waiting;
    socket.send(&echo_request(&SAY, 2, "x"));
    assert_eq!(socket.receive_reply().request_id, 2);
    while waiting() > 0 {
        std::thread::yield_now();
    }
    for id in 3..=5 {
        socket.send(&echo_request(&BLOCK, id, "x"));
    }
    let refused = socket.receive_reply();
    assert_eq!(refused.request_id, 5);
    assert!(refused.error_text.contains("WorkerPoolOptions::queue"));
    let queues = handle.worker_queues();
    assert_eq!(queues.len(), 1);
    let queue = queues[0];
    assert_eq!(
        (queue.service, queue.capacity, queue.threads),
        ("Echo", 2, 1)
    );
    assert_eq!(queue.waiting, 2);
    // A call that is given up while it waits never comes to its turn.
    socket.send(&control(CANCEL, 4, 0));
    until_pong(&mut socket);
    drop(shut);
    let replies: Vec<_> = (0..3).map(|_| receive_frame(&mut socket)).collect();
    assert_eq!(replies[2].request_id, 4);
    assert!(replies[2].is(Code::Cancelled) && replies[2].refused);
    drop(held);
}
