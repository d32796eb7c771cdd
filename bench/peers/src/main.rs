//! The peers that `bench_rpc` measures beside the framework: an echo by tonic and one by tarpc.
//!
//! A program of its own, so that nothing else in the workspace is built with an async runtime.
//! `bench::side` starts it and says what it is asked.

#![expect(clippy::print_stdout, reason = "a command answers its caller")]

mod echo_client;
mod load;
mod runtime;
mod tarpc_echo;
mod tonic_echo;

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process::ExitCode;
use std::time::Duration;

use bench::child::wait_for_end_of_stdin;
use bench::command::{Failure, exit_code, parse, seconds};
use bench::round::Round;
use bench::span::{Interrupt, Span};
use clap::{Parser, ValueEnum};

use crate::load::{Drive, Load, Shape};
use crate::runtime::Threads;

const EXAMPLES: &str = "\
Examples:
  bench_peers serve tonic                                    says where it listens
  bench_peers measure tonic 127.0.0.1:4711 --server-pid 42 --connections 1 --in-flight 64
                                                             figures as JSON

Exit codes: 0 measured, 1 failed, 2 wrong usage.";

/// Echo by tonic and by tarpc, for `bench_rpc`
#[derive(Debug, Parser)]
#[command(name = "bench_peers", version, after_help = EXAMPLES)]
enum Cli {
    /// Serve echoes from one thread until standard input ends
    Serve { peer: Peer },
    /// Run a load and print what it showed
    Measure(Measure),
}

#[derive(Debug, clap::Args)]
struct Measure {
    peer: Peer,
    /// The server's address
    addr: SocketAddr,
    /// The server's process
    #[arg(long, value_name = "PID")]
    server_pid: u32,
    #[command(flatten)]
    shape: Shape,
    /// How long
    #[arg(long, value_name = "S", default_value_t = 2.0, value_parser = seconds)]
    seconds: f64,
    /// The client's runtime
    #[arg(long, value_enum, default_value_t = Threads::Current)]
    threads: Threads,
    /// What keeps the calls under way
    #[arg(long, value_enum, default_value_t = Drive::Tasks)]
    drive: Drive,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Peer {
    Tonic,
    Tarpc,
}

fn main() -> ExitCode {
    exit_code("bench_peers", run())
}

fn run() -> Result<(), Failure> {
    match parse::<Cli>()? {
        None => Ok(()),
        Some(Cli::Serve { peer }) => serve(peer),
        Some(Cli::Measure(arguments)) => measure(&arguments),
    }
}

fn serve(peer: Peer) -> Result<(), Failure> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
    let listener = listener.map_err(Failure::of("cannot listen"))?;
    let addr = listener
        .local_addr()
        .map_err(Failure::of("cannot listen"))?;
    listener
        .set_nonblocking(true)
        .map_err(Failure::of("cannot listen"))?;
    let server = match peer {
        Peer::Tonic => runtime::in_thread(Threads::Current, tonic_echo::serve(listener)),
        Peer::Tarpc => runtime::in_thread(Threads::Current, tarpc_echo::serve(listener)),
    };
    let _server = server.map_err(Failure::of("cannot start a runtime"))?;
    println!("{addr}");
    wait_for_end_of_stdin();
    Ok(())
}

fn measure(arguments: &Measure) -> Result<(), Failure> {
    let interrupt = Interrupt::watch().map_err(Failure::of("cannot watch for signals"))?;
    let Measure {
        addr,
        shape,
        drive,
        threads,
        ..
    } = *arguments;
    let load = match arguments.peer {
        Peer::Tonic => Load::start::<tonic_echo::Client>(addr, shape, drive, threads),
        Peer::Tarpc => Load::start::<tarpc_echo::Client>(addr, shape, drive, threads),
    };
    let load = load.map_err(Failure::of("cannot start a runtime"))?;
    let length = Duration::from_secs_f64(arguments.seconds);
    let span = Span::measure(
        length,
        load.recorders(),
        &[arguments.server_pid],
        &interrupt,
    )?;
    let round = serde_json::to_string(&Round::of(&span)).expect("a round is numbers");
    println!("{round}");
    Ok(())
}
