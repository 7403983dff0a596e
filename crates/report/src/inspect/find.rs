//! Finds queries of a stored run: those with a timeline, else the row of a query in the run's table.

use super::stored::{self, ENDING, StoredQuery};
use crate::{file_error::FileError, file_names::with_ending, query_table::QueryTable};
use std::{io::Read, path::Path};

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Wanted<'a> {
    /// Those that were kept for this reason.
    Kept(&'a str),
    /// A query of a session.
    Numbered(&'a str, u32),
    /// A query by its id.
    Id(&'a str),
}

impl<'a> Wanted<'a> {
    fn parse(text: &'a str) -> Self {
        match text {
            "slowest" | "broken" => Self::Kept(text),
            _ => match text.split_once(':').map(|(session, num)| (session, num.parse())) {
                Some((session, Ok(num))) => Self::Numbered(session, num),
                _ => Self::Id(text),
            },
        }
    }

    fn is(&self, query: &StoredQuery) -> bool {
        match *self {
            Self::Kept(reason) => query.kept_as == reason,
            Self::Id(id) => query.query_id == id,
            Self::Numbered(session, num) => {
                let is_session = query.session_id.as_deref() == Some(session)
                    || query.session_index.to_string() == session;
                is_session && query.query_num == num
            }
        }
    }
}

/// Returns the queries that `wanted` names. At least one.
pub(super) fn find(base: &Path, wanted: &str) -> Result<Vec<StoredQuery>, FileError> {
    let parsed = Wanted::parse(wanted);
    let path = with_ending(base, ENDING);
    let mut found = stored::read(&path)?;
    found.retain(|query| parsed.is(query));
    if !found.is_empty() {
        return Ok(found);
    }
    if let Wanted::Kept(reason) = parsed {
        let what = match (path.exists(), reason) {
            (false, _) => format!("the run has no timelines: {} does not exist", path.display()),
            (true, "broken") => "no query of the run is broken".to_owned(),
            (true, _) => "no query of the run is complete".to_owned(),
        };
        return Err(FileError::no_query(what));
    }
    let mut table = QueryTable::open(&with_ending(base, ".csv"))?;
    while table.next_row()? {
        let query = row(&table)?;
        if parsed.is(&query) {
            return Ok(vec![query]);
        }
    }
    let what = format!("the run {} has no query `{wanted}`", base.display());
    Err(FileError::no_query(what))
}

/// Returns what a row of the table tells about its query.
fn row(table: &QueryTable<impl Read>) -> Result<StoredQuery, FileError> {
    let text = |column: &str| table.text(column).map(str::to_owned);
    let seconds = |column: &str| table.number(column, 1.0);
    let count = |column: &str| table.count(column);
    let (due, sent) = (seconds("scheduled_s")?.unwrap_or_default(), seconds("sent_s")?);
    let after = |start: Option<f64>, column: &str| -> Result<Option<f64>, FileError> {
        Ok(start.zip(table.number(column, 1e-3)?).map(|(start, took)| start + took))
    };
    let fault = |fault: &str| stored::StoredFault { fault: fault.to_owned(), ..Default::default() };
    let (ttft, e2el) = (table.number("ttft_ms", 1.0)?, table.number("e2el_ms", 1.0)?);
    let ideal = |observed: Option<f64>, column: &str| -> Result<Option<f64>, FileError> {
        Ok(observed.zip(table.number(column, 1.0)?).map(|(observed, overhead)| observed - overhead))
    };
    Ok(StoredQuery {
        query_id: text("query_id").unwrap_or_default(),
        session_id: text("session_id"),
        session_index: count("session_index")?.unwrap_or_default(),
        query_num: u32::try_from(count("query_num")?.unwrap_or_default()).unwrap_or(u32::MAX),
        status: text("status").unwrap_or_default(),
        due_s: due,
        sent_s: sent,
        first_token_s: after(sent, "ttft_ms")?,
        done_s: after(sent, "e2el_ms")?,
        ended_s: seconds("ended_s")?.unwrap_or_default(),
        ideal_ttft_ms: ideal(ttft, "ttft_overhead_ms")?,
        ideal_e2el_ms: ideal(e2el, "e2el_overhead_ms")?,
        tokens_expected: count("tokens_expected")?,
        tokens_received: count("tokens_received")?.unwrap_or_default(),
        tokens_lost: count("tokens_lost")?.unwrap_or_default(),
        tokens_duplicated: count("tokens_duplicated")?.unwrap_or_default(),
        tokens_reordered: count("tokens_reordered")?.unwrap_or_default(),
        failure: text("error"),
        faults: text("fault").iter().flat_map(|list| list.split(' ')).map(fault).collect(),
        ..StoredQuery::default()
    })
}
