//! How long calls took: counts in buckets whose width grows with the time they stand for.
//!
//! ```text
//!   bucket      0     1   ...   15 |   16     17  ...   31 |   32  ...   47 | ...    | 512 ... 527
//!   from      0 ns  64 ns     960 ns 1.02 us            2 us|  2.05 us       | ...    | 36.7 min
//!   width            64 ns         |        64 ns           |     128 ns     | ...    | 2.3 min
//! ```
//!
//! Sixteen buckets for each doubling: a bucket is at most 1/16 as wide as the times in it are long,
//! so its middle is within 1/32 (3.2 %) of each of them. The last bucket takes all that is longer.

use std::time::Duration;

use super::cells::Cell64;

/// Bits of a time in nanoseconds that are not looked at: the unit is 64 ns.
const UNIT_BITS: u32 = 6;

/// The buckets of one doubling, as a power of two.
const STEP_BITS: u32 = 4;
const STEPS: usize = 1 << STEP_BITS;

/// Times from 2^36 units (73 min) on share the last bucket.
const TOP_BITS: u32 = 36;

/// Buckets of a histogram.
pub(crate) const BUCKETS: usize = (TOP_BITS - STEP_BITS + 1) as usize * STEPS;

/// A time span in nanoseconds; spans over 584 years count as that long.
pub(super) fn nanos(time: Duration) -> u64 {
    time.as_secs()
        .saturating_mul(1_000_000_000)
        .saturating_add(u64::from(time.subsec_nanos()))
}

/// The bucket of a time.
pub(super) fn bucket_of(nanos: u64) -> usize {
    let units = nanos >> UNIT_BITS;
    // The bits below the leading one that choose the step; small times are their own bucket.
    let shift = (u64::BITS - units.leading_zeros()).saturating_sub(STEP_BITS + 1);
    let bucket = (shift as usize)
        .saturating_mul(STEPS)
        .saturating_add(usize::try_from(units >> shift).unwrap_or(usize::MAX));
    bucket.min(BUCKETS - 1)
}

/// The shortest time of a bucket, in nanoseconds; of the one after the last: where it would begin.
pub(super) fn bucket_start(bucket: usize) -> u64 {
    let units = match bucket.checked_sub(STEPS) {
        None => bucket as u64,
        Some(over) => ((STEPS + over % STEPS) as u64) << (over / STEPS),
    };
    units << UNIT_BITS
}

/// Counts that one thread writes.
#[derive(Debug)]
pub(crate) struct HistogramCells {
    counts: Box<[Cell64]>,
    sum_nanos: Cell64,
}

impl HistogramCells {
    pub(crate) fn new() -> HistogramCells {
        HistogramCells {
            counts: (0..BUCKETS).map(|_| Cell64::default()).collect(),
            sum_nanos: Cell64::default(),
        }
    }

    /// Counts `n` calls that took `time` each, on the writer's thread.
    pub(crate) fn record(&self, time: Duration, n: u64) {
        let nanos = nanos(time);
        self.counts[bucket_of(nanos)].add(n);
        self.sum_nanos.add(nanos.wrapping_mul(n));
    }

    /// Adds what was counted to `into`, on any thread.
    pub(crate) fn add_to(&self, into: &mut LatencyHistogram) {
        for (into, cell) in into.counts.iter_mut().zip(&self.counts) {
            *into += cell.get();
        }
        into.sum_nanos = into.sum_nanos.wrapping_add(self.sum_nanos.get());
    }
}

/// How long calls took: their number, the sum of their times, and quantiles within 3.2 %.
///
/// Times from 1 us to 73 min are told apart; shorter ones within 32 ns, longer ones not at all.
#[derive(Clone, PartialEq, Eq)]
pub struct LatencyHistogram {
    counts: Box<[u64]>,
    /// Wraps after 584 years of waiting, all calls taken together.
    sum_nanos: u64,
}

impl LatencyHistogram {
    /// No calls yet. Takes about 4 KiB.
    #[must_use]
    pub fn new() -> LatencyHistogram {
        LatencyHistogram {
            counts: vec![0; BUCKETS].into_boxed_slice(),
            sum_nanos: 0,
        }
    }

    /// Counts a call that took `time`.
    pub fn record(&mut self, time: Duration) {
        let nanos = nanos(time);
        self.counts[bucket_of(nanos)] += 1;
        self.sum_nanos = self.sum_nanos.wrapping_add(nanos);
    }

    /// Counts all that `other` has counted.
    pub fn merge(&mut self, other: &LatencyHistogram) {
        for (into, count) in self.counts.iter_mut().zip(&other.counts) {
            *into += count;
        }
        self.sum_nanos = self.sum_nanos.wrapping_add(other.sum_nanos);
    }

    /// How many calls were counted.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// The time of all calls together.
    #[must_use]
    pub fn sum(&self) -> Duration {
        Duration::from_nanos(self.sum_nanos)
    }

    /// The time of a call on average; `None` without calls.
    #[must_use]
    pub fn mean(&self) -> Option<Duration> {
        let nanos = self.sum_nanos.checked_div(self.count())?;
        Some(Duration::from_nanos(nanos))
    }

    /// The time that the share `quantile` of the calls (0.99: 99 %) did not exceed, within 3.2 %;
    /// `None` without calls. Shares outside 0 to 1 count as 0 and 1.
    #[must_use]
    pub fn quantile(&self, quantile: f64) -> Option<Duration> {
        let count = self.count();
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a rank among fewer than 2^53 calls; a float that is too large becomes the largest rank"
        )]
        let rank = ((quantile.clamp(0.0, 1.0) * count as f64).ceil() as u64).clamp(1, count.max(1));
        let mut seen = 0;
        for (bucket, &n) in self.counts.iter().enumerate() {
            seen += n;
            if seen >= rank {
                let middle = bucket_start(bucket).midpoint(bucket_start(bucket + 1));
                return Some(Duration::from_nanos(middle));
            }
        }
        None
    }

    /// How many calls were shorter than 1.024 us * 2^`doublings`, which is a bucket's edge, so that
    /// the number is exact.
    pub(crate) fn count_below(&self, doublings: usize) -> u64 {
        let edge = (doublings + 1) * STEPS;
        self.counts[..edge.min(BUCKETS)].iter().sum()
    }
}

impl Default for LatencyHistogram {
    fn default() -> LatencyHistogram {
        LatencyHistogram::new()
    }
}

impl std::fmt::Debug for LatencyHistogram {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LatencyHistogram")
            .field("count", &self.count())
            .field("p50", &self.quantile(0.5))
            .field("p99", &self.quantile(0.99))
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
#[path = "histogram_test.rs"]
mod tests;
