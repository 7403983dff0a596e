//! The token that opens a session's socket: a JWT signed with HS256.
//!
//! The claim `session_id` is required. `exp` and `nbf` are honoured when present, and `iat` is optional. A token with `aud` is refused,
//! because a gateway has no audience. The token's own `alg` is never trusted, and the secret has a type that cannot be printed.

use crate::SessionId;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation, errors::ErrorKind};
use serde::Serialize;
use serde_json::{Map, Value};
use std::{fmt, time::Duration};

/// The longest token that is read, in bytes.
pub const MAX_TOKEN_BYTES: usize = 4096;

/// How long a token is accepted after `exp` and before `nbf`, in seconds, because clocks of hosts differ.
pub const LEEWAY_SECONDS: u64 = 10;

/// The claims of the tokens that the server signs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Claims {
    /// The session that the token opens.
    pub session_id: SessionId,
    /// Issued at, Unix seconds.
    pub iat: u64,
    /// Expires at, Unix seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exp: Option<u64>,
}

/// The key that signs tokens. `Debug` does not print it.
#[derive(Clone)]
pub struct Secret(Vec<u8>);

/// The key is shorter than [`Secret::MIN_BYTES`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the JWT secret is too short, {0} of at least {min} bytes: make one with `openssl rand -hex 32`", min = Secret::MIN_BYTES)]
pub struct SecretError(usize);

impl Secret {
    /// The shortest key, in bytes: RFC 7518 requires one as long as the hash.
    pub const MIN_BYTES: usize = 32;

    /// Creates the secret from `key`, without the white space around it.
    ///
    /// # Errors
    /// Fewer than [`Secret::MIN_BYTES`] bytes.
    pub fn new(key: &str) -> Result<Self, SecretError> {
        let key = key.trim().as_bytes();
        if key.len() < Self::MIN_BYTES {
            return Err(SecretError(key.len()));
        }
        Ok(Self(key.to_vec()))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(redacted)")
    }
}

/// Signs tokens.
#[derive(Clone)]
pub struct Signer {
    key: EncodingKey,
    header: Header,
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Signer(redacted)")
    }
}

impl Signer {
    /// Creates a signer with this key.
    #[must_use]
    pub fn new(secret: &Secret) -> Self {
        Self { key: EncodingKey::from_secret(&secret.0), header: Header::new(Algorithm::HS256) }
    }

    /// Returns the token for these claims.
    ///
    /// # Panics
    /// Never: claims are plain numbers and a UUID, and HMAC takes any key.
    #[must_use]
    pub fn sign(&self, claims: &Claims) -> String {
        jsonwebtoken::encode(&self.header, claims, &self.key).expect("claims always encode")
    }
}

/// Why a token does not open the session. The message names the claim and never its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// The token is longer than [`MAX_TOKEN_BYTES`].
    #[error("token is longer than {MAX_TOKEN_BYTES} bytes")]
    TooLong,
    /// The token is not a JWT, or its claims are not a JSON object.
    #[error("token is malformed: expected a JWT whose claims are a JSON object")]
    Malformed,
    /// The token is signed with another key or algorithm.
    #[error("token is not signed with this gateway's key and HS256")]
    BadSignature,
    /// A claim is missing or has the wrong type.
    #[error("claim `{claim}` of the token is not {expected}")]
    Claim {
        /// The claim's name.
        claim: &'static str,
        /// What the claim must be.
        expected: &'static str,
    },
    /// The time is past the claim `exp`.
    #[error("token has expired: claim `exp` is in the past")]
    Expired,
    /// The time is before the claim `nbf`.
    #[error("token is not valid yet: claim `nbf` is in the future")]
    NotYetValid,
    /// The token names an audience, and a gateway has none.
    #[error("token is for another audience: this gateway has no audience, leave claim `aud` out")]
    Audience,
    /// The token is valid for another session.
    #[error("token is for another session: claim `session_id` differs from the path")]
    OtherSession,
}

/// Checks tokens. Build it once, because it prepares the key.
#[derive(Clone)]
pub struct Verifier {
    key: DecodingKey,
    validation: Validation,
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Verifier(redacted)")
    }
}

