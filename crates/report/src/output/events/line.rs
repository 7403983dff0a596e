//! Creates the events: each has its type, its time in seconds since the start of the run, and figures with their usual names.
//! Texts of servers contain no control characters.

use super::EventSettings;
use crate::{
    output::{
        RunInfo,
        faults::examples,
        info,
        live_status::{LIVE_METRICS, LiveStatus},
    },
    values::printable,
};
use measure::{
    FaultRecord, FaultStatus, GeneratorFigures, Hop, Interval, Judgement, Metric, QueryCounts, QueryTimes,
    Reading, RunData, Statistic, TokenCounts,
    defects::{Defect, Defects},
    record::{Failure, LossCause, Moment, QueryRecord, Reconnect, SessionRecord},
    threshold::{Operator, Outcome, State},
};
use plan::schedule::{Amendment, Phase, Schedule};
use serde_json::{Map, Value, json};
use std::{collections::BTreeMap, time::Duration};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// Version of the format. It increases when a key changes its meaning.
const SCHEMA_VERSION: u32 = 1;
/// Durations whose percentiles are part of a `second` event.
const OF_A_SECOND: [Metric; 6] =
    [Metric::Ttft, Metric::Itl, Metric::E2el, Metric::Delivery, Metric::Connect, Metric::LoopLag];

fn event(kind: &str, at: Moment, rest: Value) -> Value {
    let mut event = json!({ "type": kind, "t": at.as_secs_f64() });
    if let (Some(event), Value::Object(rest)) = (event.as_object_mut(), rest) {
        event.extend(rest);
    }
    event
}

fn failure(failure: Option<&Failure>) -> Value {
    failure.map_or(Value::Null, |failure| {
        json!({
            "kind": failure.kind.name(),
            "code": failure.code,
            "message": printable(&failure.message),
        })
    })
}

fn seconds(moment: Option<Moment>) -> Option<f64> {
    moment.map(|moment| moment.as_secs_f64())
}

fn millis(duration: Option<Duration>) -> Option<f64> {
    duration.map(|duration| duration.as_secs_f64() * 1e3)
}

/// Creates the first event: the configuration of the run.
pub(in crate::output) fn run(wanted: &EventSettings, run_id: &str, started_at: OffsetDateTime) -> Value {
    let rest = json!({
        "schema_version": SCHEMA_VERSION,
        "run_id": run_id,
        "started_at": started_at.format(&Rfc3339).ok(),
        "seed": wanted.seed,
        "config": wanted.config,
    });
    event("run", Duration::ZERO, rest)
}

/// Creates the event of a query that ended.
pub(in crate::output) fn query(query: &QueryRecord) -> Value {
    let tally = &query.tally;
    let mut rest = json!({
        "session_id": query.session.map(|id| id.to_string()),
        "session_index": query.session_index,
        "query_num": query.query_num,
        "status": query.status.name(),
        "scheduled_s": query.scheduled.as_secs_f64(),
        "sent_s": seconds(query.sent),
        "tokens_expected": query.tokens_expected,
        "tokens_received": tally.tokens_received,
        "tokens_lost": tally.tokens_lost,
        "tokens_duplicated": tally.tokens_duplicated,
        "tokens_reordered": tally.tokens_reordered,
        "tokens_unsent": tally.tokens_unsent,
        "tokens_reported": query.tokens_reported,
        "reasoning_events": query.reasoning_events,
        "contents": query.contents.name(),
        "lost_connected": query.lost_connected,
        "lost_in_gap": query.lost_in_gap,
        "stall_count": query.stall_count,
        "stall_ms": millis(Some(query.stall)),
        "error_code": query.error_code.as_deref().map(printable),
        "failure": failure(query.failure.as_ref()),
    });
    if let (Some(rest), Value::Object(times)) = (rest.as_object_mut(), json!(QueryTimes::of(query))) {
        rest.extend(times);
        rest.extend(defects(&query.defects));
    }
    event("query", query.ended, rest)
}

/// Returns the count of every kind of defect, and the first example of each kind that has one.
fn defects(defects: &Defects) -> Map<String, Value> {
    let mut keys: Map<_, _> = Defect::ALL
        .into_iter()
        .map(|defect| (defect.name().to_owned(), defects.count(defect).into()))
        .collect();
    let examples = examples(defects);
    if !examples.is_empty() {
        keys.insert("examples".to_owned(), examples.into());
    }
    keys
}

