//! What tools see of a node's files, beside what a start makes of them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use raft::StorageError;
use raft::core::{Compaction, WriteBatch};
use raft::storage::inspect::{Directory, LogItem, Record, SnapshotFile};
use raft::storage::{Persister, PersisterOptions, RealDisk, TornTail};
use tempfile::TempDir;

use crate::script::{IDENTITY, SEGMENT_BYTES, entry, id, save_snapshot, term};

fn open(dir: &Path) -> Result<(Persister, Option<TornTail>), StorageError> {
    let options = PersisterOptions {
        segment_bytes: SEGMENT_BYTES,
        ..PersisterOptions::default()
    };
    let (persister, recovered) = Persister::open(RealDisk::open(dir)?, IDENTITY, options)?;
    Ok((persister, recovered.torn_tail))
}

/// In memory where the machine has such a place: these tests start many nodes, and a start syncs.
fn temporary() -> TempDir {
    tempfile::tempdir_in("/dev/shm")
        .or_else(|_| tempfile::tempdir())
        .unwrap()
}

/// A log of two segments, with each kind of record, synced in the middle and not at the end.
fn node() -> TempDir {
    let dir = temporary();
    let (mut persister, _) = open(dir.path()).unwrap();
    persister
        .write(&WriteBatch {
            hard_state: Some(term(2, Some(1))),
            entries: (1..8).map(|index| entry(index, 1, &[7; 80])).collect(),
            ..WriteBatch::default()
        })
        .unwrap();
    persister.sync().unwrap();
    save_snapshot(&persister, id(3, 1)).unwrap();
    persister
        .write(&WriteBatch {
            truncate_from: Some(id(6, 1).index),
            entries: (6..9).map(|index| entry(index, 2, &[8; 80])).collect(),
            compaction: Some(Compaction {
                snapshot: id(3, 1),
                drop_upto: id(2, 1),
            }),
            ..WriteBatch::default()
        })
        .unwrap();
    dir
}

