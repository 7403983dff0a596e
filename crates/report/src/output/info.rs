//! What the engine knows about a run besides its records: configuration, plan, load on the machine, and how it ended.
//! It contains no secrets: the configuration is redacted.

use super::EventTotals;
use measure::{
    Arrivals, Evidence, FailureGroup, FaultRecord, GeneratorReport, Metric, RunData, Statistic,
    Trustworthiness,
    findings::{self, Finding, FindingInputs, GeneratorLoad},
    observations::Observations,
    record::FailureKind,
};
use plan::schedule::{Amendment, Change, Schedule};
use serde_json::{Value, json};
use std::{cmp::Reverse, collections::BTreeMap, sync::Arc, time::Duration};

/// Information from the engine at the end of a run.
#[derive(Clone, Debug, Default)]
pub struct RunInfo {
    /// The resolved configuration, secrets redacted.
    pub config: serde_json::Value,
    /// Seed of all random draws.
    pub seed: u64,
    /// URL of the API under test.
    pub api_url: String,
    /// URL of the gateway under test.
    pub ws_url: String,
    /// Whether the stack ran in the client process, with its bus in memory.
    pub embedded: bool,
    /// Requested sessions.
    pub clients: u64,
    /// Requested queries per session.
    pub queries_per_client: u64,
    /// Time over which sessions were started.
    pub ramp_up: Duration,
    /// Whether all sessions connected first and then submitted at one instant.
    pub burst: bool,
    /// Time from start to end, drain included.
    pub elapsed: Duration,
    /// Whether a signal ended the run.
    pub interrupted: bool,
    /// Schedule of the run.
    pub schedule: Option<Arc<Schedule>>,
    /// Reports of the generators, by the index of their shard. Those that were lost have none.
    pub generators: BTreeMap<u32, GeneratorReport>,
    /// The merged report of all generators.
    pub generator: GeneratorReport,
    /// Generators that were lost, by the index of their shard, each with the reason.
    pub lost_generators: BTreeMap<u32, String>,
    /// Number of generators of the run.
    pub generator_count: u32,
    /// Planned faults and their effects.
    pub faults: Vec<FaultRecord>,
    /// Totals of `--out json`, if it was requested.
    pub events: Option<EventTotals>,
    /// Every how many tokens the gateway was asked to add its times to. `None` if it was not asked.
    pub hops: Option<u32>,
    /// Reason why the run was stopped early.
    pub aborted: Option<String>,
    /// Observations of the processes and health targets of the stack.
    pub observations: Observations,
}

/// Offered and achieved rate of an open model.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Offer {
    /// Planned arrivals per second.
    pub(super) offered_rate: f64,
    /// Arrivals per second that the generator achieved.
    pub(super) achieved_rate: f64,
    /// Share of due arrivals that started on time or were dropped because every session was busy.
    pub(super) achieved_share: f64,
}

impl RunInfo {
    /// Returns the changes of the plan during the run, in order.
    pub(super) fn amendments(&self) -> impl Iterator<Item = &Amendment> {
        self.schedule.iter().flat_map(|schedule| schedule.amendments())
    }

    /// Returns the offered and achieved rate, or `None` in a closed model or if no arrival was due.
    pub(super) fn offered(&self) -> Option<Offer> {
        let offered_rate = self.schedule.as_ref()?.offered()?.rate();
        let Arrivals { on_time, busy, due, .. } = self.generator.arrivals;
        let achieved_share = super::ratios::share(on_time + busy, due)?;
        Some(Offer { offered_rate, achieved_rate: offered_rate * achieved_share, achieved_share })
    }
}

/// Returns an amendment as it stands in the summary and in events.
pub(super) fn amendment(amendment: &Amendment) -> Value {
    let (clients, arrival_rate) = match amendment.change {
        Change::Clients(clients) => (Some(clients), None),
        Change::ArrivalRate(rate) => (None, Some(rate)),
    };
    json!({
        "number": amendment.number,
        "at_s": amendment.at_s,
        "clients": clients,
        "arrival_rate": arrival_rate,
        "ramp_up_s": amendment.ramp_up.as_secs_f64(),
    })
}

/// Returns the tokens per second that the servers published, or `None` if it is unknown.
pub(super) fn published_throughput(run: &RunData, info: &RunInfo) -> Option<f64> {
    let published = info.observations.stack_counters.tokens_published?;
    Some(super::ratios::rate(published, run.duration())).filter(|rate| *rate > 0.0)
}

