//! Echo calls through the framework beside a bare echo of frames, tonic and tarpc, in turns.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command talks to its user"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use bench::cell::{Cell, all_cells};
use bench::certificate::tls_server;
use bench::child::wait_for_end_of_stdin;
use bench::command::{Failure, SECONDS_MIN, exit_code, parse, seconds, selected};
use bench::machine::{Machine, load};
use bench::neighbour::{self, Neighbour};
use bench::required::{self, Verdict};
use bench::round::{Figures, Ratios, Round};
use bench::side::{Server, Side, Way};
use bench::span::Interrupt;
use bench::table::{Table, figure};
use bench::{bare, echo};
use clap::{Parser, Subcommand};
use serde::Serialize;

const EXAMPLES: &str = "\
Examples:
  bench_rpc                                 every cell, 3 rounds of 2 s for each of four sides
  bench_rpc --sides rpc,bare                without the peers, which bench_peers holds
  bench_rpc --filter 16B/callback           one connection, callbacks, small payloads
  bench_rpc --filter threads --seconds 5    64 threads that block on one channel
  bench_rpc --list                          the names of the cells
  bench_rpc | tail -1 | jq .required        the last line is JSON

tonic and tarpc run in `bench_peers`: build it first, with the same profile.

Exit codes: 0 measured, 1 failed, 2 wrong usage.";

/// Measures echo calls through `rpc` beside a bare mio echo, tonic and tarpc: requests/s, latency,
/// CPU per request.
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

    /// Who is measured
    #[arg(
        long,
        value_name = "SIDES",
        value_enum,
        value_delimiter = ',',
        default_value = "rpc,bare,tonic,tarpc"
    )]
    sides: Vec<Side>,

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
    Serve {
        side: Side,

        /// Where the certificate is, of a side that speaks TLS
        #[arg(long, value_name = "DIR")]
        certificate: Option<PathBuf>,
    },
}

fn main() -> ExitCode {
    exit_code("bench_rpc", run())
}

fn run() -> Result<(), Failure> {
    let Some(cli) = parse::<Cli>()? else {
        return Ok(());
    };
    if let Some(Serve::Serve { side, certificate }) = &cli.serve {
        return serve(*side, certificate.as_deref());
    }
    let rows = all_cells().into_iter().map(Row::Cell);
    let rows = rows.chain([Row::Neighbour]).collect();
    let rows = selected(rows, &cli.filter, Row::name);
    if rows.is_empty() {
        let filter = &cli.filter;
        return Err(Failure::Usage(format!(
            "no cell has `{filter}` in its name (--list shows them)"
        )));
    }
    if cli.list {
        for row in &rows {
            println!("{}", row.name());
        }
        return Ok(());
    }
    measure(&cli, &rows)
}

/// What can be asked for by name.
enum Row {
    Cell(Cell),
    /// Needs no side but `rpc`.
    Neighbour,
}

impl Row {
    fn name(&self) -> &str {
        match self {
            Row::Cell(cell) => &cell.name,
            Row::Neighbour => neighbour::NAME,
        }
    }
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
    required: Vec<Verdict>,
    neighbour: Option<Neighbour>,
}

#[derive(Debug, Serialize)]
struct Measured {
    #[serde(flatten)]
    cell: Cell,
    /// How the peers' clients ran: the fastest of several ways.
    ways: BTreeMap<Side, Way>,
    sides: BTreeMap<Side, Figures>,
    /// `rpc` divided by each other side.
    rpc_over: BTreeMap<Side, Ratios>,
    /// CPUs that were busy for others meanwhile; the worst round.
    others_cpus: f64,
}

fn measure(cli: &Cli, rows: &[Row]) -> Result<(), Failure> {
    let interrupt = Interrupt::watch().map_err(Failure::of("cannot watch for signals"))?;
    let machine = Machine::here();
    println!("{machine}");
    let sides: BTreeSet<Side> = cli.sides.iter().copied().collect();
    let servers: Vec<Server> = sides
        .into_iter()
        .map(Server::start)
        .collect::<Result<_, _>>()?;

    let start = Instant::now();
    let (mut measured, mut beside_neighbour) = (Vec::new(), None);
    for (index, row) in rows.iter().enumerate() {
        eprintln!(
            "[{}/{}] {} ({:.0} s so far)",
            index + 1,
            rows.len(),
            row.name(),
            start.elapsed().as_secs_f64()
        );
        match row {
            Row::Cell(cell) => measured.push(measure_cell(cell, &servers, cli, &interrupt)?),
            Row::Neighbour => {
                if let Some(rpc) = servers.iter().find(|server| server.side() == Side::Rpc) {
                    let length = Duration::from_secs_f64(cli.seconds);
                    let measured = neighbour::measure(rpc, length, cli.rounds, &interrupt)?;
                    beside_neighbour = Some(measured);
                }
            }
        }
    }
    if !measured.is_empty() {
        println!("{}", table(&measured));
    }
    let by_name: BTreeMap<_, _> = measured
        .iter()
        .map(|of| (of.cell.name.as_str(), &of.sides))
        .collect();
    let required = required::verdicts(&by_name);
    if !required.is_empty() {
        println!("{}", required::table(&required));
    }
    if let Some(measured) = &beside_neighbour {
        println!("{}", neighbour_table(measured));
    }
    let report = Report {
        program: "bench_rpc",
        machine,
        load_after: load(),
        seconds: cli.seconds,
        rounds: cli.rounds,
        cells: measured,
        required,
        neighbour: beside_neighbour,
    };
    println!(
        "{}",
        serde_json::to_string(&report).expect("figures are finite and keys are strings")
    );
    Ok(())
}

