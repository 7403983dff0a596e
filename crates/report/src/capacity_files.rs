//! The files of a search for the ceiling.

use crate::{capacity::CapacityResult, file_error::FileError, file_names::with_ending, html};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// Writes `…_capacity.json`, `…_capacity.csv` and `…_capacity.html`. Returns their paths.
///
/// # Errors
/// A file cannot be written.
pub fn write(result: &CapacityResult, base: &Path) -> Result<Vec<PathBuf>, FileError> {
    let [json, csv, page] =
        ["json", "csv", "html"].map(|kind| with_ending(base, &format!("_capacity.{kind}")));
    let text = serde_json::to_string_pretty(result).unwrap_or_default();
    fs::write(&json, text + "\n").map_err(|error| FileError::unwritable(&json, &error))?;
    fs::write(&csv, result.rows()).map_err(|error| FileError::unwritable(&csv, &error))?;
    html::write_capacity(result, &page)?;
    Ok(vec![json, csv, page])
}
