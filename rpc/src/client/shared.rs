//! What the callers of a channel and its driver on the event loop share; one for each address.
//!
//! ```text
//!  callers, any thread                        driver, the loop's thread
//!  ───────────────────                        ─────────────────────────
//!  encode into Queue::output  ── short lock ──►  swap the queue out, one write
//!  push onto Queue::calls        at most one     ids ─► InFlight ─► reply ─► completion
//!                                wake
//! ```

use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use prost::Message;
use tracing::Span;
use tracing::field::Empty;

use super::loan::{Borrowed, Loans};
use super::options::ChannelOptions;
use super::pending::{Completion, Ended, Pending};
use super::state::ChannelState;
use crate::error::{Code, RpcError};
use crate::handover::{Tray, TrayGuard};
use crate::metadata::Metadata;
use crate::reactor::{self, LoopHandle, Post, SourceId, WAIT_MAX};
use crate::service::MethodDescriptor;
use crate::trace::{TraceContext, are_spans_wanted};
use crate::wire::{
    METADATA_ENTRIES_MAX, OutputQueue, RequestHead, RequestKind, put_request, request_len,
};

pub(crate) struct ChannelShared {
    pub(super) addr: SocketAddr,
    /// Without the event loops: the loop's own half must not prolong their life.
    pub(super) options: ChannelOptions,
    pub(super) handle: Arc<LoopHandle>,
    /// Its taker is the driver. It is told when it is there: its first look needs no notice.
    queue: Tray<Queue>,
    /// The connection, while callers drive it.
    pub(super) loans: Loans,
    /// Calls under way. Incremented by callers, decremented when a call ends.
    in_flight: AtomicUsize,
    /// Request bytes that the socket has not taken.
    pub(super) unsent_bytes: AtomicUsize,
    /// The server failed, and has not answered since.
    down: AtomicBool,
    state: Mutex<ChannelState>,
    /// Runs on the loop's thread when the state has changed.
    on_change: Box<dyn Fn() + Send + Sync>,
}

/// What a call says besides its arguments.
pub(super) struct Request<'a> {
    pub(super) method: &'static MethodDescriptor,
    /// `None`: it may take for ever.
    pub(super) timeout: Option<Duration>,
    pub(super) metadata: &'a Metadata,
    pub(super) trace: Option<&'a TraceContext>,
    /// What the server may send of a stream; 0: the reply is no stream.
    pub(super) credit: u32,
}

/// A call that the driver has not seen yet.
pub(super) struct Queued {
    pub(super) id: u64,
    pub(super) frame_bytes: usize,
    pub(super) pending: Pending,
}

/// Left by callers, taken by the driver. Bounded by `max_in_flight` and `max_unsent_bytes`.
#[derive(Default)]
struct Queue {
    output: OutputQueue,
    calls: Vec<Queued>,
    cancels: Vec<u64>,
    /// At most two for each window that a stream has consumed.
    credits: Vec<(u64, u32)>,
    /// The last handle of the channel was dropped.
    closed: bool,
    /// Until then calls fail at once, for this reason.
    down: Option<(Instant, String)>,
    /// The driver on its loop, once it is there.
    source: Option<SourceId>,
    last_id: u64,
}

impl ChannelShared {
    pub(super) fn new(
        addr: SocketAddr,
        options: ChannelOptions,
        handle: Arc<LoopHandle>,
        on_change: impl Fn() + Send + Sync + 'static,
    ) -> ChannelShared {
        ChannelShared {
            addr,
            options: ChannelOptions {
                loops: None,
                ..options
            },
            handle,
            queue: Tray::told(Queue::default()),
            loans: Loans::new(),
            in_flight: AtomicUsize::new(0),
            unsent_bytes: AtomicUsize::new(0),
            down: AtomicBool::new(false),
            state: Mutex::new(ChannelState::Idle),
            on_change: Box::new(on_change),
        }
    }

