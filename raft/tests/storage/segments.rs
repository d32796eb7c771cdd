//! How many syncs, how many segments, how many bytes.

use raft::core::{Compaction, WriteBatch};
use raft::storage::sim_disk::SimDisk;

use crate::script::{SEGMENT_BYTES, entry, id, open, save_snapshot, term};

fn wal_bytes(disk: &SimDisk) -> u64 {
    let files = disk.files();
    files
        .iter()
        .filter(|(path, _)| path.starts_with("wal"))
        .map(|(_, c)| c.len() as u64)
        .sum()
}

/// Many batches share a sync; without one there is none.
#[test]
fn one_sync_of_a_file_for_all_that_was_written_and_none_for_nothing() {
    let disk = SimDisk::new();
    let (mut persister, _) = open(&disk).unwrap();
    let before = disk.file_syncs();
    persister.sync().unwrap();
    persister.write(&WriteBatch::default()).unwrap();
    persister.sync().unwrap();
    assert_eq!(disk.file_syncs(), before, "nothing was written");

    persister
        .write(&WriteBatch {
            hard_state: Some(term(1, None)),
            ..WriteBatch::default()
        })
        .unwrap();
    for index in 1..=5 {
        let entries = vec![entry(index, 1, b"x")];
        persister
            .write(&WriteBatch {
                entries,
                ..WriteBatch::default()
            })
            .unwrap();
    }
    persister.sync().unwrap();
    persister.sync().unwrap();
    assert_eq!(disk.file_syncs(), before + 1);
}

/// The directory holds what the docs say: the retained log, and two segments. The term and vote of
/// long ago outlive the segment that recorded them. Failure 72.
#[test]
fn log_on_disk_stays_within_its_bound() {
    const RETAINED: u64 = 10;
    let disk = SimDisk::new();
    let (mut persister, _) = open(&disk).unwrap();
    let hard_state = Some(term(7, Some(4)));
    persister
        .write(&WriteBatch {
            hard_state,
            ..WriteBatch::default()
        })
        .unwrap();
    for index in 1..=3_000 {
        let entries = vec![entry(index, 7, &[0; 100])];
        persister
            .write(&WriteBatch {
                entries,
                ..WriteBatch::default()
            })
            .unwrap();
        persister.sync().unwrap();
        if index % 20 == 0 {
            save_snapshot(&persister, id(index, 7)).unwrap();
            let compaction = Some(Compaction {
                snapshot: id(index, 7),
                drop_upto: id(index - RETAINED, 7),
            });
            persister
                .write(&WriteBatch {
                    compaction,
                    ..WriteBatch::default()
                })
                .unwrap();
            persister.sync().unwrap();
            persister
                .snapshots()
                .remove_older_than(id(index, 7))
                .unwrap();
            let record_bytes = 20 + 16 + 100 + 20;
            let bound = RETAINED * record_bytes + 2 * SEGMENT_BYTES as u64;
            assert!(wal_bytes(&disk) <= bound, "{} bytes", wal_bytes(&disk));
            assert_eq!(wal_bytes(&disk), persister.log_disk_bytes());
        }
    }
    drop(persister);
    let restored = open(&disk).unwrap().1.restored;
    assert_eq!(restored.hard_state, term(7, Some(4)));
    assert_eq!(restored.prev, id(3_000 - RETAINED, 7));
    assert_eq!(restored.entries.len() as u64, RETAINED);
    let snapshots = disk
        .files()
        .keys()
        .filter(|path| path.starts_with("snapshot"))
        .count();
    assert_eq!(snapshots, 2, "the newest, and one to fall back on");
}

/// Elections without end, and no entry: nothing would ever be compacted.
#[test]
fn terms_alone_do_not_fill_the_disk() {
    let disk = SimDisk::new();
    let (mut persister, _) = open(&disk).unwrap();
    for n in 1..=1_000 {
        let hard_state = Some(term(n, Some(1)));
        persister
            .write(&WriteBatch {
                hard_state,
                ..WriteBatch::default()
            })
            .unwrap();
        persister.sync().unwrap();
    }
    assert!(wal_bytes(&disk) <= 2 * SEGMENT_BYTES as u64);
    drop(persister);
    assert_eq!(
        open(&disk).unwrap().1.restored.hard_state,
        term(1_000, Some(1))
    );
}

/// A batch larger than a segment gets a segment of its size.
#[test]
fn batch_larger_than_a_segment_is_one_segment() {
    let disk = SimDisk::new();
    let (mut persister, _) = open(&disk).unwrap();
    let command = vec![9; 10 * SEGMENT_BYTES];
    let hard_state = Some(term(1, None));
    let entries = vec![
        entry(1, 1, b"before"),
        entry(2, 1, &command),
        entry(3, 1, b"after"),
    ];
    let batch = WriteBatch {
        hard_state,
        entries: entries.clone(),
        ..WriteBatch::default()
    };
    persister.write(&batch).unwrap();
    let entries = [entries, vec![entry(4, 1, b"next")]].concat();
    let next = WriteBatch {
        entries: entries[3..].to_vec(),
        ..WriteBatch::default()
    };
    persister.write(&next).unwrap();
    persister.sync().unwrap();
    drop(persister);
    assert_eq!(open(&disk).unwrap().1.restored.entries, entries);
}

/// Failure 2: what would make the log unreadable is never written.
#[test]
fn batches_that_do_not_follow_are_a_bug_and_panic() {
    let with_entry = |index, its_term| WriteBatch {
        entries: vec![entry(index, its_term, b"")],
        ..WriteBatch::default()
    };
    let state = |n, vote| WriteBatch {
        hard_state: Some(term(n, vote)),
        ..WriteBatch::default()
    };
    for (bad, why) in [
        (with_entry(3, 5), "a gap"),
        (with_entry(2, 6), "a term that is not recorded"),
        (state(4, None), "a term that goes back"),
        (state(5, Some(2)), "a second vote"),
    ] {
        let disk = SimDisk::new();
        let (mut persister, _) = open(&disk).unwrap();
        persister.write(&state(5, Some(1))).unwrap();
        persister.write(&with_entry(1, 5)).unwrap();
        let write = std::panic::AssertUnwindSafe(|| persister.write(&bad));
        assert!(std::panic::catch_unwind(write).is_err(), "{why}");
    }
}

/// Entries that a new leader overwrote do not keep their segments.
#[test]
fn overwritten_entries_do_not_hold_their_segments() {
    let disk = SimDisk::new();
    let (mut persister, _) = open(&disk).unwrap();
    let hard_state = Some(term(1, None));
    let entries = (1..=50).map(|index| entry(index, 1, &[0; 100])).collect();
    persister
        .write(&WriteBatch {
            hard_state,
            entries,
            ..WriteBatch::default()
        })
        .unwrap();
    persister.sync().unwrap();
    let before = wal_bytes(&disk);

    let truncate_from = Some(id(2, 1).index);
    let entries = (2..=5).map(|index| entry(index, 1, &[1; 100])).collect();
    persister
        .write(&WriteBatch {
            truncate_from,
            entries,
            ..WriteBatch::default()
        })
        .unwrap();
    persister.sync().unwrap();
    save_snapshot(&persister, id(3, 1)).unwrap();
    let compaction = Some(Compaction {
        snapshot: id(3, 1),
        drop_upto: id(3, 1),
    });
    persister
        .write(&WriteBatch {
            compaction,
            ..WriteBatch::default()
        })
        .unwrap();
    persister.sync().unwrap();
    assert!(
        wal_bytes(&disk) <= 2 * SEGMENT_BYTES as u64,
        "of {before} bytes"
    );
}
