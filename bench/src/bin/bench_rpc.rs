//! Echo calls through the framework beside a bare echo of frames, in turns.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command talks to its user"
)]

use std::env;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Command, ExitCode};
use std::thread;
use std::time::{Duration, Instant};

use bench::child::{ChildProcess, wait_for_end_of_stdin};
use bench::command::{Failure, exit_code, parse, seconds, selected};
use bench::latency::{Latency, Recorder, median};
use bench::machine::{Machine, load};
use bench::rpc_load::{BlockingLoad, CallbackLoad};
use bench::span::{Interrupt, Span};
use bench::table::{Table, figure};
use bench::usage::cpu_of;
use bench::{bare, echo};
use bytes::Bytes;
use clap::{Parser, Subcommand, ValueEnum};
use serde::Serialize;

const EXAMPLES: &str = "\
Examples:
  bench_rpc                                 every cell, 3 rounds of 2 s each for both sides
  bench_rpc --filter 16B/callback           one connection, callbacks, small payloads
  bench_rpc --filter threads --seconds 5    64 threads that block on one channel
  bench_rpc --list                          the names of the cells
  bench_rpc | tail -1 | jq .cells[].ratio   the last line is JSON

Exit codes: 0 measured, 1 failed, 2 wrong usage.";

/// Measures echo calls through `rpc` beside a bare mio echo: requests/s, latency, CPU per request.
#[derive(Debug, Parser)]
#[command(name = "bench_rpc", version, after_help = EXAMPLES)]
struct Cli {
    /// How long each side of a cell is measured in each round
    #[arg(long, value_name = "S", default_value_t = 2.0, value_parser = seconds)]
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

    #[command(subcommand)]
    serve: Option<Serve>,
}

#[derive(Debug, Subcommand)]
enum Serve {
    /// Serve echoes until standard input ends: the other process of the measurement
    #[command(hide = true)]
    Serve { side: Side },
}

/// Who is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Side {
    Rpc,
    Bare,
}

fn main() -> ExitCode {
    exit_code("bench_rpc", run())
}

fn run() -> Result<(), Failure> {
    let Some(cli) = parse::<Cli>()? else {
        return Ok(());
    };
    if let Some(Serve::Serve { side }) = cli.serve {
        return serve(side);
    }
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

/// One line of the table: what is asked for, and how.
#[derive(Clone, Debug, Serialize)]
struct Cell {
    name: String,
    payload_bytes: usize,
    connections: usize,
    /// Calls under way on each connection.
    in_flight: usize,
    caller: Caller,
}

/// How the framework is called. The bare echo has one loop in any case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Caller {
    Callback,
    /// As many threads as calls in flight, each waiting for its own.
    Blocking,
}

fn all_cells() -> Vec<Cell> {
    let payloads = [(16, "16B"), (1024, "1KiB"), (64 << 10, "64KiB")];
    let shapes = [
        ("callback/1", 1, 1, Caller::Callback),
        ("callback/64", 1, 64, Caller::Callback),
        ("callback/1024", 1, 1024, Caller::Callback),
        ("blocking/1", 1, 1, Caller::Blocking),
        ("threads/64", 1, 64, Caller::Blocking),
        ("connections/64", 64, 1, Caller::Callback),
    ];
    let of_payload = |(payload_bytes, size)| {
        shapes.map(|(shape, connections, in_flight, caller)| Cell {
            name: format!("{size}/{shape}"),
            payload_bytes,
            connections,
            in_flight,
            caller,
        })
    };
    payloads.into_iter().flat_map(of_payload).collect()
}

/// The one JSON line.
#[derive(Debug, Serialize)]
struct Report {
    program: &'static str,
    machine: Machine,
    load_after: String,
    seconds: f64,
    rounds: u32,
    cells: Vec<Measured>,
}

#[derive(Debug, Serialize)]
struct Measured {
    #[serde(flatten)]
    cell: Cell,
    rpc: Figures,
    bare: Figures,
    /// rpc / bare.
    ratio: Ratios,
    /// CPUs that were busy for others meanwhile; the worst round.
    others_cpus: f64,
}

