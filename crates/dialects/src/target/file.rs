//! A target file as a value. `parse.rs` reads it from TOML.

use super::{
    pointer::Pointer,
    rule::{Matcher, Rule},
    template::{JsonTemplate, Template},
};
use crate::exchange::{Delivery, Transport};
use serde_json::Value;
use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

/// A backend and how to talk to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetFile {
    /// The name, for outputs.
    pub name: String,
    /// A sentence about the backend.
    pub about: String,
    /// What carries the answers.
    pub transport: Transport,
    /// How often the server may send an event.
    pub delivery: Delivery,
    /// Base URL of HTTP calls, and of streams over HTTP.
    pub api_url: Option<String>,
    /// Base URL of WebSockets.
    pub ws_url: Option<String>,
    pub(super) variables: Variables,
    /// Extracted values that outputs may contain.
    pub(super) public: Vec<String>,
    pub(super) create: Option<HttpCall>,
    pub(super) connect: Connect,
    pub(super) submit: Submit,
    pub(super) read: ReadRules,
    pub(super) numbers: Option<Numbers>,
    pub(super) rules: Vec<Rule>,
    pub(super) resume: Option<Resume>,
    pub(super) stop: Option<Request>,
    pub(super) keepalive: KeepAlive,
}

/// The values that a file gives to its placeholders.
#[derive(Clone, Default, PartialEq, Eq)]
pub(super) struct Variables {
    /// Values of environment variables. They are secret.
    pub(super) secret: BTreeMap<String, String>,
    /// Other values.
    pub(super) derived: Arc<BTreeMap<String, Template>>,
}

impl fmt::Debug for Variables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Variables")
            .field("secret", &self.secret.keys())
            .field("derived", &self.derived)
            .finish()
    }
}

/// An HTTP call.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct HttpCall {
    pub(super) method: String,
    pub(super) path: Template,
    pub(super) headers: Vec<(String, Template)>,
    pub(super) body: Option<JsonTemplate>,
    pub(super) extract: Vec<Extract>,
}

/// A value that the backend gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Extract {
    pub(super) name: String,
    pub(super) source: Source,
    /// The value if the backend gives none. `None`: that is an error.
    pub(super) default: Option<Value>,
}

/// Where a value of a response is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Source {
    Body(Pointer),
    Header(String),
}

/// How the WebSocket is opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Connect {
    pub(super) path: Template,
    pub(super) headers: Vec<(String, Template)>,
    pub(super) subprotocols: Vec<Template>,
    pub(super) first: Vec<FirstMessage>,
    pub(super) is_given: bool,
}

/// A message at the start of a WebSocket, and the one that answers it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct FirstMessage {
    pub(super) send: Option<JsonTemplate>,
    /// Sent instead of `send` when an answer is resumed.
    pub(super) resume: Option<JsonTemplate>,
    pub(super) wait: Option<Matcher>,
    pub(super) extract: Vec<Extract>,
}

/// How a question is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Submit {
    /// A message on the WebSocket.
    Message(JsonTemplate),
    /// An HTTP call beside the WebSocket.
    Call(HttpCall),
    /// An HTTP call whose response is the answer.
    Stream(HttpCall),
}

/// A message or a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Request {
    Message(JsonTemplate),
    Call(HttpCall),
}

/// How an answer is read on after a lost connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Resume {
    /// A message on the new WebSocket.
    Message(JsonTemplate),
    /// An HTTP call whose response is the rest of the answer.
    Stream(HttpCall),
    /// The upgrade of the new WebSocket, or its first messages.
    Connect { path: Option<Template>, headers: Vec<(String, Template)> },
}

/// Where the parts of a message are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ReadRules {
    /// A WebSocket message has one JSON text per line.
    pub(super) lines: bool,
    /// Where the messages are inside what is received.
    pub(super) inside: Vec<Pointer>,
    pub(super) text: Option<Pointer>,
    /// The id of the question that a message belongs to.
    pub(super) query: Option<Pointer>,
    pub(super) usage: Option<Pointer>,
    /// Where an error has its code. The first place that has a value counts.
    pub(super) code: Vec<Pointer>,
    pub(super) message: Vec<Pointer>,
}

/// How messages are numbered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Numbers {
    /// Where the number is. `None`: in the `id` line of a server-sent event.
    pub(super) number: Option<Pointer>,
    /// The number of the first message of an answer, if each answer begins anew.
    pub(super) first: u64,
    /// Numbers count all messages, not only tokens.
    pub(super) counts_messages: bool,
    /// Numbers continue from one answer of the session to the next.
    pub(super) is_per_session: bool,
    /// The value with the last number before the first answer, if numbers continue.
    pub(super) start: Option<String>,
    /// Where the end states how many tokens the answer has.
    pub(super) total: Option<Pointer>,
    /// The end has no number and no total, so that the loss of the last tokens cannot be seen.
    pub(super) unnumbered_end: bool,
}

/// What keeps a connection alive.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct KeepAlive {
    pub(super) send: Option<(Duration, JsonTemplate)>,
    pub(super) reply: Option<JsonTemplate>,
    pub(super) silence: Option<Duration>,
}

impl TargetFile {
    /// Returns whether a lost answer can be read on.
    #[must_use]
    pub const fn can_resume(&self) -> bool {
        self.resume.is_some()
    }

    /// Returns whether messages are numbered, so that losses and repeats can be seen.
    #[must_use]
    pub const fn is_numbered(&self) -> bool {
        self.numbers.is_some()
    }

    /// Returns whether the loss of the last tokens of an answer cannot be seen.
    #[must_use]
    pub fn has_unnumbered_end(&self) -> bool {
        self.numbers.as_ref().is_some_and(|numbers| numbers.unnumbered_end)
    }

    /// Returns whether HTTP calls are made beside the connection of a session.
    #[must_use]
    pub const fn has_calls(&self) -> bool {
        self.create.is_some()
            || matches!(self.submit, Submit::Call(_))
            || matches!(self.stop, Some(Request::Call(_)))
    }

    /// Returns how long a connection may be silent, if the file limits it.
    #[must_use]
    pub const fn silence(&self) -> Option<Duration> {
        self.keepalive.silence
    }

    /// Returns the values that no output may contain and that are known before the run.
    pub fn secrets(&self) -> impl Iterator<Item = &str> {
        self.variables.secret.values().map(String::as_str)
    }

    /// Returns what the file cannot express, in words.
    #[must_use]
    pub fn unverified(&self) -> Vec<&'static str> {
        let mut all = Vec::new();
        if !self.is_numbered() {
            all.push("numbering: losses, repeats and disorder cannot be seen");
        } else if self.has_unnumbered_end() {
            all.push("the end has no number: the loss of the last tokens cannot be seen");
        }
        if self.numbers.as_ref().is_some_and(|numbers| numbers.is_per_session && numbers.start.is_none()) {
            all.push("numbering has no `start`: the loss of the first tokens of a session cannot be seen");
        }
        if !self.can_resume() {
            all.push("resume: an answer whose connection is lost fails");
        }
        all
    }
}
