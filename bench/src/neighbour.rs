//! What small calls suffer from a neighbour: another connection of the same server loop that sends
//! large calls at a steady rate.
//!
//! ```text
//!   16 B calls, 2000 a second ──► connection ─┐
//!                                             ├─► the server's only loop
//!   1 MiB calls, 100 a second ──► connection ─┘
//! ```
//!
//! Small calls are sent at their times whatever became of the one before: a caller that waits for
//! its replies would ask least often when the server is slow, and its percentiles would hide that.
//! Each connection has a client loop of its own, so that what is measured is the server's fairness
//! and not the client's. Large calls are echoed: the server sends as much as it receives.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use bytes::Bytes;
use rpc::RpcController;
use serde::Serialize;

use crate::command::Failure;
use crate::echo::{EchoArgs, EchoStub};
use crate::latency::Recorder;
use crate::round::{Figures, Ratios, Round};
use crate::rpc_load::{Target, channel, event_loop};
use crate::side::Server;
use crate::span::{Interrupt, Span};

/// Its name among the cells.
pub const NAME: &str = "neighbour";

/// The p99 of small calls beside a neighbour stays below this many times their p99 alone.
pub const P99_RATIO_MAX: f64 = 5.0;

const SMALL_BYTES: usize = 16;
const SMALL_EVERY: Duration = Duration::from_micros(500);

const LARGE_BYTES: usize = 1 << 20;
const LARGE_EVERY: Duration = Duration::from_millis(10);

/// Below this the neighbour was no such neighbour: the large calls take 100 MiB/s.
const LARGE_MIB_PER_S_MIN: f64 = 95.0;

/// With more than this under way a sender leaves some out: the rate that is told falls short.
const IN_FLIGHT_MAX: u64 = 32;

/// The small calls' figures without and with the neighbour.
#[derive(Debug, Serialize)]
pub struct Neighbour {
    /// Small calls alone.
    pub alone: Figures,
    /// Small calls beside the large ones. The server's CPU time is for both.
    pub beside: Figures,
    /// `beside` divided by `alone`.
    pub ratios: Ratios,
    /// Large calls' bytes that the server received a second, in MiB; the slowest round.
    pub large_mib_per_s: f64,
    /// Whether the p99 stays in its bound, at the full rate of large calls.
    pub met: bool,
    /// CPUs that were busy for others meanwhile; the worst round.
    pub others_cpus: f64,
}

/// Measures small calls against `server`, which serves `rpc`, alone and beside the neighbour, in
/// turns.
///
/// # Errors
/// As [`Server::measure`].
pub fn measure(
    server: &Server,
    length: Duration,
    rounds: u32,
    interrupt: &Interrupt,
) -> Result<Neighbour, Failure> {
    let measure_small = || {
        let small = PacedLoad::start(server.addr(), SMALL_BYTES, SMALL_EVERY)?;
        let recorders = [small.shared.recorder.clone()];
        let span = Span::measure(length, &recorders, &[server.pid()], interrupt)?;
        Ok(Round::of(&span))
    };
    let (mut alone, mut beside) = (Vec::<Round>::new(), Vec::<Round>::new());
    let mut large_mib_per_s = f64::INFINITY;
    for _ in 0..rounds {
        alone.push(measure_small()?);
        let large = PacedLoad::start(server.addr(), LARGE_BYTES, LARGE_EVERY)?;
        beside.push(measure_small()?);
        large_mib_per_s = large_mib_per_s.min(large.mib_per_s()?);
    }
    let others = alone.iter().chain(&beside).map(|round| round.others_cpus);
    let others_cpus = others.fold(0.0, f64::max);
    let (alone, beside) = (Figures::of(&alone), Figures::of(&beside));
    let ratios = beside.over(&alone);
    Ok(Neighbour {
        met: ratios.p99 < P99_RATIO_MAX && large_mib_per_s >= LARGE_MIB_PER_S_MIN,
        alone,
        beside,
        ratios,
        large_mib_per_s,
        others_cpus,
    })
}

/// Begins calls at a steady rate until dropped, whether or not they are answered in time.
struct PacedLoad {
    started: Instant,
    payload_bytes: usize,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    answered: AtomicU64,
    recorder: Recorder,
}

impl PacedLoad {
    fn start(
        addr: SocketAddr,
        payload_bytes: usize,
        every: Duration,
    ) -> Result<PacedLoad, Failure> {
        let loops = event_loop()?;
        let stub = EchoStub::new(channel(&Target::plain(addr), &loops));
        let args = EchoArgs {
            payload: Bytes::from(vec![0x5A; payload_bytes]),
        };
        let shared = Arc::new(Shared::default());
        let of_thread = Arc::clone(&shared);
        let thread = thread::Builder::new()
            .name("paced-client".to_owned())
            .spawn(move || {
                call_at_times(&stub, &args, every, &of_thread);
                drop(loops);
            });
        Ok(PacedLoad {
            started: Instant::now(),
            payload_bytes,
            shared,
            thread: Some(thread.map_err(Failure::of("cannot start a client thread"))?),
        })
    }

    /// Payloads that came back so far, a second.
    #[expect(
        clippy::cast_precision_loss,
        reason = "counts of seconds, far below 2^53"
    )]
    fn mib_per_s(&self) -> Result<f64, Failure> {
        self.shared.recorder.take().map_err(Failure::Failed)?;
        let answered = self.shared.answered.load(Ordering::Relaxed) as f64;
        let mib = answered * self.payload_bytes as f64 / f64::from(1 << 20);
        Ok(mib / self.started.elapsed().as_secs_f64())
    }
}

impl Drop for PacedLoad {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // If it panicked, the rate has shown that.
            let _ = thread.join();
        }
    }
}

fn call_at_times(stub: &EchoStub, args: &EchoArgs, every: Duration, shared: &Arc<Shared>) {
    let mut next = Instant::now();
    let mut begun = 0;
    while !shared.stop.load(Ordering::Relaxed) {
        if begun - shared.answered.load(Ordering::Relaxed) < IN_FLIGHT_MAX {
            begun += 1;
            let (start, shared) = (Instant::now(), Arc::clone(shared));
            stub.echo_async(RpcController::new(), args, move |reply| match reply {
                Ok(_) => {
                    shared.recorder.record(start.elapsed());
                    shared.answered.fetch_add(1, Ordering::Relaxed);
                }
                Err(error) => shared.recorder.fail(format!("a paced call: {error}")),
            });
        }
        next += every;
        thread::sleep(next.saturating_duration_since(Instant::now()));
    }
}
