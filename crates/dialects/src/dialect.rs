//! A dialect as a value: what a client sends to ask, resume and stop, and the state machine that reads an answer.

use crate::{
    chat::read::ChatAnswer,
    exchange::{Call, Delivery, Transport},
    message::{Meaning, Numbering},
    request::{self, Question},
    responses::read::ResponsesAnswer,
    target::{Conversation, FileAnswer, Incoming, TargetFile},
};
use std::{fmt, sync::Arc};

/// A foreign dialect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// Chat Completions over server-sent events.
    Chat,
    /// Responses over server-sent events.
    Responses,
    /// Responses over a WebSocket.
    ResponsesWs,
    /// What a target file describes.
    File(Arc<TargetFile>),
}

impl Dialect {
    /// All dialects that need no file.
    pub const ALL: [Self; 3] = [Self::Chat, Self::Responses, Self::ResponsesWs];

    /// Returns the name on the command line.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Chat => "openai-chat",
            Self::Responses => "openai-responses",
            Self::ResponsesWs => "openai-responses-ws",
            Self::File(file) => &file.name,
        }
    }

    /// Returns the dialect of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|dialect| dialect.name() == name)
    }

    /// Returns what carries the dialect.
    #[must_use]
    pub fn transport(&self) -> Transport {
        match self {
            Self::File(file) => file.transport,
            Self::Chat | Self::Responses => Transport::Sse,
            Self::ResponsesWs => Transport::WebSocket,
        }
    }

    /// Returns the target file.
    #[must_use]
    pub const fn file(&self) -> Option<&Arc<TargetFile>> {
        match self {
            Self::File(file) => Some(file),
            Self::Chat | Self::Responses | Self::ResponsesWs => None,
        }
    }

    /// Returns the path of a question, and of the upgrade to a WebSocket, below the URL of the API. `base` is the URL's path, which may
    /// be the whole path already, or end with the version. Empty for a target file, which has a path for each call.
    #[must_use]
    pub fn path(&self, base: &str) -> &'static str {
        let (whole, short) = match self {
            Self::File(_) => return "",
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
    /// Empty for a target file: its conversation asks.
    #[must_use]
    pub fn ask(&self, question: &Question<'_>) -> String {
        match self {
            Self::File(_) => return String::new(),
            Self::Chat => request::chat(question),
            Self::Responses => request::responses(question),
            Self::ResponsesWs => request::responses_ws(question),
        }
        .to_string()
    }

    /// Returns whether a lost stream can be resumed, if the server was asked to keep it.
    #[must_use]
    pub fn can_resume(&self) -> bool {
        match self {
            Self::Chat | Self::ResponsesWs => false,
            Self::Responses => true,
            Self::File(file) => file.can_resume(),
        }
    }

    /// Returns whether a question may name the answer before it.
    #[must_use]
    pub const fn has_turns(&self) -> bool {
        matches!(self, Self::ResponsesWs)
    }

    /// Returns how often a server may send an event.
    #[must_use]
    pub fn delivery(&self) -> Delivery {
        // A resumed answer begins behind the number that the client names.
        match self {
            Self::File(file) => file.delivery,
            Self::Chat | Self::Responses | Self::ResponsesWs => Delivery::Once,
        }
    }

    /// Returns whether a failure with this code means that the connection is too old and another one must be opened.
    #[must_use]
    pub fn is_connection_limit(&self, code: &str) -> bool {
        *self == Self::ResponsesWs && code == "websocket_connection_limit_reached"
    }

    /// Returns a new answer. That of a target file begins with the first number: its conversation knows better.
    #[must_use]
    pub fn answer(&self) -> Answer {
        match self {
            Self::File(file) => {
                let conversation = Conversation::new(Arc::clone(file), "", 0);
                Answer::File(Box::new(conversation.answer()))
            }
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
    /// Of a target file, whose messages [`FileAnswer::read`] reads.
    File(Box<FileAnswer>),
}

impl Answer {
    /// Returns what the data of an event, or a message, means.
    pub fn message<'a>(&mut self, data: &'a str) -> Meaning<'a> {
        match self {
            Self::Chat(answer) => answer.event(data),
            Self::Responses(answer) => answer.event(data),
            Self::File(answer) => {
                let mut reads = answer.read(Incoming::text(data)).into_iter();
                reads.next().map(|read| read.meaning).unwrap_or_default()
            }
        }
    }

    /// Returns what the numbers of the messages so far count.
    #[must_use]
    pub fn numbering(&self) -> Numbering {
        match self {
            Self::File(answer) => answer.numbering(),
            Self::Chat(answer) => answer.numbering(),
            Self::Responses(answer) => answer.numbering(),
        }
    }

    /// Returns what is missing at the end of a stream. `None` if the answer ended.
    #[must_use]
    pub const fn missing_end(&self) -> Option<&'static str> {
        match self {
            Self::File(answer) => answer.missing_end(),
            Self::Chat(answer) => answer.missing_end(),
            Self::Responses(answer) => answer.missing_end(),
        }
    }

    /// Returns the id of the answer, if the dialect has one that later calls need and it is known.
    #[must_use]
    pub fn id(&self) -> Option<&str> {
        match self {
            Self::Chat(_) | Self::File(_) => None,
            Self::Responses(answer) => answer.id(),
        }
    }

    /// Returns the call that reads the answer on behind `position`, below `path` of [`Dialect::path`]. `None` if it cannot be resumed.
    #[must_use]
    pub fn resume(&self, path: &str, position: u64) -> Option<Call> {
        let Self::Responses(answer) = self else { return None };
        let after = answer.number_of(position).map(|number| format!("&starting_after={number}"));
        let path = format!("{path}/{}?stream=true{}", answer.id()?, after.unwrap_or_default());
        Some(Call::new("GET", path))
    }

    /// Returns the call that ends an answer that the server keeps. `None`: closing the connection ends it.
    #[must_use]
    pub fn stop(&self, path: &str) -> Option<Call> {
        let Self::Responses(answer) = self else { return None };
        Some(Call::new("POST", format!("{path}/{}/cancel", answer.id()?)))
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
            assert_eq!(Dialect::named(dialect.name()), Some(dialect.clone()));
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
        assert_eq!(answer.stop("/x").unwrap(), Call::new("POST", "/x/r/cancel".into()));
        assert_eq!(Dialect::Chat.answer().resume("/x", 1), None);
    }
}
