//! The metrics of a program that serves, and their text for Prometheus.

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric, text::encode},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
    registry::Registry,
};
use std::fmt;

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

/// A value that is read at each scrape: name, help and value.
#[derive(Clone, Copy, Debug)]
pub enum Reading {
    /// A counter.
    Counter(&'static str, &'static str, u64),
    /// A gauge.
    Gauge(&'static str, &'static str, i64),
}

struct Readings<F>(F);

impl<F> fmt::Debug for Readings<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Readings")
    }
}

impl<F: Fn() -> Vec<Reading> + Send + Sync + 'static> Collector for Readings<F> {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for reading in (self.0)() {
            match reading {
                Reading::Counter(name, help, value) => ConstCounter::new(value)
                    .encode(encoder.encode_descriptor(name, help, None, MetricType::Counter)?)?,
                Reading::Gauge(name, help, value) => ConstGauge::new(value)
                    .encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)?,
            }
        }
        Ok(())
    }
}

/// Renders the text of `/metrics`.
#[derive(Debug)]
pub struct Exporter(Registry);

impl Exporter {
    /// Creates the exporter of the metrics in `registry` and of the values that `read` returns at each scrape.
    pub fn new(mut registry: Registry, read: impl Fn() -> Vec<Reading> + Send + Sync + 'static) -> Self {
        registry.register_collector(Box::new(Readings(read)));
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
