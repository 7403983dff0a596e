//! What carries questions and answers, and what asks.

use std::borrow::Cow;

/// What carries a dialect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// Each question is an HTTP call whose response is a stream of server-sent events.
    Sse,
    /// Each question is an HTTP call whose response is a stream of lines, each a JSON text.
    JsonLines,
    /// Answers are messages on a WebSocket.
    WebSocket,
}

/// How often a server may send an event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Delivery {
    /// Once. Every repeat is a fault.
    #[default]
    Once,
    /// At least once: after a reconnect, events at or below the last position may come again.
    AtLeastOnce,
}

/// What asks a question, or for the rest of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    /// A message on the WebSocket.
    Message(String),
    /// An HTTP call whose response is the answer.
    Stream(Call),
    /// An HTTP call beside the connection that brings the answer.
    Call(Call),
}

/// An HTTP call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// The HTTP method.
    pub method: Cow<'static, str>,
    /// Path and query.
    pub path: String,
    /// Headers besides those of every call.
    pub headers: Vec<(String, String)>,
    /// The body, which is JSON.
    pub body: Option<String>,
}

impl Call {
    /// Returns a call without headers and body.
    #[must_use]
    pub const fn new(method: &'static str, path: String) -> Self {
        Self { method: Cow::Borrowed(method), path, headers: Vec::new(), body: None }
    }
}
