//! A directory serves one process, of one node, of one cluster, of one format.

use std::path::Path;

use raft::core::{Compaction, NodeId, WriteBatch};
use raft::storage::sim_disk::{Crash, SimDisk};
use raft::storage::{Identity, Persister, PersisterOptions, RealDisk, StorageError};

use crate::script::{IDENTITY, entry, id, open, save_snapshot, term};

/// Failure 74. The message says who has it; nothing is touched.
#[test]
fn second_process_is_refused_and_told_who_holds_the_directory() {
    let dir = tempfile::tempdir().unwrap();
    let open = || {
        let disk = RealDisk::open(dir.path()).unwrap();
        Persister::open(disk, IDENTITY, PersisterOptions::default())
    };
    let (persister, _) = open().unwrap();
    let error = open().unwrap_err();
    assert!(matches!(error, StorageError::InUse { .. }), "{error}");
    let text = error.to_string();
    assert!(
        text.contains(&format!("process {}", std::process::id())),
        "{text}"
    );
    assert!(text.contains("LOCK"), "{text}");

    // Whoever can still write snapshots keeps it.
    let snapshots = persister.snapshots();
    drop(persister);
    assert!(open().is_err());
    drop(snapshots);
    open().unwrap();
}

/// Failures 45, 71: a node is started on another's directory, or another cluster's.
#[test]
fn directory_of_another_node_or_cluster_is_refused_with_both_named() {
    let disk = SimDisk::new();
    drop(open(&disk).unwrap());
    let untouched = disk.files();
    for other in [
        Identity {
            node: NodeId::new(4),
            ..IDENTITY
        },
        Identity {
            cluster: IDENTITY.cluster + 1,
            ..IDENTITY
        },
    ] {
        let error = Persister::open(disk.clone(), other, PersisterOptions::default()).unwrap_err();
        assert!(
            matches!(error, StorageError::OtherIdentity { .. }),
            "{error}"
        );
        let text = error.to_string();
        assert!(
            text.contains("node 3 of cluster 0x000000000000feed"),
            "{text}"
        );
        assert!(
            text.contains(&format!("node {} of cluster", other.node)),
            "{text}"
        );
        assert_eq!(disk.files(), untouched);
    }
}

/// A segment of another node in this node's log: copied there by hand.
#[test]
fn segment_of_another_node_is_refused() {
    let disk = SimDisk::new();
    drop(open(&disk).unwrap());
    let other = SimDisk::new();
    let identity = Identity {
        node: NodeId::new(9),
        ..IDENTITY
    };
    drop(Persister::open(other.clone(), identity, PersisterOptions::default()).unwrap());
    let segment = Path::new("wal/0000000000000001.wal");
    disk.put(segment, &other.files()[segment]);
    let error = open(&disk).unwrap_err();
    assert!(
        matches!(error, StorageError::OtherIdentity { found_node: 9, .. }),
        "{error}"
    );
}

/// Older and newer versions are refused with both named.
#[test]
fn other_format_versions_are_refused_with_both_named() {
    for version in [0u32, 2] {
        let disk = SimDisk::new();
        drop(open(&disk).unwrap());
        let text = format!("raft data directory\nformat {version}\nwhatever this version says\n");
        let checksum = crc32c::crc32c(text.as_bytes());
        disk.put(
            Path::new("IDENTITY"),
            format!("{text}crc32c {checksum:#010x}\n").as_bytes(),
        );
        let error = open(&disk).unwrap_err().to_string();
        assert!(
            error.contains(&format!("IDENTITY has format version {version}")),
            "{error}"
        );
        assert!(error.contains("reads version 1"), "{error}");

        let disk = SimDisk::new();
        drop(open(&disk).unwrap());
        let segment = Path::new("wal/0000000000000001.wal");
        let mut content = disk.files()[segment].clone();
        content[8..12].copy_from_slice(&version.to_le_bytes());
        let checksum = crc32c::crc32c(&content[..124]);
        content[124..128].copy_from_slice(&checksum.to_le_bytes());
        disk.put(segment, &content);
        let error = open(&disk).unwrap_err().to_string();
        assert!(
            error.contains(&format!(".wal has format version {version}")),
            "{error}"
        );
    }
}

