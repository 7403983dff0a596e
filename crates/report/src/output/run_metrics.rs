//! The metrics of a run for Prometheus and OpenTelemetry. The collector publishes them each second; results never come from them.
//! Their names and buckets are listed in docs/observability.md.

use host::{Buckets, Delays, Durations, HistogramReading, Reading};
use measure::{Distribution, Metric, RunData, defects::Defect};
use parking_lot::Mutex;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

/// Shortest time between two publications.
const INTERVAL: Duration = Duration::from_millis(900);

/// The metrics of a run, shared between the collector and those who read them.
#[derive(Clone, Debug, Default)]
pub struct RunMetrics(Arc<Mutex<Vec<Reading>>>);

impl RunMetrics {
    /// Returns the metrics as of the last second. Before the first one, all counts are 0.
    #[must_use]
    pub fn readings(&self) -> Vec<Reading> {
        let known = self.0.lock().clone();
        if known.is_empty() { readings(&RunData::default()) } else { known }
    }
}

/// Publishes the metrics of the collector.
#[derive(Debug)]
pub(super) struct MetricsPublisher {
    metrics: RunMetrics,
    published: Option<Instant>,
}

impl MetricsPublisher {
    pub(super) const fn new(metrics: RunMetrics) -> Self {
        Self { metrics, published: None }
    }

    /// Publishes if a second has passed.
    pub(super) fn publish(&mut self, run: &RunData) {
        if self.published.is_none_or(|at| at.elapsed() >= INTERVAL) {
            self.publish_now(run);
        }
    }

    pub(super) fn publish_now(&mut self, run: &RunData) {
        let readings = readings(run);
        *self.metrics.0.lock() = readings;
        self.published = Some(Instant::now());
    }
}

fn readings(run: &RunData) -> Vec<Reading> {
    let (queries, tokens) = (&run.queries, &run.tokens);
    let statuses = [
        ("ok", queries.ok),
        ("incomplete", queries.incomplete),
        ("timeout", queries.timeout),
        ("error", queries.error),
        ("rejected", queries.rejected),
        ("abandoned", queries.abandoned),
    ];
    let failures = run.failures.by_count().into_iter().map(|(name, group)| (name, group.count));
    let defects = Defect::ALL.map(|defect| (defect.name(), run.defects.count(defect)));
    let counter = |name: &'static str, help: &'static str, value: u64| Reading::counter(name, help, value);
    let mut all = vec![
        Reading::counters("streamstress_queries", "Queries that ended, by status", "status", statuses),
        Reading::counters("streamstress_failures", "Failures, by kind and code", "kind", failures),
        Reading::counters("streamstress_defects", "Defects of events and frames, by kind", "kind", defects),
        counter("streamstress_tokens_expected", "Announced tokens of queries that ended", tokens.expected),
        counter("streamstress_tokens_lost", "Tokens of queries that ended that did not arrive", tokens.lost),
        counter("streamstress_tokens_duplicated", "Tokens that arrived again", tokens.duplicated),
        counter("streamstress_tokens_reordered", "Tokens that arrived out of order", tokens.reordered),
        counter("streamstress_tokens_unsent", "Tokens that an error event cut off", tokens.unsent),
        counter("streamstress_events_replayed", "Events that were sent again as allowed", tokens.replayed),
        counter("streamstress_sessions_failed", "Sessions in which a step failed", run.sessions.broken),
        counter("streamstress_reconnect_attempts", "Attempts to reconnect", run.reconnect_attempts),
        counter("streamstress_reconnects", "Attempts to reconnect that succeeded", run.reconnects_ok),
        counter("streamstress_gaps", "Gaps that the gateway announced", run.announced_gaps),
        counter("streamstress_stalls", "Gaps between tokens above --stall-threshold", run.stall_count),
    ];
    all.extend(Metric::ALL.map(|metric| {
        let name = format!("streamstress_{}", metric.name());
        let help = format!("Distribution of {}", metric.name_ms());
        Reading::histogram(name, help, histogram(run.metrics.get(metric), bounds(metric)))
    }));
    all
}

/// Returns the upper bounds of a metric's buckets, in microseconds.
const fn bounds(metric: Metric) -> &'static [u64] {
    match metric {
        Metric::Ttft
        | Metric::TtftSched
        | Metric::E2el
        | Metric::E2elSched
        | Metric::Tpot
        | Metric::Itl
        | Metric::FrameGap
        | Metric::ReconnectGap
        | Metric::SocketWait => Durations::BOUNDS_US,
        _ => Delays::BOUNDS_US,
    }
}

#[allow(clippy::cast_precision_loss)]
fn histogram(distribution: &Distribution, bounds_us: &[u64]) -> HistogramReading {
    let counts = distribution.counts_by_bucket(bounds_us);
    let bounds = bounds_us.iter().map(|&us| us as f64 / 1e6).chain([f64::INFINITY]);
    HistogramReading { sum: distribution.sum_ns() as f64 / 1e9, buckets: bounds.zip(counts).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use host::Exporter;

    #[test]
    fn counts_and_histograms_have_their_names() {
        let mut run = RunData::default();
        (run.tokens.lost, run.queries.timeout) = (3, 2);
        for ms in [-2, 5, 45, 700_000] {
            run.metrics.record(Metric::Ttft, ms * 1_000_000);
        }
        let metrics = RunMetrics::default();
        MetricsPublisher::new(metrics.clone()).publish(&run);
        let text = Exporter::new(Default::default(), move || metrics.readings()).text();
        for line in [
            "streamstress_tokens_lost_total 3",
            "streamstress_queries_total{status=\"timeout\"} 2",
            "streamstress_ttft_seconds_bucket{le=\"0.001\"} 1",
            "streamstress_ttft_seconds_bucket{le=\"0.005\"} 2",
            "streamstress_ttft_seconds_bucket{le=\"0.06\"} 3",
            "streamstress_ttft_seconds_bucket{le=\"600.0\"} 3",
            "streamstress_ttft_seconds_bucket{le=\"+Inf\"} 4",
            "streamstress_ttft_seconds_count 4",
            "# UNIT streamstress_itl_seconds seconds",
            "streamstress_loop_lag_seconds_count 0",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
    }
}
