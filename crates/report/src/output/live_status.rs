//! Status of a run that the collector publishes every second for the live view. Results never come from it.

use measure::{
    Distribution, Hop, Interval, Metric, QueryCounts, RunData, Statistic, TokenCounts, defects::Defects,
    threshold::Outcome,
};
use parking_lot::Mutex;
use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

/// Number of seconds of which the live view shows percentiles.
pub const LIVE_WINDOW_SECONDS: usize = 5;
/// Number of seconds in the charts.
const SHOWN_SECONDS: usize = 300;
/// Durations of which the live view shows percentiles.
pub const LIVE_METRICS: [Metric; 4] = [Metric::Ttft, Metric::Itl, Metric::E2el, Metric::Delivery];
const QUANTILES: [f64; 3] = [0.5, 0.95, 0.99];

/// Time between two publications of the sums if no second ends.
const WITHOUT_SECONDS: Duration = Duration::from_secs(2);

/// The live status, shared between the collector and the live view.
pub type SharedStatus = Arc<Mutex<LiveStatus>>;

/// Status of a run.
#[derive(Clone, Debug, Default)]
pub struct LiveStatus {
    /// Tokens of the queries that ended.
    pub tokens: TokenCounts,
    /// Defects in the queries that ended.
    pub defects: Defects,
    /// Queries that ended.
    pub queries: QueryCounts,
    /// p50, p95 and p99 of each of [`LIVE_METRICS`] over the last seconds, milliseconds.
    pub recent: [Option<[f64; 3]>; LIVE_METRICS.len()],
    /// Whether each of these percentiles cannot be trusted, over the run so far.
    pub untrusted: [[bool; 3]; LIVE_METRICS.len()],
    /// Mean time of sampled tokens by hop over the last seconds, milliseconds. `None` for a hop without samples.
    pub hops: [Option<f64>; Hop::COUNT],
    /// Tokens of each of the last seconds, the present one last.
    pub tokens_by_second: VecDeque<u64>,
    /// p95 of `ttft_ms` of the same seconds. `None` for seconds in which no query ended.
    pub ttft_by_second: VecDeque<Option<f64>>,
    /// Attempts to reconnect.
    pub reconnect_attempts: u64,
    /// Attempts to reconnect that succeeded.
    pub reconnects: u64,
    /// Failures by kind and code, the most frequent first.
    pub failures: Vec<(String, u64)>,
    /// Outcomes that the thresholds of the user would have if the run ended now.
    pub thresholds: Vec<Outcome>,
}

/// Computes the status from the seconds and sums of the collector.
#[derive(Debug, Default)]
pub(super) struct StatusPublisher {
    shared_status: SharedStatus,
    seconds: VecDeque<[Distribution; LIVE_METRICS.len()]>,
    /// Sums in nanoseconds and numbers of samples by hop.
    hops: VecDeque<[(i128, u64); Hop::COUNT]>,
    tokens: VecDeque<u64>,
    ttft: VecDeque<Option<f64>>,
    counted: (u64, u64),
    next: u64,
    /// Time of the last publication. `None` if a second has ended since.
    published: Option<Instant>,
}

impl StatusPublisher {
    pub(super) fn new(shared_status: SharedStatus) -> Self {
        Self { shared_status, ..Self::default() }
    }

    /// Adds a second that has ended.
    pub(super) fn second(&mut self, second: u64, interval: &Interval) {
        // Seconds without measurements have no interval.
        let empty = second.saturating_sub(self.next).min(SHOWN_SECONDS as u64);
        self.next = second + 1;
        for _ in 0..empty {
            push(&mut self.tokens, 0, SHOWN_SECONDS);
            push(&mut self.ttft, None, SHOWN_SECONDS);
            push(&mut self.seconds, Default::default(), LIVE_WINDOW_SECONDS);
            push(&mut self.hops, Default::default(), LIVE_WINDOW_SECONDS);
        }
        push(&mut self.tokens, interval.tokens(), SHOWN_SECONDS);
        push(&mut self.ttft, interval.get(Metric::Ttft).quantile_ms(0.95), SHOWN_SECONDS);
        push(&mut self.seconds, LIVE_METRICS.map(|metric| interval.get(metric).clone()), LIVE_WINDOW_SECONDS);
        let sums = Hop::ALL.map(|hop| interval.get(hop.metric())).map(|hop| (hop.sum_ns(), hop.count()));
        push(&mut self.hops, sums, LIVE_WINDOW_SECONDS);
        let counts = interval.counts();
        self.counted.0 += counts.reconnect_attempts;
        self.counted.1 += counts.reconnects;
        self.published = None;
    }

