//! Faults of processes in a native stack: each is in force when the request returns, and processes keep their ports.

mod rig;

use nix::sys::signal::Signal;
use rig::{
    processes::{is_running, wait_until_ended, with_descendants},
    programs::streamstress,
    stacks::{
        ask_redis, ended_by, inject, inject_error, options, parse, process, redis, up, wait_until_ready,
    },
    traffic::Session,
};
use stack::native::{Native, Options, Persistence};
use std::time::Duration;
use tokio::time::{Instant, sleep};

#[tokio::test]
async fn a_killed_gateway_starts_again_with_its_port() {
    let directory = tempfile::tempdir().unwrap();
    let native = Native::start(options(directory.path())).await.unwrap();
    let before = process(&native, "wsproxy-1").await;
    inject(&native, "wsproxy-1:kill").await;
    assert!(!is_running(before.pid));
    let down = process(&native, "wsproxy-1").await;
    assert!(ended_by(&down.state, Signal::SIGKILL), "{}", down.state);
    assert!(inject_error(&native, "wsproxy-1:kill").await.contains("is down already"));
    assert!(inject_error(&native, "wsproxy-3:kill").await.contains("wsproxy-1, wsproxy-2"));
    assert!(native.check(&parse("wsproxy-3:kill")).is_err());
    native.check(&parse("wsproxy-any:kill")).unwrap();

    // All sessions use the other gateway.
    for _ in 0..4 {
        let mut session = Session::open(&native.api_url(), &native.ws_url()).await;
        session.completes(3).await;
        session.close().await;
    }
    // This kills the only gateway that runs, and starts those that are down.
    let killed = inject(&native, "wsproxy-any:kill").await;
    assert!(killed.detail.contains("wsproxy-2"));
    assert_eq!(killed.members, ["wsproxy-2"]);
    assert!(inject(&native, "wsproxies:start").await.detail.contains("wsproxy-1"));
    let after = process(&native, "wsproxy-1").await;
    assert_eq!((after.port, after.state.as_str()), (before.port, "ready"));
    assert_ne!(after.pid, before.pid);
    assert!(inject_error(&native, "wsproxies:start").await.contains("stack status"));
    let log = std::fs::read_to_string(&after.log).unwrap();
    assert_eq!(log.matches("listening on").count(), 2, "the log continues: {log}");

    let drained = inject(&native, "wsproxies:drain").await.detail;
    assert!(drained.contains("wsproxy-1") && drained.contains("wsproxy-2"), "{drained}");
    assert_ne!(process(&native, "wsproxy-2").await.pid, after.pid);
    inject(&native, "servers:restart").await;
    inject(&native, "server-1:stop").await;
    let deadline = Instant::now() + rig::TIMEOUT;
    while !process(&native, "server-1").await.state.starts_with("ended") {
        assert!(Instant::now() < deadline, "server-1 does not drain");
    }
    inject(&native, "server-1:start").await;
    let mut session = Session::open(&native.api_url(), &native.ws_url()).await;
    session.completes(3).await;
    native.stop().await;
}

#[tokio::test]
async fn a_paused_redis_delays_tokens_and_loses_none() {
    let directory = tempfile::tempdir().unwrap();
    let native = Native::start(options(directory.path())).await.unwrap();
    let mut session = Session::open(&native.api_url(), &native.ws_url()).await;
    let run = session.run(40, 20.0).await;
    session.event(&run, 1).await;
    let pause = Duration::from_millis(700);
    let start = Instant::now();
    inject(&native, "redis:pause=700ms").await;
    assert!(start.elapsed() < pause, "the request must return before the resume");
    assert_eq!(process(&native, "redis").await.state, "paused");
    assert!(inject_error(&native, "redis:cut-pubsub").await.contains("resume it first"));
    assert_eq!(session.rest(&run, 2).await.len(), 39);
    assert!(start.elapsed() >= pause, "{:?}", start.elapsed());
    assert_eq!(process(&native, "redis").await.state, "ready");

    inject(&native, "wsproxies:pause").await;
    assert_eq!(process(&native, "wsproxy-2").await.state, "paused");
    inject(&native, "wsproxies:resume").await;
    assert!(inject_error(&native, "wsproxy-1:resume").await.contains("not paused"));

    let cut = inject(&native, "redis:cut-pubsub").await.detail;
    assert!(!cut.starts_with('0'), "{cut}");
    wait_until_ready(&native).await;
    session.completes(20).await;
    // The stack ends although two processes are paused.
    inject(&native, "haproxy:pause").await;
    inject(&native, "wsproxy-1:pause").await;
    let pids = with_descendants(&native.status().await.processes.iter().map(|p| p.pid).collect::<Vec<_>>());
    native.stop().await;
    wait_until_ended(&pids);
}

