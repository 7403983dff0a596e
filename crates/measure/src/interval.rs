//! What a stretch of the run measured: a distribution a metric.
//! A worker fills one a second and hands it over; it never grows with the length of a run.

use super::{
    Distribution, IntervalCounts, Metric, Statistic,
    bounds::{BoundedSample, Bounds, Trust},
    goodput,
    goodput::Objective,
};
use crate::{defects::Defects, record::QueryRecord};

/// Distributions of every metric, over a second or over the whole run.
#[derive(Clone, Debug, PartialEq)]
pub struct Interval {
    metrics: Box<[Distribution; Metric::COUNT]>,
    /// Of the primary metrics.
    bounds: Box<[Bounds; Metric::PRIMARY.len()]>,
    counts: IntervalCounts,
}

impl Default for Interval {
    fn default() -> Self {
        let metrics = Box::new(std::array::from_fn(|_| Distribution::default()));
        let bounds = Box::new(std::array::from_fn(|_| Bounds::default()));
        Self { metrics, bounds, counts: IntervalCounts::default() }
    }
}

impl Interval {
    /// Takes one value that is known exactly, in nanoseconds.
    pub fn record(&mut self, metric: Metric, ns: i64) {
        self.record_bounded(metric, BoundedSample::exact(ns));
    }

    /// Takes one value, and between which values the truth lies.
    pub fn record_bounded(&mut self, metric: Metric, sample: BoundedSample) {
        self.metrics[metric as usize].record(sample.value);
        if let Some(primary) = metric.primary() {
            self.bounds[primary].record(metric, sample);
        }
    }

    /// Forgets every value, keeps the memory.
    pub fn clear(&mut self) {
        self.metrics.iter_mut().for_each(Distribution::clear);
        self.bounds.iter_mut().for_each(Bounds::clear);
        self.counts = IntervalCounts::default();
    }

    /// Takes all of `other`.
    pub fn merge(&mut self, other: &Self) {
        for (into, from) in self.metrics.iter_mut().zip(other.metrics.iter()) {
            into.merge(from);
        }
        for (into, from) in self.bounds.iter_mut().zip(other.bounds.iter()) {
            into.merge(from);
        }
        self.counts.merge(&other.counts);
    }

    /// A query ended, and was to meet these objectives.
    pub fn query_ended(&mut self, query: &QueryRecord, objectives: &[Objective]) {
        self.counts.query_ended(query, goodput::is_good(query, objectives));
    }

    /// A session ended, after all its queries; these defects are none of theirs.
    pub fn session_ended(&mut self, defects: &Defects) {
        self.counts.session_ended(defects);
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
    pub const fn counts(&self) -> &IntervalCounts {
        &self.counts
    }

    /// Counts by hand.
    #[cfg(test)]
    pub(crate) fn count(&mut self, change: impl FnOnce(&mut IntervalCounts)) {
        change(&mut self.counts);
    }

    /// A token arrived for the first time.
    pub const fn token(&mut self) {
        self.counts.tokens += 1;
    }

    /// Tokens that arrived, whatever became of their queries.
    #[must_use]
    pub const fn tokens(&self) -> u64 {
        self.counts.tokens
    }

    /// The distribution of one metric.
    #[must_use]
    pub fn get(&self, metric: Metric) -> &Distribution {
        &self.metrics[metric as usize]
    }

    /// How far the figures of a primary metric can be trusted. A planned fault excuses the simulator for half of the queries at most.
    #[must_use]
    pub fn trust(&self, metric: Metric) -> Option<Trust<'_>> {
        Some(self.bounds(metric)?.trust(self.get(metric), self.counts.excuses_simulator()))
    }

    /// Whether a figure of a metric can be trusted; of one that is not primary it always can.
    #[must_use]
    pub fn is_trusted(&self, metric: Metric, statistic: Statistic) -> bool {
        self.trust(metric).is_none_or(|trust| trust.is_trusted(statistic))
    }

    /// How many figures of the primary metrics cannot be trusted.
    #[must_use]
    pub fn untrusted_figures(&self) -> usize {
        let trusts = Metric::PRIMARY.iter().filter_map(|&metric| self.trust(metric));
        trusts.map(|trust| trust.untrusted().len()).sum()
    }

    /// The bounds of a primary metric's samples.
    pub(super) fn bounds(&self, metric: Metric) -> Option<&Bounds> {
        metric.primary().map(|primary| &self.bounds[primary])
    }

    /// The lower values of a primary metric's samples.
    #[must_use]
    pub fn low(&self, metric: Metric) -> Option<&Distribution> {
        self.bounds(metric).map(Bounds::low)
    }

    /// Nothing was recorded.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.counts == IntervalCounts::default()
            && self.metrics.iter().all(|distribution| distribution.count() == 0)
    }
}
