//! How a connection ends: by its peer, by a drain, or by a rule that the peer broke.
//!
//! ```text
//!                       framed: GOAWAY ──► Draining ── GOODBYE, or quiet ──┐
//!  Open ── drain ──┤                        (serves on)                    ├──► Lingering ──► closed
//!    │                  others ──────────► Finishing ── calls answered ────┘        ▲
//!    │                                      (reads no more)                         │
//!    └── a rule was broken ─────────────────────────────────────────────────────────┘
//! ```
//!
//! A peer that has not spoken yet is Draining as well, since its first call may be on its way. Once
//! that is there, it is known which of the two it is.

use std::io::{ErrorKind, Write};
use std::time::{Duration, Instant};

use super::timeouts::FIRST_PING;
use super::{Connection, ConnectionError, Dialect};
use crate::reactor::{Next, Turn};
use crate::server::outbox::Outbox;
use crate::transport::TLS_WANTS_ANOTHER_PORT;
use crate::wire::{InputBuffer, ReplyKind};

/// How long a connection that was told to close waits for its peer to do so, so that unread
/// requests do not reset it under the replies that are still travelling.
const LINGER: Duration = Duration::from_millis(200);

/// The silence after which a draining connection without calls is closed although its peer has not
/// said goodbye: it may not know how to.
pub(super) const QUIET: Duration = Duration::from_millis(500);

/// How long a connection that is asked to go for being idle may take to say goodbye.
pub(super) const IDLE_DRAIN: Duration = Duration::from_secs(10);

/// Why a peer is asked to begin new calls elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DrainCause {
    /// The connection was idle. If a call was on its way just then, it has all its time.
    Idle,
    /// The provider shuts down.
    Shutdown,
}

/// How far a connection has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Open,
    /// The peer was asked to begin new calls elsewhere, or will be when it is known whether it
    /// understands that, and is served until then.
    Draining {
        until: Instant,
        /// Nothing has happened since.
        quiet_since: Instant,
        cause: DrainCause,
    },
    /// Reads no more, finishes running calls until then.
    Finishing {
        until: Instant,
    },
    /// Everything is sent; waits for the peer to close until then.
    Lingering {
        until: Instant,
    },
}

impl Phase {
    /// Whether requests are still looked at.
    pub(super) fn reads_requests(self) -> bool {
        matches!(self, Phase::Open | Phase::Draining { .. })
    }

    /// A connection that drains is to drain once more. The provider's time counts, not that of an
    /// idle connection, be it shorter or longer.
    fn drain_again(&mut self, until: Instant) {
        if let Phase::Draining {
            until: before,
            cause,
            ..
        } = self
        {
            *before = match *cause {
                DrainCause::Idle => until,
                DrainCause::Shutdown => until.min(*before),
            };
            *cause = DrainCause::Shutdown;
        }
    }

    /// The connection has calls to finish or replies to send: if it drains only because it was
    /// idle, its time begins again.
    fn put_off(&mut self, now: Instant) {
        if let Phase::Draining {
            until,
            cause: DrainCause::Idle,
            ..
        } = self
        {
            *until = (*until).max(now + IDLE_DRAIN);
        }
    }
}

impl Connection {
    /// Whether every call is answered and every frame sent.
    fn is_finished(&self) -> bool {
        let nothing_gathered = || {
            let gathered = |outbox: &mut Outbox| !outbox.replies.framed.is_empty();
            !self.path.with_outbox(gathered)
        };
        self.in_flight == 0
            && self.output.is_empty()
            && !self.stream.has_unsent()
            && self.legacy_failure.is_none()
            && nothing_gathered()
    }

    /// A peer that begins no more calls gets its replies and is then closed.
    pub(super) fn close_if_finished(&mut self, turn: &mut Turn<'_>) -> Next {
        // Asked first, since it is so after nearly every turn.
        let goes_on = self.phase == Phase::Open && !self.read_closed && !self.goodbye;
        if goes_on || !self.is_finished() {
            return Next::Keep;
        }
        match self.phase {
            _ if self.read_closed && !self.readable && !self.paused && !self.more_frames => {
                return Next::Close;
            }
            Phase::Open | Phase::Draining { .. } if self.goodbye => {
                self.linger(Instant::now() + LINGER, turn);
            }
            Phase::Finishing { until } => self.linger(until, turn),
            Phase::Open | Phase::Draining { .. } | Phase::Lingering { .. } => {}
        }
        Next::Keep
    }

    /// The provider shuts down, or the connection has been idle for too long.
    pub(super) fn drain(&mut self, until: Instant, cause: DrainCause, turn: &mut Turn<'_>) -> Next {
        match self.phase {
            Phase::Open => {
                self.phase = Phase::Draining {
                    until,
                    quiet_since: Instant::now(),
                    cause,
                };
                self.ask_to_go();
                if !self.phase.reads_requests() {
                    self.paused = false;
                    turn.again();
                }
            }
            Phase::Draining { .. } => self.phase.drain_again(until),
            Phase::Finishing { .. } | Phase::Lingering { .. } => {}
        }
        self.set_alarm(turn);
        self.close_if_finished(turn)
    }

    /// Tells the peer of a draining connection to go, once it is known how it speaks: a legacy
    /// caller would take the words for a reply.
    pub(super) fn ask_to_go(&mut self) {
        let Phase::Draining { until, .. } = self.phase else {
            return;
        };
        match self.dialect {
            Dialect::Unknown => {}
            Dialect::Framed => self.path.send_control(ReplyKind::Goaway, 0),
            Dialect::Legacy | Dialect::Http => self.phase = Phase::Finishing { until },
        }
    }

