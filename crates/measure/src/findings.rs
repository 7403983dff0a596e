//! What a reader should look at first: rules over what was measured and watched, each with its evidence in a sentence.
//! What a planned fault explains is grouped under that fault. Pure, and no judge: a finding changes no verdict.

use crate::{
    FaultRecord,
    observations::{EndpointHistory, Observations, Usage},
    trend::{second_half, slope},
};
use serde::Serialize;

/// Growth is looked for in runs at least so long, in their second half.
const SOAK_S: f64 = 600.0;
/// A slope so many times its standard error is no chance.
const SIGNIFICANT: f64 = 6.0;
/// Growth over the run under this many MB concerns nobody.
const MIN_GROWTH_MB: f64 = 8.0;
/// Busy seconds from which a core is said to be used up, and their least share of the run.
const BUSY_SECONDS: u64 = 5;
const BUSY_SHARE: f64 = 0.05;
/// Milliseconds behind the bus from which, at p95, it is slow: as much as makes a run's other parts late.
const SLOW_BUS_MS: f64 = 10.0;
/// Events below which percentiles of the bus say little.
const MIN_EVENTS: u64 = 200;
/// Share of the descriptors from which the limit is near.
const NEAR_LIMIT: f64 = 0.9;

/// Something worth a look.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// In a few words.
    pub title: String,
    /// A sentence with the figures.
    pub evidence: String,
    /// Of a planned fault: what it explains.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub explains: Vec<Finding>,
}

/// The findings in the making, each with the planned fault that explains it.
#[derive(Default)]
struct FindingList(Vec<(Option<usize>, Finding)>);

impl FindingList {
    fn alone(&mut self, title: String, evidence: String) {
        self.under(None, title, evidence);
    }

    fn under(&mut self, fault: Option<usize>, title: String, evidence: String) {
        self.0.push((fault, Finding { title, evidence, explains: Vec::new() }));
    }

    /// What no fault explains, then a finding for each fault, in the order of the plan.
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
                1 => "The run did this itself, and it explains the following.".to_owned(),
                count => format!("The run did this itself, and it explains {count} observations."),
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

/// What the run itself measured, as far as the rules ask.
#[derive(Clone, Copy, Debug, Default)]
pub struct FindingInputs<'a> {
    /// p99 of the client's own loop lag, milliseconds.
    pub loop_lag_p99_ms: Option<f64>,
    /// Share of the time that the client's threads waited for a CPU, beyond what their wake-ups cost on this host.
    pub cpu_starved_share: Option<f64>,
    /// The most attempts to reconnect in a second, and when.
    pub peak_reconnects: (u64, u64),
    /// Sessions open at once, at most.
    pub peak_sessions: u64,
    /// Attempts to reconnect in all, and sockets that the client itself cut.
    pub attempts_and_cuts: (u64, u64),
    /// Tokens a second that the servers published.
    pub published_throughput: Option<f64>,
    /// The bus is in the stack's own memory; elsewhere it is Redis.
    pub bus_in_memory: bool,
    /// What the run itself broke.
    pub faults: &'a [FaultRecord],
    /// How each address of the gateway fared.
    pub endpoints: &'a [EndpointHistory],
}

impl FindingInputs<'_> {
    /// The planned fault that most probably is behind what happened to `who` from one second of the run to another: one that
    /// was aimed at it, and of several the last one that had begun.
    fn attribute(&self, who: &str, from: u64, to: u64) -> Option<usize> {
        let possible = self.faults.iter().enumerate().filter(|(_, fault)| fault.can_explain(from, to));
        let likely = |fault: &FaultRecord| {
            let began = fault.began.unwrap_or_default();
            let in_time = began.as_secs() <= from;
            // Of those that began later, the first one.
            (aim(&fault.spec, who), in_time, if in_time { began.as_secs_f64() } else { -began.as_secs_f64() })
        };
        possible
            .max_by(|(_, a), (_, b)| likely(a).partial_cmp(&likely(b)).unwrap_or(std::cmp::Ordering::Equal))
            .map(|(index, _)| index)
    }

    /// The planned fault behind what is known of the whole run alone: only one that was aimed at `who` explains it.
    fn aimed_at(&self, who: &str) -> Option<usize> {
        self.attribute(who, 0, u64::MAX).filter(|&fault| aim(&self.faults[fault].spec, who) > 0)
    }
}

/// How closely a fault such as `wsproxy-1:kill` or `link:redis/wsproxy-1:cut` is aimed at a process or door: 3 at this one, 2 at
/// its link, 1 at its role, 0 elsewhere.
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

