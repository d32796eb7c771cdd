//! Measures a running load over a span of time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use std::{io, thread};

use hdrhistogram::Histogram;
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::command::Failure;
use crate::latency::{Recorder, histogram};
use crate::usage::{ThreadUsage, Usage, machine_cpu, own_cpu};

/// How long the first answer may take; then the load hangs.
const ANSWER_LIMIT: Duration = Duration::from_secs(15);
const ANSWER_POLL: Duration = Duration::from_millis(5);

/// Set by SIGINT and SIGTERM: what runs is ended in order, so that nothing is left behind.
#[derive(Clone, Debug)]
pub struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Watches for the signals from now on.
    ///
    /// # Errors
    /// The system's.
    pub fn watch() -> io::Result<Interrupt> {
        let raised = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM] {
            signal_hook::flag::register(signal, Arc::clone(&raised))?;
        }
        Ok(Interrupt(raised))
    }

    /// Sleeps for `span`.
    ///
    /// # Errors
    /// When a signal came meanwhile or before.
    pub fn sleep(&self, span: Duration) -> Result<(), Failure> {
        const POLL: Duration = Duration::from_millis(50);

        let end = Instant::now() + span;
        loop {
            if self.0.load(Ordering::Relaxed) {
                return Err(Failure::Failed("interrupted".to_owned()));
            }
            match end.checked_duration_since(Instant::now()) {
                Some(left) if !left.is_zero() => thread::sleep(left.min(POLL)),
                _ => return Ok(()),
            }
        }
    }
}

/// What happened in one span.
#[derive(Debug)]
pub struct Span {
    /// How long it was.
    pub length: Duration,
    /// The latencies, in nanoseconds, of the requests that were answered in it.
    pub latencies: Histogram<u64>,
    /// CPU time of this process, which is the client.
    pub client_cpu: Duration,
    /// What each server process used, by name of thread.
    pub servers: Vec<BTreeMap<String, ThreadUsage>>,
    /// CPUs that were busy for somebody else: another program, or interrupts.
    pub others_cpus: f64,
}

impl Span {
    /// Watches the load behind `recorders` and the processes `servers` for `length` and until a
    /// request was answered; before that a tenth of it to warm up.
    ///
    /// # Errors
    /// A request failed or none was answered, a server is gone, a signal came.
    pub fn measure(
        length: Duration,
        recorders: &[Recorder],
        servers: &[u32],
        interrupt: &Interrupt,
    ) -> Result<Span, Failure> {
        watch(length / 10, recorders, interrupt)?;
        let before = Counters::read(servers)?;
        let latencies = watch(length, recorders, interrupt)?;
        let after = Counters::read(servers)?;

        let length = after.at - before.at;
        let servers: Vec<_> = after
            .servers
            .iter()
            .zip(&before.servers)
            .map(|(a, b)| a.since(b))
            .collect();
        let client_cpu = after.client_cpu.saturating_sub(before.client_cpu);
        let ours = client_cpu + servers.iter().map(crate::usage::cpu_of).sum::<Duration>();
        let others = after
            .machine_cpu
            .saturating_sub(before.machine_cpu)
            .saturating_sub(ours);
        let others_cpus = others.as_secs_f64() / length.as_secs_f64();
        Ok(Span {
            length,
            latencies,
            client_cpu,
            servers,
            others_cpus,
        })
    }

    /// Requests answered a second.
    #[must_use]
    pub fn per_second(&self) -> f64 {
        self.requests() / self.length.as_secs_f64()
    }

    /// Microseconds of `total` for each request.
    #[must_use]
    pub fn us_per_request(&self, total: Duration) -> f64 {
        total.as_secs_f64() * 1e6 / self.requests()
    }

    /// How many requests were answered.
    #[must_use]
    #[expect(
        clippy::cast_precision_loss,
        reason = "counts of seconds, far below 2^53"
    )]
    pub fn requests(&self) -> f64 {
        self.latencies.len() as f64
    }
}

struct Counters {
    at: Instant,
    client_cpu: Duration,
    machine_cpu: Duration,
    servers: Vec<Usage>,
}

impl Counters {
    fn read(servers: &[u32]) -> Result<Counters, Failure> {
        let servers = servers
            .iter()
            .map(|&pid| Usage::of(pid))
            .collect::<io::Result<_>>();
        Ok(Counters {
            at: Instant::now(),
            client_cpu: own_cpu(),
            machine_cpu: machine_cpu().map_err(Failure::of("/proc/stat"))?,
            servers: servers.map_err(Failure::of("cannot read a server's CPU time in /proc"))?,
        })
    }
}

/// The latencies of what is answered within `length`, or until something is.
fn watch(
    length: Duration,
    recorders: &[Recorder],
    interrupt: &Interrupt,
) -> Result<Histogram<u64>, Failure> {
    interrupt.sleep(length)?;
    let limit = Instant::now() + ANSWER_LIMIT;
    loop {
        let latencies = take(recorders)?;
        if !latencies.is_empty() {
            return Ok(latencies);
        }
        if Instant::now() > limit {
            return Err(Failure::Failed(format!(
                "no request was answered within {ANSWER_LIMIT:?}"
            )));
        }
        interrupt.sleep(ANSWER_POLL)?;
    }
}

fn take(recorders: &[Recorder]) -> Result<Histogram<u64>, Failure> {
    let mut all = histogram();
    for recorder in recorders {
        let taken = recorder.take().map_err(Failure::Failed)?;
        all.add(taken).expect("all histograms have the same bounds");
    }
    Ok(all)
}
