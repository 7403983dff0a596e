//! A run's results read back for a comparison: its summary, its rows, or both where they lie side by side.
//! It refuses by name what is no result, and holds no more of the rows than the figures that are compared.

use super::{
    ComparedFigure, FigureKind,
    statistics::{Sessions, Share},
};
use serde_json::Value;
use settings::cells::{self, count, number, original};
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

const BROKEN: [&str; 3] = ["tokens_lost", "tokens_duplicated", "tokens_reordered"];

/// What a run's file names begin with.
pub(super) fn stem(path: &Path) -> PathBuf {
    let name = path.to_string_lossy();
    let stem = name.strip_suffix("_summary.json").or_else(|| name.strip_suffix(".csv"));
    stem.map_or_else(|| path.to_owned(), PathBuf::from)
}

/// Whether a table has a row per query, whatever its name.
pub(super) fn holds_queries(path: &Path) -> bool {
    let header = || cells::open(fs::File::open(path).ok()?).ok()?.0.headers().ok().cloned();
    header().is_some_and(|header| header.iter().any(|column| column == "session_id"))
}

/// One run.
#[derive(Clone, Debug, Default)]
pub(super) struct Run {
    pub(super) path: PathBuf,
    /// Why its figures cannot be trusted.
    pub(super) invalid: Option<String>,
    /// Failed queries of all, and tokens that were lost, duplicated or reordered of those that were expected.
    failed: Share,
    broken: Share,
    /// The same by session, where the rows are there.
    sessions: Vec<[Share; 2]>,
    /// Sessions by the summary.
    sessions_total: f64,
    /// Of the summary.
    metrics: Value,
    config: Value,
    /// Of the rows, by metric.
    rows: HashMap<String, Sessions>,
}

impl Run {
    /// Reads a `_summary.json` or a `.csv`, and the other one where it lies beside it.
    pub(super) fn read(path: &Path, compared: &[ComparedFigure]) -> Result<Self, CompareError> {
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

    #[allow(clippy::cast_precision_loss)]
    fn add_summary(&mut self, path: &Path) -> Result<(), String> {
        let text = fs::read_to_string(path).map_err(|error| error.to_string())?;
        let mut summary: Value = serde_json::from_str(&text).map_err(|error| format!("no JSON: {error}"))?;
        let count = |key: &str| summary[key].as_u64();
        let (Some(total), Some(ok)) = (count("queries_total"), count("queries_ok")) else {
            return Err("no summary: it lacks queries_total or queries_ok".to_owned());
        };
        let broken = BROKEN.iter().filter_map(|key| count(key)).fold(0, u64::saturating_add);
        let expected = count("tokens_expected").or_else(|| count("tokens_received")).unwrap_or(0);
        self.sessions_total = count("total_sessions").unwrap_or(total) as f64;
        self.failed = Share { part: total.saturating_sub(ok) as f64, whole: total as f64 };
        self.broken = Share { part: broken as f64, whole: expected.max(broken) as f64 };
        if summary["interrupted"].as_bool() == Some(true) {
            self.invalid = Some("it was interrupted".to_owned());
        } else if summary["verdict"] == "INVALID" {
            self.invalid = Some(summary["verdict_reason"].as_str().unwrap_or("INVALID").to_owned());
        }
        (self.metrics, self.config) = (summary["metrics"].take(), summary["config"].take());
        Ok(())
    }

    #[allow(clippy::cast_precision_loss)]
    fn add_rows(&mut self, path: &Path, compared: &[ComparedFigure]) -> Result<(), String> {
        let file = fs::File::open(path).map_err(|error| error.to_string())?;
        let (mut reader, separator) = cells::open(file).map_err(|error| error.to_string())?;
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
        let broken = BROKEN.map(column);
        let (expected, received) = (column("tokens_expected"), column("tokens"));
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
                |index: Option<usize>| original(index.and_then(|index| row.get(index)).unwrap_or_default());
            let whole = |index| count(cell(index), separator);
            let next = known.len();
            let session = *known.entry(cell(Some(session)).to_owned()).or_insert(next);
            let ok = status.map_or_else(|| cell(error).is_empty(), |_| cell(status) == "ok");
            if session == self.sessions.len() {
                self.sessions.push(Default::default());
            }
            let [failed, tokens] = &mut self.sessions[session];
            failed.part += f64::from(u8::from(!ok));
            failed.whole += 1.0;
            let lost = broken.iter().filter_map(|index| whole(*index)).fold(0, u64::saturating_add);
            tokens.part += lost as f64;
            tokens.whole += whole(expected).or_else(|| whole(received)).unwrap_or(0).max(lost) as f64;
            // What the client held back itself says nothing of the system.
            if number(cell(paused), separator).is_some_and(|ms| ms > 0.0) {
                continue;
            }
            for &(metric, index, unit) in &columns {
                let text = cell(Some(index));
                if !text.is_empty() {
                    let value = number(text, separator).filter(|value| value.is_finite());
                    let value = value
                        .ok_or_else(|| format!("line {line}: {metric} is {text:?}, which is no number"))?;
                    values.entry(metric).or_default().push((value * unit, session));
                }
            }
        }
        let sessions = known.len();
        self.failed = Share::sum(self.sessions.iter().map(|[failed, _]| failed));
        self.broken = Share::sum(self.sessions.iter().map(|[_, broken]| broken));
        self.rows = values
            .into_iter()
            .map(|(metric, values)| (metric.to_owned(), Sessions::new(values, sessions)))
            .collect();
        Ok(())
    }

