//! Decides whether a request may become a socket, and where its stream starts. The checks are pure functions of the request's head.
//! Limits that depend on the gateway's state are checked in `gateway`.

use crate::{
    handshake::{self, Handshake},
    refusal::Refusal,
    rollup::WINDOW_MS,
};
use bus::Start;
use http::{HeaderMap, HeaderValue, Request, header};
use protocol::{MAX_HOPS, SessionId, Verifier};
use std::{
    num::NonZeroU32,
    time::{Duration, Instant},
};

/// A request that passed every check.
#[derive(Debug)]
pub(crate) struct Admission {
    pub(crate) session: SessionId,
    pub(crate) start: Start,
    /// The length of the windows whose tokens become one frame, if the client asked for that.
    pub(crate) rollup: Option<Duration>,
    /// Every how many tokens of a query carry the gateway's times, if the client asked for that. `None` with a rollup.
    pub(crate) hops: Option<NonZeroU32>,
    /// When the token expires.
    pub(crate) expires: Option<Instant>,
    /// The value of `Sec-WebSocket-Accept`.
    pub(crate) accept: String,
    /// The client offered the subprotocol `bearer`, so the response must name it.
    pub(crate) subprotocol: bool,
}

impl Admission {
    /// Checks the token, which costs a signature, then the position.
    ///
    /// # Errors
    /// The first check that failed.
    pub(crate) fn check<B>(
        handshake: Handshake,
        request: &Request<B>,
        verifier: &Verifier,
    ) -> Result<Self, Refusal> {
        let headers = request.headers();
        let offered = subprotocols(headers);
        let token = authorization(headers).or_else(|| bearer_of(&offered)).ok_or(Refusal::NoToken)?;
        let now = host::unix_time();
        let grant = verifier.verify(token, handshake.session, now)?;
        let query = request.uri().query();
        let start = start(headers, query)?;
        let rollup = rollup(query)?;
        let hops = hops(query)?.filter(|_| rollup.is_none());
        Ok(Self {
            session: handshake.session,
            start,
            rollup,
            hops,
            expires: grant.until.and_then(|until| expiry(until, now)),
            accept: handshake.accept,
            subprotocol: offered.iter().any(|protocol| protocol.eq_ignore_ascii_case("bearer")),
        })
    }
}

fn subprotocols(headers: &HeaderMap) -> Vec<&str> {
    handshake::words(headers, header::SEC_WEBSOCKET_PROTOCOL).filter(|word| !word.is_empty()).collect()
}

fn authorization(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim_ascii())
}

/// Returns the token of the subprotocol pair `bearer, <jwt>`.
fn bearer_of<'a>(offered: &[&'a str]) -> Option<&'a str> {
    let at = offered.iter().position(|protocol| protocol.eq_ignore_ascii_case("bearer"))?;
    offered.get(at + 1).copied()
}

/// Returns where the stream starts: at the position of the header, else of the query parameter, else at the session's cursor.
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

/// Returns the length of a rollup's windows, if the query has one parameter `rollup`.
fn rollup(query: Option<&str>) -> Result<Option<Duration>, Refusal> {
    let Some(ms) = whole_number(query, "rollup").transpose().map_err(|NotWhole| Refusal::Rollup)? else {
        return Ok(None);
    };
    let ms = u16::try_from(ms).ok().filter(|ms| WINDOW_MS.contains(ms)).ok_or(Refusal::Rollup)?;
    Ok(Some(Duration::from_millis(ms.into())))
}

/// Returns every how many tokens carry the gateway's times, if the query has one parameter `hops`.
fn hops(query: Option<&str>) -> Result<Option<NonZeroU32>, Refusal> {
    let Some(every) = whole_number(query, "hops").transpose().map_err(|NotWhole| Refusal::Hops)? else {
        return Ok(None);
    };
    if every > MAX_HOPS { Err(Refusal::Hops) } else { NonZeroU32::new(every).map(Some).ok_or(Refusal::Hops) }
}

/// The parameter occurs twice, or its value is not a whole number.
struct NotWhole;

/// Returns the value of a parameter, or `None` if the query does not have it.
fn whole_number(query: Option<&str>, name: &str) -> Option<Result<u32, NotWhole>> {
    let pairs = query.unwrap_or_default().split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    let mut values = pairs.filter(|(found, _)| *found == name).map(|(_, value)| value);
    let value = values.next()?;
    let is_whole = values.next().is_none() && value.bytes().all(|byte| byte.is_ascii_digit());
    Some(value.parse().ok().filter(|_| is_whole).ok_or(NotWhole))
}

