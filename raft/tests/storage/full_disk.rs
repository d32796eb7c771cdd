//! A disk that runs full at every byte.

use std::io::ErrorKind;

use raft::core::WriteBatch;
use raft::storage::sim_disk::{Crash, SimDisk};
use raft::storage::{Persister, PersisterOptions, StorageError};

use crate::faulty::FaultyDisk;
use crate::script::{IDENTITY, SEGMENT_BYTES, entry, open, random_script, run, term};

/// Failure 66: at whatever byte the disk is full, the failure says so, a
/// restart works as soon as there is space, and everything reported durable is there.
#[test]
fn full_at_any_byte_loses_nothing_and_a_restart_goes_on() {
    for seed in 0..3 {
        let script = random_script(seed, 16);
        let whole = SimDisk::new();
        run(&whole, &script);
        let most = whole.used_bytes() + 2_500;
        for capacity in 0..most {
            let disk = SimDisk::new();
            disk.set_capacity(Some(capacity));
            let progress = run(&disk, &script);
            for fate in [Crash::Kill, Crash::Lost, Crash::Random { seed: capacity }] {
                let disk = disk.fork();
                disk.crash(fate);
                let context = format!("seed {seed}, capacity {capacity}, {fate:?}");
                let (_, recovered) = open(&disk).expect(&context);
                assert!(progress.allows(&recovered.restored), "{context}");
            }
        }
    }
}

/// A node whose disk is full says so and goes on where it was: nothing of the refused batch is
/// there, not even after a crash, and the next one stands in its place. Space for the log could
/// not be reserved, so the disk fills up in the middle of a write.
#[test]
fn write_refused_for_lack_of_space_leaves_nothing_behind() {
    for free in 0..400 {
        let disk = SimDisk::new();
        let (mut persister, _) = open(&disk).unwrap();
        let hard_state = Some(term(1, None));
        let entries = vec![entry(1, 1, b"first")];
        persister
            .write(&WriteBatch {
                hard_state,
                entries,
                ..WriteBatch::default()
            })
            .unwrap();
        persister.sync().unwrap();
        drop(persister);
        let cut = disk.fork();
        cut.set_capacity(Some(0));
        drop(open(&cut).expect("a full disk is no reason not to start"));
        disk.set_capacity(Some(cut.used_bytes() + free));

        let (mut persister, _) = open(&disk).unwrap();
        let large = WriteBatch {
            entries: (2..12).map(|index| entry(index, 1, b"refused")).collect(),
            ..WriteBatch::default()
        };
        let error = persister
            .write(&large)
            .expect_err("ten records are more than 400 bytes");
        assert!(matches!(error, StorageError::NoSpace { .. }), "{error}");
        assert!(error.is_no_space());

        // Of the size of one of the records that half arrived, so that the next one would follow.
        disk.set_capacity(None);
        let small = WriteBatch {
            entries: vec![entry(2, 1, b"instead")],
            ..WriteBatch::default()
        };
        persister.write(&small).unwrap();
        for fate in [
            Crash::Kill,
            Crash::Kept,
            Crash::Lost,
            Crash::Random { seed: free },
        ] {
            let disk = disk.fork();
            disk.crash(fate);
            let found = open(&disk).unwrap().1.restored.entries;
            let expected = [entry(1, 1, b"first"), entry(2, 1, b"instead")];
            assert_eq!(found, expected[..found.len()], "free {free}, {fate:?}");
            assert!(!found.is_empty(), "free {free}, {fate:?}");
        }
        persister.sync().unwrap();
        disk.crash(Crash::Lost);
        assert_eq!(open(&disk).unwrap().1.restored.entries.len(), 2);
    }
}

/// There is no space for the next segment: the current one goes on once there is.
#[test]
fn segment_that_cannot_be_begun_is_begun_later() {
    let disk = SimDisk::new();
    let (mut persister, _) = open(&disk).unwrap();
    let hard_state = Some(term(1, None));
    persister
        .write(&WriteBatch {
            hard_state,
            ..WriteBatch::default()
        })
        .unwrap();
    persister.sync().unwrap();
    disk.set_capacity(Some(disk.used_bytes() + 100));
    let batch = |index| WriteBatch {
        entries: vec![entry(index, 1, &[7; 300])],
        ..WriteBatch::default()
    };
    let mut next = 1;
    while persister.write(&batch(next)).is_ok() {
        persister.sync().unwrap();
        next += 1;
    }
    assert!(next > 1, "the first segment has room");
    assert!(
        persister.write(&batch(next)).unwrap_err().is_no_space(),
        "still"
    );
    persister.sync().expect("not poisoned");
    assert_eq!(
        open(&disk.fork()).unwrap().1.restored.entries.len() as u64,
        next - 1
    );

    disk.set_capacity(None);
    persister.write(&batch(next)).unwrap();
    persister.sync().unwrap();
    disk.crash(Crash::Lost);
    assert_eq!(open(&disk).unwrap().1.restored.entries.len() as u64, next);
}

