//! The first two fields of an event's frame, position and type, which are all that a gateway reads.

use super::Kind;
use crate::Position;

/// The first two fields of an event's frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefix {
    /// The event's position.
    pub position: Position,
    /// The event's type.
    pub kind: Kind,
}

impl Prefix {
    /// Reads the prefix of a frame in the form of this crate's encoders. Returns `None` for any other form, and allocates nothing.
    #[must_use]
    pub fn parse(frame: &[u8]) -> Option<Self> {
        Some(Self::split(frame)?.0)
    }

    /// Returns the prefix and the bytes behind the type.
    pub(super) fn split(frame: &[u8]) -> Option<(Self, &[u8])> {
        let rest = frame.strip_prefix(br#"{"id":""#)?;
        let (position, rest) = quoted_position(rest)?;
        let rest = rest.strip_prefix(br#","type":""#)?;
        let end = rest.iter().position(|&b| b == b'"')?;
        let (kind, rest) = (&rest[..end], &rest[end + 1..]);
        let kind = match kind {
            b"token" => Kind::Token,
            b"done" => Kind::Done,
            b"error" => Kind::Error,
            b"closed" => Kind::Closed,
            b"fence" => match rest.strip_prefix(br#","prev":""#) {
                Some(prev) => Kind::Fence { prev: Some(quoted_position(prev)?.0) },
                None => rest.starts_with(br#","prev":null"#).then_some(Kind::Fence { prev: None })?,
            },
            b"gap" => Kind::Gap { from: quoted_position(rest.strip_prefix(br#","from":""#)?)?.0 },
            _ => return None,
        };
        Some((Self { position, kind }, rest))
    }
}

/// Reads a position up to its closing quote. Returns it and the bytes behind the quote.
fn quoted_position(text: &[u8]) -> Option<(Position, &[u8])> {
    let end = text.iter().take(42).position(|&b| b == b'"')?;
    Some((Position::from_ascii(&text[..end])?, &text[end + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{
        encode_closed, encode_done, encode_error, encode_fence, encode_gap_entry, tests::parsed,
    };
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn nothing_panics_on_noise(frame in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Prefix::parse(&frame);
        }
    }

    #[test]
    fn every_kind_has_a_prefix() {
        let at = Position::new(1_700_000_000_000, 19);
        let mut frame = Vec::new();
        encode_done(&mut frame, at, "q", 1, 2);
        assert_eq!(Prefix::parse(&frame), Some(Prefix { position: at, kind: Kind::Done }));
        assert!(parsed(&frame).content.is_empty());
        frame.clear();
        encode_error(&mut frame, at, "closed", "the \"session\" ended", "q", 1, 2);
        assert_eq!(Prefix::parse(&frame), Some(Prefix { position: at, kind: Kind::Error }));
        assert_eq!(parsed(&frame).message.as_deref(), Some("the \"session\" ended"));
        frame.clear();
        for prev in [Some(at), None] {
            encode_fence(&mut frame, 7, prev);
            assert_eq!(
                Prefix::parse(&frame),
                Some(Prefix { position: Position::new(7, 0), kind: Kind::Fence { prev } })
            );
            assert_eq!(parsed(&frame).kind, Kind::Fence { prev });
            frame.clear();
        }
        assert_eq!(Prefix::parse(br#"{"id":"7-0","type":"fence","prev":7}"#), None);
        encode_gap_entry(&mut frame, Position::new(7, 2), at);
        assert_eq!(
            Prefix::parse(&frame),
            Some(Prefix { position: at, kind: Kind::Gap { from: Position::new(7, 2) } })
        );
        frame.clear();
        encode_closed(&mut frame, at);
        assert_eq!(Prefix::parse(&frame), Some(Prefix { position: at, kind: Kind::Closed }));
    }
}
