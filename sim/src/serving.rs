//! A running node's clients: what they ask becomes proposals and reads (as by `kvserver/src/service.rs`),
//! and is answered as `kvserver::answer` says.

use bytes::Bytes;
use clerk::logic::{Reply, Request};
use kvserver::{Command, LogTime, Op, Outcome, RequestId, SessionId, Writer, answer, codec};
use proto::kv::{GetArgs, PutAppendArgs};
use proto::membership::DescribeReply;
use proto::raft::{Member, Membership};
use raft::core::{NodeId, ProposeError, Role};
use raft::driving::why_no_writes;
use rpc::{Code, RpcError};

use crate::coverage::Situation;
use crate::network::{Answer, Ask, Packet, place};
use crate::process::{Process, Waiter};
use crate::world::World;

/// What a client waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Awaited {
    OpenSession,
    Write,
    Read { key: u8 },
}

/// What a node has to say to that.
#[derive(Clone, Debug)]
pub(crate) enum Said {
    Outcome(Outcome),
    Value(Option<Bytes>),
    Declined(raft::Refusal),
    /// The process is gone, and the connection with it.
    ConnectionLost,
}

impl World {
    /// A client's request arrives.
    pub(crate) fn on_ask(&mut self, id: NodeId, client: usize, attempt: u64, ask: Ask) {
        let waiter = |asked| Waiter {
            client,
            attempt,
            asked,
        };
        match ask {
            Ask::Call(Request::Get(args)) => self.on_read(id, client, attempt, &args),
            Ask::Call(Request::PutAppend(args)) => {
                let (writer, op) = write_of(args);
                self.on_command(id, waiter(Awaited::Write), writer, op);
            }
            Ask::Call(Request::OpenSession(_)) => {
                let Command { writer, op, .. } = Command::open_session(LogTime::ZERO);
                self.on_command(id, waiter(Awaited::OpenSession), writer, op);
            }
            Ask::Describe => {
                let answer = Answer::Described(Ok(self.description(id)));
                self.send(Packet::Answer {
                    client,
                    attempt,
                    answer,
                });
            }
        }
    }

    fn on_command(&mut self, id: NodeId, waiter: Waiter, writer: Writer, op: Op) {
        let process = self.process(id);
        if let Some(why) = why_no_writes(&process.raft, &process.disk, &process.commits) {
            self.coverage.met(match why {
                raft::Refusal::DiskFull => Situation::FullLeaderRefuses,
                _ => Situation::StalledLeaderRefuses,
            });
            self.answer(id, waiter, Said::Declined(why));
            return self.turn(id);
        }
        let local = self.nodes[place(id)].clock.read(self.now);
        let process = self.process(id);
        let (log_time, observed) = process.log_time_at;
        let log_time = LogTime::from_millis(log_time.as_millis() + local.since(observed));
        let command = Command {
            log_time,
            writer,
            op,
        };
        let command = codec::encode(&command).expect("small");
        match process.raft.propose(command) {
            Ok(proposed) => process.proposals.push_back((proposed, waiter)),
            Err(error) => {
                if matches!(error, ProposeError::HandingOver { .. }) {
                    self.coverage.met(Situation::RefusedInTransfer);
                }
                self.answer(id, waiter, Said::Declined(error.into()));
            }
        }
        self.turn(id);
    }