/// Each rejection of writes affects a running stream. The stream continues afterwards, and the session accepts its next query.
#[tokio::test]
async fn a_redis_that_rejects_writes_delays_tokens_and_loses_none() {
    let directory = tempfile::tempdir().unwrap();
    let native = Native::start(options(directory.path())).await.unwrap();
    let mut session = Session::open(&native.api_url(), &native.ws_url()).await;
    // These values differ from docker/redis.conf: the end of a rejection restores the former values, not the configured ones.
    let settings = [("maxmemory", "734003200"), ("maxmemory-clients", "30%"), ("min-replicas-to-write", "0")];
    for (name, value) in settings {
        assert_eq!(redis(&native, &format!("CONFIG SET {name} {value}")).await, "+OK");
    }
    for (fault, words) in [
        ("redis:refuse=300ms", "-NOREPLICAS"),
        ("redis:full=700ms", "-OOM"),
        ("redis:demote=1500ms", "-READONLY"),
    ] {
        let run = session.run(40, 20.0).await;
        session.event(&run, 1).await;
        inject(&native, fault).await;
        assert!(redis(&native, "SET refused no").await.starts_with(words), "{fault}");
        if !fault.contains("demote") {
            assert!(inject_error(&native, fault).await.contains("wait until that has ended"), "{fault}");
        }
        assert_eq!(session.rest(&run, 2).await.len(), 39, "{fault}");
        assert_eq!(redis(&native, "SET refused no").await, "+OK", "{fault}");
        wait_until_ready(&native).await;
    }
    for (name, value) in settings {
        let now = redis(&native, &format!("CONFIG GET {name}")).await;
        assert!(now.ends_with(value), "{now}");
    }
    native.stop().await;
}

