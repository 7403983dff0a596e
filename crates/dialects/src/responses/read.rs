//! Reads what a server sends: the state machine of one streamed answer, over server-sent events or a WebSocket.
//! Every event of an answer has a number. The server repeats the whole text at the end, which is compared with the received deltas.

use crate::{
    errors,
    message::{Contents, End, Failed, Fault, Meaning, Numbering, Times, Usage},
};
use serde::Deserialize;
use serde_json::Value;
use std::{borrow::Cow, fmt};
use xxhash_rust::xxh3::Xxh3Default;

/// The literal that some servers send behind the last event. It is not an event.
const DONE: &str = "[DONE]";
/// Upper limit of the parts of an answer whose text is compared.
const MOST_PARTS: usize = 16;
/// Upper limit in bytes of the id of an answer.
const LONGEST_ID: usize = 256;

/// One answer as it arrives.
#[derive(Debug, Default)]
pub struct ResponsesAnswer {
    id: Option<String>,
    numbers: Numbers,
    /// The text of each part, until the server repeats it.
    texts: Vec<PartText>,
    is_ended: bool,
}

/// The numbers of the events so far.
#[derive(Clone, Copy, Debug, Default)]
struct Numbers {
    /// The number of the first event, 0 or 1. `None` before the first numbered event.
    base: Option<u64>,
    /// The highest position that arrived, from 1.
    highest: u64,
    /// An event came without its number, so that later numbers mean nothing.
    is_unnumbered: bool,
    /// A position was skipped, repeated or late.
    is_disordered: bool,
}

struct PartText {
    place: (u64, u64),
    hasher: Box<Xxh3Default>,
}

impl fmt::Debug for PartText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PartText").field("place", &self.place).finish_non_exhaustive()
    }
}

#[derive(Deserialize)]
struct Head<'a> {
    #[serde(borrow, rename = "type")]
    kind: Cow<'a, str>,
    #[serde(default)]
    sequence_number: Option<u64>,
    #[serde(default)]
    stream_id: Option<String>,
    #[serde(default)]
    x_due_us: Option<u64>,
    #[serde(default)]
    x_sent_us: Option<u64>,
}

#[derive(Deserialize)]
struct Delta<'a> {
    #[serde(default)]
    output_index: u64,
    #[serde(default)]
    content_index: u64,
    #[serde(borrow)]
    delta: Cow<'a, str>,
}

#[derive(Deserialize)]
struct Whole<'a> {
    #[serde(default)]
    output_index: u64,
    #[serde(default)]
    content_index: u64,
    #[serde(borrow)]
    text: Cow<'a, str>,
}

#[derive(Deserialize)]
struct Carrier {
    response: Response,
}

#[derive(Deserialize)]
struct Response {
    #[serde(default)]
    id: Option<String>,
    #[serde(default)]
    usage: Option<RawUsage>,
    #[serde(default)]
    error: Option<Value>,
    #[serde(default)]
    incomplete_details: Option<Incomplete>,
    #[serde(default)]
    output: Vec<Item>,
}

/// A part of the answer, which the server repeats as a whole at the end.
#[derive(Default, Deserialize)]
struct Item {
    #[serde(default)]
    content: Vec<Part>,
}

#[derive(Deserialize)]
struct Part {
    #[serde(default)]
    text: Option<String>,
}

#[derive(Deserialize)]
struct Incomplete {
    #[serde(default)]
    reason: Option<String>,
}

#[derive(Deserialize)]
struct RawUsage {
    #[serde(default)]
    output_tokens: Option<u64>,
    #[serde(default)]
    output_tokens_details: Option<RawDetails>,
}

#[derive(Deserialize)]
struct RawDetails {
    #[serde(default)]
    reasoning_tokens: Option<u64>,
}

impl RawUsage {
    fn read(self) -> Option<Usage> {
        let reasoning = self.output_tokens_details.and_then(|details| details.reasoning_tokens);
        Some(Usage { output: self.output_tokens?, reasoning: reasoning.unwrap_or_default() })
    }
}