/// Creates the event of a lost socket that was opened again.
pub(in crate::output) fn reconnect(at: Moment, session_index: u64, reconnect: &Reconnect) -> Value {
    let (cause, code) = match reconnect.cause {
        LossCause::Closed(code) => ("closed", Some(code)),
        LossCause::Broken => ("broken", None),
        LossCause::Cut => ("cut", None),
        LossCause::Limit => ("limit", None),
    };
    let rest = json!({
        "session_index": session_index,
        "cause": cause,
        "code": code,
        "reconnect_gap_ms": millis(Some(reconnect.gap)),
    });
    event("reconnect", at, rest)
}

/// Creates the event of a session that ended.
pub(in crate::output) fn session(session: &SessionRecord) -> Value {
    let rest = json!({
        "session_id": session.session.map(|id| id.to_string()),
        "session_index": session.index,
        "ok": session.ok,
        "started_s": session.started.as_secs_f64(),
        "create_ms": millis(session.create),
        "connect_ms": millis(session.connect),
        "close_ms": millis(session.close),
        "reconnect_attempts": session.reconnect_attempts,
        "reconnects_ok": session.reconnects.len(),
        "close_codes": session.close_codes,
        "failure": failure(session.failure.as_ref()),
    });
    event("session", session.ended, rest)
}

/// Creates the event of the plan: at the start, and again after every change of it.
pub(in crate::output) fn plan(at: Moment, schedule: &Schedule, faults: &[FaultRecord]) -> Value {
    let phase = |phase: &Phase| {
        json!({
            "name": phase.name,
            "start_s": phase.start.as_secs_f64(),
            "end_s": phase.end.map(|end| end.as_secs_f64()),
            "from": phase.from,
            "target": phase.target,
        })
    };
    let rest = json!({
        "model": schedule.model().name(),
        "unit": if schedule.model().is_open() { "arrivals per second" } else { "sessions" },
        "amendable": schedule.is_amendable(),
        "end_s": schedule.end().map(|end| end.as_secs_f64()),
        "phases": schedule.phases().iter().map(phase).collect::<Vec<_>>(),
        "faults": faults.iter().map(|fault| json!({ "fault": fault.spec, "at_s": fault.at.as_secs_f64() })).collect::<Vec<_>>(),
    });
    event("plan", at, rest)
}

/// A run as it stands.
#[derive(Clone, Copy, Debug)]
pub(in crate::output) struct Standing<'a> {
    pub(in crate::output) live: &'a LiveStatus,
    pub(in crate::output) run: &'a RunData,
    /// The verdict if the run ended now. `None` before the first query ended.
    pub(in crate::output) judgement: Option<&'a Judgement>,
    /// Events that were dropped so far.
    pub(in crate::output) dropped: u64,
}

/// Creates the event of the run as it stands: sums so far, percentiles of the last seconds, and the outcomes of thresholds.
pub(in crate::output) fn status(at: Moment, standing: &Standing<'_>) -> Value {
    let Standing { live, run, judgement, dropped } = *standing;
    let recent =
        LIVE_METRICS.iter().zip(live.recent).zip(live.untrusted).map(|((metric, recent), untrusted)| {
            let figures = recent
                .map(|[p50, p95, p99]| json!({ "p50": p50, "p95": p95, "p99": p99, "untrusted": untrusted }));
            (metric.name_ms(), json!(figures))
        });
    let trust = run.metrics.trust(Metric::E2el);
    let error = |p: f64| trust.as_ref().and_then(|trust| trust.error_ms(Statistic::Percentile(p)));
    let hops = Hop::ALL.iter().zip(live.hops).map(|(hop, ms)| (hop.place().to_owned(), json!(ms)));
    let generator = |(shard, figures): (&u32, &GeneratorFigures)| {
        json!({
            "number": shard + 1,
            "queries": figures.queries.total,
            "queries_ok": figures.queries.ok,
            "tokens_received": figures.tokens.received,
            "tokens_lost": figures.tokens.lost,
            "e2el_ms_p95": figures.e2el.quantile_ms(0.95),
            "loop_lag_ms_p99": figures.loop_lag.quantile_ms(0.99),
        })
    };
    let rest = json!({
        "verdict": judgement.map(|judgement| judgement.verdict.name()),
        "verdict_reason": judgement.map(|judgement| judgement.reason.as_str()),
        "recent": Map::from_iter(recent),
        "hops_ms": Map::from_iter(hops),
        "e2el_error_ms": { "p50": error(50.0), "p99": error(99.0) },
        "failures": live.failures.iter().map(|(name, count)| json!({ "name": printable(name), "count": count })).collect::<Vec<_>>(),
        "thresholds": live.thresholds.iter().map(threshold).collect::<Vec<_>>(),
        "generators": run.generators.iter().map(generator).collect::<Vec<_>>(),
        "events_dropped": dropped,
    });
    let mut status = event("status", at, rest);
    if let (Some(status), found) = (status.as_object_mut(), defects(&live.defects)) {
        status.extend(sums(&live.queries, &live.tokens, live.reconnect_attempts, live.reconnects));
        status.extend(found);
    }
    status
}

