//! What the launcher prints: its own lines and its nodes', one at a time.
//!
//! ```text
//! child's stdout ─ forward ─┐
//! child's stderr ─ forward ─┼─ bounded queue ─ one thread ─> stdout, stderr
//! launcher ─ say, warn ─────┘
//! ```
//!
//! One thread writes, so lines never mix. A reader that stands still (a paused terminal, a full pipe)
//! stops neither the nodes nor the launcher: after [`STALL`] a node's lines are dropped and counted
//! until there is room again.

use std::fmt::Display;
use std::io::{self, BufRead as _, BufReader, Read, Write};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};

/// Lines that wait to be written, of all nodes together.
const QUEUE_LINES: usize = 1024;

/// Longest line that is kept whole, in bytes; a longer one is cut into several.
const MAX_LINE_BYTES: u64 = 16 * 1024;

/// How long a line waits for room before it is given up.
const STALL: Duration = Duration::from_secs(1);

/// Which of the launcher's streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stream {
    Stdout,
    Stderr,
}

enum Job {
    /// A line with its newline.
    Line(Stream, Vec<u8>),
    /// Answered once all before it is written.
    Flush(Sender<()>),
}

/// Where lines are handed in.
#[derive(Clone, Debug)]
pub(crate) struct Output {
    jobs: Sender<Job>,
}

impl Output {
    /// Starts the writing thread. It ends with the last clone of what is returned.
    pub(crate) fn start(
        stdout: impl Write + Send + 'static,
        stderr: impl Write + Send + 'static,
    ) -> io::Result<Output> {
        let (jobs, queue) = bounded(QUEUE_LINES);
        thread::Builder::new()
            .name("output".to_owned())
            .spawn(move || write_lines(&queue, stdout, stderr))?;
        Ok(Output { jobs })
    }

    /// Prints a line of the launcher's own.
    pub(crate) fn say(&self, text: impl Display) {
        self.line(Stream::Stdout, &text);
    }

    /// Prints a line of the launcher's own to stderr.
    pub(crate) fn warn(&self, text: impl Display) {
        self.line(Stream::Stderr, &text);
    }

    fn line(&self, stream: Stream, text: &dyn Display) {
        let job = Job::Line(stream, format!("{text}\n").into_bytes());
        let _ = self.jobs.send_timeout(job, STALL); // nobody reads: there is nobody to tell
    }

    /// Waits until everything handed in so far is written, within bounds.
    pub(crate) fn flush(&self) {
        let (written, wait) = bounded(1);
        if self.jobs.send_timeout(Job::Flush(written), STALL).is_ok() {
            let _ = wait.recv_timeout(STALL);
        }
    }

    /// Prints each line of a node's `pipe` under `[node I]`, until the pipe ends.
    pub(crate) fn forward(&self, node: usize, pipe: impl Read, stream: Stream) {
        let mut reader = BufReader::new(pipe);
        let mut dropped: u64 = 0;
        loop {
            let mut line = format!("[node {node}] ").into_bytes();
            let prefix_len = line.len();
            // A pipe that fails is as good as ended: nothing more will come out of it.
            let _ = reader
                .by_ref()
                .take(MAX_LINE_BYTES)
                .read_until(b'\n', &mut line);
            if line.len() == prefix_len {
                return;
            }
            if line.last() != Some(&b'\n') {
                line.push(b'\n');
            }
            dropped = self.pass_on(node, Job::Line(stream, line), dropped);
        }
    }

    /// Hands a node's line in. `dropped`: how many before it found no room; returns the new number.
    fn pass_on(&self, node: usize, line: Job, dropped: u64) -> u64 {
        if dropped == 0 {
            return u64::from(self.jobs.send_timeout(line, STALL).is_err());
        }
        let notice = format!("[node {node}] ({dropped} lines dropped: nobody was reading them)\n")
            .into_bytes();
        match self.jobs.try_send(Job::Line(Stream::Stderr, notice)) {
            Ok(()) => self.pass_on(node, line, 0),
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => dropped + 1,
        }
    }
}

