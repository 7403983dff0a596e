//! What all generators of a run agree on: its name, their number, the plan, and the instant of the start.

use std::time::{Duration, Instant};

/// Largest part, report, verdict or command, in bytes.
pub const MAX_PAYLOAD: usize = 16 * 1024 * 1024;
/// Largest status, in bytes. Every heartbeat carries it.
pub const MAX_STATUS: usize = 16 * 1024;
/// Number of commands that a run can have.
pub const MAX_COMMANDS: usize = 1024;
/// Number of events or commands that wait for their consumer. A consumer that is slower holds up the sender.
pub(crate) const QUEUE: usize = 1024;

/// What the leader tells all generators.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Stop now, for this reason.
    Abort(String),
    /// Bytes that the program gives a meaning.
    Custom(Vec<u8>),
}

/// A run, as every generator must know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// Name of the run: 1 to 100 letters, digits, `-`, `_` or `.`. One control Redis holds several runs.
    pub id: String,
    /// Number of generators that share the plan.
    pub generators: u32,
    /// Fingerprint of the plan. Generators with different fingerprints refuse to form a run.
    pub fingerprint: String,
}

/// The instant at which all generators start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Start {
    /// The instant by this process's monotonic clock. It lies in the future when the barrier returns it.
    pub at: Instant,
    /// Largest distance between [`Self::at`] and the true instant.
    pub error: Duration,
}

/// A payload was refused because of its size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} of {size} bytes is larger than the limit of {limit} bytes: send less at once")]
pub struct TooLarge {
    what: &'static str,
    size: usize,
    limit: usize,
}

impl TooLarge {
    /// Returns an error if the payload has more bytes than `limit`.
    pub(crate) const fn check(what: &'static str, payload: &[u8], limit: usize) -> Result<(), Self> {
        if payload.len() > limit { Err(Self { what, size: payload.len(), limit }) } else { Ok(()) }
    }
}
