//! The client's half of streams, cancellation, metadata and keepalive, against a server that the
//! test plays by hand.

#![allow(clippy::unwrap_used, reason = "in tests a panic is the report")]

mod by_hand;
mod common;

use std::io::Write;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use by_hand::*;
use bytes::Bytes;
use common::{Blob, LONG, SAY, begin, blob, channel_to, end, say};
use prost::Message;
use rpc::{
    CallOutcome, ChannelOptions, ClientInterceptor, Code, FinishedCall, Keepalive, Limits,
    MethodDescriptor, OutgoingCall, RpcChannel, RpcController, RpcError, RpcStream, TraceContext,
};

const SHORT: Duration = Duration::from_millis(30);

static LIST: MethodDescriptor = MethodDescriptor {
    service: "Echo",
    method: "List",
};

fn patient() -> RpcController {
    RpcController::with_timeout(LONG)
}

/// A channel to a server played by hand whose streams have a window of 1000 bytes.
fn channel_with_window(server: &ByHand) -> RpcChannel {
    let options = ChannelOptions {
        stream_credit_bytes: 1000,
        ..ChannelOptions::default()
    };
    channel_to(server.addr, options)
}

fn open(channel: &RpcChannel) -> RpcStream<Blob> {
    let mut controller = RpcController::new();
    let stream = channel.open_stream(&LIST, &mut controller, &blob("all"));
    stream.unwrap()
}

// ---- cancellation

#[test]
fn a_cancelled_call_is_cancelled_at_the_server() {
    let server = ByHand::listen();
    let channel = channel_to(server.addr, ChannelOptions::default());
    let controller = patient();
    let call = begin(&channel, &SAY, controller.clone(), "x");
    let mut link = server.accept();
    let id = link.next_call().id;
    controller.start_cancel();
    link.expect(CANCEL, id);
    let error = end(&call).unwrap_err();
    assert_eq!(
        (error.code(), error.may_have_executed()),
        (Code::Cancelled, true)
    );
    // The reply may be on its way already.
    link.reply(id, "late");
    let next = begin(&channel, &SAY, patient(), "y");
    let id = link.next_call().id;
    link.reply(id, "in time");
    assert_eq!(end(&next).unwrap().data, "in time");
}

#[test]
fn a_call_whose_deadline_passes_is_cancelled_at_the_server() {
    let server = ByHand::listen();
    let channel = channel_to(server.addr, ChannelOptions::default());
    let call = begin(&channel, &SAY, RpcController::with_timeout(SHORT), "x");
    let mut link = server.accept();
    let request = link.next_call();
    assert!((1..=30).contains(&request.timeout_ms));
    link.expect(CANCEL, request.id);
    assert_eq!(end(&call).unwrap_err().code(), Code::DeadlineExceeded);
}

#[test]
fn the_earlier_of_timeout_and_deadline_holds_and_a_past_one_sends_nothing() {
    let server = ByHand::listen();
    let channel = channel_to(server.addr, ChannelOptions::default());
    let controller = patient();
    controller.set_deadline(Instant::now() + Duration::from_secs(5));
    let call = begin(&channel, &SAY, controller.clone(), "x");
    let mut link = server.accept();
    let request = link.next_call();
    assert!((1..=5_000).contains(&request.timeout_ms), "{request:?}");
    link.reply(request.id, "x");
    end(&call).unwrap();

    controller.set_deadline(Instant::now());
    let call = begin(&channel, &SAY, controller.clone(), "x");
    let error = call.try_recv().expect("it ends at once").unwrap_err();
    assert_eq!(
        (error.code(), error.may_have_executed()),
        (Code::DeadlineExceeded, false)
    );
    assert!(controller.failed());
}

// ---- what travels with a call

