//! Streams as a server sends them: in order, no faster than they are taken, one beside the other.

#![allow(clippy::unwrap_used, reason = "in tests a panic is the report")]
#![allow(clippy::cast_possible_truncation, reason = "test data")]

mod common;
mod server_side;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

use common::*;
use rpc::{
    ChannelOptions, Code, EventLoops, Limits, ProviderOptions, RpcController, RpcError, StreamError,
};
use server_side::*;

/// What `Blob` adds to its data, up to 127 bytes of it.
const BLOB_BYTES: u64 = 2;

/// What an item of `bytes` of data costs.
fn cost(bytes: u64) -> u64 {
    16 + BLOB_BYTES + bytes
}

#[test]
fn items_arrive_in_order_and_then_the_end() {
    let server = serve_spring(one_thread());
    let mut socket = server.socket();
    socket.send(&pour(7, 0));
    let stream = server.next_stream();
    for item in 0..100u8 {
        stream.sender.send(&blob([item])).unwrap();
    }
    stream.context.add_reply_metadata("items", "100");
    stream.sender.finish();
    for item in 0..100u8 {
        let frame = receive_frame(&mut socket);
        assert_eq!((frame.kind, frame.request_id), (kind::ITEM, 7));
        assert_eq!(frame.data(), [item][..]);
    }
    let end = receive_frame(&mut socket);
    assert_eq!((end.kind, end.request_id, end.code), (kind::REPLY, 7, 0));
    assert!(end.body.is_empty());
    assert_eq!(end.metadata, [("items".to_owned(), "100".to_owned())]);
    assert_eq!(server.handle.running_calls(), 0);
}

#[test]
fn a_sender_stops_at_its_credit_and_goes_on_with_more() {
    let server = serve_spring(one_thread());
    let mut socket = server.socket();
    // Two items, and one byte for a third that overdraws it.
    socket.send(&pour(1, 2 * cost(5) + 1));
    let sender = Arc::new(server.next_stream().sender);
    for _ in 0..3 {
        sender.try_send(&blob("12345")).unwrap();
    }
    let would_block = sender.try_send(&blob("12345")).unwrap_err();
    assert_eq!(would_block, StreamError::WouldBlock);
    let (ready, told) = channel();
    let inner = Arc::clone(&sender);
    sender.on_ready(move || ready.send(inner.try_send(&blob("told"))).unwrap());
    for _ in 0..3 {
        assert_eq!(receive_frame(&mut socket).data(), "12345");
    }
    // Not enough: the debt is not paid.
    socket.send(&control(CREDIT, 1, cost(5) - 1));
    assert_eq!(until_pong(&mut socket), []);
    assert!(told.try_recv().is_err());
    socket.send(&control(CREDIT, 1, 1));
    assert_eq!(told.recv_timeout(LONG).unwrap(), Ok(()));
    assert_eq!(receive_frame(&mut socket).data(), "told");

    // The blocking form waits for the same.
    let blocked = Arc::clone(&sender);
    let thread = thread::spawn(move || blocked.send(&blob("waited")));
    assert_eq!(until_pong(&mut socket), []);
    socket.send(&control(CREDIT, 1, cost(10)));
    thread.join().unwrap().unwrap();
    assert_eq!(receive_frame(&mut socket).data(), "waited");
}

#[test]
fn a_caller_that_brings_no_credit_gets_64_kib() {
    let server = serve_spring(one_thread());
    let mut socket = server.socket();
    socket.send(&pour(1, 0));
    let stream = server.next_stream();
    let mut items = 0;
    while stream.sender.try_send(&blob([7; 100])).is_ok() {
        items += 1;
    }
    assert_eq!(items, (64 << 10) / cost(100) + 1);
}

