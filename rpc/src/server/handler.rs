//! Calling a handler, on whatever thread.

use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::Bytes;
use tracing::Span;
use tracing::field::Empty;

use crate::reply::ReplySlot;
use crate::service::{RpcContext, Service};
use crate::trace::are_spans_wanted;

/// Calls a handler within a span of its own. Its panic ends its call and nothing else.
pub(super) fn run_handler(
    service: &dyn Service,
    method: usize,
    context: RpcContext,
    args: Bytes,
    reply: ReplySlot,
) {
    let (peer, names) = (context.peer_addr(), (context.service(), context.method()));
    let span = span_of(&context);
    // The reply slot, dropped on the way out, answers INTERNAL.
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        let call = || service.call(method, context, args, reply);
        match &span {
            Some(span) => span.in_scope(call),
            None => call(),
        }
    }));
    if outcome.is_err() {
        let (service, method) = names;
        tracing::error!(%peer, service, method, "a handler panicked");
    }
}

/// The span of a call, if somebody may listen.
fn span_of(context: &RpcContext) -> Option<Span> {
    if !are_spans_wanted() {
        return None;
    }
    let (peer, service, method) = (context.peer_addr(), context.service(), context.method());
    let span = tracing::debug_span!(
        "rpc.server", service, method, trace_id = Empty, parent_span_id = Empty, %peer
    );
    if let Some(trace) = context.trace()
        && !span.is_disabled()
    {
        span.record("trace_id", format_args!("{:032x}", trace.trace_id()));
        span.record("parent_span_id", format_args!("{:016x}", trace.span_id()));
    }
    Some(span)
}
