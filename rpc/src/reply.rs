//! The way back: [`ReplySlot`] and its typed form [`Done`].

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use prost::Message;

use crate::error::{Code, RpcError};
use crate::server::{Call, Flow};

/// The place where the answer to one call goes: exactly one answer, from any thread, at any time.
///
/// Dropped without an answer it answers `INTERNAL`, so no caller hangs on a forgotten call.
pub struct ReplySlot {
    target: Option<Target>,
}

/// A callback that takes a call's encoded answer.
type Callback = Box<dyn FnOnce(Result<Bytes, RpcError>) + Send>;

/// A callback that takes one encoded item after the other.
pub(crate) type OnItem = Box<dyn FnMut(Bytes) + Send>;

/// A callback that takes the end of a stream.
type OnEnd = Box<dyn FnOnce(Result<(), RpcError>) + Send>;

enum Target {
    Connection(Arc<Call>),
    Callback(Callback),
    Items(Arc<Mutex<OnItem>>, OnEnd),
}

/// What a slot says of itself to a [`StreamSender`](crate::StreamSender) that is made of it.
pub(crate) enum StreamTarget {
    Connection(Arc<Call>, Arc<Flow>),
    Items(Arc<Mutex<OnItem>>),
    /// The slot of a method that is not streaming.
    Unary,
}

impl ReplySlot {
    /// A slot whose answer goes to `callback`, for tests of a [`Service`](crate::Service) and for
    /// calls inside a process.
    pub fn detached(callback: impl FnOnce(Result<Bytes, RpcError>) + Send + 'static) -> ReplySlot {
        ReplySlot {
            target: Some(Target::Callback(Box::new(callback))),
        }
    }

    /// The slot of a streaming method whose items go to `on_item` and whose end goes to `on_end`,
    /// for tests of a [`Service`](crate::Service) and for calls inside a process. There is always
    /// room for another item. `on_item` runs on the thread that sends, under a lock, so it must not
    /// send on the stream itself: it would wait for ever.
    pub fn detached_stream(
        on_item: impl FnMut(Bytes) + Send + 'static,
        on_end: impl FnOnce(Result<(), RpcError>) + Send + 'static,
    ) -> ReplySlot {
        let on_item: OnItem = Box::new(on_item);
        ReplySlot {
            target: Some(Target::Items(
                Arc::new(Mutex::new(on_item)),
                Box::new(on_end),
            )),
        }
    }

    pub(crate) fn to_connection(call: Arc<Call>) -> ReplySlot {
        ReplySlot {
            target: Some(Target::Connection(call)),
        }
    }

    /// Answers with a message. On any thread, without waiting.
    ///
    /// Instead of one that is larger than [`Limits::max_body_bytes`](crate::Limits::max_body_bytes)
    /// the caller gets `RESOURCE_EXHAUSTED`; of a streaming method, `INTERNAL`.
    pub fn reply(mut self, message: &impl Message) {
        match self.target.take() {
            Some(Target::Connection(call)) => call.reply(message),
            Some(Target::Callback(callback)) => callback(Ok(message.encode_to_vec().into())),
            Some(Target::Items(_, on_end)) => on_end(Err(not_unary())),
            None => {}
        }
    }

    /// Answers with a failure; the caller is told that the call may have taken effect. On any
    /// thread, without waiting. Of the text 4 KiB travel; the code `OK` becomes `INTERNAL`.
    pub fn fail(mut self, error: RpcError) {
        self.finish(error.with_may_have_executed(true));
    }

    /// Answers with a failure and the promise that the call has had and will have no effect, so
    /// that the caller may safely ask again. Otherwise as [`fail`](ReplySlot::fail).
    pub fn refuse(mut self, error: RpcError) {
        self.finish(error.with_may_have_executed(false));
    }

    fn finish(&mut self, error: RpcError) {
        match self.target.take() {
            Some(Target::Connection(call)) => call.fail(error),
            Some(Target::Callback(callback)) => callback(Err(error)),
            Some(Target::Items(_, on_end)) => on_end(Err(error)),
            None => {}
        }
    }

    // ---- for a stream's sender

    /// A slot that is used up.
    pub(crate) fn answered() -> ReplySlot {
        ReplySlot { target: None }
    }

    pub(crate) fn stream_target(&self) -> StreamTarget {
        match &self.target {
            Some(Target::Connection(call)) => match call.flow() {
                Some(flow) => StreamTarget::Connection(Arc::clone(call), Arc::clone(flow)),
                None => StreamTarget::Unary,
            },
            Some(Target::Items(on_item, _)) => StreamTarget::Items(Arc::clone(on_item)),
            Some(Target::Callback(_)) | None => StreamTarget::Unary,
        }
    }

    /// Ends a stream that did not fail.
    pub(crate) fn end_stream(mut self) {
        match self.target.take() {
            Some(Target::Connection(call)) => call.end_stream(),
            Some(Target::Items(_, on_end)) => on_end(Ok(())),
            Some(Target::Callback(_)) | None => {}
        }
    }
}

/// The answer of a handler that took a streaming method for a unary one.
pub(crate) fn not_unary() -> RpcError {
    let text = "the handler answered a streaming method with one message";
    RpcError::new(Code::Internal, text).with_may_have_executed(true)
}

impl Drop for ReplySlot {
    fn drop(&mut self) {
        if self.target.is_some() {
            let text = if std::thread::panicking() {
                "the handler panicked"
            } else {
                "the handler dropped the call without answering it"
            };
            self.finish(RpcError::new(Code::Internal, text).with_may_have_executed(true));
        }
    }
}

impl fmt::Debug for ReplySlot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReplySlot").finish_non_exhaustive()
    }
}

/// Protobuf's closure: what a handler runs when the reply is ready.
///
/// It can be kept, sent to another thread and run at any time, once. Dropped without being run it
/// answers `INTERNAL`.
pub struct Done<R> {
    slot: ReplySlot,
    reply: PhantomData<fn(R)>,
}

impl<R: Message> Done<R> {
    /// Gives `slot` the type of its reply.
    #[must_use]
    pub fn new(slot: ReplySlot) -> Done<R> {
        Done {
            slot,
            reply: PhantomData,
        }
    }

    /// Answers the call. On any thread, without waiting; see [`ReplySlot::reply`].
    #[expect(
        clippy::needless_pass_by_value,
        reason = "the reply is given away, as `Done` is"
    )]
    pub fn run(self, reply: R) {
        self.slot.reply(&reply);
    }

    /// Answers the call with a failure; see [`ReplySlot::fail`].
    pub fn fail(self, error: RpcError) {
        self.slot.fail(error);
    }

    /// Refuses the call, which has had no effect; see [`ReplySlot::refuse`].
    pub fn refuse(self, error: RpcError) {
        self.slot.refuse(error);
    }
}

impl<R> fmt::Debug for Done<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Done").finish_non_exhaustive()
    }
}
