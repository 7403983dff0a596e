//! Events on the wire: JSON text frames whose `id` and `type` come first, so that a gateway reads a prefix
//! of some fifty bytes and forwards the rest verbatim. Clients read the whole frame.

use crate::{Digest, Position};
use serde::{
    Deserialize, Deserializer,
    de::{self, IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::Value;
use std::{borrow::Cow, fmt, io::Write};

/// Characters that are kept of an error event's code or message.
const LONGEST_TEXT: usize = 500;

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
        /// The last position of the generation before; `None` where the log was not whole yet when the claim was made.
        prev: Option<Position>,
    },
    /// A log entry that stands for lost events: those after `from`, up to and with its own position. A client gets the
    /// gateway's frame instead, see [`encode_gap`].
    Gap {
        /// The last position before the lost ones.
        from: Position,
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

/// Writes the frame that ends an answer whose contents nobody can verify.
pub fn encode_done(out: &mut Vec<u8>, position: Position, query_id: &str, due_us: u64, sent_us: u64) {
    open(out, position, "done");
    close_answer(out, "", query_id, due_us, sent_us);
}

/// Writes the frame that ends an answer with the digest of the tokens that were sent.
pub fn encode_verified_done(
    out: &mut Vec<u8>,
    position: Position,
    digest: Digest,
    query_id: &str,
    due_us: u64,
    sent_us: u64,
) {
    open(out, position, "done");
    text(out, format_args!(r#","content":"","digest":"{digest}""#));
    close_event(out, query_id, due_us, sent_us);
}

/// Returns the frame with the position `to` in place of `from`, which it has.
#[must_use]
pub fn with_position(frame: &[u8], from: Position, to: Position) -> Vec<u8> {
    let old = format!(r#"{{"id":"{from}""#);
    let rest = frame.strip_prefix(old.as_bytes()).unwrap_or(frame);
    [format!(r#"{{"id":"{to}""#).as_bytes(), rest].concat()
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
    open_error(out, position, code, message);
    close_answer(out, "", query_id, due_us, sent_us);
}

/// Writes the frame by which an answer's own server ends it early, with the digest of the tokens that were sent.
#[allow(clippy::too_many_arguments, reason = "a frame has these fields")]
pub fn encode_verified_error(
    out: &mut Vec<u8>,
    position: Position,
    code: &str,
    message: &str,
    digest: Digest,
    query_id: &str,
    due_us: u64,
    sent_us: u64,
) {
    open_error(out, position, code, message);
    text(out, format_args!(r#","content":"","digest":"{digest}""#));
    close_event(out, query_id, due_us, sent_us);
}

fn open_error(out: &mut Vec<u8>, position: Position, code: &str, message: &str) {
    open(out, position, "error");
    out.extend_from_slice(br#","code":"#);
    json_string(out, code);
    out.extend_from_slice(br#","message":"#);
    json_string(out, message);
}

/// Writes a claim's fence. `prev` is the last position before it, `None` where that is not known.
pub fn encode_fence(out: &mut Vec<u8>, generation: u64, prev: Option<Position>) {
    open(out, Position::new(generation, 0), "fence");
    match prev {
        Some(prev) => text(out, format_args!(r#","prev":"{prev}"}}"#)),
        None => out.extend_from_slice(br#","prev":null}"#),
    }
}

/// Writes the log entry that stands for the lost events after `from`, up to and with `to`.
pub fn encode_gap_entry(out: &mut Vec<u8>, from: Position, to: Position) {
    open(out, to, "gap");
    text(out, format_args!(r#","from":"{from}"}}"#));
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
    close_event(out, query_id, due_us, sent_us);
}

fn close_event(out: &mut Vec<u8>, query_id: &str, due_us: u64, sent_us: u64) {
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
    /// Of the end of an answer: the digest of the tokens that were sent.
    pub digest: Option<Digest>,
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
        let (digest, rest) = match rest.strip_prefix(r#","digest":""#) {
            Some(rest) => {
                let (digits, rest) = plain(rest)?;
                (Digest::parse(digits), rest)
            }
            None => (None, rest),
        };
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
            digest,
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
    /// A type that is not known here: of a newer server, or of somebody else's.
    Other,
}

/// The frame is not a JSON object with a `type`, or lacks what its type needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the frame is no event: expected a JSON object with a `type`")]
pub struct MalformedFrame;

impl<'a> Frame<'a> {
    /// Reads a text frame, in whatever order its fields come. A field that the type does not need may hold anything; an `id`
    /// that is not a position leaves the event without one; a surrogate without its pair becomes U+FFFD.
    ///
    /// # Errors
    /// The frame is not a JSON object with a `type`, or a known type lacks what it needs.
    pub fn parse(frame: &'a str) -> Result<Self, MalformedFrame> {
        match Event::encoded(frame) {
            Some(event) => Ok(Self::Event(event)),
            None => Self::any(frame),
        }
    }

    /// Any JSON object.
    fn any(frame: &'a str) -> Result<Self, MalformedFrame> {
        match serde_json::from_str::<Raw<'a>>(frame) {
            Ok(raw) => raw.frame().map(|read| read.explained(frame)),
            Err(_) => {
                let mended = without_lone_surrogates(frame).ok_or(MalformedFrame)?;
                let raw: Raw<'_> = serde_json::from_str(&mended).map_err(|_| MalformedFrame)?;
                raw.frame().map(|read| read.explained(&mended).into_owned())
            }
        }
    }

    /// An error event with what `frame` says of it in other fields or as other JSON than our encoders write.
    fn explained(mut self, frame: &str) -> Self {
        if let Self::Event(event) = &mut self
            && event.kind == Kind::Error
        {
            explain(event, frame);
        }
        self
    }

    fn into_owned(self) -> Frame<'static> {
        let owned = |text: Cow<'_, str>| Cow::Owned(text.into_owned());
        match self {
            Self::Event(event) => Frame::Event(Event {
                position: event.position,
                kind: event.kind,
                content: owned(event.content),
                query_id: event.query_id.map(owned),
                due_us: event.due_us,
                sent_us: event.sent_us,
                code: event.code.map(owned),
                message: event.message.map(owned),
                digest: event.digest,
            }),
            Self::Resumed { to } => Frame::Resumed { to },
            Self::Gap { from, to } => Frame::Gap { from, to },
            Self::Other => Frame::Other,
        }
    }
}

/// Reads code and message of an error event from wherever servers put them. Error events are rare: each may be read twice.
fn explain(event: &mut Event<'_>, frame: &str) {
    let whole = serde_json::from_str::<Value>(frame).or_else(|error| {
        without_lone_surrogates(frame).map_or(Err(error), |mended| serde_json::from_str(&mended))
    });
    // Nested too deeply, or with a number that is too large: the event stays as it was read.
    let Ok(whole) = whole else { return };
    let field = |name| whole.get(name).and_then(shown);
    let code = || whole.get("error")?.get("code").and_then(shown);
    if let Some(code) = field("code").or_else(code) {
        event.code = Some(Cow::Owned(code));
    }
    if let Some(message) = ["message", "error", "detail"].into_iter().find_map(field) {
        event.message = Some(Cow::Owned(message));
    }
}

/// Returns the text of a value, an object's `message`, or else the value's JSON, cut to a length that fits a line of output.
fn shown(value: &Value) -> Option<String> {
    let value = value.get("message").filter(|message| !message.is_null()).unwrap_or(value);
    let text = match value {
        Value::Null => return None,
        Value::String(text) => Cow::Borrowed(text.as_str()),
        other => Cow::Owned(other.to_string()),
    };
    Some(match text.char_indices().nth(LONGEST_TEXT) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.into_owned(),
    })
}

/// The fields of a frame that any type uses. A field that comes twice has its last value.
#[derive(Default)]
struct Raw<'a> {
    id: Loose<'a>,
    kind: Loose<'a>,
    content: Loose<'a>,
    query_id: Loose<'a>,
    due_us: Loose<'a>,
    sent_us: Loose<'a>,
    code: Loose<'a>,
    message: Loose<'a>,
    digest: Loose<'a>,
    prev: Loose<'a>,
    from: Loose<'a>,
    to: Loose<'a>,
}

impl<'a> Raw<'a> {
    fn frame(self) -> Result<Frame<'a>, MalformedFrame> {
        let needed = |position: &Loose<'_>| position.position().ok_or(MalformedFrame);
        let kind = match self.kind.text().as_deref() {
            Some("token") => Kind::Token,
            Some("done") => Kind::Done,
            Some("error") => Kind::Error,
            Some("closed") => Kind::Closed,
            Some("fence") => Kind::Fence {
                prev: if matches!(self.prev, Loose::Nothing) { None } else { Some(needed(&self.prev)?) },
            },
            Some("resumed") => return Ok(Frame::Resumed { to: needed(&self.to)? }),
            Some("gap") => return Ok(Frame::Gap { from: needed(&self.from)?, to: needed(&self.to)? }),
            Some(_) => return Ok(Frame::Other),
            None => return Err(MalformedFrame),
        };
        let content = match (kind, self.content) {
            (_, Loose::Text(content)) => content,
            (Kind::Token, Loose::Whole(_) | Loose::Number(_) | Loose::Other) => return Err(MalformedFrame),
            _ => Cow::Borrowed(""),
        };
        Ok(Frame::Event(Event {
            position: self.id.position(),
            kind,
            content,
            query_id: self.query_id.text(),
            due_us: self.due_us.micros(),
            sent_us: self.sent_us.micros(),
            code: self.code.shown(),
            message: self.message.shown(),
            digest: self.digest.text().and_then(|digits| Digest::parse(&digits)),
        }))
    }
}

impl<'de> Deserialize<'de> for Raw<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;
        impl<'de> Visitor<'de> for Fields {
            type Value = Raw<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Raw<'de>, A::Error> {
                let mut raw = Raw::default();
                while let Some(Key(key)) = map.next_key()? {
                    let field = match &*key {
                        "id" => &mut raw.id,
                        "type" => &mut raw.kind,
                        "content" => &mut raw.content,
                        "query_id" => &mut raw.query_id,
                        "due_us" => &mut raw.due_us,
                        "sent_us" => &mut raw.sent_us,
                        "code" => &mut raw.code,
                        "message" => &mut raw.message,
                        "digest" => &mut raw.digest,
                        "prev" => &mut raw.prev,
                        "from" => &mut raw.from,
                        "to" => &mut raw.to,
                        _ => {
                            map.next_value::<IgnoredAny>()?;
                            continue;
                        }
                    };
                    *field = map.next_value()?;
                }
                Ok(raw)
            }
        }
        deserializer.deserialize_map(Fields)
    }
}

/// A key, borrowed where nothing in it is escaped.
#[derive(Deserialize)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);

/// A value of any type, as far as a field can use it.
#[derive(Default)]
enum Loose<'a> {
    #[default]
    Nothing,
    Text(Cow<'a, str>),
    Whole(u64),
    Number(f64),
    /// A boolean, an array or an object.
    Other,
}

impl<'a> Loose<'a> {
    fn text(self) -> Option<Cow<'a, str>> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    /// What a person is shown of a field that ought to be a text.
    fn shown(self) -> Option<Cow<'a, str>> {
        match self {
            Self::Nothing => None,
            Self::Text(text) => Some(text),
            Self::Whole(number) => Some(Cow::Owned(number.to_string())),
            Self::Number(number) => Some(Cow::Owned(number.to_string())),
            Self::Other => Some(Cow::Borrowed("(not a text)")),
        }
    }

    fn position(&self) -> Option<Position> {
        match self {
            Self::Text(text) => text.parse().ok(),
            _ => None,
        }
    }

    /// Whole microseconds; what is not a time of this clock is none.
    fn micros(&self) -> Option<u64> {
        /// Beyond this an `f64` skips whole numbers; as microseconds these are 285 years.
        const MOST: f64 = 9_007_199_254_740_992.0;
        match *self {
            Self::Whole(number) => Some(number),
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "in range")]
            Self::Number(number) if (0.0..=MOST).contains(&number) => Some(number as u64),
            _ => None,
        }
    }
}

impl<'de> Deserialize<'de> for Loose<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        #[allow(clippy::cast_precision_loss)]
        impl<'de> Visitor<'de> for Any {
            type Value = Loose<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("any value")
            }

            fn visit_borrowed_str<E: de::Error>(self, text: &'de str) -> Result<Loose<'de>, E> {
                Ok(Loose::Text(Cow::Borrowed(text)))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Loose<'de>, E> {
                Ok(Loose::Text(Cow::Owned(text.to_owned())))
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Loose<'de>, E> {
                Ok(Loose::Whole(number))
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Loose<'de>, E> {
                Ok(Loose::Number(number as f64))
            }

            fn visit_f64<E: de::Error>(self, number: f64) -> Result<Loose<'de>, E> {
                Ok(Loose::Number(number))
            }

            fn visit_bool<E: de::Error>(self, _: bool) -> Result<Loose<'de>, E> {
                Ok(Loose::Other)
            }

            fn visit_unit<E: de::Error>(self) -> Result<Loose<'de>, E> {
                Ok(Loose::Nothing)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Loose<'de>, A::Error> {
                IgnoredAny.visit_seq(seq).map(|_| Loose::Other)
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Loose<'de>, A::Error> {
                IgnoredAny.visit_map(map).map(|_| Loose::Other)
            }
        }
        deserializer.deserialize_any(Any)
    }
}

