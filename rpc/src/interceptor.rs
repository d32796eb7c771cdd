//! What can be put around every call: [`ServerInterceptor`] and [`ClientInterceptor`].
//!
//! ```text
//!  client   before 1 ─► before 2 ─► request ──────────────┐
//!           after 1 ◄── after 2 ◄── reply ◄─┐             │
//!                                           │             ▼
//!  server                     after 1 ◄── after 2    before 1 ─► before 2 ─► handler
//!                                           ▲                                  │
//!                                           └────────────── answer ◄───────────┘
//! ```
//!
//! An interceptor has two halves instead of one that calls the next, because a call is answered on
//! another thread than it was begun on, and nothing waits in between. For each `before` that
//! returned `Ok`, `after` runs exactly once.

use std::net::SocketAddr;
use std::time::Duration;

use crate::error::RpcError;
use crate::metadata::Metadata;
use crate::service::{MethodDescriptor, RpcContext};

/// How a call ended.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct CallOutcome<'a> {
    /// Why it failed; `None`: it did not.
    pub error: Option<&'a RpcError>,
    /// On a server: since the bytes of the call arrived. On a client: since this attempt began.
    pub elapsed: Duration,
    /// Size of the encoded arguments.
    pub request_bytes: usize,
    /// Size of the encoded reply; of a stream: of all its items. 0 for a unary call that failed.
    pub reply_bytes: usize,
    /// Items of a stream that were sent (on a server) or received (on a client).
    pub items: u64,
}

/// Around every call that a provider serves, legacy callers' included.
///
/// Given to a provider in its options.
/// Both methods run on the threads of the calls and must not block.
pub trait ServerInterceptor: Send + Sync + 'static {
    /// Before the handler, on the event loop's thread, in the order of the list.
    ///
    /// May read and change the context's metadata and add to the reply's.
    ///
    /// # Errors
    /// An error refuses the call: neither the handler nor later interceptors see it, and the caller
    /// gets the error.
    fn before(&self, context: &mut RpcContext) -> Result<(), RpcError> {
        let _ = context;
        Ok(())
    }

    /// When the call has been answered, on the thread that answered it, in reverse order.
    fn after(&self, context: &RpcContext, outcome: &CallOutcome<'_>) {
        let _ = (context, outcome);
    }
}

/// A call that a client is about to make.
#[derive(Debug)]
#[non_exhaustive]
pub struct OutgoingCall<'a> {
    /// What is called.
    pub method: &'static MethodDescriptor,
    /// Where.
    pub peer: SocketAddr,
    /// What will travel with it.
    pub metadata: &'a mut Metadata,
    /// How long it may take; `None`: for ever (streams only).
    pub timeout: &'a mut Option<Duration>,
    /// 1 for the first attempt, then counted up.
    pub attempt: u32,
}

/// A call, or one attempt at it, that has ended.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct FinishedCall<'a> {
    /// What was called.
    pub method: &'static MethodDescriptor,
    /// Where.
    pub peer: SocketAddr,
    /// 1 for the first attempt, then counted up.
    pub attempt: u32,
    /// What came with the reply.
    pub reply_metadata: &'a Metadata,
}

/// Around every call that a channel makes.
///
/// Given to a channel in its options. Both methods run on the threads of the calls and must not
/// block. A panic before a call ends it with `INTERNAL`, which is what interceptors further out see;
/// one after it is logged.
pub trait ClientInterceptor: Send + Sync + 'static {
    /// Before the call is sent, in the order of the list; once for each attempt. The first attempt
    /// is made on the caller's thread, a repeated one on the event loop's, or on that of a blocking
    /// caller who is alone and saw the one before fail.
    ///
    /// # Errors
    /// An error ends the call with it; nothing is sent.
    fn before(&self, call: &mut OutgoingCall<'_>) -> Result<(), RpcError> {
        let _ = call;
        Ok(())
    }

    /// When the call has ended, on the thread that ends it, in reverse order.
    fn after(&self, call: &FinishedCall<'_>, outcome: &CallOutcome<'_>) {
        let _ = (call, outcome);
    }
}
