//! A cluster for measuring: `raft_core_run` once for each node, in a directory that goes with it.

use std::fs::File;
use std::io;
use std::io::Read as _;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use clerk::{Clerk, ClerkOptions};
use crossbeam_channel::bounded;
use proto::cluster::{ClusterFile, derived_cluster_id};
use proto::kv::{KvServerRpcStub, StatusArgs, StatusReply};
use rpc::{RpcChannel, RpcController};
use rustix::process::Signal;
use tempfile::TempDir;

use crate::child::{ChildProcess, program_beside};
use crate::command::Failure;

/// How long the nodes may take until the first put is answered.
const READY_LIMIT: Duration = Duration::from_secs(20);

/// How long one put may take until another one is tried.
const PUT_LIMIT: Duration = Duration::from_secs(1);

/// How long one node may take to tell its status.
const STATUS_LIMIT: Duration = Duration::from_secs(5);

/// How much of a failed node's log is told.
const LOG_TAIL_BYTES: usize = 2000;

/// Running nodes. Dropping it stops them, then removes their files.
#[derive(Debug)]
pub struct Cluster {
    nodes: Vec<Node>,
    addresses: Vec<SocketAddr>,
    program: PathBuf,
    file: PathBuf,
    /// After the nodes, which write to it until they have stopped.
    _dir: TempDir,
}

#[derive(Debug)]
struct Node {
    process: ChildProcess,
    log: PathBuf,
    stub: KvServerRpcStub,
}

impl Cluster {
    /// Starts `count` nodes with their data in a new directory under `parent`; waits until they
    /// answer.
    ///
    /// # Errors
    /// No such program, or the nodes do not answer: with the end of a node's log.
    pub fn start(program: &Path, count: usize, parent: &Path) -> Result<Cluster, Failure> {
        let dir = tempfile::Builder::new()
            .prefix("bench_store-")
            .tempdir_in(parent);
        let dir = dir.map_err(Failure::of(format_args!(
            "cannot make a directory in {}",
            parent.display()
        )))?;
        let addresses = free_addresses(count).map_err(Failure::of("no free ports"))?;
        let names = addresses
            .iter()
            .map(|_| "127.0.0.1")
            .zip(addresses.iter().map(SocketAddr::port));
        let cluster_id = derived_cluster_id(names);
        let file = dir.path().join("cluster.conf");
        let written = ClusterFile {
            nodes: addresses.clone(),
            cluster_id,
        }
        .write(&file);
        written.map_err(|error| Failure::Failed(error.to_string()))?;

        let mut cluster = Cluster {
            nodes: Vec::new(),
            addresses: addresses.clone(),
            program: program.to_owned(),
            file: file.clone(),
            _dir: dir,
        };
        for (index, &addr) in addresses.iter().enumerate() {
            let node = Node::start(program, index, &file, addr);
            cluster
                .nodes
                .push(node.map_err(Failure::of("cannot start a node"))?);
        }
        cluster.wait_until_ready()?;
        Ok(cluster)
    }

    /// Where the nodes listen.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// The nodes' processes.
    #[must_use]
    pub fn pids(&self) -> Vec<u32> {
        self.nodes.iter().map(|node| node.process.id()).collect()
    }

    /// What each node says of itself.
    ///
    /// # Errors
    /// A node does not answer.
    pub fn status(&self) -> Result<Vec<StatusReply>, Failure> {
        let of_node = |node: &Node| {
            let mut controller = RpcController::with_timeout(STATUS_LIMIT);
            node.stub.status(&mut controller, &StatusArgs::default())
        };
        let replies = self.nodes.iter().map(of_node).collect::<Result<_, _>>();
        replies
            .map_err(|error| Failure::Failed(format!("a node does not tell its status: {error}")))
    }

    /// The node that leads and serves, and what it says of itself, where one can be found.
    #[must_use]
    pub fn leader(&self) -> Option<(usize, StatusReply)> {
        let statuses = self.nodes.iter().enumerate().filter_map(|(index, node)| {
            let mut controller = RpcController::with_timeout(PUT_LIMIT);
            let status = node.stub.status(&mut controller, &StatusArgs::default());
            Some((index, status.ok()?))
        });
        let leaders = statuses.filter(|(_, status)| status.serving);
        leaders.max_by_key(|(_, status)| status.term)
    }

