//! Whether a server, and each of its services, should be sent calls.
//!
//! ```text
//!  HealthHandle::set, any thread ──► Hub ──► ServerHealth ──► Check, /health
//!                                     │        draining: NOT_SERVING, whatever is set
//!                                     └──► watchers ──► streams of Watch
//! ```
//!
//! A provider has one [`Hub`]; each server that it starts has a [`ServerHealth`], since servers are
//! drained one by one. A watcher whose caller is slow skips what is outdated: it is sent the latest
//! status when it takes one.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Deref;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use bytes::Bytes;
use parking_lot::Mutex;

use super::messages::{HealthReply, HealthRequest, ServingStatus};
use super::{FILE_DESCRIPTOR_SET, HEALTH, HEALTH_CHECK, HEALTH_WATCH, decoded};
use crate::error::{Code, RpcError};
use crate::reply::{Done, ReplySlot};
use crate::service::{RpcContext, Service};
use crate::stream::{StreamError, StreamSender};

/// Most bytes of a name that can be asked for. A name is kept for as long as it is watched.
const SERVICE_NAME_BYTES_MAX: usize = 256;

/// Says from any thread how a provider and its services are. Clones are handles on the same.
///
/// Everything is [`Serving`](ServingStatus::Serving) until something else is set, and
/// [`NotServing`](ServingStatus::NotServing) once its server drains. Setting a status tells
/// callers; it refuses no call.
#[derive(Clone, Default)]
pub struct HealthHandle {
    hub: Arc<Hub>,
}

impl HealthHandle {
    /// Sets the status of a service, by its simple name, or of the server as a whole (empty name),
    /// and tells all that watch it. A name that is none of a service can be asked for from then on.
    pub fn set(&self, service: &str, status: ServingStatus) {
        self.hub.set(service, status);
    }

    /// What was set; a service of which nothing was is [`Serving`](ServingStatus::Serving).
    #[must_use]
    pub fn status(&self, service: &str) -> ServingStatus {
        let statuses = &self.hub.state.lock().statuses;
        let set = statuses.get(service);
        set.copied().unwrap_or(ServingStatus::Serving)
    }

    /// The health of a server that has these services.
    pub(crate) fn of_server(&self, services: Vec<&'static str>) -> ServerHealth {
        static NEXT_SERVER: AtomicU64 = AtomicU64::new(0);
        ServerHealth {
            hub: Arc::clone(&self.hub),
            server: NEXT_SERVER.fetch_add(1, Ordering::Relaxed),
            services,
            draining: AtomicBool::new(false),
        }
    }
}

impl fmt::Debug for HealthHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.hub.state.lock();
        f.debug_struct("HealthHandle")
            .field("statuses", &state.statuses)
            .field("watchers", &state.watchers.len())
            .finish()
    }
}

/// What was set, and who wants to know.
#[derive(Default)]
struct Hub {
    state: Mutex<HubState>,
}

#[derive(Default)]
struct HubState {
    statuses: BTreeMap<String, ServingStatus>,
    /// By the order in which they came. Bounded by the calls that servers have under way.
    watchers: BTreeMap<u64, Arc<Watcher>>,
    next_watcher: u64,
}

impl Hub {
    fn set(&self, service: &str, status: ServingStatus) {
        let changed: Vec<_> = {
            let mut state = self.state.lock();
            state.statuses.insert(service.to_owned(), status);
            let watchers = state.watchers.values();
            let of_service = watchers.filter(|watcher| watcher.service == service);
            // Noted under the lock, so that of two changes at a time the later one stays.
            let note = |watcher: &Arc<Watcher>| {
                watcher.state.lock().current = status;
                Arc::clone(watcher)
            };
            of_service.map(note).collect()
        };
        for watcher in changed {
            watcher.tell();
        }
    }

    fn remove(&self, key: u64) -> Option<Arc<Watcher>> {
        self.state.lock().watchers.remove(&key)
    }
}

/// The health of one started server.
pub(crate) struct ServerHealth {
    hub: Arc<Hub>,
    server: u64,
    services: Vec<&'static str>,
    /// Changed under the hub's lock.
    draining: AtomicBool,
}

impl ServerHealth {
    /// How a service is, or the server as a whole (empty name).
    pub(crate) fn status(&self, service: &str) -> ServingStatus {
        self.status_in(&self.hub.state.lock(), service)
    }

    fn status_in(&self, state: &HubState, service: &str) -> ServingStatus {
        let is_known = service.is_empty() || self.services.contains(&service);
        match state.statuses.get(service) {
            None if !is_known => ServingStatus::Unknown,
            Some(_) | None if self.draining.load(Ordering::Relaxed) => ServingStatus::NotServing,
            Some(status) => *status,
            None => ServingStatus::Serving,
        }
    }

