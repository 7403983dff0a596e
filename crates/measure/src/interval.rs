//! Measurements of a second, a window or the run: one distribution per metric, and counts.
//! A worker fills one interval per second. Its size does not depend on the length of the run.

use super::{
    Distribution, Hop, HopSplit, ImpossibleTimes, IntervalCounts, Metric, Statistic,
    bounds::{BoundedSample, Bounds, Trust},
    goodput,
    goodput::Objective,
};
use crate::{defects::Defects, record::QueryRecord};
use serde::{Deserialize, Serialize};

/// Distributions of every metric, over a second or over the whole run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    metrics: Box<[Distribution; Metric::COUNT]>,
    /// Bounds of the primary metrics.
    bounds: Box<[Bounds; Metric::PRIMARY.len()]>,
    counts: IntervalCounts,
    /// What `ttft` and `e2el` of the complete queries would be if nothing were late, by the drawn schedule.
    ideal: Box<[Distribution; 2]>,
}

impl Default for Interval {
    fn default() -> Self {
        let metrics = Box::new(std::array::from_fn(|_| Distribution::default()));
        let bounds = Box::new(std::array::from_fn(|_| Bounds::default()));
        Self { metrics, bounds, counts: IntervalCounts::default(), ideal: Box::default() }
    }
}

impl Interval {
    /// Records a value without uncertainty, in nanoseconds.
    pub fn record(&mut self, metric: Metric, ns: i64) {
        self.record_bounded(metric, BoundedSample::exact(ns));
    }

    /// Records a value with its bounds.
    pub fn record_bounded(&mut self, metric: Metric, sample: BoundedSample) {
        self.metrics[metric as usize].record(sample.value);
        if let Some(primary) = metric.primary() {
            self.bounds[primary].record(metric, sample);
        }
    }

    /// Records the time of a sampled token by hop.
    pub fn record_hops(&mut self, split: Result<HopSplit, ImpossibleTimes>) {
        let Ok(split) = split else {
            self.counts.hops_impossible = self.counts.hops_impossible.saturating_add(1);
            return;
        };
        self.counts.hops_clamped += u64::from(split.clamped);
        for (hop, us) in Hop::ALL.into_iter().zip(split.us) {
            if let Some(us) = us {
                self.record(hop.metric(), i64::try_from(us).unwrap_or(i64::MAX).saturating_mul(1_000));
            }
        }
    }

    /// Records what `ttft` and `e2el` of a query would be if nothing were late, in nanoseconds.
    pub(crate) fn record_ideal(&mut self, ttft: Option<i64>, e2el: Option<i64>) {
        for (distribution, ideal) in self.ideal.iter_mut().zip([ttft, e2el]) {
            ideal.into_iter().for_each(|ns| distribution.record(ns));
        }
    }

    /// Returns the distribution of the ideal `ttft` of complete queries. Empty if the system does not announce it.
    pub(crate) fn ideal_ttft(&self) -> &Distribution {
        &self.ideal[0]
    }

    /// Returns the distribution of the ideal `e2el` of complete queries. Empty if the system does not announce it.
    pub(crate) fn ideal_e2el(&self) -> &Distribution {
        &self.ideal[1]
    }

    /// Removes all values and keeps the allocated memory.
    pub fn clear(&mut self) {
        self.metrics.iter_mut().for_each(Distribution::clear);
        self.bounds.iter_mut().for_each(Bounds::clear);
        self.ideal.iter_mut().for_each(Distribution::clear);
        self.counts = IntervalCounts::default();
    }

    /// Merges `other` into this interval.
    pub fn merge(&mut self, other: &Self) {
        for (into, from) in self.metrics.iter_mut().zip(other.metrics.iter()) {
            into.merge(from);
        }
        for (into, from) in self.bounds.iter_mut().zip(other.bounds.iter()) {
            into.merge(from);
        }
        for (into, from) in self.ideal.iter_mut().zip(other.ideal.iter()) {
            into.merge(from);
        }
        self.counts.merge(&other.counts);
    }

    /// Adds a query that ended. `objectives` decide whether it counts as goodput.
    pub fn query_ended(&mut self, query: &QueryRecord, objectives: &[Objective]) {
        self.counts.query_ended(query, goodput::is_good(query, objectives));
    }

    /// Adds the defects of a session that belong to none of its queries.
    pub fn session_ended(&mut self, defects: &Defects) {
        self.counts.session_ended(defects);
    }

    /// Adds time for which sessions were open and queries running, in nanoseconds, summed over all of them.
    pub const fn active(&mut self, session_ns: u64, query_ns: u64) {
        self.counts.session_ns += session_ns;
        self.counts.query_ns += query_ns;
    }

    /// Adds time for which sessions were created or opened their first socket, in nanoseconds, summed over all of them.
    pub const fn opening(&mut self, ns: u64) {
        self.counts.opening_ns += ns;
    }

    /// Counts an arrival that found every session busy.
    pub const fn arrival_dropped(&mut self) {
        self.counts.arrivals_dropped += 1;
    }

    /// Counts an attempt to reconnect.
    pub const fn reconnect_attempt(&mut self) {
        self.counts.reconnect_attempts += 1;
    }

    /// Counts a successful reconnect.
    pub const fn reconnected(&mut self) {
        self.counts.reconnects += 1;
    }

    /// Returns the counts.
    #[must_use]
    pub const fn counts(&self) -> &IntervalCounts {
        &self.counts
    }

    /// Changes the counts directly, for tests.
    #[cfg(test)]
    pub(crate) fn count(&mut self, change: impl FnOnce(&mut IntervalCounts)) {
        change(&mut self.counts);
    }

    /// Counts a token that arrived for the first time.
    pub const fn token(&mut self) {
        self.counts.tokens += 1;
    }

    /// Returns the number of tokens that arrived, including those of failed queries.
    #[must_use]
    pub const fn tokens(&self) -> u64 {
        self.counts.tokens
    }

    /// Returns the distribution of a metric.
    #[must_use]
    pub fn get(&self, metric: Metric) -> &Distribution {
        &self.metrics[metric as usize]
    }

    /// Returns how far the figures of a primary metric can be trusted, or `None` for other metrics. Planned faults excuse the
    /// simulator only if they concern at most half of the queries.
    #[must_use]
    pub fn trust(&self, metric: Metric) -> Option<Trust<'_>> {
        Some(self.bounds(metric)?.trust(self.get(metric), self.counts.excuses_simulator()))
    }

    /// Returns whether a figure can be trusted. Figures of metrics that are not primary always are.
    #[must_use]
    pub fn is_trusted(&self, metric: Metric, statistic: Statistic) -> bool {
        self.trust(metric).is_none_or(|trust| trust.is_trusted(statistic))
    }

    /// Returns the number of figures of primary metrics that cannot be trusted.
    #[must_use]
    pub fn untrusted_figures(&self) -> usize {
        let trusts = Metric::PRIMARY.iter().filter_map(|&metric| self.trust(metric));
        trusts.map(|trust| trust.untrusted().len()).sum()
    }

    /// Returns the bounds of a primary metric.
    pub(super) fn bounds(&self, metric: Metric) -> Option<&Bounds> {
        metric.primary().map(|primary| &self.bounds[primary])
    }

    /// Returns the distribution of the lower bounds of a primary metric.
    #[must_use]
    pub fn low(&self, metric: Metric) -> Option<&Distribution> {
        self.bounds(metric).map(Bounds::low)
    }

    /// Returns whether nothing was recorded.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.counts == IntervalCounts::default()
            && self.metrics.iter().all(|distribution| distribution.count() == 0)
    }
}
