//! The digest of an answer's contents, computed by the server over what it sends and by the client over what it receives.
//!
//! It is XXH3-64 with seed 0. Each token adds its UTF-8 length as a little-endian u32 and its bytes, in the order of positions.

use std::fmt;
use xxhash_rust::xxh3::Xxh3Default;

/// The digest of an answer, 16 hexadecimal digits on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Digest(u64);

impl Digest {
    /// Number of hexadecimal digits on the wire.
    pub const DIGITS: usize = 16;

    /// Reads 16 hexadecimal digits. Returns `None` for any other text.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let hexadecimal = text.len() == Self::DIGITS && text.bytes().all(|digit| digit.is_ascii_hexdigit());
        hexadecimal.then(|| u64::from_str_radix(text, 16).ok().map(Self)).flatten()
    }
}

/// The field `digest` of a terminator, which covers the tokens before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum DigestField {
    /// The field is absent, or has a form that only a foreign server can read.
    #[default]
    Absent,
    /// The field holds a digest.
    Valid(Digest),
    /// The field is as long as a digest but not hexadecimal, so the digest was damaged on its way.
    Damaged,
}

impl DigestField {
    /// Reads the text of a field `digest`. Only a text of 16 characters is meant as a digest.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        match Digest::parse(text) {
            Some(digest) => Self::Valid(digest),
            None if text.chars().take(Digest::DIGITS + 1).count() == Digest::DIGITS => Self::Damaged,
            None => Self::Absent,
        }
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// Computes a digest token by token. The hasher needs some 400 bytes, which are allocated with the first token.
#[derive(Clone, Default)]
pub struct Digester(Option<Box<Xxh3Default>>);

impl Digester {
    /// Adds the next token.
    pub fn token(&mut self, content: &str) {
        let hasher = self.0.get_or_insert_default();
        let length = u32::try_from(content.len()).unwrap_or(u32::MAX);
        hasher.update(&length.to_le_bytes());
        hasher.update(content.as_bytes());
    }

    /// Returns the digest of the tokens so far.
    #[must_use]
    pub fn digest(&self) -> Digest {
        let empty = || xxhash_rust::xxh3::xxh3_64(&[]);
        Digest(self.0.as_ref().map_or_else(empty, |hasher| hasher.digest()))
    }
}

impl fmt::Debug for Digester {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digester({})", self.digest())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn digest(tokens: &[&str]) -> Digest {
        let mut digester = Digester::default();
        tokens.iter().for_each(|token| digester.token(token));
        digester.digest()
    }

    /// The values come from another implementation (libxxhash 0.8.1). A change here breaks foreign clients.
    #[test]
    fn digests_equal_those_of_another_implementation() {
        assert_eq!(digest(&[]).to_string(), "2d06800538d394c2");
        assert_eq!(digest(&["a"]).to_string(), "eeca542ebdc74773");
        assert_eq!(digest(&["Hello ", "wörld "]).to_string(), "7f9508523550c6bc");
        let long: Vec<_> = std::iter::repeat_n("token ", 100).collect();
        assert_eq!(digest(&long).to_string(), "c2abdfe623893e4f");
    }

    #[test]
    fn token_boundaries_change_the_digest() {
        assert_ne!(digest(&["ab", "c"]), digest(&["a", "bc"]));
        assert_ne!(digest(&["a", ""]), digest(&["a"]));
    }

    #[test]
    fn a_text_that_is_not_a_digest_is_rejected() {
        for text in ["", "0", "2d06800538d394c", "2d06800538d394c2f", "2d06800538d394g2", "+d06800538d394c2"]
        {
            assert_eq!(Digest::parse(text), None, "{text}");
        }
        assert_eq!(Digest::parse("2D06800538D394C2"), Some(digest(&[])));
    }

    #[test]
    fn sixteen_characters_that_are_not_hexadecimal_are_a_damaged_digest() {
        assert_eq!(DigestField::parse("2d06800538d394c2"), DigestField::Valid(digest(&[])));
        for damaged in ["2d06800538d394g2", "2d06800538d394 2", "2d06800538d394é2", "+d06800538d394c2"] {
            assert_eq!(DigestField::parse(damaged), DigestField::Damaged, "{damaged}");
        }
        for foreign in ["", "2d06800538d394c", "2d06800538d394c2f", "sha256:2d06800538d394c2", "éééééééé"]
        {
            assert_eq!(DigestField::parse(foreign), DigestField::Absent, "{foreign}");
        }
    }

    proptest! {
        #[test]
        fn a_streamed_digest_equals_that_of_one_call(tokens in prop::collection::vec(".{0,40}", 0..60)) {
            let mut whole = Vec::new();
            for token in &tokens {
                whole.extend_from_slice(&u32::try_from(token.len()).unwrap().to_le_bytes());
                whole.extend_from_slice(token.as_bytes());
            }
            let tokens: Vec<_> = tokens.iter().map(String::as_str).collect();
            let digest = digest(&tokens);
            prop_assert_eq!(digest.0, xxhash_rust::xxh3::xxh3_64(&whole));
            prop_assert_eq!(Digest::parse(&digest.to_string()), Some(digest));
        }
    }
}
