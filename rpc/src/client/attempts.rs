//! [`Attempts`]: a call that may be tried more than once, or that interceptors look at.
//!
//! ```text
//!   start ──► before 1..n ──► a server that was not tried ──► after n..1 ──► good, or no use: end
//!     ▲                                                             │
//!     ├── it was certainly not executed there: the next server ─────┤
//!     └── pause (no thread waits) ◄── it may be repeated ───────────┘
//! ```

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;

use super::pending::{Completion, Ended, forgotten};
use super::raw::Raw;
use super::shared::{ChannelShared, Request};
use super::stream::{Origin, Sink, StreamCall, Taken};
use super::targets::Targets;
use crate::controller::{Attached, RpcController, Terms};
use crate::error::{Code, RpcError};
use crate::interceptor::{CallOutcome, FinishedCall, OutgoingCall};
use crate::metadata::Metadata;
use crate::reactor;
use crate::service::MethodDescriptor;

/// One call, from its first attempt to its end. It ends once: dropped before, with `CANCELLED`.
pub(super) struct Attempts {
    targets: Arc<Targets>,
    method: &'static MethodDescriptor,
    controller: RpcController,
    terms: Terms,
    deadline: Option<Instant>,
    args: Bytes,
    /// What the server may send of a stream; 0: the reply is no stream.
    credit: u32,
    completion: Option<Completion>,
    /// Servers tried in this round, and why they did not take the call.
    tried: Vec<usize>,
    reasons: Vec<String>,
    round: u32,
    attempt: u32,
    current: Current,
}

/// The attempt under way.
struct Current {
    begun: Instant,
    server: Option<Arc<ChannelShared>>,
    /// Interceptors whose `before` was good and whose `after` has not run.
    entered: usize,
    items: u64,
    item_bytes: usize,
}

/// What a call is made of.
pub(super) struct NewCall {
    pub(super) method: &'static MethodDescriptor,
    pub(super) controller: RpcController,
    /// With the timeout that holds, default or not.
    pub(super) terms: Terms,
    pub(super) args: Bytes,
    pub(super) credit: u32,
    pub(super) completion: Completion,
}

impl Attempts {
    pub(super) fn begin(targets: &Arc<Targets>, call: NewCall) {
        let begun = reactor::now();
        let timeout = call.terms.timeout.map(|it| it.min(reactor::WAIT_MAX));
        let attempts = Box::new(Attempts {
            targets: Arc::clone(targets),
            method: call.method,
            controller: call.controller,
            deadline: timeout.map(|timeout| begun + timeout),
            terms: call.terms,
            args: call.args,
            credit: call.credit,
            completion: Some(call.completion),
            tried: Vec::new(),
            reasons: Vec::new(),
            round: 1,
            attempt: 0,
            current: Current {
                begun,
                server: None,
                entered: 0,
                items: 0,
                item_bytes: 0,
            },
        });
        attempts.start();
    }

    /// Tries the next server.
    fn start(mut self: Box<Self>) {
        let Some(index) = self.targets.pick(&self.tried) else {
            let error = RpcError::new(Code::Unavailable, "no server is left to be tried");
            return self.finish(error.into());
        };
        self.tried.push(index);
        self.attempt += 1;
        let server = Arc::clone(self.targets.sub(index));
        let begun = reactor::now();
        self.current.begun = begun;
        self.current.server = Some(Arc::clone(&server));
        let mut timeout = self
            .deadline
            .map(|deadline| deadline.saturating_duration_since(begun));
        let mut metadata = self.terms.metadata.clone();
        if let Err(error) = self.run_befores(&mut metadata, &mut timeout) {
            let ended = Ended::from(error);
            self.run_afters(&ended);
            return self.finish(ended);
        }
        let (controller, args) = (self.controller.clone(), self.args.clone());
        let (terms, attempt) = (self.terms.clone(), self.attempt);
        let request = Request {
            method: self.method,
            timeout,
            metadata: &metadata,
            trace: terms.trace.as_ref(),
            credit: self.credit,
        };
        let completion = if self.credit > 0 {
            let sink = Box::new(AttemptSink(Some(self)));
            Completion::Stream(Box::new(StreamCall::new(request.credit, sink)))
        } else {
            Completion::Callback(Box::new(move |ended| self.ended(ended)))
        };
        match server.begin(&request, &Raw(&args), completion) {
            Ok((id, _)) => {
                let call = Attached::InFlight(Arc::downgrade(&server), id);
                controller.attach(terms.serial, 2 * attempt, call);
            }
            Err((completion, error)) => completion.end(error.into()),
        }
    }

    /// The attempt has ended.
    fn ended(mut self: Box<Self>, mut ended: Ended) {
        self.run_afters(&ended);
        if let Err(error) = &ended.result
            && !self.controller.was_given_up(self.terms.serial)
        {
            let error = error.clone();
            if is_for_the_next(&error) {
                self.reasons.push(error.text().to_owned());
                if self.tried.len() < self.targets.len() && self.has_time(Duration::ZERO) {
                    return self.start();
                }
                if self.reasons.len() > 1 {
                    let text = format!("no server took the call: {}", self.reasons.join("; "));
                    ended.result = Err(RpcError::new(error.code(), text));
                }
            }
            if let Some(pause) = self.pause_before_retry(&error) {
                return self.pause(pause);
            }
        }
        self.finish(ended);
    }

    // ---- interceptors

