//! Latencies of one run in histograms with fixed bounds, and how the delivery went from second to second.
//! It keeps no sample and averages no percentile.

use hdrhistogram::Histogram;
use std::ops::Range;

/// In microseconds: what takes longer counts as this long.
const LONGEST_US: u64 = 60_000_000;
const SECOND_US: u64 = 1_000_000;

/// A histogram of microseconds from 1 µs to a minute, three digits.
pub(crate) fn histogram() -> Histogram<u32> {
    Histogram::new_with_bounds(1, LONGEST_US, 3).expect("these bounds are valid")
}

/// A percentile in milliseconds; 0 where nothing was recorded.
pub(crate) fn percentile_ms(histogram: &Histogram<u32>, percentile: f64) -> f64 {
    if histogram.is_empty() { 0.0 } else { histogram.value_at_percentile(percentile) as f64 / 1e3 }
}

/// What the reader saw inside the measured window.
#[derive(Debug)]
pub(crate) struct Latency {
    window: Range<u64>,
    /// Received − handed to the bus, of tokens handed over inside the window.
    pub(crate) delivery: Histogram<u32>,
    /// Between two tokens of one connection, of tokens received inside the window.
    pub(crate) gap: Histogram<u32>,
    /// The delivery of each second of the window.
    seconds: Vec<Histogram<u32>>,
}

impl Latency {
    /// `window` in microseconds of wire time.
    pub(crate) fn new(window: Range<u64>) -> Self {
        let seconds = (window.end - window.start).div_ceil(SECOND_US).max(1);
        Self {
            window,
            delivery: histogram(),
            gap: histogram(),
            seconds: (0..seconds).map(|_| histogram()).collect(),
        }
    }

    /// A token came.
    pub(crate) fn received(&mut self, sent_us: u64, received_us: u64, last_us: Option<u64>) {
        if self.window.contains(&sent_us) {
            let delivery = received_us.saturating_sub(sent_us).max(1);
            self.delivery.saturating_record(delivery);
            let second = ((sent_us - self.window.start) / SECOND_US) as usize;
            self.seconds[second].saturating_record(delivery);
        }
        if let Some(last_us) = last_us.filter(|_| self.window.contains(&received_us)) {
            self.gap.saturating_record(received_us.saturating_sub(last_us).max(1));
        }
    }

    /// By how many milliseconds the delivery's median grew over the window.
    pub(crate) fn growth_ms(&self) -> f64 {
        growth(&self.seconds.iter().map(|second| percentile_ms(second, 50.0)).collect::<Vec<_>>())
    }
}

/// The middle value of the last third less that of the first third.
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
            latency.received(sent, received, last);
        }
        assert_eq!((latency.delivery.len(), latency.gap.len()), (2, 2));
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
