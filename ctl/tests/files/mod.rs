//! `kvctl wal` and `kvctl snapshot`, as their users see them, over the directory of a node.

use std::fs;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use kvserver::{
    Command, LogTime, MemoryEngine, Op, RequestId, StateMachine, StateMachineOptions, Writer, codec,
};
use raft::core::{Compaction, Entry, HardState, WriteBatch};
use raft::storage::{Identity, Persister, PersisterOptions, RealDisk};
use raft::{LogId, LogIndex, Membership, NodeId, Payload, Term};
use serde_json::Value;
use tempfile::TempDir;

use crate::common::{Told, kvctl};

const SNAPSHOT: &str = "snapshot/0000000000000003-1.snap";

fn id(index: u64, term: u64) -> LogId {
    LogId::new(Term::new(term), LogIndex::new(index))
}

/// Those that the snapshot includes.
fn members() -> Membership {
    Membership::of_voters([(NodeId::new(2), "10.0.0.2:29016".to_owned())]).unwrap()
}

/// Node 2 of a cluster: three entries in its snapshot, five in its log.
struct Node {
    dir: TempDir,
    persister: Option<Persister>,
}

impl Node {
    fn stopped() -> Self {
        let mut node = Self::running();
        node.persister = None;
        node
    }

    fn running() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let identity = Identity {
            node: NodeId::new(2),
            cluster: 0xbeef,
        };
        let disk = RealDisk::open(dir.path()).unwrap();
        let options = PersisterOptions {
            segment_bytes: 4096,
            ..PersisterOptions::default()
        };
        let (mut persister, _) = Persister::open(disk, identity, options).unwrap();
        let entry = |index, payload| Entry {
            id: id(index, 1),
            payload,
        };
        let mut entries = vec![entry(1, Payload::Empty)];
        let commands = commands();
        entries.extend(
            (2..)
                .zip(&commands)
                .map(|(index, command)| entry(index, Payload::Command(command.clone()))),
        );
        let hard_state = Some(HardState {
            current_term: Term::new(1),
            voted_for: Some(NodeId::new(0)),
        });
        persister
            .write(&WriteBatch {
                hard_state,
                entries,
                ..WriteBatch::default()
            })
            .unwrap();
        persister.sync().unwrap();

