//! [`Connection`]: one connection's bytes, and the calls that travel on it.
//!
//! ```text
//!  calls begun ──► output ──► socket ──► server        CANCEL, CREDIT, PING, PONG and GOODBYE go the
//!  InFlight                                            same way, in order with the calls
//!  calls ended ◄── deliver ◄── input ◄── socket ◄── server
//! ```
//!
//! A connection that the server asked to leave (GOAWAY) begins no more calls; those under way go
//! on.

mod alarms;
mod deliver;

use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use mio::{Registry, Token};

pub(super) use self::alarms::expired;
use super::in_flight::InFlight;
use super::pending::{Ended, Pending};
use super::shared::{ChannelShared, Queued};
use super::waiting::Waiting;
use crate::error::{Code, RpcError};
use crate::reactor::{self, Ready, Share};
use crate::transport::Transport;
use crate::wire::{
    FrameError, InputBuffer, OutputQueue, RequestHead, RequestKind, Written, put_request,
    request_len,
};

/// Above this many unsent bytes a server's pings are not answered: it does not read.
const PONG_UNSENT_BYTES_MAX: usize = 64 << 10;

/// The most that is still read of a connection that cannot be written to any more: what may have
/// arrived by then, as a socket's receive buffer holds no more (`net.ipv4.tcp_rmem`: 6 MiB, since
/// Linux 6.16 32 MiB). A server that goes on sending must not hold the loop.
const LAST_BYTES_MAX: usize = 32 << 20;

/// Why a connection ends.
#[derive(Debug, thiserror::Error)]
pub(super) enum Broken {
    #[error("the server closed the connection")]
    Closed,
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("the server sent a broken reply: {0}")]
    Frame(#[from] FrameError),
    #[error("the server was silent for {0} ms while calls timed out")]
    Silent(u128),
    #[error("the server did not answer a ping within {0} ms (ChannelOptions::keepalive)")]
    NoPong(u128),
    /// It begins no call of this connection.
    #[error("the server refused the connection: {0}")]
    Refused(RpcError),
}

/// What a connection reads with, on whatever thread it is driven.
pub(super) struct Reading<'a> {
    /// A buffer for one read.
    scratch: &'a mut [u8],
    share: Share,
    /// Bytes that were read and written.
    pub(super) bytes: usize,
    /// There may be more to read; others have their turn first.
    pub(super) again: bool,
    /// A ping was answered: the next one may be due before the alarm that is set for the answer.
    pub(super) alarm_is_late: bool,
}

impl<'a> Reading<'a> {
    pub(super) fn new(scratch: &'a mut [u8], share: Share) -> Reading<'a> {
        Reading {
            scratch,
            share,
            bytes: 0,
            again: false,
            alarm_is_late: false,
        }
    }
}

#[expect(
    clippy::struct_excessive_bools,
    reason = "independent facts, not one state"
)]
pub(super) struct Connection {
    shared: Arc<ChannelShared>,
    stream: Transport,
    input: InputBuffer,
    /// Size of the frame at the front of the input; 0 if unknown.
    frame_bytes: usize,
    output: OutputQueue,
    in_flight: InFlight,
    /// Bytes that this connection was given to send, and those that the socket took.
    queued_bytes: u64,
    sent_bytes: u64,
    /// The socket may have more to read.
    readable: bool,
    /// The server may send no more, or another socket's server: they share their events.
    read_closed: bool,
    /// Frames that have arrived wait for the next turn.
    more_replies: bool,
    /// It has brought a frame that did not refuse it.
    proven: bool,
    /// The server asked us to begin calls elsewhere.
    left: bool,
    /// There is something new to be sent.
    flush_wanted: bool,
    /// Since when replies have been expected and nothing was received.
    quiet_since: Option<Instant>,
    /// When something was received, at first when it was connected.
    heard_at: Instant,
    /// When a ping was sent that was not answered by anything.
    pinged_at: Option<Instant>,
    pings: u64,
    /// The server's last ping, if it was not answered.
    pong_owed: Option<u64>,
}

impl Connection {
    /// A connection for the calls that waited for it.
    pub(super) fn new(
        shared: Arc<ChannelShared>,
        stream: Transport,
        waiting: Waiting,
    ) -> Connection {
        let now = reactor::now();
        let (output, in_flight) = waiting.into_sendable(&shared);
        Connection {
            shared,
            // The handshake may have brought more than itself.
            readable: !stream.a_short_read_drains(),
            stream,
            input: InputBuffer::default(),
            frame_bytes: 0,
            queued_bytes: output.unsent_bytes() as u64,
            output,
            quiet_since: in_flight.expects_replies().then_some(now),
            in_flight,
            sent_bytes: 0,
            read_closed: false,
            more_replies: false,
            proven: false,
            left: false,
            flush_wanted: true,
            heard_at: now,
            pinged_at: None,
            pings: 0,
            pong_owed: None,
        }
    }