/// Failures 73, 77, 78, 84: a crash came between a snapshot and the log's word of it.
#[test]
fn snapshot_newer_than_the_log_replaces_it_unless_the_log_agrees() {
    let log_of_five = || {
        let disk = SimDisk::new();
        let (mut persister, _) = open(&disk).unwrap();
        let entries = (1..=5).map(|index| entry(index, 1, b"x")).collect();
        let hard_state = Some(term(1, Some(2)));
        persister
            .write(&WriteBatch {
                hard_state,
                entries,
                ..WriteBatch::default()
            })
            .unwrap();
        persister.sync().unwrap();
        (disk, persister)
    };
    for (snapshot, kept, why) in [
        (
            id(3, 1),
            5,
            "the log has that entry: it stays, before and after it",
        ),
        (id(5, 1), 5, "the log ends there"),
        (id(3, 2), 0, "another entry at that index"),
        (id(9, 1), 0, "the log ends before it"),
    ] {
        let (disk, persister) = log_of_five();
        save_snapshot(&persister, snapshot).unwrap();
        drop(persister);
        for start in ["first", "second"] {
            let restored = open(&disk).unwrap().1.restored;
            assert_eq!(restored.snapshot, snapshot, "{why}, {start} start");
            assert_eq!(restored.entries.len(), kept, "{why}, {start} start");
            assert_eq!(
                restored.prev,
                if kept == 0 { snapshot } else { id(0, 0) },
                "{why}"
            );
            // A term that only the snapshot knows counts; this node has no vote in it.
            let newer = snapshot.term.get() > 1;
            assert_eq!(
                restored.hard_state,
                if newer {
                    term(2, None)
                } else {
                    term(1, Some(2))
                }
            );
        }
    }
}

/// Failure 98: the log begins after what the newest snapshot includes, so something is gone.
#[test]
fn gap_between_snapshot_and_log_is_refused_and_named() {
    let disk = SimDisk::new();
    let (mut persister, _) = open(&disk).unwrap();
    let entries = (1..=5).map(|index| entry(index, 1, b"x")).collect();
    let hard_state = Some(term(1, None));
    persister
        .write(&WriteBatch {
            hard_state,
            entries,
            ..WriteBatch::default()
        })
        .unwrap();
    persister.sync().unwrap();
    save_snapshot(&persister, id(4, 1)).unwrap();
    let compaction = Some(Compaction {
        snapshot: id(4, 1),
        drop_upto: id(3, 1),
    });
    persister
        .write(&WriteBatch {
            compaction,
            ..WriteBatch::default()
        })
        .unwrap();
    persister.sync().unwrap();
    drop(persister);
    let snapshot = Path::new("snapshot/0000000000000004-1.snap");
    raft::storage::Disk::remove(&disk, snapshot).unwrap();

    let error = open(&disk).unwrap_err();
    assert!(matches!(error, StorageError::Gap { .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains("0000000000000004-1.snap"), "{text}");
    assert!(text.contains("only after entry 3"), "{text}");
}

/// The process that set the directory up was killed at any point; the next one uses it,
/// and then power fails. The first one's names must have become durable.
#[test]
fn directory_set_up_by_a_killed_process_survives_a_power_cut() {
    for operations in 0..30 {
        let disk = SimDisk::new();
        disk.power_off_after(operations);
        drop(open(&disk));
        disk.crash(Crash::Kill);
        let (mut persister, _) = open(&disk).unwrap();
        let hard_state = Some(term(1, Some(2)));
        persister
            .write(&WriteBatch {
                hard_state,
                ..WriteBatch::default()
            })
            .unwrap();
        persister.sync().unwrap();
        drop(persister);
        disk.crash(Crash::Lost);
        let (_, recovered) = open(&disk).expect("set up, and in use");
        assert_eq!(
            recovered.restored.hard_state,
            term(1, Some(2)),
            "killed after {operations}"
        );
    }
}
