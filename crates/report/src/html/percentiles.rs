//! Percentiles from the histogram log of a run: of every second, and of the whole run by merging.
//! Reads one line at a time and skips lines that cannot be read.

use super::downsample::{Aggregation, Downsampled, Line};
use base64::{Engine, engine::general_purpose::STANDARD};
use hdrhistogram::{
    Histogram,
    serialization::{
        Deserializer,
        interval_log::{IntervalLogIterator, LogEntry},
    },
};
use measure::Hop;
use std::{
    collections::BTreeMap,
    fs::File,
    io::{BufRead, BufReader, Read},
    path::Path,
};

/// Longest line that is read, in bytes. A histogram with every possible value takes less.
const LONGEST_LINE: u64 = 4 << 20;

/// Metrics with charts in the section on latency. Those of the hops have a section of their own.
pub(super) const WANTED: [&str; 4] = ["ttft", "itl", "e2el", "delivery"];

/// Percentiles of a metric over the run.
#[derive(Debug)]
pub(super) struct Latency {
    /// p50, p95 and p99 of the seconds, in milliseconds.
    bands: [Downsampled; 3],
    /// Means of the seconds, in milliseconds.
    means: Downsampled,
    whole: Histogram<u64>,
}

/// Metrics by name.
pub(super) type Latencies = BTreeMap<String, Latency>;

/// Reads the log. Returns nothing if there is no log.
pub(super) fn read(path: &Path) -> Latencies {
    let mut latencies = Latencies::new();
    let Ok(log) = File::open(path) else { return latencies };
    let mut deserializer = Deserializer::new();
    let (mut log, mut line) = (BufReader::new(log), Vec::new());
    // Read line by line, so that a broken line does not affect others and a long log needs little memory.
    while let Some(line) = next_line(&mut log, &mut line) {
        if line.first() == Some(&b'#') {
            continue;
        }
        let mut entries = IntervalLogIterator::new(line);
        let Some(Ok(LogEntry::Interval(entry))) = entries.next() else { continue };
        let Some(tag) = entry.tag().map(|tag| tag.as_str()) else { continue };
        if !WANTED.contains(&tag) && !Hop::ALL.iter().any(|hop| hop.metric().name() == tag) {
            continue;
        }
        let Ok(bytes) = STANDARD.decode(entry.encoded_histogram()) else { continue };
        let Ok(histogram) = deserializer.deserialize::<u64, _>(&mut bytes.as_slice()) else { continue };
        let whole = || Histogram::new(3).ok();
        if !latencies.contains_key(tag) {
            let Some(whole) = whole() else { continue };
            latencies.insert(
                tag.to_owned(),
                Latency {
                    bands: [(); 3].map(|()| Downsampled::new(Aggregation::Highest)),
                    means: Downsampled::new(Aggregation::Mean),
                    whole,
                },
            );
        }
        if let Some(latency) = latencies.get_mut(tag) {
            latency.add(entry.start_timestamp().as_secs_f64(), &histogram);
        }
    }
    latencies
}

/// Reads the next line, up to the longest length. Returns `None` at the end of the log.
fn next_line<'a>(log: &mut impl BufRead, line: &'a mut Vec<u8>) -> Option<&'a [u8]> {
    line.clear();
    let read = log.take(LONGEST_LINE).read_until(b'\n', line).ok()?;
    (read > 0).then_some(line.as_slice())
}

impl Latency {
    fn add(&mut self, at: f64, histogram: &Histogram<u64>) {
        for (band, quantile) in self.bands.iter_mut().zip([0.5, 0.95, 0.99]) {
            band.push(at, to_ms(histogram.value_at_quantile(quantile)));
        }
        self.means.push(at, histogram.mean() / 1e6);
        // Bounds differ only in files of other programs. Those get no curve.
        let _ = self.whole.add(histogram);
    }

    /// Returns p50, p95 and p99 of each second in milliseconds.
    pub(super) fn bands(&self) -> [Line; 3] {
        self.bands.each_ref().map(Downsampled::line)
    }

    /// Returns the mean of each second in milliseconds.
    pub(super) fn means(&self) -> Line {
        self.means.line()
    }

    /// Returns points (log10 of 1 / (1 − quantile), milliseconds), up to the highest quantile that the samples determine.
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
