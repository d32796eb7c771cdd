//! The session under which writes are recognised when they are repeated (thesis §6.3).
//!
//! ```text
//! write --admit--> session open and room in its window? --yes--> a Place: (session, request id)
//!                         | no                                        |  kept across retries
//!                         v                                           v
//!                   waiting room  <----admitted in order----  finish(place)
//! ```
//!
//! The cluster keeps the reply of every request of a session that may be asked again. Each request
//! carries `seen_up_to`, below which nothing will be; the window bounds the rest.

use std::collections::VecDeque;
use std::time::Instant;

/// A write's name in the cluster. It keeps it for as long as it is retried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) session: u64,
    /// 1, 2, 3...
    pub(super) request: u64,
}

/// Gives every write its [`Place`]. `W` is whatever the caller needs to go on with a write; at most
/// as many wait as the clerk admits calls at all.
#[derive(Debug)]
pub(super) struct Sessions<W> {
    state: State,
    /// In order of arrival. Empty whenever a write could be admitted.
    waiting: VecDeque<Waiting<W>>,
    /// When the caller will ask for the overdue ones; never after the first deadline in `waiting`.
    watched: Option<Instant>,
    window: usize,
}

#[derive(Debug)]
enum State {
    None,
    Opening,
    Open(Window),
}

#[derive(Debug)]
struct Waiting<W> {
    deadline: Instant,
    write: W,
}

/// What a write has to do next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Admission<W> {
    /// Go to the cluster under this name.
    Go(W, Place),
    /// It waits here. `open`: the caller must have a session opened. `watch`: the caller must ask
    /// for [`Sessions::overdue`] writes then.
    Waits { open: bool, watch: Option<Instant> },
}

/// Why a write waited in vain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WaitedFor {
    /// No session could be opened in time.
    Session,
    /// The window stayed full.
    Room,
}

impl<W> Sessions<W> {
    pub(super) fn new(window: usize) -> Self {
        assert!(window > 0, "a window without room admits nothing, ever");
        Self {
            state: State::None,
            waiting: VecDeque::new(),
            watched: None,
            window,
        }
    }

    /// Admits a write, or keeps it until there is a session with room for it.
    pub(super) fn admit(&mut self, write: W, deadline: Instant) -> Admission<W> {
        if let State::Open(window) = &mut self.state
            && let Some(place) = window.take(self.window)
        {
            return Admission::Go(write, place);
        }
        self.waiting.push_back(Waiting { deadline, write });
        let sooner = self.watched.is_none_or(|watched| deadline < watched);
        if sooner {
            self.watched = Some(deadline);
        }
        Admission::Waits {
            open: self.must_open(),
            watch: sooner.then_some(deadline),
        }
    }

    /// The cluster opened a session; the writes that wait for it go, as far as there is room.
    pub(super) fn opened(&mut self, session: u64) -> Vec<(W, Place)> {
        assert!(
            matches!(self.state, State::Opening),
            "one opening at a time"
        );
        self.state = State::Open(Window::new(session));
        self.admit_waiting()
    }

    /// When the last of the waiting writes gives up, and with it the opening of a session.
    pub(super) fn last_deadline(&self) -> Option<Instant> {
        self.waiting.iter().map(|waiting| waiting.deadline).max()
    }

    /// No session could be opened by `deadline`: the writes that waited for one come back.
    ///
    /// # Errors
    /// The opening must go on until the deadline returned: a write that can wait longer has come.
    pub(super) fn give_up_opening(&mut self, deadline: Instant) -> Result<Vec<W>, Instant> {
        match self.last_deadline() {
            Some(last) if last > deadline => Err(last),
            _ => Ok(self.opening_failed()),
        }
    }

    /// No session can be opened, however long one tries. The writes that wait for one come back.
    pub(super) fn opening_failed(&mut self) -> Vec<W> {
        assert!(
            matches!(self.state, State::Opening),
            "one opening at a time"
        );
        self.state = State::None;
        self.waiting
            .drain(..)
            .map(|waiting| waiting.write)
            .collect()
    }

