//! What a connection's peer has to do in time: begin, go on with what it has begun, answer pings.
//!
//! [`Timeouts`] is told what happens and says what is due; it has no clock of its own. The
//! connection has one alarm, set to the earliest of all that it waits for. What happens in between
//! moves nothing: an alarm that rings too early finds nothing due, and is set again.

use std::time::{Duration, Instant};

use super::ending::{DrainCause, IDLE_DRAIN, Phase};
use super::{Connection, ConnectionError, Dialect};
use crate::reactor::{Next, Turn, WAIT_MAX};
use crate::server::shared::ServeOptions;
use crate::wire::ReplyKind;

/// A frame may take its time if this many bytes of it come in a second.
const FRAME_BYTES_PER_SECOND: u128 = 100;

/// The numbers of our pings begin here, far from any that calls have.
pub(super) const FIRST_PING: u64 = 1 << 63;

/// What has to happen next, and since when.
#[derive(Debug)]
pub(super) struct Timeouts {
    opened: Instant,
    /// The latest sign of life.
    heard: Instant,
    /// An unanswered ping.
    asked: Option<Instant>,
    next_ping: u64,
    /// The frame that the input ends within: when it was looked at, and how many bytes of it there
    /// were.
    frame: Option<(Instant, usize)>,
    /// The peer speaks HTTP, and its request began then.
    visit: Option<Instant>,
    idle_since: Instant,
}

/// What else counts when the clock is looked at.
#[derive(Clone, Copy, Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "independent facts, not one state"
)]
pub(super) struct Situation {
    pub(super) dialect: Dialect,
    /// The peer can be heard: it may send, and is read from.
    pub(super) listening: bool,
    pub(super) idle: bool,
    /// Bytes of the frame at the front of the input.
    pub(super) frame_bytes: usize,
    /// The TLS handshake is under way.
    pub(super) handshaking: bool,
    /// All has been said, and nothing is expected of the peer but that it closes.
    pub(super) lingering: bool,
}

/// What is due.
#[derive(Debug)]
pub(super) enum Due {
    Nothing,
    /// A ping with this number.
    Ping(u64),
    /// The connection has been idle for too long.
    Idle,
    Close(ConnectionError),
}

impl Timeouts {
    pub(super) fn new(now: Instant) -> Timeouts {
        Timeouts {
            opened: now,
            heard: now,
            asked: None,
            next_ping: FIRST_PING,
            frame: None,
            visit: None,
            idle_since: now,
        }
    }

    /// The peer gave a sign of life. `true`: it was asked for one, so the next question may be due
    /// before the alarm that is set for the answer.
    #[must_use]
    pub(super) fn heard(&mut self, now: Instant) -> bool {
        self.heard = now;
        self.asked.take().is_some()
    }

    /// The connection reads again. What did not come meanwhile is not the peer's fault. `true`: see
    /// [`heard`](Timeouts::heard).
    #[must_use]
    pub(super) fn resumed(&mut self, now: Instant) -> bool {
        let answered = self.heard(now);
        self.idle_since = now;
        if let Some((since, _)) = &mut self.frame {
            *since = now;
        }
        answered
    }

    /// The last call was answered.
    pub(super) fn idle(&mut self, now: Instant) {
        self.idle_since = now;
    }

    /// The frame at the front of the input was whole.
    pub(super) fn no_frame(&mut self) {
        self.frame = None;
    }

    /// The input ends within a frame. `true`: that is news.
    pub(super) fn frame_begun(&mut self, now: Instant, bytes: usize) -> bool {
        let news = self.frame.is_none();
        if news {
            self.frame = Some((now, bytes));
        }
        news
    }

    /// The peer speaks HTTP.
    pub(super) fn http_begun(&mut self, arrived: Instant) {
        let since = self.frame.take().map_or(arrived, |(since, _)| since);
        self.visit = Some(since);
    }

    /// When a visitor of the status pages must have its answer.
    fn visit_ends(&self, options: &ServeOptions) -> Option<Instant> {
        later(self.visit?, Some(options.frame_timeout))
    }

