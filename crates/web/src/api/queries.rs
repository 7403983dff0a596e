//! Single queries of earlier runs: a list of those with a timeline, and one in detail, as `streamstress inspect` shows it.

use super::{Answer, one_of_few};
use crate::{history, page::Page, refusal::Refusal};
use axum::extract::{Path, State};
use report::{
    FileError,
    inspect::{self, StoredQuery},
};
use serde_json::{Value, json};
use std::{path, sync::Arc};

/// Endings of the files that are read.
const READ: [&str; 3] = ["_queries.jsonl", ".csv", "_summary.json"];
/// Width of the text in letters.
const COLUMNS: usize = 100;

/// Returns the queries with a timeline, without their tokens: first the slowest ones, then the broken ones.
pub(super) async fn kept(State(page): State<Arc<Page>>, Path(run): Path<String>) -> Answer {
    let results = page.program.results();
    one_of_few(&page, move || {
        let base = history::base(&results, &run, &READ)?;
        let queries = inspect::kept(&base).map_err(Refusal::broken)?;
        Ok(queries.iter().map(row).collect())
    })
    .await
}

fn row(query: &StoredQuery) -> Value {
    json!({
        "query_id": query.query_id,
        "session_index": query.session_index,
        "query_num": query.query_num,
        "kept_as": query.kept_as,
        "status": query.status,
        "due_s": query.due_s,
        "slowness_ms": query.slowness_ms,
        "tokens_received": query.tokens_received,
        "tokens_lost": query.tokens_lost,
    })
}

/// Returns one query with its timeline, also as text. `query` is what `streamstress inspect` takes: an id, `slowest`, `broken`, or
/// `SESSION:NUMBER`.
pub(super) async fn inspect(
    State(page): State<Arc<Page>>,
    Path((run, query)): Path<(String, String)>,
) -> Answer {
    let results = page.program.results();
    one_of_few(&page, move || {
        let base = history::base(&results, &run, &READ)?;
        let mut found = inspect::inspect(&base, &query, path::Path::new("")).map_err(not_found)?;
        found.queries.truncate(1);
        Ok(json!({ "query": found.queries[0], "text": found.text(COLUMNS, false) }))
    })
    .await
}

#[allow(clippy::needless_pass_by_value, reason = "so that `map_err` can name it")]
fn not_found(error: FileError) -> Refusal {
    Refusal::missing(error.to_string())
}
