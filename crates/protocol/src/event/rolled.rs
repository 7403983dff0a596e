//! Several tokens of one query as one frame, for clients that asked for a rollup. The gateway joins the pieces of encoded tokens, whose JSON
//! it does not decode. A client reads the frame back into one event per token.

use super::{Event, Frame, Kind, MalformedFrame, Prefix, surrogates::without_lone_surrogates};
use crate::{DigestField, Position};
use serde::Deserialize;
use std::borrow::Cow;

/// The start of a rolled frame behind its position.
const ROLLED: &[u8] = br#"","type":"tokens""#;
/// Length of the longest position.
const LONGEST_POSITION: usize = 41;

/// The fields of a token's frame as they are on the wire. A field that the frame lacks is empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenPieces<'a> {
    position: Position,
    /// A JSON string with its quotes.
    content: &'a [u8],
    /// A JSON string with its quotes.
    query_id: &'a [u8],
    /// Decimal digits.
    due_us: &'a [u8],
    /// Decimal digits.
    sent_us: &'a [u8],
}

impl<'a> TokenPieces<'a> {
    /// Splits a token's frame in the form of this crate's encoder, in which only `query_id` and the times may be missing. Returns `None`
    /// for any other frame: it has fields that a rolled frame would lose, or text that is not valid JSON.
    #[must_use]
    pub fn split(frame: &'a [u8]) -> Option<Self> {
        let (Prefix { position, kind: Kind::Token }, rest) = Prefix::split(frame)? else { return None };
        let (content, rest) = string(rest.strip_prefix(br#","content":"#)?)?;
        let (query_id, rest) = optional(rest, br#","query_id":"#, string)?;
        let (due_us, rest) = optional(rest, br#","due_us":"#, number)?;
        let (sent_us, rest) = optional(rest, br#","sent_us":"#, number)?;
        (rest == b"}").then_some(Self { position, content, query_id, due_us, sent_us })
    }
}

/// Reads a field that may be missing. Returns its value and the bytes behind it.
fn optional<'a>(
    text: &'a [u8],
    name: &[u8],
    read: impl Fn(&'a [u8]) -> Option<(&'a [u8], &'a [u8])>,
) -> Option<(&'a [u8], &'a [u8])> {
    text.strip_prefix(name).map_or(Some((&[], text)), read)
}

/// Reads a valid JSON string. Returns it with its quotes, and the bytes behind it.
fn string(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut end = usize::from(text.first() == Some(&b'"'));
    if end == 0 {
        return None;
    }
    loop {
        match *text.get(end)? {
            b'"' => break,
            b'\\' => match text.get(end + 1)? {
                b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => end += 2,
                b'u' if text.get(end + 2..end + 6)?.iter().all(u8::is_ascii_hexdigit) => end += 6,
                _ => return None,
            },
            ..=0x1f => return None,
            _ => end += 1,
        }
    }
    let (string, rest) = text.split_at(end + 1);
    std::str::from_utf8(string).is_ok().then_some((string, rest))
}

/// Reads a whole number of JSON that fits into 64 bits. Returns its digits and the bytes behind them.
fn number(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let (digits, rest) = text.split_at(text.iter().position(|byte| !byte.is_ascii_digit())?);
    let is_plain = digits.len() == 1 || digits.first() != Some(&b'0');
    let fits = || std::str::from_utf8(digits).is_ok_and(|digits| digits.parse::<u64>().is_ok());
    (is_plain && fits()).then_some((digits, rest))
}

/// Consecutive tokens of one query that become one frame.
///
/// ```
/// use protocol::{RolledTokens, TokenPieces};
///
/// let first = br#"{"id":"7-2","type":"token","content":"a","query_id":"q","due_us":5,"sent_us":6}"#;
/// let second = br#"{"id":"7-3","type":"token","content":"b","query_id":"q","due_us":7,"sent_us":8}"#;
/// let mut tokens = RolledTokens::new(TokenPieces::split(first).unwrap());
/// assert_eq!(tokens.encode(), first);
/// assert!(tokens.push(TokenPieces::split(second).unwrap()));
/// assert_eq!(
///     tokens.encode(),
///     br#"{"id":"7-3","type":"tokens","first":"7-2","content":["a","b"],"query_id":"q","due_us":[5,7],"sent_us":[6,8]}"#
/// );
/// ```
#[derive(Clone, Debug)]
pub struct RolledTokens {
    first: Position,
    last: Position,
    /// The same for all tokens. Empty if they have none.
    query_id: Vec<u8>,
    /// The values of each field, separated by commas. Empty if the tokens lack the field.
    contents: Vec<u8>,
    due_us: Vec<u8>,
    sent_us: Vec<u8>,
}

impl RolledTokens {
    /// Begins with one token.
    #[must_use]
    pub fn new(token: TokenPieces<'_>) -> Self {
        /// Room for the columns of a few tokens, so that they seldom grow.
        const ROOM: usize = 64;
        let column = |piece: &[u8]| {
            let mut column = Vec::with_capacity(if piece.is_empty() { 0 } else { ROOM.max(piece.len()) });
            column.extend_from_slice(piece);
            column
        };
        Self {
            first: token.position,
            last: token.position,
            query_id: token.query_id.to_vec(),
            contents: column(token.content),
            due_us: column(token.due_us),
            sent_us: column(token.sent_us),
        }
    }

    /// Adds the next token. Returns false, and adds nothing, if it is not the next position or does not have the same fields and
    /// query.
    pub fn push(&mut self, token: TokenPieces<'_>) -> bool {
        let Position { generation, seq } = self.last;
        let is_next =
            token.position.generation == generation && seq.checked_add(1) == Some(token.position.seq);
        let fits = token.query_id == self.query_id
            && token.due_us.is_empty() == self.due_us.is_empty()
            && token.sent_us.is_empty() == self.sent_us.is_empty();
        if !(is_next && fits) {
            return false;
        }
        self.last = token.position;
        let columns = [
            (&mut self.contents, token.content),
            (&mut self.due_us, token.due_us),
            (&mut self.sent_us, token.sent_us),
        ];
        for (column, piece) in columns {
            if !piece.is_empty() {
                column.push(b',');
                column.extend_from_slice(piece);
            }
        }
        true
    }

    /// Returns the number of tokens, at least 1.
    #[must_use]
    pub const fn count(&self) -> u64 {
        self.last.seq - self.first.seq + 1
    }

    /// Returns the position of the last token, which is that of the frame.
    #[must_use]
    pub const fn last(&self) -> Position {
        self.last
    }

    /// Returns the frame. A single token has its own frame, byte by byte.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let is_rolled = self.first != self.last;
        let pieces = self.contents.len() + self.query_id.len() + self.due_us.len() + self.sent_us.len();
        let mut out = Vec::with_capacity(pieces + 2 * LONGEST_POSITION + 90);
        super::encode::open(&mut out, self.last, if is_rolled { "tokens" } else { "token" });
        if is_rolled {
            out.extend_from_slice(br#","first":""#);
            super::encode::position(&mut out, self.first);
            out.push(b'"');
        }
        let [open, close] = if is_rolled { ["[", "]"] } else { [""; 2] };
        let fields = [
            (r#","content":"#, [open, close], &self.contents),
            (r#","query_id":"#, [""; 2], &self.query_id),
            (r#","due_us":"#, [open, close], &self.due_us),
            (r#","sent_us":"#, [open, close], &self.sent_us),
        ];
        for (name, [open, close], value) in fields {
            if !value.is_empty() {
                [name.as_bytes(), open.as_bytes(), value, close.as_bytes()]
                    .iter()
                    .for_each(|part| out.extend_from_slice(part));
            }
        }
        out.push(b'}');
        out
    }
}

/// A rolled frame as the client reads it: consecutive tokens of one query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tokens<'a> {
    first: Position,
    contents: Vec<Cow<'a, str>>,
    query_id: Option<Cow<'a, str>>,
    /// As long as `contents`, or `None` if the tokens have no times.
    due_us: Option<Vec<u64>>,
    sent_us: Option<Vec<u64>>,
}

/// The fields of a rolled frame.
#[derive(Deserialize)]
struct Raw<'a> {
    #[serde(borrow)]
    id: Text<'a>,
    #[serde(borrow)]
    first: Text<'a>,
    #[serde(borrow)]
    content: Vec<Text<'a>>,
    #[serde(borrow, default)]
    query_id: Option<Text<'a>>,
    #[serde(default)]
    due_us: Option<Vec<u64>>,
    #[serde(default)]
    sent_us: Option<Vec<u64>>,
}

/// A string of a JSON document, borrowed if nothing in it is escaped.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'a> Tokens<'a> {
    /// Returns whether a frame begins as a rolled frame of this crate's encoder does.
    pub(super) fn has_prefix(frame: &str) -> bool {
        let Some(rest) = frame.as_bytes().strip_prefix(br#"{"id":""#) else { return false };
        let end = rest.iter().take(LONGEST_POSITION + 1).position(|&byte| byte == b'"');
        end.is_some_and(|end| rest[end..].starts_with(ROLLED))
    }

    /// Reads a rolled frame.
    ///
    /// # Errors
    /// The arrays have different lengths, or `first` and `id` do not agree with their length.
    pub(super) fn read(frame: &'a str) -> Result<Frame<'a>, MalformedFrame> {
        if let Ok(raw) = serde_json::from_str::<Raw<'a>>(frame) {
            return raw.tokens().map(Frame::Tokens);
        }
        let repaired = without_lone_surrogates(frame).ok_or(MalformedFrame)?;
        let raw: Raw<'_> = serde_json::from_str(&repaired).map_err(|_| MalformedFrame)?;
        raw.tokens().map(|tokens| Frame::Tokens(tokens.into_owned()))
    }

    pub(super) fn into_owned(self) -> Tokens<'static> {
        let owned = |text: Cow<'_, str>| Cow::Owned(text.into_owned());
        Tokens {
            first: self.first,
            contents: self.contents.into_iter().map(owned).collect(),
            query_id: self.query_id.map(owned),
            due_us: self.due_us,
            sent_us: self.sent_us,
        }
    }

    /// Returns one event per token, in order.
    pub fn events(&self) -> impl ExactSizeIterator<Item = Event<'_>> {
        let at =
            |times: &Option<Vec<u64>>, nth: usize| times.as_ref().and_then(|times| times.get(nth).copied());
        self.contents.iter().enumerate().map(move |(nth, content)| Event {
            position: Some(Position::new(self.first.generation, self.first.seq + nth as u64)),
            kind: Kind::Token,
            content: Cow::Borrowed(content),
            query_id: self.query_id.as_deref().map(Cow::Borrowed),
            due_us: at(&self.due_us, nth),
            sent_us: at(&self.sent_us, nth),
            code: None,
            message: None,
            digest: DigestField::Absent,
            stamps: None,
        })
    }
}

impl<'a> Raw<'a> {
    fn tokens(self) -> Result<Tokens<'a>, MalformedFrame> {
        let position = |text: &Text<'_>| text.0.parse::<Position>().map_err(|_| MalformedFrame);
        let (first, last) = (position(&self.first)?, position(&self.id)?);
        let count = self.content.len() as u64;
        let agrees = first.generation == last.generation
            && first.seq > 0
            && count > 0
            && first.seq.checked_add(count - 1) == Some(last.seq);
        let as_long =
            |times: &Option<Vec<u64>>| times.as_ref().is_none_or(|times| times.len() as u64 == count);
        if !(agrees && as_long(&self.due_us) && as_long(&self.sent_us)) {
            return Err(MalformedFrame);
        }
        Ok(Tokens {
            first,
            contents: self.content.into_iter().map(|text| text.0).collect(),
            query_id: self.query_id.map(|text| text.0),
            due_us: self.due_us,
            sent_us: self.sent_us,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{encode_done, encode_token};
    use proptest::prelude::*;

    fn frames(first: Position, contents: &[String], query_id: &str, times: u64) -> Vec<Vec<u8>> {
        let seqs = first.seq..;
        std::iter::zip(seqs, contents)
            .map(|(seq, content)| {
                let mut frame = Vec::new();
                let at = Position::new(first.generation, seq);
                encode_token(
                    &mut frame,
                    at,
                    content,
                    query_id,
                    times.wrapping_add(seq),
                    times.wrapping_mul(seq),
                );
                frame
            })
            .collect()
    }

    fn event(frame: &[u8]) -> Event<'_> {
        crate::event::tests::parsed(frame)
    }

    proptest! {
        /// A rolled frame has the same events as the frames of its tokens, and a single token keeps its frame.
        #[test]
        fn a_rolled_frame_has_the_events_of_its_tokens(
            generation: u64, seq in 1u64..1 << 60, query_id in ".{0,20}", times: u64,
            contents in proptest::collection::vec(".{0,20}", 1..20),
        ) {
            let frames = frames(Position::new(generation, seq), &contents, &query_id, times);
            let mut rolled = RolledTokens::new(TokenPieces::split(&frames[0]).unwrap());
            for frame in &frames[1..] {
                prop_assert!(rolled.push(TokenPieces::split(frame).unwrap()));
            }
            prop_assert_eq!(rolled.count(), frames.len() as u64);
            let encoded = String::from_utf8(rolled.encode()).unwrap();
            if frames.len() == 1 {
                prop_assert_eq!(encoded.as_bytes(), &frames[0]);
                return Ok(());
            }
            prop_assert!(encoded.len() < frames.iter().map(Vec::len).sum());
            prop_assert_eq!(Prefix::parse(encoded.as_bytes()), None, "no gateway takes it for one event");
            let parsed = Frame::parse(&encoded);
            prop_assert_eq!(&parsed, &Frame::any(&encoded));
            let Ok(Frame::Tokens(tokens)) = parsed else { panic!("{encoded}") };
            let expected: Vec<_> = frames.iter().map(|frame| event(frame)).collect();
            prop_assert_eq!(tokens.events().collect::<Vec<_>>(), expected);
        }

        /// A damaged token is refused, or stays the same event.
        #[test]
        fn only_valid_tokens_are_rolled(
            content in "\\PC{0,20}", index: prop::sample::Index, byte: u8,
        ) {
            let mut frame = Vec::new();
            encode_token(&mut frame, Position::new(7, 2), &content, "q", 5, 6);
            let at = index.index(frame.len());
            frame[at] = byte;
            if let Some(pieces) = TokenPieces::split(&frame) {
                prop_assert_eq!(RolledTokens::new(pieces).encode(), frame.clone());
                prop_assert_eq!(event(&frame).kind, Kind::Token);
            }
        }
    }

    #[test]
    fn tokens_with_other_fields_are_not_split() {
        for frame in [
            r#"{"id":"7-2","type":"token","content":"a","logprob":-1}"#,
            r#"{"id":"7-2","type":"token","content":"a","due_us":1.5,"sent_us":2}"#,
            r#"{"id":"7-2","type":"token","content":"a","due_us":01,"sent_us":2}"#,
            r#"{"id":"7-2","type":"token","content":"a","due_us":99999999999999999999,"sent_us":2}"#,
            r#"{"id":"7-2","type":"token","content":"a\q"}"#,
            r#"{"id":"7-2","type":"token","content":"a\u12g4"}"#,
            r#"{"id":"7-2","type":"token","content":7}"#,
            r#"{"id":"7-2","type":"token","content":"a"} "#,
            r#"{"id":"7-2","type":"token"}"#,
            r#"{"type":"token","content":"a"}"#,
        ] {
            assert_eq!(TokenPieces::split(frame.as_bytes()), None, "{frame}");
        }
        assert_eq!(TokenPieces::split(b"{\"id\":\"7-2\",\"type\":\"token\",\"content\":\"\xff\"}"), None);
        let mut done = Vec::new();
        encode_done(&mut done, Position::new(7, 2), "q", 5, 6);
        assert_eq!(TokenPieces::split(&done), None);
    }

    #[test]
    fn only_the_next_token_of_the_query_joins() {
        let split = |frame: &'static str| TokenPieces::split(frame.as_bytes()).unwrap();
        let mut tokens = RolledTokens::new(split(r#"{"id":"7-2","type":"token","content":"a","sent_us":5}"#));
        for other in [
            r#"{"id":"7-2","type":"token","content":"a","sent_us":5}"#,
            r#"{"id":"7-4","type":"token","content":"a","sent_us":5}"#,
            r#"{"id":"8-3","type":"token","content":"a","sent_us":5}"#,
            r#"{"id":"7-3","type":"token","content":"a"}"#,
            r#"{"id":"7-3","type":"token","content":"a","due_us":1,"sent_us":5}"#,
            r#"{"id":"7-3","type":"token","content":"a","query_id":"q","sent_us":5}"#,
        ] {
            assert!(!tokens.push(split(other)), "{other}");
        }
        assert!(tokens.push(split(r#"{"id":"7-3","type":"token","content":"\ud83d\n","sent_us":6}"#)));
        let encoded = String::from_utf8(tokens.encode()).unwrap();
        assert_eq!(
            encoded,
            r#"{"id":"7-3","type":"tokens","first":"7-2","content":["a","\ud83d\n"],"sent_us":[5,6]}"#
        );
        let Ok(Frame::Tokens(tokens)) = Frame::parse(&encoded) else { panic!("{encoded}") };
        let contents: Vec<_> = tokens.events().map(|event| event.content.into_owned()).collect();
        assert_eq!(contents, ["a", "\u{fffd}\n"]);
    }

    #[test]
    fn a_rolled_frame_that_contradicts_itself_is_malformed() {
        let frame = |id, first, rest| {
            format!(r#"{{"id":"{id}","type":"tokens","first":"{first}","content":["a","b"]{rest}}}"#)
        };
        let times = r#","due_us":[1,2],"sent_us":[3,4],"new":{}"#;
        for (id, first, rest) in
            [("7-3", "7-2", times), ("7-3", "7-2", ""), ("7-2", "7-1", r#","due_us":null"#)]
        {
            let frame = frame(id, first, rest);
            assert!(matches!(Frame::parse(&frame), Ok(Frame::Tokens(_))), "{frame}");
        }
        for (id, first, rest) in [
            ("7-4", "7-2", times),
            ("7-3", "7-3", times),
            ("7-2", "7-3", times),
            ("8-3", "7-2", times),
            ("7-1", "7-0", times),
            ("7-3", "x", times),
            ("7-3", "7-2", r#","due_us":[1]"#),
            ("7-3", "7-2", r#","due_us":[1,2],"sent_us":[1,2,3]"#),
            ("7-3", "7-2", r#","sent_us":[1,"2"]"#),
            ("7-3", "7-2", r#","sent_us":7"#),
            ("7-3", "7-2", r#","query_id":7"#),
        ] {
            let frame = frame(id, first, rest);
            assert_eq!(Frame::parse(&frame), Err(MalformedFrame), "{frame}");
        }
        for frame in [
            r#"{"id":"7-3","type":"tokens","first":"7-2","content":"ab"}"#,
            r#"{"id":"7-3","type":"tokens","first":"7-2","content":["a",7]}"#,
            r#"{"id":"7-2","type":"tokens","first":"7-3","content":[]}"#,
            r#"{"type":"tokens"}"#,
        ] {
            assert_eq!(Frame::parse(frame), Err(MalformedFrame), "{frame}");
        }
    }
}
