//! Members that come and go while clients write: nodes that join, replace dead ones, and leave.

use std::process::Command;
use std::thread;
use std::time::Duration;

use proto::cluster::ClusterFile;
use proto::membership::NodeArgs;
use rpc::RpcController;

use crate::harness::history::Recorder;
use crate::harness::{Cluster, HANG_GUARD, Load, Process, eventually, free_addresses, seed};

/// Pre-votes are logged at this level.
const DEBUG: &str = "--log=debug";

/// Short enough that some calls end with their outcome unknown while there is no leader.
const CALL_TIMEOUT: Duration = Duration::from_millis(400);

/// The default. For so long a leader tells those who were removed.
const LONGEST_ELECTION_TIMEOUT: Duration = Duration::from_millis(500);

/// In vain, by a node that nobody wants: enough to see that it does no harm.
const CAMPAIGNS: usize = 5;

/// A node dies for good; another takes its place under a new number. When the dead one comes back
/// after all, with a log that calls it a voter, it disturbs nobody.
#[test]
fn a_dead_node_is_replaced_under_load_and_cannot_come_back() {
    let mut random = fastrand::Rng::with_seed(seed("replacement"));
    let mut cluster = Cluster::with_knobs(3, &[DEBUG, "--snapshot-log-bytes=131072"]);
    let load = Load::start(&cluster, 4, random.u64(..));
    let recorder = Recorder::start(&cluster, 4, CALL_TIMEOUT, random.u64(..));
    load.wait_for_acks(300);
    let dead = cluster.leader();
    cluster.kill(dead);
    load.wait_for_acks(300);

    // It asks a follower, which knows who leads.
    let leader = cluster.leader();
    let follower = cluster.running().find(|node| *node != leader).unwrap();
    let newcomer = cluster.join(follower, &[&format!("--replace={dead}")]);
    let goal = format!("node {newcomer}: voter in the place of node {dead}");
    cluster.process(newcomer).wait_for_line(&goal);
    load.wait_for_acks(300);

    // Until then the leader would still have told it that it is out.
    thread::sleep(LONGEST_ELECTION_TIMEOUT * 2);
    let term = term(&cluster);
    cluster.start_node(dead);
    eventually("its campaigns", || {
        let campaigns = cluster.output(dead).matches("asks for pre-votes").count();
        (campaigns >= CAMPAIGNS).then_some(())
    });
    load.wait_for_acks(300);
    assert_eq!(
        self::term(&cluster),
        term,
        "the old node disturbed the others"
    );
    cluster.kill(dead);

    // Its number and its address are in its directory now.
    cluster.stop(newcomer);
    cluster.start_node(newcomer);
    cluster.wait_for_catch_up(newcomer);
    // It counts: without it there is no majority beside one of the others.
    let leader = cluster.leader();
    let third = cluster
        .running()
        .find(|node| ![leader, newcomer].contains(node));
    cluster.kill(third.unwrap());
    load.wait_for_acks(300);
    assert_eq!(
        cluster.leader(),
        leader,
        "as before, by the newcomer's acknowledgements"
    );
    cluster.start_node(third.unwrap());

    let journal = load.finish();
    recorder.finish_linearizable();
    cluster.wait_for_convergence();
    journal.verify(&cluster);
}

/// The leader is removed: it hands over by itself, and is a voter no longer.
#[test]
fn the_leader_is_removed_under_load() {
    let mut random = fastrand::Rng::with_seed(seed("leader_removed"));
    let mut cluster = Cluster::with_knobs(3, &[DEBUG]);
    let load = Load::start(&cluster, 4, random.u64(..));
    let recorder = Recorder::start(&cluster, 4, CALL_TIMEOUT, random.u64(..));
    load.wait_for_acks(300);
    let (removed, term) = (cluster.leader(), term(&cluster));
    let args = NodeArgs {
        node: removed as u64,
    };
    let mut controller = RpcController::with_timeout(HANG_GUARD);
    let reply = cluster.operator(removed).remove(&mut controller, &args);
    let reply = reply.unwrap();
    assert_eq!((reply.refused.as_str(), reply.unknown.as_str()), ("", ""));

    let others: Vec<usize> = cluster.running().filter(|node| *node != removed).collect();
    cluster.leader_among(&others);
    load.wait_for_acks(300);
    assert_eq!(self::term(&cluster), term + 1, "it handed over");
    let status = eventually("its status", || cluster.status(removed));
    assert_ne!(status.role, "leader");
    let said = cluster.output(removed);
    let (_, since) = said.split_once("hands leadership over").unwrap();
    assert!(!since.contains("asks for pre-votes"), "{since}");
    cluster.kill(removed);
    load.wait_for_acks(300);

    let journal = load.finish();
    recorder.finish_linearizable();
    cluster.wait_for_convergence();
    journal.verify(&cluster);
}

