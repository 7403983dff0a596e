//! Latencies of one run in histograms with fixed bounds, and the delivery of each second. Each latency has a lower and an upper
//! value besides the measured one, because the load program itself may be late. No samples are stored, and percentiles
//! are never averaged.

use hdrhistogram::Histogram;
use std::ops::Range;

/// Longest latency in microseconds. Longer ones are recorded as this value.
const LONGEST_US: u64 = 60_000_000;
const SECOND_US: u64 = 1_000_000;

/// Returns an empty histogram of microseconds, from 1 µs to a minute, with three digits.
pub(crate) fn histogram() -> Histogram<u32> {
    Histogram::new_with_bounds(1, LONGEST_US, 3).expect("these bounds are valid")
}

/// Returns a percentile in milliseconds, or 0 if the histogram is empty.
pub(crate) fn percentile_ms(histogram: &Histogram<u32>, percentile: f64) -> f64 {
    if histogram.is_empty() { 0.0 } else { histogram.value_at_percentile(percentile) as f64 / 1e3 }
}

/// A figure in milliseconds, with the lowest and the highest value that it may have.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Bounded {
    pub(crate) value: f64,
    pub(crate) low: f64,
    pub(crate) high: f64,
}

/// The times of one token, in microseconds of wire time.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Arrival {
    /// When the plan wanted it.
    pub(crate) due_us: u64,
    /// When it was handed to the bus.
    pub(crate) sent_us: u64,
    /// When it was read.
    pub(crate) received_us: u64,
    /// How much earlier it may have arrived: the time since the last poll that did not find it.
    pub(crate) slack_us: u64,
}

impl Arrival {
    /// Returns how late the publisher was.
    const fn lateness_us(&self) -> u64 {
        self.sent_us.saturating_sub(self.due_us)
    }
}

/// Measured delivery times, and their lower values.
#[derive(Debug)]
struct Delivery {
    measured: Histogram<u32>,
    low: Histogram<u32>,
}

impl Delivery {
    fn new() -> Self {
        Self { measured: histogram(), low: histogram() }
    }

    fn record(&mut self, arrival: &Arrival) {
        let took = arrival.received_us.saturating_sub(arrival.sent_us);
        self.measured.saturating_record(took.max(1));
        self.low.saturating_record(took.saturating_sub(arrival.slack_us).max(1));
    }
}

/// Latencies inside the measured window.
#[derive(Debug)]
pub(crate) struct Latency {
    window: Range<u64>,
    /// Received minus sent, of tokens sent inside the window.
    delivery: Delivery,
    /// Time between two tokens of one connection, of tokens received inside the window.
    pub(crate) gap: Histogram<u32>,
    gap_low: Histogram<u32>,
    gap_high: Histogram<u32>,
    /// Delivery of each second of the window.
    seconds: Vec<Delivery>,
}

impl Latency {
    /// Creates empty histograms for `window`, which is in microseconds of wire time.
    pub(crate) fn new(window: Range<u64>) -> Self {
        let seconds = (window.end - window.start).div_ceil(SECOND_US).max(1);
        Self {
            window,
            delivery: Delivery::new(),
            gap: histogram(),
            gap_low: histogram(),
            gap_high: histogram(),
            seconds: (0..seconds).map(|_| Delivery::new()).collect(),
        }
    }

    /// Records a token; `last` is the one before it on its connection. The error of a gap has two parts: both tokens may have
    /// arrived earlier, and both may have been sent late.
    pub(crate) fn received(&mut self, arrival: &Arrival, last: Option<&Arrival>) {
        if self.window.contains(&arrival.sent_us) {
            self.delivery.record(arrival);
            let second = ((arrival.sent_us - self.window.start) / SECOND_US) as usize;
            self.seconds[second].record(arrival);
        }
        if let Some(last) = last.filter(|_| self.window.contains(&arrival.received_us)) {
            let gap = arrival.received_us.saturating_sub(last.received_us);
            let low = gap.saturating_sub(arrival.slack_us + arrival.lateness_us());
            self.gap.saturating_record(gap.max(1));
            self.gap_low.saturating_record(low.max(1));
            self.gap_high.saturating_record((gap + last.slack_us + last.lateness_us()).max(1));
        }
    }

    /// Returns a percentile of the delivery, in milliseconds.
    pub(crate) fn delivery_ms(&self, percentile: f64) -> Bounded {
        let value = percentile_ms(&self.delivery.measured, percentile);
        Bounded { value, low: percentile_ms(&self.delivery.low, percentile), high: value }
    }

    /// Returns a percentile of the gap, in milliseconds.
    pub(crate) fn gap_ms(&self, percentile: f64) -> Bounded {
        let of = |histogram| percentile_ms(histogram, percentile);
        Bounded { value: of(&self.gap), low: of(&self.gap_low), high: of(&self.gap_high) }
    }

    /// Returns by how many milliseconds the median of the delivery grew over the window.
    pub(crate) fn growth_ms(&self) -> Bounded {
        let of = |pick: fn(&Delivery) -> &Histogram<u32>| {
            growth(&self.seconds.iter().map(|second| percentile_ms(pick(second), 50.0)).collect::<Vec<_>>())
        };
        let (value, low) = (of(|second| &second.measured), of(|second| &second.low));
        Bounded { value, low: low.min(value), high: value.max(low) }
    }
}

/// Returns the median of the last third minus the median of the first third.
fn growth(values: &[f64]) -> f64 {
    let third = values.len().div_ceil(3);
    let middle = |values: &[f64]| {
        let mut values = values.to_vec();
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied().unwrap_or(0.0)
    };
    middle(&values[values.len() - third..]) - middle(&values[..third])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_window_counts() {
        let mut latency = Latency::new(1_000_000..3_000_000);
        for (sent, received, last) in [
            (999_999, 1_000_100, Some(950_000)),
            (1_500_000, 1_500_200, Some(1_450_000)),
            (2_999_999, 3_100_000, None),
            (3_000_000, 3_100_000, Some(3_050_000)),
        ] {
            let at = |received_us| Arrival { due_us: sent, sent_us: sent, received_us, slack_us: 0 };
            latency.received(&at(received), last.map(at).as_ref());
        }
        assert_eq!((latency.delivery.measured.len(), latency.gap.len()), (2, 2));
    }

    #[test]
    fn lateness_of_the_load_program_widens_the_bounds() {
        let mut latency = Latency::new(0..10_000_000);
        let first =
            Arrival { due_us: 1_000_000, sent_us: 1_005_000, received_us: 1_020_000, slack_us: 8_000 };
        let next = Arrival { due_us: 1_050_000, sent_us: 1_070_000, received_us: 1_090_000, slack_us: 4_000 };
        latency.received(&next, Some(&first));
        let near = |found: Bounded, expected: [f64; 3]| {
            let found = [found.value, found.low, found.high];
            assert!(
                found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 0.1),
                "{found:?}, not {expected:?}"
            );
        };
        near(latency.delivery_ms(99.0), [20.0, 16.0, 20.0]);
        near(latency.gap_ms(99.0), [70.0, 70.0 - 4.0 - 20.0, 70.0 + 8.0 + 5.0]);
    }

    #[test]
    fn a_queue_that_grows_is_seen_and_one_outlier_is_not() {
        let check = |values: &[f64], expected: f64| assert_eq!(growth(values), expected, "{values:?}");
        check(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0], 6.0);
        check(&[1.0, 1.0, 1.0, 90.0, 1.0, 1.0, 90.0, 1.0, 1.0], 0.0);
        check(&[5.0], 0.0);
        check(&[], 0.0);
    }
}
