//! The client's side: [`RpcChannel`] and what it is made of.

mod channel;
mod driver;
mod options;
mod pending;
mod shared;

pub use channel::RpcChannel;
pub use options::{Backoff, ChannelOptions};
pub(crate) use shared::ChannelShared;
