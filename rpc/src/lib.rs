//! A small, fast, thread-based protobuf RPC framework over a mio reactor.

mod client;
mod controller;
mod error;
mod reactor;
mod reply;
mod server;
mod service;
mod wire;

pub use client::{Backoff, ChannelOptions, RpcChannel};
pub use controller::RpcController;
pub use error::{Code, RpcError};
pub use reactor::EventLoops;
pub use reply::{Done, ReplySlot};
pub use server::{ProviderError, ProviderHandle, ProviderOptions, RpcProvider, WorkerPoolOptions};
pub use service::{MethodDescriptor, RpcContext, Service};
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