/// Medians over the rounds.
#[derive(Debug, Serialize)]
struct Figures {
    requests_per_s: f64,
    #[serde(flatten)]
    latency: Latency,
    server_cpu_us: f64,
    client_cpu_us: f64,
    rounds_requests_per_s: Vec<f64>,
}

#[derive(Debug, Serialize)]
struct Ratios {
    requests_per_s: f64,
    p50: f64,
    p99: f64,
    p999: f64,
    server_cpu: f64,
    client_cpu: f64,
}

fn measure(cli: &Cli, cells: &[Cell]) -> Result<(), Failure> {
    let interrupt = Interrupt::watch().map_err(Failure::of("cannot watch for signals"))?;
    let machine = Machine::here();
    println!("{machine}");
    let (rpc, bare) = (Server::start(Side::Rpc)?, Server::start(Side::Bare)?);

    let start = Instant::now();
    let mut measured = Vec::new();
    for (index, cell) in cells.iter().enumerate() {
        eprintln!(
            "[{}/{}] {} ({:.0} s so far)",
            index + 1,
            cells.len(),
            cell.name,
            start.elapsed().as_secs_f64()
        );
        let (mut rpc_spans, mut bare_spans) = (Vec::new(), Vec::new());
        for _ in 0..cli.rounds {
            rpc_spans.push(measure_side(&rpc, cell, cli, &interrupt)?);
            bare_spans.push(measure_side(&bare, cell, cli, &interrupt)?);
        }
        let others = rpc_spans
            .iter()
            .chain(&bare_spans)
            .map(|span| span.others_cpus)
            .fold(0.0, f64::max);
        let (rpc, bare) = (Figures::of(&rpc_spans), Figures::of(&bare_spans));
        let ratio = rpc.over(&bare);
        measured.push(Measured {
            cell: cell.clone(),
            rpc,
            bare,
            ratio,
            others_cpus: others,
        });
    }
    println!("{}", table(&measured));
    let report = Report {
        program: "bench_rpc",
        machine,
        load_after: load(),
        seconds: cli.seconds,
        rounds: cli.rounds,
        cells: measured,
    };
    println!(
        "{}",
        serde_json::to_string(&report).expect("figures are finite and keys are strings")
    );
    Ok(())
}

fn measure_side(
    server: &Server,
    cell: &Cell,
    cli: &Cli,
    interrupt: &Interrupt,
) -> Result<Span, Failure> {
    let payload = Bytes::from(vec![0x5A; cell.payload_bytes]);
    let Cell {
        connections,
        in_flight,
        caller,
        ..
    } = *cell;
    let threads = if caller == Caller::Blocking && server.side == Side::Rpc {
        in_flight
    } else {
        1
    };
    let recorders: Vec<Recorder> = (0..threads).map(|_| Recorder::default()).collect();
    let span = || {
        let length = Duration::from_secs_f64(cli.seconds);
        Span::measure(length, &recorders, &[server.process.id()], interrupt)
    };
    // The load runs until `_load` is dropped.
    match (server.side, caller) {
        (Side::Bare, _) => {
            let client = bare::Client::start(
                server.addr,
                connections,
                in_flight,
                payload.to_vec(),
                recorders[0].clone(),
            );
            let _load = client.map_err(Failure::of("cannot start the bare client"))?;
            span()
        }
        (Side::Rpc, Caller::Callback) => {
            let _load =
                CallbackLoad::start(server.addr, connections, in_flight, &payload, &recorders[0])?;
            span()
        }
        (Side::Rpc, Caller::Blocking) => {
            let _load = BlockingLoad::start(server.addr, &payload, &recorders)?;
            span()
        }
    }
}

/// A server process; ends when dropped.
struct Server {
    side: Side,
    addr: SocketAddr,
    process: ChildProcess,
}

