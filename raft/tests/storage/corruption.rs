//! Damage: bits flipped, records lost or misplaced, files cut, swapped and gone.
//!
//! The rule that all of it is held against: a start yields what was written, or less by a torn
//! tail that it reports, or refuses and names the file. It never yields anything else.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use fastrand::Rng;
use proptest::prelude::*;
use raft::core::{Compaction, Restored, WriteBatch};
use raft::storage::sim_disk::{Crash, SimDisk};
use raft::storage::{Persister, PersisterOptions, Recovered, StorageError};

use crate::script::{
    IDENTITY, SEGMENT_BYTES, entry, id, open, save_snapshot, snapshot_members, term,
};

/// Bytes of a segment's header, and of a record before its payload.
const SEGMENT_HEADER: usize = 128;
const RECORD_HEADER: usize = 20;

fn segment(number: u64) -> PathBuf {
    PathBuf::from(format!("wal/{number:016}.wal"))
}

fn entries(batch: impl IntoIterator<Item = (u64, usize)>) -> WriteBatch {
    let new = |(index, bytes)| entry(index, 1, &vec![b'a' + (index % 26) as u8; bytes]);
    WriteBatch {
        entries: batch.into_iter().map(new).collect(),
        ..WriteBatch::default()
    }
}

/// A log of several segments, with two snapshots, all synced.
fn written(disk: &SimDisk, segment_bytes: usize, batches: u64) -> Restored {
    let options = PersisterOptions {
        segment_bytes,
        ..PersisterOptions::default()
    };
    let (mut persister, _) = Persister::open(disk.clone(), IDENTITY, options).unwrap();
    let vote = WriteBatch {
        hard_state: Some(term(1, Some(0))),
        ..WriteBatch::default()
    };
    persister.write(&vote).unwrap();
    for batch in 0..batches {
        persister
            .write(&entries([(batch * 2 + 1, 60), (batch * 2 + 2, 90)]))
            .unwrap();
        persister.sync().unwrap();
    }
    for snapshot in [5, 7] {
        save_snapshot(&persister, id(snapshot, 1)).unwrap();
        let compaction = Some(Compaction {
            snapshot: id(snapshot, 1),
            drop_upto: id(4, 1),
        });
        persister
            .write(&WriteBatch {
                compaction,
                ..WriteBatch::default()
            })
            .unwrap();
        persister
            .write(&WriteBatch {
                hard_state: Some(term(2, None)),
                ..WriteBatch::default()
            })
            .unwrap();
        persister.sync().unwrap();
    }
    drop(persister);
    open(disk).unwrap().1.restored
}

/// Whether a start after damage yields what it may.
fn check(outcome: Result<(Persister, Recovered), StorageError>, whole: &Restored, context: &str) {
    match outcome {
        Ok((_, recovered)) => {
            let mut found = recovered.restored;
            if !recovered.damaged_snapshots.is_empty() {
                assert_eq!(
                    found.snapshot,
                    id(5, 1),
                    "{context}: no older snapshot in its place"
                );
                let members = Some(Arc::new(snapshot_members(found.snapshot)));
                assert_eq!(found.membership, members, "{context}: its members");
                found.snapshot = whole.snapshot;
                found.membership.clone_from(&whole.membership);
            }
            assert_eq!(&found, whole, "{context}: other data, and no word of it");
        }
        Err(
            error @ (StorageError::Corrupt { .. }
            | StorageError::OtherIdentity { .. }
            | StorageError::OtherVersion { .. }
            | StorageError::Missing { .. }
            | StorageError::Gap { .. }),
        ) => {
            let text = error.to_string();
            let names_a_file = ["wal/", "snapshot/", "IDENTITY"]
                .iter()
                .any(|n| text.contains(n));
            assert!(names_a_file, "{context}: {text}");
        }
        Err(error) => panic!("{context}: {error}"),
    }
}

/// Failures 65, 93. Every bit of every file.
#[test]
fn no_flipped_bit_changes_what_is_read() {
    let disk = SimDisk::new();
    let whole = written(&disk, SEGMENT_BYTES, 12);
    let files = disk.files();
    assert!(files.keys().filter(|path| path.starts_with("wal")).count() >= 3);
    for (path, content) in &files {
        for bit in 0..content.len() * 8 {
            let disk = disk.fork();
            disk.flip_bit(path, bit / 8, (bit % 8) as u8);
            check(
                open(&disk),
                &whole,
                &format!("{} bit {bit}", path.display()),
            );
        }
    }
}

