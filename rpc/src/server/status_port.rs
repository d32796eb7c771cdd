//! [`StatusPort`]: the status pages on a port of their own, as plain HTTP.
//!
//! It outlives the drain of its server, so that a load balancer may ask how it is until the end,
//! and answers when the server has all the connections that it may have.
//!
//! ```text
//!  Door ── accepts ──► Visit: head arrives ──► answer leaves ──► the peer closes
//!                        └── by ProviderOptions::frame_timeout, or it is closed
//! ```

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read};
use std::net::{Shutdown, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::Interest;
use mio::net::{TcpListener, TcpStream};
use parking_lot::{Condvar, Mutex};

use super::shared::{ServerShared, VisitSlot};
use crate::http::exchange;
use crate::reactor::{EventLoops, LoopHandle, Next, Post, Ready, Source, SourceId, Turn};
use crate::wire::{InputBuffer, OutputQueue};

/// Visitors accepted in one turn; then the loop's other sources have theirs.
const ACCEPTS_PER_TURN: usize = 16;

/// The pause when the system has no descriptor left for us.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(100);

/// How long a visitor that has its answer may take to close.
const LINGER: Duration = Duration::from_millis(200);

/// The provider's handle on the port.
pub(super) struct StatusPort {
    shared: Arc<Shared>,
}

/// What the door and its visits share.
struct Shared {
    server: Arc<ServerShared>,
    addr: SocketAddr,
    /// The loop of all of them.
    handle: Arc<LoopHandle>,
    members: Mutex<Members>,
    gone: Condvar,
}

#[derive(Default)]
struct Members {
    /// Those on the loop.
    sources: BTreeSet<SourceId>,
    /// Those on their way there.
    arriving: usize,
    closing: bool,
}

impl StatusPort {
    pub(super) fn start(
        listener: TcpListener,
        addr: SocketAddr,
        server: &Arc<ServerShared>,
        loops: &EventLoops,
    ) -> StatusPort {
        let shared = Arc::new(Shared {
            server: Arc::clone(server),
            addr,
            handle: Arc::clone(loops.pick()),
            members: Mutex::default(),
            gone: Condvar::new(),
        });
        let arrival = Arrival::of(&shared);
        shared.add(move |turn| Door::open(listener, arrival, turn));
        StatusPort { shared }
    }

    pub(super) fn addr(&self) -> SocketAddr {
        self.shared.addr
    }

    /// Closes the port and the connections of its visitors.
    pub(super) fn close(&self) {
        let sources = {
            let mut members = self.shared.members.lock();
            members.closing = true;
            members.sources.clone()
        };
        for id in sources {
            // A loop that has ended has dropped them.
            let _ = self.shared.handle.post(Post::Notify(id));
        }
    }

    /// Waits until all are closed, but no longer than `patience`; tells whether they are.
    pub(super) fn wait_until_gone(&self, patience: Duration) -> bool {
        let mut members = self.shared.members.lock();
        let waits = |members: &mut Members| members.arriving + members.sources.len() > 0;
        let timed_out = self
            .shared
            .gone
            .wait_while_for(&mut members, waits, patience);
        !timed_out.timed_out()
    }
}

impl Shared {
    fn add<S: Source + 'static>(
        &self,
        open: impl FnOnce(&mut Turn<'_>) -> Option<S> + Send + 'static,
    ) {
        let build =
            move |turn: &mut Turn<'_>| open(turn).map(|source| Box::new(source) as Box<dyn Source>);
        // A loop that has ended takes nobody; dropped, it counts no more.
        let _ = self.handle.post(Post::Add(Box::new(build)));
    }

    fn is_closing(&self) -> bool {
        self.members.lock().closing
    }
}

/// A source on its way to the loop.
struct Arrival {
    shared: Arc<Shared>,
    arrived: bool,
}

impl Arrival {
    fn of(shared: &Arc<Shared>) -> Arrival {
        shared.members.lock().arriving += 1;
        Arrival {
            shared: Arc::clone(shared),
            arrived: false,
        }
    }

    /// It is there; `None`: the port is closing.
    fn arrive(mut self, id: SourceId) -> Option<Membership> {
        let mut members = self.shared.members.lock();
        if members.closing {
            return None;
        }
        members.arriving -= 1;
        members.sources.insert(id);
        drop(members);
        self.arrived = true;
        let shared = Arc::clone(&self.shared);
        Some(Membership { shared, id })
    }
}

impl Drop for Arrival {
    fn drop(&mut self) {
        if !self.arrived {
            self.shared.members.lock().arriving -= 1;
            self.shared.gone.notify_all();
        }
    }
}

/// Tells that a source's socket is closed: declared after it, and so dropped after it.
struct Membership {
    shared: Arc<Shared>,
    id: SourceId,
}

impl Drop for Membership {
    fn drop(&mut self) {
        self.shared.members.lock().sources.remove(&self.id);
        self.shared.gone.notify_all();
    }
}

/// The listener.
struct Door {
    listener: TcpListener,
    membership: Membership,
}

impl Door {
    fn open(mut listener: TcpListener, arrival: Arrival, turn: &mut Turn<'_>) -> Option<Door> {
        let addr = arrival.shared.addr;
        let registered = turn
            .registry
            .register(&mut listener, turn.token(), Interest::READABLE);
        if let Err(error) = registered {
            tracing::error!(%addr, %error, "the status port cannot be watched");
            return None;
        }
        let membership = arrival.arrive(turn.id)?;
        Some(Door {
            listener,
            membership,
        })
    }

    fn accept(&mut self, turn: &mut Turn<'_>) -> Next {
        for _ in 0..ACCEPTS_PER_TURN {
            match self.listener.accept() {
                Ok((stream, peer)) => self.admit(stream, peer),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Next::Keep,
                Err(error) if error.kind() == ErrorKind::ConnectionAborted => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => {
                    tracing::warn!(addr = %self.membership.shared.addr, %error, "a visitor cannot be accepted");
                    turn.alarm_by(Instant::now() + EXHAUSTED_PAUSE);
                    return Next::Keep;
                }
            }
        }
        turn.again();
        Next::Keep
    }

    /// Lets a visitor in; one too many is closed.
    fn admit(&self, stream: TcpStream, peer: SocketAddr) {
        let shared = &self.membership.shared;
        let Some(slot) = shared.server.begin_visit() else {
            tracing::debug!(%peer, "too many look at the status pages");
            return;
        };
        let arrival = Arrival::of(shared);
        shared.add(move |turn| Visit::open(stream, slot, arrival, turn));
    }
}

impl Source for Door {
    fn on_ready(&mut self, _ready: Ready, turn: &mut Turn<'_>) -> Next {
        self.accept(turn)
    }

    fn on_notify(&mut self, _turn: &mut Turn<'_>) -> Next {
        if self.membership.shared.is_closing() {
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

/// One visitor's connection.
struct Visit {
    stream: TcpStream,
    input: InputBuffer,
    output: OutputQueue,
    progress: Progress,
    _slot: VisitSlot,
    membership: Membership,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Progress {
    /// The request has not arrived.
    Asking,
    /// The answer has not left.
    Answering,
    /// The peer has not closed.
    Leaving,
}

impl Visit {
    fn open(
        mut stream: TcpStream,
        slot: VisitSlot,
        arrival: Arrival,
        turn: &mut Turn<'_>,
    ) -> Option<Visit> {
        let interest = Interest::READABLE | Interest::WRITABLE;
        // It fails when the visitor has gone already.
        turn.registry
            .register(&mut stream, turn.token(), interest)
            .ok()?;
        let membership = arrival.arrive(turn.id)?;
        let timeout = membership.shared.server.options.frame_timeout;
        if let Some(until) = Instant::now().checked_add(timeout) {
            turn.alarm_by(until);
        }
        Some(Visit {
            stream,
            input: InputBuffer::default(),
            output: OutputQueue::default(),
            progress: Progress::Asking,
            _slot: slot,
            membership,
        })
    }

    /// Takes what has arrived, once.
    fn read(&mut self, turn: &mut Turn<'_>) -> Next {
        let read = if self.progress == Progress::Asking {
            let read = self.input.read_from(&mut self.stream, turn.scratch, 0);
            read.map(|read| read.bytes)
        } else {
            self.stream.read(turn.scratch)
        };
        match read {
            // Who has asked may end its side of the stream and still take the answer.
            Ok(0) if self.progress == Progress::Answering => Next::Keep,
            Ok(0) => Next::Close,
            Ok(_) => {
                turn.again();
                self.look(turn)
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Next::Keep,
            Err(error) if error.kind() == ErrorKind::Interrupted => {
                turn.again();
                Next::Keep
            }
            Err(_) => Next::Close,
        }
    }

    /// Answers if the request is there.
    fn look(&mut self, turn: &mut Turn<'_>) -> Next {
        if self.progress != Progress::Asking {
            return Next::Keep;
        }
        let server = &*self.membership.shared.server;
        let Some(answer) = exchange(self.input.unread(), server) else {
            return Next::Keep;
        };
        self.input = InputBuffer::default();
        self.output.push_segment(answer);
        self.progress = Progress::Answering;
        self.write(turn)
    }

    fn write(&mut self, turn: &mut Turn<'_>) -> Next {
        if self.output.write_to(&mut self.stream).is_err() {
            return Next::Close;
        }
        if self.output.is_empty() {
            self.progress = Progress::Leaving;
            // It fails if the peer has gone, which the next read tells.
            let _ = self.stream.shutdown(Shutdown::Write);
            turn.alarm_by(Instant::now() + LINGER);
            turn.again();
        }
        Next::Keep
    }
}

impl Source for Visit {
    fn on_ready(&mut self, ready: Ready, turn: &mut Turn<'_>) -> Next {
        if ready.broken {
            return Next::Close;
        }
        if self.progress == Progress::Answering && self.write(turn) == Next::Close {
            return Next::Close;
        }
        self.read(turn)
    }

    fn on_notify(&mut self, _turn: &mut Turn<'_>) -> Next {
        if self.membership.shared.is_closing() {
            Next::Close
        } else {
            Next::Keep
        }
    }

    fn on_timer(&mut self, _turn: &mut Turn<'_>) -> Next {
        Next::Close
    }

    fn on_flush(&mut self, _turn: &mut Turn<'_>) -> Next {
        Next::Keep
    }
}
