//! One call's way through the cluster: whom to ask next, how long to wait, when to give up.
//!
//! ```text
//!          .--> ask the best node not yet asked in this round --reply--> done
//!          |        | not leader, no reply                |
//!          |        v                                     | overloaded
//!          |    one left, or a new hint? --yes--> ask it  |
//!          |        | no: the round is over               |
//!          |        v                                     v
//!          '----- pause (backoff, jitter) <---------- pause, same node again
//! ```
//!
//! A read that any node may answer asks another one after that pause instead of the overloaded one.
//!
//! All under one deadline. Nothing here reads a clock or sends anything.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::backoff::Backoff;
use super::nodes::Nodes;
use crate::error::{ClerkError, LastFailure};

/// Nodes asked within a round beyond the number of configured ones, because others named them:
/// nodes that keep naming others must not keep a call running without a pause.
const HINTED_PER_ROUND_MAX: usize = 4;

/// An attempt is not worth its bytes with less time left than this.
const ATTEMPT_MIN: Duration = Duration::from_millis(1);

/// Where one call stands.
#[derive(Debug)]
pub(super) struct Pursuit {
    pace: Pace,
    timeout: Duration,
    deadline: Instant,
    /// After what any node may answer.
    anywhere: bool,
    /// Asked in vain in this round. At most all configured nodes and [`HINTED_PER_ROUND_MAX`].
    tried: Vec<SocketAddr>,
    /// Refused for overload: it is asked again after the pause, not another node. Never set where any
    /// node may answer.
    busy: Option<SocketAddr>,
    /// Pauses so far.
    pauses: u32,
    /// Attempts that ended without any word from the node.
    silences: u32,
    attempts: u64,
    /// An attempt may have reached a leader's log.
    unknown: bool,
    /// The last failure was a refusal for overload.
    overloaded: bool,
    last: Option<LastFailure>,
}

/// How patiently nodes are asked; see [`ClerkOptions`](crate::ClerkOptions).
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    pub(super) attempt_timeout: Duration,
    pub(super) backoff: Backoff,
}

/// How an attempt failed in a way that another attempt may mend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// The node does not lead. `hint`: its idea of who does, as it came from the wire.
    NotLeader { hint: String },
    /// The node, or our connection to it, has too much to do.
    Busy { text: String },
    /// No reply, or none that makes sense.
    NoReply { text: String, timed_out: bool },
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Ask that node; an attempt takes no longer than `timeout`.
    Ask { addr: SocketAddr, timeout: Duration },
    /// Come back at that time for the next step.
    Pause(Instant),
    /// The deadline leaves no room for another attempt: [`Pursuit::error`] says how it ended.
    GiveUp,
}

impl Pursuit {
    pub(super) fn new(pace: Pace, timeout: Duration, now: Instant) -> Self {
        Self {
            pace,
            timeout,
            deadline: now + timeout,
            anywhere: false,
            tried: Vec::new(),
            busy: None,
            pauses: 0,
            silences: 0,
            attempts: 0,
            unknown: false,
            overloaded: false,
            last: None,
        }
    }

    /// The same way, through all nodes alike.
    pub(super) fn anywhere(self) -> Self {
        Self {
            anywhere: true,
            ..self
        }
    }

    pub(super) fn timeout(&self) -> Duration {
        self.timeout
    }

    pub(super) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Moves the deadline: somebody can wait longer for what this call is after.
    pub(super) fn set_deadline(&mut self, deadline: Instant) {
        self.deadline = deadline;
    }

    /// How many times a node was asked.
    pub(super) fn attempts(&self) -> u64 {
        self.attempts
    }

    pub(super) fn last(&self) -> Option<&LastFailure> {
        self.last.as_ref()
    }

    /// Whom to ask now: at the start, and after each pause.
    pub(super) fn ask(&mut self, nodes: &Nodes, now: Instant) -> Step {
        let left = self.deadline.saturating_duration_since(now);
        if left < ATTEMPT_MIN {
            return Step::GiveUp;
        }
        let next = self.busy.take().or_else(|| self.best(nodes));
        let addr = next.expect("failed() ends the round when no node is left to ask in it");
        self.attempts += 1;
        let patience = 1_u32.checked_shl(self.silences).unwrap_or(u32::MAX);
        let timeout = self.pace.attempt_timeout.saturating_mul(patience).min(left);
        Step::Ask { addr, timeout }
    }

