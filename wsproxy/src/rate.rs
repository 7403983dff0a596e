//! A token bucket as pure arithmetic (GCRA). One `Rate` serves any number of parties. Each keeps a single `Duration`, `spent`: the time up to
//! which its budget is used up.

use std::time::Duration;

/// A limit per second with a burst.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rate {
    /// The time that one use costs.
    pub(crate) interval: Duration,
    /// How far `spent` may be ahead of the clock.
    pub(crate) burst: Duration,
}

impl Rate {
    /// Creates a limit of `per_second` with a burst of `burst`. Returns `None` for a rate of 0, which means no limit.
    pub(crate) fn new(per_second: u32, burst: u32) -> Option<Self> {
        let interval = Duration::from_secs(1).checked_div(per_second)?;
        Some(Self { interval, burst: interval.saturating_mul(burst.max(1)) })
    }

    /// Returns `spent` after one more use at `now`.
    pub(crate) fn after(self, spent: Duration, now: Duration) -> Duration {
        spent.max(now) + self.interval
    }

    /// Returns how long after `now` the budget allows `spent`, and zero if it does at `now`.
    pub(crate) fn excess(self, spent: Duration, now: Duration) -> Duration {
        spent.saturating_sub(now + self.burst)
    }
}

/// Rounds a wait up to whole seconds, at least one, for `Retry-After`.
pub(crate) fn whole_seconds(wait: Duration) -> u64 {
    (wait.as_secs() + u64::from(wait.subsec_nanos() > 0)).max(1)
}
