//! A stream that runs, for the limit of streams, for the metrics and for the record.

use crate::{
    metrics::{Metrics, Outcome},
    openai::{player::Played, record::Trace},
};
use std::time::Duration;
use tokio::sync::OwnedSemaphorePermit;

/// A running stream. Dropping it returns its place. Unless its outcome was set before, it counts as left by its client.
pub(super) struct Active {
    metrics: Metrics,
    outcome: Outcome,
    trace: Option<Trace>,
    _place: OwnedSemaphorePermit,
}

impl Active {
    pub(super) fn start(metrics: Metrics, place: OwnedSemaphorePermit) -> Self {
        metrics.stream_started();
        Self { metrics, outcome: Outcome::Disconnected, trace: None, _place: place }
    }

    /// Records what the stream sends.
    pub(super) fn traced(mut self, trace: Option<Trace>) -> Self {
        self.trace = trace;
        self
    }

    /// Notes what was sent `after` the start.
    pub(super) fn note(&mut self, played: &Played, after: Duration) {
        if let Some(trace) = &mut self.trace {
            trace.note(played, after);
        }
    }

    /// Ends the stream with this outcome.
    pub(super) fn end(mut self, outcome: Outcome) {
        self.outcome = outcome;
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.metrics.ended(self.outcome);
        if let Some(trace) = self.trace.take() {
            trace.end(self.outcome);
        }
    }
}