    /// Queues a call and returns its id. Where the connection is [lent](super::loan) to whoever
    /// waits for a call, the caller of a blocking one gets it along, and has to drive it.
    ///
    /// # Errors
    /// Gives the completion back, together with the reason, when the call cannot begin. No server
    /// has seen it then.
    pub(super) fn begin(
        &self,
        request: &Request<'_>,
        args: &impl Message,
        completion: Completion,
    ) -> Result<(u64, Option<Borrowed<'_>>), (Completion, RpcError)> {
        let args_len = args.encoded_len();
        let limit = self.options.limits.max_body_bytes;
        let Some(args_size) = u32::try_from(args_len).ok().filter(|&size| size <= limit) else {
            let text = format!(
                "arguments of {args_len} bytes are over the limit of {limit} (Limits::max_body_bytes)"
            );
            return Err((completion, RpcError::new(Code::InvalidArgument, text)));
        };
        let timeout = request.timeout.map(|timeout| timeout.min(WAIT_MAX));
        let mut head = RequestHead::call(request.method, args_size, 0, timeout_ms(timeout));
        head.credit = request.credit;
        head.metadata = Cow::Borrowed(request.metadata);
        if let Some(trace) = request.trace {
            head.traceparent = Cow::Owned(trace.to_string());
        }
        let mut pending = Pending::new(Some(request.method), completion);
        pending.timeout = timeout;
        pending.span = self.span_of(request);
        let mut borrowed = if pending.is_blocking() {
            self.loans.borrow(self)
        } else {
            None
        };
        let id = self.queue_frame(head, args, pending, &mut borrowed)?;
        Ok((id, borrowed))
    }

    /// The span of a call, within the caller's own: an atomic load, if nobody listens.
    fn span_of(&self, request: &Request<'_>) -> Option<Box<Span>> {
        if !are_spans_wanted() {
            return None;
        }
        let MethodDescriptor { service, method } = request.method;
        let span = tracing::debug_span!(
            target: "rpc.client", "rpc.client", service, method, trace_id = Empty, span_id = Empty,
            peer = %self.addr
        );
        if span.is_disabled() {
            return None;
        }
        if let Some(trace) = request.trace {
            span.record("trace_id", format_args!("{:032x}", trace.trace_id()));
            span.record("span_id", format_args!("{:016x}", trace.span_id()));
        }
        Some(Box::new(span))
    }

    /// Queues a ping, which ends like a call: when it is answered, at its deadline, or with its
    /// connection.
    ///
    /// # Errors
    /// As those of [`begin`](ChannelShared::begin).
    pub(super) fn begin_ping(
        &self,
        timeout: Duration,
        completion: Completion,
    ) -> Result<u64, (Completion, RpcError)> {
        let mut pending = Pending::new(None, completion);
        pending.timeout = Some(timeout.min(WAIT_MAX));
        let head = RequestHead::control(RequestKind::Ping, 0, 0);
        self.queue_frame(head, &(), pending, &mut None)
    }

    /// Gives a frame its id and queues it, unless a bound forbids: at the borrowed connection, if
    /// there is one and nothing waits for the driver, or else for the driver, and then nothing is
    /// borrowed any more.
    fn queue_frame(
        &self,
        mut head: RequestHead<'_>,
        args: &impl Message,
        pending: Pending,
        borrowed: &mut Option<Borrowed<'_>>,
    ) -> Result<u64, (Completion, RpcError)> {
        let mut queue = self.queue.lock();
        if let Err(error) = self.check_may_begin(&queue, pending.begun) {
            drop(queue);
            return Err((pending.into_completion(), error));
        }
        let id = queue.last_id + 1;
        head.request_id = id;
        let frame_bytes = request_len(&head);
        if let Err(error) = self.check_room(&head, frame_bytes) {
            drop(queue);
            return Err((pending.into_completion(), error));
        }
        queue.last_id = id;
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        self.unsent_bytes.fetch_add(frame_bytes, Ordering::Relaxed);
        let queued = Queued {
            id,
            frame_bytes,
            pending,
        };
        if let Some(borrowed) = borrowed.as_mut().filter(|_| !queue.is_told()) {
            drop(queue);
            let connection = borrowed.connection();
            connection
                .output()
                .push_frame(frame_bytes, |out| put_request(out, &head, args));
            connection.add(queued);
            return Ok(id);
        }
        queue.output.push_frame(frame_bytes, |out| {
            put_request(out, &head, args);
        });
        queue.calls.push(queued);
        self.notify(queue);
        *borrowed = None;
        Ok(id)
    }

