//! Calls that end otherwise than by a reply: deadlines, cancellation, broken connections, bounds.

#![allow(clippy::cast_possible_truncation, reason = "test data")]
#![allow(clippy::unwrap_used, reason = "in tests a panic is the report")]

mod common;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use common::*;
use rpc::{
    Backoff, ChannelOptions, Code, EventLoops, Limits, ProviderOptions, RpcChannel, RpcController,
};

const SHORT: Duration = Duration::from_millis(30);

/// A listener whose connections are never served.
fn mute() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    (listener, addr)
}

/// An address at which nobody listens.
fn nobody() -> SocketAddr {
    mute().1
}

fn no_backoff() -> ChannelOptions {
    let backoff = Backoff {
        min: Duration::ZERO,
        max: Duration::ZERO,
    };
    ChannelOptions {
        backoff,
        ..ChannelOptions::default()
    }
}

#[test]
fn a_call_ends_at_its_deadline_and_its_late_reply_is_ignored() {
    let server = serve();
    let channel = server.channel();
    let mut controller = RpcController::with_timeout(SHORT);
    let error = channel
        .call::<_, Blob>(&HOLD, &mut controller, &blob("late"))
        .unwrap_err();
    assert_eq!(error.code(), Code::DeadlineExceeded);
    assert!(error.text().contains("30 ms"), "{error}");
    assert!(error.may_have_executed());
    let held = server.next_held();
    let left = held.context.deadline().expect("the deadline travels");
    assert!(left <= Instant::now() + SHORT);
    held.echo();
    assert_eq!(say(&channel, "next").unwrap().data, "next");
    assert_eq!(channel.in_flight(), 0);
}

#[test]
fn a_request_that_expired_before_it_was_begun_is_refused() {
    // The first reply is not read, so the second request waits in the server's buffer.
    let limits = Limits {
        max_unsent_bytes: 1_000,
        ..Limits::default()
    };
    let options = ProviderOptions {
        threads: 1,
        limits,
        ..ProviderOptions::default()
    };
    let server = serve_with(options);
    let mut socket = server.socket();
    let second = request("Echo", "Hold", 2, 1, b"");
    socket.send(&[echo_request(&GROW, 1, "30000000"), second].concat());
    // The time itself is what is waited for: the deadline has to pass.
    thread::sleep(SHORT);
    assert_eq!(socket.receive_reply().request_id, 1);
    let reply = socket.receive_reply();
    assert_eq!(
        (reply.request_id, reply.code),
        (2, Code::DeadlineExceeded.number().into())
    );
    assert!(reply.refused);
    assert!(server.held.try_recv().is_err(), "the handler was called");
}

#[test]
fn deadlines_of_many_calls_are_kept() {
    let limits = Limits {
        max_in_flight: 5_000,
        ..Limits::default()
    };
    let server = serve_with(ProviderOptions {
        threads: 1,
        limits,
        ..ProviderOptions::default()
    });
    let options = ChannelOptions {
        max_in_flight: 5_000,
        ..ChannelOptions::default()
    };
    let channel = channel_to(server.addr(), options);
    let calls: Vec<_> = (0..5_000)
        .map(|i| {
            let timeout = Duration::from_millis(20 + i % 50);
            begin(&channel, &HOLD, RpcController::with_timeout(timeout), "x")
        })
        .collect();
    for call in &calls {
        assert_eq!(end(call).unwrap_err().code(), Code::DeadlineExceeded);
    }
    assert_eq!(channel.in_flight(), 0);
}

