//! Events on the wire: JSON text frames whose `id` and `type` come first. A gateway reads that prefix of some 50 bytes and forwards the
//! frame verbatim. Clients read the whole frame.

mod encode;
mod json;
mod loose;
mod prefix;
mod rolled;
mod short;
mod stamps;
mod surrogates;

pub use encode::{
    encode_closed, encode_done, encode_error, encode_fence, encode_gap, encode_gap_entry, encode_resumed,
    encode_token, encode_verified_done, encode_verified_error, with_position,
};
pub use prefix::Prefix;
pub use rolled::{RolledTokens, TokenPieces, Tokens};
pub use stamps::{BOOT_ID_HEADER, GatewayStamps, MAX_HOPS, StampedToken, is_sampled};

use crate::{DigestField, Position};
use std::borrow::Cow;

/// The type of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// One token of the answer.
    Token,
    /// The end of a complete answer.
    Done,
    /// The end of an answer that failed.
    Error,
    /// The log entry of a claim, which shuts out the claimant before it. Earlier generations end at `prev`. It is never sent to a client.
    Fence {
        /// The last position before the fence. `None` if the log was still being restored when the claim was made.
        prev: Option<Position>,
    },
    /// The log entry in place of lost events: those after `from`, up to and including its own position. A client gets the frame of
    /// [`encode_gap`] instead.
    Gap {
        /// The last position before the lost ones.
        from: Position,
    },
    /// The last log entry of a session that was closed. It is never sent to a client.
    Closed,
}

impl Kind {
    /// Returns whether the event ends its generation.
    #[must_use]
    pub const fn is_terminator(self) -> bool {
        matches!(self, Self::Done | Self::Error)
    }

    /// Returns whether the event is sent to the client.
    #[must_use]
    pub const fn is_for_client(self) -> bool {
        matches!(self, Self::Token | Self::Done | Self::Error)
    }
}

/// One event, as the client reads it. Fields that the first version of the contract lacked are optional.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event<'a> {
    /// The event's position. `None` from servers of the first contract.
    pub position: Option<Position>,
    /// The event's type.
    pub kind: Kind,
    /// The token's text.
    pub content: Cow<'a, str>,
    /// The id of the query that the event belongs to.
    pub query_id: Option<Cow<'a, str>>,
    /// The time that the schedule set for it, in microseconds of the server's `CLOCK_MONOTONIC`.
    pub due_us: Option<u64>,
    /// The time at which it was handed to the bus, in microseconds of the server's `CLOCK_MONOTONIC`.
    pub sent_us: Option<u64>,
    /// The code of an error event.
    pub code: Option<Cow<'a, str>>,
    /// The text of an error event.
    pub message: Option<Cow<'a, str>>,
    /// The digest that a terminator carries of the tokens before it.
    pub digest: DigestField,
    /// When the gateway received and wrote a sampled token. `None` without both times.
    pub stamps: Option<GatewayStamps>,
}

/// One text frame that the gateway sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame<'a> {
    /// An event of a query.
    Event(Event<'a>),
    /// Consecutive tokens of a query, for a client that asked for a rollup.
    Tokens(Tokens<'a>),
    /// The replay ended, and live events follow.
    Resumed {
        /// The last position that was replayed.
        to: Position,
    },
    /// The events after `from`, up to and including `to`, cannot be delivered.
    Gap {
        /// The last position before the gap.
        from: Position,
        /// The last position in the gap.
        to: Position,
    },
    /// A frame of an unknown type, from a newer or a foreign server.
    Other,
}

/// The frame is not a JSON object with a `type`, or lacks what its type needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the frame is not an event: expected a JSON object with a `type`")]
pub struct MalformedFrame;

impl<'a> Frame<'a> {
    /// Reads a text frame with its fields in any order. A field that the type does not need may hold any value. An `id` that is not a
    /// position leaves the event without one. An escaped surrogate without its pair becomes U+FFFD.
    ///
    /// # Errors
    /// The frame is not a JSON object with a `type`, or a known type lacks what it needs.
    pub fn parse(frame: &'a str) -> Result<Self, MalformedFrame> {
        match Event::encoded(frame) {
            Some(event) => Ok(Self::Event(event)),
            None if Tokens::has_prefix(frame) => Tokens::read(frame),
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
                stamps: event.stamps,
            }),
            Self::Tokens(tokens) => Frame::Tokens(tokens.into_owned()),
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
            other => panic!("{other:?} is not an event"),
        }
    }

    proptest! {
        #[test]
        fn nothing_panics_on_noise(text in ".{0,200}") {
            let _ = Frame::parse(&text);
        }
    }
}
