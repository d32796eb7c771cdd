//! One connection of a server: requests in, calls begun, replies out.
//!
//! ```text
//!            ┌──────────── paused: too many unsent bytes ◄──────────────────────────┐
//!            ▼                                                                      │
//!  socket ─► input ─► dispatch ─► Service::call ─► outbox ─► collect ─► output ─► write ─► socket
//! ```
//!
//! Being paused means not reading: TCP then holds the caller back. This file moves bytes;
//! [`dispatch`] knows what frames mean, [`http`] what is no frame, [`ending`] how connections end,
//! [`timeouts`] when.

mod dispatch;
mod ending;
mod http;
mod timeouts;

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use mio::net::TcpStream;

use self::ending::{DrainCause, Phase};
use self::timeouts::Timeouts;
use super::reply_path::ReplyPath;
use super::services::MethodPlace;
use super::shared::{Arrival, Membership, ServerShared, VisitSlot};
use crate::error::RpcError;
use crate::reactor::{LoopHandle, Next, Ready, Share, Source, Turn, now};
use crate::stats::{ConnectionCells, Dialect, LoopStats};
use crate::transport::Transport;
use crate::wire::{FrameError, FrontFrame, InputBuffer, OutputQueue, Written};

/// Why a connection ends that its peer did not end.
#[derive(Debug, thiserror::Error)]
enum ConnectionError {
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error("requests with and without a request_id on one connection")]
    MixedDialects,
    #[error("a frame that begins no call has no request_id")]
    NoRequestId,
    #[error("a bare reply cannot say: {0}")]
    LegacyFailure(RpcError),
    #[error("its request comes too slowly (ProviderOptions::frame_timeout)")]
    SlowSender,
    #[error("no request came (ProviderOptions::first_request_timeout)")]
    NoRequest,
    #[error("the peer does not answer (ProviderOptions::keepalive)")]
    NoPong,
    #[error("a visitor of the status pages is too slow (ProviderOptions::frame_timeout)")]
    SlowVisitor,
    #[error("no TLS handshake within the time for it (ProviderOptions::handshake_timeout)")]
    NoHandshake,
    /// The peer was told so, as far as it can understand.
    #[error(transparent)]
    Tls(io::Error),
    #[error("a TLS client at a port that speaks none (ProviderOptions::tls)")]
    TlsAtPlainPort,
}

#[expect(
    clippy::struct_excessive_bools,
    reason = "independent facts, not one state"
)]
pub(super) struct Connection {
    stream: Transport,
    peer: SocketAddr,
    server: Arc<ServerShared>,
    path: Arc<ReplyPath>,
    /// What its loop counts.
    stats: Arc<LoopStats>,
    input: InputBuffer,
    /// The frame at the front of the input.
    front: FrontFrame,
    /// What the latest call of a caller that speaks in frames was for, if it was no stream.
    latest: Option<MethodPlace>,
    /// When the latest bytes arrived; deadlines count from here.
    arrived: Instant,
    /// The clock when it was looked at last: when bytes arrived, or when a pause ended.
    now: Instant,
    /// What leaves next. Replies come here from the outbox.
    output: OutputQueue,
    /// How the caller speaks; its first request decides.
    dialect: Dialect,
    /// Of a peer that speaks HTTP; without one it is turned away.
    visit: Option<VisitSlot>,
    /// What a legacy caller's reply could not say: ends the connection once what came before is
    /// sent.
    legacy_failure: Option<RpcError>,
    /// Calls begun and not answered; an answer that waits for its turn is none yet.
    in_flight: usize,
    /// How many of them the server knows of.
    counted: usize,
    /// The socket may have more to read.
    readable: bool,
    /// The peer sends no more.
    read_closed: bool,
    /// The peer begins no more calls.
    goodbye: bool,
    /// Frames that have arrived wait for the next turn.
    more_frames: bool,
    /// Not reading, until there is room again.
    paused: bool,
    /// The socket did not take all that there was.
    blocked: bool,
    phase: Phase,
    timeouts: Timeouts,
    /// Something may be due before the alarm rings.
    alarm_is_late: bool,
    /// Dropped last, when the socket is closed.
    _membership: Membership,
}

