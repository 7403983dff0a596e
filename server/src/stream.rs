//! One running query of a worker, and the events that it emits.

use crate::{
    permit::Permit,
    plan::{Offsets, Plan},
    text::ResponseText,
};
use protocol::{Digest, Digester, Kind, Position, SessionId};
use std::{sync::Arc, time::Duration};

/// Identifies a stream: its session and its generation.
pub(crate) type StreamId = (SessionId, u64);

/// One running query: what has been emitted, and when its next event is due. Times are microseconds of wire time.
#[derive(Debug)]
pub(crate) struct Stream {
    session: SessionId,
    generation: u64,
    query_id: String,
    text: Arc<ResponseText>,
    tokens: u64,
    /// Tokens emitted so far.
    emitted: u64,
    offsets: Offsets,
    start_us: u64,
    /// When the first event was handed over.
    first_us: u64,
    due_us: u64,
    /// Covers the tokens emitted so far.
    digester: Digester,
    permit: Permit,
}

impl Stream {
    /// Creates a stream that starts at `start_us`. `permit` is returned when the bus acknowledged the last event.
    pub(crate) fn new(
        (session, generation): StreamId,
        query_id: String,
        text: Arc<ResponseText>,
        plan: &Plan,
        start_us: u64,
        permit: Permit,
    ) -> Self {
        let mut stream = Self {
            session,
            generation,
            query_id,
            text,
            tokens: plan.tokens(),
            emitted: 0,
            offsets: plan.offsets(),
            start_us,
            first_us: start_us,
            due_us: start_us,
            digester: Digester::default(),
            permit,
        };
        stream.plan_next();
        stream
    }

    pub(crate) const fn id(&self) -> StreamId {
        (self.session, self.generation)
    }

    /// Returns when the next event is due.
    pub(crate) const fn due_us(&self) -> u64 {
        self.due_us
    }

    /// Moves behind the token that [`Stream::event`] returned, which was handed over at `now_us`.
    pub(crate) fn advance(&mut self, now_us: u64) {
        if self.emitted == 0 {
            self.first_us = now_us;
        }
        self.digester.token(self.text.content(self.emitted, self.tokens));
        self.emitted += 1;
        self.plan_next();
    }

    /// Ends the stream after its terminator, and returns its permit.
    pub(crate) fn into_permit(self) -> Permit {
        self.permit
    }

    fn plan_next(&mut self) {
        let offset = self.offsets.next().unwrap_or(Duration::MAX);
        self.due_us = self.start_us.saturating_add(u64::try_from(offset.as_micros()).unwrap_or(u64::MAX));
    }

    /// Returns the next event.
    pub(crate) fn event(&self) -> Event<'_> {
        let last = self.emitted == self.tokens;
        Event {
            session: self.session,
            position: Position::new(self.generation, self.emitted + 1),
            kind: if last { Kind::Done } else { Kind::Token },
            content: if last { "" } else { self.text.content(self.emitted, self.tokens) },
            digest: last.then(|| self.digester.digest()),
            query_id: &self.query_id,
            due_us: self.due_us,
            start_us: self.start_us,
            first_us: self.first_us,
        }
    }

    /// Ends the stream early.
    pub(crate) fn into_ended(self) -> Ended {
        Ended {
            session: self.session,
            position: Position::new(self.generation, self.emitted + 1),
            digest: Some(self.digester.digest()),
            query_id: self.query_id,
            permit: Some(self.permit),
        }
    }
}

/// An event of a stream that is due.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Event<'a> {
    pub(crate) session: SessionId,
    pub(crate) position: Position,
    pub(crate) kind: Kind,
    pub(crate) content: &'a str,
    /// The digest of all tokens, with a terminator.
    pub(crate) digest: Option<Digest>,
    pub(crate) query_id: &'a str,
    pub(crate) due_us: u64,
    /// When the stream started.
    pub(crate) start_us: u64,
    /// When the first event of the stream was handed over.
    pub(crate) first_us: u64,
}

/// A stream that ended early: what its error terminator needs, and its permit.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) session: SessionId,
    /// The position after the last event that was emitted.
    pub(crate) position: Position,
    /// The digest of the tokens that were emitted. `None` if the bus did not accept all of them.
    pub(crate) digest: Option<Digest>,
    pub(crate) query_id: String,
    /// The permit. `None` if a parcel holds it, because the stream's last event was enqueued.
    pub(crate) permit: Option<Permit>,
}
