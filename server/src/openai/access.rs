//! The key that a client must send, if the server has one.

use crate::openai::{problem::Problem, state::OpenAi};
use aws_lc_rs::constant_time::verify_slices_are_equal;
use axum::{
    extract::{Request, State},
    http::{HeaderMap, header::AUTHORIZATION},
    middleware::Next,
    response::Response,
};
use std::sync::Arc;

/// Refuses requests without the right key.
pub(super) async fn check(
    State(openai): State<Arc<OpenAi>>,
    request: Request,
    next: Next,
) -> Result<Response, Problem> {
    if let Some(key) = &openai.api_key {
        let sent = sent(request.headers()).unwrap_or_default();
        // The time of the comparison tells nothing about the key but its length.
        verify_slices_are_equal(sent.as_bytes(), key.reveal().as_bytes()).map_err(|_| Problem::WrongKey)?;
    }
    Ok(next.run(request).await)
}

/// Returns the key of a request: `Authorization: Bearer KEY`, or `api-key: KEY` as Azure's clients send it.
fn sent(headers: &HeaderMap) -> Option<&str> {
    let bearer = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()).and_then(|value| {
        let (scheme, key) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| key.trim())
    });
    bearer.or_else(|| headers.get("api-key")?.to_str().ok())
}
