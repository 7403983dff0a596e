//! A histogram of lateness for Prometheus, shared between workers: atomics with fixed bounds, several samples per call.
//! The percentiles of a run come from the client, not from here.

use prometheus_client::{
    encoding::{EncodeMetric, MetricEncoder, NoLabelSet},
    metrics::{MetricType, TypedMetric},
};
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

/// Upper bounds of the buckets, in microseconds. The last bucket has no bound.
const BOUNDS_US: [u64; 18] = [
    50, 100, 250, 500, 1_000, 2_000, 3_000, 5_000, 10_000, 20_000, 35_000, 50_000, 100_000, 250_000, 500_000,
    1_000_000, 5_000_000, 30_000_000,
];

/// A histogram. Its clones share the counts.
#[derive(Clone, Debug, Default)]
pub(crate) struct Lateness(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    buckets: [AtomicU64; BOUNDS_US.len() + 1],
    sum_us: AtomicU64,
}

impl Lateness {
    /// Counts `n` events that were `us` microseconds late.
    pub(crate) fn observe(&self, us: u64, n: u64) {
        let bucket = BOUNDS_US.partition_point(|&bound| bound < us);
        self.0.buckets[bucket].fetch_add(n, Relaxed);
        self.0.sum_us.fetch_add(us.saturating_mul(n), Relaxed);
    }

    /// Returns the number of events counted.
    #[cfg(test)]
    pub(crate) fn count(&self) -> u64 {
        self.0.buckets.iter().map(|bucket| bucket.load(Relaxed)).sum()
    }

    /// Returns the number of events later than `bound_us`, which is one of the bounds.
    #[cfg(test)]
    pub(crate) fn above(&self, bound_us: u64) -> u64 {
        let first = BOUNDS_US.partition_point(|&bound| bound <= bound_us);
        self.0.buckets[first..].iter().map(|bucket| bucket.load(Relaxed)).sum()
    }
}

impl TypedMetric for Lateness {
    const TYPE: MetricType = MetricType::Histogram;
}

impl EncodeMetric for Lateness {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), std::fmt::Error> {
        let bounds = BOUNDS_US.iter().map(|&us| us as f64 / 1e6).chain([f64::INFINITY]);
        let buckets: Vec<_> =
            bounds.zip(&self.0.buckets).map(|(bound, count)| (bound, count.load(Relaxed))).collect();
        let count = buckets.iter().map(|&(_, count)| count).sum();
        let sum = self.0.sum_us.load(Relaxed) as f64 / 1e6;
        encoder.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus_client::{encoding::text, registry::Registry};

    #[test]
    fn buckets_are_cumulative_and_end_at_infinity() {
        let lateness = Lateness::default();
        for (us, n) in [(0, 5), (250, 1), (251, 1), (10_000, 2), (60_000_000, 1)] {
            lateness.observe(us, n);
        }
        assert_eq!(lateness.count(), 10);
        let mut registry = Registry::default();
        registry.register("lag_seconds", "how late", lateness);
        let mut out = String::new();
        text::encode(&mut out, &registry).unwrap();
        for line in [
            "lag_seconds_bucket{le=\"0.00025\"} 6",
            "lag_seconds_bucket{le=\"0.0005\"} 7",
            "lag_seconds_bucket{le=\"0.01\"} 9",
            "lag_seconds_bucket{le=\"+Inf\"} 10",
            "lag_seconds_count 10",
        ] {
            assert!(out.contains(line), "{line} is not in\n{out}");
        }
    }
}
