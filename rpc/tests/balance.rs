//! Channels to several servers.

#![allow(clippy::unwrap_used, reason = "in tests a panic is the report")]

mod by_hand;
mod common;

use std::net::SocketAddr;
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use by_hand::*;
use common::{
    Blob, LONG, SAY, Server, Socket, begin, blob, echo_request, end, say, serve, serve_at,
    serve_with,
};
use rpc::{
    Backoff, Balance, ChannelOptions, ChannelState, Code, EventLoops, Limits, MethodDescriptor,
    ProviderOptions, RpcChannel, RpcController,
};

static LIST: MethodDescriptor = MethodDescriptor {
    service: "Echo",
    method: "List",
};

fn patient() -> RpcController {
    RpcController::with_timeout(LONG)
}

/// A channel on a loop of its own, with backoffs of `pause`.
fn over(addrs: &[SocketAddr], balance: Balance, pause: Duration) -> RpcChannel {
    let options = ChannelOptions {
        loops: Some(EventLoops::start(1, "client").unwrap()),
        backoff: Backoff {
            min: pause,
            max: pause,
        },
        ..ChannelOptions::default()
    };
    RpcChannel::over(addrs, balance, options)
}

/// An address at which nobody listens.
fn nobody() -> SocketAddr {
    ByHand::listen().addr
}

/// Answers all calls of one connection with `name`, in the background.
fn answer_as(server: ByHand, name: &'static str) {
    thread::spawn(move || {
        loop {
            let mut link = server.accept();
            while let Some((frame, _)) = link.try_next() {
                match frame.kind {
                    CALL => link.reply(frame.id, name),
                    PING => link.control(REPLY_PONG, frame.id),
                    _ => {}
                }
            }
        }
    });
}

fn named(name: &'static str) -> SocketAddr {
    let server = ByHand::listen();
    let addr = server.addr;
    answer_as(server, name);
    addr
}

fn answers(channel: &RpcChannel, calls: usize) -> Vec<String> {
    (0..calls)
        .map(|_| String::from_utf8(say(channel, "who?").unwrap().data.to_vec()).unwrap())
        .collect()
}

#[test]
fn calls_go_to_one_server_after_the_other() {
    let addrs = [named("a"), named("b"), named("c")];
    let channel = over(&addrs, Balance::RoundRobin, LONG);
    assert_eq!(channel.addr(), addrs[0]);
    let mut first = answers(&channel, 3);
    let second = answers(&channel, 3);
    assert_eq!(first, second);
    first.sort();
    assert_eq!(first, ["a", "b", "c"]);
}

#[test]
fn the_first_server_that_is_not_down_is_picked() {
    let addrs = [nobody(), named("b"), named("c")];
    let channel = over(&addrs, Balance::PickFirst, LONG);
    assert_eq!(answers(&channel, 4), ["b"; 4]);
}

#[test]
fn a_server_that_is_down_is_left_out_and_taken_back_when_it_answers() {
    let down = nobody();
    let channel = over(
        &[named("up"), down],
        Balance::RoundRobin,
        Duration::from_millis(5),
    );
    assert_eq!(answers(&channel, 20), ["up"; 20]);
    assert_eq!(channel.state(), ChannelState::Ready);
    // Nothing but a probe finds it again: a call is dealt to it only then.
    let back = serve_at(down, ProviderOptions::default());
    let since = Instant::now();
    while !answers(&channel, 2).contains(&"who?".to_owned()) {
        assert!(since.elapsed() < LONG, "it was not taken back");
        thread::yield_now();
    }
    let mut both = answers(&channel, 2);
    both.sort();
    assert_eq!(both, ["up", "who?"]);
    drop(back);
}

