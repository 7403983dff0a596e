//! The times that a schedule consists of, all counted from the start of the run.

use std::time::Duration;

/// A part of the schedule during which its target changes linearly.
#[derive(Clone, Debug, PartialEq)]
pub struct Phase {
    /// The name shown in tables.
    pub name: String,
    /// The start, counted from the start of the run.
    pub start: Duration,
    /// The end, counted from the start of the run. `None`: the end of the last session.
    pub end: Option<Duration>,
    /// The target at the start: open sessions, in open models arrivals per second.
    pub from: f64,
    /// The target at the end, in the unit of `from`.
    pub target: f64,
}

impl Phase {
    /// Returns the target at `at`, a time in the phase.
    pub(super) fn target_at(&self, at: Duration) -> f64 {
        let Some(end) = self.end.filter(|&end| end > self.start) else { return self.target };
        let part = (at - self.start).as_secs_f64() / (end - self.start).as_secs_f64();
        self.from + (self.target - self.from) * part
    }
}

/// When a session starts and ends, counted from the start of the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionTimes {
    /// When the session starts.
    pub start: Duration,
    /// When the session ends; a query that runs at that time is finished first. `None`: after its last query.
    pub until: Option<Duration>,
    /// Tokens that each answer should have. `None`: the user's kind decides.
    pub tokens: Option<u32>,
}

/// The arrival of a query or session in an open model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// When it is due, counted from the start of the run.
    pub at: Duration,
    /// Tokens that the answer should have. `None`: the user's kind decides.
    pub tokens: Option<u32>,
}

impl SessionTimes {
    /// Returns the session that starts with an arrival, and ends after its queries.
    pub(super) const fn arriving(arrival: &Arrival) -> Self {
        Self { start: arrival.at, until: None, tokens: arrival.tokens }
    }
}