        let mut state =
            StateMachine::new(MemoryEngine::new(), StateMachineOptions::default()).unwrap();
        state.apply_empty(1, 1).unwrap();
        for (index, command) in (2..=3).zip(&commands) {
            state.apply(index, 1, command).unwrap();
        }
        let snapshot = state.begin_snapshot().unwrap();
        let mut writer = persister.snapshots().create(id(3, 1), &members()).unwrap();
        snapshot.write_to(&mut writer).unwrap();
        writer.finish().unwrap();
        persister
            .write(&WriteBatch {
                truncate_from: Some(LogIndex::new(5)),
                compaction: Some(Compaction {
                    snapshot: id(3, 1),
                    drop_upto: id(1, 1),
                }),
                ..WriteBatch::default()
            })
            .unwrap();
        persister.sync().unwrap();
        Self {
            dir,
            persister: Some(persister),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn kvctl(&self, head: [&str; 2], name: &str, tail: &[&str]) -> Told {
        let path = self.path(name);
        let arguments = head.into_iter().chain([path.to_str().unwrap()]);
        kvctl(arguments.chain(tail.iter().copied()), "")
    }

    /// Offset of each record, as the dump tells.
    fn offsets(&self) -> Vec<usize> {
        let objects = self.dump_json();
        let records = objects.iter().filter(|object| object["kind"] != "segment");
        let offsets = records.map(|object| object["offset"].as_u64().unwrap());
        offsets.map(|at| usize::try_from(at).unwrap()).collect()
    }

    fn dump_json(&self) -> Vec<Value> {
        let told = self.kvctl(["wal", "dump"], "", &["--json"]).ok();
        let lines = told.lines();
        lines
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    /// Changes a byte of the log.
    fn damage(&self, at: usize) {
        let segment = self.segment();
        let mut content = fs::read(&segment).unwrap();
        content[at] ^= 1;
        fs::write(segment, content).unwrap();
    }

    fn segment(&self) -> PathBuf {
        self.path("wal/0000000000000001.wal")
    }
}

/// A session is opened, and writes: once, and twice more.
fn commands() -> Vec<Bytes> {
    let time = LogTime::from_millis(1_000);
    let mut commands = vec![codec::encode(&Command::open_session(time)).unwrap()];
    for request in 1..=3 {
        let command = Command {
            log_time: time,
            writer: Writer::Session {
                id: kvserver::SessionId::new(2),
                request: RequestId::new(request),
                replies_seen_upto: RequestId::new(request - 1),
            },
            op: Op::Put {
                key: Bytes::from_static(b"fruit"),
                value: Bytes::from_static(b"fig"),
            },
        };
        commands.push(codec::encode(&command).unwrap());
    }
    commands
}

fn content(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    for file in fs::read_dir(dir).unwrap() {
        let path = file.unwrap().path();
        if path.is_dir() {
            found.extend(content(&path));
        } else {
            found.push((path.clone(), fs::read(path).unwrap()));
        }
    }
    found.sort();
    found
}

#[test]
fn a_log_is_dumped_record_by_record() {
    let node = Node::stopped();
    let before = content(node.dir.path());
    let told = node.kvctl(["wal", "dump"], "", &[]).ok();
    assert_eq!(content(node.dir.path()), before);
    let words = |line: &str| {
        line.split_whitespace()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let lines: Vec<Vec<String>> = told.lines().map(words).collect();
    let kinds: Vec<&str> = lines.iter().map(|line| line[2].as_str()).collect();
    let expected = "kind segment hard-state empty command command command command synced \
                    truncate compaction synced";
    assert_eq!(kinds.join(" "), expected, "{told}");
    assert!(
        told.contains("ok        term 1, vote for node 0\n"),
        "{told}"
    );
    assert!(
        told.contains("node 2 of cluster 0x000000000000beef"),
        "{told}"
    );
    assert!(!told.contains("fig"), "users' data stays out: {told}");

    let objects = node.dump_json();
    assert_eq!(objects.len() + 1, lines.len());
    let entry = &objects[4];
    assert_eq!(
        (&entry["kind"], &entry["index"]),
        (&"command".into(), &3.into())
    );
    assert_eq!(
        (&entry["term"], &entry["checksum_ok"]),
        (&1.into(), &true.into())
    );
    let end = entry["offset"].as_u64().unwrap() + entry["bytes"].as_u64().unwrap();
    assert_eq!(objects[5]["offset"], end);
    assert_eq!(objects[9]["snapshot"]["index"], 3);
}

#[test]
fn a_whole_log_and_a_torn_one_are_fit_for_a_start() {
    let node = Node::stopped();
    let told = node.kvctl(["wal", "verify"], "", &[]).ok();
    let expected = "\
node 2 of cluster 0x000000000000beef, 1 segments
term 1, vote for node 0
entries 2 to 4
snapshot of entry 3 of term 1, entries up to 1 may go
the log is whole
";
    assert_eq!(told, expected);

    // The last record said only that all before it was synced.
    let last = *node.offsets().last().unwrap();
    node.damage(last);
    let told = node.kvctl(["wal", "verify"], "", &[]).ok();
    let segment = node.segment();
    let torn = format!("torn tail: {} at byte {last}: ", segment.display());
    assert!(told.contains(&torn), "{told}");
}

#[test]
fn a_damaged_log_is_refused_with_file_and_offset_and_dumped_all_the_same() {
    let node = Node::stopped();
    let third = node.offsets()[3];
    let records = node.offsets().len();
    node.damage(third + 25);
    let line = node.kvctl(["wal", "verify"], "", &[]).failed(1);
    let expected = format!(
        "damaged in the middle, not torn by a crash: {} is damaged at byte {third}: ",
        node.segment().display()
    );
    assert!(line.starts_with(&expected), "{line}");

    let told = node.kvctl(["wal", "dump"], "", &[]).ok();
    assert_eq!(told.matches(" BAD ").count(), 1, "{told}");
    assert_eq!(
        told.lines().count(),
        records + 2,
        "what follows is listed: {told}"
    );
}

#[test]
fn the_log_of_a_running_node_is_left_alone_unless_insisted_upon() {
    let node = Node::running();
    for command in ["dump", "verify"] {
        let line = node.kvctl(["wal", command], "", &[]).failed(1);
        assert!(line.contains("LOCK is held by process"), "{line}");
        assert!(line.contains("--live"), "{line}");
        node.kvctl(["wal", command], "", &["--live"]).ok();
    }
    assert!(node.persister.is_some());
}

#[test]
fn a_directory_without_a_log_is_wrong_usage() {
    let node = Node::stopped();
    for name in ["wal", "nowhere"] {
        let line = node.kvctl(["wal", "verify"], name, &[]).failed(2);
        assert!(line.contains("has no wal/ in it"), "{line}");
    }
}

#[test]
fn a_snapshot_tells_what_it_is_of_and_what_is_in_it() {
    let node = Node::stopped();
    let inspect = ["snapshot", "inspect"];
    let told = node.kvctl(inspect, SNAPSHOT, &[]).ok();
    let lines: Vec<&str> = told.lines().collect();
    assert_eq!(
        lines[0],
        "state up to entry 3 of term 1, cluster 0x000000000000beef"
    );
    assert!(lines[1].contains(" bytes, CRC-32C 0x"), "{told}");
    assert_eq!(lines[2], "checksum ok");
    assert_eq!(lines[3], "keys: 1, of 8 bytes with their values");
    assert_eq!(lines[4], "sessions: 1, legacy clients: 0");

    let told = node.kvctl(inspect, SNAPSHOT, &["--json"]).ok();
    let object: Value = serde_json::from_str(&told).unwrap();
    assert_eq!(
        (&object["keys"], &object["sessions"]),
        (&1.into(), &1.into())
    );
    assert_eq!((&object["index"], &object["term"]), (&3.into(), &1.into()));
}

#[test]
fn a_snapshot_that_is_damaged_or_none_fails() {
    let node = Node::stopped();
    let inspect = ["snapshot", "inspect"];
    let path = node.path(SNAPSHOT);
    let mut content = fs::read(&path).unwrap();
    fs::rename(&path, node.path("snapshot/0000000000000004-1.snap")).unwrap();
    let told = node
        .kvctl(inspect, "snapshot/0000000000000004-1.snap", &[])
        .ok();
    assert!(told.contains("its name says another entry"), "{told}");

    content[60] ^= 1;
    fs::write(&path, &content).unwrap();
    let line = node.kvctl(inspect, SNAPSHOT, &[]).failed(1);
    assert!(
        line.contains(SNAPSHOT) && line.contains("checksum"),
        "{line}"
    );
    let line = node.kvctl(inspect, "IDENTITY", &[]).failed(1);
    assert!(line.contains("does not begin as a snapshot does"), "{line}");
    let line = node.kvctl(inspect, "nowhere", &[]).failed(1);
    assert!(line.contains("nowhere"), "{line}");
}

#[test]
fn a_new_cluster_is_forced_only_by_whoever_accepts_what_it_may_cost() {
    let node = Node::stopped();
    let dir = node.dir.path().join("moved");
    fs::create_dir(&dir).unwrap();
    for name in ["IDENTITY", "LOCK", "wal", "snapshot"] {
        fs::rename(node.dir.path().join(name), dir.join(name)).unwrap();
    }
    let dir_text = dir.to_str().unwrap();
    let force = |more: &[&str]| {
        let arguments = ["force-new-cluster", dir_text, "--node", "2"];
        kvctl(arguments.into_iter().chain(more.iter().copied()), "")
    };
    let verdict = || kvctl(["wal", "verify", dir_text], "").ok();

    let line = force(&[]).failed(2);
    assert!(line.starts_with("nothing was done. "), "{line}");
    assert!(line.contains("LOST FOR EVER"), "{line}");
    assert!(verdict().starts_with("node 2 of cluster 0x000000000000beef"));

    let accepted = "--i-accept-that-acknowledged-writes-may-be-lost";
    let line = kvctl(["force-new-cluster", dir_text, "--node", "3", accepted], "").failed(1);
    assert!(
        line.ends_with("is the directory of node 2, not of node 3"),
        "{line}"
    );

    let told = force(&[accepted]).ok();
    assert!(
        told.contains("NEVER START ANOTHER NODE OF THE OLD CLUSTER AGAIN"),
        "{told}"
    );
    assert!(told.contains("moved.old-cluster-1"), "{told}");
    let now = verdict();
    assert!(
        !now.contains("0xbeef") && now.ends_with("the log is whole\n"),
        "{now}"
    );
    let aside = dir.with_extension("old-cluster-1");
    let old = kvctl(["wal", "verify", aside.to_str().unwrap()], "").ok();
    assert!(
        old.starts_with("node 2 of cluster 0x000000000000beef"),
        "{old}"
    );
}
