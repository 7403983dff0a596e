//! `_summary.json`: the keys of the original load test, those of vLLM, and ours.
//! The original keys are in seconds and percent, all others in milliseconds and shares (0 to 1).

use super::{
    EventTotals, RunInfo,
    conclusion::{Check, Conclusion},
    faults, figures,
    files::Files,
    generators, hops,
    host::Host,
    info, memory,
    ratios::{delivery_ratio, integrity, queries_at_once, rate, sessions_at_once, share},
    resources,
};
use crate::values::escaped_json;
use measure::{
    Metric, RunData, Statistic, Summary as Figures, defects::Defect, observations::Settings, threshold::State,
};
use plan::schedule::{Phase, Schedule};
use serde::Serialize;
use serde_json::{Map, Value, json};
use std::{collections::BTreeMap, io, io::Write, time::Duration};
use time::format_description::well_known::Rfc3339;

/// Increases when a key changes its meaning.
const SCHEMA_VERSION: u32 = 1;

#[derive(Debug, Serialize)]
struct Summary<'a> {
    schema_version: u32,
    run_id: &'a str,
    started_at: String,
    verdict: &'static str,
    verdict_reason: &'a str,
    exit_code: u8,
    interrupted: bool,
    integrity: &'static str,
    #[serde(flatten)]
    origin: Origin,
    #[serde(flatten)]
    ours: Ours,
    #[serde(flatten)]
    vllm: Map<String, Value>,
    #[serde(flatten)]
    measures: Map<String, Value>,
    thresholds: Vec<Value>,
    steady: Option<Value>,
    findings: Vec<measure::findings::Finding>,
    health: Option<Value>,
    /// Memory of processes and roles by phase of the run.
    #[serde(skip_serializing_if = "Option::is_none")]
    memory: Option<Value>,
    /// Settings of the stack by role, as its servers, its gateways and its supervisor state them.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    stack_settings: BTreeMap<String, Settings>,
    events: Option<&'a EventTotals>,
    faults: Vec<Value>,
    metrics: Map<String, Value>,
    /// The time of sampled tokens by hop.
    hops: Value,
    gateways: Option<measure::observations::Gateways>,
    /// Members whose counters are missing in `published_throughput`, `bus_lag_ms` and `gateways`, until a second of the run or
    /// completely (null).
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    counters_missed: &'a BTreeMap<String, Option<u64>>,
    failures: Vec<Value>,
    close_codes: Map<String, Value>,
    concurrency: Value,
    schedule: Value,
    amendments: Vec<Value>,
    generator: Value,
    /// One entry per generator, if there are several.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    generators: Vec<Value>,
    /// Whether results of generators are missing.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    partial: bool,
    /// Upper limit of the difference between the starts of the generators.
    #[serde(skip_serializing_if = "Option::is_none")]
    start_skew_ms: Option<f64>,
    seed: u64,
    config: &'a Value,
    host: Host,
    versions: Value,
}

/// Keys of the original load test, in seconds and percent.
#[derive(Debug, Serialize)]
struct Origin {
    total_sessions: u64,
    successful_sessions: u64,
    failed_sessions: u64,
    success_rate: f64,
    total_queries: u64,
    total_tokens: u64,
    queries_per_second: f64,
    tokens_per_second: f64,
    avg_create_time: Option<f64>,
    avg_connect_time: Option<f64>,
    avg_query_latency: Option<f64>,
    p50_query_latency: Option<f64>,
    p95_query_latency: Option<f64>,
    p99_query_latency: Option<f64>,
    min_query_latency: Option<f64>,
    max_query_latency: Option<f64>,
    test_duration: f64,
    total_reconnect_attempts: u64,
    total_successful_reconnects: u64,
    sessions_with_reconnects: u64,
}

