//! How long clients wait when a leader goes: killed, which takes an election, or stopped, which takes
//! a handover. And while every node is stopped and started again, one after the other.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command talks to its user"
)]

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use bench::cluster::{Cluster, node_program};
use bench::command::{Failure, exit_code, parse};
use bench::machine::{Machine, file_system_of, load};
use bench::table::Table;
use clap::Parser;
use clerk::{Clerk, ClerkOptions};
use parking_lot::Mutex;
use rustix::process::Signal;
use serde::Serialize;

const EXAMPLES: &str = "\
Examples:
  bench_failover                            20 times kill -9 of the leader, 20 times SIGTERM
  bench_failover --times 5 --clients 64
  bench_failover --rolling                  each node SIGTERM and a new start in turn, twice around
  bench_failover --data-dir /mnt/disk       on that disk instead of target/'s

The nodes are `raft_core_run` processes with default settings: build it first, with the same profile.
Exit codes: 0 measured, 1 failed, 2 wrong usage.";

/// Writes before a node goes, and after all is well again: long enough that all is as ever.
const CALM: Duration = Duration::from_millis(500);

/// Whatever takes longer than this has failed.
const LIMIT: Duration = Duration::from_secs(20);

/// How often to look at what has no event.
const POLL: Duration = Duration::from_millis(2);

/// How often the leader is ended by each signal.
const TIMES: u32 = 20;

/// How often a rolling restart goes around.
const ROUNDS: u32 = 2;

/// Measures the longest time without an acknowledged write around the end of a leader.
#[derive(Debug, Parser)]
#[command(name = "bench_failover", version, after_help = EXAMPLES)]
struct Cli {
    /// Stop and start all nodes in turn instead: SIGTERM, a start, and the next once it has caught up
    #[arg(long)]
    rolling: bool,

    /// How often the leader is killed, and how often it is stopped [default: 20]; with --rolling, how
    /// often around [default: 2]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    times: Option<u32>,

    /// Clients that write without pause, each with a clerk of its own
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=1024))]
    clients: u16,

    /// How many nodes
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u8).range(3..=9))]
    nodes: u8,

    /// Where the nodes' files are kept while it runs [default: the directory of this program]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

fn main() -> ExitCode {
    exit_code("bench_failover", run())
}

fn run() -> Result<(), Failure> {
    let Some(cli) = parse::<Cli>()? else {
        return Ok(());
    };
    let program = node_program()?;
    let beside = program.parent().map(PathBuf::from).unwrap_or_default();
    let dir = cli.data_dir.clone().unwrap_or(beside);
    let file_system = file_system_of(&dir).unwrap_or_else(|| "unknown".to_owned());
    let machine = Machine::here();
    println!("{machine}");
    let times = cli
        .times
        .unwrap_or(if cli.rolling { ROUNDS } else { TIMES });
    println!(
        "{} nodes on {file_system}, {} clients, {times} times {}",
        cli.nodes,
        cli.clients,
        if cli.rolling { "around" } else { "each" }
    );

    let mut cluster = Cluster::start(&program, usize::from(cli.nodes), &dir)?;
    let writers = Writers::start(&cluster, cli.clients)?;
    let measured = if cli.rolling {
        Measured::Rolling(restart_all(&mut cluster, &writers, times)?)
    } else {
        Measured::Leaders(vec![
            end_leaders(&mut cluster, &writers, "SIGKILL", Signal::KILL, times)?,
            end_leaders(&mut cluster, &writers, "SIGTERM", Signal::TERM, times)?,
        ])
    };
    writers.stop();
    match &measured {
        Measured::Leaders(leaders) => println!("{}", table_of_leaders(leaders)),
        Measured::Rolling(rolling) => println!("{}", table_of_restarts(rolling)),
    }
    let report = Report {
        program: "bench_failover",
        machine,
        load_after: load(),
        file_system,
        nodes: cli.nodes,
        clients: cli.clients,
        times,
        measured,
    };
    println!("load after: {}", report.load_after);
    println!(
        "{}",
        serde_json::to_string(&report).expect("figures are finite and keys are strings")
    );
    Ok(())
}

