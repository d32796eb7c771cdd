//! The server's side: [`RpcProvider`] and what it is made of.

mod acceptor;
mod connection;
mod outbox;
mod provider;
mod registry;
mod worker_pool;

pub(crate) use outbox::{CallId, ReplyPath};
pub use provider::{ProviderError, ProviderHandle, ProviderOptions, RpcProvider};
pub use worker_pool::WorkerPoolOptions;