    /// Says what is due. Call it until nothing is.
    pub(super) fn due(
        &mut self,
        now: Instant,
        situation: Situation,
        options: &ServeOptions,
    ) -> Due {
        let passed = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        if situation.lingering {
            return Due::Nothing;
        }
        if passed(self.visit_ends(options)) {
            return Due::Close(ConnectionError::SlowVisitor);
        }
        if situation.handshaking && passed(later(self.opened, Some(options.handshake_timeout))) {
            return Due::Close(ConnectionError::NoHandshake);
        }
        if !situation.listening {
            // Nothing can be heard, so silence means nothing.
            let _ = self.resumed(now);
            return Due::Nothing;
        }
        if situation.dialect == Dialect::Unknown
            && passed(later(self.opened, options.first_request_timeout))
        {
            return Due::Close(ConnectionError::NoRequest);
        }
        if let Some((since, bytes)) = self.frame
            && passed(later(since, Some(options.frame_timeout)))
        {
            let came = situation.frame_bytes.saturating_sub(bytes);
            let expected = (now - since).as_millis() * FRAME_BYTES_PER_SECOND / 1000;
            if (came as u128) < expected {
                return Due::Close(ConnectionError::SlowSender);
            }
            self.frame = Some((now, situation.frame_bytes));
        }
        if situation.dialect != Dialect::Framed {
            return Due::Nothing;
        }
        match self.asked {
            Some(asked) if passed(options.keepalive.give_up_at(asked)) => {
                return Due::Close(ConnectionError::NoPong);
            }
            None if passed(options.keepalive.ask_at(self.heard)) => {
                self.asked = Some(now);
                let ping = self.next_ping;
                self.next_ping = ping.checked_add(1).unwrap_or(FIRST_PING);
                return Due::Ping(ping);
            }
            Some(_) | None => {}
        }
        if situation.idle && passed(later(self.idle_since, options.idle_timeout)) {
            self.idle_since = now;
            return Due::Idle;
        }
        Due::Nothing
    }

    /// When something may be due next: later than `now`, once [`due`](Timeouts::due) has said that
    /// nothing is.
    pub(super) fn next(&self, situation: Situation, options: &ServeOptions) -> Option<Instant> {
        if situation.lingering {
            return None;
        }
        let framed = situation.dialect == Dialect::Framed;
        let handshake = situation.handshaking.then_some(options.handshake_timeout);
        let handshake = later(self.opened, handshake);
        let first_request = match situation.dialect {
            Dialect::Unknown if situation.listening => {
                later(self.opened, options.first_request_timeout)
            }
            _ => None,
        };
        let frame = self
            .frame
            .and_then(|(since, _)| later(since, Some(options.frame_timeout)));
        let life = match self.asked {
            _ if !framed => None,
            Some(asked) => options.keepalive.give_up_at(asked),
            None => options.keepalive.ask_at(self.heard),
        };
        let idle = match options.idle_timeout {
            Some(timeout) if framed && situation.idle => later(self.idle_since, Some(timeout)),
            _ => None,
        };
        let visit = self.visit_ends(options);
        let times = [handshake, first_request, frame, life, idle, visit];
        times.into_iter().flatten().min()
    }
}

fn later(since: Instant, timeout: Option<Duration>) -> Option<Instant> {
    since.checked_add(timeout?)
}

impl Connection {
    fn situation(&self) -> Situation {
        Situation {
            dialect: self.dialect,
            listening: self.phase.reads_requests() && !self.paused && !self.read_closed,
            idle: self.in_flight == 0,
            frame_bytes: self.input.unread().len(),
            handshaking: self.stream.is_handshaking(),
            lingering: matches!(self.phase, Phase::Lingering { .. }),
        }
    }

    /// Sets the alarm to the earliest of all that the connection waits for.
    pub(super) fn set_alarm(&mut self, turn: &mut Turn<'_>) {
        let times = [
            self.phase_ends(self.now),
            self.path.book.next_deadline(),
            self.timeouts.next(self.situation(), &self.server.options),
        ];
        if let Some(at) = times.into_iter().flatten().min() {
            turn.alarm_by(at.min(self.now + WAIT_MAX));
        }
    }

