//! The durations that all rules use. The defaults are those of a run; tests shorten them.

use std::time::Duration;

/// Durations of the coordination. All generators of a run must use the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timing {
    /// Interval of heartbeats and of polls \[500 ms\].
    pub heartbeat: Duration,
    /// A generator is lost when this number of polls in a row saw an unchanged heartbeat \[3\].
    pub unchanged_polls: u32,
    /// After an outage of the control Redis, no generator is lost for this long \[3 s\].
    pub calm: Duration,
    /// Before the start, a claim without heartbeats expires after this long \[5 s\].
    pub claim_expiry: Duration,
    /// Interval at which a generator asks whether all others came \[100 ms\].
    pub barrier_poll: Duration,
    /// Shortest time between the last generator's arrival and the start, with a control Redis \[3 s\]. It is ten times the longest
    /// measured round trip if that is more.
    pub start_delay: Duration,
    /// Time between the last generator's arrival and the start, on one machine \[500 ms\].
    pub local_start_delay: Duration,
    /// Largest error of the start by a generator's clock, with a control Redis \[250 ms\].
    pub clock_error: Duration,
    /// How long a generator keeps parts that it cannot deliver \[60 s\]. Older ones are dropped and counted.
    pub buffer: Duration,
    /// A leader ends the run when the control Redis has not answered for this long \[180 s\].
    pub give_up: Duration,
    /// How long a reply may take until the connection counts as broken \[2 s\].
    pub response: Duration,
    /// Time to live of everything in the control Redis \[1 h\]. Living generators renew it.
    pub keep: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_millis(500),
            unchanged_polls: 3,
            calm: Duration::from_secs(3),
            claim_expiry: Duration::from_secs(5),
            barrier_poll: Duration::from_millis(100),
            start_delay: Duration::from_secs(3),
            local_start_delay: Duration::from_millis(500),
            clock_error: Duration::from_millis(250),
            buffer: Duration::from_secs(60),
            give_up: Duration::from_secs(180),
            response: Duration::from_secs(2),
            keep: Duration::from_secs(3600),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_the_documented_ones() {
        let Timing {
            heartbeat,
            unchanged_polls,
            calm,
            claim_expiry,
            barrier_poll,
            start_delay,
            local_start_delay,
            clock_error,
            buffer,
            give_up,
            response,
            keep,
        } = Timing::default();
        assert_eq!(unchanged_polls, 3);
        for (duration, expected_ms) in [
            (heartbeat, 500),
            (calm, 3000),
            (claim_expiry, 5000),
            (barrier_poll, 100),
            (start_delay, 3000),
            (local_start_delay, 500),
            (clock_error, 250),
            (buffer, 60_000),
            (give_up, 180_000),
            (response, 2000),
            (keep, 3_600_000),
        ] {
            assert_eq!(duration, Duration::from_millis(expected_ms));
        }
    }
}
