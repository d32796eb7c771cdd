//! Callers that speak the C++ original's bytes are served unchanged.
//!
//! What the bytes are was captured from the original; here they are written by hand, so that no encoder
//! of ours stands on both sides.

mod common;

use crate::common::{Nodes, Original};

/// Every process of the original's client calls itself so.
const CLIENT: &[u8; 39] = b"171463691516816927778469308861804289383";

const OK: &[u8] = b"\x0a\x02OK";
const NO_KEY: &[u8] = b"\x0a\x08ErrNoKey";
const WRONG_LEADER: &[u8] = b"\x0a\x0eErrWrongLeader";

/// `varint(header length) | header | arguments`, for requests of any size.
fn request(method: &[u8], args: &[u8]) -> Vec<u8> {
    let header = [
        &field(1, b"kvServerRpc"),
        &field(2, method),
        &b"\x18"[..],
        &varint(args.len()),
    ]
    .concat();
    [&varint(header.len()), &header[..], args].concat()
}

fn put_append(op: &[u8], key: &[u8], value: &[u8], number: usize) -> Vec<u8> {
    let args = [
        field(1, key),
        field(2, value),
        field(3, op),
        field(4, CLIENT),
        [b"\x28", &varint(number)[..]].concat(),
    ];
    request(b"PutAppend", &args.concat())
}

fn put(key: &[u8], value: &[u8], number: usize) -> Vec<u8> {
    put_append(b"Put", key, value, number)
}

fn append(key: &[u8], value: &[u8], number: usize) -> Vec<u8> {
    put_append(b"Append", key, value, number)
}

fn get(key: &[u8], number: usize) -> Vec<u8> {
    let args = [
        field(1, key),
        field(2, CLIENT),
        [b"\x18", &varint(number)[..]].concat(),
    ];
    request(b"Get", &args.concat())
}

fn value(value: &[u8]) -> Vec<u8> {
    [OK, &field(2, value)].concat()
}

/// A field of bytes.
fn field(number: u8, content: &[u8]) -> Vec<u8> {
    [&[number << 3 | 2], &varint(content.len())[..], content].concat()
}

