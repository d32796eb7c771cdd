//! A server under siege: whatever many hostile peers do, others are served throughout, and when
//! they are gone nothing of them is left, neither connections nor descriptors nor memory.
//!
//! Descriptors and memory are a process's, so the tests take their turns.

#![allow(clippy::cast_possible_truncation, reason = "test data")]
#![allow(clippy::unwrap_used, reason = "in tests a panic is the report")]

mod common;
mod server_side;

use std::io::Write;
use std::net::Shutdown;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use common::*;
use rpc::{
    ChannelOptions, Keepalive, Limits, MethodDescriptor, ProviderHandle, ProviderOptions,
    RpcController, RpcProvider, RpcStream,
};
use server_side::*;

static POUR: MethodDescriptor = MethodDescriptor {
    service: "Spring",
    method: "Pour",
};
static SPRINGS_SAY: MethodDescriptor = MethodDescriptor {
    service: "Spring",
    method: "Say",
};

/// A test's turn: one at a time, also after one that failed.
struct Alone {
    /// Open before anything of the test was.
    descriptors: usize,
    _turn: MutexGuard<'static, ()>,
}

impl Alone {
    fn begin() -> Alone {
        static TURN: Mutex<()> = Mutex::new(());
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        Alone {
            descriptors: descriptors(),
            _turn: turn,
        }
    }

    /// All of the test's has been dropped. Threads may still be closing what they had.
    fn end(self) {
        wait_until("all descriptors back", || descriptors() == self.descriptors);
    }
}

/// Waits for `condition`, which comes true by itself unless there is a bug.
fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let give_up = Instant::now() + LONG;
    while !condition() {
        assert!(Instant::now() < give_up, "still not: {what}");
        thread::sleep(Duration::from_millis(1));
    }
}

/// This process's open descriptors, with the one that reads the list.
fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// What allocators and pools may keep of the busiest moment. Of a million frames, a leak of 40 bytes
/// each is above it.
const MEMORY_BYTES_MAX: usize = 32 << 20;

/// What later waves of a siege may use: as much as the first.
#[derive(Default)]
struct Memory {
    warm: Option<usize>,
}

impl Memory {
    /// A wave is over.
    fn look(&mut self) {
        let now = resident_bytes();
        let grown = now.saturating_sub(*self.warm.get_or_insert(now));
        assert!(grown < MEMORY_BYTES_MAX, "{grown} bytes more than at first");
    }
}

/// Far more than it takes for a channel's connection to be lent to a caller that is alone.
const LONE_CALLS: usize = 1_000;

/// A client that calls one call after the other for as long as it lives, on a connection of its
/// own.
struct Bystander {
    leave: Arc<AtomicBool>,
    served: Arc<AtomicUsize>,
    thread: JoinHandle<()>,
}

impl Bystander {
    fn start(at: &ProviderHandle, method: &'static MethodDescriptor) -> Bystander {
        let channel = channel_to(at.local_addr(), ChannelOptions::default());
        let leave = Arc::new(AtomicBool::new(false));
        let served = Arc::new(AtomicUsize::new(0));
        let thread = {
            let (leave, served) = (Arc::clone(&leave), Arc::clone(&served));
            thread::spawn(move || {
                while !leave.load(Ordering::Relaxed) {
                    assert_eq!(call(&channel, method, "x").unwrap().data, "x");
                    served.fetch_add(1, Ordering::Relaxed);
                }
            })
        };
        let bystander = Bystander {
            leave,
            served,
            thread,
        };
        // By then it drives its connection itself, for which it takes two descriptors.
        wait_until("served often", || {
            bystander.thread.is_finished() || bystander.served.load(Ordering::Relaxed) >= LONE_CALLS
        });
        bystander.is_served();
        bystander
    }

    /// Waits for two more calls: one of them began after this was asked.
    fn is_served(&self) {
        let before = self.served.load(Ordering::Relaxed);
        wait_until("served", || {
            self.thread.is_finished() || self.served.load(Ordering::Relaxed) >= before + 2
        });
        assert!(!self.thread.is_finished(), "a call of the bystander failed");
    }

