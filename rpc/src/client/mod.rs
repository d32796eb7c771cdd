//! The client's side: [`RpcChannel`].
use std::net::SocketAddr;
use std::time::Duration;

use prost::Message;

use crate::controller::RpcController;
use crate::error::{Code, RpcError};
use crate::reactor::EventLoops;
use crate::service::MethodDescriptor;
use crate::wire::Limits;

/// The pauses between attempts to connect: doubling from `min` to `max`, each shortened by a
/// random part of up to a half.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// The pause after the first failure.
    pub min: Duration,
    /// The longest pause.
    pub max: Duration,
}

impl Default for Backoff {
    fn default() -> Backoff {
        Backoff {
            min: Duration::from_millis(50),
            max: Duration::from_secs(2),
        }
    }
}

/// How a channel behaves. `ChannelOptions::default()` suits most.
#[derive(Clone, Debug)]
pub struct ChannelOptions {
    /// The event loops to run on. `None`: those that all such channels of the process share.
    pub loops: Option<EventLoops>,
    /// The time that a call may take whose controller does not say.
    pub default_timeout: Duration,
    /// The time that connecting may take.
    pub connect_timeout: Duration,
    /// The pauses between attempts to connect.
    pub backoff: Backoff,
    /// What the server may make us hold.
    pub limits: Limits,
    /// Calls that may be under way at once; further ones fail with `RESOURCE_EXHAUSTED`.
    pub max_in_flight: usize,
    /// Request bytes that may wait for the server to take them; a call beyond it fails with
    /// `RESOURCE_EXHAUSTED`, unless it is the only one.
    pub max_unsent_bytes: usize,
    /// When calls time out and the server has been silent for this long, though calls were under
    /// way, the connection is given up as dead.
    pub silence_limit: Duration,
}

impl Default for ChannelOptions {
    fn default() -> ChannelOptions {
        ChannelOptions {
            loops: None,
            default_timeout: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(3),
            backoff: Backoff::default(),
            limits: Limits::default(),
            max_in_flight: 16 << 10,
            max_unsent_bytes: 64 << 20,
            silence_limit: Duration::from_secs(10),
        }
    }
}

/// A long-lived, multiplexed, lazily made connection to one server, shared by any number of threads.
#[derive(Clone, Debug)]
pub struct RpcChannel {
    addr: SocketAddr,
}

impl RpcChannel {
    /// A channel to `addr` with default options. Connects when it is first used.
    #[must_use]
    pub fn new(addr: SocketAddr) -> RpcChannel {
        RpcChannel::with_options(addr, ChannelOptions::default())
    }

    /// A channel to `addr`. Connects when it is first used.
    #[must_use]
    #[expect(clippy::needless_pass_by_value, reason = "face")]
    pub fn with_options(addr: SocketAddr, _options: ChannelOptions) -> RpcChannel {
        RpcChannel { addr }
    }

    /// The server's address.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Calls a method and waits for its end.
    ///
    /// # Errors
    /// Whatever the server answered; `DEADLINE_EXCEEDED`, `CANCELLED`, `UNAVAILABLE`,
    /// `RESOURCE_EXHAUSTED`; `INTERNAL` for a reply that is not an `R`.
    pub fn call<A: Message, R: Message + Default>(
        &self,
        _method: &'static MethodDescriptor,
        _controller: &mut RpcController,
        _args: &A,
    ) -> Result<R, RpcError> {
        Err(RpcError::new(Code::Unavailable, "not built yet"))
    }

    /// Calls a method and returns at once; `done` runs exactly once, on the event loop's thread
    /// (on the caller's own, before this returns, if the call cannot even begin), and must not block.
    pub fn call_async<A: Message, R: Message + Default>(
        &self,
        _method: &'static MethodDescriptor,
        _controller: RpcController,
        _args: &A,
        done: impl FnOnce(Result<R, RpcError>) + Send + 'static,
    ) {
        done(Err(RpcError::new(Code::Unavailable, "not built yet")));
    }
}
