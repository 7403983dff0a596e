//! `client analyze`: reads result CSVs back and prints what they say, one by one and all together.
//! It also reads files that have the origin's ten columns alone, and refuses by name and line what is no such file.

mod text;

use crate::{file_names::is_table_without_queries, text_builder::TextBuilder, values::printable};
use measure::Distribution;
use settings::cells::{self, count, number, original};
use std::{
    collections::{BTreeMap, HashSet},
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

/// Every file must have these; ours follow where the file has them.
const ORIGIN: &[&str] = crate::output::csv_rows::COLUMNS.split_at(10).0;
/// A duration in a column: its title in the table, and nanoseconds in its unit.
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
/// Durations of a session, which each of its rows repeats.
const OF_A_SESSION: [Column; 3] =
    [("create_time", "create", 1e9), ("connect_time", "connect", 1e9), ("close_time", "close", 1e9)];
/// Counts of a query that are summed.
const SUMS: [&str; 5] = ["tokens", "tokens_expected", "tokens_lost", "tokens_duplicated", "tokens_reordered"];
/// Counts of a session that are summed; each of its rows repeats them.
const SESSION_SUMS: [&str; 2] = ["reconnect_attempts", "successful_reconnects"];
/// Kinds that are told apart; what comes after them is counted together.
const MAX_KINDS: usize = 50;
const FURTHER_KINDS: &str = "(further kinds)";

const NAME_A_RESULT: &str = "name a .csv that a run left in its output directory";

/// A file that is no result CSV.
#[derive(Debug, thiserror::Error)]
#[error("{place}: {what}; {next_step}")]
pub struct AnalyzeError {
    place: String,
    what: String,
    next_step: &'static str,
    /// The file is a readable table with other columns.
    other_columns: bool,
}

/// What one or several files say.
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

/// Reads all files and makes the text, for a terminal of so many columns: a section a file, and one of all together
/// where there are several. The other tables of a run (`_stats.csv` and the like) are skipped with a note, so that
/// `results/*.csv` can be named.
///
/// # Errors
/// The first file that is no result CSV: which, where in it, and what to do. Or none of the files holds queries.
pub fn analyze(paths: &[PathBuf], columns: usize) -> Result<String, AnalyzeError> {
    let mut page = TextBuilder::new(columns);
    let mut all = Analysis::default();
    let (mut read_files, mut skipped) = (0, Vec::new());
    for path in paths {
        let file = File::open(path).map_err(|error| AnalyzeError {
            place: path.display().to_string(),
            what: error.to_string(),
            next_step: NAME_A_RESULT,
            other_columns: false,
        })?;
        match read(path, file) {
            Ok(analysis) => {
                text::print(&mut page, &analysis, &path.display().to_string());
                all.merge(&analysis);
                read_files += 1;
            }
            Err(error) if error.other_columns && is_table_without_queries(path) => {
                skipped.push((path, error));
            }
            Err(error) => return Err(error),
        }
    }
    if read_files == 0 && !skipped.is_empty() {
        return Err(skipped.remove(0).1);
    }
    if read_files > 1 {
        text::print(&mut page, &all, &format!("all {read_files} files together"));
    }
    if !skipped.is_empty() {
        let names: Vec<_> = skipped.iter().map(|(path, _)| path.display().to_string()).collect();
        page.sentence("note: ", &format!("skipped, because they hold no queries: {}", names.join(", ")));
    }
    Ok(page.finish())
}

/// Where the columns of a file are.
struct Columns<'a> {
    path: &'a Path,
    header: csv::StringRecord,
    separator: u8,
}

impl Columns<'_> {
    fn error(&self, line: u64, what: String) -> AnalyzeError {
        AnalyzeError {
            place: format!("{} line {line}", self.path.display()),
            what,
            next_step: "mend or remove that line, or name another file",
            other_columns: false,
        }
    }

    /// The value in the column, if the file has that column and the row says anything in it.
    fn get<'r>(&self, row: &'r csv::StringRecord, name: &str) -> Option<&'r str> {
        let index = self.header.iter().position(|column| column == name)?;
        row.get(index).map(original).filter(|value| !value.is_empty())
    }

    fn bad(&self, row: &csv::StringRecord, name: &str, value: &str, wanted: &str) -> AnalyzeError {
        let line = row.position().map_or(0, csv::Position::line);
        self.error(line, format!("column {name} has {:?}, which is no {wanted}", printable(value)))
    }
}