#[test]
fn metadata_and_trace_travel_and_the_replys_metadata_comes_back() {
    let server = ByHand::listen();
    let channel = channel_to(server.addr, ChannelOptions::default());
    let controller = patient();
    let trace = TraceContext::new_root();
    controller.set_metadata("tenant", "blue");
    controller.set_trace(trace);
    let call = begin(&channel, &SAY, controller.clone(), "x");
    let mut link = server.accept();
    let request = link.next_call();
    assert_eq!(request.metadata, [entry("tenant", "blue")]);
    assert_eq!(request.traceparent, trace.to_string());
    let header = Reply {
        id: request.id,
        code: Code::NotFound.number(),
        metadata: vec![entry("hint", "elsewhere")],
        ..Reply::default()
    };
    link.send(header, &[]);
    assert_eq!(end(&call).unwrap_err().code(), Code::NotFound);
    assert_eq!(
        controller.reply_metadata().get_str("hint"),
        Some("elsewhere")
    );
    // What was set stays for the next call, what came back does not.
    let call = begin(&channel, &SAY, controller.clone(), "x");
    let request = link.next_call();
    assert_eq!(request.metadata, [entry("tenant", "blue")]);
    link.reply(request.id, "x");
    end(&call).unwrap();
    assert!(controller.reply_metadata().is_empty());
}

#[test]
fn metadata_over_the_limit_of_headers_is_certainly_not_sent() {
    let server = ByHand::listen();
    let options = ChannelOptions {
        limits: Limits {
            max_header_bytes: 100,
            ..Limits::default()
        },
        ..ChannelOptions::default()
    };
    let channel = channel_to(server.addr, options);
    let controller = patient();
    controller.set_metadata("tenant", vec![b'x'; 100]);
    let error = end(&begin(&channel, &SAY, controller, "x")).unwrap_err();
    assert_eq!(
        (error.code(), error.may_have_executed()),
        (Code::InvalidArgument, false)
    );
    assert!(error.text().contains("max_header_bytes"), "{error}");

    let channel = channel_to(server.addr, ChannelOptions::default());
    let controller = patient();
    for key in 0..129 {
        controller.set_metadata(key.to_string(), "");
    }
    let error = end(&begin(&channel, &SAY, controller, "x")).unwrap_err();
    assert_eq!(
        (error.code(), error.may_have_executed()),
        (Code::InvalidArgument, false)
    );
    assert!(error.text().contains("entries"), "{error}");
}

/// Writes down what it sees under a name.
struct Notes(&'static str, Arc<Mutex<Vec<String>>>);

impl ClientInterceptor for Notes {
    fn before(&self, call: &mut OutgoingCall<'_>) -> Result<(), RpcError> {
        let Notes(name, notes) = self;
        notes
            .lock()
            .unwrap()
            .push(format!("{name} before {}", call.attempt));
        call.metadata.insert(*name, "seen");
        *call.timeout = Some(Duration::from_secs(7));
        if call.metadata.get("forbidden").is_some() && *name == "second" {
            return Err(RpcError::new(Code::PermissionDenied, "forbidden"));
        }
        Ok(())
    }

    fn after(&self, call: &FinishedCall<'_>, outcome: &CallOutcome<'_>) {
        let Notes(name, notes) = self;
        let code = outcome.error.map_or(Code::Ok, RpcError::code);
        notes.lock().unwrap().push(format!(
            "{name} after {} {code} {}+{} items {} {:?}",
            call.method.method,
            outcome.request_bytes,
            outcome.reply_bytes,
            outcome.items,
            call.reply_metadata.get_str("hint"),
        ));
    }
}

#[test]
fn interceptors_run_around_calls_and_streams() {
    let server = ByHand::listen();
    let notes = Arc::new(Mutex::new(Vec::new()));
    let taken = || std::mem::take(&mut *notes.lock().unwrap());
    let interceptors: Vec<Arc<dyn ClientInterceptor>> = vec![
        Arc::new(Notes("first", Arc::clone(&notes))),
        Arc::new(Notes("second", Arc::clone(&notes))),
    ];
    let options = ChannelOptions {
        interceptors,
        ..ChannelOptions::default()
    };
    let channel = channel_to(server.addr, options);
    let call = begin(&channel, &SAY, patient(), "abc");
    assert_eq!(taken(), ["first before 1", "second before 1"]);
    let mut link = server.accept();
    let request = link.next_call();
    assert_eq!(
        request.metadata,
        [entry("first", "seen"), entry("second", "seen")]
    );
    assert!(request.timeout_ms <= 7_000);
    let header = Reply {
        id: request.id,
        metadata: vec![entry("hint", "h")],
        ..Reply::default()
    };
    link.send(header, &blob("abcd").encode_to_vec());
    assert_eq!(end(&call).unwrap().data, "abcd");
    assert_eq!(
        taken(),
        [
            "second after Say OK 5+6 items 0 Some(\"h\")",
            "first after Say OK 5+6 items 0 Some(\"h\")"
        ]
    );

    let controller = patient();
    controller.set_metadata("forbidden", "");
    let error = end(&begin(&channel, &SAY, controller, "abc")).unwrap_err();
    assert_eq!(error.code(), Code::PermissionDenied);
    assert_eq!(
        taken(),
        [
            "first before 1",
            "second before 1",
            "first after Say PERMISSION_DENIED 5+0 items 0 None"
        ]
    );

    let mut stream = open(&channel);
    let id = link.next_call().id;
    link.item(id, "one");
    link.item(id, "two");
    link.fail(id, Code::NotFound, false);
    assert_eq!(stream.next().unwrap().unwrap().data, "one");
    assert_eq!(stream.next().unwrap().unwrap().data, "two");
    assert_eq!(stream.next().unwrap().unwrap_err().code(), Code::NotFound);
    assert_eq!(
        taken()[2..],
        [
            "second after List NOT_FOUND 5+10 items 2 None",
            "first after List NOT_FOUND 5+10 items 2 None"
        ]
    );
}

/// What a subscriber of tests writes to.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn each_call_is_told_to_the_log() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing_subscriber::filter::LevelFilter::DEBUG)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    // The only one of this process: the event is written on the loop's thread.
    let _ = tracing_subscriber::util::SubscriberInitExt::try_init(subscriber);
    let server = ByHand::listen();
    let channel = channel_to(server.addr, ChannelOptions::default());
    let controller = patient();
    let trace = TraceContext::new_root();
    controller.set_trace(trace);
    let call = begin(&channel, &SAY, controller, "x");
    let mut link = server.accept();
    let id = link.next_call().id;
    link.fail(id, Code::NotFound, false);
    end(&call).unwrap_err();
    let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    let trace_id = format!("trace_id={:032x}", trace.trace_id());
    let of_call = text.lines().find(|line| line.contains(&trace_id));
    let of_call = of_call.unwrap_or_else(|| panic!("no line with {trace_id} in {text}"));
    let peer = format!("peer={}", server.addr);
    let span_id = format!("span_id={:016x}", trace.span_id());
    for part in [
        "rpc.client",
        &span_id,
        "service=\"Echo\"",
        "method=\"Say\"",
        &peer,
        "NOT_FOUND",
    ] {
        assert!(of_call.contains(part), "no {part} in {of_call}");
    }
}