/// The id of a call under way is not the caller's to use again, and what comes of it if it is must
/// not be ours to bear.
#[test]
fn a_unary_call_with_a_streams_id_leaves_the_stream_its_end() {
    let server = serve_spring(one_thread());
    let mut socket = server.socket();
    socket.send(&pour(5, 1));
    let stream = server.next_stream();
    let (told_cancel, told) = channel();
    stream
        .context
        .on_cancel(move || told_cancel.send(()).unwrap());
    stream.sender.send(&blob("only one")).unwrap();
    let (ended, end) = channel();
    thread::spawn(move || ended.send(stream.sender.send(&blob("another"))).unwrap());
    assert_eq!(receive_frame(&mut socket).data(), "only one");
    socket.send(&spring("Hold", 5, "x", Extra::default()));
    let held = server.next_held();
    assert!(!held.context.is_canceled());
    held.echo();
    assert_eq!(receive_frame(&mut socket).data(), "x");
    drop(socket);
    let end = end.recv_timeout(LONG).expect("the stream is closed");
    assert!(matches!(end, Err(StreamError::Closed(_))), "{end:?}");
    told.recv_timeout(LONG).expect("the handler is told");
}

/// It would hold the thread of its handler for ever.
#[test]
fn a_caller_that_takes_no_item_for_too_long_has_its_stream_ended() {
    let server = serve_spring(ProviderOptions {
        stream_stall_timeout: Duration::from_millis(50),
        ..one_thread()
    });
    let mut socket = server.socket();
    socket.send(&[pour(1, 1), pour(2, 1 << 20)].concat());
    let (stream, other) = (server.next_stream(), server.next_stream());
    stream.sender.send(&blob("only one")).unwrap();
    let (ended, end) = channel();
    thread::spawn(move || {
        ended.send(stream.sender.send(&blob("another"))).unwrap();
        stream.sender.finish();
    });
    assert_eq!(receive_frame(&mut socket).data(), "only one");
    let end = end.recv_timeout(LONG).expect("it does not wait for ever");
    let Err(StreamError::Closed(error)) = end else {
        panic!("{end:?}");
    };
    assert_eq!(error.code(), Code::ResourceExhausted);
    // Not OK: items are missing.
    let reply = receive_frame(&mut socket);
    assert_eq!((reply.kind, reply.request_id), (kind::REPLY, 1));
    assert!(reply.is(Code::ResourceExhausted), "{reply:?}");
    assert!(
        reply.error_text.contains("stream_stall_timeout"),
        "{reply:?}"
    );
    other.sender.send(&blob("the other goes on")).unwrap();
    assert_eq!(receive_frame(&mut socket).data(), "the other goes on");
}

#[test]
fn a_stream_that_waits_holds_up_nothing_else() {
    let server = serve_spring(one_thread());
    let mut socket = server.socket();
    socket.send(&[pour(1, 1), pour(2, 1 << 20)].concat());
    let (slow, fast) = (server.next_stream(), server.next_stream());
    slow.sender.send(&blob("only one")).unwrap();
    let blocked = thread::spawn(move || slow.sender.send(&blob("another")));
    assert_eq!(receive_frame(&mut socket).data(), "only one");
    for item in 0..200u8 {
        fast.sender.send(&blob([item; 50])).unwrap();
        socket.send(&spring(
            "Say",
            1_000 + u64::from(item),
            "x",
            Extra::default(),
        ));
        let mut frames = [receive_frame(&mut socket), receive_frame(&mut socket)];
        frames.sort_by_key(|frame| frame.request_id);
        assert_eq!(frames[0].data(), [item; 50][..]);
        assert_eq!(frames[1].data(), "x");
    }
    assert!(!blocked.is_finished());
    socket.send(&control(CREDIT, 1, 1 << 10));
    blocked.join().unwrap().unwrap();
    assert_eq!(receive_frame(&mut socket).data(), "another");
}