fn read(path: &Path, input: impl Read) -> Result<Analysis, AnalyzeError> {
    let mut columns = Columns { path, header: csv::StringRecord::new(), separator: b',' };
    let (mut reader, separator) = cells::open(input).map_err(|error| read_error(&columns, &error))?;
    columns.separator = separator;
    columns.header = reader.headers().map_err(|error| read_error(&columns, &error))?.clone();
    let missing: Vec<_> =
        ORIGIN.iter().filter(|&&name| columns.header.iter().all(|column| column != name)).copied().collect();
    if !missing.is_empty() {
        return Err(AnalyzeError {
            place: format!("{} line 1", path.display()),
            what: format!("not a result CSV: its header lacks {}", missing.join(", ")),
            next_step: NAME_A_RESULT,
            other_columns: true,
        });
    }
    let mut analysis = Analysis::default();
    let mut row = csv::StringRecord::new();
    let mut cut_off = None;
    while reader.read_record(&mut row).map_err(|error| read_error(&columns, &error))? {
        // Only the last row may be short: a run that was killed may have left it so.
        if let Some(short_row) = cut_off.take() {
            return Err(short_row);
        }
        if row.len() == columns.header.len() {
            analysis.add(&columns, &row)?;
        } else {
            let line = row.position().map_or(0, csv::Position::line);
            let what = format!("{} fields where the header has {}", row.len(), columns.header.len());
            cut_off = Some(columns.error(line, what));
        }
    }
    analysis.cut_off = cut_off.is_some();
    Ok(analysis)
}

fn read_error(columns: &Columns<'_>, error: &csv::Error) -> AnalyzeError {
    let line = error.position().map_or(1, csv::Position::line);
    let what = match error.kind() {
        csv::ErrorKind::Utf8 { .. } => "not UTF-8 text".to_owned(),
        csv::ErrorKind::Io(error) if error.kind() == io::ErrorKind::IsADirectory => "a directory".to_owned(),
        _ => error.to_string(),
    };
    columns.error(line, what)
}

impl Analysis {
    fn add(&mut self, columns: &Columns<'_>, row: &csv::StringRecord) -> Result<(), AnalyzeError> {
        let session = columns.get(row, "session_index").or_else(|| columns.get(row, "session_id"));
        // What has no name cannot have come before.
        let new_session = session.is_none_or(|session| self.sessions.insert(session.to_owned()));
        self.add_durations(columns, row, &OF_A_QUERY)?;
        self.add_counts(columns, row, &SUMS)?;
        if new_session {
            self.add_durations(columns, row, &OF_A_SESSION)?;
            self.add_counts(columns, row, &SESSION_SUMS)?;
        }
        let error = columns.get(row, "error");
        let status = columns.get(row, "status").unwrap_or(if error.is_some() { "error" } else { "ok" });
        self.rows += 1;
        self.ok += u64::from(status == "ok");
        count_kind(&mut self.statuses, printable(status));
        if let Some(error) = error {
            let kind = match (columns.get(row, "failure"), columns.get(row, "failure_code")) {
                (Some(kind), Some(code)) => match count(code, columns.separator) {
                    Some(code) => format!("{kind} {code}"),
                    None => format!("{kind} {code}"),
                },
                (Some(kind), None) => kind.to_owned(),
                (None, _) => error.to_owned(),
            };
            count_kind(&mut self.errors, printable(&kind));
        }
        Ok(())
    }

    fn add_durations(
        &mut self,
        columns: &Columns<'_>,
        row: &csv::StringRecord,
        durations: &[Column],
    ) -> Result<(), AnalyzeError> {
        for &(name, title, unit) in durations {
            if let Some(value) = columns.get(row, name) {
                let ns = nanos(value, columns.separator, unit)
                    .ok_or_else(|| columns.bad(row, name, value, "duration"))?;
                self.durations.entry(title).or_default().record(ns);
            }
        }
        Ok(())
    }

    fn add_counts(
        &mut self,
        columns: &Columns<'_>,
        row: &csv::StringRecord,
        counts: &[&'static str],
    ) -> Result<(), AnalyzeError> {
        for &name in counts {
            if let Some(value) = columns.get(row, name) {
                let count =
                    count(value, columns.separator).ok_or_else(|| columns.bad(row, name, value, "count"))?;
                let sum = self.sums.entry(name).or_default();
                *sum = sum.saturating_add(count);
            }
        }
        Ok(())
    }

    fn merge(&mut self, other: &Self) {
        self.rows += other.rows;
        self.ok += other.ok;
        // Sessions of different files are different ones, whatever their numbers.
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

/// Nanoseconds of a number in a unit of so many; `None` of what is no number, or none that a duration can be.
fn nanos(value: &str, separator: u8, unit: f64) -> Option<i64> {
    let ns = number(value, separator)? * unit;
    #[allow(clippy::cast_possible_truncation)]
    (ns.abs() < 9e18).then_some(ns.round() as i64)
}

#[cfg(test)]
mod tests;
