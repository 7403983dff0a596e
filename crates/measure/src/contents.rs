//! Verifies the contents of a response: hashes its tokens in position order and compares with the digest from the server.
//! Tokens that arrive out of order wait in bounded memory. If that memory is full, the contents stay unverified.

use protocol::{Digest, DigestField, Digester};
use std::collections::BTreeMap;

/// Largest number of bytes of tokens that wait for earlier positions.
const MAX_AHEAD: usize = 16 << 10;
/// Memory of a waiting token in addition to its text, in bytes.
const OVERHEAD: usize = 64;

/// Result of the verification.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ContentStatus {
    /// Not compared, because there was no digest or tokens are missing.
    #[default]
    Unverified,
    /// The received contents are the ones that were sent.
    Verified,
    /// The received contents differ from the ones that were sent.
    Corrupt,
}

impl ContentStatus {
    /// Returns the name in every output.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unverified => "unverified",
            Self::Verified => "verified",
            Self::Corrupt => "corrupt",
        }
    }
}

/// Verifies the contents of one query. Releases the hasher as soon as the query is complete.
#[derive(Debug)]
pub struct ContentVerifier {
    digester: Digester,
    /// Sequence of the next token to hash.
    next: u64,
    ahead: Option<Box<Ahead>>,
    /// Sequence of the terminator, and its digest.
    end: Option<(u64, Option<Digest>)>,
    status: ContentStatus,
    is_finished: bool,
}

#[derive(Debug, Default)]
struct Ahead {
    tokens: BTreeMap<u64, Box<str>>,
    bytes: usize,
}

impl Default for ContentVerifier {
    fn default() -> Self {
        let status = ContentStatus::Unverified;
        Self { digester: Digester::default(), next: 1, ahead: None, end: None, status, is_finished: false }
    }
}

impl ContentVerifier {
    /// Adds the token at sequence `seq`, which arrived for the first time.
    pub fn token(&mut self, seq: u64, content: &str) {
        if self.is_finished || seq < self.next {
            return;
        }
        if seq > self.next {
            let ahead = self.ahead.get_or_insert_default();
            ahead.bytes += content.len() + OVERHEAD;
            if ahead.bytes > MAX_AHEAD {
                self.give_up();
            } else {
                ahead.tokens.insert(seq, content.into());
            }
            return;
        }
        self.digester.token(content);
        self.next += 1;
        while let Some(token) = self.ahead.as_mut().and_then(|ahead| ahead.tokens.remove(&self.next)) {
            self.digester.token(&token);
            self.next += 1;
        }
        self.compare();
    }

    /// Adds the terminator at sequence `seq`. A damaged digest makes the contents corrupt, independent of earlier tokens.
    pub fn ended(&mut self, seq: u64, attested: DigestField) {
        let digest = match attested {
            DigestField::Valid(digest) => Some(digest),
            DigestField::Absent => None,
            DigestField::Damaged if self.end.is_none() => {
                self.end = Some((seq, None));
                self.status = ContentStatus::Corrupt;
                return self.give_up();
            }
            DigestField::Damaged => return,
        };
        self.end.get_or_insert((seq, digest));
        self.compare();
    }

    fn compare(&mut self) {
        let Some((_, digest)) = self.end.filter(|(seq, _)| *seq == self.next && !self.is_finished) else {
            return;
        };
        self.status = match digest {
            None => ContentStatus::Unverified,
            Some(said) if said == self.digester.digest() => ContentStatus::Verified,
            Some(_) => ContentStatus::Corrupt,
        };
        self.give_up();
    }

    /// Takes the result of a comparison that was made elsewhere: the server repeated the text of a part. One part that differs decides.
    pub fn settle(&mut self, is_equal: bool) {
        if self.status != ContentStatus::Corrupt {
            self.status = if is_equal { ContentStatus::Verified } else { ContentStatus::Corrupt };
        }
        self.give_up();
    }

    /// Stops the verification and releases the memory.
    pub fn give_up(&mut self) {
        self.is_finished = true;
        self.ahead = None;
        self.digester = Digester::default();
    }

    /// Returns the result so far.
    #[must_use]
    pub const fn status(&self) -> ContentStatus {
        self.status
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn digest<'a>(tokens: impl IntoIterator<Item = &'a str>) -> Digest {
        let mut digester = Digester::default();
        tokens.into_iter().for_each(|token| digester.token(token));
        digester.digest()
    }

    #[test]
    fn without_a_digest_or_with_a_hole_nothing_is_verified() {
        let mut contents = ContentVerifier::default();
        contents.token(1, "a");
        contents.ended(2, DigestField::Absent);
        assert_eq!(contents.status(), ContentStatus::Unverified);
        let mut contents = ContentVerifier::default();
        contents.token(2, "b");
        contents.ended(3, DigestField::Valid(digest(["a", "b"])));
        assert_eq!(contents.status(), ContentStatus::Unverified);
        contents.token(1, "a");
        assert_eq!(contents.status(), ContentStatus::Verified, "it came late");
    }

    #[test]
    fn a_damaged_digest_is_corrupt_whatever_came_before_it() {
        for tokens in [&[1, 2][..], &[2], &[]] {
            let mut contents = ContentVerifier::default();
            tokens.iter().for_each(|&seq| contents.token(seq, "a"));
            contents.ended(3, DigestField::Damaged);
            assert_eq!(contents.status(), ContentStatus::Corrupt, "{tokens:?}");
            contents.ended(3, DigestField::Valid(digest(["a", "a"])));
            assert_eq!(contents.status(), ContentStatus::Corrupt, "a second terminator mends nothing");
        }
    }

    #[test]
    fn what_waits_is_bounded() {
        let mut contents = ContentVerifier::default();
        let long = "x".repeat(1_000);
        (2..100).for_each(|seq| contents.token(seq, &long));
        assert!(contents.ahead.is_none());
        contents.token(1, "a");
        contents.ended(100, DigestField::Valid(digest(["a"])));
        assert_eq!(contents.status(), ContentStatus::Unverified);
    }

    proptest! {
        /// In any order of arrival, the sent tokens are verified, and a token that differs is not.
        #[test]
        fn the_order_of_arrival_does_not_matter(
            tokens in prop::collection::vec(".{0,8}", 1..30), order in any::<u64>(), change in prop::option::of(0usize..30),
        ) {
            let sent = digest(tokens.iter().map(String::as_str));
            let mut arrivals: Vec<u64> = (0..=tokens.len() as u64).collect();
            arrivals.sort_by_key(|at| (at + 1).wrapping_mul(order | 1).rotate_left(17));
            let mut contents = ContentVerifier::default();
            for at in arrivals {
                match tokens.get(at as usize) {
                    Some(token) if change == Some(at as usize) => contents.token(at + 1, &format!("{token}!")),
                    Some(token) => contents.token(at + 1, token),
                    None => contents.ended(at + 1, DigestField::Valid(sent)),
                }
            }
            let changed = change.is_some_and(|change| change < tokens.len());
            prop_assert_eq!(contents.status(), if changed { ContentStatus::Corrupt } else { ContentStatus::Verified });
        }
    }
}
