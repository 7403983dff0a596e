//! What a stretch of the run measured: a distribution a metric.
//! A worker fills one a second and hands it over; it never grows with the length of a run.

use super::{Counts, Distribution, Metric, goodput, goodput::Objective};
use crate::record::QueryRecord;

/// Distributions of every metric, over a second or over the whole run.
#[derive(Clone, Debug, PartialEq)]
pub struct Interval {
    metrics: Box<[Distribution; Metric::COUNT]>,
    counts: Counts,
}

impl Default for Interval {
    fn default() -> Self {
        let metrics = Box::new(std::array::from_fn(|_| Distribution::default()));
        Self { metrics, counts: Counts::default() }
    }
}

impl Interval {
    /// Takes one value, in nanoseconds.
    pub fn record(&mut self, metric: Metric, ns: i64) {
        self.metrics[metric as usize].record(ns);
    }

    /// Forgets every value, keeps the memory.
    pub fn clear(&mut self) {
        self.metrics.iter_mut().for_each(Distribution::clear);
        self.counts = Counts::default();
    }

    /// Takes all of `other`.
    pub fn merge(&mut self, other: &Self) {
        for (into, from) in self.metrics.iter_mut().zip(other.metrics.iter()) {
            into.merge(from);
        }
        self.counts.merge(&other.counts);
    }

    /// A query ended, and was to meet these objectives.
    pub fn query_ended(&mut self, query: &QueryRecord, objectives: &[Objective]) {
        self.counts.query_ended(query, goodput::is_good(query, objectives));
    }

    /// A socket is about to be opened again.
    pub const fn reconnect_attempt(&mut self) {
        self.counts.reconnect_attempts += 1;
    }

    /// A socket was opened again.
    pub const fn reconnected(&mut self) {
        self.counts.reconnects += 1;
    }

    /// What was counted.
    #[must_use]
    pub const fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Counts by hand.
    #[cfg(test)]
    pub(crate) fn count(&mut self, change: impl FnOnce(&mut Counts)) {
        change(&mut self.counts);
    }

    /// Tokens that came: the first of every query by its end, the others as they came.
    #[must_use]
    pub fn tokens(&self) -> u64 {
        self.get(Metric::Itl).count() + self.counts.begun
    }

    /// The distribution of one metric.
    #[must_use]
    pub fn get(&self, metric: Metric) -> &Distribution {
        &self.metrics[metric as usize]
    }

    /// Nothing was recorded.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.counts == Counts::default() && self.metrics.iter().all(|distribution| distribution.count() == 0)
    }
}