    /// The alarm rings.
    pub(super) fn ring(&mut self, turn: &mut Turn<'_>) -> Next {
        let now = Instant::now();
        self.now = now;
        self.path.book.expire(now);
        if self.ring_phase(now, turn) == Next::Close {
            return Next::Close;
        }
        let situation = self.situation();
        if situation.idle {
            self.give_memory_back();
        }
        // Asked in every phase: what is due and not taken would be due for ever.
        match self.timeouts.due(now, situation, &self.server.options) {
            Due::Ping(number) => self.path.send_control(ReplyKind::Ping, number),
            Due::Idle if self.phase == Phase::Open => {
                tracing::debug!(peer = %self.peer, "connection has been idle and is closed");
                if self.drain(now + IDLE_DRAIN, DrainCause::Idle, turn) == Next::Close {
                    return Next::Close;
                }
            }
            Due::Nothing | Due::Idle => {}
            Due::Close(error) => return self.refuse(&error, turn),
        }
        self.set_alarm(turn);
        Next::Keep
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keepalive::Keepalive;
    use crate::wire::Limits;

    const FRAMED: Situation = Situation {
        dialect: Dialect::Framed,
        listening: true,
        idle: false,
        frame_bytes: 0,
        handshaking: false,
        lingering: false,
    };

    fn options() -> ServeOptions {
        ServeOptions {
            limits: Limits::default(),
            interceptors: [].into(),
            keepalive: Keepalive::default(),
            idle_timeout: None,
            first_request_timeout: None,
            frame_timeout: Duration::from_secs(30),
            status_pages: false,
            tls: None,
            handshake_timeout: Duration::from_secs(10),
            stream_stall_timeout: Duration::from_mins(5),
        }
    }

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_quiet_framed_peer_is_asked_once_and_then_given_up() {
        let (start, options) = (Instant::now(), options());
        let mut timeouts = Timeouts::new(start);
        let mut due = |at| timeouts.due(start + seconds(at), FRAMED, &options);
        assert!(matches!(due(59), Due::Nothing));
        assert!(matches!(due(60), Due::Ping(FIRST_PING)));
        assert!(matches!(due(79), Due::Nothing));
        assert!(matches!(due(80), Due::Close(ConnectionError::NoPong)));
        assert!(timeouts.heard(start + seconds(80)), "it was asked");
        assert!(!timeouts.heard(start + seconds(80)), "only once");
        let mut due = |at| timeouts.due(start + seconds(at), FRAMED, &options);
        assert!(matches!(due(139), Due::Nothing));
        assert!(matches!(due(140), Due::Ping(number) if number == FIRST_PING + 1));
    }

    #[test]
    fn nobody_is_asked_who_could_not_be_heard_or_would_not_understand() {
        let (start, options) = (Instant::now(), options());
        for situation in [
            Situation {
                listening: false,
                ..FRAMED
            },
            Situation {
                dialect: Dialect::Legacy,
                ..FRAMED
            },
            Situation {
                dialect: Dialect::Unknown,
                ..FRAMED
            },
        ] {
            let mut timeouts = Timeouts::new(start);
            for at in (0..10_000).step_by(100) {
                let due = timeouts.due(start + seconds(at), situation, &options);
                assert!(matches!(due, Due::Nothing), "{due:?} in {situation:?}");
            }
        }
    }

    #[test]
    fn a_frame_may_take_long_if_it_comes_fast_enough() {
        let (start, options) = (Instant::now(), options());
        let mut timeouts = Timeouts::new(start);
        assert!(timeouts.frame_begun(start, 10));
        assert!(!timeouts.frame_begun(start, 20), "it is the same");
        let mut due = |at, frame_bytes| {
            let situation = Situation {
                frame_bytes,
                dialect: Dialect::Legacy,
                ..FRAMED
            };
            timeouts.due(start + seconds(at), situation, &options)
        };
        assert!(matches!(due(29, 10), Due::Nothing));
        assert!(matches!(due(30, 3_010), Due::Nothing));
        assert!(matches!(due(59, 3_010), Due::Nothing));
        assert!(matches!(
            due(60, 6_009),
            Due::Close(ConnectionError::SlowSender)
        ));
        timeouts.no_frame();
        let due = timeouts.due(start + seconds(90), FRAMED, &options);
        assert!(matches!(due, Due::Ping(_)));
    }

    #[test]
    fn a_handshake_has_its_time_and_silence_after_it_counts_for_nothing() {
        let (start, options) = (Instant::now(), options());
        let mut timeouts = Timeouts::new(start);
        let handshaking = Situation {
            dialect: Dialect::Unknown,
            listening: false,
            handshaking: true,
            ..FRAMED
        };
        let next = timeouts.next(handshaking, &options);
        assert_eq!(next, Some(start + seconds(10)));
        let mut due = |at, situation| timeouts.due(start + seconds(at), situation, &options);
        assert!(matches!(due(9, handshaking), Due::Nothing));
        let over = Situation {
            handshaking: false,
            ..handshaking
        };
        assert!(matches!(due(1_000, over), Due::Nothing));
        assert!(matches!(
            due(10, handshaking),
            Due::Close(ConnectionError::NoHandshake)
        ));
    }

    /// A connection that ends may have a slow frame, an unanswered ping, a slow visitor or a
    /// handshake behind it, for which it would be closed if it went on.
    #[test]
    fn when_all_has_been_said_only_the_linger_itself_is_waited_for() {
        type Begin = fn(&mut Timeouts, Instant);
        let start = Instant::now();
        let options = ServeOptions {
            idle_timeout: Some(seconds(60)),
            first_request_timeout: Some(seconds(60)),
            ..options()
        };
        let begun: [(&str, Begin, Situation); 6] = [
            ("a frame", |it, at| assert!(it.frame_begun(at, 1)), FRAMED),
            ("life", |it, at| assert!(!it.heard(at)), FRAMED),
            (
                "idleness",
                |it, at| it.idle(at),
                Situation {
                    idle: true,
                    ..FRAMED
                },
            ),
            (
                "a visit",
                |it, at| it.http_begun(at),
                Situation {
                    dialect: Dialect::Http,
                    ..FRAMED
                },
            ),
            (
                "a first request",
                |_, _| {},
                Situation {
                    dialect: Dialect::Unknown,
                    ..FRAMED
                },
            ),
            (
                "a handshake",
                |_, _| {},
                Situation {
                    dialect: Dialect::Unknown,
                    handshaking: true,
                    ..FRAMED
                },
            ),
        ];
        for (what, begin, situation) in begun {
            let mut timeouts = Timeouts::new(start);
            begin(&mut timeouts, start);
            assert!(timeouts.next(situation, &options).is_some(), "{what}");
            let situation = Situation {
                lingering: true,
                ..situation
            };
            let due = timeouts.due(start + seconds(60), situation, &options);
            assert!(matches!(due, Due::Nothing), "{what}: {due:?}");
            assert_eq!(timeouts.next(situation, &options), None, "{what}");
        }
    }

    /// A provider that drains need not wait for a visitor for longer than otherwise.
    #[test]
    fn a_slow_visitor_is_closed_also_when_nothing_is_read_any_more() {
        let (start, options) = (Instant::now(), options());
        let mut timeouts = Timeouts::new(start);
        timeouts.http_begun(start);
        let finishing = Situation {
            dialect: Dialect::Http,
            listening: false,
            ..FRAMED
        };
        let next = timeouts.next(finishing, &options);
        assert_eq!(next, Some(start + seconds(30)));
        let due = timeouts.due(start + seconds(30), finishing, &options);
        assert!(
            matches!(due, Due::Close(ConnectionError::SlowVisitor)),
            "{due:?}"
        );
    }

    /// An alarm that is set to the past would ring for ever.
    #[test]
    fn what_is_due_next_is_never_due_already() {
        let seed = fastrand::u64(..);
        println!("seed {seed}");
        let mut random = fastrand::Rng::with_seed(seed);
        for _ in 0..2_000 {
            let some = |random: &mut fastrand::Rng| random.bool().then(|| seconds(7));
            let options = ServeOptions {
                idle_timeout: some(&mut random),
                first_request_timeout: some(&mut random),
                ..options()
            };
            let mut now = Instant::now();
            let mut timeouts = Timeouts::new(now);
            for _ in 0..30 {
                now += seconds(random.u64(0..40));
                match random.u8(0..6) {
                    0 => drop(timeouts.heard(now)),
                    1 => timeouts.idle(now),
                    2 => drop(timeouts.frame_begun(now, 5)),
                    3 => timeouts.no_frame(),
                    4 => timeouts.http_begun(now),
                    _ => {}
                }
                let situation = Situation {
                    dialect: *random
                        .choice(&[Dialect::Unknown, Dialect::Framed, Dialect::Legacy])
                        .expect("there are three"),
                    listening: random.bool(),
                    idle: random.bool(),
                    frame_bytes: random.usize(0..10_000),
                    handshaking: random.bool(),
                    lingering: random.bool(),
                };
                match timeouts.due(now, situation, &options) {
                    Due::Nothing => {}
                    // One thing at a time: the alarm rings again for the next.
                    Due::Ping(_) | Due::Idle => continue,
                    Due::Close(_) => break,
                }
                if let Some(next) = timeouts.next(situation, &options) {
                    assert!(next > now, "{timeouts:?} in {situation:?}");
                }
            }
        }
    }
}