    // ---- what the driver asks

    /// It has brought a frame that did not refuse it.
    pub(super) fn is_proven(&self) -> bool {
        self.proven
    }

    /// The server asked us to begin calls elsewhere.
    pub(super) fn was_left(&self) -> bool {
        self.left
    }

    pub(super) fn calls(&self) -> usize {
        self.in_flight.len()
    }

    /// Nothing is under way and all is sent.
    pub(super) fn is_done(&self) -> bool {
        self.in_flight.is_empty() && self.output.is_empty() && !self.stream.has_unsent()
    }

    /// No call is under way, and there is nothing to be sent, read or waited for.
    pub(super) fn is_calm(&self) -> bool {
        self.is_done()
            && !self.stream.has_unsent()
            && self.proven
            && !self.left
            && !self.flush_wanted
            && !self.has_more_to_read()
            && self.pinged_at.is_none()
            && self.pong_owed.is_none()
    }

    /// It stopped reading at its share: no event is going to tell that there is more.
    pub(super) fn has_more_to_read(&self) -> bool {
        self.readable || self.more_replies
    }

    /// Has the socket watched by another poll.
    pub(super) fn watch_with(
        &mut self,
        old: &Registry,
        new: &Registry,
        token: Token,
    ) -> io::Result<()> {
        old.deregister(self.stream.socket_mut())?;
        self.stream.register(new, token)
    }

    /// Whether there is something new to be flushed. Asking twice is asking once.
    pub(super) fn take_flush_wanted(&mut self) -> bool {
        std::mem::take(&mut self.flush_wanted)
    }

    // ---- what callers left

    /// Where the frames of new calls go.
    pub(super) fn output(&mut self) -> &mut OutputQueue {
        &mut self.output
    }

    /// Adds a call whose frame has been put into the output.
    pub(super) fn add(&mut self, queued: Queued) {
        let Queued {
            id,
            frame_bytes,
            mut pending,
        } = queued;
        if !self.in_flight.expects_replies() {
            // Nobody was waiting for the server to say anything.
            self.quiet_since = None;
        }
        self.queued_bytes += frame_bytes as u64;
        pending.frame_end = self.queued_bytes;
        let deadline = pending.deadline();
        self.in_flight.insert(id, pending, deadline);
        self.flush_wanted = true;
    }

    /// Ends a call of this connection, and tells the server. `false`: it is none of its calls.
    pub(super) fn cancel(&mut self, id: u64) -> bool {
        let Some(pending) = self.in_flight.remove(id) else {
            return false;
        };
        self.tell_canceled(id, &pending);
        let error = RpcError::new(Code::Cancelled, "the caller cancelled the call");
        self.end(pending, error.with_may_have_executed(true).into());
        true
    }

    /// Lets the server send more of a stream. `false`: it is none of this connection's.
    pub(super) fn grant(&mut self, id: u64, credit: u32) -> bool {
        let Some(stream) = self.in_flight.get_mut(id).and_then(Pending::stream) else {
            return false;
        };
        stream.grant(credit);
        self.put_control(RequestKind::Credit, id, credit);
        true
    }

    /// Tells the server that no more calls begin here.
    pub(super) fn say_goodbye(&mut self) {
        self.put_control(RequestKind::Goodbye, 1, 0);
    }

    fn put_control(&mut self, kind: RequestKind, id: u64, credit: u32) {
        let head = RequestHead::control(kind, id, credit);
        let len = request_len(&head);
        self.output
            .push_frame(len, |out| put_request(out, &head, &()));
        self.queued_bytes += len as u64;
        self.shared.unsent_bytes.fetch_add(len, Ordering::Relaxed);
        self.flush_wanted = true;
    }

    /// A call was given up: the server need not go on. Costs nothing for one that nobody can stop.
    fn tell_canceled(&mut self, id: u64, pending: &Pending) {
        if pending.method.is_some() {
            self.put_control(RequestKind::Cancel, id, 0);
        }
    }

    // ---- the socket

    /// The socket reported something, or another one that shares its events did.
    pub(super) fn on_ready(
        &mut self,
        ready: Ready,
        reading: &mut Reading<'_>,
    ) -> Result<(), Broken> {
        // The next read tells what has broken.
        self.readable |= ready.readable || ready.broken;
        self.read_closed |= ready.read_closed || ready.broken;
        let flushed = if ready.writable {
            self.flush(reading)
        } else {
            Ok(())
        };
        self.read_after(flushed, reading)
    }

    /// Writes what there is to write.
    pub(super) fn on_flush(&mut self, reading: &mut Reading<'_>) -> Result<(), Broken> {
        let flushed = self.flush(reading);
        if flushed.is_err() {
            return self.read_after(flushed, reading);
        }
        Ok(())
    }

