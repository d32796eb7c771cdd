//! Handlers learn that nobody waits for them any more, and interceptors see every call.

#![allow(clippy::unwrap_used, reason = "in tests a panic is the report")]

mod common;
mod server_side;

use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use common::*;
use rpc::{
    CallOutcome, Code, ProviderOptions, RpcContext, RpcController, RpcError, ServerInterceptor,
    TraceContext,
};
use server_side::*;

fn hold(request_id: u64) -> Vec<u8> {
    spring("Hold", request_id, "x", Extra::default())
}

/// Where a call's cancellation is told, with the thread that tells it.
fn told(context: &RpcContext) -> Receiver<String> {
    let (sender, told) = channel();
    context.on_cancel(move || {
        let name = thread::current().name().unwrap_or_default().to_owned();
        sender.send(name).unwrap();
    });
    told
}

#[test]
fn a_cancelled_call_tells_its_handler_and_is_answered_all_the_same() {
    let server = serve_spring(one_thread());
    let mut socket = server.socket();
    socket.send(&[hold(1), hold(2)].concat());
    let (first, second) = (server.next_held(), server.next_held());
    let (first_told, second_told) = (told(&first.context), told(&second.context));
    assert!(!first.context.is_canceled());
    socket.send(&control(CANCEL, 1, 0));
    let thread = first_told.recv_timeout(LONG).unwrap();
    assert!(thread.starts_with("rpc-server"), "on {thread}");
    assert!(first.context.is_canceled());
    assert!(!second.context.is_canceled(), "it is another call");
    first.echo();
    assert_eq!(receive_frame(&mut socket).request_id, 1);
    second.echo();
    assert_eq!(receive_frame(&mut socket).request_id, 2);
    let unused = second_told.recv_timeout(LONG).unwrap_err();
    assert_eq!(unused, RecvTimeoutError::Disconnected);
}

#[test]
fn a_cancellation_is_remembered_until_somebody_asks() {
    let server = serve_spring(one_thread());
    let mut socket = server.socket();
    socket.send(&[hold(1), control(CANCEL, 1, 0)].concat());
    until_pong(&mut socket);
    let held = server.next_held();
    let thread = told(&held.context).try_recv().expect("at once");
    assert_eq!(thread, thread::current().name().unwrap_or_default());
    assert!(held.context.is_canceled());
}

/// A client may count from the beginning again, as long as the earlier call was answered.
#[test]
fn what_was_said_of_an_answered_call_does_not_concern_the_next_one_with_its_id() {
    let server = serve_spring(one_thread());
    let mut socket = server.socket();
    socket.send(&[hold(9), hold(1)].concat());
    let other = server.next_held();
    server.next_held().echo();
    assert_eq!(receive_frame(&mut socket).request_id, 1);
    socket.send(&[control(CANCEL, 1, 0), hold(1)].concat());
    until_pong(&mut socket);
    let held = server.next_held();
    assert!(!held.context.is_canceled());
    drop((other, held));
}

#[test]
fn a_passed_deadline_tells_the_handler() {
    let server = serve_spring(one_thread());
    let mut socket = server.socket();
    for (request_id, timeout_ms) in [(1, 60_000), (2, 50)] {
        let extra = Extra {
            timeout_ms,
            ..Extra::default()
        };
        socket.send(&spring("Hold", request_id, "x", extra));
    }
    let (long, short) = (server.next_held(), server.next_held());
    let (long_told, short_told) = (told(&long.context), told(&short.context));
    short_told.recv_timeout(LONG).unwrap();
    assert!(short.context.is_canceled());
    assert_eq!(short.context.time_left(), Some(Duration::ZERO));
    assert!(!long.context.is_canceled());
    assert!(long.context.time_left().unwrap() > Duration::from_secs(20));
    assert!(long_told.try_recv().is_err());
}

#[test]
fn the_end_of_the_connection_tells_the_handler() {
    let server = serve_spring(one_thread());
    // Closed with all that it received read, so that its end looks like half of one; and reset.
    for unread in [false, true] {
        let mut socket = server.socket();
        socket.send(&hold(1));
        let held = server.next_held();
        let told = told(&held.context);
        if unread {
            socket.send(&control(PING, 5, 0));
            socket.stream.peek(&mut [0]).unwrap();
        }
        assert!(!held.context.is_canceled());
        drop(socket);
        told.recv_timeout(LONG).unwrap();
        assert!(held.context.is_canceled());
        held.echo();
    }
}

