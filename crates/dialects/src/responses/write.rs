//! Writes what a server sends: the events of a response, numbered without a gap, and the response as an object. The text of the answer is
//! passed in where an event repeats it, so a writer stays small however long the answer is.

use crate::sse::write::{Frame, Marks};
use serde::Serialize;
use serde_json::{Map, Value, json};

/// What is equal in all events of a response.
#[derive(Clone, Debug, PartialEq)]
pub struct Head {
    /// The id of the response.
    pub id: String,
    /// The id of its message.
    pub item_id: String,
    /// The lane of a WebSocket, if it is named: every event carries it.
    pub stream_id: Option<String>,
    /// When the response was created, in seconds since the Unix epoch.
    pub created_at: u64,
    /// The model's name, as requested.
    pub model: String,
    /// The response that this one continues.
    pub previous_response_id: Option<String>,
    /// The instructions, as requested.
    pub instructions: Value,
    /// The metadata, as requested.
    pub metadata: Map<String, Value>,
    /// The limit of tokens, as requested.
    pub max_output_tokens: Option<u64>,
    /// The temperature, as requested.
    pub temperature: f64,
    /// The probability mass, as requested.
    pub top_p: f64,
    /// Whether the response is kept for later calls.
    pub store: bool,
    /// Whether the response runs without a connection.
    pub background: bool,
    /// The number of tokens of the input.
    pub input_tokens: u64,
}

/// The state of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status<'a> {
    /// It runs.
    InProgress,
    /// It ended.
    Completed(Output<'a>),
    /// It ended because it reached its limit of tokens.
    Incomplete(Output<'a>),
    /// It failed, with this code and message.
    Failed(&'a str, &'a str),
    /// It was cancelled.
    Cancelled,
}

/// What an ended response has produced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Output<'a> {
    /// The whole text. `None` for a response that was not to generate any.
    pub text: Option<&'a str>,
    /// The number of its tokens.
    pub tokens: u64,
    /// When it ended, in seconds since the Unix epoch.
    pub ended_at: u64,
}

/// Writes the events of one response.
#[derive(Clone, Debug)]
pub struct Writer {
    head: Head,
    next: u64,
}

impl Writer {
    /// Creates the writer of one response, whose events are numbered from 0.
    #[must_use]
    pub const fn new(head: Head) -> Self {
        Self { head, next: 0 }
    }

    /// Returns the number of the next event.
    #[must_use]
    pub const fn next_number(&self) -> u64 {
        self.next
    }

    /// Returns the first events, which tell that the response was created and runs.
    pub fn begin(&mut self) -> [Frame; 2] {
        ["response.created", "response.in_progress"].map(|kind| self.with_object(kind, Status::InProgress))
    }

    /// Returns the events that open the message and its part of text.
    pub fn open(&mut self) -> [Frame; 2] {
        let item = Item { id: &self.head.item_id, status: "in_progress", text: None }.value();
        let part = part("");
        [
            self.event("response.output_item.added", &json!({"output_index": 0, "item": item})),
            self.part_event("response.content_part.added", "part", part),
        ]
    }

    /// Returns the event with the text of the next tokens.
    pub fn token(&mut self, text: &str, marks: Option<Marks>) -> Frame {
        let kind = "response.output_text.delta";
        let number = self.number();
        let event = Delta {
            kind,
            sequence_number: number,
            item_id: &self.head.item_id,
            output_index: 0,
            content_index: 0,
            delta: text,
            logprobs: [],
            stream_id: self.head.stream_id.as_deref(),
            marks,
        };
        Frame { event: Some(kind), number: Some(number), data: written(&event) }
    }

    /// Returns the events that close the message with its whole text.
    pub fn close(&mut self, text: &str) -> [Frame; 3] {
        let item = Item { id: &self.head.item_id, status: "completed", text: Some(text) }.value();
        [
            self.part_event("response.output_text.done", "text", json!(text)),
            self.part_event("response.content_part.done", "part", part(text)),
            self.event("response.output_item.done", &json!({"output_index": 0, "item": item})),
        ]
    }

