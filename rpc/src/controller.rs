//! [`RpcController`]: one call's knobs and outcome, with protobuf's face.

use std::borrow::Cow;
use std::fmt;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;

use crate::client::{ChannelShared, Paused};
use crate::error::{Code, RpcError};
use crate::metadata::Metadata;
use crate::service::RpcContext;
use crate::trace::TraceContext;

/// Steers one call and tells how it ended.
///
/// A clone is a handle on the same call: keep one, give the other to the call, and cancel it from
/// any thread. One controller serves one call at a time; [`reset`](RpcController::reset) makes it
/// ready for another. All of its methods return at once. A time of more than 24 days counts as 24
/// days.
#[derive(Clone, Default)]
pub struct RpcController {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    timeout: Option<Duration>,
    deadline: Option<Instant>,
    metadata: Metadata,
    trace: Option<TraceContext>,
    idempotent: bool,
    error: Option<RpcError>,
    reply_metadata: Metadata,
    canceled: bool,
    /// Counts the calls.
    serial: u64,
    /// Nobody waits for the call any more, though nobody asked to cancel it.
    abandoned: bool,
    /// How far the call had come when `call` was set.
    step: u32,
    call: Option<Attached>,
}

/// The call under way.
pub(crate) enum Attached {
    /// Its channel and its id there.
    InFlight(Weak<ChannelShared>, u64),
    /// It waits for its next attempt.
    Paused(Weak<Paused>),
}

impl Attached {
    fn cancel(&self) {
        match self {
            Attached::InFlight(channel, id) => {
                if let Some(channel) = channel.upgrade() {
                    channel.cancel(*id);
                }
            }
            Attached::Paused(paused) => {
                if let Some(paused) = paused.upgrade() {
                    paused.cancel();
                }
            }
        }
    }
}

/// What a controller says about the call that begins.
#[derive(Clone)]
pub(crate) struct Terms {
    /// The call's number at its controller.
    pub(crate) serial: u64,
    /// `None`: the channel's default.
    pub(crate) timeout: Option<Duration>,
    pub(crate) metadata: Metadata,
    pub(crate) trace: Option<TraceContext>,
    pub(crate) idempotent: bool,
    /// Somebody may cancel the call, or ask how it went.
    pub(crate) watched: bool,
}

impl RpcController {
    /// A controller with the channel's default timeout.
    #[must_use]
    pub fn new() -> RpcController {
        RpcController::default()
    }

    /// A controller whose call ends after `timeout` at the latest.
    #[must_use]
    pub fn with_timeout(timeout: Duration) -> RpcController {
        let controller = RpcController::new();
        controller.set_timeout(timeout);
        controller
    }

    /// A controller for calls that a handler makes on behalf of the call that it serves: they have
    /// what is left of its deadline, belong to its trace, and are cancelled when it is.
    #[must_use]
    pub fn within(context: &RpcContext) -> RpcController {
        let controller = RpcController::new();
        {
            let mut state = controller.state.lock();
            state.deadline = context.deadline();
            state.trace = context.trace().map(TraceContext::child);
        }
        let (inner, deadline) = (Arc::downgrade(&controller.state), context.deadline());
        let about = Weak::<Mutex<State>>::clone(&inner);
        let cancel = move || {
            // A deadline that has passed ends the nested calls by itself, as what it is.
            let in_time = deadline.is_none_or(|deadline| Instant::now() < deadline);
            if let Some(state) = inner.upgrade().filter(|_| in_time) {
                RpcController { state }.start_cancel();
            }
        };
        context.call.on_cancel(Box::new(cancel), Some(about));
        controller
    }

    /// Sets the time that the next call may take, from its start to its end, attempts and pauses
    /// between them included. It travels in whole milliseconds, rounded up. The call that is under
    /// way keeps what it began with.
    pub fn set_timeout(&self, timeout: Duration) {
        self.state.lock().timeout = Some(timeout);
    }

    /// Sets when calls have to have ended. With a timeout as well, the earlier holds.
    pub fn set_deadline(&self, deadline: Instant) {
        self.state.lock().deadline = Some(deadline);
    }

    /// Sets what travels with later calls under `key`, in place of an earlier value. All of it has
    /// to fit into a header ([`Limits::max_header_bytes`](crate::Limits::max_header_bytes)), in at
    /// most 128 entries; a call with more fails with `INVALID_ARGUMENT`.
    pub fn set_metadata(&self, key: impl Into<Cow<'static, str>>, value: impl Into<Bytes>) {
        self.state.lock().metadata.insert(key, value);
    }

    /// Makes calls part of a trace: it travels with them, as their parent.
    pub fn set_trace(&self, trace: TraceContext) {
        self.state.lock().trace = Some(trace);
    }

    /// Says whether a call may be executed twice. Then a channel with a
    /// [`RetryPolicy`](crate::RetryPolicy) repeats it also when it may have been executed.
    pub fn set_idempotent(&self, idempotent: bool) {
        self.state.lock().idempotent = idempotent;
    }

    /// What came with the last call's reply. Empty while it runs.
    #[must_use]
    pub fn reply_metadata(&self) -> Metadata {
        self.state.lock().reply_metadata.clone()
    }

    /// Whether the last call failed. `false` while it runs.
    #[must_use]
    pub fn failed(&self) -> bool {
        self.state.lock().error.is_some()
    }

    /// Why the last call failed; empty if it did not.
    #[must_use]
    pub fn error_text(&self) -> String {
        self.state
            .lock()
            .error
            .as_ref()
            .map_or_else(String::new, |error| error.text().to_owned())
    }

