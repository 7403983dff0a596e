//! The HTML report: one file that works offline, made from the stored results of a run.
//! Missing data is left out of the report.

mod capacity;
mod chart;
mod downsample;
mod hops;
mod page;
mod percentiles;
mod queries;
mod sections;
mod stored;
mod sweep;

pub use page::{POINTER, STYLE};

use crate::{
    capacity::CapacityResult,
    file_error::FileError,
    file_names::{base, with_ending},
    sweep::SweepResult,
};
use std::{
    fs, io,
    path::{Path, PathBuf},
};
use stored::StoredRun;

/// Writes the report of the run to which `file` belongs and returns its path. `file` is any file of the run or the common
/// start of their names.
///
/// # Errors
/// The summary of the run is missing or invalid, or the report cannot be written.
pub fn write(file: &Path) -> Result<PathBuf, FileError> {
    let base = base(file);
    let stored = StoredRun::read(&base)?;
    let path = with_ending(&base, "_report.html");
    let text = page::render(&stored).into_string();
    replace(&path, &text).map_err(|error| FileError::unwritable(&path, &error))?;
    Ok(path)
}

/// Writes the page of a search for the ceiling.
pub(crate) fn write_capacity(result: &CapacityResult, path: &Path) -> Result<(), FileError> {
    let text = capacity::render(result).into_string();
    replace(path, &text).map_err(|error| FileError::unwritable(path, &error))
}

/// Writes the page of a sweep.
pub(crate) fn write_sweep(result: &SweepResult, path: &Path) -> Result<(), FileError> {
    let directory = path.parent().unwrap_or(Path::new(""));
    let text = sweep::render(result, directory).into_string();
    replace(path, &text).map_err(|error| FileError::unwritable(path, &error))
}

/// Returns the page of a sweep whose runs have no files.
#[cfg(test)]
pub(crate) fn sweep_page(result: &SweepResult) -> String {
    sweep::render(result, Path::new("/nonexistent")).into_string()
}

/// Writes a file under a temporary name and renames it, so that a reader never sees a partial report.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let half = path.with_extension("html.part");
    let written = fs::write(&half, text).and_then(|()| fs::rename(&half, path));
    if written.is_err() {
        let _ = fs::remove_file(&half);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_summary_there_is_no_page() {
        let dir = tempfile::tempdir().unwrap();
        let error = write(&dir.path().join("a.csv")).unwrap_err().to_string();
        assert!(error.contains("a_summary.json") && error.contains("output directory"), "{error}");
        fs::write(dir.path().join("a_summary.json"), "[1]").unwrap();
        assert!(write(&dir.path().join("a.csv")).unwrap_err().to_string().contains("not a summary"));
    }

    #[test]
    fn what_others_wrote_is_escaped_and_what_is_missing_is_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let evil = "<script>alert(1)</script>";
        let summary = serde_json::json!({
            "run_id": evil, "verdict": evil, "verdict_reason": evil, "config": { "a": evil },
            "thresholds": [{ "threshold": evil, "ok": false }], "findings": [{ "evidence": evil }],
            "faults": [{ "fault": evil }], "metrics": { evil: { "p50": 1 } }, "started_at": 3, "tokens_lost": "x",
        });
        fs::write(dir.path().join("a_summary.json"), summary.to_string()).unwrap();
        fs::write(dir.path().join("a_failures.csv"), format!("Name,Error\n{evil},{evil}\n")).unwrap();
        fs::write(dir.path().join("a_history.csv"), b"Timestamp,Tokens/s\nx,y\n\xff,1\n99999999999999,NaN\n")
            .unwrap();
        fs::write(dir.path().join("a_latency.hlog"), "garbage\nTag=x,1,1,1,AAAA\n").unwrap();
        let page = fs::read_to_string(write(&dir.path().join("a.csv")).unwrap()).unwrap();
        assert!(page.contains("&lt;script&gt;") && !page.contains(evil), "{page}");
        assert_eq!(page.matches("<script").count(), 1, "the page's own");
        let turned = serde_json::json!({
            "run_id": "a\u{202e}b", "verdict": "PASS", "verdict_reason": "\u{2066}c", "config": { "k\u{200f}": "\u{61c}" },
            "findings": [{ "title": "t", "evidence": "e", "explains": [{ "title": "\u{202d}x", "evidence": "y" }] }],
        });
        fs::write(dir.path().join("a_summary.json"), turned.to_string()).unwrap();
        fs::write(dir.path().join("a_failures.csv"), "Name,Error\n'=1+1,\u{2067}z\n").unwrap();
        let page = fs::read_to_string(write(&dir.path().join("a.csv")).unwrap()).unwrap();
        assert!(page.contains("a\\u{202e}b") && page.contains("\\u{202d}x"), "{page}");
        assert!(
            page.contains(">=1+1<") && page.contains("\\u{2067}z"),
            "without the apostrophe, and visible: {page}"
        );
        assert!(!page.contains(['\u{202e}', '\u{2066}', '\u{200f}', '\u{61c}', '\u{202d}', '\u{2067}']));
    }
}