    /// Ends a node's process by a signal; returns when it is gone.
    ///
    /// # Errors
    /// It does not end.
    pub fn end_node(&mut self, node: usize, signal: Signal) -> Result<(), Failure> {
        let process = &mut self.nodes[node].process;
        let ended = process.signal(signal);
        ended
            .and_then(|()| process.wait(READY_LIMIT))
            .map_err(Failure::of(format_args!("node {node} does not end")))
    }

    /// Starts a node that has ended, with its data.
    ///
    /// # Errors
    /// The system starts no process.
    pub fn start_node(&mut self, node: usize) -> Result<(), Failure> {
        let started = Node::start(&self.program, node, &self.file, self.addresses[node]);
        self.nodes[node] = started.map_err(Failure::of("cannot start a node"))?;
        Ok(())
    }

    fn wait_until_ready(&mut self) -> Result<(), Failure> {
        let limit = Instant::now() + READY_LIMIT;
        let options = ClerkOptions {
            timeout: PUT_LIMIT,
            ..ClerkOptions::default()
        };
        let clerk = Clerk::new(&self.addresses, options);
        let clerk = clerk.map_err(|error| Failure::Failed(error.to_string()))?;
        loop {
            // Not the blocking form: a clerk that hangs must not hang us as well.
            let (sender, ended) = bounded(1);
            clerk.put_async("ready", "yes", move |result| {
                let _ = sender.send(result);
            });
            let error = match ended.recv_timeout(2 * PUT_LIMIT) {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(error)) => error.to_string(),
                Err(_) => "a put did not end at its deadline".to_owned(),
            };
            for (index, node) in self.nodes.iter_mut().enumerate() {
                if let Ok(Some(status)) = node.process.ended() {
                    let log = tail(&node.log);
                    return Err(Failure::Failed(format!(
                        "node {index} ended ({status}):\n{log}"
                    )));
                }
            }
            if Instant::now() > limit {
                let log = tail(&self.nodes[0].log);
                return Err(Failure::Failed(format!(
                    "the nodes do not answer ({error}); node 0 said:\n{log}"
                )));
            }
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // All at once, so that nobody holds an election for the ones that go first.
        for node in &mut self.nodes {
            node.process.ask_to_stop();
        }
    }
}

impl Node {
    fn start(program: &Path, index: usize, file: &Path, addr: SocketAddr) -> io::Result<Node> {
        let log = file.with_file_name(format!("node{index}.log"));
        let mut command = Command::new(program);
        command
            .args([
                "--node",
                &index.to_string(),
                "--supervised",
                "--log",
                "warn",
                "--file",
            ])
            .arg(file);
        command.arg("--data-dir").arg(file.with_extension("data"));
        command.stdout(Stdio::null()).stderr(File::create(&log)?);
        let process = ChildProcess::start(&mut command)?;
        Ok(Node {
            process,
            log,
            stub: KvServerRpcStub::new(RpcChannel::new(addr)),
        })
    }
}

/// `raft_core_run` beside this program.
///
/// # Errors
/// It is not there; the text says how to build it.
pub fn node_program() -> Result<PathBuf, Failure> {
    program_beside("raft_core_run").map_err(Failure::Failed)
}

/// Addresses of this machine that were free a moment ago; different ones.
fn free_addresses(count: usize) -> io::Result<Vec<SocketAddr>> {
    let listeners: Vec<TcpListener> = (0..count)
        .map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))
        .collect::<io::Result<_>>()?;
    listeners.iter().map(TcpListener::local_addr).collect()
}

fn tail(path: &Path) -> String {
    let mut bytes = Vec::new();
    // Whatever can be read of it helps.
    let _ = File::open(path).and_then(|mut file| file.read_to_end(&mut bytes));
    let start = bytes.len().saturating_sub(LOG_TAIL_BYTES);
    String::from_utf8_lossy(&bytes[start..])
        .trim_end()
        .to_owned()
}
