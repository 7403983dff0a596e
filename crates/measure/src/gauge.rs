//! How many of something there are now, and how many there were at most.
//! It is told by a guard that counts back when dropped, never by hand.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

/// Counts what is present: sessions, or queries. Clones share the count.
#[derive(Clone, Debug, Default)]
pub struct Gauge(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    now: AtomicU64,
    peak: AtomicU64,
}

impl Gauge {
    /// One more, until the guard is dropped.
    #[must_use]
    pub fn enter(&self) -> Present {
        let now = self.0.now.fetch_add(1, Relaxed) + 1;
        self.0.peak.fetch_max(now, Relaxed);
        Present(Arc::clone(&self.0))
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
pub struct Present(Arc<Counts>);

impl Drop for Present {
    fn drop(&mut self) {
        self.0.now.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peak_stays_when_guards_go() {
        let gauge = Gauge::default();
        let first = gauge.enter();
        drop((first, gauge.enter()));
        let _third = gauge.enter();
        assert_eq!((gauge.now(), gauge.peak()), (1, 2));
    }
}