/// The one JSON line.
#[derive(Debug, Serialize)]
struct Report {
    program: &'static str,
    machine: Machine,
    load_after: String,
    file_system: String,
    nodes: u8,
    clients: u16,
    times: u32,
    #[serde(flatten)]
    measured: Measured,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
enum Measured {
    Leaders(Vec<Leaders>),
    Rolling(Rolling),
}

/// What leaders cost that ended by one signal.
#[derive(Debug, Serialize)]
struct Leaders {
    signal: &'static str,
    median_ms: f64,
    p90_ms: f64,
    max_ms: f64,
    failed_calls: u64,
}

/// What a restart of all nodes cost.
#[derive(Debug, Serialize)]
struct Rolling {
    restarts: Vec<Restart>,
    median_ms: f64,
    /// Over the whole time: one restart's begins where the last one's ends.
    max_ms: f64,
    failed_calls: u64,
    /// By how much the term rose: by one for each leader, where nobody had to stand for election.
    terms: u64,
}

/// One node's, from its end until it has caught up and all is as ever.
#[derive(Debug, Serialize)]
struct Restart {
    node: usize,
    led: bool,
    gap_ms: f64,
    failed_calls: u64,
}

fn table_of_leaders(leaders: &[Leaders]) -> Table {
    let mut table = Table::new(&["leader", "median", "p90", "max", "failed calls"]);
    for ended in leaders {
        let times = [ended.median_ms, ended.p90_ms, ended.max_ms].map(shown);
        let name = [ended.signal.to_owned()].into_iter();
        table.row(name.chain(times).chain([ended.failed_calls.to_string()]));
    }
    table
}

fn table_of_restarts(rolling: &Rolling) -> Table {
    let mut table = Table::new(&["restart", "led", "longest gap", "failed calls"]);
    for restart in &rolling.restarts {
        let led = if restart.led { "yes" } else { "no" };
        table.row([
            format!("node {}", restart.node),
            led.to_owned(),
            shown(restart.gap_ms),
            restart.failed_calls.to_string(),
        ]);
    }
    let led = rolling.restarts.iter().filter(|restart| restart.led);
    let median = shown(rolling.median_ms);
    table.row(["median".to_owned(), String::new(), median, String::new()]);
    table.row([
        "all".to_owned(),
        led.count().to_string(),
        shown(rolling.max_ms),
        rolling.failed_calls.to_string(),
    ]);
    table.row(["terms".to_owned(), rolling.terms.to_string()]);
    table
}

/// Ends leader after leader by `signal`.
fn end_leaders(
    cluster: &mut Cluster,
    writers: &Writers,
    name: &'static str,
    signal: Signal,
    times: u32,
) -> Result<Leaders, Failure> {
    let mut gaps = Vec::new();
    let failed_before = writers.failed();
    for number in 1..=times {
        let gap = gap_around(cluster, writers, signal)?;
        eprintln!("{name} {number}: {:.1} ms", ms(gap));
        gaps.push(gap);
    }
    gaps.sort_unstable();
    let at = |percent: usize| ms(gaps[(gaps.len() - 1) * percent / 100]);
    Ok(Leaders {
        signal: name,
        median_ms: at(50),
        p90_ms: at(90),
        max_ms: at(100),
        failed_calls: writers.failed() - failed_before,
    })
}

/// Ends the leader, waits for the next one, and brings the old one back. Yields the longest time
/// without an acknowledged write.
fn gap_around(
    cluster: &mut Cluster,
    writers: &Writers,
    signal: Signal,
) -> Result<Duration, Failure> {
    let (leader, _) = eventually("a leader", || cluster.leader())?;
    thread::sleep(CALM); // the run itself
    writers.acks.take_longest();
    cluster.end_node(leader, signal)?;
    eventually("another leader", || {
        cluster.leader().filter(|(node, _)| *node != leader)
    })?;
    writers.wait_for_writes()?;
    thread::sleep(CALM);
    let gap = writers.acks.take_longest();

    cluster.start_node(leader)?;
    wait_for_catch_up(cluster, leader)?;
    Ok(gap)
}

/// Stops every node by SIGTERM and starts it again, one after the other, `rounds` times around.
fn restart_all(cluster: &mut Cluster, writers: &Writers, rounds: u32) -> Result<Rolling, Failure> {
    let term_before = eventually("a leader", || cluster.leader())?.1.term;
    thread::sleep(CALM); // the run itself
    writers.acks.take_longest();
    let failed_before_all = writers.failed();
    let mut restarts = Vec::new();
    for _ in 0..rounds {
        for node in 0..cluster.addresses().len() {
            let (leader, _) = eventually("a leader", || cluster.leader())?;
            let failed_before = writers.failed();
            cluster.end_node(node, Signal::TERM)?;
            cluster.start_node(node)?;
            wait_for_catch_up(cluster, node)?;
            writers.wait_for_writes()?;
            thread::sleep(CALM);
            let restart = Restart {
                node,
                led: leader == node,
                gap_ms: ms(writers.acks.take_longest()),
                failed_calls: writers.failed() - failed_before,
            };
            eprintln!("node {node}: {}", shown(restart.gap_ms));
            restarts.push(restart);
        }
    }
    let (_, after) = eventually("a leader", || cluster.leader())?;
    let mut gaps: Vec<f64> = restarts.iter().map(|restart| restart.gap_ms).collect();
    gaps.sort_unstable_by(f64::total_cmp);
    Ok(Rolling {
        median_ms: gaps[(gaps.len() - 1) / 2],
        max_ms: gaps[gaps.len() - 1],
        failed_calls: writers.failed() - failed_before_all,
        terms: after.term - term_before,
        restarts,
    })
}

/// Waits until a node that was started again has applied what is committed by now. Clients write on: what
/// it lacks then is on its way.
fn wait_for_catch_up(cluster: &Cluster, node: usize) -> Result<(), Failure> {
    let goal = eventually("a leader", || cluster.leader())?.1.commit_index;
    eventually("the log of the node that came back", || {
        let applied = cluster.status().ok()?[node].last_applied;
        (applied >= goal).then_some(())
    })
}

/// Clients that write without pause.
struct Writers {
    stop: Arc<AtomicBool>,
    failed: Arc<AtomicU64>,
    acks: Arc<Acks>,
    threads: Vec<JoinHandle<()>>,
}

/// When acknowledgements came.
struct Acks {
    state: Mutex<AckState>,
}

struct AckState {
    count: u64,
    last: Instant,
    longest: Duration,
}

impl Writers {
    fn start(cluster: &Cluster, clients: u16) -> Result<Self, Failure> {
        let mut writers = Self {
            stop: Arc::default(),
            failed: Arc::default(),
            acks: Arc::new(Acks {
                state: Mutex::new(AckState {
                    count: 0,
                    last: Instant::now(),
                    longest: Duration::ZERO,
                }),
            }),
            threads: Vec::new(),
        };
        for client in 0..clients {
            let clerk = Clerk::new(cluster.addresses(), ClerkOptions::default());
            let clerk = clerk.map_err(|error| Failure::Failed(error.to_string()))?;
            let stop = Arc::clone(&writers.stop);
            let (failed, acks) = (Arc::clone(&writers.failed), Arc::clone(&writers.acks));
            writers.threads.push(thread::spawn(move || {
                let key = format!("client {client}");
                while !stop.load(Ordering::Relaxed) {
                    match clerk.put(key.clone(), "value") {
                        Ok(()) => acks.one(),
                        Err(error) => {
                            eprintln!("a failed put: {error}");
                            failed.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                }
            }));
        }
        Ok(writers)
    }

    fn failed(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }

    /// Waits until a write is acknowledged.
    fn wait_for_writes(&self) -> Result<(), Failure> {
        let count = self.acks.count();
        eventually("further writes", || {
            (self.acks.count() > count).then_some(())
        })
    }

    fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            let _ = thread.join(); // one that panicked has said so
        }
    }
}

impl Acks {
    fn one(&self) {
        let mut state = self.state.lock();
        let now = Instant::now(); // under the lock, so that times and gaps are in order
        state.longest = state.longest.max(now - state.last);
        state.last = now;
        state.count += 1;
    }

    fn count(&self) -> u64 {
        self.state.lock().count
    }

    /// The longest gap since the last time this was asked, or the one that lasts. A gap that lasts
    /// counts in the next answer too, in full.
    fn take_longest(&self) -> Duration {
        let mut state = self.state.lock();
        let lasts = state.last.elapsed();
        std::mem::take(&mut state.longest).max(lasts)
    }
}

fn eventually<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> Result<T, Failure> {
    let give_up = Instant::now() + LIMIT;
    loop {
        if let Some(found) = probe() {
            return Ok(found);
        }
        if Instant::now() > give_up {
            return Err(Failure::Failed(format!("not within {LIMIT:?}: {what}")));
        }
        thread::sleep(POLL);
    }
}

fn shown(ms: f64) -> String {
    format!("{ms:.1} ms")
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
