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
    let concerns_log = matches!(action, Action::Write(_) | Action::Sync);
    // A sync that failed says nothing of what was written before it, whatever its error; but a
    // segment's file that nothing needs yet can be thrown away, as a snapshot's can.
    let in_doubt = match hit {
        ("sync_dir", _) => concerns_log,
        ("sync", _) => matches!(action, Action::Sync),
        _ => false,
    };
    let again = error.is_no_space();
    assert!(
        !(in_doubt && again),
        "{action:?} failed by {hit:?}: {error}"
    );
    if again {
        return Next::Again;
    }
    assert!(
        matches!(hit.0, "sync" | "sync_dir"),
        "{action:?} failed by {hit:?}: {error}"
    );
    let batch = WriteBatch::default();
    assert!(matches!(
        persister.write(&batch),
        Err(StorageError::Poisoned { .. })
    ));
    Next::End
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
        ("sync_dir", false),
        ("sync_dir", true),
    ] {
        assert!(hits.contains_key(&wanted), "never seen: {wanted:?}");
    }
}