impl Connection {
    /// Registers a socket with the loop; `None` if it is broken.
    pub(super) fn open(
        socket: TcpStream,
        peer: SocketAddr,
        (server, arrival): (&Arc<ServerShared>, Arrival),
        handle: &Arc<LoopHandle>,
        turn: &mut Turn<'_>,
    ) -> Option<Connection> {
        let stream =
            Transport::accepted(socket, server.options.tls.as_ref()).and_then(|mut stream| {
                stream.register(turn.registry, turn.token())?;
                Ok(stream)
            });
        let stream = match stream {
            Ok(stream) => stream,
            Err(error) => {
                tracing::warn!(%peer, %error, "a connection cannot be watched and is closed");
                return None;
            }
        };
        let now = Instant::now();
        let cells = ConnectionCells::new(peer, now);
        let path = ReplyPath::new(Arc::clone(handle), turn.id, server, cells);
        let path = Arc::new(path);
        let membership = arrival.arrive(&path);
        tracing::debug!(%peer, "connection accepted");
        let mut connection = Connection {
            stream,
            peer,
            server: Arc::clone(server),
            path,
            stats: Arc::clone(server.meter.for_loop(handle.index())),
            input: InputBuffer::default(),
            front: FrontFrame::default(),
            latest: None,
            arrived: now,
            now,
            output: OutputQueue::default(),
            dialect: Dialect::Unknown,
            visit: None,
            legacy_failure: None,
            in_flight: 0,
            counted: 0,
            readable: false,
            read_closed: false,
            goodbye: false,
            more_frames: false,
            paused: false,
            blocked: false,
            phase: Phase::Open,
            timeouts: Timeouts::new(now),
            alarm_is_late: false,
            _membership: membership,
        };
        connection.set_alarm(turn);
        Some(connection)
    }

