//! Lack of space reported by each single operation, and the same call made again.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::Path;

use raft::core::WriteBatch;
use raft::storage::sim_disk::{Crash, SimDisk};
use raft::storage::{Persister, PersisterOptions, Recovered, StorageError};

use crate::faulty::FaultyDisk;
use crate::script::{Action, IDENTITY, Progress, SEGMENT_BYTES, random_script, save_snapshot};

/// What a call that failed left.
enum Next {
    /// It may be made again.
    Again,
    /// The process must end.
    End,
}

fn open(disk: &FaultyDisk) -> Result<(Persister, Recovered), StorageError> {
    let options = PersisterOptions {
        segment_bytes: SEGMENT_BYTES,
        ..PersisterOptions::default()
    };
    Persister::open(disk.clone(), IDENTITY, options)
}

/// As the operator's restart would.
fn open_again(disk: &FaultyDisk) -> Persister {
    let (persister, _) = open(disk)
        .or_else(|error| {
            assert!(error.is_no_space(), "{error}");
            open(disk)
        })
        .expect("it lacked space once");
    persister
}

fn ask(persister: &mut Persister, action: &Action) -> Result<(), StorageError> {
    match action {
        Action::Write(batch) => persister.write(batch),
        Action::Sync => persister.sync(),
        Action::Snapshot(id) => save_snapshot(persister, *id),
        Action::RemoveOlderSnapshots(id) => persister.snapshots().remove_older_than(*id),
        Action::Restart => unreachable!("it has no persister"),
    }
}

fn judge(
    persister: &mut Persister,
    action: &Action,
    error: &StorageError,
    hit: (&str, &Path),
) -> Next {
    // A sync that failed says nothing of what was written before it, whatever its error; but a
    // segment's file that nothing needs yet can be thrown away, as a snapshot's can.
    let in_doubt = match hit {
        ("sync_dir", _) => true,
        ("sync", _) => match action {
            // Of the segment in use, before the next one is created.
            Action::Write(_) => !error.to_string().contains("create"),
            _ => matches!(action, Action::Sync),
        },
        _ => false,
    };
    if !in_doubt {
        assert!(error.is_no_space(), "{action:?} failed by {hit:?}: {error}");
        return Next::Again;
    }
    assert_at_an_end(persister);
    Next::End
}

fn assert_at_an_end(persister: &mut Persister) {
    for _ in 0..2 {
        for outcome in [persister.write(&WriteBatch::default()), persister.sync()] {
            let error = outcome.expect_err("a later sync is not to be believed");
            assert!(
                matches!(
                    error,
                    StorageError::Poisoned { .. } | StorageError::SyncFailed { .. }
                ),
                "{error}"
            );
        }
    }
}

/// Of the batch that was refused nothing is there, nor in the way of a smaller one: not of its
/// records, nor of the segment that was to hold it.
fn something_else_fits(
    persister: &mut Persister,
    disk: &SimDisk,
    before: &Progress,
    context: &str,
) {
    let small = WriteBatch {
        hard_state: Some(before.log().hard_state),
        ..WriteBatch::default()
    };
    persister.write(&small).expect(context);
    persister.sync().expect(context);
    for crash in [Crash::Lost, Crash::Kept] {
        let disk = disk.fork();
        disk.crash(crash);
        let (_, recovered) = crate::script::open(&disk).expect(context);
        let expected = before.log().joined(before.snapshot());
        assert_eq!(Some(recovered.restored), expected, "{context}");
    }
}

