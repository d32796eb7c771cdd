//! `bench`: how many calls a second, and how long each takes.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use rpc::ChannelOptions;
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::args::BenchArgs;
use crate::failure::{Failure, print};
use crate::json;
use crate::load::{Load, Outcome};
use crate::reflection::Method;
use crate::server::Server;

/// How often the progress bar moves and failed calls are tried again.
const TURN: Duration = Duration::from_millis(50);

/// What a call may take beyond its timeout.
const END_SLACK: Duration = Duration::from_secs(5);

pub(crate) fn bench(args: BenchArgs) -> Result<(), Failure> {
    let (concurrency, connections) = (args.concurrency, args.connections);
    let most = ChannelOptions::default().max_in_flight;
    if concurrency.div_ceil(connections) as usize > most {
        return Err(Failure::Usage(format!(
            "{concurrency} calls at once are too many for {connections} connections: \
             at most {most} on each (--connections)"
        )));
    }
    let connections = connections.min(concurrency);
    let json = json::argument(args.json)?;
    let server = Server::new(args.server)?;
    let method = Method::find(&server, &args.method)?;
    if method.is_streaming() {
        let text = format!(
            "{} returns a stream: only single replies are measured",
            method.name()
        );
        return Err(Failure::Usage(text));
    }
    let call_args = method.encode_args(&json)?;
    let stop = stop_on_signals()
        .map_err(|error| Failure::Failed(format!("cannot watch for Ctrl+C: {error}")))?;

    // What no call can do is told before there are thousands of them.
    let what = format!("{} at {}", method.name(), server.addr);
    (server.channel)
        .call_raw(method.call, &mut server.controller(), call_args.clone())
        .map_err(|error| Failure::of_call(&what, &error))?;

    let load = Load::start(&server, method.call, &call_args, concurrency, connections)
        .map_err(|error| Failure::Failed(format!("cannot start a thread: {error}")))?;
    let begun = Instant::now();
    let bar = progress_bar(args.duration);
    while begun.elapsed() < args.duration && !stop.load(Ordering::Relaxed) {
        load.turn(TURN.min(args.duration.saturating_sub(begun.elapsed())));
        bar.set_position(millis(begun.elapsed()));
        bar.set_message(format!("{} calls", load.answered()));
    }
    let interrupted = stop.load(Ordering::Relaxed);
    let call_limit = server
        .timeout()
        .unwrap_or(ChannelOptions::default().default_timeout);
    let outcome = load.finish(call_limit + END_SLACK);
    let report = Report {
        outcome,
        elapsed: begun.elapsed(),
    };
    bar.finish_and_clear();

    print(format_args!(
        "{what}: {concurrency} at once, connections: {connections}\n\n{report}"
    ))?;
    if let Some(failure) = report.failure(&what) {
        return Err(failure);
    }
    if interrupted {
        let (elapsed, wanted) = (report.elapsed.as_secs_f64(), args.duration.as_secs_f64());
        let text = format!("interrupted after {elapsed:.1} of {wanted:.1} s");
        return Err(Failure::Failed(text));
    }
    Ok(())
}

/// On stderr, and hidden unless that is a terminal.
fn progress_bar(duration: Duration) -> ProgressBar {
    let bar = ProgressBar::new(millis(duration));
    let style = ProgressStyle::with_template("{wide_bar} {msg}, {eta} left");
    bar.set_style(style.expect("its keys are indicatif's"));
    bar
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Set by the first Ctrl+C or SIGTERM: the figures are printed still. The second one ends the program
/// at once.
fn stop_on_signals() -> io::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        // In this order: at the first signal the flag is not set yet.
        signal_hook::flag::register_conditional_shutdown(signal, 1, Arc::clone(&stop))?;
        signal_hook::flag::register(signal, Arc::clone(&stop))?;
    }
    Ok(stop)
}

/// What is told at the end.
struct Report {
    outcome: Outcome,
    /// Until the last call had ended.
    elapsed: Duration,
}

impl Report {
    fn failed(&self) -> u64 {
        self.outcome.failures.values().map(|(count, _)| count).sum()
    }

    /// What makes the command fail, if anything does.
    fn failure(&self, what: &str) -> Option<Failure> {
        if self.outcome.still_running {
            let text = format!("{what}: calls do not end, not even by their timeout");
            return Some(Failure::Failed(text));
        }
        let (_, first) = self.outcome.failures.values().next()?;
        let (failed, all) = (self.failed(), self.failed() + self.outcome.latencies.len());
        let of = format!("{what}: {failed} of {all} calls failed; one of them");
        Some(Failure::of_call(of, first))
    }
}

impl fmt::Display for Report {
    #[expect(clippy::cast_precision_loss, reason = "figures for a reader")]
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (latencies, seconds) = (&self.outcome.latencies, self.elapsed.as_secs_f64());
        let answered = latencies.len();
        let mut rows = vec![
            ("seconds", format!("{seconds:.2}")),
            ("answered", answered.to_string()),
            ("per second", format!("{:.0}", answered as f64 / seconds)),
            ("failed", self.failed().to_string()),
        ];
        for (code, (count, _)) in &self.outcome.failures {
            rows.push((code, count.to_string()));
        }
        if answered > 0 {
            rows.push(("", String::new()));
            rows.push(("latency", "us".to_owned()));
            let us = |nanoseconds: f64| format!("{:.1}", nanoseconds / 1e3);
            let quantile = |quantile| us(latencies.value_at_quantile(quantile) as f64);
            rows.push(("min", us(latencies.min() as f64)));
            rows.push(("mean", us(latencies.mean())));
            rows.push(("p50", quantile(0.5)));
            rows.push(("p90", quantile(0.9)));
            rows.push(("p99", quantile(0.99)));
            rows.push(("p99.9", quantile(0.999)));
            rows.push(("max", us(latencies.max() as f64)));
        }
        let widths = rows.iter().map(|(name, figure)| (name.len(), figure.len()));
        let (names, figures) = widths.fold((0, 0), |all, one| (all.0.max(one.0), all.1.max(one.1)));
        for (index, (name, figure)) in rows.iter().enumerate() {
            let end = if index + 1 < rows.len() { "\n" } else { "" };
            match *name {
                "" => write!(f, "{end}")?,
                name => write!(f, "{name:<names$}  {figure:>figures$}{end}")?,
            }
        }
        Ok(())
    }
}
