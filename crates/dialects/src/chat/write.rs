//! Writes what a server sends: the chunks of a stream, or one whole answer. [`Writer`] also writes the older Completions
//! (`POST /v1/completions`), whose chunks have the text in another place.

use crate::sse::write::{DONE, Frame, Marks};
use serde::Serialize;

/// Which of the two calls is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// `POST /v1/chat/completions`.
    Chat,
    /// `POST /v1/completions`.
    Text,
}

/// Which chunks carry the usage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Usage {
    /// None of them.
    Never,
    /// A separate chunk before the end. All others carry `null`.
    AtEnd,
    /// Every chunk, with the counts so far, and a separate chunk before the end.
    Continuous,
}

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Finish {
    /// The model had nothing more to say.
    Stop,
    /// The limit of tokens was reached.
    Length,
}

/// What is equal in all chunks of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// The call that is answered.
    pub shape: Shape,
    /// The id of the answer.
    pub id: String,
    /// When it was created, in seconds since the Unix epoch.
    pub created: u64,
    /// The model's name, as requested.
    pub model: String,
    /// The number of tokens of the prompt.
    pub prompt_tokens: u64,
    /// Which chunks carry the usage.
    pub usage: Usage,
}

/// Writes one answer. It counts the tokens.
#[derive(Clone, Debug)]
pub struct Writer {
    head: Head,
    tokens: u64,
}

impl Writer {
    /// Creates the writer of one answer.
    #[must_use]
    pub const fn new(head: Head) -> Self {
        Self { head, tokens: 0 }
    }

    /// Returns the chunk that names the role. Completions have none.
    #[must_use]
    pub fn role(&self) -> Option<Frame> {
        let delta = Delta { role: Some("assistant"), content: Some("") };
        (self.head.shape == Shape::Chat).then(|| self.chunk(&[Choice::chat(delta, None)], None))
    }

    /// Returns the chunk with the text of the next `tokens` tokens.
    pub fn token(&mut self, text: &str, tokens: u64, finish: Option<Finish>, marks: Option<Marks>) -> Frame {
        self.tokens += tokens;
        let choice = match self.head.shape {
            Shape::Chat => Choice::chat(Delta { role: None, content: Some(text) }, finish),
            Shape::Text => Choice::text(text, finish),
        };
        self.chunk(&[choice], marks)
    }

    /// Returns the chunk that only tells why the answer ended.
    #[must_use]
    pub fn finish(&self, finish: Finish) -> Frame {
        let choice = match self.head.shape {
            Shape::Chat => Choice::chat(Delta { role: None, content: None }, Some(finish)),
            Shape::Text => Choice::text("", Some(finish)),
        };
        self.chunk(&[choice], None)
    }

    /// Returns the chunk with the usage, if the request asked for it.
    #[must_use]
    pub fn usage(&self) -> Option<Frame> {
        (self.head.usage != Usage::Never).then(|| self.written(&[], Some(Some(self.counts())), None))
    }

    /// Returns the last frame.
    #[must_use]
    pub fn done() -> Frame {
        Frame::unnamed(DONE.to_owned())
    }

    /// Returns an answer that is not streamed.
    #[must_use]
    pub fn whole(&self, text: &str, tokens: u64, finish: Finish) -> String {
        let message = Message { role: "assistant", content: text };
        let choice = match self.head.shape {
            Shape::Chat => Choice { message: Some(message), ..Choice::chat_without_delta(finish) },
            Shape::Text => Choice::text(text, Some(finish)),
        };
        let object = match self.head.shape {
            Shape::Chat => "chat.completion",
            Shape::Text => "text_completion",
        };
        let usage = Counts::new(self.head.prompt_tokens, tokens);
        self.json(object, &[choice], Some(Some(usage)), None)
    }

    fn chunk(&self, choices: &[Choice<'_>], marks: Option<Marks>) -> Frame {
        let usage = match self.head.usage {
            Usage::Never => None,
            Usage::AtEnd => Some(None),
            Usage::Continuous => Some(Some(self.counts())),
        };
        self.written(choices, usage, marks)
    }

    fn written(&self, choices: &[Choice<'_>], usage: Option<Option<Counts>>, marks: Option<Marks>) -> Frame {
        let object = match self.head.shape {
            Shape::Chat => "chat.completion.chunk",
            Shape::Text => "text_completion",
        };
        Frame::unnamed(self.json(object, choices, usage, marks))
    }

    fn json(
        &self,
        object: &str,
        choices: &[Choice<'_>],
        usage: Option<Option<Counts>>,
        marks: Option<Marks>,
    ) -> String {
        let Head { id, created, model, .. } = &self.head;
        let answer = Answer { id, object, created: *created, model, choices, usage, marks };
        // Numbers and texts can always be written.
        serde_json::to_string(&answer).unwrap_or_default()
    }

    const fn counts(&self) -> Counts {
        Counts::new(self.head.prompt_tokens, self.tokens)
    }
}

#[derive(Serialize)]
struct Answer<'a> {
    id: &'a str,
    object: &'a str,
    created: u64,
    model: &'a str,
    choices: &'a [Choice<'a>],
    /// The field is left out, `null`, or present.
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Option<Counts>>,
    #[serde(flatten)]
    marks: Option<Marks>,
}

#[derive(Serialize)]
struct Choice<'a> {
    index: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    delta: Option<Delta<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<Message<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<&'a str>,
    logprobs: Option<()>,
    finish_reason: Option<Finish>,
}

impl<'a> Choice<'a> {
    const fn chat(delta: Delta<'a>, finish_reason: Option<Finish>) -> Self {
        Self { index: 0, delta: Some(delta), message: None, text: None, logprobs: None, finish_reason }
    }