#[derive(Debug, Serialize)]
struct Ours {
    duration_s: f64,
    queries_total: u64,
    queries_sent: u64,
    queries_ok: u64,
    queries_incomplete: u64,
    queries_timeout: u64,
    queries_error: u64,
    queries_rejected: u64,
    queries_abandoned: u64,
    error_rate: Option<f64>,
    tokens_expected: u64,
    tokens_received: u64,
    tokens_lost: u64,
    tokens_duplicated: u64,
    tokens_reordered: u64,
    tokens_unverified: u64,
    tokens_unsent: u64,
    tokens_reported: u64,
    reported_events: u64,
    reasoning_events: u64,
    contents_unverified: u64,
    tokens_cut_off: u64,
    lost_connected: u64,
    lost_in_gap: u64,
    delivery_ratio: Option<f64>,
    events_received: u64,
    events_lost: u64,
    stall_count: u64,
    stall_ms: f64,
    dropped_iterations: u64,
    offered_rate: Option<f64>,
    achieved_rate: Option<f64>,
    achieved_share: Option<f64>,
    sessions_old_contract: u64,
}

fn origin(run: &RunData) -> Origin {
    let seconds =
        |metric, of: fn(&Figures) -> f64| run.metrics.get(metric).summary().map(|figures| of(&figures) / 1e3);
    let latency = |of| seconds(Metric::E2el, of);
    let duration = run.duration();
    Origin {
        total_sessions: run.sessions.total,
        successful_sessions: run.sessions.ok,
        failed_sessions: run.sessions.total - run.sessions.ok,
        success_rate: share(run.sessions.ok, run.sessions.total).unwrap_or(0.0) * 100.0,
        total_queries: run.queries.total,
        total_tokens: run.tokens.received,
        queries_per_second: rate(run.queries.ok, duration),
        tokens_per_second: rate(run.tokens.received, duration),
        avg_create_time: seconds(Metric::Create, |figures| figures.mean),
        avg_connect_time: seconds(Metric::Connect, |figures| figures.mean),
        avg_query_latency: latency(|figures| figures.mean),
        p50_query_latency: latency(|figures| figures.p50),
        p95_query_latency: latency(|figures| figures.p95),
        p99_query_latency: latency(|figures| figures.p99),
        min_query_latency: latency(|figures| figures.min),
        max_query_latency: latency(|figures| figures.max),
        test_duration: duration.as_secs_f64(),
        total_reconnect_attempts: run.reconnect_attempts,
        total_successful_reconnects: run.reconnects_ok,
        sessions_with_reconnects: run.sessions.with_reconnects,
    }
}

fn ours(run: &RunData, info: &RunInfo) -> Ours {
    let (queries, tokens, offer) = (&run.queries, &run.tokens, info.offered());
    Ours {
        duration_s: run.duration().as_secs_f64(),
        queries_total: queries.total,
        queries_sent: queries.sent,
        queries_ok: queries.ok,
        queries_incomplete: queries.incomplete,
        queries_timeout: queries.timeout,
        queries_error: queries.error,
        queries_rejected: queries.rejected,
        queries_abandoned: queries.abandoned,
        error_rate: share(queries.failed(), queries.judged()),
        tokens_expected: tokens.expected,
        tokens_received: tokens.received,
        tokens_lost: tokens.lost,
        tokens_duplicated: tokens.duplicated,
        tokens_reordered: tokens.reordered,
        tokens_unverified: tokens.unverified,
        tokens_unsent: tokens.unsent,
        tokens_reported: tokens.reported,
        reported_events: tokens.reported_events,
        reasoning_events: tokens.reasoning,
        contents_unverified: queries.contents_unverified,
        tokens_cut_off: tokens.cut_off,
        lost_connected: tokens.lost_connected,
        lost_in_gap: tokens.lost_in_gap,
        delivery_ratio: delivery_ratio(run),
        events_received: tokens.events_received,
        events_lost: tokens.events_lost,
        stall_count: run.stall_count,
        stall_ms: run.stall.as_secs_f64() * 1e3,
        dropped_iterations: info.generator.arrivals.dropped,
        offered_rate: offer.map(|offer| offer.offered_rate),
        achieved_rate: offer.map(|offer| offer.achieved_rate),
        achieved_share: offer.map(|offer| offer.achieved_share),
        sessions_old_contract: run.sessions.old_contract,
    }
}

