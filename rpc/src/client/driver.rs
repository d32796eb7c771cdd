//! The channel's half on the event loop: the life of the way to one server.
//!
//! ```text
//!            a call               TCP, then (if wanted) TLS
//!   Idle ───────────► Connecting ───────────────────────────► Connected ──► retired (the server
//!    ▲ ▲                  │ failed                  │          said GOAWAY: its calls go on, new
//!    │ └──────────────────┴─────────────────────────┘          ones connect)
//!    │                                     broken, or silent for too long
//!    └─ calls fail at once while a backoff lasts: after each failure to connect, and after a
//!       connection that broke before it brought a single frame, or was refused
//! ```

use std::io;
use std::sync::Arc;
use std::time::Instant;

use mio::Interest;
use mio::net::TcpStream;

use super::connecting::{Progress, Stage};
use super::connection::{Broken, Connection, Reading, expired};
use super::loan::{CHECK_EVERY, Fetched};
use super::shared::{ChannelShared, Queued};
use super::state::ChannelState;
use super::waiting::Waiting;
use crate::error::{Code, RpcError};
use crate::reactor::{self, Next, Ready, Source, Turn, WAIT_MAX, flush_later};
use crate::transport::Transport;

/// Connections that the server asked to leave and whose calls go on. A server that drains as often
/// as this within the life of one call is not waited for any longer.
const RETIRED_MAX: usize = 4;

/// So many blocking calls that were alone, one after the other, have the connection lent.
const LONE_CALLS_MIN: u32 = 8;

enum Link {
    None,
    Connecting {
        stage: Stage,
        until: Instant,
    },
    Connected(Box<Connection>),
    /// Callers drive the connection, see [`loan`](super::loan).
    Lent,
}

pub(super) struct Driver {
    shared: Arc<ChannelShared>,
    link: Link,
    /// While not connected.
    waiting: Waiting,
    /// The oldest first. All connections share the source's events: which of them has something to
    /// read shows when it is read.
    retired: Vec<Connection>,
    /// Empty between turns; kept for its memory.
    calls: Vec<Queued>,
    flush_asked: bool,
    /// Blocking calls in a row, each of which found the connection without a call.
    lone_calls: u32,
    /// Failures in a row.
    failures: u32,
}

impl Driver {
    pub(super) fn new(shared: Arc<ChannelShared>) -> Driver {
        Driver {
            shared,
            link: Link::None,
            waiting: Waiting::default(),
            retired: Vec::new(),
            calls: Vec::new(),
            flush_asked: false,
            lone_calls: 0,
            failures: 0,
        }
    }

    /// Takes what callers left and does what it asks for.
    pub(super) fn look(&mut self, turn: &mut Turn<'_>) -> Next {
        if matches!(self.link, Link::Lent) && !self.fetch(turn) {
            // It is looked again when the connection is back.
            return Next::Keep;
        }
        let output = match &mut self.link {
            Link::Connected(connection) => connection.output(),
            _ => &mut self.waiting.output,
        };
        let taken = self.shared.take(output, &mut self.calls);
        self.count_lone_calls();
        for queued in self.calls.drain(..) {
            if let Some(deadline) = queued.pending.deadline() {
                turn.alarm_by(deadline);
            }
            match &mut self.link {
                Link::Connected(connection) => connection.add(queued),
                _ => self.waiting.add(queued),
            }
        }
        for id in taken.cancels {
            self.cancel(id);
        }
        for (id, credit) in taken.credits {
            let _ = self.connections().any(|it| it.grant(id, credit));
        }
        if taken.closed {
            self.close();
            return Next::Close;
        }
        if matches!(self.link, Link::None) {
            if self.waiting.in_flight.is_empty() {
                // All were cancelled before there was a connection to drop their frames.
                self.waiting.forget_bytes(&self.shared);
            } else {
                self.connect_unless_down(turn);
            }
        }
        self.settle(turn);
        Next::Keep
    }

    /// The current one and the retired.
    fn connections(&mut self) -> impl Iterator<Item = &mut Connection> {
        let current = match &mut self.link {
            Link::Connected(connection) => Some(&mut **connection),
            _ => None,
        };
        current.into_iter().chain(&mut self.retired)
    }

    fn cancel(&mut self, id: u64) {
        if let Some(pending) = self.waiting.in_flight.remove(id) {
            let error = RpcError::new(Code::Cancelled, "the caller cancelled the call");
            self.shared.end(pending, error.into());
            return;
        }
        // A call that is none of theirs has ended.
        let _ = self.connections().any(|it| it.cancel(id));
    }

