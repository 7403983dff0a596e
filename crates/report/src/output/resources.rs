//! Health checks, resource usage and counters of the stack in the summary and in the text.

use super::RunInfo;
use crate::{
    text_builder::TextBuilder,
    values::{percent, printable, short},
};
use measure::{
    Quantity, RunData,
    observations::{Observations, Usage},
    role,
    trend::{second_half, slope},
};
use serde_json::{Map, Value, json};
use settings::plural::counted;
use std::collections::BTreeMap;

/// Shortest run for a memory slope, in seconds.
const MIN_S: f64 = 60.0;
/// Bytes per MB in the readings of memory.
pub(super) const BYTES_PER_MB: f64 = 1_048_576.0;

/// Adds the section about the stack: bus lag, gateways, CPU and memory by role (sums over the processes of a role).
pub(super) fn section(out: &mut TextBuilder, run: &RunData, info: &RunInfo) {
    let observations = &info.observations;
    if *observations == Observations::default() {
        return;
    }
    out.gap();
    if let Some(lag) = observations.stack_counters.bus_lag {
        let [p50, p95, p99] = [lag.p50, lag.p95, lag.p99].map(short);
        let label = if info.embedded { "bus_lag (in memory)" } else { "bus_lag (Redis)" };
        out.entry(label, &format!("p(50)={p50} ms  p(95)={p95} ms  p(99)={p99} ms"));
    }
    if let Some(gateways) = observations.stack_counters.gateways {
        let queued = gateways.queued_share.map(|share| format!(", {} of frames queued", percent(share)));
        let overflows = counted(gateways.outbox_overflows, "overflows");
        let evictions = counted(gateways.evictions, "evictions");
        let queued = queued.unwrap_or_default();
        out.entry("gateways", &format!("{overflows}, {evictions}{queued}"));
    }
    if !observations.stack_counters.missed.is_empty() {
        let until = |second: &Option<u64>| {
            second.map_or_else(|| "for the whole run".into(), |s| format!("until {s} s"))
        };
        let missed = observations.stack_counters.missed.iter();
        let missed: Vec<_> = missed.map(|(name, second)| format!("{name} {}", until(second))).collect();
        out.entry("counters missed", &missed.join(", "));
    }
    let mut roles: BTreeMap<&str, (f64, f64)> = BTreeMap::new();
    for (name, usage) in &observations.processes {
        let sum = roles.entry(role(name)).or_default();
        *sum = (sum.0 + usage.mean_cpu(), sum.1 + usage.max_rss_mb);
    }
    let listed = |of: fn(&(f64, f64)) -> String| {
        roles.iter().map(|(role, took)| format!("{role} {}", of(took))).collect::<Vec<_>>().join(", ")
    };
    if !roles.is_empty() {
        out.entry("CPU, mean cores", &listed(|took| format!("{:.2}", took.0)));
        out.entry("memory, peak MB", &listed(|took| format!("{:.0}", took.1)));
    }
    let growth = roles.keys().filter_map(|role| {
        let mb = run.readings.growth(Some(role), run.steady.as_ref()).ok()?;
        Some(format!("{role} {mb:+.1}"))
    });
    let growth: Vec<_> = growth.collect();
    if !growth.is_empty() {
        out.entry("memory growth, MB/h", &format!("{}  (steady state)", growth.join(", ")));
    }
    if let Some((slope, error)) = observations.processes.get("client").and_then(bytes_per_minute) {
        out.entry("client memory growth", &format!("{slope:+.0} ± {error:.0} bytes/min  (second half)"));
    }
    if let Some(why) = &observations.unseen {
        out.entry("not observed", &printable(why));
    }
    if !observations.unreached.is_empty() {
        let names: Vec<_> = observations.unreached.iter().map(String::as_str).collect();
        out.entry("not reached from here", &names.join(", "));
    }
}

/// Returns the slope of the memory of a process in bytes per minute and its standard error, over the second half of the run.
/// `None` for runs shorter than a minute.
pub(super) fn bytes_per_minute(usage: &Usage) -> Option<(f64, f64)> {
    let points: Vec<_> = usage.memory().collect();
    let length = points.last()?.0 - points.first()?.0;
    let (slope, error) = slope(&second_half(points)).filter(|_| length + 2.0 >= MIN_S)?;
    Some((slope * BYTES_PER_MB * 60.0, error * BYTES_PER_MB * 60.0))
}

/// Returns the key `health`, with names as in thresholds. `None` if nothing was monitored.
pub(super) fn health(run: &RunData) -> Option<Value> {
    let mut keys = Map::new();
    for (quantity, label, readings) in run.readings.iter() {
        let name = quantity.name();
        let name = label.map_or_else(|| name.to_owned(), |label| format!("{name}{{{label}}}"));
        if quantity != Quantity::HealthMs {
            let figure = readings.figure(quantity, None).ok();
            // The total covers processes whose count is 0.
            let is_listed = label.is_none() || !quantity.adds_up() || figure > Some(0.0);
            keys.extend(is_listed.then(|| (name, json!(figure))));
        } else if let Some(health) = readings.distribution().summary() {
            let of = [
                ("med", health.p50),
                ("p95", health.p95),
                ("max", health.max),
                ("avg", health.mean),
                ("min", health.min),
                ("p90", health.p90),
                ("p99", health.p99),
            ];
            let shown = if label.is_none() { of.len() } else { 3 };
            keys.extend(
                of.into_iter().take(shown).map(|(statistic, ms)| (format!("{name}:{statistic}"), json!(ms))),
            );
        }
    }
    let growth = |label| Some((label, run.readings.growth(Some(label), run.steady.as_ref()).ok()?));
    for (label, mb_per_hour) in run.readings.with_memory().filter_map(growth) {
        keys.insert(format!("{}{{{label}}}", Quantity::RssGrowth.name()), json!(mb_per_hour));
    }
    (!keys.is_empty()).then_some(Value::Object(keys))
}

#[cfg(test)]
mod tests {
    use super::*;
    use measure::observations::StackCounters;

    #[test]
    fn counters_that_were_missed_are_named() {
        let missed = BTreeMap::from([("server-1".to_owned(), Some(5)), ("wsproxy-2".to_owned(), None)]);
        let stack_counters = StackCounters { missed, ..StackCounters::default() };
        let info = RunInfo {
            observations: Observations { stack_counters, ..Observations::default() },
            ..RunInfo::default()
        };
        let mut out = TextBuilder::new(80);
        section(&mut out, &RunData::default(), &info);
        let text = out.finish();
        assert_eq!(
            text.trim(),
            "counters missed...........: server-1 until 5 s, wsproxy-2 for the whole run"
        );
    }
}