impl ResponsesAnswer {
    /// Returns what the data of an event, or a message, means.
    pub fn event<'a>(&mut self, data: &'a str) -> Meaning<'a> {
        if data == DONE {
            return Meaning::default();
        }
        let Ok(head) = serde_json::from_str::<Head<'a>>(data) else {
            return Meaning::fault(Fault::Unreadable);
        };
        if head.stream_id.is_some() {
            // Another lane of the same socket. None was opened.
            return Meaning::fault(Fault::Foreign);
        }
        let mut meaning =
            Meaning { times: Times { due_us: head.x_due_us, sent_us: head.x_sent_us }, ..Meaning::default() };
        if head.kind == "error" {
            return self.error(data, head.sequence_number, meaning);
        }
        if head.sequence_number.is_none() && !head.kind.starts_with("response.") {
            return Meaning::fault(Fault::Unknown);
        }
        let is_start = matches!(&*head.kind, "response.created" | "response.queued");
        match self.numbers.place(head.sequence_number, is_start) {
            Ok(seq) => meaning.seq = seq,
            Err(fault) => meaning.fault = Some(fault),
        }
        self.read(&head.kind, data, &mut meaning);
        meaning
    }

    /// Reads the parts of an event that depend on its type.
    fn read<'a>(&mut self, kind: &str, data: &'a str, meaning: &mut Meaning<'a>) {
        let mut unreadable = || meaning.fault = Some(Fault::Unreadable);
        match kind {
            "response.output_text.delta" => match serde_json::from_str::<Delta<'a>>(data) {
                Ok(event) => {
                    self.add((event.output_index, event.content_index), &event.delta);
                    meaning.text = event.delta;
                }
                Err(_) => unreadable(),
            },
            "response.output_text.done" => match serde_json::from_str::<Whole<'a>>(data) {
                Ok(event) => {
                    meaning.contents = self.compare((event.output_index, event.content_index), &event.text);
                }
                Err(_) => unreadable(),
            },
            "response.reasoning_text.delta"
            | "response.reasoning_summary_text.delta"
            | "response.reasoning.delta" => meaning.has_reasoning = true,
            "response.created" | "response.queued" | "response.in_progress" => {
                match serde_json::from_str::<Carrier>(data) {
                    Ok(Carrier { response }) => self.belongs(response.id, meaning),
                    Err(_) => unreadable(),
                }
            }
            "response.completed" | "response.failed" | "response.incomplete" => {
                match serde_json::from_str::<Carrier>(data) {
                    Ok(Carrier { response }) => self.end(kind, response, meaning),
                    Err(_) => unreadable(),
                }
            }
            // Other types of the dialect have numbers and no text. There are many, and new ones come.
            _ if kind.starts_with("response.") => {}
            _ => meaning.fault = meaning.fault.or(Some(Fault::Unknown)),
        }
    }

    /// Checks the id of an answer, and keeps the first one.
    fn belongs(&mut self, id: Option<String>, meaning: &mut Meaning<'_>) {
        let Some(id) = id.filter(|id| !id.is_empty() && id.len() <= LONGEST_ID) else { return };
        if *self.id.get_or_insert_with(|| id.clone()) != id {
            *meaning = Meaning::fault(Fault::Foreign);
        }
    }

    fn end(&mut self, kind: &str, response: Response, meaning: &mut Meaning<'_>) {
        self.belongs(response.id, meaning);
        if meaning.fault == Some(Fault::Foreign) {
            return;
        }
        self.is_ended = true;
        meaning.contents = self.compare_rest(&response.output);
        meaning.usage = response.usage.and_then(RawUsage::read);
        let reason = response.incomplete_details.and_then(|details| details.reason);
        meaning.end = Some(match (kind, reason.as_deref()) {
            // An answer of the length that the client asked for is complete, as with `finish_reason: "length"`.
            ("response.completed", _) | ("response.incomplete", Some("max_output_tokens")) => End::Good,
            ("response.incomplete", reason) => End::Failed(Failed {
                code: reason.unwrap_or("incomplete").to_owned(),
                message: "the answer is incomplete".into(),
            }),
            _ => {
                let failed = response.error.as_ref().and_then(errors::failed);
                let none = || Failed { code: "failed".into(), message: "the answer failed".into() };
                End::Failed(failed.unwrap_or_else(none))
            }
        });
    }

    fn error<'a>(&mut self, data: &str, number: Option<u64>, meaning: Meaning<'a>) -> Meaning<'a> {
        let value: Value = serde_json::from_str(data).unwrap_or_default();
        let none = || Failed { code: "error".into(), message: String::new() };
        let failed = errors::failed(&value).unwrap_or_else(none);
        self.is_ended = true;
        // An error of the request has no number.
        let seq = match number {
            Some(_) => self.numbers.place(number, false).ok().flatten(),
            None => self.numbers.next(),
        };
        Meaning { seq, end: Some(End::Failed(failed)), ..meaning }
    }

    fn add(&mut self, place: (u64, u64), text: &str) {
        if self.numbers.is_disordered {
            return;
        }
        let known = self.texts.iter().position(|part| part.place == place);
        let index = known.unwrap_or_else(|| {
            if self.texts.len() < MOST_PARTS {
                self.texts.push(PartText { place, hasher: Box::default() });
            }
            self.texts.len() - 1
        });
        let part = &mut self.texts[index];
        if part.place == place {
            part.hasher.update(text.as_bytes());
        }
    }

    /// Compares the text of a part with the deltas that arrived. `None` if events are missing, because then it must differ.
    fn compare(&mut self, place: (u64, u64), text: &str) -> Option<Contents> {
        if self.numbers.is_disordered || self.texts.len() == MOST_PARTS {
            return None;
        }
        let index = self.texts.iter().position(|part| part.place == place);
        let received = index.map_or_else(
            || Xxh3Default::new().digest(),
            |index| self.texts.swap_remove(index).hasher.digest(),
        );
        let mut sent = Xxh3Default::new();
        sent.update(text.as_bytes());
        Some(if received == sent.digest() { Contents::Verified } else { Contents::Corrupt })
    }

    /// Compares the parts whose text was not repeated yet with the whole answer. `None` if it does not have them.
    fn compare_rest(&mut self, output: &[Item]) -> Option<Contents> {
        let places: Vec<_> = self.texts.iter().map(|part| part.place).collect();
        let mut contents = None;
        for (item, part) in places {
            let index = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
            let sent =
                output.get(index(item)).and_then(|item| item.content.get(index(part))?.text.as_deref());
            contents = contents.max(sent.and_then(|text| self.compare((item, part), text)));
        }
        contents
    }

    /// Returns the id of the answer, once an event has named it.
    #[must_use]
    pub fn id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    /// Returns the `sequence_number` of the event at `position`, from which a stream is resumed. `None` for position 0.
    #[must_use]
    pub fn number_of(&self, position: u64) -> Option<u64> {
        position.checked_add(self.numbers.base?)?.checked_sub(1).filter(|_| position > 0)
    }

    /// Returns what the numbers count.
    #[must_use]
    pub const fn numbering(&self) -> Numbering {
        match self.numbers {
            Numbers { base: Some(_), is_unnumbered: false, .. } => Numbering::Messages,
            _ => Numbering::None,
        }
    }

    /// Returns what is missing at the end of a stream. `None` if the answer ended.
    #[must_use]
    pub const fn missing_end(&self) -> Option<&'static str> {
        if self.is_ended { None } else { Some("response.completed") }
    }
}

