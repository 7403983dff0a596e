//! What the engine knows of a run besides its records: the plan, the machine's part, how it ended.
//! Secrets are not in it: the configuration comes redacted.

use super::EventTotals;
use measure::{
    Evidence, FaultRecord, FaultStatus, Metric, RunData, Statistic, Trustworthiness,
    findings::{self, Finding, FindingInputs},
    observations::{EndpointHistory, Observations},
};
use plan::schedule::Schedule;
use std::{sync::Arc, time::Duration};

/// Told by the engine when the run is over.
#[derive(Clone, Debug, Default)]
pub struct RunInfo {
    /// The resolved configuration, secrets redacted.
    pub config: serde_json::Value,
    /// All random draws came from it.
    pub seed: u64,
    /// Where the run was aimed at, for a person.
    pub api_url: String,
    /// Where its sockets were aimed at.
    pub ws_url: String,
    /// The stack was in the client's own process, and its bus in memory.
    pub embedded: bool,
    /// Sessions asked for.
    pub clients: u64,
    /// Queries asked for, a session.
    pub queries_per_client: u64,
    /// Over which sessions were started.
    pub ramp_up: Duration,
    /// Connected all, then submitted at one instant.
    pub burst: bool,
    /// From start to end, drain included.
    pub elapsed: Duration,
    /// Ended by a signal.
    pub interrupted: bool,
    /// What was scheduled.
    pub schedule: Option<Arc<Schedule>>,
    /// What arrived and started on time, in open models.
    pub arrivals_on_time: u64,
    /// What arrived and was dropped because every session was busy, in open models.
    pub arrivals_dropped: u64,
    /// What was due until the run was ended, in open models.
    pub arrivals_due: u64,
    /// Queries and arrivals that the plan held and that never started.
    pub dropped_iterations: u64,
    /// Sessions open at once, at most.
    pub peak_sessions: u64,
    /// Queries running at once, at most.
    pub peak_queries: u64,
    /// Client and simulator share a clock (`boot_id` equal); unknown before the first answer and of old servers.
    pub shared_clock: Option<bool>,
    /// What was to be broken, and what became of it.
    pub faults: Vec<FaultRecord>,
    /// How each address of the gateway fared.
    pub endpoints: Vec<EndpointHistory>,
    /// What became of its events, where they were wanted.
    pub events: Option<EventTotals>,
    /// Why the run was ended early: a threshold that could not be kept any more.
    pub aborted: Option<String>,
    /// What was seen of the stack's processes and doors.
    pub observations: Observations,
    /// Share of the time that the client's threads waited for a CPU, 0 to 1.
    pub cpu_wait_share: Option<f64>,
    /// …beyond what its wake-ups cost on this host.
    pub cpu_starved_share: Option<f64>,
    /// What a wake-up costs on this host, as the preflight measured it.
    pub wake_up_cost: Option<Duration>,
    /// How often the wall clock was set during the run: arrival times are less exact for a second after that.
    pub clock_steps: u64,
}

/// What an open model offered, and what came of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Offer {
    /// Arrivals a second that were planned.
    pub(super) offered_rate: f64,
    /// Arrivals per second that the generator achieved.
    pub(super) achieved_rate: f64,
    /// Started on time or dropped because every session was busy, of those that were due.
    pub(super) achieved_share: f64,
}

impl RunInfo {
    /// Of an open model in which something was due.
    pub(super) fn offered(&self) -> Option<Offer> {
        let offered_rate = self.schedule.as_ref()?.offered()?.rate();
        let achieved_share =
            super::ratios::share(self.arrivals_on_time + self.arrivals_dropped, self.arrivals_due)?;
        Some(Offer { offered_rate, achieved_rate: offered_rate * achieved_share, achieved_share })
    }
}

/// Tokens a second that the servers handed to the bus, whoever asked for them; none where nobody could say.
pub(super) fn published_throughput(run: &RunData, info: &RunInfo) -> Option<f64> {
    let published = info.observations.stack_counters.tokens_published?;
    Some(super::ratios::rate(published, run.duration())).filter(|rate| *rate > 0.0)
}

/// What a reader should look at first.
pub(super) fn findings(run: &RunData, info: &RunInfo) -> Vec<Finding> {
    let peak = run.reconnect_storm.peak_attempts;
    let measured = FindingInputs {
        loop_lag_p99_ms: run.metrics.get(Metric::LoopLag).quantile_ms(0.99),
        cpu_starved_share: info.cpu_starved_share,
        peak_reconnects: (peak.per_second, peak.at_s),
        peak_sessions: info.peak_sessions,
        attempts_and_cuts: (run.reconnect_attempts, run.sockets_cut),
        published_throughput: published_throughput(run, info),
        bus_in_memory: info.embedded,
        faults: &info.faults,
        endpoints: &info.endpoints,
    };
    findings::find(&measured, &info.observations)
}

/// The run's evidence for its judges.
pub(super) fn evidence(run: &RunData, info: &RunInfo) -> Evidence {
    let e2el = run.metrics.trust(Metric::E2el);
    Evidence {
        // Of a run that a threshold ended, nobody expects the faults that were still to come.
        fault_not_injected: info.faults.iter().find_map(not_injected).filter(|_| info.aborted.is_none()),
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
            untrusted_figures: run.metrics.untrusted_figures(),
        },
        burst: info.burst,
        achieved_share: info.offered().map(|offered| offered.achieved_share),
        ..Evidence::default()
    }
}

fn not_injected(fault: &FaultRecord) -> Option<String> {
    let why = match &fault.status {
        FaultStatus::Injected(_) => return None,
        FaultStatus::Failed(why) => why.trim_end_matches('.'),
        FaultStatus::Planned => "its time never came",
        FaultStatus::Begun => "it was not in force at the run's end",
    };
    Some(format!("`{}` at {} s, {}", fault.spec, fault.at.as_secs_f64(), crate::values::printable(why)))
}