    /// Takes out the writes that have waited for too long: they were never sent. Returns also what
    /// they waited for and when to ask again.
    ///
    /// Before the watched time there is nothing to take out, and somebody else will come then: the
    /// caller need not come again.
    pub(super) fn overdue(&mut self, now: Instant) -> (Vec<W>, WaitedFor, Option<Instant>) {
        let waited_for = match self.state {
            State::Open(_) => WaitedFor::Room,
            State::None | State::Opening => WaitedFor::Session,
        };
        if self.watched.is_some_and(|watched| watched > now) {
            return (Vec::new(), waited_for, None);
        }
        let all = std::mem::take(&mut self.waiting);
        let (overdue, waiting): (VecDeque<_>, _) =
            all.into_iter().partition(|one| one.deadline <= now);
        self.waiting = waiting;
        self.watched = self.waiting.iter().map(|waiting| waiting.deadline).min();
        (
            overdue.into_iter().map(|one| one.write).collect(),
            waited_for,
            self.watched,
        )
    }

    /// What the request at `place` tells the cluster: every request up to this one has its final
    /// outcome and will not be asked again. Below `place.request` itself, since that one has not.
    pub(super) fn seen_up_to(&self, place: Place) -> u64 {
        match &self.state {
            State::Open(window) if window.session == place.session => window.seen_up_to,
            _ => 0,
        }
    }

    /// The write at `place` has its final outcome, known or not: it will never be sent again.
    /// Returns the writes that there is room for now.
    pub(super) fn finish(&mut self, place: Place) -> Vec<(W, Place)> {
        match &mut self.state {
            State::Open(window) if window.session == place.session => {
                window.finish(place.request);
                self.admit_waiting()
            }
            _ => Vec::new(), // of a session that is gone
        }
    }

    /// The cluster no longer knows `session`. Returns whether a new one must be opened at once,
    /// because writes wait for it; otherwise the next write asks for it.
    pub(super) fn expired(&mut self, session: u64) -> bool {
        if matches!(&self.state, State::Open(window) if window.session == session) {
            self.state = State::None;
        }
        !self.waiting.is_empty() && self.must_open()
    }

    fn must_open(&mut self) -> bool {
        let none = matches!(self.state, State::None);
        if none {
            self.state = State::Opening;
        }
        none
    }

    fn admit_waiting(&mut self) -> Vec<(W, Place)> {
        let mut admitted = Vec::new();
        if let State::Open(window) = &mut self.state {
            while !self.waiting.is_empty()
                && let Some(place) = window.take(self.window)
            {
                let next = self.waiting.pop_front().expect("checked not to be empty");
                admitted.push((next.write, place));
            }
        }
        admitted
    }
}

/// The requests of one session that may still be asked: `seen_up_to + 1 ..= seen_up_to + open.len()`.
///
/// Its length, not the number of unfinished requests in it, is held to the bound: it is what the
/// cluster must remember replies for. One slow request thus holds up the ones `window` after it.
#[derive(Debug)]
struct Window {
    session: u64,
    seen_up_to: u64,
    /// Whether each has its final outcome. The first has not.
    finished: VecDeque<bool>,
}

impl Window {
    fn new(session: u64) -> Self {
        Self {
            session,
            seen_up_to: 0,
            finished: VecDeque::new(),
        }
    }

    fn take(&mut self, window: usize) -> Option<Place> {
        if self.finished.len() >= window {
            return None;
        }
        self.finished.push_back(false);
        Some(Place {
            session: self.session,
            request: self.seen_up_to + self.finished.len() as u64,
        })
    }

