//! Snapshots: whole or not there, and arriving in chunks.

use std::io::{Read, Write};
use std::path::Path;

use raft::core::LogId;
use raft::storage::sim_disk::{Crash, SimDisk};
use raft::storage::{Persister, PersisterOptions, ReceiveOutcome, SnapshotStore, StorageError};

use crate::script::{
    IDENTITY, id, open, read_snapshot, save_snapshot, snapshot_body, snapshot_members,
};

/// The file of a snapshot as another node has it.
fn file_of(snapshot: LogId) -> Vec<u8> {
    let (persister, _) = open(&SimDisk::new()).unwrap();
    save_snapshot(&persister, snapshot).unwrap();
    let reader = persister.snapshots().open(snapshot).unwrap();
    let mut file = Vec::new();
    while (file.len() as u64) < reader.len() {
        file.extend_from_slice(&reader.read_at(file.len() as u64, 50).unwrap());
    }
    assert!(reader.read_at(reader.len(), 50).unwrap().is_empty());
    file
}

fn next(next_offset: usize) -> ReceiveOutcome {
    ReceiveOutcome {
        next_offset: next_offset as u64,
        complete: false,
    }
}

/// The original's defects 2 and 3, failure 96: zeros, blanks, nothing, and more than one
/// buffer of it; read once, and again.
#[test]
fn body_comes_back_as_it_was() {
    let large: Vec<u8> = (0..3_000_000u32).map(|n| (n / 7) as u8).collect();
    for body in [&b""[..], b"22 0 0", b"\0\0 \n", &large] {
        let disk = SimDisk::new();
        let (persister, _) = open(&disk).unwrap();
        let mut writer = persister
            .snapshots()
            .create(id(9, 2), &snapshot_members(id(9, 2)))
            .unwrap();
        writer.write_all(body).unwrap();
        writer.finish().unwrap();
        for _ in 0..2 {
            let mut reader = persister.snapshots().open(id(9, 2)).unwrap();
            let mut found = Vec::new();
            reader.read_to_end(&mut found).unwrap();
            assert!(found == body, "{} bytes", body.len());
            assert_eq!(reader.id(), id(9, 2));
        }
        drop(persister);
        disk.crash(Crash::Lost);
        let (persister, recovered) = open(&disk).unwrap();
        assert_eq!(recovered.restored.snapshot, id(9, 2));
        assert_eq!(persister.snapshots().latest(), Some(id(9, 2)));
    }
}

/// One that was not finished leaves nothing; what a crash leaves of it is removed at start, unless a
/// leader was sending it.
#[test]
fn unfinished_snapshot_is_none() {
    let disk = SimDisk::new();
    let (persister, _) = open(&disk).unwrap();
    let files = disk.files().len();
    let mut writer = persister
        .snapshots()
        .create(id(9, 2), &snapshot_members(id(9, 2)))
        .unwrap();
    writer.write_all(&vec![1; 500_000]).unwrap();
    drop(writer);
    assert_eq!(disk.files().len(), files);

    let mut writer = persister
        .snapshots()
        .create(id(9, 2), &snapshot_members(id(9, 2)))
        .unwrap();
    writer.write_all(&vec![1; 500_000]).unwrap();
    persister
        .snapshots()
        .receive(id(10, 2), 0, b"abc", false)
        .unwrap();
    assert_eq!(disk.files().len(), files + 2);
    disk.crash(Crash::Kept);
    std::mem::forget(writer); // the process is dead, no destructor ran
    assert_eq!(disk.files().len(), files + 2);
    let (persister, _) = open(&disk).unwrap();
    assert_eq!(disk.files().len(), files + 1);
    assert_eq!(persister.snapshots().latest(), None);
    let outcome = persister.snapshots().receive(id(10, 2), 0, b"", false);
    assert_eq!(outcome.unwrap(), next(3), "goes on");
}