/// Returns the findings of a run.
pub(super) fn findings(run: &RunData, info: &RunInfo) -> Vec<Finding> {
    let peak = run.reconnect_storm.peak_attempts;
    let loads = generator_loads(run, info);
    let measured = FindingInputs {
        generators: &loads,
        peak_reconnects: (peak.per_second, peak.at_s),
        peak_sessions: run.concurrency.peak_sessions().round() as u64,
        attempts_and_cuts: (run.reconnect_attempts, run.sockets_cut),
        published_throughput: published_throughput(run, info),
        bus_in_memory: info.embedded,
        faults: &info.faults,
        endpoints: &info.generator.endpoints,
        hop_growth: run.hop_trend.growth().filter(|_| run.metrics.counts().hops_impossible == 0),
    };
    findings::find(&measured, &info.observations)
}

/// Returns the load of each generator on its host.
fn generator_loads(run: &RunData, info: &RunInfo) -> Vec<GeneratorLoad> {
    let load = |(shard, report): (&u32, &GeneratorReport)| GeneratorLoad {
        number: (info.generator_count > 1).then_some(shard + 1),
        loop_lag_p99_ms: run.generators.get(shard).and_then(|figures| figures.loop_lag.quantile_ms(0.99)),
        cpu_starved_share: report.cpu_starved_share(),
    };
    info.generators.iter().map(load).collect()
}

/// Returns which generators were lost, or `None` if the results are complete.
fn partial(info: &RunInfo) -> Option<String> {
    let name = |(shard, why): (&u32, &String)| format!("generator {} ({why})", shard + 1);
    let lost: Vec<_> = info.lost_generators.iter().map(name).collect();
    (!lost.is_empty()).then(|| {
        let were = if lost.len() == 1 { "was" } else { "were" };
        format!("{} of {} generators {were} lost: {}", lost.len(), info.generator_count, lost.join(", "))
    })
}

/// Returns the facts for the verdict rules.
pub(super) fn evidence(run: &RunData, info: &RunInfo) -> Evidence {
    let e2el = run.metrics.trust(Metric::E2el);
    Evidence {
        // Later faults are not expected in a run that was stopped early.
        fault_not_injected: info.faults.iter().find_map(not_injected).filter(|_| info.aborted.is_none()),
        generators_lost: partial(info),
        tokens_unverified: run.tokens.unverified,
        contents_unverified: run.queries.contents_unverified,
        queries_total: run.queries.total,
        queries_judged: run.queries.judged(),
        queries_ok: run.queries.ok,
        late: run.late,
        queries_excused: run.queries.excused,
        trust: Trustworthiness {
            e2el_p99_error_ms: e2el.and_then(|trust| trust.error_ms(Statistic::Percentile(99.0))),
            e2el_p50_ms: run.metrics.get(Metric::E2el).quantile_ms(0.5),
            e2el_p99_ms: run.metrics.get(Metric::E2el).quantile_ms(0.99),
            untrusted_figures: run.metrics.untrusted_figures(),
        },
        most_frequent_failure: most_frequent_failure(run),
        burst: info.burst,
        achieved_share: info.offered().map(|offered| offered.achieved_share),
        ..Evidence::default()
    }
}

/// Returns the most frequent failure. Timeouts that are excused do not count, because they fail no run.
fn most_frequent_failure(run: &RunData) -> Option<String> {
    let counted = |(name, group): (String, &FailureGroup)| {
        let excused = if name == FailureKind::Timeout.name() { run.queries.excused } else { 0 };
        (group.count.saturating_sub(excused), name, crate::values::printable(&group.example))
    };
    let (count, name, example) =
        run.failures.by_count().into_iter().map(counted).min_by_key(|(count, ..)| Reverse(*count))?;
    (count > 0).then(|| format!("{count} × {name} ({example})"))
}

fn not_injected(fault: &FaultRecord) -> Option<String> {
    let ("failed", why) = fault.status.outcome() else { return None };
    let why = crate::values::printable(why.trim_end_matches('.'));
    Some(format!("`{}` at {} s, {why}", fault.spec, fault.at.as_secs_f64()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use measure::record::Failure;

    #[test]
    fn excused_timeouts_are_not_the_most_frequent_failure() {
        let mut run = RunData::default();
        assert_eq!(most_frequent_failure(&run), None);
        let timeout = (FailureKind::Timeout, None);
        for (kind, code) in [timeout.clone(), timeout.clone(), timeout, (FailureKind::Run, Some(500))] {
            run.failures.add(&Failure { kind, code, message: "why".to_owned() }, Duration::ZERO);
        }
        for (excused, expected) in
            [(0, "3 × timeout (why)"), (1, "2 × timeout (why)"), (3, "1 × run 500 (why)")]
        {
            run.queries.excused = excused;
            assert_eq!(most_frequent_failure(&run).as_deref(), Some(expected));
        }
    }
}
