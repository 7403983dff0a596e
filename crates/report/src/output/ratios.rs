//! Ratios of a run's counts: shares, rates and means, with a defined result if the divisor is 0.

use measure::RunData;
use std::time::Duration;

/// Returns `part` / `whole`, or `None` if `whole` is 0.
#[allow(clippy::cast_precision_loss)]
pub(super) fn share(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

/// Returns `count` per second over `duration`, or 0 if the duration is zero.
#[allow(clippy::cast_precision_loss)]
pub(super) fn rate(count: u64, duration: Duration) -> f64 {
    if duration.is_zero() { 0.0 } else { count as f64 / duration.as_secs_f64() }
}

/// Returns received / expected tokens. Counts announced tokens only, without queries that the end of the run cut off.
pub(super) fn delivery_ratio(run: &RunData) -> Option<f64> {
    share(run.tokens.delivered, run.tokens.owed)
}

/// Returns how much of the token stream could be checked for loss: `verified`, `unverified` (servers of the old contract
/// number no tokens), `partly verified`, or `not measured` (no token was announced or received).
pub(super) const fn integrity(run: &RunData) -> &'static str {
    if run.tokens.expected == 0 && run.tokens.events_received == 0 {
        return "not measured";
    }
    match (run.tokens.unverified > 0 || run.sessions.old_contract > 0, run.tokens.expected > 0) {
        (false, _) => "verified",
        (true, false) => "unverified",
        (true, true) => "partly verified",
    }
}

/// Mean and highest number of sessions or queries at the same time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct MeanAndPeak {
    pub(super) mean: f64,
    pub(super) peak: f64,
}

/// Returns the concurrency of sessions over the whole run.
pub(super) fn sessions_at_once(run: &RunData, elapsed: Duration) -> MeanAndPeak {
    at_once(run.sessions.time, elapsed, run.concurrency.peak_sessions())
}

/// Returns the concurrency of queries from the first to the last one.
pub(super) fn queries_at_once(run: &RunData) -> MeanAndPeak {
    at_once(run.queries.time, run.duration(), run.concurrency.peak_queries())
}

/// The mean is the summed `lifetimes`, divided by the length of the run. `busiest_second` is the highest mean of a whole second, which is
/// less than the peak of a run that is shorter than a second.
fn at_once(lifetimes: Duration, over: Duration, busiest_second: f64) -> MeanAndPeak {
    let mean = if over.is_zero() { 0.0 } else { lifetimes.as_secs_f64() / over.as_secs_f64() };
    MeanAndPeak { mean, peak: busiest_second.max(mean) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peak_of_a_run_of_less_than_a_second_is_not_below_its_mean() {
        let (lifetimes, over) = (Duration::from_millis(1600), Duration::from_millis(800));
        assert_eq!(at_once(lifetimes, over, 1.6), MeanAndPeak { mean: 2.0, peak: 2.0 });
        assert_eq!(at_once(lifetimes, Duration::from_secs(2), 1.6), MeanAndPeak { mean: 0.8, peak: 1.6 });
        assert_eq!(at_once(lifetimes, Duration::ZERO, 1.6), MeanAndPeak { mean: 0.0, peak: 1.6 });
    }
}
