//! The store on three nodes that sync their disks, beside the disk alone.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command talks to its user"
)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use bench::cluster::{Cluster, node_program};
use bench::command::{Failure, exit_code, parse, seconds, selected};
use bench::disk::{Blocks, syncs_per_second};
use bench::latency::{Latency, Recorder, median};
use bench::machine::{Machine, file_system_of, is_in_memory, load};
use bench::span::{Interrupt, Span};
use bench::store_load::{BlockingClients, CallbackClients, Clients, Operation};
use bench::table::{Table, figure};
use bench::usage::{ThreadUsage, cpu_of};
use clap::Parser;
use serde::Serialize;

const EXAMPLES: &str = "\
Examples:
  bench_store                               every cell, 3 rounds of 3 s each
  bench_store --filter put/threads-64       64 threads that put through one clerk
  bench_store --clerks 64                   as many connections and sessions
  bench_store --filter put --threads        also what each thread of the nodes uses
  bench_store --data-dir /mnt/disk          on that disk instead of target/'s

The nodes are `raft_core_run` processes: build it first, with the same profile.
Exit codes: 0 measured, 1 failed, 2 wrong usage.";

/// Threads of a node that write the log are called this.
const LOG_WRITER: &str = "log-writer";

/// What a log record holds besides the value: key, header, session and the like.
const RECORD_OVERHEAD_BYTES: usize = 64;

/// Measures the store: operations/s, latency, CPU per operation, beside append + fdatasync.
#[derive(Debug, Parser)]
#[command(name = "bench_store", version, after_help = EXAMPLES)]
struct Cli {
    /// How long each cell is measured in each round
    #[arg(long, value_name = "S", default_value_t = 3.0, value_parser = seconds)]
    seconds: f64,

    /// How often each cell is measured; figures are medians
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,

    /// Only the cell called TEXT or, if there is none, those with TEXT in their names
    #[arg(long, value_name = "TEXT", default_value = "")]
    filter: String,

    /// Print the names of the cells and end
    #[arg(long)]
    list: bool,

    /// Also print what each thread of each node uses
    #[arg(long)]
    threads: bool,

    /// How many nodes
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=9))]
    nodes: u8,

    /// How many clerks the clients share; each has its own connections and session
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    clerks: u16,

    /// Size of a value
    #[arg(long, value_name = "BYTES", default_value_t = 256, value_parser = clap::value_parser!(u32).range(0..=1 << 20))]
    value_size: u32,

    /// Where the nodes' files are kept while it runs [default: the directory of this program]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

fn main() -> ExitCode {
    exit_code("bench_store", run())
}

fn run() -> Result<(), Failure> {
    let Some(cli) = parse::<Cli>()? else {
        return Ok(());
    };
    let cells = selected(all_cells(), &cli.filter, |cell| &cell.name);
    if cells.is_empty() {
        let filter = &cli.filter;
        return Err(Failure::Usage(format!(
            "no cell has `{filter}` in its name (--list shows them)"
        )));
    }
    if cli.list {
        for cell in &cells {
            println!("{}", cell.name);
        }
        return Ok(());
    }
    measure(&cli, &cells)
}

