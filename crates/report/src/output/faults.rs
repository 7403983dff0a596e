//! Faults and outages in the summary and in the text.

use super::RunInfo;
use crate::{
    text_builder::TextBuilder,
    values::{printable, short},
};
use measure::{
    FaultRecord, RunData,
    cold_start::{ColdStart, range},
    defects::Defects,
    record::LossCause,
};
use serde_json::{Map, Value, json};
use settings::plural::counted;
use std::{collections::BTreeMap, time::Duration};

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// Returns the key `faults`. Times are seconds since the start of the run, except `at_s`, which counts from the first send.
pub(super) fn json(info: &RunInfo) -> Vec<Value> {
    let seconds = |moment: Option<Duration>| moment.map(|moment| moment.as_secs_f64());
    let fault = |fault: &FaultRecord| {
        let (outcome, detail) = fault.status.outcome();
        json!({
            "fault": fault.spec,
            "at_s": fault.at.as_secs_f64(),
            "first_send_s": seconds(fault.first_send),
            "planned_s": seconds(fault.first_send.map(|first| first + fault.at)),
            "began_s": seconds(fault.began),
            "in_force_s": seconds(fault.ended),
            "outcome": outcome,
            "detail": printable(detail),
            "time_to_recover_ms": fault.time_to_recover().map(millis),
            "outages": fault.outages,
            "unrecovered": fault.unrecovered,
            "error_events": fault.error_events,
            "cold_starts": fault.cold_starts.iter().map(cold_start).collect::<Vec<_>>(),
        })
    };
    info.faults.iter().map(fault).collect()
}

/// Returns the times of an instance's start, in milliseconds since the command that started it.
fn cold_start(start: &ColdStart) -> Value {
    json!({
        "instance": start.instance,
        "ready_ms": millis(start.ready),
        "serving_ms": start.serving.map(millis),
        "first_served_ms": start.first_served.map(millis),
    })
}

/// Returns the times of all instances that a fault started, as text.
fn cold_start_text(starts: &[ColdStart]) -> String {
    let ms = |name: &str, times: Vec<Duration>| {
        let (least, most) = range(times)?;
        let [least, most] = [least, most].map(|time| format!("{:.0}", millis(time)));
        Some(if least == most {
            format!("{name} after {least} ms")
        } else {
            format!("{name} after {least} to {most} ms")
        })
    };
    let all = |of: fn(&ColdStart) -> Option<Duration>| starts.iter().filter_map(of).collect::<Vec<_>>();
    let served = all(|start| start.first_served);
    let unserved = (starts.len() - served.len()) as u64;
    let parts = [
        ms("ready", all(|start| Some(start.ready))),
        ms("serving", all(|start| start.serving)),
        ms("first served", served),
        (unserved > 0).then(|| format!("{unserved} served nothing")),
    ];
    let parts: Vec<_> = parts.into_iter().flatten().collect();
    format!("{}: {}", counted(starts.len() as u64, "instances"), parts.join(", "))
}

/// Returns the keys about lost sockets and silent streams.
pub(super) fn measures(run: &RunData) -> Map<String, Value> {
    let longest = run.longest_gap.map(|longest| {
        json!({
            "ms": millis(longest.gap),
            "session_id": longest.session.map(|id| id.to_string()),
            "session_index": longest.session_index,
            "query_num": longest.query_num,
        })
    });
    let mut keys = Map::new();
    let mut key = |name: &str, value: Value| keys.insert(name.to_owned(), value);
    key("announced_gaps", run.announced_gaps.into());
    key("announced_gap_positions", run.announced_gap_positions.into());
    key("longest_token_gap_ms", json!(run.longest_gap.map(|longest| millis(longest.gap))));
    key("longest_token_gap", json!(longest));
    key("sockets_cut", run.sockets_cut.into());
    key("sessions_stalled", run.sessions.paused.into());
    key("peak_reconnect_rate", run.reconnect_storm.peak_reconnects.per_second.into());
    key("peak_reconnect_attempt_rate", run.reconnect_storm.peak_attempts.per_second.into());
    key("reconnect_storm", json!(run.reconnect_storm));
    key("reconnects_by_close_code", json!(by_cause(run).into_iter().collect::<BTreeMap<_, _>>()));
    key("queries_simulator_excused", run.queries.faulted.into());
    key("queries_error_by_code", json!(run.errors_by_code));
    key("integrity_examples", examples(&run.defects).into());
    key("events_replayed", run.tokens.replayed.into());
    key("frames_rolled", run.tokens.frames_rolled.into());
    key("tokens_rolled", run.tokens.rolled.into());
    keys
}

