//! Reads the body of Responses, over HTTP and as a message of a WebSocket. Unknown fields are ignored.

use crate::openai::{
    extension::Extension,
    fields::{Fields, content_words, invalid, object, words},
    problem::Problem,
};
use serde_json::{Map, Value};

/// A valid request. The input is counted and dropped, because the simulator answers with its configured text.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct ResponsesRequest {
    pub(super) model: String,
    pub(super) stream: bool,
    pub(super) background: bool,
    pub(super) store: bool,
    /// False for a warm-up, which gives a response without output.
    pub(super) generate: bool,
    pub(super) previous: Option<String>,
    /// The tokens of input and instructions.
    pub(super) input_tokens: u64,
    pub(super) limit: Option<u64>,
    pub(super) instructions: Value,
    pub(super) metadata: Map<String, Value>,
    pub(super) temperature: f64,
    pub(super) top_p: f64,
    /// `None` if the request has none: the server's defaults count.
    pub(super) extension: Option<Extension>,
}

/// A message of a WebSocket: the lane that it names, and what it asks for.
#[derive(Debug, PartialEq)]
pub(super) struct Message {
    /// The name of the lane, or the problem of a wrong name.
    pub(super) lane: Result<Option<String>, Problem>,
    pub(super) request: Result<ResponsesRequest, Problem>,
    /// The id of the response that it continues, also if another field is wrong.
    pub(super) previous: Option<String>,
}

impl ResponsesRequest {
    /// Reads a body.
    ///
    /// # Errors
    /// The first field that is wrong, with its value and what is expected.
    pub(super) fn parse(body: &[u8]) -> Result<Self, Problem> {
        Self::read(&object(body)?)
    }

    fn read(object: &Map<String, Value>) -> Result<Self, Problem> {
        let fields = Fields(object);
        let background = fields.switch("background", false)?;
        let store = fields.switch("store", true)?;
        if background && !store {
            return Err(invalid("background", "`background: true` needs `store: true`"));
        }
        let instructions = fields.string("instructions")?;
        Ok(Self {
            model: fields.model()?,
            stream: fields.switch("stream", false)?,
            background,
            store,
            generate: fields.switch("generate", true)?,
            previous: fields.string("previous_response_id")?.map(str::to_owned),
            input_tokens: input(fields.get("input"))? + instructions.map_or(0, words),
            limit: fields.tokens("max_output_tokens")?,
            instructions: instructions.map_or(Value::Null, Value::from),
            metadata: fields.object("metadata")?.cloned().unwrap_or_default(),
            temperature: fields.number("temperature")?.unwrap_or(1.0),
            top_p: fields.number("top_p")?.unwrap_or(1.0),
            extension: Extension::read(object)?,
        })
    }
}

impl Message {
    /// Reads a message. The fields stand beside `type`, or inside `response` as some clients send them.
    ///
    /// # Errors
    /// It is not a JSON object of the type `response.create`.
    pub(super) fn parse(text: &str) -> Result<Self, Problem> {
        let message = object(text.as_bytes())?;
        let fields = Fields(&message);
        match fields.string("type")? {
            Some("response.create") => {}
            Some(other) => {
                let hint = format!("unknown type \"{other}\" of a message: expected response.create");
                return Err(invalid("type", hint));
            }
            None => return Err(invalid("type", "`type` is missing: expected response.create")),
        }
        let inside = fields.object("response")?.unwrap_or(&message);
        let lane = fields.get("stream_id").or_else(|| inside.get("stream_id")).filter(|lane| !lane.is_null());
        Ok(Self {
            lane: lane.map(lane_name).transpose(),
            request: ResponsesRequest::read(inside),
            previous: inside.get("previous_response_id").and_then(Value::as_str).map(str::to_owned),
        })
    }
}

fn lane_name(value: &Value) -> Result<String, Problem> {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
    let name = value.as_str().filter(|name| (1..=256).contains(&name.len()) && name.bytes().all(is_allowed));
    name.map(str::to_owned).ok_or(Problem::InvalidLane)
}

/// Counts the tokens of the input: a text, or a list of items. The simulator calls no tools, so an item that answers a call is refused.
fn input(input: Option<&Value>) -> Result<u64, Problem> {
    match input {
        None => Ok(0),
        Some(Value::String(text)) => Ok(words(text)),
        Some(Value::Array(items)) => items.iter().map(item).sum(),
        Some(_) => Err(invalid("input", "`input` must be a text or a list of items")),
    }
}

