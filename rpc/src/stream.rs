//! [`StreamSender`]: many messages for one call, no faster than the caller takes them.
//!
//! ```text
//!  send ──► credit left? ──► room at the connection? ──► encoded into its output ──► socket
//!              │ no              │ no
//!              ▼                 ▼
//!            wait ◄────────── wait        CREDIT arrives, bytes leave, or the call is cancelled:
//!                                         whoever waits looks again
//! ```

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use prost::Message;

use crate::error::{Code, RpcError};
use crate::reactor::on_any_loop;
use crate::reply::{OnItem, ReplySlot, StreamTarget};
use crate::server::{Call, Flow};
use crate::wire::{ReplyHead, ReplyKind, reply_len};

/// Why an item was not sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StreamError {
    /// The caller has not taken what was sent before. [`StreamSender::on_ready`] tells when it has.
    #[error("the caller takes no further item for now (StreamSender::on_ready)")]
    WouldBlock,
    /// Nobody waits for items any more: the call was cancelled, its deadline has passed, or its
    /// connection is gone. Or the caller has taken none for too long
    /// ([`ProviderOptions::stream_stall_timeout`](crate::ProviderOptions::stream_stall_timeout)).
    #[error("the stream is closed")]
    Closed(#[source] RpcError),
    /// The item is larger than the server may send. The stream goes on without it.
    #[error("item of {len} bytes is over the server's limit of {limit} (Limits::max_body_bytes)")]
    TooLarge {
        /// Bytes of the encoded item.
        len: usize,
        /// The server's limit.
        limit: u32,
    },
}

/// Sends the items of one call of a streaming method, and then its end.
///
/// The counterpart of [`Done`](crate::Done): made from the call's slot, usable from any thread;
/// put it into an [`Arc`] to share it. Items arrive in the order in which they were sent. The
/// caller says how many bytes it is ready to hold; beyond that, and while the connection has
/// more unsent bytes than [`Limits::max_unsent_bytes`](crate::Limits::max_unsent_bytes), nothing is
/// sent. Dropped without [`finish`](StreamSender::finish) or [`fail`](StreamSender::fail) the call
/// ends with `INTERNAL`.
pub struct StreamSender<T> {
    way: Way,
    /// In a mutex to be `Sync`; it is used once, at the end.
    slot: Mutex<ReplySlot>,
    items: PhantomData<fn(&T)>,
}

/// Where items go.
enum Way {
    Connection(Arc<Call>, Arc<Flow>),
    Detached(Arc<Mutex<OnItem>>),
    /// The method is not streaming; the call was failed at once.
    Closed(RpcError),
}

impl<T: Message> StreamSender<T> {
    /// Gives `slot` the type of its items. The slot has to be that of a streaming method (see
    /// [`Service::is_streaming`](crate::Service::is_streaming)); otherwise the call fails with
    /// `INTERNAL` and the stream is closed.
    #[must_use]
    pub fn new(slot: ReplySlot) -> StreamSender<T> {
        let (way, slot) = match slot.stream_target() {
            StreamTarget::Connection(call, flow) => (Way::Connection(call, flow), slot),
            StreamTarget::Items(on_item) => (Way::Detached(on_item), slot),
            StreamTarget::Unary => {
                let text = "the handler answered a method with a stream that is not streaming";
                let error = RpcError::new(Code::Internal, text).with_may_have_executed(true);
                slot.fail(error.clone());
                (Way::Closed(error), ReplySlot::answered())
            }
        };
        StreamSender {
            way,
            slot: Mutex::new(slot),
            items: PhantomData,
        }
    }

    /// Sends an item, and waits while the caller takes none, up to
    /// [`ProviderOptions::stream_stall_timeout`](crate::ProviderOptions::stream_stall_timeout);
    /// then it closes the stream. On an event loop's thread, which must not wait, it returns
    /// [`StreamError::WouldBlock`] instead.
    ///
    /// # Errors
    /// [`StreamError`]; the item was not sent.
    pub fn send(&self, item: &T) -> Result<(), StreamError> {
        loop {
            match (self.try_send(item), &self.way) {
                (Err(StreamError::WouldBlock), Way::Connection(call, flow)) if !on_any_loop() => {
                    flow.wait(call.connection().stream_stall_timeout());
                }
                (outcome, _) => return outcome,
            }
        }
    }

