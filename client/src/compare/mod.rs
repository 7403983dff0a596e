//! Two versions compared by their results: is the candidate slower than the baseline, by more than noise?
//! Where the noise is larger than the question it says that it cannot tell, instead of guessing.

mod read;
pub mod statistics;
mod text;

pub use read::CompareError;

use crate::measure::{Metric, threshold::Statistic};
use read::{Run, pooled};
use statistics::{Estimate, difference_of_shares, ratio_of_runs, ratio_of_sessions};
use std::{path::PathBuf, str::FromStr};

/// Runs a side from which the noise between runs can be taken. Of three, all of one side lie above all of the other
/// in a tenth of all cases where nothing changed.
const RUNS_A_SIDE: usize = 4;
/// Sessions a side from which the noise within runs can be taken.
const SESSIONS_A_SIDE: usize = 20;
/// Values that must lie above a percentile, on each side.
const ABOVE: f64 = 5.0;

/// What is compared with what.
#[derive(Clone, Debug)]
pub struct Question {
    /// Results of the baseline: `_summary.json` or `.csv`.
    pub baseline: Vec<PathBuf>,
    /// Results of the candidate.
    pub candidate: Vec<PathBuf>,
    /// The figures.
    pub compared: Vec<Compared>,
    /// Growth that is put up with, as a share.
    pub tolerance: f64,
    /// Growth that is put up with whatever its share, milliseconds: a fifth of nothing is nothing.
    pub least_ms: f64,
    /// Of the resamples.
    pub seed: u64,
}

/// A percentile of a duration.
#[derive(Clone, Debug, PartialEq)]
pub struct Compared {
    /// With its unit: `e2el_ms`.
    pub metric: String,
    /// 0 to 100.
    pub percent: f64,
}

impl Compared {
    /// What is compared when nobody asks for something else.
    #[must_use]
    pub fn defaults() -> Vec<Self> {
        ["ttft_ms:p50", "ttft_ms:p95", "tpot_ms:p50", "e2el_ms:p50", "e2el_ms:p95"]
            .iter()
            .filter_map(|text| text.parse().ok())
            .collect()
    }

    fn shown(&self) -> String {
        format!("{} p({})", self.metric, self.percent)
    }
}

impl FromStr for Compared {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parse = || {
            let (metric, statistic) = text.split_once(':')?;
            Metric::ALL.iter().find(|known| metric.strip_suffix("_ms") == Some(known.name()))?;
            let Ok(Statistic::Percentile(percent)) = statistic.parse() else { return None };
            Some(Self { metric: metric.to_owned(), percent })
        };
        parse().ok_or_else(|| {
            let known = Metric::ALL.map(|metric| format!("{}_ms", metric.name())).join(", ");
            format!("`{text}` is no percentile of a duration: write e2el_ms:p95; durations are {known}")
        })
    }
}

/// What a comparison comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Nothing got worse by more than the tolerance.
    Pass,
    /// Something did, and noise does not explain it.
    Regressed,
    /// The noise is larger than the question.
    CannotTell,
}

/// One figure of both sides.
#[derive(Clone, Debug, PartialEq)]
struct Change {
    name: String,
    /// Baseline and candidate.
    sides: Option<(f64, f64)>,
    /// Candidate / baseline.
    ratio: Option<Estimate>,
    answer: Answer,
    /// Why nobody can tell, or what the noise was taken from.
    note: String,
}

/// The answer with its reasons.
#[derive(Clone, Debug)]
pub struct Comparison {
    /// What it comes to.
    pub answer: Answer,
    reason: String,
    changes: Vec<Change>,
    /// The share of failed queries, candidate − baseline.
    failures: Option<(Estimate, Answer)>,
    warnings: Vec<String>,
    tolerance: f64,
}

impl Comparison {
    /// For scripts, as of a run: 0 pass, 99 regressed, 98 cannot tell.
    #[must_use]
    pub const fn exit_code(&self) -> u8 {
        match self.answer {
            Answer::Pass => 0,
            Answer::Regressed => 99,
            Answer::CannotTell => 98,
        }
    }
}

/// Reads both sides and compares them.
///
/// # Errors
/// The first file that is no result, by its name.
pub fn compare(question: &Question) -> Result<Comparison, CompareError> {
    let read = |paths: &[PathBuf]| -> Result<Vec<Run>, CompareError> {
        paths.iter().map(|path| Run::read(path, &question.compared)).collect()
    };
    Ok(judge(question, &read(&question.baseline)?, &read(&question.candidate)?))
}

