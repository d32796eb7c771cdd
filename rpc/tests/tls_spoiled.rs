//! TLS on a line that spoils records: nothing false gets through, nobody else notices, nothing is
//! left behind. A binary of its own, since descriptors are counted.

#![cfg(feature = "tls")]
#![allow(clippy::cast_possible_truncation, reason = "test data")]
#![allow(clippy::unwrap_used, reason = "in tests a panic is the report")]

#[path = "common/certificates.rs"]
mod certificates;
mod common;

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use certificates::Files;
use common::*;
use fastrand::Rng;
use rpc::{
    Backoff, ChannelOptions, Code, EventLoops, ProviderOptions, RpcChannel, RpcController,
    TlsClient, TlsServer,
};

const SEEDS: u64 = 600;

/// After so many, what the others may use as well has been used.
const WARM_SEEDS: u64 = 200;

const MEMORY_BYTES_MAX: usize = 32 << 20;

const WORKERS: usize = 8;

/// How long a side waits for what the line has swallowed.
const PATIENCE: Duration = Duration::from_millis(150);

const CALLS: usize = 8;

/// A record, its head of 5 bytes included; `None` at the end.
fn read_record(from: &mut TcpStream) -> io::Result<Option<Vec<u8>>> {
    let mut record = vec![0; 5];
    if from.read(&mut record[..1])? == 0 {
        return Ok(None);
    }
    from.read_exact(&mut record[1..])?;
    let len = usize::from(u16::from_be_bytes([record[3], record[4]]));
    record.resize(5 + len, 0);
    from.read_exact(&mut record[5..])?;
    Ok(Some(record))
}

/// Carries records. The one with the number `at` is spoiled.
fn carry(mut from: TcpStream, mut to: TcpStream, at: usize, mut rng: Rng) {
    let mut held_back = Vec::new();
    let mut index = 0;
    while let Ok(Some(record)) = read_record(&mut from) {
        let Some(out) = (if index == at {
            spoiled(record, &mut held_back, &mut rng)
        } else {
            // After the record that should have come later.
            Some([record, std::mem::take(&mut held_back)].concat())
        }) else {
            break;
        };
        index += 1;
        if to.write_all(&out).is_err() {
            break;
        }
    }
    for end in [from, to] {
        let _ = end.shutdown(Shutdown::Both);
    }
}

/// What comes in place of a record; `None`: the line is cut.
fn spoiled(mut record: Vec<u8>, held_back: &mut Vec<u8>, rng: &mut Rng) -> Option<Vec<u8>> {
    let byte = rng.usize(..record.len());
    match rng.u8(0..7) {
        0 => record[byte] ^= 1 << rng.u8(0..8),
        1 => record.truncate(byte),
        2 => record.clear(),
        3 => record = record.repeat(2),
        4 => *held_back = std::mem::take(&mut record),
        5 => {
            let garbage = std::iter::repeat_with(|| rng.u8(..)).take(byte + 1);
            record = garbage.chain(record.iter().copied()).collect();
        }
        _ => return None,
    }
    Some(record)
}

/// Takes one connection to the server, and spoils one of its first records.
fn spoil(listener: &TcpListener, server: SocketAddr, rng: &mut Rng) {
    let (client, _) = listener.accept().unwrap();
    let server = TcpStream::connect(server).unwrap();
    for end in [&client, &server] {
        end.set_nodelay(true).unwrap();
    }
    let back = (server.try_clone().unwrap(), client.try_clone().unwrap());
    let (mut there, mut home) = (usize::MAX, rng.usize(..12));
    if rng.bool() {
        std::mem::swap(&mut there, &mut home);
    }
    thread::scope(|scope| {
        let fork = rng.fork();
        scope.spawn(move || carry(client, server, there, fork));
        carry(back.0, back.1, home, rng.fork());
    });
}

