//! What a cluster holds and uses over hours: it must be the same at the end as at the beginning.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command talks to its user"
)]

use std::fs;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use bench::cluster::{Cluster, node_program};
use bench::command::{Failure, exit_code, parse};
use bench::idle::memory_of;
use bench::latency::Recorder;
use bench::machine::{Machine, file_system_of, load};
use bench::span::Interrupt;
use bench::store_load::{BlockingClients, Clients, Operation};
use bench::table::Table;
use bench::usage::{Usage, cpu_of_process};
use clap::Parser;
use serde::Serialize;

const EXAMPLES: &str = "\
Examples:
  bench_soak                                an hour in which nobody asks for anything
  bench_soak --minutes 480                  a night
  bench_soak --minutes 60 --clients 8       an hour of writes

The nodes are `raft_core_run` processes with default settings: build it first, with the same profile.
Exit codes: 0 measured, 1 failed, 2 wrong usage.";

/// What was taken up at the start is no growth: this part of the time is left out.
const WARM_UP: f64 = 0.1;

/// The shortest that there is.
const MINUTES_MIN: f64 = 0.05;

/// Two halves take three looks, and none is lost if one of them comes late.
const LOOKS_MIN: f64 = 4.0;

/// Size of what clients write.
const VALUE_BYTES: usize = 256;

/// Watches memory, descriptors and CPU time of each node while it rests, or serves.
#[derive(Debug, Parser)]
#[command(name = "bench_soak", version, after_help = EXAMPLES)]
struct Cli {
    /// How long
    #[arg(long, value_name = "N", default_value_t = 60.0, value_parser = minutes)]
    minutes: f64,

    /// How often to look
    #[arg(long, value_name = "S", default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=3600))]
    every: u32,

    /// Clients that write without pause, each with a clerk of its own
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u16).range(0..=1024))]
    clients: u16,

    /// How many nodes
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=9))]
    nodes: u8,

    /// Where the nodes' files are kept while it runs [default: the directory of this program]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

fn minutes(text: &str) -> Result<f64, String> {
    let minutes = text.parse().ok();
    let minutes = minutes.filter(|minutes| (MINUTES_MIN..=10_000.0).contains(minutes));
    minutes.ok_or_else(|| format!("write a number of minutes from {MINUTES_MIN} to 10000"))
}

fn main() -> ExitCode {
    exit_code("bench_soak", run())
}

fn run() -> Result<(), Failure> {
    let Some(cli) = parse::<Cli>()? else {
        return Ok(());
    };
    if f64::from(cli.every) * LOOKS_MIN > 60.0 * cli.minutes * (1.0 - WARM_UP) {
        return Err(Failure::Usage(format!(
            "--every is too long for so few minutes: halves are compared after {LOOKS_MIN} looks"
        )));
    }
    let interrupt = Interrupt::watch().map_err(Failure::of("cannot watch for signals"))?;
    let program = node_program()?;
    let beside = program.parent().map(PathBuf::from).unwrap_or_default();
    let dir = cli.data_dir.clone().unwrap_or(beside);
    let machine = Machine::here();
    println!("{machine}");
    println!(
        "{} nodes, {} clients, {} minutes",
        cli.nodes, cli.clients, cli.minutes
    );

    let cluster = Cluster::start(&program, cli.nodes.into(), &dir)?;
    let clients = Clients::new(cluster.addresses(), cli.clients.into(), VALUE_BYTES)?;
    let recorders: Vec<Recorder> = (0..cli.clients).map(|_| Recorder::default()).collect();
    let writing = BlockingClients::start(&clients, Operation::Put, &recorders)?;
    let mut samples = Vec::new();
    let ended = watch(&cli, &cluster, &recorders, &interrupt, &mut samples);
    drop(writing);
    // What was seen before it failed, or was interrupted, counts.
    let [_, _, .., last] = &samples[..] else {
        return ended;
    };

    let nodes: Vec<Soaked> = (0..usize::from(cli.nodes))
        .map(|node| Soaked::of(&samples, node))
        .collect();
    println!("{}", table(&nodes));
    let report = Report {
        program: "bench_soak",
        machine,
        load_after: load(),
        file_system: file_system_of(&dir).unwrap_or_else(|| "unknown".to_owned()),
        clients: cli.clients,
        minutes: 60.0 * last.at,
        writes: last.writes,
        nodes,
    };
    println!("writes: {}", report.writes);
    println!("load after: {}", report.load_after);
    println!(
        "{}",
        serde_json::to_string(&report).expect("figures are finite and keys are strings")
    );
    ended
}

/// The one JSON line.
#[derive(Debug, Serialize)]
struct Report {
    program: &'static str,
    machine: Machine,
    load_after: String,
    file_system: String,
    clients: u16,
    /// That were measured.
    minutes: f64,
    writes: u64,
    nodes: Vec<Soaked>,
}

/// What one node held and used once it was warm.
#[derive(Debug, Serialize)]
struct Soaked {
    memory_first_mib: f64,
    memory_last_mib: f64,
    memory_max_mib: f64,
    /// Of the straight line that fits best.
    memory_mib_per_hour: f64,
    descriptors_first: usize,
    descriptors_last: usize,
    descriptors_max: usize,
    threads_last: usize,
    /// Of one CPU, in the first and in the second half.
    cpu_percent: [f64; 2],
}

