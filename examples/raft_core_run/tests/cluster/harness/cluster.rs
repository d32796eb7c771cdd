//! A cluster of real node processes, each with a handle of its own.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use clerk::{Clerk, ClerkOptions};
use proto::cluster::ClusterFile;
use proto::kv::{KvServerRpcStub, StatusArgs, StatusReply};
use proto::membership::ClusterRpcStub;
use rpc::{Backoff, ChannelOptions, RpcChannel, RpcController};
use rustix::process::Signal;
use tempfile::TempDir;

use super::links::Links;
use super::network::Network;
use super::process::{Process, show_end_of};
use super::wait::eventually;

/// Clusters run one at a time: two of them on two cores would disturb each other's elections.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// How long a node may take to tell its status.
const STATUS_LIMIT: Duration = Duration::from_secs(2);

/// A status is asked of nodes that are down as well, so an attempt to connect follows soon.
const RECONNECT: Backoff = Backoff {
    min: Duration::from_millis(5),
    max: Duration::from_millis(50),
};

/// Waits for its turn, then keeps others waiting.
pub(crate) fn alone() -> MutexGuard<'static, ()> {
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

/// N nodes, each `raft_core_run --node I` in a process of its own. They end with this value, and with
/// the test's process: their standard input is a pipe from it. A failing test shows what they logged
/// and keeps their directory.
pub(crate) struct Cluster {
    nodes: Vec<Node>,
    knobs: Vec<String>,
    file: ClusterFile,
    /// The nodes know each other by the addresses of relays, which are none of the clients' business.
    has_links: bool,
    /// Where each node has a host of its own.
    network: Option<Arc<Network>>,
    dir: Option<TempDir>,
    _alone: MutexGuard<'static, ()>,
}

struct Node {
    process: Option<Process>,
    starts: u32,
    stub: KvServerRpcStub,
}

impl Cluster {
    /// Starts `count` nodes with default options and waits until one of them leads.
    pub(crate) fn start(count: usize) -> Self {
        Self::with_knobs(count, &[])
    }

    /// As [`start`](Self::start), each node with these options.
    pub(crate) fn with_knobs(count: usize, knobs: &[&str]) -> Self {
        Self::at(free_addresses(count), knobs, None)
    }

    /// As [`with_knobs`](Self::with_knobs), each node on the host of its number.
    pub(crate) fn on(network: &Arc<Network>, count: usize, knobs: &[&str]) -> Self {
        let addresses = (0..count).map(|node| network.address(node)).collect();
        Self::at(addresses, knobs, Some(Arc::clone(network)))
    }

    fn at(addresses: Vec<SocketAddr>, knobs: &[&str], network: Option<Arc<Network>>) -> Self {
        let mut cluster = Self::prepare(addresses, knobs);
        cluster.network = network;
        for node in 0..cluster.len() {
            cluster.file.write(cluster.file_of(node)).unwrap();
        }
        cluster.start_all();
        cluster
    }

    /// As [`with_knobs`](Self::with_knobs), over links that can be cut.
    pub(crate) fn with_links(count: usize, knobs: &[&str]) -> (Self, Links) {
        let mut cluster = Self::prepare(free_addresses(count), knobs);
        cluster.has_links = true;
        let links = Links::between(&cluster.file.nodes);
        for node in 0..count {
            let file = ClusterFile {
                nodes: links.addresses_for(node, &cluster.file.nodes),
                cluster_id: cluster.file.cluster_id,
            };
            file.write(cluster.file_of(node)).unwrap();
        }
        cluster.start_all();
        (cluster, links)
    }

    fn prepare(addresses: Vec<SocketAddr>, knobs: &[&str]) -> Self {
        let alone = alone();
        let dir = tempfile::Builder::new()
            .prefix("cluster-")
            .tempdir()
            .unwrap();
        let file = ClusterFile {
            nodes: addresses,
            cluster_id: fastrand::u64(..),
        };
        file.write(dir.path().join("test.conf")).unwrap();
        let nodes = file.nodes.iter().map(|&addr| Node {
            process: None,
            starts: 0,
            stub: stub(addr),
        });
        Self {
            nodes: nodes.collect(),
            knobs: knobs.iter().map(|&knob| knob.to_owned()).collect(),
            file,
            has_links: false,
            network: None,
            dir: Some(dir),
            _alone: alone,
        }
    }

    fn start_all(&mut self) {
        for node in 0..self.len() {
            self.start_node(node);
        }
        self.leader();
    }

    pub(crate) fn len(&self) -> usize {
        self.nodes.len()
    }

    pub(crate) fn addresses(&self) -> &[SocketAddr] {
        &self.file.nodes
    }

    pub(crate) fn network(&self) -> Option<&Network> {
        self.network.as_deref()
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.as_ref().expect("it is taken in drop only").path()
    }

    pub(crate) fn file(&self) -> PathBuf {
        self.dir().join("test.conf")
    }