    fn leave(self) {
        self.is_served();
        self.leave.store(true, Ordering::Relaxed);
        self.thread.join().unwrap();
    }
}

/// A provider of `Echo` and `Spring`, on one loop.
fn besieged(options: ProviderOptions) -> (ProviderHandle, impl Sized) {
    let (echo, held, gate) = echo();
    let (spring, streams, held_streams) = spring_service();
    let mut provider = RpcProvider::new(ProviderOptions {
        threads: 1,
        ..options
    });
    provider.notify_service(echo).unwrap();
    provider.notify_service(spring).unwrap();
    let handle = provider.start("127.0.0.1:0").unwrap();
    (handle, (held, gate, streams, held_streams))
}

// ---- random frames

/// Frames of one connection at most.
const BATCH_MAX: usize = 400;

/// Something that a client might send: a call that is answered at once, well or not, or words about
/// one.
fn sound_frame(random: &mut fastrand::Rng) -> Vec<u8> {
    let id = random.u64(1..20);
    match random.u8(0..12) {
        0 => echo_request(&GROW, id, "31"),
        1 => echo_request(&FORGET, id, "x"),
        2 => request("Nobody", "Say", id, 0, b""),
        3 => request("Echo", "Say", id, random.u64(0..3), b"\x0a\xff"),
        4 => {
            let extra = Extra {
                credit: random.u64(1..200),
                metadata: &[("tenant", "blue"), ("", "")],
                traceparent: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
                ..Extra::default()
            };
            spring("Burst", id, "x", extra)
        }
        // Of all kinds, also of such as there are not.
        5 => control(random.u64(1..9), id, random.u64(0..100)),
        _ => echo_request(&SAY, id, vec![7; random.usize(0..200)]),
    }
}

/// A frame that was damaged, or has never been one.
fn broken_frame(random: &mut fastrand::Rng) -> Vec<u8> {
    let mut bytes = echo_request(&SAY, random.u64(0..3), "31");
    match random.u8(0..4) {
        0 => {
            for _ in 0..random.usize(1..4) {
                let at = random.usize(0..bytes.len());
                bytes[at] = random.u8(..);
            }
        }
        1 => bytes.truncate(random.usize(0..bytes.len())),
        2 => bytes = (0..random.usize(1..300)).map(|_| random.u8(..)).collect(),
        _ => bytes.insert(random.usize(0..bytes.len()), random.u8(..)),
    }
    bytes
}

/// Sends `frames` frames from as many connections as it takes. The last one of each is broken.
fn storm(server: std::net::SocketAddr, seed: u64, frames: usize) {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut sent = 0;
    while sent < frames {
        let sound = random.usize(0..BATCH_MAX).min(frames - sent - 1);
        let mut bytes = Vec::new();
        for _ in 0..sound {
            bytes.extend(sound_frame(&mut random));
        }
        bytes.extend(broken_frame(&mut random));
        sent += sound + 1;
        let mut socket = Socket::connect(server);
        socket.send(&bytes);
        // The server may have found the broken one and closed.
        let _ = socket.stream.shutdown(Shutdown::Write);
        socket.receive_until_closed();
    }
}

