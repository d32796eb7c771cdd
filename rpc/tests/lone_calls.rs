//! Blocking calls that come one after the other, for which callers do the event loop's work.
//!
//! Whoever does it, a caller sees the same; so each test first makes enough lone calls for the
//! connection to be lent, and then lets something happen that has to bring it back.

#![allow(clippy::unwrap_used, reason = "in tests a panic is the report")]

mod by_hand;
mod common;

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel as mpsc_channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use by_hand::{ByHand, Link, REPLY_PONG, Reply};
use common::*;
use prost::Message;
use rpc::{ChannelOptions, Code, ProviderOptions, RpcChannel, RpcController, RpcError};

/// More than it takes for a connection to be lent.
const LONE_CALLS: usize = 100;

fn lone_calls(channel: &RpcChannel) {
    for number in 0..LONE_CALLS {
        let text = number.to_string();
        assert_eq!(say(channel, &text).unwrap().data, text);
    }
}

#[test]
fn lone_calls_are_answered_and_so_are_failures_and_large_messages() {
    let server = serve();
    let channel = server.channel();
    lone_calls(&channel);
    assert_eq!(
        call(&channel, &FAIL, [5]).unwrap_err().code(),
        Code::NotFound
    );
    assert_eq!(
        call(&channel, &GROW, "9000000").unwrap().data.len(),
        9_000_000
    );
    let large = vec![3; 9_000_000];
    assert_eq!(say(&channel, &large).unwrap().data, large);
    lone_calls(&channel);
    assert_eq!(channel.in_flight(), 0);
    assert_eq!(server.handle.connections(), 1);
}

#[test]
fn a_second_caller_is_served_while_the_first_one_waits() {
    let server = serve();
    let channel = server.channel();
    for _ in 0..20 {
        lone_calls(&channel);
        let waits = {
            let channel = channel.clone();
            thread::spawn(move || call(&channel, &HOLD, "first"))
        };
        let held = server.next_held();
        assert_eq!(say(&channel, "second").unwrap().data, "second");
        held.echo();
        assert_eq!(waits.join().unwrap().unwrap().data, "first");
    }
    assert_eq!(server.handle.connections(), 1);
}

#[test]
fn a_lone_call_ends_at_its_deadline_and_the_next_one_is_answered() {
    let server = serve();
    let channel = server.channel();
    lone_calls(&channel);
    let mut controller = RpcController::with_timeout(Duration::from_millis(5));
    let result: Result<Blob, _> = channel.call(&HOLD, &mut controller, &blob("x"));
    assert_eq!(result.unwrap_err().code(), Code::DeadlineExceeded);
    let held = server.next_held();
    lone_calls(&channel);
    held.echo(); // Too late; it is skipped.
    lone_calls(&channel);
}

#[test]
fn a_lone_call_is_cancelled_from_another_thread() {
    let server = serve();
    let channel = server.channel();
    lone_calls(&channel);
    let controller = RpcController::with_timeout(LONG);
    let waits = {
        let (channel, mut controller) = (channel.clone(), controller.clone());
        thread::spawn(move || channel.call::<Blob, Blob>(&HOLD, &mut controller, &blob("x")))
    };
    let held = server.next_held();
    controller.start_cancel();
    assert_eq!(waits.join().unwrap().unwrap_err().code(), Code::Cancelled);
    drop(held);
    lone_calls(&channel);
}

#[test]
fn a_server_that_came_and_went_while_nobody_called_costs_no_call() {
    let server = serve();
    let (addr, channel) = (server.addr(), server.channel());
    lone_calls(&channel);
    drop(server);
    for _ in 0..10 {
        let _server = serve_at(addr, ProviderOptions::default());
        lone_calls(&channel);
    }
}

#[test]
fn a_channel_is_dropped_while_its_connection_is_lent() {
    let server = serve();
    for _ in 0..20 {
        lone_calls(&server.channel());
    }
    let begun = Instant::now();
    while server.handle.connections() > 0 {
        assert!(begun.elapsed() < LONG, "a connection outlives its channel");
        thread::yield_now();
    }
}

// ---- a server that talks of other things

/// Answers to pings that nobody has sent.
fn pongs(number: usize) -> Vec<u8> {
    let pong = Reply {
        kind: REPLY_PONG,
        ..Reply::default()
    };
    pong.encode_length_delimited_to_vec().repeat(number)
}

/// Returns the number of the last one.
fn answer_lone_calls(link: &mut Link) -> u64 {
    let mut last = 0;
    for number in 0..LONE_CALLS {
        last = link.next_call().id;
        link.reply(last, &number.to_string());
    }
    last
}

/// A server that answers lone calls. From the next call on it sends what nobody asked for, faster
/// than a client takes it; then it answers that call.
struct Talker {
    channel: RpcChannel,
    /// The talk is under way.
    begun: Receiver<()>,
    /// It may end.
    enough: Arc<AtomicBool>,
    thread: JoinHandle<Link>,
}

impl Talker {
    /// More than a client takes in one turn, by far.
    const BEGUN_BYTES: usize = 4 << 20;

    fn serve() -> Talker {
        let server = ByHand::listen();
        let addr = server.addr;
        let (sender, begun) = mpsc_channel();
        let enough = Arc::new(AtomicBool::new(false));
        let over = Arc::clone(&enough);
        let thread = thread::spawn(move || {
            let mut link = server.accept();
            answer_lone_calls(&mut link);
            let call = link.next_call();
            let pongs = pongs(100_000);
            let mut sent = 0;
            while !over.load(Ordering::Relaxed) {
                link.stream.write_all(&pongs).unwrap();
                sent += pongs.len();
                if sent >= Talker::BEGUN_BYTES {
                    let _ = sender.send(());
                }
            }
            link.reply(call.id, "at last");
            link
        });
        let channel = channel_to(addr, ChannelOptions::default());
        lone_calls(&channel);
        Talker {
            channel,
            begun,
            enough,
            thread,
        }
    }

