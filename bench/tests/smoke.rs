//! Both programs, for a fraction of a second a cell: they end, and what they say can be read.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::path::Path;
use std::process::{Command, Output};
use std::{env, fs};

use serde_json::Value;

fn output_of(program: &str, arguments: &[&str]) -> Output {
    Command::new(program).args(arguments).output().unwrap()
}

/// The JSON line at the end of what a successful run printed.
fn report(output: &Output) -> Value {
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(text.lines().next_back().unwrap()).unwrap()
}

fn assert_positive(figures: &Value, names: &[&str]) {
    for name in names {
        let figure = figures[name].as_f64();
        assert!(
            figure.is_some_and(|figure| figure > 0.0),
            "{name} in {figures}"
        );
    }
}

const FIGURES: [&str; 4] = ["requests_per_s", "p50_us", "p99_us", "p999_us"];

fn assert_measured(cell: &Value, sides: &[&str]) {
    for side in sides {
        assert_positive(&cell["sides"][side], &FIGURES);
        if *side != "rpc" {
            assert_positive(
                &cell["rpc_over"][side],
                &["requests_per_s", "p50", "p99", "p999"],
            );
        }
    }
}

#[test]
fn bench_rpc_measures_every_cell_beside_tls_and_the_bare_echo() {
    let sides = ["rpc", "tls", "bare"];
    let arguments = [
        "--seconds",
        "0.05",
        "--rounds",
        "1",
        "--sides",
        &sides.join(","),
    ];
    let output = output_of(env!("CARGO_BIN_EXE_bench_rpc"), &arguments);
    let report = report(&output);
    let cells = report["cells"].as_array().unwrap();
    assert_eq!(cells.len(), 18, "3 payloads in 6 shapes");
    for cell in cells {
        assert_measured(cell, &sides);
    }
    let neighbour = &report["neighbour"];
    assert_positive(neighbour, &["large_mib_per_s"]);
    assert_positive(&neighbour["alone"], &FIGURES);
    assert_positive(&neighbour["beside"], &FIGURES);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        text.contains("64KiB/callback/1024"),
        "the table names its cells: {text}"
    );
}

#[test]
fn bench_rpc_measures_the_peers_and_judges() {
    let program = Path::new(env!("CARGO_BIN_EXE_bench_rpc"));
    if !program.with_file_name("bench_peers").is_file() {
        eprintln!("skipped: bench_peers is not built; `cargo test --workspace` builds it");
        return;
    }
    let sides = ["rpc", "bare", "tonic", "tarpc"];
    for (filter, requirements) in [("16B/callback/1024", 2), ("64KiB/connections/64", 2)] {
        let arguments = ["--seconds", "0.05", "--rounds", "1", "--filter", filter];
        let report = report(&output_of(program.to_str().unwrap(), &arguments));
        let cells = report["cells"].as_array().unwrap();
        assert_eq!(cells.len(), 1);
        assert_measured(&cells[0], &sides);
        assert_eq!(
            report["required"].as_array().unwrap().len(),
            requirements,
            "{filter}"
        );
    }
}

#[test]
fn bench_store_measures_a_cell_and_leaves_nothing_behind() {
    let program = Path::new(env!("CARGO_BIN_EXE_bench_store"));
    if !program.with_file_name("raft_core_run").is_file() {
        eprintln!("skipped: raft_core_run is not built; `cargo test --workspace` builds it");
        return;
    }
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let data_dir = dir.path().to_str().unwrap();
    let arguments = [
        "--seconds",
        "0.2",
        "--rounds",
        "1",
        "--filter",
        "put/threads-16",
        "--data-dir",
        data_dir,
    ];
    let report = report(&output_of(program.to_str().unwrap(), &arguments));

    let cells = report["cells"].as_array().unwrap();
    assert_eq!(cells.len(), 1);
    assert_positive(
        &cells[0],
        &[
            "operations_per_s",
            "p50_us",
            "max_us",
            "over_disk",
            "entries_per_write",
        ],
    );
    assert_positive(
        &report["disk"],
        &["appended_syncs_per_s", "preallocated_syncs_per_s"],
    );
    assert_eq!(
        fs::read_dir(dir.path()).unwrap().count(),
        0,
        "the nodes' files are removed"
    );
}

#[test]
fn wrong_usage_is_told_in_one_line_and_with_code_2() {
    for program in [
        env!("CARGO_BIN_EXE_bench_rpc"),
        env!("CARGO_BIN_EXE_bench_store"),
    ] {
        for (arguments, told) in [
            (&["--filter", "nonsense"], "--list"),
            (&["--seconds", "0"], "0.05 to 3600"),
            (&["--rounds", "many"], "--help"),
        ] {
            let output = output_of(program, arguments);
            let text = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(2), "{text}");
            assert!(
                text.contains(told) && text.trim_end().lines().count() == 1,
                "{text}"
            );
        }
        let help = output_of(program, &["--help"]);
        assert!(help.status.success());
        assert!(String::from_utf8_lossy(&help.stdout).contains("Examples:"));
    }
}
