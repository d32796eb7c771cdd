//! Server streaming: [`RpcStream`], and what a channel does for the items of a stream.
//!
//! ```text
//!   server ──ITEM──► StreamCall ──► Sink: RpcStream's buffer ──► next(), on the caller's thread
//!                    │ counts         or a callback, at once              │
//!   server ◄─CREDIT──┴────────────── worth half the window ◄──────────────┘ consumed
//! ```
//!
//! The server may send items while it has credit; each costs its size and [`ITEM_CREDIT`]. Credit
//! is returned as items are consumed, so what waits for a slow consumer is at most the window and
//! the item that overdrew it.

use std::collections::VecDeque;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Weak};
use std::thread::{self, ThreadId};

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};
use prost::DecodeError;

use super::pending::Ended;
use super::shared::ChannelShared;
use crate::controller::RpcController;
use crate::error::{Code, RpcError};
use crate::reactor::on_group;
use crate::server::ITEM_CREDIT;
use crate::service::MethodDescriptor;

/// Smaller items are copied when they are kept: they are slices of buffers that they share with
/// other replies, which they would keep alive.
const SHARED_BYTES_MAX: usize = 64 << 10;

/// The channel's half of a streaming call.
pub(super) struct StreamCall {
    sink: Box<dyn Sink>,
    /// What the server may still send. Below 0 after an item that overdrew it.
    credit: i64,
    /// What was consumed at once.
    consumed: Consumed,
}

/// Where items go.
pub(super) trait Sink: Send {
    /// Takes an item, on the loop's thread. An error ends the stream, and the server hears of it.
    fn item(&mut self, origin: Origin<'_>, body: Bytes) -> Result<Taken, RpcError>;

    /// The stream has ended; nothing more comes.
    fn end(self: Box<Self>, ended: Ended);
}

/// The call that brings an item.
#[derive(Clone, Copy)]
pub(super) struct Origin<'a> {
    pub(super) channel: &'a Arc<ChannelShared>,
    pub(super) id: u64,
}

/// What became of an item.
pub(super) enum Taken {
    Consumed,
    /// The sink returns the credit itself, later.
    Kept,
}

impl StreamCall {
    /// A stream whose server may have `window` bytes on their way.
    pub(super) fn new(window: u32, sink: Box<dyn Sink>) -> StreamCall {
        StreamCall {
            sink,
            credit: i64::from(window),
            consumed: Consumed::new(window),
        }
    }

    /// Takes an item. Returns the credit to be returned to the server now, mostly 0.
    pub(super) fn item(&mut self, origin: Origin<'_>, body: Bytes) -> Result<u32, RpcError> {
        if self.credit <= 0 {
            let text = "the server sent more of the stream than it had credit for";
            return Err(RpcError::new(Code::Internal, text).with_may_have_executed(true));
        }
        let cost = cost_of(&body);
        self.credit -= i64::try_from(cost).unwrap_or(i64::MAX);
        let sink = &mut self.sink;
        match catch_unwind(AssertUnwindSafe(move || sink.item(origin, body))) {
            Ok(Ok(Taken::Kept)) => Ok(0),
            Ok(Ok(Taken::Consumed)) => Ok(self.consumed.add(cost)),
            Ok(Err(error)) => Err(error.with_may_have_executed(true)),
            Err(_) => {
                let text = "the callback for a stream's items panicked";
                Err(RpcError::new(Code::Internal, text).with_may_have_executed(true))
            }
        }
    }

    /// Hands an item to the sink that another stream has counted.
    pub(super) fn pass_on(&mut self, origin: Origin<'_>, body: Bytes) -> Result<Taken, RpcError> {
        self.sink.item(origin, body)
    }

    /// The server gets more credit.
    pub(super) fn grant(&mut self, credit: u32) {
        self.credit += i64::from(credit);
    }

    pub(super) fn end(self, mut ended: Ended) {
        if ended.result.as_ref().is_ok_and(|body| !body.is_empty()) {
            let text = "the server answered with a single reply: the method is not streaming there";
            let error = RpcError::new(Code::Internal, text);
            ended.result = Err(error.with_may_have_executed(true));
        }
        self.sink.end(ended);
    }
}

fn cost_of(body: &Bytes) -> u64 {
    u64::from(ITEM_CREDIT) + body.len() as u64
}

/// Counts consumed items until they are worth a frame.
struct Consumed {
    cost: u64,
    /// Credit is returned from this cost on.
    worth: u64,
}

impl Consumed {
    fn new(window: u32) -> Consumed {
        Consumed {
            cost: 0,
            worth: u64::from(window).div_ceil(2),
        }
    }

