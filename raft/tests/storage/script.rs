//! A script of what a node asks of its storage, made from a seed, and the model that says what
//! must be there after each step.

use std::io::{Read, Write as _};
use std::sync::Arc;

use bytes::Bytes;
use fastrand::Rng;
use raft::core::{
    Compaction, Entry, HardState, LogId, LogIndex, Membership, NodeId, Payload, Restored, Term,
    WriteBatch,
};
use raft::storage::sim_disk::SimDisk;
use raft::storage::{Identity, Persister, PersisterOptions, Recovered, StorageError};

pub(crate) const IDENTITY: Identity = Identity {
    node: NodeId::new(3),
    cluster: 0xfeed,
};

/// Small, so that a short script goes through many segments.
pub(crate) const SEGMENT_BYTES: usize = 1024;

pub(crate) fn open(disk: &SimDisk) -> Result<(Persister, Recovered), StorageError> {
    let options = PersisterOptions {
        segment_bytes: SEGMENT_BYTES,
        ..PersisterOptions::default()
    };
    Persister::open(disk.clone(), IDENTITY, options)
}

pub(crate) fn id(index: u64, term: u64) -> LogId {
    LogId::new(Term::new(term), LogIndex::new(index))
}

pub(crate) fn entry(index: u64, term: u64, command: &[u8]) -> Entry {
    Entry {
        id: id(index, term),
        payload: Payload::Command(Bytes::copy_from_slice(command)),
    }
}

pub(crate) fn term(term: u64, vote: Option<u64>) -> HardState {
    HardState {
        current_term: Term::new(term),
        voted_for: vote.map(NodeId::new),
    }
}

/// The body of the snapshot named `id`: any bytes that depend on it.
pub(crate) fn snapshot_body(id: LogId) -> Vec<u8> {
    let mut rng = Rng::with_seed(id.index.get() * 31 + id.term.get());
    (0..rng.usize(..300)).map(|_| rng.u8(..)).collect()
}

/// The membership in the snapshot named `id`.
pub(crate) fn snapshot_members(id: LogId) -> Membership {
    let voters =
        (1..=1 + id.index.get() % 5).map(|node| (NodeId::new(node), format!("host{node}:1")));
    Membership::of_voters(voters).unwrap()
}

pub(crate) fn save_snapshot(persister: &Persister, id: LogId) -> Result<(), StorageError> {
    let mut writer = persister.snapshots().create(id, &snapshot_members(id))?;
    writer
        .write_all(&snapshot_body(id))
        .expect("what fits the buffer is only buffered");
    writer.finish()
}

/// One thing that a node asks of its storage.
#[derive(Clone, Debug)]
pub(crate) enum Action {
    Write(WriteBatch),
    Sync,
    /// Takes a snapshot, or receives one: the same to the disk.
    Snapshot(LogId),
    RemoveOlderSnapshots(LogId),
    /// In order; not a crash.
    Restart,
}

/// The log, without the snapshots.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Log {
    pub(crate) hard_state: HardState,
    pub(crate) prev: LogId,
    pub(crate) entries: Vec<Entry>,
}

impl Log {
    pub(crate) fn last(&self) -> LogId {
        self.entries.last().map_or(self.prev, |entry| entry.id)
    }

    /// For a failed test's message.
    pub(crate) fn brief(&self) -> String {
        let Self {
            hard_state,
            prev,
            entries,
        } = self;
        let entries: Vec<String> = entries.iter().map(|entry| entry.id.to_string()).collect();
        let HardState {
            current_term,
            voted_for,
        } = hard_state;
        format!(
            "term {current_term}, vote {voted_for:?}, after {prev}: {}",
            entries.join(" ")
        )
    }

    fn at(&self, index: LogIndex) -> Option<LogId> {
        if index == self.prev.index {
            return Some(self.prev);
        }
        self.entries
            .iter()
            .map(|entry| entry.id)
            .find(|id| id.index == index)
    }