/// All findings, the gravest first.
#[must_use]
pub fn find(measured: &FindingInputs<'_>, observations: &Observations) -> Vec<Finding> {
    let mut found = FindingList::default();
    for (name, second) in &observations.ended {
        found.under(
            measured.attribute(name, *second, *second),
            format!("{name} ended"),
            format!("It was found ended {second} s into the run, and nothing took its place."),
        );
    }
    restarts(measured, observations, &mut found);
    for (target, (count, first, last, answer)) in &observations.failed {
        let when =
            if first == last { format!("at {first} s") } else { format!("from {first} s to {last} s") };
        found.under(
            measured.attribute(target, *first, *last),
            format!("{target} failed"),
            format!("{count} checks were not answered with success, {when}; the last one: {answer}."),
        );
    }
    dead_endpoints(measured, &mut found);
    generator(measured, &mut |title, evidence| found.alone(title, evidence));
    slow_bus(measured, observations, &mut found);
    for (name, usage) in &observations.processes {
        let mut found = |title, evidence| found.alone(title, evidence);
        processor(name, usage, &mut found);
        descriptors(name, usage, &mut found);
        memory(name, usage, &mut found);
    }
    storm(measured, &mut found);
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
            format!("Another process took its place, seen at {}{more}.", shown.join(", ")),
        );
    }
}

/// An endpoint that took connections at first and none at the end, while the run went on at others or ended for want of one.
fn dead_endpoints(measured: &FindingInputs<'_>, found: &mut FindingList) {
    for endpoint in measured.endpoints.iter().filter(|endpoint| endpoint.is_dead) {
        let EndpointHistory { name, is_published, connected, failed, .. } = endpoint;
        let advice = if *is_published {
            " It is a port that a container publishes. Docker's port proxy ends when its descriptors run out, and the port stays \
             dead until the container is restarted: restart it, and run the client in a container (docker compose run --rm client …)."
        } else {
            ""
        };
        found.under(
            measured.aimed_at("haproxy"),
            format!("{name} died"),
            format!(
                "It took {connected} connections and then refused {failed}, up to the last attempt.{advice}"
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
        "The servers had their events acknowledged within {:.0} ms at p50, {:.0} ms at p95 and {:.0} ms at p99, {} of them{at}.{cpu}",
        lag.p50, lag.p95, lag.p99, lag.count,
    );
    found.under(
        measured.aimed_at("redis"),
        if measured.bus_in_memory { "slow bus" } else { "slow redis" }.into(),
        evidence,
    );
}

fn generator(measured: &FindingInputs<'_>, found: &mut impl FnMut(String, String)) {
    let lag = measured.loop_lag_p99_ms.filter(|&ms| ms > 10.0);
    let waited = measured.cpu_starved_share.filter(|&share| share > 0.1);
    let evidence = match (lag, waited) {
        (None, None) => return,
        (Some(lag), None) => format!("Its own loop was late by {lag:.1} ms at p99"),
        (None, Some(share)) => {
            format!("Its threads waited for a CPU {:.0} % of the time, its wake-ups apart", share * 100.0)
        }
        (Some(lag), Some(share)) => {
            format!(
                "Its own loop was late by {lag:.1} ms at p99, and its threads waited for a CPU {:.0} % of the time, its wake-ups apart",
                share * 100.0
            )
        }
    };
    found(
        "the load generator was saturated".into(),
        format!(
            "{evidence}: arrival times come from the kernel, but it sends late, and figures with a `~` are uncertain; run it elsewhere or with less load."
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
        Some("redis") => "Redis runs its commands on one core, so the bus itself was the bottleneck",
        Some("wsproxy") => "more gateways would share the work",
        Some("haproxy") => "the load balancer was a bottleneck",
        Some("server") => "more simulators would share the work",
        _ => "it may be a bottleneck",
    };
    let evidence = format!(
        "It used 0.9 cores or more in {} of {} seconds, {:.2} on average: {what}.",
        usage.busy_seconds,
        usage.samples,
        usage.mean_cpu()
    );
    found(format!("{name} used up a core"), evidence);
}

#[allow(clippy::cast_precision_loss)]
fn descriptors(name: &str, usage: &Usage, found: &mut impl FnMut(String, String)) {
    let Some(limit) =
        usage.descriptor_limit.filter(|&limit| usage.max_descriptors as f64 >= limit as f64 * NEAR_LIMIT)
    else {
        return;
    };
    let evidence =
        format!("It had {} descriptors open and may have {limit}: raise `ulimit -n`.", usage.max_descriptors);
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
        "Over the run's second half it grew by {:.1} ± {:.1} MB an hour, around {level:.0} MB.",
        slope * 3600.0,
        error * 3600.0
    );
    found(format!("{name}'s memory grows"), evidence);
}

fn storm(measured: &FindingInputs<'_>, found: &mut FindingList) {
    let (peak, at) = measured.peak_reconnects;
    if peak < 20 || peak * 10 < measured.peak_sessions {
        return;
    }
    let came = format!(
        "{peak} attempts came in one second, {at} s into the run, of {} sessions",
        measured.peak_sessions
    );
    let (attempts, cuts) = measured.attempts_and_cuts;
    match measured.attribute("gateway", at, at) {
        Some(fault) => {
            found.under(Some(fault), "clients reconnected at once".into(), format!("{came}."));
        }
        // The client's own doing from end to end.
        None if cuts * 2 >= attempts && cuts > 0 => {}
        None => found.alone(
            "clients reconnected in a storm".into(),
            format!("{came}: the backoff spreads them too little, or a whole gateway was lost."),
        ),
    }
}

#[cfg(test)]
mod tests;
