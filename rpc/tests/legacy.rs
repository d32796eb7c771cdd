//! Callers that speak the C++ original's bytes, as they were captured from it.

#![allow(clippy::cast_possible_truncation, reason = "test data")]
#![allow(clippy::unwrap_used, reason = "in tests a panic is the report")]

mod common;

use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender, channel};

use bytes::Bytes;
use common::*;
use prost::Message;
use rpc::{
    Code, Done, ProviderHandle, ProviderOptions, ReplySlot, RpcContext, RpcError, RpcProvider,
    Service,
};

/// Messages of the original, as far as these tests need them.
#[derive(Clone, PartialEq, Message)]
struct PutAppendArgs {
    #[prost(bytes = "bytes", tag = "1")]
    key: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    value: Bytes,
    #[prost(bytes = "bytes", tag = "3")]
    op: Bytes,
    #[prost(bytes = "bytes", tag = "4")]
    client_id: Bytes,
    #[prost(int32, tag = "5")]
    request_id: i32,
}

#[derive(Clone, PartialEq, Message)]
struct GetArgs {
    #[prost(bytes = "bytes", tag = "1")]
    key: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    client_id: Bytes,
    #[prost(int32, tag = "3")]
    request_id: i32,
}

/// `GetReply` and `PutAppendReply` in one.
#[derive(Clone, PartialEq, Message)]
struct Reply {
    #[prost(bytes = "bytes", tag = "1")]
    err: Bytes,
    #[prost(bytes = "bytes", repeated, tag = "2")]
    value: Vec<Bytes>,
}

const CLIENT_ID: &[u8] = b"171463691516816927778469308861804289383";

struct Store {
    seen: Mutex<Sender<PutAppendArgs>>,
}

impl Service for Store {
    fn name(&self) -> &'static str {
        "kvServerRpc"
    }

    fn methods(&self) -> &'static [&'static str] {
        &["PutAppend", "Get"]
    }

    fn call(&self, method: usize, context: RpcContext, args: Bytes, reply: ReplySlot) {
        assert!(context.is_legacy() && context.request_id() == 0);
        let done = Done::<Reply>::new(reply);
        if method == 0 {
            let args = PutAppendArgs::decode(args).unwrap();
            self.seen.lock().unwrap().send(args).unwrap();
            done.run(Reply {
                err: "OK".into(),
                value: vec![],
            });
        } else if GetArgs::decode(args).unwrap().key == "hello" {
            done.run(Reply {
                err: "OK".into(),
                value: vec!["world".into()],
            });
        } else {
            done.run(Reply {
                err: "ErrNoKey".into(),
                value: vec![],
            });
        }
    }
}

/// The original sends its empty result as a present field of no bytes.
#[derive(Clone, PartialEq, Message)]
struct FriendsReply {
    #[prost(message, optional, tag = "1")]
    result: Option<()>,
    #[prost(bytes = "bytes", repeated, tag = "2")]
    friends: Vec<Bytes>,
}

struct Friends;

impl Service for Friends {
    fn name(&self) -> &'static str {
        "FiendServiceRpc"
    }

    fn methods(&self) -> &'static [&'static str] {
        &["GetFriendsList"]
    }

    fn call(&self, _method: usize, _context: RpcContext, args: Bytes, reply: ReplySlot) {
        assert_eq!(&args[..], [0x08, 0xe8, 0x07], "userid 1000");
        let friends = vec!["gao yang".into(), "liu hong".into(), "wang shuo".into()];
        Done::new(reply).run(FriendsReply {
            result: Some(()),
            friends,
        });
    }
}

fn start() -> (ProviderHandle, Receiver<PutAppendArgs>) {
    let (sender, seen) = channel();
    let mut provider = RpcProvider::new(ProviderOptions::default());
    provider
        .notify_service(Store {
            seen: Mutex::new(sender),
        })
        .unwrap();
    provider.notify_service(Friends).unwrap();
    (provider.start("127.0.0.1:0").unwrap(), seen)
}

fn bytes(hex_and_text: &[&[u8]]) -> Vec<u8> {
    hex_and_text.concat()
}

