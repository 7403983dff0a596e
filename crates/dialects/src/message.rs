//! What a message of the server means, in the same words for every dialect.

use std::borrow::Cow;

/// What one message means. A message may have several parts: a chunk with text may also end the answer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Meaning<'a> {
    /// The number of the message in its answer, from 1, counted as [`Numbering`] says. `None` if the server does not number it.
    pub seq: Option<u64>,
    /// Text of the answer. Empty if the message has none.
    pub text: Cow<'a, str>,
    /// The message has text of the model's reasoning.
    pub has_reasoning: bool,
    /// Tokens of the answer as the server counts them, once it has stated them.
    pub usage: Option<Usage>,
    /// The message ends the answer.
    pub end: Option<End>,
    /// What is wrong with the message.
    pub fault: Option<Fault>,
    /// Whether the received text is the one that the server repeated, once it has repeated all of it.
    pub contents: Option<Contents>,
    /// Times of the project's own simulator.
    pub times: Times,
}

/// What the numbers of a dialect count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Numbering {
    /// Messages are not numbered. Loss, repeats and disorder cannot be seen.
    None,
    /// Messages with text are numbered.
    Tokens,
    /// Every message is numbered, whatever its type.
    Messages,
}

/// Tokens of an answer as the server counts them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tokens of the answer, those of the reasoning included.
    pub output: u64,
    /// Tokens of the reasoning.
    pub reasoning: u64,
}

/// How an answer ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// It is complete.
    Good,
    /// The server reported a failure.
    Failed(Failed),
}

/// A failure that the server reported inside the stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Failed {
    /// The server's code, or the type of the error.
    pub code: String,
    /// The server's message. Empty if there is none.
    pub message: String,
}

/// What is wrong with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It is not what the dialect allows: not JSON, or without its number in a numbered answer.
    Unreadable,
    /// It follows the end of its answer.
    AfterEnd,
    /// It belongs to another answer.
    Foreign,
    /// It has a type that this reader does not know. It is ignored.
    Unknown,
}

/// Whether the received text is the one that the server sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Contents {
    /// The server repeated the text, and it is the one that was received.
    Verified,
    /// The server repeated another text.
    Corrupt,
}

/// Times of the project's own simulator, in microseconds of its `CLOCK_MONOTONIC`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Times {
    /// When the message was due.
    pub due_us: Option<u64>,
    /// When it was sent.
    pub sent_us: Option<u64>,
}

impl Meaning<'_> {
    /// Returns the meaning of a message with this fault and nothing else.
    #[must_use]
    pub fn fault(fault: Fault) -> Self {
        Self { fault: Some(fault), ..Self::default() }
    }
}
