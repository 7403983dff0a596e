//! How a run is asked to stop: the first request starts nothing new, the second one abandons what runs.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::SeqCst},
};
use tokio_util::sync::CancellationToken;

/// The two stages of stopping a run.
#[derive(Clone, Debug, Default)]
pub struct Stop {
    /// Cancelled: nothing new is started.
    pub starting: CancellationToken,
    /// Cancelled: what runs is abandoned.
    pub running: CancellationToken,
    /// The run has results to write.
    begun: Arc<AtomicBool>,
}

impl Stop {
    /// Returns a copy that follows this one. Each thread has one, so that threads do not contend for a lock.
    #[must_use]
    pub fn child(&self) -> Self {
        Self {
            starting: self.starting.child_token(),
            running: self.running.child_token(),
            begun: Arc::clone(&self.begun),
        }
    }

    /// Notes that the run has results to write from now on. Returns false if the run was asked to stop before.
    #[must_use]
    pub fn begin(&self) -> bool {
        self.begun.store(true, SeqCst);
        !self.starting.is_cancelled()
    }

    /// Returns true if the run has results to write.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        self.begun.load(SeqCst)
    }

    /// Goes one stage further: first nothing new starts, then everything ends.
    pub fn escalate(&self) {
        if self.starting.is_cancelled() {
            self.running.cancel();
        }
        self.starting.cancel();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_request_ends_what_runs() {
        let stop = Stop::default();
        let child = stop.child();
        stop.escalate();
        assert!(child.starting.is_cancelled() && !child.running.is_cancelled());
        stop.escalate();
        assert!(child.running.is_cancelled());
    }
}