/// Credit is no reason to hold what the connection does not take.
#[test]
fn a_stream_does_not_outrun_a_connection_that_is_not_read() {
    const ITEM_BYTES: usize = 60 << 10;
    let limits = Limits {
        max_unsent_bytes: 1 << 20,
        ..Limits::default()
    };
    let server = serve_spring(ProviderOptions {
        limits,
        ..one_thread()
    });
    let mut socket = server.socket();
    socket.send(&pour(1, u64::from(u32::MAX)));
    let stream = server.next_stream();
    let sent = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&sent);
    let items = 1_500;
    let sender = thread::spawn(move || {
        for item in 0..items {
            stream
                .sender
                .send(&blob(vec![item as u8; ITEM_BYTES]))
                .unwrap();
            counter.fetch_add(1, Ordering::Relaxed);
        }
        stream.sender.finish();
    });
    // It has stopped when nothing moves while others are served, again and again.
    let mut before = usize::MAX;
    let mut quiet = 0;
    while quiet < 20 {
        let mut other = server.socket();
        until_pong(&mut other);
        thread::sleep(Duration::from_millis(5));
        let now = sent.load(Ordering::Relaxed);
        quiet = if now == before { quiet + 1 } else { 0 };
        before = now;
    }
    // The sockets' buffers have the rest.
    assert!(before < items / 2, "{before} of {items} items were taken");
    for item in 0..items {
        let frame = receive_frame(&mut socket);
        assert_eq!((frame.kind, frame.body.len()), (kind::ITEM, ITEM_BYTES + 4));
        assert!(
            frame.data().iter().all(|&byte| byte == item as u8),
            "item {item}"
        );
    }
    assert_eq!(receive_frame(&mut socket).kind, kind::REPLY);
    sender.join().unwrap();
}

/// A stream without credit. When it gets some, the loop's thread waits until it is let go on.
struct Gate {
    socket: Socket,
    /// Told when the loop's thread waits.
    entered: Receiver<()>,
    open: Sender<()>,
    _stream: Stream,
}

fn gate(server: &SpringServer) -> Gate {
    let mut socket = server.socket();
    socket.send(&pour(1, 1));
    let stream = server.next_stream();
    stream.sender.try_send(&blob("x")).unwrap();
    assert_eq!(
        stream.sender.try_send(&blob("x")),
        Err(StreamError::WouldBlock)
    );
    let (enter, entered) = channel();
    let (open, opened) = channel();
    stream.sender.on_ready(move || {
        enter.send(()).unwrap();
        // An error: the test has ended.
        let _ = opened.recv();
    });
    Gate {
        socket,
        entered,
        open,
        _stream: stream,
    }
}

/// The socket takes all again just when a frame is looked at, before the system reports that it
/// would. When it does, there is nothing left to be written.
#[test]
fn a_stream_goes_on_when_its_items_were_written_on_the_way_to_a_frame() {
    const ITEM_BYTES: usize = 60 << 10;
    let limits = Limits {
        max_unsent_bytes: 64 << 10,
        ..Limits::default()
    };
    let server = serve_spring(ProviderOptions {
        limits,
        ..one_thread()
    });
    let mut socket = server.socket();
    socket.send(&pour(1, u64::from(u32::MAX)));
    let stream = server.next_stream();
    let item = blob(vec![7; ITEM_BYTES]);
    let (mut items, mut refused) = (0, 0);
    let mut other = server.socket();
    while refused < 20 {
        match stream.sender.try_send(&item) {
            Ok(()) => (items, refused) = (items + 1, 0),
            Err(error) => {
                assert_eq!(error, StreamError::WouldBlock);
                refused += 1;
            }
        }
        until_pong(&mut other);
    }
    assert!(items > 8, "{items} items fill a socket");
    let (goes_on, has_gone_on) = channel();
    stream.sender.on_ready(move || goes_on.send(()).unwrap());

    // The loop learns of both frames at once, and comes to ours when the socket is empty.
    let (mut first, mut second) = (gate(&server), gate(&server));
    first.socket.send(&control(CREDIT, 1, 100));
    first.entered.recv_timeout(LONG).unwrap();
    second.socket.send(&control(CREDIT, 1, 100));
    socket.send(&control(CREDIT, 99, 1));
    first.open.send(()).unwrap();
    second.entered.recv_timeout(LONG).unwrap();
    for _ in 0..items - 4 {
        receive_frame(&mut socket);
    }
    second.open.send(()).unwrap();
    has_gone_on
        .recv_timeout(LONG)
        .expect("the stream hears that there is room");
    for _ in 0..4 {
        receive_frame(&mut socket);
    }
}