    fn finish(&mut self, request: u64) {
        let place = request
            .checked_sub(self.seen_up_to + 1)
            .and_then(|at| usize::try_from(at).ok());
        let finished = place.and_then(|at| self.finished.get_mut(at));
        let finished = finished.expect("a place is given out once and finished once");
        assert!(!*finished, "request {request} finished twice");
        *finished = true;
        while self.finished.front() == Some(&true) {
            self.finished.pop_front();
            self.seen_up_to += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn open(window: usize) -> Sessions<char> {
        let mut sessions = Sessions::new(window);
        assert!(matches!(
            sessions.admit('0', far()),
            Admission::Waits { open: true, .. }
        ));
        assert_eq!(sessions.opened(7), [('0', place(1))]);
        sessions
    }

    fn place(request: u64) -> Place {
        Place {
            session: 7,
            request,
        }
    }

    fn far() -> Instant {
        Instant::now() + Duration::from_hours(1)
    }

    #[test]
    fn the_first_writes_wait_for_one_session_and_get_ids_in_order() {
        let mut sessions = Sessions::new(512);
        assert!(matches!(
            sessions.admit('a', far()),
            Admission::Waits { open: true, .. }
        ));
        assert!(matches!(
            sessions.admit('b', far()),
            Admission::Waits { open: false, .. }
        ));
        assert_eq!(sessions.opened(7), [('a', place(1)), ('b', place(2))]);
        assert_eq!(sessions.admit('c', far()), Admission::Go('c', place(3)));
    }

    #[test]
    fn seen_up_to_passes_a_request_only_when_all_before_it_are_finished() {
        let mut sessions = open(512);
        for write in ['b', 'c', 'd'] {
            sessions.admit(write, far());
        }
        sessions.finish(place(2));
        sessions.finish(place(3));
        assert_eq!(
            sessions.seen_up_to(place(4)),
            0,
            "request 1 may be asked again"
        );
        sessions.finish(place(1));
        assert_eq!(sessions.seen_up_to(place(4)), 3);
    }

    #[test]
    fn a_full_window_makes_writes_wait_and_lets_them_in_as_it_moves() {
        let mut sessions = open(2);
        assert_eq!(sessions.admit('b', far()), Admission::Go('b', place(2)));
        assert!(matches!(
            sessions.admit('c', far()),
            Admission::Waits { open: false, .. }
        ));
        assert_eq!(
            sessions.finish(place(2)),
            [],
            "request 1 still holds the window"
        );
        assert_eq!(sessions.finish(place(1)), [('c', place(3))]);
    }

    #[test]
    fn what_waits_for_too_long_comes_out_alone() {
        let mut sessions = Sessions::new(1);
        let now = Instant::now();
        let soon = now + Duration::from_secs(1);
        let far = far();
        let mut admit = |write, deadline| sessions.admit(write, deadline);
        assert_eq!(
            admit('a', far),
            Admission::Waits {
                open: true,
                watch: Some(far)
            }
        );
        assert_eq!(
            admit('b', soon),
            Admission::Waits {
                open: false,
                watch: Some(soon)
            }
        );
        assert_eq!(
            admit('c', soon),
            Admission::Waits {
                open: false,
                watch: None
            }
        );
        assert_eq!(
            sessions.overdue(now),
            (vec![], WaitedFor::Session, None),
            "too early: the one who watches comes later"
        );
        assert_eq!(
            sessions.overdue(soon),
            (vec!['b', 'c'], WaitedFor::Session, Some(far))
        );
        assert_eq!(
            sessions.overdue(soon),
            (vec![], WaitedFor::Session, None),
            "one watch is enough: each further one would beget another for ever"
        );
        assert_eq!(sessions.opened(7).len(), 1);
        sessions.admit('d', far);
        assert_eq!(sessions.overdue(far), (vec!['d'], WaitedFor::Room, None));
    }

    #[test]
    fn the_opening_lasts_as_long_as_the_most_patient_write() {
        let mut sessions = Sessions::new(1);
        let soon = Instant::now();
        let far = far();
        sessions.admit('a', soon);
        assert_eq!(sessions.last_deadline(), Some(soon));
        sessions.admit('b', far);
        assert_eq!(sessions.give_up_opening(soon), Err(far));
        assert_eq!(sessions.give_up_opening(far), Ok(vec!['a', 'b']));
        assert!(matches!(
            sessions.admit('c', far),
            Admission::Waits { open: true, .. }
        ));
    }

    #[test]
    fn an_expired_session_is_replaced_once_and_its_late_reports_count_nothing() {
        let mut sessions = open(1);
        sessions.admit('b', far());
        assert!(sessions.expired(7), "b waits, so a new one is needed now");
        assert!(!sessions.expired(7), "and only one");
        assert_eq!(sessions.finish(place(1)), []);
        assert_eq!(
            sessions.opened(8),
            [(
                'b',
                Place {
                    session: 8,
                    request: 1
                }
            )]
        );
        assert!(
            !sessions.expired(7),
            "the new session is not the expired one"
        );
        assert_eq!(
            sessions.seen_up_to(Place {
                session: 8,
                request: 1
            }),
            0
        );
    }
}
