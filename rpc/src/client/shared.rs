//! What the callers of a channel and its driver on the event loop share.
//!
//! ```text
//!  callers, any thread                        driver, the loop's thread
//!  ───────────────────                        ─────────────────────────
//!  encode into Queue::output  ── short lock ──►  swap the queue out, one write
//!  push onto Queue::calls        at most one     ids ─► InFlight ─► reply ─► completion
//!                                wake
//! ```

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use prost::Message;

use super::options::ChannelOptions;
use super::pending::{Completion, Pending};
use crate::error::{Code, RpcError};
use crate::reactor::{LoopHandle, Post, SourceId, WAIT_MAX};
use crate::service::MethodDescriptor;
use crate::wire::{OutputQueue, put_request, request_len};

pub(crate) struct ChannelShared {
    pub(super) addr: SocketAddr,
    /// Without the event loops: the loop's own half must not prolong their life.
    pub(super) options: ChannelOptions,
    pub(super) handle: Arc<LoopHandle>,
    queue: Mutex<Queue>,
    /// Calls under way. Incremented by callers, decremented when a call ends.
    pub(super) in_flight: AtomicUsize,
    /// Request bytes that the socket has not taken.
    pub(super) unsent_bytes: AtomicUsize,
}

/// A call that the driver has not seen yet.
pub(super) struct Queued {
    pub(super) id: u64,
    pub(super) frame_bytes: usize,
    pub(super) deadline: Instant,
    pub(super) pending: Pending,
}

/// Left by callers, taken by the driver. Bounded by `max_in_flight` and `max_unsent_bytes`.
#[derive(Default)]
pub(super) struct Queue {
    pub(super) output: OutputQueue,
    pub(super) calls: Vec<Queued>,
    pub(super) cancels: Vec<u64>,
    /// The last handle of the channel was dropped.
    pub(super) closed: bool,
    /// Until then calls fail at once, for this reason.
    pub(super) down: Option<(Instant, String)>,
    /// The driver is gone, and nobody would end a call.
    abandoned: bool,
    /// The driver on its loop, once it is there.
    source: Option<SourceId>,
    /// The driver was told to look, or has not started yet, and has not looked since.
    notified: bool,
    last_id: u64,
}

impl ChannelShared {
    pub(super) fn new(
        addr: SocketAddr,
        options: ChannelOptions,
        handle: Arc<LoopHandle>,
    ) -> ChannelShared {
        ChannelShared {
            addr,
            options: ChannelOptions {
                loops: None,
                ..options
            },
            handle,
            queue: Mutex::new(Queue {
                notified: true,
                ..Queue::default()
            }),
            in_flight: AtomicUsize::new(0),
            unsent_bytes: AtomicUsize::new(0),
        }
    }

