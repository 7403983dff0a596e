//! `streamstress analyze`: reads result CSVs and prints counts and percentiles of each file and of all files together.
//! The ten columns that every version had are enough.

mod text;

use crate::{
    file_error::FileError,
    file_names::with_ending,
    query_table::{QueryTable, without_other_tables},
    text_builder::TextBuilder,
    values::printable,
};
use measure::Distribution;
use std::{
    collections::{BTreeMap, HashSet},
    io::Read,
    path::{Path, PathBuf},
};

/// Columns that a file must have.
const REQUIRED: &[&str] = crate::output::csv_rows::COLUMNS.split_at(10).0;
/// A column with a duration: its name, its title in the output, and the nanoseconds of its unit.
type Column = (&'static str, &'static str, f64);
/// Durations of a query.
const OF_A_QUERY: [Column; 6] = [
    ("latency", "latency", 1e9),
    ("ttft_ms", "ttft", 1e6),
    ("tpot_ms", "tpot", 1e6),
    ("queue_ms", "queue", 1e6),
    ("ttft_overhead_ms", "ttft_overhead", 1e6),
    ("e2el_overhead_ms", "e2el_overhead", 1e6),
];
/// Durations of a session. Each row of the session repeats them.
const OF_A_SESSION: [Column; 3] =
    [("create_time", "create", 1e9), ("connect_time", "connect", 1e9), ("close_time", "close", 1e9)];
/// Counts of a query that are added up.
const SUMS: [&str; 5] = ["tokens", "tokens_expected", "tokens_lost", "tokens_duplicated", "tokens_reordered"];
/// Counts of a session that are added up. Each row of the session repeats them.
const SESSION_SUMS: [&str; 2] = ["reconnect_attempts", "successful_reconnects"];
/// Largest number of statuses and of error kinds that are counted separately.
const MAX_KINDS: usize = 50;
const FURTHER_KINDS: &str = "(further kinds)";

/// Contents of one or several files.
#[derive(Clone, Debug, Default)]
struct Analysis {
    rows: u64,
    ok: u64,
    sessions: HashSet<String>,
    durations: BTreeMap<&'static str, Distribution>,
    sums: BTreeMap<&'static str, u64>,
    statuses: BTreeMap<String, u64>,
    errors: BTreeMap<String, u64>,
    cut_off: bool,
}

/// Reads result files and returns a text for a terminal with `columns` columns: a section per file, and one for all files together if
/// there are several. A run can also be named by the common start of its files' names. The other tables of a run (`_stats.csv` and the
/// like) are skipped with a note, so that `results/*.csv` can be named.
///
/// # Errors
/// A file cannot be read, or it is not a table of queries.
pub fn analyze(paths: &[PathBuf], columns: usize) -> Result<String, FileError> {
    let mut page = TextBuilder::new(columns);
    let mut all = Analysis::default();
    let paths: Vec<_> = paths.iter().map(|path| table(path)).collect();
    let (results, note) = without_other_tables(&paths);
    for path in &results {
        let analysis = read(QueryTable::open(path)?)?;
        text::print(&mut page, &analysis, &path.display().to_string());
        all.merge(&analysis);
    }
    if results.len() > 1 {
        text::print(&mut page, &all, &format!("all {} files together", results.len()));
    }
    if let Some(note) = note {
        page.sentence("note: ", &note);
    }
    Ok(page.finish())
}

/// Returns the table of queries of a run that is named by the common start of its files' names. Returns other names as they are.
fn table(path: &Path) -> PathBuf {
    let table = with_ending(path, ".csv");
    if !path.exists() && table.exists() { table } else { path.to_owned() }
}

fn read(mut table: QueryTable<impl Read>) -> Result<Analysis, FileError> {
    table.require(REQUIRED)?;
    let mut analysis = Analysis::default();
    while table.next_row()? {
        analysis.add(&table)?;
    }
    analysis.cut_off = table.is_cut_off();
    Ok(analysis)
}

impl Analysis {
    fn add(&mut self, row: &QueryTable<impl Read>) -> Result<(), FileError> {
        let session = row.text("session_index").or_else(|| row.text("session_id"));
        // A session without a name cannot have come before.
        let new_session = session.is_none_or(|session| self.sessions.insert(session.to_owned()));
        self.add_durations(row, &OF_A_QUERY)?;
        self.add_counts(row, &SUMS)?;
        if new_session {
            self.add_durations(row, &OF_A_SESSION)?;
            self.add_counts(row, &SESSION_SUMS)?;
        }
        let error = row.text("error");
        let status = row.text("status").unwrap_or(if error.is_some() { "error" } else { "ok" });
        self.rows += 1;
        self.ok += u64::from(status == "ok");
        count_kind(&mut self.statuses, printable(status));
        if let Some(error) = error {
            let kind = match (row.text("failure"), row.text("failure_code")) {
                (Some(kind), Some(code)) => match row.count("failure_code") {
                    Ok(Some(code)) => format!("{kind} {code}"),
                    _ => format!("{kind} {code}"),
                },
                (Some(kind), None) => kind.to_owned(),
                (None, _) => error.to_owned(),
            };
            count_kind(&mut self.errors, printable(&kind));
        }
        Ok(())
    }

    fn add_durations(&mut self, row: &QueryTable<impl Read>, durations: &[Column]) -> Result<(), FileError> {
        for &(name, title, unit) in durations {
            if let Some(ns) = row.number(name, unit)? {
                #[allow(clippy::cast_possible_truncation, reason = "the number is below 9e18")]
                self.durations.entry(title).or_default().record(ns.round() as i64);
            }
        }
        Ok(())
    }

    fn add_counts(&mut self, row: &QueryTable<impl Read>, counts: &[&'static str]) -> Result<(), FileError> {
        for &name in counts {
            if let Some(count) = row.count(name)? {
                let sum = self.sums.entry(name).or_default();
                *sum = sum.saturating_add(count);
            }
        }
        Ok(())
    }

    fn merge(&mut self, other: &Self) {
        self.rows += other.rows;
        self.ok += other.ok;
        // Sessions of different files are different sessions, even if their numbers are equal.
        let file = self.sessions.len();
        self.sessions.extend(other.sessions.iter().map(|session| format!("{file}/{session}")));
        for (name, distribution) in &other.durations {
            self.durations.entry(name).or_default().merge(distribution);
        }
        for (name, sum) in &other.sums {
            let total = self.sums.entry(name).or_default();
            *total = total.saturating_add(*sum);
        }
        for (status, count) in &other.statuses {
            *self.statuses.entry(status.clone()).or_default() += count;
        }
        for (kind, count) in &other.errors {
            *self.errors.entry(kind.clone()).or_default() += count;
        }
        self.cut_off |= other.cut_off;
    }
}

fn count_kind(kinds: &mut BTreeMap<String, u64>, kind: String) {
    let known = kinds.len() < MAX_KINDS || kinds.contains_key(&kind);
    *kinds.entry(if known { kind } else { FURTHER_KINDS.to_owned() }).or_default() += 1;
}

#[cfg(test)]
mod tests;
