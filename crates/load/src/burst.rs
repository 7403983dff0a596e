//! The instant at which all sessions submit: when the last one has connected, or has failed to.
//! It counts arrivals and names the instant; it starts nothing itself.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::sync::watch;

/// Between the last arrival and the instant, so that every worker has heard of it.
const LEAD: Duration = Duration::from_millis(100);

/// A gate for all sessions of a run.
#[derive(Debug)]
pub struct Burst {
    missing: AtomicU64,
    instant: watch::Sender<Option<Instant>>,
}

impl Burst {
    /// Waits for `sessions`.
    #[must_use]
    pub fn new(sessions: u64) -> Self {
        Self { missing: AtomicU64::new(sessions), instant: watch::Sender::new(None) }
    }

    /// A session's place. Drop it once the session is ready, or will never be.
    #[must_use]
    pub fn slot(self: &Arc<Self>) -> Slot {
        Slot(Arc::clone(self))
    }

    fn arrived(&self) {
        if self.missing.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.instant.send_replace(Some(Instant::now() + LEAD));
        }
    }

    /// The instant, once it is known.
    pub async fn instant(&self) -> Option<Instant> {
        let mut told = self.instant.subscribe();
        told.wait_for(Option::is_some).await.ok().and_then(|instant| *instant)
    }
}

/// A session that the burst waits for, until it is dropped.
#[derive(Debug)]
pub struct Slot(Arc<Burst>);

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.arrived();
    }
}
