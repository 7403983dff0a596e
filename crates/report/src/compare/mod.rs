//! `streamstress compare`: reads the results of two versions, compares them with [`measure::comparison`], and prints the result.

mod read;
mod text;

pub use text::text;

use crate::{file_error::FileError, query_table::without_other_tables};
use measure::comparison::{ComparedRun, Comparison, ComparisonOptions, judge};
use std::{collections::BTreeSet, path::PathBuf};

/// Reads the results of both sides (`_summary.json` or `.csv` files, or the common starts of their names) and compares them. Tables of a run that contain no queries
/// are skipped with a note. A run whose rows and summary are both named counts once.
///
/// # Errors
/// A file cannot be read, or it is not a result of a run.
pub fn compare(
    baseline: &[PathBuf],
    candidate: &[PathBuf],
    options: &ComparisonOptions,
) -> Result<Comparison, FileError> {
    let mut notes = Vec::new();
    let mut side = |paths: &[PathBuf]| -> Result<Vec<ComparedRun>, FileError> {
        let (mut results, note) = without_other_tables(paths);
        notes.extend(note);
        let mut known = BTreeSet::new();
        results.retain(|path| known.insert(read::stem(path)));
        results.iter().map(|path| read::run(path, &options.compared)).collect()
    };
    let (baseline, candidate) = (side(baseline)?, side(candidate)?);
    let mut comparison = judge(options, &baseline, &candidate);
    comparison.warnings.extend(notes);
    Ok(comparison)
}

#[cfg(test)]
mod tests;