    /// Queues a call and returns its id.
    ///
    /// # Errors
    /// Gives the completion back, together with the reason, when the call cannot begin. No server
    /// has seen it then.
    pub(super) fn begin(
        &self,
        method: &'static MethodDescriptor,
        timeout: Option<Duration>,
        args: &impl Message,
        completion: Completion,
    ) -> Result<u64, (Completion, RpcError)> {
        let refuse = |code, text| RpcError::new(code, text);
        let args_len = args.encoded_len();
        let limit = self.options.limits.max_body_bytes;
        let Some(args_size) = u32::try_from(args_len).ok().filter(|&size| size <= limit) else {
            let text = format!(
                "arguments of {args_len} bytes are over the limit of {limit} (Limits::max_body_bytes)"
            );
            return Err((completion, refuse(Code::InvalidArgument, text)));
        };
        let timeout = timeout
            .unwrap_or(self.options.default_timeout)
            .min(WAIT_MAX);
        let now = Instant::now();
        let timeout_ms = u32::try_from(timeout.as_micros().div_ceil(1000))
            .expect("the longest timeout fits")
            .max(1);

        let mut queue = self.queue.lock();
        if queue.abandoned {
            drop(queue);
            let text = "the channel's event loop gave it up";
            return Err((completion, RpcError::new(Code::Internal, text)));
        }
        if let Some((until, reason)) = &queue.down
            && now < *until
        {
            let left = until.duration_since(now).as_millis();
            let text = format!("{} is down: {reason}; next attempt in {left} ms", self.addr);
            drop(queue);
            return Err((completion, refuse(Code::Unavailable, text)));
        }
        let in_flight_max = self.options.max_in_flight;
        if self.in_flight.load(Ordering::Relaxed) >= in_flight_max {
            drop(queue);
            let text = format!(
                "{in_flight_max} calls to {} are under way (ChannelOptions::max_in_flight)",
                self.addr
            );
            return Err((completion, refuse(Code::ResourceExhausted, text)));
        }
        let id = queue.last_id + 1;
        let frame_bytes = request_len(method, args_size, id, timeout_ms);
        let unsent_max = self.options.max_unsent_bytes;
        let unsent = self.unsent_bytes.load(Ordering::Relaxed);
        if unsent > 0 && unsent.saturating_add(frame_bytes) > unsent_max {
            drop(queue);
            let text = format!(
                "{unsent} bytes to {} are unsent (ChannelOptions::max_unsent_bytes is {unsent_max})",
                self.addr
            );
            return Err((completion, refuse(Code::ResourceExhausted, text)));
        }
        queue.last_id = id;
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        self.unsent_bytes.fetch_add(frame_bytes, Ordering::Relaxed);
        queue.output.push_frame(frame_bytes, |out| {
            put_request(out, method, args_size, id, timeout_ms, args);
        });
        let pending = Pending::new(completion, timeout);
        queue.calls.push(Queued {
            id,
            frame_bytes,
            deadline: now + timeout,
            pending,
        });
        self.notify(queue);
        Ok(id)
    }

    /// Asks the driver to give a call up, if it is still under way.
    pub(crate) fn cancel(&self, id: u64) {
        let mut queue = self.queue.lock();
        queue.cancels.push(id);
        self.notify(queue);
    }

    /// How many calls are under way.
    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// The last handle is gone.
    pub(super) fn close(&self) {
        let mut queue = self.queue.lock();
        queue.closed = true;
        self.notify(queue);
    }

    fn notify(&self, mut queue: parking_lot::MutexGuard<'_, Queue>) {
        if std::mem::replace(&mut queue.notified, true) {
            return;
        }
        let source = queue
            .source
            .expect("a driver that has looked has said where it is");
        drop(queue);
        // A loop that has ended has dropped the driver, which ends what is queued.
        let _ = self.handle.post(Post::Notify(source));
    }

    // ---- for the driver

    /// Says where the driver is.
    pub(super) fn set_source(&self, source: SourceId) {
        self.queue.lock().source = Some(source);
    }

    /// Takes what callers left.
    pub(super) fn take(&self, output: &mut OutputQueue, calls: &mut Vec<Queued>) -> Taken {
        debug_assert!(calls.is_empty());
        let mut queue = self.queue.lock();
        queue.notified = false;
        output.append(&mut queue.output);
        std::mem::swap(&mut queue.calls, calls);
        Taken {
            cancels: std::mem::take(&mut queue.cancels),
            closed: queue.closed,
        }
    }

    /// The driver goes. Unless the channel was closed that is our bug; still nobody waits in vain:
    /// calls that are queued end here, and none can be begun any more.
    pub(super) fn abandon(&self) {
        let orphans = {
            let mut queue = self.queue.lock();
            queue.abandoned = true;
            std::mem::take(&mut queue.calls)
        };
        drop(orphans);
    }

    /// Makes calls fail at once until then; `None`: not any more.
    pub(super) fn set_down(&self, down: Option<(Instant, String)>) {
        self.queue.lock().down = down;
    }
}

/// What [`ChannelShared::take`] found besides calls.
pub(super) struct Taken {
    pub(super) cancels: Vec<u64>,
    pub(super) closed: bool,
}