    /// Returns the last event: `response.completed`, `response.incomplete` or `response.failed`. A cancelled response has none.
    pub fn end(&mut self, status: Status<'_>) -> Option<Frame> {
        let kind = match status {
            Status::InProgress | Status::Cancelled => return None,
            Status::Completed(_) => "response.completed",
            Status::Incomplete(_) => "response.incomplete",
            Status::Failed(..) => "response.failed",
        };
        Some(self.with_object(kind, status))
    }

    /// Returns an error inside the stream.
    pub fn error(&mut self, code: &str, message: &str) -> Frame {
        self.event("error", &json!({"code": code, "message": message, "param": null}))
    }

    /// Returns the response as an object.
    #[must_use]
    pub fn object(&self, status: Status<'_>) -> String {
        written(&self.response(status))
    }

    fn with_object(&mut self, kind: &'static str, status: Status<'_>) -> Frame {
        let number = self.number();
        let data = written(&WithObject {
            kind,
            sequence_number: number,
            response: self.response(status),
            stream_id: self.head.stream_id.as_deref(),
        });
        Frame { event: Some(kind), number: Some(number), data }
    }

    fn part_event(&mut self, kind: &'static str, field: &str, value: Value) -> Frame {
        let mut fields = json!({"item_id": self.head.item_id, "output_index": 0, "content_index": 0});
        fields[field] = value;
        if field == "text" {
            fields["logprobs"] = json!([]);
        }
        self.event(kind, &fields)
    }

    fn event(&mut self, kind: &'static str, fields: &Value) -> Frame {
        let sequence_number = self.number();
        let stream_id = self.head.stream_id.as_deref();
        let data = written(&Event { kind, sequence_number, fields, stream_id });
        Frame { event: Some(kind), number: Some(sequence_number), data }
    }

    const fn number(&mut self) -> u64 {
        self.next += 1;
        self.next - 1
    }

    fn response<'a>(&'a self, status: Status<'a>) -> Object<'a> {
        let head = &self.head;
        let (name, output) = match status {
            Status::InProgress => ("in_progress", None),
            Status::Completed(output) => ("completed", Some(output)),
            Status::Incomplete(output) => ("incomplete", Some(output)),
            Status::Failed(..) => ("failed", None),
            Status::Cancelled => ("cancelled", None),
        };
        let error = match status {
            Status::Failed(code, message) => Some(json!({"code": code, "message": message})),
            _ => None,
        };
        let incomplete =
            matches!(status, Status::Incomplete(_)).then(|| json!({"reason": "max_output_tokens"}));
        let text = output.and_then(|output| output.text);
        let item_status = if incomplete.is_some() { "incomplete" } else { "completed" };
        let item = text.map(|text| Item { id: &head.item_id, status: item_status, text: Some(text) }.value());
        Object {
            id: &head.id,
            object: "response",
            created_at: head.created_at,
            status: name,
            background: head.background,
            completed_at: output.filter(|_| name == "completed").map(|output| output.ended_at),
            error,
            frequency_penalty: 0.0,
            incomplete_details: incomplete,
            instructions: &head.instructions,
            max_output_tokens: head.max_output_tokens,
            max_tool_calls: None,
            metadata: &head.metadata,
            model: &head.model,
            output: item.into_iter().collect(),
            parallel_tool_calls: true,
            presence_penalty: 0.0,
            previous_response_id: head.previous_response_id.as_deref(),
            prompt_cache_key: None,
            reasoning: Reasoning { effort: None, summary: None },
            safety_identifier: None,
            service_tier: "default",
            store: head.store,
            temperature: head.temperature,
            text: Format { format: Kind { kind: "text" } },
            tool_choice: "auto",
            tools: [],
            top_logprobs: 0,
            top_p: head.top_p,
            truncation: "disabled",
            usage: output.map(|output| Usage {
                input_tokens: head.input_tokens,
                input_tokens_details: Cached { cached_tokens: 0 },
                output_tokens: output.tokens,
                output_tokens_details: Reasoned { reasoning_tokens: 0 },
                total_tokens: head.input_tokens + output.tokens,
            }),
            user: None,
        }
    }
}

