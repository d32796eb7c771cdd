//! A failing run made small: without the faults that it does not need, and with fewer events.
//!
//! The runs that are tried are other runs, so a promise may break another way in them: what is kept is
//! that the same promise breaks.

use crate::options::RunOptions;
use crate::swarm::FAULTS;
use crate::world::{Outcome, run_seed};

/// Rounds at most: one that changes nothing is the last, and each of the others takes a fault or an event
/// away.
const MAX_ROUNDS: usize = 5;

/// The smallest run found that breaks the promise which `seed` breaks with `options`. `None`: it breaks
/// none.
#[must_use]
pub fn shrink(seed: u64, options: RunOptions) -> Option<(RunOptions, Outcome)> {
    let first = run_seed(seed, options);
    let broken = first.violation.clone()?.property;
    let breaks = |options: RunOptions| {
        let outcome = run_seed(seed, options);
        let violation = outcome.violation.as_ref();
        let same = violation.is_some_and(|violation| violation.property == broken);
        same.then_some(outcome)
    };
    // No event after the one that broke the promise matters.
    let events = options.events.min(first.events);
    let mut best = (RunOptions { events, ..options }, first);
    for _ in 0..MAX_ROUNDS {
        let before = best.0;
        without_faults(&mut best, &breaks);
        with_fewer_events(&mut best, &breaks);
        if best.0 == before {
            break;
        }
    }
    Some(best)
}

/// Turns off one fault after the other, and leaves off those that are not needed.
fn without_faults<T>(best: &mut (RunOptions, T), breaks: &impl Fn(RunOptions) -> Option<T>) {
    for fault in 0..FAULTS.len() {
        let mut without = best.0.without;
        if !without.insert(fault) {
            continue;
        }
        let options = RunOptions { without, ..best.0 };
        if let Some(outcome) = breaks(options) {
            *best = (options, outcome);
        }
    }
}

/// Halves the distance to the fewest events. Fewer may fail where more do not, so it finds some small
/// number, not the smallest.
fn with_fewer_events<T>(best: &mut (RunOptions, T), breaks: &impl Fn(RunOptions) -> Option<T>) {
    let mut too_few = 0;
    while too_few < best.0.events {
        let events = too_few + (best.0.events - too_few) / 2;
        let options = RunOptions { events, ..best.0 };
        match breaks(options) {
            Some(outcome) => *best = (options, outcome),
            None => too_few = events + 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::Faults;

    /// A run that breaks its promise whenever faults 3 and 20 are on and there are 137 events.
    #[test]
    fn what_a_failure_does_not_need_is_taken_away() {
        let breaks = |options: RunOptions| {
            let needs = [3, 20]
                .iter()
                .all(|fault| !options.without.contains(*fault));
            (needs && options.events >= 137).then_some(options.events)
        };
        let mut best = (RunOptions::default(), 20_000);
        without_faults(&mut best, &breaks);
        with_fewer_events(&mut best, &breaks);
        let (options, seen) = best;
        assert_eq!(
            (options.events, seen),
            (137, 137),
            "what was seen is what is kept"
        );
        let needed: Vec<usize> = (0..FAULTS.len())
            .filter(|fault| !options.without.contains(*fault))
            .collect();
        assert_eq!(needed, [3, 20]);
    }

    #[test]
    fn a_run_without_a_violation_is_not_made_smaller() {
        let options = RunOptions {
            events: 200,
            ..RunOptions::default()
        };
        assert!(shrink(1, options).is_none());
    }

    /// Fault by fault, the run is another one; none of it happens.
    #[test]
    fn a_fault_that_is_turned_off_does_not_come() {
        let mut without = Faults::default();
        for fault in 0..FAULTS.len() {
            without.insert(fault);
        }
        let options = RunOptions {
            without,
            ..RunOptions::default()
        };
        for seed in 0..5 {
            let outcome = run_seed(seed, options);
            assert!(outcome.violation.is_none(), "{:?}", outcome.violation);
            assert!(
                outcome.faults.iter().all(|count| *count == 0),
                "seed {seed}: {:?}",
                outcome.faults
            );
        }
    }
}