/// How many calls of one channel over the line are answered.
fn call_over(listener: &TcpListener, tls: &TlsClient, loops: &EventLoops) -> usize {
    let options = ChannelOptions {
        loops: Some(loops.clone()),
        connect_timeout: PATIENCE,
        backoff: Backoff {
            min: LONG,
            max: LONG,
        },
        tls: Some(tls.clone()),
        ..ChannelOptions::default()
    };
    let channel = RpcChannel::with_options(listener.local_addr().unwrap(), options);
    let mut answered = 0;
    for call in 0..CALLS {
        let said = vec![call as u8; 1 + call * 3_000];
        let mut controller = RpcController::with_timeout(PATIENCE);
        let result: Result<Blob, _> = channel.call(&SAY, &mut controller, &blob(&said));
        match result {
            Ok(reply) => {
                assert!(reply.data == said, "a false reply");
                answered += 1;
            }
            Err(error) => {
                let lost = matches!(error.code(), Code::Unavailable | Code::DeadlineExceeded);
                assert!(lost, "{error}");
                return answered;
            }
        }
    }
    answered
}

/// Far more than it takes for a channel's connection to be lent to a caller that is alone.
const LONE_CALLS: usize = 1_000;

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// The next number, if it is below `last`.
fn take_below(next: &AtomicU64, last: u64) -> Option<u64> {
    let below = |n| (n < last).then_some(n + 1);
    next.fetch_update(Ordering::Relaxed, Ordering::Relaxed, below)
        .ok()
}

#[test]
fn spoiled_records_cost_their_own_connection_only() {
    let files = Files::new();
    let server = serve_with(ProviderOptions {
        tls: Some(TlsServer::new(files.path("server.pem"), files.path("server.key")).unwrap()),
        handshake_timeout: PATIENCE,
        ..ProviderOptions::default()
    });
    let tls = TlsClient::new(files.path("ca.pem"), "localhost").unwrap();
    let loops = EventLoops::start(2, "client").unwrap();
    let others = RpcChannel::with_options(
        server.addr(),
        ChannelOptions {
            loops: Some(loops.clone()),
            tls: Some(tls.clone()),
            ..ChannelOptions::default()
        },
    );
    // By the end of these its caller drives the connection itself, for which it takes two descriptors.
    for _ in 0..LONE_CALLS {
        assert_eq!(say(&others, "x").unwrap().data, "x");
    }
    let (before, addr) = (descriptors(), server.addr());

    let next_seed = AtomicU64::new(0);
    let (replies, cut) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let spoil_until = |last: u64| {
        thread::scope(|scope| {
            for _ in 0..WORKERS {
                scope.spawn(|| {
                    while let Some(seed) = take_below(&next_seed, last) {
                        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
                        let mut rng = Rng::with_seed(seed);
                        let answered = thread::scope(|scope| {
                            scope.spawn(|| spoil(&listener, addr, &mut rng));
                            call_over(&listener, &tls, &loops)
                        });
                        replies.fetch_add(answered, Ordering::Relaxed);
                        cut.fetch_add(usize::from(answered < CALLS), Ordering::Relaxed);
                        assert_eq!(say(&others, "x").unwrap().data, "x", "seed {seed}");
                    }
                });
            }
        });
    };
    spoil_until(WARM_SEEDS);
    let warm = resident_bytes();
    spoil_until(SEEDS);
    let (replies, cut) = (replies.into_inner(), cut.into_inner());
    println!("{cut} of {SEEDS} connections were cut, {replies} calls answered");
    assert!(cut > 300 && replies > 300);
    let hang = Instant::now() + LONG;
    while server.handle.connections() > 1 || descriptors() > before {
        assert!(Instant::now() < hang, "{} over {before}", descriptors());
        thread::yield_now();
    }
    assert_eq!(server.handle.running_calls(), 0);
    assert_eq!(say(&others, "x").unwrap().data, "x");
    let grown = resident_bytes().saturating_sub(warm);
    assert!(grown < MEMORY_BYTES_MAX, "{grown} bytes more than at first");
}
