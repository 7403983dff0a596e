//! The result of a search for the ceiling: stored as JSON, listed as CSV, shown as text and as an HTML page.

mod text;

use crate::file_error::FileError;
use measure::capacity::{Ceiling, End, Limit, Limits, Outcome, Step, StepSettings};
use serde::{Deserialize, Serialize};
use settings::cells::CellWriter;
use std::{fs, path::Path};

/// Version of the JSON file.
const SCHEMA_VERSION: u32 = 1;

/// The unit of the ceiling.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unit {
    /// Sessions that are open at the same time.
    Sessions,
    /// New sessions per second.
    SessionRate,
    /// Tokens per second. The load is a number of sessions; the steps show how many tokens per second they receive.
    Tokens,
}

impl Unit {
    /// Returns the unit in texts.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sessions => "sessions",
            Self::SessionRate => "sessions/s",
            Self::Tokens => "tokens/s",
        }
    }

    /// Returns the unit as `--by` names it.
    #[must_use]
    pub const fn flag(self) -> &'static str {
        match self {
            Self::Sessions => "sessions",
            Self::SessionRate => "session-rate",
            Self::Tokens => "tokens",
        }
    }

    /// Returns the unit of the load of a step.
    #[must_use]
    pub const fn of_load(self) -> &'static str {
        match self {
            Self::Sessions | Self::Tokens => "sessions",
            Self::SessionRate => "sessions/s",
        }
    }
}

/// The result of a search.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CapacityResult {
    schema_version: u32,
    /// Name of the run that was steered: the common start of the names of its files.
    pub run_id: String,
    /// Version of the program.
    pub version: String,
    /// What was tested.
    pub target: String,
    /// Unit of the ceiling.
    pub by: Unit,
    /// The most likely ceiling.
    pub ceiling: f64,
    /// Lower end of the interval in which the ceiling lies.
    pub ceiling_low: f64,
    /// Upper end of the interval. `None`: no load was too high for the system.
    pub ceiling_high: Option<f64>,
    /// Probability that the ceiling lies in the interval.
    pub confidence: f64,
    /// Range around the ceiling in which a step may hold or break, as a share of the ceiling.
    pub noise: f64,
    /// Why the search ended.
    pub end: End,
    /// The objective that breaks first, or `the generator`.
    pub limited_by: Option<String>,
    /// What was seen when it broke.
    pub evidence: Vec<String>,
    /// The ceiling as a load, in sessions or sessions per second.
    pub load: f64,
    /// Tokens per second near the ceiling.
    pub tokens_per_s: Option<f64>,
    /// Queries per second near the ceiling.
    pub queries_per_s: Option<f64>,
    /// Objectives of every step.
    pub objectives: Vec<String>,
    /// Durations of a step.
    pub step: StepSettings,
    /// Loads that were to be tried.
    pub limits: Limits,
    /// Options of the run, as TOML without secrets.
    pub options: String,
    /// The steps, in the order in which they were made.
    pub steps: Vec<Step>,
}

/// What a search knows, for its result.
#[derive(Clone, Debug)]
pub struct Known<'a> {
    /// The ceiling, as a load.
    pub ceiling: Ceiling,
    /// Why the search ended.
    pub end: End,
    /// What limits the system.
    pub limit: Option<Limit>,
    /// The steps.
    pub steps: &'a [Step],
}

/// Where and how a search was made, for its result.
#[derive(Clone, Debug)]
pub struct Search {
    /// Name of the run.
    pub run_id: String,
    /// What was tested.
    pub target: String,
    /// Unit of the ceiling.
    pub by: Unit,
    /// Objectives of every step.
    pub objectives: Vec<String>,
    /// Durations of a step.
    pub step: StepSettings,
    /// Loads to try.
    pub limits: Limits,
    /// Options of the run.
    pub options: String,
}

impl CapacityResult {
    /// Puts the result of a search together.
    #[must_use]
    pub fn new(search: Search, known: Known<'_>) -> Self {
        let Ceiling { value, low, high, confidence, noise } = known.ceiling;
        let per_load = |figure: fn(&Step) -> f64| mean_per_load(known.steps, value, figure);
        let (tokens, queries) = (per_load(|step| step.tokens_per_s), per_load(|step| step.queries_per_s));
        let factor = if search.by == Unit::Tokens { tokens.unwrap_or(0.0) } else { 1.0 };
        let (by, evidence) = known.limit.map_or((None, Vec::new()), |limit| (Some(limit.by), limit.evidence));
        Self {
            schema_version: SCHEMA_VERSION,
            run_id: search.run_id,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            target: search.target,
            by: search.by,
            ceiling: value * factor,
            ceiling_low: low * factor,
            ceiling_high: high.map(|high| high * factor),
            confidence,
            noise,
            end: known.end,
            limited_by: by,
            evidence,
            load: value,
            tokens_per_s: tokens.map(|tokens| tokens * value),
            queries_per_s: queries.map(|queries| queries * value),
            objectives: search.objectives,
            step: search.step,
            limits: search.limits,
            options: search.options,
            steps: known.steps.to_vec(),
        }
    }

