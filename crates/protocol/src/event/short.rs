//! Reads events quickly that have the form of this crate's encoders. `json` reads all others.

use super::{Event, GatewayStamps, Kind, Prefix};
use crate::DigestField;
use std::borrow::Cow;

impl<'a> Event<'a> {
    /// Reads a `token` or `done` event in the form of this crate's encoders, without escaped characters. Returns `None` for any other
    /// form. Nearly every frame has this form, and reading it costs a tenth of reading any JSON. Allocates nothing.
    pub(super) fn encoded(frame: &'a str) -> Option<Self> {
        let (prefix, rest) = Prefix::split(frame.as_bytes())?;
        if !matches!(prefix.kind, Kind::Token | Kind::Done) {
            return None;
        }
        let rest = &frame[frame.len() - rest.len()..];
        let (content, rest) = plain(rest.strip_prefix(r#","content":""#)?)?;
        let (digest, rest) = match rest.strip_prefix(r#","digest":""#) {
            Some(rest) => {
                let (digits, rest) = plain(rest)?;
                (DigestField::parse(digits), rest)
            }
            None => (DigestField::Absent, rest),
        };
        let (query_id, rest) = plain(rest.strip_prefix(r#","query_id":""#)?)?;
        let (due_us, rest) = number(rest.strip_prefix(r#","due_us":"#)?)?;
        let (sent_us, rest) = number(rest.strip_prefix(r#","sent_us":"#)?)?;
        let (stamps, rest) = if rest == "}" { (None, rest) } else { stamps(rest)? };
        (rest == "}").then_some(Self {
            position: Some(prefix.position),
            kind: prefix.kind,
            content: Cow::Borrowed(content),
            query_id: Some(Cow::Borrowed(query_id)),
            due_us: Some(due_us),
            sent_us: Some(sent_us),
            code: None,
            message: None,
            digest,
            stamps,
        })
    }
}

/// Reads the times of the gateway. Returns them and the text behind them.
fn stamps(text: &str) -> Option<(Option<GatewayStamps>, &str)> {
    let (received_us, rest) = number(text.strip_prefix(r#","recv_us":"#)?)?;
    let (written_us, rest) = number(rest.strip_prefix(r#","write_us":"#)?)?;
    Some((Some(GatewayStamps { received_us, written_us }), rest))
}

/// Reads a string up to its closing quote. Returns it and the text behind the quote, or `None` if a character is escaped or a bare
/// control character.
fn plain(text: &str) -> Option<(&str, &str)> {
    let end = text.bytes().position(|byte| matches!(byte, b'"' | b'\\' | ..=0x1f))?;
    text[end..].strip_prefix('"').map(|rest| (&text[..end], rest))
}

/// Reads a whole number of JSON, which has no leading zeros. Returns it and the text behind it.
fn number(text: &str) -> Option<(u64, &str)> {
    let end = text.bytes().position(|byte| !byte.is_ascii_digit())?;
    let digits = &text[..end];
    if digits.len() > 1 && digits.starts_with('0') {
        return None;
    }
    Some((digits.parse().ok()?, &text[end..]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Position,
        event::{Frame, StampedToken, encode_done, encode_token, encode_verified_done},
    };
    use proptest::prelude::*;

    proptest! {
        /// The short way reads the same event as JSON does, and leaves damaged frames to JSON.
        #[test]
        fn the_short_way_reads_what_json_says(
            generation: u64, seq: u64, content in "\\PC{0,20}", done: bool, due_us: u64, sent_us: u64,
            stamps: Option<(u64, u64)>,
            damage in proptest::option::of((any::<prop::sample::Index>(), any::<char>())),
        ) {
            let mut frame = Vec::new();
            let position = Position::new(generation, seq);
            if done && seq % 2 == 0 {
                let digest = crate::Digester::default().digest();
                encode_verified_done(&mut frame, position, digest, &content, due_us, sent_us);
            } else if done {
                encode_done(&mut frame, position, &content, due_us, sent_us);
            } else {
                encode_token(&mut frame, position, &content, "q", due_us, sent_us);
            }
            if let Some((received_us, written_us)) = stamps {
                frame = StampedToken::new(&frame, GatewayStamps { received_us, written_us }).unwrap().into_frame();
            }
            let mut text: Vec<char> = String::from_utf8(frame).unwrap().chars().collect();
            let whole = damage.is_none();
            if let Some((index, char)) = damage {
                let index = index.index(text.len());
                text[index] = char;
            }
            let text: String = text.into_iter().collect();
            let escaped = text.contains('\\');
            match Event::encoded(&text) {
                Some(event) => prop_assert_eq!(Ok(Frame::Event(event)), Frame::any(&text)),
                None => prop_assert!(!whole || escaped),
            }
        }
    }
}