/// In each round every side has its turn, so that what drifts on the machine drifts under all.
fn measure_cell(
    cell: &Cell,
    servers: &[Server],
    cli: &Cli,
    interrupt: &Interrupt,
) -> Result<Measured, Failure> {
    let length = Duration::from_secs_f64(cli.seconds);
    let mut ways = BTreeMap::new();
    // Long enough to choose: what is told is measured anew.
    let trial = Duration::from_secs_f64((cli.seconds / 4.0).max(SECONDS_MIN));
    for server in servers {
        if let Some(way) = server.fastest_way(cell, trial, interrupt)? {
            ways.insert(server.side(), way);
        }
    }
    let mut rounds = BTreeMap::<Side, Vec<Round>>::new();
    for _ in 0..cli.rounds {
        for server in servers {
            let way = ways.get(&server.side()).copied();
            let round = server.measure(cell, way, length, interrupt)?;
            rounds.entry(server.side()).or_default().push(round);
        }
    }
    let others = rounds.values().flatten().map(|round| round.others_cpus);
    let others_cpus = others.fold(0.0, f64::max);
    let sides: BTreeMap<_, _> = rounds
        .iter()
        .map(|(&side, rounds)| (side, Figures::of(rounds)))
        .collect();
    let rpc_over = sides.get(&Side::Rpc).map(|rpc| {
        let others = sides.iter().filter(|(side, _)| **side != Side::Rpc);
        others
            .map(|(&side, figures)| (side, rpc.over(figures)))
            .collect()
    });
    Ok(Measured {
        cell: cell.clone(),
        ways,
        sides,
        rpc_over: rpc_over.unwrap_or_default(),
        others_cpus,
    })
}

/// The server process: prints its address, serves until standard input ends.
fn serve(side: Side, certificate: Option<&Path>) -> Result<(), Failure> {
    match side {
        Side::Rpc | Side::Tls => {
            let tls = certificate.map(tls_server).transpose();
            let tls = tls.map_err(|error| Failure::Failed(format!("no TLS: {error}")))?;
            let provider =
                echo::serve(tls).map_err(|error| Failure::Failed(format!("rpc echo: {error}")))?;
            println!("{}", provider.local_addr());
            wait_for_end_of_stdin();
        }
        Side::Tonic | Side::Tarpc => {
            return Err(Failure::Usage("bench_peers serves these".to_owned()));
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
    for of in measured {
        let mut rows = Vec::new();
        for (side, figures) in &of.sides {
            let columns = [
                figures.requests_per_s,
                figures.latency.p50_us,
                figures.latency.p99_us,
                figures.latency.p999_us,
                figures.server_cpu_us,
                figures.client_cpu_us,
            ];
            let way = of.ways.get(side).map(|way| format!("{way} "));
            let label = way.unwrap_or_default() + side.name();
            rows.push((label, columns.map(figure)));
        }
        for (side, ratios) in &of.rpc_over {
            let columns = [
                ratios.requests_per_s,
                ratios.p50,
                ratios.p99,
                ratios.p999,
                ratios.server_cpu,
                ratios.client_cpu,
            ];
            let columns = columns.map(|ratio| format!("{ratio:.2}x"));
            rows.push((format!("rpc/{}", side.name()), columns));
        }
        let last = rows.len().saturating_sub(1);
        for (index, (label, columns)) in rows.into_iter().enumerate() {
            let name = if index == 0 { &of.cell.name } else { "" };
            let mut row = vec![name.to_owned(), label];
            row.extend(columns);
            if index == last {
                row.push(format!("{:.2}", of.others_cpus));
            }
            table.row(row);
        }
    }
    table
}

fn neighbour_table(of: &Neighbour) -> Table {
    let Neighbour {
        alone,
        beside,
        ratios,
        ..
    } = of;
    let mib_per_s = of.large_mib_per_s;
    let bound = neighbour::P99_RATIO_MAX;
    let mut table = Table::new(&[
        "small calls of rpc",
        "requests/s",
        "p50 us",
        "p99 us",
        "p99.9 us",
        "bound of p99",
        "",
        "others' CPUs",
    ]);
    for (name, figures) in [
        ("alone".to_owned(), alone),
        (format!("beside {mib_per_s:.0} MiB/s of large ones"), beside),
    ] {
        let columns = [
            figures.requests_per_s,
            figures.latency.p50_us,
            figures.latency.p99_us,
            figures.latency.p999_us,
        ];
        table.row([name].into_iter().chain(columns.map(figure)));
    }
    let columns = [ratios.requests_per_s, ratios.p50, ratios.p99, ratios.p999];
    let row = ["ratio".to_owned()].into_iter();
    let row = row.chain(columns.map(|ratio| format!("{ratio:.2}x")));
    table.row(row.chain([
        format!("< {bound:.2}x"),
        if of.met { "met" } else { "NOT MET" }.to_owned(),
        format!("{:.2}", of.others_cpus),
    ]));
    table
}
