//! A process that ends with its handle, or when this process does.

use std::env;
use std::io::{self, BufRead as _, BufReader, Read as _};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{RecvTimeoutError, bounded};
use rustix::process::{Pid, Signal, kill_process};

/// How long a child may take to say its first line.
const FIRST_LINE_LIMIT: Duration = Duration::from_secs(10);

/// How long a child may take to stop in order before it is killed.
const STOP_LIMIT: Duration = Duration::from_secs(5);

/// A child process. It holds the reading end of a pipe as its standard input and is meant to stop
/// when that ends, which also happens when this process is killed.
#[derive(Debug)]
pub struct ChildProcess {
    child: Child,
    stdin: Option<ChildStdin>,
}

impl ChildProcess {
    /// Starts `command`.
    ///
    /// # Errors
    /// The system's.
    pub fn start(command: &mut Command) -> io::Result<ChildProcess> {
        let mut child = command.stdin(Stdio::piped()).spawn()?;
        let stdin = child.stdin.take();
        Ok(ChildProcess { child, stdin })
    }

    /// Starts `command` and waits for the first line that it prints.
    ///
    /// # Errors
    /// The system's; the child printed nothing in time.
    pub fn start_and_read_line(command: &mut Command) -> io::Result<(ChildProcess, String)> {
        ChildProcess::start_and_read_line_within(FIRST_LINE_LIMIT, command)
    }

    /// As [`start_and_read_line`](ChildProcess::start_and_read_line), for a child that has to work
    /// for its line: it may take `limit`.
    ///
    /// # Errors
    /// As there.
    pub fn start_and_read_line_within(
        limit: Duration,
        command: &mut Command,
    ) -> io::Result<(ChildProcess, String)> {
        let mut process = ChildProcess::start(command.stdout(Stdio::piped()))?;
        let stdout = process
            .child
            .stdout
            .take()
            .ok_or(io::ErrorKind::BrokenPipe)?;
        let (sender, receiver) = bounded(1);
        thread::spawn(move || {
            let mut line = String::new();
            let read = BufReader::new(stdout).read_line(&mut line);
            let _ = sender.send(read.map(|_| line));
        });
        let line = match receiver.recv_timeout(limit) {
            Ok(line) => line?,
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "it said nothing"));
            }
        };
        if line.is_empty() {
            return Err(io::Error::other("it ended without a word"));
        }
        Ok((process, line))
    }

    /// The process's number, for `/proc`.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether it has ended, with its exit status in words.
    ///
    /// # Errors
    /// The system's.
    pub fn ended(&mut self) -> io::Result<Option<String>> {
        Ok(self.child.try_wait()?.map(|status| status.to_string()))
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// The system's.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        Ok(kill_process(Pid::from_child(&self.child), signal)?)
    }

    /// Waits until it has ended.
    ///
    /// # Errors
    /// The system's; it has not ended within `limit`.
    pub fn wait(&mut self, limit: Duration) -> io::Result<()> {
        let give_up = Instant::now() + limit;
        while self.child.try_wait()?.is_none() {
            if Instant::now() > give_up {
                return Err(io::ErrorKind::TimedOut.into());
            }
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Ends its standard input, by which it knows to stop; does not wait for that.
    pub fn ask_to_stop(&mut self) {
        self.stdin = None;
    }
}

impl Drop for ChildProcess {
    fn drop(&mut self) {
        self.ask_to_stop();
        let limit = Instant::now() + STOP_LIMIT;
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < limit {
            thread::sleep(Duration::from_millis(5));
        }
        // Both fail only where the child has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The program called `name` in the directory of this one, where cargo puts it.
///
/// # Errors
/// It is not there; the text says how to build it.
pub fn program_beside(name: &str) -> Result<PathBuf, String> {
    let own = env::current_exe()
        .map_err(|error| format!("cannot find this program's own file: {error}"))?;
    let program = own.with_file_name(name);
    if program.is_file() {
        return Ok(program);
    }
    let release = if cfg!(debug_assertions) {
        ""
    } else {
        "--release "
    };
    let program = program.display();
    Err(format!(
        "{program} is missing: run `cargo build {release}-p {name}` first"
    ))
}

/// In a child: returns when the parent lets go of the other end of standard input.
pub fn wait_for_end_of_stdin() {
    let mut ignored = [0; 64];
    let mut stdin = io::stdin().lock();
    loop {
        match stdin.read(&mut ignored) {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_says_its_line_and_ends_with_its_handle() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo 4711; exec cat"]);
        let (mut child, line) = ChildProcess::start_and_read_line(&mut command).unwrap();
        assert_eq!(line, "4711\n");
        assert_eq!(child.ended().unwrap(), None);

        let pid = child.id();
        drop(child);
        assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
    }

    #[test]
    fn a_child_that_ends_without_a_word_is_told() {
        let mut command = Command::new("true");
        let error = ChildProcess::start_and_read_line(&mut command).unwrap_err();
        assert_eq!(error.to_string(), "it ended without a word");
    }
}
