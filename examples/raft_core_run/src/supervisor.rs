//! The launcher's watch over its nodes: starts them, prints what they say, reports what becomes of
//! them, and stops them.
//!
//! ```text
//!            start            both pipes ended        wait() tells the status
//! (nothing) ───────> running ─────────────────> ending ─────────────────────> ended
//!                       │ stop: its stdin is closed; after STOP_PATIENCE it is killed
//! ```
//!
//! One thread (the caller's) owns the child processes and takes one event after another. A node that
//! ends is not started again: whoever studies failures decides when it comes back.

use std::io::{self, Write as _};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::cli::Cli;
use crate::failure::Failure;
use crate::layout::{Layout, counted};
use crate::node::Farewell;
use crate::output::{Output, Stream};
use crate::ready::{self, News};

#[cfg(test)]
#[path = "supervisor_test.rs"]
mod tests;

/// How long nodes may take to stop before they are killed. Above what a node allows itself.
const STOP_PATIENCE: Duration = Duration::from_secs(5);

/// Signals this close together are one request: timeout(1), for one, signals a process and then its group,
/// to which the process belongs.
pub(crate) const SAME_REQUEST: Duration = Duration::from_millis(250);

/// How long the system may take to end a killed process before the launcher goes without it.
const KILL_PATIENCE: Duration = Duration::from_secs(5);

/// A process whose pipes have ended is about to end: how often to look.
const REAP_POLL: Duration = Duration::from_millis(5);

/// Events that wait for the supervisor; whoever has one more waits with it.
const QUEUE_EVENTS: usize = 64;

#[derive(Debug)]
enum Event {
    /// One of the two pipes of a node's output has ended.
    PipeEnded(usize),
    News(News),
    Signal,
}

/// Starts every node of `layout` and stays until they are stopped or all have ended.
pub(crate) fn run(layout: &Layout, cli: &Cli, started: Instant) -> Result<(), Failure> {
    let output = Output::start(io::stdout(), io::stderr()).map_err(|error| no_thread(&error))?;
    let (events, inbox) = bounded(QUEUE_EVENTS);
    send_signals(events.clone()).map_err(|error| no_thread(&error))?;

    let program = std::env::current_exe().map_err(|error| {
        Failure::failed(format!("cannot find this program's own file: {error}"))
    })?;
    let commands = (0..layout.cluster.nodes.len()).map(|node| {
        let mut command = Command::new(&program);
        command.args(cli.arguments_of_node(node));
        command
    });
    let file = layout.file.display();
    let how_to_revive = format!(
        "raft_core_run --node I -f {file} --data-dir {}",
        layout.data_dir.display()
    );
    let mut supervisor = Supervisor::new(how_to_revive, output.clone(), events.clone());
    output.say(format_args!(
        "{} of {file}, data in {}",
        counted(commands.len(), "node"),
        layout.data_dir.display()
    ));
    for (node, command) in commands.enumerate() {
        let process_id = supervisor.start(command)?;
        output.say(format_args!(
            "node {node}: {}, pid {process_id}",
            layout.cluster.nodes[node]
        ));
    }

    let tell = move |news| events.send(Event::News(news)).is_ok();
    ready::watch(&layout.cluster.nodes, tell).map_err(|error| no_thread(&error))?;
    let ready_line = |node: usize, term: u64| {
        let address = layout.cluster.nodes[node];
        let ms = started.elapsed().as_millis();
        format!("cluster ready: leader node {node} ({address}), term {term}, {ms} ms")
    };
    let outcome = supervisor.supervise(&inbox, ready_line);
    output.flush();
    outcome
}

/// The nodes and how far they are. Dropped, it ends them all: their standard input ends with it.
struct Supervisor {
    nodes: Vec<NodeProcess>,
    how_to_revive: String,
    output: Output,
    events: Sender<Event>,
    stopping: Option<Stopping>,
}

struct NodeProcess {
    child: Child,
    open_pipes: u8,
    ended: Option<ExitStatus>,
}