    /// What a node starts from with this log and that snapshot.
    pub(crate) fn joined(&self, snapshot: LogId) -> Option<Restored> {
        if self.prev.index > snapshot.index {
            return None;
        }
        let keeps_log = self.at(snapshot.index) == Some(snapshot);
        let mut hard_state = self.hard_state;
        if hard_state.current_term < snapshot.term {
            hard_state = HardState {
                current_term: snapshot.term,
                voted_for: None,
            };
        }
        Some(Restored {
            hard_state,
            snapshot,
            membership: (snapshot != LogId::ZERO).then(|| Arc::new(snapshot_members(snapshot))),
            prev: if keeps_log { self.prev } else { snapshot },
            entries: if keeps_log {
                self.entries.clone()
            } else {
                vec![]
            },
        })
    }

    /// The states that a batch leads through, record by record; the last one is its result.
    fn after(&self, batch: &WriteBatch) -> Vec<Self> {
        let mut states = Vec::new();
        let mut log = self.clone();
        if let Some(hard_state) = batch.hard_state {
            log.hard_state = hard_state;
            states.push(log.clone());
        }
        if let Some(to) = batch.reset_to {
            log.entries.clear();
            log.prev = to;
            states.push(log.clone());
        }
        if let Some(from) = batch.truncate_from {
            log.entries.retain(|entry| entry.id.index < from);
            states.push(log.clone());
        }
        for entry in &batch.entries {
            log.entries.push(entry.clone());
            states.push(log.clone());
        }
        if let Some(compaction) = batch.compaction {
            log.entries
                .retain(|entry| entry.id.index > compaction.drop_upto.index);
            log.prev = compaction.drop_upto;
            states.push(log);
        }
        states
    }
}

/// What a script did so far, and what a disk may hold of it.
#[derive(Clone, Debug)]
pub(crate) struct Progress {
    /// Every state, record by record.
    pub(crate) logs: Vec<Log>,
    /// The first state that may be found: everything up to here was reported durable.
    pub(crate) durable: usize,
    pub(crate) snapshots: Vec<LogId>,
    pub(crate) durable_snapshots: usize,
}

impl Progress {
    pub(crate) fn new() -> Self {
        Self {
            logs: vec![Log::default()],
            durable: 0,
            snapshots: vec![LogId::ZERO],
            durable_snapshots: 0,
        }
    }

    pub(crate) fn log(&self) -> &Log {
        self.logs.last().unwrap()
    }

    pub(crate) fn snapshot(&self) -> LogId {
        *self.snapshots.last().unwrap()
    }

    /// Whether a restart may yield this.
    pub(crate) fn allows(&self, restored: &Restored) -> bool {
        self.logs[self.durable..].iter().any(|log| {
            self.snapshots[self.durable_snapshots..]
                .iter()
                .any(|&snapshot| log.joined(snapshot).as_ref() == Some(restored))
        })
    }

    /// `action` is about to be tried.
    pub(crate) fn attempt(&mut self, action: &Action) {
        match action {
            Action::Write(batch) => {
                let states = self.log().after(batch);
                self.logs.extend(states);
            }
            Action::Snapshot(id) => self.snapshots.push(*id),
            Action::Restart => {
                let restored = self
                    .log()
                    .joined(self.snapshot())
                    .expect("a script has no gap");
                self.logs.push(Log {
                    hard_state: restored.hard_state,
                    prev: restored.prev,
                    entries: restored.entries,
                });
            }
            Action::Sync | Action::RemoveOlderSnapshots(_) => {}
        }
    }

    /// `action` was reported as done.
    pub(crate) fn succeed(&mut self, action: &Action) {
        match action {
            Action::Sync | Action::Restart => self.durable = self.logs.len() - 1,
            Action::Snapshot(_) => self.durable_snapshots = self.snapshots.len() - 1,
            Action::Write(_) | Action::RemoveOlderSnapshots(_) => {}
        }
    }
}

