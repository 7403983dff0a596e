//! Targets of other projects: what the client sends to them, which parts of it the outputs show, and which responses it accepts.

mod fake;
mod runs;

use client::cli::RunArgs;
use fake::{Running, Script};
use plan::Stop;
use runs::{args, check, everything_came, run, summary};
use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

/// Arguments for a target with credentials, a path and additional headers.
fn secretive(server: &Running, dir: &Path) -> RunArgs {
    let with = |url: &str| format!("{}/base?key=hush-query", url.replace("://", "://user:hush-password@"));
    RunArgs {
        api_url: vec![with(&server.api)],
        wsproxy_url: vec![with(&server.ws)],
        ws_path: Some("/{agent}/ws/{session}?sig=hush-path".into()),
        headers: vec!["X-Key: hush-header".into(), "Host: staging.example.test".into()],
        ..args(server, dir, 1, 1)
    }
}

fn written(dir: &Path) -> String {
    let files = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    files.map(|path| String::from_utf8_lossy(&fs::read(path).unwrap()).into_owned()).collect()
}

#[test]
fn credentials_are_sent_and_are_in_no_output() {
    // The server has no routes below `/base`, so every call fails and the message names the target.
    let server = Running::start(Script { authorization: None, ..Script::default() });
    let dir = tempfile::tempdir().unwrap();
    let finished = run(secretive(&server, dir.path()), &Stop::default()).unwrap();
    let printed = format!("{}{}", written(dir.path()), finished.text(100));
    assert!(printed.contains("404 Not Found") && printed.contains("/base/session/create"), "{printed}");
    assert!(!printed.contains("hush"), "{printed}");
    let seen = server.seen();
    for (uri, headers) in &seen.heads {
        assert_eq!(headers["authorization"], "Basic dXNlcjpodXNoLXBhc3N3b3Jk");
        assert_eq!(headers["x-key"], "hush-header");
        assert_eq!(headers.get_all("host").iter().collect::<Vec<_>>(), ["staging.example.test"]);
        assert!(uri.starts_with("/base/") && uri.ends_with("?key=hush-query"), "{uri}");
    }
}

#[test]
fn a_socket_sends_basic_credentials_and_the_token_as_a_subprotocol() {
    let server = Running::start(Script { authorization: None, ..Script::default() });
    let change = |args: &mut RunArgs| {
        args.wsproxy_url = vec![format!("{}/?key=k1", server.ws.replace("://", "://user:pass@"))];
    };
    everything_came(&summary(&server, change, 1, 1), 1, 1, 18);
    let seen = server.seen();
    let (uri, headers) = seen.heads.iter().find(|(uri, _)| uri.starts_with("/load/ws/")).unwrap();
    assert!(uri.ends_with("?key=k1"), "{uri}");
    assert_eq!(headers["authorization"], "Basic dXNlcjpwYXNz");
    assert_eq!(headers["sec-websocket-protocol"], "bearer, token");
}

#[test]
fn a_given_token_replaces_that_of_the_server_and_can_be_in_the_path() {
    let server =
        Running::start(Script { no_token: true, authorization: Some("Bearer a/b"), ..Script::default() });
    let change = |args: &mut RunArgs| {
        args.auth_token = Some("Bearer a/b".into());
        args.ws_path = Some("/{agent}/ws/{session}?token={token}".into());
    };
    let summary = summary(&server, change, 1, 2);
    everything_came(&summary, 1, 2, 18);
    assert_eq!(summary["config"]["ws_path"], "/{agent}/ws/{session}?token={token}");
    assert!(server.seen().heads.iter().any(|(uri, _)| uri.ends_with("?token=a%2Fb")));
}

#[test]
fn without_any_token_the_session_fails_with_the_remedy() {
    let server = Running::start(Script { no_token: true, ..Script::default() });
    let summary = summary(&server, |_| {}, 1, 1);
    assert_eq!(summary["queries_ok"], 0);
    assert!(summary.to_string().contains("--auth-token"), "{summary:#}");
}

#[test]
fn a_header_replaces_ours() {
    let server = Running::start(Script { authorization: Some("Token x1"), ..Script::default() });
    let change = |args: &mut RunArgs| {
        args.headers = vec!["Authorization: Token x1".into(), "Content-Type: application/json; v=2".into()];
    };
    everything_came(&summary(&server, change, 1, 1), 1, 1, 18);
    let seen = server.seen();
    let (_, headers) = seen.heads.iter().find(|(uri, _)| uri.ends_with("/run")).unwrap();
    assert_eq!(headers.get_all("content-type").iter().collect::<Vec<_>>(), ["application/json; v=2"]);
    assert_eq!(headers["authorization"], "Token x1");
}

