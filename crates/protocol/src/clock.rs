//! Wire time: microseconds of `CLOCK_MONOTONIC`, comparable between processes of one running kernel.
//! `boot_id` says whether two ends share that clock; nothing here ever looks at the wall clock.

use std::time::{Duration, Instant};

/// `CLOCK_MONOTONIC` now, in microseconds.
#[must_use]
pub fn monotonic_us() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let (seconds, nanos) = (now.tv_sec.unsigned_abs(), now.tv_nsec.unsigned_abs());
    seconds * 1_000_000 + nanos / 1_000
}

/// The running kernel's identity; `None` where the system has none to tell.
#[must_use]
pub fn boot_id() -> Option<String> {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(id.trim().to_owned())
}

/// Maps this process's [`Instant`]s to wire time and back.
#[derive(Clone, Copy, Debug)]
pub struct ClockAnchor {
    instant: Instant,
    us: u64,
}

impl ClockAnchor {
    /// Both clocks, read now.
    #[must_use]
    pub fn now() -> Self {
        // A process that is interrupted between the two readings would carry the gap for as long as it lives: the
        // narrowest of several pairs counts.
        let mut narrowest = Duration::MAX;
        let mut anchor = Self::new(Instant::now(), monotonic_us());
        for _ in 0..16 {
            let before = Instant::now();
            let us = monotonic_us();
            let gap = before.elapsed();
            if gap < narrowest {
                (narrowest, anchor) = (gap, Self::new(before, us));
            }
        }
        anchor
    }

    /// `us` is wire time at `instant`.
    #[must_use]
    pub const fn new(instant: Instant, us: u64) -> Self {
        Self { instant, us }
    }

    /// Wire time at `instant`, in microseconds.
    #[must_use]
    pub fn us(&self, instant: Instant) -> u64 {
        match instant.checked_duration_since(self.instant) {
            Some(after) => self.us.saturating_add(whole_us(after)),
            None => self.us.saturating_sub(whole_us(self.instant - instant)),
        }
    }

    /// The instant at wire time `us`; `None` where this clock cannot express it.
    #[must_use]
    pub fn instant(&self, us: u64) -> Option<Instant> {
        if us >= self.us {
            self.instant.checked_add(Duration::from_micros(us - self.us))
        } else {
            self.instant.checked_sub(Duration::from_micros(self.us - us))
        }
    }
}

fn whole_us(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn maps_there_and_back(anchor_us in 1_000_000_000u64..1 << 50, offset in -1_000_000_000i64..1_000_000_000) {
            let anchor = ClockAnchor::new(Instant::now(), anchor_us);
            let us = anchor_us.checked_add_signed(offset).unwrap();
            if let Some(instant) = anchor.instant(us) {
                prop_assert_eq!(anchor.us(instant), us);
            }
        }
    }

    #[test]
    fn the_anchor_agrees_with_the_clock() {
        let before = monotonic_us();
        let mapped = ClockAnchor::now().us(Instant::now());
        let after = monotonic_us();
        assert!((before.saturating_sub(2)..=after + 2).contains(&mapped));
    }
}
