//! Reads the body of Chat Completions and of Completions. Unknown fields are ignored, because every client sends some.

use crate::openai::{
    extension::Extension,
    fields::{Fields, content_words, invalid, object, words},
    problem::Problem,
};
use dialects::chat::write::{Shape, Usage};
use serde_json::Value;

/// A valid request. The prompt is counted and dropped, because the simulator answers with its configured text.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct ChatRequest {
    pub(super) shape: Shape,
    pub(super) model: String,
    pub(super) stream: bool,
    pub(super) usage: Usage,
    pub(super) prompt_tokens: u64,
    /// The limit of tokens.
    pub(super) limit: Option<u64>,
    /// `None` if the request has none: the server's defaults count.
    pub(super) extension: Option<Extension>,
}

impl ChatRequest {
    /// Reads a body.
    ///
    /// # Errors
    /// The first field that is wrong, with its value and what is expected.
    pub(super) fn parse(body: &[u8], shape: Shape) -> Result<Self, Problem> {
        let object = object(body)?;
        let fields = Fields(&object);
        let model = fields.model()?;
        let prompt_tokens = match shape {
            Shape::Chat => messages(fields)?,
            Shape::Text => prompt(fields)?,
        };
        if fields.number("n")?.is_some_and(|n| n != 1.0) {
            return Err(invalid("n", "`n` must be 1: the simulator gives one answer"));
        }
        let limit = fields.tokens("max_completion_tokens")?.or(fields.tokens("max_tokens")?);
        Ok(Self {
            shape,
            model,
            stream: fields.switch("stream", false)?,
            usage: usage(fields)?,
            prompt_tokens,
            limit,
            extension: Extension::read(&object)?,
        })
    }
}

fn messages(fields: Fields<'_>) -> Result<u64, Problem> {
    let expected = "`messages` must be a list of objects with `role` and `content`, and not empty";
    let messages = fields.get("messages").and_then(Value::as_array).filter(|list| !list.is_empty());
    let messages = messages.ok_or_else(|| invalid("messages", expected))?;
    if !messages.iter().all(Value::is_object) {
        return Err(invalid("messages", expected));
    }
    Ok(messages.iter().map(|message| content_words(&message["content"])).sum())
}

/// Reads the prompt: a text, a list of one text, or a list of tokens.
fn prompt(fields: Fields<'_>) -> Result<u64, Problem> {
    match fields.get("prompt") {
        Some(Value::String(prompt)) => Ok(words(prompt)),
        Some(Value::Array(list)) if list.iter().all(Value::is_u64) => Ok(list.len() as u64),
        Some(Value::Array(list)) if list.len() == 1 => match &list[0] {
            Value::String(prompt) => Ok(words(prompt)),
            Value::Array(tokens) => Ok(tokens.len() as u64),
            _ => Err(invalid("prompt", "`prompt` must be a text, or a list of tokens")),
        },
        _ => Err(invalid("prompt", "`prompt` must be one text, or one list of tokens")),
    }
}

/// Reads which chunks carry the usage. Clients send `continuous_usage_stats` in `stream_options` or beside it.
fn usage(fields: Fields<'_>) -> Result<Usage, Problem> {
    let options = fields.object("stream_options")?.map(Fields);
    let is_set = |name| {
        let inside = options.map_or(Ok(false), |options| options.switch(name, false))?;
        Ok::<_, Problem>(inside || fields.switch(name, false)?)
    };
    Ok(match (is_set("include_usage")?, is_set("continuous_usage_stats")?) {
        (_, true) => Usage::Continuous,
        (true, false) => Usage::AtEnd,
        (false, false) => Usage::Never,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn chat(body: &Value) -> Result<ChatRequest, Problem> {
        ChatRequest::parse(body.to_string().as_bytes(), Shape::Chat)
    }

    #[test]
    fn what_clients_send_is_read() {
        let request = chat(&json!({
            "model": "sim", "stream": true, "stream_options": {"include_usage": true}, "max_tokens": 7, "max_completion_tokens": 9,
            "messages": [{"role": "system", "content": "be brief"}, {"role": "user", "content": [{"type": "text", "text": "hi there you"},
                {"type": "image_url", "image_url": {"url": "x"}}]}, {"role": "assistant", "content": null}],
            "ignore_eos": true, "min_tokens": 3, "stop": null, "temperature": 0.5, "repetition_penalty": 1,
        }))
        .unwrap();
        assert_eq!((request.model.as_str(), request.stream, request.usage), ("sim", true, Usage::AtEnd));
        assert_eq!((request.prompt_tokens, request.limit), (5, Some(9)));
        let least = chat(&json!({"model": "sim", "messages": [{}], "max_tokens": 7})).unwrap();
        assert_eq!(
            (least.stream, least.usage, least.prompt_tokens, least.limit),
            (false, Usage::Never, 0, Some(7))
        );
        for options in [
            json!({"stream_options": {"include_usage": true, "continuous_usage_stats": true}}),
            json!({"stream_options": {"include_usage": true}, "continuous_usage_stats": true}),
        ] {
            let mut body = json!({"model": "sim", "messages": [{}]});
            body.as_object_mut().unwrap().extend(options.as_object().unwrap().clone());
            assert_eq!(chat(&body).unwrap().usage, Usage::Continuous);
        }
    }

    #[test]
    fn prompts_of_completions_are_texts_or_tokens() {
        let tokens = |prompt: Value| {
            let body = json!({"model": "sim", "prompt": prompt}).to_string();
            ChatRequest::parse(body.as_bytes(), Shape::Text).map(|request| request.prompt_tokens)
        };
        assert_eq!(tokens(json!("a b c")), Ok(3));
        assert_eq!(tokens(json!(["a b"])), Ok(2));
        assert_eq!(tokens(json!([5, 6, 7, 8])), Ok(4));
        assert_eq!(tokens(json!([[5, 6]])), Ok(2));
        assert!(tokens(json!(["a", "b"])).is_err() && tokens(json!(null)).is_err());
    }

    #[test]
    fn errors_name_the_field() {
        let check = |body: Value, param: &str| {
            let Problem::Invalid(_, found) = chat(&body).unwrap_err() else { panic!("{body}") };
            assert_eq!(found, param, "{body}");
        };
        check(json!({"messages": [{}]}), "model");
        check(json!({"model": "", "messages": [{}]}), "model");
        check(json!({"model": "m"}), "messages");
        check(json!({"model": "m", "messages": []}), "messages");
        check(json!({"model": "m", "messages": ["hi"]}), "messages");
        check(json!({"model": "m", "messages": [{}], "n": 2}), "n");
        check(json!({"model": "m", "messages": [{}], "max_tokens": 0}), "max_tokens");
        check(json!({"model": "m", "messages": [{}], "stream": "yes"}), "stream");
        check(json!({"model": "m", "messages": [{}], "streamstress": {"x": 1}}), "streamstress");
        assert!(matches!(ChatRequest::parse(b"[]", Shape::Chat), Err(Problem::Malformed(_))));
    }

    proptest! {
        #[test]
        fn parsing_never_panics(body in prop::collection::vec(any::<u8>(), 0..200), text in ".{0,100}") {
            let _ = ChatRequest::parse(&body, Shape::Chat);
            let _ = ChatRequest::parse(text.as_bytes(), Shape::Text);
        }
    }
}
