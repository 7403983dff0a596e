//! A run's results read back for a comparison: its summary, its rows, or both where they lie side by side.
//! It refuses by name what is no result, and holds no more of the rows than the figures that are compared.

use super::{Compared, statistics::Sessions};
use serde_json::Value;
use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
};

/// A file that is no result.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {what}; name a .csv or a _summary.json that a run left in its output directory")]
pub struct CompareError {
    path: String,
    what: String,
}

/// One run.
#[derive(Clone, Debug, Default)]
pub(super) struct Run {
    pub(super) path: PathBuf,
    /// Why its figures cannot be trusted.
    pub(super) invalid: Option<String>,
    pub(super) queries: u64,
    pub(super) failed: u64,
    /// Lost, duplicated or reordered.
    pub(super) broken_tokens: u64,
    /// Of the summary.
    metrics: Value,
    config: Value,
    /// Of the rows, by metric.
    rows: HashMap<String, Sessions>,
}

impl Run {
    /// Reads a `_summary.json` or a `.csv`, and the other one where it lies beside it.
    pub(super) fn read(path: &Path, compared: &[Compared]) -> Result<Self, CompareError> {
        let error = |what: String| CompareError { path: path.display().to_string(), what };
        let name = path.to_string_lossy();
        let (summary, rows) = if let Some(stem) = name.strip_suffix("_summary.json") {
            (path.to_owned(), PathBuf::from(format!("{stem}.csv")))
        } else if let Some(stem) = name.strip_suffix(".csv") {
            (PathBuf::from(format!("{stem}_summary.json")), path.to_owned())
        } else {
            return Err(error("neither a summary nor a CSV by its name".to_owned()));
        };
        let mut run = Self { path: path.to_owned(), ..Self::default() };
        let wanted = |file: &Path| file == path || file.exists();
        if wanted(&rows) {
            run.add_rows(&rows, compared).map_err(&error)?;
        }
        if wanted(&summary) {
            run.add_summary(&summary).map_err(&error)?;
        }
        Ok(run)
    }

    fn add_summary(&mut self, path: &Path) -> Result<(), String> {
        let text = fs::read_to_string(path).map_err(|error| error.to_string())?;
        let mut summary: Value = serde_json::from_str(&text).map_err(|error| format!("no JSON: {error}"))?;
        let count = |key: &str| summary[key].as_u64();
        let (Some(total), Some(ok)) = (count("queries_total"), count("queries_ok")) else {
            return Err("no summary: it lacks queries_total or queries_ok".to_owned());
        };
        (self.queries, self.failed) = (total, total.saturating_sub(ok));
        let broken = ["tokens_lost", "tokens_duplicated", "tokens_reordered"];
        self.broken_tokens = broken.iter().filter_map(|key| count(key)).fold(0, u64::saturating_add);
        if summary["interrupted"].as_bool() == Some(true) {
            self.invalid = Some("it was interrupted".to_owned());
        } else if summary["verdict"] == "INVALID" {
            self.invalid = Some(summary["verdict_reason"].as_str().unwrap_or("INVALID").to_owned());
        }
        (self.metrics, self.config) = (summary["metrics"].take(), summary["config"].take());
        Ok(())
    }

