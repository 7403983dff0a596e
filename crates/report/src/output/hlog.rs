//! `_latency.hlog`: histograms in the log format of HdrHistogram, one line per metric and second, tagged with the metric.
//! Values are nanoseconds. Negative values have separate lines with the tag `…_negative`, lower values of primary metrics with
//! the tag `…_low`.

use super::result_file::ResultFile;
use hdrhistogram::serialization::{
    V2DeflateSerializer,
    interval_log::{IntervalLogWriterBuilder, IntervalLogWriterError, Tag},
};
use measure::{Interval, Metric};
use std::{
    io::{self, LineWriter, Write},
    time::{Duration, SystemTime},
};
use time::OffsetDateTime;

/// Divisor from the nanoseconds of a histogram to the milliseconds of the maximum printed in its line.
const MAX_VALUE_DIVISOR: f64 = 1e6;

/// Writes the log in complete lines.
pub(super) struct Hlog<'a> {
    out: LineWriter<&'a mut ResultFile>,
    serializer: V2DeflateSerializer,
    started_at: SystemTime,
}

impl<'a> Hlog<'a> {
    /// Writes the header.
    pub(super) fn new(file: &'a mut ResultFile, started_at: OffsetDateTime) -> io::Result<Self> {
        let mut log = Self {
            out: LineWriter::new(file),
            serializer: V2DeflateSerializer::new(),
            started_at: started_at.into(),
        };
        IntervalLogWriterBuilder::new()
            .add_comment("[Histogram log format version 1.3]")
            .add_comment("values are nanoseconds, a line's maximum is in milliseconds")
            .with_start_time(log.started_at)
            .with_base_time(log.started_at)
            .with_max_value_divisor(MAX_VALUE_DIVISOR)
            .begin_log_with(&mut log.out, &mut log.serializer)?;
        Ok(log)
    }

    /// Writes one second of the run.
    pub(super) fn write(&mut self, second: u64, interval: &Interval) -> io::Result<()> {
        for metric in Metric::ALL {
            let distribution = interval.get(metric);
            let sides = [(distribution.positive(), ""), (distribution.negative(), "_negative")];
            for (histogram, suffix) in sides {
                if let Some(histogram) = histogram {
                    let tag = format!("{}{suffix}", metric.name());
                    self.line(&histogram, second, &tag)?;
                }
            }
            if let Some(low) = interval.low(metric).and_then(|low| low.positive()) {
                self.line(&low, second, &format!("{}_low", metric.name()))?;
            }
        }
        self.out.flush()
    }

    fn line(&mut self, histogram: &hdrhistogram::Histogram<u64>, second: u64, tag: &str) -> io::Result<()> {
        // This writer adds a header with the divisor. The header of the log already contains it, so that line is removed.
        let mut line = Vec::new();
        IntervalLogWriterBuilder::new()
            .with_max_value_divisor(MAX_VALUE_DIVISOR)
            .begin_log_with(&mut line, &mut self.serializer)?
            .write_histogram(histogram, Duration::from_secs(second), Duration::from_secs(1), Tag::new(tag))
            .map_err(|error| match error {
                IntervalLogWriterError::IoError(error) => error,
                IntervalLogWriterError::SerializeError(error) => io::Error::other(error.to_string()),
            })?;
        let header = line.iter().position(|&byte| byte == b'\n').map_or(0, |end| end + 1);
        self.out.write_all(&line[header..])
    }
}
