//! Reads the stored results of a run for the report: summary, seconds, histograms, failures and processes.
//! Tables are read row by row and downsampled. Everything except the summary may be missing or truncated.

use super::downsample::{Aggregation, Downsampled, Line};
use super::{
    percentiles::{self, Latencies},
    with_ending,
};
use crate::{
    file_error::{FileError, read_json},
    inspect::stored::{self, StoredQuery},
    values::uncontrolled,
};
use serde_json::Value;
use settings::cells::{self, original};
use std::{collections::BTreeMap, fs::File, io::BufReader, path::Path};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// Largest number of rows kept of a table that is shown unchanged.
const MAX_ROWS: usize = 1_000;
/// Largest number of processes and health targets.
const MAX_NAMES: usize = 300;

/// A table with its header, as far as it is shown.
#[derive(Debug, Default)]
pub(super) struct Table {
    header: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    fn read(path: &Path) -> Self {
        let Some(mut reader) = Rows::open(path) else { return Self::default() };
        let fields = |row: &csv::ByteRecord| {
            row.iter().map(|field| uncontrolled(original(&String::from_utf8_lossy(field)))).collect()
        };
        let header = fields(&reader.header);
        let mut rows = Vec::new();
        while let Some(row) = reader.next().filter(|_| rows.len() < MAX_ROWS) {
            rows.push(fields(row));
        }
        Self { header, rows }
    }

    pub(super) fn header(&self) -> &[String] {
        &self.header
    }

    pub(super) fn rows(&self) -> &[Vec<String>] {
        &self.rows
    }
}

/// Reads a table row by row.
struct Rows {
    reader: csv::Reader<BufReader<File>>,
    header: csv::ByteRecord,
    row: csv::ByteRecord,
}

impl Rows {
    fn open(path: &Path) -> Option<Self> {
        let (mut reader, _) = cells::open(File::open(path).ok()?).ok()?;
        let header = reader.byte_headers().ok()?.clone();
        Some(Self { reader, header, row: csv::ByteRecord::new() })
    }

    fn column(&self, name: &str) -> Option<usize> {
        self.header.iter().position(|column| column == name.as_bytes())
    }

    fn next(&mut self) -> Option<&csv::ByteRecord> {
        self.reader.read_byte_record(&mut self.row).ok()?.then_some(&self.row)
    }
}

/// Returns a cell as a number, or `None` if it is not a number.
fn cell(row: &csv::ByteRecord, column: Option<usize>) -> Option<f64> {
    number(std::str::from_utf8(row.get(column?)?).ok()?)
}

/// Resource usage of a process over the run.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) cpu: Downsampled,
    pub(super) rss: Downsampled,
    pub(super) descriptors: Downsampled,
    pub(super) threads: Downsampled,
}

impl Default for Process {
    fn default() -> Self {
        let level = || Downsampled::new(Aggregation::Highest);
        Self {
            cpu: Downsampled::new(Aggregation::Mean),
            rss: level(),
            descriptors: level(),
            threads: level(),
        }
    }
}

/// Columns of the history that the report shows, and how they are aggregated.
const HISTORY: [(&str, Aggregation); 8] = [
    ("User Count", Aggregation::Highest),
    ("Tokens/s", Aggregation::Mean),
    ("Requests/s", Aggregation::Mean),
    // Rare events must not vanish in a mean.
    ("Failures/s", Aggregation::Highest),
    ("loop_lag_ms p99", Aggregation::Highest),
    ("Tokens lost/s", Aggregation::Highest),
    ("Reconnect attempts/s", Aggregation::Highest),
    ("Reconnects/s", Aggregation::Highest),
];

/// Stored results of a run.
#[derive(Debug)]
pub(super) struct StoredRun {
    pub(super) summary: Value,
    history: BTreeMap<&'static str, Downsampled>,
    pub(super) failures: Table,
    pub(super) latencies: Latencies,
    pub(super) processes: BTreeMap<String, Process>,
    /// Slowest health check of each second in milliseconds, by target.
    pub(super) health: BTreeMap<String, Downsampled>,
    /// Queries with a timeline.
    pub(super) queries: Vec<StoredQuery>,
}

impl StoredRun {
    pub(super) fn read(base: &Path) -> Result<Self, FileError> {
        let path = with_ending(base, "_summary.json");
        let summary = visible(read_json(&path)?);
        if summary.get("verdict").is_none() {
            return Err(FileError::not_a_summary(&path, "verdict"));
        }
        let started = summary.get("started_at").and_then(Value::as_str);
        let started = started.and_then(|text| OffsetDateTime::parse(text, &Rfc3339).ok());
        #[allow(clippy::cast_precision_loss)]
        let started_unix = started.map_or(0.0, |at| at.unix_timestamp() as f64);
        Ok(Self {
            summary,
            history: history(&with_ending(base, "_history.csv"), started_unix),
            failures: Table::read(&with_ending(base, "_failures.csv")),
            latencies: percentiles::read(&with_ending(base, "_latency.hlog")),
            processes: processes(&with_ending(base, "_resources.csv")),
            health: health(&with_ending(base, "_health.csv")),
            queries: stored::read(&with_ending(base, stored::ENDING)).unwrap_or_default(),
        })
    }

