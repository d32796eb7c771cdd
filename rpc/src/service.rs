//! What a server offers: [`Service`], and what it learns about a call: [`RpcContext`].

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Instant;

use bytes::Bytes;

use crate::reply::ReplySlot;

/// Names one method of one service, as it travels in the header of a request.
///
/// Generated stubs hold one `static` of these for each method.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct MethodDescriptor {
    /// The simple name of the service, without its package: `kvServerRpc`.
    pub service: &'static str,
    /// The name of the method as the `.proto` writes it: `PutAppend`.
    pub method: &'static str,
}

/// A group of methods that a provider serves under one name.
///
/// Written by hand or, usually, by `rpc-build`, whose adapters decode the arguments, call a
/// method of a typed trait, and hand it a [`Done`](crate::Done) for the reply.
pub trait Service: Send + Sync + 'static {
    /// The simple name by which callers ask for it.
    fn name(&self) -> &'static str;

    /// The names of its methods; their positions are what [`call`](Service::call) receives.
    fn methods(&self) -> &'static [&'static str];

    /// Starts one call.
    ///
    /// Runs on the event loop's thread that owns the connection (or on a worker's, see
    /// [`notify_blocking_service`](crate::RpcProvider::notify_blocking_service)) and must not
    /// block there. `method` is an index into [`methods`](Service::methods). `args` is a slice of
    /// the read buffer, still encoded. The answer goes into `reply`, now or later, from any
    /// thread; dropped without an answer it answers `INTERNAL`.
    fn call(&self, method: usize, context: RpcContext, args: Bytes, reply: ReplySlot);
}

/// What is known about one call while it is served.
#[derive(Clone, Debug)]
pub struct RpcContext {
    pub(crate) peer: SocketAddr,
    pub(crate) request_id: u64,
    pub(crate) deadline: Option<Instant>,
    pub(crate) service: &'static str,
    pub(crate) method: &'static str,
}

impl RpcContext {
    /// The context of a call that came over no connection, for tests of a [`Service`] and for
    /// calls inside a process: no deadline, request id 1, the unspecified address as its peer.
    #[must_use]
    pub fn local(service: &'static str, method: &'static str) -> RpcContext {
        let peer = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        RpcContext {
            peer,
            request_id: 1,
            deadline: None,
            service,
            method,
        }
    }

    /// The same context with another deadline.
    #[must_use]
    pub fn with_deadline(mut self, deadline: Option<Instant>) -> RpcContext {
        self.deadline = deadline;
        self
    }

    /// The same context as a legacy caller's: request id 0.
    #[must_use]
    pub fn into_legacy(mut self) -> RpcContext {
        self.request_id = 0;
        self
    }

    /// Whether the caller speaks the C++ original's bytes: no request id, bare replies.
    #[must_use]
    pub fn is_legacy(&self) -> bool {
        self.request_id == 0
    }

    /// The other end of the connection.
    #[must_use]
    pub fn peer_addr(&self) -> SocketAddr {
        self.peer
    }

    /// When the caller stops waiting, on this machine's clock; `None`: it did not say.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// The caller's number for this call, unique on its connection; 0 for a legacy caller.
    #[must_use]
    pub fn request_id(&self) -> u64 {
        self.request_id
    }

    /// The name of the service that was called.
    #[must_use]
    pub fn service(&self) -> &'static str {
        self.service
    }

    /// The name of the method that was called.
    #[must_use]
    pub fn method(&self) -> &'static str {
        self.method
    }
}