    /// Adds an item's cost. Returns the credit to be returned now, or 0.
    fn add(&mut self, cost: u64) -> u32 {
        self.cost += cost;
        if self.cost < self.worth {
            return 0;
        }
        let credit = u32::try_from(self.cost).unwrap_or(u32::MAX);
        self.cost -= u64::from(credit);
        credit
    }
}

/// Reads one item's bytes as what the caller wants.
pub(super) type Decode<R> = fn(Bytes) -> Result<R, DecodeError>;

pub(super) fn malformed(what: &str, method: &MethodDescriptor, error: &DecodeError) -> RpcError {
    let text = format!(
        "malformed {what} of {}.{}: {error}",
        method.service, method.method
    );
    RpcError::new(Code::Internal, text).with_may_have_executed(true)
}

/// The items of a streaming call, as a blocking iterator.
///
/// [`next`](Iterator::next) waits for an item, or for the end: `None` when the server has finished
/// the stream, one `Err` and then `None` when it failed. Dropped before that, it cancels the call.
/// On a thread of the channel's own event loops, where waiting would be waiting for itself, `next`
/// returns `INTERNAL` instead of waiting; the stream goes on.
///
/// What the server sends ahead is bounded by
/// [`ChannelOptions::stream_credit_bytes`](crate::ChannelOptions::stream_credit_bytes) and one
/// item.
pub struct RpcStream<R> {
    buffer: Arc<Buffer>,
    controller: RpcController,
    /// The call's number at its controller.
    serial: u64,
    method: &'static MethodDescriptor,
    decode: Decode<R>,
    /// The channel's loops.
    group: u64,
    consumed: Consumed,
    ended: bool,
}

/// What the loop's thread leaves for the consumer's.
#[derive(Default)]
struct Buffer {
    state: Mutex<Buffered>,
    changed: Condvar,
}

#[derive(Default)]
struct Buffered {
    items: VecDeque<Bytes>,
    end: Option<Result<(), RpcError>>,
    /// The call that brings the items, once it has brought one.
    origin: Option<(Weak<ChannelShared>, u64)>,
    /// Nobody will take items any more.
    dropped: bool,
    /// The call is beginning, on this thread.
    opener: Option<ThreadId>,
    /// It ended on that thread, at once.
    could_not_begin: bool,
}

/// What makes a [`RpcStream`], and the sink that feeds it.
pub(super) struct StreamParts<R> {
    pub(super) controller: RpcController,
    pub(super) serial: u64,
    pub(super) method: &'static MethodDescriptor,
    pub(super) decode: Decode<R>,
    pub(super) group: u64,
    pub(super) window: u32,
}

impl<R> RpcStream<R> {
    pub(super) fn new(parts: StreamParts<R>) -> (RpcStream<R>, Box<dyn Sink>) {
        let buffer = Arc::new(Buffer::default());
        buffer.state.lock().opener = Some(thread::current().id());
        let sink = BufferSink {
            buffer: Arc::clone(&buffer),
            controller: parts.controller.clone(),
        };
        let stream = RpcStream {
            buffer,
            controller: parts.controller,
            serial: parts.serial,
            method: parts.method,
            decode: parts.decode,
            group: parts.group,
            consumed: Consumed::new(parts.window),
            ended: false,
        };
        (stream, Box::new(sink))
    }

    /// The stream, unless the call could not begin. A failure that came from elsewhere in the
    /// meantime is the stream's last item, after those that came before it.
    pub(super) fn begun(mut self) -> Result<RpcStream<R>, RpcError> {
        let failed = {
            let mut state = self.buffer.state.lock();
            state.opener = None;
            let at_once = state.could_not_begin;
            state.end.take_if(|end| at_once && end.is_err())
        };
        match failed {
            Some(Err(error)) => {
                self.ended = true;
                Err(error)
            }
            _ => Ok(self),
        }
    }

    fn consume(&mut self, item: Bytes) -> Result<R, RpcError> {
        let credit = self.consumed.add(cost_of(&item));
        if credit > 0 {
            let origin = self.buffer.state.lock().origin.clone();
            if let Some((channel, id)) = origin
                && let Some(channel) = channel.upgrade()
            {
                channel.return_credit(id, credit);
            }
        }
        (self.decode)(item).map_err(|error| {
            self.give_up();
            malformed("item", self.method, &error)
        })
    }

    /// Cancels the call, if it is under way.
    fn give_up(&mut self) {
        let origin = {
            let mut state = self.buffer.state.lock();
            state.items.clear();
            state.dropped = true;
            if std::mem::replace(&mut self.ended, true) || state.end.is_some() {
                return;
            }
            state.origin.clone()
        };
        match origin {
            Some((channel, id)) => {
                if let Some(channel) = channel.upgrade() {
                    channel.cancel(id);
                }
            }
            None => self.controller.abandon(self.serial),
        }
    }
}

