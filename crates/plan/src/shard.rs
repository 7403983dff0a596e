//! A shard: the part of a plan that one of several generators plays.

use std::{fmt, str::FromStr};

/// Largest number of generators of a run.
pub const MAX_GENERATORS: u32 = 1_000;

/// One of several equal parts of a plan. Session or arrival `i` belongs to shard `i mod count`, so every shard has the shape of
/// the whole plan, and the shards together are the plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Shard {
    index: u32,
    count: u32,
}

impl Default for Shard {
    fn default() -> Self {
        Self::WHOLE
    }
}

impl Shard {
    /// The only shard of a run with one generator.
    pub const WHOLE: Self = Self { index: 0, count: 1 };

    /// Returns shard `index` (from 0) of `count`. `None` if there is no such shard, or `count` is above [`MAX_GENERATORS`].
    #[must_use]
    pub const fn new(index: u32, count: u32) -> Option<Self> {
        if index < count && count <= MAX_GENERATORS { Some(Self { index, count }) } else { None }
    }

    /// Returns the number of the shard, from 0.
    #[must_use]
    pub const fn index(self) -> u32 {
        self.index
    }

    /// Returns the number from 1 that people read.
    #[must_use]
    pub const fn number(self) -> u32 {
        self.index + 1
    }

    /// Returns the number of shards of the plan.
    #[must_use]
    pub const fn count(self) -> u32 {
        self.count
    }

    /// Returns whether this is the whole plan.
    #[must_use]
    pub const fn is_whole(self) -> bool {
        self.count == 1
    }

    /// Returns how many of the numbers below `total` belong to this shard.
    #[must_use]
    pub const fn size(self, total: u64) -> u64 {
        let (index, count) = (self.index as u64, self.count as u64);
        total / count + if total % count > index { 1 } else { 0 }
    }

    /// Returns the numbers below `total` that worker `worker` (from 0) of `workers` plays.
    pub fn numbers(self, total: u64, worker: usize, workers: usize) -> impl Iterator<Item = u64> + use<> {
        (self.number_of(worker, workers, 0)..total).step_by(self.count as usize * workers.max(1))
    }

    /// Returns the `n`th number (from 0) that worker `worker` (from 0) of `workers` plays.
    #[must_use]
    pub const fn number_of(self, worker: usize, workers: usize, n: u64) -> u64 {
        let (index, count) = (self.index as u64, self.count as u64);
        let workers = if workers == 0 { 1 } else { workers as u64 };
        index + count * (worker as u64 + workers * n)
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.number(), self.count)
    }
}

/// The reason why a text is not a shard.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected NUMBER/COUNT with 1 <= NUMBER <= COUNT <= {MAX_GENERATORS}, for example 2/8")]
pub struct InvalidShard;

/// Parses the notation of the command line: `2/8` is the second of eight shards.
impl FromStr for Shard {
    type Err = InvalidShard;

    fn from_str(text: &str) -> Result<Self, InvalidShard> {
        let (number, count) = text.trim().split_once('/').ok_or(InvalidShard)?;
        let number: u32 = number.parse().map_err(|_| InvalidShard)?;
        let count = count.parse().map_err(|_| InvalidShard)?;
        number.checked_sub(1).and_then(|index| Self::new(index, count)).ok_or(InvalidShard)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_notation_counts_from_one() {
        let shard: Shard = "2/8".parse().unwrap();
        assert_eq!((shard.index(), shard.number(), shard.count()), (1, 2, 8));
        assert_eq!(shard.to_string(), "2/8");
        for text in ["0/8", "9/8", "1/0", "2", "a/b", "1/1001", "-1/2", "", "1/4294967296"] {
            assert_eq!(text.parse::<Shard>(), Err(InvalidShard), "{text}");
        }
    }

    proptest! {
        #[test]
        fn every_number_has_one_worker_of_one_shard(total in 0u64..500, count in 1u32..20, workers in 1usize..5) {
            let mut all = Vec::new();
            for index in 0..count {
                let shard = Shard::new(index, count).unwrap();
                let numbers: Vec<u64> = (0..workers).flat_map(|worker| shard.numbers(total, worker, workers)).collect();
                prop_assert_eq!(numbers.len() as u64, shard.size(total));
                prop_assert!(numbers.iter().all(|number| number % u64::from(count) == u64::from(index)));
                all.extend(numbers);
            }
            all.sort_unstable();
            prop_assert_eq!(all, (0..total).collect::<Vec<_>>());
        }
    }
}
