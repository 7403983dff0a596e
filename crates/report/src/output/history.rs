//! `_history.csv`: one row per second with what ended in it and the percentiles of this second only.
//! Column names are those of Locust where possible. Times are in milliseconds.

use super::{
    locust::{PERCENTILES, untrusted},
    resources::BYTES_PER_MB,
};
use measure::{Interval, Metric, Quantity, Reading};
use time::OffsetDateTime;

/// Columns before the percentiles.
const COUNTS: [&str; 6] = ["Timestamp", "User Count", "Type", "Name", "Requests/s", "Failures/s"];

/// Columns after the percentiles.
const MORE: [&str; 23] = [
    "Tokens/s",
    "ttft_ms p50",
    "ttft_ms p99",
    "itl_ms p50",
    "itl_ms p99",
    "delivery_ms p99",
    "loop_lag_ms p99",
    "Reconnect attempts/s",
    "Reconnects/s",
    "Tokens lost/s",
    "Target",
    "faults",
    "client cpu_cores",
    "server cpu_cores",
    "wsproxy cpu_cores",
    "haproxy cpu_cores",
    "redis cpu_cores",
    "client rss_bytes",
    "server rss_bytes",
    "wsproxy rss_bytes",
    "haproxy rss_bytes",
    "redis rss_bytes",
    "Untrusted",
];

/// Roles with columns for CPU and memory, in the order of the columns.
const ROLES: [&str; 5] = ["client", "server", "wsproxy", "haproxy", "redis"];

/// Returns the names of the columns.
pub(super) fn columns() -> impl Iterator<Item = &'static str> {
    COUNTS.into_iter().chain(PERCENTILES.map(|(column, _)| column)).chain(MORE)
}

/// A second of the run.
#[derive(Debug)]
pub(super) struct Second<'a> {
    pub(super) timestamp: OffsetDateTime,
    /// Mean number of open sessions during the second.
    pub(super) sessions: f64,
    pub(super) interval: &'a Interval,
    /// Faults that began in the second.
    pub(super) faults: String,
    /// Scheduled number of sessions, in open models of arrivals.
    pub(super) target: Option<f64>,
    /// Monitoring readings of the second.
    pub(super) readings: &'a [Reading],
}

impl Second<'_> {
    pub(super) fn record(&self) -> Vec<String> {
        let (counts, tokens) = (self.interval.counts(), self.interval.tokens());
        let mut row = vec![
            self.timestamp.unix_timestamp().to_string(),
            format!("{:.0}", self.sessions),
            "query".to_owned(),
            "Aggregated".to_owned(),
            counts.queries.to_string(),
            counts.failed.to_string(),
        ];
        row.extend(PERCENTILES.map(|(_, quantile)| self.cell(Metric::E2el, quantile)));
        row.push(tokens.to_string());
        let more = [
            (Metric::Ttft, 0.5),
            (Metric::Ttft, 0.99),
            (Metric::Itl, 0.5),
            (Metric::Itl, 0.99),
            (Metric::Delivery, 0.99),
            (Metric::LoopLag, 0.99),
        ];
        row.extend(more.map(|(metric, quantile)| self.cell(metric, quantile)));
        row.push(counts.reconnect_attempts.to_string());
        row.push(counts.reconnects.to_string());
        row.push(counts.lost.to_string());
        row.push(self.target.map(|target| format!("{target:.0}")).unwrap_or_default());
        row.push(self.faults.clone());
        let read = |quantity, role: &str| {
            let mut readings = self.readings.iter().rev();
            readings
                .find(|reading| reading.quantity == quantity && reading.label == role)
                .map(|reading| reading.value)
        };
        row.extend(ROLES.map(|role| {
            read(Quantity::CpuShare, role).map(|cores| format!("{cores:.3}")).unwrap_or_default()
        }));
        row.extend(ROLES.map(|role| {
            read(Quantity::RssMb, role).map(|mb| format!("{:.0}", mb * BYTES_PER_MB)).unwrap_or_default()
        }));
        row.push(untrusted(self.interval, Metric::E2el));
        row
    }

    fn cell(&self, metric: Metric, quantile: f64) -> String {
        self.interval.get(metric).quantile_ms(quantile).map(|ms| format!("{ms:.3}")).unwrap_or_default()
    }
}
