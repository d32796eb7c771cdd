//! [`RpcController`]: one call's knobs and outcome, with protobuf's face.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use crate::error::{Code, RpcError};

/// Steers one call and tells how it ended.
///
/// A clone is a handle on the same call: keep one, give the other to the call, and cancel it from
/// any thread. One controller serves one call at a time; [`reset`](RpcController::reset) makes it
/// ready for another.
#[derive(Clone, Debug, Default)]
pub struct RpcController {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    timeout: Option<Duration>,
    error: Option<RpcError>,
    canceled: bool,
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

    /// Gives the call up: it ends with `CANCELLED` as soon as its event loop hears of it.
    pub fn start_cancel(&self) {
        self.state.lock().canceled = true;
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
}
