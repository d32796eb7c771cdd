//! A running node's clients: what they ask becomes proposals and reads.

use bytes::Bytes;
use kvserver::{Command, LogTime, Op, Writer, codec};
use raft::core::{NodeId, ProposeError};

use crate::coverage::Situation;
use crate::network::{Answer, Ask, Packet, Want, place};
use crate::process::Waiter;
use crate::world::World;

impl World {
    /// A client's request arrives.
    pub(crate) fn on_ask(&mut self, id: NodeId, client: usize, ask: Ask) {
        let local = self.nodes[place(id)].clock.read(self.now);
        let waiter = Waiter {
            client,
            attempt: ask.attempt,
            want: ask.what,
        };
        let process = self.process(id);
        let (log_time, observed) = process.log_time_at;
        let stamp = LogTime::from_millis(log_time.as_millis() + local.since(observed));
        let command = match ask.what {
            Want::Read { anywhere, .. } => return self.on_read(id, waiter, anywhere),
            Want::OpenSession => Command::open_session(stamp),
            Want::Write {
                key,
                token,
                append,
                session,
                request,
                replies_seen_upto,
            } => {
                let key = Bytes::copy_from_slice(&[key]);
                let value = Bytes::copy_from_slice(&token.to_le_bytes());
                Command {
                    log_time: stamp,
                    writer: Writer::Session {
                        id: session,
                        request,
                        replies_seen_upto,
                    },
                    op: if append {
                        Op::Append { key, value }
                    } else {
                        Op::Put { key, value }
                    },
                }
            }
        };
        let command = codec::encode(&command).expect("small");
        match process.raft.propose(command) {
            Ok(proposed) => process.proposals.push_back((proposed, waiter)),
            Err(error) => {
                if matches!(error, ProposeError::HandingOver { .. }) {
                    self.coverage.met(Situation::RefusedInTransfer);
                }
                self.answer(waiter, refusal(error));
            }
        }
        self.turn(id);
    }

    pub(crate) fn on_read(&mut self, id: NodeId, waiter: Waiter, anywhere: bool) {
        let in_transfer = self.process(id).raft.handing_over_to().is_some();
        let committed = self.oracle.committed();
        let process = self.process(id);
        let read = process.next_read;
        process.next_read = read.next();
        let taken = if anywhere {
            process.raft.read_anywhere(read)
        } else {
            process.raft.read(read)
        };
        match taken {
            Ok(()) => {
                process.reads.insert(read, (waiter, committed));
                if in_transfer {
                    self.coverage.met(Situation::ReadInTransfer);
                }
            }
            Err(error) => self.answer(waiter, refusal(error)),
        }
        if self.tuning.lease.is_some() && self.process(id).raft.is_serving() {
            let before = self.process(id).safe_reads.len();
            self.turn(id);
            let at_once = self.runs(id) && self.process(id).safe_reads.len() <= before;
            let waits = self.runs(id) && self.process(id).reads.contains_key(&read);
            self.coverage.met(if at_once && !waits {
                Situation::LeaseRead
            } else {
                Situation::LeaseOver
            });
        } else {
            self.turn(id);
        }
    }

    pub(crate) fn answer(&mut self, waiter: Waiter, answer: Answer) {
        self.send(Packet::Answer {
            client: waiter.client,
            attempt: waiter.attempt,
            answer,
        });
    }
}

fn refusal(error: ProposeError) -> Answer {
    match error {
        ProposeError::NotLeader { leader } => Answer::NotLeader(leader),
        ProposeError::HandingOver { to } => Answer::NotLeader(Some(to)),
        ProposeError::Overloaded => Answer::Busy,
    }
}
