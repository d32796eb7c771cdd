//! A cluster that is none: nodes in this process that answer as told, over one map.
//!
//! It checks its clients as it goes: a request number at or below what its session has said to have
//! seen fails the test.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread;

use bytes::Bytes;
use parking_lot::Mutex;
use proto::kv::{
    GetArgs, GetReply, KvServerRpc, KvServerRpcService, OpenSessionArgs, OpenSessionReply,
    PutAppendArgs, PutAppendReply, StatusArgs, StatusReply,
};
use proto::membership::{
    AddLearnerArgs, ChangeReply, ClusterRpc, ClusterRpcService, DescribeArgs, DescribeReply,
    NodeArgs, ReplaceArgs, TransferArgs, TransferReply,
};
use proto::raft::{Member, Membership};
use rpc::{Code, Done, ProviderHandle, ProviderOptions, RpcContext, RpcError, RpcProvider};

/// How a node treats one request, instead of answering it as it should.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// Takes it and never answers.
    Silence,
    /// Executes it, and its reply gets lost.
    LoseReply,
    /// Refuses it for overload.
    Busy,
    /// Refuses it for good.
    Refuse,
    /// Says that it does not lead, and names this.
    Hint(&'static str),
    /// Says that the session is unknown, and forgets it.
    Expire,
}

pub(crate) struct FakeCluster {
    pub(crate) state: Arc<Mutex<State>>,
    pub(crate) addresses: Vec<SocketAddr>,
    providers: Vec<Option<ProviderHandle>>,
}

#[derive(Default)]
pub(crate) struct State {
    pub(crate) leader: usize,
    /// Followers name the leader.
    pub(crate) hints: bool,
    pub(crate) map: BTreeMap<Bytes, Vec<u8>>,
    pub(crate) sessions: BTreeMap<u64, Session>,
    pub(crate) sessions_opened: u64,
    /// Served first come, first served, by the node each is meant for.
    pub(crate) faults: Vec<VecDeque<Fault>>,
    /// Who takes part; nobody says so while this is empty.
    pub(crate) members: Vec<usize>,
    /// How often a node was asked who takes part.
    pub(crate) described: u32,
    /// Reads that any node may answer, by the node that did.
    pub(crate) read_anywhere: Vec<usize>,
    /// Requests that came to each node.
    pub(crate) asked: Vec<u32>,
    /// (session, request) of each write that came to any node.
    pub(crate) write_attempts: Vec<(u64, u64)>,
    /// The most replies that a session had to keep.
    pub(crate) replies_kept_max: usize,
    /// Told when the cluster is dropped: a panic on an event loop would fail no test.
    violations: Vec<String>,
    unanswered: Vec<Box<dyn Send>>,
    addresses: Vec<SocketAddr>,
}

#[derive(Default)]
pub(crate) struct Session {
    pub(crate) seen_up_to: u64,
    executed: BTreeSet<u64>,
}

struct FakeNode {
    number: usize,
    state: Arc<Mutex<State>>,
}

impl FakeCluster {
    /// `nodes` nodes, of which `leader` leads and the others say so.
    pub(crate) fn start(nodes: usize, leader: usize) -> Self {
        let state = Arc::new(Mutex::new(State {
            leader,
            hints: true,
            faults: vec![VecDeque::new(); nodes],
            asked: vec![0; nodes],
            ..State::default()
        }));
        let providers: Vec<_> = (0..nodes)
            .map(|number| {
                let node = FakeNode {
                    number,
                    state: Arc::clone(&state),
                };
                let mut provider = RpcProvider::new(ProviderOptions::default());
                provider
                    .notify_service(KvServerRpcService::new(Arc::new(node)))
                    .unwrap();
                let node = FakeNode {
                    number,
                    state: Arc::clone(&state),
                };
                provider
                    .notify_service(ClusterRpcService::new(Arc::new(node)))
                    .unwrap();
                provider.start("127.0.0.1:0").unwrap()
            })
            .collect();
        let addresses: Vec<_> = providers.iter().map(ProviderHandle::local_addr).collect();
        state.lock().addresses.clone_from(&addresses);
        Self {
            state,
            addresses,
            providers: providers.into_iter().map(Some).collect(),
        }
    }

    /// Nobody listens there any more.
    pub(crate) fn stop(&mut self, node: usize) {
        drop(self.providers[node].take().expect("it runs"));
    }

    pub(crate) fn fault(&self, node: usize, fault: Fault) {
        self.state.lock().faults[node].push_back(fault);
    }

    pub(crate) fn value(&self, key: &'static str) -> String {
        let value = self
            .state
            .lock()
            .map
            .get(key.as_bytes())
            .cloned()
            .unwrap_or_default();
        String::from_utf8(value).unwrap()
    }
}

impl Drop for FakeCluster {
    fn drop(&mut self) {
        let violations = &self.state.lock().violations;
        assert!(
            thread::panicking() || violations.is_empty(),
            "{violations:?}"
        );
    }
}

/// An address where nobody listens.
pub(crate) fn dead_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
}

impl State {
    /// Counts a request, and takes the fault it is to meet.
    fn meet(&mut self, number: usize) -> Option<Fault> {
        self.asked[number] += 1;
        self.faults[number].pop_front()
    }

    fn leader_address(&self, number: usize) -> Option<String> {
        let hint = || {
            if self.hints {
                self.addresses[self.leader].to_string()
            } else {
                String::new()
            }
        };
        (self.leader != number).then(hint)
    }