    /// A blocking call on a thread of its own, since it is to be seen whether it ends.
    fn call(&self, timeout: Duration) -> Receiver<Result<Blob, RpcError>> {
        let (sender, ended) = mpsc_channel();
        let channel = self.channel.clone();
        thread::spawn(move || {
            let mut controller = RpcController::with_timeout(timeout);
            let _ = sender.send(channel.call(&SAY, &mut controller, &blob("x")));
        });
        ended
    }

    fn stop(self) {
        self.enough.store(true, Ordering::Relaxed);
        // The client reads on meanwhile, or else this would wait for it.
        self.thread.join().unwrap();
    }
}

#[test]
fn a_lone_call_ends_at_its_deadline_while_its_server_talks_of_other_things() {
    let talker = Talker::serve();
    let lone = talker.call(Duration::from_millis(200));
    assert_eq!(end(&lone).unwrap_err().code(), Code::DeadlineExceeded);
    talker.begun.recv_timeout(LONG).unwrap();
    talker.stop();
}

#[test]
fn others_have_their_turn_while_the_server_of_a_lone_call_talks_of_other_things() {
    let talker = Talker::serve();
    let lone = talker.call(LONG);
    talker.begun.recv_timeout(LONG).unwrap();
    let second = talker.call(Duration::from_millis(5));
    assert_eq!(end(&second).unwrap_err().code(), Code::DeadlineExceeded);
    talker.enough.store(true, Ordering::Relaxed);
    assert_eq!(end(&lone).unwrap().data, "at last");
    talker.stop();
}

/// The connection is wanted back while its caller looks through what has arrived. Its socket reports
/// nothing then: it was emptied, and takes no more, since the call is large and the server answers
/// before it has read it.
#[test]
fn what_a_connection_brings_back_unread_is_read() {
    const ROUNDS: usize = 20;
    let server = ByHand::listen();
    let channel = channel_to(server.addr, ChannelOptions::default());
    let (sender, answered) = mpsc_channel();
    let (ended, may_read) = mpsc_channel();
    let thread = thread::spawn(move || {
        let mut link = server.accept();
        for _ in 0..ROUNDS {
            let id = answer_lone_calls(&mut link) + 1;
            assert_eq!(link.stream.peek(&mut [0]).unwrap(), 1, "the call comes");
            let reply = Reply {
                id,
                ..Reply::default()
            };
            let mut frames = pongs(20_000);
            frames.extend(reply.encode_length_delimited_to_vec());
            link.stream.write_all(&frames).unwrap();
            sender.send(()).unwrap();
            may_read.recv_timeout(LONG).unwrap();
            assert_eq!(link.next_call().id, id);
            let second = link.next_call().id;
            link.reply(second, "second");
        }
        link
    });
    let large = vec![3; 20_000_000];
    for _ in 0..ROUNDS {
        lone_calls(&channel);
        thread::scope(|scope| {
            let lone = scope.spawn(|| say(&channel, &large));
            answered.recv_timeout(LONG).unwrap();
            let second = begin(&channel, &SAY, RpcController::with_timeout(LONG), "x");
            assert_eq!(lone.join().unwrap().unwrap().data, "");
            ended.send(()).unwrap();
            assert_eq!(end(&second).unwrap().data, "second");
        });
    }
    thread.join().unwrap();
}

// ---- many callers

#[test]
fn callers_come_and_go_at_random() {
    const THREADS: usize = 4;
    const CALLS: usize = 3_000;
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let server = serve();
    let channel = server.channel();
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let channel = &channel;
            let mut random = fastrand::Rng::with_seed(seed + thread as u64);
            scope.spawn(move || {
                for number in 0..CALLS {
                    let text = format!("{thread} {number}");
                    assert_eq!(say(channel, &text).unwrap().data, text);
                    if random.u32(..100) == 0 {
                        // The others go on, at times one of them alone.
                        thread::sleep(Duration::from_micros(random.u64(..3_000)));
                    }
                }
            });
        }
    });
    assert_eq!(channel.in_flight(), 0);
    assert_eq!(server.handle.connections(), 1);
}

/// What it is for: the event loop is not woken for each call.
#[test]
#[cfg(target_os = "linux")]
fn the_event_loop_sleeps_while_one_caller_calls() {
    const CALLS: u64 = 2_000;
    let server = serve();
    let loops = rpc::EventLoops::start(1, "lone-loop").unwrap();
    let options = ChannelOptions {
        loops: Some(loops),
        ..ChannelOptions::default()
    };
    let channel = RpcChannel::with_options(server.addr(), options);
    lone_calls(&channel);
    let before = wakes_of("lone-loop-0");
    for _ in 0..CALLS {
        say(&channel, "x").unwrap();
    }
    let wakes = wakes_of("lone-loop-0") - before;
    println!("woken {wakes} times for {CALLS} calls");
    assert!(wakes < CALLS / 4, "woken {wakes} times for {CALLS} calls");
}

/// How often a thread of this process went to sleep by itself.
#[cfg(target_os = "linux")]
fn wakes_of(name: &str) -> u64 {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let task = tasks
        .map(|task| task.unwrap().path())
        .find(|task| std::fs::read_to_string(task.join("comm")).is_ok_and(|it| it.trim() == name))
        .unwrap_or_else(|| panic!("no thread is called {name}"));
    let status = std::fs::read_to_string(task.join("status")).unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
    line.unwrap().trim().parse().unwrap()
}
