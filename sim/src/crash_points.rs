//! Every crash point of a scripted run, with everything that a loss of power may do to it.
//!
//! One node, alone, so that each of its acknowledgements rests on its own disk. The script writes,
//! overwrites, takes snapshots, and drops segments. The power goes off after the first operation of
//! the disk, after the second, and so on; each time what was not synced is kept, lost, torn at
//! every byte of the last write, and there by the length that it gave the file only. Then the node starts from that disk, and must have everything that
//! was acknowledged, in order, and each request once.

use bytes::Bytes;
use kvserver::{
    Command, LogTime, MemoryEngine, Op, RequestId, SessionId, StateMachine, StateMachineOptions,
    Writer, codec,
};
use raft::core::{
    Committed, Config, LogId, LogIndex, Membership, Millis, NodeId, Payload, Raft, Role, Term,
};
use raft::storage::sim_disk::{Crash, Filler, SimDisk};
use raft::storage::{Identity, Persister, PersisterOptions, StorageError};

/// Writes of the script.
const WRITES: u64 = 180;
/// A snapshot after so many writes.
const SNAPSHOT_EVERY: u64 = 25;
const SEGMENT_BYTES: usize = 2_048;
const SESSION: u64 = 2;

/// How far a run came.
#[derive(Clone, Debug, Default)]
struct Progress {
    /// Requests that were answered to the client: 1 up to this.
    acknowledged: u64,
    /// Requests that were proposed.
    asked: u64,
}

/// What was tried.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tried {
    /// Operations of the disk in the whole script.
    pub operations: u64,
    /// Crashes: an operation, and what became of the unsynced.
    pub crashes: u64,
}

/// Crashes after every operation of the disk.
///
/// # Errors
/// The first crash after which something acknowledged was gone, or done twice.
pub fn try_all() -> Result<Tried, String> {
    let whole = SimDisk::new();
    let progress = run(&whole);
    if progress.acknowledged != WRITES {
        return Err(format!("without a crash only {progress:?}"));
    }
    let mut tried = Tried {
        operations: whole.operations(),
        crashes: 0,
    };
    for operations in 0..tried.operations {
        let disk = SimDisk::new();
        disk.power_off_after(operations);
        let progress = run(&disk);
        let torn =
            (0..=disk.last_write_bytes()).map(|last_write_bytes| Crash::Torn { last_write_bytes });
        let hollow = [Filler::Zeros, Filler::Stale, Filler::Garbage].map(Crash::Hollow);
        let fates = [Crash::Kill, Crash::Kept, Crash::Lost]
            .into_iter()
            .chain(hollow)
            .chain(torn);
        for fate in fates {
            let disk = disk.fork();
            disk.crash(fate);
            check(&disk, &progress).map_err(|error| {
                format!("power off after operation {operations}, {fate:?}: {error}")
            })?;
            tried.crashes += 1;
        }
    }
    Ok(tried)
}

struct Node {
    raft: Raft,
    persister: Persister,
    state: StateMachine<MemoryEngine>,
    now: Millis,
}

fn open(disk: &SimDisk) -> Result<Node, StorageError> {
    let id = NodeId::new(0);
    let identity = Identity {
        node: id,
        cluster: 7,
    };
    let options = PersisterOptions {
        segment_bytes: SEGMENT_BYTES,
        ..PersisterOptions::default()
    };
    let (persister, recovered) = Persister::open(disk.clone(), identity, options)?;
    let alone = Membership::of_voters([(id, "host0:1".to_owned())]).expect("one voter");
    let config = Config {
        retained_log_bytes: 500,
        ..Config::new(id, alone)
    };
    let raft = Raft::new(config, recovered.restored, 1, Millis::ZERO)
        .expect("storage hands out what the core takes");
    let state = StateMachine::new(MemoryEngine::new(), StateMachineOptions::default())
        .expect("memory does not fail");
    Ok(Node {
        raft,
        persister,
        state,
        now: Millis::ZERO,
    })
}

