//! Peers that break the rules, by malice or by accident, cost themselves and nobody else.

#![allow(clippy::cast_possible_truncation, reason = "test data")]
#![allow(clippy::unwrap_used, reason = "in tests a panic is the report")]

mod common;

use std::io::Write;
use std::net::Shutdown;
use std::time::Duration;

use common::*;
use prost::Message;
use rpc::{ChannelOptions, Code, Limits, ProviderOptions};

fn limited(limits: Limits) -> ProviderOptions {
    ProviderOptions {
        threads: 1,
        limits,
        ..ProviderOptions::default()
    }
}

#[test]
fn broken_frames_close_their_connection_and_disturb_nobody() {
    let server = serve();
    let bystander = server.channel();
    let mut names_cut_off = vec![20, 0x0a, 100];
    names_cut_off.extend([b'x'; 18]);
    let broken: Vec<Vec<u8>> = vec![
        vec![0xff, 0xff, 0xff, 0xff, 0x0f],       // header_size 2^32 - 1
        vec![0xff, 0xff, 0xff, 0xff, 0xff, 0x01], // 42 bits
        vec![0xff; 11],                           // an eleven-byte varint
        varint(65_537),                           // header_size over the limit by one
        names_cut_off,
        vec![2, 0x1a, 0x05], // args_size as text
        [varint(6), vec![0x18], varint(u32::MAX.into())].concat(), // args_size 2^32 - 1
        [varint(5), vec![0x18], varint((64 << 20) + 1)].concat(), // over the limit by one
        vec![1, 0x00],       // field number 0
        b"GET / HTTP/1.1\r\nHost: localhost\r\nUser-Agent: a browser that lost its way\r\n\r\n"
            .to_vec(),
        vec![0], // a header of no bytes: legacy, no such service
    ];
    for bytes in broken {
        let mut socket = server.socket();
        socket.send(&bytes);
        // Only the announcement arrived for some, so the sizes alone were judged.
        assert_eq!(socket.receive_until_closed(), b"", "{bytes:?}");
        assert_eq!(say(&bystander, "x").unwrap().data, "x");
    }
}

#[test]
fn a_body_that_is_not_the_message_is_answered() {
    let server = serve();
    let mut socket = server.socket();
    socket.send(&request("Echo", "Say", 3, 0, b"\x0a\xff"));
    let reply = socket.receive_reply();
    assert_eq!(
        (reply.request_id, reply.code),
        (3, Code::InvalidArgument.number().into())
    );
    assert!(
        reply.refused && reply.error_text.contains("Blob"),
        "{reply:?}"
    );
    socket.send(&echo_request(&SAY, 4, "the connection goes on"));
    assert_eq!(socket.receive_reply().request_id, 4);
}

#[test]
fn unknown_fields_and_trailing_bytes_of_a_header_are_skipped() {
    let server = serve();
    let mut socket = server.socket();
    let args = blob("a").encode_to_vec();
    // Field 15 as text, field 16 as fixed32, before and after the known ones.
    let mut header = b"\x7a\x03abc\x85\x01\0\0\0\0".to_vec();
    header.extend(b"\x0a\x04Echo\x12\x03Say\x18\x03\x20\x07\x7a\x01z");
    socket.send(&[varint(header.len() as u64), header, args.clone()].concat());
    let reply = socket.receive_reply();
    assert_eq!((reply.request_id, reply.body), (7, args));
}

/// Slow senders, one byte at a time.
#[test]
fn slow_senders_hold_up_nobody() {
    let server = serve();
    let bytes = echo_request(&SAY, 1, "slow");
    let mut slow: Vec<Socket> = (0..200).map(|_| server.socket()).collect();
    let channel = server.channel();
    for byte in &bytes {
        for socket in &mut slow {
            socket.send(&[*byte]);
        }
        assert_eq!(say(&channel, "fast").unwrap().data, "fast");
    }
    for socket in &mut slow {
        assert_eq!(socket.receive_reply().body, blob("slow").encode_to_vec());
    }
}

