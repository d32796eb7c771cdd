//! Nodes that are stopped in order and come back, one after the other, while clients write.

use std::env;
use std::ffi::OsString;
use std::process::Command;
use std::time::Duration;

use crate::harness::history::Recorder;
use crate::harness::{Cluster, Launcher, Load, eventually, seed};

/// So long that a busy machine does not bring about an election: whoever leads next was asked to.
const PATIENT: &str = "--election-timeout-ms=3000-5000";

/// As long as any call may take without being called failed.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// Another version of `raft_core_run`. Where it is set, the nodes are changed to it, one after the
/// other, and then back: an upgrade and a downgrade, or the other way round.
const OTHER_PROGRAM: &str = "OTHER_PROGRAM";

/// Every node is stopped and started again, twice. A leader hands over before it goes: the term
/// rises by one, nobody asks whether it could win, and no call fails.
#[test]
fn a_rolling_restart_fails_no_call_and_waits_for_no_election() {
    let mut random = fastrand::Rng::with_seed(seed("rolling_restart"));
    let mut cluster = Cluster::with_knobs(3, &[PATIENT, "--log=debug"]);
    let load = Load::start(&cluster, 4, random.u64(..));
    let recorder = Recorder::start(&cluster, 4, CALL_TIMEOUT, random.u64(..));
    let mut handovers = 0;
    let mut term = term_of_leader(&cluster);
    let other = env::var_os(OTHER_PROGRAM);
    let first_round = [0, 1, 2].map(|node| (node, other.as_ref()));
    let second_round = [0, 1, 2].map(|node| (node, None));
    for (node, program) in first_round.into_iter().chain(second_round) {
        load.wait_for_acks(200);
        if cluster.leader() == node {
            handovers += 1;
            term += 1;
            let said = cluster.stop(node);
            assert!(said.contains("handed leadership over"), "{said}");
        } else {
            cluster.stop(node);
        }
        load.wait_for_acks(200);
        recorder.progress(100);
        assert_eq!(term_of_leader(&cluster), term, "one term a handover");
        start(&mut cluster, node, program);
        cluster.wait_for_catch_up(node);
        let said = cluster.output(node);
        assert!(!said.contains("asks for pre-votes"), "{said}");
    }
    assert!(handovers >= 2, "in each round the leader's turn comes");
    let journal = load.finish();
    recorder.finish_without_failures();
    assert_eq!((journal.unknown, journal.refused), (0, 0), "failed writes");
    cluster.wait_for_convergence();
    assert_eq!(term_of_leader(&cluster), term);
    println!("{handovers} handovers");
    journal.verify(&cluster);
}

/// Starts a node, if need be by another program.
fn start(cluster: &mut Cluster, node: usize, program: Option<&OsString>) {
    let Some(program) = program else {
        return cluster.start_node(node);
    };
    let usual = cluster.node_command(node);
    let mut command = Command::new(program);
    command.args(usual.get_args()).env_remove("RUST_LOG");
    cluster.start_node_by(node, command);
}

/// Nobody is left to lead when a launcher stops all of its nodes: they do not wait for it.
#[test]
fn a_launcher_that_stops_all_nodes_has_none_hand_over() {
    let mut launcher = Launcher::start(3);
    launcher.ready();
    launcher.stop();
    let output = launcher.process().output();
    assert!(output.contains("stopping by=\"the launcher\""), "{output}");
    assert!(!output.contains("hands leadership over"), "{output}");
}

/// The term of whoever leads by now.
fn term_of_leader(cluster: &Cluster) -> u64 {
    eventually("the leader's status", || {
        cluster
            .status(cluster.leader())
            .filter(|status| status.serving)
    })
    .term
}
