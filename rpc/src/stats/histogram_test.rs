//! The buckets' borders and the quantiles' error.

use proptest::prelude::*;

use super::*;

/// The first time that only the last bucket has room for.
const TOP_NANOS: u64 = 1 << (TOP_BITS + UNIT_BITS);

#[test]
fn buckets_follow_each_other_without_a_gap() {
    assert_eq!(BUCKETS, 528);
    assert_eq!(bucket_start(0), 0);
    for bucket in 0..BUCKETS {
        let (start, next) = (bucket_start(bucket), bucket_start(bucket + 1));
        assert!(start < next, "bucket {bucket}");
        assert_eq!(bucket_of(start), bucket);
        assert_eq!(bucket_of(next - 1), bucket);
    }
    assert_eq!(bucket_start(BUCKETS), TOP_NANOS);
}

#[test]
fn times_beyond_all_buckets_go_to_the_last() {
    for nanos in [TOP_NANOS, u64::MAX] {
        assert_eq!(bucket_of(nanos), BUCKETS - 1);
    }
    let mut histogram = LatencyHistogram::new();
    histogram.record(Duration::MAX);
    assert_eq!(histogram.count(), 1);
    assert!(histogram.quantile(1.0).unwrap() > Duration::from_hours(1));
}

#[test]
fn an_empty_histogram_has_no_quantiles() {
    let histogram = LatencyHistogram::new();
    assert_eq!((histogram.count(), histogram.sum()), (0, Duration::ZERO));
    assert_eq!(histogram.quantile(0.5), None);
    assert_eq!(histogram.mean(), None);
}

#[test]
fn counts_below_an_edge_are_exact() {
    let mut histogram = LatencyHistogram::new();
    for nanos in [0, 1_023, 1_024, 2_047, 2_048, 4_095, 4_096] {
        histogram.record(Duration::from_nanos(nanos));
    }
    assert_eq!(histogram.count_below(0), 2);
    assert_eq!(histogram.count_below(1), 4);
    assert_eq!(histogram.count_below(2), 6);
    assert_eq!(histogram.count_below(99), 7);
    assert_eq!(histogram.sum(), Duration::from_nanos(14_333));
    assert_eq!(histogram.mean(), Some(Duration::from_nanos(14_333 / 7)));
}

#[test]
fn cells_and_histogram_count_alike() {
    let cells = HistogramCells::new();
    let mut expected = LatencyHistogram::new();
    for (nanos, n) in [(700, 1), (5_000, 3), (90_000_000, 2)] {
        let time = Duration::from_nanos(nanos);
        cells.record(time, n);
        for _ in 0..n {
            expected.record(time);
        }
    }
    let mut read = LatencyHistogram::new();
    cells.add_to(&mut read);
    assert_eq!(read, expected);
    let mut merged = LatencyHistogram::new();
    merged.merge(&read);
    merged.merge(&read);
    assert_eq!((merged.count(), merged.sum()), (12, 2 * expected.sum()));
}

/// Times over the whole range, all orders of magnitude alike.
fn times() -> impl Strategy<Value = Vec<u64>> {
    let time = (10_u32..41).prop_flat_map(|bits| (1_u64 << bits)..(2_u64 << bits));
    prop::collection::vec(time, 1..200)
}

proptest! {
    #[test]
    fn a_quantile_is_within_a_thirtysecond_of_the_exact_one(
        mut times in times(),
        per_mille in 0_u32..=1000,
    ) {
        let mut histogram = LatencyHistogram::new();
        for &nanos in &times {
            histogram.record(Duration::from_nanos(nanos));
        }
        times.sort_unstable();
        let quantile = f64::from(per_mille) / 1000.0;
        let rank = (times.len() * per_mille as usize).div_ceil(1000).max(1);
        // Where the product is a whole number, a float may fall on either side of it.
        let near = [rank.max(2) - 2, rank - 1, rank.min(times.len() - 1)];
        let found = nanos(histogram.quantile(quantile).unwrap());
        let close = |exact: u64| found.abs_diff(exact) * 32 <= exact;
        prop_assert!(
            if rank * 1000 == times.len() * per_mille as usize {
                near.iter().any(|&index| close(times[index]))
            } else {
                close(times[rank - 1])
            },
            "{found} for {}", times[rank - 1]
        );
    }

    #[test]
    fn every_time_has_the_bucket_that_it_lies_in(nanos in 0..TOP_NANOS) {
        let bucket = bucket_of(nanos);
        prop_assert!(bucket_start(bucket) <= nanos && nanos < bucket_start(bucket + 1));
    }
}