impl Verifier {
    /// Creates a verifier with this key that accepts HS256 alone.
    #[must_use]
    pub fn new(secret: &Secret) -> Self {
        let mut validation = Validation::new(Algorithm::HS256);
        // The library checks the signature alone. It rejects dates with fractions and does not report which claim is wrong, so
        // `check` looks at the claims.
        validation.required_spec_claims.clear();
        validation.validate_exp = false;
        validation.validate_nbf = false;
        validation.validate_aud = false;
        Self { key: DecodingKey::from_secret(&secret.0), validation }
    }

    /// Checks whether `token` opens `session` at `now`, a time since the Unix epoch.
    ///
    /// # Errors
    /// The check that failed, without the token's contents.
    pub fn verify(&self, token: &str, session: SessionId, now: Duration) -> Result<Grant, TokenError> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(TokenError::TooLong);
        }
        let token = jsonwebtoken::decode::<Map<String, Value>>(token, &self.key, &self.validation).map_err(
            |error| match error.kind() {
                ErrorKind::InvalidSignature | ErrorKind::InvalidAlgorithm => TokenError::BadSignature,
                _ => TokenError::Malformed,
            },
        )?;
        check(&token.claims, session, now)
    }
}

/// What a valid token permits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// When the permission ends, as time since the Unix epoch with the leeway added. `None` if it does not end.
    pub until: Option<Duration>,
}

/// Checks the claims of a token whose signature is valid, at `now`, a time since the Unix epoch.
fn check(claims: &Map<String, Value>, session: SessionId, now: Duration) -> Result<Grant, TokenError> {
    let named: SessionId =
        claims.get("session_id").and_then(Value::as_str).and_then(|id| id.parse().ok()).ok_or(
            TokenError::Claim { claim: "session_id", expected: "a session's UUID in its hyphenated form" },
        )?;
    let (expires, begins) = (date(claims, "exp")?, date(claims, "nbf")?);
    date(claims, "iat")?;
    let (now, leeway) = (now.as_secs_f64(), LEEWAY_SECONDS as f64);
    if expires.is_some_and(|expires| now > expires + leeway) {
        return Err(TokenError::Expired);
    }
    if begins.is_some_and(|begins| now < begins - leeway) {
        return Err(TokenError::NotYetValid);
    }
    if claims.contains_key("aud") {
        return Err(TokenError::Audience);
    }
    if named != session {
        return Err(TokenError::OtherSession);
    }
    // An `exp` beyond the range of `Duration` counts as none, because no clock reaches it.
    Ok(Grant { until: expires.and_then(|expires| Duration::try_from_secs_f64(expires + leeway).ok()) })
}

