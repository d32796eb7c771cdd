//! What all connections of one provider share, and the list of those connections.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::reply_path::ReplyPath;
use super::services::Services;
use crate::builtin::{ServerHealth, ServingStatus};
use crate::http::Observed;
use crate::interceptor::ServerInterceptor;
use crate::keepalive::Keepalive;
use crate::reactor::{EventLoops, LoopHandle, Post, SourceId};
use crate::stats::{ConnectionInfo, ServerMeter, ServerStats};
use crate::transport::TlsServer;
use crate::wire::Limits;

/// How all connections of a provider are served.
pub(super) struct ServeOptions {
    pub(super) limits: Limits,
    pub(super) interceptors: Arc<[Arc<dyn ServerInterceptor>]>,
    pub(super) keepalive: Keepalive,
    pub(super) idle_timeout: Option<Duration>,
    pub(super) first_request_timeout: Option<Duration>,
    pub(super) frame_timeout: Duration,
    pub(super) status_pages: bool,
    pub(super) tls: Option<TlsServer>,
    pub(super) handshake_timeout: Duration,
    pub(super) stream_stall_timeout: Duration,
}

/// One started provider.
pub(super) struct ServerShared {
    pub(super) services: Services,
    pub(super) options: ServeOptions,
    pub(super) addr: SocketAddr,
    pub(super) meter: Arc<ServerMeter>,
    health: Arc<ServerHealth>,
    members: Mutex<Members>,
    /// Signalled when the last member has gone.
    gone: Condvar,
    /// Calls under way, on all connections.
    calls: AtomicUsize,
    /// Connections that were closed although calls of theirs were under way.
    cut_off: AtomicUsize,
    /// Connections over the limit that wait to be told so.
    refusals: AtomicUsize,
    /// Connections that look at the status pages.
    visits: AtomicUsize,
}

/// The sources that belong to the provider.
#[derive(Default)]
struct Members {
    acceptor: AcceptorState,
    /// In the order in which they came.
    connections: BTreeMap<u64, Arc<ReplyPath>>,
    next_connection: u64,
    /// Accepted, but not yet with their loops.
    arriving: usize,
    /// The server is shutting down: finish by then.
    drain_until: Option<Instant>,
    /// The loops, if they have to outlive the provider's handle until all members have gone.
    kept: Option<EventLoops>,
}

#[derive(Clone, Default)]
enum AcceptorState {
    /// On its way to its loop.
    #[default]
    Starting,
    Running(Arc<LoopHandle>, SourceId),
    /// The listener is closed.
    Gone,
}

impl Members {
    fn is_empty(&self) -> bool {
        matches!(self.acceptor, AcceptorState::Gone)
            && self.connections.is_empty()
            && self.arriving == 0
    }
}

/// Connections over the limit that are told so before they are closed; further ones are not.
const REFUSALS_MAX: usize = 256;

/// Connections that look at the status pages at a time. An operator, a load balancer and something
/// that collects metrics need a few; each may make us put together a page.
const VISITS_MAX: usize = 64;

impl Observed for ServerShared {
    fn stats(&self) -> ServerStats {
        self.stats()
    }

    fn connections(&self, max: usize) -> Vec<ConnectionInfo> {
        self.connection_infos(max)
    }

    fn health(&self, service: &str) -> (bool, &'static str) {
        let status = self.health.status(service);
        (status == ServingStatus::Serving, status.name())
    }
}

impl ServerShared {
    pub(super) fn new(
        services: Services,
        health: Arc<ServerHealth>,
        options: ServeOptions,
        addr: SocketAddr,
        loops: usize,
    ) -> ServerShared {
        ServerShared {
            meter: Arc::new(ServerMeter::new(services.layouts(), loops)),
            health,
            services,
            options,
            addr,
            members: Mutex::default(),
            gone: Condvar::new(),
            calls: AtomicUsize::new(0),
            cut_off: AtomicUsize::new(0),
            refusals: AtomicUsize::new(0),
            visits: AtomicUsize::new(0),
        }
    }

    /// What was counted.
    pub(super) fn stats(&self) -> ServerStats {
        self.meter.snapshot(
            self.connections(),
            self.is_draining(),
            self.services.worker_queues(),
        )
    }

    /// At most `max` of the open connections, the oldest first.
    pub(super) fn connection_infos(&self, max: usize) -> Vec<ConnectionInfo> {
        let paths: Vec<_> = {
            let members = self.members.lock();
            let oldest = members.connections.values().take(max);
            oldest.map(Arc::clone).collect()
        };
        let now = Instant::now();
        paths.iter().map(|path| path.cells.info(now)).collect()
    }

    // ---- calls

    /// Calls under way.
    pub(super) fn calls(&self) -> usize {
        self.calls.load(Ordering::Relaxed)
    }

    /// A connection has so many more calls under way than it said last.
    pub(super) fn add_calls(&self, calls: usize) {
        self.calls.fetch_add(calls, Ordering::Relaxed);
    }

    /// A connection has so many calls less.
    pub(super) fn remove_calls(&self, calls: usize) {
        self.calls.fetch_sub(calls, Ordering::Relaxed);
    }

    /// A connection is closed although calls of it are under way.
    pub(super) fn note_cut_off(&self) {
        self.cut_off.fetch_add(1, Ordering::Relaxed);
    }

    /// How many connections were.
    pub(super) fn cut_off(&self) -> usize {
        self.cut_off.load(Ordering::Relaxed)
    }

    // ---- members

