//! A position names one event of a session: its generation, which numbers the queries, and its sequence number inside it.
//! It is also the event's entry id in the Redis stream, so its text form is `<gen>-<seq>`.

use std::{fmt, str::FromStr};

/// The position of one event in a session. Positions have the order of the log's entries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// The generation: one per query, larger than all earlier ones of the session.
    pub generation: u64,
    /// The sequence number: 0 for the generation's fence, 1 for its first event, the highest for its terminator.
    pub seq: u64,
}

impl Position {
    /// The position before every event, which a client names that has nothing.
    pub const ZERO: Self = Self::new(0, 0);

    /// Creates the position `<generation>-<seq>`.
    #[must_use]
    pub const fn new(generation: u64, seq: u64) -> Self {
        Self { generation, seq }
    }

    /// Returns the next position of the same generation.
    #[must_use]
    pub const fn next(self) -> Self {
        Self::new(self.generation, self.seq.saturating_add(1))
    }

    /// Returns the position before this one in the same generation, and a fence's position itself.
    #[must_use]
    pub const fn previous(self) -> Self {
        Self::new(self.generation, self.seq.saturating_sub(1))
    }

    /// Reads a position from the bytes of its text form. Returns `None` for any other text, and allocates nothing.
    #[must_use]
    pub fn from_ascii(text: &[u8]) -> Option<Self> {
        let dash = text.iter().position(|&b| b == b'-')?;
        Some(Self::new(decimal(&text[..dash])?, decimal(&text[dash + 1..])?))
    }
}

/// Reads a `u64` in the one form that `Display` writes, without sign or leading zeros.
fn decimal(digits: &[u8]) -> Option<u64> {
    let canonical = !matches!(digits, [] | [b'0', _, ..]);
    if !canonical {
        return None;
    }
    digits.iter().try_fold(0u64, |value, &digit| {
        let digit = digit.checked_sub(b'0').filter(|&d| d <= 9)?;
        value.checked_mul(10)?.checked_add(u64::from(digit))
    })
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.generation, self.seq)
    }
}

/// The text is not a position.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a position: expected `<generation>-<sequence>`, or `0` for \"I have nothing\"")]
pub struct ParsePositionError(String);

impl FromStr for Position {
    type Err = ParsePositionError;

    /// Reads `<gen>-<seq>`; a bare `0` means [`Position::ZERO`].
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "0" {
            return Ok(Self::ZERO);
        }
        Self::from_ascii(text.as_bytes()).ok_or_else(|| ParsePositionError(text.chars().take(64).collect()))
    }
}

impl serde::Serialize for Position {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Position {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn rejects_text_that_is_not_a_position() {
        for text in [
            "",
            "-",
            "1",
            "1-",
            "-1",
            "1-2-3",
            "01-1",
            "1-01",
            "+1-1",
            "a-b",
            "1 -1",
            "18446744073709551616-0",
            "00",
        ] {
            assert!(text.parse::<Position>().is_err(), "{text:?} was read as a position");
        }
    }

    #[test]
    fn a_bare_zero_is_the_position_before_every_event() {
        assert_eq!("0".parse(), Ok(Position::ZERO));
        assert_eq!("0-0".parse(), Ok(Position::ZERO));
    }

    proptest! {
        #[test]
        fn text_form_round_trips(generation: u64, seq: u64) {
            let position = Position::new(generation, seq);
            prop_assert_eq!(position.to_string().parse(), Ok(position));
        }

        #[test]
        fn parsing_never_panics(text in ".{0,80}") {
            let _ = text.parse::<Position>();
        }
    }
}
