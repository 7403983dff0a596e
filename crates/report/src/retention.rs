//! Deletes the files of old runs, and measures how much space all results take.

use crate::file_names::ENDINGS;
use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

/// Size of the result directory in bytes from which the program prints a hint: 1 GiB.
pub const LARGE: u64 = 1 << 30;

/// Deletes the files of all runs in `directory` but the newest `keep`. Returns the runs that were deleted, oldest first.
///
/// A run is recognised by its file names, `NAME_YYYYMMDD_HHMMSS…` with one of the endings of result files. Other files are kept, and
/// so are the lines of `index.jsonl`.
///
/// # Errors
/// The directory cannot be read, or a file cannot be deleted.
pub fn keep_newest(directory: &Path, keep: usize) -> io::Result<Vec<String>> {
    let mut runs = runs(directory)?;
    let mut deleted = Vec::new();
    while runs.len() > keep {
        let Some(((_, run), files)) = runs.pop_first() else { break };
        for file in files {
            fs::remove_file(file)?;
        }
        deleted.push(run);
    }
    Ok(deleted)
}

/// Returns how many bytes the files of all runs in `directory` take.
///
/// # Errors
/// The directory or a file in it cannot be read.
pub fn size(directory: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    for file in runs(directory)?.into_values().flatten() {
        bytes += fs::metadata(file)?.len();
    }
    Ok(bytes)
}

/// A run with files in a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredRun {
    /// Common start of the names of its files.
    pub name: String,
    /// Its files.
    pub files: Vec<PathBuf>,
}

/// Returns the runs in `directory`, the oldest first.
///
/// # Errors
/// The directory cannot be read.
pub fn stored_runs(directory: &Path) -> io::Result<Vec<StoredRun>> {
    let runs = runs(directory)?.into_iter().map(|((_, name), mut files)| {
        files.sort();
        StoredRun { name, files }
    });
    Ok(runs.collect())
}

/// Deletes the files of a run.
///
/// # Errors
/// A file cannot be deleted. The ones before it are gone.
pub fn delete(run: &StoredRun) -> io::Result<()> {
    run.files.iter().try_for_each(fs::remove_file)
}

/// Returns the files of each run, by the time in its name and by its name.
fn runs(directory: &Path) -> io::Result<BTreeMap<(String, String), Vec<PathBuf>>> {
    let mut runs: BTreeMap<_, Vec<PathBuf>> = BTreeMap::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        // Results are regular files, so directories and symlinks belong to somebody else.
        if !entry.file_type()?.is_file() {
            continue;
        }
        if let Some((time, run)) = name.to_str().and_then(run_of) {
            runs.entry((time, run)).or_default().push(entry.path());
        }
    }
    Ok(runs)
}

/// Returns the time in the name of a result file, and the run to which the file belongs.
fn run_of(file: &str) -> Option<(String, String)> {
    // Use the shortest stem, because `_stats.csv` also ends with `.csv`.
    let stem = ENDINGS.iter().filter_map(|ending| file.strip_suffix(ending)).min_by_key(|stem| stem.len())?;
    let run = without_shard(stem);
    // Later runs in the same second have a number: `NAME_YYYYMMDD_HHMMSS_2`.
    let parts: Vec<&str> = run.rsplitn(4, '_').collect();
    let is =
        |part: &str, length: usize| part.len() == length && part.bytes().all(|byte| byte.is_ascii_digit());
    match parts.as_slice() {
        [time, date, ..] if is(time, 6) && is(date, 8) => Some((format!("{date}{time}"), run.to_owned())),
        [again, time, date, ..] if is(time, 6) && is(date, 8) && is(again, again.len()) => {
            Some((format!("{date}{time}_{again:0>4}"), run.to_owned()))
        }
        _ => None,
    }
}

/// Removes `_shard2` from the end: what one generator of several wrote belongs to the run.
fn without_shard(stem: &str) -> &str {
    match stem.rsplit_once("_shard") {
        Some((run, number)) if !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()) => run,
        _ => stem,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(directory: &Path) -> Vec<String> {
        let entries = fs::read_dir(directory).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn the_newest_runs_stay_and_other_files_too() {
        let dir = tempfile::tempdir().unwrap();
        let files = [
            "b_20260101_000000.csv",
            "b_20260101_000000_stats.csv",
            "a_20260102_000000_shard1.csv",
            "a_20260102_000000_shard2.part",
            "a_20260102_000000_summary.json",
            "a_b_20260103_000000.csv",
            "a_b_20260103_000000_2.csv",
            "a_b_20260103_000000_2_report.html",
            "a_b_20260103_000000_2_shard1.part",
            "index.jsonl",
            "notes.csv",
            "mine_20200101.csv",
        ];
        for file in files {
            fs::write(dir.path().join(file), "12345").unwrap();
        }
        fs::create_dir(dir.path().join("old_20200101_000000.csv")).unwrap();
        assert_eq!(size(dir.path()).unwrap(), 45, "nine files of runs");
        assert_eq!(keep_newest(dir.path(), 4).unwrap(), Vec::<String>::new());
        assert_eq!(keep_newest(dir.path(), 2).unwrap(), ["b_20260101_000000", "a_20260102_000000"]);
        let kept = [
            "a_b_20260103_000000.csv",
            "a_b_20260103_000000_2.csv",
            "a_b_20260103_000000_2_report.html",
            "a_b_20260103_000000_2_shard1.part",
            "index.jsonl",
            "mine_20200101.csv",
            "notes.csv",
            "old_20200101_000000.csv",
        ];
        assert_eq!(names(dir.path()), kept);
        assert_eq!(
            keep_newest(dir.path(), 1).unwrap(),
            ["a_b_20260103_000000"],
            "the later one of a second stays"
        );
    }

    #[test]
    fn a_directory_that_is_missing_is_an_error() {
        assert!(keep_newest(Path::new("/nonexistent/results"), 1).is_err());
    }
}