#[test]
fn whoever_waits_learns_why_the_stream_ended() {
    let server = serve_spring(one_thread());
    let mut socket = server.socket();
    let begin = |socket: &mut Socket, timeout_ms| {
        let extra = Extra {
            timeout_ms,
            credit: 1,
            ..Extra::default()
        };
        socket.send(&spring("Pour", 1, "", extra));
        let stream = server.next_stream();
        stream.sender.send(&blob("first")).unwrap();
        assert_eq!(receive_frame(socket).data(), "first");
        thread::spawn(move || {
            let error = stream.sender.send(&blob("second")).unwrap_err();
            assert!(stream.sender.is_closed() && stream.context.is_canceled());
            let (ready, told) = channel();
            stream.sender.on_ready(move || ready.send(()).unwrap());
            told.try_recv().expect("at once");
            stream.sender.finish();
            match error {
                StreamError::Closed(error) => error.code(),
                other => panic!("{other}"),
            }
        })
    };
    let waiting = begin(&mut socket, 0);
    socket.send(&control(CANCEL, 1, 0));
    assert_eq!(waiting.join().unwrap(), Code::Cancelled);
    assert_eq!(receive_frame(&mut socket).kind, kind::REPLY);

    let waiting = begin(&mut socket, 1_000);
    assert_eq!(waiting.join().unwrap(), Code::DeadlineExceeded);
    assert_eq!(receive_frame(&mut socket).kind, kind::REPLY);

    let waiting = begin(&mut socket, 0);
    drop(socket);
    assert_eq!(waiting.join().unwrap(), Code::Unavailable);
}

/// What was sent on another thread waits in a mailbox that the loop's own thread does not need.
#[test]
fn what_is_sent_on_two_threads_one_after_the_other_keeps_its_order() {
    let loops = EventLoops::start(1, "node").unwrap();
    let server = serve_spring(ProviderOptions {
        loops: Some(loops.clone()),
        ..ProviderOptions::default()
    });
    let echo = serve();
    let on_loop = rpc::RpcChannel::with_options(
        echo.addr(),
        ChannelOptions {
            loops: Some(loops),
            ..ChannelOptions::default()
        },
    );
    let mut socket = server.socket();
    socket.send(&pour(1, 0));
    let sender = Arc::new(server.next_stream().sender);
    let ours = Arc::clone(&sender);
    let (busy_to, busy) = channel();
    let (go_on, gate) = channel();
    let controller = RpcController::with_timeout(LONG);
    on_loop.call_async(&SAY, controller, &blob("x"), move |result| {
        let _: Blob = result.unwrap();
        busy_to.send(()).unwrap();
        gate.recv_timeout(LONG).unwrap();
        sender.send(&blob("on the loop")).unwrap();
        Arc::into_inner(sender).unwrap().finish();
    });
    busy.recv_timeout(LONG).unwrap();
    for item in 0..10u8 {
        ours.send(&blob([item])).unwrap();
    }
    drop(ours);
    go_on.send(()).unwrap();
    for item in 0..10u8 {
        assert_eq!(receive_frame(&mut socket).data(), [item][..]);
    }
    assert_eq!(receive_frame(&mut socket).data(), "on the loop");
    assert_eq!(receive_frame(&mut socket).kind, kind::REPLY);
}

#[test]
fn on_an_event_loops_thread_sending_does_not_wait() {
    let server = serve_spring(one_thread());
    let mut socket = server.socket();
    let extra = Extra {
        credit: 9 * cost(1) + 1,
        ..Extra::default()
    };
    socket.send(&spring("Burst", 1, "", extra));
    for item in 0..10u8 {
        assert_eq!(receive_frame(&mut socket).data(), [item][..]);
    }
    let end = receive_frame(&mut socket);
    assert!(end.is(Code::NotFound) && !end.refused, "{end:?}");
    assert_eq!(end.error_text, "10");
}

