//! A run's stored results, as the page wants them: the summary, the seconds, the histograms, the failures, the processes.
//! Everything but the summary may be missing or cut off; what cannot be read is as good as not there.

use super::{
    ReportError,
    percentiles::{self, Latencies},
    with_ending,
};
use serde_json::Value;
use std::{collections::BTreeMap, fs, path::Path};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// More rows than any run's page can use; a file beyond it is read so far.
const MOST_ROWS: usize = 4_000_000;

/// A table with a header: a row a map would be slow for long runs, so cells are asked for by the column's place.
#[derive(Debug, Default)]
pub(super) struct Table {
    header: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    fn read(path: &Path) -> Self {
        let Ok(mut reader) = csv::ReaderBuilder::new().flexible(true).from_path(path) else {
            return Self::default();
        };
        let fields = |row: &csv::ByteRecord| {
            row.iter().map(|field| String::from_utf8_lossy(field).into_owned()).collect::<Vec<_>>()
        };
        let header = reader.byte_headers().map(fields).unwrap_or_default();
        let rows =
            reader.byte_records().map_while(Result::ok).take(MOST_ROWS).map(|row| fields(&row)).collect();
        Self { header, rows }
    }

    pub(super) fn header(&self) -> &[String] {
        &self.header
    }

    pub(super) fn rows(&self) -> &[Vec<String>] {
        &self.rows
    }

    fn column(&self, name: &str) -> Option<usize> {
        self.header.iter().position(|column| column == name)
    }
}

/// Values over the run's seconds.
pub(super) type Line = Vec<(f64, f64)>;

/// What a process took, over the run.
#[derive(Debug, Default)]
pub(super) struct Process {
    pub(super) cpu: Line,
    pub(super) rss: Line,
    pub(super) descriptors: Line,
    pub(super) threads: Line,
}

/// What is known of a run.
#[derive(Debug)]
pub(super) struct Stored {
    pub(super) summary: Value,
    history: Table,
    pub(super) failures: Table,
    pub(super) latencies: Latencies,
    pub(super) processes: BTreeMap<String, Process>,
    /// Milliseconds of the health checks that were answered, by whom.
    pub(super) health: BTreeMap<String, Line>,
    started_unix: f64,
}

impl Stored {
    pub(super) fn read(base: &Path) -> Result<Self, ReportError> {
        let path = with_ending(base, "_summary.json");
        let text = fs::read_to_string(&path)
            .map_err(|error| ReportError::new(&path, format!("cannot be read: {error}")))?;
        let summary: Value = serde_json::from_str(&text)
            .map_err(|error| ReportError::new(&path, format!("is no JSON: {error}")))?;
        if summary.get("verdict").is_none() {
            return Err(ReportError::new(&path, "is no summary: it has no verdict"));
        }
        let started = summary.get("started_at").and_then(Value::as_str);
        let started = started.and_then(|text| OffsetDateTime::parse(text, &Rfc3339).ok());
        #[allow(clippy::cast_precision_loss)]
        let started_unix = started.map_or(0.0, |at| at.unix_timestamp() as f64);
        Ok(Self {
            summary,
            history: Table::read(&with_ending(base, "_history.csv")),
            failures: Table::read(&with_ending(base, "_failures.csv")),
            latencies: percentiles::read(&with_ending(base, "_latency.hlog")),
            processes: processes(&Table::read(&with_ending(base, "_resources.csv"))),
            health: health(&Table::read(&with_ending(base, "_health.csv"))),
            started_unix,
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

    /// A column of the history over the run's seconds.
    pub(super) fn over_time(&self, column: &str) -> Line {
        let (Some(at), Some(value)) = (self.history.column("Timestamp"), self.history.column(column)) else {
            return Line::new();
        };
        let cell = |row: &[String], index: usize| row.get(index).and_then(|cell| number(cell));
        let point = |row: &Vec<String>| Some((cell(row, at)? - self.started_unix, cell(row, value)?));
        self.history.rows.iter().filter_map(point).filter(|(at, _)| is_second(*at)).collect()
    }

    /// When something was broken, in seconds of the run, and what.
    pub(super) fn faults(&self) -> Vec<(f64, String)> {
        let fault = |fault: &Value| {
            let at = fault.get("began_s")?.as_f64()?;
            Some((at, fault.get("fault")?.as_str()?.to_owned()))
        };
        self.list("faults").iter().filter_map(fault).collect()
    }
}

/// A second that a run can have: longer than a year is a mistake in the file.
fn is_second(at: f64) -> bool {
    (0.0..=3.2e7).contains(&at)
}

fn number(cell: &str) -> Option<f64> {
    cell.parse::<f64>().ok().filter(|number| number.is_finite() && number.abs() < 1e15)
}

fn processes(table: &Table) -> BTreeMap<String, Process> {
    let mut processes: BTreeMap<String, Process> = BTreeMap::new();
    let columns =
        ["second", "process", "cpu_share", "rss_mb", "fds", "threads"].map(|name| table.column(name));
    let [Some(second), Some(name), cpu, rss, fds, threads] = columns else { return processes };
    for row in &table.rows {
        let cell = |column: Option<usize>| row.get(column?).and_then(|cell| number(cell));
        let (Some(at), Some(name)) = (cell(Some(second)), row.get(name)) else { continue };
        if !is_second(at) {
            continue;
        }
        let process = processes.entry(name.clone()).or_default();
        let lines = [
            (&mut process.cpu, cpu),
            (&mut process.rss, rss),
            (&mut process.descriptors, fds),
            (&mut process.threads, threads),
        ];
        for (line, column) in lines {
            line.extend(cell(column).map(|value| (at, value)));
        }
    }
    processes
}

fn health(table: &Table) -> BTreeMap<String, Line> {
    let mut lines: BTreeMap<String, Line> = BTreeMap::new();
    let columns = ["second", "target", "ms"].map(|name| table.column(name));
    let [Some(second), Some(target), Some(ms)] = columns else { return lines };
    for row in &table.rows {
        let cell = |column: usize| row.get(column).and_then(|cell| number(cell));
        if let (Some(at), Some(target), Some(ms)) = (cell(second), row.get(target), cell(ms))
            && is_second(at)
        {
            lines.entry(target.clone()).or_default().push((at, ms));
        }
    }
    lines
}
