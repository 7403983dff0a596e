//! Endings of the file names of a run. Each name is the run id followed by one of these endings.

use std::path::{Path, PathBuf};

/// Endings of all files of a run, in the order in which a user wants to see them.
pub(crate) const ENDINGS: [&str; 20] = [
    "_summary.json",
    "_report.html",
    "_summary.md",
    "_junit.xml",
    ".csv",
    "_stats.csv",
    "_history.csv",
    "_failures.csv",
    "_resources.csv",
    "_health.csv",
    "_latency.hlog",
    "_queries.jsonl",
    "_events.ndjson",
    "_capacity.json",
    "_capacity.csv",
    "_capacity.html",
    "_sweep.json",
    "_sweep.csv",
    "_sweep.html",
    ".part",
];

/// Endings of the tables that have no row per query.
const TABLES_WITHOUT_QUERIES: [&str; 7] = [
    "_capacity.csv",
    "_sweep.csv",
    "_stats.csv",
    "_history.csv",
    "_failures.csv",
    "_resources.csv",
    "_health.csv",
];

/// Returns whether the file name is that of a table without rows per query.
pub(crate) fn is_table_without_queries(path: &Path) -> bool {
    let name = path.file_name().map(|name| name.to_string_lossy());
    name.is_some_and(|name| TABLES_WITHOUT_QUERIES.iter().any(|ending| name.ends_with(ending)))
}

/// Returns the common start of the names of a run's files. `file` is one of them, or that start itself.
pub(crate) fn base(file: &Path) -> PathBuf {
    let name = file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    // Use the shortest stem, because one ending can be the end of another.
    let stem = ENDINGS.iter().filter_map(|ending| name.strip_suffix(ending)).min_by_key(|stem| stem.len());
    stem.map_or_else(|| file.to_owned(), |stem| file.with_file_name(stem))
}

/// Returns the path of the file of a run with this ending.
pub(crate) fn with_ending(base: &Path, ending: &str) -> PathBuf {
    let mut name = base.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_of_a_run_names_it() {
        for name in [
            "a_1_summary.json",
            "a_1.csv",
            "a_1_history.csv",
            "a_1_queries.jsonl",
            "a_1_events.ndjson",
            "a_1",
        ] {
            assert_eq!(base(&Path::new("dir").join(name)), Path::new("dir/a_1"), "{name}");
        }
    }
}
