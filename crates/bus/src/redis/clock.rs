//! Redis' time, measured on one connection. Deadlines and ages use this time, so no host's clock has to be correct.

use parking_lot::Mutex;
use redis::{RedisResult, aio::MultiplexedConnection};
use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// Number of probes that are remembered. The one with the shortest round trip counts.
const PROBES: usize = 10;
/// Number of probes on a new connection, so that one slow reply does not decide.
const FIRST_PROBES: usize = 3;
/// Largest drift of the two clocks between two probes, in microseconds. A larger difference means that a clock was set.
const DRIFT_US: i64 = 2_000;

/// The clock of one connection. Every new connection resets it, and another Redis process means another connection, so
/// the clock never outlives a Redis process.
#[derive(Debug)]
pub(super) struct Clock {
    base: Instant,
    probes: Mutex<Probes>,
}

impl Clock {
    pub(super) fn new() -> Self {
        Self { base: Instant::now(), probes: Mutex::default() }
    }

    /// Returns Redis' time in milliseconds since the epoch, or `None` before the first measurement. The value is never
    /// ahead of Redis, and behind it by at most the best probe's round trip.
    pub(super) fn now_ms(&self) -> Option<u64> {
        let low = self.probes.lock().offset_us()?;
        u64::try_from((self.local_us() + low) / 1000).ok()
    }

    /// Removes every probe.
    pub(super) fn reset(&self) {
        *self.probes.lock() = Probes::default();
    }

    /// Makes the first probes of a connection.
    pub(super) async fn start(&self, connection: &mut MultiplexedConnection) -> RedisResult<()> {
        self.reset();
        for _ in 0..FIRST_PROBES {
            self.measure(connection).await?;
        }
        Ok(())
    }

    /// Measures Redis' time once.
    pub(super) async fn measure(&self, connection: &mut MultiplexedConnection) -> RedisResult<()> {
        let sent = self.local_us();
        let (seconds, micros): (i64, i64) = redis::cmd("TIME").query_async(connection).await?;
        let received = self.local_us();
        let redis_us = seconds * 1_000_000 + micros;
        self.probes.lock().add(Probe { low: redis_us - received, high: redis_us - sent });
        Ok(())
    }

    fn local_us(&self) -> i64 {
        let elapsed: Duration = self.base.elapsed();
        i64::try_from(elapsed.as_micros()).unwrap_or(i64::MAX)
    }
}

/// One reply to TIME. The offset between the two clocks lies between these two values, in microseconds.
#[derive(Clone, Copy, Debug)]
struct Probe {
    low: i64,
    high: i64,
}

impl Probe {
    const fn round_trip(self) -> i64 {
        self.high - self.low
    }

    const fn agrees_with(self, other: Self) -> bool {
        self.low <= other.high + DRIFT_US && other.low <= self.high + DRIFT_US
    }
}

#[derive(Debug, Default)]
struct Probes(VecDeque<Probe>);

impl Probes {
    /// Adds a probe. If it contradicts the best one so far, one of the clocks was set, and only the new probe counts.
    fn add(&mut self, probe: Probe) {
        if self.best().is_some_and(|best| !best.agrees_with(probe)) {
            self.0.clear();
        }
        if self.0.len() == PROBES {
            self.0.pop_front();
        }
        self.0.push_back(probe);
    }

    fn best(&self) -> Option<Probe> {
        self.0.iter().copied().min_by_key(|probe| probe.round_trip())
    }

    /// Returns the lower bound of the offset, in microseconds.
    fn offset_us(&self) -> Option<i64> {
        self.best().map(|best| best.low)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Returns the probe for this offset and these times of request and reply, in microseconds.
    fn probe(offset: i64, there: i64, back: i64) -> Probe {
        Probe { low: offset - back, high: offset + there }
    }

    #[test]
    fn the_smallest_round_trip_of_the_last_ten_counts() {
        let mut probes = Probes::default();
        assert_eq!(probes.offset_us(), None);
        probes.add(probe(5_000_000, 100, 100));
        for _ in 0..PROBES - 1 {
            probes.add(probe(5_000_000, 900, 1_500_000));
            assert_eq!(probes.offset_us(), Some(5_000_000 - 100));
        }
        probes.add(probe(5_000_000, 10, 400));
        assert_eq!(probes.offset_us(), Some(5_000_000 - 400), "the first one is forgotten");
    }

    #[test]
    fn a_clock_that_was_set_is_followed_at_once() {
        for set in [-60_000_000, -10_000, 10_000, 60_000_000] {
            let mut probes = Probes::default();
            (0..PROBES).for_each(|_| probes.add(probe(1_000_000, 50, 50)));
            probes.add(probe(1_000_000 + set, 700, 700));
            assert_eq!(probes.offset_us(), Some(1_000_000 + set - 700));
        }
    }

    proptest! {
        /// Whatever the delays, the estimate is never ahead of Redis.
        #[test]
        fn never_ahead_of_redis(
            offset in -1i64 << 50..1i64 << 50,
            trips in proptest::collection::vec((0i64..2_000_000, 0i64..2_000_000), 1..30),
        ) {
            let mut probes = Probes::default();
            for &(there, back) in &trips {
                probes.add(probe(offset, there, back));
                prop_assert!(probes.offset_us().is_some_and(|low| low <= offset));
            }
            let last = &trips[trips.len().saturating_sub(PROBES)..];
            let best = last.iter().map(|(there, back)| there + back).min().unwrap_or(0);
            prop_assert!(probes.offset_us().is_some_and(|low| offset - low <= best));
        }
    }
}
