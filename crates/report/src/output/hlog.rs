//! Interval histograms in HdrHistogram's own log format: a line a metric and second, tagged by metric.
//! Values are nanoseconds; negative ones have lines of their own, tagged `…_negative`, and lower values of primary metrics `…_low`.

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

/// From the nanoseconds of a line's histogram to the milliseconds of its printed maximum.
const MAX_VALUE_DIVISOR: f64 = 1e6;

/// Writes the log, whole lines at a time.
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
                    self.line(histogram, second, &tag)?;
                }
            }
            if let Some(low) = interval.low(metric).and_then(|low| low.positive()) {
                self.line(low, second, &format!("{}_low", metric.name()))?;
            }
        }
        self.out.flush()
    }

    fn line(&mut self, histogram: &hdrhistogram::Histogram<u64>, second: u64, tag: &str) -> io::Result<()> {
        // With nothing but the divisor, which is told in the log's own header already, so that line is cut off.
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
