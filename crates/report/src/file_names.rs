//! Endings of the file names of a run. Each name is the run id followed by one of these endings.

use std::path::Path;

/// Endings of all files of a run, in the order in which a user wants to see them.
pub(crate) const ENDINGS: [&str; 19] = [
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