#[test]
fn a_call_is_cancelled_from_another_thread() {
    let server = serve();
    let channel = server.channel();
    let mut controller = RpcController::with_timeout(LONG);
    let handle = controller.clone();
    let canceller = thread::spawn(move || {
        let held = server.next_held();
        handle.start_cancel();
        handle.start_cancel();
        (server, held)
    });
    let error = channel
        .call::<_, Blob>(&HOLD, &mut controller, &blob("x"))
        .unwrap_err();
    assert_eq!(error.code(), Code::Cancelled);
    assert!(error.may_have_executed());
    assert!(controller.is_canceled() && controller.failed());
    let (_server, held) = canceller.join().unwrap();
    held.echo();

    let error = channel
        .call::<_, Blob>(&SAY, &mut controller, &blob("x"))
        .unwrap_err();
    assert_eq!(
        (error.code(), error.may_have_executed()),
        (Code::Cancelled, false)
    );
    controller.reset();
    assert!(!controller.is_canceled());
    let reply: Blob = channel.call(&SAY, &mut controller, &blob("x")).unwrap();
    assert_eq!(reply.data, "x");
    controller.start_cancel();
    assert!(!controller.failed(), "the call had ended");
}

/// Calls given up before the channel has even begun to connect leave no bytes that count.
#[test]
fn calls_cancelled_before_a_connect_do_not_use_up_the_channel() {
    let server = serve();
    let loops = EventLoops::start(1, "client").unwrap();
    let options = ChannelOptions {
        loops: Some(loops),
        max_unsent_bytes: 1_000,
        ..ChannelOptions::default()
    };
    let steering = RpcChannel::with_options(server.addr(), options.clone());
    let unused = RpcChannel::with_options(server.addr(), options);
    let (sender, cancelled) = channel();
    let inner = unused.clone();
    // On the loop's thread, so that the channel hears of the call and of its end at once.
    steering.call_async(&SAY, RpcController::new(), &blob("x"), move |result| {
        let _: Blob = result.unwrap();
        let controller = RpcController::new();
        sender
            .send(begin(&inner, &SAY, controller.clone(), [7; 900]))
            .unwrap();
        controller.start_cancel();
    });
    let error = end(&cancelled.recv_timeout(LONG).unwrap()).unwrap_err();
    assert_eq!(
        (error.code(), error.may_have_executed()),
        (Code::Cancelled, false)
    );
    // The room comes back just after the call has ended.
    let since = Instant::now();
    let reply = loop {
        match say(&unused, [7; 200]) {
            Err(error) if error.code() == Code::ResourceExhausted && since.elapsed() < LONG => {
                thread::yield_now();
            }
            outcome => break outcome.unwrap(),
        }
    };
    assert_eq!(reply.data, [7; 200][..]);
}

/// What is cancelled before the connection is made is not sent, and its bytes do not count.
#[test]
fn calls_cancelled_while_the_channel_connects_are_not_sent() {
    let server = serve();
    let loops = EventLoops::start(1, "client").unwrap();
    let options = ChannelOptions {
        loops: Some(loops),
        max_unsent_bytes: 1_000,
        ..ChannelOptions::default()
    };
    let steering = RpcChannel::with_options(server.addr(), options.clone());
    let unused = RpcChannel::with_options(server.addr(), options);
    let inner = unused.clone();
    // On the loop's thread, so that the channel hears of both calls and of the one's end at once.
    steering.call_async(&SAY, RpcController::new(), &blob("x"), move |result| {
        let _: Blob = result.unwrap();
        let controller = RpcController::new();
        drop(begin(&inner, &HOLD, controller.clone(), [7; 800]));
        drop(begin(&inner, &HOLD, RpcController::new(), "kept"));
        controller.start_cancel();
    });
    assert_eq!(server.next_held().args.data, "kept");
    assert_eq!(say(&unused, [7; 200]).unwrap().data, [7; 200][..]);
    assert!(server.held.try_recv().is_err(), "the cancelled call came");
}

