//! Names of the figures that a threshold may use, besides durations.

use crate::IntegrityRule;

/// Counts, rates and shares of the whole run, named as in the summary. Shares are 0 to 1 here; in the summary `success_rate`
/// is in percent.
pub const RUN_NAMES: [&str; 59] = [
    "duration_s",
    "sessions_total",
    "sessions_ok",
    "sessions_failed",
    "sessions_broken",
    "success_rate",
    "queries_total",
    "queries_sent",
    "queries_ok",
    "queries_failed",
    "queries_incomplete",
    "queries_timeout",
    "queries_error",
    "queries_rejected",
    "queries_abandoned",
    "error_rate",
    "tokens_expected",
    "tokens_received",
    "tokens_lost",
    "tokens_duplicated",
    "tokens_reordered",
    "tokens_unverified",
    "tokens_cut_off",
    "lost_connected",
    "lost_in_gap",
    "delivery_ratio",
    "events_lost",
    "events_duplicated",
    "events_reordered",
    "events_after_terminator",
    "events_foreign",
    "events_unknown_type",
    "events_replayed",
    "frames_rolled",
    "tokens_rolled",
    "tokens_unsent",
    "tokens_reported",
    "reported_events",
    "reasoning_events",
    "tokens_unannounced",
    "frames_unreadable",
    "frames_binary",
    "queries_corrupt",
    "contents_unverified",
    "stall_count",
    "stall_ms",
    "longest_token_gap_ms",
    "request_throughput",
    "output_throughput",
    "reported_throughput",
    "published_throughput",
    "request_goodput",
    "goodput_share",
    "dropped_iterations",
    "reconnect_attempts",
    "reconnects_ok",
    "peak_reconnect_rate",
    "announced_gaps",
    "cpu_wait_share",
];

/// Names that are also available for the steady state and for windows.
pub const STRETCH_NAMES: [&str; 13] = [
    "queries_total",
    "queries_ok",
    "queries_failed",
    "error_rate",
    "tokens_lost",
    "tokens_duplicated",
    "tokens_reordered",
    "request_throughput",
    "output_throughput",
    "request_goodput",
    "goodput_share",
    "reconnect_attempts",
    "reconnects_ok",
];

/// Names of shares, 0 to 1.
pub(super) const SHARES: [&str; 5] =
    ["success_rate", "error_rate", "delivery_ratio", "goodput_share", "cpu_wait_share"];

/// Counts of the whole run that only grow, besides those of the integrity rules.
const GROWING: [&str; 3] = ["queries_failed", "reconnect_attempts", "reconnects_ok"];

/// Returns whether a figure of the whole run only grows, so that a value above its limit stays above it.
pub(super) fn grows(name: &str) -> bool {
    GROWING.contains(&name) || IntegrityRule::named(name).is_some()
}

/// Figures that are decided by failures which do not depend on time, so that a slow generator cannot have caused a breach.
pub(super) const COUNTED: [&str; 11] = [
    "sessions_ok",
    "sessions_failed",
    "sessions_broken",
    "success_rate",
    "queries_ok",
    "queries_failed",
    "queries_incomplete",
    "queries_timeout",
    "queries_error",
    "queries_rejected",
    "error_rate",
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{INTEGRITY_RULES, IntervalCounts, threshold::stretch_scalar};

    #[test]
    fn stretches_know_what_they_say_they_know() {
        let counts = IntervalCounts { queries: 1, ..IntervalCounts::default() };
        for name in STRETCH_NAMES {
            assert!(RUN_NAMES.contains(&name), "{name}");
            assert!(stretch_scalar(name, &counts, 1, 1.0).is_some(), "{name}");
        }
        assert!(COUNTED.iter().all(|name| RUN_NAMES.contains(name)));
        assert!(SHARES.iter().all(|name| RUN_NAMES.contains(name)));
        for name in RUN_NAMES.into_iter().filter(|name| grows(name)) {
            assert!(stretch_scalar(name, &counts, 1, 1.0).is_some(), "{name}");
        }
        assert_eq!(
            RUN_NAMES.iter().filter(|name| grows(name)).count(),
            GROWING.len() + INTEGRITY_RULES.len()
        );
    }
}
