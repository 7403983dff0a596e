//! Findings: what a user should look at first. Each rule checks measurements and observations and states its evidence.
//! Findings that a planned fault explains are grouped under that fault. A finding never changes the verdict.

mod slow_hop;

use crate::{
    FaultRecord, HopGrowth,
    observations::{EndpointHistory, Observations, Usage},
    trend::{second_half, slope},
};
use serde::Serialize;
use settings::plural::counted;

/// Shortest run, in seconds, that is checked for memory growth. Only its second half counts.
const SOAK_S: f64 = 600.0;
/// A slope of at least this many standard errors is significant.
const SIGNIFICANT: f64 = 6.0;
/// Smallest growth in MB over half of the run that is reported.
const MIN_GROWTH_MB: f64 = 8.0;
/// Smallest number of busy seconds, and their smallest share of the run, from which a core counts as saturated.
const BUSY_SECONDS: u64 = 5;
const BUSY_SHARE: f64 = 0.05;
/// Smallest p95 of the bus lag, in milliseconds, from which the bus counts as slow.
const SLOW_BUS_MS: f64 = 10.0;
/// Smallest number of events for percentiles of the bus lag.
const MIN_EVENTS: u64 = 200;
/// Share of the descriptor limit from which the limit is near.
const NEAR_LIMIT: f64 = 0.9;

/// A finding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Title, a few words.
    pub title: String,
    /// Evidence, a sentence with figures.
    pub evidence: String,
    /// Findings that this planned fault explains. Empty for other findings.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub explains: Vec<Finding>,
}

/// Adds a finding if the memory of the machine or of Redis was about to run out.
fn low_memory(observations: &Observations, found: &mut FindingList) {
    for low in observations.low_memory.iter().chain(&observations.low_redis) {
        let evidence = format!(
            "At {} s less than 10 % was available; the least was {:.0} of {:.0} MB.",
            low.second, low.available_mb, low.total_mb
        );
        found.alone(format!("{} was about to run out of memory", low.of.name()), evidence);
    }
}

/// Collects findings, each with the index of the planned fault that explains it.
#[derive(Default)]
struct FindingList(Vec<(Option<usize>, Finding)>);

impl FindingList {
    fn alone(&mut self, title: String, evidence: String) {
        self.under(None, title, evidence);
    }

    fn under(&mut self, fault: Option<usize>, title: String, evidence: String) {
        self.0.push((fault, Finding { title, evidence, explains: Vec::new() }));
    }

    /// Returns unexplained findings first, then one finding per fault in the order of the plan.
    fn grouped(self, faults: &[FaultRecord]) -> Vec<Finding> {
        let (explained, mut findings) = (self.0.iter().any(|(fault, _)| fault.is_some()), Vec::new());
        let mut groups = vec![Vec::new(); if explained { faults.len() } else { 0 }];
        for (fault, finding) in self.0 {
            match fault.and_then(|fault| groups.get_mut(fault)) {
                Some(group) => group.push(finding),
                None => findings.push(finding),
            }
        }
        let of_fault = |(fault, explains): (&FaultRecord, Vec<Finding>)| {
            let at = fault.began.unwrap_or_default().as_secs_f64();
            let evidence = match explains.len() {
                0 => return None,
                1 => "This planned fault explains the following observation.".to_owned(),
                count => format!("This planned fault explains {count} observations."),
            };
            Some(Finding {
                title: format!("planned fault `{}` at {at:.0} s", fault.spec),
                evidence,
                explains,
            })
        };
        findings.extend(faults.iter().zip(groups).filter_map(of_fault));
        findings
    }
}

/// Load of a generator on its host.
#[derive(Clone, Copy, Debug, Default)]
pub struct GeneratorLoad {
    /// Number of the generator, from 1. `None` if it is the only one.
    pub number: Option<u32>,
    /// p99 of the lag of its event loops, in milliseconds.
    pub loop_lag_p99_ms: Option<f64>,
    /// Share of time that its threads waited for a CPU, without the cost of normal wake-ups on its host.
    pub cpu_starved_share: Option<f64>,
}

