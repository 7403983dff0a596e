//! Reads the results of a run for a comparison: its summary, its rows, or both if they lie side by side.

use crate::{
    file_error::{FileError, read_json},
    file_names::with_ending,
    query_table::QueryTable,
};
use measure::comparison::{
    ComparedFigure, ComparedRun, Shares,
    statistics::{Sessions, Share},
};
use std::{
    collections::HashMap,
    io::Read,
    path::{Path, PathBuf},
};

const BROKEN: [&str; 3] = ["tokens_lost", "tokens_duplicated", "tokens_reordered"];

/// Returns the common start of the file names of a run, or the path itself if its ending is not that of a result.
pub(super) fn stem(path: &Path) -> PathBuf {
    let name = path.to_string_lossy();
    let stem = name.strip_suffix("_summary.json").or_else(|| name.strip_suffix(".csv"));
    stem.map_or_else(|| path.to_owned(), PathBuf::from)
}

/// Reads a `_summary.json` or a `.csv`, and the other one of the two if it lies beside it. `path` is one of them or the common start of
/// their names.
pub(super) fn run(path: &Path, compared: &[ComparedFigure]) -> Result<ComparedRun, FileError> {
    let stem = stem(path);
    let (summary, rows) = (with_ending(&stem, "_summary.json"), with_ending(&stem, ".csv"));
    if stem == path && !summary.exists() && !rows.exists() {
        return Err(FileError::not_a_result(if path.exists() {
            format!(
                "{} is not a result by its name: expected an ending of .csv or _summary.json",
                path.display()
            )
        } else {
            format!("found neither {} nor {}", summary.display(), rows.display())
        }));
    }
    let mut run = ComparedRun { name: path.display().to_string(), ..ComparedRun::default() };
    let is_wanted = |file: &Path| file == path || file.exists();
    if is_wanted(&rows) {
        add_rows(&mut run, &rows, compared)?;
    }
    if is_wanted(&summary) {
        add_summary(&mut run, &summary)?;
    }
    Ok(run)
}

#[allow(clippy::cast_precision_loss)]
fn add_summary(run: &mut ComparedRun, path: &Path) -> Result<(), FileError> {
    let mut summary = read_json(path)?;
    let count = |key: &str| summary[key].as_u64();
    let required = |key| count(key).ok_or_else(|| FileError::not_a_summary(path, key));
    let (total, ok) = (required("queries_total")?, required("queries_ok")?);
    let broken = BROKEN.iter().filter_map(|key| count(key)).fold(0, u64::saturating_add);
    let expected = count("tokens_expected").or_else(|| count("tokens_received")).unwrap_or(0);
    run.sessions_total = count("total_sessions").unwrap_or(total) as f64;
    run.total = Shares {
        failed: Share { part: total.saturating_sub(ok) as f64, whole: total as f64 },
        broken: Share { part: broken as f64, whole: expected.max(broken) as f64 },
    };
    if summary["interrupted"].as_bool() == Some(true) {
        run.invalid = Some("it was interrupted".to_owned());
    } else if summary["verdict"] == "INVALID" {
        run.invalid = Some(summary["verdict_reason"].as_str().unwrap_or("INVALID").to_owned());
    }
    (run.metrics, run.config) = (summary["metrics"].take(), summary["config"].take());
    Ok(())
}

fn add_rows(run: &mut ComparedRun, path: &Path, compared: &[ComparedFigure]) -> Result<(), FileError> {
    let mut table = QueryTable::open(path)?;
    let session_column = if table.has("session_index") { "session_index" } else { "session_id" };
    table.require(&[session_column])?;
    // Metric, column, and milliseconds in the unit of the column.
    let mut columns: Vec<_> = compared
        .iter()
        .map(|one| match one.metric.as_str() {
            "e2el_ms" if !table.has("e2el_ms") => ("e2el_ms", "latency", 1e3),
            metric => (metric, metric, 1.0),
        })
        .collect();
    columns.sort_unstable_by_key(|&(metric, ..)| metric);
    columns.dedup();
    let mut known = HashMap::new();
    let mut values: HashMap<&str, Vec<(f64, usize)>> = HashMap::new();
    while table.next_row()? {
        let next = known.len();
        let session = *known.entry(table.text(session_column).unwrap_or_default().to_owned()).or_insert(next);
        if session == run.sessions.len() {
            run.sessions.push(Shares::default());
        }
        add_shares(&mut run.sessions[session], &table)?;
        // The client itself held this query back, so its durations say nothing about the system.
        if table.number("paused_ms", 1.0)?.is_some_and(|ms| ms > 0.0) {
            continue;
        }
        for &(metric, column, unit) in &columns {
            if let Some(value) = table.number(column, unit)? {
                values.entry(metric).or_default().push((value, session));
            }
        }
    }
    run.sum_sessions();
    let sessions = known.len();
    let samples =
        values.into_iter().map(|(metric, values)| (metric.to_owned(), Sessions::new(values, sessions)));
    run.rows = samples.collect();
    Ok(())
}

/// Adds a query to the shares of its session.
#[allow(clippy::cast_precision_loss)]
fn add_shares(session: &mut Shares, row: &QueryTable<impl Read>) -> Result<(), FileError> {
    let ok = if row.has("status") { row.text("status") == Some("ok") } else { row.text("error").is_none() };
    session.failed.part += f64::from(u8::from(!ok));
    session.failed.whole += 1.0;
    let mut broken = 0u64;
    for column in BROKEN {
        broken = broken.saturating_add(row.count(column)?.unwrap_or(0));
    }
    let expected = row.count("tokens_expected")?.or(row.count("tokens")?).unwrap_or(0);
    session.broken.part += broken as f64;
    session.broken.whole += expected.max(broken) as f64;
    Ok(())
}
