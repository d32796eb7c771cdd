//! Calling a handler, on whatever thread.

use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::Bytes;
use tracing::field::Empty;

use crate::reply::ReplySlot;
use crate::service::{RpcContext, Service};

/// Calls a handler within a span of its own. Its panic ends its call and nothing else.
pub(super) fn run_handler(
    service: &dyn Service,
    method: usize,
    context: RpcContext,
    args: Bytes,
    reply: ReplySlot,
) {
    let (peer, names) = (context.peer_addr(), (context.service(), context.method()));
    let span = tracing::debug_span!(
        "rpc.server", service = names.0, method = names.1, trace_id = Empty, %peer
    );
    if let Some(trace) = context.trace()
        && !span.is_disabled()
    {
        span.record("trace_id", format_args!("{:032x}", trace.trace_id()));
    }
    // The reply slot, dropped on the way out, answers INTERNAL.
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        span.in_scope(|| service.call(method, context, args, reply));
    }));
    if outcome.is_err() {
        let (service, method) = names;
        tracing::error!(%peer, service, method, "a handler panicked");
    }
}