/// Must not reserve what is announced; see also the input buffer's own test.
#[test]
fn announced_bodies_that_never_come_cost_nothing() {
    let server = serve();
    let before = resident_bytes();
    let announcement = [varint(5), vec![0x18], varint(60 << 20)].concat();
    let mut sockets: Vec<Socket> = (0..200).map(|_| server.socket()).collect();
    for socket in &mut sockets {
        socket.send(&announcement);
        socket.send(&[0; 100]);
    }
    server.assert_serves();
    let grown = resident_bytes().saturating_sub(before);
    assert!(
        grown < 64 << 20,
        "{grown} bytes for 200 announcements of 60 MiB"
    );
}

/// A client that never reads its replies.
#[test]
fn a_client_that_never_reads_is_not_read_from() {
    let limits = Limits {
        max_unsent_bytes: 1 << 20,
        ..Limits::default()
    };
    let server = serve_with(limited(limits));
    let mut socket = server.socket();
    socket.stream.set_nonblocking(true).unwrap();
    let before = resident_bytes();
    // As much as the sockets' buffers hold leaves us; the rest must stay with us.
    let request = echo_request(&SAY, 1, vec![7; 16 << 10]);
    let requests = request.repeat(2);
    let mut taken = 0;
    let mut refusals = 0;
    while refusals < 50 && taken < 1 << 30 {
        if let Ok(bytes) = socket.stream.write(&requests[taken % request.len()..]) {
            taken += bytes;
            refusals = 0;
        } else {
            // The server has stopped reading once it stays so while others are served.
            refusals += 1;
            server.assert_serves();
        }
    }
    assert_eq!(refusals, 50, "the server went on reading");
    let grown = resident_bytes().saturating_sub(before);
    assert!(
        grown < 100 << 20,
        "{grown} bytes of replies for a client that reads none"
    );
    // It resumes when the client reads, and nothing is lost.
    socket.stream.set_nonblocking(false).unwrap();
    for _ in 0..taken / request.len() {
        let reply = socket.receive_reply();
        assert_eq!((reply.request_id, reply.code), (1, 0));
    }
}

#[test]
fn calls_in_flight_beyond_the_limit_are_refused() {
    let server = serve_with(limited(Limits {
        max_in_flight: 3,
        ..Limits::default()
    }));
    let mut socket = server.socket();
    let requests: Vec<u8> = (1..=4)
        .flat_map(|id| echo_request(&HOLD, id, vec![7; id as usize % 3 * 20_000]))
        .collect();
    socket.send(&requests);
    let refused = socket.receive_reply();
    assert_eq!(
        (refused.request_id, refused.code, refused.refused),
        (4, Code::ResourceExhausted.number().into(), true)
    );
    assert!(
        refused.error_text.contains("Limits::max_in_flight"),
        "{refused:?}"
    );
    let held: Vec<Held> = (0..3).map(|_| server.next_held()).collect();
    held.into_iter().for_each(Held::echo);
    let ids: Vec<u64> = (0..3).map(|_| socket.receive_reply().request_id).collect();
    assert_eq!(ids, [1, 2, 3]);
    // Answered calls leave their places, also within one segment.
    let many: Vec<u8> = (5..30).flat_map(|id| echo_request(&SAY, id, "x")).collect();
    socket.send(&many);
    for id in 5..30 {
        let reply = socket.receive_reply();
        assert_eq!((reply.request_id, reply.code), (id, 0));
    }
}

#[test]
fn connections_beyond_the_limit_are_closed_at_once() {
    let server = serve_with(limited(Limits {
        max_connections: 2,
        ..Limits::default()
    }));
    let mut first = server.socket();
    let mut second = server.socket();
    for (id, socket) in [(1, &mut first), (2, &mut second)] {
        socket.send(&echo_request(&SAY, id, "x"));
        assert_eq!(socket.receive_reply().request_id, id);
    }
    for _ in 0..20 {
        assert_eq!(server.socket().receive_until_closed(), b"");
    }
    // Those that are there are served, and one that leaves makes room.
    first.send(&echo_request(&SAY, 3, "x"));
    assert_eq!(first.receive_reply().request_id, 3);
    second.stream.shutdown(Shutdown::Write).unwrap();
    second.receive_until_closed();
    loop {
        let mut third = server.socket();
        // The server may not have noticed yet, and then closes before or after our write.
        let _ = third.stream.write_all(&echo_request(&SAY, 4, "x"));
        let mut first_byte = [0];
        if matches!(
            std::io::Read::read(&mut third.stream, &mut first_byte),
            Ok(1)
        ) {
            break;
        }
    }
}