    fn on_read(&mut self, id: NodeId, client: usize, attempt: u64, args: &GetArgs) {
        let waiter = Waiter {
            client,
            attempt,
            asked: Awaited::Read { key: args.key[0] },
        };
        let in_transfer = self.process(id).raft.handing_over_to().is_some();
        let committed = self.oracle.committed();
        let process = self.process(id);
        let read = process.next_read;
        process.next_read = read.next();
        let taken = if args.any_node {
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
            Err(error) => self.answer(id, waiter, Said::Declined(error.into())),
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

    pub(crate) fn answer(&mut self, id: NodeId, waiter: Waiter, said: Said) {
        let reply = match (waiter.asked, said) {
            (asked, Said::Declined(why)) => self.declined(id, asked, why),
            (_, Said::ConnectionLost) => {
                let error = RpcError::new(Code::Unavailable, "the connection broke");
                Reply::Failed(error.with_may_have_executed(true))
            }
            (Awaited::Write, Said::Outcome(outcome)) => {
                answer::to_write(&outcome).map_or_else(Reply::Failed, Reply::PutAppend)
            }
            (Awaited::OpenSession, Said::Outcome(outcome)) => {
                answer::to_open_session(&outcome).map_or_else(Reply::Failed, Reply::OpenSession)
            }
            (Awaited::Read { .. }, Said::Value(value)) => Reply::Get(answer::to_get(value)),
            (asked, said) => unreachable!("{said:?} to {asked:?}"),
        };
        self.send(Packet::Answer {
            client: waiter.client,
            attempt: waiter.attempt,
            answer: Answer::Call(reply),
        });
    }

    fn declined(&mut self, id: NodeId, asked: Awaited, why: raft::Refusal) -> Reply {
        let kind = match asked {
            Awaited::Write => answer::Asked::Write,
            Awaited::OpenSession => answer::Asked::OpenSession,
            Awaited::Read { .. } => answer::Asked::Get,
        };
        let leader = match answer::declined(kind, why, false) {
            answer::Declined::Failed(error) => return Reply::Failed(error),
            answer::Declined::WrongLeader(leader) => leader,
        };
        let address = leader.map(|leader| self.address_of(id, leader));
        let address = address.unwrap_or_default();
        match kind {
            answer::Asked::Write => Reply::PutAppend(answer::wrong_leader_for_write(address)),
            answer::Asked::OpenSession => {
                Reply::OpenSession(answer::wrong_leader_for_open_session(address))
            }
            answer::Asked::Get => Reply::Get(answer::wrong_leader_for_get(address)),
        }
    }

    /// A process is gone while its machine runs on: its clients' connections break.
    pub(crate) fn lose_connections(&mut self, id: NodeId, process: &Process) {
        let proposals = process.proposals.iter().map(|(_, waiter)| *waiter);
        let reads = process.reads.values().map(|(waiter, _)| *waiter);
        let safe_reads = process.safe_reads.iter().map(|(_, waiter)| *waiter);
        for waiter in proposals.chain(reads).chain(safe_reads) {
            self.answer(id, waiter, Said::ConnectionLost);
        }
    }

    /// Nobody listens there: either the connection cannot be made, or it breaks.
    pub(crate) fn refuse_connection(&mut self, client: usize, attempt: u64, ask: &Ask) {
        let was_connected = self.rng.bool();
        let error = RpcError::new(Code::Unavailable, "nobody listens there");
        let error = error.with_may_have_executed(was_connected);
        let answer = match ask {
            Ask::Call(_) => Answer::Call(Reply::Failed(error)),
            Ask::Describe => Answer::Described(Err(error)),
        };
        self.send(Packet::Answer {
            client,
            attempt,
            answer,
        });
    }

    /// Where a node's members say that another one is.
    fn address_of(&mut self, id: NodeId, other: NodeId) -> String {
        let members = self.process(id).raft.membership();
        members.addresses().get(&other).cloned().unwrap_or_default()
    }

    /// As `raft/src/cluster_service.rs` has it, as far as a clerk looks at it.
    fn description(&mut self, id: NodeId) -> DescribeReply {
        let raft = &self.process(id).raft;
        let role = match raft.role() {
            Role::Follower => "follower",
            Role::PreCandidate | Role::Candidate => "candidate",
            Role::Leader => "leader",
        };
        let members = raft.membership();
        let each = members.addresses().iter().map(|(node, address)| Member {
            node: node.get(),
            address: address.clone(),
            voter: members.voters().contains(node),
            outgoing: members.outgoing().contains(node),
        });
        DescribeReply {
            role: role.to_owned(),
            term: raft.term().get(),
            membership: Some(Membership {
                members: each.collect(),
            }),
            membership_index: raft.membership_index().get(),
            ..DescribeReply::default()
        }
    }
}

fn write_of(args: PutAppendArgs) -> (Writer, Op) {
    let writer = Writer::Session {
        id: SessionId::new(args.session_id),
        request: RequestId::new(args.session_request_id),
        replies_seen_upto: RequestId::new(args.replies_seen_up_to),
    };
    let (key, value) = (args.key, args.value);
    let op = match &args.op[..] {
        b"Append" => Op::Append { key, value },
        _ => Op::Put { key, value },
    };
    (writer, op)
}
