//! Sample client: each round Puts a new value and Gets it back.
//!
//! ```text
//! args.rs --> main.rs: one thread a client --> rounds.rs: put, get, compare --> clerk
//!                                                |           |
//!                                    report.rs: latencies,   journal.rs: what was acknowledged,
//!                                    gaps, summary           for a later --verify
//! ```

mod args;
mod journal;
mod output;
mod report;
mod rounds;
mod value;

use std::io::{self, IsTerminal as _, Write as _};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Instant;

use clap::Parser as _;
use clerk::{Clerk, ReadFrom};
use signal_hook::consts::{SIGINT, SIGTERM};
use tracing_subscriber::EnvFilter;

use crate::args::Args;
use crate::journal::Journal;
use crate::output::Output;
use crate::report::Recorder;
use crate::rounds::Rounds;
use crate::value::Run;

fn main() -> ExitCode {
    let args = Args::parse();
    // Servers that go down are the clerk's business; what it cannot mend comes back as an error.
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("error"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(io::stderr().is_terminal())
        .with_writer(io::stderr)
        .init();

    let result = Clerk::open(&args.file)
        .map_err(|error| error.to_string())
        .and_then(|clerk| {
            let read_from = if args.read_any {
                ReadFrom::Any
            } else {
                ReadFrom::Leader
            };
            let clerk = clerk.with_timeout(args.timeout).with_reads_from(read_from);
            match &args.verify {
                Some(journal) => verify(&clerk, journal),
                None => run(&clerk, &args),
            }
        });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(text) => {
            // With stderr gone there is nobody left to tell.
            let _ = writeln!(io::stderr(), "caller_main: {text}");
            ExitCode::FAILURE
        }
    }
}

fn verify(clerk: &Clerk, journal: &Path) -> Result<(), String> {
    let writes = journal::verify(clerk, journal)?;
    print(&format!(
        "all {writes} acknowledged writes of {} are there",
        journal.display()
    ))
}

fn run(clerk: &Clerk, args: &Args) -> Result<(), String> {
    let stop = stop_on_signals().map_err(|error| format!("cannot watch for Ctrl+C: {error}"))?;
    let journal = args.journal.as_deref().map(Journal::open).transpose()?;
    let rounds_wanted = args.count.saturating_mul(u64::from(args.clients));
    let output = Output::new(rounds_wanted);
    let recorder = Recorder::new(Instant::now());
    let rounds = Rounds {
        store: clerk,
        run: Run {
            id: fastrand::u32(..),
            value_size: args.value_size as usize,
            distinct_keys: journal.is_some(),
        },
        count: args.count,
        stop: &stop,
        recorder: &recorder,
        journal: journal.as_ref(),
        output: &output,
    };
    let failures: Vec<String> = thread::scope(|scope| {
        let clients: Vec<_> = (0..args.clients)
            .map(|client| {
                let rounds = &rounds;
                scope.spawn(move || {
                    let result = rounds.run(client);
                    if result.is_err() {
                        rounds.stop.store(true, Ordering::Relaxed);
                    }
                    result
                })
            })
            .collect();
        let ends = clients
            .into_iter()
            .map(|client| client.join().expect("clients do not panic"));
        ends.filter_map(Result::err).collect()
    });
    output.finish();

    let summary = recorder.finish(args.clients, clerk.stats().retries, Instant::now());
    print(&summary.to_string())?;
    if let Some(first) = failures.into_iter().next() {
        return Err(first);
    }
    if summary.rounds() < rounds_wanted {
        let done = summary.rounds();
        return Err(format!(
            "interrupted after {done} of {rounds_wanted} rounds"
        ));
    }
    Ok(())
}

/// Set by the first Ctrl+C or SIGTERM; the calls under way are let finish. The second one ends the
/// program at once.
fn stop_on_signals() -> io::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        // In this order: at the first signal the flag is not set yet.
        signal_hook::flag::register_conditional_shutdown(signal, 1, Arc::clone(&stop))?;
        signal_hook::flag::register(signal, Arc::clone(&stop))?;
    }
    Ok(stop)
}

fn print(text: &str) -> Result<(), String> {
    writeln!(io::stdout(), "{text}")
        .map_err(|error| format!("cannot write to standard output: {error}"))
}
