//! Whether and when a response was cancelled.

use std::sync::{Arc, OnceLock};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// The cancellation of a response. Clones are the same one.
#[derive(Clone, Debug, Default)]
pub(super) struct Cancelling {
    token: CancellationToken,
    at: Arc<OnceLock<Instant>>,
}

impl Cancelling {
    /// Cancels the response. Only the first call counts.
    pub(super) fn cancel(&self, now: Instant) {
        let _ = self.at.set(now);
        self.token.cancel();
    }

    pub(super) fn is_cancelled(&self) -> bool {
        self.at.get().is_some()
    }

    /// Returns whether the response was cancelled before this time.
    pub(super) fn was_before(&self, time: Instant) -> bool {
        self.at.get().is_some_and(|&at| at < time)
    }

    /// Waits until the response is cancelled.
    pub(super) async fn cancelled(&self) {
        self.token.cancelled().await;
    }
}