#[test]
fn raw_bytes_are_sent_and_returned_as_they_are() {
    let server = ByHand::listen();
    let channel = channel_to(server.addr, ChannelOptions::default());
    let caller = channel.clone();
    let call = std::thread::spawn(move || {
        let args = Bytes::from_static(b"\xff not a message");
        caller.call_raw(&SAY, &mut patient(), args)
    });
    let mut link = server.accept();
    let (request, args) = link.try_next().unwrap();
    assert_eq!(args, &b"\xff not a message"[..]);
    let header = Reply {
        id: request.id,
        ..Reply::default()
    };
    link.send(header, b"\xfe neither");
    assert_eq!(call.join().unwrap().unwrap(), &b"\xfe neither"[..]);

    let mut stream = channel
        .open_stream_raw(&LIST, &mut patient(), Bytes::from_static(b"\xff"))
        .unwrap();
    let (request, args) = link.try_next().unwrap();
    assert_eq!(args, &b"\xff"[..]);
    let header = Reply {
        id: request.id,
        kind: ITEM,
        ..Reply::default()
    };
    link.send(header, b"\xfd");
    assert_eq!(stream.next().unwrap().unwrap(), &b"\xfd"[..]);
}

// ---- streams

#[test]
fn a_stream_yields_its_items_in_order_and_ends() {
    let server = ByHand::listen();
    let channel = channel_with_window(&server);
    let mut stream = open(&channel);
    let mut link = server.accept();
    let request = link.next_call();
    assert_eq!(
        (request.credit, request.timeout_ms),
        (1000, 0),
        "a stream has no default timeout"
    );
    for data in ["one", "two", "three"] {
        link.item(request.id, data);
    }
    let header = Reply {
        id: request.id,
        metadata: vec![entry("count", "3")],
        ..Reply::default()
    };
    link.send(header, &[]);
    for data in ["one", "two", "three"] {
        assert_eq!(stream.next().unwrap().unwrap().data, data);
    }
    assert!(stream.next().is_none() && stream.next().is_none());
    assert_eq!(channel.in_flight(), 0);
}

