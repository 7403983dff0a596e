//! Converts Redis' time to this process's monotonic clock.

use super::server::{Link, Server, micros};
use crate::run::Start;
use redis::RedisResult;
use std::{
    thread,
    time::{Duration, Instant},
};

/// Number of probes of a measurement, and the time between two of them.
const PROBES: u32 = 16;
const GAP: Duration = Duration::from_millis(5);

/// A reading of Redis' clock.
#[derive(Clone, Copy, Debug)]
struct Reading {
    sent: Instant,
    redis_us: u64,
    round_trip: Duration,
}

/// The readings of one measurement: the best one, and the longest round trip.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    best: Reading,
    longest: Duration,
}

impl Clock {
    /// Reads Redis' clock sixteen times, over an otherwise idle connection.
    pub(super) fn measure(server: &Server, link: &mut Link) -> RedisResult<Self> {
        // The first call may open the connection.
        read(server, link)?;
        let first = read(server, link)?;
        let mut clock = Self { best: first, longest: first.round_trip };
        for _ in 1..PROBES {
            thread::sleep(GAP);
            clock.add(read(server, link)?);
        }
        Ok(clock)
    }

    fn add(&mut self, reading: Reading) {
        self.longest = self.longest.max(reading.round_trip);
        if reading.round_trip < self.best.round_trip {
            self.best = reading;
        }
    }

    /// Returns the longest round trip, in microseconds.
    pub(super) fn longest_us(&self) -> u64 {
        micros(self.longest)
    }

    /// Returns the instant of this time of Redis' clock, or `None` if an [`Instant`] cannot express it.
    ///
    /// Redis read its clock between `sent` and the reply, so the middle is wrong by at most half of the round trip.
    pub(super) fn start(&self, redis_us: u64) -> Option<Start> {
        let half = self.best.round_trip / 2;
        let middle = self.best.sent + half;
        let at = if redis_us >= self.best.redis_us {
            middle.checked_add(Duration::from_micros(redis_us - self.best.redis_us))
        } else {
            middle.checked_sub(Duration::from_micros(self.best.redis_us - redis_us))
        };
        // Redis reports whole microseconds.
        at.map(|at| Start { at, error: half + Duration::from_micros(1) })
    }
}

fn read(server: &Server, link: &mut Link) -> RedisResult<Reading> {
    link.call(server, |connection| {
        let sent = Instant::now();
        let (seconds, us): (u64, u64) = redis::cmd("TIME").query(connection)?;
        Ok(Reading { sent, redis_us: seconds * 1_000_000 + us, round_trip: sent.elapsed() })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// However the round trips are divided, the true instant lies within the stated error.
        #[test]
        fn the_start_is_within_its_error(
            readings in prop::collection::vec((0u64..1000, 0u64..5000, 0u64..5000), 1..20),
            offset_us in 1u64 << 40..1 << 50,
            start_us in 0u64..10_000_000,
        ) {
            let origin = Instant::now() + Duration::from_secs(3600);
            let mut elapsed = 0;
            let mut clock: Option<Clock> = None;
            for (gap, out, back) in readings {
                elapsed += gap;
                let reading = Reading {
                    sent: origin + Duration::from_micros(elapsed),
                    redis_us: offset_us + elapsed + out,
                    round_trip: Duration::from_micros(out + back),
                };
                elapsed += out + back;
                match &mut clock {
                    Some(clock) => clock.add(reading),
                    None => clock = Some(Clock { best: reading, longest: reading.round_trip }),
                }
            }
            let start = clock.expect("a reading").start(offset_us + start_us).expect("it can be expressed");
            let truth = origin + Duration::from_micros(start_us);
            prop_assert!(start.at.max(truth) - start.at.min(truth) <= start.error);
        }
    }
}
