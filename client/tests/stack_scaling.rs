//! The number of gateways changes under streaming sessions: new ones serve new sessions, removed ones drain, and no token is lost.

mod rig;

use nix::sys::signal::Signal;
use rig::{
    programs::{stack, streamstress},
    stacks::{status, up},
    wait_until,
};
use serde_json::Value;
use std::{fs, path::Path};

const CLIENTS: u64 = 100;
const TOKENS: u64 = 30;

/// Runs the load client while the gateways are scaled. Returns its summary.
fn load(up: &stack::native::Status, state_dir: &Path, results: &Path, faults: &[&str]) -> Value {
    let haproxy = &up.haproxies[0];
    let mut client = streamstress(&["--api-url", &haproxy.api_url, "--wsproxy-url", &haproxy.ws_url]);
    client.args([
        "--clients",
        &CLIENTS.to_string(),
        "--queries",
        "2",
        "--answer-tokens",
        &TOKENS.to_string(),
    ]);
    client.args([
        "--itl-ms",
        "100",
        "--ramp-up",
        "5",
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

#[test]
fn gateways_come_and_go_and_no_token_is_lost() {
    let directory = tempfile::tempdir().unwrap();
    let (state_dir, results) = (directory.path().join("state"), directory.path().join("results"));
    let (mut supervisor, up) = up(&state_dir, &["--proxies", "2"]);
    let check = |fault: &str| stack(&state_dir, &["fault", "--check", fault]).output().unwrap();
    assert!(check("wsproxy:scale=3").status.success());
    let refused = check("wsproxy:scale=65");
    assert!(String::from_utf8_lossy(&refused.stderr).contains("expected 1 to 64"), "{refused:?}");

    let summary = load(&up, &state_dir, &results, &["wsproxy:scale=4@1s", "wsproxy:scale=1@6s"]);
    let count = |key: &str| summary[key].as_u64().unwrap_or_else(|| panic!("{key} in {summary:#}"));
    for (key, expected) in [
        ("queries_ok", CLIENTS * 2),
        ("tokens_received", CLIENTS * 2 * TOKENS),
        ("tokens_lost", 0),
        ("tokens_duplicated", 0),
        ("tokens_reordered", 0),
        ("announced_gaps", 0),
    ] {
        assert_eq!(count(key), expected, "{key} in {summary:#}");
    }
    assert_ne!(summary["verdict"], "FAIL", "{summary:#}");
    let detail = |fault: usize| summary["faults"][fault]["detail"].as_str().unwrap_or_default().to_owned();
    assert_eq!(detail(0), "the number of wsproxy instances changed from 2 to 4", "{summary:#}");
    assert_eq!(detail(1), "the number of wsproxy instances changed from 4 to 1", "{summary:#}");
    // The removed gateways close their sockets one by one, and the sessions move to the one that stays.
    let moved = summary["reconnects_by_close_code"]["1012"].as_u64().unwrap_or_default();
    assert!(moved > 0, "{summary:#}");
    wait_until("the removed gateways have left", || gateways(&state_dir) == ["wsproxy-1"]);
    supervisor.signal(Signal::SIGTERM);
    assert_eq!(supervisor.code(), Some(0));
}
