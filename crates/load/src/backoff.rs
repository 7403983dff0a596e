//! How long to wait before the next attempt: exponential, half fixed and half random, never less than told.
//! It draws numbers and reads headers; it does not sleep.

use http::{HeaderMap, StatusCode, header::RETRY_AFTER};
use plan::Reconnect;
use rand::{RngExt, SeedableRng, rngs::SmallRng};
use std::time::Duration;

/// No server may send a client away for longer than this.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(300);

/// A repeated call waits at most so many times as long as it was told.
const MOST_PATIENCE: u32 = 4;

/// Delays of consecutive attempts.
#[derive(Debug)]
pub struct Backoff {
    settings: Reconnect,
    attempt: u32,
    random: SmallRng,
}

impl Backoff {
    /// Starts at the first delay; the same seed draws the same delays.
    #[must_use]
    pub fn new(settings: Reconnect, seed: u64) -> Self {
        Self { settings, attempt: 0, random: SmallRng::seed_from_u64(seed) }
    }

    /// The delay before the next attempt, at least `told`; `None` when the attempts are used up.
    pub fn next(&mut self, told: Option<Duration>) -> Option<Duration> {
        (self.attempt < self.settings.attempts).then(|| self.draw(told, Duration::MAX))
    }

    /// The same without an end: of an attempt that the other end asked to repeat. Where it said when, the delay does not
    /// grow far beyond that: it knows best, and its recovery must not wait for ours.
    pub fn again(&mut self, told: Option<Duration>) -> Duration {
        let most = told
            .filter(|told| !told.is_zero())
            .map_or(Duration::MAX, |told| told.saturating_mul(MOST_PATIENCE));
        self.draw(told, most)
    }

    fn draw(&mut self, told: Option<Duration>, most: Duration) -> Duration {
        let whole =
            self.settings.initial.saturating_mul(1 << self.attempt.min(30)).min(self.settings.max).min(most);
        self.attempt = self.attempt.saturating_add(1);
        let half = whole / 2;
        let drawn = half + half.mul_f64(self.random.random::<f64>());
        drawn.max(told.unwrap_or_default().min(LONGEST_RETRY_AFTER))
    }

    /// Counts `attempts` that were made before as its own.
    #[must_use]
    pub fn after(mut self, attempts: u32) -> Self {
        self.attempt = self.attempt.saturating_add(attempts);
        self
    }

    /// Skips the short delays: the other end is full.
    pub fn lengthen(&mut self) {
        self.settings.initial = self.settings.initial.saturating_mul(4).min(self.settings.max);
    }
}

/// Worth another attempt: full, or a gateway without its server.
#[must_use]
pub fn is_retryable(status: StatusCode) -> bool {
    matches!(status.as_u16(), 429 | 502..=504)
}

/// `Retry-After-Ms`, or `Retry-After` in whole seconds. A date, which needs a wall clock, is not read.
#[must_use]
pub fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let number = |name: &str| headers.get(name)?.to_str().ok()?.trim().parse().ok();
    let exact = number("retry-after-ms").map(Duration::from_millis);
    exact.or_else(|| number(RETRY_AFTER.as_str()).map(Duration::from_secs))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn settings(initial_ms: u64, max_ms: u64, attempts: u32) -> Reconnect {
        Reconnect {
            initial: Duration::from_millis(initial_ms),
            max: Duration::from_millis(max_ms),
            attempts,
            ping_timeout: Duration::from_secs(45),
        }
    }

    proptest! {
        #[test]
        fn each_delay_is_half_fixed_and_half_random(initial in 1u64..5000, factor in 1u64..100, seed: u64) {
            let settings = settings(initial, initial * factor, 40);
            let mut backoff = Backoff::new(settings, seed);
            for attempt in 0..40u32 {
                let whole = settings.initial.saturating_mul(1 << attempt.min(30)).min(settings.max);
                let delay = backoff.next(None).unwrap();
                prop_assert!(whole / 2 <= delay && delay <= whole, "attempt {attempt}: {delay:?} of {whole:?}");
            }
            prop_assert_eq!(backoff.next(None), None);
        }

        #[test]
        fn never_earlier_than_told(told in 0u64..1000, seed: u64) {
            let told = Duration::from_secs(told);
            let delay = Backoff::new(settings(1, 10, 5), seed).next(Some(told)).unwrap();
            prop_assert!(delay >= told.min(LONGEST_RETRY_AFTER));
            prop_assert!(delay <= LONGEST_RETRY_AFTER);
        }
    }

    #[test]
    fn who_is_asked_to_come_back_does_not_give_up() {
        let mut backoff = Backoff::new(settings(1000, 30_000, 5), 1);
        let delays: Vec<_> = (0..20).map(|_| backoff.again(Some(Duration::from_secs(2)))).collect();
        assert!(delays.iter().all(|delay| (2..=8).contains(&delay.as_secs())), "{delays:?}");
        assert_eq!(backoff.next(None), None);
    }

    #[test]
    fn one_seed_one_sequence() {
        let draw = |seed| {
            let mut backoff = Backoff::new(settings(100, 1000, 5), seed);
            std::iter::from_fn(|| backoff.next(None)).collect::<Vec<_>>()
        };
        assert_eq!(draw(3), draw(3));
        assert_ne!(draw(3), draw(4));
    }

    #[test]
    fn retry_after_is_read_in_seconds() {
        for (text, seconds) in [("0", Some(0)), (" 7 ", Some(7)), ("-1", None), ("soon", None), ("1.5", None)]
        {
            let headers = HeaderMap::from_iter([(RETRY_AFTER, text.parse().unwrap())]);
            assert_eq!(retry_after(&headers), seconds.map(Duration::from_secs), "{text}");
        }
        assert_eq!(retry_after(&HeaderMap::new()), None);
        let both = [("retry-after", "3"), ("retry-after-ms", "2100")];
        let both = both.map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
        assert_eq!(retry_after(&HeaderMap::from_iter(both)), Some(Duration::from_millis(2100)));
    }

    #[test]
    fn what_is_retried() {
        for status in [429, 502, 503, 504] {
            assert!(is_retryable(StatusCode::from_u16(status).unwrap()));
        }
        for status in [200, 400, 401, 404, 409, 422, 500, 501] {
            assert!(!is_retryable(StatusCode::from_u16(status).unwrap()));
        }
    }
}