/// Returns the sums over the queries that ended.
fn sums(queries: &QueryCounts, tokens: &TokenCounts, attempts: u64, reconnects: u64) -> Map<String, Value> {
    let sums = [
        ("queries", queries.total),
        ("queries_ok", queries.ok),
        ("tokens_expected", tokens.expected),
        ("tokens_received", tokens.received),
        ("tokens_lost", tokens.lost),
        ("tokens_duplicated", tokens.duplicated),
        ("tokens_reordered", tokens.reordered),
        ("reconnect_attempts", attempts),
        ("reconnects_ok", reconnects),
    ];
    sums.into_iter().map(|(name, sum)| (name.to_owned(), sum.into())).collect()
}

/// Returns the outcome of a threshold so far. `margin` is the distance to the limit as a share of the limit, negative beyond it.
fn threshold(outcome: &Outcome) -> Value {
    let Outcome { threshold, value, .. } = outcome;
    let limit = threshold.limit;
    let margin = value.filter(|_| limit != 0.0).and_then(|value| match threshold.operator {
        Operator::Below | Operator::AtMost => Some((limit - value) / limit.abs()),
        Operator::Above | Operator::AtLeast => Some((value - limit) / limit.abs()),
        Operator::Equal | Operator::NotEqual => None,
    });
    json!({
        "threshold": threshold.text,
        "state": match outcome.state {
            State::Held => "held",
            State::Broken => "broken",
            State::Unknown(_) => "unknown",
            State::Undecided { .. } => "undecided",
        },
        "value": value,
        "value_text": outcome.value_text(),
        "limit": limit,
        "margin": margin,
    })
}

/// Creates the event of a finished second: what ended in it, and percentiles of this second only.
pub(in crate::output) fn second(
    second: u64,
    interval: &Interval,
    sessions: f64,
    target: Option<f64>,
) -> Value {
    let counts = interval.counts();
    let mut rest = json!({
        "sessions": sessions.round() as u64,
        "target": target,
        "queries": counts.queries,
        "queries_failed": counts.failed,
        "tokens_received": interval.tokens(),
        "tokens_lost": counts.lost,
        "tokens_duplicated": counts.duplicated,
        "tokens_reordered": counts.reordered,
        "reconnect_attempts": counts.reconnect_attempts,
        "reconnects_ok": counts.reconnects,
    });
    for metric in OF_A_SECOND {
        let at = |quantile| interval.get(metric).quantile_ms(quantile);
        let mut figures = json!({ "p50": at(0.5), "p95": at(0.95), "p99": at(0.99), "max": at(1.0) });
        if let Some(trust) = interval.trust(metric) {
            figures["untrusted"] =
                json!(trust.untrusted().iter().filter(|key| figures.get(*key).is_some()).collect::<Vec<_>>());
        }
        rest[metric.name_ms()] = if interval.get(metric).count() > 0 { figures } else { Value::Null };
    }
    event("second", Duration::from_secs(second), rest)
}