impl GeneratorLoad {
    fn name(&self) -> String {
        self.number.map_or_else(|| "the load generator".to_owned(), |number| format!("generator {number}"))
    }
}

/// Measurements that the rules use.
#[derive(Clone, Copy, Debug, Default)]
pub struct FindingInputs<'a> {
    /// Load of each generator on its host.
    pub generators: &'a [GeneratorLoad],
    /// Highest number of reconnect attempts in one second, and that second.
    pub peak_reconnects: (u64, u64),
    /// Highest number of open sessions.
    pub peak_sessions: u64,
    /// Total reconnect attempts, and sockets that the client itself cut.
    pub attempts_and_cuts: (u64, u64),
    /// Tokens per second that the servers published.
    pub published_throughput: Option<f64>,
    /// Whether the bus is in memory. Otherwise it is Redis.
    pub bus_in_memory: bool,
    /// Planned faults.
    pub faults: &'a [FaultRecord],
    /// Connections and failures of each gateway address.
    pub endpoints: &'a [EndpointHistory],
    /// The hop that made tokens slower, if one explains most of it.
    pub hop_growth: Option<HopGrowth>,
}

impl FindingInputs<'_> {
    /// Returns the planned fault that most probably explains what happened to `who` between two seconds of the run. Prefers
    /// faults aimed at `who`, then the last one that had started.
    fn attribute(&self, who: &str, from: u64, to: u64) -> Option<usize> {
        let possible = self.faults.iter().enumerate().filter(|(_, fault)| fault.can_explain(from, to));
        let likely = |fault: &FaultRecord| {
            let began = fault.began.unwrap_or_default();
            let in_time = began.as_secs() <= from;
            // Among faults that started later, prefer the first one.
            (aim(&fault.spec, who), in_time, if in_time { began.as_secs_f64() } else { -began.as_secs_f64() })
        };
        possible
            .max_by(|(_, a), (_, b)| likely(a).partial_cmp(&likely(b)).unwrap_or(std::cmp::Ordering::Equal))
            .map(|(index, _)| index)
    }

    /// Returns the planned fault that explains a figure of the whole run. Only a fault aimed at `who` does.
    fn aimed_at(&self, who: &str) -> Option<usize> {
        self.attribute(who, 0, u64::MAX).filter(|&fault| aim(&self.faults[fault].spec, who) > 0)
    }
}

/// Returns how closely a fault such as `wsproxy-1:kill` or `link:redis/wsproxy-1:cut` is aimed at a process or health target:
/// 3 at the target, 2 at its link, 1 at its role, 0 at something else.
fn aim(spec: &str, who: &str) -> u8 {
    let who = who.split(' ').next().unwrap_or_default();
    let role = match who.split('-').next().unwrap_or_default() {
        "api" | "server" => "server",
        "gateway" | "wsproxy" => "wsprox",
        other => other,
    };
    let mut targets = spec.split([':', '/', '=']);
    if targets.clone().next() == Some(who) {
        3
    } else if targets.clone().any(|target| target == who) {
        2
    } else {
        u8::from(!role.is_empty() && targets.any(|target| target.starts_with(role)))
    }
}

