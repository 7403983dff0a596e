//! What a stretch of the run measured: a distribution a metric.
//! A worker fills one a second and hands it over; it never grows with the length of a run.

use super::{Distribution, Metric};

/// Distributions of every metric, over a second or over the whole run.
#[derive(Clone, Debug, PartialEq)]
pub struct Interval {
    metrics: Box<[Distribution; Metric::COUNT]>,
    queries_ended: u64,
    queries_failed: u64,
    reconnect_attempts: u64,
    reconnects: u64,
}

impl Default for Interval {
    fn default() -> Self {
        let metrics = Box::new(std::array::from_fn(|_| Distribution::default()));
        Self { metrics, queries_ended: 0, queries_failed: 0, reconnect_attempts: 0, reconnects: 0 }
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
        self.queries_ended = 0;
        self.queries_failed = 0;
        self.reconnect_attempts = 0;
        self.reconnects = 0;
    }

    /// Takes all of `other`.
    pub fn merge(&mut self, other: &Self) {
        for (into, from) in self.metrics.iter_mut().zip(other.metrics.iter()) {
            into.merge(from);
        }
        self.queries_ended += other.queries_ended;
        self.queries_failed += other.queries_failed;
        self.reconnect_attempts += other.reconnect_attempts;
        self.reconnects += other.reconnects;
    }

    /// A query ended.
    pub const fn query_ended(&mut self, ok: bool) {
        self.queries_ended += 1;
        self.queries_failed += (!ok) as u64;
    }

    /// A socket is about to be opened again.
    pub const fn reconnect_attempt(&mut self) {
        self.reconnect_attempts += 1;
    }

    /// A socket was opened again.
    pub const fn reconnected(&mut self) {
        self.reconnects += 1;
    }

    /// Attempts to reconnect.
    #[must_use]
    pub const fn reconnect_attempts(&self) -> u64 {
        self.reconnect_attempts
    }

    /// …of which succeeded. One that was begun in an earlier interval succeeds in a later one.
    #[must_use]
    pub const fn reconnects(&self) -> u64 {
        self.reconnects
    }

    /// Queries that ended.
    #[must_use]
    pub const fn queries_ended(&self) -> u64 {
        self.queries_ended
    }

    /// …of which not ok.
    #[must_use]
    pub const fn queries_failed(&self) -> u64 {
        self.queries_failed
    }

    /// The distribution of one metric.
    #[must_use]
    pub fn get(&self, metric: Metric) -> &Distribution {
        &self.metrics[metric as usize]
    }

    /// Nothing was recorded.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let counted = self.queries_ended + self.reconnect_attempts + self.reconnects;
        counted == 0 && self.metrics.iter().all(|distribution| distribution.count() == 0)
    }
}