    fn write(&mut self, args: &PutAppendArgs) -> &'static str {
        let (session, request) = (args.session_id, args.session_request_id);
        let Some(session) = self.sessions.get_mut(&session) else {
            return "ErrSessionExpired";
        };
        session.seen_up_to = session.seen_up_to.max(args.replies_seen_up_to);
        if request <= session.seen_up_to {
            self.violations
                .push(format!("{request} was said to be seen, and is asked again"));
        }
        let seen_up_to = session.seen_up_to;
        session.executed.retain(|request| *request > seen_up_to);
        if session.executed.insert(request) {
            let value = self.map.entry(args.key.clone()).or_default();
            if &args.op[..] == b"Put" {
                value.clear();
            }
            value.extend_from_slice(&args.value);
        }
        self.replies_kept_max = self.replies_kept_max.max(session.executed.len());
        "OK"
    }
}

impl KvServerRpc for FakeNode {
    fn get(&self, _context: RpcContext, args: GetArgs, done: Done<GetReply>) {
        let mut state = self.state.lock();
        let wrong_leader = |hint: String| GetReply {
            err: "ErrWrongLeader".into(),
            leader_address: hint,
            ..GetReply::default()
        };
        match state.meet(self.number) {
            Some(Fault::Silence) => return state.unanswered.push(Box::new(done)),
            Some(Fault::LoseReply) => return done.fail(RpcError::new(Code::Unavailable, "reset")),
            Some(Fault::Busy) => return done.refuse(busy()),
            Some(Fault::Refuse) => return done.refuse(refused()),
            Some(Fault::Hint(hint)) => return done.run(wrong_leader(hint.to_owned())),
            Some(Fault::Expire) | None => {}
        }
        if args.any_node {
            let number = self.number;
            state.read_anywhere.push(number);
        } else if let Some(hint) = state.leader_address(self.number) {
            return done.run(wrong_leader(hint));
        }
        done.run(match state.map.get(&args.key) {
            Some(value) => {
                let value = Bytes::copy_from_slice(value);
                GetReply {
                    err: "OK".into(),
                    value,
                    ..GetReply::default()
                }
            }
            None => GetReply {
                err: "ErrNoKey".into(),
                ..GetReply::default()
            },
        });
    }

    fn put_append(&self, _context: RpcContext, args: PutAppendArgs, done: Done<PutAppendReply>) {
        let mut state = self.state.lock();
        state
            .write_attempts
            .push((args.session_id, args.session_request_id));
        let reply = |err: &'static str, leader_address: String| PutAppendReply {
            err: err.into(),
            leader_address,
        };
        match state.meet(self.number) {
            Some(Fault::Silence) => return state.unanswered.push(Box::new(done)),
            Some(Fault::LoseReply) => {
                state.write(&args);
                return done.fail(RpcError::new(Code::Unavailable, "connection reset"));
            }
            Some(Fault::Busy) => return done.refuse(busy()),
            Some(Fault::Refuse) => return done.refuse(refused()),
            Some(Fault::Hint(hint)) => return done.run(reply("ErrWrongLeader", hint.to_owned())),
            Some(Fault::Expire) => {
                state.sessions.remove(&args.session_id);
            }
            None => {}
        }
        if let Some(hint) = state.leader_address(self.number) {
            return done.run(reply("ErrWrongLeader", hint));
        }
        let err = state.write(&args);
        done.run(reply(err, String::new()));
    }

    fn open_session(
        &self,
        _context: RpcContext,
        _args: OpenSessionArgs,
        done: Done<OpenSessionReply>,
    ) {
        let mut state = self.state.lock();
        state.asked[self.number] += 1; // meets no fault, so that tests aim at writes and reads
        if let Some(leader_address) = state.leader_address(self.number) {
            let err = "ErrWrongLeader".into();
            return done.run(OpenSessionReply {
                err,
                leader_address,
                session_id: 0,
            });
        }
        state.sessions_opened += 1;
        let session_id = 1000 + state.sessions_opened;
        state.sessions.insert(session_id, Session::default());
        done.run(OpenSessionReply {
            err: "OK".into(),
            session_id,
            ..OpenSessionReply::default()
        });
    }

    fn status(&self, _context: RpcContext, _args: StatusArgs, done: Done<StatusReply>) {
        done.run(StatusReply::default());
    }
}

fn busy() -> RpcError {
    RpcError::new(Code::ResourceExhausted, "the inbox is full")
}

fn refused() -> RpcError {
    RpcError::new(Code::InvalidArgument, "the value is too large")
}

impl ClusterRpc for FakeNode {
    fn describe(&self, _context: RpcContext, _args: DescribeArgs, done: Done<DescribeReply>) {
        let mut state = self.state.lock();
        state.described += 1;
        let members = state.members.iter().map(|number| Member {
            node: *number as u64,
            address: state.addresses[*number].to_string(),
            voter: true,
            outgoing: false,
        });
        let role = if state.leader == self.number {
            "leader"
        } else {
            "follower"
        };
        done.run(DescribeReply {
            role: role.to_owned(),
            membership: Some(Membership {
                members: members.collect(),
            }),
            ..DescribeReply::default()
        });
    }

    fn add_learner(&self, _context: RpcContext, _args: AddLearnerArgs, done: Done<ChangeReply>) {
        done.refuse(refused());
    }

    fn promote(&self, _context: RpcContext, _args: NodeArgs, done: Done<ChangeReply>) {
        done.refuse(refused());
    }

    fn remove(&self, _context: RpcContext, _args: NodeArgs, done: Done<ChangeReply>) {
        done.refuse(refused());
    }

    fn replace(&self, _context: RpcContext, _args: ReplaceArgs, done: Done<ChangeReply>) {
        done.refuse(refused());
    }

    fn transfer_leadership(
        &self,
        _context: RpcContext,
        _args: TransferArgs,
        done: Done<TransferReply>,
    ) {
        done.refuse(refused());
    }
}
