//! The distribution of one metric: HDR histograms with fixed bounds, and the exact minimum, maximum and sum.
//! Values are never clamped: negative values have a separate histogram, and values beyond the bounds are counted.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// Smallest value that the histogram distinguishes, in nanoseconds.
const LOWEST_NS: u64 = 1_000;
/// Largest value of the histogram: ten minutes, in nanoseconds.
const HIGHEST_NS: u64 = 600_000_000_000;
const DIGITS: u8 = 3;

/// A distribution of signed nanoseconds. Distributions merge exactly. An empty one allocates no histogram.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Distribution {
    #[serde(with = "encoded")]
    positive: Option<Histogram<u64>>,
    /// Histogram of the absolute values of negative samples.
    #[serde(with = "encoded")]
    negative: Option<Histogram<u64>>,
    above: u64,
    below: u64,
    count: u64,
    sum: i128,
    min: i64,
    max: i64,
}

/// The figures of a distribution that every output prints, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Summary {
    /// Number of samples.
    pub count: u64,
    /// Exact mean.
    pub mean: f64,
    /// Exact minimum.
    pub min: f64,
    /// Exact maximum.
    pub max: f64,
    /// 10th percentile, to three significant digits like all percentiles.
    pub p10: f64,
    #[allow(missing_docs)]
    pub p25: f64,
    #[allow(missing_docs)]
    pub p50: f64,
    #[allow(missing_docs)]
    pub p75: f64,
    #[allow(missing_docs)]
    pub p90: f64,
    #[allow(missing_docs)]
    pub p95: f64,
    #[allow(missing_docs)]
    pub p99: f64,
    /// `None` below 1,000 samples.
    pub p99_9: Option<f64>,
}

/// Writes and reads a histogram in HdrHistogram's format V2. A histogram without values is left out.
mod encoded {
    use super::{DIGITS, Histogram, LOWEST_NS, empty};
    use hdrhistogram::serialization::{Deserializer as HistogramReader, Serializer as _, V2Serializer};
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser};

    pub(super) fn serialize<S: Serializer>(
        histogram: &Option<Histogram<u64>>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let mut bytes = Vec::new();
        if let Some(histogram) = histogram.as_ref().filter(|histogram| !histogram.is_empty()) {
            V2Serializer::new().serialize(histogram, &mut bytes).map_err(ser::Error::custom)?;
        }
        bytes.serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Histogram<u64>>, D::Error> {
        let bytes = Vec::<u8>::deserialize(deserializer)?;
        if bytes.is_empty() {
            return Ok(None);
        }
        let read: Histogram<u64> =
            HistogramReader::new().deserialize(&mut bytes.as_slice()).map_err(de::Error::custom)?;
        // Histograms with other buckets cannot be merged exactly.
        let bounds = (read.low(), read.sigfig());
        if bounds == (LOWEST_NS, DIGITS) {
            let mut histogram = empty();
            histogram.add(&read).map_err(de::Error::custom)?;
            Ok(Some(histogram))
        } else {
            Err(de::Error::custom(format!(
                "a histogram has the bounds {bounds:?}: written by another version"
            )))
        }
    }
}

/// Returns a histogram that grows with its largest value, up to that for [`HIGHEST_NS`]. Most values are some milliseconds, for which it
/// needs a fifth of the memory for all values.
fn empty() -> Histogram<u64> {
    let smallest = Histogram::new_with_bounds(LOWEST_NS, 2 * LOWEST_NS, DIGITS);
    let mut histogram = smallest.expect("the bounds are constant and valid");
    histogram.auto(true);
    histogram
}

/// Returns a copy that has room for all values. The stored bytes of a histogram contain its size, which depends on the order of its values.
fn of_full_size(histogram: &Histogram<u64>) -> Histogram<u64> {
    let full = Histogram::new_with_bounds(LOWEST_NS, HIGHEST_NS, DIGITS);
    let mut full = full.expect("the bounds are constant and valid");
    full.add(histogram).expect("no value is beyond the bounds");
    full
}

fn merge(into: &mut Option<Histogram<u64>>, from: Option<&Histogram<u64>>) {
    if let Some(from) = from.filter(|from| !from.is_empty()) {
        into.get_or_insert_with(empty).add(from).expect("equal bounds always add");
    }
}

impl Distribution {
    /// Removes all values and keeps the allocated memory.
    pub fn clear(&mut self) {
        let Self { positive, negative, .. } = std::mem::take(self);
        let kept = |histogram: Option<Histogram<u64>>| {
            histogram.map(|mut histogram| {
                histogram.reset();
                histogram
            })
        };
        (self.positive, self.negative) = (kept(positive), kept(negative));
    }