/// Faults D4, D5: space runs out in any operation that changes the disk: a write of which half
/// arrived, a reservation, a creation, a renaming, a removal, a sync. What is not a sync may be
/// asked again, with the result that it would have had; what was reported durable is there after
/// any crash.
#[test]
fn lack_of_space_in_any_operation_is_got_over_or_ends_the_log() {
    let mut hits: BTreeMap<(&str, bool), u32> = BTreeMap::new();
    for seed in 0..4 {
        let script = random_script(seed, 14);
        for fails_at in 0.. {
            let disk = SimDisk::new();
            let faulty = FaultyDisk::new(&disk, fails_at, ErrorKind::StorageFull);
            let mut persister = Some(open_again(&faulty));
            let mut progress = Progress::new();
            let mut ended = false;
            for action in &script {
                let context = format!("seed {seed}, operation {fails_at}, {action:?}");
                let before = progress.clone();
                progress.attempt(action);
                if matches!(action, Action::Restart) {
                    drop(persister.take());
                    persister = Some(open_again(&faulty));
                    progress.succeed(action);
                    continue;
                }
                let open = persister.as_mut().expect("only a restart takes it");
                if let Err(error) = ask(open, action) {
                    let (operation, path) = faulty.hit().expect(&context);
                    let next = judge(open, action, &error, (operation, &path));
                    ended = matches!(next, Next::End);
                    *hits.entry((operation, ended)).or_default() += 1;
                    if ended {
                        break;
                    }
                    if matches!(action, Action::Write(_)) {
                        something_else_fits(open, &disk, &before, &context);
                    }
                    ask(open, action).expect(&context);
                }
                progress.succeed(action);
            }
            drop(persister);
            for crash in [Crash::Kill, Crash::Lost, Crash::Random { seed: fails_at }] {
                let disk = disk.fork();
                disk.crash(crash);
                let (_, recovered) = crate::script::open(&disk).unwrap();
                let context = format!("seed {seed}, operation {fails_at}, {crash:?}");
                assert!(progress.allows(&recovered.restored), "{context}");
                if !ended && crash == Crash::Kill {
                    let expected = progress.log().joined(progress.snapshot());
                    assert_eq!(Some(recovered.restored), expected, "{context}");
                }
            }
            if faulty.hit().is_none() {
                break; // the script has no more operations than that
            }
        }
    }
    println!("{hits:?}");
    for wanted in [
        ("create", false),
        ("preallocate", false),
        ("write", false),
        ("sync", false),
        ("sync", true),
        ("rename", false),
        ("remove", false),
        ("sync_dir", true),
    ] {
        assert!(hits.contains_key(&wanted), "never seen: {wanted:?}");
    }
}

/// Faults D3, D4: any other error, in any operation. One in the log or in any sync is the end, though
/// the disk would do everything from then on; one in writing a snapshot costs that snapshot.
#[test]
fn an_error_in_any_operation_ends_the_log_or_costs_a_snapshot() {
    let (mut ended, mut cost_a_snapshot) = (0, 0);
    for seed in 0..4 {
        let script = random_script(seed, 14);
        for fails_at in 0.. {
            let disk = SimDisk::new();
            let faulty = FaultyDisk::new(&disk, fails_at, ErrorKind::Other);
            let mut progress = Progress::new();
            let mut persister = open(&faulty).map(|(persister, _)| persister);
            for action in &script {
                let context = format!("seed {seed}, operation {fails_at}, {action:?}");
                let Ok(open_one) = &mut persister else { break };
                progress.attempt(action);
                if matches!(action, Action::Restart) {
                    drop(persister); // gives up the lock
                    persister = open(&faulty).map(|(persister, _)| persister);
                    if persister.is_ok() {
                        progress.succeed(action);
                    }
                    continue;
                }
                if let Err(error) = ask(open_one, action) {
                    let (operation, path) = faulty.hit().expect(&context);
                    assert!(matches!(error, StorageError::Io { .. }), "{error}");
                    let in_log = path.starts_with("wal");
                    if in_log || matches!(operation, "sync" | "sync_dir") {
                        assert_at_an_end(open_one);
                        ended += 1;
                        break;
                    }
                    cost_a_snapshot += 1;
                    ask(open_one, action).expect(&context);
                }
                progress.succeed(action);
            }
            drop(persister);
            for crash in [Crash::Kill, Crash::Lost, Crash::Random { seed: fails_at }] {
                let disk = disk.fork();
                disk.crash(crash);
                let (_, recovered) = crate::script::open(&disk).unwrap();
                let context = format!("seed {seed}, operation {fails_at}, {crash:?}");
                assert!(progress.allows(&recovered.restored), "{context}");
            }
            if faulty.hit().is_none() {
                break;
            }
        }
    }
    println!("ended {ended} times, cost a snapshot {cost_a_snapshot} times");
    assert!(ended > 50 && cost_a_snapshot > 10);
}
