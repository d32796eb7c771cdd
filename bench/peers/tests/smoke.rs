//! The peers answer, whoever runs and drives their client.

use std::process::Command;

use bench::child::ChildProcess;
use bench::round::Round;

#[test]
fn both_peers_answer_on_either_runtime_and_by_either_drive() {
    for peer in ["tonic", "tarpc"] {
        let mut serve = Command::new(env!("CARGO_BIN_EXE_bench_peers"));
        serve.args(["serve", peer]);
        let (server, addr) = ChildProcess::start_and_read_line(&mut serve).unwrap();
        for (threads, drive) in [("current", "tasks"), ("multi", "unordered")] {
            let mut measure = Command::new(env!("CARGO_BIN_EXE_bench_peers"));
            measure.args(["measure", peer, addr.trim()]);
            measure.args(["--server-pid", &server.id().to_string()]);
            measure.args([
                "--connections",
                "2",
                "--in-flight",
                "3",
                "--seconds",
                "0.05",
            ]);
            measure.args(["--threads", threads, "--drive", drive]);
            let output = measure.output().unwrap();
            assert!(output.status.success(), "{output:?}");
            let round: Round = serde_json::from_slice(&output.stdout).unwrap();
            assert!(round.requests_per_s > 0.0, "{peer}: {round:?}");
        }
    }
}
