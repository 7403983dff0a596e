//! Start times of sessions in a linear ramp-up, computed from their index.
//! No state is kept, so that a session that starts late does not delay the following ones.

use std::time::Duration;

/// A ramp-up: sessions that start evenly over a time.
#[derive(Clone, Copy, Debug)]
pub struct Ramp {
    sessions: u64,
    ramp_up: Duration,
}

impl Ramp {
    /// Creates the ramp-up of `sessions` sessions over `ramp_up`.
    #[must_use]
    pub const fn new(sessions: u64, ramp_up: Duration) -> Self {
        Self { sessions, ramp_up }
    }

    /// Returns when session `index` (from 0) starts: `index · ramp_up / sessions`.
    #[must_use]
    pub fn start(&self, index: u64) -> Duration {
        let nanos = self.ramp_up.as_nanos() * u128::from(index) / u128::from(self.sessions.max(1));
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_table_of_starts() {
        for (sessions, seconds, index, millis) in [
            (1, 10, 0, 0),
            (10, 10, 0, 0),
            (10, 10, 1, 1000),
            (10, 10, 9, 9000),
            (5000, 10, 2500, 5000),
            (4, 0, 3, 0),
        ] {
            let ramp = Ramp::new(sessions, Duration::from_secs(seconds));
            assert_eq!(
                ramp.start(index),
                Duration::from_millis(millis),
                "{sessions} over {seconds} s, {index}"
            );
        }
    }

    proptest! {
        #[test]
        fn starts_grow_and_end_before_the_ramp(sessions in 1u64..100_000, millis in 0u64..1_000_000, index in 0u64..100_000) {
            let index = index % sessions;
            let ramp = Ramp::new(sessions, Duration::from_millis(millis));
            prop_assert!(ramp.start(index) <= ramp.start(index + 1));
            prop_assert!(millis == 0 || ramp.start(index) < Duration::from_millis(millis));
        }
    }
}
