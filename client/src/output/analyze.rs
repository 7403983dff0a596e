//! `client analyze`: reads result CSVs back and prints what they say, one by one and all together.
//! It also reads files that have the origin's ten columns alone, and refuses by name and line what is no such file.

use super::text::{percent, printable, short};
use crate::measure::{Distribution, Summary};
use std::{
    collections::{BTreeMap, HashSet},
    fmt::Write as _,
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

/// Every file must have these; ours follow where the file has them.
const ORIGIN: &[&str] = super::csv_rows::COLUMNS.split_at(10).0;
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
const MOST_KINDS: usize = 50;
const FURTHER_KINDS: &str = "(further kinds)";

/// A file that is no result CSV.
#[derive(Debug, thiserror::Error)]
#[error("{place}: {what}; {next_step}")]
pub struct AnalyzeError {
    place: String,
    what: String,
    next_step: &'static str,
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

/// Reads all files and makes the text: a section a file, and one of all together where there are several.
///
/// # Errors
/// The first file that is no result CSV: which, where in it, and what to do.
pub fn analyze(paths: &[PathBuf]) -> Result<String, AnalyzeError> {
    let mut out = String::new();
    let mut all = Analysis::default();
    for path in paths {
        let file = File::open(path).map_err(|error| AnalyzeError {
            place: path.display().to_string(),
            what: error.to_string(),
            next_step: "name a .csv that a run left in its output directory",
        })?;
        let analysis = read(path, file)?;
        analysis.print(&mut out, &path.display().to_string());
        all.merge(&analysis);
    }
    if paths.len() > 1 {
        all.print(&mut out, &format!("all {} files together", paths.len()));
    }
    Ok(out)
}

/// Where the columns of a file are.
struct Columns<'a> {
    path: &'a Path,
    header: csv::StringRecord,
}

impl Columns<'_> {
    fn error(&self, line: u64, what: String) -> AnalyzeError {
        AnalyzeError {
            place: format!("{} line {line}", self.path.display()),
            what,
            next_step: "mend or remove that line, or name another file",
        }
    }

    /// The value in the column, if the file has that column and the row says anything in it.
    fn get<'r>(&self, row: &'r csv::StringRecord, name: &str) -> Option<&'r str> {
        let index = self.header.iter().position(|column| column == name)?;
        row.get(index).map(str::trim).filter(|value| !value.is_empty())
    }

    fn bad(&self, row: &csv::StringRecord, name: &str, value: &str, wanted: &str) -> AnalyzeError {
        let line = row.position().map_or(0, csv::Position::line);
        self.error(line, format!("column {name} has {:?}, which is no {wanted}", printable(value)))
    }
}

