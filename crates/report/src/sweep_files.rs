//! The files of a sweep.

use crate::{file_error::FileError, file_names::with_ending, html, sweep::SweepResult};
use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// Writes `…_sweep.json`, `…_sweep.csv` and `…_sweep.html`. Returns their paths. A file is replaced as a whole, so that an interruption
/// leaves the old or the new one.
///
/// # Errors
/// A file cannot be written.
pub fn write(result: &SweepResult, base: &Path) -> Result<Vec<PathBuf>, FileError> {
    let [json, csv, page] = ["json", "csv", "html"].map(|kind| with_ending(base, &format!("_sweep.{kind}")));
    let text = serde_json::to_string_pretty(result).unwrap_or_default() + "\n";
    replace(&json, text.as_bytes()).map_err(|error| FileError::unwritable(&json, &error))?;
    replace(&csv, &result.rows()).map_err(|error| FileError::unwritable(&csv, &error))?;
    html::write_sweep(result, &page)?;
    Ok(vec![json, csv, page])
}

/// Writes a file under a temporary name and renames it.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let half = with_ending(path, ".part");
    let written = fs::write(&half, bytes).and_then(|()| fs::rename(&half, path));
    if written.is_err() {
        let _ = fs::remove_file(&half);
    }
    written
}
