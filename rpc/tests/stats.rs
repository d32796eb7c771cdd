//! What a provider counts of its calls, connections and bytes.

#![allow(clippy::unwrap_used, reason = "in tests a panic is the report")]

mod common;
mod server_side;

use std::time::Duration;

use common::*;
use rpc::{
    Code, Dialect, Limits, MethodStats, ProviderHandle, ProviderOptions, RpcProvider, ServerStats,
};
use server_side::*;

fn method(handle: &ProviderHandle, method: &str) -> MethodStats {
    handle.stats().method("Echo", method).unwrap().clone()
}

/// Waits until the statistics show something that a loop's thread does in its own time.
fn wait_until(handle: &ProviderHandle, shown: impl Fn(&ServerStats) -> bool) -> ServerStats {
    let begun = std::time::Instant::now();
    loop {
        let stats = handle.stats();
        if shown(&stats) {
            return stats;
        }
        assert!(begun.elapsed() < LONG, "not counted: {stats:?}");
        std::thread::yield_now();
    }
}

#[test]
fn every_call_is_counted_by_its_method_and_code() {
    let server = serve();
    let mut socket = server.socket();
    for id in 1..=5 {
        socket.send(&echo_request(&SAY, id, "x"));
    }
    socket.send(&echo_request(&FAIL, 6, [5]));
    socket.send(&echo_request(&FORGET, 7, "x"));
    socket.send(&request("Echo", "Nothing", 8, 0, b""));
    socket.send(&request("Nobody", "Nothing", 9, 0, b""));
    for _ in 1..=9 {
        socket.receive_reply();
    }
    let stats = server.handle.stats();
    let of = |name| stats.method("Echo", name).unwrap();
    assert_eq!((of("Say").begun, of("Say").count_of(Code::Ok)), (5, 5));
    assert_eq!((of("Say").in_flight, of("Say").errors()), (0, 0));
    assert_eq!(of("Fail").count_of(Code::NotFound), 1);
    assert_eq!(of("Forget").count_of(Code::Internal), 1);
    assert_eq!(stats.calls_unknown, 2);
    assert_eq!(of("Say").latency.count(), 5);
    assert_eq!(of("Hold").begun, 0);
}

#[test]
fn a_call_is_in_flight_until_it_is_answered_and_its_time_is_recorded() {
    let server = serve();
    let channel = server.channel();
    let ended = begin(&channel, &HOLD, rpc::RpcController::new(), "x");
    let held = server.next_held();
    let of_hold = method(&server.handle, "Hold");
    assert_eq!(
        (of_hold.begun, of_hold.in_flight, of_hold.count()),
        (1, 1, 0)
    );
    let pause = Duration::from_millis(20);
    std::thread::sleep(pause);
    held.echo();
    end(&ended).unwrap();
    let of_hold = method(&server.handle, "Hold");
    assert_eq!(
        (of_hold.begun, of_hold.in_flight, of_hold.count()),
        (1, 0, 1)
    );
    assert!(of_hold.latency.sum() >= pause, "{:?}", of_hold.latency);
}

#[test]
fn refused_calls_count_as_begun_and_ended() {
    let server = serve_with(ProviderOptions {
        limits: Limits {
            max_in_flight: 1,
            ..Limits::default()
        },
        ..one_thread()
    });
    let mut socket = server.socket();
    socket.send(&echo_request(&HOLD, 1, "x"));
    socket.send(&echo_request(&SAY, 2, "x"));
    assert_eq!(socket.receive_reply().code, 8);
    let say = method(&server.handle, "Say");
    assert_eq!((say.begun, say.count_of(Code::ResourceExhausted)), (1, 1));
    assert_eq!(method(&server.handle, "Hold").in_flight, 1);
}

#[test]
fn calls_whose_connection_is_gone_end_when_they_are_answered() {
    let server = serve();
    let mut socket = server.socket();
    for id in 1..=3 {
        socket.send(&echo_request(&HOLD, id, "x"));
    }
    let held: Vec<_> = (1..=3).map(|_| server.next_held()).collect();
    drop(socket);
    wait_until(&server.handle, |stats| stats.connections_open == 0);
    let of_hold = method(&server.handle, "Hold");
    assert_eq!((of_hold.begun, of_hold.in_flight), (3, 3));
    held.into_iter().for_each(Held::echo);
    let of_hold = method(&server.handle, "Hold");
    assert_eq!((of_hold.in_flight, of_hold.count_of(Code::Ok)), (0, 3));
}