/// Returns all findings, the most severe first.
#[must_use]
pub fn find(measured: &FindingInputs<'_>, observations: &Observations) -> Vec<Finding> {
    let mut found = FindingList::default();
    for (name, second) in &observations.ended {
        found.under(
            measured.attribute(name, *second, *second),
            format!("{name} ended"),
            format!("The process ended {second} s into the run and was not replaced."),
        );
    }
    restarts(measured, observations, &mut found);
    for (target, (count, first, last, answer)) in &observations.failed {
        let when =
            if first == last { format!("at {first} s") } else { format!("from {first} s to {last} s") };
        found.under(
            measured.attribute(target, *first, *last),
            format!("{target} failed"),
            format!("{} failed {when}. Last result: {answer}.", counted(*count, "health checks")),
        );
    }
    dead_endpoints(measured, &mut found);
    low_memory(observations, &mut found);
    for load in measured.generators {
        generator(load, &mut |title, evidence| found.alone(title, evidence));
    }
    slow_bus(measured, observations, &mut found);
    for (name, usage) in &observations.processes {
        let mut found = |title, evidence| found.alone(title, evidence);
        processor(name, usage, &mut found);
        descriptors(name, usage, &mut found);
        memory(name, usage, &mut found);
    }
    storm(measured, &mut found);
    slow_hop::find(measured, &mut found);
    found.grouped(measured.faults)
}

fn restarts(measured: &FindingInputs<'_>, observations: &Observations, found: &mut FindingList) {
    let mut names: Vec<_> = observations.restarts.iter().map(|restart| &restart.0).collect();
    names.sort();
    names.dedup();
    for name in names {
        let times: Vec<_> = observations
            .restarts
            .iter()
            .filter(|restart| restart.0 == *name)
            .map(|restart| restart.1)
            .collect();
        let shown: Vec<_> = times.iter().take(5).map(|second| format!("{second} s")).collect();
        let more = if times.len() > 5 { " …" } else { "" };
        found.under(
            measured.attribute(name, times[0], times[times.len() - 1]),
            format!("{name} was restarted"),
            format!("A new process replaced it at {}{more}.", shown.join(", ")),
        );
    }
}

/// Adds a finding for each endpoint to which connections succeeded at first and failed at the end.
fn dead_endpoints(measured: &FindingInputs<'_>, found: &mut FindingList) {
    for endpoint in measured.endpoints.iter().filter(|endpoint| endpoint.is_dead) {
        let EndpointHistory { name, is_published, connected, failed, .. } = endpoint;
        let advice = if *is_published {
            " The port is published by a container. Docker's port proxy exits when it runs out of descriptors, and the port stays \
             closed until the container is restarted. Restart it and run the client in a container (docker compose run --rm client …)."
        } else {
            ""
        };
        found.under(
            measured.aimed_at("haproxy"),
            format!("{name} stopped accepting connections"),
            format!(
                "It accepted {}, and {} to connect failed. None has succeeded since the last failure began.{advice}",
                counted(*connected, "connections"),
                counted(*failed, "attempts")
            ),
        );
    }
}

fn slow_bus(measured: &FindingInputs<'_>, observations: &Observations, found: &mut FindingList) {
    let Some(lag) =
        observations.stack_counters.bus_lag.filter(|lag| lag.p95 > SLOW_BUS_MS && lag.count >= MIN_EVENTS)
    else {
        return;
    };
    let at = measured.published_throughput.map(|rate| format!(" at {rate:.0} tokens/s")).unwrap_or_default();
    let redis = observations.processes.get("redis");
    let cpu = redis
        .map(|redis| format!(" Redis used {:.2} cores on average.", redis.mean_cpu()))
        .unwrap_or_default();
    let evidence = format!(
        "The bus acknowledged {} events{at} within {:.0} ms at p50, {:.0} ms at p95 and {:.0} ms at p99.{cpu}",
        lag.count, lag.p50, lag.p95, lag.p99,
    );
    found.under(
        measured.aimed_at("redis"),
        if measured.bus_in_memory { "slow bus" } else { "slow redis" }.into(),
        evidence,
    );
}

