//! The client's side: [`RpcChannel`] and what it is made of.

mod attempts;
mod channel;
mod connecting;
mod connection;
mod delays;
mod driver;
mod in_flight;
mod loan;
mod options;
mod pending;
mod raw;
mod shared;
mod state;
mod stream;
mod targets;
mod waiting;

pub(crate) use attempts::Paused;
pub use channel::RpcChannel;
pub use options::{Backoff, ChannelOptions, RetryPolicy};
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use raw::Raw;
pub(crate) use shared::ChannelShared;
pub use state::ChannelState;
pub use stream::RpcStream;
pub use targets::Balance;