impl Numbers {
    /// Returns the position of the event with this number, from 1. `is_start`: it is the first event of an answer by its type.
    ///
    /// # Errors
    /// The event lacks its number, and others have theirs, or has one that is not possible.
    fn place(&mut self, number: Option<u64>, is_start: bool) -> Result<Option<u64>, Fault> {
        let Some(number) = number else {
            if self.base.is_none() {
                self.is_unnumbered = true;
                return Ok(None);
            }
            return Err(Fault::Unreadable);
        };
        if self.is_unnumbered {
            return Ok(None);
        }
        // Most servers count from 0, some from 1. If another event than the first comes first, numbers are taken to begin at 0.
        let base = *self.base.get_or_insert(if is_start && number == 1 { 1 } else { 0 });
        let position = number.checked_add(1).and_then(|after| after.checked_sub(base));
        let Some(position) = position.filter(|&position| position > 0) else {
            return Err(Fault::Unreadable);
        };
        self.is_disordered |= position != self.highest.saturating_add(1);
        self.highest = self.highest.max(position);
        Ok(Some(position))
    }

    /// Returns the position of an event that ends a numbered answer and has no number.
    fn next(&mut self) -> Option<u64> {
        (self.base.is_some() && !self.is_unnumbered).then(|| {
            self.highest = self.highest.saturating_add(1);
            self.highest
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(crate) fn whole(base: u64, words: &[&str]) -> Vec<String> {
        let mut events = Vec::new();
        let mut push = |kind: &str, rest: String| {
            let number = base + events.len() as u64;
            events.push(format!(r#"{{"type":"{kind}","sequence_number":{number}{rest}}}"#));
        };
        let response = |status: &str, rest: &str| {
            format!(r#","response":{{"id":"resp_1","status":"{status}","output":[]{rest}}}"#)
        };
        push("response.created", response("in_progress", ""));
        push("response.in_progress", response("in_progress", ""));
        push("response.output_item.added", r#","output_index":0,"item":{"id":"msg_1"}"#.into());
        push("response.content_part.added", r#","output_index":0,"content_index":0"#.into());
        for word in words {
            push(
                "response.output_text.delta",
                format!(r#","item_id":"msg_1","output_index":0,"content_index":0,"delta":"{word}"}}"#)
                    .trim_end_matches('}')
                    .to_owned(),
            );
        }
        push(
            "response.output_text.done",
            format!(r#","output_index":0,"content_index":0,"text":"{}""#, words.concat()),
        );
        push("response.content_part.done", String::new());
        push("response.output_item.done", String::new());
        let usage =
            r#","usage":{"input_tokens":1,"output_tokens":7,"output_tokens_details":{"reasoning_tokens":2}}"#;
        push("response.completed", response("completed", usage));
        events
    }

    #[test]
    fn a_whole_answer_with_either_base() {
        for base in [0, 1] {
            let events = whole(base, &["Hello ", "wörld"]);
            let mut answer = ResponsesAnswer::default();
            let (mut texts, mut contents, mut last) = (Vec::new(), None, None);
            for (index, event) in events.iter().enumerate() {
                let meaning = answer.event(event);
                assert_eq!((meaning.seq, meaning.fault), (Some(index as u64 + 1), None), "{event}");
                texts.push(meaning.text.clone().into_owned());
                contents = contents.or(meaning.contents);
                last = Some(meaning);
            }
            let last = last.unwrap();
            assert_eq!(texts.concat(), "Hello wörld");
            assert_eq!((contents, last.end), (Some(Contents::Verified), Some(End::Good)));
            assert_eq!(last.usage, Some(Usage { output: 7, reasoning: 2 }));
            assert_eq!((answer.id(), answer.missing_end()), (Some("resp_1"), None));
            assert_eq!((answer.number_of(3), answer.number_of(0)), (Some(2 + base), None));
            assert_eq!(answer.event(DONE), Meaning::default());
        }
    }

    #[test]
    fn another_text_than_the_received_one_is_corrupt_and_a_hole_is_not_compared() {
        let compared = |change: &dyn Fn(&mut Vec<String>)| {
            let mut events = whole(0, &["a", "b", "c"]);
            change(&mut events);
            let mut answer = ResponsesAnswer::default();
            events.iter().find_map(|event| answer.event(event).contents)
        };
        assert_eq!(compared(&|_| {}), Some(Contents::Verified));
        let other = |events: &mut Vec<String>| events[5] = events[5].replace(r#""b""#, r#""x""#);
        assert_eq!(compared(&other), Some(Contents::Corrupt));
        assert_eq!(compared(&|events| drop(events.remove(5))), None);
    }

    #[test]
    fn parts_that_were_not_repeated_are_compared_with_the_whole_answer() {
        for (text, expected) in [("abc", Contents::Verified), ("axc", Contents::Corrupt)] {
            let mut answer = ResponsesAnswer::default();
            let mut events = whole(0, &["a", "b", "c"]);
            events.truncate(7);
            for event in &events {
                assert_eq!(answer.event(event).contents, None);
            }
            let end = format!(
                r#"{{"type":"response.completed","sequence_number":7,"response":{{"id":"resp_1","output":[{{"content":[{{"text":"{text}"}}]}}]}}}}"#
            );
            assert_eq!(answer.event(&end).contents, Some(expected));
        }
    }

    #[test]
    fn numbers_at_their_limits_are_no_reason_to_panic() {
        for number in [u64::MAX, u64::MAX - 1, 0, 1] {
            let mut answer = ResponsesAnswer::default();
            let first =
                format!(r#"{{"type":"response.created","sequence_number":{number},"response":{{}}}}"#);
            answer.event(&first);
            answer.event(
                r#"{"type":"response.in_progress","sequence_number":18446744073709551614,"response":{}}"#,
            );
            answer.event(r#"{"type":"response.output_text.delta","sequence_number":2,"delta":"a"}"#);
            answer.event(r#"{"type":"error"}"#);
            let _ = answer.number_of(u64::MAX);
        }
    }

    #[test]
    fn bad_ends_and_errors() {
        let code = |data: &str| match ResponsesAnswer::default().event(data).end {
            Some(End::Failed(failed)) => failed.code,
            other => format!("{other:?}"),
        };
        assert_eq!(
            code(r#"{"type":"response.failed","response":{"error":{"code":"server_error","message":"x"}}}"#),
            "server_error"
        );
        assert_eq!(code(r#"{"type":"response.failed","response":{}}"#), "failed");
        let incomplete = |reason: &str| {
            format!(
                r#"{{"type":"response.incomplete","response":{{"incomplete_details":{{"reason":"{reason}"}}}}}}"#
            )
        };
        assert_eq!(code(&incomplete("content_filter")), "content_filter");
        assert_eq!(code(&incomplete("max_output_tokens")), "Some(Good)");
        assert_eq!(
            code(r#"{"type":"error","code":"rate_limit","message":"m","param":null,"sequence_number":3}"#),
            "rate_limit"
        );
        assert_eq!(
            code(
                r#"{"type":"error","status":400,"error":{"type":"invalid_request_error","code":"previous_response_not_found","message":"m"}}"#
            ),
            "previous_response_not_found"
        );
        assert_eq!(code(r#"{"type":"error"}"#), "error");
        assert_eq!(ResponsesAnswer::default().missing_end(), Some("response.completed"));
    }

    #[test]
    fn foreign_unknown_and_unreadable_events() {
        let mut answer = ResponsesAnswer::default();
        let events = whole(0, &["a"]);
        answer.event(&events[0]);
        for (data, fault) in [
            (
                r#"{"type":"response.in_progress","sequence_number":1,"response":{"id":"resp_2"}}"#,
                Fault::Foreign,
            ),
            (r#"{"type":"response.output_text.delta","stream_id":"x","delta":"a"}"#, Fault::Foreign),
            (r#"{"type":"keepalive","sequence_number":2}"#, Fault::Unknown),
            (r#"{"type":"ping"}"#, Fault::Unknown),
            (r#"{"type":"response.output_text.delta","delta":"no number"}"#, Fault::Unreadable),
            (r#"{"type":"response.output_text.delta","sequence_number":3}"#, Fault::Unreadable),
            ("{}", Fault::Unreadable),
        ] {
            assert_eq!(answer.event(data).fault, Some(fault), "{data}");
        }
    }

    #[test]
    fn a_server_without_numbers_is_read_and_unverified() {
        let mut answer = ResponsesAnswer::default();
        for event in whole(0, &["a"]) {
            let bare = event.split_once(r#","sequence_number":"#).map(|(before, rest)| {
                let rest = rest.trim_start_matches(|c: char| c.is_ascii_digit());
                format!("{before}{rest}")
            });
            let bare = bare.unwrap();
            let meaning = answer.event(&bare);
            assert_eq!((meaning.seq, meaning.fault), (None, None), "{bare}");
        }
        assert_eq!(answer.numbering(), Numbering::None);
    }
}