    /// The attempt at `addr` failed, and may have changed the state of the store or not. Also tells
    /// all other calls, through `nodes`, what that means.
    pub(super) fn failed(
        &mut self,
        addr: SocketAddr,
        failure: Failure,
        may_have_executed: bool,
        nodes: &mut Nodes,
        random: &mut fastrand::Rng,
        now: Instant,
    ) -> Step {
        self.unknown |= may_have_executed;
        self.overloaded = matches!(failure, Failure::Busy { .. });
        let (text, round_is_over) = match failure {
            Failure::Busy { text } => {
                // A pause in any case: where one is busy, the others may soon be.
                if self.anywhere {
                    nodes.does_not_read(addr);
                } else {
                    self.busy = Some(addr);
                }
                (text, true)
            }
            Failure::NotLeader { hint } => {
                self.tried_in_vain(addr, nodes);
                let text = self.take_hint(&hint, nodes);
                (text, self.no_node_left(nodes))
            }
            Failure::NoReply { text, timed_out } => {
                self.tried_in_vain(addr, nodes);
                self.silences += u32::from(timed_out);
                (text, self.no_node_left(nodes))
            }
        };
        self.last = Some(LastFailure {
            by: Some(nodes.name(addr)),
            text,
        });
        if round_is_over {
            self.pause(random, now)
        } else {
            self.ask(nodes, now)
        }
    }

    /// How the call ends when there is no time for another attempt.
    pub(super) fn error(&self, nodes: &Nodes) -> ClerkError {
        let none_asked = || LastFailure {
            by: None,
            text: "no node was asked".to_owned(),
        };
        let last = self.last.clone().unwrap_or_else(none_asked);
        if self.unknown {
            ClerkError::OutcomeUnknown {
                within: self.timeout,
                last,
            }
        } else if self.overloaded {
            ClerkError::Overloaded {
                what: last.to_string(),
            }
        } else {
            ClerkError::NoLeader {
                nodes: nodes.count(),
                within: self.timeout,
                last,
            }
        }
    }

    /// How the call ends when the node at `addr` refuses it for good.
    pub(super) fn refused(
        &self,
        addr: SocketAddr,
        text: String,
        may_have_executed: bool,
        nodes: &Nodes,
    ) -> ClerkError {
        let by = nodes.name(addr);
        if self.unknown || may_have_executed {
            let last = LastFailure { by: Some(by), text };
            ClerkError::OutcomeUnknown {
                within: self.timeout,
                last,
            }
        } else {
            ClerkError::Refused { by, text }
        }
    }

    /// How the write ends when its session is gone; `None` if it may begin anew in another one,
    /// because it was certainly never done in this one.
    pub(super) fn session_expired(
        &mut self,
        addr: SocketAddr,
        nodes: &Nodes,
    ) -> Option<ClerkError> {
        // Until there is another session, whoever was asked in vain may have come to lead.
        self.tried.clear();
        self.busy = None;
        self.unknown.then(|| ClerkError::SessionExpired {
            by: nodes.name(addr),
        })
    }

    fn best(&self, nodes: &Nodes) -> Option<SocketAddr> {
        if self.anywhere {
            nodes.best_reader(&self.tried)
        } else {
            nodes.best(&self.tried)
        }
    }

    fn tried_in_vain(&mut self, addr: SocketAddr, nodes: &mut Nodes) {
        if self.anywhere {
            nodes.does_not_read(addr);
        } else {
            nodes.does_not_lead(addr);
        }
        if !self.tried.contains(&addr) {
            self.tried.push(addr);
        }
    }

    /// Follows a hint, unless it is garbage or was asked in this round already: followers go on
    /// naming a dead leader until they elect another.
    fn take_hint(&mut self, hint: &str, nodes: &mut Nodes) -> String {
        let Ok(named) = hint.parse::<SocketAddr>() else {
            return "not the leader, and it knows of none".to_owned();
        };
        if !self.anywhere && !self.tried.contains(&named) {
            nodes.hinted(named); // which makes it the best one to ask, if nothing better is known
        }
        format!("not the leader; it names {named}")
    }

    fn no_node_left(&self, nodes: &Nodes) -> bool {
        self.best(nodes).is_none() || self.tried.len() >= nodes.count() + HINTED_PER_ROUND_MAX
    }

