//! What a stretch of the run measured: a distribution a metric.
//! A worker fills one a second and hands it over; it never grows with the length of a run.

use super::{Distribution, Metric};

/// Distributions of every metric, over a second or over the whole run.
#[derive(Clone, Debug, PartialEq)]
pub struct Interval {
    metrics: Box<[Distribution; Metric::COUNT]>,
}

impl Default for Interval {
    fn default() -> Self {
        Self { metrics: Box::new(std::array::from_fn(|_| Distribution::default())) }
    }
}

impl Interval {
    /// Takes one value, in nanoseconds.
    pub fn record(&mut self, metric: Metric, ns: i64) {
        self.metrics[metric as usize].record(ns);
    }

    /// Takes all of `other`.
    pub fn merge(&mut self, other: &Self) {
        for (into, from) in self.metrics.iter_mut().zip(other.metrics.iter()) {
            into.merge(from);
        }
    }

    /// The distribution of one metric.
    #[must_use]
    pub fn get(&self, metric: Metric) -> &Distribution {
        &self.metrics[metric as usize]
    }

    /// Nothing was recorded.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.metrics.iter().all(|distribution| distribution.count() == 0)
    }
}
