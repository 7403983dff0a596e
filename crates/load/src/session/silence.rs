//! How long the running query has had no event, for a search that watches the run.

use measure::silence::{SilenceGuard, Silences};
use std::time::{Duration, Instant};

/// The silence of a session's queries.
#[derive(Default)]
pub(super) struct QuerySilence {
    /// That of the running query.
    running: Option<SilenceGuard>,
    /// How long the last query that was accepted may be silent. It counts for the next one until that is accepted.
    allowed: Option<Duration>,
}

impl QuerySilence {
    /// A query begins. `is_intended`: its socket is not to be opened yet.
    pub(super) fn query_began(&mut self, silences: &Silences, is_intended: bool) {
        self.running = Some(silences.enter(self.allowed));
        if is_intended {
            self.intended();
        }
    }

    /// The query has ended.
    pub(super) fn query_ended(&mut self) {
        self.running = None;
    }

    /// Notes how long the running query may be silent. `None`: that is not known.
    pub(super) fn allow(&mut self, allowed: Option<Duration>) {
        self.allowed = allowed;
        if let Some(running) = &self.running {
            running.allow(allowed);
        }
    }

    /// An event arrived.
    pub(super) fn heard(&self, at: Instant) {
        if let Some(running) = &self.running {
            running.heard(at);
        }
    }

    /// The client keeps events away on purpose: it pauses reading, or has cut its socket.
    pub(super) fn intended(&self) {
        if let Some(running) = &self.running {
            running.intend();
        }
    }

    /// Events can arrive again: the client reads, or has a new socket.
    pub(super) fn resumed(&self, at: Instant) {
        if let Some(running) = &self.running {
            running.resume(at);
        }
    }
}