    fn run_befores(
        &mut self,
        metadata: &mut Metadata,
        timeout: &mut Option<Duration>,
    ) -> Result<(), RpcError> {
        let Some(server) = &self.current.server else {
            return Ok(());
        };
        for interceptor in &self.targets.options.interceptors {
            let mut call = OutgoingCall {
                method: self.method,
                peer: server.addr,
                metadata,
                timeout,
                attempt: self.attempt,
            };
            let before = catch_unwind(AssertUnwindSafe(|| interceptor.before(&mut call)));
            before.unwrap_or_else(|_| {
                self.note_panic("before");
                let text = "an interceptor panicked before the call";
                Err(RpcError::new(Code::Internal, text))
            })?;
            self.current.entered += 1;
        }
        Ok(())
    }

    /// A panic changes nothing: the call has ended as it has.
    fn run_afters(&mut self, ended: &Ended) {
        let entered = std::mem::take(&mut self.current.entered);
        let Some(server) = &self.current.server else {
            return;
        };
        let call = FinishedCall {
            method: self.method,
            peer: server.addr,
            attempt: self.attempt,
            reply_metadata: &ended.metadata,
        };
        let reply_bytes = ended.result.as_ref().map_or(0, Bytes::len);
        let outcome = CallOutcome {
            error: ended.result.as_ref().err(),
            elapsed: self.current.begun.elapsed(),
            request_bytes: self.args.len(),
            reply_bytes: reply_bytes + self.current.item_bytes,
            items: self.current.items,
        };
        let interceptors = &self.targets.options.interceptors;
        for interceptor in interceptors[..entered].iter().rev() {
            let after = || interceptor.after(&call, &outcome);
            if catch_unwind(AssertUnwindSafe(after)).is_err() {
                self.note_panic("after");
            }
        }
    }

    /// It is the interceptor's defect, and no other call's.
    fn note_panic(&self, when: &str) {
        let MethodDescriptor { service, method } = self.method;
        tracing::error!(service, method, "an interceptor panicked {when} a call");
    }

    // ---- again

    fn has_time(&self, pause: Duration) -> bool {
        self.deadline
            .is_none_or(|deadline| Instant::now() + pause < deadline)
    }

    /// How long to wait before the call is repeated, if it may be.
    fn pause_before_retry(&self, error: &RpcError) -> Option<Duration> {
        let policy = self.targets.options.retry.as_ref()?;
        let repeatable = match error.code() {
            Code::Unavailable => !error.may_have_executed() || self.terms.idempotent,
            Code::ResourceExhausted => !error.may_have_executed(),
            _ => false,
        };
        // What was delivered cannot be taken back.
        if !repeatable || self.current.items > 0 || self.round >= policy.max_attempts {
            return None;
        }
        let pause = policy.backoff.pause(self.round, fastrand::f64());
        // Before that it would fail at once.
        let pause = pause.max(self.targets.pause_left());
        (self.has_time(pause) && self.targets.has_room_to_wait()).then_some(pause)
    }

    fn pause(mut self: Box<Self>, pause: Duration) {
        self.tried.clear();
        self.reasons.clear();
        self.round += 1;
        let targets = Arc::clone(&self.targets);
        let (controller, serial, attempt) =
            (self.controller.clone(), self.terms.serial, self.attempt);
        let paused = Arc::new(Paused {
            call: Mutex::new(Some(self)),
            targets: Arc::clone(&targets),
        });
        // Whoever drops the job ends the call, so nobody else keeps it alive.
        let attached = Attached::Paused(Arc::downgrade(&paused));
        targets.after(pause, move || {
            let call = paused.call.lock().take();
            if let Some(call) = call {
                call.start();
            }
        });
        controller.attach(serial, 2 * attempt + 1, attached);
    }

    // ---- the end

    fn finish(mut self: Box<Self>, ended: Ended) {
        if let Some(completion) = self.completion.take() {
            completion.end(ended);
        }
    }
}

impl Drop for Attempts {
    fn drop(&mut self) {
        if let Some(completion) = self.completion.take() {
            completion.end(forgotten().into());
        }
    }
}

/// Whether another server may well take a call that one did not: it cannot be reached there, or has
/// no room, be that at the server, on the connection, for the method, or in our own queue to it.
fn is_for_the_next(error: &RpcError) -> bool {
    let elsewhere = matches!(error.code(), Code::Unavailable | Code::ResourceExhausted);
    elsewhere && !error.may_have_executed()
}

/// A call between two attempts.
pub(crate) struct Paused {
    /// Taken by whoever goes on with it.
    call: Mutex<Option<Box<Attempts>>>,
    targets: Arc<Targets>,
}

impl Paused {
    /// Ends the call, on the loop's thread.
    pub(crate) fn cancel(&self) {
        let call = self.call.lock().take();
        if let Some(call) = call {
            self.targets.after(Duration::ZERO, move || {
                let error = RpcError::new(Code::Cancelled, "the caller cancelled the call");
                call.finish(error.into());
            });
        }
    }
}

/// Counts the items of an attempt on their way to the call's own sink.
struct AttemptSink(Option<Box<Attempts>>);

impl Sink for AttemptSink {
    fn item(&mut self, origin: Origin<'_>, body: Bytes) -> Result<Taken, RpcError> {
        let Some(call) = &mut self.0 else {
            return Err(forgotten());
        };
        call.current.items += 1;
        call.current.item_bytes += body.len();
        match &mut call.completion {
            Some(Completion::Stream(stream)) => stream.pass_on(origin, body),
            _ => Err(forgotten()),
        }
    }

    fn end(mut self: Box<Self>, ended: Ended) {
        if let Some(call) = self.0.take() {
            call.ended(ended);
        }
    }
}