#[test]
fn nothing_is_told_after_the_answer() {
    let server = serve_spring(one_thread());
    let mut socket = server.socket();
    socket.send(&hold(1));
    let held = server.next_held();
    let context = held.context.clone();
    let told = told(&context);
    held.echo();
    assert_eq!(receive_frame(&mut socket).request_id, 1);
    socket.send(&control(CANCEL, 1, 0));
    until_pong(&mut socket);
    assert_eq!(told.recv().unwrap_err(), std::sync::mpsc::RecvError);
    context.on_cancel(|| panic!("the call was answered"));
    assert!(!context.is_canceled());
}

#[test]
fn a_callback_that_panics_costs_nobody_anything() {
    let server = serve_spring(one_thread());
    let mut socket = server.socket();
    socket.send(&hold(1));
    let held = server.next_held();
    held.context
        .on_cancel(|| panic!("a callback that panics (expected in this test)"));
    let told = told(&held.context);
    socket.send(&control(CANCEL, 1, 0));
    told.recv_timeout(LONG).unwrap();
    held.echo();
    assert_eq!(receive_frame(&mut socket).request_id, 1);
}

#[test]
fn a_nested_call_has_the_deadline_and_the_trace_of_the_one_it_serves() {
    let (front, back) = (serve_spring(one_thread()), serve());
    let channel = back.channel();
    let mut socket = front.socket();
    let extra = Extra {
        timeout_ms: 60_000,
        traceparent: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ..Extra::default()
    };
    socket.send(&spring("Hold", 1, "x", extra));
    let outer = front.next_held().context;
    let controller = RpcController::within(&outer);
    let nested = begin(&channel, &HOLD, controller, "x");
    let inner = back.held.recv_timeout(LONG).unwrap();
    let left = inner.context.time_left().unwrap();
    // Far from the channel's default.
    let minute = Duration::from_mins(1);
    assert!(left > minute / 2 && left <= minute, "{left:?}");
    let (outer, trace) = (outer.trace().unwrap(), *inner.context.trace().unwrap());
    assert_eq!(trace.trace_id(), outer.trace_id());
    assert_ne!(trace.span_id(), outer.span_id(), "it is a span of its own");
    inner.echo();
    end(&nested).unwrap();
}

#[test]
fn a_nested_call_is_cancelled_with_the_one_it_serves() {
    let (front, back) = (serve_spring(one_thread()), serve());
    let channel = back.channel();
    let mut socket = front.socket();
    socket.send(&hold(1));
    let held = front.next_held();
    let controller = RpcController::within(&held.context);
    controller.set_timeout(LONG);
    let nested = begin(&channel, &HOLD, controller, "x");
    let inner = back.held.recv_timeout(LONG).unwrap();
    let inner_told = told(&inner.context);
    socket.send(&control(CANCEL, 1, 0));
    assert_eq!(end(&nested).unwrap_err().code(), Code::Cancelled);
    inner_told
        .recv_timeout(LONG)
        .expect("the second server is told as well");
}

#[test]
fn a_local_call_is_cancelled_by_its_deadline() {
    let context = RpcContext::local("Echo", "Say");
    assert!(!context.is_canceled());
    let context = context.with_deadline(Some(Instant::now()));
    assert!(context.is_canceled());
    told(&context).try_recv().expect("at once");
}

// ---- interceptors

/// Writes down what it sees; refuses a call whose metadata says so.
struct Diary {
    name: &'static str,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Diary {
    fn write(&self, line: String) {
        self.lines.lock().unwrap().push(line);
    }
}

impl ServerInterceptor for Diary {
    fn before(&self, context: &mut RpcContext) -> Result<(), RpcError> {
        self.write(format!("{} before {}", self.name, context.method()));
        if context.metadata().get_str("refuse") == Some(self.name) {
            return Err(RpcError::new(Code::PermissionDenied, "as asked"));
        }
        assert_ne!(
            context.metadata().get_str("panic"),
            Some(self.name),
            "expected in this test"
        );
        context.set_metadata(self.name, "was here");
        context.add_reply_metadata(self.name, "was here");
        Ok(())
    }

