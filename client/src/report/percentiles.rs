//! Percentiles out of the run's interval log: of every second, and of the whole run, by merging.
//! It averages nothing, and a line that cannot be read is passed over.

use base64::{Engine, engine::general_purpose::STANDARD};
use hdrhistogram::{
    Histogram,
    serialization::{
        Deserializer,
        interval_log::{IntervalLogIterator, LogEntry},
    },
};
use std::{collections::BTreeMap, fs, path::Path};

/// What the page shows of a metric.
pub(super) const WANTED: [&str; 4] = ["ttft", "itl", "e2el", "delivery"];

/// A second's percentiles, in milliseconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Second {
    pub(super) at: f64,
    pub(super) p50: f64,
    pub(super) p95: f64,
    pub(super) p99: f64,
}

/// A metric over the run.
#[derive(Debug)]
pub(super) struct Latency {
    pub(super) seconds: Vec<Second>,
    whole: Histogram<u64>,
}

/// Metrics by name.
pub(super) type Latencies = BTreeMap<String, Latency>;

/// Reads the log; nothing where there is none.
pub(super) fn read(path: &Path) -> Latencies {
    let mut latencies = Latencies::new();
    let Ok(log) = fs::read(path) else { return latencies };
    let mut deserializer = Deserializer::new();
    // A line at a time, so that a broken one costs no other.
    for line in log.split_inclusive(|&byte| byte == b'\n').filter(|line| line.first() != Some(&b'#')) {
        let mut entries = IntervalLogIterator::new(line);
        let Some(Ok(LogEntry::Interval(entry))) = entries.next() else { continue };
        let Some(tag) = entry.tag().map(|tag| tag.as_str()) else { continue };
        if !WANTED.contains(&tag) {
            continue;
        }
        let Ok(bytes) = STANDARD.decode(entry.encoded_histogram()) else { continue };
        let Ok(histogram) = deserializer.deserialize::<u64, _>(&mut bytes.as_slice()) else { continue };
        let whole = || Histogram::new(3).ok();
        if !latencies.contains_key(tag) {
            let Some(whole) = whole() else { continue };
            latencies.insert(tag.to_owned(), Latency { seconds: Vec::new(), whole });
        }
        if let Some(latency) = latencies.get_mut(tag) {
            latency.add(entry.start_timestamp().as_secs_f64(), &histogram);
        }
    }
    latencies
}

impl Latency {
    fn add(&mut self, at: f64, histogram: &Histogram<u64>) {
        let ms = |quantile| to_ms(histogram.value_at_quantile(quantile));
        self.seconds.push(Second { at, p50: ms(0.5), p95: ms(0.95), p99: ms(0.99) });
        // Bounds differ only in files of other programs; those have no curve.
        let _ = self.whole.add(histogram);
    }

    /// (log10 of 1 / (1 − quantile), milliseconds), as far as there are samples.
    pub(super) fn curve(&self) -> Vec<(f64, f64)> {
        #[allow(clippy::cast_precision_loss)]
        let most = (self.whole.len().max(1) as f64).log10().min(6.0);
        let steps = 120;
        let point = |step: u32| {
            let x = most * f64::from(step) / f64::from(steps);
            (x, to_ms(self.whole.value_at_quantile(1.0 - 10f64.powf(-x))))
        };
        (0..=steps).map(point).collect()
    }
}

#[allow(clippy::cast_precision_loss)]
fn to_ms(ns: u64) -> f64 {
    ns as f64 / 1e6
}
