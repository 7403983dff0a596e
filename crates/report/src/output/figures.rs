//! Counts, rates and shares of a run by name, for thresholds and for the summary.
//! A figure without data has no value.

use super::{
    RunInfo, info,
    ratios::{delivery_ratio, rate, share},
};
use measure::defects::Defect;
use measure::{
    FIGURES, Interval, Metric, QueryCounts, RunData, SessionCounts, Steady,
    threshold::{STRETCH_NAMES, stretch_scalar},
};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// Returns the value of every name in [`measure::threshold::RUN_NAMES`]. `goodput` is true if objectives were given.
pub(super) fn scalars(run: &RunData, info: &RunInfo, goodput: bool) -> BTreeMap<&'static str, Option<f64>> {
    scalars_of(run, info, goodput, &run.sessions, &run.queries)
}

/// Returns the scalars as if the queries that timed out while the generator was stalled were ok. `None` without such queries.
pub(super) fn excused(run: &RunData, info: &RunInfo) -> Option<BTreeMap<&'static str, Option<f64>>> {
    let (mut sessions, mut queries) = (run.sessions, run.queries);
    sessions.ok += sessions.excused;
    queries.ok += queries.excused;
    queries.timeout -= queries.excused;
    (queries.excused > 0).then(|| scalars_of(run, info, false, &sessions, &queries))
}

#[allow(clippy::cast_precision_loss)]
fn scalars_of(
    run: &RunData,
    info: &RunInfo,
    goodput: bool,
    sessions: &SessionCounts,
    queries: &QueryCounts,
) -> BTreeMap<&'static str, Option<f64>> {
    let tokens = &run.tokens;
    let duration = run.duration();
    let good = run.metrics.counts().good;
    let counts = [
        ("sessions_total", sessions.total),
        ("sessions_ok", sessions.ok),
        ("sessions_failed", sessions.total - sessions.ok),
        ("sessions_broken", sessions.broken),
        ("queries_total", queries.total),
        ("queries_sent", queries.sent),
        ("queries_ok", queries.ok),
        ("queries_failed", queries.failed()),
        ("queries_incomplete", queries.incomplete),
        ("queries_timeout", queries.timeout),
        ("queries_error", queries.error),
        ("queries_rejected", queries.rejected),
        ("queries_abandoned", queries.abandoned),
        ("tokens_expected", tokens.expected),
        ("tokens_received", tokens.received),
        ("tokens_lost", tokens.lost),
        ("tokens_duplicated", tokens.duplicated),
        ("tokens_reordered", tokens.reordered),
        ("tokens_unverified", tokens.unverified),
        ("tokens_unsent", tokens.unsent),
        ("tokens_reported", tokens.reported),
        ("reported_events", tokens.reported_events),
        ("reasoning_events", tokens.reasoning),
        ("contents_unverified", queries.contents_unverified),
        ("tokens_cut_off", tokens.cut_off),
        ("lost_connected", tokens.lost_connected),
        ("lost_in_gap", tokens.lost_in_gap),
        ("events_lost", tokens.events_lost),
        ("events_replayed", tokens.replayed),
        ("frames_rolled", tokens.frames_rolled),
        ("tokens_rolled", tokens.rolled),
        ("stall_count", run.stall_count),
        ("dropped_iterations", info.generator.arrivals.dropped),
        ("reconnect_attempts", run.reconnect_attempts),
        ("reconnects_ok", run.reconnects_ok),
        ("peak_reconnect_rate", run.reconnect_storm.peak_reconnects.per_second),
        ("announced_gaps", run.announced_gaps),
    ];
    let others = [
        ("duration_s", Some(duration.as_secs_f64())),
        ("success_rate", share(sessions.ok, sessions.total)),
        ("error_rate", share(queries.failed(), queries.judged())),
        ("delivery_ratio", delivery_ratio(run)),
        ("stall_ms", Some(run.stall.as_secs_f64() * 1e3)),
        ("longest_token_gap_ms", run.longest_gap.map(|longest| longest.gap.as_secs_f64() * 1e3)),
        ("request_throughput", Some(rate(queries.ok, duration))),
        ("output_throughput", Some(rate(tokens.received, duration))),
        ("reported_throughput", Some(rate(tokens.reported, duration))),
        ("published_throughput", info::published_throughput(run, info)),
        ("request_goodput", goodput.then(|| rate(good, duration))),
        ("goodput_share", share(good, queries.total).filter(|_| goodput)),
        ("cpu_wait_share", info.generator.cpu_wait_share()),
    ];
    let defects = Defect::ALL.into_iter().map(|defect| (defect.name(), run.defects.count(defect)));
    let counts = counts.into_iter().chain(defects);
    counts.map(|(name, count)| (name, Some(count as f64))).chain(others).collect()
}

/// Returns the figures of a metric. Those of a primary metric include their errors and whether they can be trusted.
pub(super) fn of(interval: &Interval, metric: Metric) -> Option<Value> {
    let distribution = interval.get(metric);
    let mut figures = json!(distribution.summary()?);
    figures["outside_histogram"] = distribution.outside().into();
    if let Some(trust) = interval.trust(metric) {
        let untrusted = trust.untrusted();
        figures["trusted"] = untrusted.is_empty().into();
        figures["untrusted"] = json!(untrusted);
        for (name, pick) in
            [("low", (|span: (f64, f64)| span.0) as fn((f64, f64)) -> f64), ("high", |span| span.1)]
        {
            let value =
                |(key, statistic): (&str, _)| Some((key.to_owned(), pick(trust.span_ms(statistic)?).into()));
            figures[name] = Value::Object(FIGURES.into_iter().filter_map(value).collect());
        }
        let error = |(key, statistic): (&str, _)| Some((key.to_owned(), trust.error_ms(statistic)?.into()));
        figures["error"] = Value::Object(FIGURES.into_iter().filter_map(error).collect());
    }
    Some(figures)
}

/// Returns the value of the key `steady`: figures over the steady state.
pub(super) fn steady(steady: &Steady, goodput: bool) -> Value {
    let metrics = &steady.metrics;
    let mut keys = Map::new();
    keys.insert("from_s".into(), steady.from_s.into());
    keys.insert("to_s".into(), steady.to_s.into());
    for name in STRETCH_NAMES {
        let value = stretch_scalar(name, metrics.counts(), metrics.tokens(), steady.seconds());
        keys.insert(name.into(), json!(value.filter(|_| goodput || !name.contains("goodput"))));
    }
    let durations =
        Metric::ALL.into_iter().filter_map(|metric| Some((metric.name_ms(), of(metrics, metric)?)));
    keys.insert("metrics".into(), Value::Object(durations.collect()));
    Value::Object(keys)
}

#[cfg(test)]
mod tests {
    use super::*;
    use measure::threshold::RUN_NAMES;
    use std::collections::BTreeSet;

    #[test]
    fn every_name_of_a_threshold_has_its_figure_and_no_other_has() {
        let scalars = scalars(&RunData::default(), &RunInfo::default(), true);
        let names: BTreeSet<_> = scalars.keys().copied().collect();
        assert_eq!(names, BTreeSet::from(RUN_NAMES));
        assert_eq!(scalars["error_rate"], None, "of no query");
    }
}