/// One line of the table.
#[derive(Clone, Debug, Serialize)]
struct Cell {
    name: String,
    operation: Operation,
    /// Operations under way.
    clients: usize,
    caller: Caller,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Caller {
    /// A thread for each client, waiting for its operation.
    Threads,
    /// Callbacks on the clerks' event loop: what remains when clients cost little.
    Callbacks,
}

fn all_cells() -> Vec<Cell> {
    let callers = [
        (Caller::Threads, "threads", 1),
        (Caller::Threads, "threads", 16),
        (Caller::Threads, "threads", 64),
        (Caller::Threads, "threads", 256),
        (Caller::Callbacks, "callbacks", 64),
        (Caller::Callbacks, "callbacks", 256),
        (Caller::Callbacks, "callbacks", 1024),
    ];
    let of_operation = |(operation, verb)| {
        callers.map(|(caller, how, clients)| Cell {
            name: format!("{verb}/{how}-{clients}"),
            operation,
            clients,
            caller,
        })
    };
    [(Operation::Put, "put"), (Operation::Get, "get")]
        .into_iter()
        .flat_map(of_operation)
        .collect()
}

/// The one JSON line.
#[derive(Debug, Serialize)]
struct Report {
    program: &'static str,
    machine: Machine,
    load_after: String,
    file_system: String,
    nodes: u8,
    clerks: u16,
    value_bytes: u32,
    seconds: f64,
    rounds: u32,
    disk: Disk,
    cells: Vec<Measured>,
}

/// The disk alone, medians over all rounds of all cells.
#[derive(Clone, Copy, Debug, Serialize)]
struct Disk {
    record_bytes: usize,
    appended_syncs_per_s: f64,
    preallocated_syncs_per_s: f64,
}

#[derive(Debug, Serialize)]
struct Measured {
    #[serde(flatten)]
    cell: Cell,
    operations_per_s: f64,
    #[serde(flatten)]
    latency: Latency,
    client_cpu_us: f64,
    leader_cpu_us: f64,
    /// Of the median follower.
    follower_cpu_us: f64,
    /// Puts for each write call of the leader's log writer.
    entries_per_write: Option<f64>,
    /// Operations for each sync that one writer alone does, appending ([`Disk`]).
    over_disk: f64,
    rounds_operations_per_s: Vec<f64>,
    /// CPUs that were busy for others meanwhile; the worst round.
    others_cpus: f64,
    /// The last round: what each thread of the leader, then of the others, used.
    threads: Vec<BTreeMap<String, ThreadUsage>>,
    /// Operations of the last round.
    threads_operations: f64,
}

/// One round of a cell.
struct Round {
    span: Span,
    /// Which of the span's servers led at its end.
    leader: usize,
    appended_syncs_per_s: f64,
    preallocated_syncs_per_s: f64,
}

fn measure(cli: &Cli, cells: &[Cell]) -> Result<(), Failure> {
    let interrupt = Interrupt::watch().map_err(Failure::of("cannot watch for signals"))?;
    let program = node_program()?;
    let data_dir = data_dir(cli, &program)?;
    let machine = Machine::here();
    let file_system = file_system_of(&data_dir).unwrap_or_else(|| "unknown".to_owned());
    println!("{machine}");
    println!(
        "{} nodes, {} clerks, data in {} ({file_system})",
        cli.nodes,
        cli.clerks,
        data_dir.display()
    );
    if is_in_memory(&file_system) {
        eprintln!(
            "warning: files there are in memory, syncing them costs nothing: give --data-dir on a disk"
        );
    }

    let cluster = Cluster::start(&program, cli.nodes.into(), &data_dir)?;
    let clients = Clients::new(
        cluster.addresses(),
        cli.clerks.into(),
        cli.value_size as usize,
    )?;
    clients.fill()?;
    let bench = Bench {
        cli,
        clients,
        cluster,
        data_dir,
        interrupt,
    };

    let start = Instant::now();
    let mut rounds_of_cells = Vec::new();
    for (index, cell) in cells.iter().enumerate() {
        eprintln!(
            "[{}/{}] {} ({:.0} s so far)",
            index + 1,
            cells.len(),
            cell.name,
            start.elapsed().as_secs_f64()
        );
        let rounds = (0..cli.rounds)
            .map(|_| bench.round(cell))
            .collect::<Result<Vec<_>, _>>()?;
        rounds_of_cells.push(rounds);
    }
    let over_all = |rate: fn(&Round) -> f64| median(rounds_of_cells.iter().flatten().map(rate));
    let disk = Disk {
        record_bytes: bench.record_bytes(),
        appended_syncs_per_s: over_all(|round| round.appended_syncs_per_s),
        preallocated_syncs_per_s: over_all(|round| round.preallocated_syncs_per_s),
    };
    let rounds_of_cells = cells.iter().zip(&rounds_of_cells);
    let measured: Vec<Measured> = rounds_of_cells
        .map(|(cell, rounds)| Measured::of(cell, rounds, disk))
        .collect();
    let Disk {
        record_bytes,
        appended_syncs_per_s,
        preallocated_syncs_per_s,
    } = disk;
    println!(
        "the disk alone, one writer, {record_bytes} bytes + fdatasync: {}/s appended, {}/s preallocated\n",
        figure(appended_syncs_per_s),
        figure(preallocated_syncs_per_s)
    );
    println!("{}", table(&measured));
    if cli.threads {
        measured.iter().for_each(print_threads);
    }
    let report = Report {
        program: "bench_store",
        machine,
        load_after: load(),
        file_system,
        nodes: cli.nodes,
        clerks: cli.clerks,
        value_bytes: cli.value_size,
        seconds: cli.seconds,
        rounds: cli.rounds,
        disk,
        cells: measured,
    };
    println!(
        "{}",
        serde_json::to_string(&report).expect("figures are finite and keys are strings")
    );
    Ok(())
}

fn data_dir(cli: &Cli, program: &Path) -> Result<PathBuf, Failure> {
    let dir = match &cli.data_dir {
        Some(dir) => dir.clone(),
        None => program
            .parent()
            .expect("a program's file is in a directory")
            .to_owned(),
    };
    fs::create_dir_all(&dir).map_err(Failure::of(dir.display()))?;
    dir.canonicalize().map_err(Failure::of(dir.display()))
}

/// The running cluster and all that measures it. Dropped in this order: clerks go before nodes.
struct Bench<'a> {
    cli: &'a Cli,
    clients: Clients,
    cluster: Cluster,
    data_dir: PathBuf,
    interrupt: Interrupt,
}

