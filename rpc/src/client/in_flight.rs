//! [`InFlight`]: the calls under way on one connection, by request id, with their deadlines.
//!
//! ```text
//!   ids      7      41   42   43   44   45
//!          ┌───┐  ┌────┬────┬────┬────┬────┐
//!          │ x │  │ x  │    │ x  │ x  │ x  │ ◄── the next call
//!          └───┘  └────┴────┴────┴────┴────┘
//!           old    recent, from `first` on
//! ```
//!
//! Ids are counted up and never used twice, so a call is found by its distance from the oldest one
//! of a ring. A call that many later ones have overtaken (a stream, mostly) moves to a map, so that
//! it does not hold the ring open.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::time::Instant;

use super::pending::Pending;

/// Below this length the ring may be as sparse as it likes.
const RECENT_MIN: usize = 256;

/// Below this many deadlines it is not worth while to drop those of calls that have ended.
const CLEAN_DEADLINES_MIN: usize = 256;

#[derive(Default)]
pub(super) struct InFlight {
    /// The first place is taken by a call; so it is empty without calls.
    recent: VecDeque<Option<Pending>>,
    /// The id of the ring's first place.
    first: u64,
    /// Their ids are below `first`.
    old: BTreeMap<u64, Pending>,
    /// Calls in the ring.
    recent_calls: usize,
    /// Calls that are streams, in the ring or not.
    streams: usize,
    /// Also holds deadlines of calls that have ended: fewer than twice those under way and some.
    deadlines: BinaryHeap<Reverse<(Instant, u64)>>,
}

impl InFlight {
    /// Adds a call. Its id is above all that were added before. Without a deadline it never
    /// expires.
    pub(super) fn insert(&mut self, id: u64, pending: Pending, deadline: Option<Instant>) {
        if let Some(deadline) = deadline {
            self.clean_deadlines();
            self.deadlines.push(Reverse((deadline, id)));
        }
        if self.recent.is_empty() {
            self.first = id;
        }
        let place = usize::try_from(id.wrapping_sub(self.first)).unwrap_or(usize::MAX);
        assert!(place >= self.recent.len(), "ids are counted up");
        if place - self.recent.len() > RECENT_MIN {
            // Ids of another connection lie between; these calls are old already.
            self.retire_all();
            self.first = id;
        } else {
            self.recent.resize_with(place, || None);
        }
        self.streams += usize::from(pending.is_stream());
        self.recent.push_back(Some(pending));
        self.recent_calls += 1;
        while self.recent.len() > RECENT_MIN + 2 * self.recent_calls {
            self.retire_first();
            self.trim();
        }
    }

    /// Takes a call.
    pub(super) fn remove(&mut self, id: u64) -> Option<Pending> {
        let pending = match self.place_of(id) {
            Some(place) => {
                let pending = self.recent.get_mut(place)?.take()?;
                self.recent_calls -= 1;
                self.trim();
                pending
            }
            None => self.old.remove(&id)?,
        };
        self.streams -= usize::from(pending.is_stream());
        Some(pending)
    }

    pub(super) fn get_mut(&mut self, id: u64) -> Option<&mut Pending> {
        match self.place_of(id) {
            Some(place) => self.recent.get_mut(place)?.as_mut(),
            None => self.old.get_mut(&id),
        }
    }

    fn contains(&self, id: u64) -> bool {
        match self.place_of(id) {
            Some(place) => self.recent.get(place).is_some_and(Option::is_some),
            None => self.old.contains_key(&id),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn len(&self) -> usize {
        self.recent_calls + self.old.len()
    }

    /// Whether somebody waits for a single reply. Streams may have nothing to say for hours.
    pub(super) fn expects_replies(&self) -> bool {
        self.len() > self.streams
    }

    /// Takes a call whose deadline has passed.
    pub(super) fn pop_expired(&mut self, now: Instant) -> Option<(u64, Pending)> {
        while let Some(&Reverse((deadline, id))) = self.deadlines.peek() {
            if deadline > now && self.contains(id) {
                return None;
            }
            self.deadlines.pop();
            if let Some(pending) = self.remove(id) {
                return Some((id, pending));
            }
        }
        None
    }

    /// When the next call expires. May be too early, by a call that has ended; never too late.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        if self.is_empty() {
            return None;
        }
        self.deadlines
            .peek()
            .map(|&Reverse((deadline, _))| deadline)
    }

    /// Takes all calls, the oldest first.
    pub(super) fn take_all(&mut self) -> Vec<Pending> {
        self.deadlines.clear();
        self.streams = 0;
        self.retire_all();
        std::mem::take(&mut self.old).into_values().collect()
    }

    /// The place in the ring of a call that is not old.
    fn place_of(&self, id: u64) -> Option<usize> {
        usize::try_from(id.checked_sub(self.first)?).ok()
    }

