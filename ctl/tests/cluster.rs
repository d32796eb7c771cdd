//! `kvctl cluster` against nodes of the store.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::net::{SocketAddr, TcpListener};
use std::process::{Command, Output};
use std::thread;
use std::time::{Duration, Instant};

use kvserver::{KvServer, KvServerOptions};
use raft::{NodeId, NodeOptions};
use rpc::EventLoops;
use tempfile::TempDir;

const CLUSTER: u64 = 0x00c0_ffee_0000_0007;

/// Whatever has not come by now never will.
const HANG_GUARD: Duration = Duration::from_mins(1);

struct Nodes {
    servers: Vec<KvServer>,
    dir: TempDir,
}

impl Nodes {
    /// Three voters.
    fn start() -> Self {
        let taken: Vec<_> = (0..3)
            .map(|_| TcpListener::bind("127.0.0.1:0").unwrap())
            .collect();
        let addresses: Vec<SocketAddr> = taken.iter().map(|it| it.local_addr().unwrap()).collect();
        drop(taken);
        let dir = tempfile::tempdir().unwrap();
        let servers = (0..3).map(|node| {
            let options = NodeOptions::new(
                NodeId::new(node),
                &addresses,
                CLUSTER,
                dir.path().join(node.to_string()),
                EventLoops::start(1, "test-node").unwrap(),
            );
            KvServer::start(KvServerOptions::new(options).unwrap()).unwrap()
        });
        let nodes = Self {
            servers: servers.collect(),
            dir,
        };
        nodes.leader();
        nodes
    }

    /// One more, which nobody has let in. Yields its number.
    fn add(&mut self) -> usize {
        let node = self.servers.len();
        let options = NodeOptions::joining(
            NodeId::new(node as u64),
            CLUSTER,
            self.dir.path().join(node.to_string()),
            EventLoops::start(1, "test-node").unwrap(),
        );
        let options = KvServerOptions::listening(options, "127.0.0.1:0".parse().unwrap());
        self.servers.push(KvServer::start(options).unwrap());
        node
    }

    fn leader(&self) -> usize {
        eventually("a leader", || {
            let serving = |server: &KvServer| {
                let status = server.status();
                status.serving.then_some(status.term)
            };
            let servers = self.servers.iter().enumerate();
            let leaders = servers.filter_map(|(node, server)| Some((serving(server)?, node)));
            leaders.max().map(|(_, node)| node)
        })
    }

    /// A voter that follows, and knows whom.
    fn follower(&self) -> usize {
        let leader = self.leader();
        let knows = |node: &usize| {
            *node != leader
                && self.servers[*node].status().leader == Some(NodeId::new(leader as u64))
        };
        eventually("a follower", || (0..3).find(knows))
    }

    fn addr(&self, node: usize) -> String {
        self.servers[node].local_addr().to_string()
    }

    /// Runs `kvctl cluster COMMAND ADDR ARGUMENTS`, asking a follower.
    fn kvctl(&self, command: &str, arguments: &[&str]) -> Output {
        let addr = self.addr(self.follower());
        Command::new(env!("CARGO_BIN_EXE_kvctl"))
            .args(["cluster", command, &addr])
            .args(arguments)
            .output()
            .unwrap()
    }