#[test]
fn times_may_be_as_long_as_there_are() {
    let server = serve_with(ProviderOptions {
        shutdown_grace: Duration::MAX,
        ..ProviderOptions::default()
    });
    let forever = ChannelOptions {
        default_timeout: Duration::MAX,
        connect_timeout: Duration::MAX,
        backoff: Backoff {
            min: Duration::MAX,
            max: Duration::MAX,
        },
        silence_limit: Duration::MAX,
        ..ChannelOptions::default()
    };
    let channel = channel_to(server.addr(), forever.clone());
    let call = begin(&channel, &SAY, RpcController::new(), "x");
    assert_eq!(end(&call).unwrap().data, "x");
    let channel = channel_to(nobody(), forever);
    for _ in 0..2 {
        let call = begin(&channel, &SAY, RpcController::new(), "x");
        assert_eq!(end(&call).unwrap_err().code(), Code::Unavailable);
    }
    drop(server);
}

/// The original's defects 9, 10 and 12 (`docs/failures.md`): a broken connection is not a reply, and no
/// thread hangs.
#[test]
fn calls_under_way_fail_when_the_server_dies_and_later_ones_find_it_again() {
    let mut server = serve_with(ProviderOptions {
        threads: 1,
        shutdown_grace: Duration::ZERO,
        ..ProviderOptions::default()
    });
    let addr = server.addr();
    let channel = channel_to(addr, no_backoff());
    assert_eq!(say(&channel, "x").unwrap().data, "x");
    let calls: Vec<_> = (0..50)
        .map(|_| begin(&channel, &HOLD, RpcController::with_timeout(LONG), "x"))
        .collect();
    let held: Vec<_> = calls.iter().map(|_| server.next_held()).collect();
    server.handle.shutdown();
    for call in &calls {
        let error = end(call).unwrap_err();
        assert_eq!(error.code(), Code::Unavailable);
        assert!(error.may_have_executed());
        assert!(error.text().contains(&addr.to_string()), "{error}");
    }
    held.into_iter().for_each(Held::echo);

    let error = say(&channel, "nobody").unwrap_err();
    assert_eq!(
        (error.code(), error.may_have_executed()),
        (Code::Unavailable, false),
        "{error}"
    );
    let _again = serve_at(addr, ProviderOptions::default());
    assert_eq!(say(&channel, "back").unwrap().data, "back");
}

#[test]
fn calls_fail_at_once_while_a_failed_connect_is_backed_off() {
    let addr = nobody();
    let backoff = Backoff {
        min: LONG * 10,
        max: LONG * 10,
    };
    let channel = channel_to(
        addr,
        ChannelOptions {
            backoff,
            ..ChannelOptions::default()
        },
    );
    let first = say(&channel, "x").unwrap_err();
    assert!(first.text().contains("cannot connect"), "{first}");
    for _ in 0..100 {
        let error = say(&channel, "x").unwrap_err();
        assert_eq!(
            (error.code(), error.may_have_executed()),
            (Code::Unavailable, false)
        );
        assert!(error.text().contains(&format!("{addr} is down")), "{error}");
        let async_call = begin(&channel, &SAY, RpcController::new(), "x");
        let error = async_call
            .try_recv()
            .expect("it ends before call_async returns")
            .unwrap_err();
        assert_eq!(error.code(), Code::Unavailable);
    }
}

#[test]
fn calls_wait_for_a_connect_only_until_their_deadline() {
    // A full backlog: the kernel answers no further SYN.
    let (_listener, addr) = mute();
    let mut fillers = Vec::new();
    let socket = || mio::net::TcpStream::connect(addr);
    for _ in 0..5_000 {
        fillers.push(socket().unwrap());
    }
    let options = ChannelOptions {
        connect_timeout: LONG,
        ..no_backoff()
    };
    let channel = channel_to(addr, options);
    let mut controller = RpcController::with_timeout(SHORT);
    let error = channel
        .call::<_, Blob>(&SAY, &mut controller, &blob("x"))
        .unwrap_err();
    assert_eq!(
        (error.code(), error.may_have_executed()),
        (Code::DeadlineExceeded, false)
    );

    let options = ChannelOptions {
        connect_timeout: SHORT,
        ..no_backoff()
    };
    let error = say(&channel_to(addr, options), "x").unwrap_err();
    assert_eq!(
        (error.code(), error.may_have_executed()),
        (Code::Unavailable, false)
    );
    assert!(error.text().contains("no answer within 30 ms"), "{error}");
}

