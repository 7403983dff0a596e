//! Trying one stream: see [`crate::trial`].

use super::{Answer, blocking, events::server_sent};
use crate::{page::Page, program::Frame, refusal::Refusal, trial};
use axum::{
    Json,
    extract::State,
    http::{HeaderMap, StatusCode},
    response::Response,
};
use futures_util::stream::unfold;
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;
use tokio::sync::mpsc;

/// Frames that wait for the browser. If they are full, the socket is not read, as by any slow client.
const FRAMES: usize = 256;

pub(super) async fn open(State(page): State<Arc<Page>>) -> Answer {
    page.trial.may_open()?;
    blocking(move || {
        let session = page.program.open_session();
        let session = session.map_err(|why| Refusal::new(StatusCode::BAD_GATEWAY, why))?;
        drop(page.trial.replace(Some(session)));
        Ok(json!({ "opened": true }))
    })
    .await
}

pub(super) async fn close(State(page): State<Arc<Page>>) -> Answer {
    blocking(move || {
        drop(page.trial.replace(None));
        Ok(json!({ "closed": true }))
    })
    .await
}

/// A question.
#[derive(Deserialize)]
pub(super) struct Ask {
    tokens: u32,
}

pub(super) async fn ask(State(page): State<Arc<Page>>, Json(ask): Json<Ask>) -> Answer {
    let tokens = trial::tokens(ask.tokens)?;
    let session = page.trial.session()?;
    blocking(move || {
        let response = session.ask(tokens).map_err(|why| Refusal::new(StatusCode::BAD_GATEWAY, why))?;
        Ok(serde_json::from_str(&response).unwrap_or(Value::Null))
    })
    .await
}

/// Sends the frames of a new socket, which resumes after `Last-Event-ID`.
pub(super) async fn frames(State(page): State<Arc<Page>>, headers: HeaderMap) -> Result<Response, Refusal> {
    let (session, permit) = (page.trial.session()?, page.stream()?);
    let after = headers.get("last-event-id").and_then(|id| id.to_str().ok()).map(str::to_owned);
    let (frames, receiver) = mpsc::channel(FRAMES);
    session.attach(after, frames);
    let begin = (receiver, page.shutdown.clone(), permit);
    Ok(server_sent(unfold(begin, |(mut receiver, shutdown, permit)| async move {
        let frame = shutdown.run_until_cancelled(receiver.recv()).await.flatten()?;
        let event = match frame {
            Frame::Opened => json!({ "opened": true }),
            Frame::Text(text) => json!({ "frame": text }),
            Frame::Ended(why) => json!({ "ended": why }),
        };
        Some((format!("data: {event}\n\n"), (receiver, shutdown, permit)))
    })))
}
