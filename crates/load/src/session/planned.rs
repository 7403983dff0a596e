//! What the plan defines for a session.

use std::time::Instant;

/// A session as the plan defines it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PlannedSession {
    /// The index of the session, which no other session of the run has.
    pub(crate) index: u64,
    /// When the session should start.
    pub(crate) scheduled: Instant,
    /// When the session should end; a query that runs then is finished first. `None`: after its last query.
    pub(crate) until: Option<Instant>,
    /// Tokens that each answer should have. `None`: the user's kind decides.
    pub(crate) tokens: Option<u32>,
}