/// How far a stop has come.
#[derive(Clone, Copy)]
struct Stopping {
    asked_at: Instant,
    killed_at: Option<Instant>,
}

impl Stopping {
    /// When patience ends with what is being waited for.
    fn deadline(self) -> Instant {
        match self.killed_at {
            None => self.asked_at + STOP_PATIENCE,
            Some(killed_at) => killed_at + KILL_PATIENCE,
        }
    }
}

impl Supervisor {
    fn new(how_to_revive: String, output: Output, events: Sender<Event>) -> Supervisor {
        Supervisor {
            nodes: Vec::new(),
            how_to_revive,
            output,
            events,
            stopping: None,
        }
    }

    /// Starts the next node; returns its process id.
    fn start(&mut self, mut command: Command) -> Result<u32, Failure> {
        let node = self.nodes.len();
        let failed =
            |error: io::Error| Failure::failed(format!("cannot start node {node}: {error}"));
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().map_err(failed)?;

        let stdout = child.stdout.take().expect("stdout was asked to be a pipe");
        let stderr = child.stderr.take().expect("stderr was asked to be a pipe");
        self.forward(node, stdout, Stream::Stdout).map_err(failed)?;
        self.forward(node, stderr, Stream::Stderr).map_err(failed)?;
        let process_id = child.id();
        self.nodes.push(NodeProcess {
            child,
            open_pipes: 2,
            ended: None,
        });
        Ok(process_id)
    }

    fn forward(
        &self,
        node: usize,
        pipe: impl io::Read + Send + 'static,
        stream: Stream,
    ) -> io::Result<()> {
        let (output, events) = (self.output.clone(), self.events.clone());
        thread::Builder::new()
            .name(format!("output of node {node}"))
            .spawn(move || {
                output.forward(node, pipe, stream);
                let _ = events.send(Event::PipeEnded(node)); // the supervisor may be gone: so is this process
            })?;
        Ok(())
    }

    /// Takes events until all nodes have ended. `Ok` if that was asked for.
    fn supervise(
        mut self,
        inbox: &Receiver<Event>,
        ready_line: impl Fn(usize, u64) -> String,
    ) -> Result<(), Failure> {
        loop {
            match self.wait(inbox) {
                Some(Event::PipeEnded(node)) => self.nodes[node].open_pipes -= 1,
                Some(Event::News(_)) if self.stopping.is_some() => {}
                Some(Event::News(News::Ready { node, term })) => {
                    self.output.say(ready_line(node, term));
                }
                Some(Event::News(News::NotReady(reasons))) => self.warn_not_ready(&reasons),
                Some(Event::Signal) => self.stop_or_kill(Instant::now()),
                None => {}
            }
            self.reap();
            if self.nodes.iter().all(|node| node.ended.is_some()) {
                return self.outcome();
            }
            if let Some(failure) = self.lose_patience(Instant::now()) {
                return Err(failure);
            }
        }
    }

    /// The next event, or `None` when it is time to look at the processes again.
    fn wait(&self, inbox: &Receiver<Event>) -> Option<Event> {
        let ending = |node: &NodeProcess| node.open_pipes == 0 && node.ended.is_none();
        let received = if self.nodes.iter().any(ending) {
            inbox.recv_timeout(REAP_POLL)
        } else if let Some(stopping) = self.stopping {
            inbox.recv_deadline(stopping.deadline())
        } else {
            inbox.recv().map_err(|_| RecvTimeoutError::Disconnected)
        };
        received.ok()
    }

    /// First request: in order. Second: at once.
    fn stop_or_kill(&mut self, now: Instant) {
        if let Some(Stopping { asked_at, .. }) = self.stopping {
            if now >= asked_at + SAME_REQUEST {
                self.kill_rest("a second signal came", now);
            }
            return;
        }
        let nodes = self.nodes.len();
        for node in &mut self.nodes {
            if let Some(mut stdin) = node.child.stdin.take() {
                // It fits into the pipe; one that is gone needs no farewell. Dropped: the node sees
                // the end of its input and stops.
                let _ = stdin.write_all(Farewell { nodes }.line().as_bytes());
            }
        }
        self.stopping = Some(Stopping {
            asked_at: now,
            killed_at: None,
        });
        let running = self
            .nodes
            .iter()
            .filter(|node| node.ended.is_none())
            .count();
        self.output.say(format_args!(
            "stopping {}; another signal kills",
            counted(running, "node")
        ));
    }

