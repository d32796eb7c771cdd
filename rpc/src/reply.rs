//! The way back: [`ReplySlot`] and its typed form [`Done`].

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use bytes::Bytes;
use prost::Message;

use crate::error::{Code, RpcError};
use crate::server::{CallId, ReplyPath};

/// The place where the answer to one call goes: exactly one answer, from any thread, at any time.
///
/// Dropped without an answer it answers `INTERNAL`, so no caller hangs on a forgotten call.
pub struct ReplySlot {
    target: Option<Target>,
}

/// A callback that takes a call's encoded answer.
type Callback = Box<dyn FnOnce(Result<Bytes, RpcError>) + Send>;

enum Target {
    Connection(Arc<ReplyPath>, CallId),
    Callback(Callback),
}

impl ReplySlot {
    /// A slot whose answer goes to `callback`, for tests of a [`Service`](crate::Service) and for
    /// calls inside a process.
    pub fn detached(callback: impl FnOnce(Result<Bytes, RpcError>) + Send + 'static) -> ReplySlot {
        ReplySlot {
            target: Some(Target::Callback(Box::new(callback))),
        }
    }

    pub(crate) fn to_connection(path: Arc<ReplyPath>, call: CallId) -> ReplySlot {
        ReplySlot {
            target: Some(Target::Connection(path, call)),
        }
    }

    /// Answers with a message.
    pub fn reply(mut self, message: &impl Message) {
        match self.target.take() {
            Some(Target::Connection(path, call)) => path.reply(call, message),
            Some(Target::Callback(callback)) => callback(Ok(message.encode_to_vec().into())),
            None => {}
        }
    }

    /// Answers with a failure; the caller is told that the call may have taken effect.
    pub fn fail(mut self, error: RpcError) {
        self.finish(error.with_may_have_executed(true));
    }

    /// Answers with a failure and the promise that the call has had and will have no effect, so
    /// that the caller may safely ask again.
    pub fn refuse(mut self, error: RpcError) {
        self.finish(error.with_may_have_executed(false));
    }

    fn finish(&mut self, error: RpcError) {
        match self.target.take() {
            Some(Target::Connection(path, call)) => path.fail(call, error),
            Some(Target::Callback(callback)) => callback(Err(error)),
            None => {}
        }
    }
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

    /// Answers the call.
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
