//! The common instant at which all sessions send their first query: just after the last session connected or failed. With several
//! generators, the leader of the run determines it after the last session of the last generator.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::sync::watch;

/// Time from the last session's report to the burst. It lets every worker learn the instant before it comes.
const LEAD: Duration = Duration::from_millis(100);

/// Determines the instant of the burst.
#[derive(Debug)]
pub struct Burst {
    missing: AtomicU64,
    /// Others determine the instant.
    agreed: bool,
    instant: watch::Sender<Option<Instant>>,
}

impl Burst {
    /// Creates a burst that waits for `sessions` sessions.
    #[must_use]
    pub fn new(sessions: u64) -> Self {
        Self { missing: AtomicU64::new(sessions), agreed: false, instant: watch::Sender::new(None) }
    }

    /// Creates the burst of one of several generators. It waits for [`Burst::set`].
    #[must_use]
    pub fn agreed(sessions: u64) -> Self {
        Self { agreed: true, ..Self::new(sessions) }
    }

    /// Returns whether each of this generator's sessions has connected or failed.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.missing.load(Ordering::Acquire) == 0
    }

    /// Sets the instant. Only the first call has an effect.
    pub fn set(&self, at: Instant) {
        self.instant.send_if_modified(|instant| instant.is_none() && instant.replace(at).is_none());
    }

    /// Returns the place of one session. Drop it when the session is ready or has failed.
    #[must_use]
    pub fn slot(self: &Arc<Self>) -> BurstSlot {
        BurstSlot(Arc::clone(self))
    }

    fn arrived(&self) {
        if self.missing.fetch_sub(1, Ordering::AcqRel) == 1 && !self.agreed {
            self.set(Instant::now() + LEAD);
        }
    }

    /// Waits until the instant is known and returns it.
    pub async fn instant(&self) -> Option<Instant> {
        let mut instant = self.instant.subscribe();
        instant.wait_for(Option::is_some).await.ok().and_then(|instant| *instant)
    }
}

/// A session that the burst waits for until this value is dropped.
#[derive(Debug)]
pub struct BurstSlot(Arc<Burst>);

impl Drop for BurstSlot {
    fn drop(&mut self) {
        self.0.arrived();
    }
}
