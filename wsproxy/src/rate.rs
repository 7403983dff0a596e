//! How often something may happen: pure arithmetic over the time that its caller tells. One rate serves any number of parties, each
//! of which keeps a single `Duration`: the time up to which its budget is spent.

use std::time::Duration;

/// So many in a second, and so many at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rate {
    /// What one costs.
    pub(crate) interval: Duration,
    /// What may be spent at once, as time.
    pub(crate) burst: Duration,
}

impl Rate {
    /// `per_second`, and `burst` at once; `None` for a rate of 0, which is no limit.
    pub(crate) fn new(per_second: u32, burst: u32) -> Option<Self> {
        let interval = Duration::from_secs(1).checked_div(per_second)?;
        Some(Self { interval, burst: interval.saturating_mul(burst.max(1)) })
    }

    /// What is spent after one more at `now`.
    pub(crate) fn after(self, spent: Duration, now: Duration) -> Duration {
        spent.max(now) + self.interval
    }

    /// By how much `spent` is above the budget at `now`; zero where it is within.
    pub(crate) fn excess(self, spent: Duration, now: Duration) -> Duration {
        spent.saturating_sub(now + self.burst)
    }
}

/// A wait as whole seconds, at least one, for `Retry-After`.
pub(crate) fn whole_seconds(wait: Duration) -> u64 {
    (wait.as_secs() + u64::from(wait.subsec_nanos() > 0)).max(1)
}
