//! The number of gateways changes under streaming sessions: new ones serve new sessions, removed ones drain, and no token is lost.

mod rig;

use nix::sys::signal::Signal;
use rig::{
    programs::{stack, streamstress},
    stacks::{status, up},
    wait_until,
};
use serde_json::Value;
use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    path::Path,
    time::{Duration, Instant},
};

const CLIENTS: u64 = 60;
const QUERIES: u64 = 3;
const TOKENS: u64 = 40;

/// Runs the load client while the gateways are scaled. Returns its summary.
fn load(up: &stack::native::Status, state_dir: &Path, results: &Path, faults: &[&str]) -> Value {
    let haproxy = &up.haproxies[0];
    let mut client = streamstress(&["--api-url", &haproxy.api_url, "--wsproxy-url", &haproxy.ws_url]);
    client.args([
        "--clients",
        &CLIENTS.to_string(),
        "--queries",
        &QUERIES.to_string(),
        "--answer-tokens",
        &TOKENS.to_string(),
    ]);
    client.args([
        "--itl-ms",
        "100",
        "--ramp-up",
        "8",
        "--ws-initial-backoff-seconds",
        "0.2",
        "--seed",
        "1",
        "--quiet",
    ]);
    for fault in faults {
        client.args(["--fault", fault]);
    }
    let output =
        client.arg("--fault-stack").arg(state_dir).arg("--output-dir").arg(results).output().unwrap();
    let mut files = fs::read_dir(results).unwrap().map(|entry| entry.unwrap().path());
    let summary = files.find(|path| path.to_string_lossy().ends_with("_summary.json"));
    let summary =
        summary.unwrap_or_else(|| panic!("no summary: {}", String::from_utf8_lossy(&output.stderr)));
    serde_json::from_str(&fs::read_to_string(summary).unwrap()).unwrap()
}

fn gateways(state_dir: &Path) -> Vec<String> {
    let processes = status(state_dir).unwrap().processes.into_iter().map(|process| process.name);
    processes.filter(|name| name.starts_with("wsproxy-")).collect()
}

