//! A stream that runs, for the limit of streams and for the metrics.

use crate::metrics::{Metrics, Outcome};
use tokio::sync::OwnedSemaphorePermit;

/// A running stream. Dropping it returns its place. Unless its outcome was set before, it counts as left by its client.
pub(super) struct Active {
    metrics: Metrics,
    outcome: Outcome,
    _place: OwnedSemaphorePermit,
}

impl Active {
    pub(super) fn start(metrics: Metrics, place: OwnedSemaphorePermit) -> Self {
        metrics.stream_started();
        Self { metrics, outcome: Outcome::Disconnected, _place: place }
    }

    /// Ends the stream with this outcome.
    pub(super) fn end(mut self, outcome: Outcome) {
        self.outcome = outcome;
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.metrics.ended(self.outcome);
    }
}