/// A peer that is silent without a reset.
#[test]
fn a_silent_server_is_given_up_and_dialled_again() {
    let (listener, addr) = mute();
    let options = ChannelOptions {
        silence_limit: SHORT * 4,
        ..no_backoff()
    };
    let channel = channel_to(addr, options);
    let patient = begin(&channel, &SAY, RpcController::with_timeout(LONG), "x");
    let (_silent, _) = listener.accept().unwrap();
    loop {
        let controller = RpcController::with_timeout(SHORT);
        let error = end(&begin(&channel, &SAY, controller, "x")).unwrap_err();
        assert_eq!(error.code(), Code::DeadlineExceeded);
        if let Ok(result) = patient.try_recv() {
            let error = result.unwrap_err();
            assert_eq!(error.code(), Code::Unavailable);
            assert!(error.text().contains("silent"), "{error}");
            break;
        }
    }
    let _call = begin(&channel, &SAY, RpcController::with_timeout(LONG), "x");
    listener.accept().expect("a new connection");
}

/// Silence counts while somebody waits for words: not the hours between two calls.
#[test]
fn a_server_that_was_asked_nothing_was_not_silent() {
    let limit = SHORT * 10;
    let server = serve();
    let options = ChannelOptions {
        silence_limit: limit,
        ..no_backoff()
    };
    // On a loaded machine the short call may take as long as the limit; then it tries again.
    for _ in 0..20 {
        let channel = channel_to(server.addr(), options.clone());
        let forgotten = begin(&channel, &HOLD, RpcController::with_timeout(SHORT), "x");
        let never_answered = server.next_held();
        end(&forgotten).unwrap_err();
        thread::sleep(limit * 2);
        let patient = begin(&channel, &HOLD, RpcController::with_timeout(LONG), "y");
        let short = begin(&channel, &HOLD, RpcController::with_timeout(SHORT), "z");
        end(&short).unwrap_err();
        let held = server.next_held();
        let also_never = server.next_held();
        held.echo();
        let outcome = end(&patient);
        drop((never_answered, also_never));
        if outcome.is_ok() {
            return;
        }
    }
    panic!("the connection was given up for a silence between calls");
}

#[test]
fn the_last_handle_of_a_channel_ends_its_calls() {
    let server = serve();
    let channel = server.channel();
    let clone = channel.clone();
    let call = begin(&channel, &HOLD, RpcController::with_timeout(LONG), "x");
    let held = server.next_held();
    drop(channel);
    assert_eq!(say(&clone, "still open").unwrap().data, "still open");
    drop(clone);
    let error = end(&call).unwrap_err();
    assert_eq!(
        (error.code(), error.may_have_executed()),
        (Code::Cancelled, true)
    );
    // A caller that sends no more may still read, so the connection ends with its last call.
    held.echo();
    while server.handle.connections() > 0 {
        thread::yield_now();
    }
}

#[test]
fn a_channel_that_was_never_used_ends_quietly() {
    drop(channel_to(nobody(), ChannelOptions::default()));
}

#[test]
fn a_blocking_call_on_the_channels_own_loop_is_refused() {
    let server = serve();
    let channel = server.channel();
    let (sender, received) = channel_of_results();
    let inner = channel.clone();
    channel.call_async(&SAY, RpcController::new(), &blob("x"), move |result| {
        let _: Blob = result.unwrap();
        sender.send(say(&inner, "would wait for itself")).unwrap();
    });
    let error = received.recv_timeout(LONG).unwrap().unwrap_err();
    assert_eq!(error.code(), Code::Internal);
    assert!(error.text().contains("call_async"), "{error}");
    assert!(!error.may_have_executed());
}

