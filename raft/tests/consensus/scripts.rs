//! Scenarios as text, in the manner of etcd's raft: commands, `----`, and all that they caused.
//!
//! `UPDATE_GOLDEN=1 cargo test -p raft --test consensus` writes the outputs anew; review reads the
//! difference. A block ends with an empty line; `#` starts a comment. Commands:
//!
//! ```text
//! nodes N [n1=1,1,4 ...] [term=T] [window=M] [message=BYTES] [retain=BYTES] [log=BYTES] [lease=DRIFT]   a new cluster, with these terms in the logs
//! timeout n1            n1's clock goes on to its election deadline
//! heartbeat n1          ... by one heartbeat
//! pass n1 MS            ... by so much
//! deliver [n1 n2]       all messages, until none is left; or those that wait from n1 to n2
//! deliver once          all messages that wait now
//! drop [n1 n2]          loses all messages that wait (from n1 to n2), and reports the calls as failed
//! lose [n1 n2]          the same, and nobody is told
//!                       ... each of these also `first n1 n2` or `last n1 n2`: one message, the oldest or the newest
//! again n1 n2           sends copies of all messages that wait from n1 to n2, behind all others
//! cut n1 [n2 ...]       nothing passes between these and the others
//! heal                  everything passes again
//! propose n1 A B ...    proposes in one batch
//! read n1 NUMBER        asks for a read index; `read-anywhere`: also of a node that does not lead
//! join n4               starts a node that knows of no cluster
//! learn n1 n4 · promote n1 n4 · remove n1 n4 · replace n1 n2 n4     asks n1 for other members
//! transfer n1 [n2]      asks n1 to hand over
//! stall n1 · sync n1 · go n1     n1's disk takes writes and finishes none · finishes one · all, from now on
//! hold n1 · apply n1    n1's state machine stands still · goes on
//! crash n1 · start n1   kills a node: what is not durable is lost · starts it from its disk
//! forget n1 INDEX       n1, which is down, loses what was durable after INDEX: an older copy of its disk
//! snapshot n1           takes a snapshot of all that n1 applied
//! state                 a line for each node
//! quiet COMMAND         without its output
//! ```

use std::collections::BTreeMap;
use std::path::PathBuf;

use raft::core::{
    Entry, HardState, Lease, LogId, LogIndex, MembershipChange, NodeId, Payload, Term,
};

use crate::cluster::{Cluster, Packet};
use crate::disk::Disk;
use crate::safety;

/// Every file in `scripts/` gives what it says it gives.
#[test]
fn scripts_give_what_they_say() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/consensus/scripts");
    let mut files: Vec<PathBuf> = folder
        .read_dir()
        .unwrap()
        .map(|file| file.unwrap().path())
        .collect();
    files.sort();
    assert!(
        files.len() >= 15,
        "only {} scripts in {}",
        files.len(),
        folder.display()
    );
    let mut differing = Vec::new();
    for file in files {
        let script = std::fs::read_to_string(&file).unwrap();
        let outcome = run(&script);
        if outcome != script {
            if std::env::var_os("UPDATE_GOLDEN").is_some() {
                std::fs::write(&file, outcome).unwrap();
            } else {
                let line = script
                    .lines()
                    .zip(outcome.lines())
                    .position(|(old, new)| old != new);
                println!("{} differs; it gives:\n{outcome}", file.display());
                differing.push(format!(
                    "{}:{}",
                    file.display(),
                    line.map_or(0, |line| line + 1)
                ));
            }
        }
    }
    assert!(
        differing.is_empty(),
        "{differing:?} (UPDATE_GOLDEN=1 rewrites)"
    );
}

