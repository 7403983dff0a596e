//! Several HAProxies in front of one native stack: any of them serves any session, and the others continue if one dies.

mod rig;

use nix::sys::signal::Signal;
use rig::{
    processes::is_running,
    programs::{stack, streamstress},
    stacks::{ended_by, inject, inject_error, options, process, status, up, wait_until_ready},
    traffic::Session,
};
use serde_json::Value;
use stack::native::{HaproxyStatus, Native, Options, Role};
use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};
use tokio::time::timeout;

const CLIENTS: u64 = 500;
const QUERIES: u64 = 2;
const TOKENS: u64 = 25;

/// Runs the load client over all HAProxies. Returns its summary.
fn load(haproxies: &[HaproxyStatus], state_dir: &Path, results: &Path) -> Value {
    let mut client = streamstress(&[]);
    for HaproxyStatus { api_url, ws_url, .. } in haproxies {
        client.args(["--api-url", api_url, "--wsproxy-url", ws_url]);
    }
    client.args(["--clients", &CLIENTS.to_string(), "--queries", &QUERIES.to_string()]);
    client.args(["--answer-tokens", &TOKENS.to_string(), "--itl-ms", "200", "--ramp-up", "2"]);
    // Every session streams from 2 s to 5 s.
    client.args(["--fault", "haproxy-1:kill@3s", "--fault-stack"]).arg(state_dir);
    client
        .args(["--ws-initial-backoff-seconds", "0.2", "--seed", "1", "--quiet", "--output-dir"])
        .arg(results);
    let output = client.output().unwrap();
    let summary = fs::read_dir(results).unwrap().map(|entry| entry.unwrap().path());
    let summary = summary.into_iter().find(|path| path.to_string_lossy().ends_with("_summary.json"));
    let summary =
        summary.unwrap_or_else(|| panic!("no summary: {}", String::from_utf8_lossy(&output.stderr)));
    serde_json::from_str(&fs::read_to_string(summary).unwrap()).unwrap()
}

#[test]
fn five_hundred_streaming_sessions_survive_the_death_of_one_of_two() {
    let directory = tempfile::tempdir().unwrap();
    let (state_dir, results) = (directory.path().join("state"), directory.path().join("results"));
    let (mut supervisor, up) = up(&state_dir, &["--proxies", "2", "--haproxy-instances", "2"]);
    let haproxies = up.haproxies;
    assert_eq!(
        haproxies.iter().map(|haproxy| haproxy.name.as_str()).collect::<Vec<_>>(),
        ["haproxy-1", "haproxy-2"]
    );
    let shown = String::from_utf8(stack(&state_dir, &["status"]).output().unwrap().stdout).unwrap();
    for HaproxyStatus { name, api_url, ws_url, stats_url } in &haproxies {
        for text in [name, api_url, ws_url, stats_url] {
            assert!(shown.contains(text.as_str()), "{text} is missing in {shown}");
        }
    }

    let summary = load(&haproxies, &state_dir, &results);
    let count = |key: &str| summary[key].as_u64().unwrap_or_else(|| panic!("{key} in {summary:#}"));
    for (key, expected) in [
        ("queries_ok", CLIENTS * QUERIES),
        ("queries_total", CLIENTS * QUERIES),
        ("successful_sessions", CLIENTS),
        ("tokens_received", CLIENTS * QUERIES * TOKENS),
        ("tokens_lost", 0),
        ("tokens_duplicated", 0),
        ("tokens_reordered", 0),
        ("announced_gaps", 0),
    ] {
        assert_eq!(count(key), expected, "{key} in {summary:#}");
    }
    // All sessions were streaming. They were spread evenly, and only one half of the sockets broke.
    assert_eq!(summary["concurrency"]["queries_peak"].as_f64(), Some(CLIENTS as f64), "{summary:#}");
    assert_eq!(
        summary["reconnects_by_close_code"],
        serde_json::json!({ "none": CLIENTS / 2 }),
        "{summary:#}"
    );
    let fault = &summary["faults"][0];
    assert_eq!((&fault["outcome"], &fault["unrecovered"]), (&"injected".into(), &0.into()), "{fault:#}");
    assert_ne!(summary["verdict"], "FAIL", "{summary:#}");

    let killed =
        status(&state_dir).unwrap().processes.into_iter().find(|process| process.name == "haproxy-1");
    assert!(ended_by(&killed.unwrap().state, Signal::SIGKILL));
    supervisor.signal(Signal::SIGTERM);
    assert_eq!(supervisor.code(), Some(0));
}

/// Returns how many sockets each gateway has opened.
async fn upgrades(native: &Native) -> Vec<u64> {
    let processes = native.status().await.processes;
    let mut counts = Vec::new();
    for gateway in processes.iter().filter(|process| process.name.starts_with("wsproxy-")) {
        let url = format!("http://127.0.0.1:{}/metrics", gateway.port.unwrap());
        let text = reqwest::get(url).await.unwrap().text().await.unwrap();
        let values = text.lines().filter(|line| line.contains("upgrades_total{"));
        counts.push(values.map(|line| line.rsplit_once(' ').unwrap().1.parse::<u64>().unwrap()).sum());
    }
    counts
}

