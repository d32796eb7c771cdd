//! A server that asks its clients to leave, and what a channel tells of its connection.

#![allow(clippy::unwrap_used, reason = "in tests a panic is the report")]

mod by_hand;
mod common;

use std::sync::mpsc::channel;
use std::time::Duration;

use by_hand::*;
use common::{Blob, LONG, SAY, begin, blob, channel_to, end};
use rpc::{Backoff, ChannelOptions, ChannelState, Code, MethodDescriptor, RpcController};

static LIST: MethodDescriptor = MethodDescriptor {
    service: "Echo",
    method: "List",
};

fn patient() -> RpcController {
    RpcController::with_timeout(LONG)
}

#[test]
fn calls_of_a_connection_that_is_left_go_on_and_new_ones_connect_again() {
    let server = ByHand::listen();
    let options = ChannelOptions {
        stream_credit_bytes: 100,
        ..ChannelOptions::default()
    };
    let channel = channel_to(server.addr, options);
    let slow = begin(&channel, &SAY, patient(), "slow");
    let given_up = patient();
    let cancelled = begin(&channel, &SAY, given_up.clone(), "cancelled");
    let mut stream = channel
        .open_stream::<_, Blob>(&LIST, &mut patient(), &blob("all"))
        .unwrap();
    let mut old = server.accept();
    let ids = [(); 3].map(|()| old.next_call().id);
    old.go_away(Code::Ok, "");
    old.expect(GOODBYE, 1);

    let fresh = begin(&channel, &SAY, patient(), "fresh");
    let mut new = server.accept();
    let fresh_id = new.next_call().id;
    assert!(!ids.contains(&fresh_id));
    new.reply(fresh_id, "fresh");
    assert_eq!(end(&fresh).unwrap().data, "fresh");

    old.item(ids[2], [7; 60]);
    stream.next().unwrap().unwrap();
    assert_eq!(old.expect(CREDIT, ids[2]).credit, 78);
    given_up.start_cancel();
    old.expect(CANCEL, ids[1]);
    assert_eq!(end(&cancelled).unwrap_err().code(), Code::Cancelled);
    old.reply(ids[0], "slow");
    assert_eq!(end(&slow).unwrap().data, "slow");
    old.reply(ids[2], "");
    assert!(stream.next().is_none());
    assert!(old.try_next().is_none(), "a connection without calls goes");
    assert_eq!(channel.in_flight(), 0);
}

/// What is sent before the goodbye is begun, so it was not in vain.
#[test]
fn a_call_that_crosses_a_goaway_is_answered() {
    let server = ByHand::listen();
    let channel = channel_to(server.addr, ChannelOptions::default());
    let (busy_to, busy) = self::channel::<()>();
    let (go_on, gate) = self::channel::<()>();
    channel.call_async(&SAY, patient(), &blob("first"), move |result| {
        let _: Blob = result.unwrap();
        busy_to.send(()).unwrap();
        gate.recv_timeout(LONG).unwrap();
    });
    let mut link = server.accept();
    let id = link.next_call().id;
    link.reply(id, "first");
    // The loop is busy: it takes the call before it reads what the server said.
    busy.recv_timeout(LONG).unwrap();
    link.go_away(Code::Ok, "");
    let crossing = begin(&channel, &SAY, patient(), "crossing");
    go_on.send(()).unwrap();
    let id = link.next_call().id;
    link.expect(GOODBYE, 1);
    link.reply(id, "crossing");
    assert_eq!(end(&crossing).unwrap().data, "crossing");
    assert!(link.try_next().is_none());
}

#[test]
fn a_left_connection_that_breaks_fails_its_own_calls_only() {
    let server = ByHand::listen();
    let channel = channel_to(server.addr, ChannelOptions::default());
    let slow = begin(&channel, &SAY, patient(), "slow");
    let mut old = server.accept();
    old.next_call();
    old.go_away(Code::Ok, "");
    old.expect(GOODBYE, 1);
    let fresh = begin(&channel, &SAY, patient(), "fresh");
    let mut new = server.accept();
    let id = new.next_call().id;
    drop(old);
    let error = end(&slow).unwrap_err();
    assert_eq!(
        (error.code(), error.may_have_executed()),
        (Code::Unavailable, true)
    );
    new.reply(id, "fresh");
    assert_eq!(end(&fresh).unwrap().data, "fresh");
}

