//! `streamstress inspect`: one query of a stored run in detail.

mod find;
pub(crate) mod stored;
#[cfg(test)]
mod tests;
mod text;

pub use stored::{StoredFault, StoredNote, StoredQuery, StoredToken};

use crate::{
    file_error::FileError,
    file_names::{base, with_ending},
    values::escaped_json,
};
use std::path::Path;

/// What was found for a query.
#[derive(Clone, Debug, PartialEq)]
pub struct Inspection {
    /// The queries. The first one is shown in detail.
    pub queries: Vec<StoredQuery>,
    /// Common start of the file names of the run.
    run: String,
}

impl Inspection {
    /// Returns the first query in detail and the others as a list, for a terminal with `columns` columns. `all_tokens`: with a line per
    /// token.
    #[must_use]
    pub fn text(&self, columns: usize, all_tokens: bool) -> String {
        text::render(&self.queries, &self.run, columns, all_tokens)
    }

    /// Returns the queries as a JSON array.
    ///
    /// # Panics
    /// Never: the keys are texts.
    #[must_use]
    pub fn json(&self) -> String {
        let text = serde_json::to_string_pretty(&self.queries).expect("the keys are texts");
        format!("{}\n", escaped_json(&text))
    }
}

/// Returns the queries of a run whose timelines are stored: the slowest ones first, then the broken ones. `base` is the common start of the
/// names of the run's files.
///
/// # Errors
/// The file of timelines cannot be read. A run without that file has none.
pub fn kept(base: &Path) -> Result<Vec<StoredQuery>, FileError> {
    stored::read(&with_ending(base, stored::ENDING))
}

/// Finds a query of a run. `run` is any file of the run, the common start of their names, or the run's id in the directory `results`.
/// `query` is a query's id, `slowest`, `broken`, or the index or id of a session and a query's number: `12:3`.
///
/// # Errors
/// The run has no such query, or a file cannot be read.
pub fn inspect(run: &Path, query: &str, results: &Path) -> Result<Inspection, FileError> {
    let mut base = base(run);
    let is_there = |base: &Path| ["_summary.json", ".csv"].iter().any(|end| with_ending(base, end).exists());
    if !is_there(&base) && base.components().count() == 1 && is_there(&results.join(&base)) {
        base = results.join(base);
    }
    if !is_there(&base) {
        let what = format!("{} is not a run: it has neither _summary.json nor .csv", run.display());
        return Err(FileError::not_a_result(what));
    }
    let queries = find::find(&base, query)?;
    Ok(Inspection { queries, run: base.display().to_string() })
}