/// Converts a time since the Unix epoch to an instant. Returns `None` if an [`Instant`] cannot express it.
fn expiry(until: Duration, now: Duration) -> Option<Instant> {
    Instant::now().checked_add(until.saturating_sub(now))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handshake::check_handshake;
    use protocol::{Claims, Position, Secret, Signer, TokenError};

    const ID: &str = "0b8a1c52-3b0e-4f57-9d1f-5b7f8a2c9e11";

    fn secret() -> Secret {
        Secret::new("a key of thirty-two bytes or more").unwrap()
    }

    fn token() -> String {
        Signer::new(&secret()).sign(&Claims { session_id: ID.parse().unwrap(), iat: 1, exp: None })
    }

    /// Checks a valid request for `path` with some headers replaced, or removed if their value is empty.
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
        Admission::check(check_handshake(&request)?, &request, &Verifier::new(&secret()))
    }

    fn refused(changes: &[(&'static str, &str)]) -> Refusal {
        check(&format!("/agent/ws/{ID}"), changes).unwrap_err()
    }

    #[test]
    fn a_valid_request_is_admitted() {
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
    fn a_bad_handshake_is_refused_with_what_is_missing() {
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
            let refusal = refused(&[(header, value)]);
            assert!(
                matches!(refusal, Refusal::Malformed(text) if text.contains("no body")),
                "{header}: {refusal}"
            );
        }
        assert!(check(&format!("/agent/ws/{ID}"), &[("content-length", "0")]).is_ok());
        for key in ["", "short"] {
            assert!(matches!(refused(&[("sec-websocket-key", key)]), Refusal::Malformed(_)));
        }
    }

    #[test]
    fn a_refusal_does_not_repeat_a_bad_token() {
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
    fn a_refusal_names_a_bad_position() {
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
    fn a_rollup_is_a_whole_number_of_milliseconds() {
        let checked =
            |query: &str| check(&format!("/agent/ws/{ID}{query}"), &[]).map(|admission| admission.rollup);
        let ms = |ms| Ok(Some(Duration::from_millis(ms)));
        for (query, expected) in [
            ("", Ok(None)),
            ("?x=1&rollups=5", Ok(None)),
            ("?rollup=40", ms(40)),
            ("?rollup=1&last_event_id=7-3", ms(1)),
            ("?x&rollup=1000", ms(1000)),
        ] {
            assert_eq!(checked(query), expected, "{query}");
        }
        for value in
            ["", "=", "=0", "=1001", "=70000", "=-1", "=+40", "=40ms", "=4.5", "=40&rollup=40", "=%34"]
        {
            assert_eq!(checked(&format!("?rollup{value}")), Err(Refusal::Rollup), "{value}");
        }
        assert!(Refusal::Rollup.to_string().contains("1 to 1000"), "{}", Refusal::Rollup);
    }

    #[test]
    fn hops_are_a_whole_number_of_tokens_and_not_given_with_a_rollup() {
        let checked =
            |query: &str| check(&format!("/agent/ws/{ID}{query}"), &[]).map(|admission| admission.hops);
        for (query, expected) in [
            ("", None),
            ("?hop=5", None),
            ("?hops=16", NonZeroU32::new(16)),
            ("?hops=1000000&last_event_id=7-3", NonZeroU32::new(1_000_000)),
            ("?hops=16&rollup=40", None),
        ] {
            assert_eq!(checked(query), Ok(expected), "{query}");
        }
        for value in ["", "=", "=0", "=1000001", "=99999999999", "=-1", "=+4", "=1.5", "=4&hops=4"] {
            assert_eq!(checked(&format!("?hops{value}")), Err(Refusal::Hops), "{value}");
        }
        assert!(Refusal::Hops.to_string().contains("1 to 1000000"), "{}", Refusal::Hops);
    }

    #[test]
    fn other_paths_and_methods_are_not_found() {
        for path in ["/", "/agent/ws", "/agent/ws/not-a-uuid", "/agent/ws/*"] {
            assert!(matches!(check(path, &[]), Err(Refusal::NotFound(_))), "{path}");
        }
        let post = Request::post(format!("/agent/ws/{ID}")).body(()).unwrap();
        assert!(matches!(check_handshake(&post), Err(Refusal::NotFound(_))));
    }

    #[test]
    fn an_expiry_that_an_instant_cannot_express_is_none() {
        assert!(expiry(Duration::MAX, Duration::ZERO).is_none());
        let soon = expiry(Duration::from_secs(110), Duration::from_secs(105)).unwrap();
        assert!(soon > Instant::now() + Duration::from_secs(3));
    }
}
