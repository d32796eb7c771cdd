//! [`ReplyPath`]: the way back to one connection, from whatever thread.
//!
//! ```text
//!  on the loop's thread ──► Outbox (thread-local: no lock, no wake) ──┐
//!                                                                     ├─► one write a turn
//!  on another thread ──► Mailed (a short lock, one wake) ─────────────┘
//! ```
//!
//! A reply is encoded where it is given, once, straight into the bytes that will be sent.

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use prost::Message;

use super::book::{About, Asked, Book, Callback};
use super::call::Call;
use super::outbox::{Answer, EndedRun, Outbox, OutboxId, Replies, message_head};
use super::room::Room;
use super::shared::{ServeOptions, ServerShared};
use crate::error::{Code, RpcError};
use crate::handover::Tray;
use crate::interceptor::ServerInterceptor;
use crate::reactor::{LoopHandle, Post, SourceId};
use crate::stats::{ConnectionCells, ServerMeter};
use crate::wire::{ReplyHead, ReplyKind, frame_buffer, put_reply, reply_len};

/// Replies from this size on are encoded before the connection's lock is taken.
const LARGE_REPLY_BYTES: usize = 32 << 10;

/// What a connection shares with the handlers of its calls, on whatever thread they are.
pub(crate) struct ReplyPath {
    handle: Arc<LoopHandle>,
    /// The connection on that loop.
    source: SourceId,
    outbox: OutboxId,
    max_body_bytes: u32,
    stream_stall_timeout: Duration,
    pub(super) interceptors: Arc<[Arc<dyn ServerInterceptor>]>,
    pub(super) book: Book,
    /// What is counted of the connection, by its loop.
    pub(super) cells: ConnectionCells,
    /// What calls count in that end after it.
    meter: Arc<ServerMeter>,
    /// Replies that come when the connection is gone are dropped.
    mailed: Tray<Mailed>,
    room: Room,
    /// The peer's, in DER, if it was asked for one. There before the first call is begun.
    peer_certificate: OnceLock<Box<[u8]>>,
}

/// What other threads left for the connection.
#[derive(Debug, Default)]
struct Mailed {
    replies: Replies,
    orders: Orders,
}

/// What the connection is told besides replies.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Orders {
    /// The provider shuts down: finish by then.
    pub(super) drain_until: Option<Instant>,
    /// A call's deadline is earlier than all that the connection knows of.
    pub(super) new_deadline: bool,
}

impl ReplyPath {
    pub(super) fn new(
        handle: Arc<LoopHandle>,
        source: SourceId,
        server: &ServerShared,
        cells: ConnectionCells,
    ) -> ReplyPath {
        debug_assert!(handle.is_current(), "outboxes are the loop's thread's own");
        let outbox = OutboxId::open(source);
        let ServeOptions {
            limits,
            interceptors,
            stream_stall_timeout,
            ..
        } = &server.options;
        ReplyPath {
            handle,
            source,
            outbox,
            max_body_bytes: limits.max_body_bytes,
            stream_stall_timeout: *stream_stall_timeout,
            interceptors: Arc::clone(interceptors),
            book: Book::default(),
            cells,
            meter: Arc::clone(&server.meter),
            mailed: Tray::new(Mailed::default()),
            room: Room::new(limits.max_unsent_bytes),
            peer_certificate: OnceLock::new(),
        }
    }

    /// Says who the peer is.
    pub(super) fn set_peer_certificate(&self, certificate: &[u8]) {
        self.peer_certificate.get_or_init(|| certificate.into());
    }

    pub(super) fn peer_certificate(&self) -> Option<&[u8]> {
        self.peer_certificate
            .get()
            .map(|certificate| &**certificate)
    }

    /// The size of a message as it travels.
    ///
    /// # Errors
    /// It is over the limit.
    pub(super) fn body_size(&self, len: usize) -> Result<u32, RpcError> {
        let limit = self.max_body_bytes;
        u32::try_from(len)
            .ok()
            .filter(|&size| size <= limit)
            .ok_or_else(|| too_large(len, limit))
    }

    /// The largest message that travels, in bytes.
    pub(crate) fn max_body_bytes(&self) -> u32 {
        self.max_body_bytes
    }

    /// Answers a call with a message.
    pub(super) fn reply(&self, answer: &Answer, body: &impl Message, body_size: u32) {
        if self.handle.is_current() {
            self.add_here(|replies| replies.add_message(answer, body, body_size));
        } else if body_size as usize >= LARGE_REPLY_BYTES && answer.request_id != 0 {
            let frame = encoded(&message_head(answer, body_size), body);
            self.mail(|mailed| mailed.replies.add_frame(answer, frame));
        } else {
            self.mail(|mailed| mailed.replies.add_message(answer, body, body_size));
        }
    }

    /// Answers a call with a failure.
    pub(super) fn fail(&self, answer: &Answer, error: RpcError) {
        self.add(|replies| replies.add_error(answer, error));
    }

    /// Ends a stream, after the items that were sent on it.
    pub(super) fn end_stream(&self, answer: &Answer) {
        self.add(|replies| replies.add_end(answer));
    }