    fn close(&mut self) {
        let error = RpcError::new(Code::Cancelled, "the channel was dropped");
        self.waiting.fail_all(&error, &self.shared);
        for connection in self.connections() {
            connection.close();
        }
    }

    /// After anything that may have changed a connection: retires what the server wants to be left,
    /// lets go of what is done, and sees to it that all is flushed.
    fn settle(&mut self, turn: &mut Turn<'_>) {
        if matches!(&self.link, Link::Connected(connection) if connection.was_left()) {
            self.retire();
        }
        self.retired.retain(|connection| !connection.is_done());
        // No short circuit: each is asked.
        let wanted = self
            .connections()
            .fold(false, |wanted, it| it.take_flush_wanted() | wanted);
        if wanted && !std::mem::replace(&mut self.flush_asked, true) {
            flush_later(turn.id);
        }
    }

    // ---- lending

    fn count_lone_calls(&mut self) {
        match (&self.calls[..], &self.link) {
            ([], _) => {}
            ([queued], Link::Connected(connection))
                if queued.pending.is_blocking() && connection.calls() == 0 =>
            {
                self.lone_calls = self.lone_calls.saturating_add(1);
            }
            _ => self.lone_calls = 0,
        }
    }

    /// Lends the connection to its callers if they come one after the other.
    fn lend_to_lone_caller(&mut self, turn: &mut Turn<'_>) {
        let (lone, alone) = (self.lone_calls >= LONE_CALLS_MIN, self.retired.is_empty());
        if !(lone && alone && matches!(&self.link, Link::Connected(it) if it.is_calm())) {
            return;
        }
        let Link::Connected(connection) = std::mem::replace(&mut self.link, Link::Lent) else {
            return;
        };
        match self.shared.loans.lend(connection, turn.registry) {
            Ok(()) => turn.alarm_by(Instant::now() + CHECK_EVERY),
            Err((connection, broken)) => {
                self.lone_calls = 0;
                self.link = Link::Connected(connection);
                if let Some(broken) = broken {
                    self.disconnect(&broken);
                }
            }
        }
    }

    /// Gets the connection back that was lent; `false`: its caller has to bring it.
    fn fetch(&mut self, turn: &mut Turn<'_>) -> bool {
        match self.shared.loans.fetch(turn.registry, turn.token()) {
            Fetched::Recalled => false,
            Fetched::Here(connection, broken) => {
                self.lone_calls = 0;
                turn.alarm_by(connection.next_alarm());
                if connection.has_more_to_read() {
                    // Its socket may report nothing.
                    turn.again();
                }
                self.link = Link::Connected(connection);
                if let Some(broken) = broken {
                    self.disconnect(&broken);
                }
                true
            }
        }
    }

    // ---- connecting

    fn connect_unless_down(&mut self, turn: &mut Turn<'_>) {
        if let Some(reason) = self.shared.down_reason(reactor::now()) {
            // Calls that were queued before their callers could know.
            let text = format!("{} is down: {reason}", self.shared.addr);
            let error = RpcError::new(Code::Unavailable, text);
            self.waiting.fail_all(&error, &self.shared);
            return;
        }
        match self.start_connecting(turn) {
            Ok(link) => {
                self.link = link;
                self.shared.set_state(ChannelState::Connecting);
            }
            Err(error) => self.connect_failed(&error.to_string()),
        }
    }

    fn start_connecting(&self, turn: &mut Turn<'_>) -> io::Result<Link> {
        let mut stream = TcpStream::connect(self.shared.addr)?;
        let interest = Interest::READABLE | Interest::WRITABLE;
        turn.registry
            .register(&mut stream, turn.token(), interest)?;
        let until = reactor::now() + self.shared.options.connect_timeout.min(WAIT_MAX);
        turn.alarm_by(until);
        let stage = Stage::Tcp(stream);
        Ok(Link::Connecting { stage, until })
    }

    /// The socket reported something while it was connecting.
    fn go_on_connecting(&mut self, ready: Ready, turn: &mut Turn<'_>) {
        let Link::Connecting { stage, until } = std::mem::replace(&mut self.link, Link::None)
        else {
            return;
        };
        match stage.go_on(ready, self.shared.options.tls.as_ref()) {
            Ok(Progress::Connected(stream)) => self.connected(stream, turn),
            Ok(Progress::Connecting(stage)) => self.link = Link::Connecting { stage, until },
            Err(error) => self.connect_failed(&error.to_string()),
        }
    }