/// All nodes at one moment.
struct Sample {
    /// Hours since the beginning.
    at: f64,
    nodes: Vec<Held>,
    /// Acknowledged so far.
    writes: u64,
}

struct Held {
    memory_mib: f64,
    descriptors: usize,
    threads: usize,
    /// So far.
    cpu: Duration,
}

/// Looks every so often, and adds what is seen after the warm-up.
fn watch(
    cli: &Cli,
    cluster: &Cluster,
    recorders: &[Recorder],
    interrupt: &Interrupt,
    samples: &mut Vec<Sample>,
) -> Result<(), Failure> {
    let begun = Instant::now();
    let whole = Duration::from_secs_f64(60.0 * cli.minutes);
    let mut writes = 0;
    while begun.elapsed() < whole {
        interrupt.sleep(Duration::from_secs(cli.every.into()))?;
        for recorder in recorders {
            writes += recorder.take().map_err(Failure::Failed)?.len();
        }
        let at = begun.elapsed();
        let nodes: Vec<Held> = cluster
            .pids()
            .into_iter()
            .map(Held::by)
            .collect::<io::Result<_>>()
            .map_err(Failure::of("a node cannot be watched"))?;
        let told: Vec<String> = nodes.iter().map(Held::to_string).collect();
        eprintln!("{:>6} s  {}", at.as_secs(), told.join("  |  "));
        if at > whole.mul_f64(WARM_UP) {
            let at = at.as_secs_f64() / 3600.0;
            samples.push(Sample { at, nodes, writes });
        }
    }
    Ok(())
}

impl Held {
    fn by(pid: u32) -> io::Result<Self> {
        Ok(Self {
            memory_mib: mib(memory_of(pid)?),
            descriptors: fs::read_dir(format!("/proc/{pid}/fd"))?.count(),
            threads: Usage::of(pid)?.threads(),
            cpu: cpu_of_process(pid)?,
        })
    }
}

impl std::fmt::Display for Held {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{:.2} MiB, {} descriptors, {} threads",
            self.memory_mib, self.descriptors, self.threads
        )
    }
}

impl Soaked {
    /// `samples`: at least three.
    fn of(samples: &[Sample], node: usize) -> Self {
        let held = |sample: &Sample, what: fn(&Held) -> f64| what(&sample.nodes[node]);
        let (first, last) = (&samples[0], &samples[samples.len() - 1]);
        let middle = &samples[samples.len() / 2];
        let descriptors = |sample: &Sample| sample.nodes[node].descriptors;
        let busy = |from: &Sample, to: &Sample| {
            let used = to.nodes[node].cpu.saturating_sub(from.nodes[node].cpu);
            100.0 * used.as_secs_f64() / (3600.0 * (to.at - from.at)).max(f64::MIN_POSITIVE)
        };
        let memory = |sample: &Sample| held(sample, |node| node.memory_mib);
        Self {
            memory_first_mib: memory(first),
            memory_last_mib: memory(last),
            memory_max_mib: samples.iter().map(memory).fold(0.0, f64::max),
            memory_mib_per_hour: slope(samples.iter().map(|sample| (sample.at, memory(sample)))),
            descriptors_first: descriptors(first),
            descriptors_last: descriptors(last),
            descriptors_max: samples.iter().map(descriptors).max().unwrap_or(0),
            threads_last: last.nodes[node].threads,
            cpu_percent: [busy(first, middle), busy(middle, last)],
        }
    }
}

/// Of the straight line that is nearest to all points, by least squares.
fn slope(points: impl Iterator<Item = (f64, f64)> + Clone) -> f64 {
    let (mut count, mut x_sum, mut y_sum) = (0.0, 0.0, 0.0);
    for (x, y) in points.clone() {
        count += 1.0;
        x_sum += x;
        y_sum += y;
    }
    let (x_mean, y_mean) = (x_sum / count, y_sum / count);
    let (mut both, mut square) = (0.0, 0.0);
    for (x, y) in points {
        both += (x - x_mean) * (y - y_mean);
        square += (x - x_mean).powi(2);
    }
    both / square
}

fn table(nodes: &[Soaked]) -> Table {
    let mut table = Table::new(&[
        "node",
        "memory first",
        "last",
        "max",
        "per hour",
        "descriptors first",
        "last",
        "max",
        "threads",
        "CPU first half",
        "second half",
    ]);
    for (index, node) in nodes.iter().enumerate() {
        let memory = [
            node.memory_first_mib,
            node.memory_last_mib,
            node.memory_max_mib,
            node.memory_mib_per_hour,
        ];
        let counts = [
            node.descriptors_first,
            node.descriptors_last,
            node.descriptors_max,
            node.threads_last,
        ];
        let name = [format!("node {index}")].into_iter();
        table.row(
            name.chain(memory.map(|mib| format!("{mib:.2} MiB")))
                .chain(counts.map(|count| count.to_string()))
                .chain(node.cpu_percent.map(|percent| format!("{percent:.2} %"))),
        );
    }
    table
}

#[expect(clippy::cast_precision_loss, reason = "memory is far below 2^53 bytes")]
fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slope_is_that_of_the_nearest_line() {
        let line = (0..10).map(|x| (f64::from(x), 3.0 * f64::from(x) + 7.0));
        assert!((slope(line) - 3.0).abs() < 1e-9);
        let noise = [(0.0, 1.0), (1.0, 2.0), (2.0, 1.0)];
        assert!(slope(noise.into_iter()).abs() < 1e-9);
    }
}