type Results = Result<Blob, rpc::RpcError>;

fn channel_of_results() -> (
    std::sync::mpsc::Sender<Results>,
    std::sync::mpsc::Receiver<Results>,
) {
    channel()
}

#[test]
fn calls_beyond_max_in_flight_are_refused() {
    let server = serve();
    let options = ChannelOptions {
        max_in_flight: 3,
        ..ChannelOptions::default()
    };
    let channel = channel_to(server.addr(), options);
    let calls: Vec<_> = (0..3)
        .map(|_| begin(&channel, &HOLD, RpcController::with_timeout(LONG), "x"))
        .collect();
    let error = say(&channel, "x").unwrap_err();
    assert_eq!(
        (error.code(), error.may_have_executed()),
        (Code::ResourceExhausted, false)
    );
    assert!(error.text().contains("max_in_flight"), "{error}");
    for call in &calls {
        server.next_held().echo();
        end(call).unwrap();
    }
    // A callback may use the room that its own call leaves.
    let full = begin(&channel, &HOLD, RpcController::with_timeout(LONG), "x");
    let _other = begin(&channel, &HOLD, RpcController::with_timeout(LONG), "x");
    let (sender, received) = self::channel();
    let inner = channel.clone();
    channel.call_async(&SAY, RpcController::new(), &blob("x"), move |result| {
        let _: Blob = result.unwrap();
        inner.call_async(&SAY, RpcController::new(), &blob("y"), move |result| {
            sender.send(result.map(|reply: Blob| reply.data)).unwrap();
        });
    });
    assert_eq!(received.recv_timeout(LONG).unwrap().unwrap(), "y");
    drop(channel);
    drop(full);
}

#[test]
fn requests_beyond_max_unsent_bytes_are_refused() {
    let (_listener, addr) = mute();
    let options = ChannelOptions {
        max_unsent_bytes: 100_000,
        ..ChannelOptions::default()
    };
    let channel = channel_to(addr, options.clone());
    // Alone a call may be larger than the bound.
    let first = begin(
        &channel,
        &SAY,
        RpcController::with_timeout(LONG),
        vec![0; 30 << 20],
    );
    let error = say(&channel, vec![0; 50_000]).unwrap_err();
    assert_eq!(
        (error.code(), error.may_have_executed()),
        (Code::ResourceExhausted, false)
    );
    assert!(error.text().contains("max_unsent_bytes"), "{error}");
    assert!(first.try_recv().is_err());

    // What was sent makes room.
    let server = serve();
    let channel = channel_to(server.addr(), options);
    for _ in 0..5 {
        assert_eq!(say(&channel, vec![0; 60_000]).unwrap().data.len(), 60_000);
    }
}

#[test]
fn arguments_over_the_limit_are_certainly_not_sent() {
    let server = serve();
    let limits = Limits {
        max_body_bytes: 1000,
        ..Limits::default()
    };
    let channel = channel_to(
        server.addr(),
        ChannelOptions {
            limits,
            ..ChannelOptions::default()
        },
    );
    let error = say(&channel, vec![0; 998]).unwrap_err();
    assert_eq!(
        (error.code(), error.may_have_executed()),
        (Code::InvalidArgument, false)
    );
    assert!(
        error.text().contains("1001") && error.text().contains("max_body_bytes"),
        "{error}"
    );
    assert_eq!(say(&channel, vec![0; 900]).unwrap().data.len(), 900);
}

