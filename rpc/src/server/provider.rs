//! [`RpcProvider`]: services, an address, and a beginning and an end.

use std::fmt;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use mio::net::TcpListener;

use super::acceptor::Acceptor;
use super::services::{Registered, Services};
use super::shared::{ServeOptions, ServerShared};
use super::status_port::StatusPort;
use super::worker_pool::{WorkerPool, WorkerPoolOptions};
use crate::builtin::{
    HEALTH, HealthHandle, HealthService, REFLECTION, ReflectionService, ServerHealth,
};
use crate::interceptor::ServerInterceptor;
use crate::keepalive::Keepalive;
use crate::reactor::{EventLoops, WAIT_MAX, on_group};
use crate::service::Service;
use crate::stats::{ConnectionInfo, ServerStats, WorkerQueue};
use crate::transport::TlsServer;
use crate::wire::Limits;

/// How much longer than its grace a shutdown waits for the loops to notice that it has passed.
const SHUTDOWN_SLACK: Duration = Duration::from_secs(5);

/// How a provider serves. `ProviderOptions::default()` suits most.
#[derive(Clone)]
pub struct ProviderOptions {
    /// The event loops to serve on. `None`: the provider starts its own.
    pub loops: Option<EventLoops>,
    /// How many loops of its own it starts; not used if `loops` is given. By default as many as
    /// the machine has cores, but at most four: they carry bytes, the work is elsewhere.
    pub threads: usize,
    /// What a peer may make it hold.
    pub limits: Limits,
    /// How long [`ProviderHandle::shutdown`] lets running calls go on. By default two seconds.
    pub shutdown_grace: Duration,
    /// What is put around every call, the first of them outermost.
    pub interceptors: Vec<Arc<dyn ServerInterceptor>>,
    /// How peers that vanished are noticed. By default they are asked after a minute of silence,
    /// and given up 20 seconds later.
    pub keepalive: Keepalive,
    /// When a connection that has had no call under way for so long is told to go. `None` (the
    /// default): never. Legacy callers may be idle for ever, since they take a closed connection
    /// for an answer.
    pub idle_timeout: Option<Duration>,
    /// The time that a new connection has until its first request is there; then it is closed.
    /// `None` (the default): for ever, as a client that connects ahead of its calls may need.
    pub first_request_timeout: Option<Duration>,
    /// The time that a request has from its first byte to its last. One that takes longer is
    /// waited for only as long as it comes with at least 100 bytes a second; then its connection
    /// is closed. By default 30 seconds.
    ///
    /// A visitor of the status pages has as long for the whole exchange.
    pub frame_timeout: Duration,
    /// Shows status pages to whoever comes with HTTP to the port of the calls: `/`, `/services`,
    /// `/connections`, `/metrics` (for Prometheus) and `/health`. They tell the names of services
    /// and the addresses of clients, and no interceptor is asked. So it is off by default, and
    /// something for ports that only friends can reach.
    pub status_pages: bool,
    /// Shows the status pages at an address of their own, as plain HTTP. They stay there until a
    /// drain is over, and do not count as connections of the calls. `None` (the default): nowhere.
    pub status_addr: Option<SocketAddr>,
    /// Speaks TLS, and nothing else, at its port: callers of both kinds, those in frames
    /// ([`ChannelOptions::tls`](crate::ChannelOptions::tls)) and legacy ones. `None` (the default):
    /// it speaks none. Either way a caller of the wrong sort is told so, if it can understand it.
    pub tls: Option<TlsServer>,
    /// The time that a TLS handshake may take, counted from when the connection is accepted; then
    /// the connection is closed. By default ten seconds.
    pub handshake_timeout: Duration,
    /// How long [`StreamSender::send`](crate::StreamSender::send) waits for a caller that takes no
    /// item, or for a connection that its peer does not read from. Then the stream is closed, and
    /// its call ends with `RESOURCE_EXHAUSTED`. By default five minutes: a slow reader is no bad
    /// one, but one that never reads would otherwise hold the handler's thread for ever.
    pub stream_stall_timeout: Duration,
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
            interceptors: Vec::new(),
            keepalive: Keepalive::default(),
            idle_timeout: None,
            first_request_timeout: None,
            frame_timeout: Duration::from_secs(30),
            status_pages: false,
            status_addr: None,
            tls: None,
            handshake_timeout: Duration::from_secs(10),
            stream_stall_timeout: Duration::from_mins(5),
        }
    }
}

