//! A dialect as a value: what a client sends to ask, resume and stop, and the state machine that reads an answer.

use crate::{
    chat::read::ChatAnswer,
    message::{Meaning, Numbering},
    request::{self, Question},
    responses::read::ResponsesAnswer,
};
use std::fmt;

/// A foreign dialect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// Chat Completions over server-sent events.
    Chat,
    /// Responses over server-sent events.
    Responses,
    /// Responses over a WebSocket.
    ResponsesWs,
}

/// What carries a dialect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// Each question is an HTTP call whose response is a stream of server-sent events.
    Sse,
    /// Questions are messages on a WebSocket.
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

/// A call that reads the rest of an answer, or ends it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// The HTTP method.
    pub method: &'static str,
    /// Path and query.
    pub path: String,
}

impl Dialect {
    /// All dialects.
    pub const ALL: [Self; 3] = [Self::Chat, Self::Responses, Self::ResponsesWs];

    /// Returns the name on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Chat => "openai-chat",
            Self::Responses => "openai-responses",
            Self::ResponsesWs => "openai-responses-ws",
        }
    }

    /// Returns the dialect of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|dialect| dialect.name() == name)
    }

    /// Returns what carries the dialect.
    #[must_use]
    pub const fn transport(self) -> Transport {
        match self {
            Self::Chat | Self::Responses => Transport::Sse,
            Self::ResponsesWs => Transport::WebSocket,
        }
    }

    /// Returns the path of a question, and of the upgrade to a WebSocket, below the URL of the API. `base` is the URL's path, which may
    /// be the whole path already, or end with the version.
    #[must_use]
    pub fn path(self, base: &str) -> &'static str {
        let (whole, short) = match self {
            Self::Chat => ("/v1/chat/completions", "/chat/completions"),
            Self::Responses | Self::ResponsesWs => ("/v1/responses", "/responses"),
        };
        if base.ends_with(short) {
            ""
        } else if base.ends_with("/v1") {
            short
        } else {
            whole
        }
    }

    /// Returns the body, or the message, that asks `question`.
    #[must_use]
    pub fn ask(self, question: &Question<'_>) -> String {
        match self {
            Self::Chat => request::chat(question),
            Self::Responses => request::responses(question),
            Self::ResponsesWs => request::responses_ws(question),
        }
        .to_string()
    }

    /// Returns whether a lost stream can be resumed, if the server was asked to keep it.
    #[must_use]
    pub const fn can_resume(self) -> bool {
        matches!(self, Self::Responses)
    }

    /// Returns whether a question may name the answer before it.
    #[must_use]
    pub const fn has_turns(self) -> bool {
        matches!(self, Self::ResponsesWs)
    }

    /// Returns how often a server may send an event.
    #[must_use]
    pub const fn delivery(self) -> Delivery {
        // A resumed answer begins behind the number that the client names.
        match self {
            Self::Chat | Self::Responses | Self::ResponsesWs => Delivery::Once,
        }
    }

    /// Returns whether a failure with this code means that the connection is too old and another one must be opened.
    #[must_use]
    pub fn is_connection_limit(self, code: &str) -> bool {
        self == Self::ResponsesWs && code == "websocket_connection_limit_reached"
    }

    /// Returns a new answer.
    #[must_use]
    pub fn answer(self) -> Answer {
        match self {
            Self::Chat => Answer::Chat(ChatAnswer::default()),
            Self::Responses | Self::ResponsesWs => Answer::Responses(Box::default()),
        }
    }
}

impl fmt::Display for Dialect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The state machine that reads one answer.
#[derive(Debug)]
pub enum Answer {
    /// Of Chat Completions.
    Chat(ChatAnswer),
    /// Of Responses.
    Responses(Box<ResponsesAnswer>),
}

impl Answer {
    /// Returns what the data of an event, or a message, means.
    pub fn message<'a>(&mut self, data: &'a str) -> Meaning<'a> {
        match self {
            Self::Chat(answer) => answer.event(data),
            Self::Responses(answer) => answer.event(data),
        }
    }

    /// Returns what the numbers of the messages so far count.
    #[must_use]
    pub const fn numbering(&self) -> Numbering {
        match self {
            Self::Chat(answer) => answer.numbering(),
            Self::Responses(answer) => answer.numbering(),
        }
    }

    /// Returns what is missing at the end of a stream. `None` if the answer ended.
    #[must_use]
    pub const fn missing_end(&self) -> Option<&'static str> {
        match self {
            Self::Chat(answer) => answer.missing_end(),
            Self::Responses(answer) => answer.missing_end(),
        }
    }

    /// Returns the id of the answer, if the dialect has one that later calls need and it is known.
    #[must_use]
    pub fn id(&self) -> Option<&str> {
        match self {
            Self::Chat(_) => None,
            Self::Responses(answer) => answer.id(),
        }
    }

    /// Returns the call that reads the answer on behind `position`, below `path` of [`Dialect::path`]. `None` if it cannot be resumed.
    #[must_use]
    pub fn resume(&self, path: &str, position: u64) -> Option<Call> {
        let Self::Responses(answer) = self else { return None };
        let after = answer.number_of(position).map(|number| format!("&starting_after={number}"));
        let path = format!("{path}/{}?stream=true{}", answer.id()?, after.unwrap_or_default());
        Some(Call { method: "GET", path })
    }

    /// Returns the call that ends an answer that the server keeps. `None`: closing the connection ends it.
    #[must_use]
    pub fn stop(&self, path: &str) -> Option<Call> {
        let Self::Responses(answer) = self else { return None };
        Some(Call { method: "POST", path: format!("{path}/{}/cancel", answer.id()?) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_url_may_contain_the_version_or_the_whole_path() {
        for (base, path) in [
            ("", "/v1/chat/completions"),
            ("/proxy", "/v1/chat/completions"),
            ("/v1", "/chat/completions"),
            ("/openai/v1", "/chat/completions"),
            ("/openai/deployments/d/chat/completions", ""),
        ] {
            assert_eq!(Dialect::Chat.path(base), path, "{base}");
        }
        assert_eq!(Dialect::ResponsesWs.path("/v1"), "/responses");
        for dialect in Dialect::ALL {
            assert_eq!(Dialect::named(dialect.name()), Some(dialect));
        }
        assert_eq!(Dialect::named("openai"), None);
    }

    #[test]
    fn an_answer_is_resumed_behind_a_position() {
        let mut answer = Dialect::Responses.answer();
        assert_eq!(answer.resume("/v1/responses", 0), None, "its id is not known");
        answer.message(r#"{"type":"response.created","sequence_number":0,"response":{"id":"r"}}"#);
        let path = |position| answer.resume("/v1/responses", position).unwrap().path;
        assert_eq!(path(0), "/v1/responses/r?stream=true");
        assert_eq!(path(5), "/v1/responses/r?stream=true&starting_after=4");
        assert_eq!(answer.stop("/x").unwrap(), Call { method: "POST", path: "/x/r/cancel".into() });
        assert_eq!(Dialect::Chat.answer().resume("/x", 1), None);
    }
}