#[test]
fn a_million_random_frames_leave_nothing_behind() {
    const FRAMES: usize = 1_000_000;
    const SENDERS: usize = 2;
    let alone = Alone::begin();
    let seed = std::env::var("RPC_FUZZ_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
        .unwrap_or_else(|| fastrand::u64(..));
    println!("replay with RPC_FUZZ_SEED={seed}");
    let (server, _hold) = besieged(ProviderOptions::default());
    let addr = server.local_addr();
    let before = descriptors();
    let bystander = Bystander::start(&server, &SAY);
    let senders = |frames: usize, round: u64| {
        thread::scope(|scope| {
            for sender in 0..SENDERS {
                let seed = seed.wrapping_add(round + sender as u64);
                scope.spawn(move || storm(addr, seed, frames / SENDERS));
            }
        });
    };

    // The first tenth shows what memory this takes at all.
    senders(FRAMES / 10, 0);
    let mut memory = Memory::default();
    memory.look();
    senders(FRAMES - FRAMES / 10, SENDERS as u64);

    bystander.leave();
    wait_until("no connection", || server.connections() == 0);
    assert_eq!(server.running_calls(), 0);
    wait_until("descriptors back", || descriptors() == before);
    memory.look();
    drop(server);
    alone.end();
}

// ---- many, slow, gone

#[test]
fn a_flood_of_connections_opened_and_dropped_leaves_nothing_behind() {
    const CONNECTIONS: usize = 5_000;
    const AT_ONCE: usize = 100;
    let alone = Alone::begin();
    let (server, _hold) = besieged(ProviderOptions {
        limits: Limits {
            max_connections: AT_ONCE,
            ..Limits::default()
        },
        ..ProviderOptions::default()
    });
    let before = descriptors();
    let bystander = Bystander::start(&server, &SAY);
    let request = echo_request(&SAY, 1, "x");
    let mut memory = Memory::default();
    for wave in 0..CONNECTIONS / AT_ONCE {
        // With the bystander they are one more than there may be.
        let mut sockets: Vec<Socket> = (0..AT_ONCE)
            .map(|_| Socket::connect(server.local_addr()))
            .collect();
        for (index, socket) in sockets.iter_mut().enumerate() {
            // Nothing, a part of a request, or one whose reply is not read. One may have been
            // refused and closed already.
            let bytes = &request[..index % 3 * request.len() / 2];
            let _ = socket.stream.write_all(bytes);
            if index % 5 == 0 {
                let _ = socket.stream.shutdown(Shutdown::Write);
            }
        }
        drop(sockets);
        bystander.is_served();
        if wave >= 4 {
            memory.look();
        }
    }
    bystander.leave();
    wait_until("no connection", || server.connections() == 0);
    assert_eq!(server.running_calls(), 0);
    wait_until("descriptors back", || descriptors() == before);
    memory.look();
    drop(server);
    alone.end();
}

/// A byte a second, in a world that runs twenty times as fast: a frame has its first ten seconds
/// (here half of one), then has to come faster. `SENDERS=5000` has that many in place of 200; it takes
/// twice as many descriptors.
#[test]
fn senders_of_a_byte_a_second_are_given_up_and_leave_nothing_behind() {
    const WAVES: usize = 3;
    let senders: usize = std::env::var("SENDERS").map_or(200, |count| count.parse().unwrap());
    let alone = Alone::begin();
    let (server, _hold) = besieged(ProviderOptions {
        frame_timeout: Duration::from_millis(500),
        ..ProviderOptions::default()
    });
    let bystander = Bystander::start(&server, &SAY);
    let with_bystander = descriptors();
    let mut memory = Memory::default();
    for wave in 1..=WAVES {
        let (before, mut busiest) = (resident_bytes(), 0);
        let mut slow: Vec<Socket> = (0..senders)
            .map(|_| Socket::connect(server.local_addr()))
            .collect();
        wait_until("all are there", || server.connections() == senders + 1);
        assert_eq!(descriptors(), with_bystander + 2 * senders);
        let request = echo_request(&SAY, 1, [7; 4_000]);
        let mut bytes = request.iter();
        wait_until("given up", || {
            let byte = bytes.next().expect("they are given up before the end");
            for socket in &mut slow {
                let _ = socket.stream.write_all(&[*byte]);
            }
            bystander.is_served();
            busiest = busiest.max(resident_bytes());
            thread::sleep(Duration::from_millis(50));
            server.connections() == 1
        });
        let each = busiest.saturating_sub(before) / senders;
        println!("wave {wave}: {each} bytes for each sender, both ends");
        // The peers' own ends are all that is left.
        wait_until("descriptors back", || {
            descriptors() == with_bystander + senders
        });
        drop(slow);
        memory.look();
    }
    bystander.leave();
    drop(server);
    alone.end();
}

/// Peers that vanished without a word: their sockets are there, and nobody answers any more.
#[test]
fn half_open_peers_are_given_up_with_their_calls_and_leave_nothing_behind() {
    const PEERS: usize = 200;
    const WAVES: usize = 3;
    let alone = Alone::begin();
    let server = serve_spring(ProviderOptions {
        keepalive: Keepalive {
            after: Duration::from_millis(100),
            timeout: Duration::from_secs(1),
        },
        ..one_thread()
    });
    let bystander = Bystander::start(&server.handle, &SPRINGS_SAY);
    let with_bystander = descriptors();
    let request = spring("Hold", 1, "x", Extra::default());
    let mut memory = Memory::default();
    for _ in 0..WAVES {
        let mut peers: Vec<Socket> = (0..PEERS).map(|_| server.socket()).collect();
        for peer in &mut peers {
            // A call that is answered by nobody, and the beginning of another.
            peer.send(&[&request[..], &request[..5]].concat());
        }
        let held: Vec<Held> = (0..PEERS).map(|_| server.next_held()).collect();
        wait_until("given up", || server.handle.connections() == 1);
        assert!(held.iter().all(|held| held.context.is_canceled()));
        wait_until("descriptors back", || {
            descriptors() == with_bystander + PEERS
        });
        bystander.is_served();
        // Late answers find nobody.
        held.into_iter().for_each(Held::echo);
        drop(peers);
        memory.look();
    }
    bystander.leave();
    assert_eq!(server.handle.running_calls(), 0);
    drop(server);
    alone.end();
}

// ---- a stream whose reader sleeps

#[test]
fn a_stream_whose_reader_sleeps_holds_its_credit_and_arrives_whole_when_it_wakes() {
    const CREDIT_BYTES: usize = 64 << 10;
    const ITEM_BYTES: usize = 4 << 10;
    /// What the wire adds: the item's tag and size, and what each item costs besides its bytes.
    const ITEM_COST: usize = ITEM_BYTES + 3 + 16;
    const ITEMS: usize = 1_000;
    /// The last item may overdraw the credit.
    const AHEAD: usize = CREDIT_BYTES / ITEM_COST + 1;
    let alone = Alone::begin();
    let server = serve_spring(one_thread());
    let options = ChannelOptions {
        stream_credit_bytes: CREDIT_BYTES as u32,
        ..ChannelOptions::default()
    };
    let channel = channel_to(server.handle.local_addr(), options);
    let stream: RpcStream<Blob> = channel
        .open_stream(&POUR, &mut RpcController::new(), &blob(""))
        .unwrap();
    let sender = server.next_stream().sender;
    let sent = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&sent);
    let sending = thread::spawn(move || {
        for item in 0..ITEMS {
            let mut data = vec![item as u8; ITEM_BYTES];
            data[..8].copy_from_slice(&(item as u64).to_le_bytes());
            sender.send(&blob(data)).unwrap();
            counter.fetch_add(1, Ordering::SeqCst);
        }
        sender.finish();
    });

    // The reader sleeps; the same connection goes on. Whoever sends cannot leave more with us.
    wait_until("its credit is used up", || {
        sent.load(Ordering::SeqCst) == AHEAD
    });
    for _ in 0..200 {
        assert_eq!(call(&channel, &SPRINGS_SAY, "x").unwrap().data, "x");
        assert_eq!(sent.load(Ordering::SeqCst), AHEAD, "beyond its credit");
    }

    let mut next = 0u64;
    for item in stream {
        let data = item.unwrap().data;
        assert_eq!(data.len(), ITEM_BYTES);
        assert_eq!(data[..8], next.to_le_bytes());
        next += 1;
    }
    assert_eq!(next, ITEMS as u64);
    sending.join().unwrap();
    assert_eq!(server.handle.running_calls(), 0);
    drop((channel, server));
    alone.end();
}