/// What had arrived of a snapshot goes once it is of no use: when a newer one begins to arrive, when
/// this node has the state by other means, and at start the older of two.
#[test]
fn what_had_arrived_of_a_snapshot_goes_when_it_is_of_no_use() {
    let part = |snapshot: LogId| {
        let name = format!(
            "snapshot/{:016}-{}.snap.part",
            snapshot.index, snapshot.term
        );
        std::path::PathBuf::from(name)
    };
    let disk = SimDisk::new();
    let (persister, _) = open(&disk).unwrap();
    let store = persister.snapshots();
    store.receive(id(10, 2), 0, b"abc", false).unwrap();
    store.receive(id(12, 2), 0, b"abcd", false).unwrap();
    assert!(!disk.files().contains_key(&part(id(10, 2))));
    drop((persister, store));

    disk.put(&part(id(11, 2)), b"left");
    disk.put(&part(id(11, 2)).with_extension("other"), b"not ours");
    disk.crash(Crash::Kept);
    let (persister, _) = open(&disk).unwrap();
    let files = disk.files();
    assert!(files.contains_key(&part(id(12, 2))));
    assert!(!files.contains_key(&part(id(11, 2))));
    assert!(
        files
            .keys()
            .any(|path| path.ends_with("0000000000000011-2.snap.other"))
    );

    persister.snapshots().remove_older_than(id(11, 2)).unwrap();
    assert!(disk.files().contains_key(&part(id(12, 2))));
    save_snapshot(&persister, id(13, 2)).unwrap();
    persister.snapshots().remove_older_than(id(13, 2)).unwrap();
    assert!(!disk.files().contains_key(&part(id(12, 2))));

    disk.put(&part(id(13, 2)), b"left");
    drop(persister);
    drop(open(&disk).unwrap());
    assert!(!disk.files().contains_key(&part(id(13, 2))), "it is here");
}

/// Failure 92: lost, repeated and reordered chunks; a chunk of another snapshot.
#[test]
fn chunks_are_taken_in_order_and_others_told_where_to_go_on() {
    let (persister, _) = open(&SimDisk::new()).unwrap();
    let store = persister.snapshots();
    let (one, two) = (id(20, 2), id(30, 3));
    let (first, second) = (file_of(one), file_of(two));
    let chunk = |file: &[u8], at: usize| file[at..file.len().min(at + 16)].to_vec();

    assert_eq!(
        store.receive(one, 16, &chunk(&first, 16), false).unwrap(),
        next(0),
        "not begun"
    );
    assert_eq!(
        store.receive(one, 0, &chunk(&first, 0), false).unwrap(),
        next(16)
    );
    assert_eq!(
        store.receive(one, 0, &chunk(&first, 0), false).unwrap(),
        next(16),
        "repeated"
    );
    assert_eq!(
        store.receive(one, 32, &chunk(&first, 32), false).unwrap(),
        next(16),
        "one lost"
    );
    assert_eq!(
        store.receive(two, 16, &chunk(&second, 16), false).unwrap(),
        next(0),
        "a stray"
    );
    assert_eq!(
        store.receive(one, 16, &chunk(&first, 16), false).unwrap(),
        next(32),
        "goes on"
    );
    assert_eq!(
        store.receive(two, 0, &chunk(&second, 0), false).unwrap(),
        next(16),
        "anew"
    );
    assert_eq!(
        store.receive(one, 32, &chunk(&first, 32), false).unwrap(),
        next(0),
        "given up"
    );

    let mut at = 16;
    while at + 16 < second.len() {
        let taken = store.receive(two, at as u64, &chunk(&second, at), false);
        assert_eq!(taken.unwrap(), next(at + 16));
        at += 16;
    }
    assert_eq!(store.latest(), None);
    let last = chunk(&second, at);
    let done = ReceiveOutcome {
        next_offset: second.len() as u64,
        complete: true,
    };
    assert_eq!(store.receive(two, at as u64, &last, true).unwrap(), done);
    assert_eq!(
        store.receive(two, at as u64, &last, true).unwrap(),
        done,
        "our answer was lost"
    );
    assert_eq!(store.latest(), Some(two));
    assert_eq!(read_snapshot(&persister, two), snapshot_body(two));
}

/// Failure 93: damaged in transit, cut short, of another cluster, under another name:
/// nothing is installed, and the leader is asked to begin again.
#[test]
fn damaged_snapshot_is_not_installed() {
    let snapshot = id(20, 2);
    let file = file_of(snapshot);
    let foreign = {
        let identity = raft::storage::Identity {
            cluster: 1,
            ..IDENTITY
        };
        let options = PersisterOptions::default();
        let (persister, _) = Persister::open(SimDisk::new(), identity, options).unwrap();
        save_snapshot(&persister, snapshot).unwrap();
        persister
            .snapshots()
            .open(snapshot)
            .unwrap()
            .read_at(0, 1 << 20)
            .unwrap()
            .to_vec()
    };
    let (persister, _) = open(&SimDisk::new()).unwrap();
    let store = persister.snapshots();
    let mut bad = vec![foreign, file_of(id(21, 2)), file[..30].to_vec(), vec![]];
    for bit in 0..file.len() * 8 {
        let mut flipped = file.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        bad.push(flipped);
    }
    for (n, bad) in bad.iter().enumerate() {
        assert_eq!(
            store.receive(snapshot, 0, bad, true).unwrap(),
            next(0),
            "{n}"
        );
        assert_eq!(store.latest(), None);
    }
    assert!(store.receive(snapshot, 0, &file, true).unwrap().complete);
}