/// Failures 67, 68: a failed sync poisons for ever, though the disk would let
/// the next one succeed.
#[test]
fn failed_sync_poisons_the_persister() {
    let disk = SimDisk::new();
    let (mut persister, _) = open(&disk).unwrap();
    let batch = WriteBatch {
        hard_state: Some(term(1, Some(1))),
        ..WriteBatch::default()
    };
    persister.write(&batch).unwrap();
    disk.fail_sync_after(0);
    assert!(matches!(
        persister.sync(),
        Err(StorageError::Io { action: "sync", .. })
    ));
    for _ in 0..3 {
        assert!(matches!(
            persister.sync(),
            Err(StorageError::Poisoned { .. })
        ));
        let again = WriteBatch {
            hard_state: Some(term(2, None)),
            ..WriteBatch::default()
        };
        assert!(matches!(
            persister.write(&again),
            Err(StorageError::Poisoned { .. })
        ));
    }
    drop(persister);
    disk.crash(Crash::Lost);
    assert_eq!(
        open(&disk).unwrap().1.restored.hard_state,
        term(0, None),
        "it was in doubt"
    );
}

/// Failures 67, 68: a sync that is part of taking a write back speaks for what was written before as well.
/// That it failed for want of space makes nothing durable.
#[test]
fn a_failed_sync_while_a_write_is_taken_back_is_no_lack_of_space() {
    let mut syncs_hit = 0;
    for fails_at in 0.. {
        let disk = SimDisk::new();
        drop(open(&disk).unwrap());
        let faulty = FaultyDisk::new(&disk, fails_at, ErrorKind::StorageFull);
        let options = PersisterOptions {
            segment_bytes: SEGMENT_BYTES,
            ..PersisterOptions::default()
        };
        disk.set_capacity(Some(0)); // nothing is reserved
        let Ok((mut persister, _)) = Persister::open(faulty.clone(), IDENTITY, options) else {
            continue;
        };
        disk.set_capacity(Some(disk.used_bytes() + 200));
        let hit_before = faulty.hit().is_some();
        let first = WriteBatch {
            hard_state: Some(term(1, None)),
            entries: vec![entry(1, 1, &[1; 20])],
            ..WriteBatch::default()
        };
        let second = WriteBatch {
            entries: vec![entry(2, 1, &[2; 300])],
            ..WriteBatch::default()
        };
        if persister.write(&first).is_err() {
            continue;
        }
        let refused = persister.write(&second).unwrap_err();
        let Some((operation, _)) = faulty.hit() else {
            assert!(refused.is_no_space(), "{refused}");
            break;
        };
        if operation == "sync" && !hit_before {
            syncs_hit += 1;
            assert!(matches!(refused, StorageError::Io { .. }), "{refused}");
            let error = persister.sync().unwrap_err();
            assert!(matches!(error, StorageError::Poisoned { .. }), "{error}");
        }
    }
    assert_eq!(syncs_hit, 2, "of the zeros, and of the length");
}

/// What half arrived cannot be taken back: that is not a lack of space any more.
#[test]
fn refused_write_that_cannot_be_taken_back_poisons() {
    let disk = SimDisk::new();
    drop(open(&disk).unwrap());
    disk.set_capacity(Some(300));
    let (mut persister, _) = open(&disk).unwrap();
    let hard_state = Some(term(1, None));
    let entries = vec![entry(1, 1, &[1; 300])];
    let large = WriteBatch {
        hard_state,
        entries,
        ..WriteBatch::default()
    };
    disk.fail_sync_after(0);
    let error = persister.write(&large).unwrap_err();
    assert!(matches!(error, StorageError::Io { .. }), "{error}");
    assert!(matches!(
        persister.sync(),
        Err(StorageError::Poisoned { .. })
    ));
}