#[test]
fn a_stream_that_is_forgotten_or_fails_ends_with_a_failure() {
    let server = serve_spring(one_thread());
    let mut socket = server.socket();
    socket.send(&[pour(1, 0), pour(2, 0)].concat());
    let (first, second) = (server.next_stream(), server.next_stream());
    first.sender.send(&blob("one")).unwrap();
    drop(first);
    assert_eq!(receive_frame(&mut socket).data(), "one");
    let end = receive_frame(&mut socket);
    assert!(end.is(Code::Internal) && end.request_id == 1, "{end:?}");
    second
        .sender
        .refuse(RpcError::new(Code::InvalidArgument, "not like that"));
    let end = receive_frame(&mut socket);
    assert!(end.is(Code::InvalidArgument) && end.refused, "{end:?}");
}

#[test]
fn an_item_over_the_limit_costs_itself_only() {
    let limits = Limits {
        max_body_bytes: 1_000,
        ..Limits::default()
    };
    let server = serve_spring(ProviderOptions {
        limits,
        ..one_thread()
    });
    let mut socket = server.socket();
    socket.send(&pour(1, 0));
    let stream = server.next_stream();
    let error = stream.sender.send(&blob([7; 1_000])).unwrap_err();
    assert_eq!(
        error,
        StreamError::TooLarge {
            len: 1_003,
            limit: 1_000
        }
    );
    assert!(error.to_string().contains("max_body_bytes"), "{error}");
    stream.sender.send(&blob("small")).unwrap();
    assert_eq!(receive_frame(&mut socket).data(), "small");
}

#[test]
fn a_handler_that_takes_one_kind_of_method_for_the_other_fails_its_call_alone() {
    let server = serve_spring(one_thread());
    let mut socket = server.socket();
    for (request_id, method) in [(1, "Mixed"), (2, "Odd")] {
        socket.send(&spring(method, request_id, "x", Extra::default()));
        let end = receive_frame(&mut socket);
        assert_eq!((end.request_id, end.kind), (request_id, kind::REPLY));
        assert!(end.is(Code::Internal), "{end:?}");
        assert!(end.error_text.contains("streaming"), "{end:?}");
    }
    socket.send(&spring("Say", 3, "x", Extra::default()));
    assert_eq!(receive_frame(&mut socket).data(), "x");
}

#[test]
fn a_legacy_caller_of_a_streaming_method_is_disconnected() {
    let server = serve_spring(one_thread());
    let mut socket = server.socket();
    socket.send(&pour(0, 0));
    assert_eq!(socket.receive_until_closed(), b"");
    assert!(server.streams.try_recv().is_err());
}

#[test]
fn an_id_that_streams_already_is_refused() {
    let server = serve_spring(one_thread());
    let mut socket = server.socket();
    socket.send(&[pour(1, 0), pour(1, 0)].concat());
    let refused = receive_frame(&mut socket);
    assert!(
        refused.is(Code::InvalidArgument) && refused.refused,
        "{refused:?}"
    );
    server.next_stream().sender.finish();
    assert_eq!(receive_frame(&mut socket).code, 0);
}

#[test]
fn words_about_calls_that_do_not_exist_and_frames_from_the_future_are_skipped() {
    let server = serve_spring(one_thread());
    let mut socket = server.socket();
    let unknown_kind = Extra {
        kind: 42,
        ..Extra::default()
    };
    socket.send(
        &[
            spring("Say", 1, "a body", unknown_kind),
            control(CREDIT, 2, 1 << 30),
            control(CANCEL, 3, 0),
            control(PONG, 4, 0),
        ]
        .concat(),
    );
    assert_eq!(until_pong(&mut socket), []);
    socket.send(&spring("Say", 2, "x", Extra::default()));
    assert_eq!(receive_frame(&mut socket).data(), "x");
    // Credit beyond all bounds, again and again.
    socket.send(&pour(3, u64::from(u32::MAX)));
    let stream = server.next_stream();
    for _ in 0..100 {
        socket.send(&control(CREDIT, 3, u64::from(u32::MAX)));
    }
    assert_eq!(until_pong(&mut socket), []);
    stream.sender.send(&blob("still fine")).unwrap();
    assert_eq!(receive_frame(&mut socket).data(), "still fine");
}