    /// Returns whether to publish now.
    pub(super) fn is_due(&self) -> bool {
        self.published.is_none_or(|at| at.elapsed() >= WITHOUT_SECONDS)
    }

    /// Returns the status that was published last.
    pub(super) fn published(&self) -> LiveStatus {
        self.shared_status.lock().clone()
    }

    /// Publishes the status.
    pub(super) fn publish(&mut self, run: &RunData, thresholds: Vec<Outcome>) {
        let live_status = LiveStatus {
            tokens: run.tokens,
            defects: run.defects.clone(),
            queries: run.queries,
            recent: std::array::from_fn(|at| self.percentiles(at)),
            untrusted: LIVE_METRICS.map(|metric| {
                QUANTILES
                    .map(|quantile| !run.metrics.is_trusted(metric, Statistic::Percentile(quantile * 100.0)))
            }),
            hops: std::array::from_fn(|hop| self.mean_in_hop(hop)),
            tokens_by_second: self.tokens.clone(),
            ttft_by_second: self.ttft.clone(),
            reconnect_attempts: self.counted.0,
            reconnects: self.counted.1,
            failures: run.failures.by_count().into_iter().map(|(name, group)| (name, group.count)).collect(),
            thresholds,
        };
        *self.shared_status.lock() = live_status;
        self.published = Some(Instant::now());
    }

    #[allow(clippy::cast_precision_loss)]
    fn mean_in_hop(&self, hop: usize) -> Option<f64> {
        let sum: i128 = self.hops.iter().map(|second| second[hop].0).sum();
        let count: u64 = self.hops.iter().map(|second| second[hop].1).sum();
        (count > 0).then(|| sum as f64 / count as f64 / 1e6)
    }

    fn percentiles(&self, at: usize) -> Option<[f64; 3]> {
        let mut merged = Distribution::default();
        self.seconds.iter().for_each(|second| merged.merge(&second[at]));
        let [p50, p95, p99] = QUANTILES.map(|quantile| merged.quantile_ms(quantile));
        Some([p50?, p95?, p99?])
    }
}

fn push<T>(queue: &mut VecDeque<T>, value: T, most: usize) {
    if queue.len() == most {
        queue.pop_front();
    }
    queue.push_back(value);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_seconds_alone_have_percentiles() {
        let mut publisher = StatusPublisher::default();
        for second in [0, 1, 2, 9] {
            let mut interval = Interval::default();
            interval.record(Metric::Ttft, 1_000_000 * (i64::try_from(second).unwrap() + 1));
            interval.record(Metric::HopGateway, 2_000_000 * (i64::try_from(second).unwrap() + 1));
            interval.token();
            publisher.second(second, &interval);
        }
        assert!(publisher.is_due());
        publisher.publish(&RunData::default(), Vec::new());
        let live_status = publisher.shared_status.lock().clone();
        let near = live_status.recent[0].unwrap();
        assert!(near.iter().all(|ms| (ms - 10.0).abs() < 0.1), "{near:?}");
        assert_eq!(live_status.recent[1], None);
        assert_eq!(live_status.hops, [None, None, Some(20.0), None]);
        assert_eq!(live_status.tokens_by_second, [1, 1, 1, 0, 0, 0, 0, 0, 0, 1]);
        let measured: Vec<_> = live_status.ttft_by_second.iter().map(Option::is_some).collect();
        assert_eq!(measured, [true, true, true, false, false, false, false, false, false, true]);
        assert!(!publisher.is_due());
        publisher.second(10, &Interval::default());
        assert!(publisher.is_due(), "a second that is over is shown at once");
    }

    #[test]
    fn a_queue_keeps_its_last() {
        let mut queue = VecDeque::new();
        (0..5).for_each(|n| push(&mut queue, n, 3));
        assert_eq!(queue, [2, 3, 4]);
    }
}
