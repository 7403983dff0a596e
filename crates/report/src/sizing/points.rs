//! Turns the results of a run, or the steps of a search, into points.

use super::{
    conditions,
    found::{Found, SUMMARY},
    resources::{self, Seconds},
};
use crate::{
    capacity::{CapacityResult, Unit},
    file_error::{FileError, read_json},
    file_names::with_ending,
    query_table::QueryTable,
};
use measure::{
    capacity::{End, Outcome, Step},
    sizing::{
        costs::MeasuredCeiling,
        point::{Point, RoleUse, late_generator},
    },
};
use serde_json::Value;
use std::{collections::BTreeMap, path::Path};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// Adds the point of a run. `base` is the common start of the names of its files.
pub(super) fn of_run(path: &Path, base: &Path, found: &mut Found) -> Result<(), FileError> {
    let summary = read_summary(path)?;
    let point = run(path, base, &summary)?;
    if found.machine.name.is_empty() && point.unusable.is_none() {
        found.machine = conditions::machine(&summary);
    }
    found.points.push(point);
    Ok(())
}

/// Adds the steps of a search as points, and its ceiling.
pub(super) fn of_search(path: &Path, base: &Path, found: &mut Found) -> Result<(), FileError> {
    let search = CapacityResult::read(path)?;
    // The options of a search cannot be compared with those of runs.
    let summary = read_summary(&with_ending(base, SUMMARY))?;
    let machine = conditions::machine(&summary);
    // The seconds of the steps of a search that was continued are those of another run.
    let starts = search.steps.windows(2).rposition(|pair| pair[1].from_s <= pair[0].from_s);
    let earlier = starts.map_or(0, |index| index + 1);
    for (index, step) in search.steps.iter().enumerate() {
        if index < earlier {
            continue;
        }
        let used = resources::in_seconds(base, span(step))?;
        let roles = if used.is_empty() { resources::of_step(&step.resources) } else { used };
        let measured = Measured {
            users: step.sessions,
            tokens_per_s: step.tokens_per_s,
            e2el_p99_ms: step.e2el_ms[1],
            window: format!("step, {} s", step.seconds),
            roles,
        };
        let mut point = point(Point::step_name(&path.display().to_string(), index + 1), &summary, measured);
        point.started_s += span(step).0;
        point.verdict = step.outcome.name().to_owned();
        let tokens_per_query = step.tokens_per_s / step.queries_per_s;
        // Answers that are much longer than a step end in a later one.
        let ends_in_step =
            step.e2el_ms[1].is_some_and(|ms| ms * 10.0 < span(step).1 * 1e3 - span(step).0 * 1e3);
        point.tokens_per_query = Some(tokens_per_query).filter(|ratio| ratio.is_finite() && ends_in_step);
        point.unusable = unusable_step(step, search.step.window_s);
        found.points.push(point);
    }
    if found.machine.name.is_empty() {
        found.machine = machine;
    }
    found.ceilings.extend(ceiling(path, &search));
    Ok(())
}

/// Returns why a step does not show what its load costs. `None` if it does.
fn unusable_step(step: &Step, planned_s: u64) -> Option<String> {
    let seconds = step.seconds;
    if let Outcome::Unmeasurable(reason) = &step.outcome {
        return Some(format!("the generator was the limit: {reason}"));
    }
    if seconds < planned_s {
        return Some(format!("it broke before its {planned_s} s were over"));
    }
    // Its tokens are those of a load that was still rising.
    let length_ms = (span(step).1 - span(step).0) * 1e3;
    step.e2el_ms[1]
        .is_some_and(|p99| p99 > length_ms)
        .then(|| "its answers took longer than the step".to_owned())
}

/// Returns the seconds of a step.
#[allow(clippy::cast_precision_loss)]
fn span(step: &Step) -> Seconds {
    (step.from_s as f64, step.from_s.saturating_add(step.seconds) as f64)
}

/// Returns the ceiling that a search found, in users. `None` if it found none, or one in another unit.
fn ceiling(path: &Path, search: &CapacityResult) -> Option<MeasuredCeiling> {
    if search.end != End::Found || search.by == Unit::SessionRate {
        return None;
    }
    let limited_by = search.limited_by.as_ref().map(|by| {
        let evidence = search.evidence.first().map(|evidence| format!(" ({evidence})")).unwrap_or_default();
        format!("{by}{evidence}")
    });
    Some(MeasuredCeiling { users: search.load, sources: vec![path.display().to_string()], limited_by })
}

/// The figures of a point.
struct Measured {
    users: f64,
    tokens_per_s: f64,
    e2el_p99_ms: Option<f64>,
    window: String,
    roles: BTreeMap<String, RoleUse>,
}

