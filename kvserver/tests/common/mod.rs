//! Nodes in this process, and a caller that speaks the C++ original's bytes.

#![allow(dead_code, reason = "each test program uses a part of it")]
#![allow(clippy::unwrap_used, reason = "all of this is a test")]

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use kvserver::{KvServer, KvServerOptions};
use raft::{NodeId, NodeOptions};
use rpc::EventLoops;
use tempfile::TempDir;

/// Whatever has not come by now never will. Only a guard: nothing here asserts on speed.
pub(crate) const HANG_GUARD: Duration = Duration::from_mins(1);

/// Nodes that know each other, each in a directory of its own.
pub(crate) struct Nodes {
    running: Vec<Option<KvServer>>,
    addresses: Vec<SocketAddr>,
    adjust: fn(&mut KvServerOptions),
    dir: TempDir,
}

impl Nodes {
    /// Starts `count` nodes and waits until one of them serves.
    pub(crate) fn start(count: usize) -> Self {
        Self::adjusted(count, |_| {})
    }

    /// As [`start`](Self::start), with other options.
    pub(crate) fn adjusted(count: usize, adjust: fn(&mut KvServerOptions)) -> Self {
        let taken: Vec<TcpListener> = (0..count)
            .map(|_| TcpListener::bind("127.0.0.1:0").unwrap())
            .collect();
        let addresses = taken.iter().map(|taken| taken.local_addr().unwrap());
        let mut nodes = Self {
            running: (0..count).map(|_| None).collect(),
            addresses: addresses.collect(),
            adjust,
            dir: tempfile::tempdir().unwrap(),
        };
        drop(taken);
        for node in 0..count {
            nodes.start_node(node);
        }
        nodes.leader();
        nodes
    }

    pub(crate) fn start_node(&mut self, node: usize) {
        self.start_node_told_of(node, self.addresses.len());
    }

    /// Starts a node whose cluster file lists only the first `listed` nodes.
    pub(crate) fn start_node_told_of(&mut self, node: usize, listed: usize) {
        let options = NodeOptions::new(
            NodeId::new(node as u64),
            &self.addresses[..listed],
            7,
            self.data_dir(node),
            EventLoops::start(1, "test-node").unwrap(),
        );
        let mut options = KvServerOptions::new(options).unwrap();
        (self.adjust)(&mut options);
        self.running[node] = Some(KvServer::start(options).unwrap());
    }

    /// Ends a node in order; its directory stays.
    pub(crate) fn stop_node(&mut self, node: usize) {
        let server = self.running[node].take().expect("the node runs");
        server.shutdown().unwrap();
    }

    pub(crate) fn node(&self, node: usize) -> &KvServer {
        self.running[node].as_ref().expect("the node runs")
    }

    pub(crate) fn addr(&self, node: usize) -> SocketAddr {
        self.addresses[node]
    }

    pub(crate) fn data_dir(&self, node: usize) -> PathBuf {
        self.dir.path().join(format!("node{node}"))
    }

    /// The running node that leads and serves, once there is one.
    pub(crate) fn leader(&self) -> usize {
        eventually("a leader", || {
            let running = (0..self.running.len()).filter_map(|node| {
                let status = self.running[node].as_ref()?.status();
                status.serving.then_some((status.term, node))
            });
            running.max().map(|(_, node)| node)
        })
    }

    /// A running node that follows the leader and knows it.
    pub(crate) fn follower(&self) -> usize {
        let leader = self.leader();
        eventually("a follower", || {
            let knows = |node: &usize| {
                let status = self.running[*node].as_ref().map(KvServer::status);
                let known = status.and_then(|status| status.leader);
                *node != leader && known == Some(NodeId::new(leader as u64))
            };
            (0..self.running.len()).find(knows)
        })
    }
}

/// Asks `probe` until it yields something.
pub(crate) fn eventually<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let give_up = Instant::now() + HANG_GUARD;
    loop {
        if let Some(found) = probe() {
            return found;
        }
        let secs = HANG_GUARD.as_secs();
        assert!(Instant::now() < give_up, "not within {secs} s: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// A connection of the original's client: bare bytes each way.
pub(crate) struct Original(TcpStream);

impl Original {
    pub(crate) fn connect(addr: SocketAddr) -> Self {
        let stream = TcpStream::connect(addr).unwrap();
        stream.set_read_timeout(Some(HANG_GUARD)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self(stream)
    }

    pub(crate) fn send(&mut self, request: &[u8]) {
        self.0.write_all(request).unwrap();
    }

    /// Reads as many bytes as `reply` has, and compares.
    pub(crate) fn expect(&mut self, reply: &[u8]) {
        let mut bytes = vec![0; reply.len()];
        let (mut have, mut ended) = (0, false);
        while have < bytes.len() && !ended {
            let read = self.0.read(&mut bytes[have..]).expect("a reply");
            have += read;
            // A reply that differs is told at once, also where it is shorter.
            ended = read == 0 || bytes[..have] != reply[..have];
        }
        let shown = |bytes: &[u8]| bytes[..bytes.len().min(80)].escape_ascii().to_string();
        assert!(
            bytes[..have] == *reply,
            "{} instead of {}",
            shown(&bytes[..have]),
            shown(reply)
        );
    }

    /// One read, as the original's client does it: what comes first is all it sees.
    pub(crate) fn read_once(&mut self) -> Vec<u8> {
        let mut bytes = vec![0; 1024];
        let read = self.0.read(&mut bytes).expect("a reply");
        bytes.truncate(read);
        bytes
    }

    pub(crate) fn ask(&mut self, request: &[u8], reply: &[u8]) {
        self.send(request);
        self.expect(reply);
    }

    /// The connection ends, without a byte.
    pub(crate) fn expect_closed(&mut self) {
        let mut rest = Vec::new();
        match self.0.read_to_end(&mut rest) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
            Err(error) => panic!("neither answered nor closed: {error}"),
        }
        assert!(rest.is_empty(), "{}", rest.escape_ascii());
    }
}