/// An error of a request over a WebSocket: `{"type": "error", "status", "error": {…}}`, with the lane if it is named.
#[must_use]
pub fn socket_error(
    status: u16,
    stream_id: Option<&str>,
    (kind, code, message, param): (&str, Option<&str>, &str, Option<&str>),
) -> String {
    let error = json!({"type": kind, "code": code, "message": message, "param": param});
    let mut event = json!({"type": "error", "status": status, "error": error});
    if let Some(stream_id) = stream_id {
        event["stream_id"] = json!(stream_id);
    }
    event.to_string()
}

fn written(event: &impl Serialize) -> String {
    // Numbers, texts and lists can always be written.
    serde_json::to_string(event).unwrap_or_default()
}

fn part(text: &str) -> Value {
    json!({"type": "output_text", "text": text, "annotations": [], "logprobs": []})
}

struct Item<'a> {
    id: &'a str,
    status: &'a str,
    text: Option<&'a str>,
}

impl Item<'_> {
    fn value(&self) -> Value {
        let content: Vec<_> = self.text.map(part).into_iter().collect();
        json!({"id": self.id, "type": "message", "role": "assistant", "status": self.status, "content": content})
    }
}

#[derive(Serialize)]
struct Delta<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    sequence_number: u64,
    item_id: &'a str,
    output_index: u32,
    content_index: u32,
    delta: &'a str,
    logprobs: [(); 0],
    #[serde(skip_serializing_if = "Option::is_none")]
    stream_id: Option<&'a str>,
    #[serde(flatten)]
    marks: Option<Marks>,
}

#[derive(Serialize)]
struct Event<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    sequence_number: u64,
    #[serde(flatten)]
    fields: &'a Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    stream_id: Option<&'a str>,
}

#[derive(Serialize)]
struct WithObject<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    sequence_number: u64,
    response: Object<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stream_id: Option<&'a str>,
}

/// A response with every field that the schema requires.
#[derive(Serialize)]
struct Object<'a> {
    id: &'a str,
    object: &'a str,
    created_at: u64,
    status: &'a str,
    background: bool,
    completed_at: Option<u64>,
    error: Option<Value>,
    frequency_penalty: f64,
    incomplete_details: Option<Value>,
    instructions: &'a Value,
    max_output_tokens: Option<u64>,
    max_tool_calls: Option<u64>,
    metadata: &'a Map<String, Value>,
    model: &'a str,
    output: Vec<Value>,
    parallel_tool_calls: bool,
    presence_penalty: f64,
    previous_response_id: Option<&'a str>,
    prompt_cache_key: Option<&'a str>,
    reasoning: Reasoning,
    safety_identifier: Option<&'a str>,
    service_tier: &'a str,
    store: bool,
    temperature: f64,
    text: Format<'a>,
    tool_choice: &'a str,
    tools: [(); 0],
    top_logprobs: u32,
    top_p: f64,
    truncation: &'a str,
    usage: Option<Usage>,
    user: Option<&'a str>,
}

#[derive(Serialize)]
struct Reasoning {
    effort: Option<()>,
    summary: Option<()>,
}

#[derive(Serialize)]
struct Format<'a> {
    format: Kind<'a>,
}

#[derive(Serialize)]
struct Kind<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
}

#[derive(Serialize)]
struct Usage {
    input_tokens: u64,
    input_tokens_details: Cached,
    output_tokens: u64,
    output_tokens_details: Reasoned,
    total_tokens: u64,
}

