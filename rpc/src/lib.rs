//! A small, fast, thread-based protobuf RPC framework over a mio reactor: no async runtime, no
//! `protoc`, many calls at once on one connection, and the wire of the C++ project
//! KVstorageBaseRaft-cpp, whose compiled clients can call our servers unchanged.
//!
//! ```text
//!   caller's thread       channel's event loop          connection's event loop       handler
//!   ───────────────       ────────────────────          ───────────────────────       ───────
//!   RpcChannel::call ──►  one write for many  ──TCP──►  read, cut into frames   ──►  Service::call
//!     encodes its frame     requests                      (Bytes, not copied)           │ now, or
//!     under a short lock                                                                │ later, on
//!         ▲                                                                             ▼ any thread
//!   reply, or RpcError ◄─ in-flight table by  ◄──TCP──  one write for many      ◄──  Done::run
//!                           request_id, deadlines         replies
//! ```
//!
//! - [`RpcProvider`] serves [`Service`]s; a handler gets an [`RpcContext`], its arguments and a
//!   [`Done`], which it may run at once or keep. Handlers run on the event loop's thread and must
//!   not block; those that must are registered with
//!   [`notify_blocking_service`](RpcProvider::notify_blocking_service).
//! - [`RpcChannel`] is the way to one server, or to several that can stand in for each other,
//!   shared by threads. Every call ends: with a reply, or with an [`RpcError`] whose
//!   [`may_have_executed`](RpcError::may_have_executed) says whether it is safe to ask again. A
//!   method may answer with a stream of messages: [`RpcStream`].
//! - [`EventLoops`] are the threads below; a provider and many channels can share one.
//! - [`interceptors`] are put around every call, on either side: an access log, tokens, limits by
//!   method, metrics, and whatever implements [`ServerInterceptor`] or [`ClientInterceptor`].
//! - TLS, mutual if asked: [`TlsServer`] in a provider's options, [`TlsClient`] in a channel's.
//! - A running provider counts what it does ([`ProviderHandle::stats`]), shows it over HTTP
//!   ([`ProviderOptions::status_addr`]), and says how it is and what it offers ([`builtin`]).
//!
//! Usually `rpc-build` writes the messages, a typed trait and a stub from a `.proto`. By hand it
//! looks like this:
//!
//! ```
//! use bytes::Bytes;
//! use prost::Message;
//! use rpc::{
//!     Code, Done, MethodDescriptor, ProviderOptions, ReplySlot, RpcChannel, RpcContext,
//!     RpcController, RpcError, RpcProvider, Service,
//! };
//!
//! #[derive(Clone, PartialEq, Message)]
//! struct Text {
//!     #[prost(string, tag = "1")]
//!     text: String,
//! }
//!
//! struct Greeter;
//!
//! impl Service for Greeter {
//!     fn name(&self) -> &'static str {
//!         "Greeter"
//!     }
//!
//!     fn methods(&self) -> &'static [&'static str] {
//!         &["Greet"]
//!     }
//!
//!     fn call(&self, _method: usize, _context: RpcContext, args: Bytes, reply: ReplySlot) {
//!         let done = Done::new(reply);
//!         match Text::decode(args) {
//!             Ok(name) => done.run(Text { text: format!("hello {}", name.text) }),
//!             Err(error) => done.refuse(RpcError::new(Code::InvalidArgument, error.to_string())),
//!         }
//!     }
//! }
//!
//! static GREET: MethodDescriptor = MethodDescriptor { service: "Greeter", method: "Greet" };
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let mut provider = RpcProvider::new(ProviderOptions::default());
//! provider.notify_service(Greeter)?;
//! let mut handle = provider.start("127.0.0.1:0")?;
//!
//! let channel = RpcChannel::new(handle.local_addr());
//! let name = Text { text: "world".into() };
//! let reply: Text = channel.call(&GREET, &mut RpcController::new(), &name)?;
//! assert_eq!(reply.text, "hello world");
//!
//! // The same without waiting.
//! let (sender, receiver) = std::sync::mpsc::channel();
//! channel.call_async(&GREET, RpcController::new(), &name, move |reply: Result<Text, RpcError>| {
//!     sender.send(reply).expect("the receiver waits");
//! });
//! assert_eq!(receiver.recv()??.text, "hello world");
//!
//! handle.shutdown();
//! # Ok(())
//! # }
//! ```
//!
//! Bounds: [`Limits`] for what a peer may make us hold, [`ChannelOptions`] and
//! [`WorkerPoolOptions`] for queues of our own. The bytes on the wire: `docs/wire.md`. To read the
//! code, begin with `wire/frame.rs`, then `reactor/mod.rs`, `server/connection/mod.rs` and
//! `client/driver.rs`.

pub mod builtin;
mod client;
mod controller;
mod error;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
mod handover;
mod http;
mod interceptor;
pub mod interceptors;
mod keepalive;
mod metadata;
mod reactor;
mod reply;
mod server;
mod service;
mod stats;
mod stream;
mod trace;
mod transport;
mod wire;

pub use client::{
    Backoff, Balance, ChannelOptions, ChannelState, RetryPolicy, RpcChannel, RpcStream,
};
pub use controller::RpcController;
pub use error::{Code, RpcError};
pub use interceptor::{
    CallOutcome, ClientInterceptor, FinishedCall, OutgoingCall, ServerInterceptor,
};
pub use keepalive::Keepalive;
pub use metadata::Metadata;
pub use reactor::EventLoops;
pub use reply::{Done, ReplySlot};
pub use server::{ProviderError, ProviderHandle, ProviderOptions, RpcProvider, WorkerPoolOptions};
pub use service::{MethodDescriptor, RpcContext, Service};
pub use stats::{
    ConnectionInfo, Dialect, LatencyHistogram, MethodStats, ServerStats, ServiceStats, WorkerQueue,
};
pub use stream::{StreamError, StreamSender};
pub use trace::TraceContext;
#[cfg(feature = "tls")]
pub use transport::TlsError;
pub use transport::{TlsClient, TlsServer};
pub use wire::Limits;

/// What generated code names, so that its crate need not depend on it. No part of the public API.
#[doc(hidden)]
pub mod __private {
    pub use bytes;
    pub use prost;
}

/// Includes what `rpc_build::compile` generated for a package: `rpc::include_proto!("kv")`.
#[macro_export]
macro_rules! include_proto {
    ($package:literal) => {
        include!(concat!(env!("OUT_DIR"), "/", $package, ".rs"));
    };
}
