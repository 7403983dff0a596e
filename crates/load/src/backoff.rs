//! Delays before repeated attempts: exponential, half fixed and half random, and never shorter than the server requested.
//! Nothing here sleeps.

use http::{HeaderMap, StatusCode, header::RETRY_AFTER};
use plan::Reconnect;
use rand::{RngExt, SeedableRng, rngs::SmallRng};
use std::time::Duration;

/// Upper limit of a delay that a server requests.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(300);

/// A delay before a repeated call is at most this multiple of the requested delay.
const MAX_REQUESTED_FACTOR: u32 = 4;

/// Draws the delays between consecutive attempts.
#[derive(Debug)]
pub struct Backoff {
    settings: Reconnect,
    attempt: u32,
    random: SmallRng,
}

impl Backoff {
    /// Creates a backoff that starts at the first delay. Equal seeds draw equal delays.
    #[must_use]
    pub fn new(settings: Reconnect, seed: u64) -> Self {
        Self { settings, attempt: 0, random: SmallRng::seed_from_u64(seed) }
    }

    /// Returns the delay before the next attempt, at least `requested`. `None` if no attempt is left.
    pub fn next(&mut self, requested: Option<Duration>) -> Option<Duration> {
        (self.attempt < self.settings.attempts).then(|| self.draw(requested, Duration::MAX))
    }

    /// Returns the delay before a call that the server asked to repeat, at least `requested`. The number of attempts is not limited.
    ///
    /// The delay is at most four times `requested`: the server knows when it will have recovered, and an exponential delay
    /// would lengthen that time.
    pub fn next_requested(&mut self, requested: Option<Duration>) -> Duration {
        let most = requested
            .filter(|requested| !requested.is_zero())
            .map_or(Duration::MAX, |requested| requested.saturating_mul(MAX_REQUESTED_FACTOR));
        self.draw(requested, most)
    }

    fn draw(&mut self, requested: Option<Duration>, most: Duration) -> Duration {
        let whole =
            self.settings.initial.saturating_mul(1 << self.attempt.min(30)).min(self.settings.max).min(most);
        self.attempt = self.attempt.saturating_add(1);
        let half = whole / 2;
        let drawn = half + half.mul_f64(self.random.random::<f64>());
        drawn.max(requested.unwrap_or_default().min(LONGEST_RETRY_AFTER))
    }

    /// Continues as if `attempts` attempts had been made before.
    #[must_use]
    pub fn after(mut self, attempts: u32) -> Self {
        self.attempt = self.attempt.saturating_add(attempts);
        self
    }

    /// Multiplies the first delay by four, for a server that is full.
    pub fn lengthen(&mut self) {
        self.settings.initial = self.settings.initial.saturating_mul(4).min(self.settings.max);
    }
}

/// Returns whether a response with this status is worth another attempt: too many requests, or a server that is unavailable.
#[must_use]
pub fn is_retryable(status: StatusCode) -> bool {
    matches!(status.as_u16(), 429 | 502..=504)
}

/// Reads `Retry-After-Ms`, or `Retry-After` in whole seconds. A `Retry-After` with a date is ignored.
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
        fn never_earlier_than_requested(seconds in 0u64..1000, seed: u64) {
            let requested = Duration::from_secs(seconds);
            let delay = Backoff::new(settings(1, 10, 5), seed).next(Some(requested)).unwrap();
            prop_assert!(delay >= requested.min(LONGEST_RETRY_AFTER));
            prop_assert!(delay <= LONGEST_RETRY_AFTER);
        }
    }

    #[test]
    fn requested_attempts_are_not_limited() {
        let mut backoff = Backoff::new(settings(1000, 30_000, 5), 1);
        let delays: Vec<_> = (0..20).map(|_| backoff.next_requested(Some(Duration::from_secs(2)))).collect();
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