    /// Reads the result of an earlier search.
    ///
    /// # Errors
    /// The file cannot be read, or is not the result of a search.
    pub fn read(path: &Path) -> Result<Self, FileError> {
        let text = fs::read_to_string(path)
            .map_err(|error| FileError::unreadable_search(path, &error.to_string()))?;
        let result: Self = serde_json::from_str(&text)
            .map_err(|error| FileError::unreadable_search(path, &error.to_string()))?;
        if result.schema_version != SCHEMA_VERSION {
            let version = result.schema_version;
            return Err(FileError::unreadable_search(
                path,
                &format!("its format is {version}, expected {SCHEMA_VERSION}"),
            ));
        }
        Ok(result)
    }

    /// Returns the exit code: 0 if the ceiling, or that it is above the range, is known; 99 if no load holds; 105 if the search was
    /// interrupted; otherwise 98, because the ceiling is not known well enough.
    #[must_use]
    pub const fn exit_code(&self) -> u8 {
        match self.end {
            End::Found | End::AboveRange => 0,
            End::NothingHolds => 99,
            End::Interrupted => 105,
            End::OutOfSteps | End::OutOfTime | End::GeneratorLimit => 98,
        }
    }

    /// Returns by how much the ceiling is lower than that of an earlier search, or `None` if the difference is within the noise: the
    /// intervals of the two searches have a common part, or the ceiling rose.
    #[must_use]
    pub fn fell_from(&self, baseline: &Self) -> Option<String> {
        let fell = match self.ceiling_high {
            Some(high) => high < baseline.ceiling_low,
            // The search was not allowed to go as far as the earlier ceiling.
            None => self.end == End::AboveRange && self.ceiling_low < baseline.ceiling_low,
        };
        if self.ceiling_high.is_none() && fell {
            return Some(format!(
                "the search ended at --to, below the ceiling of the baseline, {}: use a larger --to",
                text::interval(baseline)
            ));
        }
        fell.then(|| {
            format!(
                "the ceiling fell from {} to {} by more than the noise",
                text::interval(baseline),
                text::interval(self)
            )
        })
    }

    /// Returns the text for a terminal with `columns` columns.
    #[must_use]
    pub fn text(&self, columns: usize) -> String {
        text::render(self, columns)
    }

    /// Returns one row per step.
    pub(crate) fn rows(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut rows = CellWriter::new(&mut bytes);
        let header = "step,load,outcome,reason,from_s,seconds,sessions,tokens_per_s,queries_per_s,ttft_p50_ms,ttft_p99_ms,\
                      e2el_p50_ms,e2el_p99_ms,itl_p50_ms,itl_p99_ms";
        // Writing to memory does not fail.
        let _ = rows.write_record(header.split(','));
        for (number, step) in self.steps.iter().enumerate() {
            let optional = |value: Option<f64>| value.map(|value| format!("{value:.3}")).unwrap_or_default();
            let numbers =
                [step.sessions, step.tokens_per_s, step.queries_per_s].map(|value| format!("{value:.1}"));
            let latencies = [step.ttft_ms, step.e2el_ms, step.itl_ms];
            let cells = [
                (number + 1).to_string(),
                step.load.to_string(),
                step.outcome.name().to_owned(),
                step.outcome.reason().to_owned(),
            ]
            .into_iter()
            .chain([step.from_s.to_string(), step.seconds.to_string()])
            .chain(numbers)
            .chain(latencies.into_iter().flatten().map(optional));
            let _ = rows.write_record(cells);
        }
        let _ = rows.flush();
        drop(rows);
        bytes
    }
}

/// Returns a figure per unit of the load near the ceiling: the mean of the steps that held within a fifth of it, or of all that held.
fn mean_per_load(steps: &[Step], ceiling: f64, figure: fn(&Step) -> f64) -> Option<f64> {
    let mean = |near: f64| {
        let held =
            steps.iter().filter(|step| step.outcome == Outcome::Held && step.load >= near && step.load > 0.0);
        let ratios: Vec<f64> = held.map(|step| figure(step) / step.load).collect();
        #[allow(clippy::cast_precision_loss)]
        (!ratios.is_empty()).then(|| ratios.iter().sum::<f64>() / ratios.len() as f64)
    };
    mean(ceiling * 0.8).or_else(|| mean(0.0))
}

#[cfg(test)]
mod tests;