    const fn chat_without_delta(finish: Finish) -> Self {
        Self { index: 0, delta: None, message: None, text: None, logprobs: None, finish_reason: Some(finish) }
    }

    const fn text(text: &'a str, finish_reason: Option<Finish>) -> Self {
        Self { index: 0, delta: None, message: None, text: Some(text), logprobs: None, finish_reason }
    }
}

#[derive(Serialize)]
struct Delta<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<&'a str>,
}

#[derive(Serialize)]
struct Message<'a> {
    role: &'a str,
    content: &'a str,
}

#[derive(Clone, Copy, Serialize)]
struct Counts {
    prompt_tokens: u64,
    completion_tokens: u64,
    total_tokens: u64,
}

impl Counts {
    const fn new(prompt_tokens: u64, completion_tokens: u64) -> Self {
        Self { prompt_tokens, completion_tokens, total_tokens: prompt_tokens + completion_tokens }
    }
}

/// Returns the body of an error: `{"error": {"message", "type", "param", "code"}}`. It is the body of a failed call, and the data of an
/// error inside a stream.
#[must_use]
pub fn error(message: &str, kind: &str, param: Option<&str>, code: Option<&str>) -> String {
    serde_json::json!({"error": {"message": message, "type": kind, "param": param, "code": code}}).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn writer(shape: Shape, usage: Usage) -> Writer {
        let (id, model) = ("chatcmpl-1".to_owned(), "m".to_owned());
        Writer::new(Head { shape, id, created: 1, model, prompt_tokens: 3, usage })
    }

    fn check(frame: &Frame, expected: &str) {
        assert_eq!((frame.event, frame.number), (None, None));
        assert_eq!(frame.data, expected);
    }

    #[test]
    fn a_stream_without_usage() {
        let mut writer = writer(Shape::Chat, Usage::Never);
        let head = r#"{"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"#;
        let role = writer.role().unwrap();
        check(
            &role,
            &format!(
                r#"{head}"delta":{{"role":"assistant","content":""}},"logprobs":null,"finish_reason":null}}]}}"#
            ),
        );
        check(
            &writer.token("tok", 1, None, None),
            &format!(r#"{head}"delta":{{"content":"tok"}},"logprobs":null,"finish_reason":null}}]}}"#),
        );
        let marks = Marks { seq: 2, due_us: 7, sent_us: 9 };
        check(
            &writer.token("\"é", 1, Some(Finish::Length), Some(marks)),
            &format!(
                r#"{head}"delta":{{"content":"\"é"}},"logprobs":null,"finish_reason":"length"}}],"x_seq":2,"x_due_us":7,"x_sent_us":9}}"#
            ),
        );
        check(
            &writer.finish(Finish::Stop),
            &format!(r#"{head}"delta":{{}},"logprobs":null,"finish_reason":"stop"}}]}}"#),
        );
        assert_eq!(writer.usage(), None);
        check(&Writer::done(), "[DONE]");
    }

    #[test]
    fn the_usage_is_null_until_the_end() {
        let mut writer = writer(Shape::Chat, Usage::AtEnd);
        let token = writer.token("tok", 9, None, None).data;
        assert!(token.ends_with(r#""finish_reason":null}],"usage":null}"#), "{token}");
        check(
            &writer.usage().unwrap(),
            r#"{"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"m","choices":[],"usage":{"prompt_tokens":3,"completion_tokens":9,"total_tokens":12}}"#,
        );
    }

    #[test]
    fn a_continuous_usage_counts_so_far() {
        let mut writer = writer(Shape::Chat, Usage::Continuous);
        let ends = |frame: &Frame, tokens: u64| {
            let usage = format!(
                r#","usage":{{"prompt_tokens":3,"completion_tokens":{tokens},"total_tokens":{}}}}}"#,
                3 + tokens
            );
            assert!(frame.data.ends_with(&usage), "{}", frame.data);
        };
        ends(&writer.role().unwrap(), 0);
        ends(&writer.token("a", 1, None, None), 1);
        ends(&writer.token("b", 2, None, None), 3);
        ends(&writer.usage().unwrap(), 3);
    }

    #[test]
    fn completions_have_their_text_in_the_choice() {
        let mut writer = writer(Shape::Text, Usage::Never);
        assert_eq!(writer.role(), None);
        check(
            &writer.token("tok", 1, None, None),
            r#"{"id":"chatcmpl-1","object":"text_completion","created":1,"model":"m","choices":[{"index":0,"text":"tok","logprobs":null,"finish_reason":null}]}"#,
        );
        assert!(
            writer.finish(Finish::Stop).data.contains(r#""text":"","logprobs":null,"finish_reason":"stop""#)
        );
    }

    #[test]
    fn whole_answers() {
        assert_eq!(
            writer(Shape::Chat, Usage::Never).whole("a b", 2, Finish::Stop),
            r#"{"id":"chatcmpl-1","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"a b"},"logprobs":null,"finish_reason":"stop"}],"usage":{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5}}"#,
        );
        assert_eq!(
            writer(Shape::Text, Usage::Never).whole("a b", 2, Finish::Length),
            r#"{"id":"chatcmpl-1","object":"text_completion","created":1,"model":"m","choices":[{"index":0,"text":"a b","logprobs":null,"finish_reason":"length"}],"usage":{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5}}"#,
        );
    }

    #[test]
    fn an_error_has_all_four_fields() {
        assert_eq!(
            error("no", "invalid_request_error", Some("model"), None),
            r#"{"error":{"code":null,"message":"no","param":"model","type":"invalid_request_error"}}"#
        );
    }
}