impl Server {
    fn start(side: Side) -> Result<Server, Failure> {
        let program =
            env::current_exe().map_err(Failure::of("cannot find this program's own file"))?;
        let name = side.to_possible_value().expect("no side is skipped");
        let mut command = Command::new(program);
        command.args(["serve", name.get_name()]);
        let (process, line) = ChildProcess::start_and_read_line(&mut command)
            .map_err(Failure::of("cannot start a server"))?;
        let addr = line.trim().parse();
        let addr = addr.map_err(|_| Failure::Failed(format!("a server said `{}`", line.trim())))?;
        Ok(Server {
            side,
            addr,
            process,
        })
    }
}

/// The server process: prints its address, serves until standard input ends.
fn serve(side: Side) -> Result<(), Failure> {
    match side {
        Side::Rpc => {
            let provider =
                echo::serve().map_err(|error| Failure::Failed(format!("rpc echo: {error}")))?;
            println!("{}", provider.local_addr());
            wait_for_end_of_stdin();
        }
        Side::Bare => {
            let listener = mio::net::TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
            let listener = listener.map_err(Failure::of("cannot listen"))?;
            let addr = listener
                .local_addr()
                .map_err(Failure::of("cannot listen"))?;
            let served = thread::Builder::new()
                .name("bare-server".to_owned())
                .spawn(|| bare::serve(listener));
            served.map_err(Failure::of("cannot start a thread"))?;
            println!("{addr}");
            wait_for_end_of_stdin();
        }
    }
    Ok(())
}

impl Figures {
    fn of(spans: &[Span]) -> Figures {
        let over = |of: &dyn Fn(&Span) -> f64| median(spans.iter().map(of));
        let latency = |of: fn(Latency) -> f64| {
            median(spans.iter().map(|span| of(Latency::of(&span.latencies))))
        };
        Figures {
            requests_per_s: over(&Span::per_second),
            latency: Latency {
                p50_us: latency(|latency| latency.p50_us),
                p99_us: latency(|latency| latency.p99_us),
                p999_us: latency(|latency| latency.p999_us),
                max_us: latency(|latency| latency.max_us),
            },
            server_cpu_us: over(&|span| span.us_per_request(cpu_of(&span.servers[0]))),
            client_cpu_us: over(&|span| span.us_per_request(span.client_cpu)),
            rounds_requests_per_s: spans.iter().map(Span::per_second).collect(),
        }
    }

    fn over(&self, bare: &Figures) -> Ratios {
        Ratios {
            requests_per_s: self.requests_per_s / bare.requests_per_s,
            p50: self.latency.p50_us / bare.latency.p50_us,
            p99: self.latency.p99_us / bare.latency.p99_us,
            p999: self.latency.p999_us / bare.latency.p999_us,
            server_cpu: self.server_cpu_us / bare.server_cpu_us,
            client_cpu: self.client_cpu_us / bare.client_cpu_us,
        }
    }
}

fn table(measured: &[Measured]) -> Table {
    let mut table = Table::new(&[
        "cell",
        "",
        "requests/s",
        "p50 us",
        "p99 us",
        "p99.9 us",
        "server us/req",
        "client us/req",
        "others' CPUs",
    ]);
    for Measured {
        cell,
        rpc,
        bare,
        ratio,
        others_cpus,
    } in measured
    {
        for (name, side, figures) in [(cell.name.as_str(), "rpc", rpc), ("", "bare", bare)] {
            let Latency {
                p50_us,
                p99_us,
                p999_us,
                ..
            } = figures.latency;
            let Figures {
                requests_per_s,
                server_cpu_us,
                client_cpu_us,
                ..
            } = *figures;
            let columns = [
                requests_per_s,
                p50_us,
                p99_us,
                p999_us,
                server_cpu_us,
                client_cpu_us,
            ]
            .map(figure);
            table.row(
                [name.to_owned(), side.to_owned()]
                    .into_iter()
                    .chain(columns),
            );
        }
        let Ratios {
            requests_per_s,
            p50,
            p99,
            p999,
            server_cpu,
            client_cpu,
        } = *ratio;
        let columns = [requests_per_s, p50, p99, p999, server_cpu, client_cpu]
            .map(|ratio| format!("{ratio:.2}x"));
        let row = [String::new(), "ratio".to_owned()]
            .into_iter()
            .chain(columns);
        table.row(row.chain([format!("{others_cpus:.2}")]));
    }
    table
}
