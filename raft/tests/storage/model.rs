//! Random scripts against the model.

use proptest::prelude::*;
use raft::storage::sim_disk::SimDisk;

use crate::script::{Action, open, random_script, read_snapshot, run, snapshot_body};

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) })]

    /// Batches, truncations, resets, compactions, snapshots, segments and restarts in any order:
    /// each restart, and the last one, finds what the model says. The original's defects 1 and 2;
    /// failures 76 and 96.
    #[test]
    fn a_restart_finds_what_was_written(seed in any::<u64>(), steps in 1..60usize) {
        let disk = SimDisk::new();
        let script = random_script(seed, steps);
        let progress = run(&disk, &script);
        prop_assert_eq!(progress.durable, progress.logs.len() - 1, "nothing failed");

        let (persister, recovered) = open(&disk).unwrap();
        prop_assert_eq!(Some(recovered.restored), progress.log().joined(progress.snapshot()));
        prop_assert_eq!(recovered.torn_tail, None);
        if let Some(latest) = persister.snapshots().latest() {
            prop_assert_eq!(latest, progress.snapshot());
            prop_assert_eq!(read_snapshot(&persister, latest), snapshot_body(latest));
        }
    }
}

/// The scripts are worth running: between them they do everything.
#[test]
fn scripts_reach_every_kind_of_batch() {
    let scripts: Vec<Action> = (0..20).flat_map(|seed| random_script(seed, 40)).collect();
    let count = |wanted: fn(&Action) -> bool| scripts.iter().filter(|a| wanted(a)).count();
    assert!(count(|a| matches!(a, Action::Restart)) > 20);
    assert!(count(|a| matches!(a, Action::Write(b) if b.reset_to.is_some())) > 20);
    assert!(count(|a| matches!(a, Action::Write(b) if b.truncate_from.is_some())) > 20);
    assert!(count(|a| matches!(a, Action::Write(b) if b.compaction.is_some())) > 20);
    assert!(count(|a| matches!(a, Action::Write(b) if b.hard_state.is_some())) > 20);
}
