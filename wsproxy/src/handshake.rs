//! Checks path and headers of a WebSocket handshake (RFC 6455, section 4.2.1). It reads neither the token nor the position.

use crate::refusal::Refusal;
use http::{HeaderMap, Method, Request, Version, header};
use protocol::{SessionId, parse_ws_path};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

/// A request for a socket with a valid path and valid headers. Its token has not been checked, because that costs a signature.
#[derive(Debug)]
pub(crate) struct Handshake {
    pub(crate) session: SessionId,
    /// The value of `Sec-WebSocket-Accept`.
    pub(crate) accept: String,
}

/// Checks path and headers of a request.
///
/// # Errors
/// The first check that failed: method and path, then the handshake.
pub(crate) fn check_handshake<B>(request: &Request<B>) -> Result<Handshake, Refusal> {
    if request.method() != Method::GET {
        return Err(Refusal::NotFound(format!("method {} is not allowed here, use GET", request.method())));
    }
    let path = request.uri().path();
    let (_, session) = parse_ws_path(path).map_err(|error| Refusal::NotFound(error.to_string()))?;
    let accept = accept_key(request.version(), request.headers())?;
    if has_body(request.headers()) {
        // Frames follow the head, so a body would be read as frames.
        return Err(Refusal::Malformed(
            "a WebSocket handshake has no body: leave `Content-Length` and `Transfer-Encoding` out",
        ));
    }
    Ok(Handshake { session, accept })
}

/// Checks the headers of RFC 6455, section 4.2.1. Returns the value of `Sec-WebSocket-Accept`.
fn accept_key(version: Version, headers: &HeaderMap) -> Result<String, Refusal> {
    if version != Version::HTTP_11 {
        return Err(Refusal::Malformed("a WebSocket handshake requires HTTP/1.1"));
    }
    if !has_word(headers, header::CONNECTION, "upgrade") || !has_word(headers, header::UPGRADE, "websocket") {
        return Err(Refusal::NotAnUpgrade);
    }
    if headers.get(header::SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        return Err(Refusal::Version);
    }
    match headers.get(header::SEC_WEBSOCKET_KEY) {
        // 16 bytes are 24 characters of base64.
        Some(key) if key.len() == 24 => Ok(derive_accept_key(key.as_bytes())),
        _ => Err(Refusal::Malformed("`Sec-WebSocket-Key` must be 16 bytes in base64")),
    }
}

fn has_body(headers: &HeaderMap) -> bool {
    headers.contains_key(header::TRANSFER_ENCODING)
        || headers.get_all(header::CONTENT_LENGTH).iter().any(|length| length != "0")
}

fn has_word(headers: &HeaderMap, name: header::HeaderName, word: &str) -> bool {
    words(headers, name).any(|found| found.eq_ignore_ascii_case(word))
}

/// Returns the comma-separated words of all headers of this name.
pub(crate) fn words(headers: &HeaderMap, name: header::HeaderName) -> impl Iterator<Item = &str> {
    let values = headers.get_all(name).into_iter();
    values.filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(',')).map(str::trim_ascii)
}