/// The replies that nobody takes have gathered on the loop's own thread.
#[test]
fn calls_that_are_answered_while_their_connection_ends_are_counted() {
    let server = serve();
    let mut socket = server.socket();
    socket.send(&echo_request(&HOLD, 1, "x"));
    let held = server.next_held();
    let context = held.context.clone();
    // Runs on the loop's thread, when the connection has no way back any more.
    context.on_cancel(move || held.echo());
    drop(socket);
    let stats = wait_until(&server.handle, |stats| {
        stats.method("Echo", "Hold").unwrap().in_flight == 0
    });
    assert_eq!(stats.method("Echo", "Hold").unwrap().count(), 1);
}

#[test]
fn bytes_and_items_are_counted_both_ways() {
    let server = serve_spring(one_thread());
    let mut socket = server.socket();
    let request = pour(1, 0);
    socket.send(&request);
    let stream = server.next_stream();
    for _ in 0..4 {
        stream.sender.send(&blob("item")).unwrap();
    }
    let open = server.handle.stats();
    assert_eq!(open.streams_open(), 1);
    stream.sender.finish();
    for _ in 0..5 {
        receive_frame(&mut socket);
    }
    // Four items of 13 bytes and an end of 3.
    let stats = wait_until(&server.handle, |stats| stats.bytes_out == 55);
    assert_eq!((stats.stream_items, stats.streams_open()), (4, 0));
    assert_eq!(stats.bytes_in, request.len() as u64);
    wait_until(&server.handle, |_| {
        server.handle.connection_infos(1)[0].bytes_out == 55
    });
    let [connection] = &server.handle.connection_infos(9)[..] else {
        panic!("there is one connection");
    };
    assert_eq!(connection.bytes_in, stats.bytes_in);
}

#[test]
fn connections_are_described_oldest_first_and_no_more_than_asked_for() {
    let server = serve();
    let mut sockets: Vec<Socket> = (0..3).map(|_| server.socket()).collect();
    sockets[0].send(&echo_request(&SAY, 1, "x"));
    sockets[0].receive_reply();
    sockets[1].send(&echo_request(&SAY, 0, "x"));
    sockets[1].receive(3);
    sockets[2].send(&echo_request(&HOLD, 1, "x"));
    let held = server.next_held();
    let ports = |max| {
        let infos = server.handle.connection_infos(max);
        infos
            .iter()
            .map(|info| info.peer.port())
            .collect::<Vec<_>>()
    };
    let expected: Vec<u16> = sockets
        .iter()
        .map(|socket| socket.stream.local_addr().unwrap().port())
        .collect();
    assert_eq!(ports(10), expected);
    assert_eq!(ports(2), expected[..2]);
    wait_until(&server.handle, |_| {
        server.handle.connection_infos(3)[2].in_flight == 1
    });
    let infos = server.handle.connection_infos(3);
    let dialects = [Dialect::Framed, Dialect::Legacy, Dialect::Framed];
    for (info, dialect) in infos.iter().zip(dialects) {
        assert_eq!(info.dialect, dialect);
        assert!(info.age >= info.idle && info.bytes_in > 0, "{info:?}");
    }
    held.echo();
    sockets[2].receive_reply();
    drop(sockets.remove(0));
    wait_until(&server.handle, |stats| stats.connections_open == 2);
    assert_eq!(ports(10), expected[1..]);
}

#[test]
fn connections_are_counted_when_they_come_and_when_they_are_refused() {
    let mut server = serve_with(ProviderOptions {
        limits: Limits {
            max_connections: 1,
            ..Limits::default()
        },
        ..one_thread()
    });
    let mut first = server.socket();
    first.send(&echo_request(&SAY, 1, "x"));
    first.receive_reply();
    let mut second = server.socket();
    second.send(b"");
    let stats = wait_until(&server.handle, |stats| stats.connections_refused == 1);
    assert_eq!((stats.connections_open, stats.connections_accepted), (1, 1));
    assert!(!stats.draining);
    server.handle.shutdown();
    let stats = server.handle.stats();
    assert!(stats.draining);
    assert_eq!(stats.connections_open, 0);
}

#[test]
fn counts_of_several_loops_are_added_up() {
    let (echo, _held, _gate) = echo();
    let mut provider = RpcProvider::new(ProviderOptions {
        threads: 3,
        ..ProviderOptions::default()
    });
    provider.notify_service(echo).unwrap();
    let handle = provider.start("127.0.0.1:0").unwrap();
    for _ in 0..6 {
        let mut socket = Socket::connect(handle.local_addr());
        socket.send(&echo_request(&SAY, 1, "x"));
        socket.receive_reply();
    }
    let say = method(&handle, "Say");
    assert_eq!((say.begun, say.count()), (6, 6));
}