    /// What `node` reads; the same as everybody's, but for links that can be cut.
    fn file_of(&self, node: usize) -> PathBuf {
        self.dir().join(format!("node{node}.conf"))
    }

    pub(crate) fn node_dir(&self, node: usize) -> PathBuf {
        self.dir().join("data").join(format!("node{node}"))
    }

    /// The command that runs `node`.
    pub(crate) fn node_command(&self, node: usize) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_raft_core_run"));
        command
            .arg("--supervised")
            .arg(format!("--node={node}"))
            .arg("-f")
            .arg(self.file_of(node))
            .arg("--data-dir")
            .arg(self.dir().join("data"))
            .args(&self.knobs);
        if let Some(network) = &self.network {
            command = network.on_host(node, &command);
        }
        command.env_remove("RUST_LOG");
        command
    }

    /// Starts a node that does not run.
    pub(crate) fn start_node(&mut self, node: usize) {
        let command = self.node_command(node);
        self.start_node_by(node, command);
    }

    /// As [`start_node`](Self::start_node), by another command, such as one that runs it under a tracer.
    pub(crate) fn start_node_by(&mut self, node: usize, command: Command) {
        let log = self.log_of(node, self.nodes[node].starts + 1);
        let slot = &mut self.nodes[node];
        assert!(slot.process.is_none(), "node {node} runs already");
        slot.starts += 1;
        slot.process = Some(Process::start(&format!("node {node}"), command, &log));
    }

    /// Starts a new node that is to join the cluster of `member`, with these further options. Yields
    /// its number. Started again, it is no different from the others.
    pub(crate) fn join(&mut self, member: usize, options: &[&str]) -> usize {
        let node = self.len();
        let address = match &self.network {
            Some(network) => network.address(node),
            None => free_addresses(1)[0],
        };
        let member = self.file.nodes[member];
        self.file.nodes.push(address);
        self.nodes.push(Node {
            process: None,
            starts: 0,
            stub: stub(address),
        });
        let mut command = self.node_command(node);
        command
            .arg(format!("--join={member}"))
            .arg(format!("--listen={address}"))
            .args(options);
        self.start_node_by(node, command);
        node
    }

    /// Asks `node` for changes of members.
    pub(crate) fn operator(&self, node: usize) -> ClusterRpcStub {
        ClusterRpcStub::new(RpcChannel::new(self.file.nodes[node]))
    }

    /// The process of a node that was started and not killed.
    pub(crate) fn process(&mut self, node: usize) -> &mut Process {
        self.nodes[node]
            .process
            .as_mut()
            .expect("the node was started")
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self, node: usize) {
        let process = self.nodes[node].process.take();
        process.expect("the node was started").kill();
    }

    /// SIGTERM, and the node's end, which must be in order. Yields what it printed.
    pub(crate) fn stop(&mut self, node: usize) -> String {
        let mut process = self.nodes[node].process.take();
        let process = process.as_mut().expect("the node was started");
        process.signal(Signal::TERM);
        let status = process.wait();
        let output = process.output();
        assert!(status.success(), "node {node} ended with {status}");
        output
    }

    /// What `node` has printed since its latest start.
    pub(crate) fn output(&self, node: usize) -> String {
        let process = self.nodes[node].process.as_ref();
        process.expect("the node was started").output()
    }

    /// `kill -9` of all that run, as nearly at once as a machine can.
    pub(crate) fn kill_all(&mut self) {
        for node in &self.nodes {
            if let Some(process) = &node.process {
                process.signal(Signal::KILL);
            }
        }
        for node in &mut self.nodes {
            drop(node.process.take());
        }
    }

    /// `kill -STOP`: the process stands still; the system still takes connections and bytes for it.
    pub(crate) fn pause(&mut self, node: usize) {
        self.process(node).signal(Signal::STOP);
    }

    /// `kill -CONT`.
    pub(crate) fn resume(&mut self, node: usize) {
        self.process(node).signal(Signal::CONT);
    }

    /// What a node knows of itself; `None` while it does not answer.
    pub(crate) fn status(&self, node: usize) -> Option<StatusReply> {
        let reply = status(&self.nodes[node].stub)?;
        assert_eq!(
            reply.node_id, node as u64,
            "another node answers at its address"
        );
        Some(reply)
    }

    /// The nodes whose processes run (paused ones included).
    pub(crate) fn running(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.len()).filter(|&node| self.nodes[node].process.is_some())
    }

    /// The node that leads and serves, once there is one.
    pub(crate) fn leader(&self) -> usize {
        self.leader_among(&self.running().collect::<Vec<_>>())
    }

    /// As [`leader`](Self::leader), asking only some nodes.
    pub(crate) fn leader_among(&self, nodes: &[usize]) -> usize {
        eventually(&format!("a leader among the nodes {nodes:?}"), || {
            let serving = nodes.iter().filter_map(|&node| {
                let status = self.status(node)?;
                status.serving.then_some((status.term, node))
            });
            serving.max().map(|(_, node)| node) // of an older term: deposed, and not aware of it yet
        })
    }

    /// Waits until `node` has applied everything that the leader has committed by now, load or not.
    pub(crate) fn wait_for_catch_up(&self, node: usize) {
        let leader = self.leader();
        let goal = eventually("the leader's status", || self.status(leader)).commit_index;
        eventually(&format!("node {node} has applied {goal}"), || {
            self.status(node)
                .filter(|status| status.last_applied >= goal)
        });
    }

    /// Waits until all running nodes have applied the same log to its end. Nobody may be writing.
    pub(crate) fn wait_for_convergence(&self) {
        let running: Vec<usize> = self.running().collect();
        eventually(&format!("the same log on the nodes {running:?}"), || {
            let statuses: Vec<StatusReply> = running
                .iter()
                .map(|&node| self.status(node))
                .collect::<Option<_>>()?;
            let first = statuses.first()?;
            let same = |status: &StatusReply| {
                status.last_applied == status.last_log_index
                    && (
                        status.last_log_index,
                        status.commit_index,
                        status.keys,
                        status.sessions,
                    ) == (
                        first.last_log_index,
                        first.commit_index,
                        first.keys,
                        first.sessions,
                    )
            };
            (statuses.iter().all(same) && statuses.iter().any(|status| status.serving))
                .then_some(())
        });
    }

    /// A client with connections and a session of its own.
    pub(crate) fn clerk(&self, seed: u64) -> Clerk {
        let options = ClerkOptions {
            seed: Some(seed),
            ..self.clerk_options()
        };
        Clerk::new(self.addresses(), options).unwrap()
    }

    /// A client that knows only some nodes, and so does not wait for another one.
    pub(crate) fn clerk_of(&self, nodes: &[usize]) -> Clerk {
        let addresses: Vec<SocketAddr> = nodes.iter().map(|&node| self.file.nodes[node]).collect();
        Clerk::new(addresses, self.clerk_options()).unwrap()
    }

    fn clerk_options(&self) -> ClerkOptions {
        let mut options = ClerkOptions::default();
        if self.has_links {
            options.refresh_members = None;
        }
        options
    }

    /// Calls one node directly, whoever leads.
    pub(crate) fn stub(&self, node: usize) -> KvServerRpcStub {
        stub(self.file.nodes[node])
    }

    fn log_of(&self, node: usize, start: u32) -> PathBuf {
        self.dir().join(format!("node{node}-start{start}.log"))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if !thread::panicking() {
            return;
        }
        for (node, slot) in self.nodes.iter().enumerate() {
            for start in 1..=slot.starts {
                show_end_of(&self.log_of(node, start));
            }
        }
        if let Some(dir) = self.dir.take() {
            eprintln!(
                "---- the cluster's directory is kept: {}",
                dir.keep().display()
            );
        }
    }
}