#[test]
fn a_failure_ends_a_stream_after_its_items() {
    let server = ByHand::listen();
    let channel = channel_with_window(&server);
    let mut controller = RpcController::new();
    let mut stream: RpcStream<Blob> = channel
        .open_stream(&LIST, &mut controller, &blob("all"))
        .unwrap();
    let mut link = server.accept();
    let id = link.next_call().id;
    link.item(id, "one");
    link.fail(id, Code::NotFound, false);
    assert_eq!(stream.next().unwrap().unwrap().data, "one");
    let error = stream.next().unwrap().unwrap_err();
    assert_eq!(
        (error.code(), error.text()),
        (Code::NotFound, "by hand: NOT_FOUND")
    );
    assert!(stream.next().is_none());
    assert_eq!(controller.error_code(), Code::NotFound);
}

/// Items of 84 bytes and 16: ten of them use up the window.
#[test]
fn credit_is_returned_when_half_the_window_was_consumed() {
    let server = ByHand::listen();
    let channel = channel_with_window(&server);
    let mut stream = open(&channel);
    let mut link = server.accept();
    let id = link.next_call().id;
    let mut in_window = 0;
    for round in 0..50 {
        while in_window < 10 {
            link.item(id, [7; 82]);
            in_window += 1;
        }
        for _ in 0..5 {
            assert_eq!(stream.next().unwrap().unwrap().data.len(), 82);
        }
        let credit = link.expect(CREDIT, id);
        assert_eq!(credit.credit, 500, "round {round}");
        in_window -= 5;
    }
    // The rest is less than half a window, so nothing but the cancel comes.
    for _ in 0..4 {
        stream.next().unwrap().unwrap();
    }
    drop(stream);
    link.expect(CANCEL, id);
}

#[test]
fn one_item_may_overdraw_the_window_and_its_credit_comes_back() {
    let server = ByHand::listen();
    let channel = channel_with_window(&server);
    let mut stream = open(&channel);
    let mut link = server.accept();
    let id = link.next_call().id;
    link.item(id, "x");
    link.item(id, vec![7; 100_000]);
    stream.next().unwrap().unwrap();
    assert_eq!(stream.next().unwrap().unwrap().data.len(), 100_000);
    let credit = link.expect(CREDIT, id).credit;
    assert_eq!(credit, 16 + 3 + 16 + 4 + 100_000);
    link.item(id, "y");
    assert_eq!(stream.next().unwrap().unwrap().data, "y");
}

#[test]
fn a_server_that_overdraws_by_more_than_an_item_ends_the_stream() {
    let server = ByHand::listen();
    let channel = channel_with_window(&server);
    let mut stream = open(&channel);
    let mut link = server.accept();
    let id = link.next_call().id;
    for _ in 0..10 {
        link.item(id, [7; 82]);
    }
    link.item(id, "over");
    link.expect(CANCEL, id);
    for _ in 0..10 {
        stream.next().unwrap().unwrap();
    }
    let error = stream.next().unwrap().unwrap_err();
    assert_eq!(error.code(), Code::Internal);
    assert!(error.text().contains("credit"), "{error}");
    assert!(stream.next().is_none());
    // It costs the connection nothing.
    let call = begin(&channel, &SAY, patient(), "x");
    let id = link.next_call().id;
    link.reply(id, "x");
    end(&call).unwrap();
}

#[test]
fn dropping_a_stream_cancels_it_before_and_after_its_first_item() {
    let server = ByHand::listen();
    let channel = channel_with_window(&server);
    let stream = open(&channel);
    let mut link = server.accept();
    let id = link.next_call().id;
    drop(stream);
    link.expect(CANCEL, id);

    let mut stream = open(&channel);
    let id = link.next_call().id;
    link.item(id, "one");
    stream.next().unwrap().unwrap();
    drop(stream);
    link.expect(CANCEL, id);

    let unread = open(&channel);
    let id = link.next_call().id;
    link.item(id, "unread");
    drop(unread);
    link.expect(CANCEL, id);
    // What was on its way is skipped, and an ended stream is not cancelled.
    link.item(id, "late");
    let mut ended = open(&channel);
    let id = link.next_call().id;
    link.reply(id, "");
    assert!(ended.next().is_none());
    drop(ended);
    let call = begin(&channel, &SAY, patient(), "x");
    let id = link.next_call().id;
    link.reply(id, "x");
    end(&call).unwrap();
    assert_eq!(channel.in_flight(), 0);
}

