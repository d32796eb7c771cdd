//! One command starts a cluster, another one uses it.

use clerk::Clerk;
use proto::cluster::ClusterFile;
use proto::kv::StatusReply;
use rustix::process::{Pid, Signal, kill_process};

use crate::harness::caller::caller_main;
use crate::harness::cluster::{status, stub};
use crate::harness::proc::is_alive;
use crate::harness::{Launcher, eventually};

/// Starts `count` nodes by one command; the sample client finds them through the file that it wrote.
fn a_cluster_serves_the_sample_client(count: usize, rounds: usize) {
    let mut launcher = Launcher::start(count);
    let leader = launcher.ready();
    assert!(leader < count);

    let output = caller_main(&launcher.file(), &["--count", &rounds.to_string()])
        .output()
        .unwrap();
    let printed = String::from_utf8_lossy(&output.stdout);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {said}", output.status);
    let values = printed.matches("get return :{").count();
    assert_eq!(values, rounds, "a line for each round:\n{printed}\n{said}");
    launcher.stop();
}

/// The original's defect 22: a single node never elected itself.
#[test]
fn one_node_serves_500_rounds() {
    a_cluster_serves_the_sample_client(1, 500);
}

#[test]
fn three_nodes_serve_500_rounds() {
    a_cluster_serves_the_sample_client(3, 500);
}

#[test]
fn five_nodes_serve_the_sample_client() {
    a_cluster_serves_the_sample_client(5, 100);
}

#[test]
fn nine_nodes_serve_the_sample_client() {
    a_cluster_serves_the_sample_client(9, 100);
}

/// The original's defects 22 (a dead node could not come back while the others ran) and 15 (each start
/// appended to the cluster file).
#[test]
fn a_dead_node_is_reported_and_comes_back_beside_its_launcher() {
    let mut launcher = Launcher::start(3);
    let leader = launcher.ready();
    let file = std::fs::read(launcher.file()).unwrap();
    let clerk = Clerk::open(launcher.file()).unwrap();
    clerk.put("before", "1").unwrap();

    let process = launcher.node_processes()[leader];
    kill(process);
    let report = launcher
        .process()
        .wait_for_line(&format!("node {leader} died: "));
    assert!(report.contains("SIGKILL"), "{report}");
    clerk.put("meanwhile", "2").unwrap();

    let mut alone = launcher.node_alone(leader);
    let its_status = status_stub(&launcher, leader);
    let caught_up = || its_status().filter(|status| status.keys == 2);
    eventually("the node has come back and caught up", caught_up);
    clerk.put("after", "3").unwrap();
    for (key, value) in [("before", "1"), ("meanwhile", "2"), ("after", "3")] {
        assert_eq!(clerk.get(key).unwrap().as_deref(), Some(value.as_bytes()));
    }

    alone.signal(Signal::TERM);
    let ended = alone.wait();
    assert!(ended.success(), "{ended}");
    launcher.stop();
    assert_eq!(
        std::fs::read(launcher.file()).unwrap(),
        file,
        "the cluster file is as it was"
    );
}

/// The original's defect 1: nothing survived a restart.
#[test]
fn sigterm_stops_all_nodes_and_the_same_command_finds_their_data() {
    let mut launcher = Launcher::start(3);
    launcher.ready();
    let clerk = Clerk::open(launcher.file()).unwrap();
    for number in 0..100 {
        clerk
            .put(format!("key {number}"), number.to_string())
            .unwrap();
    }
    let nodes = launcher.node_processes();
    launcher.stop();
    assert!(
        !nodes.iter().any(|&node| is_alive(node)),
        "the launcher ends after its nodes"
    );

    launcher.start_again();
    launcher.ready();
    for number in 0..100 {
        let found = clerk.get(format!("key {number}")).unwrap();
        assert_eq!(found.as_deref(), Some(number.to_string().as_bytes()));
    }
    launcher.stop();
}

#[test]
fn nodes_do_not_outlive_a_launcher_that_is_killed() {
    let mut launcher = Launcher::start(3);
    launcher.ready();
    let nodes = launcher.node_processes();
    assert!(nodes.iter().all(|&node| is_alive(node)));
    launcher.process().signal(Signal::KILL);
    eventually("the end of all nodes", || {
        (!nodes.iter().any(|&node| is_alive(node))).then_some(())
    });
    launcher.process().wait();
    launcher.start_again(); // their locks and ports are free again
    launcher.ready();
    launcher.stop();
}

/// Two nodes on one directory would vote twice.
#[test]
fn a_second_process_on_the_same_data_names_the_first() {
    let mut launcher = Launcher::start(1);
    launcher.ready();
    let holder = launcher.node_processes()[0];

    let mut second = launcher.node_alone(0);
    let ended = second.wait();
    assert_eq!(ended.code(), Some(1), "{}", second.output());
    let said = second.line("raft_core_run: ").expect("it says why");
    assert!(
        said.contains(&holder.to_string()),
        "it names the holder, process {holder}: {said}"
    );
    assert!(said.contains("node0"), "it names the directory: {said}");

    let clerk = Clerk::open(launcher.file()).unwrap();
    clerk.put("still", "there").unwrap(); // the first one was not disturbed
    launcher.stop();
}

fn kill(process: u32) {
    let process = Pid::from_raw(process.cast_signed()).expect("no process has number 0");
    kill_process(process, Signal::KILL).unwrap();
}

fn status_stub(launcher: &Launcher, node: usize) -> impl Fn() -> Option<StatusReply> + use<> {
    let file = ClusterFile::load(launcher.file()).unwrap();
    let stub = stub(file.nodes[node]);
    move || status(&stub)
}
