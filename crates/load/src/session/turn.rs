//! The present question in a foreign dialect: what is to be sent, how far the answer is, and what the server refused.
//! It sends nothing itself.

use crate::{
    backoff::{Backoff, retry_after},
    connector::FOREIGN_BOOT_ID,
    explain,
    http_stream::StreamPart,
    http1::ResponseHead,
};
use dialects::{Answer, Call, Dialect, errors, sse::read::SseEvent};
use http::StatusCode;
use std::{
    future::pending,
    pin::Pin,
    time::{Duration, Instant},
};
use tokio::time::Sleep;

/// How far a question is.
#[derive(Debug)]
pub(super) enum Step {
    /// It is to be sent as soon as the socket can take it.
    Send,
    /// It was sent. Nothing has arrived.
    Sent,
    /// The server accepted it. Its answer arrives.
    Accepted,
    /// The server asked to repeat it, after this time.
    Waits(Pin<Box<Sleep>>),
    /// The key is being renewed.
    Renews,
    /// Nothing of it is awaited.
    Over,
}

/// How an answer is read on after a lost connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ReadOn {
    /// With this call.
    Call(Call),
    /// As the target file tells.
    Described,
}

/// A refusal by the server.
#[derive(Clone, Debug)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    pub(super) message: String,
    pub(super) retry_after: Option<Duration>,
}

/// What the end of an HTTP response means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BodyEnd {
    /// Another request can follow on the connection.
    Reusable,
    /// The server closes the connection.
    Closing,
}

/// One question and its answer.
#[derive(Debug)]
pub(super) struct Turn {
    pub(super) dialect: Dialect,
    /// The number of the question in its session, which its positions have as generation.
    pub(super) num: u32,
    /// The body or message that asks.
    pub(super) body: String,
    pub(super) answer: Answer,
    pub(super) step: Step,
    pub(super) backoff: Backoff,
    /// Until when a refused question is repeated.
    pub(super) until: Instant,
    /// The answer is to be read on instead of asked for.
    pub(super) resume: Option<ReadOn>,
    /// Method and URL of the last request.
    pub(super) asked: String,
    /// Tokens that the simulator was asked for.
    pub(super) tokens: Option<u32>,
    /// The ideal times of the first token and of the end in milliseconds, as far as they were asked for.
    pub(super) ideal: (Option<f64>, Option<f64>),
    /// The key's renewal under which the question was sent.
    pub(super) renewal: u64,
    /// What the server refused, until that is handled.
    pub(super) refusal: Option<Refusal>,
    pub(super) body_end: Option<BodyEnd>,
    /// The boot id of the simulator's host, until it was compared.
    pub(super) boot_id: Option<String>,
    /// The connection carried earlier questions, so that the server may have closed it just when this one was on its way. Such a question
    /// is sent once more.
    pub(super) may_be_stale: bool,
    /// The key was renewed for this question.
    pub(super) is_renewed: bool,
    /// The server ended the answer because the connection is too old.
    pub(super) is_too_old: bool,
}

impl Turn {
    /// Notes a part of the HTTP response. Returns the event, if it is one.
    pub(super) fn part<'a>(&mut self, part: StreamPart<'a>) -> Option<SseEvent<'a>> {
        match part {
            StreamPart::Accepted(head) => {
                self.step = Step::Accepted;
                self.boot_id = head.text(FOREIGN_BOOT_ID).map(str::to_owned);
                None
            }
            StreamPart::Event(event) => Some(event),
            StreamPart::Refused(head, body) => {
                self.refusal = Some(Refusal::new(head, body));
                None
            }
            StreamPart::End { is_reusable } => {
                self.body_end = Some(if is_reusable { BodyEnd::Reusable } else { BodyEnd::Closing });
                None
            }
        }
    }

    /// Waits until a refused question is to be repeated, and makes it due. Waits forever if none is. Cancel safe.
    pub(super) async fn repeat_due(&mut self) {
        match &mut self.step {
            Step::Waits(timer) => timer.as_mut().await,
            _ => pending().await,
        }
        self.step = Step::Send;
    }

    /// Returns whether the question, or what reads its answer on, is to be sent.
    pub(super) const fn is_due(&self) -> bool {
        matches!(self.step, Step::Send)
    }

    /// Returns whether the question, or what reads its answer on, is still to be sent: now, or when the server allows it.
    pub(super) const fn is_unasked(&self) -> bool {
        matches!(self.step, Step::Send | Step::Waits(_) | Step::Renews)
    }

    /// Returns whether the server has the question, or a part of it.
    pub(super) const fn is_asked(&self) -> bool {
        matches!(self.step, Step::Sent | Step::Accepted)
    }
}

impl Refusal {
    fn new(head: &ResponseHead, body: &[u8]) -> Self {
        let status = StatusCode::from_u16(head.status).unwrap_or(StatusCode::BAD_GATEWAY);
        let message = match errors::refusal(body) {
            Some(failed) if failed.message.is_empty() => format!("{status}: {}", failed.code),
            Some(failed) => {
                let wait =
                    head.text("retry-after").map(|wait| format!(", Retry-After: {wait}")).unwrap_or_default();
                format!("{status}{wait}: {}: {}", failed.code, failed.message)
            }
            None if status.is_success() => {
                let kind = head.text("content-type").unwrap_or("no type");
                format!(
                    "{status} with {kind} instead of text/event-stream{}: check the URL and the dialect",
                    explain::detail(body)
                )
            }
            None => explain::refusal(status, &head.headers, body),
        };
        Self { status, message, retry_after: retry_after(&head.headers) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderMap;

    fn message(status: u16, headers: &[(&'static str, &str)], body: &str) -> String {
        let headers: HeaderMap =
            headers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
        Refusal::new(&ResponseHead { status, headers }, body.as_bytes()).message
    }

    #[test]
    fn a_refusal_names_the_servers_error() {
        let error = r#"{"error":{"message":"slow down","type":"requests","code":"rate_limit_exceeded"}}"#;
        assert_eq!(
            message(429, &[("retry-after", "2")], error),
            "429 Too Many Requests, Retry-After: 2: rate_limit_exceeded: slow down"
        );
        assert_eq!(message(404, &[], r#"{"detail":"Not Found"}"#), "404 Not Found: Not Found");
        let page = message(200, &[("content-type", "text/html")], "<title>Welcome</title>");
        assert!(page.contains("text/html instead of text/event-stream: Welcome"), "{page}");
    }
}
