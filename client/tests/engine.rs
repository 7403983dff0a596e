//! Complete runs against the scripted server: the client must find exactly the defects that the script causes.
//! A slow machine may make these runs INVALID, so the tests do not require the verdict PASS.

mod fake;
mod runs;

use client::cli::RunArgs;
use fake::{Action, Running, Script};
use plan::Stop;
use report::output::Finished;
use runs::{args, check, everything_came, read_summary, run, summary};
use serde_json::Value;
use std::time::{Duration, Instant};

#[test]
fn a_whole_run_is_complete() {
    let server = Running::start(Script::default());
    let summary = summary(&server, |_| {}, 20, 3);
    everything_came(&summary, 20, 3, 18);
    check(&summary, &[("total_reconnect_attempts", 0), ("sessions_old_contract", 0)]);
    assert_eq!(summary["generator"]["shared_clock"], true);
    assert_eq!(summary["metrics"]["delivery_ms"]["count"].as_u64(), Some(20 * 3 * 19));
    assert_eq!(summary["metrics"]["itl_ms"]["count"].as_u64(), Some(20 * 3 * 17));
    let seen = server.seen();
    assert_eq!((seen.creates, seen.runs, seen.closes, seen.sockets), (20, 60, 20, 20));
    assert!(seen.resumed_after.is_empty(), "a first socket must not ask for a resume");
}

#[test]
fn a_burst_is_complete() {
    let server = Running::start(Script::default());
    everything_came(&summary(&server, |args| args.burst = true, 20, 2), 20, 2, 18);
}

#[test]
fn every_hundredth_token_dropped_is_found() {
    let server = Running::start(Script {
        edit: |n| if n % 100 == 0 { Action::Drop } else { Action::Send },
        ..Script::default()
    });
    let summary = summary(&server, |_| {}, 10, 5);
    check(
        &summary,
        &[
            ("tokens_expected", 900),
            ("tokens_lost", 9),
            ("tokens_received", 891),
            ("lost_connected", 9),
            ("tokens_duplicated", 0),
            ("tokens_reordered", 0),
        ],
    );
    assert_eq!(summary["verdict"], "FAIL");
}

#[test]
fn doubled_and_swapped_tokens_are_found() {
    let server = Running::start(Script {
        edit: |n| if n % 50 == 0 { Action::Double } else { Action::Send },
        ..Script::default()
    });
    let doubled = summary(&server, |_| {}, 10, 5);
    check(
        &doubled,
        &[
            ("tokens_expected", 900),
            ("tokens_lost", 0),
            ("tokens_received", 900),
            ("tokens_duplicated", 18),
            ("tokens_reordered", 0),
        ],
    );
    assert_eq!(doubled["verdict"], "FAIL");
    let server = Running::start(Script {
        edit: |n| if n % 70 == 40 { Action::Swap } else { Action::Send },
        ..Script::default()
    });
    let swapped = summary(&server, |_| {}, 10, 5);
    check(
        &swapped,
        &[
            ("tokens_expected", 900),
            ("tokens_lost", 0),
            ("tokens_received", 900),
            ("tokens_duplicated", 0),
            ("tokens_reordered", 13),
        ],
    );
    assert_eq!(swapped["verdict"], "FAIL");
}

#[test]
fn the_last_token_doubled_or_behind_its_terminator_is_found() {
    let server = Running::start(Script {
        edit: |n| if n == 18 { Action::Swap } else { Action::Send },
        ..Script::default()
    });
    check(
        &summary(&server, |_| {}, 1, 1),
        &[("tokens_lost", 0), ("tokens_reordered", 1), ("queries_incomplete", 1)],
    );
    let server = Running::start(Script {
        edit: |n| if n == 18 { Action::Double } else { Action::Send },
        ..Script::default()
    });
    check(&summary(&server, |_| {}, 1, 1), &[("tokens_lost", 0), ("tokens_duplicated", 1)]);
}

#[test]
fn the_old_contract_is_counted_and_unverified() {
    let server = Running::start(Script { old_contract: true, ..Script::default() });
    let summary = summary(&server, |_| {}, 5, 2);
    check(
        &summary,
        &[
            ("queries_ok", 10),
            ("tokens_received", 180),
            ("tokens_unverified", 180),
            ("tokens_lost", 0),
            ("sessions_old_contract", 5),
        ],
    );
    assert_eq!(summary["integrity"], "unverified");
}

#[test]
fn a_lost_socket_is_resumed_and_nothing_is_missed() {
    for (code, text) in [
        (0, ""),
        (1011, "internal error"),
        (1012, "draining; reconnect_after_ms=30"),
        (1013, "full"),
        (4002, "slow consumer"),
        (4003, "no pong"),
        (1001, "away"),
    ] {
        let server = Running::start(Script { close: Some((5, code, text)), ..Script::default() });
        let summary = summary(&server, |_| {}, 4, 2);
        everything_came(&summary, 4, 2, 18);
        check(&summary, &[("total_successful_reconnects", 4), ("sessions_with_reconnects", 4)]);
        assert_eq!(server.seen().resumed_after, ["1-5"; 4], "after {code}");
        if code != 0 {
            assert_eq!(summary["close_codes"][code.to_string()].as_u64(), Some(4));
        }
    }
}

