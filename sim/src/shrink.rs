//! A failing run made small: without the faults that it does not need, and with fewer events.
//!
//! The runs that are tried are other runs, so a promise may break another way in them: what is kept is
//! that the same promise breaks.

use crate::options::RunOptions;
use crate::oracle::Violation;
use crate::swarm::FAULTS;
use crate::world::{NO_PANIC, Outcome, run_seed};

/// Rounds at most: one that changes nothing is the last, and each of the others takes a fault or an event
/// away.
const MAX_ROUNDS: usize = 5;

/// The smallest run found that breaks the promise which `seed` breaks with `options`. `None`: it breaks
/// none.
#[must_use]
pub fn shrink(seed: u64, options: RunOptions) -> Option<(RunOptions, Outcome)> {
    smallest(options, |options| run_seed(seed, options))
}

/// What is found has been run.
fn smallest(
    options: RunOptions,
    run: impl Fn(RunOptions) -> Outcome,
) -> Option<(RunOptions, Outcome)> {
    let first = run(options);
    let broken = first.violation.clone()?;
    let breaks = |options: RunOptions| {
        let outcome = run(options);
        let violation = outcome.violation.as_ref();
        let same = violation.is_some_and(|violation| is_same(violation, &broken));
        same.then_some(outcome)
    };
    // No event after the one that broke the promise matters. If it panicked, it is not counted.
    let events = options.events.min(first.events + 1);
    let mut best = (options, first);
    let up_to_it = RunOptions { events, ..options };
    if let Some(outcome) = breaks(up_to_it) {
        best = (up_to_it, outcome);
    }
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

/// Panics are one promise to the oracle, but many assertions: here they are told apart by how their texts
/// begin, up to the first number.
fn is_same(one: &Violation, other: &Violation) -> bool {
    let beginning = |violation: &Violation| {
        let ends = |c: char| c.is_ascii_digit() || c == '\n';
        violation.what.split(ends).next().map(str::to_owned)
    };
    one.property == other.property
        && (one.property != NO_PANIC || beginning(one) == beginning(other))
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
    use crate::world::{Event, World, run_world};

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

    /// The event that panics is not counted, and is needed: while the cluster recovers nothing is planted.
    #[test]
    fn a_run_that_panics_is_made_small_and_panics_still() {
        let planted = |options: RunOptions| {
            let mut world = World::new(1, options);
            world.after(800_000, Event::Deliver { packet: usize::MAX });
            run_world(world, 1, options.events)
        };
        let counted = planted(RunOptions::default()).events;
        let run = |options: RunOptions| {
            if options.events > counted {
                planted(options)
            } else {
                run_seed(1, options)
            }
        };
        let (options, seen) = smallest(RunOptions::default(), run).unwrap();
        assert_eq!(options.events, counted + 1);
        assert_eq!(run(options).violation, seen.violation);
        assert_eq!(seen.violation.unwrap().property, NO_PANIC);
    }

    #[test]
    fn panics_are_told_apart_by_how_they_begin() {
        let panic = |what: &str| Violation {
            property: NO_PANIC,
            what: what.to_owned(),
        };
        let lost = panic("entry 7 is lost");
        assert!(is_same(&lost, &panic("entry 12 is lost")));
        assert!(!is_same(&lost, &panic("term 7 is lost")));
        let other = |what: &str| Violation {
            property: "terms are remembered",
            ..panic(what)
        };
        assert!(is_same(&other("n1 forgot"), &other("it forgot")));
        assert!(!is_same(&lost, &other("entry 7 is lost")));
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