fn read(path: &Path, input: impl Read) -> Result<Analysis, AnalyzeError> {
    let mut reader = csv::ReaderBuilder::new().flexible(true).from_reader(input);
    let mut columns = Columns { path, header: csv::StringRecord::new() };
    columns.header = reader.headers().map_err(|error| read_error(&columns, &error))?.clone();
    let missing: Vec<_> =
        ORIGIN.iter().filter(|&&name| columns.header.iter().all(|column| column != name)).copied().collect();
    if !missing.is_empty() {
        return Err(AnalyzeError {
            place: format!("{} line 1", path.display()),
            what: format!("no result CSV: its header lacks {}", missing.join(", ")),
            next_step: "name a .csv that a run left in its output directory",
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
                (Some(kind), Some(code)) => format!("{kind} {code}"),
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
                let ns = nanos(value, unit).ok_or_else(|| columns.bad(row, name, value, "duration"))?;
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
                let count: u64 = value.parse().map_err(|_| columns.bad(row, name, value, "count"))?;
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

    fn print(&self, out: &mut String, title: &str) {
        let _ = writeln!(out, "{title}");
        self.print_counts(out);
        self.print_durations(out);
        if let Some(latency) = self.durations.get("latency") {
            print_histogram(out, latency);
        }
        let mut errors: Vec<_> = self.errors.iter().collect();
        errors.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
        if !errors.is_empty() {
            let _ = writeln!(out, "\n  errors by kind");
        }
        for (kind, count) in errors {
            let _ = writeln!(out, "  {count:>8}  {kind}");
        }
        out.push('\n');
    }

    fn print_counts(&self, out: &mut String) {
        let mut line = |name: &str, value: &str| {
            let _ = writeln!(out, "  {name:.<26}: {value}");
        };
        #[allow(clippy::cast_precision_loss)]
        let rate = if self.rows > 0 { percent(self.ok as f64 / self.rows as f64) } else { "none".to_owned() };
        line("sessions", &self.sessions.len().to_string());
        line("queries", &self.rows.to_string());
        line("success rate", &format!("{rate}  ({} ok)", self.ok));
        let statuses: Vec<_> =
            self.statuses.iter().map(|(status, count)| format!("{count} {status}")).collect();
        line("statuses", &statuses.join(", "));
        let sum = |name| self.sums.get(name).copied();
        let or_unknown =
            |count: Option<u64>| count.map_or_else(|| "not announced".to_owned(), |n| n.to_string());
        line("tokens expected", &or_unknown(sum("tokens_expected")));
        line("tokens received", &sum("tokens").unwrap_or(0).to_string());
        for name in ["tokens_lost", "tokens_duplicated", "tokens_reordered"] {
            if let Some(count) = sum(name) {
                line(&name.replace('_', " "), &count.to_string());
            }
        }
        let (attempts, ok) = (sum("reconnect_attempts"), sum("successful_reconnects"));
        line("reconnect attempts", &format!("{}, {} ok", attempts.unwrap_or(0), ok.unwrap_or(0)));
        if self.cut_off {
            line("note", "the last row is cut off and was left out");
        }
    }

    fn print_durations(&self, out: &mut String) {
        let _ = writeln!(
            out,
            "\n  {:<14}{:>8}{:>8}{:>8}{:>8}{:>8}{:>8}{:>8}{:>8}",
            "milliseconds", "count", "p10", "p25", "p50", "p75", "p90", "p95", "p99"
        );
        for (_, title, _) in OF_A_QUERY.into_iter().chain(OF_A_SESSION) {
            let Some(figures) = self.durations.get(title).and_then(Distribution::summary) else { continue };
            let Summary { p10, p25, p50, p75, p90, p95, p99, .. } = figures;
            let cells = [p10, p25, p50, p75, p90, p95, p99];
            let cells: String = cells.iter().map(|&ms| format!("{:>8}", short(ms))).collect();
            let _ = writeln!(out, "  {title:<14}{:>8}{cells}", figures.count);
        }
    }
}

fn count_kind(kinds: &mut BTreeMap<String, u64>, kind: String) {
    let known = kinds.len() < MOST_KINDS || kinds.contains_key(&kind);
    *kinds.entry(if known { kind } else { FURTHER_KINDS.to_owned() }).or_default() += 1;
}

/// Nanoseconds of a number in a unit of so many; `None` of what is no number, or none that a duration can be.
fn nanos(value: &str, unit: f64) -> Option<i64> {
    let ns = value.parse::<f64>().ok()? * unit;
    #[allow(clippy::cast_possible_truncation)]
    (ns.abs() < 9e18).then_some(ns.round() as i64)
}

/// Equal bins from the minimum to p99, and one of everything beyond.
fn print_histogram(out: &mut String, latency: &Distribution) {
    const BINS: usize = 12;
    const BAR: u64 = 40;
    let (Some(histogram), Some(p99), Some(least)) =
        (latency.positive(), latency.quantile_ns(0.99), latency.quantile_ns(0.0))
    else {
        return;
    };
    let (low, high) = (u64::try_from(least).unwrap_or(0), u64::try_from(p99).unwrap_or(0));
    let width = (high.saturating_sub(low) / BINS as u64 + 1).max(1_000);
    let mut bins = [0u64; BINS + 1];
    for step in histogram.iter_recorded() {
        let value = histogram.lowest_equivalent(step.value_iterated_to());
        let bin = value.saturating_sub(low) / width;
        bins[usize::try_from(bin).unwrap_or(BINS).min(BINS)] += step.count_since_last_iteration();
    }
    let last = bins.iter().rposition(|&count| count > 0).unwrap_or(0);
    let most = bins.iter().copied().max().unwrap_or(0).max(1);
    let _ = writeln!(out, "\n  latency, milliseconds from");
    for (bin, &count) in bins.iter().enumerate().take(last + 1) {
        #[allow(clippy::cast_precision_loss)]
        let from = (low + bin as u64 * width) as f64 / 1e6;
        let bar = "█".repeat(usize::try_from((count * BAR).div_ceil(most)).unwrap_or(0));
        let _ = writeln!(out, "{}", format!("  {:>10} {count:>9} {bar}", short(from)).trim_end());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TEN: &str = "session_id,query_num,latency,tokens,create_time,connect_time,close_time,reconnect_attempts,successful_reconnects,error\n";

    fn analysis(text: &str) -> Result<Analysis, String> {
        read(Path::new("a.csv"), text.as_bytes()).map_err(|error| error.to_string())
    }

    #[test]
    fn the_origins_ten_columns_are_enough() {
        let rows = "s1,1,0.9,18,0.01,0.02,0.03,0,0,\ns1,2,,3,0.01,0.02,0.03,1,1,timed out\n";
        let analysis = analysis(&format!("{TEN}{rows}")).unwrap();
        assert_eq!((analysis.rows, analysis.ok, analysis.sessions.len()), (2, 1, 1));
        assert_eq!(analysis.sums["tokens"], 21);
        assert_eq!(analysis.errors["timed out"], 1);
        let mut text = String::new();
        analysis.print(&mut text, "a.csv");
        assert!(text.contains("tokens expected...........: not announced"), "{text}");
        assert!(text.contains("50.00 %  (1 ok)"), "{text}");
    }

    #[test]
    fn an_empty_run_is_a_run() {
        let mut text = String::new();
        analysis(TEN).unwrap().print(&mut text, "a.csv");
        assert!(text.contains("queries...................: 0"), "{text}");
    }

    #[test]
    fn only_the_last_row_may_be_cut_off() {
        let whole = "s1,1,0.9,18,0.01,0.02,0.03,0,0,\n";
        let cut = analysis(&format!("{TEN}{whole}s1,2,0.")).unwrap();
        assert!(cut.cut_off && cut.rows == 1);
        let error = analysis(&format!("{TEN}s1,2,0.\n{whole}")).unwrap_err();
        assert_eq!(
            error,
            "a.csv line 2: 3 fields where the header has 10; mend or remove that line, or name another file"
        );
    }

    #[test]
    fn what_is_no_result_is_named_with_its_line() {
        for (text, expected) in [
            ("", "a.csv line 1: no result CSV: its header lacks session_id, query_num"),
            ("a,b\n1,2\n", "a.csv line 1: no result CSV"),
            (&format!("{TEN}s,1,fast,18,0,0,0,0,0,\n"), "a.csv line 2: column latency has \"fast\""),
            (&format!("{TEN}s,1,NaN,18,0,0,0,0,0,\n"), "a.csv line 2: column latency has \"NaN\""),
            (&format!("{TEN}s,1,1e300,18,0,0,0,0,0,\n"), "a.csv line 2: column latency has \"1e300\""),
            (&format!("{TEN}s,1,1,-18,0,0,0,0,0,\n"), "a.csv line 2: column tokens has \"-18\""),
        ] {
            let error = analysis(text).unwrap_err();
            assert!(error.starts_with(expected), "{error}");
        }
        let error = read(Path::new("a.csv"), &b"\xff\xfe\x00"[..]).unwrap_err().to_string();
        assert!(error.contains("not UTF-8"), "{error}");
        let error = analyze(&[PathBuf::from("/nowhere/a.csv")]).unwrap_err().to_string();
        assert!(error.starts_with("/nowhere/a.csv: "), "{error}");
        let error = analyze(&[std::env::temp_dir()]).unwrap_err().to_string();
        assert!(error.contains("a directory"), "{error}");
    }

    #[test]
    fn several_files_are_one() {
        let mut all = Analysis::default();
        for latency in ["0.1", "0.3"] {
            all.merge(&analysis(&format!("{TEN}s,1,{latency},18,0,0,0,0,0,\n")).unwrap());
        }
        assert_eq!((all.rows, all.sessions.len(), all.durations["latency"].count()), (2, 2, 2));
    }

    proptest! {
        #[test]
        fn garbage_is_refused_or_read_but_never_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let with_header = [TEN.as_bytes(), &bytes].concat();
            for input in [&bytes, &with_header] {
                if let Ok(analysis) = read(Path::new("a.csv"), input.as_slice()) {
                    analysis.print(&mut String::new(), "a.csv");
                }
            }
        }

        #[test]
        fn odd_numbers_do_not_panic(latency in any::<f64>(), tokens in any::<u64>()) {
            let text = format!("{TEN}s,1,{latency},{tokens},-0.1,{latency},,0,0,\n").repeat(2);
            if let Ok(analysis) = analysis(&text) {
                analysis.print(&mut String::new(), "a.csv");
            }
        }
    }
}
