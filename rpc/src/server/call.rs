//! [`Call`]: one call while it is served, shared by its context and its reply slot.
//!
//! ```text
//!  dispatch ──► Call ──┬──► RpcContext: who asks, until when, is it still wanted?
//!                      └──► ReplySlot:  the answer ──► interceptors ──► ReplyPath ──► outbox
//! ```

use std::borrow::Cow;
use std::net::{Ipv4Addr, SocketAddr};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use bytes::Bytes;
use parking_lot::Mutex;
use prost::Message;

use super::book::{About, Callback};
use super::call_state::{CallState, Entering};
use super::flow::Flow;
use super::outbox::{Answer, MethodIndex};
use super::reply_path::ReplyPath;
use crate::error::{Code, RpcError};
use crate::interceptor::{CallOutcome, ServerInterceptor};
use crate::metadata::Metadata;
use crate::reply::not_unary;
use crate::service::RpcContext;
use crate::trace::TraceContext;
use crate::wire::METADATA_ENTRIES_MAX;

/// Most bytes of metadata that travel with a reply. Half of the smallest header limit that a client
/// is likely to have.
const REPLY_METADATA_BYTES_MAX: usize = 32 << 10;

/// One call.
///
/// Everything that can change while it runs is in `state`, `reply_metadata` and the connection's
/// book; the rest is as it arrived, or as interceptors left it.
pub(crate) struct Call {
    /// The connection that it came over; `None`: none.
    pub(super) path: Option<Arc<ReplyPath>>,
    pub(crate) peer: SocketAddr,
    pub(crate) request_id: u64,
    pub(crate) service: &'static str,
    pub(crate) method: &'static str,
    pub(super) method_index: MethodIndex,
    pub(crate) arrived: Instant,
    pub(crate) deadline: Option<Instant>,
    pub(crate) request_bytes: usize,
    pub(crate) metadata: Metadata,
    /// Apart, since it is large and most calls have none.
    pub(crate) trace: Option<Box<TraceContext>>,
    /// What holds a streaming call's items back; `None` for a unary one.
    pub(super) flow: Option<Arc<Flow>>,
    /// The call that this is a changed view of: the state below is that one's.
    pub(super) original: Option<Arc<Call>>,
    pub(super) state: CallState,
    /// Interceptors whose `before` was `Ok`, and whose `after` is due: the first ones of the list.
    pub(super) entered: AtomicUsize,
    pub(super) reply_metadata: Mutex<Metadata>,
}

impl Call {
    pub(crate) fn local(service: &'static str, method: &'static str) -> Call {
        Call {
            path: None,
            peer: SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
            request_id: 1,
            service,
            method,
            method_index: MethodIndex::UNKNOWN,
            arrived: Instant::now(),
            deadline: None,
            request_bytes: 0,
            metadata: Metadata::new(),
            trace: None,
            flow: None,
            original: None,
            state: CallState::new(),
            entered: AtomicUsize::new(0),
            reply_metadata: Mutex::default(),
        }
    }

    /// The call to be changed. Where others have it already they keep what they saw, and share the
    /// state.
    pub(crate) fn change(call: &mut Arc<Call>) -> &mut Call {
        if Arc::get_mut(call).is_none() {
            let view = Call {
                path: call.path.clone(),
                metadata: call.metadata.clone(),
                trace: call.trace.clone(),
                flow: call.flow.clone(),
                original: Some(Arc::clone(call.original.as_ref().unwrap_or(call))),
                state: CallState::new(),
                entered: AtomicUsize::new(0),
                reply_metadata: Mutex::default(),
                ..**call
            };
            *call = Arc::new(view);
        }
        Arc::get_mut(call).expect("it was just made")
    }

    /// Whose state counts.
    fn root(&self) -> &Call {
        self.original.as_deref().unwrap_or(self)
    }

    pub(crate) fn flow(&self) -> Option<&Arc<Flow>> {
        self.flow.as_ref()
    }

    pub(crate) fn add_reply_metadata(&self, key: Cow<'static, str>, value: Bytes) {
        let root = self.root();
        root.reply_metadata.lock().insert(key, value);
        root.state.note_reply_metadata();
    }

    pub(crate) fn peer_certificate(&self) -> Option<&[u8]> {
        self.path.as_ref()?.peer_certificate()
    }

    // ---- cancellation

    fn is_expired(&self) -> bool {
        self.deadline
            .is_some_and(|deadline| deadline <= Instant::now())
    }

    pub(crate) fn is_canceled(&self) -> bool {
        let path = self.path.as_ref();
        self.is_expired() || path.is_some_and(|path| path.is_canceled(self))
    }

    /// As [`is_canceled`](Call::is_canceled), for one who asks once: the call stays out of the
    /// book.
    pub(super) fn was_canceled(&self) -> bool {
        let path = self.path.as_ref();
        path.is_some_and(|path| path.book.was_canceled(self.request_id))
    }

    pub(crate) fn on_cancel(&self, callback: Callback, about: About) {
        if self.is_expired() {
            callback();
        } else if let Some(path) = &self.path
            && let Some(callback) = path.on_cancel(self, callback, about)
        {
            callback();
        }
    }

