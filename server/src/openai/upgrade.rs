//! `GET /v1/responses`: checks a WebSocket handshake (RFC 6455, section 4.2.1) and takes the connection over.

use crate::openai::{playback::BOOT_ID, problem::Problem, socket, state::OpenAi};
use axum::{
    body::Body,
    extract::{Request, State},
    http::{
        HeaderMap, HeaderName, HeaderValue, StatusCode,
        header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE},
    },
    response::Response,
};
use hyper_util::rt::TokioIo;
use std::sync::Arc;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

pub(super) async fn upgrade(
    State(openai): State<Arc<OpenAi>>,
    mut request: Request,
) -> Result<Response, Problem> {
    let accept = accept_key(request.headers())?;
    if openai.draining.is_cancelled() {
        return Err(Problem::Draining);
    }
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
    if let Some(id) = openai.boot_id.as_deref().and_then(|id| HeaderValue::from_str(id).ok()) {
        headers.insert(BOOT_ID, id);
    }
    let upgrade = hyper::upgrade::on(&mut request);
    let connections = openai.connections.clone();
    connections.spawn(async move {
        let open = openai.metrics.connections.clone();
        open.inc();
        match upgrade.await {
            Ok(io) => socket::run(TokioIo::new(io), openai).await,
            Err(error) => tracing::debug!(%error, "a connection ended before it became a WebSocket"),
        }
        open.dec();
    });
    Ok(response)
}

/// Returns the value of `Sec-WebSocket-Accept`.
fn accept_key(headers: &HeaderMap) -> Result<HeaderValue, Problem> {
    if !has_word(headers, &CONNECTION, "upgrade") || !has_word(headers, &UPGRADE, "websocket") {
        let hint =
            "GET opens a WebSocket here: send `Connection: upgrade` and `Upgrade: websocket`, or use POST";
        return Err(Problem::Malformed(hint.to_owned()));
    }
    if headers.get(SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        return Err(Problem::Malformed("`Sec-WebSocket-Version` must be 13".to_owned()));
    }
    // 16 bytes are 24 characters of base64.
    let key = headers.get(SEC_WEBSOCKET_KEY).filter(|key| key.len() == 24);
    let accept = key.and_then(|key| HeaderValue::from_str(&derive_accept_key(key.as_bytes())).ok());
    accept.ok_or_else(|| Problem::Malformed("`Sec-WebSocket-Key` must be 16 bytes in base64".to_owned()))
}

fn has_word(headers: &HeaderMap, name: &HeaderName, word: &str) -> bool {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|found| found.trim().eq_ignore_ascii_case(word))
}
