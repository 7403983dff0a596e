//! Reads events from JSON with fields in any order, unknown fields, and values of unexpected types.

use super::{
    Event, Frame, GatewayStamps, Kind, MalformedFrame, Tokens, loose::Loose,
    surrogates::without_lone_surrogates,
};
use crate::DigestField;
use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, MapAccess, Visitor},
};
use serde_json::Value;
use std::{borrow::Cow, fmt};

/// The longest code or message of an error event, in characters. The rest is cut off.
const LONGEST_TEXT: usize = 500;

impl<'a> Frame<'a> {
    /// Reads any JSON object.
    pub(super) fn any(frame: &'a str) -> Result<Self, MalformedFrame> {
        match serde_json::from_str::<Raw<'a>>(frame) {
            Ok(raw) if raw.is_rolled() => Tokens::read(frame),
            Ok(raw) => raw.frame().map(|read| read.explained(frame)),
            Err(_) => {
                let repaired = without_lone_surrogates(frame).ok_or(MalformedFrame)?;
                let raw: Raw<'_> = serde_json::from_str(&repaired).map_err(|_| MalformedFrame)?;
                if raw.is_rolled() {
                    return Tokens::read(frame);
                }
                raw.frame().map(|read| read.explained(&repaired).into_owned())
            }
        }
    }

    /// Completes an error event with the code and the message that `frame` holds in foreign fields.
    fn explained(mut self, frame: &str) -> Self {
        if let Self::Event(event) = &mut self
            && event.kind == Kind::Error
        {
            explain(event, frame);
        }
        self
    }
}

/// Reads code and message of an error event from the fields in which foreign servers put them. Error events are rare, so reading each
/// twice costs little.
fn explain(event: &mut Event<'_>, frame: &str) {
    let whole = serde_json::from_str::<Value>(frame).or_else(|error| {
        without_lone_surrogates(frame).map_or(Err(error), |repaired| serde_json::from_str(&repaired))
    });
    // JSON that is nested too deeply or holds a number out of range: the event stays as it was read.
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

/// Returns a string's text, an object's `message`, or else the value's JSON, cut to [`LONGEST_TEXT`].
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

/// The fields of a frame that any type uses. A field that occurs twice has its last value.
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
    recv_us: Loose<'a>,
    write_us: Loose<'a>,
}

impl<'a> Raw<'a> {
    /// Returns whether this is a frame of several tokens, whose fields are arrays.
    fn is_rolled(&self) -> bool {
        matches!(&self.kind, Loose::Text(kind) if kind == "tokens")
    }

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
            digest: self.digest.text().map_or(DigestField::Absent, |text| DigestField::parse(&text)),
            stamps: self
                .recv_us
                .micros()
                .zip(self.write_us.micros())
                .map(|(received_us, written_us)| GatewayStamps { received_us, written_us }),
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
                        "recv_us" => &mut raw.recv_us,
                        "write_us" => &mut raw.write_us,
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

/// A key of a JSON object, borrowed if nothing in it is escaped.
#[derive(Deserialize)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Position,
        event::{encode_gap, encode_resumed, tests::parsed},
    };

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
    fn fields_that_a_type_does_not_need_may_hold_any_value() {
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
            assert_eq!(
                (event.due_us, event.sent_us, event.digest),
                (None, None, DigestField::Absent),
                "{foreign}"
            );
        }
        let event = parsed(br#"{"type":"token","content":null,"due_us":1.75,"sent_us":2e3}"#);
        assert_eq!((&*event.content, event.due_us, event.sent_us), ("", Some(1), Some(2_000)));
        let deep =
            format!(r#"{{"type":"error","message":"gone","extra":{}{}}}"#, "[".repeat(200), "]".repeat(200));
        assert_eq!(parsed(deep.as_bytes()).message.as_deref(), Some("gone"));
    }

    #[test]
    fn a_damaged_digest_differs_from_one_of_a_foreign_server() {
        for (digest, attested) in [
            (r#""2d06800538d394g2""#, DigestField::Damaged),
            (r#""\u0032d06800538d394g2""#, DigestField::Damaged),
            (r#""2d06800538d394""#, DigestField::Absent),
            (r#""sha-256=X48E9qOokqqrvdts8nOJRJN3OWDUoyWxBf7kbu9DBPE=""#, DigestField::Absent),
            ("1234567890123456", DigestField::Absent),
            (r#"["2d06800538d394g2"]"#, DigestField::Absent),
            ("null", DigestField::Absent),
        ] {
            for frame in [
                format!(
                    r#"{{"id":"1-3","type":"done","content":"","digest":{digest},"query_id":"q","due_us":1,"sent_us":2}}"#
                ),
                format!(r#"{{"digest":{digest},"type":"error","code":"overload"}}"#),
            ] {
                assert_eq!(parsed(frame.as_bytes()).digest, attested, "{frame}");
            }
        }
    }

    #[test]
    fn an_error_event_keeps_a_text_of_any_form() {
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
}
