//! The simulator in OpenAI's dialects: the same seeded schedules as its own contract, played by the process that answers. These streams
//! need neither a bus nor a gateway.

mod access;
mod active;
mod answer;
mod cancelling;
mod chat;
mod chat_request;
mod compose;
mod extension;
mod faults;
mod fields;
mod lanes;
mod models;
mod playback;
mod player;
mod problem;
mod record;
mod responses;
mod responses_request;
mod socket;
mod state;
mod store;
mod turn;
mod upgrade;

use axum::{
    Router,
    middleware::from_fn_with_state,
    routing::{get, post},
};
pub use extension::{AnswerDefaults, InvalidDefaults};
pub(crate) use problem::Problem;
pub(crate) use record::Record;
pub(crate) use state::{OpenAi, Shared};
use std::sync::Arc;

/// The start of the paths whose errors have OpenAI's form.
pub(crate) const PREFIX: &str = "/v1/";

/// Returns the routes.
pub(crate) fn router<S: Clone + Send + Sync + 'static>(openai: Arc<OpenAi>) -> Router<S> {
    Router::new()
        .route("/v1/models", get(models::list))
        .route("/v1/models/{model}", get(models::one))
        .route("/v1/chat/completions", post(chat::chat))
        .route("/v1/completions", post(chat::text))
        .route("/v1/responses", post(responses::create).get(upgrade::upgrade))
        .route("/v1/responses/{id}", get(responses::get).delete(responses::delete))
        .route("/v1/responses/{id}/cancel", post(responses::cancel))
        .route_layer(from_fn_with_state(openai.clone(), access::check))
        .route("/", get(models::root))
        .route("/version", get(models::version))
        .route("/ping", get(models::version))
        .route("/tokenize", post(models::tokenize))
        .route("/detokenize", post(models::detokenize))
        .with_state(openai)
}
