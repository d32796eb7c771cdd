//! `bench_failover` and `bench_soak`, as short as they can be: they end, what they say can be read, and
//! every node had its turn.

#![expect(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test may panic, and says why it was skipped"
)]

use std::path::Path;
use std::process::Command;
use std::{env, fs};

use serde_json::Value;

const FAILOVER: &str = env!("CARGO_BIN_EXE_bench_failover");
const SOAK: &str = env!("CARGO_BIN_EXE_bench_soak");

/// The JSON line of a run, or `None` without the nodes' program.
fn report(program: &str, arguments: &[&str]) -> Option<Value> {
    let program = Path::new(program);
    if !program.with_file_name("raft_core_run").is_file() {
        eprintln!("skipped: raft_core_run is not built; `cargo test --workspace` builds it");
        return None;
    }
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let mut command = Command::new(program);
    command.args(["--clients", "2", "--data-dir"]);
    let output = command.arg(dir.path()).args(arguments).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(
        fs::read_dir(dir.path()).unwrap().count(),
        0,
        "the nodes' files are removed"
    );
    let text = String::from_utf8_lossy(&output.stdout);
    Some(serde_json::from_str(text.lines().next_back().unwrap()).unwrap())
}

#[test]
fn a_leader_that_is_killed_and_one_that_is_stopped_leave_a_gap() {
    let Some(report) = report(FAILOVER, &["--times=1"]) else {
        return;
    };
    let leaders = report["leaders"].as_array().unwrap();
    let signals: Vec<&str> = leaders
        .iter()
        .map(|ended| ended["signal"].as_str().unwrap())
        .collect();
    assert_eq!(signals, ["SIGKILL", "SIGTERM"]);
    for ended in leaders {
        assert!(ended["max_ms"].as_f64().unwrap() > 0.0, "{report}");
    }
}

#[test]
fn a_rolling_restart_takes_each_node_once_around_and_meets_the_leader() {
    let Some(report) = report(FAILOVER, &["--times=1", "--rolling"]) else {
        return;
    };
    let rolling = &report["rolling"];
    let restarts = rolling["restarts"].as_array().unwrap();
    let nodes: Vec<u64> = restarts
        .iter()
        .map(|restart| restart["node"].as_u64().unwrap())
        .collect();
    assert_eq!(nodes, [0, 1, 2]);
    let gaps: Vec<f64> = restarts
        .iter()
        .map(|restart| restart["gap_ms"].as_f64().unwrap())
        .collect();
    assert!(gaps.iter().all(|gap| *gap > 0.0), "{report}");
    let longest = gaps.iter().copied().fold(0.0, f64::max);
    let over_all = rolling["max_ms"].as_f64().unwrap();
    assert!((over_all - longest).abs() < 1e-6, "{report}");
    let led = restarts.iter().filter(|restart| restart["led"] == true);
    assert!(led.count() >= 1, "somebody leads when it goes: {report}");
    assert!(rolling["terms"].as_u64().unwrap() >= 1, "{report}");
}

#[test]
fn nodes_that_serve_for_a_while_are_watched() {
    let Some(report) = report(SOAK, &["--minutes=0.1", "--every=1"]) else {
        return;
    };
    assert!(report["writes"].as_u64().unwrap() > 0, "{report}");
    let nodes = report["nodes"].as_array().unwrap();
    assert_eq!(nodes.len(), 3);
    for node in nodes {
        assert!(node["memory_max_mib"].as_f64().unwrap() > 1.0, "{report}");
        assert!(node["descriptors_last"].as_u64().unwrap() > 3, "{report}");
        assert!(node["cpu_percent"][1].as_f64().unwrap() > 0.0, "{report}");
    }
}