fn generator(load: &GeneratorLoad, found: &mut impl FnMut(String, String)) {
    let lag = load.loop_lag_p99_ms.filter(|&ms| ms > 10.0);
    let waited = load.cpu_starved_share.filter(|&share| share > 0.1);
    let evidence = match (lag, waited) {
        (None, None) => return,
        (Some(lag), None) => format!("Its event loop was late by {lag:.1} ms at p99"),
        (None, Some(share)) => {
            format!(
                "Its threads waited for a CPU {:.0} % of the time, without normal wake-ups",
                share * 100.0
            )
        }
        (Some(lag), Some(share)) => {
            format!(
                "Its event loop was late by {lag:.1} ms at p99, and its threads waited for a CPU {:.0} % of the time, without normal wake-ups",
                share * 100.0
            )
        }
    };
    found(
        format!("{} was overloaded", load.name()),
        format!(
            "{evidence}. Arrival times come from the kernel, but queries are sent late, and the figures that are marked as untrusted are uncertain. Use another machine or less load."
        ),
    );
}

#[allow(clippy::cast_precision_loss)]
fn processor(name: &str, usage: &Usage, found: &mut impl FnMut(String, String)) {
    let share = usage.busy_seconds as f64 / usage.samples.max(1) as f64;
    if name == "client" || usage.busy_seconds < BUSY_SECONDS || share < BUSY_SHARE {
        return;
    }
    let what = match name.split('-').next() {
        Some("redis") => "Redis runs commands on one core, so the bus was the bottleneck",
        Some("wsproxy") => "add gateways to share the work",
        Some("haproxy") => "the load balancer was a bottleneck",
        Some("server") => "add simulators to share the work",
        _ => "it may be a bottleneck",
    };
    let evidence = format!(
        "It used 0.9 cores or more in {} of {} seconds, {:.2} on average: {what}.",
        usage.busy_seconds,
        usage.samples,
        usage.mean_cpu()
    );
    found(format!("{name} saturated a CPU core"), evidence);
}

#[allow(clippy::cast_precision_loss)]
fn descriptors(name: &str, usage: &Usage, found: &mut impl FnMut(String, String)) {
    let Some(limit) =
        usage.descriptor_limit.filter(|&limit| usage.max_descriptors as f64 >= limit as f64 * NEAR_LIMIT)
    else {
        return;
    };
    let evidence =
        format!("It had {} of {limit} descriptors open. Raise `ulimit -n`.", usage.max_descriptors);
    found(format!("{name} was near its limit of open files"), evidence);
}

fn memory(name: &str, usage: &Usage, found: &mut impl FnMut(String, String)) {
    let points: Vec<_> = usage.memory().collect();
    let Some((from, to)) = points.first().zip(points.last()).map(|(first, last)| (first.0, last.0)) else {
        return;
    };
    if to - from < SOAK_S {
        return;
    }
    let half = second_half(points);
    let Some((slope, error)) = slope(&half) else { return };
    let growth = slope * (to - from) / 2.0;
    let level = half.iter().map(|point| point.1).sum::<f64>() / half.len() as f64;
    if slope < SIGNIFICANT * error || growth < MIN_GROWTH_MB.max(level * 0.05) {
        return;
    }
    let evidence = format!(
        "In the second half of the run it grew by {:.1} ± {:.1} MB per hour, around {level:.0} MB.",
        slope * 3600.0,
        error * 3600.0
    );
    found(format!("memory of {name} grows"), evidence);
}

fn storm(measured: &FindingInputs<'_>, found: &mut FindingList) {
    let (peak, at) = measured.peak_reconnects;
    if peak < 20 || peak * 10 < measured.peak_sessions {
        return;
    }
    let came = format!(
        "{peak} reconnect attempts in one second, {at} s into the run, with {}",
        counted(measured.peak_sessions, "open sessions")
    );
    let (attempts, cuts) = measured.attempts_and_cuts;
    match measured.attribute("gateway", at, at) {
        Some(fault) => {
            found.under(Some(fault), "sessions reconnected at once".into(), format!("{came}."));
        }
        // The client cut these sockets itself (`--drop-rate`).
        None if cuts * 2 >= attempts && cuts > 0 => {}
        None => found.alone(
            "reconnect storm".into(),
            format!("{came}. Either the backoff spreads attempts too little, or a whole gateway was lost."),
        ),
    }
}

#[cfg(test)]
mod tests;
