//! Interceptors that most servers and clients want sooner or later.
//!
//! | interceptor | side | what it does |
//! |---|---|---|
//! | [`AccessLog`] | both | one `tracing` event for each call |
//! | [`TokenAuth`], [`TokenCredentials`] | server, client | a shared token instead of certificates |
//! | [`MethodLimits`] | server | bounds on the calls of a method that are under way at once |
//! | [`CallMetrics`] | client | counts and latencies by method; a provider counts by itself |
//!
//! Retries are no interceptor: see [`ChannelOptions::retry`](crate::ChannelOptions::retry).
//!
//! ```
//! use std::sync::Arc;
//! use rpc::interceptors::{AccessLog, MethodLimits, TokenAuth, TokenCredentials};
//! use rpc::{ChannelOptions, ProviderOptions};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let tokens = TokenAuth::new([("ops", "c7f3e0a1b2d94856")])?;
//! let provider = ProviderOptions {
//!     interceptors: vec![
//!         Arc::new(AccessLog),
//!         Arc::new(tokens.exempt_service("Health")),
//!         Arc::new(MethodLimits::new().limit("Reports", "Build", 2)),
//!     ],
//!     ..ProviderOptions::default()
//! };
//! let channel = ChannelOptions {
//!     interceptors: vec![Arc::new(TokenCredentials::new("c7f3e0a1b2d94856")?)],
//!     ..ChannelOptions::default()
//! };
//! # Ok(())
//! # }
//! ```

mod access_log;
mod call_metrics;
mod method_limits;
mod token;

pub use access_log::AccessLog;
pub use call_metrics::{CallMetrics, CallStats};
pub use method_limits::MethodLimits;
pub use token::{TokenAuth, TokenCredentials, TokenError};
