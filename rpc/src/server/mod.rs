//! The server's side: [`RpcProvider`] and what it is made of.

mod acceptor;
mod book;
#[cfg(test)]
mod book_test;
mod call;
mod call_state;
mod connection;
mod flow;
#[cfg(test)]
mod flow_test;
mod handler;
mod outbox;
mod provider;
mod refusal;
mod reply_path;
mod room;
mod services;
mod shared;
mod status_port;
mod worker_pool;

use crate::handover::sync;
pub(crate) use call::Call;
pub(crate) use flow::{Flow, ITEM_CREDIT};
pub use provider::{ProviderError, ProviderHandle, ProviderOptions, RpcProvider};
pub use worker_pool::WorkerPoolOptions;
