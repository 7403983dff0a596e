//! What the plan defines for a session.

use std::time::Instant;

/// A session as the plan defines it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PlannedSession {
    /// The index of the session, which no other session of the run has.
    pub(crate) index: u64,
    /// When the session should start.
    pub(crate) scheduled: Instant,
    /// The row of the schedule, which the sessions that replace a failed one share.
    pub(crate) row: u64,
    /// Tokens that each answer should have. `None`: the user's kind decides.
    pub(crate) tokens: Option<u32>,
}
