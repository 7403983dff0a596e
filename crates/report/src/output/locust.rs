//! The percentile columns of Locust's tables, which `_stats.csv` and `_history.csv` share.

use measure::{Interval, Metric, Statistic};

/// Column names and quantiles (0 to 1).
pub(super) const PERCENTILES: [(&str, f64); 11] = [
    ("50%", 0.5),
    ("66%", 0.66),
    ("75%", 0.75),
    ("80%", 0.8),
    ("90%", 0.9),
    ("95%", 0.95),
    ("98%", 0.98),
    ("99%", 0.99),
    ("99.9%", 0.999),
    ("99.99%", 0.9999),
    ("100%", 1.0),
];

/// Returns the names of the percentile columns whose figures cannot be trusted, separated by spaces.
pub(super) fn untrusted(interval: &Interval, metric: Metric) -> String {
    let doubtful = PERCENTILES
        .iter()
        .filter(|(_, quantile)| !interval.is_trusted(metric, Statistic::Percentile(quantile * 100.0)));
    doubtful.map(|(column, _)| *column).collect::<Vec<_>>().join(" ")
}
