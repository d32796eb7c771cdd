use std::collections::BTreeMap;

use bytes::Bytes;
use tempfile::TempDir;

use super::*;
use crate::core::{LogIndex, Term};

const OLD: Identity = Identity {
    node: NodeId::new(2),
    cluster: 0xbeef,
};

fn id(index: u64, term: u64) -> LogId {
    LogId::new(Term::new(term), LogIndex::new(index))
}

fn members() -> Membership {
    let address = |id| (NodeId::new(id), format!("10.0.0.{id}:29016"));
    Membership::of_voters((1..=3).map(address)).unwrap()
}

fn command(index: u64, term: u64) -> Entry {
    Entry {
        id: id(index, term),
        payload: Payload::Command(Bytes::from(vec![7; 1000])),
    }
}

/// Node 2 of three, with a snapshot up to entry 3 if asked for, and entries 4 to 6.
fn directory(with_snapshot: bool) -> (TempDir, PathBuf) {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("node2");
    let disk = RealDisk::open(&dir).unwrap();
    let (mut persister, _) = Persister::open(disk, OLD, PersisterOptions::default()).unwrap();
    let voted_for = Some(NodeId::new(3));
    let current_term = Term::new(7);
    let mut entries: Vec<Entry> = (1..=6).map(|index| command(index, 5)).collect();
    if !with_snapshot {
        entries[1].payload = Payload::Membership(Arc::new(members()));
    }
    let mut batch = WriteBatch {
        hard_state: Some(HardState {
            current_term,
            voted_for,
        }),
        entries,
        ..WriteBatch::default()
    };
    persister.write(&batch).unwrap();
    if with_snapshot {
        let mut snapshot = persister.snapshots().create(id(3, 5), &members()).unwrap();
        snapshot.write_all(&vec![9; 600_000]).unwrap();
        snapshot.finish().unwrap();
        batch = WriteBatch {
            compaction: Some(crate::core::Compaction {
                snapshot: id(3, 5),
                drop_upto: id(2, 5),
            }),
            ..WriteBatch::default()
        };
        persister.write(&batch).unwrap();
    }
    persister.sync().unwrap();
    (parent, dir)
}

/// What is in a directory, file by file.
fn image(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(image(&path));
        } else if path.file_name().unwrap() != "LOCK" {
            files.insert(
                path.strip_prefix(dir.parent().unwrap()).unwrap().to_owned(),
                fs::read(&path).unwrap(),
            );
        }
    }
    files
}

fn reopen(dir: &Path, identity: Identity) -> Restored {
    let disk = RealDisk::open(dir).unwrap();
    let opened = Persister::open(disk, identity, PersisterOptions::default());
    opened.unwrap().1.restored
}

/// Failure 112: nobody else is left among the members.
#[test]
fn one_node_begins_a_new_cluster_with_all_that_it_had() {
    for with_snapshot in [true, false] {
        let (_parent, dir) = directory(with_snapshot);
        reopen(&dir, OLD); // says in its log that it starts here
        let old_files = image(&dir);
        let forced = force_new_cluster(&dir, OLD.node, None).unwrap();
        assert_eq!(forced.old, OLD);
        assert_eq!(forced.old_members.as_deref(), Some(&members()));
        assert_ne!(forced.new.cluster, OLD.cluster);
        assert_eq!(forced.last_log, id(6, 5));
        assert_eq!(forced.membership, id(7, 8));
        assert_eq!(forced.address, "10.0.0.2:29016");

        let restored = reopen(&dir, forced.new);
        let hard_state = HardState {
            current_term: Term::new(8),
            voted_for: Some(OLD.node),
        };
        assert_eq!(restored.hard_state, hard_state);
        let last = restored.entries.last().unwrap();
        let alone = Membership::of_voters([(OLD.node, forced.address.clone())]).unwrap();
        assert_eq!(last.payload, Payload::Membership(Arc::new(alone)));
        let (snapshot, first) = if with_snapshot {
            (id(3, 5), 4)
        } else {
            (LogId::ZERO, 1)
        };
        assert_eq!(restored.snapshot, snapshot);
        let indexes = restored.entries.iter().map(|entry| entry.id.index.get());
        assert!(indexes.eq(first..=7));

        let aside = image(&forced.aside);
        let names =
            |image: &BTreeMap<PathBuf, Vec<u8>>| image.values().cloned().collect::<Vec<_>>();
        assert_eq!(
            names(&aside),
            names(&old_files),
            "the old one is what it was"
        );
        assert_eq!(
            reopen(&forced.aside, OLD).hard_state.current_term,
            Term::new(7)
        );
    }
}