/// The server closes each session's socket at the end of the first query, for 700 ms. The second query is due 100 ms after that end.
#[test]
fn a_query_that_waits_for_its_socket_is_measured_from_when_it_was_due() {
    let close = Some((19, 1012, "draining; reconnect_after_ms=700"));
    let server = Running::start(Script { close, ..Script::default() });
    let summary = summary(&server, |args| args.think_time = Some(0.1.into()), 4, 2);
    everything_came(&summary, 4, 2, 18);
    let max = |metric: &str| summary["metrics"][metric]["max"].as_f64().unwrap();
    assert!((450.0..690.0).contains(&max("socket_wait_ms")), "{}", summary["metrics"]["socket_wait_ms"]);
    for (sched, sent) in [("e2el_sched_ms", "e2el_ms"), ("ttft_sched_ms", "ttft_ms")] {
        assert!(max(sched) - max(sent) > 400.0, "{sched} {} {sent} {}", max(sched), max(sent));
    }
    assert!(max("queue_ms") >= max("socket_wait_ms"));
    assert!(max("schedule_lag_ms") < 400.0, "{}", summary["metrics"]["schedule_lag_ms"]);
}

#[test]
fn before_the_first_event_a_socket_resumes_from_nothing() {
    let server = Running::start(Script { close: Some((0, 1011, "")), ..Script::default() });
    everything_came(&summary(&server, |_| {}, 2, 1), 2, 1, 18);
    assert_eq!(server.seen().resumed_after, ["0"; 2]);
}

#[test]
fn a_session_that_was_taken_over_stops() {
    for code in [4001, 1008, 4004, 1003] {
        let server = Running::start(Script { close: Some((5, code, "go away")), ..Script::default() });
        let summary = summary(&server, |_| {}, 2, 3);
        check(
            &summary,
            &[
                ("queries_total", 6),
                ("queries_ok", 0),
                ("queries_error", 6),
                ("total_reconnect_attempts", 0),
                ("successful_sessions", 0),
            ],
        );
        assert_eq!(server.seen().sockets, 2, "{code} must not be answered with another socket");
    }
}

#[test]
fn what_is_busy_is_asked_again() {
    let refuse = [
        ("create", vec![(429, Some("0")), (503, None)]),
        ("run", vec![(503, Some("0")), (502, None), (504, None)]),
        ("close", vec![(429, None)]),
        ("socket", vec![(503, Some("0"))]),
    ];
    let server = Running::start(Script { refuse: refuse.into(), ..Script::default() });
    everything_came(&summary(&server, |_| {}, 2, 2), 2, 2, 18);
    let seen = server.seen();
    assert_eq!((seen.creates, seen.runs, seen.closes, seen.sockets), (4, 7, 3, 3));
}

#[test]
fn retry_after_is_waited_for() {
    let server =
        Running::start(Script { refuse: [("run", vec![(429, Some("1"))])].into(), ..Script::default() });
    let started = Instant::now();
    everything_came(&summary(&server, |_| {}, 1, 1), 1, 1, 18);
    assert!(started.elapsed() >= Duration::from_secs(1));
}

#[test]
fn what_is_wrong_is_not_asked_again() {
    let server = Running::start(Script { refuse: [("run", vec![(409, None)])].into(), ..Script::default() });
    let one = summary(&server, |_| {}, 1, 2);
    check(&one, &[("queries_rejected", 1), ("queries_ok", 1), ("successful_sessions", 0)]);
    let server =
        Running::start(Script { refuse: [("socket", vec![(403, None)])].into(), ..Script::default() });
    let one = summary(&server, |_| {}, 1, 2);
    check(&one, &[("queries_total", 2), ("queries_error", 2), ("queries_sent", 0)]);
    assert_eq!((server.seen().sockets, server.seen().runs), (1, 0));
}

#[test]
fn a_lost_answer_is_asked_for_with_the_same_query_id() {
    let server = Running::start(Script { lose_first_answer: true, ..Script::default() });
    everything_came(&summary(&server, |_| {}, 2, 2), 2, 2, 18);
    let seen = server.seen();
    assert_eq!((seen.runs, seen.streams), (8, 4));
    let ids: std::collections::BTreeSet<_> = seen.query_ids.iter().collect();
    assert_eq!(ids.len(), 4);
}

#[test]
fn silence_is_a_timeout() {
    let server = Running::start(Script { silent: true, ..Script::default() });
    let summary = summary(&server, |args| args.query_timeout = Some(0.3.into()), 2, 2);
    check(
        &summary,
        &[
            ("queries_ok", 0),
            ("queries_timeout", 4),
            ("tokens_lost", 72),
            ("lost_connected", 72),
            ("successful_sessions", 0),
        ],
    );
    assert_eq!(summary["verdict"], "FAIL");
}