/// Reads a NumericDate of RFC 7519: seconds since the Unix epoch, with an optional fraction.
fn date(claims: &Map<String, Value>, claim: &'static str) -> Result<Option<f64>, TokenError> {
    let Some(value) = claims.get(claim) else { return Ok(None) };
    let seconds = value.as_f64();
    seconds.map(Some).ok_or(TokenError::Claim { claim, expected: "a number of seconds since 1970" })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use uuid::Uuid;

    const KEY: &str = "a key of thirty-two bytes or more";
    const NOW: u64 = 4_000_000_000;

    fn session(n: u128) -> SessionId {
        SessionId::new(Uuid::from_u128(n))
    }

    fn check(token: &str, expected: Result<(), TokenError>) {
        let verifier = Verifier::new(&Secret::new(KEY).unwrap());
        assert_eq!(
            verifier.verify(token, session(1), Duration::from_secs(NOW)).map(|_| ()),
            expected,
            "{token}"
        );
    }

    fn signed(key: &str, algorithm: Algorithm, claims: &impl Serialize) -> String {
        jsonwebtoken::encode(&Header::new(algorithm), claims, &EncodingKey::from_secret(key.as_bytes()))
            .unwrap()
    }

    #[test]
    fn a_valid_token_opens_its_session_and_others_are_refused() {
        let signer = Signer::new(&Secret::new(KEY).unwrap());
        let claims = Claims { session_id: session(1), iat: 1, exp: None };
        let expiring = |exp| signer.sign(&Claims { exp: Some(exp), session_id: session(1), iat: 1 });
        check(&signer.sign(&claims), Ok(()));
        check(&expiring(NOW), Ok(()));
        check(&expiring(1000), Err(TokenError::Expired));
        check(
            &signed("another key of thirty-two bytes!!", Algorithm::HS256, &claims),
            Err(TokenError::BadSignature),
        );
        check(&signed(KEY, Algorithm::HS512, &claims), Err(TokenError::BadSignature));
        // {"alg":"none"}.{"session_id":"…1","iat":1}. and no signature: valid claims without a signature.
        let unsigned = concat!(
            "eyJhbGciOiJub25lIn0.",
            "eyJzZXNzaW9uX2lkIjoiMDAwMDAwMDAtMDAwMC0wMDAwLTAwMDAtMDAwMDAwMDAwMDAxIiwiaWF0IjoxfQ."
        );
        check(unsigned, Err(TokenError::Malformed));
        check("", Err(TokenError::Malformed));
        check("a.b.c", Err(TokenError::Malformed));
        check(&"x".repeat(1 << 20), Err(TokenError::TooLong));
        check(&signed(KEY, Algorithm::HS256, &[1, 2]), Err(TokenError::Malformed));
        let mut foreign = serde_json::json!({"session_id": session(1), "sub": "me", "iss": "x", "roles": []});
        check(&signed(KEY, Algorithm::HS256, &foreign), Ok(()));
        foreign["aud"] = "chat".into();
        check(&signed(KEY, Algorithm::HS256, &foreign), Err(TokenError::Audience));
    }

    /// Checks claims at second 1,000.
    fn at_1000(claims: Value) -> Result<Grant, TokenError> {
        let Value::Object(mut claims) = claims else { panic!("{claims} is not an object") };
        claims.entry("session_id").or_insert_with(|| session(1).to_string().into());
        super::check(&claims, session(1), Duration::from_secs(1000))
    }

    #[test]
    fn dates_may_have_fractions_and_a_leeway_applies() {
        let until = |seconds| Ok(Grant { until: Some(Duration::from_secs_f64(seconds)) });
        let forever = Ok(Grant { until: None });
        for (claims, expected) in [
            (json!({}), forever),
            (json!({"iat": 5000.25}), forever),
            (json!({"iat": -1}), forever),
            (json!({"exp": 1000}), until(1010.0)),
            (json!({"exp": 990.5}), until(1000.5)),
            (json!({"exp": 990}), until(1000.0)),
            (json!({"exp": 989.5}), Err(TokenError::Expired)),
            (json!({"exp": -5}), Err(TokenError::Expired)),
            (json!({"exp": 1e300}), forever),
            (json!({"exp": u64::MAX}), forever),
            (json!({"nbf": 1010}), forever),
            (json!({"nbf": 1010.5}), Err(TokenError::NotYetValid)),
            (json!({"nbf": 1e300}), Err(TokenError::NotYetValid)),
            (json!({"nbf": 1010.5, "exp": 5000}), Err(TokenError::NotYetValid)),
        ] {
            assert_eq!(at_1000(claims.clone()), expected, "{claims}");
        }
    }

    #[test]
    fn a_refusal_names_its_claim_and_repeats_no_value() {
        for (claim, values) in [
            ("exp", vec![json!("4711"), json!(null), json!([]), json!(1)]),
            ("nbf", vec![json!("4711"), json!(null), json!(true), json!(4711)]),
            ("iat", vec![json!("4711"), json!(null), json!({})]),
            ("aud", vec![json!("4711"), json!(["4711"]), json!(null)]),
            ("session_id", vec![json!("4711"), json!(null), json!(4711), json!(session(2))]),
        ] {
            for value in values {
                let refusal = at_1000(json!({ claim: value })).unwrap_err();
                let text = refusal.to_string();
                assert!(text.contains(&format!("`{claim}`")), "{claim}: {value}: {text}");
                if matches!(refusal, TokenError::Claim { .. }) {
                    let mut claims = json!({ "session_id": session(1) });
                    claims[claim] = value.clone();
                    check(&signed(KEY, Algorithm::HS256, &claims), Err(refusal));
                }
                assert!(!text.contains("4711"), "{claim}: {value}: {text}");
            }
        }
    }

    #[test]
    fn a_secret_is_long_enough_and_never_printed() {
        assert_eq!(Secret::new("short").unwrap_err(), SecretError(5));
        assert_eq!(Secret::new(&" ".repeat(40)).unwrap_err(), SecretError(0));
        let secret = Secret::new(KEY).unwrap();
        assert!(
            !format!("{secret:?} {:?} {:?}", Signer::new(&secret), Verifier::new(&secret)).contains("thirty")
        );
    }
}
