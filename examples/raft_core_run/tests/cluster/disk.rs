//! Disks that fail, and processes that die inside a system call: by `strace`, which these tests need.

use std::ffi::OsString;
use std::process::{Command, Stdio};

use crate::harness::{Cluster, Load, eventually, not_tested, seed};

/// Runs `command` under strace, which does to its system calls what `options` say. The process that is
/// started is the command's own (`-D`), so that a signal to it is one to the node.
///
/// `None`, and a line in the output, where there is no strace or it may not trace.
fn traced(options: &[&str], command: &Command) -> Option<Command> {
    let can_trace = Command::new("strace")
        .args(["-D", "-o", "/dev/null", "true"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    if !can_trace.is_ok_and(|status| status.success()) {
        not_tested("trace", "it needs strace, and the right to trace");
        return None;
    }
    let mut traced = Command::new("strace");
    let words: Vec<OsString> = command.get_args().map(OsString::from).collect();
    traced
        .args(["-D", "-f"])
        .args(options)
        .arg(command.get_program())
        .args(words)
        .env_remove("RUST_LOG");
    Some(traced)
}

/// The original's defect 1: it never synced. What the page cache holds survives `kill -9`, so only the
/// calls themselves can tell.
#[test]
fn every_acknowledged_write_was_synced_before() {
    const WRITES: usize = 50;

    let mut cluster = Cluster::start(1);
    cluster.kill(0);
    let trace = cluster.dir().join("trace");
    let options = ["-e", "trace=fdatasync,fsync", "-o", trace.to_str().unwrap()];
    let Some(command) = traced(&options, &cluster.node_command(0)) else {
        return;
    };
    cluster.start_node_by(0, command);
    cluster.leader();

    let syncs = || {
        let trace = std::fs::read_to_string(&trace).unwrap_or_default();
        trace
            .lines()
            .filter(|line| line.contains("sync") && line.ends_with("= 0"))
            .count()
    };
    let clerk = cluster.clerk(0);
    clerk.put("session", "opened").unwrap();
    for number in 0..WRITES {
        let before = syncs();
        clerk.put("x", number.to_string()).unwrap();
        // The tracer writes a line when the call returns to the node, which acknowledges after that.
        eventually("a sync for this write", || (syncs() > before).then_some(()));
    }
}

/// After a sync that failed the disk's content is unknown, whatever the next one says: the node ends at
/// once, says why, and comes back by reading the disk anew; the others go on.
#[test]
fn a_node_whose_sync_fails_stops_and_acknowledges_nothing_more() {
    let mut random = fastrand::Rng::with_seed(seed("failed_sync"));
    let mut cluster = Cluster::start(3);
    let load = Load::start(&cluster, 8, random.u64(..));
    load.wait_for_acks(100);
    let broken = cluster.leader();
    cluster.kill(broken);
    let when = format!("inject=fdatasync:error=EIO:when={}", random.u32(3..30));
    let options = ["-o", "/dev/null", "-e", "trace=fdatasync", "-e", &when];
    let Some(command) = traced(&options, &cluster.node_command(broken)) else {
        return;
    };
    cluster.start_node_by(broken, command);

    let ended = cluster.process(broken).wait();
    assert_eq!(ended.code(), Some(1), "{ended}");
    let said = cluster.process(broken).wait_for_line("raft_core_run: ");
    assert!(said.contains("wal"), "it names the file: {said}");
    load.wait_for_acks(200);

    cluster.kill(broken);
    cluster.start_node(broken);
    cluster.wait_for_catch_up(broken);
    let journal = load.finish();
    cluster.wait_for_convergence();
    journal.verify(&cluster);
}

/// A single node dies inside the calls by which log and snapshots reach the disk, at another one each
/// time, and comes back with all it has promised.
///
/// The original's defect 1: each save truncated and rewrote its only copy.
#[test]
fn a_node_killed_inside_a_system_call_loses_nothing() {
    let mut random = fastrand::Rng::with_seed(seed("killed_inside"));
    let mut cluster = Cluster::with_knobs(1, &["--snapshot-log-bytes=16384"]);
    let load = Load::start(&cluster, 4, random.u64(..));
    load.wait_for_acks(100);

    // The tracer counts each thread's calls; the thread that writes a snapshot renames one file.
    let calls = [
        ("fdatasync", 60),
        ("/^p?write(v|64)?$", 60),
        ("/^rename", 1),
        ("/^unlink", 1),
        ("fsync", 1),
    ];
    for (call, number_max) in calls {
        for _ in 0..2 {
            cluster.kill(0);
            let number = random.u32(1..=number_max);
            let trace = format!("trace={call}");
            let inject = format!("inject={call}:signal=KILL:when={number}");
            let options = ["-o", "/dev/null", "-e", &trace, "-e", &inject];
            let Some(command) = traced(&options, &cluster.node_command(0)) else {
                return;
            };
            cluster.start_node_by(0, command);
            let ended = cluster.process(0).wait();
            println!("{call} number {number}: {ended}");
            cluster.kill(0);
            cluster.start_node(0);
            load.wait_for_acks(50);
        }
    }
    let journal = load.finish();
    journal.verify(&cluster);
}