/// A leader may send what it wants; this node takes what its options allow.
#[test]
fn snapshot_over_the_limit_is_refused_and_leaves_nothing() {
    let disk = SimDisk::new();
    let options = PersisterOptions {
        max_snapshot_bytes: 100,
        ..PersisterOptions::default()
    };
    let (persister, _) = Persister::open(disk.clone(), IDENTITY, options).unwrap();
    let files = disk.files().len();
    let store = persister.snapshots();
    assert_eq!(
        store.receive(id(5, 1), 0, &[0; 100], false).unwrap(),
        next(100)
    );
    let error = store.receive(id(5, 1), 100, &[0], false).unwrap_err();
    assert!(
        matches!(
            error,
            StorageError::SnapshotTooLarge {
                limit_bytes: 100,
                ..
            }
        ),
        "{error}"
    );
    assert_eq!(disk.files().len(), files);
}

/// Sends a file in chunks, as a leader does, from where the receiver says.
fn send(store: &SnapshotStore, snapshot: LogId, file: &[u8]) -> Result<(), StorageError> {
    let mut at = 0;
    loop {
        let end = file.len().min(at + 40);
        let outcome = store.receive(snapshot, at as u64, &file[at..end], end == file.len())?;
        if outcome.complete {
            return Ok(());
        }
        at = usize::try_from(outcome.next_offset).unwrap();
    }
}

/// The receiver crashes at each operation. The old snapshot stays until the new one is
/// whole, and then the new one does.
#[test]
fn crash_while_receiving_leaves_the_old_snapshot_or_the_new_one() {
    let (old, new) = (id(5, 1), id(50, 2));
    let file = file_of(new);
    let base = SimDisk::new();
    {
        let (persister, _) = open(&base).unwrap();
        save_snapshot(&persister, old).unwrap();
    }
    for operations in 0..60 {
        for seed in 0..40 {
            let disk = base.fork();
            let (persister, _) = open(&disk).unwrap();
            disk.power_off_after(operations);
            let complete = send(&persister.snapshots(), new, &file).is_ok();
            drop(persister);
            disk.crash(if seed == 0 {
                Crash::Lost
            } else {
                Crash::Random { seed }
            });
            let (persister, recovered) = open(&disk).unwrap();
            let latest = persister.snapshots().latest().unwrap();
            assert!(
                latest == new || !complete && latest == old,
                "{operations}, seed {seed}"
            );
            assert_eq!(recovered.restored.snapshot, latest);
            assert_eq!(read_snapshot(&persister, latest), snapshot_body(latest));
            assert!(
                recovered.damaged_snapshots.is_empty(),
                "{operations}, seed {seed}"
            );
            send(&persister.snapshots(), new, &file).expect("it can be sent anew");
        }
    }
}

/// Failure 95: a file that is being sent stays readable when a newer snapshot takes its place; the
/// store keeps two.
#[test]
fn older_snapshots_go_and_readers_keep_theirs() {
    let disk = SimDisk::new();
    let (persister, _) = open(&disk).unwrap();
    let store = persister.snapshots();
    for index in 1..=4 {
        save_snapshot(&persister, id(index, 1)).unwrap();
    }
    let mut reader = store.open(id(1, 1)).unwrap();
    store.remove_older_than(id(4, 1)).unwrap();
    assert!(store.open(id(2, 1)).is_err());
    assert!(store.open(id(3, 1)).is_ok(), "to fall back on");
    assert_eq!(store.latest(), Some(id(4, 1)));
    assert!(
        !disk
            .files()
            .contains_key(Path::new("snapshot/0000000000000001-1.snap"))
    );
    let mut body = Vec::new();
    reader.read_to_end(&mut body).unwrap();
    assert_eq!(body, snapshot_body(id(1, 1)));
}

/// What has arrived is synced from time to time, its name too: after a loss of power the transfer goes
/// on from there.
#[test]
fn a_large_transfer_goes_on_after_a_loss_of_power() {
    let disk = SimDisk::new();
    let (persister, _) = open(&disk).unwrap();
    let chunk = vec![7; 1 << 20];
    for number in 0..19 {
        let offset = number * chunk.len();
        let outcome = persister
            .snapshots()
            .receive(id(9, 2), offset as u64, &chunk, false);
        assert_eq!(outcome.unwrap(), next(offset + chunk.len()));
    }
    drop(persister);
    disk.crash(Crash::Lost);
    let (persister, _) = open(&disk).unwrap();
    let outcome = persister.snapshots().receive(id(9, 2), 0, b"", false);
    assert_eq!(outcome.unwrap(), next(16 << 20), "synced every 8 MiB");
}