fn copy(dir: &Path) -> TempDir {
    let copied = temporary();
    for (path, content) in files(dir) {
        let path = copied.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    copied
}

fn files(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(next) = dirs.pop() {
        for file in fs::read_dir(next).unwrap() {
            let path = file.unwrap().path();
            if path.is_dir() {
                dirs.push(path);
            } else {
                let content = fs::read(&path).unwrap();
                found.insert(path.strip_prefix(dir).unwrap().to_owned(), content);
            }
        }
    }
    found
}

fn items(directory: &Directory) -> Vec<LogItem> {
    let mut items = Vec::new();
    let listed = directory.dump_log(|item| {
        items.push(item);
        Ok::<(), StorageError>(())
    });
    listed.unwrap();
    items
}

fn segments(dir: &Path) -> Vec<PathBuf> {
    let paths = files(dir).into_keys();
    paths.filter(|path| path.starts_with("wal")).collect()
}

#[test]
fn a_dump_lists_every_record_and_changes_nothing() {
    let dir = node();
    let before = files(dir.path());
    let directory = Directory::open(dir.path()).unwrap();
    assert_eq!(directory.identity(), IDENTITY);
    let brief: Vec<String> = items(&directory)
        .iter()
        .map(|item| match item {
            LogItem::Segment(info) => {
                let facts = info.header.unwrap();
                format!("segment {} after {}", facts.number, facts.state.last_index)
            }
            LogItem::Record(found) => match &found.record {
                Record::HardState(state) => format!("term {}", state.current_term),
                Record::Entry(entry) => entry.id.to_string(),
                Record::Truncate(from) => format!("without {from}"),
                Record::Compaction(compaction) => format!("without {}", compaction.drop_upto),
                Record::Reset(to) => format!("after {to}"),
                Record::Synced => "synced".to_owned(),
            },
            LogItem::Bad(bad) => format!("bad at {}", bad.offset),
        })
        .collect();
    let expected = "segment 1 after 0, term 2, 1@1, 2@1, 3@1, 4@1, 5@1, 6@1, 7@1, synced, \
                    segment 2 after 7, without 6, 6@2, 7@2, 8@2, without 2@1";
    assert_eq!(brief.join(", "), expected);

    let report = directory.verify_log().unwrap();
    assert_eq!(report.begins_after, id(2, 1).index);
    assert_eq!(report.state.last_index, id(8, 2).index);
    assert_eq!(report.state.hard_state, term(2, Some(1)));
    assert_eq!((report.torn_tail, report.unborn), (None, None));
    assert_eq!(report.segments.len(), 2);
    assert_eq!(files(dir.path()), before);
}

/// Wherever the log is damaged, and wherever it is cut off: the verdict is that of a start,
/// the dump lists what is there without a gap, and the files stay as they are.
#[test]
fn the_verdict_on_a_damaged_log_is_that_of_a_start() {
    let (mut torn, mut refused) = (0, 0);
    let whole = node();
    for segment in segments(whole.path()) {
        let intact = fs::read(whole.path().join(&segment)).unwrap();
        // Each field has four bytes or more, but for the kind, whose place varies.
        for at in (0..intact.len()).step_by(3) {
            for cut in [false, true] {
                if cut && at % 8 != 0 {
                    continue;
                }
                let mut damaged = intact.clone();
                if cut {
                    damaged.truncate(at);
                } else {
                    damaged[at] ^= 0x10;
                }
                let dir = copy(whole.path());
                fs::write(dir.path().join(&segment), &damaged).unwrap();
                let before = files(dir.path());
                let place = format!("{} byte {at}, cut: {cut}", segment.display());

                let directory = Directory::open(dir.path()).expect(&place);
                let report = directory.verify_log();
                check_gapless(&items(&directory), &place);
                assert_eq!(files(dir.path()), before, "{place}");
                drop(directory);
                let verdict = report.map(|report| report.torn_tail);
                let verdict = verdict.map_err(|error| error.to_string());
                let at_start = open(dir.path()).map(|(_, torn)| torn);
                assert_eq!(
                    verdict,
                    at_start.map_err(|error| error.to_string()),
                    "{place}"
                );
                torn += u32::from(matches!(verdict, Ok(Some(_))));
                refused += u32::from(verdict.is_err());
            }
        }
    }
    println!("torn {torn}, refused {refused}");
    assert!(torn > 30 && refused > 100, "torn {torn}, refused {refused}");
}

/// Records and bad bytes follow one another, but for zeros at a segment's end.
fn check_gapless(items: &[LogItem], context: &str) {
    let mut end = None;
    for item in items {
        let (offset, bytes) = match item {
            LogItem::Segment(_) => {
                end = None;
                continue;
            }
            LogItem::Record(found) => (found.offset, found.bytes),
            LogItem::Bad(bad) => (bad.offset, bad.bytes),
        };
        assert!(
            bytes > 0 && end.is_none_or(|end| end == offset),
            "{context}"
        );
        end = Some(offset + bytes);
    }
}

/// Two programs may look at once; a node that runs keeps them out, unless they insist, and they keep
/// a node from starting.
#[test]
fn a_directory_in_use_is_not_looked_at_unawares() {
    let dir = node();
    let (persister, _) = open(dir.path()).unwrap();
    let refused = Directory::open(dir.path()).unwrap_err();
    assert!(matches!(refused, StorageError::InUse { .. }), "{refused}");
    let holder = format!("process {}", std::process::id());
    assert!(refused.to_string().contains(&holder), "{refused}");
    assert!(
        Directory::open_live(dir.path())
            .unwrap()
            .verify_log()
            .is_ok()
    );
    drop(persister);

    let one = Directory::open(dir.path()).unwrap();
    let another = Directory::open(dir.path()).unwrap();
    let refused = open(dir.path()).map(|_| ()).unwrap_err();
    assert!(matches!(refused, StorageError::InUse { .. }), "{refused}");
    drop((one, another));
    open(dir.path()).unwrap();
}

/// A lost or damaged IDENTITY, as a start would refuse it, hides nothing from a tool.
#[test]
fn the_log_says_whose_it_is_when_identity_does_not() {
    let dir = node();
    fs::write(dir.path().join("IDENTITY"), "raft data dir").unwrap();
    let directory = Directory::open(dir.path()).unwrap();
    assert_eq!(directory.identity(), IDENTITY);
    assert!(matches!(
        directory.identity_problem(),
        Some(StorageError::Corrupt { .. })
    ));
    assert!(directory.verify_log().is_ok());
    drop(directory);
    fs::remove_file(dir.path().join("IDENTITY")).unwrap();
    fs::remove_file(dir.path().join("LOCK")).unwrap();
    let directory = Directory::open(dir.path()).unwrap();
    assert!(matches!(
        directory.identity_problem(),
        Some(StorageError::Missing { .. })
    ));
    assert!(!dir.path().join("LOCK").exists());

    let nobody = Directory::open(dir.path().join("wal")).unwrap_err();
    assert!(matches!(nobody, StorageError::Io { .. }), "{nobody}");
}

/// A snapshot under whatever name, and with any byte damaged or cut off.
#[test]
fn a_snapshot_is_named_by_its_header_and_verified_as_a_whole() {
    let node = node();
    let path = node.path().join("snapshot/0000000000000003-1.snap");
    let found = SnapshotFile::open(&path).unwrap();
    assert_eq!((found.id, found.named), (id(3, 1), Some(id(3, 1))));
    assert_eq!(found.cluster, IDENTITY.cluster);
    assert!(found.verify().is_ok());

    let content = fs::read(&path).unwrap();
    let copy = node.path().join("a copy");
    for at in 0..content.len() {
        let mut damaged = content.clone();
        damaged[at] ^= 1;
        for bytes in [&damaged[..], &content[..at]] {
            fs::write(&copy, bytes).unwrap();
            let outcome = SnapshotFile::open(&copy).and_then(|found| found.verify().map(|_| ()));
            let error = outcome.expect_err("it is damaged");
            assert!(error.to_string().contains("a copy"), "byte {at}: {error}");
        }
    }
    fs::write(&copy, &content).unwrap();
    let found = SnapshotFile::open(&copy).unwrap();
    assert_eq!((found.id, found.named), (id(3, 1), None));
    assert!(found.verify().is_ok());
}
