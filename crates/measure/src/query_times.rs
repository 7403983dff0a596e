//! The durations of a query by name, for outputs with a column for each. A duration whose end was not reached is `None`.

use crate::record::{Moment, QueryRecord};
use std::time::Duration;

/// Durations in milliseconds. A negative one means that the later event came first.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize)]
pub struct QueryTimes {
    /// Actual send − due.
    pub queue_ms: Option<f64>,
    /// First token − actual send.
    pub ttft_ms: Option<f64>,
    /// First token − due.
    pub ttft_sched_ms: Option<f64>,
    /// Terminator − actual send.
    pub e2el_ms: Option<f64>,
    /// Terminator − due.
    pub e2el_sched_ms: Option<f64>,
    /// Mean time per token after the first one.
    pub tpot_ms: Option<f64>,
    /// Observed − ideal time to the first token.
    pub ttft_overhead_ms: Option<f64>,
    /// Observed − ideal time to the terminator.
    pub e2el_overhead_ms: Option<f64>,
    /// Longest gap between tokens.
    pub longest_gap_ms: Option<f64>,
    /// Time from due to send during which the socket was down.
    pub socket_wait_ms: Option<f64>,
    /// How much too high `ttft_ms` may be.
    pub ttft_error_ms: Option<f64>,
    /// How much too high `e2el_ms` may be.
    pub e2el_error_ms: Option<f64>,
}

impl QueryTimes {
    /// Returns the durations of `query`.
    #[must_use]
    pub fn of(query: &QueryRecord) -> Self {
        let between = |from: Option<Moment>, to: Option<Moment>| Some(millis(nanos(to?) - nanos(from?)));
        let above = |observed: Option<f64>, ideal: Option<Duration>| Some(observed? - millis(nanos(ideal?)));
        let scheduled = Some(query.scheduled);
        let ttft_ms = between(query.sent, query.first_token);
        let e2el_ms = between(query.sent, query.done);
        Self {
            queue_ms: between(scheduled, query.sent),
            ttft_ms,
            ttft_sched_ms: between(scheduled, query.first_token),
            e2el_ms,
            e2el_sched_ms: between(scheduled, query.done),
            tpot_ms: tpot_ns(query).map(millis),
            ttft_overhead_ms: above(ttft_ms, query.ideal_ttft),
            e2el_overhead_ms: above(e2el_ms, query.ideal_e2el),
            longest_gap_ms: query.longest_gap.map(|gap| millis(nanos(gap))),
            socket_wait_ms: query.sent.map(|_| millis(nanos(query.socket_wait))),
            ttft_error_ms: ttft_ms.map(|_| millis(nanos(query.first_uncertainty.total()))),
            e2el_error_ms: e2el_ms.map(|_| millis(nanos(query.done_uncertainty.total()))),
        }
    }
}

/// Returns (last token − first token) / (N − 1) in nanoseconds, or `None` for fewer than two tokens.
pub fn tpot_ns(query: &QueryRecord) -> Option<i64> {
    let (first, last) = query.first_token.zip(query.last_token)?;
    let gaps = i64::try_from(query.answer_tokens()).ok()?.checked_sub(1).filter(|&gaps| gaps > 0)?;
    Some((nanos(last) - nanos(first)) / gaps)
}

/// Returns whole nanoseconds. Saturates after 292 years.
pub fn nanos(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}

#[allow(clippy::cast_precision_loss)]
fn millis(ns: i64) -> f64 {
    ns as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{QueryStatus, tests::query};

    #[test]
    fn a_whole_query_and_one_without_an_answer() {
        let ideal_e2el = Some(Duration::from_millis(1_000));
        let whole = QueryTimes::of(&QueryRecord { ideal_e2el, ..query(QueryStatus::Ok) });
        assert_eq!((whole.queue_ms, whole.ttft_ms, whole.tpot_ms), (Some(10.0), Some(200.0), Some(50.0)));
        assert_eq!((whole.e2el_sched_ms, whole.e2el_overhead_ms), (Some(1_110.0), Some(100.0)));
        let unanswered = QueryRecord { first_token: None, done: None, ..query(QueryStatus::Timeout) };
        let QueryTimes { ttft_ms, e2el_ms, e2el_overhead_ms, .. } = QueryTimes::of(&unanswered);
        assert_eq!((ttft_ms, e2el_ms, e2el_overhead_ms), (None, None, None));
    }
}
