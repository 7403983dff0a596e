//! The highest rates of reconnect attempts and successful reconnects in any second of the run.

use super::Interval;

/// Highest count in any second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Peak {
    /// Count in that second.
    pub per_second: u64,
    /// First second of the run with that count.
    pub at_s: u64,
}

impl Peak {
    const fn see(&mut self, count: u64, second: u64) {
        if count > self.per_second {
            *self = Self { per_second: count, at_s: second };
        }
    }
}

/// Reconnects over time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct ReconnectStorm {
    /// Peak of attempts.
    pub peak_attempts: Peak,
    /// Peak of successful reconnects.
    pub peak_reconnects: Peak,
    /// Seconds of the run with at least one attempt.
    pub seconds: u64,
}

impl ReconnectStorm {
    /// Adds a second of the run, merged over all workers.
    pub const fn add(&mut self, second: u64, interval: &Interval) {
        let counts = interval.counts();
        self.peak_attempts.see(counts.reconnect_attempts, second);
        self.peak_reconnects.see(counts.reconnects, second);
        self.seconds += (counts.reconnect_attempts > 0) as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_second_is_kept() {
        let mut storm = ReconnectStorm::default();
        for (second, attempts, ok) in [(3, 2, 0), (4, 9, 5), (5, 9, 7), (6, 0, 0)] {
            let mut interval = Interval::default();
            (0..attempts).for_each(|_| interval.reconnect_attempt());
            (0..ok).for_each(|_| interval.reconnected());
            storm.add(second, &interval);
        }
        assert_eq!(storm.peak_attempts, Peak { per_second: 9, at_s: 4 });
        assert_eq!(storm.peak_reconnects, Peak { per_second: 7, at_s: 5 });
        assert_eq!(storm.seconds, 3);
    }
}