    /// Reads and dispatches until nothing is left, the connection is paused, or its share of the
    /// turn is used up.
    fn pump(&mut self, turn: &mut Turn<'_>) -> Next {
        if !self.phase.reads_requests() {
            return self.discard(turn);
        }
        let mut budget = turn.share.read_bytes;
        loop {
            if !self.input.unread().is_empty()
                && let Err(error) = self.dispatch_arrived(turn)
            {
                return self.refuse(&error, turn);
            }
            if self.paused || self.more_frames {
                // What was read already is looked at when there is room again, or in the next turn.
                return Next::Keep;
            }
            if !self.readable {
                self.input.compact();
                return self.close_if_finished(turn);
            }
            if budget == 0 {
                turn.again();
                return Next::Keep;
            }
            match self
                .input
                .read_from(&mut self.stream, turn.scratch, self.front.bytes())
            {
                Ok(read) if read.bytes == 0 => {
                    self.readable = false;
                    self.read_closed = true;
                    self.note_read_closed();
                }
                Ok(read) => {
                    budget = budget.saturating_sub(read.bytes);
                    turn.moved(read.bytes);
                    self.now = Instant::now();
                    self.arrived = self.now;
                    if self.timeouts.heard(self.now) {
                        self.set_alarm(turn);
                    }
                    self.stats.received(read.bytes);
                    self.path.cells.received(read.bytes, self.now);
                    // A socket that held less than asked for reports again when more arrives.
                    // The end of the stream may have been reported together with its last bytes.
                    let drained = read.drained && self.stream.a_short_read_drains();
                    self.readable = !drained || self.read_closed;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.readable = false;
                    if self.dialect == Dialect::Unknown {
                        // A handshake goes on, at whose end a drain expects the first call.
                        self.arrived = Instant::now();
                    }
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {
                    turn.again();
                    return Next::Keep;
                }
                Err(error) if error.kind() == ErrorKind::InvalidData => {
                    return self.refuse(&ConnectionError::Tls(error), turn);
                }
                Err(error) => {
                    tracing::debug!(peer = %self.peer, %error, "connection lost");
                    return Next::Close;
                }
            }
        }
    }

    /// Whether reading must wait, after an attempt to send what can be sent.
    fn must_pause(&mut self, share: Share) -> bool {
        let limit = self.server.options.limits.max_unsent_bytes;
        let gathered = self
            .path
            .with_outbox(|outbox| outbox.replies.framed.unsent_bytes());
        if self.output.unsent_bytes() + gathered <= limit && self.dialect != Dialect::Legacy {
            return false;
        }
        self.collect_replies(Instant::now());
        if !self.output.is_empty() {
            // What is written here makes room, of which streams hear when the turn is flushed; a
            // failure to write shows again then.
            self.path.ask_for_flush();
        }
        let _ = self.write(share.write_bytes);
        self.output.unsent_bytes() > limit || !self.may_take_request()
    }

    fn has_room_again(&self) -> bool {
        self.output.unsent_bytes() <= self.server.options.limits.max_unsent_bytes / 2
            && self.may_take_request()
    }

    /// A legacy caller's requests are begun one after the other: it tells replies apart by their
    /// order alone, and expects each request to see what the one before it did. While the server
    /// drains there is no next one.
    fn may_take_request(&self) -> bool {
        self.dialect != Dialect::Legacy
            || (self.in_flight == 0 && self.legacy_failure.is_none() && self.phase.reads_requests())
    }

    /// Moves what the outbox holds to the output. All calls that end pass here, and end `now`.
    fn collect_replies(&mut self, now: Instant) {
        let (output, failure) = (&mut self.output, &mut self.legacy_failure);
        let stats = &self.stats;
        let (ended, item_bytes) = self.path.with_outbox(|outbox| {
            let replies = &mut outbox.replies;
            output.append(&mut replies.framed);
            match replies.legacy.take() {
                Some(Ok(body)) => output.push_segment(body),
                Some(Err(error)) => *failure = Some(error),
                None => {}
            }
            for run in replies.ended.drain(..) {
                let n = run.count.into();
                stats.ended(run.method.position(), run.arrived, now, run.code, n);
            }
            if replies.items > 0 {
                stats.items(std::mem::take(&mut replies.items) as u64);
            }
            (
                std::mem::take(&mut replies.count),
                std::mem::take(&mut replies.item_bytes),
            )
        });
        self.path
            .room()
            .note_collected(self.output.unsent_bytes(), item_bytes);
        if ended > 0 {
            self.in_flight -= ended;
            self.count_calls();
            if self.in_flight == 0 {
                self.path.book.forget_all_early();
                self.note_idle();
            }
        }
    }

    /// Tells the server how many calls are under way here.
    fn count_calls(&mut self) {
        if self.in_flight > self.counted {
            self.server.add_calls(self.in_flight - self.counted);
        } else if self.in_flight < self.counted {
            self.server.remove_calls(self.counted - self.in_flight);
        }
        self.counted = self.in_flight;
    }

    /// Lets buffers go that a quiet connection would keep for its next replies.
    fn give_memory_back(&mut self) {
        self.output.trim();
        self.path.with_outbox(|outbox| {
            outbox.replies.framed.trim();
            outbox.replies.ended.shrink_to_fit();
        });
    }

    /// Writes what the socket takes, `share` bytes at most; then the rest asks for a flush.
    fn write(&mut self, share: usize) -> io::Result<()> {
        let before = self.output.unsent_bytes();
        let written = self.output.write_up_to(share, &mut self.stream)?;
        self.stream.send_unsent()?;
        if written == Written::Share {
            self.path.ask_for_flush();
        }
        let after = self.output.unsent_bytes();
        self.stats.sent(before - after);
        self.path.cells.sent(before - after);
        let blocked = after > 0 || self.stream.has_unsent();
        if self.blocked && (after < before || !blocked) {
            // The peer's system has taken something, which is a sign of life as well.
            self.alarm_is_late |= self.timeouts.heard(Instant::now());
        }
        self.blocked = blocked;
        Ok(())
    }

    /// Sends what can be sent, and goes on reading if that made room.
    fn flush(&mut self, turn: &mut Turn<'_>) -> Next {
        self.collect_replies(now());
        if matches!(self.phase, Phase::Lingering { .. }) {
            self.output.clear();
            if self.stream.has_unsent() {
                self.stream.finish_writing();
            }
            return Next::Keep;
        }
        let gathered = self.output.unsent_bytes();
        if let Err(error) = self.write(turn.share.write_bytes) {
            tracing::debug!(peer = %self.peer, %error, "connection lost with replies unsent");
            return Next::Close;
        }
        turn.moved(gathered - self.output.unsent_bytes());
        if self.dialect != Dialect::Framed {
            // No alarm of it rings when it has been quiet, and its segments are not used again.
            self.output.trim();
        }
        if std::mem::take(&mut self.alarm_is_late) {
            self.set_alarm(turn);
        }
        self.path
            .cells
            .holds(self.in_flight, self.output.unsent_bytes());
        // Streams that go on now leave their items in the outbox, for the flush that they ask for.
        self.path.note_unsent(self.output.unsent_bytes());
        if let Some(error) = self.legacy_failure.take_if(|_| self.output.is_empty()) {
            let error = ConnectionError::LegacyFailure(error);
            return self.refuse(&error, turn);
        }
        if self.paused && self.has_room_again() {
            self.paused = false;
            self.now = Instant::now();
            if self.timeouts.resumed(self.now) {
                self.set_alarm(turn);
            }
            turn.again();
        }
        self.close_if_finished(turn)
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
        let unsent = !self.output.is_empty() || self.stream.has_unsent();
        if ready.writable && unsent && self.flush(turn) == Next::Close {
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
        let orders = self.path.collect();
        if orders.new_deadline
            && let Some(at) = self.path.book.next_deadline()
        {
            turn.alarm_by(at);
        }
        match orders.drain_until {
            Some(until) => self.drain(until, DrainCause::Shutdown, turn),
            None => Next::Keep,
        }
    }

    fn on_timer(&mut self, turn: &mut Turn<'_>) -> Next {
        self.ring(turn)
    }

    fn on_flush(&mut self, turn: &mut Turn<'_>) -> Next {
        self.path.with_outbox(|outbox| outbox.flush_asked = false);
        self.flush(turn)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.in_flight = 0;
        self.count_calls();
        self.path.close();
    }
}