#[test]
fn a_stream_ends_by_its_deadline_or_its_controller() {
    let server = ByHand::listen();
    let channel = channel_with_window(&server);
    let mut controller = RpcController::with_timeout(SHORT);
    let mut stream: RpcStream<Blob> = channel
        .open_stream(&LIST, &mut controller, &blob("all"))
        .unwrap();
    let mut link = server.accept();
    let request = link.next_call();
    assert!(request.timeout_ms > 0);
    link.expect(CANCEL, request.id);
    let error = stream.next().unwrap().unwrap_err();
    assert_eq!(error.code(), Code::DeadlineExceeded);

    let mut controller = RpcController::new();
    let mut stream: RpcStream<Blob> = channel
        .open_stream(&LIST, &mut controller, &blob("all"))
        .unwrap();
    let id = link.next_call().id;
    controller.start_cancel();
    link.expect(CANCEL, id);
    let error = stream.next().unwrap().unwrap_err();
    assert_eq!(error.code(), Code::Cancelled);
}

#[test]
fn streams_outlive_the_channels_default_timeout() {
    let server = ByHand::listen();
    let options = ChannelOptions {
        default_timeout: SHORT,
        ..ChannelOptions::default()
    };
    let channel = channel_to(server.addr, options);
    let mut stream = open(&channel);
    let mut link = server.accept();
    let id = link.next_call().id;
    let call = begin(&channel, &SAY, RpcController::new(), "x");
    assert_eq!(end(&call).unwrap_err().code(), Code::DeadlineExceeded);
    link.item(id, "still there");
    assert_eq!(stream.next().unwrap().unwrap().data, "still there");
}

/// A stream expects nothing: its silence is not that of a server that lets calls time out.
#[test]
fn a_quiet_stream_does_not_make_its_server_a_silent_one() {
    let server = ByHand::listen();
    let options = ChannelOptions {
        silence_limit: SHORT * 10,
        ..ChannelOptions::default()
    };
    let channel = channel_to(server.addr, options);
    let mut stream = open(&channel);
    let mut link = server.accept();
    let id = link.next_call().id;
    std::thread::sleep(SHORT * 20);
    let call = begin(&channel, &SAY, RpcController::with_timeout(SHORT), "x");
    assert_eq!(end(&call).unwrap_err().code(), Code::DeadlineExceeded);
    link.item(id, "now");
    assert_eq!(stream.next().unwrap().unwrap().data, "now");
}

#[test]
fn a_stream_that_cannot_begin_is_refused_at_once() {
    let server = ByHand::listen();
    let channel = channel_with_window(&server);
    let mut controller = RpcController::new();
    controller.start_cancel();
    let opened = channel.open_stream::<_, Blob>(&LIST, &mut controller, &blob("all"));
    assert_eq!(opened.unwrap_err().code(), Code::Cancelled);
    let options = ChannelOptions {
        max_in_flight: 0,
        ..ChannelOptions::default()
    };
    let channel = channel_to(server.addr, options);
    let opened = channel.open_stream::<_, Blob>(&LIST, &mut patient(), &blob("all"));
    assert_eq!(opened.unwrap_err().code(), Code::ResourceExhausted);
}

#[test]
fn waiting_for_a_stream_on_its_own_loop_is_refused_and_the_stream_goes_on() {
    let server = ByHand::listen();
    let channel = channel_with_window(&server);
    let mut stream = open(&channel);
    let (sender, received) = self::channel();
    channel.call_async(&SAY, patient(), &blob("x"), move |result| {
        let _: Blob = result.unwrap();
        let outcome = stream.next();
        sender.send((outcome, stream)).unwrap();
    });
    let mut link = server.accept();
    let (list, said) = (link.next_call().id, link.next_call().id);
    link.reply(said, "x");
    let (outcome, mut stream) = received.recv_timeout(LONG).unwrap();
    let error = outcome.unwrap().unwrap_err();
    assert_eq!(error.code(), Code::Internal);
    assert!(error.text().contains("call_stream_async"), "{error}");
    link.item(list, "one");
    assert_eq!(stream.next().unwrap().unwrap().data, "one");
}

