//! A cluster in this process, on loopback; its files go with it.

use std::io::Write as _;
use std::net::{SocketAddr, TcpListener};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use proto::raft::RaftRpcService;
use raft::{
    ApplyMsg, LogId, NodeHandle, NodeId, NodeOptions, NodeStatus, RaftNode, RaftService, Refusal,
    Waiter,
};
use rpc::{EventLoops, ProviderHandle, ProviderOptions, RpcProvider};

/// Far more than anything here takes: a test that gets here hangs.
pub(crate) const HANG_GUARD: Duration = Duration::from_mins(1);

/// Of every cluster here.
pub(crate) const CLUSTER: u64 = 7;

/// Who waits for an entry.
pub(crate) struct Caller(Sender<Result<(), Refusal>>);

impl Waiter for Caller {
    fn refuse(self, why: Refusal) {
        let _ = self.0.send(Err(why));
    }
}

/// Whether a state machine goes on.
#[derive(Default)]
struct Gate {
    stands_still: Mutex<bool>,
    changed: Condvar,
}

impl Gate {
    fn set(&self, stands_still: bool) {
        *self.stands_still.lock().unwrap() = stands_still;
        self.changed.notify_all();
    }

    fn pass(&self) {
        let guard = self.stands_still.lock().unwrap();
        drop(self.changed.wait_while(guard, |still| *still).unwrap());
    }
}

/// One node. Fields are dropped in order: the provider, which calls the node, before it.
pub(crate) struct Node {
    provider: ProviderHandle,
    raft: RaftNode<Caller>,
    gate: Arc<Gate>,
}

impl Node {
    pub(crate) fn start(options: NodeOptions, addr: SocketAddr) -> Self {
        let (id, cluster_id) = (options.id, options.cluster_id);
        let mut provider = RpcProvider::new(ProviderOptions {
            loops: Some(options.loops.clone()),
            ..ProviderOptions::default()
        });
        let (node, apply_chan) = RaftNode::start(options).unwrap();
        let service = RaftService::new(node.handle(), id, cluster_id);
        provider
            .notify_service(RaftRpcService::new(Arc::new(service)))
            .unwrap();
        let gate = Arc::new(Gate::default());
        let (handle, opens) = (node.handle(), Arc::clone(&gate));
        thread::spawn(move || apply(&apply_chan, &handle, &opens));
        Self {
            provider: provider.start(addr).unwrap(),
            raft: node,
            gate,
        }
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.provider.local_addr()
    }

    pub(crate) fn handle(&self) -> NodeHandle<Caller> {
        self.raft.handle()
    }

    pub(crate) fn status(&self) -> NodeStatus {
        self.raft.handle().status()
    }

    /// Its state machine applies nothing more, until it is told to go on.
    pub(crate) fn stand_still(&self, stands_still: bool) {
        self.gate.set(stands_still);
    }

    /// What becomes of a command.
    pub(crate) fn propose(&self, command: Vec<u8>) -> Receiver<Result<(), Refusal>> {
        let (sender, outcome) = channel();
        self.raft
            .handle()
            .propose(Bytes::from(command), Caller(sender));
        outcome
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.gate.set(false);
        self.provider.shutdown();
    }
}

/// A state machine without a state.
fn apply(
    apply_chan: &crossbeam_channel::Receiver<ApplyMsg<Caller>>,
    node: &NodeHandle<Caller>,
    gate: &Gate,
) {
    let mut last = LogId::ZERO;
    for message in apply_chan {
        gate.pass();
        match message {
            ApplyMsg::Entries(entries) => {
                for committed in entries {
                    last = committed.entry.id;
                    if let Some(Caller(sender)) = committed.waiter {
                        let _ = sender.send(Ok(()));
                    }
                }
                node.applied(last.index);
            }
            ApplyMsg::Reads(_) => {}
            ApplyMsg::Install(snapshot) => {
                last = snapshot.last_included();
                node.applied(last.index);
            }
            ApplyMsg::TakeSnapshot(job) => {
                let mut file = job.create(last).unwrap();
                file.write_all(b"nothing").unwrap();
                job.finish(file, last).unwrap();
            }
        }
    }
}

/// Nodes 0, 1, ..., each adjusted.
pub(crate) struct Nodes {
    pub(crate) nodes: Vec<Node>,
    _dir: tempfile::TempDir,
}

impl Nodes {
    pub(crate) fn start(count: usize, adjust: impl Fn(&mut NodeOptions)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let listeners: Vec<TcpListener> = (0..count)
            .map(|_| TcpListener::bind("127.0.0.1:0").unwrap())
            .collect();
        let addresses: Vec<SocketAddr> = listeners
            .iter()
            .map(|listener| listener.local_addr().unwrap())
            .collect();
        drop(listeners);
        let start = |(at, addr): (usize, &SocketAddr)| {
            let mut options = NodeOptions::new(
                NodeId::new(at as u64),
                &addresses,
                CLUSTER,
                dir.path().join(format!("node{at}")),
                EventLoops::start(1, "test-node").unwrap(),
            );
            adjust(&mut options);
            Node::start(options, *addr)
        };
        Self {
            nodes: addresses.iter().enumerate().map(start).collect(),
            _dir: dir,
        }
    }

    /// The place of the one that leads and serves.
    pub(crate) fn leader(&self) -> usize {
        eventually("a leader", || {
            self.nodes.iter().position(|node| node.status().serving)
        })
    }
}

/// Asks until there is an answer.
pub(crate) fn eventually<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + HANG_GUARD;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < end, "no {what} for {HANG_GUARD:?}");
        thread::sleep(Duration::from_millis(5));
    }
}