fn captured_put() -> Vec<u8> {
    bytes(&[
        b"\x1a\x0a\x0bkvServerRpc\x12\x09PutAppend\x18\x3e",
        b"\x0a\x05hello\x12\x05world\x1a\x03Put\x22\x27",
        CLIENT_ID,
        b"\x28\x01",
    ])
}

fn captured_get() -> Vec<u8> {
    bytes(&[
        b"\x14\x0a\x0bkvServerRpc\x12\x03Get\x18\x32",
        b"\x0a\x05hello\x12\x27",
        CLIENT_ID,
        b"\x18\x01",
    ])
}

#[test]
fn captured_put_and_get_are_answered_with_the_captured_bytes() {
    let (handle, seen) = start();
    let mut socket = Socket::connect(handle.local_addr());
    assert_eq!(captured_put().len(), 89);
    socket.send(&captured_put());
    assert_eq!(socket.receive(4), b"\x0a\x02OK");
    let put = seen.recv().unwrap();
    assert_eq!(
        (&put.key[..], &put.value[..], &put.op[..]),
        (&b"hello"[..], &b"world"[..], &b"Put"[..])
    );
    assert_eq!((&put.client_id[..], put.request_id), (CLIENT_ID, 1));

    assert_eq!(captured_get().len(), 71);
    socket.send(&captured_get());
    assert_eq!(socket.receive(11), b"\x0a\x02OK\x12\x05world");
    let mut missing = captured_get();
    let key = missing
        .windows(5)
        .position(|window| window == b"hello")
        .unwrap();
    missing[key] = b'j';
    socket.send(&missing);
    assert_eq!(socket.receive(10), b"\x0a\x08ErrNoKey");
}

#[test]
fn the_captured_friend_request_is_answered_with_the_captured_bytes() {
    let (handle, _seen) = start();
    let mut socket = Socket::connect(handle.local_addr());
    let request = b"\x23\x0a\x0fFiendServiceRpc\x12\x0eGetFriendsList\x18\x03\x08\xe8\x07";
    assert_eq!(request.len(), 39);
    // Ten calls on one connection, as the original's consumer makes them.
    for _ in 0..10 {
        socket.send(request);
        assert_eq!(
            socket.receive(33),
            b"\x0a\x00\x12\x08gao yang\x12\x08liu hong\x12\x09wang shuo"
        );
    }
}

/// The original lost the second request of a segment.
#[test]
fn two_requests_in_one_segment_are_both_answered() {
    let (handle, seen) = start();
    let mut socket = Socket::connect(handle.local_addr());
    socket.send(&[captured_put(), captured_get()].concat());
    assert_eq!(socket.receive(4 + 11), b"\x0a\x02OK\x0a\x02OK\x12\x05world");
    assert_eq!(seen.try_iter().count(), 1);
}

/// The original lost a request that came in pieces.
#[test]
fn a_request_may_come_byte_by_byte() {
    let (handle, _seen) = start();
    let mut socket = Socket::connect(handle.local_addr());
    for _ in 0..3 {
        for byte in captured_put() {
            socket.send(&[byte]);
        }
        assert_eq!(socket.receive(4), b"\x0a\x02OK");
    }
}

/// What comes in one segment is begun one after the other, so a Get sees the Put before it.
#[test]
fn a_request_is_begun_when_the_one_before_it_is_answered() {
    let server = serve();
    let mut socket = server.socket();
    let requests = ["one", "two"].map(|text| echo_request(&HOLD, 0, text));
    socket.send(&[requests.concat(), echo_request(&SAY, 0, "three")].concat());
    for _ in 0..2 {
        let held = server.next_held();
        assert!(held.context.is_legacy());
        server.assert_serves();
        assert!(server.held.try_recv().is_err(), "the next one has begun");
        held.echo();
    }
    let expected = ["one", "two", "three"]
        .map(|text| blob(text).encode_to_vec())
        .concat();
    assert_eq!(socket.receive(expected.len()), expected);
}

/// Each reply is a write of its own: the original takes what one read brings for one reply.
#[test]
fn replies_that_wait_for_the_first_leave_one_by_one() {
    let server = serve();
    let mut socket = server.socket();
    socket.send(&[echo_request(&HOLD, 0, "a"), echo_request(&SAY, 0, "b")].concat());
    server.next_held().echo();
    assert_eq!(socket.receive(3), blob("a").encode_to_vec());
    assert_eq!(socket.receive(3), blob("b").encode_to_vec());
}