fn item(item: &Value) -> Result<u64, Problem> {
    if !item.is_object() {
        return Err(invalid("input", "an item of `input` must be an object such as a message"));
    }
    if item["type"] == "function_call_output" {
        return Err(Problem::UnknownToolCall(item["call_id"].as_str().unwrap_or_default().to_owned()));
    }
    Ok(content_words(&item["content"]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn parse(body: &Value) -> Result<ResponsesRequest, Problem> {
        ResponsesRequest::parse(body.to_string().as_bytes())
    }

    #[test]
    fn what_clients_send_is_read() {
        let least = parse(&json!({"model": "m", "input": "hi there"})).unwrap();
        assert_eq!((least.stream, least.store, least.background, least.generate), (false, true, false, true));
        assert_eq!((least.input_tokens, least.limit, least.previous), (2, None, None));
        let most = parse(&json!({
            "model": "m", "stream": true, "store": false, "generate": false, "previous_response_id": "resp_1", "max_output_tokens": 9,
            "instructions": "be very brief", "metadata": {"a": "b"}, "temperature": 0.5, "top_p": null, "tools": [],
            "input": [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hi you"}]},
                {"role": "assistant", "content": "hello"}, {"type": "item_reference", "id": "x"}],
        }))
        .unwrap();
        assert_eq!((most.stream, most.store, most.generate), (true, false, false));
        assert_eq!((most.input_tokens, most.limit, most.previous.as_deref()), (6, Some(9), Some("resp_1")));
        assert_eq!((most.temperature, most.top_p, &most.metadata["a"]), (0.5, 1.0, &json!("b")));
    }

    #[test]
    fn errors_name_the_field() {
        let check = |body: Value, param: &str| {
            let Problem::Invalid(_, found) = parse(&body).unwrap_err() else { panic!("{body}") };
            assert_eq!(found, param, "{body}");
        };
        check(json!({"input": "hi"}), "model");
        check(json!({"model": "m", "input": 5}), "input");
        check(json!({"model": "m", "input": ["hi"]}), "input");
        check(json!({"model": "m", "max_output_tokens": 0}), "max_output_tokens");
        check(json!({"model": "m", "background": true, "store": false}), "background");
        check(json!({"model": "m", "metadata": []}), "metadata");
        let tool = json!({"model": "m", "input": [{"type": "function_call_output", "call_id": "call_1", "output": "x"}]});
        assert_eq!(parse(&tool), Err(Problem::UnknownToolCall("call_1".to_owned())));
    }

    #[test]
    fn messages_are_flat_or_nested() {
        let flat = json!({"type": "response.create", "model": "m", "input": "hi", "stream_id": "a.B-3_"});
        let nested = json!({"type": "response.create", "response": {"model": "m", "input": "hi", "stream_id": "a.B-3_"}});
        let flat = Message::parse(&flat.to_string()).unwrap();
        assert_eq!(flat.lane, Ok(Some("a.B-3_".to_owned())));
        assert_eq!(flat, Message::parse(&nested.to_string()).unwrap());
        let unnamed = Message::parse(r#"{"type":"response.create","model":"m","stream_id":null}"#).unwrap();
        assert_eq!(unnamed.lane, Ok(None));
        for name in ["", "a b", "ä", &"x".repeat(257)] {
            let message = json!({"type": "response.create", "model": "m", "stream_id": name}).to_string();
            assert_eq!(Message::parse(&message).unwrap().lane, Err(Problem::InvalidLane), "{name}");
        }
        let wrong = Message::parse(r#"{"type":"response.create","previous_response_id":"resp_1"}"#).unwrap();
        assert!(wrong.request.is_err() && wrong.previous.as_deref() == Some("resp_1"));
        for text in ["", "[]", "{}", r#"{"type":"response.cancel"}"#, r#"{"type":5}"#] {
            assert!(Message::parse(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn parsing_never_panics(text in ".{0,100}", lane in ".{0,20}") {
            let _ = ResponsesRequest::parse(text.as_bytes());
            let _ = Message::parse(&text);
            let _ = Message::parse(&json!({"type": "response.create", "stream_id": lane, "input": text}).to_string());
        }
    }
}
