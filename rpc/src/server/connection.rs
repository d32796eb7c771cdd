//! One connection of a server: requests in, calls begun, replies out.
//!
//! ```text
//!            ┌────────── paused: too many calls, or too many unsent bytes ◄─────────┐
//!            ▼                                                                      │
//!  socket ─► input ─► peek_request ─► dispatch ─► Service::call ─► outbox ─► write ─┴─► socket
//! ```
//!
//! Being paused means not reading: TCP then holds the caller back.

use std::io::{ErrorKind, Read};
use std::net::{Shutdown, SocketAddr};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::Interest;
use mio::net::TcpStream;

use super::outbox::{CallId, ReplyPath};
use super::registry::{Lookup, ServerShared};
use crate::error::{Code, RpcError};
use crate::reactor::{LoopHandle, Next, Ready, Source, Turn};
use crate::reply::ReplySlot;
use crate::service::RpcContext;
use crate::wire::{FrameError, InputBuffer, OutputQueue, Peeked, peek_request};

/// Bytes read from one connection in one turn; then the others have theirs.
const READ_BYTES_PER_TURN: usize = 256 << 10;

/// How long a connection that was told to close waits for its peer to do so, so that unread
/// requests do not reset it under the replies that are still travelling.
const LINGER: Duration = Duration::from_millis(200);

/// How the caller speaks; its first request decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dialect {
    Unknown,
    Framed,
    Legacy,
}

/// Why a connection ends that its peer did not end.
#[derive(Debug, thiserror::Error)]
enum ConnectionError {
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error("requests with and without a request_id on one connection")]
    MixedDialects,
    #[error("a bare reply cannot say: {0}")]
    LegacyFailure(RpcError),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Open,
    /// Reads no more, finishes running calls until then.
    Draining {
        until: Instant,
    },
    /// Everything is sent; waits for the peer to close until then.
    Lingering {
        until: Instant,
    },
}

pub(super) struct Connection {
    stream: TcpStream,
    peer: SocketAddr,
    server: Arc<ServerShared>,
    path: Arc<ReplyPath>,
    input: InputBuffer,
    /// Size of the frame at the front of the input; 0 if unknown.
    frame_bytes: usize,
    /// When the latest bytes arrived; deadlines count from here.
    arrived: Instant,
    /// What leaves next. Replies come here from the outbox.
    output: OutputQueue,
    dialect: Dialect,
    /// What a legacy caller's reply could not say: ends the connection once what came before is sent.
    legacy_failure: Option<RpcError>,
    /// Calls begun and not answered; an answer that waits for its turn is none yet.
    in_flight: u64,
    /// The socket may have more to read.
    readable: bool,
    /// The peer sends no more.
    read_closed: bool,
    /// Not reading, until there is room again.
    paused: bool,
    phase: Phase,
    _membership: Membership,
}

impl Connection {
    /// Registers a socket with the loop; `None` if it is broken or the server is shutting down.
    pub(super) fn open(
        mut stream: TcpStream,
        peer: SocketAddr,
        server: &Arc<ServerShared>,
        handle: &Arc<LoopHandle>,
        turn: &mut Turn<'_>,
    ) -> Option<Connection> {
        let interest = Interest::READABLE | Interest::WRITABLE;
        if let Err(error) = turn.registry.register(&mut stream, turn.token(), interest) {
            tracing::warn!(%peer, %error, "a connection cannot be watched and is closed");
            return None;
        }
        let max_body_bytes = server.limits.max_body_bytes;
        let path = Arc::new(ReplyPath::new(Arc::clone(handle), turn.id, max_body_bytes));
        let Some(key) = server.add_connection(&path) else {
            path.close();
            return None;
        };
        tracing::debug!(%peer, "connection accepted");
        Some(Connection {
            stream,
            peer,
            server: Arc::clone(server),
            path,
            input: InputBuffer::default(),
            frame_bytes: 0,
            arrived: Instant::now(),
            output: OutputQueue::default(),
            dialect: Dialect::Unknown,
            legacy_failure: None,
            in_flight: 0,
            readable: false,
            read_closed: false,
            paused: false,
            phase: Phase::Open,
            _membership: Membership {
                server: Arc::clone(server),
                key,
            },
        })
    }