    fn add_rows(&mut self, path: &Path, compared: &[Compared]) -> Result<(), String> {
        let mut reader =
            csv::ReaderBuilder::new().flexible(true).from_path(path).map_err(|error| error.to_string())?;
        let header = reader.headers().map_err(|error| error.to_string())?.clone();
        let column = |name: &str| header.iter().position(|column| column == name);
        let session =
            column("session_index").or_else(|| column("session_id")).ok_or("no column session_id")?;
        let mut wanted: Vec<_> = compared.iter().map(|one| one.metric.as_str()).collect();
        wanted.dedup();
        let columns: Vec<_> = wanted
            .iter()
            .filter_map(|&metric| match (column(metric), metric) {
                (Some(index), _) => Some((metric, index, 1.0)),
                (None, "e2el_ms") => Some((metric, column("latency")?, 1e3)),
                _ => None,
            })
            .collect();
        let (status, error, paused) = (column("status"), column("error"), column("paused_ms"));
        let broken = ["tokens_lost", "tokens_duplicated", "tokens_reordered"].map(column);
        let mut known = HashMap::new();
        let mut values: HashMap<&str, Vec<(f64, usize)>> = HashMap::new();
        let mut row = csv::StringRecord::new();
        let mut short = None;
        while reader.read_record(&mut row).map_err(|error| error.to_string())? {
            let line = row.position().map_or(0, csv::Position::line);
            // Only the last row may be short: a run that was killed may have left it so.
            if let Some(line) = short {
                return Err(format!("line {line}: not as many fields as the header has"));
            }
            if row.len() != header.len() {
                short = Some(line);
                continue;
            }
            let cell =
                |index: Option<usize>| index.and_then(|index| row.get(index)).unwrap_or_default().trim();
            let next = known.len();
            let session = *known.entry(cell(Some(session)).to_owned()).or_insert(next);
            let ok = status.map_or_else(|| cell(error).is_empty(), |_| cell(status) == "ok");
            self.queries += 1;
            self.failed += u64::from(!ok);
            for count in broken {
                self.broken_tokens = self.broken_tokens.saturating_add(cell(count).parse().unwrap_or(0));
            }
            // What the client held back itself says nothing of the system.
            if cell(paused).parse().is_ok_and(|ms: f64| ms > 0.0) {
                continue;
            }
            for &(metric, index, unit) in &columns {
                let text = cell(Some(index));
                if !text.is_empty() {
                    let value = text.parse().ok().filter(|value: &f64| value.is_finite());
                    let value: f64 = value
                        .ok_or_else(|| format!("line {line}: {metric} is {text:?}, which is no number"))?;
                    values.entry(metric).or_default().push((value * unit, session));
                }
            }
        }
        let sessions = known.len();
        self.rows = values
            .into_iter()
            .map(|(metric, values)| (metric.to_owned(), Sessions::new(values, sessions)))
            .collect();
        Ok(())
    }

    /// The queries' own durations, where the rows tell them.
    pub(super) fn rows(&self, compared: &Compared) -> Option<&Sessions> {
        self.rows.get(&compared.metric)
    }

    /// The figure of this run alone, milliseconds.
    pub(super) fn figure(&self, compared: &Compared) -> Option<f64> {
        let percent = compared.percent;
        let of_rows = self.rows(compared).and_then(|rows| rows.quantile(percent / 100.0));
        let key = format!("p{percent}").replace('.', "_");
        of_rows.or_else(|| self.metrics[&compared.metric][key].as_f64())
    }

    /// Settings in which another run differs, of those that change what is measured.
    pub(super) fn differing(&self, other: &Self) -> Vec<String> {
        const OWN: [&str; 11] = [
            "seed",
            "name",
            "output_dir",
            "api_url",
            "wsproxy_url",
            "more_wsproxy_urls",
            "published_ports",
            "workers",
            "thresholds",
            "abort_on_fail",
            "abort_delay_seconds",
        ];
        let (Some(mine), Some(others)) = (self.config.as_object(), other.config.as_object()) else {
            return Vec::new();
        };
        let differs = |key: &&String| others.get(*key).is_some_and(|value| *value != mine[*key]);
        mine.keys().filter(differs).filter(|key| !OWN.contains(&key.as_str())).cloned().collect()
    }
}

/// The rows of several runs as one sample: sessions of different runs are different ones.
pub(super) fn pooled(runs: &[Run], compared: &Compared) -> Option<Sessions> {
    let (mut values, mut sessions) = (Vec::new(), 0);
    for run in runs {
        let rows = run.rows(compared)?;
        values.extend(rows.values().map(|(value, session)| (value, session + sessions)));
        sessions += rows.sessions();
    }
    Some(Sessions::new(values, sessions))
}