/// A bit of every byte of a log of 64 KiB.
#[test]
fn no_flipped_byte_of_a_longer_log_changes_what_is_read() {
    let disk = SimDisk::new();
    let whole = written(&disk, 16 << 10, 300);
    let files: Vec<_> = disk
        .files()
        .into_iter()
        .filter(|(path, _)| path.starts_with("wal"))
        .collect();
    assert!(
        files
            .iter()
            .map(|(_, content)| content.len())
            .sum::<usize>()
            >= 64 << 10
    );
    let (disk, files, whole) = (&disk, &files, &whole);
    std::thread::scope(|scope| {
        for half in 0..2 {
            scope.spawn(move || {
                let mut rng = Rng::with_seed(half);
                for (path, content) in files {
                    for at in (0..content.len()).filter(|at| at % 2 == half as usize) {
                        let disk = disk.fork();
                        let bit = rng.u8(..8);
                        disk.flip_bit(path, at, bit);
                        let context = format!("{} byte {at} bit {bit}", path.display());
                        check(open(&disk), whole, &context);
                    }
                }
            });
        }
    });
}

/// The one thing that no checksum can tell apart: power fails in the moment after the last sync,
/// before the word of it reaches the disk, and then a bit of what that sync made durable rots. It
/// looks like a write that the power cut tore. It is dropped, never misread, and reported; and
/// nothing before the last sync is ever taken for torn.
#[test]
fn without_the_word_of_the_last_sync_only_its_batch_can_be_taken_for_torn() {
    let disk = SimDisk::new();
    written(&disk, SEGMENT_BYTES, 4);
    let (mut persister, before) = open(&disk).unwrap();
    let before = before.restored;
    persister.write(&entries([(9, 40)])).unwrap();
    persister.sync().unwrap();
    let one_more = {
        let mut restored = before.clone();
        restored.entries.push(entry(9, 1, &[b'j'; 40]));
        restored
    };
    persister.write(&entries([(10, 50), (11, 70)])).unwrap();
    persister.sync().unwrap();
    disk.crash(Crash::Lost); // takes the record that says so
    let whole = open(&disk).unwrap().1.restored;
    assert_eq!(whole.entries.len(), one_more.entries.len() + 2);

    let (path, content) = disk
        .files()
        .into_iter()
        .rfind(|(path, _)| path.starts_with("wal"))
        .unwrap();
    let mut torn = 0;
    for bit in 0..content.len() * 8 {
        let disk = disk.fork();
        disk.flip_bit(&path, bit / 8, (bit % 8) as u8);
        match open(&disk) {
            Ok((
                _,
                Recovered {
                    restored,
                    torn_tail: Some(tail),
                    ..
                },
            )) if restored != whole => {
                assert_eq!(tail.file, path);
                assert!(tail.offset as usize <= bit / 8);
                let entries = restored.entries.len();
                assert!(
                    entries >= one_more.entries.len(),
                    "bit {bit}: lost more than a batch"
                );
                let prefix = Restored {
                    entries: whole.entries[..entries].to_vec(),
                    ..whole.clone()
                };
                assert_eq!(restored, prefix, "bit {bit}");
                torn += 1;
            }
            outcome => check(outcome, &whole, &format!("bit {bit}")),
        }
    }
    assert!(
        torn > 0,
        "with the word of it gone, a flip in the last batch looks torn"
    );
}

/// A log of one segment with three synced batches of one entry; where their records begin.
fn three_batches() -> (SimDisk, [usize; 3], Vec<u8>) {
    let disk = SimDisk::new();
    let (mut persister, _) = open(&disk).unwrap();
    let vote = WriteBatch {
        hard_state: Some(term(1, None)),
        ..WriteBatch::default()
    };
    persister.write(&vote).unwrap();
    for index in 1..=3 {
        persister.write(&entries([(index, 50)])).unwrap();
        persister.sync().unwrap();
    }
    drop(persister);
    let first = SEGMENT_HEADER + RECORD_HEADER + 24;
    let each = RECORD_HEADER + 16 + 50 + RECORD_HEADER; // the entry, then the word of the sync
    let content = disk.files()[&segment(1)].clone();
    for at in [first, first + each, first + 2 * each] {
        assert_eq!(
            content[at + 16],
            5,
            "a command's record begins at byte {at}"
        );
    }
    (disk, [first, first + each, first + 2 * each], content)
}

fn last_of(outcome: Result<(Persister, Recovered), StorageError>) -> (u64, Recovered) {
    let (_, recovered) = outcome.unwrap();
    (recovered.restored.entries.len() as u64, recovered)
}