/// Runs a script until it ends or the disk fails; then the persister is dropped.
pub(crate) fn run(disk: &SimDisk, script: &[Action]) -> Progress {
    let mut progress = Progress::new();
    let Ok((persister, _)) = open(disk) else {
        return progress;
    };
    let mut persister = Some(persister);
    for action in script {
        progress.attempt(action);
        let outcome = match (action, &mut persister) {
            (Action::Restart, slot) => {
                *slot = None;
                open(disk).map(|(persister, recovered)| {
                    let expected = progress.log().joined(progress.snapshot()).unwrap();
                    assert_eq!(recovered.restored, expected);
                    assert_eq!(recovered.torn_tail, None, "nothing crashed");
                    *slot = Some(persister);
                })
            }
            (_, None) => unreachable!("a failed restart ends the run"),
            (Action::Write(batch), Some(persister)) => persister.write(batch),
            (Action::Sync, Some(persister)) => persister.sync(),
            (Action::Snapshot(id), Some(persister)) => save_snapshot(persister, *id),
            (Action::RemoveOlderSnapshots(id), Some(persister)) => {
                persister.snapshots().remove_older_than(*id)
            }
        };
        if outcome.is_err() {
            return progress;
        }
        progress.succeed(action);
    }
    progress
}

/// A script of `steps` steps, as a node might go through them.
pub(crate) fn random_script(seed: u64, steps: usize) -> Vec<Action> {
    let mut rng = Rng::with_seed(seed);
    let mut progress = Progress::new();
    let mut script = Vec::new();
    let mut push = |progress: &mut Progress, action: Action| {
        progress.attempt(&action);
        script.push(action);
    };
    for _ in 0..steps {
        let mut batch = WriteBatch::default();
        let before = progress.log().clone();
        let mut current = before.hard_state;
        if rng.u8(..10) < 3 {
            current.current_term = Term::new(current.current_term.get() + rng.u64(..2));
            let is_new = current.current_term > before.hard_state.current_term;
            if is_new || current.voted_for.is_none() {
                current.voted_for = rng.bool().then(|| NodeId::new(rng.u64(..5)));
            }
            batch.hard_state = Some(current);
        }
        let mut last = before.last();
        if rng.u8(..20) == 0 {
            let to = id(
                last.index.get() + rng.u64(1..20),
                current.current_term.get(),
            );
            push(&mut progress, Action::Snapshot(to));
            batch.reset_to = Some(to);
            last = to;
        } else {
            let committed = progress.snapshot().index;
            if last.index > committed && rng.u8(..10) < 2 {
                let from = LogIndex::new(rng.u64(committed.get() + 1..=last.index.get()));
                batch.truncate_from = Some(from);
                last = before.at(from.prev()).expect("an entry that is left");
            }
        }
        for _ in 0..rng.u64(..5) {
            let bytes = if rng.u8(..40) == 0 {
                SEGMENT_BYTES * 3
            } else {
                rng.usize(..150)
            };
            let command: Vec<u8> = (0..bytes).map(|_| rng.u8(..)).collect();
            let mut new = entry(last.index.get() + 1, current.current_term.get(), &command);
            if rng.u8(..5) == 0 {
                new.payload = Payload::Empty;
            }
            last = new.id;
            batch.entries.push(new);
        }
        push(&mut progress, Action::Write(batch));

        let log = progress.log().clone();
        let snapshot = progress.snapshot();
        if log.last().index > snapshot.index && rng.u8(..10) < 3 {
            let taken = rng.u64(snapshot.index.get() + 1..=log.last().index.get());
            let taken = log.at(LogIndex::new(taken)).expect("an entry of the log");
            let drop_upto = rng.u64(log.prev.index.get()..=taken.index.get());
            let drop_upto = log
                .at(LogIndex::new(drop_upto))
                .expect("an entry of the log");
            // The log up to a snapshot is durable before it is committed, applied and covered.
            push(&mut progress, Action::Sync);
            push(&mut progress, Action::Snapshot(taken));
            let compaction = Some(Compaction {
                snapshot: taken,
                drop_upto,
            });
            push(
                &mut progress,
                Action::Write(WriteBatch {
                    compaction,
                    ..WriteBatch::default()
                }),
            );
            push(&mut progress, Action::Sync);
            push(&mut progress, Action::RemoveOlderSnapshots(taken));
        }
        match rng.u8(..10) {
            0..6 => push(&mut progress, Action::Sync),
            6 => push(&mut progress, Action::Restart),
            _ => {}
        }
    }
    script.push(Action::Sync);
    script
}

/// Reads a snapshot's body back.
pub(crate) fn read_snapshot(persister: &Persister, id: LogId) -> Vec<u8> {
    let mut body = Vec::new();
    persister
        .snapshots()
        .open(id)
        .unwrap()
        .read_to_end(&mut body)
        .unwrap();
    body
}
