//! [`AccessLog`]: who called what, how it ended, and what it took.

use crate::error::{Code, RpcError};
use crate::interceptor::{CallOutcome, ClientInterceptor, FinishedCall, ServerInterceptor};
use crate::service::RpcContext;
use crate::trace::TraceContext;

/// One `tracing` event of level info for each call that has ended, under the target `rpc.access`.
///
/// Put it first: then it sees the calls that later interceptors refuse. On a client an event stands
/// for one attempt. Callers' metadata and messages stay out.
///
/// | field | |
/// |---|---|
/// | `side` | `server` or `client` |
/// | `service`, `method`, `peer` | what was called, and the other end of the connection |
/// | `code` | how it ended: `OK`, `NOT_FOUND`, ... |
/// | `elapsed_us` | since the request arrived (server), since the attempt began (client) |
/// | `request_bytes`, `reply_bytes`, `items` | sizes of the messages; items of a stream |
/// | `trace_id` | (server) of the caller's trace; 0: none |
/// | `attempt` | (client) counted from 1 |
#[derive(Clone, Copy, Debug, Default)]
pub struct AccessLog;

fn code_of(outcome: &CallOutcome<'_>) -> &'static str {
    outcome.error.map_or(Code::Ok, RpcError::code).name()
}

impl ServerInterceptor for AccessLog {
    fn after(&self, context: &RpcContext, outcome: &CallOutcome<'_>) {
        let trace_id = context.trace().map_or(0, TraceContext::trace_id);
        tracing::info!(
            target: "rpc.access",
            side = "server",
            service = context.service(),
            method = context.method(),
            peer = %context.peer_addr(),
            code = code_of(outcome),
            elapsed_us = outcome.elapsed.as_micros(),
            request_bytes = outcome.request_bytes,
            reply_bytes = outcome.reply_bytes,
            items = outcome.items,
            trace_id = format_args!("{trace_id:032x}"),
            "call"
        );
    }
}

impl ClientInterceptor for AccessLog {
    fn after(&self, call: &FinishedCall<'_>, outcome: &CallOutcome<'_>) {
        tracing::info!(
            target: "rpc.access",
            side = "client",
            service = call.method.service,
            method = call.method.method,
            peer = %call.peer,
            code = code_of(outcome),
            elapsed_us = outcome.elapsed.as_micros(),
            request_bytes = outcome.request_bytes,
            reply_bytes = outcome.reply_bytes,
            items = outcome.items,
            attempt = call.attempt,
            "call"
        );
    }
}
