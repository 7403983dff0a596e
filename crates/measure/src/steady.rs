//! The steady state: the whole seconds in which the schedule asks for (nearly) its maximum of sessions.
//! Samples count in the second in which they were measured, queries in the second in which they ended.

use super::Interval;
use std::time::Duration;

/// Shortest steady state, in seconds.
const SHORTEST_S: u64 = 10;

/// Measurements of the steady state.
#[derive(Clone, Debug, PartialEq)]
pub struct Steady {
    /// First second.
    pub from_s: u64,
    /// First second after it.
    pub to_s: u64,
    /// Measurements.
    pub metrics: Interval,
}

impl Steady {
    /// Creates an empty steady state for a window of the schedule. Uses its whole seconds only.
    #[must_use]
    pub fn of((from, to): (Duration, Duration)) -> Option<Self> {
        let from_s = from.as_secs() + u64::from(from.subsec_nanos() > 0);
        let to_s = to.as_secs();
        (from_s < to_s).then(|| Self { from_s, to_s, metrics: Interval::default() })
    }

    /// Adds a second of the run if it belongs to the steady state.
    pub fn second(&mut self, second: u64, interval: &Interval) {
        if (self.from_s..self.to_s).contains(&second) {
            self.metrics.merge(interval);
        }
    }

    /// Returns the steady state of a run that ended at second `end`. Returns `None` if less than 10 s of it are left.
    #[must_use]
    pub fn ended_at(self, end: u64) -> Option<Self> {
        let to_s = self.to_s.min(end);
        let planned = self.to_s == to_s;
        (planned || to_s.saturating_sub(self.from_s) >= SHORTEST_S).then_some(Self { to_s, ..self })
    }

    /// Returns its length in seconds.
    #[must_use]
    #[allow(clippy::cast_precision_loss)]
    pub const fn seconds(&self) -> f64 {
        (self.to_s - self.from_s) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Metric;

    #[test]
    fn its_own_whole_seconds_alone() {
        let ms = Duration::from_millis;
        let mut steady = Steady::of((ms(1_500), ms(4_900))).unwrap();
        assert_eq!((steady.from_s, steady.to_s, steady.seconds()), (2, 4, 2.0));
        for second in 0..6 {
            let mut interval = Interval::default();
            interval.record(Metric::E2el, 1_000_000 * i64::try_from(second).unwrap());
            steady.second(second, &interval);
        }
        let e2el = steady.metrics.get(Metric::E2el).summary().unwrap();
        assert_eq!((e2el.count, e2el.min, e2el.max), (2, 2.0, 3.0));
        assert_eq!(steady.clone().ended_at(9).map(|steady| steady.to_s), Some(4));
        assert_eq!(steady.ended_at(3), None);
        let long = Steady::of((ms(5_000), ms(60_000))).unwrap();
        assert_eq!(long.clone().ended_at(15).map(|steady| steady.seconds()), Some(10.0));
        assert_eq!(long.ended_at(14), None);
        assert_eq!(Steady::of((ms(100), ms(900))), None);
    }
}