impl fmt::Debug for ProviderOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProviderOptions")
            .field("loops", &self.loops)
            .field("threads", &self.threads)
            .field("limits", &self.limits)
            .field("shutdown_grace", &self.shutdown_grace)
            .field("interceptors", &self.interceptors.len())
            .field("keepalive", &self.keepalive)
            .field("idle_timeout", &self.idle_timeout)
            .field("first_request_timeout", &self.first_request_timeout)
            .field("frame_timeout", &self.frame_timeout)
            .field("status_pages", &self.status_pages)
            .field("status_addr", &self.status_addr)
            .field("tls", &self.tls)
            .field("handshake_timeout", &self.handshake_timeout)
            .field("stream_stall_timeout", &self.stream_stall_timeout)
            .finish_non_exhaustive()
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
    /// A method that was named is none of its service.
    #[error("service {service} has no method {method}")]
    UnknownMethod {
        /// The service.
        service: &'static str,
        /// The name that it does not have.
        method: String,
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
    #[error("the system gives no thread or descriptor")]
    Start(#[source] io::Error),
}

/// Serves any number of services at an address.
///
/// Register them with [`notify_service`](RpcProvider::notify_service), then
/// [`start`](RpcProvider::start) (in the background) or [`run`](RpcProvider::run) (for good).
pub struct RpcProvider {
    options: ProviderOptions,
    services: Vec<Registered>,
    /// Serve the builtin ones as well.
    builtin: bool,
    health: HealthHandle,
}

impl RpcProvider {
    /// A provider without services.
    #[must_use]
    pub fn new(options: ProviderOptions) -> RpcProvider {
        RpcProvider {
            options,
            services: Vec::new(),
            builtin: false,
            health: HealthHandle::default(),
        }
    }

    /// Adds a service, whose calls run on the event loops and must not block.
    ///
    /// # Errors
    /// [`ProviderError::DuplicateService`].
    pub fn notify_service(&mut self, service: impl Service) -> Result<(), ProviderError> {
        self.check_name(service.name())?;
        self.services.push(self.registered(Arc::new(service)));
        Ok(())
    }

    /// Adds a service whose calls may block: they run on a pool of threads of its own.
    ///
    /// # Errors
    /// [`ProviderError::DuplicateService`], [`ProviderError::Start`].
    pub fn notify_blocking_service(
        &mut self,
        service: impl Service,
        options: WorkerPoolOptions,
    ) -> Result<(), ProviderError> {
        let methods = service.methods();
        self.notify_blocking_methods(service, methods, options)
    }

    /// Adds a service of which the calls of some methods may block: those run on a pool of threads
    /// of its own, the others on the event loops.
    ///
    /// # Errors
    /// [`ProviderError::DuplicateService`], [`ProviderError::UnknownMethod`],
    /// [`ProviderError::Start`].
    pub fn notify_blocking_methods(
        &mut self,
        service: impl Service,
        methods: &[&str],
        options: WorkerPoolOptions,
    ) -> Result<(), ProviderError> {
        self.check_name(service.name())?;
        let service: Arc<dyn Service> = Arc::new(service);
        let known = service.methods();
        if let Some(&unknown) = methods.iter().find(|method| !known.contains(method)) {
            return Err(ProviderError::UnknownMethod {
                service: service.name(),
                method: unknown.to_owned(),
            });
        }
        let workers = WorkerPool::start(&service, options).map_err(ProviderError::Start)?;
        let workers = Arc::new(workers);
        let mut registered = self.registered(service);
        for method in methods {
            registered.move_to_workers(method, &workers);
        }
        self.services.push(registered);
        Ok(())
    }

    /// Adds the services of [`builtin`](crate::builtin): whoever can call this provider may ask
    /// them how it is and what it offers.
    ///
    /// # Errors
    /// [`ProviderError::DuplicateService`].
    pub fn notify_builtin_services(&mut self) -> Result<(), ProviderError> {
        for name in [HEALTH, REFLECTION] {
            self.check_name(name)?;
        }
        self.builtin = true;
        Ok(())
    }

    /// Says how this provider and its services are, to those who ask its
    /// [builtin services](RpcProvider::notify_builtin_services) or its status pages.
    #[must_use]
    pub fn health(&self) -> HealthHandle {
        self.health.clone()
    }

    fn registered(&self, service: Arc<dyn Service>) -> Registered {
        registered_after(&self.services, service)
    }

    fn check_name(&self, name: &'static str) -> Result<(), ProviderError> {
        let is_builtin = self.builtin && [HEALTH, REFLECTION].contains(&name);
        if is_builtin || self.services.iter().any(|known| known.name() == name) {
            return Err(ProviderError::DuplicateService { name });
        }
        Ok(())
    }

    /// Serves in the background, from when this returns. Port 0 lets the system choose one. Of an
    /// address that resolves to several the first is taken that can be listened at.
    ///
    /// # Errors
    /// [`ProviderError::Address`], [`ProviderError::Listen`], [`ProviderError::Start`].
    pub fn start(&self, addr: impl ToSocketAddrs) -> Result<ProviderHandle, ProviderError> {
        let (listener, addr) = listen(addr)?;
        let status = self.options.status_addr.map(listen).transpose()?;
        let loops = match &self.options.loops {
            Some(loops) => loops.clone(),
            None => EventLoops::start(self.options.threads, "rpc-server")
                .map_err(ProviderError::Start)?,
        };
        let options = ServeOptions {
            limits: self.options.limits.clone(),
            interceptors: self.options.interceptors.clone().into(),
            keepalive: self.options.keepalive,
            idle_timeout: self.options.idle_timeout,
            first_request_timeout: self.options.first_request_timeout,
            frame_timeout: self.options.frame_timeout,
            status_pages: self.options.status_pages,
            tls: self.options.tls.clone(),
            handshake_timeout: self.options.handshake_timeout,
            stream_stall_timeout: self.options.stream_stall_timeout.min(WAIT_MAX),
        };
        let (services, health) = self.all_services();
        let server = ServerShared::new(services, health, options, addr, loops.handles().len());
        let server = Arc::new(server);
        Acceptor::start(listener, &server, &loops);
        let status =
            status.map(|(listener, addr)| StatusPort::start(listener, addr, &server, &loops));
        tracing::info!(%addr, "serving");
        let grace = self.options.shutdown_grace.min(WAIT_MAX);
        Ok(ProviderHandle {
            server,
            status,
            loops,
            grace,
            down: false,
        })
    }

    /// The services of one server with the builtin ones, and how they are.
    fn all_services(&self) -> (Services, Arc<ServerHealth>) {
        let mut services = self.services.clone();
        let mut names: Vec<_> = services.iter().map(Registered::name).collect();
        if self.builtin {
            names.extend([HEALTH, REFLECTION]);
        }
        let health = Arc::new(self.health.of_server(names));
        if self.builtin {
            let asked = HealthService(Arc::clone(&health));
            services.push(registered_after(&services, Arc::new(asked)));
            let reflection = ReflectionService::new(services.iter().map(Registered::service));
            services.push(registered_after(&services, Arc::new(reflection)));
        }
        (Services::new(services), health)
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

/// A service whose methods are counted after those of `services`.
fn registered_after(services: &[Registered], service: Arc<dyn Service>) -> Registered {
    let methods_before = services.iter().map(Registered::methods).sum();
    Registered::new(service, methods_before)
}

/// Listens at the first address that the system lets us have.
fn listen(addr: impl ToSocketAddrs) -> Result<(TcpListener, SocketAddr), ProviderError> {
    let nothing = || ProviderError::Address(io::ErrorKind::NotFound.into());
    let mut error = None;
    for addr in addr.to_socket_addrs().map_err(ProviderError::Address)? {
        match TcpListener::bind(addr) {
            Ok(listener) => {
                let addr = listener.local_addr().map_err(ProviderError::Start)?;
                return Ok((listener, addr));
            }
            Err(source) => error = Some(ProviderError::Listen { addr, source }),
        }
    }
    Err(error.unwrap_or_else(nothing))
}

/// A running provider. Dropping it [shuts it down](ProviderHandle::shutdown), which waits.
pub struct ProviderHandle {
    server: Arc<ServerShared>,
    status: Option<StatusPort>,
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

    /// The address of the [status pages](ProviderOptions::status_addr), if they have one of their
    /// own.
    #[must_use]
    pub fn status_addr(&self) -> Option<SocketAddr> {
        self.status.as_ref().map(StatusPort::addr)
    }

    /// How many connections are open: accepted and not closed, visitors of the status pages on the
    /// same port included. Any thread; so are the other counts.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.server.connections()
    }

    /// How many calls are under way, on all connections together.
    #[must_use]
    pub fn running_calls(&self) -> usize {
        self.server.calls()
    }

    /// What was counted since it was started. Takes some microseconds for each method; calls may
    /// begin and end meanwhile, so the numbers need not be of one moment.
    #[must_use]
    pub fn stats(&self) -> ServerStats {
        self.server.stats()
    }

    /// At most `max` of the open connections, the oldest first.
    #[must_use]
    pub fn connection_infos(&self, max: usize) -> Vec<ConnectionInfo> {
        self.server.connection_infos(max)
    }

    /// How busy the workers of blocking services are.
    #[must_use]
    pub fn worker_queues(&self) -> Vec<WorkerQueue> {
        self.server.services.worker_queues()
    }

    /// Stops, and waits until that is done: as [`drain`](ProviderHandle::drain), for at most
    /// [`shutdown_grace`](ProviderOptions::shutdown_grace).
    pub fn shutdown(&mut self) {
        self.drain(self.grace);
    }

    /// Stops in order. Accepts the connections that are made already and no more, and asks callers
    /// to begin new calls elsewhere. What they begin here until they have heard that is still
    /// served. Running calls may go on until all are answered, but no longer than `timeout`; then
    /// every connection is closed. Legacy callers cannot be asked: each has the call that it has
    /// begun answered, and no other.
    ///
    /// A caller is asked when its first request is there, which tells how it speaks. One that has
    /// sent nothing for half a second, not even a part of that, is closed.
    ///
    /// Returns when all of that is done; `true`: no call was cut off. That is soon after `timeout`
    /// at the latest, unless a handler blocks an event loop: that is waited for five seconds more,
    /// then its connections stay open, and it returns `false`. A status port of its own may take as
    /// long again. On an event loop's own thread it cannot wait, so it returns `false` at once
    /// there and the rest happens by itself. The second time there is nothing left to do.
    pub fn drain(&mut self, timeout: Duration) -> bool {
        if std::mem::replace(&mut self.down, true) {
            return self.server.cut_off() == 0;
        }
        let (addr, timeout) = (self.server.addr, timeout.min(WAIT_MAX));
        tracing::info!(%addr, connections = self.connections(), "shutting down");
        self.server.drain(Instant::now() + timeout);
        let mut handles = self.loops.handles().iter();
        if handles.any(|handle| on_group(handle.group())) {
            self.server.keep(&self.loops);
            self.status.iter().for_each(StatusPort::close);
            return false;
        }
        let gone = self.server.wait_until_gone(timeout + SHUTDOWN_SLACK);
        if let Some(status) = &self.status {
            status.close();
            if gone && !status.wait_until_gone(SHUTDOWN_SLACK) {
                tracing::warn!(addr = %status.addr(), "an event loop is blocked; the status port stays open");
            }
        }
        if !gone {
            tracing::warn!(%addr, "an event loop is blocked; its connections stay open");
            return false;
        }
        self.server.cut_off() == 0
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
