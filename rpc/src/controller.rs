//! [`RpcController`]: one call's knobs and outcome, with protobuf's face.

use std::fmt;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;

use crate::client::ChannelShared;
use crate::error::{Code, RpcError};

/// Steers one call and tells how it ended.
///
/// A clone is a handle on the same call: keep one, give the other to the call, and cancel it from
/// any thread. One controller serves one call at a time; [`reset`](RpcController::reset) makes it
/// ready for another.
#[derive(Clone, Default)]
pub struct RpcController {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    timeout: Option<Duration>,
    error: Option<RpcError>,
    canceled: bool,
    /// The call under way: its channel and its id there.
    call: Option<(Weak<ChannelShared>, u64)>,
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

    /// Sets the time that the next call may take, from its start to its end.
    pub fn set_timeout(&self, timeout: Duration) {
        self.state.lock().timeout = Some(timeout);
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

    /// Gives the call up: it ends with `CANCELLED` as soon as its event loop hears of it, unless
    /// it ends by itself before. The server is not told. A call that is begun later with this
    /// controller fails at once, until [`reset`](RpcController::reset).
    pub fn start_cancel(&self) {
        let call = {
            let mut state = self.state.lock();
            state.canceled = true;
            state.call.take()
        };
        if let Some((channel, id)) = call
            && let Some(channel) = channel.upgrade()
        {
            channel.cancel(id);
        }
    }

    /// Whether the call was given up.
    #[must_use]
    pub fn is_canceled(&self) -> bool {
        self.state.lock().canceled
    }

    /// Makes the controller as new, keeping its timeout.
    pub fn reset(&mut self) {
        let mut state = self.state.lock();
        state.error = None;
        state.canceled = false;
    }

    /// A call begins. Returns the timeout that was set.
    pub(crate) fn begin(&self) -> Result<Option<Duration>, RpcError> {
        let mut state = self.state.lock();
        state.error = None;
        if state.canceled {
            let text = "the controller was cancelled before the call began";
            return Err(RpcError::new(Code::Cancelled, text));
        }
        Ok(state.timeout)
    }

    /// The call is under way.
    pub(crate) fn attach(&self, channel: &Arc<ChannelShared>, id: u64) {
        let mut state = self.state.lock();
        if !state.canceled {
            state.call = Some((Arc::downgrade(channel), id));
            return;
        }
        // Cancelled between its beginning and now.
        drop(state);
        channel.cancel(id);
    }

    /// The call has ended.
    pub(crate) fn end(&self, error: Option<&RpcError>) {
        let mut state = self.state.lock();
        state.call = None;
        state.error = error.cloned();
    }
}

impl fmt::Debug for RpcController {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state.lock();
        f.debug_struct("RpcController")
            .field("timeout", &state.timeout)
            .field("error", &state.error)
            .field("canceled", &state.canceled)
            .finish_non_exhaustive()
    }
}
