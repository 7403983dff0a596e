//! The result of a sweep: stored as JSON, listed as CSV, shown as text and as an HTML page.

mod text;

pub(crate) use text::{headline, sentences};

use crate::file_error::FileError;
use measure::sweep::{
    FIGURES, Outcome, Point, ROLES, Spread, Variant, VariantSummary, cpu_key, rss_key, summarize,
};
use serde::{Deserialize, Serialize};
use settings::cells::CellWriter;
use std::{fs, path::Path};

/// Version of the JSON file.
const SCHEMA_VERSION: u32 = 1;

/// Why a sweep ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SweepEnd {
    /// Every run was played.
    Complete,
    /// A signal ended it.
    Interrupted,
    /// It goes on, or its process was killed.
    Unfinished,
}

/// Where and how a sweep is made, for its result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sweep {
    /// Name of the sweep: the common start of the names of its files.
    pub run_id: String,
    /// What is tested.
    pub target: String,
    /// The `--vary`, as they were written.
    pub vary: Vec<String>,
    /// The variants.
    pub variants: Vec<Variant>,
    /// Repetitions of each variant.
    pub repeat: usize,
    /// Seed of every run.
    pub seed: u64,
    /// Options that do not vary, as TOML without secrets.
    pub options: String,
}

/// The result of a sweep.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SweepResult {
    schema_version: u32,
    /// Name of the sweep: the common start of the names of its files.
    pub run_id: String,
    /// Version of the program.
    pub version: String,
    /// What was tested.
    pub target: String,
    /// The `--vary`, as they were written.
    pub vary: Vec<String>,
    /// Repetitions of each variant.
    pub repeat: usize,
    /// Seed of every run.
    pub seed: u64,
    /// Options that do not vary, as TOML without secrets.
    pub options: String,
    /// Why the sweep ended.
    pub end: SweepEnd,
    /// The variants with their figures over all repetitions.
    pub variants: Vec<VariantSummary>,
    /// The runs, in the order in which they were played.
    pub points: Vec<Point>,
}

impl SweepResult {
    /// Puts the result of a sweep together.
    #[must_use]
    pub fn new(sweep: &Sweep, points: Vec<Point>, end: SweepEnd) -> Self {
        let Sweep { run_id, target, vary, variants, repeat, seed, options } = sweep.clone();
        Self {
            schema_version: SCHEMA_VERSION,
            run_id,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            target,
            vary,
            repeat,
            seed,
            options,
            end,
            variants: summarize(&variants, &points),
            points,
        }
    }

    /// Reads the result of an earlier sweep.
    ///
    /// # Errors
    /// The file cannot be read, or is not the result of a sweep.
    pub fn read(path: &Path) -> Result<Self, FileError> {
        let unreadable = |why: String| FileError::unreadable_sweep(path, &why);
        let text = fs::read_to_string(path).map_err(|error| unreadable(error.to_string()))?;
        let result: Self = serde_json::from_str(&text).map_err(|error| unreadable(error.to_string()))?;
        if result.schema_version != SCHEMA_VERSION {
            let version = result.schema_version;
            return Err(unreadable(format!("its format is {version}, expected {SCHEMA_VERSION}")));
        }
        Ok(result)
    }

    /// Returns the exit code: 105 if the sweep was interrupted, 1 if a run has no result, 99 if a run failed, 98 if a run is INVALID,
    /// otherwise 0.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        let any = |of: fn(&VariantSummary) -> usize| self.variants.iter().any(|variant| of(variant) > 0);
        if self.end != SweepEnd::Complete {
            105
        } else if any(|variant| variant.runs.no_result) {
            1
        } else if any(|variant| variant.runs.fail) {
            99
        } else if any(|variant| variant.runs.invalid) {
            98
        } else {
            0
        }
    }

    /// Returns the names of the settings, in the order of the `--vary`.
    #[must_use]
    pub fn names(&self) -> Vec<&str> {
        let settings = self.variants.first().map_or(&[][..], |variant| variant.settings.settings());
        settings.iter().map(|(name, _)| name.as_str()).collect()
    }

    /// Returns the names of the settings that have only one value.
    pub(crate) fn fixed(&self) -> Vec<&str> {
        let varies = |name: &&str| {
            let mut values = self.variants.iter().map(|variant| variant.settings.value(name));
            let first = values.next();
            values.any(|value| Some(value) != first)
        };
        self.names().into_iter().filter(|name| !varies(name)).collect()
    }

    /// Returns the settings of a variant that vary, as text. `number` counts from 1.
    pub(crate) fn label(&self, number: usize) -> String {
        let variant = number.checked_sub(1).and_then(|index| self.variants.get(index));
        variant.map(|variant| variant.settings.without(&self.fixed())).unwrap_or_default()
    }

    /// Returns the runs that did not pass.
    pub(crate) fn bad_points(&self) -> impl Iterator<Item = &Point> {
        self.points.iter().filter(|point| point.verdict != Outcome::Pass)
    }

    /// Returns the roles of which any variant has the figure with this key.
    pub(crate) fn roles(&self, key: fn(&str) -> String) -> Vec<&'static str> {
        let has = |role: &&str| self.variants.iter().any(|variant| variant.figures.contains_key(&key(role)));
        ROLES.into_iter().filter(has).collect()
    }

    /// Returns the text for a terminal with `columns` columns.
    #[must_use]
    pub fn text(&self, columns: usize) -> String {
        text::render(self, columns)
    }

    /// Returns one row per variant: settings, verdict, number of runs, and for each figure its median, smallest and largest value.
    pub(crate) fn rows(&self) -> Vec<u8> {
        let keys = FIGURES.iter().map(|figure| figure.key.to_owned());
        let of_roles = ROLES.into_iter().flat_map(|role| [cpu_key(role), rss_key(role)]);
        let keys: Vec<String> = keys.chain([cpu_key("stack")]).chain(of_roles).collect();
        let mut bytes = Vec::new();
        let mut rows = CellWriter::new(&mut bytes);
        let names = self.names().into_iter().map(str::to_owned);
        let of_figures =
            keys.iter().flat_map(|key| [key.clone(), format!("{key}_min"), format!("{key}_max")]);
        // Writing to memory does not fail.
        let _ = rows.write_record(
            ["variant".to_owned()]
                .into_iter()
                .chain(names)
                .chain(["verdict".to_owned(), "runs".to_owned()])
                .chain(of_figures),
        );
        for variant in &self.variants {
            let runs = variant.runs.pass + variant.runs.fail + variant.runs.invalid + variant.runs.no_result;
            let values = variant.settings.settings().iter().map(|(_, value)| value.clone());
            let cells =
                |spread: &Spread| [spread.median, spread.min, spread.max].map(|value| format!("{value:.3}"));
            let figures = keys.iter().flat_map(|key| variant.figures.get(key).map(cells).unwrap_or_default());
            let _ = rows.write_record(
                [variant.number.to_string()]
                    .into_iter()
                    .chain(values)
                    .chain([variant.verdict.clone(), runs.to_string()])
                    .chain(figures),
            );
        }
        let _ = rows.flush();
        drop(rows);
        bytes
    }
}

#[cfg(test)]
mod tests;