    /// Reads and dispatches until nothing is left, the connection is paused, or its share of the
    /// turn is used up.
    fn pump(&mut self, turn: &mut Turn<'_>) -> Next {
        if self.phase != Phase::Open {
            return self.discard(turn);
        }
        let mut budget = READ_BYTES_PER_TURN;
        loop {
            if let Err(error) = self.dispatch_arrived() {
                return self.refuse(&error, turn);
            }
            if self.paused {
                // What was read already is looked at when there is room again.
                return Next::Keep;
            }
            if !self.readable {
                self.input.compact();
                return self.close_if_finished();
            }
            if budget == 0 {
                turn.again();
                return Next::Keep;
            }
            match self
                .input
                .read_from(&mut self.stream, turn.scratch, self.frame_bytes)
            {
                Ok(read) if read.bytes == 0 => {
                    self.readable = false;
                    self.read_closed = true;
                }
                Ok(read) => {
                    budget = budget.saturating_sub(read.bytes);
                    self.arrived = Instant::now();
                    // A socket that held less than asked for reports again when more arrives.
                    // The end of the stream may have been reported together with its last bytes.
                    self.readable = !read.drained || self.read_closed;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.readable = false,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => {
                    tracing::debug!(peer = %self.peer, %error, "connection lost");
                    return Next::Close;
                }
            }
        }
    }

    /// Begins the calls of all whole frames that have arrived.
    fn dispatch_arrived(&mut self) -> Result<(), ConnectionError> {
        loop {
            self.frame_bytes = 0;
            if self.input.unread().is_empty() {
                return Ok(());
            }
            if self.must_pause() {
                self.paused = true;
                return Ok(());
            }
            let frame = match peek_request(self.input.unread(), &self.server.limits)? {
                Peeked::Incomplete { frame_bytes } => {
                    self.frame_bytes = frame_bytes;
                    return Ok(());
                }
                Peeked::Complete(frame) => frame,
            };
            let head = frame.head;
            let dialect = if head.request_id == 0 {
                Dialect::Legacy
            } else {
                Dialect::Framed
            };
            if self.dialect == Dialect::Unknown {
                self.dialect = dialect;
            }
            if self.dialect != dialect {
                return Err(ConnectionError::MixedDialects);
            }
            let call = match dialect {
                Dialect::Legacy => CallId::Legacy,
                _ => CallId::Framed {
                    request_id: head.request_id,
                },
            };
            let request_id = head.request_id;
            let timeout = Duration::from_millis(u64::from(head.timeout_ms));
            let deadline = (head.timeout_ms > 0).then(|| self.arrived + timeout);
            let found = self.server.lookup(&head.service_name, &head.method_name);
            let args = self.input.take(frame.body_start, frame.body_size);

            self.in_flight += 1;
            let reply = ReplySlot::to_connection(Arc::clone(&self.path), call);
            let target = match found {
                Lookup::Found(target) => target,
                Lookup::Unknown(text) => {
                    tracing::debug!(peer = %self.peer, reason = %text, "call refused");
                    reply.refuse(RpcError::new(Code::Unimplemented, text));
                    continue;
                }
            };
            if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                let text = "the deadline passed before the call was begun";
                reply.refuse(RpcError::new(Code::DeadlineExceeded, text));
                continue;
            }
            let context = RpcContext {
                peer: self.peer,
                request_id,
                deadline,
                service: target.service,
                method: target.method,
            };
            let service = target.handler;
            // The reply slot, dropped on the way out, answers INTERNAL.
            let outcome = catch_unwind(AssertUnwindSafe(|| {
                service.call(target.method_index, context, args, reply);
            }));
            if outcome.is_err() {
                let (service, method) = (target.service, target.method);
                tracing::error!(peer = %self.peer, service, method, "a handler panicked");
            }
        }
    }

