//! Finds the results to read: the named files, and those in the named directories.

use super::{
    found::{CAPACITY, Found, SUMMARY},
    points,
};
use crate::file_error::FileError;
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// Ending of the result of a sweep, whose points are runs with summaries.
const SWEEP: &str = "_sweep.json";
/// How many directories below a named one are searched.
const DEPTH: usize = 3;

/// Reads summaries and results of searches. A directory stands for those in it and in the directories below. The summary of a search is
/// read together with its result, so that it counts once.
///
/// # Errors
/// A file cannot be read or is not a result, or a directory has no results.
pub fn read(paths: &[PathBuf]) -> Result<Found, FileError> {
    let mut files = BTreeSet::new();
    for path in paths {
        if path.is_dir() {
            let before = files.len();
            collect(path, DEPTH, &mut files)?;
            if files.len() == before {
                return Err(FileError::no_results(path));
            }
        } else if [SUMMARY, CAPACITY].iter().any(|ending| stem(path, ending).is_some()) {
            files.insert(path.clone());
        } else {
            return Err(not_a_point(path));
        }
    }
    let searched: BTreeSet<PathBuf> = files.iter().filter_map(|file| stem(file, CAPACITY)).collect();
    let mut found = Found::default();
    for file in &files {
        match (stem(file, CAPACITY), stem(file, SUMMARY)) {
            (Some(base), _) => points::of_search(file, &base, &mut found)?,
            (None, Some(base)) if !searched.contains(&base) => points::of_run(file, &base, &mut found)?,
            _ => {}
        }
    }
    Ok(found)
}

/// Returns the common start of the names of a run's files, if this file has the ending.
fn stem(path: &Path, ending: &str) -> Option<PathBuf> {
    let name = path.file_name()?.to_str()?.strip_suffix(ending)?;
    Some(path.with_file_name(name))
}

fn not_a_point(path: &Path) -> FileError {
    let shown = path.display();
    if !path.exists() {
        return FileError::not_a_result(format!("cannot find {shown}"));
    }
    if stem(path, SWEEP).is_some() {
        return FileError::not_a_result(format!(
            "{shown} lists the runs of a sweep, and their summaries are the points"
        ));
    }
    FileError::not_a_result(format!(
        "{shown} is not a point by its name: expected a directory, or an ending of {SUMMARY} or {CAPACITY}"
    ))
}

fn collect(directory: &Path, depth: usize, files: &mut BTreeSet<PathBuf>) -> Result<(), FileError> {
    let unreadable = |error: std::io::Error| FileError::unreadable(directory, &error);
    for entry in fs::read_dir(directory).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        if path.is_dir() {
            if depth > 0 && !path.is_symlink() {
                collect(&path, depth - 1, files)?;
            }
        } else if [SUMMARY, CAPACITY].iter().any(|ending| stem(&path, ending).is_some()) {
            files.insert(path);
        }
    }
    Ok(())
}
