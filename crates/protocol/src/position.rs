//! A position names one event of a session: the generation (one query) and the sequence number inside it.
//! It is also the entry's id in the session's log, so its text form is the log's own, `<gen>-<seq>`.

use std::{fmt, str::FromStr};

/// The place of one event in a session. Orders as the log orders.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// The generation: one per query, growing over the life of a session.
    pub generation: u64,
    /// 0 is the generation's fence, 1 its first event; the terminator has the highest.
    pub seq: u64,
}

impl Position {
    /// Before everything: "I have nothing".
    pub const ZERO: Self = Self::new(0, 0);

    /// `<generation>-<seq>`.
    #[must_use]
    pub const fn new(generation: u64, seq: u64) -> Self {
        Self { generation, seq }
    }

    /// The position right after this one in the same generation.
    #[must_use]
    pub const fn next(self) -> Self {
        Self::new(self.generation, self.seq.saturating_add(1))
    }

    /// The position right before this one in the same generation; a fence has none of its own and stays.
    #[must_use]
    pub const fn previous(self) -> Self {
        Self::new(self.generation, self.seq.saturating_sub(1))
    }

    /// Reads a position from its text form in raw bytes, without allocating.
    #[must_use]
    pub fn from_ascii(text: &[u8]) -> Option<Self> {
        let dash = text.iter().position(|&b| b == b'-')?;
        Some(Self::new(decimal(&text[..dash])?, decimal(&text[dash + 1..])?))
    }
}

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

/// The text is no position.
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
    fn refuses_what_is_no_position() {
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
            assert!(text.parse::<Position>().is_err(), "{text:?} was taken for a position");
        }
    }

    #[test]
    fn a_bare_zero_means_nothing_yet() {
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