/// A crash after each step: DIR is the old one or the new one, and another attempt goes through.
#[test]
fn a_crash_leaves_the_old_one_or_the_new_one() {
    for steps in 0..=6 {
        let (_parent, dir) = directory(true);
        let beside = with_suffix(&dir, ".new-cluster");
        let old = Old::open(&dir, OLD.node).unwrap();
        let plan = Plan::of(&old, None).unwrap();
        let new = plan.new;
        // A directory half written is one with the mark and some of the files.
        let taken: [&dyn Fn(); 6] = [
            &|| begin(&beside).unwrap(),
            &|| drop(RealDisk::open(beside.join("wal")).unwrap()),
            &|| {
                clear(&beside).unwrap();
                drop(write_beside(&old, &plan, &beside).unwrap());
            },
            &|| finish(&beside).unwrap(),
            &|| swap(&dir, &beside).unwrap(),
            &|| drop(put_aside(&dir, &beside).unwrap()),
        ];
        for step in &taken[..steps] {
            step();
        }
        drop(old);
        let now = if steps < 5 { OLD } else { new };
        assert_eq!(
            Identity::recorded(&RealDisk::open(&dir).unwrap()).unwrap(),
            Some(now)
        );
        let entries = reopen(&dir, now).entries.len();
        assert!(entries >= 3, "after {steps} steps");

        let forced = force_new_cluster(&dir, OLD.node, None).unwrap();
        assert_eq!(forced.old, now);
        reopen(&dir, forced.new);
        reopen(&forced.aside, now);
        assert!(!beside.exists());
        // Half a directory is nothing to keep; a whole one is not ours to delete.
        let kept = with_suffix(&beside, ".left-1").exists();
        assert_eq!(kept, (4..=5).contains(&steps), "after {steps} steps");
    }
}

#[test]
fn what_it_is_not_for_is_refused_and_changes_nothing() {
    let (parent, dir) = directory(true);
    let before = image(&dir);
    let other = force_new_cluster(&dir, NodeId::new(1), None);
    assert!(matches!(other, Err(NewClusterError::OtherNode { .. })));
    let nobody = force_new_cluster(parent.path(), OLD.node, None);
    assert!(matches!(nobody, Err(NewClusterError::NoNode { .. })));
    let long = force_new_cluster(&dir, OLD.node, Some("a".repeat(256)));
    assert!(matches!(long, Err(NewClusterError::Membership(_))));
    let running = Old::open(&dir, OLD.node).unwrap();
    let held = force_new_cluster(&dir, OLD.node, None);
    assert!(matches!(
        held,
        Err(NewClusterError::Storage(StorageError::InUse { .. }))
    ));
    drop(running);
    assert_eq!(image(&dir).len(), before.len());
    assert_eq!(
        Identity::recorded(&RealDisk::open(&dir).unwrap()).unwrap(),
        Some(OLD)
    );
    assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 1);

    // A cluster that never changed its members and has no snapshot: its log names no address.
    let (_parent, dir) = directory(true);
    let disk = RealDisk::open(&dir).unwrap();
    drop(disk);
    fs::remove_dir_all(&dir).unwrap();
    let disk = RealDisk::open(&dir).unwrap();
    drop(Persister::open(disk, OLD, PersisterOptions::default()).unwrap());
    let silent = force_new_cluster(&dir, OLD.node, None);
    assert!(matches!(silent, Err(NewClusterError::NoAddress { .. })));
    let told = force_new_cluster(&dir, OLD.node, Some("10.0.0.9:1".to_owned())).unwrap();
    assert_eq!(told.membership, id(1, 1));
}