    /// A new round, after a pause.
    fn pause(&mut self, random: &mut fastrand::Rng, now: Instant) -> Step {
        self.tried.clear();
        let ends = now + self.pace.backoff.delay(self.pauses, random);
        self.pauses += 1;
        if ends < self.deadline {
            Step::Pause(ends)
        } else {
            Step::GiveUp
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACE: Pace = Pace {
        attempt_timeout: Duration::from_secs(1),
        backoff: Backoff {
            min: Duration::from_millis(5),
            max: Duration::from_millis(200),
        },
    };

    fn addr(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    fn refused() -> Failure {
        let text = "connection refused".to_owned();
        Failure::NoReply {
            text,
            timed_out: false,
        }
    }

    fn silent() -> Failure {
        let text = "no reply".to_owned();
        Failure::NoReply {
            text,
            timed_out: true,
        }
    }

    fn follower(hint: &str) -> Failure {
        Failure::NotLeader {
            hint: hint.to_owned(),
        }
    }

    /// Three nodes at ports 1, 2, 3, tried in that order; time is moved by hand.
    struct World {
        nodes: Nodes,
        random: fastrand::Rng,
        now: Instant,
        call: Pursuit,
    }

    impl World {
        fn new() -> Self {
            let now = Instant::now();
            Self {
                nodes: Nodes::new(&[addr(1), addr(2), addr(3)], 0),
                random: fastrand::Rng::with_seed(7),
                now,
                call: Pursuit::new(PACE, Duration::from_secs(10), now),
            }
        }

        fn ask(&mut self) -> Step {
            self.call.ask(&self.nodes, self.now)
        }

        /// A node that said nothing may have executed the request.
        fn failed(&mut self, port: u16, failure: Failure) -> Step {
            let (nodes, random) = (&mut self.nodes, &mut self.random);
            let unknown = failure == silent();
            self.call
                .failed(addr(port), failure, unknown, nodes, random, self.now)
        }
    }

    #[track_caller]
    fn asked(step: &Step) -> u16 {
        match step {
            Step::Ask { addr, .. } => addr.port(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_round_asks_each_node_once_without_a_pause_and_then_pauses() {
        let mut world = World::new();
        assert_eq!(asked(&world.ask()), 1);
        assert_eq!(asked(&world.failed(1, refused())), 2);
        assert_eq!(asked(&world.failed(2, follower(""))), 3);
        let Step::Pause(ends) = world.failed(3, refused()) else {
            panic!("no pause")
        };
        assert!(ends > world.now && ends <= world.now + Duration::from_millis(5));
        world.now = ends;
        asked(&world.ask());
        assert_eq!(world.call.attempts(), 4);
    }

    #[test]
    fn a_hint_is_followed_at_once_and_remembered_for_other_calls() {
        let mut world = World::new();
        world.ask();
        assert_eq!(asked(&world.failed(1, follower("127.0.0.1:3"))), 3);
        assert_eq!(world.nodes.best(&[]), Some(addr(3)));
    }

    #[test]
    fn a_hint_at_a_node_that_has_just_failed_is_not_followed() {
        let mut world = World::new();
        world.ask();
        world.failed(1, refused());
        assert_eq!(asked(&world.failed(2, follower("127.0.0.1:1"))), 3);
        assert!(matches!(
            world.failed(3, follower("127.0.0.1:1")),
            Step::Pause(_)
        ));
    }

    #[test]
    fn a_garbage_hint_counts_as_none() {
        let mut world = World::new();
        world.ask();
        assert_eq!(
            asked(&world.failed(1, follower("localhost:\u{0}:99999"))),
            2
        );
    }

    #[test]
    fn nodes_that_name_ever_new_leaders_end_the_round_all_the_same() {
        let mut world = World::new();
        let mut step = world.ask();
        let mut asked_count = 0;
        while let Step::Ask { addr, .. } = step {
            asked_count += 1;
            step = world.failed(
                addr.port(),
                follower(&format!("127.0.0.1:{}", 100 + asked_count)),
            );
        }
        assert!(matches!(step, Step::Pause(_)));
        assert_eq!(asked_count, 3 + HINTED_PER_ROUND_MAX);
    }

    /// Failure 125: a paused leader holds a call up for one attempt; and a slow one is
    /// not flooded with the same request.
    #[test]
    fn a_silent_node_is_left_after_one_attempt_and_given_more_time_on_the_next() {
        let mut world = World::new();
        let timeout = |step| match step {
            Step::Ask { timeout, .. } => timeout,
            other => panic!("{other:?}"),
        };
        assert_eq!(timeout(world.ask()), Duration::from_secs(1));
        world.now += Duration::from_secs(1);
        let next = world.failed(1, silent());
        assert_eq!(asked(&next), 2);
        assert_eq!(timeout(next), Duration::from_secs(2));
        world.now += Duration::from_millis(8500);
        let left = Duration::from_millis(500);
        assert_eq!(
            timeout(world.failed(2, silent())),
            left,
            "never past the deadline"
        );
        world.now += left;
        assert_eq!(world.failed(3, silent()), Step::GiveUp);
    }

    #[test]
    fn an_overloaded_node_is_asked_again_itself_after_a_pause() {
        let mut world = World::new();
        world.ask();
        let busy = Failure::Busy {
            text: "inbox full".to_owned(),
        };
        let Step::Pause(ends) = world.failed(1, busy) else {
            panic!("no pause")
        };
        world.now = ends;
        world.nodes.leads(addr(2));
        assert_eq!(asked(&world.ask()), 1);
    }

    /// A follower may refuse reads for as long as it lags, beside others that would answer.
    #[test]
    fn after_an_overloaded_node_a_read_that_any_may_answer_goes_to_another_after_a_pause() {
        let mut world = World::new();
        world.call = world.call.anywhere();
        let mut port = asked(&world.ask());
        for next in [2, 3, 1] {
            let busy = Failure::Busy {
                text: "too many reads wait".to_owned(),
            };
            let Step::Pause(ends) = world.failed(port, busy) else {
                panic!("no pause")
            };
            world.now = ends;
            port = asked(&world.ask());
            assert_eq!(port, next);
            assert_eq!(
                world.nodes.best_reader(&[]),
                Some(addr(next)),
                "other reads too"
            );
        }
    }

    #[test]
    fn pauses_grow_but_stay_bounded_and_the_deadline_ends_them() {
        let mut world = World::new();
        let deadline = world.call.deadline();
        let mut longest = Duration::ZERO;
        let mut step = world.ask();
        loop {
            step = match step {
                Step::Ask { addr, .. } => world.failed(addr.port(), refused()),
                Step::Pause(ends) => {
                    longest = longest.max(ends - world.now);
                    world.now = ends;
                    world.ask()
                }
                Step::GiveUp => break,
            };
        }
        assert!(world.now < deadline && longest <= PACE.backoff.max);
        assert!(longest > PACE.backoff.max / 2, "{longest:?}");
        assert!(
            world.call.attempts() < 400,
            "a storm: {}",
            world.call.attempts()
        );
    }

    /// Failure 124: what may have reached a log is unknown, whatever came after it.
    #[test]
    fn the_error_tells_certainly_not_done_from_unknown() {
        let mut world = World::new();
        world.ask();
        world.failed(1, refused());
        world.failed(2, follower(""));
        assert!(!world.call.error(&world.nodes).may_have_taken_effect());
        let refusal = |world: &World, may_have_executed| {
            let (text, nodes) = ("too large".to_owned(), &world.nodes);
            world.call.refused(addr(2), text, may_have_executed, nodes)
        };
        assert!(!refusal(&world, false).may_have_taken_effect());
        assert!(refusal(&world, true).may_have_taken_effect());
        world.failed(3, silent());
        world.failed(1, refused());
        assert!(world.call.error(&world.nodes).may_have_taken_effect());
        assert!(refusal(&world, false).may_have_taken_effect());
    }

    /// Only a write that was certainly not done may begin anew in another session.
    #[test]
    fn an_expired_session_makes_only_a_tried_write_unknown() {
        let mut world = World::new();
        world.ask();
        assert_eq!(world.call.session_expired(addr(1), &world.nodes), None);
        world.failed(1, silent());
        let error = world.call.session_expired(addr(2), &world.nodes).unwrap();
        assert!(error.may_have_taken_effect());
    }

    /// It waits for another session meanwhile, and whoever it asked in vain may come to lead.
    #[test]
    fn an_expired_session_begins_another_round() {
        let mut world = World::new();
        world.nodes = Nodes::new(&[addr(1), addr(2)], 0);
        assert_eq!(asked(&world.ask()), 1);
        assert_eq!(asked(&world.failed(1, follower(""))), 2);
        assert_eq!(asked(&world.failed(2, follower("127.0.0.1:3"))), 3);
        assert_eq!(world.call.session_expired(addr(3), &world.nodes), None);
        world.nodes.does_not_lead(addr(3));
        world.nodes.leads(addr(1));
        assert_eq!(asked(&world.ask()), 1);
    }
}