impl Bench<'_> {
    /// The disk alone, then the store.
    fn round(&self, cell: &Cell) -> Result<Round, Failure> {
        let length = Duration::from_secs_f64(self.cli.seconds);
        let alone = |blocks| {
            let rate = syncs_per_second(&self.data_dir, self.record_bytes(), blocks, length / 8);
            rate.map_err(Failure::of(self.data_dir.display()))
        };
        let appended_syncs_per_s = alone(Blocks::Appended)?;
        let preallocated_syncs_per_s = alone(Blocks::Preallocated)?;

        let recorders: Vec<Recorder> = match cell.caller {
            Caller::Threads => (0..cell.clients).map(|_| Recorder::default()).collect(),
            Caller::Callbacks => vec![Recorder::default()],
        };
        let span = || Span::measure(length, &recorders, &self.cluster.pids(), &self.interrupt);
        // The load runs until `_load` is dropped.
        let span = match cell.caller {
            Caller::Threads => {
                let _load = BlockingClients::start(&self.clients, cell.operation, &recorders)?;
                span()?
            }
            Caller::Callbacks => {
                let _load = CallbackClients::start(
                    &self.clients,
                    cell.operation,
                    cell.clients,
                    &recorders[0],
                );
                span()?
            }
        };
        let leader = self
            .cluster
            .status()?
            .iter()
            .position(|status| status.role == "leader");
        let leader = leader.ok_or_else(|| Failure::Failed("no node leads".to_owned()))?;
        Ok(Round {
            span,
            leader,
            appended_syncs_per_s,
            preallocated_syncs_per_s,
        })
    }

    fn record_bytes(&self) -> usize {
        self.cli.value_size as usize + RECORD_OVERHEAD_BYTES
    }
}

impl Round {
    /// CPU time per operation of the leader, and of the median follower.
    fn node_cpu_us(&self) -> (f64, f64) {
        let us = |threads| self.span.us_per_request(cpu_of(threads));
        let servers = &self.span.servers;
        let followers = servers
            .iter()
            .enumerate()
            .filter(|&(node, _)| node != self.leader);
        let followers = followers.map(|(_, threads)| us(threads));
        (us(&servers[self.leader]), median(followers))
    }