/// A stream that nobody reads any more (`| head`) is no reason to stop: what goes there is lost.
fn write_lines(queue: &Receiver<Job>, mut stdout: impl Write, mut stderr: impl Write) {
    for job in queue {
        match job {
            Job::Line(Stream::Stdout, line) => {
                let _ = stdout.write_all(&line).and_then(|()| stdout.flush());
            }
            Job::Line(Stream::Stderr, line) => {
                let _ = stderr.write_all(&line);
            }
            Job::Flush(written) => {
                let _ = written.send(());
            }
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    /// A stream that can be looked into.
    #[derive(Clone, Default)]
    pub(crate) struct Page(Arc<Mutex<Vec<u8>>>);

    impl Page {
        pub(crate) fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    impl Write for Page {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// A stream whose reader stands still until it is told to go on.
    struct Paused(Receiver<()>, Page);

    impl Write for Paused {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.0.recv(); // an error is the sign to go on
            self.1.write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn every_line_is_whole_and_names_its_node() {
        let page = Page::default();
        let output = Output::start(page.clone(), page.clone()).unwrap();
        thread::scope(|scope| {
            for node in 0..4 {
                let output = &output;
                let text = format!("line of {node}\n").repeat(5_000);
                scope.spawn(move || output.forward(node, text.as_bytes(), Stream::Stdout));
            }
        });
        output.flush();
        let text = page.text();
        for node in 0..4 {
            let whole = format!("[node {node}] line of {node}");
            assert_eq!(text.lines().filter(|line| *line == whole).count(), 5_000);
        }
        assert_eq!(text.lines().count(), 20_000);
    }

    #[test]
    fn a_last_line_without_an_end_and_a_line_without_end_are_printed() {
        let page = Page::default();
        let output = Output::start(page.clone(), io::sink()).unwrap();
        output.forward(0, &b"a\n\nb"[..], Stream::Stdout);
        output.forward(1, io::repeat(b'x').take(MAX_LINE_BYTES + 1), Stream::Stdout);
        output.flush();
        let long = "x".repeat(usize::try_from(MAX_LINE_BYTES).unwrap());
        assert_eq!(
            page.text(),
            format!("[node 0] a\n[node 0] \n[node 0] b\n[node 1] {long}\n[node 1] x\n")
        );
    }

    /// The bound on the queue: past it lines are dropped.
    #[test]
    fn a_reader_that_stands_still_costs_lines_not_nodes() {
        let page = Page::default();
        let (go_on, wait) = bounded(0);
        let output = Output::start(Paused(wait, page.clone()), page.clone()).unwrap();
        let lines = QUEUE_LINES * 3;
        let (forwarded, all_forwarded) = bounded(1);
        let node = output.clone();
        thread::spawn(move || {
            node.forward(0, "x\n".repeat(lines).as_bytes(), Stream::Stdout);
            forwarded.send(()).unwrap();
        });
        let returned = all_forwarded.recv_timeout(Duration::from_secs(30));
        assert_eq!(returned, Ok(()), "it goes on although nobody reads");

        drop(go_on);
        output.flush();
        output.forward(1, &b"y\n"[..], Stream::Stdout);
        output.flush();
        let text = page.text();
        let printed = text.lines().filter(|line| *line == "[node 0] x").count();
        assert!(
            (QUEUE_LINES..lines).contains(&printed),
            "{printed} lines printed"
        );
        assert!(
            text.ends_with("[node 1] y\n"),
            "whoever reads again is served again"
        );
    }

    #[test]
    fn dropped_lines_are_counted() {
        let (jobs, queue) = bounded(1);
        let output = Output { jobs };
        let line = || Job::Line(Stream::Stdout, b"x\n".to_vec());
        assert_eq!(output.pass_on(0, line(), 0), 0, "room for one");
        assert_eq!(output.pass_on(0, line(), 0), 1);
        assert_eq!(output.pass_on(0, line(), 1), 2);
        drop(queue.recv());
        assert_eq!(output.pass_on(0, line(), 2), 1, "room for the notice only");
        let Ok(Job::Line(stream, notice)) = queue.recv() else {
            panic!("the notice")
        };
        assert_eq!(stream, Stream::Stderr);
        assert_eq!(
            notice,
            b"[node 0] (2 lines dropped: nobody was reading them)\n"
        );
    }
}
