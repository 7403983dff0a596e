//! `_stats.csv` with one row per step of the session, and `_failures.csv` with one row per kind of failure. Column names are those
//! of Locust. Both are written at the end of the run.

use super::{
    files::Files,
    locust::{PERCENTILES, untrusted},
};
use crate::values::printable;
use measure::{Metric, RunData};
use settings::cells::CellWriter;
use std::io;

/// Columns before the percentiles.
const STATS: [&str; 8] = [
    "Type",
    "Name",
    "Request Count",
    "Failure Count",
    "Median Response Time",
    "Average Response Time",
    "Min Response Time",
    "Max Response Time",
];

/// Writes `_stats.csv`.
pub(super) fn write_stats(files: &Files, run: &RunData) -> io::Result<()> {
    let mut out = CellWriter::new(files.document("_stats.csv"));
    let percentiles = PERCENTILES.map(|(column, _)| column);
    out.write_record(STATS.into_iter().chain(percentiles).chain(["Untrusted"]))?;
    let failures =
        |kind| run.failures.iter().filter(|(name, ..)| *name == kind).map(|(.., group)| group.count).sum();
    let first_tokens = run.metrics.counts().begun;
    let steps: [(&str, &str, Metric, u64); 5] = [
        ("HTTP", "create", Metric::Create, failures("create")),
        ("WS", "connect", Metric::Connect, failures("connect")),
        ("WS", "first token", Metric::Ttft, run.queries.sent.saturating_sub(first_tokens)),
        ("WS", "query", Metric::E2el, run.queries.total - run.queries.ok),
        ("HTTP", "close", Metric::Close, failures("close")),
    ];
    for (kind, name, metric, failed) in steps {
        let distribution = run.metrics.get(metric);
        let summary = distribution.summary();
        let cell = |value: Option<f64>| value.map(|ms| format!("{ms:.3}")).unwrap_or_default();
        let mut row =
            vec![kind.to_owned(), name.to_owned(), distribution.count().to_string(), failed.to_string()];
        row.extend([
            cell(summary.map(|summary| summary.p50)),
            cell(summary.map(|summary| summary.mean)),
            cell(summary.map(|summary| summary.min)),
            cell(summary.map(|summary| summary.max)),
        ]);
        row.extend(PERCENTILES.map(|(_, quantile)| cell(distribution.quantile_ms(quantile))));
        row.push(untrusted(&run.metrics, metric));
        out.write_record(row)?;
    }
    out.flush()
}

/// Writes `_failures.csv`.
pub(super) fn write_failures(files: &Files, run: &RunData) -> io::Result<()> {
    let mut out = CellWriter::new(files.document("_failures.csv"));
    out.write_record(["Method", "Name", "Error", "Occurrences", "First (s)", "Last (s)"])?;
    for (kind, code, group) in run.failures.iter() {
        out.write_record([
            kind.to_owned(),
            code.map(|code| code.to_string()).unwrap_or_default(),
            printable(&group.example),
            group.count.to_string(),
            format!("{:.3}", group.first.as_secs_f64()),
            format!("{:.3}", group.last.as_secs_f64()),
        ])?;
    }
    out.flush()
}
