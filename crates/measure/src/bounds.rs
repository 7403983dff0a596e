//! Lower and upper values of measured latencies, and whether a figure can be trusted.
//! Each bound has its own histogram, so that bounds of workers and seconds merge exactly.

use super::{Distribution, Metric, Statistic};
use serde::{Deserialize, Serialize};

/// Measurement error in milliseconds up to which a figure is always trusted.
const MIN_ERROR_MS: f64 = 1.0;
/// Measurement error up to which a figure is trusted, as a share of its value.
const SHARE: f64 = 0.1;

/// Figures that the outputs show, with their keys.
pub const FIGURES: [(&str, Statistic); 11] = [
    ("mean", Statistic::Mean),
    ("min", Statistic::Min),
    ("max", Statistic::Max),
    ("p10", Statistic::Percentile(10.0)),
    ("p25", Statistic::Percentile(25.0)),
    ("p50", Statistic::Percentile(50.0)),
    ("p75", Statistic::Percentile(75.0)),
    ("p90", Statistic::Percentile(90.0)),
    ("p95", Statistic::Percentile(95.0)),
    ("p99", Statistic::Percentile(99.0)),
    ("p99_9", Statistic::Percentile(99.9)),
];

/// A measured sample with the bounds between which the true value lies, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BoundedSample {
    /// Measured value.
    pub value: i64,
    /// Lower bound.
    pub low: i64,
    /// Upper bound. Equals the measured value if the sample can only be too high.
    pub high: i64,
    /// Lower bound if no planned fault excuses the simulator. `None` in a run without faults of servers.
    pub unexcused: Option<i64>,
}

impl BoundedSample {
    /// Returns a sample without uncertainty.
    #[must_use]
    pub const fn exact(value: i64) -> Self {
        Self { value, low: value, high: value, unexcused: None }
    }

    /// Returns a sample that may be too high by `low`, or by `unexcused` if the simulator is not excused.
    #[must_use]
    pub const fn at_most(value: i64, low: i64, unexcused: Option<i64>) -> Self {
        let unexcused = match unexcused {
            Some(unexcused) => Some(value.saturating_sub(unexcused)),
            None => None,
        };
        Self { value, low: value.saturating_sub(low), high: value, unexcused }
    }
}

/// The lower and upper values of a metric's samples.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Bounds {
    low: Distribution,
    /// Filled only for metrics that can be too low as well as too high.
    high: Distribution,
    /// Filled only in runs that plan faults of servers.
    unexcused: Distribution,
}

impl Bounds {
    pub(super) fn record(&mut self, metric: Metric, sample: BoundedSample) {
        self.low.record(sample.low);
        if metric.errs_both_ways() {
            self.high.record(sample.high);
        }
        if let Some(unexcused) = sample.unexcused {
            self.unexcused.record(unexcused);
        }
    }

    pub(super) fn merge(&mut self, other: &Self) {
        self.low.merge(&other.low);
        self.high.merge(&other.high);
        self.unexcused.merge(&other.unexcused);
    }

    pub(super) fn clear(&mut self) {
        self.low.clear();
        self.high.clear();
        self.unexcused.clear();
    }

    pub(super) const fn low(&self) -> &Distribution {
        &self.low
    }

    /// Returns how far `measured` can be trusted. `excused` leaves out lateness of the simulator that a planned fault caused.
    pub(super) fn trust<'a>(&'a self, measured: &'a Distribution, excused: bool) -> Trust<'a> {
        let low = if !excused && self.unexcused.count() > 0 { &self.unexcused } else { &self.low };
        let high = if self.high.count() > 0 { &self.high } else { measured };
        Trust { measured, low, high }
    }
}

/// How far the figures of a metric can be trusted.
#[derive(Clone, Copy, Debug)]
pub struct Trust<'a> {
    measured: &'a Distribution,
    low: &'a Distribution,
    high: &'a Distribution,
}