    /// How the last call ended; [`Code::Ok`] while it runs.
    #[must_use]
    pub fn error_code(&self) -> Code {
        self.state
            .lock()
            .error
            .as_ref()
            .map_or(Code::Ok, RpcError::code)
    }

    /// Gives the call up: it ends with `CANCELLED` as soon as its event loop hears of it, unless it
    /// ends by itself before. A server that has the call is told, and its handler can learn of it.
    /// A call that is begun later with this controller fails at once, until
    /// [`reset`](RpcController::reset).
    pub fn start_cancel(&self) {
        let call = {
            let mut state = self.state.lock();
            state.canceled = true;
            state.call.take()
        };
        if let Some(call) = call {
            call.cancel();
        }
    }

    /// Whether the call was given up.
    #[must_use]
    pub fn is_canceled(&self) -> bool {
        self.state.lock().canceled
    }

    /// Forgets how the last call went, so that another can begin. What was set for calls stays:
    /// timeout, deadline, metadata, trace, and whether they are idempotent.
    pub fn reset(&mut self) {
        let mut state = self.state.lock();
        state.error = None;
        state.reply_metadata = Metadata::new();
        state.canceled = false;
    }

    /// A call begins.
    pub(crate) fn begin(&self) -> Result<Terms, RpcError> {
        let mut state = self.state.lock();
        state.error = None;
        state.reply_metadata = Metadata::new();
        state.serial += 1;
        (state.abandoned, state.step, state.call) = (false, 0, None);
        if state.canceled {
            let text = "the controller was cancelled before the call began";
            return Err(RpcError::new(Code::Cancelled, text));
        }
        let mut timeout = state.timeout;
        if let Some(deadline) = state.deadline {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let text = "the deadline had passed before the call began";
                return Err(RpcError::new(Code::DeadlineExceeded, text));
            }
            timeout = Some(timeout.map_or(left, |timeout| timeout.min(left)));
        }
        if timeout.is_some_and(|timeout| timeout.is_zero()) {
            let text = "the call was given no time";
            return Err(RpcError::new(Code::DeadlineExceeded, text));
        }
        Ok(Terms {
            serial: state.serial,
            timeout,
            metadata: state.metadata.clone(),
            trace: state.trace,
            idempotent: state.idempotent,
            watched: true,
        })
    }

    /// Whether anybody else has a handle on it.
    pub(crate) fn is_shared(&mut self) -> bool {
        Arc::get_mut(&mut self.state).is_none()
    }

    /// The call is under way. `step` is above that of whatever it was before.
    pub(crate) fn attach(&self, serial: u64, step: u32, call: Attached) {
        let mut state = self.state.lock();
        if (serial, step) < (state.serial, state.step) {
            // It has gone on already, on another thread.
            return;
        }
        if state.canceled || state.abandoned {
            // Between its beginning and now.
            drop(state);
            call.cancel();
            return;
        }
        state.step = step;
        state.call = Some(call);
    }

    /// Whether nobody wants the call any more.
    pub(crate) fn was_given_up(&self, serial: u64) -> bool {
        let state = self.state.lock();
        state.serial == serial && (state.canceled || state.abandoned)
    }

    /// Nobody waits for the call any more.
    pub(crate) fn abandon(&self, serial: u64) {
        let call = {
            let mut state = self.state.lock();
            if state.serial != serial {
                return;
            }
            state.abandoned = true;
            state.call.take()
        };
        if let Some(call) = call {
            call.cancel();
        }
    }

    /// The call has ended.
    pub(crate) fn end(&self, error: Option<&RpcError>, reply_metadata: Metadata) {
        let mut state = self.state.lock();
        state.call = None;
        state.error = error.cloned();
        state.reply_metadata = reply_metadata;
    }
}

impl fmt::Debug for RpcController {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state.lock();
        f.debug_struct("RpcController")
            .field("timeout", &state.timeout)
            .field("deadline", &state.deadline)
            .field("error", &state.error)
            .field("canceled", &state.canceled)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use crate::reply::{Done, ReplySlot};
    use crate::service::{MethodDescriptor, Service};
    use crate::{ProviderOptions, RpcChannel, RpcProvider};

    use super::*;

    static GATHER: MethodDescriptor = MethodDescriptor {
        service: "Gatherer",
        method: "Gather",
    };

    /// Answers with how many callbacks its nested calls have left.
    struct Gatherer;

    impl Service for Gatherer {
        fn name(&self) -> &'static str {
            GATHER.service
        }

        fn methods(&self) -> &'static [&'static str] {
            const METHODS: [&str; 1] = [GATHER.method];
            &METHODS
        }

        fn call(&self, _method: usize, context: RpcContext, _args: Bytes, reply: ReplySlot) {
            for _ in 0..1000 {
                drop(RpcController::within(&context));
            }
            Done::new(reply).run(context.call.callbacks() as u64);
        }
    }

    #[test]
    fn controllers_that_are_gone_leave_nothing_with_the_call_they_were_made_within() {
        let options = ProviderOptions {
            threads: 1,
            ..ProviderOptions::default()
        };
        let mut provider = RpcProvider::new(options);
        provider.notify_service(Gatherer).unwrap();
        let server = provider.start("127.0.0.1:0").unwrap();
        let channel = RpcChannel::new(server.local_addr());
        let left: u64 = channel
            .call(&GATHER, &mut RpcController::new(), &())
            .unwrap();
        assert!(left <= 8, "{left} are left");
    }
}
