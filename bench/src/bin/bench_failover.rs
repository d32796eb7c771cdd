//! How long clients wait when a leader goes: killed, which takes an election, or stopped, which takes
//! a handover.

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

const EXAMPLES: &str = "\
Examples:
  bench_failover                            20 times kill -9 of the leader, 20 times SIGTERM
  bench_failover --times 5 --clients 64
  bench_failover --data-dir /mnt/disk       on that disk instead of target/'s

The nodes are `raft_core_run` processes with default settings: build it first, with the same profile.
Exit codes: 0 measured, 1 failed, 2 wrong usage.";

/// Writes before the leader goes, and after another one leads: long enough that all is as ever.
const CALM: Duration = Duration::from_millis(500);

/// Whatever takes longer than this has failed.
const LIMIT: Duration = Duration::from_secs(20);

/// A node that lacks no more entries than this keeps up.
const CLOSE: u64 = 1000;

/// How often to look at what has no event.
const POLL: Duration = Duration::from_millis(2);

/// Measures the longest time without an acknowledged write around the end of a leader.
#[derive(Debug, Parser)]
#[command(name = "bench_failover", version, after_help = EXAMPLES)]
struct Cli {
    /// How often the leader is killed, and how often it is stopped
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
    times: u32,

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
    println!("{}", Machine::here());
    println!(
        "{} nodes on {file_system}, {} clients, {} times each",
        cli.nodes, cli.clients, cli.times
    );

    let mut cluster = Cluster::start(&program, usize::from(cli.nodes), &dir)?;
    let writers = Writers::start(&cluster, cli.clients)?;
    let mut table = Table::new(&["leader", "median", "p90", "max", "failed calls"]);
    for (name, signal) in [("SIGKILL", Signal::KILL), ("SIGTERM", Signal::TERM)] {
        let mut gaps = Vec::new();
        let failed_before = writers.failed();
        for number in 1..=cli.times {
            let gap = gap_around(&mut cluster, &writers, signal)?;
            eprintln!("{name} {number}: {:.1} ms", ms(gap));
            gaps.push(gap);
        }
        gaps.sort_unstable();
        let at = |percent: usize| format!("{:.1} ms", ms(gaps[(gaps.len() - 1) * percent / 100]));
        let failed = writers.failed() - failed_before;
        table.row([name.to_owned(), at(50), at(90), at(100), failed.to_string()]);
    }
    writers.stop();
    println!("{table}");
    println!("load after: {}", load());
    Ok(())
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
    writers.acks.begin();
    cluster.end_node(leader, signal)?;
    eventually("another leader", || {
        cluster.leader().filter(|(node, _)| *node != leader)
    })?;
    let count = writers.acks.count();
    eventually("further writes", || {
        (writers.acks.count() > count).then_some(())
    })?;
    thread::sleep(CALM);
    let gap = writers.acks.longest();

    cluster.start_node(leader)?;
    eventually("the old leader's log", || {
        let statuses = cluster.status().ok()?;
        let goal = statuses.iter().map(|status| status.commit_index).max()?;
        let own = statuses[leader].last_applied;
        // Clients write on: what it lacks is on its way.
        (own > 0 && own + CLOSE > goal).then_some(())
    })?;
    Ok(gap)
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

    /// From here on gaps count.
    fn begin(&self) {
        self.state.lock().longest = Duration::ZERO;
    }

    fn count(&self) -> u64 {
        self.state.lock().count
    }

    fn longest(&self) -> Duration {
        self.state.lock().longest
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

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
