//! [`Flow`]: what holds the items of one call back, until its caller and its connection take more.

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

use super::book::{Callback, run_all};
use super::room::Room;
use super::sync::{Condvar, Mutex};
use crate::error::{Code, RpcError};
use crate::stream::StreamError;

/// What an item costs besides its bytes, so that empty ones are not free.
pub(crate) const ITEM_CREDIT: u32 = 16;

/// The credit of a call that brings none, in bytes.
const DEFAULT_CREDIT: u32 = 64 << 10;

/// What holds the items of one call back.
#[derive(Debug)]
pub(crate) struct Flow {
    state: Mutex<FlowState>,
    changed: Condvar,
}

struct FlowState {
    /// Bytes that the caller is ready to hold; the last item may overdraw it.
    credit: i64,
    /// The connection had no room. It says when it has.
    stalled: bool,
    closed: Option<RpcError>,
    /// It is closed because a sender has waited too long.
    given_up: bool,
    waiting: VecDeque<Callback>,
    items: u64,
    bytes: usize,
}

impl FlowState {
    fn is_ready(&self) -> bool {
        self.closed.is_some() || (self.credit > 0 && !self.stalled)
    }
}

impl Flow {
    /// A stream whose caller is ready to hold `credit` bytes; 0: it did not say.
    pub(crate) fn new(credit: u32) -> Flow {
        let credit = match credit {
            0 => DEFAULT_CREDIT,
            credit => credit,
        };
        Flow {
            state: Mutex::new(FlowState {
                credit: credit.into(),
                stalled: false,
                closed: None,
                given_up: false,
                waiting: VecDeque::new(),
                items: 0,
                bytes: 0,
            }),
            changed: Condvar::default(),
        }
    }

    /// Takes credit and room for an item of so many bytes, and so many with its head.
    pub(crate) fn take(
        &self,
        body_size: u32,
        frame_bytes: usize,
        room: &Room,
    ) -> Result<(), StreamError> {
        let mut state = self.state.lock();
        if let Some(error) = &state.closed {
            return Err(StreamError::Closed(error.clone()));
        }
        if state.credit <= 0 {
            return Err(StreamError::WouldBlock);
        }
        state.stalled = !room.reserve(frame_bytes);
        if state.stalled {
            return Err(StreamError::WouldBlock);
        }
        state.credit -= i64::from(body_size) + i64::from(ITEM_CREDIT);
        state.items += 1;
        state.bytes += body_size as usize;
        Ok(())
    }

    /// Waits until an item can be sent or the stream is closed. After `longest` it closes it.
    pub(crate) fn wait(&self, longest: Duration) {
        let in_vain = |state: &mut FlowState| !state.is_ready();
        if self
            .changed
            .wait_while_for(self.state.lock(), in_vain, longest)
        {
            return;
        }
        self.change(|state| {
            if !state.is_ready() {
                let text = format!(
                    "the caller took no item for {} ms (ProviderOptions::stream_stall_timeout)",
                    longest.as_millis()
                );
                let error = RpcError::new(Code::ResourceExhausted, text);
                state.closed = Some(error.with_may_have_executed(true));
                state.given_up = true;
            }
        });
    }

    pub(crate) fn on_ready(&self, callback: Callback) {
        {
            let mut state = self.state.lock();
            if !state.is_ready() {
                state.waiting.push_back(callback);
                return;
            }
        }
        callback();
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.state.lock().closed.is_some()
    }

    /// Why the stream is closed, if a sender has waited too long.
    pub(crate) fn given_up(&self) -> Option<RpcError> {
        let state = self.state.lock();
        state.closed.clone().filter(|_| state.given_up)
    }

    /// Items sent, and their bytes.
    pub(crate) fn sent(&self) -> (u64, usize) {
        let state = self.state.lock();
        (state.items, state.bytes)
    }

    // ---- for the connection, on its loop's thread

    /// The caller is ready to hold so many bytes more.
    pub(crate) fn add_credit(&self, credit: u32) {
        self.change(|state| state.credit = state.credit.saturating_add(credit.into()));
    }

    /// The connection has room again.
    pub(crate) fn has_room(&self) {
        self.change(|state| state.stalled = false);
    }

    /// Nobody waits for items any more. The first reason counts.
    pub(crate) fn close(&self, error: RpcError) {
        self.change(|state| {
            state.closed.get_or_insert(error);
        });
    }

    fn change(&self, change: impl FnOnce(&mut FlowState)) {
        let callbacks = {
            let mut state = self.state.lock();
            change(&mut state);
            if !state.is_ready() {
                return;
            }
            self.changed.notify_all();
            std::mem::take(&mut state.waiting)
        };
        run_all(callbacks);
    }
}

impl fmt::Debug for FlowState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FlowState")
            .field("credit", &self.credit)
            .field("stalled", &self.stalled)
            .field("closed", &self.closed)
            .finish_non_exhaustive()
    }
}