    fn kill_rest(&mut self, why: &str, now: Instant) {
        if let Some(stopping) = &mut self.stopping {
            stopping.killed_at = Some(now);
        }
        for (id, node) in self
            .nodes
            .iter_mut()
            .enumerate()
            .filter(|(_, node)| node.ended.is_none())
        {
            match node.child.kill() {
                Ok(()) => self.output.warn(format_args!("killed node {id}: {why}")),
                Err(error) => self
                    .output
                    .warn(format_args!("cannot kill node {id}: {error}")),
            }
        }
    }

    /// Collects the processes that have ended. Their last lines are printed before: the pipes ended first.
    fn reap(&mut self) {
        for id in 0..self.nodes.len() {
            let node = &mut self.nodes[id];
            if node.ended.is_some() || node.open_pipes > 0 {
                continue;
            }
            match node.child.try_wait() {
                Ok(None) => {}
                Ok(Some(status)) => {
                    node.ended = Some(status);
                    self.report(id, status);
                }
                Err(error) => {
                    self.output
                        .warn(format_args!("cannot learn how node {id} ended: {error}"));
                    node.ended = Some(ExitStatus::default());
                }
            }
        }
    }

    fn report(&self, id: usize, status: ExitStatus) {
        let how = describe(status);
        if self.stopping.is_some() {
            self.output.say(format_args!("node {id} stopped: {how}"));
            return;
        }
        let left = self
            .nodes
            .iter()
            .filter(|node| node.ended.is_none())
            .count();
        let revive = self
            .how_to_revive
            .replace("--node I", &format!("--node {id}"));
        self.output.warn(format_args!(
            "node {id} died: {how}; {left} go on; `{revive}` brings it back"
        ));
    }

    fn outcome(&self) -> Result<(), Failure> {
        if self.stopping.is_some() {
            return Ok(());
        }
        self.output.flush();
        Err(Failure::failed(
            "no node is left: see above why; the same command starts them again with their data",
        ))
    }

    /// Kills what does not stop in time; gives up on what cannot be killed.
    fn lose_patience(&mut self, now: Instant) -> Option<Failure> {
        let stopping = self.stopping?;
        if now < stopping.deadline() {
            return None;
        }
        if stopping.killed_at.is_none() {
            let secs = STOP_PATIENCE.as_secs();
            self.kill_rest(&format!("it did not stop within {secs} s"), now);
            return None;
        }
        Some(Failure::failed(
            "some nodes cannot be killed: their disk hangs; they end when it answers",
        ))
    }

    fn warn_not_ready(&self, reasons: &[String]) {
        let reasons = reasons
            .iter()
            .enumerate()
            .map(|(node, said)| match self.nodes[node].ended {
                Some(status) => format!("node {node}: dead, {}", describe(status)),
                None => format!("node {node}: {said}"),
            });
        let reasons = reasons.collect::<Vec<_>>().join("; ");
        self.output
            .warn(format_args!("still no leader, waiting on: {reasons}"));
    }
}

fn describe(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt as _;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => {
            let name = signal_hook::low_level::signal_name(signal).unwrap_or("no name");
            format!("killed by signal {signal} ({name})")
        }
        (None, None) => status.to_string(),
    }
}

/// Turns SIGINT and SIGTERM into events.
fn send_signals(events: Sender<Event>) -> io::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            for _ in signals.forever() {
                let _ = events.send(Event::Signal);
            }
        })?;
    Ok(())
}

fn no_thread(error: &io::Error) -> Failure {
    Failure::failed(format!("cannot start the launcher's threads: {error}"))
}
