//! The launcher, run as a user runs it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::MutexGuard;
use std::thread;

use rustix::process::Signal;
use tempfile::TempDir;

use super::cluster::{alone, loopback};
use super::process::{Process, show_end_of};

/// `raft_core_run -n N`, with cluster file and data in a directory of its own.
pub(crate) struct Launcher {
    process: Process,
    starts: u32,
    count: usize,
    knobs: Vec<String>,
    dir: TempDir,
    _alone: MutexGuard<'static, ()>,
}

impl Launcher {
    /// Starts `count` nodes by one command, which writes the cluster file itself.
    pub(crate) fn start(count: usize) -> Self {
        let alone = alone();
        let dir = tempfile::Builder::new()
            .prefix("launcher-")
            .tempdir()
            .unwrap();
        let knobs = vec![format!("--ip={}", loopback())];
        let process = launch(dir.path(), count, &knobs, 1);
        Self {
            process,
            starts: 1,
            count,
            knobs,
            dir,
            _alone: alone,
        }
    }

    /// The same command once more, after the launcher has ended.
    pub(crate) fn start_again(&mut self) {
        assert!(!self.process.is_running(), "the launcher still runs");
        self.starts += 1;
        self.process = launch(self.dir.path(), self.count, &self.knobs, self.starts);
    }

    pub(crate) fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    pub(crate) fn file(&self) -> PathBuf {
        self.dir.path().join("test.conf")
    }

    /// Waits for the ready line; yields the number of the leader.
    pub(crate) fn ready(&mut self) -> usize {
        let line = self.process.wait_for_line("cluster ready: ");
        let node = line
            .strip_prefix("cluster ready: leader node ")
            .and_then(|rest| rest.split(' ').next());
        node.and_then(|node| node.parse().ok())
            .unwrap_or_else(|| panic!("`{line}` names no leader"))
    }

    /// The process of each node, as the launcher named them.
    pub(crate) fn node_processes(&mut self) -> Vec<u32> {
        (0..self.count)
            .map(|node| {
                let line = self.process.wait_for_line(&format!("node {node}: "));
                let id = line
                    .rsplit_once("pid ")
                    .expect("the line names the process")
                    .1;
                id.trim().parse().unwrap()
            })
            .collect()
    }

    /// SIGTERM, and the launcher's end, which must be in order.
    pub(crate) fn stop(&mut self) {
        self.process.signal(Signal::TERM);
        let status = self.process.wait();
        assert!(
            status.success(),
            "the launcher ended with {status} when asked to stop"
        );
    }

    /// `raft_core_run --node I` beside this launcher, with the same files.
    pub(crate) fn node_alone(&self, node: usize) -> Process {
        let mut command = Command::new(env!("CARGO_BIN_EXE_raft_core_run"));
        command
            .arg("--node")
            .arg(node.to_string())
            .arg("-f")
            .arg(self.file())
            .env_remove("RUST_LOG");
        Process::start(
            &format!("node {node} alone"),
            command,
            &self.dir.path().join(format!("alone{node}.log")),
        )
    }
}

impl Drop for Launcher {
    fn drop(&mut self) {
        if self.process.is_running() {
            self.process.signal(Signal::TERM);
            let _ = self.process.wait(); // its nodes end before it does
        }
        if thread::panicking() {
            for start in 1..=self.starts {
                show_end_of(&log(self.dir.path(), start));
            }
        }
    }
}

fn launch(dir: &Path, count: usize, knobs: &[String], start: u32) -> Process {
    let mut command = Command::new(env!("CARGO_BIN_EXE_raft_core_run"));
    command
        .args(["-n", &count.to_string(), "-f"])
        .arg(dir.join("test.conf"))
        .args(knobs)
        .env_remove("RUST_LOG");
    Process::start("the launcher", command, &log(dir, start))
}

fn log(dir: &Path, start: u32) -> PathBuf {
    dir.join(format!("launcher-start{start}.log"))
}