/// Returns the keys of vLLM (`mean_ttft_ms`, `median_e2el_ms`, `p99_itl_ms` …), throughputs and defects, and goodput if objectives
/// were given.
fn vllm(run: &RunData, info: &RunInfo, conclusion: &Conclusion) -> Map<String, Value> {
    let mut keys = Map::new();
    if !conclusion.objectives.is_empty() {
        let good = run.metrics.counts().good;
        let objectives: Vec<_> = conclusion.objectives.iter().map(ToString::to_string).collect();
        keys.insert("goodput_objectives".into(), objectives.into());
        keys.insert("request_goodput".into(), rate(good, run.duration()).into());
        keys.insert("goodput_share".into(), json!(share(good, run.queries.total)));
    }
    for defect in Defect::ALL {
        keys.insert(defect.name().into(), run.defects.count(defect).into());
    }
    keys.insert("request_throughput".into(), rate(run.queries.ok, run.duration()).into());
    keys.insert("output_throughput".into(), rate(run.tokens.received, run.duration()).into());
    keys.insert("reported_throughput".into(), rate(run.tokens.reported, run.duration()).into());
    keys.insert("published_throughput".into(), json!(info::published_throughput(run, info)));
    for metric in [Metric::Ttft, Metric::Tpot, Metric::Itl, Metric::E2el] {
        if let Some(figures) = run.metrics.get(metric).summary() {
            let name = metric.name();
            keys.insert(format!("mean_{name}_ms"), figures.mean.into());
            keys.insert(format!("median_{name}_ms"), figures.p50.into());
            keys.insert(format!("p99_{name}_ms"), figures.p99.into());
        }
    }
    keys
}

fn metrics(run: &RunData, info: &RunInfo) -> Map<String, Value> {
    Metric::ALL
        .into_iter()
        .filter_map(|metric| Some((metric.name_ms(), figures::of(&run.metrics, metric)?)))
        .chain(info.observations.stack_counters.bus_lag.map(|lag| ("bus_lag_ms".to_owned(), json!(lag))))
        .collect()
}

/// Returns the entry of a check. `ok` is null if the outcome is unknown, and `reason` states why.
fn threshold(check: Check<'_>) -> Value {
    let outcome = check.outcome;
    let (ok, reason) = match &outcome.state {
        _ if check.unknown.is_some() => (None, check.unknown.map(str::to_owned)),
        State::Held => (Some(true), None),
        State::Broken => (Some(false), None),
        State::Unknown(why) => (None, Some(why.clone())),
        State::Undecided { .. } => (None, Some(outcome.value_text())),
    };
    json!({
        "trusted": !outcome.untrusted,
        "threshold": outcome.threshold.text,
        "figure": outcome.threshold.subject(),
        "comparison": outcome.threshold.operator.sign(),
        "limit": outcome.threshold.limit,
        "value": outcome.value,
        "ok": ok,
        "reason": reason,
        "worst_from_s": outcome.worst_from_s,
        "example": check.example,
    })
}

fn failures(run: &RunData) -> Vec<Value> {
    let failure = |(kind, code, group): (_, Option<u16>, &measure::FailureGroup)| {
        json!({
            "kind": kind,
            "code": code,
            "count": group.count,
            "first_s": group.first.as_secs_f64(),
            "last_s": group.last.as_secs_f64(),
            "example": group.example,
        })
    };
    run.failures.iter().map(failure).collect()
}

fn concurrency(run: &RunData, info: &RunInfo) -> Value {
    let (sessions, queries) = (sessions_at_once(run, info.elapsed), queries_at_once(run));
    json!({
        "sessions_mean": sessions.mean,
        "sessions_peak": sessions.peak,
        "queries_mean": queries.mean,
        "queries_peak": queries.peak,
    })
}

