//! Whoever waits for a leader is answered when it leads no longer.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;

use proto::raft::{
    AppendEntriesArgs, AppendEntriesReply, Envelope, InstallSnapshotArgs, InstallSnapshotReply,
    RaftRpc, RaftRpcService, RaftRpcStub, ReadIndexArgs, ReadIndexReply, RequestVoteArgs,
    RequestVoteReply, TimeoutNowArgs, TimeoutNowReply,
};
use raft::{ChangeFailure, MembershipChange, NodeId, NodeOptions, Refusal, TransferFailure};
use rpc::{
    Done, EventLoops, ProviderHandle, ProviderOptions, RpcChannel, RpcContext, RpcController,
    RpcProvider,
};

use crate::harness::{CLUSTER, HANG_GUARD, Node, eventually};

/// A follower that votes for whoever asks, and takes entries or not.
struct Fake {
    takes_entries: Arc<AtomicBool>,
}

impl RaftRpc for Fake {
    fn append_entries(
        &self,
        _: RpcContext,
        args: AppendEntriesArgs,
        done: Done<AppendEntriesReply>,
    ) {
        let last = args.prev_log_index + args.entries.len() as u64;
        let takes = self.takes_entries.load(Ordering::Relaxed);
        done.run(AppendEntriesReply {
            term: args.term,
            success: true,
            match_index: if takes { last } else { 0 },
            round: args.round,
            ..AppendEntriesReply::default()
        });
    }

    fn request_vote(&self, _: RpcContext, args: RequestVoteArgs, done: Done<RequestVoteReply>) {
        done.run(RequestVoteReply {
            term: args.term,
            vote_granted: true,
            pre_vote: args.pre_vote,
        });
    }

    fn install_snapshot(
        &self,
        _: RpcContext,
        args: InstallSnapshotArgs,
        done: Done<InstallSnapshotReply>,
    ) {
        done.run(InstallSnapshotReply {
            term: args.term,
            ..InstallSnapshotReply::default()
        });
    }

    fn timeout_now(&self, _: RpcContext, args: TimeoutNowArgs, done: Done<TimeoutNowReply>) {
        done.run(TimeoutNowReply { term: args.term });
    }

    fn read_index(&self, _: RpcContext, args: ReadIndexArgs, done: Done<ReadIndexReply>) {
        done.run(ReadIndexReply {
            term: args.term,
            number: args.number,
            index: None,
        });
    }
}

/// Node 0 leads the fakes 1 and 2, which from then on take nothing.
struct Leader {
    node: Node,
    addr: SocketAddr,
    _fakes: [ProviderHandle; 2],
    _dir: tempfile::TempDir,
}

impl Leader {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let takes_entries = Arc::new(AtomicBool::new(true));
        let fakes = [1, 2].map(|_| {
            let takes_entries = Arc::clone(&takes_entries);
            let mut provider = RpcProvider::new(ProviderOptions::default());
            provider
                .notify_service(RaftRpcService::new(Arc::new(Fake { takes_entries })))
                .unwrap();
            provider.start("127.0.0.1:0").unwrap()
        });
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        drop(listener);
        let addresses = [addr, fakes[0].local_addr(), fakes[1].local_addr()];
        let options = NodeOptions::new(
            NodeId::new(0),
            &addresses,
            CLUSTER,
            dir.path().join("node0"),
            EventLoops::start(1, "test-node").unwrap(),
        );
        let node = Node::start(options, addr);
        eventually("a leader", || node.status().serving.then_some(()));
        takes_entries.store(false, Ordering::Relaxed);
        Self {
            node,
            addr,
            _fakes: fakes,
            _dir: dir,
        }
    }

    /// Node 2 leads the next term.
    fn depose(&self) {
        let stub = RaftRpcStub::new(RpcChannel::new(self.addr));
        let args = AppendEntriesArgs {
            envelope: Some(Envelope {
                cluster_id: CLUSTER,
                from: 2,
                to: 0,
            }),
            term: self.node.status().term.get() + 1,
            ..AppendEntriesArgs::default()
        };
        let mut controller = RpcController::with_timeout(HANG_GUARD);
        assert!(stub.append_entries(&mut controller, &args).unwrap().success);
    }
}

#[test]
fn a_change_of_members_ends_as_unknown() {
    let leader = Leader::start();
    let (answer, answers) = channel();
    let change = MembershipChange::AddLearner {
        node: NodeId::new(9),
        address: "127.0.0.1:1".to_owned(),
    };
    let in_force = leader.node.status().membership_index;
    leader
        .node
        .handle()
        .change_membership(change, move |outcome| {
            answer.send(outcome).unwrap();
        });
    eventually("a change under way", || {
        (leader.node.status().membership_index > in_force).then_some(())
    });
    assert!(answers.try_recv().is_err(), "it is not committed");
    leader.depose();
    let unknown = ChangeFailure::Unknown {
        leader: Some(NodeId::new(2)),
    };
    assert_eq!(answers.recv_timeout(HANG_GUARD), Ok(Err(unknown)));
}

#[test]
fn a_transfer_ends_with_whoever_leads_instead() {
    let leader = Leader::start();
    let outcome = leader.node.propose(b"nobody takes this".to_vec());
    let (answer, answers) = channel();
    leader
        .node
        .handle()
        .transfer_leadership(Some(NodeId::new(1)), move |outcome| {
            answer.send(outcome).unwrap();
        });
    eventually("a transfer under way", || {
        leader.node.status().handing_over_to
    });
    leader.depose();
    assert_eq!(answers.recv_timeout(HANG_GUARD), Ok(Ok(NodeId::new(2))));
    let lost = Refusal::LeadershipLost {
        leader: Some(NodeId::new(2)),
    };
    assert_eq!(outcome.recv_timeout(HANG_GUARD), Ok(Err(lost)));
}

#[test]
fn a_transfer_to_a_node_that_does_not_catch_up_is_given_up() {
    let leader = Leader::start();
    let _outcome = leader.node.propose(b"nobody takes this".to_vec());
    let (answer, answers) = channel();
    let to = NodeId::new(1);
    leader
        .node
        .handle()
        .transfer_leadership(Some(to), move |outcome| answer.send(outcome).unwrap());
    let failure = TransferFailure::TimedOut { to };
    assert_eq!(answers.recv_timeout(HANG_GUARD), Ok(Err(failure)));
    assert_eq!(leader.node.status().leader, Some(NodeId::new(0)));
}