#[tokio::test]
async fn faults_select_one_or_all_and_every_haproxy_chooses_the_same_gateway() {
    let directory = tempfile::tempdir().unwrap();
    let two = Options { haproxies: 2, ..options(directory.path()) };
    let native = Native::start(two).await.unwrap();
    let [first, second] = native.haproxies().try_into().unwrap();
    for _ in 0..8 {
        let before = upgrades(&native).await;
        let mut session = Session::open(&first.api_url, &first.ws_url).await;
        let between = upgrades(&native).await;
        session.move_to(&second.ws_url).await;
        session.completes(3).await;
        let after = upgrades(&native).await;
        let new =
            |before: &[u64], after: &[u64]| after.iter().zip(before).map(|(a, b)| a - b).collect::<Vec<_>>();
        assert_eq!(new(&before, &between), new(&between, &after), "another gateway");
    }

    let error = inject_error(&native, "haproxy-3:kill").await;
    assert!(error.contains("there is no haproxy-3: expected one of haproxy-1, haproxy-2"), "{error}");
    assert_eq!(inject(&native, "haproxy-2:kill").await.members, ["haproxy-2"]);
    assert!(inject_error(&native, "haproxy-2:kill").await.contains("haproxy-2 is down already"));
    // HAProxy reads when it starts which gateways were added while it was down.
    native.scale(Role::Wsproxy, 3).await.unwrap();
    assert_eq!(inject(&native, "haproxy-any:start").await.members, ["haproxy-2"]);
    for haproxy in [&first, &second] {
        let url = format!("{}/;csv", haproxy.stats_url);
        let statistics = reqwest::get(url).await.unwrap().text().await.unwrap();
        assert!(statistics.contains("\nws,wsproxy-3,"), "{}: {statistics}", haproxy.name);
        let mut session = Session::open(&haproxy.api_url, &haproxy.ws_url).await;
        session.completes(3).await;
        session.close().await;
    }

    let pids = async || [process(&native, "haproxy-1").await.pid, process(&native, "haproxy-2").await.pid];
    let before = pids().await;
    assert_eq!(inject(&native, "haproxy:restart").await.members, ["haproxy-1", "haproxy-2"]);
    let after = pids().await;
    assert!(before.iter().all(|pid| !is_running(*pid) && !after.contains(pid)), "{before:?} {after:?}");
    wait_until_ready(&native).await;
    native.stop().await;
}

#[tokio::test]
async fn a_paused_haproxy_uses_a_new_gateway_when_it_is_resumed() {
    let directory = tempfile::tempdir().unwrap();
    let two = Options { proxies: 1, haproxies: 2, ..options(directory.path()) };
    let native = Native::start(two).await.unwrap();
    let gateways = async |haproxy: &HaproxyStatus| {
        let url = format!("{}/;csv", haproxy.stats_url);
        let statistics = reqwest::get(url).await.unwrap().text().await.unwrap();
        statistics.lines().filter(|line| line.starts_with("ws,wsproxy-")).count()
    };
    let [first, second] = native.haproxies().try_into().unwrap();
    inject(&native, "haproxy-1:pause").await;
    native.scale(Role::Wsproxy, 2).await.unwrap();
    assert_eq!(gateways(&second).await, 2);
    // With all of them paused as well.
    inject(&native, "haproxy-2:pause").await;
    native.scale(Role::Wsproxy, 3).await.unwrap();
    inject(&native, "haproxy:resume").await;
    for haproxy in [&first, &second] {
        let reloaded = async { while gateways(haproxy).await != 3 {} };
        timeout(rig::TIMEOUT, reloaded).await.unwrap_or_else(|_| panic!("{} did not reload", haproxy.name));
        Session::open(&haproxy.api_url, &haproxy.ws_url).await.completes(3).await;
    }
    // The end of the stack resumes a paused HAProxy, which must not delay it.
    inject(&native, "haproxy-1:pause").await;
    native.scale(Role::Wsproxy, 2).await.unwrap();
    let stopping = Instant::now();
    native.stop().await;
    let took = stopping.elapsed();
    assert!(took < Duration::from_secs(8), "{took:?}");
}

#[tokio::test]
async fn a_fault_of_the_links_from_clients_affects_every_haproxy() {
    let directory = tempfile::tempdir().unwrap();
    let two = Options { proxies: 1, haproxies: 2, relays: true, ..options(directory.path()) };
    let native = Native::start(two).await.unwrap();
    let mut sessions = Vec::new();
    for haproxy in native.haproxies() {
        sessions.push(Session::open(&haproxy.api_url, &haproxy.ws_url).await);
    }
    let cut = inject(&native, "link:ws:cut").await;
    assert!(cut.detail.contains("link:ws/haproxy-1") && cut.detail.contains("link:ws/haproxy-2"), "{cut:?}");
    assert_eq!(cut.members, ["haproxy-1", "haproxy-2"]);
    for session in sessions {
        assert!(session.ends_without_close_frame().await);
    }
    native.stop().await;
}

#[tokio::test]
async fn an_only_haproxy_has_the_number_one() {
    let directory = tempfile::tempdir().unwrap();
    let native = Native::start(options(directory.path())).await.unwrap();
    assert_eq!(inject(&native, "haproxy-1:reload").await.members, ["haproxy"]);
    assert!(inject_error(&native, "haproxy-2:kill").await.contains("expected one of haproxy"));
    native.stop().await;
}

#[test]
fn invalid_numbers_and_ports_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let refused = |arguments: &[&str]| {
        let output = stack(directory.path(), &[&["up"], arguments].concat()).output().unwrap();
        assert!(!output.status.success(), "{arguments:?} succeeds");
        String::from_utf8(output.stderr).unwrap()
    };
    for count in ["0", "17"] {
        assert!(refused(&["--haproxy-instances", count]).contains("expected 1 to 16"));
    }
    let text = refused(&["--haproxy-instances", "2", "--api-port", "65530"]);
    assert!(text.contains("choose lower ports"), "{text}");
    let text = refused(&["--haproxy-instances", "3", "--api-port", "7000", "--ws-port", "7020"]);
    assert!(text.contains("--ws-port and --api-port (of haproxy-3) are both 7020"), "{text}");
}
