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

/// Returns the mean concurrency: the summed lifetimes of sessions or queries, divided by the length of the run.
pub(super) fn mean_concurrency(lifetimes: Duration, over: Duration) -> f64 {
    if over.is_zero() { 0.0 } else { lifetimes.as_secs_f64() / over.as_secs_f64() }
}