#[test]
fn a_reply_over_the_clients_limit_costs_its_own_call_only() {
    let server = serve();
    let limits = Limits {
        max_body_bytes: 1000,
        ..Limits::default()
    };
    let channel = channel_to(
        server.addr(),
        ChannelOptions {
            limits,
            ..ChannelOptions::default()
        },
    );
    let other = begin(&channel, &HOLD, RpcController::with_timeout(LONG), "x");
    let held = server.next_held();
    for len in ["1001", "500000", "3000000"] {
        let error = call(&channel, &GROW, len).unwrap_err();
        assert_eq!(error.code(), Code::ResourceExhausted);
        assert!(error.text().contains("max_body_bytes"), "{error}");
        assert!(error.may_have_executed());
    }
    held.echo();
    assert_eq!(end(&other).unwrap().data, "x");
    assert_eq!(server.handle.connections(), 1);
}

/// Serves one connection by hand: reads one request and sends `reply`.
fn answer_by_hand(reply: &[u8]) -> Results {
    let (listener, addr) = mute();
    let channel = channel_to(addr, ChannelOptions::default());
    let call = begin(&channel, &SAY, RpcController::with_timeout(LONG), "x");
    let (mut stream, _) = listener.accept().unwrap();
    let mut first = [0; 1];
    stream.read_exact(&mut first).unwrap();
    let mut rest = vec![0; usize::from(first[0]) + 3];
    stream.read_exact(&mut rest).unwrap();
    stream.write_all(reply).unwrap();
    end(&call)
}

#[test]
fn replies_that_say_odd_things() {
    // Reply to call 1 with a body of three bytes, after one to a call that does not exist.
    let good = [
        6, 0x08, 99, 0x20, 1, 0x10, 5, b'?', 4, 0x08, 1, 0x20, 3, 0x0a, 1, b'x',
    ];
    assert_eq!(answer_by_hand(&good).unwrap().data, "x");
    let malformed = answer_by_hand(&[4, 0x08, 1, 0x20, 2, 0x0a, 9]).unwrap_err();
    assert_eq!(
        (malformed.code(), malformed.may_have_executed()),
        (Code::Internal, true)
    );
    assert!(
        malformed.text().contains("malformed reply of Echo.Say"),
        "{malformed}"
    );
    let unknown = answer_by_hand(&[7, 0x08, 1, 0x10, 77, 0x1a, 1, b'!']).unwrap_err();
    assert_eq!(
        (unknown.code(), unknown.text()),
        (Code::Internal, "unknown code 77: !")
    );
    let refused = answer_by_hand(&[6, 0x08, 1, 0x10, 8, 0x28, 1]).unwrap_err();
    assert_eq!(
        (refused.code(), refused.may_have_executed()),
        (Code::ResourceExhausted, false)
    );
}

/// A server that answers and then breaks off has answered, even if the channel learns of the
/// break by a failed write first.
#[test]
fn a_reply_that_came_before_the_break_counts() {
    let server = serve();
    let (listener, addr) = mute();
    let loops = EventLoops::start(1, "client").unwrap();
    let options = ChannelOptions {
        loops: Some(loops),
        ..ChannelOptions::default()
    };
    let channel = RpcChannel::with_options(addr, options.clone());
    let answered = begin(&channel, &SAY, RpcController::with_timeout(LONG), "x");
    let cut_off = vec![7; 40 << 20];
    let cut_off = begin(&channel, &SAY, RpcController::with_timeout(LONG), cut_off);
    let (mut stream, _) = listener.accept().unwrap();
    stream.read_exact(&mut [0; 1_000]).unwrap();

    // Reply and reset arrive while the loop is busy, and so are seen together.
    let (busy_to, busy) = channel_of_units();
    let (go_on, gate) = channel_of_units();
    let steering = RpcChannel::with_options(server.addr(), options);
    steering.call_async(&SAY, RpcController::new(), &blob("x"), move |result| {
        let _: Blob = result.unwrap();
        busy_to.send(()).unwrap();
        gate.recv_timeout(LONG).unwrap();
    });
    busy.recv_timeout(LONG).unwrap();
    stream
        .write_all(&[4, 0x08, 1, 0x20, 3, 0x0a, 1, b'x'])
        .unwrap();
    drop(stream);
    go_on.send(()).unwrap();
    assert_eq!(end(&answered).unwrap().data, "x");
    assert_eq!(end(&cut_off).unwrap_err().code(), Code::Unavailable);
}

