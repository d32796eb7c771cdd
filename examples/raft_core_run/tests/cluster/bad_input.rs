//! Nonsense from the network: it costs the connection that it came on, and nobody else.

use std::thread;

use prost::Message;
use proto::kv::{GetArgs, GetReply, PutAppendArgs};

use crate::harness::proc::resident_bytes;
use crate::harness::wire::{
    Connection, INVALID_ARGUMENT, OK, RESOURCE_EXHAUSTED, RequestHeader, UNIMPLEMENTED, request,
};
use crate::harness::{Cluster, Load, eventually, seed};

const MIB: u64 = 1 << 20;

/// The limits of the wire format.
const HEADER_MAX: u64 = 64 << 10;
const BODY_MAX: u32 = 64 << 20;

/// What a node may grow by under all of this together, with other clients' writes beside it: the log
/// and its snapshots at their (small) bounds, unsent replies, and what the allocator keeps. A single
/// buffer reserved for a body of [`BODY_MAX`] that never comes would pass it.
const GROWTH_MAX: u64 = 48 * MIB;

/// The original's defects 8, 10, 11 and 16 (one request per read, no limits, silence) and 24, 30 (a node
/// died of what it was sent).
#[test]
fn bad_input_costs_only_the_connection_it_came_on() {
    let mut random = fastrand::Rng::with_seed(seed("bad_input"));
    let mut cluster = Cluster::with_knobs(3, &["--snapshot-log-bytes=1048576"]);
    let load = Load::start(&cluster, 4, random.u64(..));
    load.wait_for_acks(2_000);
    let before = resident(&mut cluster);
    let term = eventually("a status", || cluster.status(0)).term;

    for node in 0..cluster.len() {
        let addr = cluster.addresses()[node];
        let open = || Connection::open(addr);
        let healthy = &mut open();
        for bytes in broken_frames() {
            is_refused(open(), &bytes);
        }
        for _ in 0..200 {
            let length = random.usize(1..4_096);
            let bytes: Vec<u8> = (0..length).map(|_| random.u8(..)).collect();
            is_closed(open(), &bytes);
        }
        for _ in 0..200 {
            is_closed(open(), &damaged_request(&mut random));
        }
        unknown_names_are_answered(open());
        foreign_bodies_are_answered(open(), &mut random);
        cut_requests_are_closed(&open);
        claims_are_not_believed(&open);
        answers(healthy, 7); // it was open all the time
        load.wait_for_acks(100);
    }

    let journal = load.finish();
    assert_eq!(
        (journal.unknown, journal.refused),
        (0, 0),
        "other clients were disturbed"
    );
    cluster.wait_for_convergence();
    journal.verify(&cluster);
    let after = resident(&mut cluster);
    println!(
        "resident bytes: {before:?} -> {after:?}; term {term} -> {}",
        eventually("a status", || cluster.status(0)).term
    );
    for node in 0..cluster.len() {
        assert!(
            after[node].saturating_sub(before[node]) <= GROWTH_MAX,
            "{before:?} -> {after:?}"
        );
        assert!(cluster.process(node).is_running());
        let reason = cluster.process(node).line("header of");
        assert!(
            reason.is_some(),
            "node {node} does not log why it closed a connection"
        );
    }
}

