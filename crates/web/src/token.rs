//! The access token of the page. It is random, shown once in the page's address, and compared in constant time.

use aws_lc_rs::constant_time::verify_slices_are_equal;
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use rand::RngExt;
use std::fmt;

/// Length of the random part in bytes.
const BYTES: usize = 24;

/// The access token of the page. `Debug` does not show it.
#[derive(Clone)]
pub struct Token(String);

impl Token {
    /// Draws a token.
    #[must_use]
    pub fn draw() -> Self {
        let bytes: [u8; BYTES] = rand::rng().random();
        Self(BASE64_URL_SAFE_NO_PAD.encode(bytes))
    }

    /// Returns the text, for the address that the user opens.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// Returns whether a header `Authorization: Bearer …` has this token.
    pub(crate) fn is_in(&self, authorization: Option<&[u8]>) -> bool {
        let given = authorization.and_then(|value| value.strip_prefix(b"Bearer "));
        given.is_some_and(|given| verify_slices_are_equal(given, self.0.as_bytes()).is_ok())
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_whole_token_opens() {
        let token = Token::draw();
        let header = |text: &str| token.is_in(Some(format!("Bearer {text}").as_bytes()));
        assert!(header(token.reveal()) && token.reveal().len() >= 32);
        assert!(!header("") && !header(&token.reveal()[1..]) && !header(&format!("{}x", token.reveal())));
        assert!(!token.is_in(None) && !token.is_in(Some(token.reveal().as_bytes())));
        assert_ne!(Token::draw().reveal(), token.reveal());
        assert!(!format!("{token:?}").contains(token.reveal()));
    }
}
