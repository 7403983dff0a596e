//! Limits the rate of upgrades, and assigns refused clients a time to retry. It is pure arithmetic. It stores no clients: each refusal only
//! moves the time that the next refused client gets.

use crate::rate::Rate;
use std::time::Duration;

/// The longest wait of a refused client. Beyond it, times are assigned from the start again.
const HORIZON: Duration = Duration::from_secs(30);

/// A token bucket that assigns its next tokens to refused clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Throttle {
    rate: Rate,
    /// The time up to which the budget is used up: see [`Rate`].
    spent: Duration,
    /// The latest time that was assigned to a refused client.
    assigned: Duration,
}

impl Throttle {
    /// Allows `rate` upgrades per second with a burst of `burst`. Returns `None` for a rate of 0, which means no limit.
    pub(crate) fn new(rate: u32, burst: u32) -> Option<Self> {
        Some(Self { rate: Rate::new(rate, burst)?, spent: Duration::ZERO, assigned: Duration::ZERO })
    }

    /// Counts one upgrade at `now`, which must not decrease.
    ///
    /// # Errors
    /// The bucket is empty: the wait until a time that no earlier refused client was assigned.
    pub(crate) fn enter(&mut self, now: Duration) -> Result<(), Duration> {
        let spent = self.rate.after(self.spent, now);
        let excess = self.rate.excess(spent, now);
        if excess.is_zero() {
            self.spent = spent;
            return Ok(());
        }
        let next = now + excess;
        let place = next.max(self.assigned + self.rate.interval);
        self.assigned = if place > now + HORIZON { next } else { place };
        Err(self.assigned - now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rate::whole_seconds;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    /// Tries `count` upgrades at once. Returns how many were allowed, and how many were assigned to each second.
    fn storm(throttle: &mut Throttle, now: Duration, count: usize) -> (usize, BTreeMap<u64, usize>) {
        let mut assigned = BTreeMap::new();
        for _ in 0..count {
            if let Err(wait) = throttle.enter(now) {
                *assigned.entry(whole_seconds(wait)).or_default() += 1;
            }
        }
        (count - assigned.values().sum::<usize>(), assigned)
    }

    #[test]
    fn refused_clients_are_spread_over_the_next_seconds() {
        for (rate, burst, count, let_in, assigned) in [
            (100, 100, 100, 100, &[][..]),
            (100, 100, 350, 100, &[(1, 100), (2, 100), (3, 50)]),
            (100, 10, 150, 10, &[(1, 100), (2, 40)]),
            (1, 1, 4, 1, &[(1, 1), (2, 1), (3, 1)]),
            (1, 0, 2, 1, &[(1, 1)]),
        ] {
            let mut throttle = Throttle::new(rate, burst).unwrap();
            let assigned = assigned.iter().copied().collect();
            assert_eq!(
                storm(&mut throttle, Duration::from_secs(9), count),
                (let_in, assigned),
                "{rate} {burst}"
            );
        }
        assert_eq!(Throttle::new(0, 5), None, "no limit");
    }

    #[test]
    fn clients_that_retry_in_their_second_are_allowed() {
        let mut throttle = Throttle::new(50, 50).unwrap();
        let (_, assigned) = storm(&mut throttle, Duration::ZERO, 500);
        for (second, count) in assigned {
            assert_eq!(storm(&mut throttle, Duration::from_secs(second), count).0, count, "second {second}");
        }
    }

    #[test]
    fn clients_that_retry_at_their_instant_are_allowed() {
        let mut throttle = Throttle::new(50, 50).unwrap();
        let waits: Vec<_> = (0..200).filter_map(|_| throttle.enter(Duration::ZERO).err()).collect();
        assert_eq!(waits.len(), 150);
        assert_eq!(waits[0], Duration::from_millis(20), "not a whole second");
        assert!(waits.into_iter().all(|wait| throttle.enter(wait) == Ok(())));
    }

    #[test]
    fn an_endless_storm_fills_every_second_of_the_horizon_evenly() {
        let (_, assigned) = storm(&mut Throttle::new(10, 10).unwrap(), Duration::ZERO, 10 + 600);
        assert_eq!(assigned.len() as u64, HORIZON.as_secs());
        assert!(assigned.values().all(|count| (19..=21).contains(count)), "{assigned:?}");
    }

    proptest! {
        /// In any period, at most the burst and the rate times the period are allowed.
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