    fn check_may_begin(&self, queue: &TrayGuard<'_, Queue>, now: Instant) -> Result<(), RpcError> {
        if queue.is_closed() {
            let text = "the channel's event loop gave it up";
            return Err(RpcError::new(Code::Internal, text));
        }
        if let Some((until, reason)) = &queue.down
            && now < *until
        {
            let left = until.duration_since(now).as_millis();
            let text = format!("{} is down: {reason}; next attempt in {left} ms", self.addr);
            return Err(RpcError::new(Code::Unavailable, text));
        }
        Ok(())
    }

    fn check_room(&self, head: &RequestHead<'_>, frame_bytes: usize) -> Result<(), RpcError> {
        let in_flight_max = self.options.max_in_flight;
        if self.in_flight.load(Ordering::Relaxed) >= in_flight_max {
            let text = format!(
                "{in_flight_max} calls to {} are under way (ChannelOptions::max_in_flight)",
                self.addr
            );
            return Err(RpcError::new(Code::ResourceExhausted, text));
        }
        let head_bytes = frame_bytes - head.args_size as usize;
        let head_max = self.options.limits.max_header_bytes as usize;
        if head_bytes > head_max {
            let text = format!(
                "a header of {head_bytes} bytes, metadata included, is over the limit of {head_max} \
                 (Limits::max_header_bytes)"
            );
            return Err(RpcError::new(Code::InvalidArgument, text));
        }
        let entries = head.metadata.len();
        if entries > METADATA_ENTRIES_MAX {
            let text = format!(
                "{entries} entries of metadata are over the limit of {METADATA_ENTRIES_MAX}"
            );
            return Err(RpcError::new(Code::InvalidArgument, text));
        }
        let unsent_max = self.options.max_unsent_bytes;
        let unsent = self.unsent_bytes.load(Ordering::Relaxed);
        if unsent > 0 && unsent.saturating_add(frame_bytes) > unsent_max {
            let text = format!(
                "{unsent} bytes to {} are unsent (ChannelOptions::max_unsent_bytes is {unsent_max})",
                self.addr
            );
            return Err(RpcError::new(Code::ResourceExhausted, text));
        }
        Ok(())
    }

    /// Asks the driver to give a call up, if it is still under way.
    pub(crate) fn cancel(&self, id: u64) {
        let mut queue = self.queue.lock();
        queue.cancels.push(id);
        self.notify(queue);
    }

