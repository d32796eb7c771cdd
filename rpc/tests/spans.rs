//! What a call's span tells a tracer. A process has one subscriber, so this is one test.

#![allow(clippy::unwrap_used, reason = "in tests a panic is the report")]

mod common;

use bytes::Bytes;
use common::*;
use rpc::{
    ChannelOptions, Done, ProviderOptions, ReplySlot, RpcContext, RpcController, RpcProvider,
    Service, TraceContext,
};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::util::SubscriberInitExt;

/// Says in the log when it is called.
struct Talker;

impl Service for Talker {
    fn name(&self) -> &'static str {
        "Echo"
    }

    fn methods(&self) -> &'static [&'static str] {
        &["Say"]
    }

    fn call(&self, _method: usize, _context: RpcContext, _args: Bytes, reply: ReplySlot) {
        tracing::info!("the handler speaks");
        Done::new(reply).run(blob("x"));
    }
}

#[test]
fn a_handlers_span_names_the_callers_as_its_parent() {
    let log = Log::default();
    let writer = log.clone();
    tracing_subscriber::fmt()
        .with_max_level(LevelFilter::DEBUG)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish()
        .init();
    let mut provider = RpcProvider::new(ProviderOptions::default());
    provider.notify_service(Talker).unwrap();
    let server = provider.start("127.0.0.1:0").unwrap();
    let channel = channel_to(server.local_addr(), ChannelOptions::default());
    let controller = RpcController::with_timeout(LONG);
    let trace = TraceContext::new_root();
    controller.set_trace(trace);
    end(&begin(&channel, &SAY, controller, "x")).unwrap();

    let text = log.text();
    let line = text
        .lines()
        .find(|line| line.contains("the handler speaks"))
        .unwrap();
    for part in [
        "rpc.server".to_owned(),
        format!("trace_id={:032x}", trace.trace_id()),
        format!("parent_span_id={:016x}", trace.span_id()),
    ] {
        assert!(line.contains(&part), "no {part} in {line}");
    }
}