    pub(super) fn text(&self, key: &str) -> &str {
        self.summary.get(key).and_then(Value::as_str).unwrap_or_default()
    }

    pub(super) fn number(&self, key: &str) -> Option<f64> {
        self.summary.get(key).and_then(Value::as_f64)
    }

    pub(super) fn list(&self, key: &str) -> &[Value] {
        self.summary.get(key).and_then(Value::as_array).map_or(&[], Vec::as_slice)
    }

    /// Returns a column of the history over time. Empty for a column that the report does not show.
    pub(super) fn over_time(&self, column: &str) -> Line {
        self.history.get(column).map(Downsampled::line).unwrap_or_default()
    }

    /// Returns the start of each fault in seconds of the run, and its specification.
    pub(super) fn faults(&self) -> Vec<(f64, String)> {
        let fault = |fault: &Value| {
            let at = fault.get("began_s")?.as_f64()?;
            Some((at, fault.get("fault")?.as_str()?.to_owned()))
        };
        self.list("faults").iter().filter_map(fault).collect()
    }
}

/// Returns the JSON value with control and direction characters removed or escaped in every text.
fn visible(value: Value) -> Value {
    match value {
        Value::String(text) => Value::String(uncontrolled(&text)),
        Value::Array(values) => values.into_iter().map(visible).collect(),
        Value::Object(map) => {
            map.into_iter().map(|(key, value)| (uncontrolled(&key), visible(value))).collect()
        }
        other => other,
    }
}

/// Returns whether a second is plausible. More than a year is an error in the file.
fn is_second(at: f64) -> bool {
    (0.0..=3.2e7).contains(&at)
}

fn number(cell: &str) -> Option<f64> {
    cell.parse::<f64>().ok().filter(|number| number.is_finite() && number.abs() < 1e15)
}

fn history(path: &Path, started_unix: f64) -> BTreeMap<&'static str, Downsampled> {
    let mut lines: BTreeMap<_, _> =
        HISTORY.into_iter().map(|(name, aggregation)| (name, Downsampled::new(aggregation))).collect();
    let Some(mut rows) = Rows::open(path) else { return lines };
    let second = rows.column("Timestamp");
    let columns = HISTORY.map(|(name, _)| (name, rows.column(name)));
    while let Some(row) = rows.next() {
        let Some(at) = cell(row, second).map(|at| at - started_unix).filter(|at| is_second(*at)) else {
            continue;
        };
        for (name, column) in columns {
            if let Some((line, value)) = lines.get_mut(name).zip(cell(row, column)) {
                line.push(at, value);
            }
        }
    }
    lines
}

fn processes(path: &Path) -> BTreeMap<String, Process> {
    let mut processes: BTreeMap<String, Process> = BTreeMap::new();
    let Some(mut rows) = Rows::open(path) else { return processes };
    let [second, name, cpu, rss, fds, threads] =
        ["second", "process", "cpu_share", "rss_mb", "fds", "threads"].map(|name| rows.column(name));
    while let Some(row) = rows.next() {
        let Some((at, name)) = named(row, second, name) else { continue };
        if processes.len() >= MAX_NAMES && !processes.contains_key(&name) {
            continue;
        }
        let process = processes.entry(name).or_default();
        let lines = [
            (&mut process.cpu, cpu),
            (&mut process.rss, rss),
            (&mut process.descriptors, fds),
            (&mut process.threads, threads),
        ];
        for (line, column) in lines {
            if let Some(value) = cell(row, column) {
                line.push(at, value);
            }
        }
    }
    processes
}

fn health(path: &Path) -> BTreeMap<String, Downsampled> {
    let mut lines: BTreeMap<String, Downsampled> = BTreeMap::new();
    let Some(mut rows) = Rows::open(path) else { return lines };
    let [second, target, ms] = ["second", "target", "ms"].map(|name| rows.column(name));
    while let Some(row) = rows.next() {
        let Some(((at, target), ms)) = named(row, second, target).zip(cell(row, ms)) else { continue };
        let who = target.split(' ').next().unwrap_or_default();
        if lines.len() < MAX_NAMES || lines.contains_key(who) {
            lines
                .entry(who.to_owned())
                .or_insert_with(|| Downsampled::new(Aggregation::Highest))
                .push(at, ms);
        }
    }
    lines
}

/// Returns the second and the name of a row.
fn named(row: &csv::ByteRecord, second: Option<usize>, name: Option<usize>) -> Option<(f64, String)> {
    let at = cell(row, second).filter(|at| is_second(*at))?;
    Some((at, uncontrolled(original(&String::from_utf8_lossy(row.get(name?)?)))))
}
