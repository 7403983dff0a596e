//! Turns an answer into the frames of a dialect. What the dialects have in common is the trait [`Composer`].

use crate::openai::{answer::Answer, extension::FinishAt, problem::Problem};
use dialects::{
    chat::{self, write::Finish},
    responses::{
        self,
        write::{Output, Status},
    },
    sse::write::{Frame, Marks},
};
use std::time::Duration;

/// Writes the frames of one answer, in the order of the calls.
pub(super) trait Composer: Send {
    /// Returns the frames at the start of the stream.
    fn begin(&mut self) -> Vec<Frame>;

    /// Returns the frames before the first token.
    fn open(&mut self) -> Vec<Frame>;

    /// Returns the frame of the next tokens.
    fn token(&mut self, text: &str, tokens: u64, is_last: bool, marks: Option<Marks>) -> Frame;

    /// Returns the frames of the end, which comes `at` after the start.
    fn end(&mut self, answer: &Answer, at: Duration) -> Vec<Frame>;

    /// Returns the frames of an error that ends the stream.
    fn fail(&mut self, problem: &Problem) -> Vec<Frame>;
}

/// Chat Completions, and Completions.
pub(super) struct Chat {
    pub(super) writer: chat::write::Writer,
    pub(super) finish: Finish,
    pub(super) finish_at: FinishAt,
}

impl Composer for Chat {
    fn begin(&mut self) -> Vec<Frame> {
        Vec::new()
    }

    fn open(&mut self) -> Vec<Frame> {
        self.writer.role().into_iter().collect()
    }

    fn token(&mut self, text: &str, tokens: u64, is_last: bool, marks: Option<Marks>) -> Frame {
        let finish = (is_last && self.finish_at == FinishAt::LastToken).then_some(self.finish);
        self.writer.token(text, tokens, finish, marks)
    }

    fn end(&mut self, _: &Answer, _: Duration) -> Vec<Frame> {
        let finish = (self.finish_at == FinishAt::Separate).then(|| self.writer.finish(self.finish));
        finish.into_iter().chain(self.writer.usage()).chain([chat::write::Writer::done()]).collect()
    }

    fn fail(&mut self, problem: &Problem) -> Vec<Frame> {
        let error = chat::write::error(&problem.to_string(), problem.kind(), None, problem.code());
        vec![Frame::unnamed(error), chat::write::Writer::done()]
    }
}

/// Where the events of a response go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wire {
    /// Into an HTTP response, as server-sent events.
    Http,
    /// Into a WebSocket, where the event `error` would be taken for the refusal of a request.
    Socket,
}

/// Responses.
pub(super) struct Responses {
    pub(super) writer: responses::write::Writer,
    /// When the response was created, in seconds since the Unix epoch.
    pub(super) created_at: u64,
    pub(super) wire: Wire,
}

impl Composer for Responses {
    fn begin(&mut self) -> Vec<Frame> {
        self.writer.begin().into()
    }

    fn open(&mut self) -> Vec<Frame> {
        self.writer.open().into()
    }

    fn token(&mut self, text: &str, _: u64, _: bool, marks: Option<Marks>) -> Frame {
        self.writer.token(text, marks)
    }

    fn end(&mut self, answer: &Answer, at: Duration) -> Vec<Frame> {
        let text = answer.whole();
        let mut frames: Vec<_> = self.writer.close(&text).into();
        frames.extend(self.writer.end(ended(answer, &text, self.created_at + at.as_secs())));
        frames
    }

    fn fail(&mut self, problem: &Problem) -> Vec<Frame> {
        let (code, message) = (problem.code().unwrap_or("server_error"), problem.to_string());
        let error = (self.wire == Wire::Http).then(|| self.writer.error(code, &message));
        error.into_iter().chain(self.writer.end(Status::Failed(code, &message))).collect()
    }
}

/// Returns the state of a response whose answer has ended.
pub(super) fn ended<'a>(answer: &Answer, text: &'a str, ended_at: u64) -> Status<'a> {
    let output = Output { text: Some(text), tokens: answer.tokens(), ended_at };
    if answer.is_limited() { Status::Incomplete(output) } else { Status::Completed(output) }
}
