//! Whether a request may become a socket, and where its stream starts. Pure checks over the request's head; what needs
//! the bus or a free seat is decided elsewhere.

use crate::rate::whole_seconds;
use bus::Start;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Version, header};
use protocol::{ParsePositionError, SessionId, TokenError, Verifier, parse_ws_path};
use std::time::{Duration, Instant};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

/// A request that passed every check.
#[derive(Debug)]
pub(crate) struct Admission {
    pub(crate) session: SessionId,
    pub(crate) start: Start,
    /// When the token runs out.
    pub(crate) expires: Option<Instant>,
    /// The value of `Sec-WebSocket-Accept`.
    pub(crate) accept: String,
    /// The client offered the subprotocol `bearer`, which is then answered.
    pub(crate) subprotocol: bool,
}

/// Why a request does not become a socket.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("gateway is draining, connect to another one")]
    Draining,
    #[error("gateway is full, try again later")]
    Full,
    #[error("too many clients connect at once, try again in {} s", whole_seconds(*wait))]
    Rate {
        /// Until there is a place.
        wait: Duration,
    },
    #[error("not found: {0}")]
    NotFound(String),
    #[error("this path speaks WebSocket: send `Connection: upgrade` and `Upgrade: websocket`")]
    NotAnUpgrade,
    #[error("WebSocket version 13 is needed, in `Sec-WebSocket-Version`")]
    Version,
    #[error("{0}")]
    Malformed(&'static str),
    #[error("a token is needed: `Authorization: Bearer <jwt>`, or the subprotocols `bearer, <jwt>`")]
    NoToken,
    #[error("{0}")]
    Token(#[from] TokenError),
    #[error("too many bad tokens from this address, try again in {retry_after} s")]
    BadTokens {
        /// In seconds.
        retry_after: u64,
    },
    #[error("last event id: {0}")]
    Position(#[from] ParsePositionError),
    #[error("last event id: {0}")]
    BeyondTheEnd(String),
    #[error("gateway has no bus, try again later")]
    BusDown,
}

impl Refusal {
    pub(crate) const fn status(&self) -> StatusCode {
        match self {
            Self::Draining | Self::Full | Self::Rate { .. } | Self::BusDown => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::NotFound(_) => StatusCode::NOT_FOUND,
            Self::NotAnUpgrade | Self::Version => StatusCode::UPGRADE_REQUIRED,
            Self::Malformed(_) | Self::Position(_) | Self::BeyondTheEnd(_) => StatusCode::BAD_REQUEST,
            Self::NoToken => StatusCode::UNAUTHORIZED,
            Self::Token(_) => StatusCode::FORBIDDEN,
            Self::BadTokens { .. } => StatusCode::TOO_MANY_REQUESTS,
        }
    }

    /// The header that tells the client what to do.
    pub(crate) fn header(&self) -> Option<(header::HeaderName, HeaderValue)> {
        let (name, value) = match self {
            Self::Rate { wait } => return Some((header::RETRY_AFTER, whole_seconds(*wait).into())),
            Self::BadTokens { retry_after } => return Some((header::RETRY_AFTER, (*retry_after).into())),
            Self::Draining => (header::RETRY_AFTER, "1"),
            Self::Full | Self::BusDown => (header::RETRY_AFTER, "2"),
            Self::NotAnUpgrade => (header::UPGRADE, "websocket"),
            Self::Version => (header::SEC_WEBSOCKET_VERSION, "13"),
            Self::NoToken => (header::WWW_AUTHENTICATE, "Bearer"),
            _ => return None,
        };
        Some((name, HeaderValue::from_static(value)))
    }

    /// When to come back, in milliseconds, where whole seconds would keep the client away for longer than needed.
    pub(crate) fn retry_after_ms(&self) -> Option<u64> {
        match self {
            Self::Rate { wait } => u64::try_from(wait.as_micros().div_ceil(1000)).ok(),
            _ => None,
        }
    }

    /// The label of the metric `wsproxy_upgrades_total`.
    pub(crate) const fn label(&self) -> &'static str {
        match self {
            Self::Draining => "draining",
            Self::Full => "full",
            Self::Rate { .. } => "rate",
            Self::NotFound(_) => "not_found",
            Self::NotAnUpgrade | Self::Version | Self::Malformed(_) => "bad_handshake",
            Self::NoToken => "no_token",
            Self::Token(_) => "bad_token",
            Self::BadTokens { .. } => "bad_token_rate",
            Self::Position(_) | Self::BeyondTheEnd(_) => "bad_position",
            Self::BusDown => "bus_down",
        }
    }
}

/// A request for a socket, of which only what costs little has been looked at.
#[derive(Debug)]
pub(crate) struct Knock {
    session: SessionId,
    accept: String,
}

/// Checks path and handshake, in the order in which a client would want to hear.
pub(crate) fn knock<B>(request: &Request<B>) -> Result<Knock, Refusal> {
    if request.method() != Method::GET {
        return Err(Refusal::NotFound(format!("{} is no method of this path", request.method())));
    }
    let path = request.uri().path();
    let (_, session) = parse_ws_path(path).map_err(|error| Refusal::NotFound(error.to_string()))?;
    let accept = check_handshake(request.version(), request.headers())?;
    if has_body(request.headers()) {
        // Frames follow the head: a body would be read as some.
        return Err(Refusal::Malformed(
            "a WebSocket handshake has no body: leave `Content-Length` and `Transfer-Encoding` out",
        ));
    }
    Ok(Knock { session, accept })
}

impl Knock {
    /// Checks the token, which costs a signature, then the position.
    pub(crate) fn admit<B>(self, request: &Request<B>, verifier: &Verifier) -> Result<Admission, Refusal> {
        let headers = request.headers();
        let offered = subprotocols(headers);
        let token = authorization(headers).or_else(|| bearer_of(&offered)).ok_or(Refusal::NoToken)?;
        let now = host::unix_time();
        let grant = verifier.verify(token, self.session, now)?;
        Ok(Admission {
            session: self.session,
            start: start(headers, request.uri().query())?,
            expires: grant.until.and_then(|until| expiry(until, now)),
            accept: self.accept,
            subprotocol: offered.iter().any(|protocol| protocol.eq_ignore_ascii_case("bearer")),
        })
    }
}

/// RFC 6455, section 4.2.1; answers the value of `Sec-WebSocket-Accept`.
fn check_handshake(version: Version, headers: &HeaderMap) -> Result<String, Refusal> {
    if version != Version::HTTP_11 {
        return Err(Refusal::Malformed("a WebSocket handshake needs HTTP/1.1"));
    }
    if !has_word(headers, header::CONNECTION, "upgrade") || !has_word(headers, header::UPGRADE, "websocket") {
        return Err(Refusal::NotAnUpgrade);
    }
    if headers.get(header::SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        return Err(Refusal::Version);
    }
    match headers.get(header::SEC_WEBSOCKET_KEY) {
        // 16 bytes in base64.
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

/// The comma-separated words of all headers of this name.
fn words(headers: &HeaderMap, name: header::HeaderName) -> impl Iterator<Item = &str> {
    let values = headers.get_all(name).into_iter();
    values.filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(',')).map(str::trim_ascii)
}

fn subprotocols(headers: &HeaderMap) -> Vec<&str> {
    words(headers, header::SEC_WEBSOCKET_PROTOCOL).filter(|word| !word.is_empty()).collect()
}

fn authorization(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim_ascii())
}

/// The token of the pair `bearer, <jwt>`.
fn bearer_of<'a>(offered: &[&'a str]) -> Option<&'a str> {
    let at = offered.iter().position(|protocol| protocol.eq_ignore_ascii_case("bearer"))?;
    offered.get(at + 1).copied()
}

