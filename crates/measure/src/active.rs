//! How many of something there are now, and how many there were at most.
//! It is told by a guard that counts back when dropped, never by hand.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

/// Counts what is present: sessions, or queries. Clones share the count.
#[derive(Clone, Debug, Default)]
pub struct ActiveCounter(Arc<Counters>);

#[derive(Debug, Default)]
struct Counters {
    now: AtomicU64,
    peak: AtomicU64,
}

impl ActiveCounter {
    /// One more, until the guard is dropped.
    #[must_use]
    pub fn enter(&self) -> ActiveGuard {
        let now = self.0.now.fetch_add(1, Relaxed) + 1;
        self.0.peak.fetch_max(now, Relaxed);
        ActiveGuard(Arc::clone(&self.0))
    }

    /// How many there are.
    #[must_use]
    pub fn now(&self) -> u64 {
        self.0.now.load(Relaxed)
    }

    /// How many there were at most.
    #[must_use]
    pub fn peak(&self) -> u64 {
        self.0.peak.load(Relaxed)
    }
}

/// Counted as long as it lives.
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
