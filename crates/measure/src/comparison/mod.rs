//! Compares two versions by the results of their runs: does the candidate regress by more than noise explains?
//! If the noise is larger than the difference in question, the answer is [`Decision::CannotTell`], with the number of runs
//! that would be enough. All figures are compared as ratios or shares, so a run never regresses against itself.

mod judge;
mod run;
pub mod statistics;
mod text;

pub use judge::judge;
pub use run::{ComparedRun, Shares};
pub use text::{growth, percent};

use crate::{Metric, Statistic};
use statistics::Estimate;
use std::str::FromStr;

/// What to compare, and which differences to accept.
#[derive(Clone, Debug)]
pub struct ComparisonOptions {
    /// Percentiles to compare.
    pub compared: Vec<ComparedFigure>,
    /// Largest growth of a duration to accept, as a share.
    pub tolerance: f64,
    /// Growth of a duration in milliseconds that is accepted whatever its share is.
    pub least_ms: f64,
    /// Largest growth of the share of failed queries to accept: 0.001 is a tenth of a percentage point.
    pub failure_tolerance: f64,
    /// How much two runs of one version may differ, as a share. Used if there are too few runs to measure it.
    pub assumed_noise: f64,
    /// Seed for bootstrap resampling.
    pub seed: u64,
}

/// A percentile of a duration.
#[derive(Clone, Debug, PartialEq)]
pub struct ComparedFigure {
    /// Name of the duration with its unit, for example `e2el_ms`.
    pub metric: String,
    /// Percentile, 0 to 100.
    pub percent: f64,
}

impl ComparedFigure {
    /// Returns the percentiles that are compared by default.
    #[must_use]
    pub fn defaults() -> Vec<Self> {
        ["ttft_ms:p50", "ttft_ms:p95", "tpot_ms:p50", "e2el_ms:p50", "e2el_ms:p95"]
            .iter()
            .filter_map(|text| text.parse().ok())
            .collect()
    }
}

impl FromStr for ComparedFigure {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let invalid = || {
            let known = Metric::ALL.map(Metric::name_ms).join(", ");
            format!(
                "invalid percentile \"{text}\" for --metric: expected DURATION:PERCENTILE, for example e2el_ms:p95; durations are {known}"
            )
        };
        let (metric, statistic) = text.split_once(':').ok_or_else(invalid)?;
        if !Metric::ALL.iter().any(|known| known.name_ms() == metric) {
            return Err(invalid());
        }
        match statistic.parse().map_err(|why| format!("invalid percentile \"{text}\" for --metric: {why}"))? {
            Statistic::Percentile(percent) => Ok(Self { metric: metric.to_owned(), percent }),
            _ => Err(invalid()),
        }
    }
}

/// The decision about one figure, or about the whole comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// No figure grew by more than the tolerance.
    Pass,
    /// A figure grew by more than the tolerance, and noise does not explain it.
    Regressed,
    /// The noise is larger than the difference in question.
    CannotTell,
}

/// Kind of a compared figure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum FigureKind {
    Duration,
    FailedQueries,
    BrokenTokens,
}

/// One figure of both sides, and how it changed.
#[derive(Clone, Debug, PartialEq)]
pub struct FigureChange {
    /// Name for the reader.
    pub name: String,
    /// What the figure is.
    pub kind: FigureKind,
    /// Values of baseline and candidate: milliseconds, or a share. `None` if a run does not have the figure.
    pub sides: Option<(f64, f64)>,
    /// Candidate / baseline of a duration, candidate − baseline of a share. `None` if the figure could not be tested.
    pub change: Option<Estimate>,
    /// The decision about this figure.
    pub decision: Decision,
    /// Why no decision is possible. Only meaningful with [`Decision::CannotTell`].
    note: String,
}

/// The result of a comparison with its reasons.
#[derive(Clone, Debug)]
pub struct Comparison {
    /// The decision.
    pub decision: Decision,
    /// The reason for the decision, as a sentence.
    pub reason: String,
    /// All figures, durations first.
    pub changes: Vec<FigureChange>,
    /// What limits the comparison, for example settings in which the runs differ.
    pub warnings: Vec<String>,
    /// Largest growth of a duration that was accepted, as a share.
    pub tolerance: f64,
}

impl Comparison {
    /// Returns the exit code, as of a run: 0 pass, 99 regressed, 98 cannot tell.
    #[must_use]
    pub const fn exit_code(&self) -> u8 {
        match self.decision {
            Decision::Pass => 0,
            Decision::Regressed => 99,
            Decision::CannotTell => 98,
        }
    }
}

#[cfg(test)]
mod tests;