/// Creates the monitoring events of a second, one per process or health target.
pub(in crate::output) fn health(second: u64, readings: &[Reading]) -> Vec<Value> {
    let mut by_target: BTreeMap<&str, Map<String, Value>> = BTreeMap::new();
    for reading in readings {
        let figures = by_target.entry(&reading.label).or_default();
        figures.insert(reading.quantity.name().to_owned(), reading.value.into());
    }
    let to_event = |(target, mut figures): (&str, Map<String, Value>)| {
        figures.insert("target".into(), target.into());
        event("health", Duration::from_secs(second), figures.into())
    };
    by_target.into_iter().map(to_event).collect()
}

/// Creates the event of a fault. `None` before the time of the fault.
pub(in crate::output) fn fault(fault: &FaultRecord) -> Option<Value> {
    let (outcome, at, detail) = match &fault.status {
        FaultStatus::Planned => return None,
        FaultStatus::Begun => ("begun", fault.began, None),
        FaultStatus::Injected(detail) => ("injected", fault.ended, Some(detail)),
        FaultStatus::Failed(why) => ("failed", fault.ended.or(fault.began), Some(why)),
    };
    let rest = json!({
        "fault": fault.spec,
        "at_s": fault.at.as_secs_f64(),
        "outcome": outcome,
        "detail": detail.map(|detail| printable(detail)),
    });
    Some(event("fault", at.unwrap_or_default(), rest))
}

/// Creates the event of a change of the plan, at the second at which it takes effect.
pub(in crate::output) fn amendment(amendment: &Amendment) -> Value {
    event("amendment", amendment.at(), info::amendment(amendment))
}

/// Creates the last event: the verdict.
pub(in crate::output) fn verdict(
    judgement: &Judgement,
    run: &RunData,
    info: &RunInfo,
    exit_code: u8,
    written: u64,
    dropped: u64,
) -> Value {
    let mut rest = sums(&run.queries, &run.tokens, run.reconnect_attempts, run.reconnects_ok);
    rest.insert("verdict".into(), judgement.verdict.name().into());
    rest.insert("verdict_reason".into(), judgement.reason.as_str().into());
    rest.insert("interrupted".into(), info.interrupted.into());
    rest.insert("exit_code".into(), exit_code.into());
    rest.insert("events_written".into(), written.into());
    rest.insert("events_dropped".into(), dropped.into());
    event("verdict", info.elapsed, rest.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_margin_of_a_threshold_is_what_is_left_of_its_limit() {
        let of = |text: &str, value: Option<f64>| {
            let outcome = Outcome {
                threshold: text.parse().unwrap(),
                state: State::Held,
                value,
                worst_from_s: None,
                certain: false,
                untrusted: false,
            };
            threshold(&outcome)["margin"].clone()
        };
        assert_eq!(of("e2el_ms:p95<3000", Some(750.0)), 0.75);
        assert_eq!(of("e2el_ms:p95<3000", Some(4_500.0)), -0.5, "beyond the limit");
        assert_eq!(of("success_rate>=0.5", Some(1.0)), 1.0);
        for none in
            [of("e2el_ms:p95<3000", None), of("tokens_lost==0", Some(3.0)), of("error_rate<=0", Some(0.1))]
        {
            assert_eq!(none, Value::Null, "a limit of 0 has no share");
        }
    }

    #[test]
    fn the_status_of_a_run_tells_its_sums_and_its_verdict() {
        let run = RunData::default();
        let live = LiveStatus { failures: vec![("run\u{7}: 503".into(), 2)], ..LiveStatus::default() };
        let judgement = measure::judge(&measure::Evidence::default());
        let standing = Standing { live: &live, run: &run, judgement: Some(&judgement), dropped: 3 };
        let status = status(Duration::from_secs(7), &standing);
        assert_eq!((&status["type"], &status["t"]), (&json!("status"), &json!(7.0)));
        assert_eq!(status["verdict"], judgement.verdict.name());
        assert_eq!(status["events_dropped"], 3);
        assert_eq!(status["failures"][0]["count"], 2);
        assert!(
            !status["failures"][0]["name"].as_str().unwrap().contains('\u{7}'),
            "texts of servers are printable"
        );
        let unknown = super::status(Duration::ZERO, &Standing { judgement: None, ..standing });
        assert_eq!(unknown["verdict"], Value::Null);
    }
}