/// The original waits for ever for a reply of no bytes.
#[test]
fn an_empty_reply_is_replaced_by_a_field_that_every_parser_skips() {
    let server = serve();
    let mut socket = server.socket();
    socket.send(&echo_request(&SAY, 0, ""));
    let reply = socket.receive(4);
    assert_eq!(reply, [0xc0, 0xa3, 0x09, 0x00]);
    assert_eq!(Blob::decode(&reply[..]).unwrap(), Blob::default());
}

#[test]
fn large_values_go_both_ways() {
    let server = serve();
    let mut socket = server.socket();
    let value: Vec<u8> = (0..1u32 << 20).map(|i| (i % 253) as u8).collect();
    let expected = blob(&value).encode_to_vec();
    for _ in 0..3 {
        socket.send(&echo_request(&SAY, 0, &value));
        assert!(socket.receive(expected.len()) == expected);
    }
}

/// A bare body cannot express a failure, so the connection ends, after the earlier replies.
#[test]
fn a_failure_closes_the_connection_after_the_replies_before_it() {
    let server = serve();
    let failures = [
        echo_request(&FAIL, 0, [Code::NotFound.number() as u8]),
        echo_request(&FORGET, 0, "x"),
        echo_request(&PANIC, 0, "x"),
        request("Echo", "Sing", 0, 0, b""),
        request("Ecko", "Say", 0, 0, b""),
        request("Echo", "Say", 0, 0, b"\x0a\x7f"),
    ];
    for failure in failures {
        let mut socket = server.socket();
        let (first, last) = (
            echo_request(&HOLD, 0, "a"),
            echo_request(&SAY, 0, "never sent"),
        );
        socket.send(&[first, failure, last].concat());
        server.next_held().echo();
        assert_eq!(socket.receive_until_closed(), blob("a").encode_to_vec());
    }
    server.assert_serves();
}

#[test]
fn a_failure_given_later_closes_as_well() {
    let server = serve();
    let mut socket = server.socket();
    let requests = ["a", "b", "c"].map(|text| echo_request(&HOLD, 0, text));
    socket.send(&requests.concat());
    server.next_held().echo();
    let second = server.next_held();
    second.done.fail(RpcError::new(Code::Internal, "later"));
    assert_eq!(socket.receive_until_closed(), blob("a").encode_to_vec());
    assert!(
        server.held.try_recv().is_err(),
        "c was begun after the failure"
    );
}

/// A caller that half-closes after its last request still gets its replies.
#[test]
fn a_caller_that_sends_no_more_gets_its_replies() {
    let server = serve();
    for id in [0, 9] {
        let mut socket = server.socket();
        socket.send(&echo_request(&HOLD, id, "late"));
        socket.stream.shutdown(std::net::Shutdown::Write).unwrap();
        server.next_held().echo();
        let bytes = socket.receive_until_closed();
        assert!(bytes.ends_with(&blob("late").encode_to_vec()), "{bytes:?}");
    }
}

#[test]
fn a_connection_speaks_one_dialect() {
    let server = serve();
    for (first, second) in [(0, 5), (5, 0)] {
        let mut socket = server.socket();
        socket.send(&echo_request(&SAY, first, "a"));
        socket.receive(3);
        socket.send(&echo_request(&SAY, second, "b"));
        socket.receive_until_closed();
    }
    server.assert_serves();
}

/// The requests that came before the end of the stream are begun all the same.
#[test]
fn a_caller_that_sends_no_more_gets_the_replies_to_all_it_sent() {
    let server = serve();
    let mut socket = server.socket();
    let held = echo_request(&HOLD, 0, "a");
    socket.send(&[held, echo_request(&SAY, 0, "b"), echo_request(&SAY, 0, "c")].concat());
    let held = server.next_held();
    socket.stream.shutdown(std::net::Shutdown::Write).unwrap();
    server.assert_serves();
    held.echo();
    let expected = ["a", "b", "c"]
        .map(|text| blob(text).encode_to_vec())
        .concat();
    assert_eq!(socket.receive(expected.len()), expected);
    socket.receive_until_closed();
}