    /// Sends a service's status now and whenever it changes, until the caller has gone or the
    /// server drains.
    fn watch(&self, service: String, context: &RpcContext, sender: StreamSender<HealthReply>) {
        let watcher = Arc::new_cyclic(|myself| Watcher {
            service,
            server: self.server,
            myself: Weak::clone(myself),
            state: Mutex::new(WatcherState {
                stream: Some(Arc::new(Stream(Some(sender)))),
                current: ServingStatus::Unknown,
                sent: None,
                waits: false,
            }),
        });
        let (key, ends) = {
            let mut state = self.hub.state.lock();
            watcher.state.lock().current = self.status_in(&state, &watcher.service);
            let key = state.next_watcher;
            state.next_watcher += 1;
            let ends = self.draining.load(Ordering::Relaxed);
            if !ends {
                state.watchers.insert(key, Arc::clone(&watcher));
            }
            (key, ends)
        };
        watcher.tell();
        if ends {
            return watcher.end();
        }
        let hub = Arc::downgrade(&self.hub);
        context.on_cancel(move || {
            let watcher = hub.upgrade().and_then(|hub| hub.remove(key));
            if let Some(watcher) = watcher {
                watcher.end();
            }
        });
    }

    /// From now on nothing is served; the streams of those who watch this server end.
    pub(crate) fn drain(&self) {
        let watchers: Vec<_> = {
            let mut state = self.hub.state.lock();
            self.draining.store(true, Ordering::Relaxed);
            let ours = |_: &u64, watcher: &mut Arc<Watcher>| watcher.server == self.server;
            let ended = state.watchers.extract_if(.., ours);
            ended.map(|(_, watcher)| watcher).collect()
        };
        for watcher in watchers {
            watcher.state.lock().change_to_not_serving();
            watcher.tell();
            watcher.end();
        }
    }
}

/// One stream of `Watch`.
struct Watcher {
    service: String,
    server: u64,
    myself: Weak<Watcher>,
    state: Mutex<WatcherState>,
}

struct WatcherState {
    /// `None`: it has ended.
    stream: Option<Arc<Stream>>,
    current: ServingStatus,
    sent: Option<ServingStatus>,
    /// Told when the caller takes another item.
    waits: bool,
}

impl WatcherState {
    /// A service that nobody knows stays unknown.
    fn change_to_not_serving(&mut self) {
        if self.current != ServingStatus::Unknown {
            self.current = ServingStatus::NotServing;
        }
    }
}

impl Watcher {
    /// Sends the status, unless it was sent already, or when the caller takes it.
    fn tell(&self) {
        let mut state = self.state.lock();
        if state.sent == Some(state.current) || state.waits {
            return;
        }
        let reply = HealthReply {
            status: state.current.into(),
        };
        let Some(stream) = state.stream.clone() else {
            return;
        };
        match stream.try_send(&reply) {
            Ok(()) => state.sent = Some(state.current),
            Err(StreamError::WouldBlock) => {
                state.waits = true;
                let myself = Weak::clone(&self.myself);
                // The callback may be run right here, so the lock is let go.
                drop(state);
                stream.on_ready(move || {
                    if let Some(watcher) = myself.upgrade() {
                        watcher.state.lock().waits = false;
                        watcher.tell();
                    }
                });
            }
            // The caller has gone, of which it is told elsewhere.
            Err(StreamError::Closed(_) | StreamError::TooLarge { .. }) => {}
        }
    }

    fn end(&self) {
        let stream = self.state.lock().stream.take();
        // Not under the lock: it ends a call.
        drop(stream);
    }
}

/// A stream that ends in order when the last who uses it lets go.
struct Stream(Option<StreamSender<HealthReply>>);

impl Deref for Stream {
    type Target = StreamSender<HealthReply>;

    fn deref(&self) -> &StreamSender<HealthReply> {
        self.0.as_ref().expect("it is taken when this is dropped")
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if let Some(sender) = self.0.take() {
            sender.finish();
        }
    }
}

/// Answers calls of `Health`.
pub(crate) struct HealthService(pub(crate) Arc<ServerHealth>);

impl Service for HealthService {
    fn name(&self) -> &'static str {
        HEALTH
    }

    fn methods(&self) -> &'static [&'static str] {
        const METHODS: [&str; 2] = [HEALTH_CHECK.method, HEALTH_WATCH.method];
        &METHODS
    }

    fn is_streaming(&self, method: usize) -> bool {
        self.methods()[method] == HEALTH_WATCH.method
    }

    fn file_descriptor_set(&self) -> &'static [u8] {
        FILE_DESCRIPTOR_SET
    }

    fn full_name(&self) -> &'static str {
        "rpc.builtin.Health"
    }

    fn call(&self, method: usize, context: RpcContext, args: Bytes, reply: ReplySlot) {
        let Some((HealthRequest { service }, reply)) = decoded(args, reply) else {
            return;
        };
        if service.len() > SERVICE_NAME_BYTES_MAX {
            let len = service.len();
            let text =
                format!("a name of {len} bytes is over the limit of {SERVICE_NAME_BYTES_MAX}");
            return reply.refuse(RpcError::new(Code::InvalidArgument, text));
        }
        if self.is_streaming(method) {
            self.0.watch(service, &context, StreamSender::new(reply));
        } else {
            let status = self.0.status(&service).into();
            Done::new(reply).run(HealthReply { status });
        }
    }
}
