//! What a server offers: [`Service`], and what it learns about a call: [`RpcContext`].

use std::borrow::Cow;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::metadata::Metadata;
use crate::reply::ReplySlot;
use crate::server::Call;
use crate::trace::TraceContext;

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
/// method of a typed trait, and hand it a [`Done`](crate::Done) for the reply or a
/// [`StreamSender`](crate::StreamSender) for the items of one.
pub trait Service: Send + Sync + 'static {
    /// The simple name by which callers ask for it.
    fn name(&self) -> &'static str;

    /// The names of its methods; their positions are what [`call`](Service::call) receives.
    fn methods(&self) -> &'static [&'static str];

    /// Whether a method answers with a stream of items: [`call`](Service::call) then makes a
    /// [`StreamSender`](crate::StreamSender) of its slot. Asked once, at registration.
    fn is_streaming(&self, method: usize) -> bool {
        let _ = method;
        false
    }

    /// An encoded `google.protobuf.FileDescriptorSet` with the service and all that it imports, for
    /// tools that ask a server what it offers. Empty: it does not say.
    fn file_descriptor_set(&self) -> &'static [u8] {
        &[]
    }

    /// The name with its package, as in the descriptors: `fixbug.FiendServiceRpc`.
    fn full_name(&self) -> &'static str {
        self.name()
    }

    /// Starts one call.
    ///
    /// Runs on the event loop's thread that owns the connection (or on a worker's, see
    /// [`notify_blocking_service`](crate::RpcProvider::notify_blocking_service)) and must not block
    /// there. `method` is an index into [`methods`](Service::methods). `args` is a slice of the
    /// read buffer, still encoded. The answer goes into `reply`, now or later, from any thread;
    /// dropped without an answer, as by a panic, it answers `INTERNAL`. Arguments that are no
    /// message are for this to refuse, with `INVALID_ARGUMENT`.
    fn call(&self, method: usize, context: RpcContext, args: Bytes, reply: ReplySlot);
}

/// What is known about one call while it is served, and whether anybody still waits for it.
///
/// A clone is about the same call, and any thread may ask it, also after the call was answered.
#[derive(Clone)]
pub struct RpcContext {
    pub(crate) call: Arc<Call>,
}

impl RpcContext {
    /// The context of a call that came over no connection, for tests of a [`Service`] and for
    /// calls inside a process: no deadline, request id 1, the unspecified address as its peer.
    /// Only a deadline can cancel it, and its callbacks are run only if it has passed already.
    #[must_use]
    pub fn local(service: &'static str, method: &'static str) -> RpcContext {
        RpcContext {
            call: Arc::new(Call::local(service, method)),
        }
    }

    /// The same context with another deadline.
    #[must_use]
    pub fn with_deadline(mut self, deadline: Option<Instant>) -> RpcContext {
        Call::change(&mut self.call).deadline = deadline;
        self
    }

    /// The same context as part of a trace.
    #[must_use]
    pub fn with_trace(mut self, trace: TraceContext) -> RpcContext {
        Call::change(&mut self.call).trace = Some(Box::new(trace));
        self
    }

    /// The same context as a legacy caller's: request id 0.
    #[must_use]
    pub fn into_legacy(mut self) -> RpcContext {
        Call::change(&mut self.call).request_id = 0;
        self
    }

    /// Whether the caller speaks the C++ original's bytes: no request id, bare replies.
    #[must_use]
    pub fn is_legacy(&self) -> bool {
        self.call.request_id == 0
    }

    /// The other end of the connection.
    #[must_use]
    pub fn peer_addr(&self) -> SocketAddr {
        self.call.peer
    }

    /// The certificate that the caller has shown, in DER: it was signed by one of the roots of
    /// [`TlsServer::with_client_roots`](crate::TlsServer::with_client_roots). `None` where nobody
    /// is asked for one, or there is no TLS.
    #[must_use]
    pub fn peer_certificate(&self) -> Option<&[u8]> {
        self.call.peer_certificate()
    }

    /// When the caller stops waiting, on this machine's clock; `None`: it did not say.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.call.deadline
    }

    /// What is left until the [`deadline`](RpcContext::deadline), nothing if it has passed;
    /// `None`: there is none.
    #[must_use]
    pub fn time_left(&self) -> Option<Duration> {
        let deadline = self.call.deadline?;
        Some(deadline.saturating_duration_since(Instant::now()))
    }

    /// The caller's number for this call, unique on its connection; 0 for a legacy caller.
    #[must_use]
    pub fn request_id(&self) -> u64 {
        self.call.request_id
    }

    /// The name of the service that was called.
    #[must_use]
    pub fn service(&self) -> &'static str {
        self.call.service
    }

    /// The name of the method that was called.
    #[must_use]
    pub fn method(&self) -> &'static str {
        self.call.method
    }

    /// Size of the encoded arguments, in bytes.
    #[must_use]
    pub fn request_bytes(&self) -> usize {
        self.call.request_bytes
    }

    /// What the caller sent besides its arguments. Empty for a legacy caller.
    #[must_use]
    pub fn metadata(&self) -> &Metadata {
        &self.call.metadata
    }

    /// Sets a value of the call's metadata, for whoever sees this context from now on: an
    /// interceptor tells the handler what it found out.
    pub fn set_metadata(&mut self, key: impl Into<Cow<'static, str>>, value: impl Into<Bytes>) {
        Call::change(&mut self.call).metadata.insert(key, value);
    }

    /// Sends a value along with the reply, or with the failure. What is added after the call was
    /// answered does not travel, and nothing travels to a legacy caller. With more than 32 KiB or
    /// 128 entries the call fails with `RESOURCE_EXHAUSTED`.
    pub fn add_reply_metadata(&self, key: impl Into<Cow<'static, str>>, value: impl Into<Bytes>) {
        self.call.add_reply_metadata(key.into(), value.into());
    }

    /// The trace and span that the call was made from, if the caller sent one.
    #[must_use]
    pub fn trace(&self) -> Option<&TraceContext> {
        self.call.trace.as_deref()
    }

    /// Whether nobody waits for the answer any more: the caller has given the call up, its
    /// connection is gone, or the deadline has passed. The call is to be answered all the same;
    /// with what does not matter.
    #[must_use]
    pub fn is_canceled(&self) -> bool {
        self.call.is_canceled()
    }

    /// Runs `callback` once when the call [is cancelled](RpcContext::is_canceled): on the event
    /// loop's thread, where it must not block, or right here if it is so already. It is dropped
    /// unused when the call is answered before.
    pub fn on_cancel(&self, callback: impl FnOnce() + Send + 'static) {
        self.call.on_cancel(Box::new(callback), None);
    }
}

impl fmt::Debug for RpcContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RpcContext")
            .field("peer", &self.call.peer)
            .field("request_id", &self.call.request_id)
            .field("deadline", &self.call.deadline)
            .field("service", &self.call.service)
            .field("method", &self.call.method)
            .finish_non_exhaustive()
    }
}