fn run(path: &Path, base: &Path, summary: &Value) -> Result<Point, FileError> {
    let required =
        |value: &Value, key: &str| value.as_f64().ok_or_else(|| FileError::not_a_summary(path, key));
    let mean_users = required(&summary["concurrency"]["sessions_mean"], "concurrency.sessions_mean")?;
    let tokens_per_s = required(&summary["output_throughput"], "output_throughput")?;
    let steady = steady(summary);
    let measured = if let Some(seconds) = steady {
        let used = resources::in_seconds(base, seconds)?;
        let figures = &summary["steady"];
        Measured {
            users: users_in(base, summary, seconds)?.unwrap_or(mean_users),
            tokens_per_s: figures["output_throughput"].as_f64().unwrap_or(tokens_per_s),
            e2el_p99_ms: figures["metrics"]["e2el_ms"]["p99"].as_f64(),
            window: format!("steady state, {:.0} s", seconds.1 - seconds.0),
            roles: if used.is_empty() { resources::of_summary(summary) } else { used },
        }
    } else {
        let whole = (0.0, f64::INFINITY);
        let used = resources::in_seconds(base, whole)?;
        Measured {
            users: mean_users,
            tokens_per_s,
            e2el_p99_ms: summary["metrics"]["e2el_ms"]["p99"].as_f64(),
            window: format!("whole run, {:.0} s", summary["duration_s"].as_f64().unwrap_or(0.0)),
            roles: if used.is_empty() { resources::of_summary(summary) } else { used },
        }
    };
    let mut point = point(path.display().to_string(), summary, measured);
    point.tokens_per_query = tokens_per_query(summary);
    point.unusable = unusable(summary);
    Ok(point)
}

/// Returns the mean number of announced tokens of a query that was sent.
fn tokens_per_query(summary: &Value) -> Option<f64> {
    let (tokens, cut_off) =
        (summary["tokens_expected"].as_f64()?, summary["tokens_cut_off"].as_f64().unwrap_or(0.0));
    let queries = summary["queries_sent"].as_f64()?;
    Some((tokens + cut_off) / queries).filter(|ratio| ratio.is_finite() && *ratio > 0.0)
}

fn point(name: String, summary: &Value, measured: Measured) -> Point {
    let started = summary["started_at"].as_str().and_then(|text| OffsetDateTime::parse(text, &Rfc3339).ok());
    let conditions = conditions::of(summary, &conditions::machine(summary));
    #[allow(clippy::cast_precision_loss)]
    Point {
        name,
        started_s: started.map_or(0.0, |at| at.unix_timestamp_nanos() as f64 / 1e9),
        window: measured.window,
        users: measured.users,
        tokens_per_s: measured.tokens_per_s,
        tokens_per_query: None,
        e2el_p99_ms: measured.e2el_p99_ms,
        verdict: summary["verdict"].as_str().unwrap_or("?").to_owned(),
        roles: measured.roles,
        conditions,
        version: summary["versions"]["client"].as_str().unwrap_or("?").to_owned(),
        unusable: None,
    }
}

/// Returns the steady state of a run in seconds of the run.
fn steady(summary: &Value) -> Option<Seconds> {
    let steady = &summary["steady"];
    Some((steady["from_s"].as_f64()?, steady["to_s"].as_f64()?)).filter(|(from, to)| to > from)
}

/// Returns the mean number of users in these seconds from `_history.csv`. `None` without that file.
fn users_in(base: &Path, summary: &Value, seconds: Seconds) -> Result<Option<f64>, FileError> {
    let path = with_ending(base, "_history.csv");
    let started = summary["started_at"].as_str().and_then(|text| OffsetDateTime::parse(text, &Rfc3339).ok());
    let (true, Some(started)) = (path.exists(), started) else { return Ok(None) };
    let mut table = QueryTable::open(&path)?;
    let (mut sum, mut rows) = (0.0, 0.0);
    #[allow(clippy::cast_precision_loss)]
    let started = started.unix_timestamp() as f64;
    while table.next_row()? {
        let (at, users) = (table.number("Timestamp", 1.0)?, table.number("User Count", 1.0)?);
        let Some((second, users)) = at.map(|at| at - started).zip(users) else { continue };
        if second >= seconds.0 && second < seconds.1 {
            sum += users;
            rows += 1.0;
        }
    }
    Ok((rows > 0.0).then(|| sum / rows))
}

/// Returns why a run does not show what a load costs. `None` if it does.
fn unusable(summary: &Value) -> Option<String> {
    let is_empty = |value: &Value| value.as_array().is_none_or(Vec::is_empty);
    if summary["interrupted"] == true {
        return Some("it was interrupted".to_owned());
    }
    if summary["verdict"] == "INVALID" {
        let reason = summary["verdict_reason"].as_str().unwrap_or_default();
        return Some(format!("its verdict is INVALID: {reason}"));
    }
    let lag = summary["generator"]["loop_lag_p99_ms"].as_f64().unwrap_or(0.0);
    let median = summary["metrics"]["e2el_ms"]["p50"].as_f64().unwrap_or(0.0);
    if let Some(late) = late_generator(lag, median) {
        return Some(late);
    }
    if !is_empty(&summary["config"]["faults"]) || !is_empty(&summary["faults"]) {
        return Some("faults were injected into it".to_owned());
    }
    (!is_empty(&summary["amendments"])).then(|| "its load was changed while it ran".to_owned())
}

fn read_summary(path: &Path) -> Result<Value, FileError> {
    let summary = read_json(path)?;
    if summary["config"].is_object() {
        return Ok(summary);
    }
    Err(FileError::not_a_summary(path, "config"))
}