    fn flush(&mut self, reading: &mut Reading<'_>) -> Result<(), Broken> {
        if self.output.unsent_bytes() <= PONG_UNSENT_BYTES_MAX
            && let Some(token) = self.pong_owed.take()
        {
            self.put_control(RequestKind::Pong, token, 0);
        }
        self.flush_wanted = false;
        if self.output.is_empty() {
            return Ok(self.stream.send_unsent()?);
        }
        if self.quiet_since.is_none() && self.in_flight.expects_replies() {
            self.quiet_since = Some(reactor::now());
        }
        let before = self.output.unsent_bytes();
        let written = self
            .output
            .write_up_to(reading.share.write_bytes, &mut self.stream);
        let sent = before - self.output.unsent_bytes();
        self.sent_bytes += sent as u64;
        reading.bytes += sent;
        self.shared.unsent_bytes.fetch_sub(sent, Ordering::Relaxed);
        self.flush_wanted = written? == Written::Share;
        Ok(self.stream.send_unsent()?)
    }

    /// Reading after an attempt to write. Replies that came before a break count, so they are read
    /// even if there is no writing any more.
    fn read_after(
        &mut self,
        flushed: Result<(), Broken>,
        reading: &mut Reading<'_>,
    ) -> Result<(), Broken> {
        let read = if flushed.is_ok() {
            self.read(reading)
        } else {
            self.read_last(reading, LAST_BYTES_MAX)
        };
        // What a server said for a reason goes before the break that followed.
        if matches!(read, Err(Broken::Refused(_))) {
            return read;
        }
        flushed.and(read)
    }

    /// Reads all that has arrived, as there is no next turn: until `bytes_max` are reached, and then
    /// only looks at the frames that are here.
    fn read_last(&mut self, reading: &mut Reading<'_>, bytes_max: usize) -> Result<(), Broken> {
        let bytes_max = reading.bytes + bytes_max;
        self.readable = true;
        while self.has_more_to_read() {
            self.readable &= reading.bytes < bytes_max;
            self.read(reading)?;
        }
        Ok(())
    }

    fn read(&mut self, reading: &mut Reading<'_>) -> Result<(), Broken> {
        let mut budget = reading.share.read_bytes;
        if self.more_replies {
            self.deliver(reading.share)?;
        }
        while self.readable && !self.more_replies {
            if budget == 0 {
                reading.again = true;
                break;
            }
            let read = self
                .input
                .read_from(&mut self.stream, reading.scratch, self.frame_bytes);
            match read {
                Ok(read) if read.bytes == 0 => return Err(Broken::Closed),
                Ok(read) => {
                    budget = budget.saturating_sub(read.bytes);
                    reading.bytes += read.bytes;
                    // A socket that held less than asked for reports again when more arrives.
                    // The end of the stream may have been reported together with its last bytes.
                    let drained = read.drained && self.stream.a_short_read_drains();
                    self.readable = !drained || self.read_closed;
                    reading.alarm_is_late |= self.heard();
                    self.deliver(reading.share)?;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    (self.readable, self.read_closed) = (false, false);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {
                    reading.again = true;
                    break;
                }
                Err(error) if !self.proven && self.stream.was_turned_away() => {
                    let peer = self.shared.addr;
                    let text = format!("{peer} does not let us in: {error}");
                    return Err(Broken::Refused(RpcError::new(Code::Unavailable, text)));
                }
                Err(error) => return Err(error.into()),
            }
        }
        if self.more_replies {
            reading.again = true;
        } else {
            self.input.compact();
        }
        Ok(())
    }

    /// Something was received. `true`: a ping was waiting for that.
    fn heard(&mut self) -> bool {
        self.heard_at = reactor::now();
        self.quiet_since = None;
        self.pinged_at.take().is_some()
    }

    // ---- the ends of calls

    fn end(&self, pending: Pending, ended: Ended) {
        self.shared.end(pending, ended);
    }

    /// The connection is given up: ends all its calls and forgets its bytes.
    pub(super) fn fail_all(&mut self, broken: &Broken) {
        self.shared
            .unsent_bytes
            .fetch_sub(self.output.unsent_bytes(), Ordering::Relaxed);
        self.output.clear();
        let peer = self.shared.addr;
        for pending in self.in_flight.take_all() {
            let error = match broken {
                Broken::Refused(error) => error.clone(),
                // A frame that was not sent to its last byte cannot have been understood.
                broken => RpcError::new(
                    Code::Unavailable,
                    format!("connection to {peer} lost: {broken}"),
                )
                .with_may_have_executed(pending.frame_end <= self.sent_bytes),
            };
            self.end(pending, error.into());
        }
    }

    /// Ends all calls because nobody holds the channel any more.
    pub(super) fn close(&mut self) {
        for pending in self.in_flight.take_all() {
            let sent = pending.frame_end <= self.sent_bytes;
            let error = RpcError::new(Code::Cancelled, "the channel was dropped");
            self.end(pending, error.with_may_have_executed(sent).into());
        }
    }
}

#[cfg(test)]
#[path = "connection_test.rs"]
mod tests;
