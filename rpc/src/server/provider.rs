//! [`RpcProvider`]: services, an address, and a beginning and an end.

use std::fmt;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use mio::net::TcpListener;

use super::acceptor::Acceptor;
use super::registry::{Registered, ServerShared};
use super::worker_pool::{WorkerPool, WorkerPoolOptions};
use crate::reactor::{EventLoops, WAIT_MAX, on_group};
use crate::service::Service;
use crate::wire::Limits;

/// How much longer than its grace a shutdown waits for the loops to notice that it has passed.
const SHUTDOWN_SLACK: Duration = Duration::from_secs(5);

/// How a provider serves. `ProviderOptions::default()` suits most.
#[derive(Clone, Debug)]
pub struct ProviderOptions {
    /// The event loops to serve on. `None`: the provider starts its own.
    pub loops: Option<EventLoops>,
    /// How many loops of its own it starts; not used if `loops` is given. By default as many as
    /// the machine has cores, but at most four: they carry bytes, the work is elsewhere.
    pub threads: usize,
    /// What a peer may make it hold.
    pub limits: Limits,
    /// How long [`ProviderHandle::shutdown`] lets running calls go on.
    pub shutdown_grace: Duration,
}

impl Default for ProviderOptions {
    fn default() -> ProviderOptions {
        ProviderOptions {
            loops: None,
            threads: thread::available_parallelism()
                .map_or(1, usize::from)
                .min(4),
            limits: Limits::default(),
            shutdown_grace: Duration::from_secs(2),
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
///
/// Register them with [`notify_service`](RpcProvider::notify_service), then
/// [`start`](RpcProvider::start) (in the background) or [`run`](RpcProvider::run) (for good).
pub struct RpcProvider {
    options: ProviderOptions,
    services: Vec<Registered>,
}

impl RpcProvider {
    /// A provider without services.
    #[must_use]
    pub fn new(options: ProviderOptions) -> RpcProvider {
        RpcProvider {
            options,
            services: Vec::new(),
        }
    }

    /// Adds a service, whose calls run on the event loops and must not block.
    ///
    /// # Errors
    /// [`ProviderError::DuplicateService`].
    pub fn notify_service(&mut self, service: impl Service) -> Result<(), ProviderError> {
        self.check_name(service.name())?;
        self.services.push(Registered::new(Arc::new(service)));
        Ok(())
    }

    /// Adds a service whose calls may block: they run on a pool of threads of its own.
    ///
    /// # Errors
    /// [`ProviderError::DuplicateService`], [`ProviderError::Start`].
    #[expect(
        clippy::needless_pass_by_value,
        reason = "written in place by the caller"
    )]
    pub fn notify_blocking_service(
        &mut self,
        service: impl Service,
        options: WorkerPoolOptions,
    ) -> Result<(), ProviderError> {
        self.check_name(service.name())?;
        let pool = WorkerPool::start(service, &options).map_err(ProviderError::Start)?;
        self.services.push(Registered::new(Arc::new(pool)));
        Ok(())
    }

    fn check_name(&self, name: &'static str) -> Result<(), ProviderError> {
        if self.services.iter().any(|known| known.name() == name) {
            return Err(ProviderError::DuplicateService { name });
        }
        Ok(())
    }

    /// Serves in the background, from when this returns. Port 0 lets the system choose one.
    ///
    /// # Errors
    /// When the address cannot be listened at or no thread be started.
    pub fn start(&self, addr: impl ToSocketAddrs) -> Result<ProviderHandle, ProviderError> {
        let listener = listen(addr)?;
        let addr = listener.local_addr().map_err(ProviderError::Start)?;
        let loops = match &self.options.loops {
            Some(loops) => loops.clone(),
            None => EventLoops::start(self.options.threads, "rpc-server")
                .map_err(ProviderError::Start)?,
        };
        let (services, limits) = (self.services.clone(), self.options.limits.clone());
        let server = Arc::new(ServerShared::new(services, limits, addr));
        Acceptor::start(listener, &server, &loops);
        tracing::info!(%addr, "serving");
        let grace = self.options.shutdown_grace.min(WAIT_MAX);
        Ok(ProviderHandle {
            server,
            loops,
            grace,
            down: false,
        })
    }

    /// Serves until the process ends.
    ///
    /// # Errors
    /// As [`start`](RpcProvider::start).
    pub fn run(&self, addr: impl ToSocketAddrs) -> Result<(), ProviderError> {
        let _handle = self.start(addr)?;
        loop {
            thread::park();
        }
    }
}

impl fmt::Debug for RpcProvider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let services: Vec<_> = self.services.iter().map(Registered::name).collect();
        f.debug_struct("RpcProvider")
            .field("services", &services)
            .finish_non_exhaustive()
    }
}

/// Listens at the first address that the system lets us have.
fn listen(addr: impl ToSocketAddrs) -> Result<TcpListener, ProviderError> {
    let nothing = || ProviderError::Address(io::ErrorKind::NotFound.into());
    let mut error = None;
    for addr in addr.to_socket_addrs().map_err(ProviderError::Address)? {
        match TcpListener::bind(addr) {
            Ok(listener) => return Ok(listener),
            Err(source) => error = Some(ProviderError::Listen { addr, source }),
        }
    }
    Err(error.unwrap_or_else(nothing))
}

/// A running provider. Dropping it shuts it down.
pub struct ProviderHandle {
    server: Arc<ServerShared>,
    loops: EventLoops,
    grace: Duration,
    down: bool,
}

impl ProviderHandle {
    /// The address that it listens at, with the port that the system chose for port 0.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.server.addr
    }

    /// How many connections are open.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.server.connections()
    }

    /// Stops in order: accepts no more, reads no more requests, lets running calls finish for at
    /// most [`shutdown_grace`](ProviderOptions::shutdown_grace), sends their replies, closes.
    ///
    /// Returns when all of that is done. On an event loop's own thread it cannot wait, so it
    /// returns at once there and the rest happens by itself.
    pub fn shutdown(&mut self) {
        if std::mem::replace(&mut self.down, true) {
            return;
        }
        let addr = self.server.addr;
        tracing::info!(%addr, connections = self.connections(), "shutting down");
        self.server.drain(self.grace);
        if self
            .loops
            .handles()
            .iter()
            .any(|handle| on_group(handle.group()))
        {
            return;
        }
        if !self.server.wait_until_gone(self.grace + SHUTDOWN_SLACK) {
            tracing::warn!(%addr, "an event loop is blocked; its connections stay open");
        }
    }
}

impl Drop for ProviderHandle {
    fn drop(&mut self) {
        self.shutdown();
    }
}

impl fmt::Debug for ProviderHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProviderHandle")
            .field("addr", &self.local_addr())
            .finish_non_exhaustive()
    }
}