#[test]
fn items_and_the_end_of_a_stream_are_called_back() {
    let server = ByHand::listen();
    let channel = channel_with_window(&server);
    let (sender, items) = self::channel();
    let (done, ended) = self::channel();
    let controller = RpcController::new();
    channel.call_stream_async(
        &LIST,
        controller.clone(),
        &blob("all"),
        move |item: Blob| sender.send(item.data).unwrap(),
        move |result| done.send(result).unwrap(),
    );
    let mut link = server.accept();
    let id = link.next_call().id;
    for _ in 0..5 {
        link.item(id, [7; 82]);
    }
    assert_eq!(link.expect(CREDIT, id).credit, 500);
    link.fail(id, Code::NotFound, false);
    let error = ended.recv_timeout(LONG).unwrap().unwrap_err();
    assert_eq!(error.code(), Code::NotFound);
    assert_eq!(
        (items.iter().count(), controller.error_code()),
        (5, Code::NotFound)
    );
}

#[test]
fn a_stream_whose_callback_panics_or_whose_item_is_broken_is_cancelled() {
    let server = ByHand::listen();
    let channel = channel_with_window(&server);
    let (done, ended) = self::channel();
    let begin = || {
        let done = done.clone();
        channel.call_stream_async(
            &LIST,
            RpcController::new(),
            &blob("all"),
            |_: Blob| panic!("for an item (expected in this test)"),
            move |result| done.send(result).unwrap(),
        );
    };
    begin();
    let mut link = server.accept();
    let id = link.next_call().id;
    link.item(id, "x");
    link.expect(CANCEL, id);
    let error = ended.recv_timeout(LONG).unwrap().unwrap_err();
    assert!(error.text().contains("panicked"), "{error}");

    let item = |id| Reply {
        id,
        kind: ITEM,
        ..Reply::default()
    };
    begin();
    let id = link.next_call().id;
    link.send(item(id), &[0x0a, 9]);
    link.expect(CANCEL, id);
    let error = ended.recv_timeout(LONG).unwrap().unwrap_err();
    assert!(error.text().contains("malformed item"), "{error}");

    let mut stream = open(&channel);
    let id = link.next_call().id;
    link.send(item(id), &[0x0a, 9]);
    let error = stream.next().unwrap().unwrap_err();
    assert!(
        error.text().contains("malformed item of Echo.List"),
        "{error}"
    );
    assert!(stream.next().is_none());
    link.expect(CANCEL, id);
}

#[test]
fn a_method_that_is_streaming_on_one_side_only_fails() {
    let server = ByHand::listen();
    let channel = channel_with_window(&server);
    let call = begin(&channel, &SAY, patient(), "x");
    let mut link = server.accept();
    let id = link.next_call().id;
    link.item(id, "one");
    link.expect(CANCEL, id);
    let error = end(&call).unwrap_err();
    assert_eq!(error.code(), Code::Internal);
    assert!(error.text().contains("streaming"), "{error}");

    let mut stream = open(&channel);
    let id = link.next_call().id;
    link.reply(id, "single");
    let error = stream.next().unwrap().unwrap_err();
    assert_eq!(error.code(), Code::Internal);
    assert!(error.text().contains("not streaming"), "{error}");
}

#[test]
fn an_item_over_the_limit_costs_its_own_stream_only() {
    let server = ByHand::listen();
    let options = ChannelOptions {
        limits: Limits {
            max_body_bytes: 1000,
            ..Limits::default()
        },
        ..ChannelOptions::default()
    };
    let channel = channel_to(server.addr, options);
    let (mut cut, mut whole) = (open(&channel), open(&channel));
    let mut link = server.accept();
    let (cut_id, whole_id) = (link.next_call().id, link.next_call().id);
    link.item(cut_id, [7; 2000]);
    link.item(whole_id, "x");
    let error = cut.next().unwrap().unwrap_err();
    assert_eq!(error.code(), Code::ResourceExhausted);
    assert!(error.text().contains("max_body_bytes"), "{error}");
    link.expect(CANCEL, cut_id);
    assert_eq!(whole.next().unwrap().unwrap().data, "x");
}

// ---- keepalive

fn kept_alive(server: &ByHand) -> RpcChannel {
    kept_alive_with(server, Duration::from_secs(3))
}

fn kept_alive_with(server: &ByHand, timeout: Duration) -> RpcChannel {
    let keepalive = Keepalive {
        after: SHORT,
        timeout,
    };
    let options = ChannelOptions {
        keepalive,
        ..ChannelOptions::default()
    };
    channel_to(server.addr, options)
}

