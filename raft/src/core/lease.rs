//! Until when a leader may answer reads without asking anybody (thesis §6.4.1).
//!
//! Whoever acknowledged a round gives no vote for the shortest election timeout after it heard of
//! it, so after it began. While that holds of a majority, nobody else can have been elected. The
//! clock assumption is stated at [`Lease`](super::Lease).

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::types::Millis;

/// Rounds whose beginnings are remembered. A heartbeat starts one, and a leader that hears no
/// majority for an election timeout steps down; should more gather, the oldest confirm nothing.
const MAX_ROUNDS: usize = 256;

/// The beginnings of rounds of one leadership, and the last one that a majority confirmed.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct LeaseClock {
    began: VecDeque<(u64, Millis)>,
    confirmed: Option<Millis>,
    /// Somebody was bid to stand for election: others will forget that they heard us (thesis
    /// §3.10). For the rest of the term, as that message may arrive at any time.
    is_void: bool,
}

impl LeaseClock {
    /// `round` begins now, before any message that carries it.
    pub(super) fn round_begins(&mut self, round: u64, now: Millis) {
        if self.began.len() == MAX_ROUNDS {
            self.began.pop_front();
        }
        self.began.push_back((round, now));
    }

    /// A majority has confirmed `round`.
    pub(super) fn round_confirmed(&mut self, round: u64) {
        while let Some((_, began)) = self.began.pop_front_if(|(number, _)| *number <= round) {
            self.confirmed = Some(began);
        }
    }

    /// No lease for the rest of the term.
    pub(super) fn void(&mut self) {
        self.is_void = true;
    }

    /// Another leadership, or none.
    pub(super) fn reset(&mut self) {
        *self = Self::default();
    }

    /// Whether a lease of `length_ms` holds.
    pub(super) fn holds(&self, now: Millis, length_ms: u64) -> bool {
        !self.is_void
            && self
                .confirmed
                .is_some_and(|began| now < began.plus(length_ms))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_counts_from_the_beginning_of_the_last_confirmed_round() {
        let at = Millis::new;
        let mut lease = LeaseClock::default();
        assert!(!lease.holds(at(0), 100), "nobody has confirmed anything");
        lease.round_begins(1, at(10));
        lease.round_begins(2, at(20));
        lease.round_begins(4, at(40));
        lease.round_confirmed(3);
        assert!(lease.holds(at(119), 100));
        assert!(
            !lease.holds(at(120), 100),
            "round 4 began later, but is not confirmed"
        );
        lease.round_confirmed(4);
        assert!(lease.holds(at(139), 100));
        lease.void();
        assert!(!lease.holds(at(50), 100));
        lease.reset();
        assert!(!lease.holds(at(50), 100));
    }

    #[test]
    fn rounds_without_answers_do_not_pile_up() {
        let mut lease = LeaseClock::default();
        for round in 0..10_000 {
            lease.round_begins(round, Millis::new(round));
        }
        assert_eq!(lease.began.len(), MAX_ROUNDS);
    }
}
