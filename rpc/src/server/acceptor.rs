//! [`Acceptor`]: takes new connections and deals them to the loops in turn.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::Interest;
use mio::net::{TcpListener, TcpStream};

use super::connection::Connection;
use super::refusal::Refusal;
use super::shared::ServerShared;
use crate::reactor::{EventLoops, LoopHandle, Next, Post, Ready, Source, Turn};

/// Connections accepted in one turn; then those that exist have theirs.
const ACCEPTS_PER_TURN: usize = 64;

/// Connections accepted before the listener is closed: as many as Linux lets wait, unless it is told
/// otherwise (`net.core.somaxconn`).
const LAST_ACCEPTS_MAX: usize = 4096;

/// The pause when the system has no descriptor left for us. Short enough to recover at once,
/// long enough not to spin.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(100);

/// At most one line per this time about refused connections.
const LOG_PAUSE: Duration = Duration::from_secs(1);

pub(super) struct Acceptor {
    listener: TcpListener,
    server: Arc<ServerShared>,
    /// The loops that connections are dealt to. Handles only: the threads' life is not ours.
    loops: Vec<Arc<LoopHandle>>,
    next_loop: usize,
    /// The listener may have more.
    readable: bool,
    refusals: Refusals,
    _membership: Membership,
}

impl Acceptor {
    /// Starts accepting on one of the loops.
    pub(super) fn start(listener: TcpListener, server: &Arc<ServerShared>, loops: &EventLoops) {
        let handle = Arc::clone(loops.pick());
        let on_loop = Arc::clone(&handle);
        let server = Arc::clone(server);
        let loops = loops.handles().to_vec();
        let mut acceptor = Acceptor {
            listener,
            _membership: Membership(Arc::clone(&server)),
            server,
            loops,
            next_loop: 0,
            readable: false,
            refusals: Refusals::default(),
        };
        let build = move |turn: &mut Turn<'_>| {
            let (token, addr) = (turn.token(), acceptor.server.addr);
            let registered =
                turn.registry
                    .register(&mut acceptor.listener, token, Interest::READABLE);
            if let Err(error) = registered {
                tracing::error!(%addr, %error, "the listener cannot be watched");
                return None;
            }
            if !acceptor.server.add_acceptor(&on_loop, turn.id) {
                acceptor.accept_the_last();
                return None;
            }
            Some(Box::new(acceptor) as Box<dyn Source>)
        };
        // The caller holds the loops, so they have not ended.
        let _ = handle.post(Post::Add(Box::new(build)));
    }

    fn accept(&mut self, turn: &mut Turn<'_>) -> Next {
        for _ in 0..ACCEPTS_PER_TURN {
            match self.listener.accept() {
                Ok((stream, peer)) => self.deal(stream, peer),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.readable = false;
                    return Next::Keep;
                }
                Err(error) if of_one_connection(&error) => {}
                Err(error) => {
                    // Out of descriptors or memory. What waits in the backlog goes on waiting.
                    self.refusals.log(&self.server, None, &error);
                    turn.alarm_by(Instant::now() + EXHAUSTED_PAUSE);
                    return Next::Keep;
                }
            }
        }
        turn.again();
        Next::Keep
    }

    /// Takes what waits in the backlog: for its callers these connections are made, and may have a
    /// call on the way, which a listener that is closed over them would fail.
    fn accept_the_last(&mut self) {
        for _ in 0..LAST_ACCEPTS_MAX {
            match self.listener.accept() {
                Ok((stream, peer)) => self.deal(stream, peer),
                Err(error) if of_one_connection(&error) => {}
                Err(_) => return,
            }
        }
    }

    fn deal(&mut self, stream: TcpStream, peer: SocketAddr) {
        let arrival = self.server.admit();
        if arrival.is_some() {
            self.server.meter.accepted();
        } else {
            self.server.meter.refused();
            self.refusals
                .log(&self.server, Some(peer), &"too many connections");
        }
        if let Err(error) = stream.set_nodelay(true) {
            // The peer has gone already.
            tracing::debug!(%peer, %error, "connection lost");
            return;
        }
        self.server.options.keepalive.watch(&stream);
        let Some(arrival) = arrival else {
            return self.refuse(stream, peer);
        };
        let (server, handle) = (Arc::clone(&self.server), self.next_loop());
        let on_loop = Arc::clone(&handle);
        let build = move |turn: &mut Turn<'_>| {
            let connection = Connection::open(stream, peer, (&server, arrival), &on_loop, turn);
            connection.map(|connection| Box::new(connection) as Box<dyn Source>)
        };
        // A loop that has ended takes no connections; dropped, this one counts no more.
        let _ = handle.post(Post::Add(Box::new(build)));
    }

    /// Tells one connection that there are too many, unless too many are being told already.
    fn refuse(&mut self, stream: TcpStream, peer: SocketAddr) {
        let Some(slot) = self.server.begin_refusal() else {
            return;
        };
        let (server, handle) = (Arc::clone(&self.server), self.next_loop());
        let build = move |turn: &mut Turn<'_>| {
            let refusal = Refusal::open(stream, peer, (&server, slot), turn);
            refusal.map(|refusal| Box::new(refusal) as Box<dyn Source>)
        };
        let _ = handle.post(Post::Add(Box::new(build)));
    }

    fn next_loop(&mut self) -> Arc<LoopHandle> {
        let handle = Arc::clone(&self.loops[self.next_loop]);
        self.next_loop = (self.next_loop + 1) % self.loops.len();
        handle
    }
}

/// Failures of `accept` that concern the connection that was to be accepted, not us.
fn of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset | ErrorKind::Interrupted
    )
}

impl Source for Acceptor {
    fn on_ready(&mut self, ready: Ready, turn: &mut Turn<'_>) -> Next {
        self.readable |= ready.readable;
        if self.readable {
            self.accept(turn)
        } else {
            Next::Keep
        }
    }

    /// The provider shuts down.
    fn on_notify(&mut self, _turn: &mut Turn<'_>) -> Next {
        if self.server.is_draining() {
            self.accept_the_last();
            Next::Close
        } else {
            Next::Keep
        }
    }

    fn on_timer(&mut self, turn: &mut Turn<'_>) -> Next {
        self.accept(turn)
    }

    fn on_flush(&mut self, _turn: &mut Turn<'_>) -> Next {
        Next::Keep
    }
}

/// Tells the server that the listener is closed: declared after it, and so dropped after it.
struct Membership(Arc<ServerShared>);

impl Drop for Membership {
    fn drop(&mut self) {
        self.0.remove_acceptor();
    }
}

/// Says that connections were refused without flooding the log.
#[derive(Default)]
struct Refusals {
    last_line: Option<Instant>,
    not_logged: u64,
}

impl Refusals {
    fn log(
        &mut self,
        server: &ServerShared,
        peer: Option<SocketAddr>,
        reason: &dyn std::fmt::Display,
    ) {
        let now = Instant::now();
        if self.last_line.is_some_and(|last| now - last < LOG_PAUSE) {
            self.not_logged += 1;
            return;
        }
        self.last_line = Some(now);
        let more = std::mem::take(&mut self.not_logged);
        let (addr, connections, limit) = (
            server.addr,
            server.connections(),
            server.options.limits.max_connections,
        );
        let peer = peer.map(|peer| peer.to_string()).unwrap_or_default();
        tracing::warn!(%addr, peer, %reason, connections, limit, more, "connection refused");
    }
}
