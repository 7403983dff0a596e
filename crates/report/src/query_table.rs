//! Reads the table of a run that has a row per query, for `analyze` and `compare`.
//! The file may come from another program, so each error names the file, the line and the value.

use crate::{file_error::FileError, file_names::is_table_without_queries, values::printable};
use settings::cells::{self, count, number, original};
use std::{
    fs::File,
    io::{BufReader, Read},
    path::{Path, PathBuf},
};

/// A table with a row per query, and its current row.
#[derive(Debug)]
pub(crate) struct QueryTable<R> {
    path: PathBuf,
    reader: csv::Reader<BufReader<R>>,
    header: csv::StringRecord,
    separator: u8,
    row: csv::StringRecord,
    /// The last row, if it has too few or too many fields.
    cut_off: Option<FileError>,
}

impl QueryTable<File> {
    /// Opens a file.
    pub(crate) fn open(path: &Path) -> Result<Self, FileError> {
        let file = File::open(path).map_err(|error| FileError::unreadable(path, &error))?;
        Self::new(path, file)
    }
}

impl<R: Read> QueryTable<R> {
    /// Reads the header of a table. `path` names the table in errors.
    pub(crate) fn new(path: &Path, input: R) -> Result<Self, FileError> {
        let (mut reader, separator) = cells::open(input).map_err(|error| read_error(path, &error))?;
        let header = reader.headers().map_err(|error| read_error(path, &error))?.clone();
        let row = csv::StringRecord::new();
        Ok(Self { path: path.to_owned(), reader, header, separator, row, cut_off: None })
    }

    /// Checks that the table has these columns.
    pub(crate) fn require(&self, columns: &[&str]) -> Result<(), FileError> {
        let missing: Vec<_> = columns.iter().filter(|column| !self.has(column)).copied().collect();
        if missing.is_empty() {
            return Ok(());
        }
        let path = self.path.display();
        Err(FileError::not_a_result(format!(
            "{path} is not a table of queries: its header lacks {}",
            missing.join(", ")
        )))
    }

    /// Returns whether the table has the column.
    pub(crate) fn has(&self, column: &str) -> bool {
        self.header.iter().any(|name| name == column)
    }

    /// Goes to the next row. Returns false at the end. Only the last row may have a wrong number of fields: it is skipped,
    /// because a run that is killed can leave a partial row.
    pub(crate) fn next_row(&mut self) -> Result<bool, FileError> {
        while self.reader.read_record(&mut self.row).map_err(|error| read_error(&self.path, &error))? {
            if let Some(error) = self.cut_off.take() {
                return Err(error);
            }
            if self.row.len() == self.header.len() {
                return Ok(true);
            }
            let (line, path) = (self.line(), self.path.display());
            let (fields, expected) = (self.row.len(), self.header.len());
            self.cut_off = Some(FileError::invalid_line(format!(
                "invalid line {line} of {path}: it has {fields} fields, expected {expected} as in the header"
            )));
        }
        Ok(false)
    }

    /// Returns whether the last row was skipped.
    pub(crate) const fn is_cut_off(&self) -> bool {
        self.cut_off.is_some()
    }

    /// Returns the text of a cell. `None` if the table does not have the column or if the cell is empty.
    pub(crate) fn text(&self, column: &str) -> Option<&str> {
        let index = self.header.iter().position(|name| name == column)?;
        self.row.get(index).map(original).filter(|value| !value.is_empty())
    }

    /// Returns a cell as a count. `None` if the cell is empty.
    pub(crate) fn count(&self, column: &str) -> Result<Option<u64>, FileError> {
        self.parsed(column, "a whole number", |text| count(text, self.separator))
    }

    /// Returns a cell as a number that is multiplied by `unit`. `None` if the cell is empty. Refuses numbers that a duration in
    /// nanoseconds cannot be.
    pub(crate) fn number(&self, column: &str, unit: f64) -> Result<Option<f64>, FileError> {
        self.parsed(column, "a number", |text| {
            number(text, self.separator).map(|number| number * unit).filter(|number| number.abs() < 9e18)
        })
    }

    fn parsed<T>(
        &self,
        column: &str,
        expected: &str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Result<Option<T>, FileError> {
        let Some(text) = self.text(column) else { return Ok(None) };
        parse(text).map(Some).ok_or_else(|| {
            let (value, line, path) = (printable(text), self.line(), self.path.display());
            FileError::invalid_line(format!(
                "invalid value {value:?} in column {column}, line {line} of {path}: expected {expected}"
            ))
        })
    }

    fn line(&self) -> u64 {
        self.row.position().map_or(0, csv::Position::line)
    }
}

fn read_error(path: &Path, error: &csv::Error) -> FileError {
    let line = error.position().map_or(1, csv::Position::line);
    let why = match error.kind() {
        csv::ErrorKind::Io(error) => return FileError::unreadable(path, error),
        csv::ErrorKind::Utf8 { .. } => "expected UTF-8 text".to_owned(),
        _ => error.to_string(),
    };
    FileError::invalid_line(format!("invalid line {line} of {}: {why}", path.display()))
}

/// Separates the results of runs from their tables without queries (`_stats.csv` and the like), so that `results/*.csv` can be
/// named. Returns the results, and a note about the tables that were skipped. If only such tables are named, they are returned
/// as results, and reading them is an error.
pub(crate) fn without_other_tables(paths: &[PathBuf]) -> (Vec<&Path>, Option<String>) {
    let (others, results): (Vec<_>, Vec<_>) = paths
        .iter()
        .map(PathBuf::as_path)
        .partition(|path| is_table_without_queries(path) && lacks_queries(path));
    if results.is_empty() || others.is_empty() {
        return ([results, others].concat(), None);
    }
    let names: Vec<_> = others.iter().map(|path| path.display().to_string()).collect();
    (results, Some(format!("skipped, because they contain no queries: {}", names.join(", "))))
}

/// Returns whether the file can be read and has no row per query.
fn lacks_queries(path: &Path) -> bool {
    QueryTable::open(path).is_ok_and(|table| !table.has("session_id"))
}
