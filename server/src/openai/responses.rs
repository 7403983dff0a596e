//! `POST /v1/responses`, and the calls for a response that is kept.

use crate::{
    metrics::Outcome,
    openai::{
        active::Active,
        compose::Wire,
        fields::invalid,
        playback::Playback,
        problem::Problem,
        responses_request::ResponsesRequest,
        state::OpenAi,
        store::Kept,
        turn::{Turn, player_again},
    },
};
use axum::{
    Json,
    body::Body,
    extract::{Path, Query, State},
    http::header::CONTENT_TYPE,
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};
use std::{collections::HashMap, sync::Arc};
use tokio::time::{Instant, sleep_until};

type Shared = State<Arc<OpenAi>>;

pub(super) async fn create(State(openai): Shared, body: Body) -> Result<Response, Problem> {
    let request = ResponsesRequest::parse(&openai.read(body).await?)?;
    if !request.generate {
        return Err(invalid("generate", "`generate: false` works over a WebSocket only"));
    }
    let context = match &request.previous {
        Some(id) => previous(&openai, id)?.context(),
        None => 0,
    };
    let active = openai.admit()?;
    let turn = Turn::begin(&openai, &request, context, None);
    let kept = turn.kept().await?;
    if request.background {
        openai.store.keep(kept.clone(), Instant::now());
        tokio::spawn(run_in_background(openai.clone(), kept.clone(), active));
        return if request.stream {
            play(&openai, &turn, &kept, None)
        } else {
            Ok(json(kept.object(Instant::now())))
        };
    }
    if request.stream {
        let active = active.traced(openai.trace("responses", &turn.head.id, turn.start));
        return play(&openai, &turn, &kept, Some(active));
    }
    wait(&openai, &kept, active).await?;
    let object = kept.object(Instant::now());
    if turn.head.store {
        openai.store.keep(kept, Instant::now());
    }
    Ok(json(object))
}

/// Returns the kept response that a request continues.
fn previous(openai: &OpenAi, id: &str) -> Result<Arc<Kept>, Problem> {
    openai.store.get(id, Instant::now()).ok_or_else(|| Problem::UnknownPrevious(id.to_owned()))
}

/// Plays a new response. With `active` it ends with the connection.
fn play(
    openai: &Arc<OpenAi>,
    turn: &Turn,
    kept: &Arc<Kept>,
    active: Option<Active>,
) -> Result<Response, Problem> {
    let keep = (turn.head.store && active.is_some()).then(|| {
        let (openai, kept) = (openai.clone(), kept.clone());
        Box::new(move || openai.store.keep(kept, Instant::now())) as Box<dyn FnOnce() + Send>
    });
    let player = turn.player(Wire::Http).ok_or(Problem::Internal)?;
    let (start, cancelling) = (turn.start, kept.cancelling.clone());
    Ok(Playback { player, start, active, after: None, cancelling, when_whole: keep }.response(openai))
}

/// Waits for the end of a response that is not streamed.
async fn wait(openai: &OpenAi, kept: &Kept, active: Active) -> Result<(), Problem> {
    let Some((answer, end)) = &kept.answer else {
        active.end(Outcome::Done);
        return Ok(());
    };
    openai.wait(answer, end, kept.start, active).await
}

/// Holds the place of a response in the background until it ends.
async fn run_in_background(openai: Arc<OpenAi>, kept: Arc<Kept>, active: Active) {
    let Some((answer, end)) = &kept.answer else { return active.end(Outcome::Done) };
    let outcome = tokio::select! {
        () = sleep_until(kept.start + end.at) => if end.failed { Outcome::Injected } else { Outcome::Done },
        () = kept.cancelling.cancelled() => Outcome::Cancelled,
        () = openai.stop.cancelled() => Outcome::Shutdown,
    };
    if outcome == Outcome::Done {
        openai.metrics.tokens.inc_by(answer.tokens());
    }
    active.end(outcome);
}

/// Returns a kept response, or with `stream=true` its events after `starting_after`.
pub(super) async fn get(
    State(openai): Shared,
    Path(id): Path<String>,
    Query(query): Query<HashMap<String, String>>,
) -> Result<Response, Problem> {
    let kept = kept(&openai, &id)?;
    if query.get("stream").is_none_or(|stream| stream != "true") {
        return Ok(json(kept.object(Instant::now())));
    }
    let after = match query.get("starting_after") {
        None => None,
        Some(text) => Some(text.parse().map_err(|_| {
            invalid(
                "starting_after",
                format!("`starting_after` must be the number of an event, not {text:?}"),
            )
        })?),
    };
    let player = player_again(&kept).filter(|_| kept.head.background);
    let Some(player) = player else { return Err(Problem::UnknownResponse(id)) };
    let (start, cancelling) = (kept.start, kept.cancelling.clone());
    Ok(Playback { player, start, active: None, after, cancelling, when_whole: None }.response(&openai))
}

/// Cancels a response in the background. A repeat, or a call after its end, returns the response.
pub(super) async fn cancel(State(openai): Shared, Path(id): Path<String>) -> Result<Response, Problem> {
    let kept = kept(&openai, &id)?;
    if !kept.head.background {
        return Err(Problem::NotCancellable(id));
    }
    let now = Instant::now();
    if !kept.has_ended(now) {
        kept.cancelling.cancel(now);
    }
    Ok(json(kept.object(now)))
}

pub(super) async fn delete(State(openai): Shared, Path(id): Path<String>) -> Result<Json<Value>, Problem> {
    let kept = kept(&openai, &id)?;
    let now = Instant::now();
    if !kept.has_ended(now) {
        kept.cancelling.cancel(now);
    }
    openai.store.remove(&id, now);
    Ok(Json(json!({"id": id, "object": "response", "deleted": true})))
}

fn kept(openai: &OpenAi, id: &str) -> Result<Arc<Kept>, Problem> {
    openai.store.get(id, Instant::now()).ok_or_else(|| Problem::UnknownResponse(id.to_owned()))
}

fn json(object: String) -> Response {
    ([(CONTENT_TYPE, "application/json")], object).into_response()
}