/// What the node that `stub` calls knows of itself; `None` while it does not answer.
pub(crate) fn status(stub: &KvServerRpcStub) -> Option<StatusReply> {
    let mut controller = RpcController::with_timeout(STATUS_LIMIT);
    stub.status(&mut controller, &StatusArgs {}).ok()
}

/// Calls the node at `addr` alone.
pub(crate) fn stub(addr: SocketAddr) -> KvServerRpcStub {
    let options = ChannelOptions {
        backoff: RECONNECT,
        ..ChannelOptions::default()
    };
    KvServerRpcStub::new(RpcChannel::with_options(addr, options))
}

/// An address of this machine that no other program is likely to use: Linux answers to all of
/// 127.0.0.0/8. Elsewhere only 127.0.0.1 will do.
pub(crate) fn loopback() -> IpAddr {
    let [a, b, c] = std::array::from_fn(|_| fastrand::u8(1..=254));
    let drawn = IpAddr::from(Ipv4Addr::new(127, a, b, c));
    TcpListener::bind((drawn, 0)).map_or(Ipv4Addr::LOCALHOST.into(), |_| drawn)
}

/// Addresses at which nobody listens. They are all taken at once, so no two are alike.
pub(crate) fn free_addresses(count: usize) -> Vec<SocketAddr> {
    let ip = loopback();
    let taken: Vec<TcpListener> = (0..count)
        .map(|_| TcpListener::bind((ip, 0)).unwrap())
        .collect();
    taken
        .iter()
        .map(|taken| taken.local_addr().unwrap())
        .collect()
}

/// All files under `dir` with their sizes, in order of their names. One that vanishes meanwhile is left out.
pub(crate) fn files_of(dir: &Path) -> Vec<(PathBuf, u64)> {
    let Ok(entries) = fs::read_dir(dir) else {
        return Vec::new();
    };
    let mut files: Vec<(PathBuf, u64)> = entries
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let metadata = entry.metadata().ok()?;
            metadata.is_file().then(|| (entry.path(), metadata.len()))
        })
        .collect();
    files.sort();
    files
}
