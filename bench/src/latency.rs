//! Latencies while a load runs ([`Recorder`]) and what is told of them ([`Latency`]).

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// Two digits: percentiles are right to 1 %, and a histogram is small enough for 256 threads to
/// have one each.
const SIGNIFICANT_DIGITS: u8 = 2;

/// Longer latencies count as this one.
const LONGEST_NS: u64 = 60_000_000_000;

/// Collects the latencies of one thread's requests. A clone is another handle on the same
/// collection: the thread that measures takes them out.
#[derive(Clone, Debug)]
pub struct Recorder(Arc<Mutex<Recorded>>);

#[derive(Debug)]
struct Recorded {
    nanoseconds: Histogram<u64>,
    failure: Option<String>,
}

impl Default for Recorder {
    fn default() -> Recorder {
        let recorded = Recorded {
            nanoseconds: histogram(),
            failure: None,
        };
        Recorder(Arc::new(Mutex::new(recorded)))
    }
}

impl Recorder {
    /// Counts one request that was answered after `latency`.
    pub fn record(&self, latency: Duration) {
        self.with(|recorded| recorded.record(latency));
    }

    /// Counts several requests under one lock.
    pub fn record_all(&self, latencies: impl IntoIterator<Item = Duration>) {
        self.with(|recorded| {
            for latency in latencies {
                recorded.record(latency);
            }
        });
    }

    /// Notes that a request failed; the first one's reason is kept. A load with a failure has no
    /// figures.
    pub fn fail(&self, reason: impl Into<String>) {
        self.with(|recorded| {
            recorded.failure.get_or_insert_with(|| reason.into());
        });
    }

    /// Takes out what was collected since the last time.
    ///
    /// # Errors
    /// Why a request failed.
    pub fn take(&self) -> Result<Histogram<u64>, String> {
        self.with(|recorded| match recorded.failure.take() {
            Some(reason) => Err(reason),
            None => Ok(std::mem::replace(&mut recorded.nanoseconds, histogram())),
        })
    }

    fn with<R>(&self, act: impl FnOnce(&mut Recorded) -> R) -> R {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Recorded {
    fn record(&mut self, latency: Duration) {
        let nanoseconds = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        self.nanoseconds.saturating_record(nanoseconds.max(1));
    }
}

/// An empty histogram of nanoseconds.
pub(crate) fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LONGEST_NS, SIGNIFICANT_DIGITS).expect("its bounds are constants")
}

/// Percentiles, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize, Serialize)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Latency {
    pub p50_us: f64,
    pub p99_us: f64,
    pub p999_us: f64,
    pub max_us: f64,
}

impl Latency {
    /// What a histogram of nanoseconds says.
    #[must_use]
    pub fn of(nanoseconds: &Histogram<u64>) -> Latency {
        let us = |quantile| micros(nanoseconds.value_at_quantile(quantile));
        Latency {
            p50_us: us(0.5),
            p99_us: us(0.99),
            p999_us: us(0.999),
            max_us: micros(nanoseconds.max()),
        }
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a minute of nanoseconds is exact in 53 bits"
)]
fn micros(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1e3
}

/// The median of what several rounds measured; 0 for no rounds.
#[must_use]
pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => 0.0,
        count if count % 2 == 1 => values[count / 2],
        count => f64::midpoint(values[count / 2 - 1], values[count / 2]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle_of_the_sorted_values() {
        assert_eq!(median([3.0, 1.0, 2.0]).to_string(), "2");
        assert_eq!(median([4.0, 1.0, 2.0, 3.0]).to_string(), "2.5");
        assert_eq!(median([]).to_string(), "0");
    }

    #[test]
    fn what_was_taken_is_not_counted_again() {
        let recorder = Recorder::default();
        recorder.record_all((1..=100).map(Duration::from_micros));
        let taken = recorder.take().unwrap();
        assert_eq!(taken.len(), 100);
        let p50 = Latency::of(&taken).p50_us;
        assert!((49.0..=52.0).contains(&p50), "{p50}");

        assert_eq!(recorder.take().unwrap().len(), 0);
    }

    #[test]
    fn a_failure_takes_the_place_of_figures() {
        let recorder = Recorder::default();
        recorder.record(Duration::from_micros(5));
        recorder.fail("first");
        recorder.fail("second");
        assert_eq!(recorder.take(), Err("first".to_owned()));
    }
}
