//! A child process: its output in a file, signals by its handle, and an end with the test.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::SystemTime;

use rustix::process::{Pid, Signal, kill_process};

use super::wait::eventually;

/// Lines of a process' output that a failing test prints.
const SHOWN_LINES: usize = 40;

/// A running child. Its standard input is a pipe that this handle holds; both its outputs go to one file.
/// Dropped, it is killed.
pub(crate) struct Process {
    child: Child,
    name: String,
    log: PathBuf,
}

impl Process {
    /// Starts `command`, with its output in the new file `log`.
    pub(crate) fn start(name: &str, mut command: Command, log: &Path) -> Self {
        let output = File::create(log).unwrap();
        let child = command
            .stdin(Stdio::piped())
            .stdout(output.try_clone().unwrap())
            .stderr(output)
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {name} ({command:?}): {error}"));
        Self {
            child,
            name: name.to_owned(),
            log: log.to_owned(),
        }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal)
            .unwrap_or_else(|error| panic!("cannot send {signal:?} to {}: {error}", self.name));
    }

    /// `kill -9`, and sees it dead.
    pub(crate) fn kill(mut self) {
        self.end();
    }

    /// How it ended, once it has.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let (name, child) = (&self.name, &mut self.child);
        eventually(&format!("the end of {name}"), || child.try_wait().unwrap())
    }

    /// Whether it has not ended.
    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// All it has printed.
    pub(crate) fn output(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap()).into_owned()
    }

    /// When it printed the last of it.
    pub(crate) fn said_at(&self) -> SystemTime {
        fs::metadata(&self.log).unwrap().modified().unwrap()
    }

    /// The first line that holds `text`, once it has been printed.
    ///
    /// # Panics
    /// If the process ends without it.
    pub(crate) fn wait_for_line(&mut self, text: &str) -> String {
        let what = format!("`{text}` from {}", self.name);
        eventually(&what, || {
            let running = self.is_running(); // asked first: what is printed last is read below
            let line = self.line(text);
            assert!(
                running || line.is_some(),
                "{} ended without printing `{text}`:\n{}",
                self.name,
                self.output()
            );
            line
        })
    }

    /// The first line so far that holds `text`.
    pub(crate) fn line(&self, text: &str) -> Option<String> {
        let output = self.output();
        let mut complete = output
            .split_inclusive('\n')
            .filter(|line| line.ends_with('\n'));
        complete
            .find(|line| line.contains(text))
            .map(|line| line.trim_end().to_owned())
    }

    fn end(&mut self) {
        let _ = self.child.kill(); // it may have ended by itself
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}

/// Prints the end of a log file, for a test that fails.
pub(crate) fn show_end_of(log: &Path) {
    let Ok(bytes) = fs::read(log) else { return };
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    let skipped = lines.len().saturating_sub(SHOWN_LINES);
    eprintln!("---- {} ({skipped} lines before)", log.display());
    for line in &lines[skipped..] {
        eprintln!("{line}");
    }
}