    /// What it prints when all is well.
    fn ok(&self, command: &str, arguments: &[&str]) -> String {
        let output = self.kvctl(command, arguments);
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{command} {arguments:?}: {told}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// What it says when it is refused.
    fn refused(&self, command: &str, arguments: &[&str]) -> String {
        let output = self.kvctl(command, arguments);
        assert_eq!(output.status.code(), Some(1), "{command} {arguments:?}");
        String::from_utf8(output.stderr).unwrap()
    }

    /// The status as JSON, of one node.
    fn status_of(&self, node: usize) -> serde_json::Value {
        let status: serde_json::Value =
            serde_json::from_str(&self.ok("status", &["--json"])).unwrap();
        let members = status["members"].as_array().unwrap();
        let mut members = members.iter();
        let found = members.find(|member| member["node"] == node);
        found.cloned().unwrap_or_default()
    }
}

fn eventually<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let give_up = Instant::now() + HANG_GUARD;
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(Instant::now() < give_up, "never came: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_member_is_added_promoted_and_removed_by_asking_any_other() {
    let mut nodes = Nodes::start();
    let new = nodes.add();
    let number = new.to_string();
    let address = nodes.addr(new);

    let told = nodes.refused("promote", &[&number]);
    assert!(told.contains("node 3"), "{told}");
    let told = nodes.ok("add", &[&number, &address]);
    let line = format!("node 3 at {address} is a learner (entry ");
    assert!(told.starts_with(&line), "{told}");
    eventually("a learner that has caught up", || {
        let status = nodes.status_of(new);
        assert_eq!(status["member"], "learner");
        assert_eq!(status["address"], address);
        (status["lag"] == 0).then_some(())
    });
    let told = eventually("its promotion", || {
        // The leader takes it for caught up when it has kept up for a moment.
        let output = nodes.kvctl("promote", &[&number]);
        let told = String::from_utf8(output.stdout).unwrap();
        output.status.success().then_some(told)
    });
    assert!(told.starts_with("node 3 is a voter (entry "), "{told}");
    assert_eq!(nodes.status_of(new)["member"], "voter");

    let gone = nodes.follower().to_string();
    let told = nodes.ok("remove", &[&gone]);
    assert!(told.contains("is no member any longer"), "{told}");
    assert_eq!(
        nodes.status_of(gone.parse().unwrap()),
        serde_json::Value::Null
    );
}

#[test]
fn leadership_goes_where_it_is_sent_and_a_refusal_is_the_servers_reason() {
    let nodes = Nodes::start();
    let to = nodes.follower();
    let told = nodes.ok("transfer", &[&to.to_string()]);
    assert_eq!(told, format!("node {to} leads\n"));
    eventually("its leadership", || (nodes.leader() == to).then_some(()));

    let told = nodes.refused("transfer", &["9"]);
    assert!(told.starts_with("kvctl: node 9 "), "{told}");
    assert_eq!(told.lines().count(), 1, "{told}");
    let told = nodes.refused("replace", &["0", "9"]);
    assert!(told.contains("node 9"), "{told}");
}

#[test]
fn status_is_a_table_of_the_members() {
    let nodes = Nodes::start();
    let leader = nodes.leader();
    eventually("all of them known to have the log", || {
        let told = nodes.ok("status", &[]);
        let lines: Vec<&str> = told.lines().collect();
        let head = format!("cluster 00c0ffee00000007: node {leader} leads, term ");
        assert!(lines[0].starts_with(&head), "{told}");
        let titles = [
            "NODE", "ROLE", "ADDRESS", "MEMBER", "MATCH", "LAG", "SILENT", "MS",
        ];
        assert_eq!(lines[1].split_whitespace().collect::<Vec<_>>(), titles);
        for (node, line) in lines[2..].iter().enumerate() {
            let cells: Vec<&str> = line.split_whitespace().collect();
            let role = if node == leader { "leader" } else { "follower" };
            let address = nodes.addr(node);
            assert_eq!(
                cells[..4],
                [&node.to_string(), role, &address, "voter"],
                "{told}"
            );
        }
        assert_eq!(lines.len(), 5, "{told}");
        let lag = |line: &&str| line.split_whitespace().nth(5) == Some("0");
        lines[2..].iter().all(lag).then_some(())
    });
}

#[test]
fn a_cluster_without_a_leader_is_shown_and_fails() {
    let mut nodes = Nodes::start();
    nodes.servers.truncate(1);
    let addr = nodes.addr(0);
    let told = eventually("no leader", || {
        let output = Command::new(env!("CARGO_BIN_EXE_kvctl"))
            .args(["cluster", "status", &addr])
            .output()
            .unwrap();
        (!output.status.success()).then_some(output)
    });
    let (shown, why) = (
        String::from_utf8(told.stdout).unwrap(),
        String::from_utf8(told.stderr).unwrap(),
    );
    assert!(shown.contains(": no leader, term "), "{shown}");
    assert_eq!(shown.matches("no answer").count(), 2, "{shown}");
    assert!(why.contains("a majority of the voters runs"), "{why}");
}
