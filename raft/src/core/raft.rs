//! The node's state and its inputs.

use bytes::Bytes;

use super::config::{Config, ConfigError};
use super::effect::{Committed, Effect, ProposeError, Role};
use super::message::Message;
use super::types::{
    CallId, LogId, LogIndex, Millis, NodeId, ReadId, Restored, Term, WriteBatch, WriteId,
};

/// One member of the cluster, as a pure state machine.
#[derive(Debug)]
pub struct Raft {
    config: Config,
    restored: Restored,
    now: Millis,
    effects: Vec<Effect>,
}

#[expect(
    clippy::needless_pass_by_value,
    clippy::missing_errors_doc,
    clippy::must_use_candidate,
    unused_variables,
    missing_docs,
    reason = "the face; the body follows"
)]
impl Raft {
    pub fn new(
        config: Config,
        restored: Restored,
        seed: u64,
        now: Millis,
    ) -> Result<Self, ConfigError> {
        config.validate()?;
        Ok(Self {
            config,
            restored,
            now,
            effects: Vec::new(),
        })
    }

    pub fn tick(&mut self, now: Millis) {
        self.now = now;
    }

    pub fn step(&mut self, from: NodeId, call: CallId, message: Message) {}

    pub fn propose(&mut self, command: Bytes) -> Result<LogId, ProposeError> {
        Err(ProposeError::NotLeader { leader: None })
    }

    pub fn read(&mut self, read: ReadId) -> Result<(), ProposeError> {
        Err(ProposeError::NotLeader { leader: None })
    }

    pub fn persisted(&mut self, write: WriteId) {}

    pub fn applied(&mut self, upto: LogIndex) {}

    pub fn snapshot_taken(&mut self, last_included: LogId) {}

    pub fn chunk_stored(
        &mut self,
        call: CallId,
        last_included: LogId,
        next_offset: u64,
        complete: bool,
    ) {
    }

    pub fn snapshot_sent(&mut self, to: NodeId, last_included: LogId, installed: bool) {}

    pub fn unreachable(&mut self, to: NodeId) {}

    pub fn flush(&mut self, effects: &mut Vec<Effect>) {
        effects.append(&mut self.effects);
    }

    pub fn take_write(&mut self) -> Option<WriteBatch> {
        None
    }

    pub fn take_committed(&mut self, max_bytes: usize) -> Option<Committed> {
        None
    }

    pub fn next_deadline(&self) -> Millis {
        self.now
    }

    pub fn id(&self) -> NodeId {
        self.config.id
    }

    pub fn role(&self) -> Role {
        Role::Follower
    }

    pub fn term(&self) -> Term {
        self.restored.hard_state.current_term
    }

    pub fn leader(&self) -> Option<NodeId> {
        None
    }

    pub fn is_serving(&self) -> bool {
        false
    }

    pub fn commit_index(&self) -> LogIndex {
        self.restored.snapshot.index
    }

    pub fn last_applied(&self) -> LogIndex {
        LogIndex::ZERO
    }

    pub fn last_log(&self) -> LogId {
        self.restored.prev
    }

    pub fn snapshot(&self) -> LogId {
        self.restored.snapshot
    }

    pub fn log_bytes(&self) -> usize {
        0
    }
}