    /// Whether the connection has reached a bound, after an attempt to send what it can.
    fn must_pause(&mut self) -> bool {
        let limits = &self.server.limits;
        let (count, bytes) = self
            .path
            .with_outbox(|outbox| (outbox.replies.count, outbox.replies.framed.unsent_bytes()));
        if self.output.unsent_bytes() + bytes <= limits.max_unsent_bytes
            && self.in_flight - count < limits.max_in_flight as u64
            && self.dialect != Dialect::Legacy
        {
            return false;
        }
        self.collect_replies();
        // A failure to write shows again when the turn is flushed.
        let _ = self.output.write_to(&mut self.stream);
        self.output.unsent_bytes() > self.server.limits.max_unsent_bytes || !self.may_begin_call()
    }

    fn has_room_again(&self) -> bool {
        self.output.unsent_bytes() <= self.server.limits.max_unsent_bytes / 2
            && self.may_begin_call()
    }

    /// Whether another call may be under way. A legacy caller's requests are begun one after the
    /// other: it tells replies apart by their order alone, and expects each request to see what the
    /// one before it did.
    fn may_begin_call(&self) -> bool {
        let in_flight_max = match self.dialect {
            Dialect::Legacy => 1,
            Dialect::Framed | Dialect::Unknown => self.server.limits.max_in_flight as u64,
        };
        self.in_flight < in_flight_max && self.legacy_failure.is_none()
    }

    /// Moves what the outbox holds to the output.
    fn collect_replies(&mut self) {
        let (output, failure) = (&mut self.output, &mut self.legacy_failure);
        let in_flight = &mut self.in_flight;
        self.path.with_outbox(|outbox| {
            let replies = &mut outbox.replies;
            *in_flight -= std::mem::take(&mut replies.count);
            output.append(&mut replies.framed);
            match replies.legacy.take() {
                Some(Ok(body)) => output.push_segment(body),
                Some(Err(error)) => *failure = Some(error),
                None => {}
            }
        });
    }

    /// Sends what can be sent, and goes on reading if that made room.
    fn flush(&mut self, turn: &mut Turn<'_>) -> Next {
        self.collect_replies();
        if matches!(self.phase, Phase::Lingering { .. }) {
            self.output.clear();
            return Next::Keep;
        }
        if let Err(error) = self.output.write_to(&mut self.stream) {
            tracing::debug!(peer = %self.peer, %error, "connection lost with replies unsent");
            return Next::Close;
        }
        if let Some(error) = self.legacy_failure.take_if(|_| self.output.is_empty()) {
            let error = ConnectionError::LegacyFailure(error);
            return self.refuse(&error, turn);
        }
        if self.paused && self.has_room_again() {
            self.paused = false;
            turn.again();
        }
        if let Phase::Draining { until } = self.phase {
            self.finish_draining(until, turn);
        }
        self.close_if_finished()
    }

    /// A peer that sends no more gets its replies and is then closed.
    fn close_if_finished(&self) -> Next {
        let nothing_comes = self.read_closed && !self.readable && !self.paused;
        let nothing_goes = self.in_flight == 0 && self.output.is_empty();
        if nothing_comes && nothing_goes {
            Next::Close
        } else {
            Next::Keep
        }
    }

    fn start_draining(&mut self, until: Instant, turn: &mut Turn<'_>) {
        if self.phase == Phase::Open {
            self.phase = Phase::Draining { until };
            self.paused = false;
            turn.alarm_by(until);
            self.finish_draining(until, turn);
        }
    }

