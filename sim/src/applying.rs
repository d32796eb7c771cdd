//! A running node's state machine: what is committed is applied, and whoever waits is answered.

use kvserver::{MemoryEngine, Op, Outcome, Refusal, Reply, StateMachine, Writer, codec};
use raft::core::{Committed, Entry, LogId, LogIndex, NodeId, Payload, Role};

use crate::coverage::Situation;
use crate::history;
use crate::network::place;
use crate::serving::{Awaited, Said};
use crate::world::World;

impl World {
    /// Applies what is committed, and answers the reads that waited for it.
    pub(crate) fn deliver_committed(&mut self, id: NodeId) {
        loop {
            if !self.process(id).applies {
                return;
            }
            self.answer_safe_reads(id);
            let bytes = self.tuning.message_bytes;
            match self.process(id).raft.take_committed(bytes) {
                Some(Committed::Entries(entries)) => {
                    let process = self.process(id);
                    let leads = process.raft.role() == Role::Leader;
                    let last = entries.last().expect("never empty").id;
                    if leads {
                        if last.index > process.raft.durable_index() {
                            self.coverage.met(Situation::CommittedByOthers);
                        }
                        let process = self.process(id);
                        if entries[0].id.term < last.term && last.term == process.raft.term() {
                            self.coverage.met(Situation::OlderTermCommitted);
                        }
                    }
                    for entry in entries {
                        self.apply(id, &entry);
                    }
                    self.process(id).raft.applied(last.index);
                }
                Some(Committed::Snapshot(snapshot)) => {
                    if !self.install(id, snapshot) {
                        return;
                    }
                }
                None => return,
            }
        }
    }

    pub(crate) fn apply(&mut self, id: NodeId, entry: &Entry) {
        let local = self.nodes[place(id)].clock.read(self.now);
        let process = self.process(id);
        let (index, term) = (entry.id.index, entry.id.term);
        let applied = match &entry.payload {
            Payload::Empty | Payload::Membership(_) => {
                process.state.apply_empty(index.get(), term.get())
            }
            Payload::Command(command) => process.state.apply(index.get(), term.get(), command),
        };
        let outcome = match applied {
            Ok(outcome) => outcome,
            Err(error) => {
                return self.oracle.fail(
                    "entries are applied in order",
                    format!("node {id}: {error}"),
                );
            }
        };
        let log_time = process.state.log_time();
        if log_time > process.log_time_at.0 {
            process.log_time_at = (log_time, local);
        }
        let digest = process.state.digest().get();
        let waiter = match process.proposals.front() {
            Some((proposed, _)) if *proposed == entry.id => {
                process.proposals.pop_front().map(|(_, waiter)| waiter)
            }
            _ => None,
        };
        let mut overtaken = Vec::new();
        while let Some((_, waiter)) = process
            .proposals
            .pop_front_if(|(proposed, _)| proposed.index <= index)
        {
            overtaken.push(waiter);
        }
        self.oracle.on_digest(id, index, digest);
        self.observe_outcome(entry, &outcome);
        for waiter in overtaken {
            self.lose_leadership(id, waiter);
        }
        if let Some(waiter) = waiter {
            if outcome == Outcome::Refused(Refusal::SessionExpired) {
                self.coverage.met(Situation::SessionExpired);
            }
            self.answer(id, waiter, Said::Outcome(outcome));
        }
    }

    /// Tells the oracle what an entry did.
    pub(crate) fn observe_outcome(&mut self, entry: &Entry, outcome: &Outcome) {
        let Payload::Command(command) = &entry.payload else {
            return;
        };
        let is_repetition = match outcome {
            Outcome::Applied(Reply::Done) => false,
            Outcome::Repeated(_) => true,
            _ => return,
        };
        let Ok(command) = codec::decode(command) else {
            return;
        };
        let Writer::Session { id, request, .. } = command.writer else {
            return;
        };
        let (session, request) = (id.get(), request.get());
        if is_repetition {
            self.coverage.met(Situation::Repeated);
            let first = self.oracle.applied_at(session, request);
            if first.is_some_and(|first| first.term < entry.id.term) {
                self.coverage.met(Situation::RepeatedElsewhere);
            }
            return;
        }
        self.oracle.on_applied(session, request, entry.id);
        let (key, value, append) = match &command.op {
            Op::Put { key, value } => (key, value, false),
            Op::Append { key, value } => (key, value, true),
            _ => return,
        };
        let effect = history::Effect {
            key: key[0],
            token: tokens(value)[0],
            append,
        };
        self.oracle.on_effect(entry.id.index, effect);
    }

    pub(crate) fn install(&mut self, id: NodeId, snapshot: LogId) -> bool {
        let options = self.tuning.state_machine();
        let process = self.process(id);
        let restored = process
            .store
            .open(snapshot)
            .map_err(|error| error.to_string())
            .and_then(|reader| {
                StateMachine::restore(MemoryEngine::new(), options, reader)
                    .map_err(|error| error.to_string())
            });
        match restored {
            Ok(state) => {
                process.state = state;
                let digest = process.state.digest().get();
                process.raft.applied(snapshot.index);
                self.oracle.on_digest(id, snapshot.index, digest);
                true
            }
            Err(error) => {
                // Only a disk that lost its power may do that, and its node then goes down.
                self.note(|| format!("{id} cannot install {snapshot}: {error}"));
                self.crash(id);
                false
            }
        }
    }

    pub(crate) fn answer_safe_reads(&mut self, id: NodeId) {
        loop {
            let process = self.process(id);
            let applied = LogIndex::new(process.state.last_applied().index);
            let Some((_, waiter)) = process
                .safe_reads
                .pop_front_if(|(index, _)| *index <= applied)
            else {
                return;
            };
            let Awaited::Read { key } = waiter.asked else {
                unreachable!("only reads wait here")
            };
            let value = process.state.get(&[key]).expect("memory does not fail");
            self.answer(id, waiter, Said::Value(value));
        }
    }
}

/// A value is the tokens of the writes that made it.
pub(crate) fn tokens(value: &[u8]) -> Vec<u64> {
    let (each, _) = value.as_chunks::<8>();
    each.iter().copied().map(u64::from_le_bytes).collect()
}