    /// Notes the acceptor; `false` if the server is shutting down already.
    pub(super) fn add_acceptor(&self, handle: &Arc<LoopHandle>, id: SourceId) -> bool {
        let mut members = self.members.lock();
        let goes_on = members.drain_until.is_none();
        if goes_on {
            members.acceptor = AcceptorState::Running(Arc::clone(handle), id);
        }
        goes_on
    }

    /// The listener is closed.
    pub(super) fn remove_acceptor(&self) {
        self.members.lock().acceptor = AcceptorState::Gone;
        self.note_gone();
    }

    /// Counts a connection that was accepted; `None` if the limit is reached.
    pub(super) fn admit(self: &Arc<ServerShared>) -> Option<Arrival> {
        let mut members = self.members.lock();
        let connections = members.connections.len() + members.arriving;
        if connections >= self.options.limits.max_connections {
            return None;
        }
        members.arriving += 1;
        Some(Arrival {
            server: Arc::clone(self),
            arrived: false,
        })
    }

    /// Makes room for telling one connection that there are too many; `None`: too many are being
    /// told already.
    pub(super) fn begin_refusal(self: &Arc<ServerShared>) -> Option<RefusalSlot> {
        count_up(&self.refusals, REFUSALS_MAX).then(|| RefusalSlot(Arc::clone(self)))
    }

    /// Makes room for one who looks at the status pages; `None`: there are too many.
    pub(super) fn begin_visit(self: &Arc<ServerShared>) -> Option<VisitSlot> {
        count_up(&self.visits, VISITS_MAX).then(|| VisitSlot(Arc::clone(self)))
    }

    fn remove_connection(&self, key: u64) {
        let path = self.members.lock().connections.remove(&key);
        drop(path);
        self.note_gone();
    }

    fn note_gone(&self) {
        let kept = {
            let mut members = self.members.lock();
            if members.is_empty() {
                members.kept.take()
            } else {
                None
            }
        };
        self.gone.notify_all();
        // The last handle of loops ends them; this may be one of their threads, which is fine.
        drop(kept);
    }

    /// Keeps the loops alive until all members have gone.
    pub(super) fn keep(&self, loops: &EventLoops) {
        let mut members = self.members.lock();
        if !members.is_empty() {
            members.kept = Some(loops.clone());
        }
    }

    /// How many connections there are.
    pub(super) fn connections(&self) -> usize {
        self.members.lock().connections.len()
    }

    /// Whether [`drain`](ServerShared::drain) was called.
    pub(super) fn is_draining(&self) -> bool {
        self.members.lock().drain_until.is_some()
    }

    /// Tells all members to finish by then.
    pub(super) fn drain(&self, until: Instant) {
        let (acceptor, connections) = {
            let mut members = self.members.lock();
            members.drain_until = Some(until);
            let connections: Vec<_> = members.connections.values().map(Arc::clone).collect();
            (members.acceptor.clone(), connections)
        };
        if let AcceptorState::Running(handle, id) = acceptor {
            // A loop that has ended has dropped the acceptor.
            let _ = handle.post(Post::Notify(id));
        }
        // The streams that end with this have said so before their callers are asked to go.
        self.health.drain();
        for path in connections {
            path.drain(until);
        }
    }

    /// Waits until all members have gone, but no longer than `patience`; tells whether they have.
    pub(super) fn wait_until_gone(&self, patience: Duration) -> bool {
        let until = Instant::now() + patience;
        let mut members = self.members.lock();
        while !members.is_empty() {
            if self.gone.wait_until(&mut members, until).timed_out() {
                return members.is_empty();
            }
        }
        true
    }
}

/// A connection between its acceptance and its loop. Dropped on the way it counts no more.
pub(super) struct Arrival {
    server: Arc<ServerShared>,
    /// It has become a member.
    arrived: bool,
}

impl Arrival {
    /// The connection has reached its loop. Its caller does not know that the server is shutting
    /// down, if it is: it may have its first call on the way.
    pub(super) fn arrive(mut self, path: &Arc<ReplyPath>) -> Membership {
        let mut members = self.server.members.lock();
        members.arriving -= 1;
        let key = members.next_connection;
        members.next_connection += 1;
        members.connections.insert(key, Arc::clone(path));
        let drain_until = members.drain_until;
        drop(members);
        if let Some(until) = drain_until {
            path.drain(until);
        }
        self.arrived = true;
        Membership {
            server: Arc::clone(&self.server),
            key,
        }
    }
}

impl Drop for Arrival {
    fn drop(&mut self) {
        if !self.arrived {
            self.server.members.lock().arriving -= 1;
            self.server.note_gone();
        }
    }
}

/// Tells the server that a connection's socket is closed: declared after it, and so dropped after
/// it.
pub(super) struct Membership {
    server: Arc<ServerShared>,
    /// The connection's key in the server's list.
    key: u64,
}

impl Drop for Membership {
    fn drop(&mut self) {
        self.server.remove_connection(self.key);
    }
}

/// One of the connections that are being told that there are too many.
pub(super) struct RefusalSlot(Arc<ServerShared>);

impl Drop for RefusalSlot {
    fn drop(&mut self) {
        self.0.refusals.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One of the connections that look at the status pages.
pub(super) struct VisitSlot(Arc<ServerShared>);

impl Drop for VisitSlot {
    fn drop(&mut self) {
        self.0.visits.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Counts one more, unless there are `max` already.
fn count_up(count: &AtomicUsize, max: usize) -> bool {
    let room = |count| (count < max).then_some(count + 1);
    let counted = count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, room);
    counted.is_ok()
}
