//! What other load tools ask for before they begin: models, versions and a tokenizer.

use crate::openai::{
    fields::{Fields, invalid, object},
    problem::Problem,
    state::OpenAi,
};
use axum::{
    Json,
    body::Body,
    extract::{Path, State},
};
use serde_json::{Value, json};
use std::sync::Arc;

/// The longest context that models claim to have, in tokens.
const CONTEXT: u64 = 1 << 20;

/// The number of different tokens.
const VOCABULARY: u64 = 1 << 17;

type Shared = State<Arc<OpenAi>>;

pub(super) async fn list(State(openai): Shared) -> Json<Value> {
    let models: Vec<_> = openai.models.iter().map(|model| described(model)).collect();
    Json(json!({"object": "list", "data": models}))
}

pub(super) async fn one(State(openai): Shared, Path(model): Path<String>) -> Result<Json<Value>, Problem> {
    if openai.models.contains(&model) {
        Ok(Json(described(&model)))
    } else {
        Err(Problem::UnknownModel(model))
    }
}

fn described(model: &str) -> Value {
    json!({"id": model, "object": "model", "created": 1, "owned_by": "streamstress", "max_model_len": CONTEXT})
}

pub(super) async fn root() -> Json<Value> {
    Json(json!({
        "name": "streamstress server",
        "version": env!("CARGO_PKG_VERSION"),
        "description": "an LLM simulator with a known schedule",
        "openai": "/v1",
    }))
}

pub(super) async fn version() -> Json<Value> {
    Json(json!({"version": env!("CARGO_PKG_VERSION")}))
}

/// Splits `{"prompt": "…"}` or `{"messages": […]}` into a token per word.
pub(super) async fn tokenize(State(openai): Shared, body: Body) -> Result<Json<Value>, Problem> {
    let body = object(&openai.read(body).await?)?;
    let fields = Fields(&body);
    let mut tokens = Vec::new();
    match (fields.string("prompt")?, fields.get("messages").and_then(Value::as_array)) {
        (Some(prompt), _) => tokens.extend(prompt.split_whitespace().map(token)),
        (None, Some(messages)) => {
            let texts = messages.iter().filter_map(|message| message["content"].as_str());
            tokens.extend(texts.flat_map(str::split_whitespace).map(token));
        }
        (None, None) => return Err(invalid("prompt", "`prompt` is missing: send a text, or `messages`")),
    }
    Ok(Json(json!({"count": tokens.len(), "max_model_len": CONTEXT, "tokens": tokens})))
}

/// Turns `{"tokens": […]}` into a word per token. [`tokenize`] turns such a word back into the same token.
pub(super) async fn detokenize(State(openai): Shared, body: Body) -> Result<Json<Value>, Problem> {
    let body = object(&openai.read(body).await?)?;
    let tokens = Fields(&body).get("tokens").and_then(Value::as_array);
    let words: Option<Vec<_>> = tokens.and_then(|tokens| tokens.iter().map(Value::as_u64).collect());
    let words = words.ok_or_else(|| invalid("tokens", "`tokens` must be a list of whole numbers"))?;
    let words: Vec<_> = words.into_iter().map(|token| format!("w{token}")).collect();
    Ok(Json(json!({"prompt": words.join(" ")})))
}

/// Returns the token of a word: `w17` is 17, and other words are hashed.
fn token(word: &str) -> u64 {
    let number =
        word.strip_prefix('w').and_then(|digits| digits.parse().ok()).filter(|&number| number < VOCABULARY);
    number.unwrap_or_else(|| {
        word.bytes().fold(5381, |hash: u64, byte| (hash * 33 + u64::from(byte)) % VOCABULARY)
    })
}