/// A learner has the whole log and no vote: two of three voters are a majority with it or without it,
/// one is none.
#[test]
fn a_learner_has_no_vote() {
    let mut random = fastrand::Rng::with_seed(seed("learner"));
    let mut cluster = Cluster::with_knobs(3, &[DEBUG]);
    let load = Load::start(&cluster, 4, random.u64(..));
    let recorder = Recorder::start(&cluster, 4, CALL_TIMEOUT, random.u64(..));
    load.wait_for_acks(300);
    let learner = cluster.join(0, &["--learner"]);
    let caught_up = format!("node {learner}: learner, has caught up");
    cluster.process(learner).wait_for_line(&caught_up);
    load.wait_for_acks(300);

    let leader = cluster.leader();
    let voters: Vec<usize> = (0..3).collect();
    let left = voters.iter().copied().find(|node| *node != leader).unwrap();
    for &node in voters.iter().filter(|node| **node != left) {
        cluster.kill(node);
    }
    let term = eventually("a status", || cluster.status(left)).term;
    eventually("its campaigns", || {
        let campaigns = cluster.output(left).matches("asks for pre-votes").count();
        (campaigns >= CAMPAIGNS).then_some(())
    });
    let status = eventually("a status", || cluster.status(left));
    assert_ne!(status.role, "leader", "by whose vote?");
    assert_eq!(status.term, term);
    let said = cluster.output(learner);
    assert!(!said.contains("asks for pre-votes"), "{said}");

    for &node in voters.iter().filter(|node| **node != left) {
        cluster.start_node(node);
    }
    load.wait_for_acks(300);
    let journal = load.finish();
    recorder.finish_linearizable();
    cluster.wait_for_convergence();
    journal.verify(&cluster);
}

/// A directory that was lost is no reason to vote again; nor is a number that somebody has had.
#[test]
fn a_node_that_lost_its_directory_is_told_to_join_under_another_number() {
    let mut cluster = Cluster::start(3);
    let clerk = cluster.clerk(0);
    for number in 0..20 {
        clerk.put(format!("key {number}"), "value").unwrap();
    }
    let wiped = (cluster.leader() + 1) % 3;
    cluster.kill(wiped);
    std::fs::remove_dir_all(cluster.node_dir(wiped)).unwrap();

    cluster.start_node(wiped);
    let told = refused(&mut cluster, wiped);
    assert!(
        told.contains("must not vote on votes it has forgotten"),
        "{told}"
    );
    assert!(told.contains("--node 3 --join "), "{told}");
    assert!(told.contains(&format!("--replace {wiped}")), "{told}");

    let member = cluster.addresses()[cluster.leader()];
    let mut command = cluster.node_command(wiped);
    command.arg(format!("--join={member}"));
    cluster.start_node_by(wiped, command);
    let told = refused(&mut cluster, wiped);
    assert!(told.contains("no number is used twice"), "{told}");

    let newcomer = cluster.join(cluster.leader(), &[&format!("--replace={wiped}")]);
    cluster
        .process(newcomer)
        .wait_for_line("voter in the place of");
    cluster.wait_for_convergence();
    let value = clerk.get("key 7").unwrap();
    assert_eq!(value.as_deref(), Some(&b"value"[..]));
}

/// Two lines more than there are members would be a majority of their own, with nothing in their logs and
/// the name of the old cluster.
#[test]
fn lines_that_were_added_to_the_file_found_no_second_cluster() {
    let mut cluster = Cluster::start(1);
    let clerk = cluster.clerk(0);
    clerk.put("key", "value").unwrap();
    let mut enlarged = ClusterFile::load(cluster.file()).unwrap();
    enlarged.nodes.extend(free_addresses(2));
    let file = cluster.dir().join("enlarged.conf");
    enlarged.write(&file).unwrap();

    let dirs = [cluster.dir().join("data"), cluster.dir().join("elsewhere")];
    for (runs, dir) in [(true, &dirs[0]), (true, &dirs[1]), (false, &dirs[0])] {
        if !runs {
            cluster.kill(0);
        }
        for start_empty in [&[][..], &["--start-empty"]] {
            let mut node = Command::new(env!("CARGO_BIN_EXE_raft_core_run"));
            node.args(["--supervised", "--node=1", "-f"])
                .arg(&file)
                .arg("--data-dir")
                .arg(dir)
                .args(start_empty);
            let mut node = Process::start("node 1", node, &cluster.dir().join("node1.log"));
            let status = node.wait();
            let output = node.output();
            assert_eq!(status.code(), Some(1), "{output}");
            let told = output.lines().last().unwrap_or_default();
            assert!(told.contains("found a second cluster"), "{told}");
            let join = format!("--node 3 --join {}", enlarged.nodes[0]);
            assert!(told.contains(&join), "{told}");
        }
    }
}

/// The last line of a node that does not start.
fn refused(cluster: &mut Cluster, node: usize) -> String {
    let status = cluster.process(node).wait();
    assert_eq!(status.code(), Some(1));
    let output = cluster.output(node);
    cluster.kill(node);
    let told = output.lines().last().unwrap_or_default();
    assert!(told.starts_with("raft_core_run: "), "{output}");
    told.to_owned()
}

/// Of whoever leads by now.
fn term(cluster: &Cluster) -> u64 {
    let leader = cluster.leader();
    eventually("the leader's status", || cluster.status(leader)).term
}