#[test]
fn a_server_that_is_connected_but_says_nothing_is_not_taken_back() {
    let silent = ByHand::listen();
    let channel = over(
        &[named("up"), silent.addr],
        Balance::RoundRobin,
        Duration::from_millis(5),
    );
    // Its connection breaks at once, which makes it down.
    let calls: Vec<_> = (0..2)
        .map(|_| begin(&channel, &SAY, patient(), "who?"))
        .collect();
    let mut link = silent.accept();
    link.next_call();
    drop(link);
    // Perhaps the call was executed there, so it is not tried elsewhere.
    let failed = calls.iter().filter(|call| end(call).is_err()).count();
    assert_eq!(failed, 1);
    let mut link = silent.accept();
    let ping = link.next();
    assert_eq!(ping.kind, PING);
    assert_eq!(answers(&channel, 10), ["up"; 10]);
    link.control(REPLY_PONG, ping.id);
    link.stream.set_nonblocking(true).unwrap();
    let since = Instant::now();
    loop {
        assert!(since.elapsed() < LONG, "it was not taken back");
        let call = begin(&channel, &SAY, patient(), "who?");
        let answer = loop {
            if link.stream.peek(&mut [0]).is_ok_and(|bytes| bytes > 0) {
                link.stream.set_nonblocking(false).unwrap();
                let id = link.next_call().id;
                link.reply(id, "back");
                assert_eq!(end(&call).unwrap().data, "back");
                return;
            }
            if let Ok(answer) = call.try_recv() {
                break answer;
            }
            thread::yield_now();
        };
        assert_eq!(answer.unwrap().data, "up");
    }
}

#[test]
fn an_error_lists_the_servers_that_were_tried() {
    let addrs = [nobody(), nobody(), nobody()];
    let channel = over(&addrs, Balance::RoundRobin, LONG);
    for _ in 0..3 {
        let error = say(&channel, "x").unwrap_err();
        assert_eq!(
            (error.code(), error.may_have_executed()),
            (Code::Unavailable, false)
        );
        for addr in addrs {
            let count = error.text().matches(&addr.to_string()).count();
            assert_eq!(count, 1, "{addr} in {error}");
        }
    }
    assert!(matches!(channel.state(), ChannelState::Down { .. }));
    let error = say(
        &RpcChannel::over(&[], Balance::PickFirst, ChannelOptions::default()),
        "x",
    );
    assert!(error.unwrap_err().text().contains("no address"));
}

#[test]
fn calls_of_all_forms_are_tried_at_the_next_server() {
    let up = ByHand::listen();
    let channel = over(&[nobody(), up.addr], Balance::PickFirst, LONG);
    let call = begin(&channel, &SAY, patient(), "x");
    let mut link = up.accept();
    let id = link.next_call().id;
    link.reply(id, "async");
    assert_eq!(end(&call).unwrap().data, "async");

    let channel = over(&[nobody(), up.addr], Balance::PickFirst, LONG);
    let mut stream = channel
        .open_stream::<_, Blob>(&LIST, &mut patient(), &blob("all"))
        .unwrap();
    let mut link = up.accept();
    let id = link.next_call().id;
    link.item(id, "one");
    assert_eq!(stream.next().unwrap().unwrap().data, "one");
    drop(stream);
    link.expect(CANCEL, id);

    let channel = over(&[nobody(), up.addr], Balance::PickFirst, LONG);
    let (sender, received) = self::channel();
    let done = sender.clone();
    channel.call_stream_async(
        &LIST,
        patient(),
        &blob("all"),
        move |item: Blob| sender.send(Some(item.data)).unwrap(),
        move |result| {
            result.unwrap();
            done.send(None).unwrap();
        },
    );
    let mut link = up.accept();
    let id = link.next_call().id;
    link.item(id, "one");
    link.reply(id, "");
    assert_eq!(received.recv_timeout(LONG).unwrap().unwrap(), "one");
    assert!(received.recv_timeout(LONG).unwrap().is_none());
}

#[test]
fn a_call_that_may_have_been_executed_is_tried_nowhere_else() {
    let (first, second) = (ByHand::listen(), ByHand::listen());
    let channel = over(&[first.addr, second.addr], Balance::PickFirst, LONG);
    let call = begin(&channel, &SAY, patient(), "x");
    let mut link = first.accept();
    link.next_call();
    drop(link);
    let error = end(&call).unwrap_err();
    assert_eq!(
        (error.code(), error.may_have_executed()),
        (Code::Unavailable, true)
    );
    assert!(error.text().contains(&first.addr.to_string()), "{error}");
    assert!(!error.text().contains(&second.addr.to_string()), "{error}");
}

