//! Calls under way: what waits for their ends.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tracing::Span;

use super::stream::StreamCall;
use crate::error::{Code, RpcError};
use crate::handover::Waiter;
use crate::metadata::Metadata;
use crate::reactor;
use crate::service::MethodDescriptor;

/// How a call ended.
#[derive(Debug)]
pub(super) struct Ended {
    /// Its encoded reply (empty for a stream), or why there is none.
    pub(super) result: Result<Bytes, RpcError>,
    /// What came with the reply.
    pub(super) metadata: Metadata,
}

impl From<Result<Bytes, RpcError>> for Ended {
    fn from(result: Result<Bytes, RpcError>) -> Ended {
        Ended {
            result,
            metadata: Metadata::new(),
        }
    }
}

impl From<RpcError> for Ended {
    fn from(error: RpcError) -> Ended {
        Ended::from(Err(error))
    }
}

/// Who is told how a call ended.
pub(super) enum Completion {
    Blocking(Arc<Waiter<Ended>>),
    Callback(Box<dyn FnOnce(Ended) + Send>),
    Stream(Box<StreamCall>),
}

impl Completion {
    /// Tells it. A callback that panics costs its own call only.
    pub(super) fn end(self, ended: Ended) {
        let told = match self {
            Completion::Blocking(waiter) => {
                waiter.finish(ended);
                return;
            }
            Completion::Callback(callback) => {
                catch_unwind(AssertUnwindSafe(move || callback(ended)))
            }
            Completion::Stream(stream) => catch_unwind(AssertUnwindSafe(move || stream.end(ended))),
        };
        if told.is_err() {
            tracing::error!("the callback of a call panicked");
        }
    }
}

/// A call under way. It ends once: dropped without an outcome it ends with `CANCELLED`.
pub(super) struct Pending {
    completion: Option<Completion>,
    /// `None`: a ping.
    pub(super) method: Option<&'static MethodDescriptor>,
    /// The call's span, if somebody listens.
    pub(super) span: Option<Box<Span>>,
    pub(super) begun: Instant,
    pub(super) timeout: Option<Duration>,
    /// Where its frame ends in the bytes of this connection; unknown before it is connected.
    pub(super) frame_end: u64,
}

impl Pending {
    /// A call that begins now.
    pub(super) fn new(
        method: Option<&'static MethodDescriptor>,
        completion: Completion,
    ) -> Pending {
        Pending {
            completion: Some(completion),
            method,
            span: None,
            begun: reactor::now(),
            timeout: None,
            frame_end: u64::MAX,
        }
    }

    /// When it has to have ended.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.timeout.map(|timeout| self.begun + timeout)
    }

    /// Whether a thread waits for its end.
    pub(super) fn is_blocking(&self) -> bool {
        matches!(self.completion, Some(Completion::Blocking(_)))
    }

    pub(super) fn is_stream(&self) -> bool {
        matches!(self.completion, Some(Completion::Stream(_)))
    }

    /// The stream's half of a call that is one.
    pub(super) fn stream(&mut self) -> Option<&mut StreamCall> {
        match &mut self.completion {
            Some(Completion::Stream(stream)) => Some(stream),
            _ => None,
        }
    }

    /// Gives back who would have been told, for a call that cannot begin.
    pub(super) fn into_completion(mut self) -> Completion {
        let completion = self.completion.take();
        completion.expect("a call that has not ended has its completion")
    }

    /// Ends the call.
    pub(super) fn finish(mut self, ended: Ended) {
        if let Some(completion) = self.completion.take() {
            completion.end(ended);
        }
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if let Some(completion) = self.completion.take() {
            completion.end(forgotten().into());
        }
    }
}

/// How a call ends whose event loop has ended.
pub(super) fn forgotten() -> RpcError {
    let text = "the channel's event loop has ended";
    RpcError::new(Code::Cancelled, text).with_may_have_executed(true)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn a_call_that_is_forgotten_ends_too() {
        let (sender, ended) = mpsc::channel();
        let callback = move |end: Ended| sender.send(end.result).unwrap();
        drop(Pending::new(None, Completion::Callback(Box::new(callback))));
        let error = ended.try_recv().unwrap().unwrap_err();
        assert_eq!(error.code(), Code::Cancelled);
    }

    #[test]
    fn a_callback_that_panics_is_caught() {
        let callback = |_| panic!("in a callback (expected in this test)");
        let completion = Completion::Callback(Box::new(callback));
        Pending::new(None, completion).finish(Ok(Bytes::new()).into());
    }
}