fn varint(mut value: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x80 {
        bytes.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    bytes.push(value.to_le_bytes()[0]);
    bytes
}

/// The capture itself, byte for byte: 89 bytes, 71 bytes, and their replies.
#[test]
fn the_captured_exchange_is_answered_byte_for_byte() {
    let nodes = Nodes::start(1);
    let mut caller = Original::connect(nodes.addr(0));

    let captured_put = [
        b"\x1a\x0a\x0b\x6b\x76\x53\x65\x72\x76\x65\x72\x52\x70\x63",
        &b"\x12\x09\x50\x75\x74\x41\x70\x70\x65\x6e\x64\x18\x3e"[..],
        b"\x0a\x05\x68\x65\x6c\x6c\x6f\x12\x05\x77\x6f\x72\x6c\x64\x1a\x03\x50\x75\x74\x22\x27",
        CLIENT,
        b"\x28\x01",
    ]
    .concat();
    let captured_get = [
        b"\x14\x0a\x0b\x6b\x76\x53\x65\x72\x76\x65\x72\x52\x70\x63\x12\x03\x47\x65\x74\x18\x32",
        &b"\x0a\x05\x68\x65\x6c\x6c\x6f\x12\x27"[..],
        CLIENT,
        b"\x18\x01",
    ]
    .concat();
    assert_eq!((captured_put.len(), captured_get.len()), (89, 71));
    assert_eq!(
        captured_put,
        put(b"hello", b"world", 1),
        "the other tests speak the same"
    );
    assert_eq!(captured_get, get(b"hello", 1));

    caller.send(&captured_put);
    assert_eq!(caller.read_once(), b"\x0a\x02\x4f\x4b");
    caller.send(&captured_get);
    assert_eq!(
        caller.read_once(),
        b"\x0a\x02\x4f\x4b\x12\x05\x77\x6f\x72\x6c\x64"
    );
    caller.send(&get(b"missing", 2));
    assert_eq!(
        caller.read_once(),
        b"\x0a\x08\x45\x72\x72\x4e\x6f\x4b\x65\x79"
    );
}

/// The original's defect 6: Append was Put, and an unknown Op was acknowledged.
#[test]
fn append_appends_and_an_unknown_op_is_not_acknowledged() {
    let nodes = Nodes::start(1);
    let mut caller = Original::connect(nodes.addr(0));
    caller.ask(&append(b"k", b"one", 1), OK);
    caller.ask(&append(b"k", b" two", 2), OK);
    caller.ask(&get(b"k", 3), &value(b"one two"));

    let mut other = Original::connect(nodes.addr(0));
    other.send(&put_append(b"Increment", b"k", b"x", 4));
    other.expect_closed(); // a bare reply cannot say why; the log does
    caller.ask(&get(b"k", 5), &value(b"one two"));
}

/// Failure 121: a follower answers no read.
#[test]
fn a_follower_sends_the_caller_elsewhere() {
    let nodes = Nodes::start(3);
    let (leader, follower) = (nodes.leader(), nodes.follower());
    // The leader's address stands behind, in a field that the original skips.
    let address = nodes.addr(leader).to_string();
    let reply = [
        WRONG_LEADER,
        &[0x82, 0x01],
        &varint(address.len()),
        address.as_bytes(),
    ]
    .concat();

    let mut caller = Original::connect(nodes.addr(follower));
    caller.ask(&put(b"k", b"v", 1), &reply);
    caller.ask(&get(b"k", 2), &reply);
    caller.ask(&put(b"k", b"v", 3), &reply); // the connection stays

    let mut caller = Original::connect(nodes.addr(leader));
    caller.ask(&get(b"k", 1), NO_KEY);
    caller.ask(&put(b"k", b"v", 2), OK);
    caller.ask(&get(b"k", 3), &value(b"v"));
}

/// The original's defect 8: the second request of a segment was lost.
#[test]
fn requests_back_to_back_are_all_answered_in_order() {
    let nodes = Nodes::start(1);
    let mut caller = Original::connect(nodes.addr(0));
    caller.ask(&put(b"a", b"1", 1), OK);
    caller.send(&[put(b"b", b"2", 2), get(b"a", 3)].concat());
    caller.expect(&[OK, &value(b"1")].concat());

    // Begun one after the other: the Get sees the Put.
    caller.send(&[put(b"d", b"4", 4), get(b"d", 5)].concat());
    caller.expect(&[OK, &value(b"4")].concat());

    // Fast and slow ones in turn: a read needs no disk, and still must not overtake a write's reply.
    let (mut requests, mut replies) = (Vec::new(), Vec::new());
    for round in 0..100 {
        requests.extend(append(b"c", b".", 2 * round + 6));
        replies.extend_from_slice(OK);
        requests.extend(get(b"a", 2 * round + 7));
        replies.extend(value(b"1"));
        requests.extend(get(b"missing", 2 * round + 7));
        replies.extend_from_slice(NO_KEY);
    }
    caller.send(&requests);
    caller.expect(&replies);
    caller.ask(&get(b"c", 300), &value(&[b'.'; 100]));
}

/// The original's defect 8 again: both halves of a request that came in two reads were lost.
#[test]
fn a_request_may_come_byte_by_byte() {
    let nodes = Nodes::start(1);
    let mut caller = Original::connect(nodes.addr(0));
    let exchange = [
        (put(b"k", b"v", 1), OK),
        (get(b"k", 2), &value(b"v")),
        (get(b"missing", 3), NO_KEY),
    ];
    for (request, reply) in exchange {
        for byte in request {
            caller.send(&[byte]);
        }
        caller.expect(reply);
    }
}

/// The original's defects 8 and 11: requests of more than one read hung, replies above 1024 bytes crashed.
#[test]
fn values_of_a_mebibyte_go_both_ways() {
    let nodes = Nodes::start(1);
    let mut caller = Original::connect(nodes.addr(0));
    let mut number = 0;
    for length in [0, 1_017, 1_018, 65_536, 1 << 20] {
        let large: Vec<u8> = (0_usize..length)
            .map(|at| (at * 31 % 251).to_le_bytes()[0])
            .collect();
        number += 1;
        caller.ask(&put(b"large", &large, number), OK);
        number += 1;
        // A field with no content is left out, as the original's library does it.
        let reply = if large.is_empty() {
            OK.to_vec()
        } else {
            value(&large)
        };
        caller.ask(&get(b"large", number), &reply);
    }
}

#[test]
fn keys_and_values_may_hold_any_bytes() {
    let nodes = Nodes::start(1);
    let mut caller = Original::connect(nodes.addr(0));
    let odd: [&[u8]; 5] = [b"", b"\0", b"a\nb|c", b"\xff\xfe", "schlüssel".as_bytes()];
    for (number, odd) in (1..).step_by(4).zip(odd) {
        caller.ask(&put(odd, b"value", number), OK);
        caller.ask(&get(odd, number + 1), &value(b"value"));
        caller.ask(&put(b"key", &[odd, b"."].concat(), number + 2), OK);
        caller.ask(&get(b"key", number + 3), &value(&[odd, b"."].concat()));
    }
}

/// The original's defect 7: every process of its client has the same `ClientId` and counts from 1 again,
/// so the second one's writes were taken for repetitions: acknowledged, and not done on every node.
#[test]
fn a_second_process_with_the_same_client_id_loses_nothing() {
    let mut nodes = Nodes::start(3);
    let connect = |nodes: &Nodes| Original::connect(nodes.addr(nodes.leader()));

    let mut first = connect(&nodes);
    for number in 1..=5 {
        first.ask(&append(b"k", format!("a{number} ").as_bytes(), number), OK);
    }
    // Beginning with a write.
    let mut second = connect(&nodes);
    for number in 1..=3 {
        second.ask(&append(b"k", format!("b{number} ").as_bytes(), number), OK);
    }
    // Beginning with a read: its first write is numbered 2.
    let mut third = connect(&nodes);
    third.ask(&get(b"k", 1), &value(b"a1 a2 a3 a4 a5 b1 b2 b3 "));
    third.ask(&append(b"k", b"c2 ", 2), OK);
    third.ask(&get(b"k", 3), &value(b"a1 a2 a3 a4 a5 b1 b2 b3 c2 "));
    third.ask(&append(b"k", b"c4 ", 4), OK);

    // The others hold the same: each of them answers when it leads.
    let all = b"a1 a2 a3 a4 a5 b1 b2 b3 c2 c4 ";
    for _ in 0..3 {
        let leader = nodes.leader();
        connect(&nodes).ask(&get(b"k", 9), &value(all));
        nodes.stop_node(leader);
        connect(&nodes).ask(&get(b"k", 9), &value(all));
        nodes.start_node(leader);
    }
}

/// A request sent again, because its reply was lost, counts once: also after a restart, also from a
/// snapshot.
#[test]
fn a_repeated_request_counts_once() {
    let mut nodes = Nodes::adjusted(1, |options| {
        options.node.snapshot_log_bytes = 2_000;
        options.node.retained_log_bytes = 0;
    });
    let mut number = 0;
    let mut all = Vec::new();
    for _ in 0..3 {
        for _ in 0..30 {
            number += 1;
            let text = format!("{number},");
            all.extend_from_slice(text.as_bytes());
            for _ in 0..2 {
                Original::connect(nodes.addr(0)).ask(&append(b"k", text.as_bytes(), number), OK);
            }
        }
        nodes.stop_node(0);
        nodes.start_node(0);
        nodes.leader();
        let again = format!("{number},");
        Original::connect(nodes.addr(0)).ask(&append(b"k", again.as_bytes(), number), OK);
    }
    Original::connect(nodes.addr(0)).ask(&get(b"k", number + 1), &value(&all));
    assert!(
        nodes.node(0).status().snapshot.index.get() > 0,
        "no snapshot was taken"
    );
}

/// The original's defects 23 and 30: a leader that lost its majority believed on, or died of a time-out.
#[test]
fn a_leader_without_a_majority_says_so_and_lives() {
    let mut nodes = Nodes::start(3);
    let leader = nodes.leader();
    let mut caller = Original::connect(nodes.addr(leader));
    caller.ask(&put(b"k", b"before", 1), OK);
    let others: Vec<usize> = (0..3).filter(|&node| node != leader).collect();
    for &node in &others {
        nodes.stop_node(node);
    }
    // Neither a promise nor an old value, and no silence.
    caller.send(&put(b"k", b"alone", 2));
    assert!(caller.read_once().starts_with(WRONG_LEADER));
    caller.send(&get(b"k", 3));
    assert!(caller.read_once().starts_with(WRONG_LEADER));

    nodes.start_node(others[0]);
    let mut caller = Original::connect(nodes.addr(nodes.leader()));
    caller.ask(&put(b"k", b"after", 4), OK);
    caller.ask(&get(b"k", 5), &value(b"after"));
}