/// Returns the answer to a health check of the gateways.
fn ready(up: &stack::native::Status) -> String {
    let mut stream = TcpStream::connect(up.haproxies[0].ws_url.trim_start_matches("ws://")).unwrap();
    stream.write_all(b"GET /ready HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn gateways_come_and_go_and_no_token_is_lost() {
    let directory = tempfile::tempdir().unwrap();
    let (state_dir, results) = (directory.path().join("state"), directory.path().join("results"));
    let (mut supervisor, up) = up(&state_dir, &["--proxies", "3"]);
    assert!(up.ready_ms.is_some_and(|ms| ms > 0.0), "{up:?}");
    let check = |fault: &str| stack(&state_dir, &["fault", "--check", fault]).output().unwrap();
    assert!(check("wsproxy:scale=3").status.success());
    for fault in ["wsproxy:scale=65", "wsproxy:scale=3..65", "wsproxy:scale=0..3"] {
        let refused = check(fault);
        assert!(String::from_utf8_lossy(&refused.stderr).contains("expected 1 to 64"), "{refused:?}");
    }

    let summary = load(&up, &state_dir, &results, &["wsproxy:scale=3..6@1s", "wsproxy:scale=2@11s"]);
    let count = |key: &str| summary[key].as_u64().unwrap_or_else(|| panic!("{key} in {summary:#}"));
    for (key, expected) in [
        ("queries_ok", CLIENTS * QUERIES),
        ("tokens_received", CLIENTS * QUERIES * TOKENS),
        ("tokens_lost", 0),
        ("tokens_duplicated", 0),
        ("tokens_reordered", 0),
        ("announced_gaps", 0),
    ] {
        assert_eq!(count(key), expected, "{key} in {summary:#}");
    }
    assert_ne!(summary["verdict"], "FAIL", "{summary:#}");
    let faults = &summary["faults"];
    let detail = |fault: usize| faults[fault]["detail"].as_str().unwrap_or_default().to_owned();
    assert_eq!(detail(0), "the number of wsproxy instances changed from 3 to 6", "{summary:#}");
    assert_eq!(detail(1), "the number of wsproxy instances changed from 6 to 2", "{summary:#}");
    // Two steps of a second lie between the first and the third new gateway.
    let seconds = |key: &str| faults[0][key].as_f64().unwrap();
    assert!(seconds("in_force_s") - seconds("began_s") >= 2.9, "{faults:#}");
    let starts = faults[0]["cold_starts"].as_array().unwrap();
    let names: Vec<_> = starts.iter().map(|start| start["instance"].as_str().unwrap()).collect();
    assert_eq!(names, ["wsproxy-4", "wsproxy-5", "wsproxy-6"], "{faults:#}");
    for start in starts {
        let ms = |key: &str| start[key].as_f64().unwrap_or_else(|| panic!("{key} in {start:#}"));
        assert!(0.0 < ms("ready_ms") && ms("ready_ms") <= ms("serving_ms"), "{start:#}");
    }
    // The hash of the session chooses the gateway, so that the last one may get none of the new sessions.
    let first = &starts[0];
    let ms = |key: &str| first[key].as_f64().unwrap_or_else(|| panic!("{key} in {first:#}"));
    assert!(ms("ready_ms") <= ms("first_served_ms"), "{first:#}");
    // The removed gateways close their sockets one by one, and the sessions move to those that stay.
    let moved = summary["reconnects_by_close_code"]["1012"].as_u64().unwrap_or_default();
    assert!(moved > 0, "{summary:#}");
    let memory =
        |process: &str, phase: &str| summary["memory"]["processes"][process][phase]["mean_mb"].as_f64();
    for (process, phase) in
        [("wsproxy", "idle"), ("wsproxy-1", "streaming"), ("redis", "after"), ("client", "after")]
    {
        assert!(memory(process, phase).is_some_and(|mb| mb > 0.5), "{process} {phase}: {summary:#}");
    }
    wait_until("the removed gateways have left", || gateways(&state_dir) == ["wsproxy-1", "wsproxy-2"]);
    supervisor.signal(Signal::SIGTERM);
    assert_eq!(supervisor.code(), Some(0));
}

#[test]
fn the_command_prints_what_changed() {
    let directory = tempfile::tempdir().unwrap();
    let state_dir = directory.path().join("state");
    let (mut supervisor, _) = up(&state_dir, &["--proxies", "1", "--servers", "1"]);
    let scale = |arguments: &[&str]| {
        let output = stack(&state_dir, &[&["scale"], arguments].concat()).output().unwrap();
        let text = if output.status.success() { output.stdout } else { output.stderr };
        (output.status.success(), String::from_utf8(text).unwrap())
    };
    let (grew, text) = scale(&["wsproxy=3", "server=1"]);
    assert!(grew && text.starts_with("server: 1 instance is running already\nwsproxy: 1 -> 3 ("), "{text}");
    assert!(text.contains("+ wsproxy-3  ready after ") && text.contains("no session yet"), "{text}");
    let (shrank, text) = scale(&["wsproxy=2", "--json"]);
    let change: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
    assert!(shrank);
    assert_eq!((&change["before"], &change["after"]), (&3.into(), &2.into()), "{text}");
    assert_eq!(change["removed"], serde_json::json!(["wsproxy-3"]), "{text}");
    // An invalid number changes nothing, not even the other role.
    let (changed, error) = scale(&["server=2", "wsproxy=65"]);
    assert!(
        !changed && error.contains("cannot scale wsproxy to 65") && error.contains("expected 1 to 64"),
        "{error}"
    );
    let (changed, error) = scale(&["wsproxy=many"]);
    assert!(!changed && error.contains("ROLE=COUNT"), "{error}");
    let up = status(&state_dir).unwrap();
    assert_eq!(up.processes.iter().filter(|process| process.name.starts_with("server-")).count(), 1);
    assert_eq!(gateways(&state_dir), ["wsproxy-1", "wsproxy-2"]);
    assert!(
        up.processes
            .iter()
            .any(|process| process.cold_start.as_ref().is_some_and(|start| start.serving_ms.is_some()))
    );
    supervisor.signal(Signal::SIGTERM);
    assert_eq!(supervisor.code(), Some(0));
}

#[test]
fn gateways_follow_their_open_sockets() {
    let directory = tempfile::tempdir().unwrap();
    let (state_dir, results) = (directory.path().join("state"), directory.path().join("results"));
    let rule = "wsproxy: connections/25, 1..3, up-period=1s, down-window=6s, down-period=1s";
    let (mut supervisor, up) = up(&state_dir, &["--proxies", "1", "--autoscale", rule]);
    let summary = load(&up, &state_dir, &results, &[]);
    assert_eq!(summary["queries_ok"], CLIENTS * QUERIES, "{summary:#}");
    for key in ["tokens_lost", "tokens_duplicated", "tokens_reordered"] {
        assert_eq!(summary[key], 0, "{key} in {summary:#}");
    }
    let highest = summary["memory"]["processes"].as_object().unwrap();
    assert!(highest.contains_key("wsproxy-3"), "60 sockets need three gateways: {highest:?}");
    assert!(!highest.contains_key("wsproxy-4"), "{highest:?}");
    wait_until("one gateway is left", || gateways(&state_dir) == ["wsproxy-1"]);
    let shown = status(&state_dir).unwrap().autoscale.unwrap();
    assert!(
        shown.starts_with("wsproxy: connections/25, 1..3, ") && shown.contains("0 connections on"),
        "{shown}"
    );
    supervisor.signal(Signal::SIGTERM);
    assert_eq!(supervisor.code(), Some(0));
}

#[test]
fn a_stack_without_gateways_starts_one_for_the_first_client() {
    let directory = tempfile::tempdir().unwrap();
    let (state_dir, results) = (directory.path().join("state"), directory.path().join("results"));
    let rule = "wsproxy: connections/100, 0..2, down-window=2s, down-period=0s";
    let (mut supervisor, up) = up(&state_dir, &["--proxies", "1", "--autoscale", rule]);
    wait_until("no gateway is left", || gateways(&state_dir).is_empty());
    wait_until("health checks are refused", || ready(&up).starts_with("HTTP/1.1 503 "));
    // They start no gateway. The supervisor looks for refused clients every second.
    let end = Instant::now() + Duration::from_millis(2_500);
    while Instant::now() < end {
        ready(&up);
        assert!(gateways(&state_dir).is_empty());
        std::thread::sleep(Duration::from_millis(100));
    }
    let summary = load(&up, &state_dir, &results, &[]);
    assert_eq!(summary["queries_ok"], CLIENTS * QUERIES, "{summary:#}");
    assert_eq!(summary["tokens_lost"], 0, "{summary:#}");
    // Neither did the checks before the run and during it: the first client had to wait.
    assert!(summary["metrics"]["first_socket_ms"]["count"].as_u64() >= Some(1), "{summary:#}");
    let shown = status(&state_dir).unwrap().autoscale.unwrap();
    assert!(shown.starts_with("wsproxy: connections/100, 0..2, "), "{shown}");
    supervisor.signal(Signal::SIGTERM);
    assert_eq!(supervisor.code(), Some(0));
}