    /// Marks the call as being in the book, under this number if it is not there yet. The caller
    /// holds the book's lock.
    pub(super) fn enter_book(&self, next_entry: u64) -> Entering {
        self.root().state.enter_book(next_entry)
    }

    // ---- the answer: one of these, once

    /// Answers with a message.
    pub(crate) fn reply(self: &Arc<Call>, body: &impl Message) {
        if self.flow.is_some() {
            return self.fail(not_unary());
        }
        let path = self.connection();
        let len = body.encoded_len();
        match path.body_size(len) {
            Ok(body_size) => match self.conclude(None, len, 0) {
                Ok(answer) => path.reply(&answer, body, body_size),
                Err((answer, error)) => path.fail(&answer, error),
            },
            Err(error) => self.fail(error),
        }
    }

    /// Answers with a failure.
    pub(crate) fn fail(self: &Arc<Call>, error: RpcError) {
        let (items, bytes) = self.flow.as_ref().map_or((0, 0), |flow| flow.sent());
        let (answer, error) = match self.conclude(Some(&error), bytes, items) {
            Ok(answer) => (answer, error),
            Err(instead) => instead,
        };
        self.connection().fail(&answer, error);
    }

    /// Ends a stream that did not fail.
    pub(crate) fn end_stream(self: &Arc<Call>) {
        // Its caller is still there, and must not take what it has for the whole.
        if let Some(error) = self.flow.as_ref().and_then(|flow| flow.given_up()) {
            return self.fail(error);
        }
        let (items, bytes) = self.flow.as_ref().map_or((0, 0), |flow| flow.sent());
        match self.conclude(None, bytes, items) {
            Ok(answer) => self.connection().end_stream(&answer),
            Err((answer, error)) => self.connection().fail(&answer, error),
        }
    }

    /// How many callbacks the calls of its connection have left.
    #[cfg(test)]
    pub(crate) fn callbacks(&self) -> usize {
        self.connection().book.callbacks()
    }

    pub(crate) fn connection(&self) -> &ReplyPath {
        self.path
            .as_deref()
            .expect("only calls of a connection have slots that lead here")
    }

    /// The call is over: it leaves the book, interceptors learn of it, and what travels with the
    /// answer is put together. An error: the answer cannot travel, this one has to.
    fn conclude(
        self: &Arc<Call>,
        error: Option<&RpcError>,
        reply_bytes: usize,
        items: u64,
    ) -> Result<Answer, (Answer, RpcError)> {
        let root = self.root();
        if let Some(entry) = root.state.answer() {
            self.connection().book.leave(self.request_id, entry);
        }
        let entered = root.entered.load(Ordering::Relaxed);
        if entered > 0 {
            let outcome = CallOutcome {
                error,
                elapsed: self.arrived.elapsed(),
                request_bytes: self.request_bytes,
                reply_bytes,
                items,
            };
            self.leave_interceptors(entered, &outcome);
        }
        let mut answer = Answer {
            request_id: self.request_id,
            method: self.method_index,
            arrived: self.arrived,
            metadata: Metadata::new(),
        };
        if root.state.has_reply_metadata() {
            answer.metadata = std::mem::take(&mut *root.reply_metadata.lock());
            let (len, entries) = (answer.metadata.encoded_len(), answer.metadata.len());
            if len > REPLY_METADATA_BYTES_MAX || entries > METADATA_ENTRIES_MAX {
                answer.metadata = Metadata::new();
                let text = format!(
                    "the reply's metadata of {len} bytes in {entries} entries is over the limit of \
                     {REPLY_METADATA_BYTES_MAX} bytes or {METADATA_ENTRIES_MAX} entries"
                );
                let error = RpcError::new(Code::ResourceExhausted, text);
                return Err((answer, error.with_may_have_executed(true)));
            }
        }
        Ok(answer)
    }

    fn leave_interceptors(self: &Arc<Call>, entered: usize, outcome: &CallOutcome<'_>) {
        let context = RpcContext {
            call: Arc::clone(self),
        };
        let interceptors = self.connection().interceptors.iter().take(entered);
        for interceptor in interceptors.rev() {
            let after = || interceptor.after(&context, outcome);
            if catch_unwind(AssertUnwindSafe(after)).is_err() {
                let (service, method) = (self.service, self.method);
                tracing::error!(service, method, "an interceptor panicked after a call");
            }
        }
    }
}

/// Lets the interceptors see a call that is about to begin. An error refuses it.
pub(super) fn enter_interceptors(
    context: &mut RpcContext,
    interceptors: &[Arc<dyn ServerInterceptor>],
) -> Result<(), RpcError> {
    let mut entered = 0;
    let mut outcome = Ok(());
    for interceptor in interceptors {
        let before = catch_unwind(AssertUnwindSafe(|| interceptor.before(context)));
        outcome = before.unwrap_or_else(|_| {
            let (service, method) = (context.service(), context.method());
            tracing::error!(service, method, "an interceptor panicked before a call");
            Err(RpcError::new(Code::Internal, "an interceptor panicked"))
        });
        if outcome.is_err() {
            break;
        }
        entered += 1;
    }
    let root = context.call.root();
    root.entered.store(entered, Ordering::Relaxed);
    outcome
}