/// Returns the phases. Targets are open sessions, or arrivals per second in open models.
fn schedule(schedule: &Schedule) -> Value {
    let seconds = |time: Duration| time.as_secs_f64();
    let phase = |phase: &Phase| {
        json!({
            "name": phase.name,
            "start_s": seconds(phase.start),
            "end_s": phase.end.map(seconds),
            "from": phase.from,
            "target": phase.target,
        })
    };
    json!({
        "model": schedule.model().name(),
        "sessions": schedule.sessions(),
        "sessions_at_once": schedule.most_concurrent(),
        "phases": schedule.phases().iter().map(phase).collect::<Vec<_>>(),
        "steady_s": schedule.steady_window().map(|(start, end)| [seconds(start), seconds(end)]),
        // A run with these stages has the load that the amendments led to.
        "as_stages": schedule.as_stages().filter(|_| !schedule.amendments().is_empty()).map(|stages| stages.to_string()),
    })
}

const P99: Statistic = Statistic::Percentile(99.0);

fn generator(run: &RunData, info: &RunInfo) -> Value {
    let p99 = |metric| run.metrics.get(metric).quantile_ms(0.99);
    let memory = info.observations.processes.get("client").and_then(resources::bytes_per_minute);
    json!({
        "schedule_lag_p99_ms": p99(Metric::ScheduleLag),
        "loop_lag_p99_ms": p99(Metric::LoopLag),
        "pace_lag_p99_ms": p99(Metric::PaceLag),
        "cpu_wait_share": info.generator.cpu_wait_share(),
        "cpu_starved_share": info.generator.cpu_starved_share(),
        "wake_up_cost_us": info.generator.wake_up_cost.map(|cost| cost.as_secs_f64() * 1e6),
        "clock_steps": info.generator.clock_steps,
        "e2el_p99_error_ms": run.metrics.trust(Metric::E2el).and_then(|trust| trust.error_ms(P99)),
        "untrusted_figures": run.metrics.untrusted_figures(),
        "shared_clock": info.generator.shared_clock,
        "memory_slope_bytes_per_min": memory.map(|slope| slope.0),
        "memory_slope_error_bytes_per_min": memory.map(|slope| slope.1),
    })
}

/// Writes `_summary.json`.
pub(super) fn write(files: &Files, run: &RunData, info: &RunInfo, conclusion: &Conclusion) -> io::Result<()> {
    let judgement = &conclusion.judgement;
    let close_codes = run.close_codes.iter().map(|(code, count)| (code.to_string(), json!(count)));
    let summary = Summary {
        schema_version: SCHEMA_VERSION,
        run_id: files.id(),
        started_at: files.started_at.format(&Rfc3339).map_err(io::Error::other)?,
        verdict: judgement.verdict.name(),
        verdict_reason: &judgement.reason,
        exit_code: conclusion.exit_code,
        interrupted: info.interrupted,
        integrity: integrity(run),
        origin: origin(run),
        ours: ours(run, info),
        vllm: vllm(run, info, conclusion),
        measures: faults::measures(run),
        thresholds: conclusion.checks(run).map(threshold).collect(),
        steady: run.steady.as_ref().map(|steady| figures::steady(steady, !conclusion.objectives.is_empty())),
        findings: info::findings(run, info),
        health: resources::health(run),
        memory: memory::json(info),
        stack_settings: info.observations.settings_by_role(),
        events: info.events.as_ref(),
        faults: faults::json(info),
        metrics: metrics(run, info),
        hops: hops::json(run, info),
        gateways: info.observations.stack_counters.gateways,
        counters_missed: &info.observations.stack_counters.missed,
        failures: failures(run),
        close_codes: close_codes.collect(),
        concurrency: concurrency(run, info),
        schedule: info.schedule.as_deref().map_or(Value::Null, schedule),
        amendments: info.amendments().map(info::amendment).collect(),
        generator: generator(run, info),
        generators: generators::json(run, info),
        partial: !info.lost_generators.is_empty(),
        start_skew_ms: generators::start_skew(info).map(|skew| skew.as_secs_f64() * 1e3),
        seed: info.seed,
        config: &info.config,
        host: Host::read(),
        versions: json!({ "client": env!("CARGO_PKG_VERSION") }),
    };
    let mut text = escaped_json(&serde_json::to_string_pretty(&summary)?);
    text.push('\n');
    files.document("_summary.json").write_all(text.as_bytes())
}