#[derive(Serialize)]
struct Cached {
    cached_tokens: u64,
}

#[derive(Serialize)]
struct Reasoned {
    reasoning_tokens: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head() -> Head {
        Head {
            id: "resp_1".to_owned(),
            item_id: "msg_1".to_owned(),
            stream_id: None,
            created_at: 1,
            model: "m".to_owned(),
            previous_response_id: None,
            instructions: Value::Null,
            metadata: Map::new(),
            max_output_tokens: None,
            temperature: 1.0,
            top_p: 1.0,
            store: true,
            background: false,
            input_tokens: 3,
        }
    }

    fn check(frame: &Frame, expected: &Value) {
        let data: Value = serde_json::from_str(&frame.data).unwrap();
        assert_eq!(&data, expected);
        assert_eq!(
            (frame.event, frame.number),
            (expected["type"].as_str(), expected["sequence_number"].as_u64())
        );
        assert!(frame.data.starts_with("{\"type\":\""), "{}", frame.data);
    }

    fn object(status: &str) -> Value {
        json!({
            "id": "resp_1", "object": "response", "created_at": 1, "status": status, "background": false,
            "completed_at": null, "error": null, "frequency_penalty": 0.0, "incomplete_details": null,
            "instructions": null, "max_output_tokens": null, "max_tool_calls": null, "metadata": {},
            "model": "m", "output": [], "parallel_tool_calls": true, "presence_penalty": 0.0,
            "previous_response_id": null, "prompt_cache_key": null,
            "reasoning": {"effort": null, "summary": null}, "safety_identifier": null,
            "service_tier": "default", "store": true, "temperature": 1.0,
            "text": {"format": {"type": "text"}}, "tool_choice": "auto", "tools": [], "top_logprobs": 0,
            "top_p": 1.0, "truncation": "disabled", "usage": null, "user": null,
        })
    }

    #[test]
    fn the_events_of_a_response_are_numbered_from_zero() {
        let mut writer = Writer::new(head());
        let [created, running] = writer.begin();
        check(
            &created,
            &json!({"type": "response.created", "sequence_number": 0, "response": object("in_progress")}),
        );
        check(
            &running,
            &json!({"type": "response.in_progress", "sequence_number": 1, "response": object("in_progress")}),
        );
        let [item, part] = writer.open();
        check(
            &item,
            &json!({"type": "response.output_item.added", "sequence_number": 2, "output_index": 0,
                "item": {"id": "msg_1", "type": "message", "role": "assistant", "status": "in_progress", "content": []}}),
        );
        check(
            &part,
            &json!({"type": "response.content_part.added", "sequence_number": 3, "item_id": "msg_1", "output_index": 0,
                "content_index": 0, "part": {"type": "output_text", "text": "", "annotations": [], "logprobs": []}}),
        );
        assert_eq!(
            writer.token("a ", None).data,
            r#"{"type":"response.output_text.delta","sequence_number":4,"item_id":"msg_1","output_index":0,"content_index":0,"delta":"a ","logprobs":[]}"#
        );
        let marked = writer.token("b", Some(Marks { seq: 2, due_us: 5, sent_us: 6 }));
        check(
            &marked,
            &json!({"type": "response.output_text.delta", "sequence_number": 5, "item_id": "msg_1", "output_index": 0,
                "content_index": 0, "delta": "b", "logprobs": [], "x_seq": 2, "x_due_us": 5, "x_sent_us": 6}),
        );
        let whole = json!({"type": "output_text", "text": "a b", "annotations": [], "logprobs": []});
        let message = json!({"id": "msg_1", "type": "message", "role": "assistant", "status": "completed", "content": [whole]});
        let [text, part, item] = writer.close("a b");
        check(
            &text,
            &json!({"type": "response.output_text.done", "sequence_number": 6, "item_id": "msg_1", "output_index": 0,
                "content_index": 0, "text": "a b", "logprobs": []}),
        );
        check(
            &part,
            &json!({"type": "response.content_part.done", "sequence_number": 7, "item_id": "msg_1", "output_index": 0,
                "content_index": 0, "part": whole}),
        );
        check(
            &item,
            &json!({"type": "response.output_item.done", "sequence_number": 8, "output_index": 0, "item": message}),
        );
        let output = Output { text: Some("a b"), tokens: 2, ended_at: 4 };
        let mut ended = object("completed");
        ended["completed_at"] = json!(4);
        ended["output"] = json!([message]);
        ended["usage"] = json!({"input_tokens": 3, "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": 2, "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": 5});
        check(
            &writer.end(Status::Completed(output)).unwrap(),
            &json!({"type": "response.completed", "sequence_number": 9, "response": ended}),
        );
        assert_eq!(serde_json::from_str::<Value>(&writer.object(Status::Completed(output))).unwrap(), ended);
        assert_eq!(writer.next_number(), 10);
    }