fn judge(question: &Question, baseline: &[Run], candidate: &[Run]) -> Comparison {
    let changes: Vec<_> =
        question.compared.iter().map(|one| change(question, one, baseline, candidate)).collect();
    let queries = |runs: &[Run]| {
        runs.iter().fold((0, 0), |(failed, all), run| (failed + run.failed, all + run.queries))
    };
    let failures = difference_of_shares(queries(baseline), queries(candidate));
    let failures =
        failures.map(|found| (found, if found.low > 0.0 { Answer::Regressed } else { Answer::Pass }));
    let broken: u64 = candidate.iter().map(|run| run.broken_tokens).fold(0, u64::saturating_add);
    let invalid = baseline.iter().chain(candidate).find_map(|run| Some((run, run.invalid.as_ref()?)));
    let first = |answer| changes.iter().find(|change| change.answer == answer);
    let (answer, reason) = if broken > 0 {
        (Answer::Regressed, format!("The candidate lost, doubled or reordered {broken} tokens."))
    } else if let Some((run, why)) = invalid {
        let why = why.trim_end_matches('.');
        (Answer::CannotTell, format!("{} is no valid measurement: {why}.", run.path.display()))
    } else if let Some((found, Answer::Regressed)) = failures {
        let points = found.value * 100.0;
        (
            Answer::Regressed,
            format!("The candidate fails {points:.2} % of its queries more than the baseline."),
        )
    } else if let Some(change) = first(Answer::Regressed) {
        (Answer::Regressed, text::grown(change, question.tolerance))
    } else if let Some(change) = first(Answer::CannotTell) {
        (Answer::CannotTell, format!("{}: {}.", change.name, change.note))
    } else {
        let (tolerance, least) = (text::percent(question.tolerance), question.least_ms);
        (Answer::Pass, format!("Nothing grew by more than {tolerance} or {least} ms, as sure as 95 % is."))
    };
    let warnings = warnings(baseline, candidate, &changes);
    Comparison { answer, reason, changes, failures, warnings, tolerance: question.tolerance }
}

fn warnings(baseline: &[Run], candidate: &[Run], changes: &[Change]) -> Vec<String> {
    let mut warnings = Vec::new();
    let mut differing: Vec<_> = baseline
        .first()
        .into_iter()
        .flat_map(|first| baseline[1..].iter().chain(candidate).flat_map(|run| first.differing(run)))
        .collect();
    differing.sort();
    differing.dedup();
    if !differing.is_empty() {
        warnings.push(format!("the runs were not asked for the same: {} differ", differing.join(", ")));
    }
    if changes.iter().any(|change| change.ratio.is_some() && change.note == text::WITHIN) {
        warnings.push(format!(
            "noise was taken from the sessions within the runs; what differs from run to run is not seen: give \
             {RUNS_A_SIDE} runs or more a side"
        ));
    }
    warnings
}

fn change(question: &Question, compared: &Compared, baseline: &[Run], candidate: &[Run]) -> Change {
    let name = compared.shown();
    let figures = |runs: &[Run]| runs.iter().map(|run| run.figure(compared)).collect::<Option<Vec<_>>>();
    let unknown = |sides, note: String| Change {
        name: name.clone(),
        sides,
        ratio: None,
        answer: Answer::CannotTell,
        note,
    };
    let (Some(before), Some(after)) = (figures(baseline), figures(candidate)) else {
        return unknown(None, "not every run has that figure".to_owned());
    };
    let sides = Some((typical(&before), typical(&after)));
    let (ratio, note) = if before.len().min(after.len()) >= RUNS_A_SIDE {
        (ratio_of_runs(&before, &after, question.seed), text::BETWEEN)
    } else {
        let (Some(before), Some(after)) = (pooled(baseline, compared), pooled(candidate, compared)) else {
            let why = format!(
                "so few runs without their rows say nothing of noise; give {RUNS_A_SIDE} a side, or CSVs"
            );
            return unknown(sides, why);
        };
        let carried = |rows: &statistics::Sessions| {
            #[allow(clippy::cast_precision_loss)]
            let above = rows.len() as f64 * (1.0 - compared.percent / 100.0);
            rows.sessions() >= SESSIONS_A_SIDE && above >= ABOVE
        };
        if !carried(&before) || !carried(&after) {
            return unknown(
                sides,
                format!("too few queries; {SESSIONS_A_SIDE} sessions a side are the least"),
            );
        }
        (ratio_of_sessions(&before, &after, compared.percent / 100.0, question.seed), text::WITHIN)
    };
    let Some(ratio) = ratio else {
        return unknown(sides, "a figure that is not above 0 has no ratio".to_owned());
    };
    let tolerance = sides.map_or(0.0, |(before, _)| question.least_ms / before).max(question.tolerance);
    let answer = answer(&ratio, tolerance);
    let note = if answer == Answer::CannotTell {
        let (low, high) = (text::growth(ratio.low), text::growth(ratio.high));
        format!("{low} to {high} is too wide a range to tell; take more or longer runs")
    } else {
        note.to_owned()
    };
    Change { name, sides, ratio: Some(ratio), answer, note }
}

/// Of an interval that lies above the tolerance, below it, or across.
fn answer(ratio: &Estimate, tolerance: f64) -> Answer {
    let most = 1.0 + tolerance;
    if ratio.low > most {
        Answer::Regressed
    } else if ratio.high <= most {
        Answer::Pass
    } else {
        Answer::CannotTell
    }
}

/// The geometric mean: what a ratio of runs is taken of.
#[allow(clippy::cast_precision_loss)]
fn typical(figures: &[f64]) -> f64 {
    match figures {
        [one] => *one,
        _ => (figures.iter().map(|figure| figure.ln()).sum::<f64>() / figures.len() as f64).exp(),
    }
}

#[cfg(test)]
mod tests;
