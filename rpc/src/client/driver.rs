//! The channel's half on the event loop: connects, writes, reads, times out.
//!
//! ```text
//!            a call                 connected
//!   Idle ───────────► Connecting ─────────────► Connected
//!    ▲ ▲                  │ failed                  │ broken, or silent for too long
//!    │ └──────────────────┴─────────────────────────┘
//!    └─ calls fail at once while a backoff lasts: after each failure to connect, and after a
//!       connection that broke before it brought a single byte
//! ```

use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use mio::Interest;
use mio::net::TcpStream;

use super::pending::{InFlight, Outcome, Pending};
use super::shared::{ChannelShared, Queued};
use crate::error::{Code, RpcError};
use crate::reactor::{Next, Ready, Source, Turn, WAIT_MAX, flush_later};
use crate::wire::{FrameError, InputBuffer, OutputQueue, ReplyHead, check_body, peek_reply};

/// Bytes read in one turn; then other connections of the loop have theirs.
const READ_BYTES_PER_TURN: usize = 256 << 10;

enum State {
    Idle,
    Connecting { stream: TcpStream, until: Instant },
    Connected(TcpStream),
}

#[expect(
    clippy::struct_excessive_bools,
    reason = "independent facts, not one state"
)]
pub(super) struct Driver {
    shared: Arc<ChannelShared>,
    state: State,
    input: InputBuffer,
    /// Size of the frame at the front of the input; 0 if unknown.
    frame_bytes: usize,
    output: OutputQueue,
    in_flight: InFlight,
    /// While not connected: the calls whose frames are in the output, in order, with their sizes.
    waiting: Vec<(u64, usize)>,
    /// Empty between turns; kept for its memory.
    calls: Vec<Queued>,
    /// Bytes that this connection was given to send, and those that the socket took.
    queued_bytes: u64,
    sent_bytes: u64,
    /// The socket may have more to read.
    readable: bool,
    /// The server sends no more.
    read_closed: bool,
    flush_asked: bool,
    /// Failures in a row.
    failures: u32,
    /// Calls fail at once until then.
    down: Option<(Instant, String)>,
    /// This connection has brought something.
    proven: bool,
    /// Since when calls have been under way and nothing was received.
    quiet_since: Option<Instant>,
}

/// Why a connection ends.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error("the server closed the connection")]
    Closed,
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("the server sent a broken reply: {0}")]
    Frame(#[from] FrameError),
    #[error("the server was silent for {0} ms while calls timed out")]
    Silent(u128),
}

impl Driver {
    pub(super) fn new(shared: Arc<ChannelShared>) -> Driver {
        Driver {
            shared,
            state: State::Idle,
            input: InputBuffer::default(),
            frame_bytes: 0,
            output: OutputQueue::default(),
            in_flight: InFlight::default(),
            waiting: Vec::new(),
            calls: Vec::new(),
            queued_bytes: 0,
            sent_bytes: 0,
            readable: false,
            read_closed: false,
            flush_asked: false,
            failures: 0,
            down: None,
            proven: false,
            quiet_since: None,
        }
    }

    /// Takes what callers left and does what it asks for.
    pub(super) fn look(&mut self, turn: &mut Turn<'_>) -> Next {
        let taken = self.shared.take(&mut self.output, &mut self.calls);
        let mut calls = std::mem::take(&mut self.calls);
        let connected = matches!(self.state, State::Connected(_));
        if self.in_flight.is_empty() {
            // Nobody was waiting for the server to say anything.
            self.quiet_since = None;
        }
        for Queued {
            id,
            frame_bytes,
            deadline,
            mut pending,
        } in calls.drain(..)
        {
            if connected {
                self.queued_bytes += frame_bytes as u64;
                pending.frame_end = self.queued_bytes;
            } else {
                self.waiting.push((id, frame_bytes));
            }
            turn.alarm_by(deadline);
            self.in_flight.insert(id, pending, deadline);
        }
        self.calls = calls;
        for id in taken.cancels {
            if let Some(pending) = self.in_flight.remove(id) {
                let error = RpcError::new(Code::Cancelled, "the caller cancelled the call")
                    .with_may_have_executed(connected);
                self.end(pending, Err(error));
            }
        }
        if taken.closed {
            self.fail_all(Code::Cancelled, "the channel was dropped");
            return Next::Close;
        }
        if connected {
            self.flush_when_the_turn_ends(turn);
        } else if matches!(self.state, State::Idle) {
            if self.in_flight.is_empty() {
                // All were cancelled before there was a connection to drop their frames.
                self.forget_bytes();
            } else {
                self.connect_unless_down(turn);
            }
        }
        Next::Keep
    }

