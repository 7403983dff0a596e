//! Events on the wire: JSON text frames whose `id` and `type` come first, so that a gateway reads a prefix
//! of some fifty bytes and forwards the rest verbatim. Clients read the whole frame.

use crate::Position;
use serde::Deserialize;
use std::{borrow::Cow, io::Write};

/// What an event is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// One token of the answer.
    Token,
    /// The end of an answer.
    Done,
    /// The end of an answer that failed.
    Error,
    /// A claim: what came before `prev` is all there is of earlier generations. Never sent to a client.
    Fence {
        /// The last position of the generation before.
        prev: Position,
    },
    /// The session was closed; nothing follows. Never sent to a client.
    Closed,
}

impl Kind {
    /// Ends its generation.
    #[must_use]
    pub const fn is_terminator(self) -> bool {
        matches!(self, Self::Done | Self::Error)
    }

    /// Meant for the client.
    #[must_use]
    pub const fn is_for_client(self) -> bool {
        matches!(self, Self::Token | Self::Done | Self::Error)
    }
}

/// The first two fields of an event's frame: all that a gateway needs to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefix {
    /// The event's place.
    pub position: Position,
    /// What it is.
    pub kind: Kind,
}

impl Prefix {
    /// Reads the prefix of a frame that our encoders wrote; `None` for anything else. Allocates nothing.
    #[must_use]
    pub fn parse(frame: &[u8]) -> Option<Self> {
        Some(Self::split(frame)?.0)
    }