    /// When all running calls are answered and sent, the connection ends.
    fn finish_draining(&mut self, until: Instant, turn: &mut Turn<'_>) {
        if self.in_flight == 0 && self.output.is_empty() {
            self.linger(until, turn);
        }
    }

    /// Sends no more, and gives the peer a moment to take what was sent: closing a socket that
    /// holds unread bytes resets the connection, and the peer could lose our last replies.
    fn linger(&mut self, until: Instant, turn: &mut Turn<'_>) {
        // It fails if the peer has gone, which the next read tells.
        let _ = self.stream.shutdown(Shutdown::Write);
        let until = until.min(Instant::now() + LINGER);
        self.phase = Phase::Lingering { until };
        self.input = InputBuffer::default();
        turn.alarm_by(until);
        self.readable = true;
        turn.again();
    }

    /// Throws away what still arrives, until the peer closes.
    fn discard(&mut self, turn: &mut Turn<'_>) -> Next {
        let lingering = matches!(self.phase, Phase::Lingering { .. });
        if !self.readable {
            return if lingering && self.read_closed {
                Next::Close
            } else {
                Next::Keep
            };
        }
        match self.stream.read(turn.scratch) {
            Ok(0) => {
                self.readable = false;
                self.read_closed = true;
                if lingering { Next::Close } else { Next::Keep }
            }
            Ok(_) => {
                turn.again();
                Next::Keep
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                self.readable = false;
                Next::Keep
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {
                turn.again();
                Next::Keep
            }
            Err(_) => Next::Close,
        }
    }

    /// Ends the connection for a reason that the operator should know. Replies that are ready
    /// leave, as far as the socket takes them.
    fn refuse(&mut self, error: &ConnectionError, turn: &mut Turn<'_>) -> Next {
        tracing::warn!(peer = %self.peer, reason = %error, "connection closed");
        self.collect_replies();
        if self.output.write_to(&mut self.stream).is_err() {
            return Next::Close;
        }
        self.output.clear();
        self.linger(Instant::now() + LINGER, turn);
        Next::Keep
    }
}

impl Source for Connection {
    fn on_ready(&mut self, ready: Ready, turn: &mut Turn<'_>) -> Next {
        if ready.broken {
            tracing::debug!(peer = %self.peer, "connection lost");
            return Next::Close;
        }
        self.readable |= ready.readable;
        self.read_closed |= ready.read_closed;
        if ready.writable && !self.output.is_empty() && self.flush(turn) == Next::Close {
            return Next::Close;
        }
        if self.paused {
            Next::Keep
        } else {
            self.pump(turn)
        }
    }

    fn on_notify(&mut self, turn: &mut Turn<'_>) -> Next {
        // The replies that this brings to the outbox ask for the flush themselves.
        let collected = self.path.collect();
        if let Some(until) = collected.drain_until {
            self.start_draining(until, turn);
        }
        Next::Keep
    }

    fn on_timer(&mut self, turn: &mut Turn<'_>) -> Next {
        match self.phase {
            Phase::Open => Next::Keep,
            Phase::Draining { .. } => {
                let (peer, in_flight) = (self.peer, self.in_flight);
                tracing::warn!(%peer, in_flight, "connection closed before its calls were finished");
                Next::Close
            }
            Phase::Lingering { until } if Instant::now() < until => {
                turn.alarm_by(until);
                Next::Keep
            }
            Phase::Lingering { .. } => Next::Close,
        }
    }

    fn on_flush(&mut self, turn: &mut Turn<'_>) -> Next {
        self.path.with_outbox(|outbox| outbox.flush_asked = false);
        self.flush(turn)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.path.close();
    }
}

/// Tells the server that the socket is closed: declared after it, and so dropped after it.
struct Membership {
    server: Arc<ServerShared>,
    /// The connection's key in the server's list.
    key: usize,
}

impl Drop for Membership {
    fn drop(&mut self) {
        self.server.remove_connection(self.key);
    }
}
