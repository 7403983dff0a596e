//! Secrets: a bearer token, and the texts that must be removed from messages.
//! `Debug` does not show them, and they do not implement `Display`.

use std::fmt;

/// The word that replaces a secret.
pub const REDACTED: &str = "redacted";

/// Minimum length in bytes of a text that is removed from messages. Shorter texts would match parts of ordinary words.
const SHORTEST: usize = 4;
/// Minimum length in bytes of the beginning of a secret that is removed from the end of a message.
const SHORTEST_BEGINNING: usize = 8;

/// A bearer token, without the word `Bearer` before it.
#[derive(Clone)]
pub struct Secret(String);

impl Secret {
    /// Creates a secret from a token. A leading `Bearer ` is removed, because the header that carries the token adds it.
    #[must_use]
    pub fn new(text: &str) -> Self {
        let text = text.trim();
        match text.split_at_checked(7) {
            Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer ") => Self(token.trim().to_owned()),
            _ => Self(text.to_owned()),
        }
    }

    /// Returns the token, for the header that carries it.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(redacted)")
    }
}

/// All texts that no output may contain. The longest comes first, so that a secret is replaced before a part of it.
#[derive(Clone, Default)]
pub struct Secrets(Vec<String>);

impl Secrets {
    /// Adds a text, unless it is shorter than 4 bytes.
    pub fn add(&mut self, text: &str) {
        let text = text.trim();
        if text.len() >= SHORTEST && !self.0.iter().any(|known| known == text) {
            self.0.push(text.to_owned());
            self.0.sort_by_key(|known| std::cmp::Reverse(known.len()));
        }
    }

    /// Adds all texts of `others`.
    pub fn extend(&mut self, others: &Self) {
        others.0.iter().for_each(|text| self.add(text));
    }

    /// Returns `text` with every secret replaced by `redacted`. Needed for a server's messages, which may repeat what it was sent.
    /// A long message may have been cut inside a secret, so at its end the first 8 or more bytes of a secret are replaced as well.
    #[must_use]
    pub fn hide(&self, text: &str) -> String {
        let mut hidden = self.0.iter().fold(text.to_owned(), |text, secret| text.replace(secret, REDACTED));
        // What marks the cut follows the beginning of the secret.
        let end = hidden.trim_end_matches(['…', '.', '"']).len();
        let beginning = self.0.iter().filter_map(|secret| beginning_at_end(&hidden[..end], secret)).max();
        if let Some(length) = beginning {
            hidden.replace_range(end - length..end, REDACTED);
        }
        hidden
    }
}

/// Returns the length in bytes of the longest beginning of `secret` that `text` ends with.
fn beginning_at_end(text: &str, secret: &str) -> Option<usize> {
    (SHORTEST_BEGINNING..secret.len())
        .rev()
        .find(|length| secret.is_char_boundary(*length) && text.ends_with(&secret[..*length]))
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secrets({})", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scheme_of_a_token_is_left_out() {
        for text in ["abc", "Bearer abc", "bearer  abc ", "BEARER abc"] {
            assert_eq!(Secret::new(text).reveal(), "abc", "{text}");
        }
        assert_eq!(Secret::new("Bearerabc").reveal(), "Bearerabc");
        assert_eq!(Secret::new("é").reveal(), "é");
    }

    #[test]
    fn the_longer_secret_is_hidden_before_a_part_of_it() {
        let mut secrets = Secrets::default();
        for text in ["hush", "hush-hush", "no", ""] {
            secrets.add(text);
        }
        assert_eq!(secrets.hide("hush-hush, hush, no"), "redacted, redacted, no");
    }

    #[test]
    fn a_secret_that_was_cut_is_hidden() {
        let mut secrets = Secrets::default();
        secrets.add("sk-0123456789");
        secrets.add("sk-01234-éé-other");
        for (text, hidden) in [
            ("wrong key sk-012345678", "wrong key redacted"),
            ("wrong key sk-01234…", "wrong key redacted…"),
            ("wrong key sk-01234-é", "wrong key redacted"),
            ("wrong key sk-0123", "wrong key sk-0123"),
            ("wrong key sk-01234567 again", "wrong key sk-01234567 again"),
            ("", ""),
        ] {
            assert_eq!(secrets.hide(text), hidden);
        }
    }
}
