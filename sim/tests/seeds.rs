//! Seeds that every change must pass. `SIM_SEEDS=n` runs so many.

use sim::{Coverage, RunOptions, Situation, run_seed};

const SEEDS: u64 = 150;
const EVENTS: u64 = 20_000;

/// What the ordinary number of seeds meets, many times over: a run that misses one has lost its bite.
const OFTEN: &[Situation] = &[
    Situation::ConflictOverwritten,
    Situation::OlderTermCommitted,
    Situation::TornTail,
    Situation::VoteLostInCrash,
    Situation::CrashBeforeSync,
    Situation::HollowTail,
    Situation::LeaderCrashed,
    Situation::SnapshotInstalled,
    Situation::DeposedWithProposals,
    Situation::TwoLeaders,
    Situation::QuorumLost,
    Situation::Repeated,
    Situation::UnknownTookEffect,
    Situation::CertainlyNotDone,
    Situation::SeveralInFlight,
    Situation::MemberLearned,
    Situation::FollowerRead,
    Situation::LeaseRead,
    Situation::TransferDone,
    Situation::LearnerPromoted,
    Situation::JointCrash,
];

#[test]
fn no_seed_breaks_a_promise() {
    let number = std::env::var("SIM_SEEDS").ok();
    let seeds = number.and_then(|text| text.parse().ok()).unwrap_or(SEEDS);
    let options = RunOptions {
        events: EVENTS,
        ..RunOptions::default()
    };
    let mut coverage = Coverage::default();
    for seed in 0..seeds {
        let outcome = run_seed(seed, options);
        assert_eq!(
            outcome.violation, None,
            "seed {seed}: again by cargo run --release -p sim -- --seed {seed} --trace"
        );
        coverage.add(&outcome.coverage);
    }
    for &situation in OFTEN {
        assert!(
            coverage.count(situation) > 0,
            "{seeds} seeds never met: {}",
            situation.text()
        );
    }
}

#[test]
fn the_same_seed_is_the_same_run() {
    let options = RunOptions {
        events: 5_000,
        ..RunOptions::default()
    };
    let mut hashes = Vec::new();
    for seed in 0..20 {
        let (one, other) = (run_seed(seed, options), run_seed(seed, options));
        assert_eq!(one.trace_hash, other.trace_hash, "seed {seed}");
        assert_eq!((one.events, one.committed), (other.events, other.committed));
        hashes.push(one.trace_hash);
    }
    hashes.sort_unstable();
    hashes.dedup();
    assert_eq!(hashes.len(), 20, "other seeds are other runs");
}
