//! Complete runs of every workload against the scripted server: as many sessions and queries start as planned, and those without a place
//! are counted as dropped.

mod fake;
mod runs;

use client::cli::ArrivalOf;
use fake::{Running, Script};
use runs::{check, summary};
use std::time::Duration;

#[test]
fn users_stay_for_the_duration_and_then_end_their_query() {
    let server = Running::start(Script::default());
    let summary = summary(
        &server,
        |args| {
            args.queries = None;
            args.duration = Some("1s".into());
        },
        5,
        1,
    );
    check(
        &summary,
        &[("total_sessions", 5), ("successful_sessions", 5), ("tokens_lost", 0), ("dropped_iterations", 0)],
    );
    assert_eq!(summary["queries_ok"], summary["queries_total"], "{summary:#}");
    assert!(summary["queries_ok"].as_u64() > Some(10), "{summary:#}");
    assert!(summary["duration_s"].as_f64().is_some_and(|seconds| seconds < 5.0), "{summary:#}");
}

#[test]
fn a_user_with_few_queries_begins_a_new_session() {
    let server = Running::start(Script::default());
    let summary = summary(&server, |args| args.duration = Some("1s".into()), 3, 1);
    assert!(summary["total_sessions"].as_u64() > Some(6), "{summary:#}");
    assert_eq!(summary["total_sessions"], summary["successful_sessions"], "{summary:#}");
    // The mean over the second: sessions that follow each other leave short pauses.
    let peak = summary["concurrency"]["sessions_peak"].as_f64();
    assert!(peak.is_some_and(|peak| peak > 2.0 && peak <= 3.0), "{summary:#}");
}

#[test]
fn stages_start_the_planned_number_of_sessions() {
    let server = Running::start(Script::default());
    let change = |args: &mut client::cli::RunArgs| {
        args.queries = None;
        args.stages = Some("0.5s:8,0.5s:8,0.5s:0".into());
    };
    let summary = summary(&server, change, 1, 1);
    check(&summary, &[("total_sessions", 8), ("successful_sessions", 8), ("tokens_lost", 0)]);
    assert_eq!(summary["schedule"]["model"], "staged");
    assert_eq!(summary["schedule"]["phases"].as_array().map(Vec::len), Some(3));
}

#[test]
fn sessions_arrive_and_those_without_a_place_are_dropped() {
    let script = || Script { itl: Duration::from_millis(50), ..Script::default() };
    let change = |most| {
        move |args: &mut client::cli::RunArgs| {
            args.arrival_rate = Some(20.0);
            args.duration = Some("1s".into());
            args.max_clients = Some(most);
        }
    };
    let server = Running::start(script());
    let roomy = summary(&server, change(100), 1, 1);
    check(&roomy, &[("total_sessions", 20), ("queries_ok", 20), ("dropped_iterations", 0)]);
    assert_eq!(roomy["achieved_share"].as_f64(), Some(1.0));
    assert_eq!(roomy["offered_rate"].as_f64(), Some(20.0));
    let server = Running::start(script());
    let tight = summary(&server, change(2), 1, 1);
    let dropped = tight["dropped_iterations"].as_u64().unwrap();
    check(&tight, &[("total_sessions", 20 - dropped)]);
    assert!(dropped >= 10, "{tight:#}");
    assert_eq!(tight["achieved_share"].as_f64(), Some(1.0), "the generator must start what it can");
    let reason = tight["verdict_reason"].as_str().unwrap();
    match tight["verdict"].as_str() {
        Some("FAIL") => assert!(reason.contains("arrivals were dropped"), "{reason}"),
        verdict => assert_eq!(verdict, Some("INVALID"), "neither FAIL nor INVALID: {reason}"),
    }
}

#[test]
fn queries_arrive_at_sessions_that_are_there() {
    let server = Running::start(Script::default());
    let change = |args: &mut client::cli::RunArgs| {
        args.queries = None;
        args.arrival = Some(ArrivalOf::Queries);
        args.arrival_rate = Some(40.0);
        args.arrival_process = "poisson".parse().ok();
        args.duration = Some("1s".into());
        args.max_clients = Some(30);
    };
    let summary = summary(&server, change, 1, 1);
    check(&summary, &[("total_sessions", 30), ("successful_sessions", 30), ("dropped_iterations", 0)]);
    assert_eq!(summary["queries_ok"], summary["queries_total"], "{summary:#}");
    assert!(summary["queries_ok"].as_u64() > Some(15), "{summary:#}");
}

#[test]
fn a_trace_is_replayed_with_its_lengths() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let lines = "{\"timestamp\": 100, \"output_length\": 7}\n{\"timestamp\": 400, \"output_length\": 9}\n{\"timestamp\": 700, \"output_length\": 3}\n";
    std::fs::write(file.path(), lines).unwrap();
    let server = Running::start(Script::default());
    let change = |args: &mut client::cli::RunArgs| {
        args.trace = Some(file.path().to_owned());
        args.trace_scale = Some(0.5);
    };
    let summary = summary(&server, change, 2, 1);
    check(&summary, &[("queries_ok", 3), ("total_sessions", 2), ("dropped_iterations", 0)]);
    assert_eq!(summary["schedule"]["phases"][1]["end_s"].as_f64(), Some(1.301), "{summary:#}");
}