/// A client that asks and does not read: the node stops reading from it when its bounds are reached.
#[test]
fn a_client_that_does_not_read_its_replies_costs_a_bounded_amount() {
    const VALUE_BYTES: u32 = 64 << 10;
    const REQUESTS: u64 = 8_000;
    // Replies that wait, and the calls that were begun before they did: the bounds of a connection.
    const CEILING: u64 = (8 << 20) + 1_024 * VALUE_BYTES as u64;

    let mut cluster = Cluster::start(1);
    let clerk = cluster.clerk(seed("unread_replies"));
    clerk.put("large", vec![7; VALUE_BYTES as usize]).unwrap();
    let before = resident(&mut cluster)[0];

    let mut greedy = Connection::open(cluster.addresses()[0]);
    let mut asking = greedy.another_handle();
    let sender = thread::spawn(move || {
        let get = GetArgs {
            key: "large".into(),
            ..GetArgs::default()
        };
        let get = get.encode_to_vec();
        for id in 1..=REQUESTS {
            asking.send(&request("kvServerRpc", "Get", id, &get));
        }
    });
    for number in 0..500 {
        clerk.put("another client", number.to_string()).unwrap();
    }
    let growth = resident(&mut cluster)[0].saturating_sub(before);
    let asked_for = REQUESTS * u64::from(VALUE_BYTES);
    println!("grew by {growth} bytes for {asked_for} bytes of unread replies");
    assert!(growth <= CEILING + GROWTH_MAX, "grew by {growth} bytes");

    // Once it begins to read every request is answered, in some order: with the whole value, or, if
    // it came on top of those that may be under way, with the name of that limit.
    let mut served = 0;
    let mut ids: Vec<u64> = (0..REQUESTS)
        .map(|_| {
            let (header, body) = greedy.reply().expect("a reply");
            if header.code == OK {
                let reply = GetReply::decode(&body[..]).unwrap();
                assert_eq!(reply.value.len(), VALUE_BYTES as usize);
                served += 1;
            } else {
                assert_eq!(header.code, RESOURCE_EXHAUSTED);
                let text = header.error_text;
                assert!(text.contains("Limits::max_in_flight"), "{text}");
            }
            header.request_id
        })
        .collect();
    sender.join().unwrap();
    assert!(served >= 1_024, "{served} of {REQUESTS} were served");
    ids.sort_unstable();
    assert!(
        ids.into_iter().eq(1..=REQUESTS),
        "each request is answered once"
    );
}

/// Sends `bytes` and no more: whatever they are, the connection comes to its end.
fn is_closed(mut connection: Connection, bytes: &[u8]) {
    connection.send(bytes);
    connection.has_no_more_to_send();
    connection.rest();
}

/// Sends `bytes`: the other side closes although more could come.
fn is_refused(mut connection: Connection, bytes: &[u8]) {
    connection.send(bytes);
    assert!(connection.rest().is_empty());
}

/// Frames with no boundary to resume at, or that announce more than there may be.
fn broken_frames() -> Vec<Vec<u8>> {
    let varint = |mut value: u64| {
        let mut bytes = Vec::new();
        while value >= 0x80 {
            bytes.push(value.to_le_bytes()[0] | 0x80);
            value >>= 7;
        }
        bytes.push(value.to_le_bytes()[0]);
        bytes
    };
    let header = |args_size: u32, request_id: u64| {
        let (service_name, method_name) = (b"kvServerRpc".to_vec(), b"Get".to_vec());
        RequestHeader {
            service_name,
            method_name,
            args_size,
            request_id,
        }
        .encode_length_delimited_to_vec()
    };
    vec![
        varint(u64::from(u32::MAX)),
        varint(HEADER_MAX + 1),
        varint(u64::MAX),
        vec![0xff; 11],
        header(u32::MAX, 0),
        header(u32::MAX, 5),
        header(BODY_MAX + 1, 5),
        vec![0],                         // a header of no bytes names no service
        vec![4, 0xff, 0xff, 0xff, 0xff], // and this one is no protobuf message
        vec![2, 0x0a, 0x7f],             // a field longer than the header
    ]
}

/// A request of which one byte is wrong.
fn damaged_request(random: &mut fastrand::Rng) -> Vec<u8> {
    let put = PutAppendArgs {
        key: "damaged".into(),
        value: "value".into(),
        op: "Put".into(),
        client_id: "damaged".into(),
        request_id: 1,
        ..PutAppendArgs::default()
    };
    let mut bytes = request(
        "kvServerRpc",
        "PutAppend",
        random.u64(0..2),
        &put.encode_to_vec(),
    );
    let place = random.usize(..bytes.len());
    bytes[place] ^= 1 << random.u32(..8);
    bytes
}

