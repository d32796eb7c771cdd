//! What all connections of one provider share: its services and the list of those connections.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use slab::Slab;

use super::outbox::ReplyPath;
use crate::reactor::{LoopHandle, Post, SourceId};
use crate::service::Service;
use crate::wire::Limits;

/// One method of one registered service.
#[derive(Clone, Copy)]
pub(super) struct Target<'a> {
    pub(super) service: &'static str,
    pub(super) method: &'static str,
    pub(super) method_index: usize,
    pub(super) handler: &'a Arc<dyn Service>,
}

/// What a request's names lead to.
pub(super) enum Lookup<'a> {
    Found(Target<'a>),
    /// Nothing; the text says what there is.
    Unknown(String),
}

/// A service with its names at hand.
#[derive(Clone)]
pub(super) struct Registered {
    name: &'static str,
    methods: &'static [&'static str],
    service: Arc<dyn Service>,
}

impl Registered {
    pub(super) fn new(service: Arc<dyn Service>) -> Registered {
        Registered {
            name: service.name(),
            methods: service.methods(),
            service,
        }
    }

    pub(super) fn name(&self) -> &'static str {
        self.name
    }
}

/// One started provider.
pub(super) struct ServerShared {
    services: Vec<Registered>,
    pub(super) limits: Limits,
    pub(super) addr: SocketAddr,
    members: Mutex<Members>,
    /// Signalled when the last member has gone.
    gone: Condvar,
}

/// The sources that belong to the provider.
#[derive(Default)]
struct Members {
    acceptor: AcceptorState,
    connections: Slab<Arc<ReplyPath>>,
    /// Accepted, but not yet with their loops.
    arriving: usize,
    draining: bool,
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
        matches!(self.acceptor, AcceptorState::Gone) && self.connections.is_empty()
    }
}

impl ServerShared {
    pub(super) fn new(services: Vec<Registered>, limits: Limits, addr: SocketAddr) -> ServerShared {
        let members = Mutex::default();
        ServerShared {
            services,
            limits,
            addr,
            members,
            gone: Condvar::new(),
        }
    }

    /// Finds a method. There are few services, so comparing names is the fastest index.
    pub(super) fn lookup(&self, service: &[u8], method: &[u8]) -> Lookup<'_> {
        let Some(found) = self
            .services
            .iter()
            .find(|known| known.name.as_bytes() == service)
        else {
            let names: Vec<_> = self.services.iter().map(|known| known.name).collect();
            return Lookup::Unknown(format!(
                "no service {}; there is {}",
                Shown(service),
                listed(&names)
            ));
        };
        let Some(index) = found
            .methods
            .iter()
            .position(|known| known.as_bytes() == method)
        else {
            return Lookup::Unknown(format!(
                "service {} has no method {}; it has {}",
                found.name,
                Shown(method),
                listed(found.methods)
            ));
        };
        Lookup::Found(Target {
            service: found.name,
            method: found.methods[index],
            method_index: index,
            handler: &found.service,
        })
    }

    /// Notes the acceptor; `false` if the server is shutting down already.
    pub(super) fn add_acceptor(&self, handle: &Arc<LoopHandle>, id: SourceId) -> bool {
        let mut members = self.members.lock();
        if !members.draining {
            members.acceptor = AcceptorState::Running(Arc::clone(handle), id);
        }
        !members.draining
    }

    /// The listener is closed.
    pub(super) fn remove_acceptor(&self) {
        self.members.lock().acceptor = AcceptorState::Gone;
        self.gone.notify_all();
    }

    /// Counts a connection that was accepted; `false` if the limit is reached.
    pub(super) fn admit(&self) -> bool {
        let mut members = self.members.lock();
        let admitted = members.connections.len() + members.arriving < self.limits.max_connections;
        members.arriving += usize::from(admitted);
        admitted
    }

    /// An admitted connection did not reach its loop.
    pub(super) fn lost_on_the_way(&self) {
        self.members.lock().arriving -= 1;
    }

    /// An admitted connection has reached its loop; `None` if the server is shutting down.
    pub(super) fn add_connection(&self, path: &Arc<ReplyPath>) -> Option<usize> {
        let mut members = self.members.lock();
        if members.draining {
            return None;
        }
        Some(members.connections.insert(Arc::clone(path)))
    }

    pub(super) fn remove_connection(&self, key: usize) {
        let path = self.members.lock().connections.remove(key);
        drop(path);
        self.gone.notify_all();
    }

    /// How many connections there are.
    pub(super) fn connections(&self) -> usize {
        self.members.lock().connections.len()
    }

    /// Whether [`drain`](ServerShared::drain) was called.
    pub(super) fn is_draining(&self) -> bool {
        self.members.lock().draining
    }

    /// Tells all members to finish within `grace`.
    pub(super) fn drain(&self, grace: Duration) {
        let (acceptor, connections) = {
            let mut members = self.members.lock();
            members.draining = true;
            let connections: Vec<_> = members
                .connections
                .iter()
                .map(|(_, path)| Arc::clone(path))
                .collect();
            (members.acceptor.clone(), connections)
        };
        if let AcceptorState::Running(handle, id) = acceptor {
            // A loop that has ended has dropped the acceptor.
            let _ = handle.post(Post::Notify(id));
        }
        let until = Instant::now() + grace;
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

/// Bytes of a peer, made fit for a log line.
struct Shown<'a>(&'a [u8]);

impl std::fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        /// Longer names than this are cut.
        const BYTES_MAX: usize = 64;
        let (shown, dots) = match self.0.get(..BYTES_MAX) {
            Some(start) => (start, "..."),
            None => (self.0, ""),
        };
        write!(f, "\"{}{dots}\"", shown.escape_ascii())
    }
}

fn listed(names: &[&str]) -> String {
    if names.is_empty() {
        "none".to_owned()
    } else {
        names.join(", ")
    }
}
