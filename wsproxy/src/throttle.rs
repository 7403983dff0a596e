//! How many upgrades a second are let in, and when those who were not should come back: pure arithmetic over the time that
//! its caller tells. It owns no clock and remembers nobody; whom it refuses only moves the next one's place.

use crate::rate::Rate;
use std::time::Duration;

/// Nobody is told to stay away for longer: beyond it, places are given out from the front again.
const HORIZON: Duration = Duration::from_secs(30);

/// A token bucket that knows when its next tokens come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Throttle {
    rate: Rate,
    /// The time up to which budget has been spent; the bucket is full when it has passed.
    spent: Duration,
    /// The latest place that was promised to a refused client.
    promised: Duration,
}

impl Throttle {
    /// Lets in `rate` upgrades a second, and `burst` at once; `None` for a rate of 0, which is no limit.
    pub(crate) fn new(rate: u32, burst: u32) -> Option<Self> {
        Some(Self { rate: Rate::new(rate, burst)?, spent: Duration::ZERO, promised: Duration::ZERO })
    }

    /// One upgrade at `now`, which never runs backwards.
    ///
    /// # Errors
    /// The bucket is empty: the time after which there is a place that nobody refused before was sent to.
    pub(crate) fn enter(&mut self, now: Duration) -> Result<(), Duration> {
        let spent = self.rate.after(self.spent, now);
        let excess = self.rate.excess(spent, now);
        if excess.is_zero() {
            self.spent = spent;
            return Ok(());
        }
        let next = now + excess;
        let place = next.max(self.promised + self.rate.interval);
        self.promised = if place > now + HORIZON { next } else { place };
        Err(self.promised - now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rate::whole_seconds;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    /// `count` upgrades at once: how many were let in, and how many were sent to each second.
    fn storm(throttle: &mut Throttle, now: Duration, count: usize) -> (usize, BTreeMap<u64, usize>) {
        let mut told = BTreeMap::new();
        for _ in 0..count {
            if let Err(wait) = throttle.enter(now) {
                *told.entry(whole_seconds(wait)).or_default() += 1;
            }
        }
        (count - told.values().sum::<usize>(), told)
    }

    #[test]
    fn a_storm_comes_back_spread_over_the_seconds() {
        for (rate, burst, count, let_in, told) in [
            (100, 100, 100, 100, &[][..]),
            (100, 100, 350, 100, &[(1, 100), (2, 100), (3, 50)]),
            (100, 10, 150, 10, &[(1, 100), (2, 40)]),
            (1, 1, 4, 1, &[(1, 1), (2, 1), (3, 1)]),
            (1, 0, 2, 1, &[(1, 1)]),
        ] {
            let mut throttle = Throttle::new(rate, burst).unwrap();
            let told = told.iter().copied().collect();
            assert_eq!(storm(&mut throttle, Duration::from_secs(9), count), (let_in, told), "{rate} {burst}");
        }
        assert_eq!(Throttle::new(0, 5), None, "no limit");
    }

    #[test]
    fn who_comes_back_when_told_is_let_in() {
        let mut throttle = Throttle::new(50, 50).unwrap();
        let (_, told) = storm(&mut throttle, Duration::ZERO, 500);
        for (second, count) in told {
            assert_eq!(storm(&mut throttle, Duration::from_secs(second), count).0, count, "second {second}");
        }
    }

    #[test]
    fn who_comes_back_at_the_told_instant_is_let_in() {
        let mut throttle = Throttle::new(50, 50).unwrap();
        let waits: Vec<_> = (0..200).filter_map(|_| throttle.enter(Duration::ZERO).err()).collect();
        assert_eq!(waits.len(), 150);
        assert_eq!(waits[0], Duration::from_millis(20), "not a whole second");
        assert!(waits.into_iter().all(|wait| throttle.enter(wait) == Ok(())));
    }

    #[test]
    fn an_endless_storm_fills_every_second_of_the_horizon_alike() {
        let (_, told) = storm(&mut Throttle::new(10, 10).unwrap(), Duration::ZERO, 10 + 600);
        assert_eq!(told.len() as u64, HORIZON.as_secs());
        assert!(told.values().all(|count| (19..=21).contains(count)), "{told:?}");
    }

    proptest! {
        /// Over any stretch of time no more are let in than the burst and what that time earns.
        #[test]
        fn the_rate_holds(
            rate in 1u32..5_000,
            burst in 1u32..500,
            waits in proptest::collection::vec(0u64..20_000, 1..400),
        ) {
            let mut throttle = Throttle::new(rate, burst).unwrap();
            let (mut now, mut entered) = (Duration::ZERO, Vec::new());
            for wait in waits {
                now += Duration::from_micros(wait);
                match throttle.enter(now) {
                    Ok(()) => entered.push(now),
                    Err(wait) => prop_assert!(!wait.is_zero() && wait <= HORIZON, "{:?}", wait),
                }
            }
            for (first, from) in entered.iter().enumerate() {
                for (nth, to) in entered[first..].iter().enumerate() {
                    let earned = (*to - *from).as_secs_f64() * f64::from(rate);
                    prop_assert!(nth as f64 + 1.0 <= f64::from(burst) + earned + 0.01);
                }
            }
        }
    }
}