impl Trust<'_> {
    /// Returns the lower and upper value of a figure in milliseconds, or `None` if the figure does not exist.
    #[must_use]
    pub fn span_ms(&self, statistic: Statistic) -> Option<(f64, f64)> {
        let (low, high) = (statistic.of(self.low).ok()?, statistic.of(self.high).ok()?);
        Some((low, high))
    }

    /// Returns the measurement error of a figure in milliseconds: upper minus lower value, plus the width of the histogram
    /// bucket for a percentile.
    #[must_use]
    pub fn error_ms(&self, statistic: Statistic) -> Option<f64> {
        let (low, high) = self.span_ms(statistic)?;
        let bucket = match statistic {
            Statistic::Percentile(_) => self.measured.bucket_ms(statistic.of(self.measured).ok()?),
            _ => 0.0,
        };
        Some((high - low).max(0.0) + bucket)
    }

    /// Returns the keys of the figures that cannot be trusted.
    #[must_use]
    pub fn untrusted(&self) -> Vec<&'static str> {
        let doubtful = FIGURES.iter().filter(|(_, statistic)| !self.is_trusted(*statistic));
        doubtful.map(|(key, _)| *key).collect()
    }

    /// Returns whether the measurement error of a figure is small enough.
    #[must_use]
    pub fn is_trusted(&self, statistic: Statistic) -> bool {
        let Ok(value) = statistic.of(self.measured) else { return true };
        let error = if statistic == Statistic::Count { Some(0.0) } else { self.error_ms(statistic) };
        error.is_none_or(|error| error <= MIN_ERROR_MS.max(value.abs() * SHARE))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Interval;
    use proptest::prelude::*;

    const P50: Statistic = Statistic::Percentile(50.0);
    const MS: i64 = 1_000_000;

    fn interval(samples: &[(i64, i64)]) -> Interval {
        let mut interval = Interval::default();
        for &(value, uncertainty) in samples {
            interval.record_bounded(Metric::E2el, BoundedSample::at_most(value * MS, uncertainty * MS, None));
        }
        interval
    }

    #[test]
    fn a_figure_is_trusted_up_to_a_millisecond_or_a_tenth() {
        for (value, uncertainty, trusted) in
            [(5, 0, true), (5, 1, false), (500, 40, true), (500, 60, false), (0, 0, true), (900, 80, true)]
        {
            let interval = interval(&[(value, uncertainty); 10]);
            let trust = interval.trust(Metric::E2el).unwrap();
            assert_eq!(
                trust.is_trusted(P50),
                trusted,
                "{value} ms, {uncertainty} ms: {:?}",
                trust.error_ms(P50)
            );
        }
        assert!(Interval::default().trust(Metric::E2el).unwrap().is_trusted(P50), "without samples");
        assert!(Interval::default().trust(Metric::Close).is_none(), "not a primary metric");
    }

    #[test]
    fn an_excuse_counts_for_half_of_the_queries_at_most() {
        for (excused, low) in [(5, 900.0), (6, 400.0)] {
            let mut interval = Interval::default();
            for n in 0..10 {
                let unexcused = if n < excused { 500 * MS } else { 0 };
                interval.record_bounded(Metric::E2el, BoundedSample::at_most(900 * MS, 0, Some(unexcused)));
                interval.count(|counts| {
                    counts.queries += 1;
                    counts.faulted += u64::from(n < excused);
                });
            }
            let (found, _) = interval.trust(Metric::E2el).unwrap().span_ms(P50).unwrap();
            assert!((found - low).abs() < 2.0, "{excused}: {found}");
        }
    }

    proptest! {
        /// The percentile of the true values lies between those of the bounds, and merging changes nothing.
        #[test]
        fn the_truth_lies_between_the_bounds(
            samples in prop::collection::vec((0i64..5_000, 0i64..300, 0.0f64..=1.0), 1..200), percent in 1.0f64..99.0,
        ) {
            let mut truth = Distribution::default();
            let bounded: Vec<_> = samples.iter().map(|&(value, uncertainty, share)| {
                #[allow(clippy::cast_possible_truncation, clippy::cast_precision_loss)]
                truth.record((value * MS) - ((uncertainty * MS) as f64 * share) as i64);
                (value, uncertainty)
            }).collect();
            let all = interval(&bounded);
            let (a, b) = bounded.split_at(bounded.len() / 2);
            let mut merged = interval(a);
            merged.merge(&interval(b));
            prop_assert_eq!(&merged, &all);
            let (low, high) = all.trust(Metric::E2el).unwrap().span_ms(Statistic::Percentile(percent)).unwrap();
            let truth = truth.quantile_ms(percent / 100.0).unwrap();
            prop_assert!(low <= truth + 1e-9 && truth <= high + 1e-9, "{low} {truth} {high}");
        }
    }
}