    /// The last call was answered.
    pub(super) fn note_idle(&mut self) {
        if let Phase::Draining { quiet_since, .. } = &mut self.phase {
            *quiet_since = Instant::now();
        }
        if self.server.options.idle_timeout.is_some() {
            self.timeouts.idle(Instant::now());
            self.alarm_is_late = true;
        }
    }

    /// The peer sends no more. It may still read its replies, or be gone altogether: a frame that
    /// it need not answer finds out, and then its calls are cancelled.
    pub(super) fn note_read_closed(&mut self) {
        if self.dialect == Dialect::Framed && self.in_flight > 0 {
            self.path.send_control(ReplyKind::Ping, FIRST_PING);
        }
    }

    /// A phase may end by the clock.
    pub(super) fn ring_phase(&mut self, now: Instant, turn: &mut Turn<'_>) -> Next {
        if !self.is_finished() {
            self.phase.put_off(now);
        }
        match self.phase {
            Phase::Draining { until, .. } | Phase::Finishing { until } if until <= now => {
                if !self.is_finished() && self.dialect != Dialect::Http {
                    let (peer, in_flight) = (self.peer, self.in_flight);
                    tracing::warn!(%peer, in_flight, "connection closed before its calls were finished");
                    self.server.note_cut_off();
                }
                Next::Close
            }
            Phase::Lingering { until } if until <= now => Next::Close,
            Phase::Draining { quiet_since, .. }
                if self.is_finished() && quiet_since.max(self.arrived) + QUIET <= now =>
            {
                self.linger(now + LINGER, turn);
                Next::Keep
            }
            Phase::Open
            | Phase::Draining { .. }
            | Phase::Finishing { .. }
            | Phase::Lingering { .. } => Next::Keep,
        }
    }

    /// When the phase may end by the clock.
    pub(super) fn phase_ends(&self, now: Instant) -> Option<Instant> {
        match self.phase {
            Phase::Open => None,
            Phase::Draining {
                until, quiet_since, ..
            } => {
                // While calls run or bytes arrive it is looked at again and again.
                let quiet_at = quiet_since.max(self.arrived) + QUIET;
                let look_at = if quiet_at > now {
                    quiet_at
                } else {
                    now + QUIET
                };
                Some(until.min(look_at))
            }
            Phase::Finishing { until } | Phase::Lingering { until } => Some(until),
        }
    }

    /// Sends no more, and gives the peer a moment to take what was sent: closing a socket that
    /// holds unread bytes resets the connection, and the peer could lose our last replies.
    fn linger(&mut self, until: Instant, turn: &mut Turn<'_>) {
        self.stream.finish_writing();
        let until = until.min(Instant::now() + LINGER);
        self.phase = Phase::Lingering { until };
        self.input = InputBuffer::default();
        turn.alarm_by(until);
        self.readable = true;
        self.paused = false;
        turn.again();
    }

    /// Throws away what still arrives, until the peer closes.
    pub(super) fn discard(&mut self, turn: &mut Turn<'_>) -> Next {
        let lingering = matches!(self.phase, Phase::Lingering { .. });
        if !self.readable {
            return if lingering && self.read_closed {
                Next::Close
            } else {
                Next::Keep
            };
        }
        match self.stream.discard(turn.scratch) {
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
    pub(super) fn refuse(&mut self, error: &ConnectionError, turn: &mut Turn<'_>) -> Next {
        tracing::warn!(peer = %self.peer, reason = %error, "connection closed");
        self.collect_replies(Instant::now());
        let written = match error {
            // Nothing can be written any more.
            ConnectionError::Tls(_) => Ok(()),
            // A socket that has sent nothing yet takes these few bytes.
            ConnectionError::TlsAtPlainPort => self.stream.write_all(&TLS_WANTS_ANOTHER_PORT),
            _ => self.write(usize::MAX),
        };
        if written.is_err() {
            return Next::Close;
        }
        self.output.clear();
        self.linger(Instant::now() + LINGER, turn);
        Next::Keep
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draining(until: Instant, cause: DrainCause) -> Phase {
        Phase::Draining {
            until,
            quiet_since: until,
            cause,
        }
    }

    fn ends(phase: Phase) -> Instant {
        match phase {
            Phase::Draining { until, .. } => until,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_call_that_an_idle_connection_gets_after_all_has_its_time() {
        let start = Instant::now();
        let mut phase = draining(start + IDLE_DRAIN, DrainCause::Idle);
        for at in [0, 9, 10, 25] {
            let now = start + Duration::from_secs(at);
            phase.put_off(now);
            assert_eq!(ends(phase), now + IDLE_DRAIN);
        }
    }

    #[test]
    fn a_provider_that_shuts_down_has_its_own_time_and_no_more() {
        let start = Instant::now();
        let minute = start + Duration::from_mins(1);
        let mut phase = draining(start + IDLE_DRAIN, DrainCause::Idle);
        phase.drain_again(minute);
        assert_eq!(ends(phase), minute, "longer than for idleness");
        phase.put_off(minute);
        assert_eq!(ends(phase), minute, "calls are cut off");
        phase.drain_again(start);
        assert_eq!(ends(phase), start, "in more haste than before");
        phase.drain_again(minute);
        assert_eq!(ends(phase), start);
    }
}
