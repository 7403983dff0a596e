//! Events on the wire: JSON text frames whose `id` and `type` come first, so that a gateway reads a prefix
//! of some fifty bytes and forwards the rest verbatim. Clients read the whole frame.

mod encode;
mod json;
mod loose;
mod prefix;
mod short;
mod surrogates;

pub use encode::{
    encode_closed, encode_done, encode_error, encode_fence, encode_gap, encode_gap_entry, encode_resumed,
    encode_token, encode_verified_done, encode_verified_error, with_position,
};
pub use prefix::Prefix;

use crate::{Attested, Position};
use std::borrow::Cow;

/// What an event is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// One token of the answer.
    Token,
    /// The end of an answer.
    Done,
    /// The end of an answer that failed.
    Error,
    /// A claim: what came before `prev` is all there is of earlier generations. Never sent to a client.
    Fence {
        /// The last position of the generation before; `None` where the log was not whole yet when the claim was made.
        prev: Option<Position>,
    },
    /// A log entry that stands for lost events: those after `from`, up to and with its own position. A client gets the
    /// gateway's frame instead, see [`encode_gap`].
    Gap {
        /// The last position before the lost ones.
        from: Position,
    },
    /// The session was closed; nothing follows. Never sent to a client.
    Closed,
}

impl Kind {
    /// Ends its generation.
    #[must_use]
    pub const fn is_terminator(self) -> bool {
        matches!(self, Self::Done | Self::Error)
    }

    /// Meant for the client.
    #[must_use]
    pub const fn is_for_client(self) -> bool {
        matches!(self, Self::Token | Self::Done | Self::Error)
    }
}

/// One event, as the client reads it. Fields that the old contract did not have are optional.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event<'a> {
    /// The event's place; `None` from servers of the old contract.
    pub position: Option<Position>,
    /// What it is.
    pub kind: Kind,
    /// The token's text.
    pub content: Cow<'a, str>,
    /// Which query it answers.
    pub query_id: Option<Cow<'a, str>>,
    /// When the schedule wanted it sent.
    pub due_us: Option<u64>,
    /// When it was handed to the bus.
    pub sent_us: Option<u64>,
    /// Of an error: its code.
    pub code: Option<Cow<'a, str>>,
    /// Of an error: its text.
    pub message: Option<Cow<'a, str>>,
    /// Of the end of an answer: which tokens were sent.
    pub digest: Attested,
}

/// One text frame that came down the socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame<'a> {
    /// An event of a query.
    Event(Event<'a>),
    /// The replay ended here.
    Resumed {
        /// The last position that was replayed.
        to: Position,
    },
    /// Events that cannot be had any more: after `from`, up to and with `to`.
    Gap {
        /// The last position before the gap.
        from: Position,
        /// The last position in it.
        to: Position,
    },
    /// A type that is not known here: of a newer server, or of somebody else's.
    Other,
}

/// The frame is not a JSON object with a `type`, or lacks what its type needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the frame is no event: expected a JSON object with a `type`")]
pub struct MalformedFrame;

impl<'a> Frame<'a> {
    /// Reads a text frame, in whatever order its fields come. A field that the type does not need may hold anything; an `id`
    /// that is not a position leaves the event without one; a surrogate without its pair becomes U+FFFD.
    ///
    /// # Errors
    /// The frame is not a JSON object with a `type`, or a known type lacks what it needs.
    pub fn parse(frame: &'a str) -> Result<Self, MalformedFrame> {
        match Event::encoded(frame) {
            Some(event) => Ok(Self::Event(event)),
            None => Self::any(frame),
        }
    }

    fn into_owned(self) -> Frame<'static> {
        let owned = |text: Cow<'_, str>| Cow::Owned(text.into_owned());
        match self {
            Self::Event(event) => Frame::Event(Event {
                position: event.position,
                kind: event.kind,
                content: owned(event.content),
                query_id: event.query_id.map(owned),
                due_us: event.due_us,
                sent_us: event.sent_us,
                code: event.code.map(owned),
                message: event.message.map(owned),
                digest: event.digest,
            }),
            Self::Resumed { to } => Frame::Resumed { to },
            Self::Gap { from, to } => Frame::Gap { from, to },
            Self::Other => Frame::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(super) fn parsed(frame: &[u8]) -> Event<'_> {
        match Frame::parse(std::str::from_utf8(frame).unwrap()).unwrap() {
            Frame::Event(event) => event,
            other => panic!("{other:?} is no event"),
        }
    }

    proptest! {
        #[test]
        fn nothing_panics_on_noise(text in ".{0,200}") {
            let _ = Frame::parse(&text);
        }
    }
}