#[test]
fn a_reply_over_the_servers_limit_is_a_failure_of_its_call() {
    let server = serve_with(limited(Limits {
        max_body_bytes: 1000,
        ..Limits::default()
    }));
    let channel = server.channel();
    let error = call(&channel, &GROW, "1001").unwrap_err();
    assert_eq!(error.code(), Code::ResourceExhausted);
    assert!(
        error.text().contains("1004") && error.text().contains("max_body_bytes"),
        "{error}"
    );
    assert_eq!(call(&channel, &GROW, "900").unwrap().data.len(), 900);
}

#[test]
fn a_peer_that_resets_in_the_middle_leaves_nothing_behind() {
    let server = serve();
    for cut in 0..20 {
        let mut socket = server.socket();
        socket.send(&echo_request(&HOLD, 1, "x"));
        let held = server.next_held();
        socket.send(&echo_request(&SAY, 2, "y")[..cut]);
        drop(socket);
        // The reply finds nobody, or is written to a closed peer: neither harms.
        held.echo();
    }
    while server.handle.connections() > 0 {
        std::thread::yield_now();
    }
    server.assert_serves();
}

/// Random frames and fragments of frames, from a printed seed, while another client is served.
#[test]
fn random_frames_do_not_disturb_a_live_server() {
    let seed = std::env::var("RPC_FUZZ_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
        .unwrap_or_else(|| fastrand::u64(..));
    println!("replay with RPC_FUZZ_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let server = serve();
    let bystander = server.channel();
    for round in 0..400 {
        let mut socket = server.socket();
        for _ in 0..random.usize(1..6) {
            // "Hold" would wait for the test and "Block" is for workers.
            let method = *random.choice(&[&SAY, &FORGET, &GROW]).unwrap_or(&&SAY);
            let mut bytes = echo_request(method, random.u64(0..3), "31");
            match random.u8(0..5) {
                0 => {
                    for _ in 0..random.usize(1..4) {
                        let at = random.usize(0..bytes.len());
                        bytes[at] = random.u8(..);
                    }
                }
                1 => bytes.truncate(random.usize(0..bytes.len())),
                2 => bytes = (0..random.usize(1..300)).map(|_| random.u8(..)).collect(),
                3 => bytes.insert(random.usize(0..bytes.len()), random.u8(..)),
                _ => {}
            }
            // The server may have closed already.
            if socket.stream.write_all(&bytes).is_err() {
                break;
            }
        }
        if random.bool() {
            let _ = socket.stream.shutdown(Shutdown::Write);
            socket.receive_until_closed();
        }
        if round % 20 == 0 {
            assert_eq!(say(&bystander, "x").unwrap().data, "x");
        }
    }
    drop(bystander);
    while server.handle.connections() > 0 {
        std::thread::yield_now();
    }
}

/// The client's side of a broken peer: garbage instead of replies.
#[test]
fn a_server_that_sends_garbage_fails_the_calls_under_way() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let options = ChannelOptions {
        backoff: rpc::Backoff {
            min: Duration::ZERO,
            max: Duration::ZERO,
        },
        ..ChannelOptions::default()
    };
    let channel = channel_to(listener.local_addr().unwrap(), options);
    for garbage in [
        &b"\xff\xff\xff\xff\xff\xff"[..],
        b"\x02\x1a\x7f",
        b"\xff\xff\x7f",
    ] {
        let call = begin(&channel, &SAY, rpc::RpcController::new(), "x");
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = [0; 10];
        std::io::Read::read_exact(&mut stream, &mut request).unwrap();
        stream.write_all(garbage).unwrap();
        let error = end(&call).unwrap_err();
        assert_eq!(error.code(), Code::Unavailable);
        assert!(error.text().contains("broken reply"), "{error}");
        assert!(error.may_have_executed());
    }
}

/// This process's resident memory.
fn resident_bytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .unwrap();
    let kib: usize = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kib << 10
}
