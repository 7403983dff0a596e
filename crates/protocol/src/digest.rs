//! The digest of an answer's contents: what the server sent, and what the client received.
//! XXH3-64 with seed 0 over each token in position order: its UTF-8 length as a little-endian u32, then its bytes.

use std::fmt;
use xxhash_rust::xxh3::Xxh3Default;

/// The digest of an answer, 16 hexadecimal digits on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Digest(u64);

impl Digest {
    /// How many digits it has on the wire.
    pub const DIGITS: usize = 16;

    /// Reads the digits; `None` for anything else, which is not a digest of this kind.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let hexadecimal = text.len() == Self::DIGITS && text.bytes().all(|digit| digit.is_ascii_hexdigit());
        hexadecimal.then(|| u64::from_str_radix(text, 16).ok().map(Self)).flatten()
    }
}

/// What a terminator says of the tokens before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Attested {
    /// Nothing: there is no field `digest`, or one of another form, which is a foreign server's own.
    #[default]
    Nothing,
    /// Their digest.
    Digest(Digest),
    /// A digest that was damaged: as long as one, and not hexadecimal.
    Damaged,
}

impl Attested {
    /// Reads the text of a field `digest`. Sixteen characters are meant as a digest; any other number of them is not.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        match Digest::parse(text) {
            Some(digest) => Self::Digest(digest),
            None if text.chars().take(Digest::DIGITS + 1).count() == Digest::DIGITS => Self::Damaged,
            None => Self::Nothing,
        }
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// Computes a digest token by token. The hasher's 400 bytes are allocated with the first token.
#[derive(Clone, Default)]
pub struct Digester(Option<Box<Xxh3Default>>);

impl Digester {
    /// Takes the next token.
    pub fn token(&mut self, content: &str) {
        let hasher = self.0.get_or_insert_default();
        let length = u32::try_from(content.len()).unwrap_or(u32::MAX);
        hasher.update(&length.to_le_bytes());
        hasher.update(content.as_bytes());
    }

    /// The digest of the tokens so far.
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

    /// Computed with another implementation (libxxhash 0.8.1); a change here breaks other people's clients.
    #[test]
    fn the_contract_keeps_its_values() {
        assert_eq!(digest(&[]).to_string(), "2d06800538d394c2");
        assert_eq!(digest(&["a"]).to_string(), "eeca542ebdc74773");
        assert_eq!(digest(&["Hello ", "wörld "]).to_string(), "7f9508523550c6bc");
        let long: Vec<_> = std::iter::repeat_n("token ", 100).collect();
        assert_eq!(digest(&long).to_string(), "c2abdfe623893e4f");
    }

    #[test]
    fn where_a_token_ends_matters() {
        assert_ne!(digest(&["ab", "c"]), digest(&["a", "bc"]));
        assert_ne!(digest(&["a", ""]), digest(&["a"]));
    }

    #[test]
    fn what_is_not_a_digest_is_none() {
        for text in ["", "0", "2d06800538d394c", "2d06800538d394c2f", "2d06800538d394g2", "+d06800538d394c2"]
        {
            assert_eq!(Digest::parse(text), None, "{text}");
        }
        assert_eq!(Digest::parse("2D06800538D394C2"), Some(digest(&[])));
    }

    #[test]
    fn sixteen_characters_that_are_no_digest_are_a_damaged_one() {
        assert_eq!(Attested::parse("2d06800538d394c2"), Attested::Digest(digest(&[])));
        for damaged in ["2d06800538d394g2", "2d06800538d394 2", "2d06800538d394é2", "+d06800538d394c2"] {
            assert_eq!(Attested::parse(damaged), Attested::Damaged, "{damaged}");
        }
        for foreign in ["", "2d06800538d394c", "2d06800538d394c2f", "sha256:2d06800538d394c2", "éééééééé"]
        {
            assert_eq!(Attested::parse(foreign), Attested::Nothing, "{foreign}");
        }
    }

    proptest! {
        #[test]
        fn streaming_agrees_with_one_call(tokens in prop::collection::vec(".{0,40}", 0..60)) {
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