#[test]
fn a_quiet_connection_is_pinged_and_given_up_when_no_answer_comes() {
    let server = ByHand::listen();
    let channel = kept_alive(&server);
    let call = begin(&channel, &SAY, patient(), "x");
    let mut stream = open(&channel);
    let mut link = server.accept();
    let ids = [link.next_call().id, link.next_call().id];
    for _ in 0..5 {
        let ping = link.next();
        assert_eq!(ping.kind, PING);
        assert!(!ids.contains(&ping.id));
        link.control(REPLY_PONG, ping.id);
    }
    assert!(call.try_recv().is_err());
    // From here on nobody answers.
    let error = end(&call).unwrap_err();
    assert_eq!(
        (error.code(), error.may_have_executed()),
        (Code::Unavailable, true)
    );
    assert!(error.text().contains("keepalive"), "{error}");
    let error = stream.next().unwrap().unwrap_err();
    assert_eq!(error.code(), Code::Unavailable);
    let _next = begin(&channel, &SAY, patient(), "x");
    server.accept().next_call();
}

/// However long an answer may take.
#[test]
fn a_server_that_has_answered_is_asked_again_as_soon_as_it_is_quiet() {
    let server = ByHand::listen();
    let channel = kept_alive_with(&server, LONG * 2);
    let _call = begin(&channel, &SAY, patient(), "x");
    let mut link = server.accept();
    link.next_call();
    for _ in 0..3 {
        let ping = link.next();
        assert_eq!(ping.kind, PING);
        link.control(REPLY_PONG, ping.id);
    }
}

#[test]
fn a_connection_without_calls_is_pinged_too() {
    let server = ByHand::listen();
    let channel = kept_alive(&server);
    let call = begin(&channel, &SAY, patient(), "x");
    let mut link = server.accept();
    let id = link.next_call().id;
    link.reply(id, "x");
    end(&call).unwrap();
    assert_eq!(link.next().kind, PING);
    while link.try_next().is_some() {}
}

#[test]
fn a_servers_pings_are_answered() {
    let server = ByHand::listen();
    let channel = channel_to(server.addr, ChannelOptions::default());
    let call = begin(&channel, &SAY, patient(), "x");
    let mut link = server.accept();
    let id = link.next_call().id;
    link.control(REPLY_PING, 77);
    link.expect(PONG, 77);
    link.reply(id, "x");
    end(&call).unwrap();
}

#[test]
fn frames_of_an_unknown_kind_and_answers_to_nobody_are_skipped() {
    let server = ByHand::listen();
    let channel = channel_to(server.addr, ChannelOptions::default());
    let call = begin(&channel, &SAY, patient(), "x");
    let mut link = server.accept();
    let id = link.next_call().id;
    let unknown = Reply {
        id,
        kind: 99,
        ..Reply::default()
    };
    link.send(unknown, b"from a later version");
    // A pong does not answer a call.
    link.control(REPLY_PONG, id);
    link.item(12_345, "to nobody");
    link.reply(id, "x");
    assert_eq!(end(&call).unwrap().data, "x");
}

#[test]
fn a_ping_takes_as_long_as_its_answer() {
    let server = ByHand::listen();
    let channel = channel_to(server.addr, ChannelOptions::default());
    let pinging = channel.clone();
    let ping = std::thread::spawn(move || pinging.ping(LONG));
    let mut link = server.accept();
    let id = link.expect(PING, 1).id;
    link.control(REPLY_PONG, id);
    assert!(ping.join().unwrap().unwrap() < LONG);

    let pinging = channel.clone();
    let ping = std::thread::spawn(move || pinging.ping(SHORT));
    link.expect(PING, 2);
    let error = ping.join().unwrap().unwrap_err();
    assert_eq!(error.code(), Code::DeadlineExceeded);

    // A server that knows no pings takes them for calls of no service.
    let ping = std::thread::spawn(move || channel.ping(LONG));
    let id = link.expect(PING, 3).id;
    link.fail(id, Code::Unimplemented, true);
    ping.join().unwrap().unwrap();
    let nobody = channel_to("127.0.0.1:1".parse().unwrap(), ChannelOptions::default());
    assert_eq!(nobody.ping(LONG).unwrap_err().code(), Code::Unavailable);
    say(&nobody, "x").unwrap_err();
}