/// The script again, with its outputs as they are now.
fn run(script: &str) -> String {
    let mut result = String::new();
    let mut cluster = None;
    let mut lines = script.lines().peekable();
    let mut block_has_commands = false;
    while let Some(line) = lines.next() {
        result.push_str(line);
        result.push('\n');
        if line == "----" {
            while lines.next_if(|line| !line.is_empty()).is_some() {}
            let cluster: &mut Cluster = cluster.as_mut().expect("`nodes` comes first");
            let output = std::mem::take(&mut cluster.trace);
            result.push_str(if output.is_empty() {
                "(nothing)\n"
            } else {
                &output
            });
            block_has_commands = false;
        } else if !line.is_empty() && !line.starts_with('#') {
            block_has_commands = true;
            command(&mut cluster, line);
        }
        if line.is_empty() || lines.peek().is_none() {
            assert!(
                !block_has_commands,
                "commands without `----` before {line:?} in\n{script}"
            );
        }
    }
    result
}

fn command(cluster: &mut Option<Cluster>, line: &str) {
    let mut words: Vec<&str> = line.split_whitespace().collect();
    if words[0] == "nodes" {
        *cluster = Some(create(&words[1..]));
        return;
    }
    let cluster = cluster.as_mut().expect("`nodes` comes first");
    cluster.tracing = words[0] != "quiet";
    if !cluster.tracing {
        words.remove(0);
    }
    let ids: Vec<NodeId> = words[1..].iter().filter_map(|word| node_id(word)).collect();
    let between = (ids.len() == 2).then(|| (ids[0], ids[1]));
    let which = words.get(1).copied().unwrap_or_default();
    match words[0] {
        "timeout" => {
            let deadline = cluster.raft(ids[0]).next_deadline();
            cluster.tick(ids[0], deadline);
        }
        "heartbeat" => {
            let now = cluster.node(ids[0]).now.plus(25);
            cluster.tick(ids[0], now);
        }
        "pass" => {
            let now = cluster.node(ids[0]).now.plus(words[2].parse().unwrap());
            cluster.tick(ids[0], now);
        }
        "deliver" => match between {
            None if words.get(1) == Some(&"once") => {
                for _ in 0..cluster.network.len() {
                    cluster.deliver(0);
                }
            }
            None => cluster.deliver_all(),
            between => each_waiting(cluster, which, between, Cluster::deliver),
        },
        "drop" => each_waiting(cluster, which, between, |cluster, at| {
            cluster.drop(at, true);
        }),
        "lose" => each_waiting(cluster, which, between, |cluster, at| {
            cluster.drop(at, false);
        }),
        "again" => cluster.repeat(ids[0], ids[1]),
        "cut" => {
            let all: Vec<NodeId> = cluster.nodes.keys().copied().collect();
            for other in all.iter().filter(|other| !ids.contains(other)) {
                cluster
                    .cut
                    .extend(ids.iter().flat_map(|id| [(*id, *other), (*other, *id)]));
            }
        }
        "heal" => cluster.cut.clear(),
        "propose" => {
            for command in &words[2..] {
                cluster.propose(ids[0], command);
            }
            cluster.settle(ids[0]);
        }
        "read" => {
            cluster.read(ids[0], words[2].parse().unwrap());
            cluster.settle(ids[0]);
        }
        "read-anywhere" => {
            cluster.read_anywhere(ids[0], words[2].parse().unwrap());
            cluster.settle(ids[0]);
        }
        "join" => {
            let now = cluster.nodes.values().map(|node| node.now).max();
            cluster.join(ids[0], now.expect("there are nodes"));
        }
        "learn" => {
            let (node, address) = (ids[1], format!("host{}:1", ids[1]));
            cluster.change(ids[0], MembershipChange::AddLearner { node, address });
        }
        "promote" => {
            cluster.change(ids[0], MembershipChange::Promote { node: ids[1] });
        }
        "remove" => {
            cluster.change(ids[0], MembershipChange::Remove { node: ids[1] });
        }
        "replace" => {
            let (old, new) = (ids[1], ids[2]);
            cluster.change(ids[0], MembershipChange::Replace { old, new });
        }
        "transfer" => {
            cluster.transfer(ids[0], ids.get(1).copied());
        }
        "stall" => cluster.node(ids[0]).disk_stalls = true,
        "sync" => cluster.sync_one(ids[0]),
        "go" => {
            cluster.node(ids[0]).disk_stalls = false;
            cluster.settle(ids[0]);
        }
        "hold" => cluster.node(ids[0]).apply_stalls = true,
        "apply" => {
            cluster.node(ids[0]).apply_stalls = false;
            cluster.settle(ids[0]);
        }
        "crash" => cluster.crash(ids[0], 0),
        "start" => cluster.start(ids[0]),
        "forget" => cluster.forget(ids[0], LogIndex::new(words[2].parse().unwrap())),
        "snapshot" => cluster.snapshot(ids[0]),
        "state" => {
            for id in cluster.nodes.keys().copied().collect::<Vec<_>>() {
                let line = cluster.describe(id);
                cluster.note(&line);
            }
        }
        unknown => panic!("unknown command {unknown}"),
    }
    let running = cluster.running();
    for (a, b) in running.iter().zip(running.iter().skip(1)) {
        let core = |id| cluster.nodes[id].raft.as_ref().unwrap();
        safety::log_matching(core(a), core(b));
    }
}

