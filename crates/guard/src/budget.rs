//! A budget in bytes for data of one kind that arrives from outside. Taking bytes never waits: it fails if the budget is used up.

use prometheus_client::metrics::gauge::Gauge;
use std::sync::Arc;

/// Holders of at most this many bytes may use the last eighth of a budget, so that a few large holders cannot lock out many small ones.
pub const SMALL: usize = 4096;

/// A budget in bytes. Its gauge is both the metric and the counter of the bytes in use.
#[derive(Debug)]
pub struct Budget {
    limit: usize,
    taken: Gauge,
}

impl Budget {
    /// Creates a budget of `limit` bytes. `taken` shows the bytes in use.
    #[must_use]
    pub fn new(limit: usize, taken: Gauge) -> Arc<Self> {
        Arc::new(Self { limit, taken })
    }

    /// Returns the most bytes that one holder can take of a budget of `limit` bytes: 7/8 of it.
    #[must_use]
    pub const fn most_for_one(limit: usize) -> usize {
        limit - limit / 8
    }

    /// Takes `bytes` if the budget then stays within `limit`. Returns whether it did.
    fn take(&self, bytes: usize, limit: usize) -> bool {
        let count = i64::try_from(bytes).unwrap_or(i64::MAX);
        let before = usize::try_from(self.taken.inc_by(count)).unwrap_or(0);
        let fits = before.saturating_add(bytes) <= limit;
        if !fits {
            self.taken.dec_by(count);
        }
        fits
    }
}

/// The bytes that one holder has taken of a budget. Dropping it returns them.
#[derive(Debug)]
pub struct Room {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Room {
    /// Creates a holder without bytes.
    #[must_use]
    pub const fn new(budget: Arc<Budget>) -> Self {
        Self { budget, bytes: 0 }
    }

    /// Grows to `bytes`. Returns false if the budget does not have the missing bytes. Those taken before are kept.
    #[must_use]
    pub fn grow(&mut self, bytes: usize) -> bool {
        let limit = if bytes <= SMALL { self.budget.limit } else { Budget::most_for_one(self.budget.limit) };
        let missing = bytes.saturating_sub(self.bytes);
        let fits = missing == 0 || self.budget.take(missing, limit);
        if fits {
            self.bytes += missing;
        }
        fits
    }

    /// Returns all bytes to the budget.
    pub fn clear(&mut self) {
        if self.bytes > 0 {
            self.budget.taken.dec_by(i64::try_from(self.bytes).unwrap_or(i64::MAX));
            self.bytes = 0;
        }
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn large_holders_leave_the_last_eighth_to_small_ones() {
        let budget = Budget::new(80_000, Gauge::default());
        let mut large = Room::new(Arc::clone(&budget));
        assert!(large.grow(5_000) && large.grow(70_000) && !large.grow(70_001));
        let mut another = Room::new(Arc::clone(&budget));
        assert!(!another.grow(SMALL + 1) && another.grow(SMALL) && another.grow(10));
        let mut small: Vec<_> = (0..2).map(|_| Room::new(Arc::clone(&budget))).collect();
        assert!(small[0].grow(SMALL) && !small[1].grow(SMALL));
        drop(large);
        assert!(small[1].grow(SMALL) && another.grow(60_000));
        drop((another, small));
        assert_eq!(budget.taken.get(), 0);
    }

    proptest! {
        /// The bytes in use never exceed the limit, and none are left after all holders are dropped.
        #[test]
        fn the_limit_is_never_exceeded(limit in 0usize..50_000, wishes in proptest::collection::vec((0usize..8, 0usize..20_000), 1..60)) {
            let gauge = Gauge::default();
            let budget = Budget::new(limit, gauge.clone());
            let mut rooms: Vec<_> = (0..8).map(|_| Room::new(Arc::clone(&budget))).collect();
            for (holder, bytes) in wishes {
                if bytes == 0 {
                    rooms[holder].clear();
                } else if rooms[holder].grow(bytes) {
                    prop_assert!(rooms[holder].bytes >= bytes);
                }
                let sum: usize = rooms.iter().map(|room| room.bytes).sum();
                prop_assert!(sum <= limit);
                prop_assert_eq!(gauge.get(), sum as i64);
            }
            drop(rooms);
            prop_assert_eq!(gauge.get(), 0);
        }
    }
}