    /// The prefix, and what follows the type.
    fn split(frame: &[u8]) -> Option<(Self, &[u8])> {
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
            b"fence" => Kind::Fence { prev: quoted_position(rest.strip_prefix(br#","prev":""#)?)?.0 },
            _ => return None,
        };
        Some((Self { position, kind }, rest))
    }
}

/// A position up to its closing quote, and what follows the quote.
fn quoted_position(text: &[u8]) -> Option<(Position, &[u8])> {
    let end = text.iter().take(42).position(|&b| b == b'"')?;
    Some((Position::from_ascii(&text[..end])?, &text[end + 1..]))
}

/// Writes one token's frame behind what `out` holds. Times are `CLOCK_MONOTONIC` microseconds.
pub fn encode_token(
    out: &mut Vec<u8>,
    position: Position,
    content: &str,
    query_id: &str,
    due_us: u64,
    sent_us: u64,
) {
    open(out, position, "token");
    close_answer(out, content, query_id, due_us, sent_us);
}

/// Writes the frame that ends an answer.
pub fn encode_done(out: &mut Vec<u8>, position: Position, query_id: &str, due_us: u64, sent_us: u64) {
    open(out, position, "done");
    close_answer(out, "", query_id, due_us, sent_us);
}

/// Writes the frame that ends an answer that failed.
pub fn encode_error(
    out: &mut Vec<u8>,
    position: Position,
    code: &str,
    message: &str,
    query_id: &str,
    due_us: u64,
    sent_us: u64,
) {
    open(out, position, "error");
    out.extend_from_slice(br#","code":"#);
    json_string(out, code);
    out.extend_from_slice(br#","message":"#);
    json_string(out, message);
    close_answer(out, "", query_id, due_us, sent_us);
}

/// Writes a claim's fence.
pub fn encode_fence(out: &mut Vec<u8>, generation: u64, prev: Position) {
    open(out, Position::new(generation, 0), "fence");
    text(out, format_args!(r#","prev":"{prev}"}}"#));
}

/// Writes the marker that a session was closed.
pub fn encode_closed(out: &mut Vec<u8>, position: Position) {
    open(out, position, "closed");
    out.push(b'}');
}

/// The gateway's word to a client that resumed: everything up to `to` was replayed, what follows is live.
#[must_use]
pub fn encode_resumed(to: Position) -> String {
    format!(r#"{{"type":"resumed","to":"{to}"}}"#)
}

/// The gateway's word that everything after `from`, up to and with `to`, cannot be had any more.
#[must_use]
pub fn encode_gap(from: Position, to: Position) -> String {
    format!(r#"{{"type":"gap","from":"{from}","to":"{to}"}}"#)
}

fn open(out: &mut Vec<u8>, position: Position, kind: &str) {
    text(out, format_args!(r#"{{"id":"{position}","type":"{kind}""#));
}

fn close_answer(out: &mut Vec<u8>, content: &str, query_id: &str, due_us: u64, sent_us: u64) {
    out.extend_from_slice(br#","content":"#);
    json_string(out, content);
    out.extend_from_slice(br#","query_id":"#);
    json_string(out, query_id);
    text(out, format_args!(r#","due_us":{due_us},"sent_us":{sent_us}}}"#));
}

fn text(out: &mut Vec<u8>, arguments: std::fmt::Arguments<'_>) {
    out.write_fmt(arguments).expect("a vector takes every write");
}

fn json_string(out: &mut Vec<u8>, string: &str) {
    serde_json::to_writer(out, string).expect("a string always encodes");
}

/// One event, as the client reads it. Fields that the old contract did not have are optional.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event<'a> {
    /// The event's place; `None` from servers of the old contract.
    pub position: Option<Position>,
    /// What it is.
    pub kind: Kind,
    /// The token's text.
    pub content: Cow<'a, str>,
    /// Which query it answers.
    pub query_id: Option<Cow<'a, str>>,
    /// When the schedule wanted it sent.
    pub due_us: Option<u64>,
    /// When it was handed to the bus.
    pub sent_us: Option<u64>,
    /// Of an error: its code.
    pub code: Option<Cow<'a, str>>,
    /// Of an error: its text.
    pub message: Option<Cow<'a, str>>,
}

impl<'a> Event<'a> {
    /// Reads a token or the end of an answer as our encoders write it, with nothing escaped: nearly every frame, at a tenth of
    /// what JSON in any order costs. `None` for anything else. Allocates nothing.
    fn encoded(frame: &'a str) -> Option<Self> {
        let (prefix, rest) = Prefix::split(frame.as_bytes())?;
        if !matches!(prefix.kind, Kind::Token | Kind::Done) {
            return None;
        }
        let rest = &frame[frame.len() - rest.len()..];
        let (content, rest) = plain(rest.strip_prefix(r#","content":""#)?)?;
        let (query_id, rest) = plain(rest.strip_prefix(r#","query_id":""#)?)?;
        let (due_us, rest) = number(rest.strip_prefix(r#","due_us":"#)?)?;
        let (sent_us, rest) = number(rest.strip_prefix(r#","sent_us":"#)?)?;
        (rest == "}").then_some(Self {
            position: Some(prefix.position),
            kind: prefix.kind,
            content: Cow::Borrowed(content),
            query_id: Some(Cow::Borrowed(query_id)),
            due_us: Some(due_us),
            sent_us: Some(sent_us),
            code: None,
            message: None,
        })
    }
}

/// A string up to its closing quote, and what follows the quote; `None` where a character is escaped or ought to be.
fn plain(text: &str) -> Option<(&str, &str)> {
    let end = text.bytes().position(|byte| matches!(byte, b'"' | b'\\' | ..=0x1f))?;
    text[end..].strip_prefix('"').map(|rest| (&text[..end], rest))
}

/// A number as JSON has it, and what follows it.
fn number(text: &str) -> Option<(u64, &str)> {
    let end = text.bytes().position(|byte| !byte.is_ascii_digit())?;
    let digits = &text[..end];
    if digits.len() > 1 && digits.starts_with('0') {
        return None;
    }
    Some((digits.parse().ok()?, &text[end..]))
}

/// One text frame that came down the socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame<'a> {
    /// An event of a query.
    Event(Event<'a>),
    /// The replay ended here.
    Resumed {
        /// The last position that was replayed.
        to: Position,
    },
    /// Events that cannot be had any more: after `from`, up to and with `to`.
    Gap {
        /// The last position before the gap.
        from: Position,
        /// The last position in it.
        to: Position,
    },
    /// Something else: a newer type, an answer to the up-channel.
    Other,
}

/// The frame is no JSON object, or lacks what its type promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the frame is no event: expected a JSON object with a `type`")]
pub struct MalformedFrame;

/// A string that is borrowed where nothing in it is escaped; a `Cow` inside an `Option` would always be owned.
#[derive(Default, Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

#[derive(Deserialize)]
struct Raw<'a> {
    #[serde(default, borrow)]
    id: Option<Text<'a>>,
    #[serde(default, borrow, rename = "type")]
    kind: Option<Text<'a>>,
    #[serde(default, borrow)]
    content: Option<Text<'a>>,
    #[serde(default, borrow)]
    query_id: Option<Text<'a>>,
    #[serde(default)]
    due_us: Option<u64>,
    #[serde(default)]
    sent_us: Option<u64>,
    #[serde(default, borrow)]
    code: Option<Text<'a>>,
    #[serde(default, borrow)]
    message: Option<Text<'a>>,
    #[serde(default)]
    prev: Option<Position>,
    #[serde(default)]
    from: Option<Position>,
    #[serde(default)]
    to: Option<Position>,
}

impl<'a> Frame<'a> {
    /// Reads a text frame, in whatever order its fields come.
    ///
    /// # Errors
    /// No JSON object, or a known type without the fields that it needs.
    pub fn parse(frame: &'a str) -> Result<Self, MalformedFrame> {
        match Event::encoded(frame) {
            Some(event) => Ok(Self::Event(event)),
            None => Self::any(frame),
        }
    }

    /// Any JSON object.
    fn any(frame: &'a str) -> Result<Self, MalformedFrame> {
        // serde reads a struct from an array as well; an event is an object.
        if !frame.trim_ascii_start().starts_with('{') {
            return Err(MalformedFrame);
        }
        let raw: Raw<'a> = serde_json::from_str(frame).map_err(|_| MalformedFrame)?;
        let kind = match raw.kind.as_ref().map(|kind| &*kind.0) {
            Some("token") => Kind::Token,
            Some("done") => Kind::Done,
            Some("error") => Kind::Error,
            Some("closed") => Kind::Closed,
            Some("fence") => Kind::Fence { prev: raw.prev.ok_or(MalformedFrame)? },
            Some("resumed") => return Ok(Self::Resumed { to: raw.to.ok_or(MalformedFrame)? }),
            Some("gap") => {
                return Ok(Self::Gap {
                    from: raw.from.ok_or(MalformedFrame)?,
                    to: raw.to.ok_or(MalformedFrame)?,
                });
            }
            _ => return Ok(Self::Other),
        };
        let position = match raw.id {
            Some(id) => Some(id.0.parse().map_err(|_| MalformedFrame)?),
            None => None,
        };
        Ok(Self::Event(Event {
            position,
            kind,
            content: raw.content.unwrap_or_default().0,
            query_id: raw.query_id.map(|text| text.0),
            due_us: raw.due_us,
            sent_us: raw.sent_us,
            code: raw.code.map(|text| text.0),
            message: raw.message.map(|text| text.0),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parsed(frame: &[u8]) -> Event<'_> {
        match Frame::parse(std::str::from_utf8(frame).unwrap()).unwrap() {
            Frame::Event(event) => event,
            other => panic!("{other:?} is no event"),
        }
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_read_back(
            generation: u64, seq: u64, content in ".{0,40}", query_id in ".{0,40}", due_us: u64, sent_us: u64,
        ) {
            let position = Position::new(generation, seq);
            let mut frame = Vec::new();
            encode_token(&mut frame, position, &content, &query_id, due_us, sent_us);
            prop_assert_eq!(Prefix::parse(&frame), Some(Prefix { position, kind: Kind::Token }));
            let event = parsed(&frame);
            prop_assert_eq!(event.position, Some(position));
            prop_assert_eq!(event.content, content);
            prop_assert_eq!(event.query_id.as_deref(), Some(query_id.as_str()));
            prop_assert_eq!((event.due_us, event.sent_us), (Some(due_us), Some(sent_us)));
        }

        /// What is read the short way is what JSON says; damage of any kind is left to JSON.
        #[test]
        fn the_short_way_reads_what_json_says(
            generation: u64, seq: u64, content in "\\PC{0,20}", done: bool, due_us: u64, sent_us: u64,
            damage in proptest::option::of((any::<prop::sample::Index>(), any::<char>())),
        ) {
            let mut frame = Vec::new();
            let position = Position::new(generation, seq);
            if done {
                encode_done(&mut frame, position, &content, due_us, sent_us);
            } else {
                encode_token(&mut frame, position, &content, "q", due_us, sent_us);
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

        #[test]
        fn nothing_panics_on_noise(frame in proptest::collection::vec(any::<u8>(), 0..200), text in ".{0,200}") {
            let _ = Prefix::parse(&frame);
            let _ = Frame::parse(&text);
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
        encode_fence(&mut frame, 7, at);
        assert_eq!(
            Prefix::parse(&frame),
            Some(Prefix { position: Position::new(7, 0), kind: Kind::Fence { prev: at } })
        );
        assert_eq!(parsed(&frame).kind, Kind::Fence { prev: at });
        frame.clear();
        encode_closed(&mut frame, at);
        assert_eq!(Prefix::parse(&frame), Some(Prefix { position: at, kind: Kind::Closed }));
    }

    #[test]
    fn frames_of_the_old_contract_and_of_the_gateway() {
        let Ok(Frame::Event(old)) = Frame::parse(r#"{"type":"token","content":"hé\n"}"#) else { panic!() };
        assert_eq!((old.position, old.kind, &*old.content), (None, Kind::Token, "hé\n"));
        let (from, to) = (Position::new(1, 2), Position::new(1, 4));
        assert_eq!(Frame::parse(&encode_gap(from, to)), Ok(Frame::Gap { from, to }));
        assert_eq!(Frame::parse(&encode_resumed(to)), Ok(Frame::Resumed { to }));
        assert_eq!(Frame::parse(r#"{"error":"not JSON"}"#), Ok(Frame::Other));
        assert_eq!(Frame::parse("[]"), Err(MalformedFrame));
        assert_eq!(Frame::parse(r#"{"type":"token","id":"x"}"#), Err(MalformedFrame));
        assert_eq!(Frame::parse(r#"{"type":"gap"}"#), Err(MalformedFrame));
    }
}