/// Where the stream starts: the header, else the query parameter, else the session's cursor.
fn start(headers: &HeaderMap, query: Option<&str>) -> Result<Start, Refusal> {
    let header = headers.get("last-event-id").map(HeaderValue::as_bytes).map(String::from_utf8_lossy);
    let parameter = || {
        let pairs = query?.split('&');
        pairs.filter_map(|pair| pair.split_once('=')).find(|(name, _)| *name == "last_event_id")
    };
    let text = header.or_else(|| parameter().map(|(_, value)| value.into()));
    let Some(text) = text else { return Ok(Start::Cursor) };
    Ok(Start::After(text.trim_ascii().parse()?))
}

/// The instant of a time since the Unix epoch; `None` for one that no clock here reaches.
fn expiry(until: Duration, now: Duration) -> Option<Instant> {
    Instant::now().checked_add(until.saturating_sub(now))
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::{Claims, Position, Secret, Signer};

    const ID: &str = "0b8a1c52-3b0e-4f57-9d1f-5b7f8a2c9e11";

    fn secret() -> Secret {
        Secret::new("a key of thirty-two bytes or more").unwrap()
    }

    fn token() -> String {
        Signer::new(&secret()).sign(&Claims { session_id: ID.parse().unwrap(), iat: 1, exp: None })
    }

    /// A good request for `path`, with headers replaced, or left out where the value is empty.
    fn check(path: &str, changes: &[(&'static str, &str)]) -> Result<Admission, Refusal> {
        let authorization = format!("Bearer {}", token());
        let mut headers = vec![
            ("connection", "keep-alive, Upgrade"),
            ("upgrade", "WebSocket"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
            ("authorization", authorization.as_str()),
        ];
        headers.retain(|(name, _)| changes.iter().all(|(changed, _)| changed != name));
        headers.extend(changes.iter().filter(|(_, value)| !value.is_empty()));
        let request =
            headers.iter().fold(Request::get(path), |request, (name, value)| request.header(*name, *value));
        let request = request.body(()).unwrap();
        knock(&request)?.admit(&request, &Verifier::new(&secret()))
    }

    fn refused(changes: &[(&'static str, &str)]) -> Refusal {
        check(&format!("/agent/ws/{ID}"), changes).unwrap_err()
    }

    #[test]
    fn a_good_request() {
        let admission = check(&format!("/agent/ws/{ID}"), &[]).unwrap();
        assert_eq!(admission.accept, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=", "RFC 6455's own example");
        assert_eq!((admission.start, admission.subprotocol), (Start::Cursor, false));
        assert_eq!(admission.session.to_string(), ID);
    }

    #[test]
    fn a_browser_sends_its_token_as_a_subprotocol() {
        let path = format!("/agent/ws/{ID}?x=1&last_event_id=7-3");
        let pair = format!("bearer, {}", token());
        let admission = check(&path, &[("authorization", ""), ("sec-websocket-protocol", &pair)]).unwrap();
        assert!(admission.subprotocol);
        assert_eq!(admission.start, Start::After(Position::new(7, 3)));
    }

    #[test]
    fn a_bad_handshake_is_told_what_is_missing() {
        for (header, value, refusal) in [
            ("connection", "keep-alive", Refusal::NotAnUpgrade),
            ("upgrade", "", Refusal::NotAnUpgrade),
            ("upgrade", "h2c", Refusal::NotAnUpgrade),
            ("sec-websocket-version", "8", Refusal::Version),
            ("sec-websocket-version", "", Refusal::Version),
        ] {
            assert_eq!(refused(&[(header, value)]), refusal, "{header}: {value}");
        }
        let bodies = [("content-length", "5"), ("transfer-encoding", "chunked"), ("content-length", "x")];
        for (header, value) in bodies {
            let told = refused(&[(header, value)]);
            assert!(matches!(told, Refusal::Malformed(text) if text.contains("no body")), "{header}: {told}");
        }
        assert!(check(&format!("/agent/ws/{ID}"), &[("content-length", "0")]).is_ok());
        for key in ["", "short"] {
            assert!(matches!(refused(&[("sec-websocket-key", key)]), Refusal::Malformed(_)));
        }
    }

    #[test]
    fn a_bad_token_is_never_repeated() {
        for (value, refusal) in [
            ("", Refusal::NoToken),
            ("Basic dXNlcg==", Refusal::NoToken),
            ("Bearer", Refusal::NoToken),
            ("Bearer not-a-token", Refusal::Token(TokenError::Malformed)),
        ] {
            let found = refused(&[("authorization", value)]);
            assert_eq!(found, refusal, "{value}");
            assert!(!found.to_string().contains("not-a-token"));
        }
    }

    #[test]
    fn a_bad_position_is_named() {
        for text in ["x", "1", "7-3-1", "-", "\u{e4}-1"] {
            let refusal = refused(&[("last-event-id", text)]);
            assert!(matches!(refusal, Refusal::Position(_)), "{text}");
            assert!(!text.is_ascii() || refusal.to_string().contains(text), "{refusal}");
        }
        let far = check(&format!("/agent/ws/{ID}"), &[("last-event-id", "99999999999999-1")]).unwrap();
        assert_eq!(far.start, Start::After(Position::new(99_999_999_999_999, 1)), "the bus judges it");
        let nothing = check(&format!("/agent/ws/{ID}"), &[("last-event-id", "0")]).unwrap();
        assert_eq!(nothing.start, Start::After(Position::ZERO));
    }

    #[test]
    fn paths_and_methods() {
        for path in ["/", "/agent/ws", "/agent/ws/not-a-uuid", "/agent/ws/*"] {
            assert!(matches!(check(path, &[]), Err(Refusal::NotFound(_))), "{path}");
        }
        let post = Request::post(format!("/agent/ws/{ID}")).body(()).unwrap();
        assert!(matches!(knock(&post), Err(Refusal::NotFound(_))));
    }

    #[test]
    fn an_expiry_beyond_every_clock_is_none() {
        assert!(expiry(Duration::MAX, Duration::ZERO).is_none());
        let soon = expiry(Duration::from_secs(110), Duration::from_secs(105)).unwrap();
        assert!(soon > Instant::now() + Duration::from_secs(3));
    }
}