/// What must be shown: a log whose last record was cut in the middle by hand starts, says so, and
/// has all the others.
#[test]
fn last_record_cut_by_hand_is_dropped_and_reported() {
    let (disk, [.., last], content) = three_batches();
    for cut in last + 1..last + RECORD_HEADER + 66 {
        let disk = disk.fork();
        disk.put(&segment(1), &content[..cut]);
        let (entries, recovered) = last_of(open(&disk));
        assert_eq!(entries, 2);
        let tail = recovered.torn_tail.expect("it is reported");
        assert_eq!((tail.file, tail.offset), (segment(1), last as u64));
        assert!(tail.bytes_dropped <= (cut - last) as u64 && tail.bytes_dropped > 0);
        assert_eq!(
            open(&disk).unwrap().1.torn_tail,
            None,
            "it was cut off for good"
        );
    }
}

fn assert_corrupt(disk: &SimDisk, at: usize, context: &str) {
    let untouched = disk.files();
    let error = open(disk).expect_err(context);
    let StorageError::Corrupt { file, offset, .. } = &error else {
        panic!("{context}: {error}")
    };
    assert_eq!(
        (file.as_path(), *offset),
        (segment(1).as_path(), at as u64),
        "{context}"
    );
    assert!(
        error.to_string().contains("the other nodes carry on"),
        "{error}"
    );
    assert_eq!(disk.files(), untouched, "{context}: evidence was destroyed");
}

/// What must be shown, and failure 65: a byte changed in the middle is refused with file
/// and offset, whichever part of a record it hits. A bad length hides where the next one begins;
/// it is found all the same.
#[test]
fn damage_in_the_middle_is_refused_with_file_and_offset() {
    let (disk, [first, second, third], _) = three_batches();
    for (at, record, context) in [
        (first + 4, first, "a length made longer"),
        (first + 7, first, "a length made huge"),
        (second + 8, second, "a checksum"),
        (second + 16, second, "a kind"),
        (second + 30, second, "an index"),
        (second + 60, second, "a command"),
        // Only the word of its sync follows.
        (third + 60, third, "the last command"),
        (third + 4, third, "the last length"),
    ] {
        let disk = disk.fork();
        disk.flip_bit(&segment(1), at, 0);
        assert_corrupt(&disk, record, context);
    }
}

/// A write that the disk lost, and one that it put in another place.
#[test]
fn lost_and_misdirected_writes_are_refused() {
    let (disk, [first, second, third], content) = three_batches();
    let lost = disk.fork();
    let mut bytes = content.clone();
    bytes[second..third].fill(0);
    lost.put(&segment(1), &bytes);
    assert_corrupt(&lost, second, "lost");

    let misdirected = disk.fork();
    let mut bytes = content.clone();
    bytes.copy_within(first..second, second);
    misdirected.put(&segment(1), &bytes);
    assert_corrupt(&misdirected, second, "another record in its place");
}

/// What an earlier use of the place left there: records of the same log, but not of this place or
/// segment, are not taken for its continuation. Failure 64: nor are zeros in the middle
/// of the last record.
#[test]
fn stale_records_and_zeroed_sectors_are_not_read() {
    let (disk, [first, second, third], content) = three_batches();
    let end = third + (second - first);
    let mut stale = content.clone();
    stale.copy_within(first..second, end);
    disk.put(&segment(1), &stale);
    let (entries, recovered) = last_of(open(&disk));
    assert_eq!(entries, 3);
    assert_eq!(
        recovered.torn_tail.expect("it is reported").offset,
        end as u64
    );

    let zeroed = disk.fork();
    let mut bytes = content.clone();
    bytes[third + 40..].fill(0);
    zeroed.put(&segment(1), &bytes);
    assert_eq!(last_of(open(&zeroed)).0, 2);
}

/// A segment under another's name, another node's segment, a segment that is not there.
#[test]
fn swapped_foreign_and_missing_files_are_refused() {
    let disk = SimDisk::new();
    written(&disk, SEGMENT_BYTES, 12);
    let files = disk.files();
    let segments: Vec<&PathBuf> = files
        .keys()
        .filter(|path| path.starts_with("wal"))
        .collect();
    let refuse = |disk: &SimDisk, what: &str| match open(disk) {
        Err(error) => error.to_string(),
        Ok(_) => panic!("started with {what}"),
    };

    let swapped = disk.fork();
    swapped.put(segments[1], &files[segments[2]]);
    swapped.put(segments[2], &files[segments[1]]);
    assert!(refuse(&swapped, "swapped segments").contains("it was written as segment"));

    // The last one, too, though a crash may leave another one's header there while it is created.
    let last = segments[segments.len() - 1];
    let copied = disk.fork();
    copied.put(last, &files[segments[segments.len() - 2]]);
    assert!(refuse(&copied, "a copy").contains("it was written as segment"));
    assert!(copied.files().contains_key(last), "and it is still there");

    for gone in &segments[..segments.len() - 1] {
        let without = SimDisk::new();
        raft::storage::Disk::create_dir(&without, Path::new("wal")).unwrap();
        for (path, content) in &files {
            if path != *gone {
                without.put(path, content);
            }
        }
        let text = refuse(&without, "a segment missing");
        assert!(text.contains("missing"), "{text}");
    }

    for (prefix, text) in [
        ("wal", "wal is missing"),
        ("IDENTITY", "IDENTITY is missing"),
    ] {
        let without = SimDisk::new();
        for (path, content) in files.iter().filter(|(path, _)| !path.starts_with(prefix)) {
            without.put(path, content);
        }
        let found = refuse(&without, prefix);
        assert!(found.contains(text), "{found}");
        assert!(found.contains("A damaged node"), "{found}");
    }
}

