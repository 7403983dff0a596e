//! One budget in bytes for everything of a kind that arrives from outside. Taking never waits: what finds no room is refused.

use prometheus_client::metrics::gauge::Gauge;
use std::sync::Arc;

/// What takes no more than this may use the last eighth of a budget, in bytes: those who hold large things for long do not shut
/// out the many who need little.
pub const SMALL: usize = 4096;

/// A budget in bytes. The gauge that shows how much of it is taken is also what it is kept in.
#[derive(Debug)]
pub struct Budget {
    limit: usize,
    taken: Gauge,
}

impl Budget {
    /// A budget of `limit` bytes, which `taken` shows.
    #[must_use]
    pub fn new(limit: usize, taken: Gauge) -> Arc<Self> {
        Arc::new(Self { limit, taken })
    }

    /// The most that one holder can ever take of a budget of `limit` bytes.
    #[must_use]
    pub const fn most_for_one(limit: usize) -> usize {
        limit - limit / 8
    }

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

/// What one holder has taken of a budget; given back when dropped.
#[derive(Debug)]
pub struct Room {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Room {
    /// No room yet.
    #[must_use]
    pub const fn new(budget: Arc<Budget>) -> Self {
        Self { budget, bytes: 0 }
    }

    /// Takes what is missing to `bytes`. False where the budget does not have it; what was taken before stays.
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

    /// Gives everything back.
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
        /// Never more than the limit, and nothing is left when all have gone.
        #[test]
        fn the_limit_holds(limit in 0usize..50_000, wishes in proptest::collection::vec((0usize..8, 0usize..20_000), 1..60)) {
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
