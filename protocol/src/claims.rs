//! The token that opens a session's socket: HS256, `session_id` and `iat`, `exp` honoured when present.
//! An `alg` inside a token is never trusted, and the secret has a type that cannot be printed.

use crate::SessionId;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation, errors::ErrorKind};
use serde::{Deserialize, Serialize};
use std::fmt;

/// A token longer than this is refused unread.
pub const MAX_TOKEN_BYTES: usize = 4096;

/// How long after `exp` a token is still taken, for clocks that disagree.
pub const LEEWAY_SECONDS: u64 = 10;

/// What a token says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// The session that the token opens.
    pub session_id: SessionId,
    /// Issued at, Unix seconds.
    pub iat: u64,
    /// Expires at, Unix seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exp: Option<u64>,
}

/// The key that signs tokens. Never printed.
#[derive(Clone)]
pub struct Secret(Vec<u8>);

/// The key is too short to sign with.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the JWT secret has {0} bytes, at least {min} are needed: make one with `openssl rand -hex 32`", min = Secret::MIN_BYTES)]
pub struct SecretError(usize);

impl Secret {
    /// HS256 wants a key as long as its hash.
    pub const MIN_BYTES: usize = 32;

    /// Takes the key, less the white space around it.
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
    /// A signer with this key.
    #[must_use]
    pub fn new(secret: &Secret) -> Self {
        Self { key: EncodingKey::from_secret(&secret.0), header: Header::new(Algorithm::HS256) }
    }

    /// The token for these claims.
    ///
    /// # Panics
    /// Never: claims are plain numbers and a UUID, and HMAC takes any key.
    #[must_use]
    pub fn sign(&self, claims: &Claims) -> String {
        jsonwebtoken::encode(&self.header, claims, &self.key).expect("claims always encode")
    }
}

/// Why a token does not open the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Longer than [`MAX_TOKEN_BYTES`].
    #[error("token is longer than {MAX_TOKEN_BYTES} bytes")]
    TooLong,
    /// Not a JWT with our claims.
    #[error("token is malformed")]
    Malformed,
    /// Signed with another key, another algorithm, or not at all.
    #[error("token is not signed with this gateway's key")]
    BadSignature,
    /// Past its `exp`.
    #[error("token has expired")]
    Expired,
    /// Good, but for another session.
    #[error("token is for another session")]
    OtherSession,
}

/// Checks tokens. Build it once.
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
    /// A verifier with this key, for HS256 alone.
    #[must_use]
    pub fn new(secret: &Secret) -> Self {
        let mut validation = Validation::new(Algorithm::HS256);
        validation.required_spec_claims.clear();
        validation.leeway = LEEWAY_SECONDS;
        Self { key: DecodingKey::from_secret(&secret.0), validation }
    }

    /// The claims of `token`, if it opens `session`.
    ///
    /// # Errors
    /// Says which check failed, never what the token held.
    pub fn verify(&self, token: &str, session: SessionId) -> Result<Claims, TokenError> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(TokenError::TooLong);
        }
        let claims = jsonwebtoken::decode::<Claims>(token, &self.key, &self.validation)
            .map_err(|error| match error.kind() {
                ErrorKind::ExpiredSignature => TokenError::Expired,
                ErrorKind::InvalidSignature | ErrorKind::InvalidAlgorithm => TokenError::BadSignature,
                _ => TokenError::Malformed,
            })?
            .claims;
        if claims.session_id == session { Ok(claims) } else { Err(TokenError::OtherSession) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    const KEY: &str = "a key of thirty-two bytes or more";
    const NOW: u64 = 4_000_000_000;

    fn session(n: u128) -> SessionId {
        SessionId::new(Uuid::from_u128(n))
    }

    fn check(token: &str, expected: Result<(), TokenError>) {
        let verifier = Verifier::new(&Secret::new(KEY).unwrap());
        assert_eq!(verifier.verify(token, session(1)).map(|_| ()), expected, "{token}");
    }

    fn signed(key: &str, algorithm: Algorithm, claims: &impl Serialize) -> String {
        jsonwebtoken::encode(&Header::new(algorithm), claims, &EncodingKey::from_secret(key.as_bytes()))
            .unwrap()
    }

    #[test]
    fn what_opens_a_session() {
        let signer = Signer::new(&Secret::new(KEY).unwrap());
        let claims = Claims { session_id: session(1), iat: 1, exp: None };
        let expiring = |exp| signer.sign(&Claims { exp: Some(exp), session_id: session(1), iat: 1 });
        check(&signer.sign(&claims), Ok(()));
        check(&expiring(NOW), Ok(()));
        check(&expiring(1000), Err(TokenError::Expired));
        check(
            &signer.sign(&Claims { session_id: session(2), iat: 1, exp: None }),
            Err(TokenError::OtherSession),
        );
        check(
            &signed("another key of thirty-two bytes!!", Algorithm::HS256, &claims),
            Err(TokenError::BadSignature),
        );
        check(&signed(KEY, Algorithm::HS512, &claims), Err(TokenError::BadSignature));
        // {"alg":"none"}.{"session_id":"…1","iat":1}. and no signature: good claims that nobody vouches for.
        let unsigned = concat!(
            "eyJhbGciOiJub25lIn0.",
            "eyJzZXNzaW9uX2lkIjoiMDAwMDAwMDAtMDAwMC0wMDAwLTAwMDAtMDAwMDAwMDAwMDAxIiwiaWF0IjoxfQ."
        );
        check(unsigned, Err(TokenError::Malformed));
        check("", Err(TokenError::Malformed));
        check("a.b.c", Err(TokenError::Malformed));
        check(&"x".repeat(1 << 20), Err(TokenError::TooLong));
        #[derive(Serialize)]
        struct Other {
            sub: &'static str,
        }
        check(&signed(KEY, Algorithm::HS256, &Other { sub: "me" }), Err(TokenError::Malformed));
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