    /// Records a value in nanoseconds.
    pub fn record(&mut self, ns: i64) {
        (self.min, self.max) = if self.count == 0 { (ns, ns) } else { (self.min.min(ns), self.max.max(ns)) };
        self.count += 1;
        self.sum += i128::from(ns);
        let (side, outside) = if ns < 0 {
            (&mut self.negative, &mut self.below)
        } else {
            (&mut self.positive, &mut self.above)
        };
        if ns.unsigned_abs() > HIGHEST_NS {
            *outside += 1;
        } else {
            side.get_or_insert_with(empty).record(ns.unsigned_abs()).expect("a histogram grows to any value");
        }
    }

    /// Merges `other` into this distribution, bucket by bucket.
    pub fn merge(&mut self, other: &Self) {
        if other.count == 0 {
            return;
        }
        (self.min, self.max) = if self.count == 0 {
            (other.min, other.max)
        } else {
            (self.min.min(other.min), self.max.max(other.max))
        };
        self.count += other.count;
        self.sum += other.sum;
        self.above += other.above;
        self.below += other.below;
        merge(&mut self.positive, other.positive.as_ref());
        merge(&mut self.negative, other.negative.as_ref());
    }

    /// Returns the number of values.
    #[must_use]
    pub const fn count(&self) -> u64 {
        self.count
    }

    /// Returns the exact sum of all values, in nanoseconds.
    #[must_use]
    pub const fn sum_ns(&self) -> i128 {
        self.sum
    }

    /// Returns the number of values beyond ten minutes. They are in no histogram, but in the count, sum, minimum and maximum.
    #[must_use]
    pub const fn outside(&self) -> u64 {
        self.above + self.below
    }

    /// Returns how many values are in each bucket with these upper bounds in microseconds, and in a last one without a bound. Negative
    /// values are in the first bucket. A value near a bound may be in the next bucket, by the precision of three digits.
    #[must_use]
    pub fn counts_by_bucket(&self, bounds_us: &[u64]) -> Vec<u64> {
        let mut counts = vec![0; bounds_us.len() + 1];
        counts[0] = self.below + self.negative.as_ref().map_or(0, Histogram::len);
        for step in self.positive.iter().flat_map(Histogram::iter_recorded) {
            let us = step.value_iterated_to() / 1_000;
            // The end of the histogram's own bucket may lie a little above a bound that all its values are below.
            let bucket = bounds_us.partition_point(|&bound| bound + bound / 1_000 < us);
            counts[bucket] += step.count_at_value();
        }
        counts[bounds_us.len()] += self.above;
        counts
    }

    /// Returns a histogram of the values from 0 up, in nanoseconds. Equal values give equal bytes when it is stored.
    #[must_use]
    pub fn positive(&self) -> Option<Histogram<u64>> {
        self.positive.as_ref().map(of_full_size)
    }

    /// Returns a histogram of the absolute values of negative samples, in nanoseconds, like [`Distribution::positive`].
    #[must_use]
    pub fn negative(&self) -> Option<Histogram<u64>> {
        self.negative.as_ref().map(of_full_size)
    }

    /// Returns the value at `quantile` (0 to 1) in nanoseconds, to three significant digits. `None` without samples.
    #[must_use]
    pub fn quantile_ns(&self, quantile: f64) -> Option<i64> {
        if self.count == 0 {
            return None;
        }
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
        let rank = ((quantile * self.count as f64).ceil() as u64).clamp(1, self.count);
        let negatives = self.negative.as_ref().map_or(0, Histogram::len);
        let value = if rank <= self.below {
            self.min
        } else if rank <= self.below + negatives {
            // The smallest negative value has the largest absolute value, so count ranks from the other end.
            -at_rank(self.negative.as_ref(), negatives + 1 - (rank - self.below))
        } else {
            let positives = self.positive.as_ref().map_or(0, Histogram::len);
            let rank = rank - self.below - negatives;
            if rank <= positives { at_rank(self.positive.as_ref(), rank) } else { self.max }
        };
        Some(value.clamp(self.min, self.max))
    }

    /// Returns the width of the histogram bucket around a value, both in milliseconds.
    #[must_use]
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
    pub fn bucket_ms(&self, ms: f64) -> f64 {
        let side = if ms < 0.0 { &self.negative } else { &self.positive };
        let width =
            |histogram: &Histogram<u64>| histogram.equivalent_range((ms.abs() * 1e6) as u64) as f64 / 1e6;
        side.as_ref().map_or(0.0, width)
    }

    /// Returns the value at `quantile` (0 to 1) in milliseconds. `None` without samples.
    #[must_use]
    pub fn quantile_ms(&self, quantile: f64) -> Option<f64> {
        self.quantile_ns(quantile).map(millis)
    }