    #[test]
    fn other_ends_name_their_reason() {
        let mut writer = Writer::new(head());
        let output = Output { text: Some("a"), tokens: 1, ended_at: 4 };
        let incomplete: Value =
            serde_json::from_str(&writer.end(Status::Incomplete(output)).unwrap().data).unwrap();
        assert_eq!(incomplete["type"], "response.incomplete");
        assert_eq!(incomplete["response"]["status"], "incomplete");
        assert_eq!(incomplete["response"]["incomplete_details"], json!({"reason": "max_output_tokens"}));
        assert_eq!(incomplete["response"]["output"][0]["status"], "incomplete");
        let error = writer.error("server_error", "no");
        check(
            &error,
            &json!({"type": "error", "sequence_number": 1, "code": "server_error", "message": "no", "param": null}),
        );
        let failed = writer.end(Status::Failed("server_error", "no")).unwrap();
        let failed: Value = serde_json::from_str(&failed.data).unwrap();
        assert_eq!(failed["response"]["error"], json!({"code": "server_error", "message": "no"}));
        assert_eq!(writer.end(Status::Cancelled), None);
        let cancelled: Value = serde_json::from_str(&writer.object(Status::Cancelled)).unwrap();
        assert_eq!(cancelled, object("cancelled"));
    }

    #[test]
    fn a_named_lane_is_in_every_event() {
        let mut writer = Writer::new(Head { stream_id: Some("main".to_owned()), ..head() });
        let mut frames = writer.begin().to_vec();
        frames.extend(writer.open());
        frames.push(writer.token("a", None));
        frames.extend(writer.close("a"));
        frames.extend(writer.end(Status::Completed(Output { text: Some("a"), tokens: 1, ended_at: 2 })));
        for (number, frame) in frames.iter().enumerate() {
            let data: Value = serde_json::from_str(&frame.data).unwrap();
            assert_eq!((&data["stream_id"], &data["sequence_number"]), (&json!("main"), &json!(number)));
        }
        let no_output = Output { text: None, tokens: 0, ended_at: 2 };
        let warm: Value = serde_json::from_str(&writer.object(Status::Completed(no_output))).unwrap();
        assert_eq!((&warm["output"], &warm["usage"]["output_tokens"]), (&json!([]), &json!(0)));
    }

    #[test]
    fn errors_of_requests_have_an_envelope() {
        let error = (
            "invalid_request_error",
            Some("previous_response_not_found"),
            "no",
            Some("previous_response_id"),
        );
        let event: Value = serde_json::from_str(&socket_error(400, Some("main"), error)).unwrap();
        assert_eq!(
            event,
            json!({"type": "error", "status": 400, "stream_id": "main", "error": {"type": "invalid_request_error",
                "code": "previous_response_not_found", "message": "no", "param": "previous_response_id"}})
        );
        let event: Value = serde_json::from_str(&socket_error(429, None, error)).unwrap();
        assert_eq!(event.get("stream_id"), None);
    }
}