    // ---- connecting

    fn connect_unless_down(&mut self, turn: &mut Turn<'_>) {
        if let Some((until, reason)) = &self.down
            && Instant::now() < *until
        {
            // Calls that were queued before their callers could know.
            let text = format!("{} is down: {reason}", self.shared.addr);
            self.fail_all(Code::Unavailable, &text);
            return;
        }
        match self.start_connecting(turn) {
            Ok(state) => self.state = state,
            Err(error) => self.connect_failed(&error.to_string()),
        }
    }

    fn start_connecting(&self, turn: &mut Turn<'_>) -> io::Result<State> {
        let mut stream = TcpStream::connect(self.shared.addr)?;
        let interest = Interest::READABLE | Interest::WRITABLE;
        turn.registry
            .register(&mut stream, turn.token(), interest)?;
        let until = Instant::now() + self.shared.options.connect_timeout.min(WAIT_MAX);
        turn.alarm_by(until);
        Ok(State::Connecting { stream, until })
    }

    /// The socket reported something while it was connecting.
    fn check_connected(&mut self, turn: &mut Turn<'_>) {
        let State::Connecting { stream, .. } = &self.state else {
            return;
        };
        match outcome_of_connecting(stream) {
            Ok(true) => self.connected(turn),
            Ok(false) => {}
            Err(error) => self.connect_failed(&error.to_string()),
        }
    }

    fn connected(&mut self, turn: &mut Turn<'_>) {
        let State::Connecting { stream, .. } = std::mem::replace(&mut self.state, State::Idle)
        else {
            return;
        };
        tracing::debug!(peer = %self.shared.addr, "connected");
        self.state = State::Connected(stream);
        (self.readable, self.read_closed, self.proven) = (false, false, false);
        self.number_waiting_frames();
        if !self.in_flight.is_empty() {
            self.quiet_since = Some(Instant::now());
        }
        self.flush_when_the_turn_ends(turn);
    }

    /// Drops the frames of calls that ended while they waited, and says of the others where in
    /// the connection's bytes they end.
    fn number_waiting_frames(&mut self) {
        (self.queued_bytes, self.sent_bytes) = (0, 0);
        let waiting = std::mem::take(&mut self.waiting);
        let before = self.output.unsent_bytes();
        if waiting.iter().any(|&(id, _)| !self.in_flight.contains(id)) {
            let in_flight = &self.in_flight;
            let frames = waiting
                .iter()
                .map(|&(id, len)| (len, in_flight.contains(id)));
            self.output.retain_frames(frames);
        }
        let dropped = before - self.output.unsent_bytes();
        self.shared
            .unsent_bytes
            .fetch_sub(dropped, Ordering::Relaxed);
        for (id, len) in waiting {
            if let Some(pending) = self.in_flight.get_mut(id) {
                self.queued_bytes += len as u64;
                pending.frame_end = self.queued_bytes;
            }
        }
    }

    fn connect_failed(&mut self, reason: &str) {
        self.state = State::Idle;
        self.back_off(format!("cannot connect: {reason}"));
        let text = format!("cannot connect to {}: {reason}", self.shared.addr);
        self.fail_all(Code::Unavailable, &text);
    }

    /// Calls fail at once for a while.
    fn back_off(&mut self, reason: String) {
        self.failures = self.failures.saturating_add(1);
        let pause = self
            .shared
            .options
            .backoff
            .pause(self.failures, fastrand::f64());
        let (peer, failures) = (self.shared.addr, self.failures);
        if failures == 1 {
            tracing::warn!(%peer, %reason, "server is down");
        } else {
            tracing::debug!(%peer, %reason, failures, "server is still down");
        }
        let down = Some((Instant::now() + pause, reason));
        self.down.clone_from(&down);
        self.shared.set_down(down);
    }

    // ---- the connection