    /// The queries' own durations, where the rows tell them.
    pub(super) fn rows(&self, compared: &ComparedFigure) -> Option<&Sessions> {
        self.rows.get(&compared.metric)
    }

    /// The figure of this run alone, milliseconds.
    pub(super) fn figure(&self, compared: &ComparedFigure) -> Option<f64> {
        let percent = compared.percent;
        let of_rows = self.rows(compared).and_then(|rows| rows.quantile(percent / 100.0));
        let key = format!("p{percent}").replace('.', "_");
        of_rows.or_else(|| self.metrics[&compared.metric][key].as_f64())
    }

    /// The share over the run.
    pub(super) const fn share(&self, kind: FigureKind) -> Share {
        match kind {
            FigureKind::BrokenTokens => self.broken,
            _ => self.failed,
        }
    }

    /// The share by session. Without rows each session counts as one query or token: nobody knows how they are spread, and
    /// that is the least that they can be worth.
    pub(super) fn shares(&self, kind: FigureKind) -> Vec<Share> {
        if self.sessions.is_empty() {
            let Share { whole, .. } = self.share(kind);
            let whole = whole.min(self.sessions_total);
            return vec![Share { part: self.share(kind).value() * whole, whole }];
        }
        self.sessions
            .iter()
            .map(|[failed, broken]| if kind == FigureKind::BrokenTokens { *broken } else { *failed })
            .collect()
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
pub(super) fn pooled(runs: &[Run], compared: &ComparedFigure) -> Option<Sessions> {
    let (mut values, mut sessions) = (Vec::new(), 0);
    for run in runs {
        let rows = run.rows(compared)?;
        values.extend(rows.values().map(|(value, session)| (value, session + sessions)));
        sessions += rows.sessions();
    }
    Some(Sessions::new(values, sessions))
}

/// A run out of a generator: durations with noise between runs, sessions and queries; one session in fifty fails as a whole,
/// and one in a hundred loses half of its tokens.
#[cfg(test)]
#[allow(clippy::cast_precision_loss)]
pub(super) fn made_up(
    rng: &mut rand::rngs::SmallRng,
    compared: &[ComparedFigure],
    sessions: usize,
    noise: f64,
) -> Run {
    use rand::RngExt;
    // Nearly normal, of deviation 1.
    let normal =
        |rng: &mut rand::rngs::SmallRng| (0..12).map(|_| rng.random_range(0.0..1.0)).sum::<f64>() - 6.0;
    let mut run = Run::default();
    let common = normal(rng);
    for one in compared {
        let of_run = (noise * (0.7 * common + 0.7 * normal(rng))).exp();
        let mut values = Vec::new();
        for session in 0..sessions {
            let own = 0.1 * normal(rng);
            values.extend((0..4).map(|_| (500.0 * of_run * (own + 0.05 * normal(rng)).exp(), session)));
        }
        run.rows.insert(one.metric.clone(), Sessions::new(values, sessions));
    }
    for _ in 0..sessions {
        let (fails, loses) = (rng.random_bool(0.02), rng.random_bool(0.01));
        let failed = Share { part: if fails { 5.0 } else { 0.0 }, whole: 5.0 };
        run.sessions.push([failed, Share { part: if loses { 45.0 } else { 0.0 }, whole: 90.0 }]);
    }
    run.failed = Share::sum(run.sessions.iter().map(|[failed, _]| failed));
    run.broken = Share::sum(run.sessions.iter().map(|[_, broken]| broken));
    run
}