impl<R> Iterator for RpcStream<R> {
    type Item = Result<R, RpcError>;

    fn next(&mut self) -> Option<Result<R, RpcError>> {
        if self.ended {
            return None;
        }
        let item = {
            let mut state = self.buffer.state.lock();
            loop {
                if let Some(item) = state.items.pop_front() {
                    break item;
                }
                if let Some(end) = state.end.take() {
                    self.ended = true;
                    return end.err().map(Err);
                }
                if on_group(self.group) {
                    let text = "waiting for a stream on a thread of its own event loops would \
                                wait for itself; use call_stream_async there";
                    return Some(Err(RpcError::new(Code::Internal, text)));
                }
                self.buffer.changed.wait(&mut state);
            }
        };
        Some(self.consume(item))
    }
}

impl<R> Drop for RpcStream<R> {
    fn drop(&mut self) {
        self.give_up();
    }
}

impl<R> fmt::Debug for RpcStream<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RpcStream")
            .field("method", &self.method)
            .field("ended", &self.ended)
            .finish_non_exhaustive()
    }
}

struct BufferSink {
    buffer: Arc<Buffer>,
    controller: RpcController,
}

impl Sink for BufferSink {
    fn item(&mut self, origin: Origin<'_>, body: Bytes) -> Result<Taken, RpcError> {
        let kept = if body.len() < SHARED_BYTES_MAX {
            Bytes::copy_from_slice(&body)
        } else {
            body
        };
        let mut state = self.buffer.state.lock();
        if state.dropped {
            let text = "the stream was dropped by its caller";
            return Err(RpcError::new(Code::Cancelled, text));
        }
        if state.origin.is_none() {
            state.origin = Some((Arc::downgrade(origin.channel), origin.id));
        }
        state.items.push_back(kept);
        self.buffer.changed.notify_one();
        Ok(Taken::Kept)
    }

    fn end(self: Box<Self>, ended: Ended) {
        let result = ended.result.map(drop);
        self.controller.end(result.as_ref().err(), ended.metadata);
        let mut state = self.buffer.state.lock();
        state.could_not_begin = state.opener == Some(thread::current().id());
        state.end = Some(result);
        self.buffer.changed.notify_one();
    }
}

/// A sink that consumes every item at once, on the loop's thread.
pub(super) struct CallbackSink<R, F, D> {
    pub(super) method: &'static MethodDescriptor,
    pub(super) controller: RpcController,
    pub(super) decode: Decode<R>,
    pub(super) on_item: F,
    pub(super) done: D,
}

impl<R, F, D> Sink for CallbackSink<R, F, D>
where
    F: FnMut(R) + Send,
    D: FnOnce(Result<(), RpcError>) + Send,
{
    fn item(&mut self, _origin: Origin<'_>, body: Bytes) -> Result<Taken, RpcError> {
        let item = (self.decode)(body).map_err(|error| malformed("item", self.method, &error))?;
        (self.on_item)(item);
        Ok(Taken::Consumed)
    }

    fn end(self: Box<Self>, ended: Ended) {
        let result = ended.result.map(drop);
        self.controller.end(result.as_ref().err(), ended.metadata);
        (self.done)(result);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_that_failed_before_it_was_handed_out_keeps_its_items() {
        static METHOD: MethodDescriptor = MethodDescriptor {
            service: "S",
            method: "M",
        };
        let open = || {
            RpcStream::new(StreamParts {
                controller: RpcController::new(),
                serial: 0,
                method: &METHOD,
                decode: Ok,
                group: 0,
                window: 1000,
            })
        };
        let failure = || RpcError::new(Code::NotFound, "no more");

        let (stream, sink) = open();
        let item = Bytes::from_static(b"item");
        stream.buffer.state.lock().items.push_back(item.clone());
        let event_loop = thread::spawn(move || sink.end(Err(failure()).into()));
        event_loop.join().unwrap();
        let items: Vec<_> = stream.begun().unwrap().collect();
        assert_eq!(items, [Ok(item), Err(failure())]);

        let (stream, sink) = open();
        sink.end(Err(failure()).into());
        assert_eq!(stream.begun().unwrap_err(), failure(), "it could not begin");
    }

    #[test]
    fn credit_is_returned_when_half_the_window_was_consumed_and_none_is_lost() {
        let mut consumed = Consumed::new(101);
        assert_eq!(consumed.add(50), 0);
        assert_eq!(consumed.add(1), 51);
        assert_eq!(consumed.add(1000), 1000);
        let more = u64::from(u32::MAX) + 60;
        assert_eq!(consumed.add(more), u32::MAX);
        assert_eq!(consumed.add(1), 61);
    }
}