#[test]
fn a_query_waits_for_the_end_of_one_that_was_given_up() {
    // The server answers the first query when the second one is sent.
    let refuse = [("run", vec![(200, None), (409, None), (409, None)])];
    let server = Running::start(Script { silent: true, refuse: refuse.into(), ..Script::default() });
    let summary = summary(&server, |args| args.query_timeout = Some(1.0.into()), 1, 2);
    check(&summary, &[("queries_timeout", 2), ("queries_rejected", 0), ("tokens_lost", 36)]);
    assert_eq!(server.seen().runs, 4);
}

#[test]
fn a_silent_socket_is_dropped_and_resumed() {
    let server = Running::start(Script { silent: true, ..Script::default() });
    let change = |args: &mut RunArgs| {
        args.query_timeout = Some(1.0.into());
        args.ping_timeout = Some(0.2.into());
    };
    let summary = summary(&server, change, 1, 1);
    assert!(summary["total_successful_reconnects"].as_u64() >= Some(1), "{summary:#}");
    let resumed_after = server.seen().resumed_after;
    assert!(!resumed_after.is_empty() && resumed_after.iter().all(|id| id == "1-0" || id == "0"));
}

#[test]
fn interrupted_once_what_runs_may_end() {
    let server = Running::start(Script { tokens: 50, itl: Duration::from_millis(20), ..Script::default() });
    let (finished, summary) = interrupted(&server, 4, 1, |_| {});
    assert_eq!(finished.exit_code(), 105);
    check(&summary, &[("queries_ok", 4), ("queries_abandoned", 0), ("tokens_lost", 0)]);
    assert_eq!(summary["interrupted"], true);
}

#[test]
fn after_the_grace_time_or_a_second_time_it_ends() {
    for (times, grace) in [(1, 0.1), (2, 60.0)] {
        let server =
            Running::start(Script { tokens: 100_000, itl: Duration::from_millis(5), ..Script::default() });
        let started = Instant::now();
        let (finished, summary) = interrupted(&server, 4, times, |args| args.grace = Some(grace.into()));
        assert!(started.elapsed() < Duration::from_secs(30));
        assert_eq!(finished.exit_code(), 105);
        check(&summary, &[("queries_abandoned", 4), ("tokens_lost", 0), ("dropped_iterations", 8)]);
    }
}

/// Interrupts a run when the stream of every session has begun.
fn interrupted(
    server: &Running,
    clients: i64,
    times: u32,
    change: impl FnOnce(&mut RunArgs),
) -> (Finished, Value) {
    let dir = tempfile::tempdir().unwrap();
    let mut args = args(server, dir.path(), clients, 3);
    change(&mut args);
    let stop = Stop::default();
    let finished = std::thread::scope(|scope| {
        let run = scope.spawn(|| run(args, &stop).unwrap());
        let deadline = Instant::now() + Duration::from_secs(20);
        while server.seen().tokens < clients.unsigned_abs() * 3
            || server.seen().streams < clients.unsigned_abs()
        {
            assert!(Instant::now() < deadline, "the streams did not begin");
            std::thread::sleep(Duration::from_millis(2));
        }
        (0..times).for_each(|_| stop.escalate());
        run.join().unwrap()
    });
    (finished, read_summary(dir.path()))
}

fn refusal(change: impl FnOnce(&mut RunArgs)) -> String {
    let dir = tempfile::tempdir().unwrap();
    let server = Running::start(Script::default());
    let mut args = args(&server, dir.path(), 1, 1);
    change(&mut args);
    let error = run(args, &Stop::default()).unwrap_err();
    assert_eq!(error.exit_code(), 104);
    assert_eq!(server.seen().creates, 0, "a refused run must not create sessions");
    error.to_string()
}

#[test]
fn an_unreachable_target_says_what_to_start() {
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let api = refusal(|args| args.api_url = vec![format!("http://{closed}")]);
    let ws = refusal(|args| args.wsproxy_url = vec![format!("ws://{closed}")]);
    for message in [&api, &ws] {
        for part in
            ["nothing answers", "docker compose up -d", "streamstress stack up --detach", "--embedded"]
        {
            assert!(message.contains(part), "{message}");
        }
    }
}

#[test]
fn another_host_needs_permission() {
    let message = refusal(|args| args.api_url = vec!["http://192.0.2.1:8080".into()]);
    assert!(message.contains("--i-am-allowed-to-load-test 192.0.2.1"), "{message}");
}

#[test]
fn an_output_directory_that_cannot_be_written_is_refused() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let message = refusal(|args| args.output_dir = Some(file.path().join("results")));
    assert!(message.contains("--output-dir"), "{message}");
}

#[test]
fn a_certificate_file_that_is_none_is_refused() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let message = refusal(|args| args.ca_file = Some(file.path().to_owned()));
    assert!(message.contains("PEM"), "{message}");
}
