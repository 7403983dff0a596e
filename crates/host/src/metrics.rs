//! The metrics of a program that serves, and their text for Prometheus.

use crate::{
    open_files::{open_file_limit, open_files},
    process::Usage,
};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric, NoLabelSet, text::encode},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
    registry::{Registry, Unit},
};
use std::{borrow::Cow, fmt};

/// The content type of `/metrics`.
pub const METRICS_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Declares a struct of metrics, whose clones share them, and its method `register`. Each metric has a line: its field and type, its name
/// without the prefix, its unit if it has one, and its help.
#[macro_export]
macro_rules! metrics {
    ($(#[$doc:meta])* $vis:vis struct $name:ident, $prefix:literal {
        $($field_vis:vis $field:ident: $kind:ty = $metric:literal $(in $unit:ident)?, $help:literal;)*
    }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Default)]
        $vis struct $name { $(#[doc = $help] $field_vis $field: $kind,)* }

        impl $name {
            fn register(&self, registry: &mut prometheus_client::registry::Registry) {
                let own = registry.sub_registry_with_prefix($prefix);
                $($crate::metrics!(@ own, $metric, $help, self.$field.clone() $(, $unit)?);)*
            }
        }
    };
    (@ $own:ident, $metric:literal, $help:literal, $value:expr) => { $own.register($metric, $help, $value) };
    (@ $own:ident, $metric:literal, $help:literal, $value:expr, $unit:ident) => {
        $own.register_with_unit($metric, $help, prometheus_client::registry::Unit::$unit, $value)
    };
}

/// A metric that is read at each scrape.
#[derive(Clone, Debug)]
pub struct Reading {
    name: Cow<'static, str>,
    help: Cow<'static, str>,
    unit: Option<Unit>,
    value: Value,
}

/// The value of a reading.
#[derive(Clone, Debug)]
enum Value {
    Counter(u64),
    /// Counts by the values of one label.
    Counters(&'static str, Vec<(String, u64)>),
    Gauge(f64),
    /// A counter of a duration.
    Seconds(f64),
    /// A gauge of 1 that carries facts as labels.
    Info(Vec<(String, String)>),
    Histogram(HistogramReading),
}

/// A histogram that is kept elsewhere.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HistogramReading {
    /// Sum of all values, in seconds.
    pub sum: f64,
    /// Upper bound in seconds and number of values of each bucket. The last bound is infinite.
    pub buckets: Vec<(f64, u64)>,
}

impl Reading {
    fn new(
        name: impl Into<Cow<'static, str>>,
        help: impl Into<Cow<'static, str>>,
        unit: Option<Unit>,
        value: Value,
    ) -> Self {
        Self { name: name.into(), help: help.into(), unit, value }
    }

    /// Creates a counter.
    pub fn counter(
        name: impl Into<Cow<'static, str>>,
        help: impl Into<Cow<'static, str>>,
        value: u64,
    ) -> Self {
        Self::new(name, help, None, Value::Counter(value))
    }

    /// Creates a counter for each value of a label.
    pub fn counters(
        name: &'static str,
        help: &'static str,
        label: &'static str,
        values: impl IntoIterator<Item = (impl Into<String>, u64)>,
    ) -> Self {
        let values = values.into_iter().map(|(value, count)| (value.into(), count)).collect();
        Self::new(name, help, None, Value::Counters(label, values))
    }

    /// Creates a gauge.
    #[allow(clippy::cast_precision_loss)]
    pub fn gauge(name: &'static str, help: &'static str, value: i64) -> Self {
        Self::new(name, help, None, Value::Gauge(value as f64))
    }

    /// Creates a gauge of a duration in seconds. Its name gets the unit.
    pub fn seconds(name: &'static str, help: &'static str, value: f64) -> Self {
        Self::new(name, help, Some(Unit::Seconds), Value::Gauge(value))
    }

    /// Creates a gauge of 1 with facts as labels.
    pub fn info(name: &'static str, help: &'static str, facts: Vec<(String, String)>) -> Self {
        Self::new(name, help, None, Value::Info(facts))
    }

    /// Creates a gauge of 1 with the settings of this process as labels: those that are not the defaults. `None` without any.
    #[must_use]
    pub fn settings(name: &'static str, settings: &[(String, String)]) -> Option<Self> {
        let help = "1, with the settings that are not the defaults";
        (!settings.is_empty()).then(|| Self::info(name, help, settings.to_vec()))
    }

    /// Creates a histogram of durations in seconds. Its name gets the unit.
    pub fn histogram(
        name: impl Into<Cow<'static, str>>,
        help: impl Into<Cow<'static, str>>,
        histogram: HistogramReading,
    ) -> Self {
        Self::new(name, help, Some(Unit::Seconds), Value::Histogram(histogram))
    }