    fn connected(&mut self, stream: Transport, turn: &mut Turn<'_>) {
        tracing::debug!(peer = %self.shared.addr, "connected");
        let waiting = std::mem::take(&mut self.waiting);
        let connection = Connection::new(Arc::clone(&self.shared), stream, waiting);
        turn.alarm_by(connection.next_alarm());
        self.link = Link::Connected(Box::new(connection));
        if !self.shared.is_down() {
            self.shared.set_state(ChannelState::Ready);
        }
    }

    fn connect_failed(&mut self, reason: &str) {
        self.link = Link::None;
        self.back_off(format!("cannot connect: {reason}"));
        let text = format!("cannot connect to {}: {reason}", self.shared.addr);
        let error = RpcError::new(Code::Unavailable, text);
        self.waiting.fail_all(&error, &self.shared);
    }

    /// Calls fail at once for a while.
    fn back_off(&mut self, reason: String) {
        self.failures = self.failures.saturating_add(1);
        let backoff = &self.shared.options.backoff;
        let pause = backoff.pause(self.failures, fastrand::f64());
        let (peer, failures) = (self.shared.addr, self.failures);
        if failures == 1 {
            tracing::warn!(%peer, %reason, "server is down");
        } else {
            tracing::debug!(%peer, %reason, failures, "server is still down");
        }
        self.shared.set_down(reactor::now() + pause, reason);
    }

    // ---- the end of a connection

    fn disconnect(&mut self, broken: &Broken) {
        let Link::Connected(mut connection) = std::mem::replace(&mut self.link, Link::None) else {
            return;
        };
        self.report(&connection, broken);
        let refused = matches!(broken, Broken::Refused(_));
        if connection.is_proven() {
            self.failures = 0;
        }
        if refused || !connection.is_proven() {
            let reason = match broken {
                Broken::Refused(_) => broken.to_string(),
                broken => format!("the connection broke at once: {broken}"),
            };
            self.back_off(reason);
        } else {
            self.shared.set_state(ChannelState::Idle);
        }
        connection.fail_all(broken);
    }

    fn report(&self, connection: &Connection, broken: &Broken) {
        let peer = self.shared.addr;
        match connection.calls() {
            0 => tracing::debug!(%peer, reason = %broken, "connection lost"),
            calls => {
                tracing::info!(%peer, reason = %broken, calls, "connection lost with calls under way");
            }
        }
    }

    /// The server asked us to begin calls elsewhere; those of this connection go on.
    fn retire(&mut self) {
        let Link::Connected(mut connection) = std::mem::replace(&mut self.link, Link::None) else {
            return;
        };
        let calls = connection.calls();
        tracing::debug!(peer = %self.shared.addr, calls, "the server drains: leaving the connection");
        self.failures = 0;
        connection.say_goodbye();
        self.retired.push(*connection);
        self.shared.set_state(ChannelState::Idle);
        if self.retired.len() > RETIRED_MAX {
            let mut oldest = self.retired.remove(0);
            let broken = Broken::Io(io::Error::other(
                "the server asked to leave connections more often than calls end",
            ));
            self.report(&oldest, &broken);
            oldest.fail_all(&broken);
        }
    }

    /// Lets every connection do something, and ends those that break.
    fn each(&mut self, mut f: impl FnMut(&mut Connection) -> Result<(), Broken>) {
        if let Link::Connected(connection) = &mut self.link
            && let Err(broken) = f(connection)
        {
            self.disconnect(&broken);
        }
        let mut index = 0;
        while index < self.retired.len() {
            match f(&mut self.retired[index]) {
                Ok(()) => index += 1,
                Err(broken) => {
                    let mut connection = self.retired.remove(index);
                    self.report(&connection, &broken);
                    connection.fail_all(&broken);
                }
            }
        }
    }

    fn each_reading(
        &mut self,
        turn: &mut Turn<'_>,
        mut f: impl FnMut(&mut Connection, &mut Reading<'_>) -> Result<(), Broken>,
    ) {
        let mut reading = Reading::new(turn.scratch, turn.share);
        self.each(|connection| f(connection, &mut reading));
        let Reading {
            bytes,
            again,
            alarm_is_late,
            ..
        } = reading;
        turn.moved(bytes);
        if again {
            turn.again();
        }
        if alarm_is_late {
            self.set_alarm(turn);
        }
    }

    // ---- time

    fn expire_waiting(&mut self, now: Instant) {
        while let Some((_, pending)) = self.waiting.in_flight.pop_expired(now) {
            // Its frame is dropped when there is a connection.
            let error = expired(&self.shared, pending.timeout.unwrap_or(WAIT_MAX));
            self.shared.end(pending, error.into());
        }
    }

    fn set_alarm(&mut self, turn: &mut Turn<'_>) {
        if let Some(deadline) = self.waiting.in_flight.next_deadline() {
            turn.alarm_by(deadline);
        }
        for connection in self.connections() {
            turn.alarm_by(connection.next_alarm());
        }
    }
}

impl Source for Driver {
    fn on_ready(&mut self, ready: Ready, turn: &mut Turn<'_>) -> Next {
        if matches!(self.link, Link::Lent) {
            // An event from before it was.
            return Next::Keep;
        }
        // Calls that callbacks begin now leave together, when all of them have run.
        self.shared.will_take();
        if matches!(self.link, Link::Connecting { .. }) {
            self.go_on_connecting(ready, turn);
        }
        // The same event may tell more than that it has connected.
        self.each_reading(turn, |connection, reading| {
            connection.on_ready(ready, reading)
        });
        let next = self.look(turn);
        self.lend_to_lone_caller(turn);
        next
    }

