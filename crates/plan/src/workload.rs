//! How much load a run makes, what sessions do on purpose, and which faults are injected.

use std::time::Duration;

/// How much load, and for how long.
#[derive(Clone, Debug)]
pub struct Load {
    /// Most sessions at a time. Without a schedule: all sessions of the run.
    pub clients: u64,
    /// Queries per session. `None`: as many as fit until the session ends, or as arrive for it.
    pub queries: Option<u32>,
    /// The sessions start evenly over this time.
    pub ramp_up: Duration,
    /// All first queries start at one instant, after every session has connected.
    pub burst: bool,
    /// Time limit of a query. `None`: the query's ideal duration plus 30 s.
    pub query_timeout: Option<Duration>,
    /// A longer gap between tokens is a stall.
    pub stall_limit: Duration,
    /// How long running streams may go on after an interruption.
    pub grace: Duration,
    /// Worker threads of the generator.
    pub workers: usize,
    /// Seed of every random draw.
    pub seed: u64,
}

/// What sessions do on purpose.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Behaviour {
    /// Share of the open sockets that are cut per second, 0 to 10.
    pub drop_rate: f64,
    /// Some sessions pause reading once.
    pub pause: Option<ReadingPause>,
    /// Sessions open their socket this long after they sent the query: shortest and longest delay.
    pub late_connect: Option<(Duration, Duration)>,
    /// Reconnects name the last position that arrived.
    pub resume: bool,
}

/// A pause in reading that some sessions make once.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ReadingPause {
    /// The sessions that pause.
    pub sessions: Selection,
    /// The length of the pause.
    pub duration: Duration,
}

/// A part of the sessions.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Selection {
    /// A share of all sessions, 0 to 1.
    Share(f64),
    /// A number of sessions.
    Number(u64),
}

impl ReadingPause {
    /// Returns how many of `clients` sessions pause.
    #[must_use]
    #[allow(clippy::cast_possible_truncation, clippy::cast_precision_loss, clippy::cast_sign_loss)]
    pub fn count(&self, clients: u64) -> u64 {
        match self.sessions {
            Selection::Share(share) => (share * clients as f64).round() as u64,
            Selection::Number(number) => number.min(clients),
        }
    }
}

/// A fault and when it is injected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedFault {
    /// As the user wrote it: `wsproxy-1:kill`.
    pub spec: String,
    /// Time from the first query of the run.
    pub at: Duration,
}

/// Faults to inject into the stack under test.
#[derive(Clone, Debug, Default)]
pub struct PlannedFaults {
    /// The faults in the order in which they were given.
    pub planned: Vec<PlannedFault>,
    /// Name of the stack. `None`: the stack that listens at the target's address.
    pub stack: Option<String>,
}