/// Failure 93: the newest snapshot is damaged. An older one does if the log goes back
/// that far; else the node refuses and names the file.
#[test]
fn damaged_snapshot_is_replaced_by_an_older_one_only_if_the_log_reaches_back() {
    let disk = SimDisk::new();
    let whole = written(&disk, SEGMENT_BYTES, 8);
    let newest = Path::new("snapshot/0000000000000007-1.snap");
    disk.flip_bit(newest, 45, 3);
    let covered = disk.fork();
    let (persister, recovered) = open(&covered).unwrap();
    assert_eq!(persister.snapshots().latest(), Some(id(5, 1)));
    assert_eq!(recovered.damaged_snapshots.len(), 1);
    assert_eq!(
        recovered.restored,
        Restored {
            snapshot: id(5, 1),
            membership: Some(Arc::new(snapshot_members(id(5, 1)))),
            ..whole
        }
    );
    assert!(
        persister.snapshots().open(id(7, 1)).is_err(),
        "nobody gets to read it"
    );
    drop(persister);

    // The same after the log was cut down to the newest.
    let disk = SimDisk::new();
    written(&disk, SEGMENT_BYTES, 8);
    let (mut persister, _) = open(&disk).unwrap();
    let compaction = Some(Compaction {
        snapshot: id(7, 1),
        drop_upto: id(6, 1),
    });
    persister
        .write(&WriteBatch {
            compaction,
            ..WriteBatch::default()
        })
        .unwrap();
    persister.sync().unwrap();
    drop(persister);
    disk.flip_bit(newest, 45, 3);
    let error = open(&disk).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("snapshot/0000000000000007-1.snap"),
        "{error}"
    );
    disk.put(newest, b"");
    assert!(
        open(&disk)
            .unwrap_err()
            .to_string()
            .contains("snapshot/0000000000000007-1.snap")
    );
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(500) })]

    /// Whatever replaces a piece of a file: no panic, no endless loop, no other data.
    #[test]
    fn rubbish_anywhere_is_recognised(
        seed in any::<u64>(),
        rubbish in prop::collection::vec(any::<u8>(), 1..200),
    ) {
        let disk = SimDisk::new();
        let whole = written(&disk, SEGMENT_BYTES, 10);
        let files: Vec<_> = disk.files().into_iter().collect();
        let mut rng = Rng::with_seed(seed);
        let (path, mut content) = files[rng.usize(..files.len())].clone();
        let at = rng.usize(..content.len());
        let end = content.len().min(at + rubbish.len());
        content[at..end].copy_from_slice(&rubbish[..end - at]);
        disk.put(&path, &content);
        match open(&disk) {
            // Rubbish that reaches to the end takes the word of the syncs with it: as torn as a
            // tail can be, and reported. What is left was written once.
            Ok((_, Recovered { restored, torn_tail: Some(_), .. })) => {
                for found in restored.entries {
                    let index = found.id.index.get();
                    let bytes = if index % 2 == 1 { 60 } else { 90 };
                    prop_assert_eq!(vec![found], entries([(index, bytes)]).entries);
                }
            }
            outcome => check(outcome, &whole, &format!("{} byte {at}", path.display())),
        }
    }
}

/// The only segment left is nothing but zeros: that is no segment that a crash kept from being
/// begun, for the one before it would still be there. Failure 69, as far as a node can tell.
#[test]
fn only_segment_wiped_is_refused_by_name() {
    let disk = SimDisk::new();
    let (mut persister, _) = open(&disk).unwrap();
    let mut next = 1;
    while disk.files().contains_key(&segment(1)) {
        let hard_state = Some(term(next, None));
        persister
            .write(&WriteBatch {
                hard_state,
                ..WriteBatch::default()
            })
            .unwrap();
        persister.sync().unwrap();
        next += 1;
    }
    drop(persister);
    disk.put(&segment(2), &[0; SEGMENT_BYTES]);
    let error = open(&disk).unwrap_err();
    assert!(
        matches!(&error, StorageError::Corrupt { file, .. } if *file == segment(2)),
        "{error}"
    );
}