    fn after(&self, context: &RpcContext, outcome: &CallOutcome<'_>) {
        let error = outcome.error.map(RpcError::code);
        let (request_bytes, reply_bytes) = (outcome.request_bytes, outcome.reply_bytes);
        assert_eq!(context.metadata().get_str(self.name), Some("was here"));
        context.add_reply_metadata("last", self.name);
        self.write(format!(
            "{} after {error:?} {request_bytes} {reply_bytes} {}",
            self.name, outcome.items
        ));
    }
}

fn with_diaries() -> (SpringServer, Arc<Mutex<Vec<String>>>) {
    let lines = Arc::new(Mutex::new(Vec::new()));
    let diary = |name| {
        let lines = Arc::clone(&lines);
        Arc::new(Diary { name, lines }) as Arc<dyn ServerInterceptor>
    };
    let interceptors = vec![diary("outer"), diary("inner")];
    let server = serve_spring(ProviderOptions {
        interceptors,
        ..one_thread()
    });
    (server, lines)
}

#[test]
fn interceptors_see_every_call_in_order_and_its_end_in_reverse() {
    let (server, lines) = with_diaries();
    let mut socket = server.socket();
    let extra = Extra {
        metadata: &[("tenant", "blue")],
        traceparent: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ..Extra::default()
    };
    socket.send(&spring("Hold", 1, "abc", extra));
    let held = server.next_held();
    let metadata = held.context.metadata();
    assert_eq!(metadata.get_str("tenant"), Some("blue"));
    assert_eq!(metadata.get_str("inner"), Some("was here"));
    assert_eq!(
        held.context.trace(),
        TraceContext::parse(extra.traceparent).as_ref()
    );
    assert_eq!(held.context.request_bytes(), 5);
    held.context.add_reply_metadata("cost", "3");
    held.echo();
    let reply = receive_frame(&mut socket);
    let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    assert_eq!(
        reply.metadata,
        [
            pair("outer", "was here"),
            pair("inner", "was here"),
            pair("cost", "3"),
            pair("last", "outer"),
        ]
    );
    let seen = std::mem::take(&mut *lines.lock().unwrap());
    assert_eq!(
        seen,
        [
            "outer before Hold",
            "inner before Hold",
            "inner after None 5 5 0",
            "outer after None 5 5 0",
        ]
    );

    socket.send(&pour(2, 0));
    let stream = server.next_stream().sender;
    stream.send(&blob("12")).unwrap();
    stream.send(&blob("345")).unwrap();
    stream.fail(RpcError::new(Code::NotFound, "no more"));
    while receive_frame(&mut socket).kind == kind::ITEM {}
    let seen = std::mem::take(&mut *lines.lock().unwrap());
    assert_eq!(seen[3], "outer after Some(NotFound) 0 9 2", "{seen:?}");
}

#[test]
fn an_interceptor_refuses_a_call_that_no_handler_sees() {
    let (server, lines) = with_diaries();
    let mut socket = server.socket();
    for (key, code) in [
        ("refuse", Code::PermissionDenied),
        ("panic", Code::Internal),
    ] {
        let extra = Extra {
            metadata: &[(key, "inner")],
            ..Extra::default()
        };
        for method in ["Hold", "Pour"] {
            socket.send(&spring(method, 1, "x", extra));
            let reply = receive_frame(&mut socket);
            assert!(reply.is(code) && reply.refused, "{reply:?}");
            let seen = std::mem::take(&mut *lines.lock().unwrap());
            assert_eq!(seen.len(), 3, "{seen:?}");
            assert!(seen[2].starts_with("outer after Some("), "{seen:?}");
        }
    }
    assert!(server.held.try_recv().is_err());
    assert!(server.streams.try_recv().is_err());
}

#[test]
fn metadata_that_no_header_can_take_fails_the_call() {
    let server = serve_spring(one_thread());
    let mut socket = server.socket();
    let too_large = [("large".to_owned(), vec![b'x'; 40_000])];
    let too_many: Vec<_> = (0..129).map(|key| (key.to_string(), Vec::new())).collect();
    for metadata in [&too_large[..], &too_many] {
        socket.send(&hold(1));
        let held = server.next_held();
        for (key, value) in metadata {
            held.context.add_reply_metadata(key.clone(), value.clone());
        }
        held.echo();
        let reply = receive_frame(&mut socket);
        assert!(reply.is(Code::ResourceExhausted), "{reply:?}");
        assert!(reply.error_text.contains("metadata"), "{reply:?}");
    }
}