impl Node {
    /// Carries out what the core asks for.
    fn turn(&mut self) -> Result<(), StorageError> {
        self.now = self.now.plus(1);
        self.raft.tick(self.now);
        while let Some(batch) = self.raft.take_write() {
            self.persister.write(&batch)?;
            self.persister.sync()?;
            self.raft.persisted(batch.id);
        }
        self.raft.flush(&mut Vec::new());
        while let Some(committed) = self.raft.take_committed(1_000) {
            match committed {
                Committed::Entries(entries) => {
                    for entry in &entries {
                        self.apply(entry.id, &entry.payload);
                    }
                    let last = entries.last().expect("never empty").id.index;
                    self.raft.applied(last);
                }
                Committed::Snapshot(snapshot) => {
                    let reader = self.persister.snapshots().open(snapshot)?;
                    self.state = StateMachine::restore(
                        MemoryEngine::new(),
                        StateMachineOptions::default(),
                        reader,
                    )
                    .expect("a snapshot that was whole is a state");
                    self.raft.applied(snapshot.index);
                }
            }
        }
        Ok(())
    }

    fn apply(&mut self, id: LogId, payload: &Payload) {
        let (index, term) = (id.index.get(), id.term.get());
        let Payload::Command(command) = payload else {
            self.state.apply_empty(index, term).expect("in order");
            return;
        };
        self.state.apply(index, term, command).expect("in order");
    }

    fn lead(&mut self) -> Result<(), StorageError> {
        while self.raft.role() != Role::Leader || !self.raft.is_serving() {
            self.turn()?;
        }
        Ok(())
    }

    fn propose(&mut self, command: &Command) -> Result<LogId, StorageError> {
        let command = codec::encode(command).expect("small");
        let id = self.raft.propose(command).expect("it leads");
        while self.raft.last_applied() < id.index {
            self.turn()?;
        }
        Ok(id)
    }

    fn take_snapshot(&mut self) -> Result<(), StorageError> {
        let applied = self.state.last_applied();
        let id = LogId::new(Term::new(applied.term), LogIndex::new(applied.index));
        let Some(snapshot) = self.state.begin_snapshot() else {
            return Ok(());
        };
        let members = self.raft.membership_at(id.index).clone();
        let store = self.persister.snapshots();
        let mut writer = store.create(id, &members)?;
        // Its error says less than that of finishing, which follows.
        let _ = snapshot.write_to(&mut writer);
        writer.finish()?;
        store.remove_older_than(id)?;
        self.raft.snapshot_taken(id);
        self.turn()
    }
}

fn write(request: u64) -> Command {
    Command {
        log_time: LogTime::from_millis(request),
        writer: Writer::Session {
            id: SessionId::new(SESSION),
            request: RequestId::new(request),
            replies_seen_upto: RequestId::new(request.saturating_sub(3)),
        },
        op: Op::Append {
            key: Bytes::from_static(b"k"),
            value: Bytes::copy_from_slice(&request.to_le_bytes()),
        },
    }
}

/// The script, as far as the disk lets it go.
fn run(disk: &SimDisk) -> Progress {
    let mut progress = Progress::default();
    let _ = script(disk, &mut progress);
    progress
}

fn script(disk: &SimDisk, progress: &mut Progress) -> Result<(), StorageError> {
    let mut node = open(disk)?;
    node.lead()?;
    let session = node.propose(&Command::open_session(LogTime::ZERO))?;
    assert_eq!(session.index.get(), SESSION, "the empty entry, then this");
    for request in 1..=WRITES {
        progress.asked = request;
        node.propose(&write(request))?;
        progress.acknowledged = request;
        if request % SNAPSHOT_EVERY == 0 {
            node.take_snapshot()?;
        }
    }
    Ok(())
}

/// Starts from what is left, and asks the last request again, as its client would.
fn check(disk: &SimDisk, progress: &Progress) -> Result<(), String> {
    let mut node = open(disk).map_err(|error| error.to_string())?;
    let goes_on = |node: &mut Node| -> Result<(), StorageError> {
        node.lead()?;
        if progress.acknowledged > 0 {
            for request in progress.acknowledged..=progress.asked {
                node.propose(&write(request))?;
            }
        }
        Ok(())
    };
    goes_on(&mut node).map_err(|error| error.to_string())?;
    let value = node.state.get(b"k").expect("memory does not fail");
    let value = value.unwrap_or_default();
    let (each, _) = value.as_chunks::<8>();
    let found: Vec<u64> = each.iter().copied().map(u64::from_le_bytes).collect();
    let upto = if progress.acknowledged > 0 {
        progress.asked
    } else {
        found.len() as u64
    };
    if found != (1..=upto).collect::<Vec<u64>>() {
        return Err(format!("{progress:?}, but found {found:?}"));
    }
    Ok(())
}
