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

    /// Returns `text` with every secret replaced by `redacted`. Needed for a server's messages, which may repeat what it was sent, also
    /// with the escapes of JSON. A long message may have been cut inside a secret, so at its end and before `…` the first 8 or more bytes of
    /// a secret are replaced as well.
    #[must_use]
    pub fn hide(&self, text: &str) -> String {
        let mut hidden = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(first) = rest.chars().next() {
            let found = self.0.iter().filter_map(|secret| length_of(secret, rest)).max();
            match found {
                Some(_) => hidden.push_str(REDACTED),
                None => hidden.push(first),
            }
            rest = &rest[found.unwrap_or(first.len_utf8())..];
        }
        hidden
    }
}

/// Returns how many bytes `secret`, or its beginning if `text` was cut there, takes at the start of `text`.
fn length_of(secret: &str, text: &str) -> Option<usize> {
    if text.starts_with(secret) {
        return Some(secret.len());
    }
    let mut rest = text;
    for (known, wanted) in secret.char_indices() {
        let Some(length) = length_of_letter(wanted, rest) else {
            let is_cut = rest.starts_with('…') || rest.trim_start_matches(['.', '"']).is_empty();
            return (known >= SHORTEST_BEGINNING && is_cut).then(|| text.len() - rest.len());
        };
        rest = &rest[length..];
    }
    Some(text.len() - rest.len())
}

/// Returns how many bytes `wanted` takes at the start of `text`, as it is or as JSON may escape it.
fn length_of_letter(wanted: char, text: &str) -> Option<usize> {
    let escaped = text.strip_prefix('\\').and_then(|escape| match escape.as_bytes() {
        [b'u', ..] => length_of_units(wanted, text),
        [b'"' | b'\\' | b'/', ..] => escape.starts_with(wanted).then_some(2),
        _ => None,
    });
    escaped.or_else(|| text.starts_with(wanted).then_some(wanted.len_utf8()))
}

/// Returns how many bytes the UTF-16 units of `wanted` take at the start of `text`, each as `\u` and four hexadecimal digits.
fn length_of_units(wanted: char, text: &str) -> Option<usize> {
    let mut rest = text;
    for unit in wanted.encode_utf16(&mut [0; 2]) {
        let (digits, behind) = rest.strip_prefix("\\u")?.split_at_checked(4)?;
        (u16::from_str_radix(digits, 16).ok()? == *unit).then_some(())?;
        rest = behind;
    }
    Some(text.len() - rest.len())
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
            ("sent sk-01234567… and again", "sent redacted… and again"),
            ("", ""),
        ] {
            assert_eq!(secrets.hide(text), hidden);
        }
    }

    #[test]
    fn a_secret_with_the_escapes_of_json_is_hidden() {
        let mut secrets = Secrets::default();
        secrets.add("a+/é\"b\\c😀");
        for text in [
            "a+/é\"b\\c😀",
            r#"a+/é\"b\\c😀"#,
            r#"a+\/\u00e9\"b\\c\ud83d\uDE00"#,
            r#"\u0061\u002B\u002f\u00E9\u0022b\u005cc\uD83D\uDE00"#,
        ] {
            assert_eq!(secrets.hide(&format!("{{{text}}}")), "{redacted}", "{text}");
        }
        for text in [r"a+/\u00e", r"a+\", "\\u", "\\", r"a+/\uzzzz"] {
            assert_eq!(secrets.hide(text), text);
        }
    }
}
