//! Asking a running cluster about itself, and its leader for a change of members (`clusterRpc`).

use std::collections::{BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::bounded;
use proto::membership::{
    AddLearnerArgs, ChangeReply, ClusterRpcStub, DescribeArgs, DescribeReply, NodeArgs, ReplaceArgs,
};
use rpc::{ChannelOptions, EventLoops, RpcChannel, RpcController, RpcError};

/// How long one node may take to describe itself.
const ANSWER_LIMIT: Duration = Duration::from_secs(1);

/// How long a leader may take to complete a change.
const CHANGE_LIMIT: Duration = Duration::from_secs(10);

/// How long a cluster may be without a leader when it is first asked.
const ELECTION_LIMIT: Duration = Duration::from_secs(3);

const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Nodes asked in one search for the leader.
const MAX_ASKED: usize = proto::cluster::MAX_NODES;

/// What a node that joins may ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    AddLearner { node: u64, address: SocketAddr },
    Promote { node: u64 },
    Replace { old: u64, new: u64 },
}

/// A cluster, by the addresses of its members that are known so far.
pub(crate) struct Contact {
    loops: EventLoops,
    known: Vec<SocketAddr>,
}

impl Contact {
    pub(crate) fn new(loops: EventLoops, member: SocketAddr) -> Self {
        Self {
            loops,
            known: vec![member],
        }
    }

    /// What the leader says. Follows hints, then asks all members known.
    ///
    /// # Errors
    /// Why none was found, in one line.
    pub(crate) fn leader(&mut self) -> Result<(SocketAddr, DescribeReply), String> {
        let mut why = String::new();
        let mut asked = BTreeSet::new();
        let mut queue: VecDeque<SocketAddr> = self.known.iter().copied().collect();
        while let Some(addr) = queue.pop_front() {
            if asked.len() == MAX_ASKED || !asked.insert(addr) {
                continue;
            }
            match describe(&self.loops, addr) {
                Ok(reply) if reply.role == "leader" => {
                    self.learn(addr, &reply);
                    return Ok((addr, reply));
                }
                Ok(reply) => {
                    why = format!("{addr} is a {} and knows no leader", reply.role);
                    queue.extend(reply.leader_address.parse::<SocketAddr>());
                    queue.extend(addresses(&reply));
                }
                Err(error) => why = format!("{addr}: {error}"),
            }
        }
        Err(why)
    }

    /// As [`leader`](Self::leader), and waits out an election.
    pub(crate) fn leader_soon(&mut self) -> Result<(SocketAddr, DescribeReply), String> {
        let give_up = Instant::now() + ELECTION_LIMIT;
        loop {
            match self.leader() {
                Err(_) if Instant::now() < give_up => thread::sleep(LOOK_AGAIN),
                found => return found,
            }
        }
    }

    /// Asks `leader` for a change and waits until it is complete.
    ///
    /// # Errors
    /// Why it is not, or may not be, in one line.
    pub(crate) fn ask(&self, leader: SocketAddr, change: &Change) -> Result<(), String> {
        let stub = stub(&self.loops, leader);
        let mut controller = RpcController::with_timeout(CHANGE_LIMIT);
        let reply = match *change {
            Change::AddLearner { node, address } => {
                let address = address.to_string();
                stub.add_learner(&mut controller, &AddLearnerArgs { node, address })
            }
            Change::Promote { node } => stub.promote(&mut controller, &NodeArgs { node }),
            Change::Replace { old, new } => {
                stub.replace(&mut controller, &ReplaceArgs { old, new })
            }
        };
        match reply {
            Ok(ChangeReply {
                refused, unknown, ..
            }) if refused.is_empty() && unknown.is_empty() => Ok(()),
            Ok(reply) => Err(format!("{}{}", reply.refused, reply.unknown)),
            Err(error) => Err(error.to_string()),
        }
    }

    /// The leader knows best who the members are.
    fn learn(&mut self, leader: SocketAddr, reply: &DescribeReply) {
        self.known.clear();
        self.known.push(leader);
        self.known.extend(addresses(reply));
    }
}

/// What each of these nodes says of itself; those that do not answer soon are left out.
pub(crate) fn describe_all(
    loops: &EventLoops,
    nodes: &[SocketAddr],
) -> Vec<(SocketAddr, DescribeReply)> {
    let (answer, answers) = bounded(nodes.len());
    let stubs: Vec<_> = nodes
        .iter()
        .map(|&addr| (addr, stub(loops, addr)))
        .collect();
    for (addr, stub) in &stubs {
        let (addr, answer) = (*addr, answer.clone());
        let controller = RpcController::with_timeout(ANSWER_LIMIT);
        stub.describe_async(controller, &DescribeArgs {}, move |reply| {
            let _ = answer.send((addr, reply)); // there is room for one of each node
        });
    }
    drop(answer);
    let answered = answers.iter();
    answered
        .filter_map(|(addr, reply)| Some((addr, reply.ok()?)))
        .collect()
}

/// Where the members of a cluster are, as far as those are addresses.
pub(crate) fn addresses(reply: &DescribeReply) -> impl Iterator<Item = SocketAddr> + '_ {
    let members = reply.membership.iter().flat_map(|all| &all.members);
    members.filter_map(|member| member.address.parse().ok())
}

fn describe(loops: &EventLoops, addr: SocketAddr) -> Result<DescribeReply, RpcError> {
    let mut controller = RpcController::with_timeout(ANSWER_LIMIT);
    stub(loops, addr).describe(&mut controller, &DescribeArgs {})
}

fn stub(loops: &EventLoops, addr: SocketAddr) -> ClusterRpcStub {
    let options = ChannelOptions {
        loops: Some(loops.clone()),
        connect_timeout: ANSWER_LIMIT,
        ..ChannelOptions::default()
    };
    ClusterRpcStub::new(RpcChannel::with_options(addr, options))
}