    #[expect(
        clippy::cast_precision_loss,
        reason = "counts of seconds, far below 2^53"
    )]
    fn entries_per_write(&self) -> f64 {
        let writes = self.span.servers[self.leader]
            .get(LOG_WRITER)
            .map_or(0, |usage| usage.writes);
        self.span.requests() / writes.max(1) as f64
    }
}

impl Measured {
    fn of(cell: &Cell, rounds: &[Round], disk: Disk) -> Measured {
        let over = |of: &dyn Fn(&Round) -> f64| median(rounds.iter().map(of));
        let latency =
            |of: fn(Latency) -> f64| over(&|round| of(Latency::of(&round.span.latencies)));
        let operations_per_s = over(&|round| round.span.per_second());
        let last = rounds.last().expect("there is at least one round");
        let mut threads = last.span.servers.clone();
        threads.swap(0, last.leader);
        Measured {
            cell: cell.clone(),
            operations_per_s,
            latency: Latency {
                p50_us: latency(|latency| latency.p50_us),
                p99_us: latency(|latency| latency.p99_us),
                p999_us: latency(|latency| latency.p999_us),
                max_us: latency(|latency| latency.max_us),
            },
            client_cpu_us: over(&|round| round.span.us_per_request(round.span.client_cpu)),
            leader_cpu_us: over(&|round| round.node_cpu_us().0),
            follower_cpu_us: over(&|round| round.node_cpu_us().1),
            entries_per_write: (cell.operation == Operation::Put)
                .then(|| over(&Round::entries_per_write)),
            over_disk: operations_per_s / disk.appended_syncs_per_s,
            rounds_operations_per_s: rounds.iter().map(|round| round.span.per_second()).collect(),
            others_cpus: rounds
                .iter()
                .map(|round| round.span.others_cpus)
                .fold(0.0, f64::max),
            threads,
            threads_operations: last.span.requests(),
        }
    }
}

fn table(measured: &[Measured]) -> Table {
    let mut table = Table::new(&[
        "cell",
        "ops/s",
        "p50 us",
        "p99 us",
        "p99.9 us",
        "max us",
        "client us/op",
        "leader us/op",
        "follower us/op",
        "entries/write",
        "x disk",
        "others' CPUs",
    ]);
    for cell in measured {
        let Latency {
            p50_us,
            p99_us,
            p999_us,
            max_us,
        } = cell.latency;
        let mut row = vec![cell.cell.name.clone()];
        row.extend([cell.operations_per_s, p50_us, p99_us, p999_us, max_us].map(figure));
        row.extend([cell.client_cpu_us, cell.leader_cpu_us, cell.follower_cpu_us].map(figure));
        row.push(
            cell.entries_per_write
                .map_or_else(|| "-".to_owned(), figure),
        );
        row.extend([cell.over_disk, cell.others_cpus].map(figure));
        table.row(row);
    }
    table
}

#[expect(
    clippy::cast_precision_loss,
    reason = "counts of seconds, far below 2^53"
)]
fn print_threads(cell: &Measured) {
    for (index, threads) in cell.threads.iter().enumerate() {
        let who = if index == 0 { "leader" } else { "follower" };
        println!("{}, {who}, per operation:", cell.cell.name);
        let mut table = Table::new(&["thread", "CPU us", "wake-ups", "write calls"]);
        for (name, usage) in threads.iter().filter(|(_, usage)| usage.cpu_ns > 0) {
            let per_operation = |count: u64| count as f64 / cell.threads_operations;
            let figures = [
                per_operation(usage.cpu_ns) / 1e3,
                per_operation(usage.wakeups),
                per_operation(usage.writes),
            ];
            table.row(
                [name.clone()]
                    .into_iter()
                    .chain(figures.map(|value| format!("{value:.3}"))),
            );
        }
        println!("{table}");
    }
}
