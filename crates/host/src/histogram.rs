//! A histogram of durations for Prometheus, shared between threads: atomics with fixed bounds, several samples per call.
//! The percentiles of a run come from the client, not from here.

use prometheus_client::{
    encoding::{EncodeMetric, MetricEncoder, NoLabelSet},
    metrics::{MetricType, TypedMetric},
};
use std::{
    fmt,
    marker::PhantomData,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

/// Upper bounds of the buckets of a histogram, in microseconds. A last bucket has no bound.
pub trait Buckets: 'static {
    /// The bounds, in increasing order.
    const BOUNDS_US: &'static [u64];
}

/// Buckets for delays inside a machine: 50 µs to 30 s.
#[derive(Debug)]
pub struct Delays;

impl Buckets for Delays {
    const BOUNDS_US: &'static [u64] = &[
        50, 100, 250, 500, 1_000, 2_000, 3_000, 5_000, 10_000, 20_000, 35_000, 50_000, 100_000, 250_000,
        500_000, 1_000_000, 5_000_000, 30_000_000,
    ];
}

/// Buckets for durations that a person notices: 1 ms to 10 minutes.
#[derive(Debug)]
pub struct Durations;

impl Buckets for Durations {
    const BOUNDS_US: &'static [u64] = &[
        1_000,
        5_000,
        10_000,
        20_000,
        40_000,
        60_000,
        80_000,
        100_000,
        250_000,
        500_000,
        750_000,
        1_000_000,
        2_500_000,
        5_000_000,
        7_500_000,
        10_000_000,
        20_000_000,
        40_000_000,
        80_000_000,
        160_000_000,
        600_000_000,
    ];
}

/// A histogram of durations. Its clones share the counts.
pub struct Histogram<B>(Arc<Counts>, PhantomData<fn() -> B>);

#[derive(Debug)]
struct Counts {
    buckets: Box<[AtomicU64]>,
    sum_us: AtomicU64,
}

impl<B> fmt::Debug for Histogram<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<B> Clone for Histogram<B> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0), PhantomData)
    }
}

impl<B: Buckets> Default for Histogram<B> {
    fn default() -> Self {
        let buckets = (0..=B::BOUNDS_US.len()).map(|_| AtomicU64::default()).collect();
        Self(Arc::new(Counts { buckets, sum_us: AtomicU64::default() }), PhantomData)
    }
}

impl<B: Buckets> Histogram<B> {
    /// Counts `n` durations of `us` microseconds.
    pub fn observe_us(&self, us: u64, n: u64) {
        let bucket = B::BOUNDS_US.partition_point(|&bound| bound < us);
        self.0.buckets[bucket].fetch_add(n, Relaxed);
        self.0.sum_us.fetch_add(us.saturating_mul(n), Relaxed);
    }

    /// Counts a duration.
    pub fn observe(&self, time: Duration) {
        self.observe_us(u64::try_from(time.as_micros()).unwrap_or(u64::MAX), 1);
    }

    /// Returns the number of durations counted.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.buckets.iter().map(|bucket| bucket.load(Relaxed)).sum()
    }

    /// Returns the number of durations longer than `bound_us`, which is one of the bounds.
    #[must_use]
    pub fn above(&self, bound_us: u64) -> u64 {
        let first = B::BOUNDS_US.partition_point(|&bound| bound <= bound_us);
        self.0.buckets[first..].iter().map(|bucket| bucket.load(Relaxed)).sum()
    }
}

impl<B> TypedMetric for Histogram<B> {
    const TYPE: MetricType = MetricType::Histogram;
}

impl<B: Buckets> EncodeMetric for Histogram<B> {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        #[allow(clippy::cast_precision_loss)]
        let seconds = |us: u64| us as f64 / 1e6;
        let bounds = B::BOUNDS_US.iter().map(|&us| seconds(us)).chain([f64::INFINITY]);
        let buckets: Vec<_> =
            bounds.zip(&self.0.buckets).map(|(bound, count)| (bound, count.load(Relaxed))).collect();
        let count = buckets.iter().map(|&(_, count)| count).sum();
        encoder.encode_histogram::<NoLabelSet>(seconds(self.0.sum_us.load(Relaxed)), count, &buckets, None)
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
        let lateness = Histogram::<Delays>::default();
        for (us, n) in [(0, 5), (250, 1), (251, 1), (10_000, 2), (60_000_000, 1)] {
            lateness.observe_us(us, n);
        }
        assert_eq!((lateness.count(), lateness.above(250)), (10, 4));
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

    #[test]
    fn bounds_increase() {
        assert!(
            Delays::BOUNDS_US.is_sorted_by(|a, b| a < b) && Durations::BOUNDS_US.is_sorted_by(|a, b| a < b)
        );
    }
}