    /// Returns the figures that every output prints. `None` without samples.
    #[must_use]
    pub fn summary(&self) -> Option<Summary> {
        let at = |quantile| self.quantile_ms(quantile);
        #[allow(clippy::cast_precision_loss)]
        let mean = self.sum as f64 / self.count.max(1) as f64 / 1e6;
        Some(Summary {
            count: self.count,
            mean,
            min: millis(self.min),
            max: millis(self.max),
            p10: at(0.10)?,
            p25: at(0.25)?,
            p50: at(0.50)?,
            p75: at(0.75)?,
            p90: at(0.90)?,
            p95: at(0.95)?,
            p99: at(0.99)?,
            p99_9: at(0.999).filter(|_| self.count >= 1_000),
        })
    }
}

/// Returns the `rank`-th smallest value, counted from 1.
fn at_rank(histogram: Option<&Histogram<u64>>, rank: u64) -> i64 {
    let Some(histogram) = histogram else { return 0 };
    let mut seen = 0;
    let value = histogram
        .iter_recorded()
        .find(|step| {
            seen += step.count_since_last_iteration();
            seen >= rank
        })
        .map_or_else(|| histogram.max(), |step| step.value_iterated_to());
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[allow(clippy::cast_precision_loss)]
fn millis(ns: i64) -> f64 {
    ns as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(values: &[i64]) -> Distribution {
        let mut distribution = Distribution::default();
        values.iter().for_each(|&value| distribution.record(value));
        distribution
    }

    #[test]
    fn nothing_has_no_figures() {
        assert_eq!(of(&[]).summary(), None);
        assert_eq!(of(&[]).quantile_ns(0.5), None);
    }

    #[test]
    fn negative_values_keep_their_place() {
        let distribution = of(&[-3_000_000, -1_000_000, 0, 2_000_000]);
        let near = |quantile, expected: i64| {
            let value = distribution.quantile_ns(quantile).unwrap();
            assert!((value - expected).abs() <= 3_000, "{quantile}: {value}");
        };
        near(0.0, -3_000_000);
        near(0.25, -3_000_000);
        near(0.5, -1_000_000);
        near(0.75, 0);
        near(1.0, 2_000_000);
        let summary = distribution.summary().unwrap();
        assert_eq!((summary.min, summary.mean, summary.max), (-3.0, -0.5, 2.0));
    }

    #[test]
    fn what_lies_outside_is_counted_and_not_clamped() {
        let hour = 3_600_000_000_000;
        let distribution = of(&[-hour, 5_000_000, hour, hour + 1]);
        assert_eq!((distribution.count(), distribution.outside()), (4, 3));
        assert_eq!(distribution.quantile_ns(0.0), Some(-hour));
        assert_eq!(distribution.quantile_ns(1.0), Some(hour + 1));
    }

    #[test]
    fn buckets_hold_every_value_once() {
        let ms = |ms: i64| ms * 1_000_000;
        let distribution =
            of(&[-ms(3), 0, ms(1), ms(5), ms(5), ms(6), ms(500), ms(4_000_000), -ms(4_000_000)]);
        assert_eq!(distribution.counts_by_bucket(&[1_000, 5_000, 100_000]), [4, 2, 1, 2]);
        assert_eq!(of(&[]).counts_by_bucket(&[1]), [0, 0]);
    }

    #[test]
    fn the_last_percentile_needs_a_thousand_samples() {
        assert_eq!(of(&[1; 999]).summary().unwrap().p99_9, None);
        assert!(of(&[1; 1000]).summary().unwrap().p99_9.is_some());
    }

    #[test]
    fn a_histogram_stays_small() {
        for (largest_ns, limit) in [(1_000_000, 16 << 10), (100_000_000, 80 << 10), (HIGHEST_NS, 200 << 10)] {
            let mut histogram = empty();
            histogram.record(largest_ns).unwrap();
            let bytes = histogram.distinct_values() * size_of::<u64>();
            assert!(bytes <= limit, "{bytes} bytes for {largest_ns} ns, expected at most {limit}");
        }
    }

    fn values() -> impl Strategy<Value = Vec<i64>> {
        let any_size =
            prop_oneof![-2_000_000_000i64..2_000_000_000, -700_000_000_000i64..700_000_000_000, any::<i64>()];
        proptest::collection::vec(any_size, 0..200)
    }

    proptest! {
        #[test]
        fn merged_is_the_histogram_of_the_union(a in values(), b in values()) {
            let mut merged = of(&a);
            merged.merge(&of(&b));
            prop_assert_eq!(merged, of(&[a, b].concat()));
        }

        /// Quantiles have three significant digits above a microsecond of the value at the same rank in the sorted list.
        #[test]
        fn a_quantile_is_near_the_truth(mut values in values(), quantile in 0.0f64..=1.0) {
            prop_assume!(!values.is_empty());
            let found = of(&values).quantile_ns(quantile).unwrap();
            values.sort_unstable();
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
            let rank = ((quantile * values.len() as f64).ceil() as usize).clamp(1, values.len());
            let truth = values[rank - 1];
            if truth.unsigned_abs() <= HIGHEST_NS {
                prop_assert!((found - truth).abs() <= truth.abs() / 900 + 1_024, "{found} {truth}");
            }
        }
    }
}