/// Nothing that the stack does fills this Redis: the test sets its limit just above what it uses.
#[tokio::test]
async fn a_run_warns_of_a_redis_that_is_nearly_full() {
    let directory = tempfile::tempdir().unwrap();
    let (state_dir, results) = (directory.path().join("state"), directory.path().join("results"));
    let (_supervisor, up) = up(&state_dir, &["--servers", "1", "--proxies", "1"]);
    let of = |name: &str| up.processes.iter().find(|process| process.name == name).unwrap();
    let socket = of("redis").socket.clone().unwrap();
    assert!(ask_redis(&socket, "SETRANGE filler 40000000 x").starts_with(':'));
    let info = ask_redis(&socket, "INFO memory");
    let used = info.lines().find_map(|line| line.strip_prefix("used_memory:")).unwrap().trim();
    let limit = used.parse::<u64>().unwrap() * 21 / 20;
    assert_eq!(ask_redis(&socket, &format!("CONFIG SET maxmemory {limit}")), "+OK");
    let metrics = format!("http://127.0.0.1:{}/metrics", of("server-1").port.unwrap());
    let line = format!("bus_memory_limit_bytes {limit}");
    let has_read = async {
        while !reqwest::get(&metrics).await.unwrap().text().await.unwrap().contains(&line) {
            sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(rig::TIMEOUT, has_read).await.expect("the server reads the limit");

    let mut client =
        streamstress(&["--api-url", &up.haproxies[0].api_url, "--wsproxy-url", &up.haproxies[0].ws_url]);
    client.args(["--clients", "3", "--queries", "1", "--answer-tokens", "30", "--itl-ms", "100", "--quiet"]);
    client.arg("--fault-stack").arg(&state_dir).arg("--output-dir").arg(&results);
    let output = client.output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    assert_eq!(text.matches("Redis has only").count(), 1, "{text}");
    let summary = std::fs::read_dir(&results).unwrap().map(|entry| entry.unwrap().path());
    let summary = summary.into_iter().find(|path| path.to_string_lossy().ends_with("_summary.json")).unwrap();
    let summary: serde_json::Value = serde_json::from_slice(&std::fs::read(summary).unwrap()).unwrap();
    assert_eq!(summary["memory"]["low_redis"]["of"], "Redis", "{summary:#}");
}

#[tokio::test]
async fn redis_restarts_with_all_data_without_data_or_without_its_last_second() {
    for persistence in [Persistence::None, Persistence::Everysec] {
        let directory = tempfile::tempdir().unwrap();
        let native = Native::start(Options { persistence, ..options(directory.path()) }).await.unwrap();
        let before = process(&native, "redis").await;
        for round in 0..2 {
            assert_eq!(redis(&native, "SET kept yes").await, "+OK");
            inject(&native, "redis:restart=keep").await;
            assert_eq!(redis(&native, "GET kept").await, "$3\r\nyes", "round {round}");
            let appends = redis(&native, "CONFIG GET appendonly").await;
            assert!(
                appends.ends_with(if persistence == Persistence::None { "no" } else { "yes" }),
                "{appends}"
            );

            let rolling = async { inject(&native, "redis:restart=rollback").await };
            let writing = async {
                // In the middle of the second that will be lost.
                sleep(Duration::from_millis(500)).await;
                redis(&native, "SET late yes").await
            };
            let (rolled, late) = tokio::join!(rolling, writing);
            assert_eq!(late, "+OK");
            assert!(rolled.took_ms >= 1000.0 && rolled.detail.contains("without its last"), "{rolled:?}");
            assert_eq!(redis(&native, "GET kept").await, "$3\r\nyes", "round {round}");
            assert_eq!(redis(&native, "GET late").await, "$-1", "round {round}");
        }
        inject(&native, "redis:restart").await;
        let kept = redis(&native, "EXISTS kept").await;
        assert_eq!(kept, if persistence == Persistence::None { ":0" } else { ":1" });
        assert_eq!(redis(&native, "SET kept yes").await, "+OK");
        inject(&native, "redis:restart=empty").await;
        // Servers and gateways write their own keys at once, so this checks only one key.
        assert_eq!(redis(&native, "EXISTS kept").await, ":0");
        inject(&native, "redis:kill").await;
        inject(&native, "redis:start").await;
        let after = process(&native, "redis").await;
        assert_eq!((after.port, after.state.as_str()), (before.port, "ready"));
        assert!(directory.path().join("redis.sock").exists());
        native.stop().await;
    }
}

#[tokio::test]
async fn a_reload_keeps_open_sockets_and_a_kill_ends_every_worker() {
    let directory = tempfile::tempdir().unwrap();
    let native = Native::start(options(directory.path())).await.unwrap();
    let master = process(&native, "haproxy").await.pid;
    let mut session = Session::open(&native.api_url(), &native.ws_url()).await;
    let run = session.run(40, 20.0).await;
    session.event(&run, 1).await;
    let workers = with_descendants(&[master]).len();
    inject(&native, "haproxy:reload").await;
    assert_eq!(process(&native, "haproxy").await.pid, master);
    assert!(with_descendants(&[master]).len() > workers, "the old worker must keep the socket");
    assert_eq!(session.rest(&run, 2).await.len(), 39);

    let all = with_descendants(&[master]);
    inject(&native, "haproxy:kill").await;
    assert!(all.iter().all(|&pid| !is_running(pid)), "{all:?}");
    assert!(inject_error(&native, "haproxy:reload").await.contains("is down"));
    inject(&native, "haproxy:start").await;
    inject(&native, "haproxy:restart").await;
    let mut session = Session::open(&native.api_url(), &native.ws_url()).await;
    session.completes(3).await;
    native.stop().await;
}
