//! [`ServerMeter`]: the counters of one running provider, and [`ServerStats`], what they say.

use std::fmt;
use std::iter;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::histogram::LatencyHistogram;
use super::loop_stats::{LoopStats, MethodCells};
use super::rate::WINDOW_SECONDS;
use crate::error::Code;

/// The names under which a service is counted.
#[derive(Clone)]
pub(crate) struct ServiceLayout {
    pub(crate) name: &'static str,
    pub(crate) methods: &'static [&'static str],
    /// For each method, whether it answers with a stream.
    pub(crate) streaming: Vec<bool>,
}

/// The counters of one running provider.
pub(crate) struct ServerMeter {
    started: Instant,
    services: Vec<ServiceLayout>,
    loops: Vec<Arc<LoopStats>>,
    /// Calls that ended after their connections: whoever holds the lock writes.
    strays: Mutex<Box<[MethodCells]>>,
    accepted: AtomicU64,
    refused: AtomicU64,
}

impl ServerMeter {
    /// Counters for `services`, kept by `loops` event loops.
    pub(crate) fn new(services: Vec<ServiceLayout>, loops: usize) -> ServerMeter {
        let started = Instant::now();
        let methods: usize = services.iter().map(|service| service.methods.len()).sum();
        let stats = |_| Arc::new(LoopStats::new(methods, started));
        ServerMeter {
            started,
            services,
            loops: (0..loops).map(stats).collect(),
            strays: Mutex::new((0..=methods).map(|_| MethodCells::new()).collect()),
            accepted: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        }
    }

    /// Where the loop at position `index` counts.
    pub(crate) fn for_loop(&self, index: usize) -> &Arc<LoopStats> {
        &self.loops[index]
    }

    /// A call of the method at this position has ended with `code`, but its connection has gone, so
    /// that no loop counts it. Any thread.
    pub(crate) fn strayed(&self, method: usize, arrived: Instant, code: Code, n: u64) {
        let now = Instant::now();
        let (took, up) = (now - arrived, now - self.started);
        let strays = self.strays.lock();
        strays[method.min(strays.len() - 1)].ended(took, up, code, n);
    }

    /// A connection was accepted. Any thread.
    pub(crate) fn accepted(&self) {
        self.accepted.fetch_add(1, Relaxed);
    }

    /// A connection was turned away. Any thread.
    pub(crate) fn refused(&self) {
        self.refused.fetch_add(1, Relaxed);
    }

    /// What has been counted. Any thread; sums a few thousand numbers for each method.
    pub(crate) fn snapshot(
        &self,
        connections_open: usize,
        draining: bool,
        worker_queues: Vec<WorkerQueue>,
    ) -> ServerStats {
        let now = Instant::now();
        let sum = |of: fn(&LoopStats) -> u64| self.loops.iter().map(|stats| of(stats)).sum();
        let mut position = 0;
        let services = self.services.iter().map(|service| {
            let methods = service.methods.iter().zip(&service.streaming);
            let methods = methods.map(|(name, &streaming)| {
                let stats = self.method_stats(position, name, streaming, now);
                position += 1;
                stats
            });
            ServiceStats {
                name: service.name,
                methods: methods.collect(),
            }
        });
        let services = services.collect();
        ServerStats {
            uptime: now - self.started,
            draining,
            connections_open: connections_open as u64,
            connections_accepted: self.accepted.load(Relaxed),
            connections_refused: self.refused.load(Relaxed),
            bytes_in: sum(|stats| stats.bytes_in.get()),
            bytes_out: sum(|stats| stats.bytes_out.get()),
            calls_unknown: self
                .loops
                .iter()
                .map(|stats| stats.methods[position].begun.get())
                .sum(),
            stream_items: sum(|stats| stats.items.get()),
            worker_queues,
            services,
        }
    }

    fn method_stats(
        &self,
        position: usize,
        name: &'static str,
        streaming: bool,
        now: Instant,
    ) -> MethodStats {
        let uptime = now - self.started;
        let mut stats = MethodStats {
            name,
            streaming,
            begun: 0,
            in_flight: 0,
            ended: Code::ALL.map(|code| (code, 0)),
            rate: 0.0,
            latency: LatencyHistogram::new(),
        };
        let mut recent = 0;
        let strays = self.strays.lock();
        let loops = self.loops.iter().map(|stats| &stats.methods[position]);
        for cells in iter::once(&strays[position]).chain(loops) {
            // Ended before begun: a call that begins and ends in between must not end unbegun.
            for ((_, into), cell) in stats.ended.iter_mut().zip(&cells.ended) {
                *into += cell.get();
            }
            stats.begun += cells.begun.get();
            cells.latency.add_to(&mut stats.latency);
            recent += cells.rate.recent(uptime.as_secs());
        }
        stats.in_flight = stats.begun.saturating_sub(stats.count());
        stats.rate = rate(recent, uptime);
        stats
    }
}