/// Applies `act` to each message that waits now, or to those between two nodes, or to the `first` or
/// `last` of those.
fn each_waiting(
    cluster: &mut Cluster,
    which: &str,
    between: Option<(NodeId, NodeId)>,
    act: impl Fn(&mut Cluster, usize),
) {
    let is_one = |packet: &Packet| between.is_none_or(|pair| pair == (packet.from, packet.to));
    let one = match which {
        "first" => cluster.network.iter().position(is_one),
        "last" => cluster.network.iter().rposition(is_one),
        _ => None,
    };
    if matches!(which, "first" | "last") {
        return act(cluster, one.expect("such a message waits"));
    }
    let mut position = 0;
    for _ in 0..cluster.network.len() {
        if is_one(&cluster.network[position]) {
            act(cluster, position);
        } else {
            position += 1;
        }
    }
}

fn create(words: &[&str]) -> Cluster {
    let count: u64 = words[0].parse().unwrap();
    let option = |name: &str| {
        words
            .iter()
            .find_map(|word| word.strip_prefix(&format!("{name}=")))
    };
    let number = |name: &str| option(name).map(|value| value.parse::<usize>().unwrap());

    let mut logs: BTreeMap<NodeId, Vec<Entry>> = BTreeMap::new();
    for word in &words[1..] {
        if let Some((node, terms)) = word.split_once('=')
            && let Some(id) = node_id(node)
        {
            let terms = terms
                .split(',')
                .map(|term| Term::new(term.parse().unwrap()));
            let entry = |(position, term): (usize, Term)| Entry {
                id: LogId::new(term, LogIndex::new(position as u64 + 1)),
                payload: Payload::Empty,
            };
            logs.insert(id, terms.enumerate().map(entry).collect());
        }
    }
    let disks = (1..=count).map(NodeId::new).map(|id| {
        let log = logs.remove(&id).unwrap_or_default();
        let last = log.last().map_or(Term::ZERO, |entry| entry.id.term);
        let current_term = number("term").map_or(last, |term| Term::new(term as u64));
        (
            id,
            Disk::with_log(
                HardState {
                    current_term,
                    voted_for: None,
                },
                log,
            ),
        )
    });
    let mut cluster = Cluster::new(count, 7, disks.collect(), |config| {
        config.max_inflight_messages = number("window").unwrap_or(config.max_inflight_messages);
        config.max_message_bytes = number("message").unwrap_or(config.max_message_bytes);
        config.retained_log_bytes = number("retain").unwrap_or(config.retained_log_bytes);
        config.max_log_bytes = number("log").unwrap_or(config.max_log_bytes);
        config.lease = number("lease").map(|drift| Lease {
            max_drift_percent: drift as u64,
        });
    });
    cluster.tracing = true;
    cluster
}

fn node_id(word: &str) -> Option<NodeId> {
    word.strip_prefix('n')
        .and_then(|number| number.parse().ok())
        .map(NodeId::new)
}
