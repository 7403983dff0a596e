//! Two versions compared by their results: is the candidate slower than the baseline, or does it fail or lose more, by more
//! than noise? Where the noise is larger than the question the answer is that it cannot be told, with the number of runs that
//! would tell. Everything is compared as a share or a ratio, so that a run never regresses against itself.

mod judge;
mod read;
pub mod statistics;
mod text;

pub use read::CompareError;

use crate::file_names::is_table_without_queries;
use judge::judge;
use measure::{Metric, Statistic};
use read::Run;
use statistics::Estimate;
use std::{collections::BTreeSet, path::PathBuf, str::FromStr};

/// What is compared with what.
#[derive(Clone, Debug)]
pub struct CompareOptions {
    /// Results of the baseline: `_summary.json` or `.csv`.
    pub baseline: Vec<PathBuf>,
    /// Results of the candidate.
    pub candidate: Vec<PathBuf>,
    /// The figures.
    pub compared: Vec<ComparedFigure>,
    /// Largest growth of a duration to accept, as a share.
    pub tolerance: f64,
    /// Growth to accept whatever its share, milliseconds: a fifth of nothing is nothing.
    pub least_ms: f64,
    /// Largest growth of the share of failed queries to accept: 0.001 is a tenth of a percentage point.
    pub failure_tolerance: f64,
    /// How much two runs of one version may differ, as a share; used where there are too few runs to measure it.
    pub assumed_noise: f64,
    /// Seed for bootstrap resampling.
    pub seed: u64,
}

/// A percentile of a duration.
#[derive(Clone, Debug, PartialEq)]
pub struct ComparedFigure {
    /// With its unit: `e2el_ms`.
    pub metric: String,
    /// 0 to 100.
    pub percent: f64,
}

impl ComparedFigure {
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

impl FromStr for ComparedFigure {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refused = || {
            let known = Metric::ALL.map(|metric| format!("{}_ms", metric.name())).join(", ");
            format!("`{text}` is not a percentile of a duration: write e2el_ms:p95; durations are {known}")
        };
        let (metric, statistic) = text.split_once(':').ok_or_else(refused)?;
        if !Metric::ALL.iter().any(|known| metric.strip_suffix("_ms") == Some(known.name())) {
            return Err(refused());
        }
        match statistic.parse().map_err(|why| format!("`{text}`: {why}"))? {
            Statistic::Percentile(percent) => Ok(Self { metric: metric.to_owned(), percent }),
            _ => Err(refused()),
        }
    }
}

/// What a comparison comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Nothing got worse by more than the tolerance.
    Pass,
    /// Something did, and noise does not explain it.
    Regressed,
    /// The noise is larger than the question.
    CannotTell,
}

/// One figure of both sides.
#[derive(Clone, Debug, PartialEq)]
struct FigureChange {
    name: String,
    kind: FigureKind,
    /// Baseline and candidate: milliseconds, or a share.
    sides: Option<(f64, f64)>,
    /// Candidate / baseline of a duration, candidate − baseline of a share.
    change: Option<Estimate>,
    decision: Decision,
    /// Why it cannot be told, or what the noise was taken from.
    note: String,
}

/// What a figure is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FigureKind {
    Duration,
    FailedQueries,
    BrokenTokens,
}

/// The answer with its reasons.
#[derive(Clone, Debug)]
pub struct Comparison {
    /// What it comes to.
    pub decision: Decision,
    reason: String,
    changes: Vec<FigureChange>,
    warnings: Vec<String>,
    tolerance: f64,
}

impl Comparison {
    /// For scripts, as of a run: 0 pass, 99 regressed, 98 cannot tell.
    #[must_use]
    pub const fn exit_code(&self) -> u8 {
        match self.decision {
            Decision::Pass => 0,
            Decision::Regressed => 99,
            Decision::CannotTell => 98,
        }
    }
}

/// Reads both sides and compares them. Tables of a run that hold no queries are skipped with a note, and a run whose rows
/// and summary are both named counts once.
///
/// # Errors
/// The first file that is no result, by its name.
pub fn compare(options: &CompareOptions) -> Result<Comparison, CompareError> {
    let mut skipped = Vec::new();
    let mut side = |paths: &[PathBuf]| -> Result<Vec<Run>, CompareError> {
        let (companions, mut results): (Vec<_>, Vec<_>) =
            paths.iter().partition(|path| is_table_without_queries(path) && !read::holds_queries(path));
        if results.is_empty() {
            results = companions;
        } else {
            skipped.extend(companions.iter().map(|path| path.display().to_string()));
        }
        let mut known = BTreeSet::new();
        results.retain(|path| known.insert(read::stem(path)));
        results.iter().map(|path| Run::read(path, &options.compared)).collect()
    };
    let (baseline, candidate) = (side(&options.baseline)?, side(&options.candidate)?);
    let mut comparison = judge(options, &baseline, &candidate);
    if !skipped.is_empty() {
        comparison.warnings.push(format!("skipped, because they hold no queries: {}", skipped.join(", ")));
    }
    Ok(comparison)
}

#[cfg(test)]
mod tests;
