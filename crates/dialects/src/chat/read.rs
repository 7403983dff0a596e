//! Reads what a server sends: the state machine of one streamed answer.
//! An answer is complete after a `finish_reason` and `[DONE]`, in this order. Neither alone is enough.

use crate::{
    errors,
    message::{End, Failed, Fault, Meaning, Numbering, Times, Usage},
};
use serde::Deserialize;
use serde_json::Value;
use std::borrow::Cow;

/// The literal that ends a stream.
const DONE: &str = "[DONE]";

/// One answer as it arrives.
#[derive(Clone, Debug, Default)]
pub struct ChatAnswer {
    /// A `finish_reason` arrived.
    is_finished: bool,
    /// Why the answer is not the one that was asked for, if its `finish_reason` says so.
    failed: Option<Failed>,
    is_ended: bool,
    /// The highest number of a token that arrived, if the simulator numbers them.
    highest: Option<u64>,
    usage: Option<Usage>,
}

#[derive(Deserialize)]
struct Chunk<'a> {
    #[serde(borrow, default)]
    choices: Option<Vec<Choice<'a>>>,
    #[serde(default)]
    usage: Option<RawUsage>,
    #[serde(default)]
    error: Option<Value>,
    #[serde(default)]
    x_seq: Option<u64>,
    #[serde(default)]
    x_due_us: Option<u64>,
    #[serde(default)]
    x_sent_us: Option<u64>,
}

#[derive(Deserialize)]
struct Choice<'a> {
    #[serde(default)]
    index: u32,
    #[serde(borrow, default)]
    delta: Option<Delta<'a>>,
    #[serde(borrow, default)]
    finish_reason: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
struct Delta<'a> {
    #[serde(borrow, default)]
    content: Option<Text<'a>>,
    #[serde(borrow, default)]
    reasoning_content: Option<Text<'a>>,
    #[serde(borrow, default)]
    reasoning: Option<Text<'a>>,
}

/// A text that is borrowed if it has no escapes, which `Option<Cow>` alone would not do.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

#[derive(Deserialize)]
struct RawUsage {
    #[serde(default)]
    completion_tokens: Option<u64>,
    #[serde(default)]
    completion_tokens_details: Option<RawDetails>,
}

#[derive(Deserialize)]
struct RawDetails {
    #[serde(default)]
    reasoning_tokens: Option<u64>,
}