fn unknown_names_are_answered(mut connection: Connection) {
    for (id, service, method, told) in [
        (1, "noSuchService", "Get", "kvServerRpc"),
        (2, "kvServerRpc", "NoSuchMethod", "PutAppend"),
        (3, "raft.raftRpc", "AppendEntries", "raftRpc"),
    ] {
        connection.send(&request(service, method, id, &[]));
        let (header, _) = connection.reply().expect("an answer");
        assert_eq!((header.request_id, header.code), (id, UNIMPLEMENTED));
        assert!(
            header.error_text.contains(told),
            "it names what exists: {}",
            header.error_text
        );
    }
    answers(&mut connection, 4);
    // The original's callers cannot be told: they are closed instead of left waiting.
    connection.send(&request("noSuchService", "Get", 0, &[]));
    assert!(connection.rest().is_empty());
}

/// Bodies that are not the message, to every method of every service.
fn foreign_bodies_are_answered(mut connection: Connection, random: &mut fastrand::Rng) {
    let methods = [
        ("kvServerRpc", "Get"),
        ("kvServerRpc", "PutAppend"),
        ("raftRpc", "AppendEntries"),
        ("raftRpc", "RequestVote"),
        ("raftRpc", "InstallSnapshot"),
    ];
    for (id, (service, method)) in (1..).zip(methods) {
        connection.send(&request(service, method, id, &[0x0a, 0xff, 0xff]));
        let (header, _) = connection.reply().expect("an answer");
        assert_eq!(
            (header.request_id, header.code),
            (id, INVALID_ARGUMENT),
            "{service}.{method}"
        );
    }
    // A message of another kind, or by a stranger, may decode: it is refused all the same.
    for (id, (service, method)) in (100..).zip(methods.into_iter().cycle().take(100)) {
        let length = random.usize(..64);
        let body: Vec<u8> = (0..length).map(|_| random.u8(..)).collect();
        connection.send(&request(service, method, id, &body));
        let (header, _) = connection.reply().expect("an answer");
        assert_eq!(header.request_id, id);
        let may_succeed = (service, method) == ("kvServerRpc", "Get");
        assert!(
            may_succeed || header.code != OK,
            "{service}.{method} took {body:?}"
        );
    }
    answers(&mut connection, 200);
}

/// Requests that end in the middle.
fn cut_requests_are_closed(open: &impl Fn() -> Connection) {
    let get = GetArgs {
        key: "x".into(),
        ..GetArgs::default()
    }
    .encode_to_vec();
    let whole = request("kvServerRpc", "Get", 9, &get);
    for length in 1..whole.len() {
        let mut connection = open();
        connection.send(&whole[..length]);
        connection.has_no_more_to_send();
        assert!(
            connection.rest().is_empty(),
            "answered after {length} of {} bytes",
            whole.len()
        );
    }
}

/// Many connections each announce the largest body there may be, and send none of it.
fn claims_are_not_believed(open: &impl Fn() -> Connection) {
    let header = RequestHeader {
        service_name: b"kvServerRpc".to_vec(),
        method_name: b"PutAppend".to_vec(),
        args_size: BODY_MAX,
        request_id: 1,
    };
    let claims: Vec<Connection> = (0..100)
        .map(|_| {
            let mut connection = open();
            connection.send(&header.encode_length_delimited_to_vec());
            connection.send(b"and a few bytes");
            connection
        })
        .collect();
    answers(&mut open(), 1); // it has read all of that by now: one loop takes connections in turn
    drop(claims);
}

/// A Get on this connection is answered, in order.
fn answers(connection: &mut Connection, id: u64) {
    let get = GetArgs {
        key: "x".into(),
        ..GetArgs::default()
    }
    .encode_to_vec();
    connection.send(&request("kvServerRpc", "Get", id, &get));
    let (header, body) = connection.reply().expect("an answer");
    assert_eq!(
        (header.request_id, header.code),
        (id, OK),
        "{}",
        header.error_text
    );
    let reply = GetReply::decode(&body[..]).unwrap();
    assert!(
        [&b"ErrNoKey"[..], b"ErrWrongLeader"].contains(&&reply.err[..]),
        "{reply:?}"
    );
}

fn resident(cluster: &mut Cluster) -> Vec<u64> {
    (0..cluster.len())
        .map(|node| resident_bytes(cluster.process(node).id()))
        .collect()
}