/// `recent` calls in the running second and the window before it, as calls a second.
fn rate(recent: u64, uptime: Duration) -> f64 {
    let running = Duration::from_nanos(uptime.subsec_nanos().into());
    let covered = uptime.min(running + Duration::from_secs(WINDOW_SECONDS));
    #[expect(clippy::cast_precision_loss, reason = "a rate for people to read")]
    let recent = recent as f64;
    // A server that has just started would show a rate far above what it has served.
    recent / covered.as_secs_f64().max(1.0)
}

impl fmt::Debug for ServerMeter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerMeter")
            .field("loops", &self.loops.len())
            .finish_non_exhaustive()
    }
}

/// What a running provider has counted since it was started.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ServerStats {
    /// Since it was started.
    pub uptime: Duration,
    /// It accepts no more and finishes what runs.
    pub draining: bool,
    /// Connections that are open.
    pub connections_open: u64,
    /// Connections that were accepted.
    pub connections_accepted: u64,
    /// Connections that were turned away because there were too many.
    pub connections_refused: u64,
    /// Bytes that have arrived.
    pub bytes_in: u64,
    /// Bytes that have left.
    pub bytes_out: u64,
    /// Calls of services and methods that do not exist.
    pub calls_unknown: u64,
    /// Items of streams that were sent.
    pub stream_items: u64,
    /// How busy the workers of blocking services are.
    pub worker_queues: Vec<WorkerQueue>,
    /// In the order in which they were registered.
    pub services: Vec<ServiceStats>,
}

impl ServerStats {
    /// The service with this simple name.
    #[must_use]
    pub fn service(&self, name: &str) -> Option<&ServiceStats> {
        self.services.iter().find(|service| service.name == name)
    }

    /// The method with these names.
    #[must_use]
    pub fn method(&self, service: &str, method: &str) -> Option<&MethodStats> {
        let methods = &self.service(service)?.methods;
        methods.iter().find(|known| known.name == method)
    }

    /// Streams that have begun and not ended.
    #[must_use]
    pub fn streams_open(&self) -> u64 {
        let methods = self.services.iter().flat_map(|service| &service.methods);
        methods
            .filter(|method| method.streaming)
            .map(|method| method.in_flight)
            .sum()
    }
}

/// What was counted for one service.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ServiceStats {
    /// Its simple name.
    pub name: &'static str,
    /// In the order of the `.proto`.
    pub methods: Vec<MethodStats>,
}

/// How busy the workers of one service are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct WorkerQueue {
    /// The service that they work for.
    pub service: &'static str,
    /// Calls that wait for a thread.
    pub waiting: usize,
    /// How many may wait.
    pub capacity: usize,
    /// The threads.
    pub threads: usize,
}

/// What was counted for one method.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct MethodStats {
    /// As the `.proto` writes it.
    pub name: &'static str,
    /// It answers with a stream of messages.
    pub streaming: bool,
    /// Calls that have arrived, those included that were refused.
    pub begun: u64,
    /// Calls that have arrived and are not answered.
    pub in_flight: u64,
    /// Calls that have ended, by the code that they ended with.
    pub ended: [(Code, u64); Code::ALL.len()],
    /// Calls that ended a second, over the last five seconds.
    pub rate: f64,
    /// From the arrival of a request to when its reply is ready to be sent.
    pub latency: LatencyHistogram,
}

impl MethodStats {
    /// Calls that have ended.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.ended.iter().map(|(_, n)| n).sum()
    }

    /// Calls that have ended with `code`.
    #[must_use]
    pub fn count_of(&self, code: Code) -> u64 {
        let ended = self.ended.iter().filter(|(known, _)| *known == code);
        ended.map(|(_, n)| n).sum()
    }

    /// Calls that have ended with another code than [`Code::Ok`].
    #[must_use]
    pub fn errors(&self) -> u64 {
        self.count() - self.count_of(Code::Ok)
    }
}

#[cfg(test)]
#[path = "meter_test.rs"]
mod tests;
