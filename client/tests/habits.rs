//! Clients that cut sockets, pause or connect late on purpose, and gateways that send too much, close or refuse. Every token must be
//! accounted for, and effects that the client causes itself are counted separately.

mod fake;
mod runs;

use client::cli::RunArgs;
use fake::{Action, Running, Script};
use runs::{check, everything_came, summary};
use std::time::{Duration, Instant};

#[test]
fn sockets_that_the_client_cuts_are_resumed_and_counted_separately() {
    let server = Running::start(Script { tokens: 100, itl: Duration::from_millis(5), ..Script::default() });
    let summary = summary(&server, |args| args.cut_rate = Some(5.0), 8, 2);
    everything_came(&summary, 8, 2, 100);
    let cut = summary["sockets_cut"].as_u64().unwrap();
    assert!((10..200).contains(&cut), "{cut} cuts in eight seconds of session time, at five per second");
    assert_eq!(summary["reconnects_by_close_code"]["cut"].as_u64(), Some(cut), "{summary:#}");
    check(&summary, &[("total_successful_reconnects", cut), ("successful_sessions", 8)]);
    assert!(summary["peak_reconnect_rate"].as_u64() > Some(0), "{summary:#}");
    assert!(summary["peak_reconnect_attempt_rate"].as_u64() >= summary["peak_reconnect_rate"].as_u64());
    assert_eq!(server.seen().farewells, 0, "a cut socket must not send a close frame");
}

#[test]
fn a_paused_reader_is_noticed_by_the_server_and_loses_no_token() {
    let script =
        Script { tokens: 60, itl: Duration::from_millis(10), content: "x".repeat(4000), ..Script::default() };
    let server = Running::start(Script { impatient: Some(Duration::from_millis(150)), ..script });
    let change = |args: &mut RunArgs| {
        args.pause_readers = Some("2:1s".into());
        args.query_timeout = Some(1.5.into());
    };
    let started = Instant::now();
    let summary = summary(&server, change, 4, 1);
    assert!(started.elapsed() >= Duration::from_secs(1));
    everything_came(&summary, 4, 1, 60);
    check(&summary, &[("sessions_stalled", 2), ("stall_count", 0), ("sockets_cut", 0)]);
    assert!(server.seen().out_of_patience >= 1, "the paused clients must stop reading: {:?}", server.seen());
    assert!(summary["reconnects_by_close_code"]["none"].as_u64() >= Some(1), "{summary:#}");
    assert_eq!(
        summary["metrics"]["e2el_ms"]["count"], 2,
        "queries of paused readers must not count as latencies"
    );
    assert!(summary["longest_token_gap_ms"].as_f64().is_some_and(|gap| gap < 900.0), "{summary:#}");
}

#[test]
fn a_late_client_of_the_old_contract_gets_every_token_of_every_query() {
    let server = Running::start(Script::default());
    let summary = summary(&server, |args| args.late_connect = Some("0..0.2".into()), 5, 3);
    everything_came(&summary, 5, 3, 18);
    check(&summary, &[("total_reconnect_attempts", 0), ("events_replayed", 0), ("successful_sessions", 5)]);
    let seen = server.seen();
    assert_eq!((seen.sockets, seen.farewells), (15, 15), "one socket and one close frame per query");
    assert!(seen.resumed_after.is_empty());
    assert_eq!(summary["metrics"]["connect_ms"]["count"], 5);
}

#[test]
fn events_that_come_again_without_a_resume_count_as_replayed() {
    for habit in [
        |args: &mut RunArgs| args.late_connect = Some("0".into()),
        |args: &mut RunArgs| args.no_resume = true,
    ] {
        let server = Running::start(Script { close: Some((5, 0, "")), ..Script::default() });
        let summary = summary(&server, habit, 3, 2);
        everything_came(&summary, 3, 2, 18);
        check(&summary, &[("events_replayed", 15), ("total_successful_reconnects", 3)]);
        assert!(server.seen().resumed_after.is_empty());
    }
}

#[test]
fn events_that_come_again_after_a_resume_count_as_duplicates() {
    let close = Some((5, 0, ""));
    let server = Running::start(Script { close, forgetful: true, mute: true, ..Script::default() });
    let forgetful = summary(&server, |_| {}, 3, 1);
    check(
        &forgetful,
        &[("tokens_duplicated", 15), ("tokens_lost", 0), ("queries_incomplete", 3), ("events_replayed", 0)],
    );
    let edit = |n| if n == 12 { Action::Double } else { Action::Send };
    let server = Running::start(Script { close, mute: true, edit, ..Script::default() });
    let doubled = summary(&server, |_| {}, 1, 1);
    check(&doubled, &[("tokens_duplicated", 1), ("total_successful_reconnects", 1)]);
}