    fn on_notify(&mut self, turn: &mut Turn<'_>) -> Next {
        self.look(turn)
    }

    fn on_timer(&mut self, turn: &mut Turn<'_>) -> Next {
        let now = reactor::now();
        if matches!(self.link, Link::Lent) {
            if self.shared.loans.is_unused() {
                self.fetch(turn);
            } else {
                turn.alarm_by(Instant::now() + CHECK_EVERY);
            }
        }
        if let Link::Connecting { stage, until } = &self.link {
            if now >= *until {
                let ms = self.shared.options.connect_timeout.as_millis();
                let reason = match stage {
                    Stage::Tcp(_) => format!("no answer within {ms} ms"),
                    Stage::Tls(_) => {
                        format!(
                            "the TLS handshake was not over within {ms} ms (does the server speak TLS?)"
                        )
                    }
                };
                self.connect_failed(&reason);
            } else {
                turn.alarm_by(*until);
            }
        }
        self.expire_waiting(now);
        self.each(|connection| connection.on_timer(now));
        self.set_alarm(turn);
        self.settle(turn);
        Next::Keep
    }

    fn on_flush(&mut self, turn: &mut Turn<'_>) -> Next {
        self.flush_asked = false;
        self.each_reading(turn, Connection::on_flush);
        self.settle(turn);
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
    use crate::client::pending::{Completion, Ended};
    use crate::client::shared::Request;
    use crate::metadata::Metadata;
    use crate::reactor::EventLoops;
    use crate::service::MethodDescriptor;

    static METHOD: MethodDescriptor = MethodDescriptor {
        service: "Echo",
        method: "Say",
    };

    const REQUEST: Request<'_> = Request {
        method: &METHOD,
        timeout: Some(Duration::from_secs(10)),
        metadata: &Metadata::new(),
        trace: None,
        credit: 0,
    };

    fn shared(options: ChannelOptions) -> Arc<ChannelShared> {
        let loops = EventLoops::start(1, "test").unwrap();
        let addr = "127.0.0.1:1".parse().unwrap();
        let handle = Arc::clone(loops.pick());
        Arc::new(ChannelShared::new(addr, options, handle, || {}))
    }

    /// Whatever a driver dies of: every call ends.
    #[test]
    fn calls_of_a_channel_without_its_driver_end() {
        let shared = shared(ChannelOptions::default());
        let driver = Driver::new(Arc::clone(&shared));
        let (sender, ended) = mpsc::channel();
        let call = || {
            let sender = sender.clone();
            let callback = move |ended: Ended| sender.send(ended.result).unwrap();
            let completion = Completion::Callback(Box::new(callback));
            shared.begin(&REQUEST, &(), completion)
        };
        assert!(call().is_ok());
        drop(driver);
        let error = ended.try_recv().unwrap().unwrap_err();
        assert_eq!(error.code(), Code::Cancelled);
        let Err((_, error)) = call() else {
            panic!("a call was begun");
        };
        assert_eq!(
            (error.code(), error.may_have_executed()),
            (Code::Internal, false)
        );
    }

    #[test]
    fn a_server_that_speaks_again_is_forgiven_its_failures() {
        let shared = shared(ChannelOptions {
            backoff: Backoff {
                min: Duration::from_hours(1),
                max: Duration::from_hours(2),
            },
            ..ChannelOptions::default()
        });
        let mut driver = Driver::new(Arc::clone(&shared));
        let begun = || {
            let completion = Completion::Callback(Box::new(|_| {}));
            shared.begin(&REQUEST, &(), completion).is_ok()
        };
        driver.back_off("refused".to_owned());
        driver.back_off("refused".to_owned());
        assert!(!begun() && shared.is_down());
        shared.answered();
        assert!(begun() && !shared.is_down());
    }
}
