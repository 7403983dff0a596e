//! Counts active sessions or queries, and remembers the peak.
//! A guard holds each count and decrements it when dropped, so that no exit path can forget it.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

/// Counter of active sessions or queries. Clones share the count.
#[derive(Clone, Debug, Default)]
pub struct ActiveCounter(Arc<Counters>);

#[derive(Debug, Default)]
struct Counters {
    now: AtomicU64,
    peak: AtomicU64,
}

impl ActiveCounter {
    /// Increments the count until the returned guard is dropped.
    #[must_use]
    pub fn enter(&self) -> ActiveGuard {
        let now = self.0.now.fetch_add(1, Relaxed) + 1;
        self.0.peak.fetch_max(now, Relaxed);
        ActiveGuard(Arc::clone(&self.0))
    }

    /// Returns the current count.
    #[must_use]
    pub fn now(&self) -> u64 {
        self.0.now.load(Relaxed)
    }

    /// Returns the highest count so far.
    #[must_use]
    pub fn peak(&self) -> u64 {
        self.0.peak.load(Relaxed)
    }
}

/// Holds one count of an [`ActiveCounter`] until it is dropped.
#[derive(Debug)]
pub struct ActiveGuard(Arc<Counters>);

impl Drop for ActiveGuard {
    fn drop(&mut self) {
        self.0.now.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peak_stays_when_guards_go() {
        let active = ActiveCounter::default();
        let first = active.enter();
        drop((first, active.enter()));
        let _third = active.enter();
        assert_eq!((active.now(), active.peak()), (1, 2));
    }
}
