//! Starting, stopping and changing runs.

use super::{Answer, blocking, call};
use crate::{
    options::{self, Allowed},
    page::Page,
    refusal::Refusal,
};
use axum::{Json, extract::State};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// Returns what the form of this page may contain.
fn allowed(page: &Page) -> Allowed {
    Allowed { scenarios: page.program.scenarios(), hosts: page.settings.names.is_empty() }
}

/// Returns the plan of a run, or why it is refused: what `--dry-run` prints.
pub(super) async fn plan(State(page): State<Arc<Page>>, Json(form): Json<Map<String, Value>>) -> Answer {
    let mut arguments = vec!["run".to_owned(), "--dry-run".to_owned()];
    arguments.extend(options::arguments(&form, &allowed(&page)).map_err(Refusal::bad)?);
    call(&page, arguments).await
}

pub(super) async fn start(State(page): State<Arc<Page>>, Json(form): Json<Map<String, Value>>) -> Answer {
    if !page.program.starts_runs() {
        return Err(Refusal::conflict(
            "this page belongs to one run: start `streamstress web` to start others",
        ));
    }
    let arguments = options::arguments(&form, &allowed(&page)).map_err(Refusal::bad)?;
    let runs = Arc::clone(&page.runs);
    blocking(move || {
        runs.start(&arguments)?;
        Ok(runs.state())
    })
    .await
}

pub(super) async fn stop(State(page): State<Arc<Page>>) -> Answer {
    let runs = Arc::clone(&page.runs);
    blocking(move || runs.stop()).await
}

/// A change of the load.
#[derive(Deserialize)]
pub(super) struct Amend {
    clients: Option<u64>,
    arrival_rate: Option<f64>,
    ramp_up: Option<String>,
}

pub(super) async fn amend(State(page): State<Arc<Page>>, Json(amend): Json<Amend>) -> Answer {
    let mut arguments = vec!["amend".to_owned(), format!("--run={}", page.runs.id()?)];
    arguments.extend(amend.clients.map(|clients| format!("--clients={clients}")));
    arguments.extend(amend.arrival_rate.map(|rate| format!("--arrival-rate={rate}")));
    let ramp_up = amend.ramp_up.filter(|text| !text.trim().is_empty());
    arguments.extend(ramp_up.map(|text| format!("--ramp-up={}", text.trim())));
    changed(call(&page, arguments).await?)
}

/// A fault to inject.
#[derive(Deserialize)]
pub(super) struct Inject {
    fault: String,
}

pub(super) async fn inject(State(page): State<Arc<Page>>, Json(inject): Json<Inject>) -> Answer {
    let run = format!("--run={}", page.runs.id()?);
    let arguments = vec!["amend".to_owned(), run, format!("--fault={}", inject.fault.trim())];
    changed(call(&page, arguments).await?)
}

/// Turns a command that was refused into a refusal.
fn changed(Json(called): Json<Value>) -> Answer {
    let text = |key: &str| called[key].as_str().unwrap_or_default().trim().to_owned();
    if called["exit_code"] == 0 {
        return Ok(Json(json!({ "text": text("text") })));
    }
    Err(Refusal::conflict(text("messages").trim_start_matches("error: ")))
}