/// The JSON text with U+FFFD for each escaped surrogate that has no pair; `None` where there is no such.
fn without_lone_surrogates(json: &str) -> Option<String> {
    let unit = |at: usize| {
        let digits = json.get(at..at + 6)?.strip_prefix("\\u")?;
        u16::from_str_radix(digits, 16).ok().filter(|_| !digits.starts_with('+'))
    };
    let (mut out, mut copied, mut at) = (String::new(), 0, 0);
    while let Some(found) = json[at..].find('\\') {
        at += found;
        match unit(at) {
            Some(0xD800..=0xDBFF) if unit(at + 6).is_some_and(|low| (0xDC00..=0xDFFF).contains(&low)) => {
                at += 12;
            }
            Some(0xD800..=0xDFFF) => {
                out.push_str(&json[copied..at]);
                out.push_str("\\ufffd");
                at += 6;
                copied = at;
            }
            Some(_) => at += 6,
            // Another escape: what follows the backslash is not one itself.
            None => at += 1 + json[at + 1..].chars().next().map_or(0, char::len_utf8),
        }
    }
    (copied > 0).then(|| out + &json[copied..])
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
            if done && seq % 2 == 0 {
                let digest = crate::Digester::default().digest();
                encode_verified_done(&mut frame, position, digest, &content, due_us, sent_us);
            } else if done {
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

    #[test]
    fn frames_of_the_old_contract_and_of_the_gateway() {
        let Ok(Frame::Event(old)) = Frame::parse(r#"{"type":"token","content":"hé\n"}"#) else { panic!() };
        assert_eq!((old.position, old.kind, &*old.content), (None, Kind::Token, "hé\n"));
        let (from, to) = (Position::new(1, 2), Position::new(1, 4));
        assert_eq!(Frame::parse(&encode_gap(from, to)), Ok(Frame::Gap { from, to }));
        assert_eq!(Frame::parse(&encode_resumed(to)), Ok(Frame::Resumed { to }));
        for unreadable in [
            "[]",
            "",
            "<html>502 Bad Gateway</html>",
            r#"{"error":{"message":"upstream timed out","code":504}}"#,
            r#"{"type":7,"content":"x"}"#,
            r#"{"type":"token","content":{"text":"x"}}"#,
            r#"{"type":"token","content":"x""#,
            r#"["0-0","token"]"#,
            r#"{"type":"gap"}"#,
            r#"{"type":"resumed","to":"user"}"#,
        ] {
            assert_eq!(Frame::parse(unreadable), Err(MalformedFrame), "{unreadable}");
        }
        assert_eq!(Frame::parse(r#"{"type":"ping"}"#), Ok(Frame::Other));
    }

    #[test]
    fn what_is_not_needed_does_no_harm() {
        for foreign in [
            r#"{"type":"token","content":"x","from":"assistant","to":"user"}"#,
            r#"{"id":1,"type":"token","content":"x"}"#,
            r#"{"id":"chunk-a","type":"token","content":"x","id":null}"#,
            r#"{"id":{"a":[1,{"b":2}]},"type":"token","content":"x","message":{"role":"a"},"code":[1]}"#,
            r#"{"type":"token","content":"x","due_us":-1,"sent_us":"now","query_id":7,"digest":5,"prev":true}"#,
            r#" {"type":"token","extra":"\ud800","content":"x"}"#,
        ] {
            let event = parsed(foreign.as_bytes());
            assert_eq!((event.kind, &*event.content, event.position), (Kind::Token, "x", None), "{foreign}");
            assert_eq!((event.due_us, event.sent_us, event.digest), (None, None, None), "{foreign}");
        }
        let event = parsed(br#"{"type":"token","content":null,"due_us":1.75,"sent_us":2e3}"#);
        assert_eq!((&*event.content, event.due_us, event.sent_us), ("", Some(1), Some(2_000)));
        let deep =
            format!(r#"{{"type":"error","message":"gone","extra":{}{}}}"#, "[".repeat(200), "]".repeat(200));
        assert_eq!(parsed(deep.as_bytes()).message.as_deref(), Some("gone"));
    }

    #[test]
    fn an_error_event_keeps_its_text_whatever_it_is() {
        for (frame, code, message) in [
            (
                r#"{"type":"error","code":504,"message":{"text":"gone"}}"#,
                Some("504"),
                Some(r#"{"text":"gone"}"#),
            ),
            (
                r#"{"type":"error","error":{"message":"upstream timed out","code":504}}"#,
                Some("504"),
                Some("upstream timed out"),
            ),
            (r#"{"type":"error","error":"overloaded"}"#, None, Some("overloaded")),
            (r#"{"type":"error","error":true,"message":"m"}"#, None, Some("m")),
            (r#"{"detail":[{"msg":"x"}],"type":"error","message":null}"#, None, Some(r#"[{"msg":"x"}]"#)),
            (
                r#"{"type":"error","error":{"message":{"a":1}},"code":["b"]}"#,
                Some(r#"["b"]"#),
                Some(r#"{"a":1}"#),
            ),
            (r#"{"type":"error","detail":"\ud800","error":null}"#, None, Some("\u{fffd}")),
            (r#"{"type":"error","extra":"\ud800","detail":"late"}"#, None, Some("late")),
            (r#"{"type":"error"}"#, None, None),
        ] {
            let event = parsed(frame.as_bytes());
            assert_eq!((event.code.as_deref(), event.message.as_deref()), (code, message), "{frame}");
        }
        let long = format!(r#"{{"type":"error","error":"{}"}}"#, "é".repeat(10_000));
        assert_eq!(parsed(long.as_bytes()).message.unwrap().chars().count(), LONGEST_TEXT + 1);
    }

    #[test]
    fn a_surrogate_without_its_pair_is_replaced() {
        for (escaped, content) in [
            (r"\ud83d\ude00", "😀"),
            (r"\ud83d", "\u{fffd}"),
            (r"\ude00x", "\u{fffd}x"),
            (r"\ud83d\ud83d\ude00", "\u{fffd}😀"),
            (r"\\\ud83d", "\\\u{fffd}"),
            (r"\\ud83d", r"\ud83d"),
            (r"é\udfff\n", "é\u{fffd}\n"),
        ] {
            let frame = format!(r#"{{"type":"token","content":"{escaped}"}}"#);
            assert_eq!(parsed(frame.as_bytes()).content, content, "{escaped}");
        }
        assert_eq!(Frame::parse(r#"{"type":"token","content":"\ud83d\q"}"#), Err(MalformedFrame));
    }
}