    /// Drops the ring's empty places in front.
    fn trim(&mut self) {
        while let Some(None) = self.recent.front() {
            self.recent.pop_front();
            self.first += 1;
        }
    }

    fn retire_first(&mut self) {
        if let Some(first) = self.recent.pop_front() {
            if let Some(pending) = first {
                self.old.insert(self.first, pending);
                self.recent_calls -= 1;
            }
            self.first += 1;
        }
    }

    fn retire_all(&mut self) {
        while !self.recent.is_empty() {
            self.retire_first();
        }
    }

    fn clean_deadlines(&mut self) {
        if self.deadlines.len() < CLEAN_DEADLINES_MIN + 2 * self.len() {
            return;
        }
        let mut deadlines = std::mem::take(&mut self.deadlines);
        deadlines.retain(|&Reverse((_, id))| self.contains(id));
        self.deadlines = deadlines;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use bytes::Bytes;

    use super::*;
    use crate::client::pending::{Completion, Ended};
    use crate::error::{Code, RpcError};

    fn pending(name: u64, ended: &mpsc::Sender<(u64, Ended)>) -> Pending {
        let ended = ended.clone();
        let callback = move |end| ended.send((name, end)).unwrap();
        Pending::new(None, Completion::Callback(Box::new(callback)))
    }

    fn good() -> Ended {
        Ended::from(Ok(Bytes::new()))
    }

    #[test]
    fn calls_expire_in_the_order_of_their_deadlines_and_ended_ones_do_not() {
        let (sender, ended) = mpsc::channel();
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut in_flight = InFlight::default();
        for (id, ms) in [(1, 30), (2, 10), (3, 20)] {
            in_flight.insert(id, pending(id, &sender), Some(at(ms)));
        }
        in_flight.insert(4, pending(4, &sender), None);
        assert_eq!(in_flight.next_deadline(), Some(at(10)));
        in_flight.remove(2).unwrap().finish(good());
        assert!(in_flight.pop_expired(at(19)).is_none());
        let (id, expired) = in_flight.pop_expired(at(30)).unwrap();
        assert_eq!(id, 3);
        expired.finish(Err(RpcError::new(Code::DeadlineExceeded, "late")).into());
        drop(in_flight.pop_expired(at(30)));
        assert!(in_flight.pop_expired(at(99)).is_none());
        assert_eq!(in_flight.len(), 1, "the one without a deadline");
        let ends: Vec<u64> = ended.try_iter().map(|(name, _)| name).collect();
        assert_eq!(ends, [2, 3, 1]);
    }

    #[test]
    fn deadlines_of_ended_calls_do_not_pile_up() {
        let (sender, _ended) = mpsc::channel();
        let far = Instant::now() + Duration::from_secs(1000);
        let mut in_flight = InFlight::default();
        for id in 0..100_000 {
            in_flight.insert(id, pending(id, &sender), Some(far));
            if id >= 10 {
                in_flight.remove(id - 10).unwrap().finish(good());
            }
            assert!(in_flight.deadlines.len() <= CLEAN_DEADLINES_MIN + 2 * 11 + 1);
        }
    }

    #[test]
    fn a_long_call_does_not_hold_the_ring_open() {
        let (sender, ended) = mpsc::channel();
        let mut in_flight = InFlight::default();
        in_flight.insert(7, pending(7, &sender), None);
        for id in 8..100_000 {
            in_flight.insert(id, pending(id, &sender), None);
            if id >= 18 {
                in_flight.remove(id - 10).unwrap().finish(good());
            }
            assert!(in_flight.recent.len() <= RECENT_MIN + 2 * 12);
        }
        assert!(in_flight.get_mut(7).is_some() && in_flight.remove(8).is_none());
        in_flight.remove(7).unwrap().finish(good());
        assert_eq!(ended.try_iter().last().unwrap().0, 7);
        assert_eq!(in_flight.len(), 10);
        assert!(in_flight.remove(u64::MAX).is_none() && in_flight.remove(0).is_none());
    }

    #[test]
    fn ids_may_leap_and_calls_are_taken_oldest_first() {
        let (sender, ended) = mpsc::channel();
        let mut in_flight = InFlight::default();
        let ids = [1, 2, 5, 1_000_000, 1_000_001, u64::MAX - 1];
        for id in ids {
            in_flight.insert(id, pending(id, &sender), None);
        }
        in_flight.remove(1_000_000).unwrap().finish(good());
        assert_eq!(in_flight.len(), 5);
        for pending in in_flight.take_all() {
            pending.finish(good());
        }
        let ends: Vec<u64> = ended.try_iter().map(|(name, _)| name).collect();
        assert_eq!(ends, [1_000_000, 1, 2, 5, 1_000_001, u64::MAX - 1]);
        assert!(in_flight.is_empty());
    }
}
