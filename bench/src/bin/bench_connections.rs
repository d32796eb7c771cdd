//! What thousands of idle connections cost a server of the framework, and how it refuses one too
//! many.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command talks to its user"
)]

use std::env;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::time::Duration;

use bench::certificate::{Certificate, tls_client, tls_server};
use bench::child::{ChildProcess, wait_for_end_of_stdin};
use bench::command::{Failure, exit_code, parse, seconds};
use bench::echo;
use bench::idle::{IdleConnection, allow_descriptors, memory_of};
use bench::latency::{Recorder, median};
use bench::machine::{Machine, load};
use bench::rpc_load::{CallbackLoad, Target};
use bench::span::{Interrupt, Span};
use bench::table::{Table, figure};
use bench::usage::cpu_of;
use bytes::Bytes;
use clap::{Parser, Subcommand};
use rustls::ClientConfig;
use serde::Serialize;

const EXAMPLES: &str = "\
Examples:
  bench_connections                       5,000 idle connections, 3 rounds of 2 s each
  bench_connections --idle 1000           fewer of them
  bench_connections --tls                 all of them over TLS
  bench_connections | tail -1 | jq .bytes_per_connection

Exit codes: 0 measured, 1 failed, 2 wrong usage.";

/// Descriptors besides those of connections.
const OTHER_DESCRIPTORS: u64 = 100;

/// The number of the kind of frame that sends a caller away, and of the code for a bound.
const GOAWAY: u32 = 4;
const RESOURCE_EXHAUSTED: u32 = 8;

/// Calls and their payload in the load: one connection that is busy.
const IN_FLIGHT: usize = 64;
const PAYLOAD_BYTES: usize = 16;

/// Measures what idle connections cost: memory of the server, and the rate of echoes on another
/// connection with and without them. Then fills the server up and is refused.
#[derive(Debug, Parser)]
#[command(name = "bench_connections", version, after_help = EXAMPLES)]
struct Cli {
    /// How many connections make one call and then say nothing
    #[arg(long, value_name = "N", default_value_t = 5_000, value_parser = clap::value_parser!(u32).range(1..=9_999))]
    idle: u32,

    /// How long echoes are measured, each time
    #[arg(long, value_name = "S", default_value_t = 2.0, value_parser = seconds)]
    seconds: f64,

    /// How often echoes are measured with and without the idle ones, in turns; figures are medians
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,

    /// All connections speak TLS
    #[arg(long)]
    tls: bool,

    #[command(subcommand)]
    serve: Option<Serve>,
}

#[derive(Debug, Subcommand)]
enum Serve {
    /// Serve echoes until standard input ends: the other process of the measurement
    #[command(hide = true)]
    Serve {
        /// The directory of its certificate
        #[arg(long)]
        certificate: Option<PathBuf>,
    },
}

fn main() -> ExitCode {
    exit_code("bench_connections", run())
}

fn run() -> Result<(), Failure> {
    let Some(cli) = parse::<Cli>()? else {
        return Ok(());
    };
    if let Some(Serve::Serve { certificate }) = &cli.serve {
        return serve(certificate.as_deref());
    }
    measure(&cli)
}

/// The server process: prints its address, serves until standard input ends.
fn serve(certificate: Option<&Path>) -> Result<(), Failure> {
    let tls = certificate.map(tls_server).transpose();
    let tls = tls.map_err(|error| Failure::Failed(format!("no TLS: {error}")))?;
    let provider =
        echo::serve(tls).map_err(|error| Failure::Failed(format!("rpc echo: {error}")))?;
    println!("{}", provider.local_addr());
    wait_for_end_of_stdin();
    Ok(())
}

/// The one JSON line.
#[derive(Debug, Serialize)]
struct Report {
    program: &'static str,
    machine: Machine,
    load_after: String,
    seconds: f64,
    rounds: u32,
    idle: u32,
    tls: bool,
    /// Of the server's memory, when all have come for the first time.
    bytes_per_connection: f64,
    with_idle: Figures,
    without_idle: Figures,
    /// With / without.
    ratio: f64,
    /// Connections that had their call answered before one was refused.
    accepted: usize,
    refusal: String,
}

/// Medians over the rounds.
#[derive(Debug, Serialize)]
struct Figures {
    requests_per_s: f64,
    server_cpu_us: f64,
    rounds_requests_per_s: Vec<f64>,
}

impl Figures {
    fn of(spans: &[Span]) -> Figures {
        Figures {
            requests_per_s: median(spans.iter().map(Span::per_second)),
            server_cpu_us: median(
                spans
                    .iter()
                    .map(|span| span.us_per_request(cpu_of(&span.servers[0]))),
            ),
            rounds_requests_per_s: spans.iter().map(Span::per_second).collect(),
        }
    }
}

