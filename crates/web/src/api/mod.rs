//! The calls of the page. Nothing is changed by GET.

mod events;
mod files;
mod queries;
mod runs;
mod trial;

use crate::{page::Page, program::Called, refusal::Refusal};
use axum::{
    Json, Router,
    extract::State,
    routing::{delete, get, post},
};
use serde_json::{Value, json};
use std::sync::Arc;
use tokio::task::spawn_blocking;

type Answer = Result<Json<Value>, Refusal>;

/// Returns the routes of the calls.
pub(crate) fn router() -> Router<Arc<Page>> {
    Router::new()
        .route("/api/state", get(state))
        .route("/api/events", get(events::events))
        .route("/api/plan", post(runs::plan))
        .route("/api/runs", post(runs::start))
        .route("/api/run/stop", post(runs::stop))
        .route("/api/run/amend", post(runs::amend))
        .route("/api/run/inject", post(runs::inject))
        .route("/api/history", get(files::history))
        .route("/api/history/{run}", delete(files::delete))
        .route("/api/history/{run}/queries", get(queries::kept))
        .route("/api/history/{run}/queries/{query}", get(queries::inspect))
        .route("/api/compare", post(files::compare))
        .route("/api/links", post(files::link))
        .route("/files/{link}/{name}", get(files::file))
        .route("/api/trial", post(trial::open).delete(trial::close))
        .route("/api/trial/ask", post(trial::ask))
        .route("/api/trial/frames", get(trial::frames))
}

async fn state(State(page): State<Arc<Page>>) -> Answer {
    let (program, runs) = (Arc::clone(&page.program), Arc::clone(&page.runs));
    blocking(move || {
        Ok(json!({
            "version": env!("CARGO_PKG_VERSION"),
            "state": runs.state(),
            "starts_runs": program.starts_runs(),
            "results": program.results(),
            "scenarios": program.scenarios(),
            "target": program.target(),
            "events_missed": runs.feed().missed(),
        }))
    })
    .await
}

/// Does something that blocks, on a thread for that.
async fn blocking(act: impl FnOnce() -> Result<Value, Refusal> + Send + 'static) -> Answer {
    spawn_blocking(act).await.map_err(Refusal::broken)?.map(Json)
}

/// Does something long that blocks. Few of them run at the same time.
async fn one_of_few(page: &Page, act: impl FnOnce() -> Result<Value, Refusal> + Send + 'static) -> Answer {
    let right = Arc::clone(&page.calls).acquire_owned().await.map_err(Refusal::broken)?;
    // The act keeps its right to its end, also if the browser does not wait for it.
    blocking(move || {
        let _right = right;
        act()
    })
    .await
}

/// Calls a command, and returns how it ended.
async fn call(page: &Arc<Page>, arguments: Vec<String>) -> Answer {
    let program = Arc::clone(&page.program);
    one_of_few(page, move || {
        let Called { code, text, messages } = program.call(&arguments).map_err(Refusal::broken)?;
        Ok(json!({ "exit_code": code, "text": text, "messages": messages }))
    })
    .await
}
