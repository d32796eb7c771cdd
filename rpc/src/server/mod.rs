//! The server's side: [`RpcProvider`] and what it is made of.

mod acceptor;
mod book;
#[cfg(test)]
mod book_test;
mod call;
mod call_state;
mod connection;
mod handler;
mod outbox;
mod provider;
mod refusal;
mod reply_path;
mod services;
mod shared;
mod status_port;
mod worker_pool;

use crate::handover::sync;
pub(crate) use book::{Callback, run_all};
pub(crate) use call::Call;
pub use provider::{ProviderError, ProviderHandle, ProviderOptions, RpcProvider};
pub(crate) use reply_path::ReplyPath;
pub use worker_pool::WorkerPoolOptions;