    fn encode(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let kind = match &self.value {
            Value::Counter(_) | Value::Counters(..) | Value::Seconds(_) => MetricType::Counter,
            Value::Gauge(_) | Value::Info(_) => MetricType::Gauge,
            Value::Histogram(_) => MetricType::Histogram,
        };
        let mut metric = encoder.encode_descriptor(&self.name, &self.help, self.unit.as_ref(), kind)?;
        match &self.value {
            Value::Counter(value) => ConstCounter::new(*value).encode(metric),
            Value::Seconds(value) => ConstCounter::new(*value).encode(metric),
            Value::Gauge(value) => ConstGauge::new(*value).encode(metric),
            Value::Counters(label, values) => values.iter().try_for_each(|(value, count)| {
                let labels = [(*label, value.as_str())];
                ConstCounter::new(*count).encode(metric.encode_family(&labels)?)
            }),
            Value::Info(facts) => ConstGauge::new(1_i64).encode(metric.encode_family(facts)?),
            Value::Histogram(HistogramReading { sum, buckets }) => {
                let count = buckets.iter().map(|(_, count)| count).sum();
                metric.encode_histogram::<NoLabelSet>(*sum, count, buckets, None)
            }
        }
    }
}

struct Readings<F>(F);

impl<F> fmt::Debug for Readings<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Readings")
    }
}

impl<F: Fn() -> Vec<Reading> + Send + Sync + 'static> Collector for Readings<F> {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        (self.0)().iter().try_for_each(|reading| reading.encode(&mut encoder))
    }
}

/// Returns the usual metrics of a process, under the names that most programs have for them.
fn of_this_process() -> Vec<Reading> {
    let (pid, int) = (std::process::id(), |count: u64| i64::try_from(count).unwrap_or(i64::MAX));
    let mut readings = Vec::new();
    if let Ok(usage) = Usage::of(pid) {
        let (cpu, bytes) = (usage.cpu.as_secs_f64(), int(usage.rss_kib.saturating_mul(1024)));
        readings.push(Reading::new(
            "process_cpu",
            "User and system time",
            Some(Unit::Seconds),
            Value::Seconds(cpu),
        ));
        #[allow(clippy::cast_precision_loss)]
        let memory = Value::Gauge(bytes as f64);
        readings.push(Reading::new("process_resident_memory", "Resident memory", Some(Unit::Bytes), memory));
    }
    readings.extend(open_files(pid).map(|open| Reading::gauge("process_open_fds", "Open files", int(open))));
    let limit = open_file_limit(pid)
        .map(|limit| Reading::gauge("process_max_fds", "Limit of open files", int(limit)));
    readings.extend(limit);
    readings
}

/// Renders the text of `/metrics`.
#[derive(Debug)]
pub struct Exporter(Registry);

impl Exporter {
    /// Creates the exporter of the metrics in `registry`, of the values that `read` returns at each scrape, and of this process's CPU time,
    /// memory and open files.
    pub fn new(mut registry: Registry, read: impl Fn() -> Vec<Reading> + Send + Sync + 'static) -> Self {
        registry.register_collector(Box::new(Readings(move || [read(), of_this_process()].concat())));
        Self(registry)
    }

    /// Returns all metrics in OpenMetrics' text form.
    ///
    /// # Panics
    /// Never: a string takes every write.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        encode(&mut text, &self.0).expect("a string takes every write");
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readings_of_every_kind_are_written() {
        let read = || {
            let buckets = vec![(0.5, 2), (f64::INFINITY, 1)];
            vec![
                Reading::counter("things", "Things", 4),
                Reading::counters("errors", "Errors", "kind", [("a\"b", 1), ("c", 2)]),
                Reading::gauge("open", "Open", -3),
                Reading::seconds("age", "Age", 1.5),
                Reading::info("run", "The run", vec![("id".to_owned(), "x".to_owned())]),
                Reading::histogram("took", "Took", HistogramReading { sum: 2.5, buckets }),
            ]
        };
        let text = Exporter::new(Registry::default(), read).text();
        for line in [
            "things_total 4",
            "errors_total{kind=\"a\\\"b\"} 1",
            "errors_total{kind=\"c\"} 2",
            "open -3.0",
            "age_seconds 1.5",
            "run{id=\"x\"} 1",
            "took_seconds_bucket{le=\"0.5\"} 2",
            "took_seconds_bucket{le=\"+Inf\"} 3",
            "took_seconds_sum 2.5",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
        for name in [
            "process_cpu_seconds_total ",
            "process_resident_memory_bytes ",
            "process_open_fds ",
            "process_max_fds ",
        ] {
            assert!(text.contains(&format!("\n{name}")), "{name} is not in\n{text}");
        }
    }
}