/// A server with one connection, which somebody else has.
fn full() -> (Server, Socket) {
    let server = serve_with(ProviderOptions {
        limits: Limits {
            max_connections: 1,
            ..Limits::default()
        },
        ..ProviderOptions::default()
    });
    let mut socket = server.socket();
    socket.send(&echo_request(&SAY, 1, "first"));
    assert_eq!(socket.receive_reply().request_id, 1);
    (server, socket)
}

#[test]
fn a_call_that_a_full_server_refuses_is_tried_at_the_next() {
    let (full_server, _somebody) = full();
    let (other_server, _somebody_else) = full();
    let (full, other) = (full_server.addr(), other_server.addr());
    let idle = serve();
    let channel = over(&[full, other, idle.addr()], Balance::PickFirst, LONG);
    assert_eq!(answers(&channel, 3), ["who?"; 3]);

    let channel = over(&[full, other], Balance::PickFirst, LONG);
    let error = say(&channel, "who?").unwrap_err();
    assert_eq!(
        (error.code(), error.may_have_executed()),
        (Code::ResourceExhausted, false)
    );
    let reasons = error.text().matches("Limits::max_connections").count();
    assert_eq!(reasons, 2, "{error}");
}

#[test]
fn a_call_that_is_refused_by_itself_is_tried_at_the_next_and_an_executed_one_is_not() {
    let first = ByHand::listen();
    let channel = over(&[first.addr, named("second")], Balance::PickFirst, LONG);
    let call = begin(&channel, &SAY, patient(), "x");
    let mut link = first.accept();
    let id = link.next_call().id;
    link.fail(id, Code::ResourceExhausted, true);
    assert_eq!(end(&call).unwrap().data, "second");

    // What a handler says is an answer; and no other server has what this one lacks.
    for (code, refused) in [
        (Code::ResourceExhausted, false),
        (Code::Unimplemented, true),
    ] {
        let call = begin(&channel, &SAY, patient(), "x");
        let id = link.next_call().id;
        link.fail(id, code, refused);
        let error = end(&call).unwrap_err();
        assert_eq!((error.code(), error.may_have_executed()), (code, !refused));
    }
}

/// The channel's own bound is one for each server.
#[test]
fn a_call_beyond_what_may_be_under_way_to_one_server_goes_to_the_next() {
    let (first, second) = (serve(), serve());
    let options = ChannelOptions {
        loops: Some(EventLoops::start(1, "client").unwrap()),
        max_in_flight: 1,
        ..ChannelOptions::default()
    };
    let addrs = [first.addr(), second.addr()];
    let channel = RpcChannel::over(&addrs, Balance::PickFirst, options);
    let call = || begin(&channel, &common::HOLD, patient(), "x");
    let calls = [call(), call()];
    let held = [first.next_held(), second.next_held()];
    let error = end(&call()).unwrap_err();
    assert_eq!(error.code(), Code::ResourceExhausted);
    held.into_iter().for_each(common::Held::echo);
    for call in &calls {
        end(call).unwrap();
    }
}

#[test]
fn the_end_of_a_channel_ends_its_calls_everywhere() {
    let (first, second) = (serve(), serve());
    let channel = over(
        &[first.addr(), second.addr(), nobody()],
        Balance::RoundRobin,
        Duration::ZERO,
    );
    let calls: Vec<_> = (0..6)
        .map(|_| begin(&channel, &common::HOLD, patient(), "x"))
        .collect();
    let held: Vec<_> = (0..3)
        .flat_map(|_| [first.next_held(), second.next_held()])
        .collect();
    assert_eq!(channel.in_flight(), 6);
    drop(channel);
    for call in &calls {
        assert_eq!(end(call).unwrap_err().code(), Code::Cancelled);
    }
    drop(held);
}
