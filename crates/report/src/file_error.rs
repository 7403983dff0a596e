//! The error about a file of a run, and the reading of JSON files.

use serde_json::Value;
use std::{fs, io, path::Path};

/// A file of a run cannot be read, written or understood.
#[derive(Debug, thiserror::Error)]
#[error("{what}; {next_step}")]
pub struct FileError {
    what: String,
    next_step: &'static str,
}

impl FileError {
    /// Creates the error that a file is not a result of a run.
    pub(crate) const fn not_a_result(what: String) -> Self {
        Self { what, next_step: "name a .csv or a _summary.json that a run left in its output directory" }
    }

    /// Creates the error that a file is not a summary, because the value of `key` is missing or has the wrong type.
    pub(crate) fn not_a_summary(path: &Path, key: &str) -> Self {
        Self::not_a_result(format!("{} is not a summary: it lacks {key}", path.display()))
    }

    /// Creates the error that a file is not the result of a search for the ceiling.
    pub(crate) fn unreadable_search(path: &Path, why: &str) -> Self {
        let what = format!("cannot read {} as the result of a search: {why}", path.display());
        Self { what, next_step: "name a _capacity.json that `streamstress capacity` wrote" }
    }

    /// Creates the error that a directory contains no results.
    pub(crate) fn no_results(directory: &Path) -> Self {
        let what = format!("{} contains no _summary.json and no _capacity.json", directory.display());
        Self { what, next_step: "name a directory that was the --output-dir of runs" }
    }

    /// Creates the error that a file is not the result of a sweep.
    pub(crate) fn unreadable_sweep(path: &Path, why: &str) -> Self {
        let what = format!("cannot read {} as the result of a sweep: {why}", path.display());
        Self { what, next_step: "name a _sweep.json that `streamstress sweep` wrote" }
    }

    /// Creates the error that a run has no such query.
    pub(crate) const fn no_query(what: String) -> Self {
        Self {
            what,
            next_step: "name a query id, slowest, broken, or SESSION:NUMBER as in the columns of the run's .csv",
        }
    }

    /// Creates the error that a line of a file is invalid.
    pub(crate) const fn invalid_line(what: String) -> Self {
        Self { what, next_step: "correct or remove that line, or name another file" }
    }

    /// Creates the error that a file cannot be read.
    pub(crate) fn unreadable(path: &Path, error: &io::Error) -> Self {
        Self::not_a_result(format!("cannot read {}: {error}", path.display()))
    }

    /// Creates the error that a file cannot be written.
    pub(crate) fn unwritable(path: &Path, error: &io::Error) -> Self {
        let what = format!("cannot write {}: {error}", path.display());
        Self { what, next_step: "make its directory writable, or copy the results to another one" }
    }
}

/// Reads a JSON file.
pub(crate) fn read_json(path: &Path) -> Result<Value, FileError> {
    let text = fs::read_to_string(path).map_err(|error| FileError::unreadable(path, &error))?;
    serde_json::from_str(&text)
        .map_err(|error| FileError::not_a_result(format!("{} is not valid JSON: {error}", path.display())))
}
