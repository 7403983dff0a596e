//! Wire time: microseconds of `CLOCK_MONOTONIC`, comparable between the processes of one running kernel.
//! [`boot_id`] tells whether two processes share that clock.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Returns the time of `CLOCK_MONOTONIC`, in microseconds.
#[must_use]
pub fn monotonic_us() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let (seconds, nanos) = (now.tv_sec.unsigned_abs(), now.tv_nsec.unsigned_abs());
    seconds * 1_000_000 + nanos / 1_000
}

/// Returns the wall clock's time since the Unix epoch, and zero for a clock that is set before it.
///
/// Only the dates in a session's token are compared with it. Latencies come from [`monotonic_us`].
#[must_use]
pub fn unix_time() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Returns the id that the kernel drew when it booted, or `None` if `/proc` does not offer it.
#[must_use]
pub fn boot_id() -> Option<String> {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(id.trim().to_owned())
}

/// Converts between this process's [`Instant`]s and wire time.
#[derive(Clone, Copy, Debug)]
pub struct ClockAnchor {
    instant: Instant,
    us: u64,
}

impl ClockAnchor {
    /// Reads both clocks.
    #[must_use]
    pub fn now() -> Self {
        // The process may be preempted between the two reads, and every later conversion would be wrong by that time.
        // Of several pairs of reads, the one that took least is kept.
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

    /// Creates an anchor from two readings of one moment: `us` is the wire time at `instant`.
    #[must_use]
    pub const fn new(instant: Instant, us: u64) -> Self {
        Self { instant, us }
    }

    /// Returns the wire time at `instant`, in microseconds.
    #[must_use]
    pub fn us(&self, instant: Instant) -> u64 {
        match instant.checked_duration_since(self.instant) {
            Some(after) => self.us.saturating_add(whole_us(after)),
            None => self.us.saturating_sub(whole_us(self.instant - instant)),
        }
    }

    /// Returns the instant at wire time `us`, or `None` if an [`Instant`] cannot express it.
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
        fn converts_to_wire_time_and_back(anchor_us in 1_000_000_000u64..1 << 50, offset in -1_000_000_000i64..1_000_000_000) {
            let anchor = ClockAnchor::new(Instant::now(), anchor_us);
            let us = anchor_us.checked_add_signed(offset).unwrap();
            if let Some(instant) = anchor.instant(us) {
                prop_assert_eq!(anchor.us(instant), us);
            }
        }
    }

    #[test]
    fn a_new_anchor_agrees_with_the_clock() {
        let before = monotonic_us();
        let mapped = ClockAnchor::now().us(Instant::now());
        let after = monotonic_us();
        assert!((before.saturating_sub(2)..=after + 2).contains(&mapped));
    }
}