#[test]
fn left_connections_are_few() {
    let server = ByHand::listen();
    let channel = channel_to(server.addr, ChannelOptions::default());
    let mut left = Vec::new();
    for _ in 0..5 {
        let call = begin(&channel, &SAY, patient(), "slow");
        let mut link = server.accept();
        let id = link.next_call().id;
        link.go_away(Code::Ok, "");
        link.expect(GOODBYE, 1);
        left.push((call, link, id));
    }
    let (oldest, ..) = left.remove(0);
    let error = end(&oldest).unwrap_err();
    assert_eq!(
        (error.code(), error.may_have_executed()),
        (Code::Unavailable, true)
    );
    for (call, mut link, id) in left {
        link.reply(id, "slow");
        assert_eq!(end(&call).unwrap().data, "slow");
    }
}

#[test]
fn a_refused_connection_fails_its_calls_for_certain_and_backs_off() {
    let server = ByHand::listen();
    let options = ChannelOptions {
        backoff: Backoff {
            min: LONG * 10,
            max: LONG * 10,
        },
        ..ChannelOptions::default()
    };
    let channel = channel_to(server.addr, options);
    let call = begin(&channel, &SAY, patient(), "x");
    let mut link = server.accept();
    link.next_call();
    link.go_away(Code::ResourceExhausted, "too many connections");
    let error = end(&call).unwrap_err();
    assert_eq!(
        (error.code(), error.may_have_executed()),
        (Code::ResourceExhausted, false)
    );
    assert_eq!(error.text(), "too many connections");
    let error = end(&begin(&channel, &SAY, patient(), "x")).unwrap_err();
    assert_eq!(
        (error.code(), error.may_have_executed()),
        (Code::Unavailable, false)
    );
    assert!(error.text().contains("too many connections"), "{error}");
    assert!(matches!(channel.state(), ChannelState::Down { .. }));
    assert!(link.try_next().is_none());
}

#[test]
fn the_states_of_a_channel_are_told_in_order() {
    let server = ByHand::listen();
    let options = ChannelOptions {
        backoff: Backoff {
            min: Duration::ZERO,
            max: Duration::ZERO,
        },
        ..ChannelOptions::default()
    };
    let channel = channel_to(server.addr, options);
    let (sender, states) = self::channel();
    channel.on_state_change(|_| panic!("in a callback (expected in this test)"));
    channel.on_state_change(move |state| sender.send(state).unwrap());
    assert_eq!(channel.state(), ChannelState::Idle);
    let next = || states.recv_timeout(LONG).unwrap();

    let call = begin(&channel, &SAY, patient(), "x");
    assert_eq!(next(), ChannelState::Connecting);
    assert_eq!(next(), ChannelState::Ready);
    let mut link = server.accept();
    let id = link.next_call().id;
    link.reply(id, "x");
    end(&call).unwrap();
    link.go_away(Code::Ok, "");
    assert_eq!(next(), ChannelState::Idle);
    assert!(
        link.try_next()
            .is_some_and(|(frame, _)| frame.kind == GOODBYE)
    );

    // A connection that breaks before it has brought anything counts as down.
    let call = begin(&channel, &SAY, patient(), "x");
    assert_eq!(next(), ChannelState::Connecting);
    assert_eq!(next(), ChannelState::Ready);
    drop(server.accept());
    end(&call).unwrap_err();
    let ChannelState::Down { reason } = next() else {
        panic!("it is not down");
    };
    assert!(reason.contains("broke at once"), "{reason}");

    // Now it has to answer before it is ready again.
    let call = begin(&channel, &SAY, patient(), "x");
    assert_eq!(next(), ChannelState::Connecting);
    let mut link = server.accept();
    let id = link.next_call().id;
    assert_eq!(channel.state(), ChannelState::Connecting);
    link.reply(id, "x");
    end(&call).unwrap();
    assert_eq!(next(), ChannelState::Ready);
    drop(link);
    assert_eq!(next(), ChannelState::Idle);
}
