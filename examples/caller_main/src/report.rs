//! What a run was like: latencies, rate, and the longest time in which nothing went through.

use std::fmt;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use parking_lot::Mutex;

/// Longer calls count as this long: beyond any timeout that makes sense.
const LATENCY_MAX_US: u64 = 3_600_000_000;

/// Collects the acknowledged operations of all clients.
pub(crate) struct Recorder {
    begun: Instant,
    state: Mutex<State>,
}

struct State {
    puts: Histogram<u64>,
    gets: Histogram<u64>,
    rounds: u64,
    last: Option<Instant>,
    longest_gap: Duration,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Operation {
    Put,
    Get,
}

impl Recorder {
    pub(crate) fn new(now: Instant) -> Self {
        let latencies = || {
            Histogram::new_with_bounds(1, LATENCY_MAX_US, 3)
                .expect("1 us to 1 h to 3 digits is legal")
        };
        let (puts, gets) = (latencies(), latencies());
        let state = State {
            puts,
            gets,
            rounds: 0,
            last: None,
            longest_gap: Duration::ZERO,
        };
        Self {
            begun: now,
            state: Mutex::new(state),
        }
    }

    /// An operation that began at `begun` has been acknowledged.
    pub(crate) fn acknowledged(&self, operation: Operation, begun: Instant) {
        let mut state = self.state.lock();
        let now = Instant::now(); // under the lock, so that times and gaps are in order
        let latency = u64::try_from((now - begun).as_micros()).unwrap_or(u64::MAX);
        match operation {
            Operation::Put => state.puts.saturating_record(latency),
            Operation::Get => state.gets.saturating_record(latency),
        }
        state.nothing_until(now);
        state.last = Some(now);
    }

    pub(crate) fn round_done(&self) {
        self.state.lock().rounds += 1;
    }

    /// The run ends `now`.
    pub(crate) fn finish(self, clients: u32, retries: u64, now: Instant) -> Summary {
        let mut state = self.state.into_inner();
        state.nothing_until(now);
        Summary {
            state,
            clients,
            retries,
            took: now - self.begun,
        }
    }
}

impl State {
    fn nothing_until(&mut self, now: Instant) {
        if let Some(last) = self.last {
            self.longest_gap = self.longest_gap.max(now - last);
        }
    }
}

/// The end of a run, for a reader.
pub(crate) struct Summary {
    state: State,
    clients: u32,
    retries: u64,
    took: Duration,
}

impl Summary {
    pub(crate) fn rounds(&self) -> u64 {
        self.state.rounds
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let State {
            puts,
            gets,
            rounds,
            longest_gap,
            ..
        } = &self.state;
        let seconds = self.took.as_secs_f64();
        #[expect(clippy::cast_precision_loss, reason = "a rate for a reader")]
        let rate = (puts.len() + gets.len()) as f64 / seconds.max(1e-9);
        let clients = self.clients;
        writeln!(
            f,
            "rounds {rounds}, clients {clients}, {seconds:.2} s, {rate:.0} ops/s"
        )?;
        for (name, latencies) in [("put", puts), ("get", gets)] {
            let at = |quantile| Ms(Duration::from_micros(latencies.value_at_quantile(quantile)));
            writeln!(f, "{name} p50 {}, p99 {}", at(0.5), at(0.99))?;
        }
        write!(
            f,
            "retries {}, longest gap {}",
            self.retries,
            Ms(*longest_gap)
        )
    }
}

struct Ms(Duration);

impl fmt::Display for Ms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.2} ms", self.0.as_secs_f64() * 1e3)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gap_is_between_acknowledgements_of_any_client_and_up_to_the_end() {
        let now = Instant::now();
        let recorder = Recorder::new(now);
        recorder.acknowledged(Operation::Put, now);
        recorder.acknowledged(Operation::Get, now);
        recorder.round_done();
        let last = recorder.state.lock().last.unwrap();
        let summary = recorder.finish(1, 7, last + Duration::from_secs(3));
        assert_eq!(summary.state.longest_gap, Duration::from_secs(3));
        assert!(
            summary
                .to_string()
                .ends_with("retries 7, longest gap 3000.00 ms"),
            "{summary}"
        );
        assert_eq!(summary.rounds(), 1);
    }

    #[test]
    fn a_run_without_any_operation_has_a_summary_too() {
        let now = Instant::now();
        let summary = Recorder::new(now).finish(2, 0, now);
        assert!(
            summary
                .to_string()
                .starts_with("rounds 0, clients 2, 0.00 s, 0 ops/s"),
            "{summary}"
        );
    }
}