impl ChatAnswer {
    /// Returns what the data of an event means.
    pub fn event<'a>(&mut self, data: &'a str) -> Meaning<'a> {
        if data == DONE {
            return self.done();
        }
        let Ok(chunk) = serde_json::from_str::<Chunk<'a>>(data) else {
            return Meaning::fault(Fault::Unreadable);
        };
        if let Some(error) = chunk.error.filter(errors::is_truthy) {
            if self.is_ended {
                return Meaning::fault(Fault::AfterEnd);
            }
            self.is_ended = true;
            let failed = errors::failed(&error).unwrap_or_else(|| unknown(&error));
            return Meaning { end: Some(End::Failed(failed)), seq: self.seq_of_end(), ..Meaning::default() };
        }
        let mut meaning = Meaning {
            seq: chunk.x_seq,
            times: Times { due_us: chunk.x_due_us, sent_us: chunk.x_sent_us },
            ..Meaning::default()
        };
        if let Some(usage) = chunk.usage
            && let Some(output) = usage.completion_tokens
        {
            let reasoning = usage.completion_tokens_details.and_then(|details| details.reasoning_tokens);
            self.usage = Some(Usage { output, reasoning: reasoning.unwrap_or_default() });
            meaning.usage = self.usage;
        }
        let had_finished = self.is_finished;
        // Further choices are other answers to the same prompt. None was asked for.
        for choice in chunk.choices.into_iter().flatten().filter(|choice| choice.index == 0) {
            if let Some(reason) = choice.finish_reason.filter(|reason| !reason.is_empty()) {
                self.is_finished = true;
                self.failed = self.failed.take().or_else(|| failed(&reason));
            }
            let Some(delta) = choice.delta else { continue };
            let has_text = |text: &Option<Text<'_>>| text.as_ref().is_some_and(|Text(text)| !text.is_empty());
            meaning.has_reasoning |= has_text(&delta.reasoning_content) || has_text(&delta.reasoning);
            if let Some(Text(text)) = delta.content {
                meaning.text = if meaning.text.is_empty() { text } else { meaning.text + text };
            }
        }
        if self.is_ended || (had_finished && !meaning.text.is_empty()) {
            return Meaning { fault: Some(Fault::AfterEnd), ..meaning };
        }
        if !meaning.text.is_empty() {
            match (meaning.seq, self.highest) {
                (Some(seq), highest) => self.highest = highest.max(Some(seq)),
                (None, Some(_)) => meaning.fault = Some(Fault::Unreadable),
                (None, None) => {}
            }
        }
        meaning
    }

    fn done(&mut self) -> Meaning<'static> {
        if self.is_ended {
            // Most servers send it after an error as well.
            return Meaning::default();
        }
        self.is_ended = true;
        let end = if let Some(failed) = self.failed.take() {
            End::Failed(failed)
        } else if self.is_finished {
            End::Good
        } else {
            End::Failed(Failed {
                code: "no_finish_reason".into(),
                message: "`data: [DONE]` arrived, and no choice had a finish_reason before it".into(),
            })
        };
        Meaning { end: Some(end), seq: self.seq_of_end(), ..Meaning::default() }
    }

    /// Returns the number of the end, after all tokens that the server counted.
    fn seq_of_end(&self) -> Option<u64> {
        let counted = self.usage.map_or(0, |usage| usage.output.saturating_sub(usage.reasoning));
        self.highest.map(|highest| highest.max(counted).saturating_add(1))
    }

    /// Returns what the numbers count: tokens with the project's own simulator, nothing with other servers.
    #[must_use]
    pub const fn numbering(&self) -> Numbering {
        if self.highest.is_some() { Numbering::Tokens } else { Numbering::None }
    }

    /// Returns what is missing at the end of a stream. `None` if the answer ended.
    #[must_use]
    pub const fn missing_end(&self) -> Option<&'static str> {
        match (self.is_ended, self.is_finished) {
            (true, _) => None,
            (false, true) => Some("`data: [DONE]`"),
            (false, false) => Some("finish_reason and `data: [DONE]`"),
        }
    }
}

/// Returns why an answer with this `finish_reason` failed. `None` if it did not.
fn failed(finish_reason: &str) -> Option<Failed> {
    let code = match finish_reason {
        // Some servers send it instead of an error.
        "error" => "finish_reason_error",
        // A filter replaced the rest of the answer, as with the `incomplete_details` of a response.
        "content_filter" => "content_filter",
        _ => return None,
    };
    Some(Failed { code: code.into(), message: format!("the finish_reason was `{finish_reason}`") })
}

