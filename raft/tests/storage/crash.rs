//! Power cuts and kills at every operation, with every fate of what was not synced.

use raft::core::{Restored, WriteBatch};
use raft::storage::Persister;
use raft::storage::sim_disk::{Crash, Filler, SimDisk};

use crate::script::{Log, Progress, entry, open, random_script, run, term};

/// Steps of the scripts; each makes a handful of disk operations.
const STEPS: usize = 24;

/// Opens a disk after a crash and checks what is found there: everything reported durable, nothing
/// that was never written, no term or vote gone back; that it stays; that the log goes on.
fn check(disk: &SimDisk, progress: &Progress, context: &str) {
    let (persister, recovered) = match open(disk) {
        Ok(opened) => opened,
        Err(error) => panic!("{context}: refused: {error}"),
    };
    let found = recovered.restored;
    assert!(
        progress.allows(&found),
        "{context}: found\n{}\nbut durable was\n{}\nand written\n{}",
        brief(&found),
        progress.logs[progress.durable].brief(),
        progress.log().brief()
    );

    // What it tells the core, the core may tell others: a loss of power does not change it now.
    drop(persister);
    disk.crash(Crash::Lost);
    let (mut persister, recovered) = open(disk).expect(context);
    assert_eq!(
        recovered.restored, found,
        "{context}: what was found was not durable"
    );
    assert_eq!(
        recovered.torn_tail, None,
        "{context}: the tail was not cut off durably"
    );

    let next = found
        .entries
        .last()
        .map_or(found.prev, |entry| entry.id)
        .index
        .next();
    let one = entry(next.get(), found.hard_state.current_term.get(), b"goes on");
    persister
        .write(&WriteBatch {
            entries: vec![one.clone()],
            ..WriteBatch::default()
        })
        .unwrap();
    persister.sync().unwrap();
    drop(persister);
    disk.crash(Crash::Lost);
    let mut entries = found.entries.clone();
    entries.push(one);
    let (_, recovered) = open(disk).expect(context);
    assert_eq!(
        recovered.restored,
        Restored { entries, ..found },
        "{context}: does not go on"
    );
}

fn brief(found: &Restored) -> String {
    let Restored {
        hard_state,
        snapshot,
        membership: _,
        prev,
        entries,
    } = found.clone();
    format!(
        "snapshot {snapshot}, {}",
        Log {
            hard_state,
            prev,
            entries
        }
        .brief()
    )
}

/// What a crash may do with what is pending on `disk`: everything, where that is feasible.
fn fates(disk: &SimDisk, seed: u64) -> Vec<Crash> {
    let mut fates = vec![Crash::Kill, Crash::Kept, Crash::Lost];
    let pending = disk.pending();
    if pending <= 6 {
        fates.extend((0..1 << pending).map(Crash::Subset));
    }
    fates.extend((0..8).map(|n| Crash::Random {
        seed: seed * 1_000_003 + n,
    }));
    fates
}

/// Failures 1, 2, 60-62, 64, 72, 73, 75, 84; the original's defect 1.
#[test]
fn crash_after_any_operation_loses_nothing_durable_and_invents_nothing() {
    let mut crashes = 0;
    for seed in 0..6 {
        let script = random_script(seed, STEPS);
        let whole = SimDisk::new();
        run(&whole, &script);
        for operations in 0..=whole.operations() {
            let disk = SimDisk::new();
            disk.power_off_after(operations);
            let progress = run(&disk, &script);
            for fate in fates(&disk, seed << 32 | operations) {
                let disk = disk.fork();
                disk.crash(fate);
                check(
                    &disk,
                    &progress,
                    &format!("seed {seed}, operation {operations}, {fate:?}"),
                );
                crashes += 1;
            }
        }
    }
    println!("{crashes} crashes");
    assert!(
        crashes > 5_000,
        "the scripts have become too short: {crashes} crashes"
    );
}

/// Failures 63, 75.
#[test]
fn last_write_torn_at_any_byte_is_dropped_and_nothing_else() {
    for seed in 100..104 {
        let script = random_script(seed, STEPS);
        let whole = SimDisk::new();
        run(&whole, &script);
        for operations in 0..=whole.operations() {
            let disk = SimDisk::new();
            disk.power_off_after(operations);
            let progress = run(&disk, &script);
            let bytes = disk.last_write_bytes();
            // Every byte, but of the largest writes only some.
            for last_write_bytes in (0..bytes).step_by(1 + bytes / 400) {
                let disk = disk.fork();
                disk.crash(Crash::Torn { last_write_bytes });
                let context = format!("seed {seed}, operation {operations}, {last_write_bytes}");
                check(&disk, &progress, &context);
            }
        }
    }
}