    /// Sends one item of a stream; [`room`](ReplyPath::room) was taken for its frame.
    pub(crate) fn send_item(&self, head: &ReplyHead<'_>, item: &impl Message) {
        let frame_bytes = reply_len(head);
        if frame_bytes < LARGE_REPLY_BYTES || self.handle.is_current() {
            self.add(|replies| replies.add_item(head, item, frame_bytes));
        } else {
            let frame = encoded(head, item);
            self.mail(|mailed| mailed.replies.add_item_frame(frame));
        }
    }

    /// Adds something that must not overtake what the same call sent before on another thread.
    fn add(&self, add: impl FnOnce(&mut Replies)) {
        if self.handle.is_current() {
            let mut before = std::mem::take(&mut self.mailed.lock().replies);
            self.add_here(|replies| {
                replies.append(&mut before);
                add(replies);
            });
        } else {
            self.mail(|mailed| add(&mut mailed.replies));
        }
    }

    /// Adds to the outbox, on the loop's thread.
    fn add_here(&self, add: impl FnOnce(&mut Replies)) {
        if let Err(ended) = self.outbox.add(add) {
            self.count_strays(&ended);
        }
    }

    /// Calls have ended after their connection.
    fn count_strays(&self, ended: &[EndedRun]) {
        for run in ended {
            let n = run.count.into();
            self.meter
                .strayed(run.method.position(), run.arrived, run.code, n);
        }
    }

    /// Tells the connection to finish what it has begun and to close.
    pub(super) fn drain(&self, until: Instant) {
        self.mail(|mailed| mailed.orders.drain_until = Some(until));
    }

    fn mail(&self, leave: impl FnOnce(&mut Mailed)) {
        let mut mailed = self.mailed.lock();
        leave(&mut mailed);
        if mailed.is_closed() {
            let replies = std::mem::take(&mut mailed.replies);
            drop(mailed);
            return self.count_strays(&replies.ended);
        }
        if mailed.tell() {
            // A loop that has ended has no connections.
            let _ = self.handle.post(Post::Notify(self.source));
        }
    }

    // ---- cancellation, see `Book`

    pub(super) fn is_canceled(&self, call: &Call) -> bool {
        self.book.ask(call) == Asked::Canceled
    }

    /// Leaves a callback, or gives it back to be run at once.
    pub(super) fn on_cancel(
        &self,
        call: &Call,
        callback: Callback,
        about: About,
    ) -> Option<Callback> {
        match self.book.on_cancel(call, callback, about) {
            Ok(false) | Err((Asked::Answered | Asked::Wanted, _)) => None,
            Ok(true) => {
                self.mail(|mailed| mailed.orders.new_deadline = true);
                None
            }
            Err((Asked::Canceled, callback)) => Some(callback),
        }
    }

    // ---- room for streams

    /// How long a stream's sender waits until it can send an item.
    pub(crate) fn stream_stall_timeout(&self) -> Duration {
        self.stream_stall_timeout
    }

    pub(crate) fn room(&self) -> &Room {
        &self.room
    }

    /// Notes what waits at the socket after a write. Streams that stopped for want of room go on
    /// when there is enough of it.
    pub(super) fn note_unsent(&self, unsent: usize) {
        if self.room.note_unsent(unsent) {
            for flow in self.book.flows() {
                flow.has_room();
            }
        }
    }

    // ---- for the connection, on its loop's thread

    /// Moves what other threads left to the outbox.
    pub(super) fn collect(&self) -> Orders {
        let (mut replies, orders) = {
            let mut mailed = self.mailed.look();
            (
                std::mem::take(&mut mailed.replies),
                std::mem::take(&mut mailed.orders),
            )
        };
        self.add_here(|outbox| outbox.append(&mut replies));
        orders
    }

    /// Looks into the outbox.
    pub(super) fn with_outbox<T>(&self, f: impl FnOnce(&mut Outbox) -> T) -> T {
        self.outbox
            .with(f)
            .expect("an outbox lives as long as its connection")
    }

    /// Has the connection flushed when the turn ends, as if it had been given a reply.
    pub(super) fn ask_for_flush(&self) {
        self.add_here(|_| {});
    }

    /// Sends a frame that belongs to no call.
    pub(super) fn send_control(&self, kind: ReplyKind, number: u64) {
        self.add_here(|replies| replies.add_control(kind, number));
    }

    /// The connection goes: its calls are cancelled, and later replies are dropped, as those are
    /// that have gathered.
    pub(super) fn close(&self) {
        let mailed = std::mem::take(&mut self.mailed.close().replies);
        let gathered = self.outbox.close().unwrap_or_default();
        for replies in [gathered, mailed] {
            self.count_strays(&replies.ended);
        }
        self.book.close();
    }
}

impl fmt::Debug for ReplyPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReplyPath")
            .field("source", &self.source)
            .field("book", &self.book)
            .field("room", &self.room)
            .finish_non_exhaustive()
    }
}

fn encoded(head: &ReplyHead<'_>, body: &impl Message) -> Vec<u8> {
    let mut frame = frame_buffer(reply_len(head));
    put_reply(&mut frame, head, Some(body));
    frame
}

fn too_large(len: usize, limit: u32) -> RpcError {
    let text = format!(
        "reply of {len} bytes is over the server's limit of {limit} (Limits::max_body_bytes)"
    );
    RpcError::new(Code::ResourceExhausted, text).with_may_have_executed(true)
}