    fn flush_when_the_turn_ends(&mut self, turn: &Turn<'_>) {
        if !std::mem::replace(&mut self.flush_asked, true) {
            flush_later(turn.id);
        }
    }

    fn flush(&mut self) -> Result<(), Broken> {
        let State::Connected(stream) = &mut self.state else {
            return Ok(());
        };
        if self.output.is_empty() {
            return Ok(());
        }
        if self.quiet_since.is_none() {
            self.quiet_since = Some(Instant::now());
        }
        let before = self.output.unsent_bytes();
        let written = self.output.write_to(stream);
        let sent = before - self.output.unsent_bytes();
        self.sent_bytes += sent as u64;
        self.shared.unsent_bytes.fetch_sub(sent, Ordering::Relaxed);
        written?;
        Ok(())
    }

    fn read(&mut self, turn: &mut Turn<'_>) -> Result<(), Broken> {
        let mut budget = READ_BYTES_PER_TURN;
        while self.readable {
            if budget == 0 {
                turn.again();
                break;
            }
            let State::Connected(stream) = &mut self.state else {
                return Ok(());
            };
            match self.input.read_from(stream, turn.scratch, self.frame_bytes) {
                Ok(read) if read.bytes == 0 => return Err(Broken::Closed),
                Ok(read) => {
                    budget = budget.saturating_sub(read.bytes);
                    // A socket that held less than asked for reports again when more arrives.
                    // The end of the stream may have been reported together with its last bytes.
                    self.readable = !read.drained || self.read_closed;
                    self.heard_from_server();
                    self.deliver()?;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.readable = false,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.input.compact();
        Ok(())
    }

    /// Reads after an attempt to write, and disconnects if either failed. Replies that came before
    /// a break count, so they are read even if there is no writing any more.
    fn read_after(&mut self, flushed: Result<(), Broken>, turn: &mut Turn<'_>) {
        self.readable |= flushed.is_err();
        let read = self.read(turn);
        if let Err(broken) = flushed.and(read) {
            self.disconnect(&broken);
        }
    }

    fn heard_from_server(&mut self) {
        self.quiet_since = None;
        if !std::mem::replace(&mut self.proven, true) {
            self.failures = 0;
            if self.down.take().is_some() {
                tracing::info!(peer = %self.shared.addr, "server is back");
                self.shared.set_down(None);
            }
        }
    }

    /// Ends the calls whose replies have arrived.
    fn deliver(&mut self) -> Result<(), Broken> {
        loop {
            self.frame_bytes = 0;
            if self.input.unread().is_empty() {
                break;
            }
            let limits = &self.shared.options.limits;
            let unread = self.input.unread();
            let Some(frame) = peek_reply(unread, limits)? else {
                break;
            };
            let (head, frame_bytes) = (frame.head, frame.body_start + frame.body_size);
            let id = head.request_id;
            if let Err(error) = check_body(head.body_size, limits) {
                // The reply can be skipped, so it costs its own call only.
                self.input.discard(frame_bytes);
                let error = RpcError::new(Code::ResourceExhausted, format!("the reply's {error}"));
                self.end_by_id(id, Err(error.with_may_have_executed(true)));
                continue;
            }
            if unread.len() < frame_bytes {
                self.frame_bytes = frame_bytes;
                break;
            }
            let error = (head.code != Code::Ok.number()).then(|| error_of(&head));
            let body = self.input.take(frame.body_start, frame.body_size);
            self.end_by_id(id, error.map_or(Ok(body), Err));
        }
        if !self.in_flight.is_empty() {
            self.quiet_since = Some(Instant::now());
        }
        Ok(())
    }

    fn end_by_id(&mut self, id: u64, outcome: Outcome) {
        if let Some(pending) = self.in_flight.remove(id) {
            self.end(pending, outcome);
        } else {
            // The call was given up, by its deadline or its caller.
            tracing::debug!(peer = %self.shared.addr, id, "late reply ignored");
        }
    }

    fn disconnect(&mut self, broken: &Broken) {
        let peer = self.shared.addr;
        if self.in_flight.is_empty() {
            tracing::debug!(%peer, reason = %broken, "connection lost");
        } else {
            tracing::info!(%peer, reason = %broken, "connection lost with calls under way");
        }
        self.state = State::Idle;
        if !self.proven {
            self.back_off(format!("the connection broke at once: {broken}"));
        }
        self.fail_all(
            Code::Unavailable,
            &format!("connection to {peer} lost: {broken}"),
        );
    }

    // ---- the ends of calls

    fn end(&self, pending: Pending, outcome: Outcome) {
        self.shared.in_flight.fetch_sub(1, Ordering::Relaxed);
        pending.finish(outcome);
    }

    /// Forgets what was to be sent and what was received.
    fn forget_bytes(&mut self) {
        self.shared
            .unsent_bytes
            .fetch_sub(self.output.unsent_bytes(), Ordering::Relaxed);
        self.output.clear();
        self.waiting.clear();
        self.input = InputBuffer::default();
        self.frame_bytes = 0;
    }

    /// Ends all calls and forgets what the connection left.
    fn fail_all(&mut self, code: Code, text: &str) {
        self.forget_bytes();
        self.quiet_since = None;
        for pending in self.in_flight.take_all() {
            // A frame that was not sent to its last byte cannot have been understood.
            let may_have_executed = pending.frame_end <= self.sent_bytes;
            let error = RpcError::new(code, text.to_owned());
            self.end(
                pending,
                Err(error.with_may_have_executed(may_have_executed)),
            );
        }
    }

    /// Ends the calls whose time is up, and with them a connection that has fallen silent.
    fn expire(&mut self) -> Result<(), Broken> {
        let now = Instant::now();
        let connected = matches!(self.state, State::Connected(_));
        let mut silent = None;
        while let Some(pending) = self.in_flight.pop_expired(now) {
            let timeout = pending.timeout;
            let limit = self.shared.options.silence_limit.max(timeout * 2);
            let quiet = self
                .quiet_since
                .map(|since| now.saturating_duration_since(since));
            silent = silent.or(quiet.filter(|quiet| connected && *quiet >= limit));
            let text = format!(
                "no reply from {} within {} ms",
                self.shared.addr,
                timeout.as_millis()
            );
            // A frame that waits for a connection is dropped with its call.
            let error =
                RpcError::new(Code::DeadlineExceeded, text).with_may_have_executed(connected);
            self.end(pending, Err(error));
        }
        silent.map_or(Ok(()), |quiet| Err(Broken::Silent(quiet.as_millis())))
    }
}

/// Whether a socket that was connecting has connected; `false`: not yet.
fn outcome_of_connecting(stream: &TcpStream) -> io::Result<bool> {
    if let Some(error) = stream.take_error()? {
        return Err(error);
    }
    let peer = match stream.peer_addr() {
        Ok(peer) => peer,
        Err(error) if error.kind() == ErrorKind::NotConnected => return Ok(false),
        Err(error) => return Err(error),
    };
    // Without a listener a socket can meet itself, if it is given the port that it asks for.
    if stream.local_addr()? == peer {
        return Err(ErrorKind::ConnectionRefused.into());
    }
    stream.set_nodelay(true)?;
    Ok(true)
}

fn error_of(head: &ReplyHead<'_>) -> RpcError {
    let text = head.error_text.clone().into_owned();
    let error = Code::from_number(head.code).map_or_else(
        || {
            RpcError::new(
                Code::Internal,
                format!("unknown code {}: {text}", head.code),
            )
        },
        |code| RpcError::new(code, text.clone()),
    );
    error.with_may_have_executed(!head.refused)
}

impl Source for Driver {
    fn on_ready(&mut self, ready: Ready, turn: &mut Turn<'_>) -> Next {
        if matches!(self.state, State::Connecting { .. }) && (ready.writable || ready.broken) {
            self.check_connected(turn);
        }
        // The same event may tell more than that it has connected.
        if matches!(self.state, State::Connected(_)) {
            // The next read tells what has broken.
            self.readable |= ready.readable || ready.broken;
            self.read_closed |= ready.read_closed || ready.broken;
            let flushed = if ready.writable { self.flush() } else { Ok(()) };
            self.read_after(flushed, turn);
        }
        Next::Keep
    }

    fn on_notify(&mut self, turn: &mut Turn<'_>) -> Next {
        self.look(turn)
    }

    fn on_timer(&mut self, turn: &mut Turn<'_>) -> Next {
        if let State::Connecting { until, .. } = self.state {
            if Instant::now() >= until {
                let ms = self.shared.options.connect_timeout.as_millis();
                self.connect_failed(&format!("no answer within {ms} ms"));
            } else {
                turn.alarm_by(until);
            }
        }
        if let Err(broken) = self.expire() {
            self.disconnect(&broken);
        }
        if let Some(deadline) = self.in_flight.next_deadline() {
            turn.alarm_by(deadline);
        }
        Next::Keep
    }

    fn on_flush(&mut self, turn: &mut Turn<'_>) -> Next {
        self.flush_asked = false;
        let flushed = self.flush();
        if flushed.is_err() {
            self.read_after(flushed, turn);
        }
        Next::Keep
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.shared.abandon();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;
    use crate::client::options::{Backoff, ChannelOptions};
    use crate::client::pending::Completion;
    use crate::reactor::EventLoops;
    use crate::service::MethodDescriptor;

    static METHOD: MethodDescriptor = MethodDescriptor {
        service: "Echo",
        method: "Say",
    };

    /// Whatever a driver dies of: every call ends.
    #[test]
    fn calls_of_a_channel_without_its_driver_end() {
        let loops = EventLoops::start(1, "test").unwrap();
        let addr = "127.0.0.1:1".parse().unwrap();
        let handle = Arc::clone(loops.pick());
        let shared = Arc::new(ChannelShared::new(addr, ChannelOptions::default(), handle));
        let driver = Driver::new(Arc::clone(&shared));
        let (sender, ended) = mpsc::channel();
        let call = || {
            let sender = sender.clone();
            let callback = move |outcome: Outcome| sender.send(outcome).unwrap();
            let completion = Completion::Callback(Box::new(callback));
            shared.begin(&METHOD, None, &(), completion)
        };
        assert!(call().is_ok());
        drop(driver);
        let error = ended.try_recv().unwrap().unwrap_err();
        assert_eq!(error.code(), Code::Cancelled);
        let (_, error) = call().unwrap_err();
        assert_eq!(
            (error.code(), error.may_have_executed()),
            (Code::Internal, false)
        );
    }

    #[test]
    fn a_server_that_speaks_again_is_forgiven_its_failures() {
        let loops = EventLoops::start(1, "test").unwrap();
        let addr = "127.0.0.1:1".parse().unwrap();
        let options = ChannelOptions {
            backoff: Backoff {
                min: Duration::from_hours(1),
                max: Duration::from_hours(2),
            },
            ..ChannelOptions::default()
        };
        let handle = Arc::clone(loops.pick());
        let shared = Arc::new(ChannelShared::new(addr, options, handle));
        let mut driver = Driver::new(Arc::clone(&shared));
        let begun = || {
            let completion = Completion::Callback(Box::new(|_| {}));
            shared.begin(&METHOD, None, &(), completion).is_ok()
        };
        driver.back_off("refused".to_owned());
        driver.back_off("refused".to_owned());
        assert!(!begun());
        driver.heard_from_server();
        assert!(begun());
        assert_eq!(driver.failures, 0, "the next pause is the shortest again");
    }

    /// The system gives a socket that connects to a free port of its own range that very port,
    /// sooner or later, and then it is connected to itself.
    #[test]
    fn a_socket_that_has_met_itself_is_not_connected() {
        /// The system tries one port after the other, and only half of them.
        const ATTEMPTS: usize = 200_000;
        let free = |port| std::net::TcpListener::bind(("127.0.0.1", port)).is_ok();
        let port = (33_000..60_000).step_by(1_002).find(|&port| free(port));
        let addr = std::net::SocketAddr::from(([127, 0, 0, 1], port.expect("a port is free")));
        for _ in 0..ATTEMPTS {
            let Ok(stream) = std::net::TcpStream::connect(addr) else {
                continue;
            };
            if stream.local_addr().unwrap() != addr {
                continue; // Somebody has begun to listen there.
            }
            stream.set_nonblocking(true).unwrap();
            let outcome = outcome_of_connecting(&TcpStream::from_std(stream));
            assert_eq!(outcome.unwrap_err().kind(), ErrorKind::ConnectionRefused);
            return;
        }
        eprintln!("skipped: no socket met itself in {ATTEMPTS} attempts");
    }
}
