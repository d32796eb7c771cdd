//! `raft_core_run`: starts a cluster of N nodes with one command, or runs one node of it.
//!
//! ```text
//! raft_core_run -n 3 -f test.conf
//!   cli         what was asked for
//!   layout      FILE and the data directory: used as they are, written, or started over
//!   supervisor  one child process per node: `raft_core_run --node I --supervised ...`
//!     output    their lines, each under `[node I]`
//!     ready     asks every node for its status until one of them leads
//!   node        what such a child runs, and what `--node I` alone runs in the foreground
//!     origin    with which members, identity and address it starts
//!     home      what its directory says of that
//!     wiped     that its directory was not lost
//!     join      its way into a running cluster
//!     contact   calls to that cluster
//! ```
//!
//! A child ends when its standard input does. Only the launcher holds the other end, so its nodes end
//! with it, however it ends.

mod cli;
mod contact;
mod failure;
mod home;
mod join;
mod layout;
mod node;
mod origin;
mod output;
mod ready;
mod supervisor;
mod wiped;

use std::io::{self, IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::time::Instant;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::EnvFilter;

use crate::cli::{Asked, Cli};
use crate::failure::Failure;

fn main() -> ExitCode {
    let started = Instant::now();
    let outcome = Cli::from_command_line().and_then(|asked| match asked {
        Asked::Text(text) => {
            let _ = io::stdout().write_all(text.as_bytes()); // a reader that went away wanted no more
            Ok(())
        }
        Asked::Node(node, cli) => {
            log_to_stderr(&node_filter(&cli)?);
            node::run(node, &cli)
        }
        Asked::Cluster(nodes, cli) => {
            log_to_stderr("error"); // the nodes log; what the launcher has to say it prints
            let layout = layout::prepare(&layout::Wanted::from_cli(nodes, &cli))?;
            supervisor::run(&layout, &cli, started)
        }
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // Not eprintln!: it panics when nobody reads, which is no reason to lose the exit code.
            let _ = writeln!(io::stderr(), "raft_core_run: {failure}");
            failure.exit_code()
        }
    }
}

/// What a node logs: `--log`, else `RUST_LOG`, else `info`.
fn node_filter(cli: &Cli) -> Result<String, Failure> {
    if let Some(level) = cli.knobs.log {
        return Ok(level.to_string());
    }
    match std::env::var("RUST_LOG") {
        Ok(filter) if !filter.trim().is_empty() => match EnvFilter::try_new(&filter) {
            Ok(_) => Ok(filter),
            Err(error) => {
                let what = format!(
                    "RUST_LOG=\"{filter}\" is no filter ({error}): write one like raft=debug,info"
                );
                Err(Failure::Usage(what))
            }
        },
        _ => Ok(LevelFilter::INFO.to_string()),
    }
}

fn log_to_stderr(filter: &str) {
    tracing_subscriber::fmt()
        .compact()
        .with_env_filter(EnvFilter::new(filter))
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        // It would report a failed write on the very stream that failed, and panic: a node whose
        // launcher was killed has no standard error left, and still has to stop in order.
        .log_internal_errors(false)
        .init();
}