#[test]
fn only_a_server_error_is_not_ready_and_any_success_closes() {
    for ready in [404, 405, 401, 302] {
        let server = Running::start(Script { ready, closed: 204, ..Script::default() });
        everything_came(&summary(&server, |_| {}, 1, 1), 1, 1, 18);
    }
    let server = Running::start(Script { ready: 503, ..Script::default() });
    let dir = tempfile::tempdir().unwrap();
    let error = run(args(&server, dir.path(), 1, 1), &Stop::default()).unwrap_err().to_string();
    assert!(error.contains("not ready (503 Service Unavailable: as set)"), "{error}");
    assert_eq!(read_dir_count(dir.path()), 0);
}

#[test]
fn an_answer_to_run_without_fields_is_a_success() {
    for (old_contract, body) in [(false, ""), (true, ""), (false, "{}"), (true, "{}")] {
        let bare_answer = Some(body);
        let server = Running::start(Script { bare_answer, old_contract, ..Script::default() });
        let summary = summary(&server, |_| {}, 2, 2);
        let expected =
            [("queries_ok", 4), ("tokens_received", 72), ("successful_sessions", 2), ("tokens_lost", 0)];
        check(&summary, &expected);
        assert_eq!(server.seen().runs, 4, "no call may be repeated");
        assert_ne!(summary["verdict"], "FAIL", "{summary:#}");
    }
}

fn read_dir_count(dir: &Path) -> usize {
    fs::read_dir(dir).unwrap().count()
}

#[test]
fn a_socket_that_is_closed_after_each_answer_fails_nothing() {
    for (code, text, old_contract) in
        [(1000, "", false), (1000, "bye", true), (1008, "one answer per socket", false), (4004, "", false)]
    {
        let close_after = Some((code, text));
        let server = Running::start(Script { close_after, old_contract, ..Script::default() });
        let summary = summary(&server, |_| {}, 2, 3);
        check(&summary, &[("queries_ok", 6), ("successful_sessions", 2), ("tokens_duplicated", 0)]);
        assert_ne!(summary["verdict"], "FAIL", "{code}: {summary:#}");
        let seen = server.seen();
        assert_eq!((seen.closes, seen.sockets), (2, 6), "{code}");
    }
    let close_after = Some((4001, "another connection took the session over"));
    let server = Running::start(Script { close_after, ..Script::default() });
    check(&summary(&server, |_| {}, 1, 2), &[("queries_ok", 1), ("successful_sessions", 0)]);
    assert_eq!(server.seen().closes, 0);
}

#[test]
fn a_frame_that_breaks_the_protocol_is_named() {
    let frames = Some("{\"type\":\"token\",\"content\":\"x\"}\n\u{1}{}");
    for attempts in [0, 1_000] {
        let server = Running::start(Script { frames, old_contract: true, ..Script::default() });
        let change = |args: &mut RunArgs| {
            args.ws_max_reconnect_attempts = Some(attempts);
            args.query_timeout = Some(1.0.into());
        };
        let text = summary(&server, change, 1, 1).to_string();
        assert!(text.contains("protocol: a frame has reserved bits set"), "{attempts}: {text}");
    }
}

#[test]
fn no_requested_delay_outlasts_a_query() {
    let (busy, ready) = ((503, Some("3600")), (200, None));
    let drain = "draining; reconnect_after_ms=240000";
    for (refusals, close) in
        [(vec![busy], None), (vec![ready, busy], Some((5, 1011, ""))), (vec![], Some((5, 1012, drain)))]
    {
        let refuse = [("socket", refusals.clone())].into();
        let server = Running::start(Script { refuse, close, ..Script::default() });
        let began = Instant::now();
        let summary = summary(&server, |args| args.query_timeout = Some(5.0.into()), 1, 1);
        assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
        if refusals.is_empty() {
            everything_came(&summary, 1, 1, 18);
        } else {
            let text = summary.to_string();
            assert!(
                text.contains("the requested delay of 3600 s is longer than the query timeout of 5 s"),
                "{text}"
            );
        }
    }
}

#[test]
fn the_text_of_a_foreign_error_event_is_the_querys_failure() {
    let frames = Some(r#"{"type":"error","error":{"message":"upstream timed out","code":504}}"#);
    let server = Running::start(Script { frames, old_contract: true, ..Script::default() });
    let text = summary(&server, |_| {}, 1, 1).to_string();
    assert!(text.contains("error event `504`: upstream timed out"), "{text}");
}