#[test]
fn events_after_the_terminator_fail_the_run() {
    let server = Running::start(Script { token_after_end: true, ..Script::default() });
    let summary = summary(&server, |args| args.think_time = Some(0.05.into()), 3, 2);
    check(&summary, &[("events_after_terminator", 6), ("tokens_lost", 0), ("tokens_duplicated", 0)]);
    assert_eq!(summary["verdict"], "FAIL");
    assert!(summary["verdict_reason"].as_str().unwrap().contains("events after terminator"), "{summary:#}");
}

#[test]
fn an_error_event_keeps_its_code() {
    let edit = |n| if n % 18 == 0 { Action::Drop } else { Action::Send };
    let server = Running::start(Script { error: Some("peer_lost"), edit, ..Script::default() });
    let summary = summary(&server, |_| {}, 2, 2);
    check(&summary, &[("queries_error", 4), ("tokens_lost", 4), ("tokens_unsent", 0)]);
    assert_eq!(summary["queries_error_by_code"]["peer_lost"], 4, "{summary:#}");
}

#[test]
fn a_busy_server_is_asked_for_as_long_as_the_query_may_take() {
    let refuse = ["create", "run", "close"].map(|call| (call, vec![(503, None); 30]));
    let server = Running::start(Script { refuse: refuse.into(), ..Script::default() });
    everything_came(&summary(&server, |_| {}, 1, 1), 1, 1, 18);
    // About a minute of refusals, then success: a client without a deadline would get every token.
    let refuse = [("run", vec![(503, None); 1_000])];
    let server = Running::start(Script { refuse: refuse.into(), ..Script::default() });
    let given_up = summary(&server, |args| args.query_timeout = Some(1.0.into()), 1, 1);
    check(&given_up, &[("queries_rejected", 1)]);
    let calls = server.seen().runs;
    assert!((2..1_000).contains(&calls), "{calls} calls within one second, with delays of up to 0.1 s");
}

#[test]
fn a_refused_query_is_rejected_even_if_its_deadline_ends_another_attempt() {
    let outcome = |calls: &[u16], lose_first_answer| {
        let run = calls.iter().map(|&status| (status, None)).collect();
        let script = Script { refuse: [("run", run)].into(), lose_first_answer, ..Script::default() };
        let server = Running::start(script);
        let outcome = summary(&server, |args| args.query_timeout = Some(0.5.into()), 1, 1);
        assert_eq!(
            server.seen().runs,
            calls.len() as u64,
            "the last attempt must be in flight at the deadline"
        );
        outcome
    };
    let refused = outcome(&[503, 0], false);
    check(&refused, &[("queries_rejected", 1), ("queries_timeout", 0)]);
    assert!(refused["failures"].to_string().contains("set to refuse"), "{refused:#}");
    check(&outcome(&[0], false), &[("queries_rejected", 0), ("queries_timeout", 1)]);
    // The refused attempt started the query, so that the refusal is not its outcome.
    check(
        &outcome(&[200, 0], true),
        &[("queries_rejected", 0), ("queries_timeout", 1), ("tokens_received", 18)],
    );
}

#[test]
fn a_gateway_says_when_to_come_back() {
    let least = |summary: &serde_json::Value| summary["metrics"]["reconnect_gap_ms"]["min"].as_f64().unwrap();
    let close = Some((5, 1012, "draining; reconnect_after_ms=400"));
    let server = Running::start(Script { close, ..Script::default() });
    let drained = summary(&server, |_| {}, 2, 1);
    everything_came(&drained, 2, 1, 18);
    assert!(least(&drained) >= 400.0, "{drained:#}");
    let refuse = [("socket", vec![(200, None), (503, Some("1"))])].into();
    let server = Running::start(Script { close: Some((5, 1011, "")), refuse, ..Script::default() });
    let refused = summary(&server, |_| {}, 1, 1);
    everything_came(&refused, 1, 1, 18);
    check(&refused, &[("total_reconnect_attempts", 2), ("total_successful_reconnects", 1)]);
    assert!(least(&refused) >= 1000.0, "{refused:#}");
}

#[test]
fn the_wait_for_a_first_socket_is_measured_if_the_first_attempt_failed() {
    let refuse = [("socket", vec![(503, Some("1")), (200, None)])].into();
    let server = Running::start(Script { refuse, ..Script::default() });
    let waited = summary(&server, |_| {}, 2, 1);
    everything_came(&waited, 2, 1, 18);
    let figures = &waited["metrics"]["first_socket_ms"];
    assert_eq!(figures["count"], 1, "only one session was refused: {waited:#}");
    assert!(figures["min"].as_f64().unwrap() >= 1000.0, "{figures:#}");
    assert!(waited["metrics"]["connect_ms"]["max"].as_f64().unwrap() < 900.0, "{waited:#}");
    let server = Running::start(Script::default());
    assert!(summary(&server, |_| {}, 2, 1)["metrics"]["first_socket_ms"].is_null());
}