/// Returns the beginning of the first example of each kind of defect.
pub(super) fn examples(defects: &Defects) -> Map<String, Value> {
    defects
        .found()
        .filter_map(|(defect, _, example)| Some((defect.name().to_owned(), example?.into())))
        .collect()
}

/// Returns the number of reconnects by cause: a close code, `none` without a close frame, `cut` by the client itself.
fn by_cause(run: &RunData) -> Vec<(String, u64)> {
    let name = |cause: &LossCause| match cause {
        LossCause::Closed(code) => code.to_string(),
        LossCause::Broken => "none".to_owned(),
        LossCause::Cut => "cut".to_owned(),
        LossCause::Limit => "limit".to_owned(),
    };
    run.reconnects_by_cause.iter().map(|(cause, &count)| (name(cause), count)).collect()
}

/// Adds lines about connections.
pub(super) fn connection_lines(out: &mut TextBuilder, run: &RunData) {
    let causes: Vec<_> =
        by_cause(run).into_iter().map(|(cause, count)| format!("{cause} × {count}")).collect();
    if !causes.is_empty() {
        out.entry("reconnects after", &causes.join(", "));
    }
    let storm = &run.reconnect_storm;
    if storm.peak_attempts.per_second > 0 {
        let (attempts, ok) = (storm.peak_attempts, storm.peak_reconnects);
        out.entry(
            "peak_reconnect_rate",
            &format!("{}/s ok, {}/s attempts", ok.per_second, attempts.per_second),
        );
    }
    if run.sockets_cut > 0 {
        out.entry("sockets_cut", &format!("{}  (by the client itself)", run.sockets_cut));
    }
    if run.sessions.paused > 0 {
        out.entry("sessions_stalled", &format!("{}  (they stopped reading)", run.sessions.paused));
    }
    if run.announced_gaps > 0 {
        let positions = counted(run.announced_gap_positions, "positions");
        out.entry("announced_gaps", &format!("{}, {positions}", run.announced_gaps));
    }
    if !run.errors_by_code.is_empty() {
        let codes: Vec<_> =
            run.errors_by_code.iter().map(|(code, n)| format!("{} × {n}", printable(code))).collect();
        out.entry("error events", &codes.join(", "));
    }
}

/// Adds the section about planned faults.
pub(super) fn section(out: &mut TextBuilder, info: &RunInfo) {
    for fault in &info.faults {
        let (outcome, detail) = fault.status.outcome();
        let recovery = match (outcome, fault.time_to_recover()) {
            ("injected", Some(time)) => format!("recovered in {} ms", short(millis(time))),
            ("injected", None) => "no session was affected".to_owned(),
            _ => printable(detail),
        };
        let lost =
            if fault.unrecovered > 0 { format!(", {} never", fault.unrecovered) } else { String::new() };
        let began = fault.began.zip(fault.first_send).map(|(began, first)| began.saturating_sub(first));
        let at = began.unwrap_or(fault.at).as_secs_f64();
        out.entry("fault", &format!("{} at {at:.1} s: {outcome}", fault.spec));
        out.entry("  outages", &format!("{}, {recovery}{lost}", fault.outages));
        if !fault.cold_starts.is_empty() {
            out.entry("  cold start", &cold_start_text(&fault.cold_starts));
        }
        if !fault.error_events.is_empty() {
            let codes: Vec<_> =
                fault.error_events.iter().map(|(code, n)| format!("{} × {n}", printable(code))).collect();
            out.entry("  error events within 5 s", &codes.join(", "));
        }
    }
    if !info.faults.is_empty() {
        out.gap();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_starts_of_several_instances_are_one_line() {
        let start = |ready: u64, served: Option<u64>| ColdStart {
            instance: "wsproxy-4".into(),
            commanded: Duration::ZERO,
            ready: Duration::from_millis(ready),
            serving: Some(Duration::from_millis(300)),
            first_served: served.map(Duration::from_millis),
        };
        let text = cold_start_text(&[start(100, Some(900)), start(120, Some(400)), start(110, None)]);
        assert_eq!(
            text,
            "3 instances: ready after 100 to 120 ms, serving after 300 ms, first served after 400 to 900 ms, 1 served nothing"
        );
    }
}
