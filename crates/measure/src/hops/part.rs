//! The hops in a part of the run.

use super::Hop;
use crate::Interval;

/// The hops in a part of the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct HopPart {
    /// First second.
    pub(super) from_s: u64,
    /// First second after it.
    pub(super) to_s: u64,
    /// Sums by [`Hop`], in nanoseconds.
    sums: [i128; Hop::COUNT],
    /// Numbers of samples by [`Hop`].
    counts: [u64; Hop::COUNT],
}

impl HopPart {
    pub(super) fn of(second: u64, interval: &Interval) -> Self {
        Self {
            from_s: second,
            to_s: second + 1,
            sums: Hop::ALL.map(|hop| interval.get(hop.metric()).sum_ns()),
            counts: Hop::ALL.map(|hop| interval.get(hop.metric()).count()),
        }
    }

    /// Adds a later part.
    pub(super) fn add(&mut self, other: &Self) {
        self.to_s = other.to_s;
        self.sums.iter_mut().zip(other.sums).for_each(|(sum, more)| *sum += more);
        self.counts.iter_mut().zip(other.counts).for_each(|(count, more)| *count += more);
    }

    pub(super) const fn samples(&self) -> u64 {
        self.counts[Hop::Gateway as usize]
    }

    /// Returns the mean time in a hop in milliseconds, 0 without samples.
    #[allow(clippy::cast_precision_loss)]
    pub(super) fn mean_ms(&self, hop: Hop) -> f64 {
        self.sums[hop as usize] as f64 / self.counts[hop as usize].max(1) as f64 / 1e6
    }

    /// Returns the mean time in all measured hops together, in milliseconds.
    pub(super) fn total_ms(&self) -> f64 {
        Hop::ALL.map(|hop| self.mean_ms(hop)).iter().sum()
    }
}