/// The end of the stream may be reported together with the connection's beginning.
#[test]
fn a_server_that_closes_at_once_is_noticed() {
    let server = serve();
    let (listener, addr) = mute();
    let loops = EventLoops::start(1, "client").unwrap();
    let options = ChannelOptions {
        loops: Some(loops),
        ..ChannelOptions::default()
    };
    let steering = RpcChannel::with_options(server.addr(), options.clone());
    // A channel of its own: it hears of the cancelling after the other has heard of its call.
    let busy = RpcChannel::with_options(server.addr(), options.clone());
    let channel = RpcChannel::with_options(addr, options);
    let (go_on, gate) = channel_of_units();
    let (sender, call) = std::sync::mpsc::channel();
    let cancelled = RpcController::with_timeout(LONG);
    busy.call_async(&HOLD, cancelled.clone(), &blob("x"), move |result| {
        assert!(Result::<Blob, _>::is_err(&result));
        gate.recv_timeout(LONG).unwrap();
    });
    let held = server.next_held();
    let inner = channel.clone();
    // One turn of the loop: it begins to connect, then hears of the cancelled call and is busy.
    steering.call_async(&SAY, RpcController::new(), &blob("x"), move |result| {
        let _: Blob = result.unwrap();
        let controller = RpcController::with_timeout(LONG);
        sender.send(begin(&inner, &SAY, controller, "x")).unwrap();
        cancelled.start_cancel();
    });
    let (stream, _) = listener.accept().unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    go_on.send(()).unwrap();
    let error = end(&call.recv_timeout(LONG).unwrap()).unwrap_err();
    assert_eq!(error.code(), Code::Unavailable);
    drop((held, channel, busy));
}

fn channel_of_units() -> (std::sync::mpsc::Sender<()>, std::sync::mpsc::Receiver<()>) {
    channel()
}

/// The original dies of SIGPIPE here. And nothing is sent twice: calls made while the connection
/// breaks under them end, each once, and none is answered that the server did not see.
#[test]
fn a_connection_that_breaks_at_any_byte_ends_every_call_once() {
    let (listener, addr) = mute();
    // Each connection is closed after another number of bytes, within its first request.
    thread::spawn(move || {
        for cut in (0..).map(|round| 1 + (round * 2_251) % 100_000) {
            let (mut stream, _) = listener.accept().unwrap();
            let _ = stream.read_exact(&mut vec![0; cut]);
        }
    });
    let channel = channel_to(addr, no_backoff());
    for _ in 0..40 {
        let calls: Vec<_> = (0..4)
            .map(|_| {
                begin(
                    &channel,
                    &SAY,
                    RpcController::with_timeout(LONG),
                    vec![1; 100_000],
                )
            })
            .collect();
        for call in &calls {
            assert_eq!(end(call).unwrap_err().code(), Code::Unavailable);
            assert!(call.recv().is_err(), "a call ended twice");
        }
        assert_eq!(channel.in_flight(), 0);
    }
}

/// In the original every call costs the server 380 bytes for ever.
#[test]
fn thousands_of_calls_leave_nothing_behind() {
    let server = serve();
    let loops = EventLoops::start(1, "client").unwrap();
    let options = ChannelOptions {
        loops: Some(loops),
        ..ChannelOptions::default()
    };
    let channel = RpcChannel::with_options(server.addr(), options);
    for _ in 0..20 {
        let calls: Vec<_> = (0..1_000)
            .map(|i| begin(&channel, &SAY, RpcController::new(), vec![7; i % 100]))
            .collect();
        for call in &calls {
            end(call).unwrap();
        }
        assert_eq!(channel.in_flight(), 0);
    }
}