    /// Asks the driver to let the server send more of a stream.
    pub(super) fn return_credit(&self, id: u64, credit: u32) {
        let mut queue = self.queue.lock();
        queue.credits.push((id, credit));
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

    /// Has the driver look, whether it was told already or not.
    pub(super) fn notify_driver(&self) {
        let source = self.queue.lock().source;
        if let Some(source) = source {
            // A loop that has ended has dropped the driver.
            let _ = self.handle.post(Post::Notify(source));
        }
    }

    fn notify(&self, queue: TrayGuard<'_, Queue>) {
        let source = queue.source;
        if !queue.tell() {
            return;
        }
        let source = source.expect("a driver that has looked has said where it is");
        // A loop that has ended has dropped the driver, which ends what is queued.
        let _ = self.handle.post(Post::Notify(source));
    }

    /// What is known about the way to the server.
    pub(super) fn state(&self) -> ChannelState {
        self.state.lock().clone()
    }

    /// Whether the server failed and has not answered since.
    pub(super) fn is_down(&self) -> bool {
        self.down.load(Ordering::Relaxed)
    }

    /// For how long calls will fail at once.
    pub(super) fn pause_left(&self) -> Duration {
        let until = self.queue.lock().down.as_ref().map(|(until, _)| *until);
        until.map_or(Duration::ZERO, |until| {
            until.saturating_duration_since(Instant::now())
        })
    }

    // ---- for the driver

    /// Says where the driver is.
    pub(super) fn set_source(&self, source: SourceId) {
        self.queue.lock().source = Some(source);
    }

    /// The driver is going to [take](ChannelShared::take) what callers left: until then they need
    /// not tell it.
    pub(super) fn will_take(&self) {
        self.queue.will_look();
    }

    /// Takes what callers left.
    pub(super) fn take(&self, output: &mut OutputQueue, calls: &mut Vec<Queued>) -> Taken {
        debug_assert!(calls.is_empty());
        let mut queue = self.queue.look();
        output.append(&mut queue.output);
        std::mem::swap(&mut queue.calls, calls);
        Taken {
            cancels: std::mem::take(&mut queue.cancels),
            credits: std::mem::take(&mut queue.credits),
            closed: queue.closed,
        }
    }

    /// The driver goes. Unless the channel was closed that is our bug; still nobody waits in vain:
    /// calls that are queued end here, and none can be begun any more.
    pub(super) fn abandon(&self) {
        self.loans.abandon();
        let orphans = std::mem::take(&mut self.queue.close().calls);
        drop(orphans);
    }

    /// Makes calls fail at once until then.
    pub(super) fn set_down(&self, until: Instant, reason: String) {
        self.queue.lock().down = Some((until, reason.clone()));
        self.down.store(true, Ordering::Relaxed);
        self.set_state(ChannelState::Down { reason });
    }

    /// Why calls fail at once, if they do.
    pub(super) fn down_reason(&self, now: Instant) -> Option<String> {
        let queue = self.queue.lock();
        let (until, reason) = queue.down.as_ref()?;
        (now < *until).then(|| reason.clone())
    }

    /// A connection has brought its first words.
    pub(super) fn answered(&self) {
        let was_down = self.queue.lock().down.take().is_some();
        self.down.store(false, Ordering::Relaxed);
        if was_down {
            tracing::info!(peer = %self.addr, "server is back");
        }
        self.set_state(ChannelState::Ready);
    }

    /// Says what has become of the connection, and tells whoever wants to know of changes.
    pub(super) fn set_state(&self, state: ChannelState) {
        let mut current = self.state.lock();
        if *current == state {
            return;
        }
        *current = state;
        drop(current);
        (self.on_change)();
    }

    /// Ends a call.
    pub(super) fn end(&self, pending: Pending, ended: Ended) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
        Self::log(&pending, &ended);
        pending.finish(ended);
    }

    /// One event a call, in its span.
    fn log(pending: &Pending, ended: &Ended) {
        let Some(span) = &pending.span else {
            return;
        };
        let code = match &ended.result {
            Ok(_) => Code::Ok,
            Err(error) => error.code(),
        };
        let elapsed = reactor::now().saturating_duration_since(pending.begun);
        span.in_scope(|| {
            tracing::debug!(
                target: "rpc.client",
                code = code.name(), elapsed_us = elapsed.as_micros(), "call ended"
            );
        });
    }
}

/// A timeout as it travels: rounded up, so that a short one does not look like none.
pub(super) fn timeout_ms(timeout: Option<Duration>) -> u32 {
    timeout.map_or(0, |timeout| {
        u32::try_from(timeout.as_micros().div_ceil(1000))
            .expect("the longest timeout fits")
            .max(1)
    })
}

/// What [`ChannelShared::take`] found besides calls.
pub(super) struct Taken {
    pub(super) cancels: Vec<u64>,
    pub(super) credits: Vec<(u64, u32)>,
    pub(super) closed: bool,
}