    /// Sends an item if the caller takes one now. Never waits. Any thread.
    ///
    /// # Errors
    /// [`StreamError`]; the item was not sent.
    pub fn try_send(&self, item: &T) -> Result<(), StreamError> {
        match &self.way {
            Way::Connection(call, flow) => {
                let path = call.connection();
                let (len, limit) = (item.encoded_len(), path.max_body_bytes());
                let Some(body_size) = u32::try_from(len).ok().filter(|&size| size <= limit) else {
                    return Err(StreamError::TooLarge { len, limit });
                };
                let head = ReplyHead {
                    request_id: call.request_id,
                    body_size,
                    kind: ReplyKind::Item,
                    ..ReplyHead::default()
                };
                flow.take(body_size, reply_len(&head), path.room())?;
                path.send_item(&head, item);
                Ok(())
            }
            Way::Detached(on_item) => {
                let item = Bytes::from(item.encode_to_vec());
                (on_item.lock())(item);
                Ok(())
            }
            Way::Closed(error) => Err(StreamError::Closed(error.clone())),
        }
    }

    /// Runs `callback` once when an item can be sent, or the stream is closed: on the event loop's
    /// thread, where it must not block, or right here if it is so already. Another sender may be
    /// faster, so sending may still say [`StreamError::WouldBlock`].
    pub fn on_ready(&self, callback: impl FnOnce() + Send + 'static) {
        match &self.way {
            Way::Connection(_, flow) => flow.on_ready(Box::new(callback)),
            Way::Detached(_) | Way::Closed(_) => callback(),
        }
    }

    /// Whether nobody waits for items any more. The call has to be ended all the same.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        match &self.way {
            Way::Connection(_, flow) => flow.is_closed(),
            Way::Detached(_) => false,
            Way::Closed(_) => true,
        }
    }

    /// Ends the stream with `OK`, after the items that were sent; with `RESOURCE_EXHAUSTED` if
    /// [`send`](StreamSender::send) has given up waiting. Never waits. Any thread.
    pub fn finish(self) {
        self.slot.into_inner().end_stream();
    }

    /// Ends the stream with a failure, after the items that were sent; see [`ReplySlot::fail`].
    pub fn fail(self, error: RpcError) {
        self.slot.into_inner().fail(error);
    }

    /// Refuses the call, which has had no effect; see [`ReplySlot::refuse`].
    pub fn refuse(self, error: RpcError) {
        self.slot.into_inner().refuse(error);
    }
}

impl<T> fmt::Debug for StreamSender<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamSender").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_detached_stream_hands_over_items_and_its_end() {
        let (items, seen) = std::sync::mpsc::channel();
        let ended = items.clone();
        let slot = ReplySlot::detached_stream(
            move |item| items.send(Ok(item)).unwrap(),
            move |end| ended.send(Err(end)).unwrap(),
        );
        let sender = StreamSender::<u64>::new(slot);
        sender.send(&7).unwrap();
        assert!(!sender.is_closed());
        sender.finish();
        assert_eq!(seen.recv().unwrap(), Ok(Bytes::from(7u64.encode_to_vec())));
        assert_eq!(seen.recv().unwrap(), Err(Ok(())));
    }

    #[test]
    fn a_slot_of_a_unary_method_makes_a_closed_stream() {
        let (sender, answer) = std::sync::mpsc::channel();
        let slot = ReplySlot::detached(move |result| sender.send(result).unwrap());
        let stream = StreamSender::<u64>::new(slot);
        assert!(stream.is_closed());
        assert!(matches!(stream.send(&1), Err(StreamError::Closed(_))));
        stream.finish();
        assert_eq!(answer.recv().unwrap().unwrap_err().code(), Code::Internal);
        assert!(answer.recv().is_err(), "it was answered once");
    }
}
