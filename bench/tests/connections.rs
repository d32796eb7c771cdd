//! `bench_connections` with few connections and for a fraction of a second: it ends, and what it says
//! can be read.

use std::process::Command;

use serde_json::Value;

#[test]
fn bench_connections_measures_and_is_refused_by_name() {
    let program = env!("CARGO_BIN_EXE_bench_connections");
    let arguments = ["--idle", "50", "--seconds", "0.05", "--rounds", "1"];
    let output = Command::new(program).args(arguments).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    if errors.contains("raise `ulimit -Hn`") {
        eprintln!("skipped: {errors}");
        return;
    }
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8_lossy(&output.stdout);
    let report: Value = serde_json::from_str(text.lines().next_back().unwrap()).unwrap();
    for side in ["with_idle", "without_idle"] {
        let rate = report[side]["requests_per_s"].as_f64();
        assert!(rate.is_some_and(|rate| rate > 0.0), "{report}");
    }
    assert_eq!(report["accepted"], 10_000);
    let refusal = report["refusal"].as_str().unwrap();
    assert!(refusal.contains("max_connections"), "{refusal}");
}
