//! What is asked of a server, and the bodies that ask for it.

use serde::Serialize;
use serde_json::{Value, json};

/// One question.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Question<'a> {
    /// The model. Empty: the server chooses.
    pub model: &'a str,
    /// The text.
    pub prompt: &'a str,
    /// Upper limit of the answer's tokens.
    pub max_tokens: Option<u32>,
    /// The id of the answer before, to which this question belongs.
    pub previous: Option<&'a str>,
    /// The server should keep the answer, so that a lost stream can be resumed.
    pub background: bool,
    /// What the project's own simulator should play. `None` for any other server.
    pub simulated: Option<Simulated>,
}

/// What the simulator should play. The field of this name in a request has the meaning of the body of `/run`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Simulated {
    /// Seed of the answer's text and times.
    pub seed: u64,
    /// Number of tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens: Option<u32>,
    /// Time before the first token in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttft_ms: Option<f64>,
    /// Time after each token in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub itl_ms: Option<f64>,
    /// Tokens should carry their numbers, due times and sending times.
    pub marks: bool,
}

/// Returns the body of `POST /v1/chat/completions`.
#[must_use]
pub fn chat(question: &Question<'_>) -> Value {
    let mut body = json!({
        "messages": [{"role": "user", "content": question.prompt}],
        "stream": true,
        "stream_options": {"include_usage": true},
    });
    common(&mut body, question, "max_completion_tokens");
    body
}

/// Returns the body of `POST /v1/responses`.
#[must_use]
pub fn responses(question: &Question<'_>) -> Value {
    let mut body = json!({ "input": question.prompt, "stream": true });
    if question.background {
        // Only a stored answer can be read again.
        body["background"] = true.into();
        body["store"] = true.into();
    }
    common(&mut body, question, "max_output_tokens");
    body
}

/// Returns the message that asks for an answer over a WebSocket.
#[must_use]
pub fn responses_ws(question: &Question<'_>) -> Value {
    let content = json!([{"type": "input_text", "text": question.prompt}]);
    let mut body = json!({
        "type": "response.create",
        "store": false,
        "input": [{"type": "message", "role": "user", "content": content}],
    });
    if let Some(previous) = question.previous {
        body["previous_response_id"] = previous.into();
    }
    common(&mut body, question, "max_output_tokens");
    body
}

fn common(body: &mut Value, question: &Question<'_>, max_tokens: &str) {
    if !question.model.is_empty() {
        body["model"] = question.model.into();
    }
    if let Some(most) = question.max_tokens {
        body[max_tokens] = most.into();
    }
    if let Some(simulated) = &question.simulated {
        body["streamstress"] = json!(simulated);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_but_the_question_is_sent_to_a_foreign_server() {
        let question = Question { model: "m", prompt: "hi", max_tokens: Some(9), ..Question::default() };
        let expected = r#"{"max_completion_tokens":9,"messages":[{"content":"hi","role":"user"}],"model":"m","stream":true,"stream_options":{"include_usage":true}}"#;
        assert_eq!(chat(&question).to_string(), expected);
        let expected = r#"{"input":"hi","max_output_tokens":9,"model":"m","stream":true}"#;
        assert_eq!(responses(&question).to_string(), expected);
        let body = responses_ws(&Question { previous: Some("resp_1"), ..question.clone() });
        assert_eq!(
            (&body["type"], &body["previous_response_id"]),
            (&"response.create".into(), &"resp_1".into())
        );
        assert!(body.get("stream").is_none() && body.get("streamstress").is_none());
        let background = responses(&Question { background: true, ..question });
        assert_eq!((&background["background"], &background["store"]), (&true.into(), &true.into()));
    }

    #[test]
    fn the_simulator_learns_what_to_play() {
        let simulated = Simulated { seed: 3, tokens: Some(5), ttft_ms: None, itl_ms: Some(2.5), marks: true };
        let body = chat(&Question { prompt: "hi", simulated: Some(simulated), ..Question::default() });
        assert_eq!(body["streamstress"], json!({"seed": 3, "tokens": 5, "itl_ms": 2.5, "marks": true}));
        assert!(body.get("model").is_none());
    }
}