fn measure(cli: &Cli) -> Result<(), Failure> {
    let interrupt = Interrupt::watch().map_err(Failure::of("cannot watch for signals"))?;
    let limit = rpc::Limits::default().max_connections;
    allow_descriptors(limit as u64 + OTHER_DESCRIPTORS)
        .map_err(Failure::of("cannot open so many connections"))?;
    let machine = Machine::here();
    println!("{machine}");
    let server = Server::start(cli.tls)?;
    let echoes = || server.measure_echoes(cli, &interrupt);

    // The first load makes the server reserve what it needs for any.
    echoes()?;
    let (mut with, mut without, mut bytes) = (Vec::new(), Vec::new(), None);
    for round in 1..=cli.rounds {
        eprintln!("[{round}/{}] {} idle connections", cli.rounds, cli.idle);
        without.push(echoes()?);
        let before = server.memory()?;
        let idle = server.open(cli.idle as usize)?;
        let after = server.memory()?;
        bytes.get_or_insert(after.saturating_sub(before));
        with.push(echoes()?);
        drop(idle);
    }
    eprintln!("filling the server up");
    let (accepted, refusal) = server.fill_up(limit, &interrupt)?;

    #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
    let bytes_per_connection = bytes.unwrap_or(0) as f64 / f64::from(cli.idle);
    let (with_idle, without_idle) = (Figures::of(&with), Figures::of(&without));
    let report = Report {
        program: "bench_connections",
        machine,
        load_after: load(),
        seconds: cli.seconds,
        rounds: cli.rounds,
        idle: cli.idle,
        tls: cli.tls,
        bytes_per_connection,
        ratio: with_idle.requests_per_s / without_idle.requests_per_s,
        with_idle,
        without_idle,
        accepted,
        refusal,
    };
    println!("{}", table(&report));
    println!(
        "{} connections had their call answered; the next was told: {}",
        report.accepted, report.refusal
    );
    println!(
        "{}",
        serde_json::to_string(&report).expect("figures are finite and keys are strings")
    );
    Ok(())
}

/// The server's process, and how to reach it.
struct Server {
    process: ChildProcess,
    addr: SocketAddr,
    tls: Option<Tls>,
}

/// TLS as its clients have it.
struct Tls {
    certificate: Certificate,
    config: Arc<ClientConfig>,
}

impl Server {
    fn start(tls: bool) -> Result<Server, Failure> {
        let program =
            env::current_exe().map_err(Failure::of("cannot find this program's own file"))?;
        let mut command = Command::new(program);
        command.arg("serve");
        let tls = if tls {
            let made = Certificate::new().and_then(|certificate| {
                let config = certificate.client_config()?;
                Ok(Tls {
                    certificate,
                    config,
                })
            });
            let tls = made.map_err(Failure::of("cannot make a certificate"))?;
            command.arg("--certificate").arg(tls.certificate.dir());
            Some(tls)
        } else {
            None
        };
        let (process, line) = ChildProcess::start_and_read_line(&mut command)
            .map_err(Failure::of("cannot start the server"))?;
        let addr = line.trim().parse();
        let addr =
            addr.map_err(|_| Failure::Failed(format!("the server said `{}`", line.trim())))?;
        Ok(Server { process, addr, tls })
    }

    fn target(&self) -> Result<Target, Failure> {
        let dir = self.tls.as_ref().map(|tls| tls.certificate.dir());
        let tls = dir.map(tls_client).transpose();
        let tls = tls.map_err(|error| Failure::Failed(format!("no TLS: {error}")))?;
        Ok(Target {
            addr: self.addr,
            tls,
        })
    }

    fn measure_echoes(&self, cli: &Cli, interrupt: &Interrupt) -> Result<Span, Failure> {
        let payload = Bytes::from(vec![0x5A; PAYLOAD_BYTES]);
        let recorder = Recorder::default();
        let _load = CallbackLoad::start(&self.target()?, 1, IN_FLIGHT, &payload, &recorder)?;
        let length = Duration::from_secs_f64(cli.seconds);
        Span::measure(length, &[recorder], &[self.process.id()], interrupt)
    }

    fn memory(&self) -> Result<u64, Failure> {
        memory_of(self.process.id())
            .map_err(Failure::of("cannot read the server's memory in /proc"))
    }

    fn ask(&self) -> std::io::Result<IdleConnection> {
        IdleConnection::ask(self.addr, self.tls.as_ref().map(|tls| &tls.config))
    }

    /// Opens connections and has each make its call.
    fn open(&self, count: usize) -> Result<Vec<IdleConnection>, Failure> {
        let connect = |_| {
            let mut connection = self.ask()?;
            let head = connection.answer()?;
            if head.code != 0 {
                return Err(std::io::Error::other(head.error_text));
            }
            Ok(connection)
        };
        let connections: std::io::Result<_> = (0..count).map(connect).collect();
        connections.map_err(Failure::of("an idle connection's call"))
    }

    /// Opens connections up to the server's limit and one more; how many were answered, and what
    /// the last one was told before it was closed.
    fn fill_up(&self, limit: usize, interrupt: &Interrupt) -> Result<(usize, String), Failure> {
        // Those of the last round leave the server in their own time.
        interrupt.sleep(Duration::from_secs(1))?;
        let accepted = self.open(limit)?;
        let refused = || {
            let mut connection = self.ask()?;
            let head = connection.answer()?;
            connection.wait_until_closed()?;
            Ok(head)
        };
        let head = refused().map_err(Failure::of("the connection over the limit"))?;
        if (head.kind, head.code) != (GOAWAY, RESOURCE_EXHAUSTED) {
            let text = format!("the connection over the limit was not refused: {head:?}");
            return Err(Failure::Failed(text));
        }
        Ok((accepted.len(), head.error_text))
    }
}

fn table(report: &Report) -> Table {
    let mut table = Table::new(&[
        "idle connections",
        "bytes each",
        "echoes/s",
        "server us/req",
    ]);
    let mut row = |name: String, bytes: String, figures: &Figures| {
        let rate = figure(figures.requests_per_s);
        table.row([name, bytes, rate, figure(figures.server_cpu_us)]);
    };
    row("0".to_owned(), String::new(), &report.without_idle);
    let bytes = figure(report.bytes_per_connection);
    row(report.idle.to_string(), bytes, &report.with_idle);
    let ratio = format!("{:.3}x", report.ratio);
    table.row(["ratio".to_owned(), String::new(), ratio]);
    table
}