fn unknown(error: &Value) -> Failed {
    Failed { code: "unknown".into(), message: error.to_string().chars().take(200).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(delta: &str, finish: &str) -> String {
        format!(
            r#"{{"id":"chatcmpl-1","object":"chat.completion.chunk","choices":[{{"index":0,"delta":{delta},"finish_reason":{finish}}}]}}"#
        )
    }

    fn code(end: Option<End>) -> String {
        match end {
            Some(End::Failed(failed)) => failed.code,
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn a_whole_answer() {
        let mut answer = ChatAnswer::default();
        for role in [r#"{"role":"assistant","content":""}"#, r#"{"role":"assistant","content":null}"#] {
            let data = chunk(role, "null");
            let meaning = answer.event(&data);
            assert!(meaning.text.is_empty() && meaning.end.is_none(), "a role chunk is not a token");
        }
        let data = chunk(r#"{"content":"a\nb"}"#, "null");
        assert_eq!(answer.event(&data).text, "a\nb");
        let data = chunk("{}", r#""stop""#);
        assert_eq!(answer.event(&data), Meaning::default());
        assert_eq!(answer.missing_end(), Some("`data: [DONE]`"));
        let usage = r#"{"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":9,"completion_tokens_details":{"reasoning_tokens":4}}}"#;
        assert_eq!(answer.event(usage).usage, Some(Usage { output: 9, reasoning: 4 }));
        assert_eq!(answer.event(DONE).end, Some(End::Good));
        assert_eq!((answer.missing_end(), answer.numbering()), (None, Numbering::None));
        let data = chunk(r#"{"content":"x"}"#, "null");
        assert_eq!(answer.event(&data).fault, Some(Fault::AfterEnd));
    }

    #[test]
    fn deviations_of_several_servers() {
        let mut answer = ChatAnswer::default();
        let filter = r#"{"id":"","object":"","model":"","choices":[],"prompt_filter_results":[{}]}"#;
        assert_eq!(answer.event(filter), Meaning::default());
        let no_delta =
            r#"{"choices":[{"index":0,"content_filter_results":{},"finish_reason":null}],"usage":null}"#;
        assert_eq!(answer.event(no_delta), Meaning::default());
        for reasoning in [r#"{"reasoning_content":"hm"}"#, r#"{"reasoning":"hm","content":null}"#] {
            let data = chunk(reasoning, "null");
            let meaning = answer.event(&data);
            assert!(meaning.has_reasoning && meaning.text.is_empty());
        }
        let second = r#"{"choices":[{"index":1,"delta":{"content":"other"}}]}"#;
        assert!(answer.event(second).text.is_empty());
        let last = chunk(r#"{"content":"end"}"#, r#""length""#);
        let meaning = answer.event(&last);
        assert_eq!((&*meaning.text, meaning.fault), ("end", None), "text and finish_reason in one chunk");
        let late = chunk(r#"{"content":"late"}"#, "null");
        assert_eq!(answer.event(&late).fault, Some(Fault::AfterEnd));
        assert_eq!(answer.event("<html>").fault, Some(Fault::Unreadable));
        assert_eq!(answer.event("7").fault, Some(Fault::Unreadable));
    }

    #[test]
    fn errors_inside_a_stream_and_ends_without_a_reason() {
        let mut answer = ChatAnswer::default();
        let data = r#"{"error":{"message":"boom","type":"BadRequestError","code":400}}"#;
        assert_eq!(code(answer.event(data).end), "400");
        assert_eq!(answer.event(DONE), Meaning::default());
        assert_eq!(answer.event(data).fault, Some(Fault::AfterEnd));
        assert_eq!(code(ChatAnswer::default().event(DONE).end), "no_finish_reason");
        assert_eq!(code(ChatAnswer::default().event(r#"{"error":true}"#).end), "unknown");
        for (reason, expected) in [
            (r#""error""#, "finish_reason_error"),
            (r#""content_filter""#, "content_filter"),
            (r#""""#, "no_finish_reason"),
        ] {
            let (mut answer, data) = (ChatAnswer::default(), chunk("{}", reason));
            answer.event(&data);
            assert_eq!(code(answer.event(DONE).end), expected);
        }
        assert_eq!(ChatAnswer::default().missing_end(), Some("finish_reason and `data: [DONE]`"));
    }

    #[test]
    fn the_simulator_numbers_its_tokens() {
        let mut answer = ChatAnswer::default();
        let token = |seq| {
            format!(r#"{{"choices":[{{"delta":{{"content":"t{seq} "}}}}],"x_seq":{seq},"x_due_us":5}}"#)
        };
        let first = token(1);
        let meaning = answer.event(&first);
        assert_eq!((meaning.seq, meaning.times.due_us), (Some(1), Some(5)));
        let unnumbered = chunk(r#"{"content":"x"}"#, "null");
        assert_eq!(answer.event(&unnumbered).fault, Some(Fault::Unreadable));
        let finish = chunk("{}", r#""stop""#);
        answer.event(&finish);
        answer.event(r#"{"choices":[],"usage":{"completion_tokens":3}}"#);
        assert_eq!(answer.event(DONE).seq, Some(4), "two tokens are missing before the end");
        assert_eq!(answer.numbering(), Numbering::Tokens);
    }
}