/// Recovery is interrupted as well, at each of its operations.
#[test]
fn crash_while_recovering_from_a_crash_changes_nothing() {
    for seed in 200..206 {
        let script = random_script(seed, STEPS);
        let whole = SimDisk::new();
        run(&whole, &script);
        for operations in (0..=whole.operations()).step_by(3) {
            let first = SimDisk::new();
            first.power_off_after(operations);
            let progress = run(&first, &script);
            for fate in [Crash::Kill, Crash::Kept, Crash::Random { seed: operations }] {
                first.crash(fate);
                for recovery_operations in 0..12 {
                    let disk = first.fork();
                    disk.power_off_after(recovery_operations);
                    let _ = open(&disk);
                    disk.crash(Crash::Random {
                        seed: recovery_operations,
                    });
                    let context = format!(
                        "seed {seed}, operation {operations}, {fate:?}, then {recovery_operations}"
                    );
                    check(&disk, &progress, &context);
                }
            }
        }
    }
}

/// Failures 67, 68: whichever sync fails, nothing that it was to make durable
/// is reported, and every call after it fails. The process ends, the system keeps in memory what it
/// failed to write; what the next process believes of that, it makes durable first.
#[test]
fn failed_sync_is_the_end_and_a_restart_believes_only_the_disk() {
    for seed in 300..306 {
        let script = random_script(seed, STEPS);
        for syncs in 0..60 {
            let disk = SimDisk::new();
            disk.fail_sync_after(syncs);
            let progress = run(&disk, &script);
            for fate in [Crash::Kill, Crash::Kept, Crash::Lost] {
                let disk = disk.fork();
                disk.crash(fate);
                check(
                    &disk,
                    &progress,
                    &format!("seed {seed}, sync {syncs} failed, {fate:?}"),
                );
            }
        }
    }
}

/// A restart drops the record behind a torn one. Where the file has just grown again, a file system may
/// show what the place held before: that record, right behind others of the same length.
#[test]
fn a_record_that_was_cut_off_at_a_restart_never_comes_back() {
    let disk = SimDisk::new();
    let mut persister = log_of_term_1(&disk);
    persister.write(&one(1, 1, &[b'a'; 34])).unwrap();
    persister.write(&one(2, 1, b"cut off")).unwrap();
    drop(persister);
    disk.crash(Crash::Subset(1 << (disk.pending() - 1)));

    let (persister, recovered) = open(&disk).unwrap();
    assert!(recovered.torn_tail.is_some(), "only the last write arrived");
    assert_nothing_comes_back(&disk, persister);
}

/// As above, of a write for which there was no room.
#[test]
fn a_record_that_was_taken_back_never_comes_back() {
    let disk = SimDisk::new();
    drop(log_of_term_1(&disk));
    disk.crash(Crash::Kill);
    disk.set_capacity(Some(0));
    let (mut persister, _) = open(&disk).unwrap();
    let room = 90 + 43; // for the first two records
    disk.set_capacity(Some(disk.used_bytes() + room));
    let refused = persister.write(&WriteBatch {
        entries: vec![
            entry(1, 1, &[b'a'; 54]),
            entry(2, 1, b"cut off"),
            entry(3, 1, b"no room"),
        ],
        ..WriteBatch::default()
    });
    assert!(refused.unwrap_err().is_no_space());
    drop(persister);
    disk.crash(Crash::Kill);
    let (persister, _) = open(&disk).unwrap();
    assert_nothing_comes_back(&disk, persister);
}

fn one(index: u64, term: u64, command: &[u8]) -> WriteBatch {
    WriteBatch {
        entries: vec![entry(index, term, command)],
        ..WriteBatch::default()
    }
}

fn log_of_term_1(disk: &SimDisk) -> Persister {
    let (mut persister, _) = open(disk).unwrap();
    persister
        .write(&WriteBatch {
            hard_state: Some(term(1, None)),
            ..WriteBatch::default()
        })
        .unwrap();
    persister.sync().unwrap();
    persister
}

/// Writes what ends where entry 2 of term 1 began, and then something of which only the length arrives.
fn assert_nothing_comes_back(disk: &SimDisk, mut persister: Persister) {
    persister
        .write(&WriteBatch {
            hard_state: Some(term(2, None)),
            ..one(1, 2, &[b'b'; 10])
        })
        .unwrap();
    persister.write(&one(2, 2, &[b'c'; 100])).unwrap();
    drop(persister);
    disk.crash(Crash::Hollow(Filler::Stale));
    assert!(
        disk.hollow_writes() > 0,
        "the last write made the file grow"
    );

    let (_, recovered) = open(disk).unwrap();
    let found = recovered.restored.entries;
    assert_eq!(found, [entry(1, 2, &[b'b'; 10])]);
}
