//! The native stack: real Redis and HAProxy, two servers and three gateways, and nothing left behind.

mod rig;

use nix::sys::signal::{Signal, kill};
use rig::{
    processes::{all_gone, family, runs},
    programs,
    traffic::Session,
};
use stack::{
    JwtSecret,
    native::{Native, Options, Role, Status},
};
use std::{net::TcpListener, path::Path};

fn options(state_dir: &Path) -> Options {
    Options::new(state_dir.to_owned(), programs::binaries())
}

fn pids(status: &Status) -> Vec<u32> {
    family(&status.processes.iter().map(|process| process.pid).collect::<Vec<_>>())
}

#[tokio::test]
async fn tokens_come_in_order_through_haproxy_while_gateways_come_and_go() {
    let directory = tempfile::tempdir().unwrap();
    let native = Native::start(options(directory.path())).await.unwrap();
    let mut session = Session::open(&native.api_url(), &native.ws_url()).await;
    let run = session.run(60, 50.0).await;
    session.event(&run, 1).await;

    native.scale(Role::Wsproxy, 5).await.unwrap();
    let status = native.status().await;
    let gateways = status.processes.iter().filter(|p| p.name.starts_with("wsproxy-"));
    assert_eq!(gateways.map(|p| p.state.as_str()).collect::<Vec<_>>(), ["ready"; 5]);
    session.event(&run, 2).await;
    assert_eq!(session.rest(&run, 3).await.len(), 58, "the old socket outlives the reload");

    // Sessions hash over all five; each gets every token.
    for _ in 0..10 {
        let mut other = Session::open(&native.api_url(), &native.ws_url()).await;
        other.plays(5).await;
        other.close().await;
    }

    native.scale(Role::Server, 1).await.unwrap();
    session.plays(5).await;
    session.close().await;

    let status = native.status().await;
    // Of HAProxy's workers the old one ends with its last connection: at any moment now.
    assert!(status.processes.iter().all(|process| runs(process.pid)));
    let pids = pids(&status);
    native.stop().await;
    all_gone(&pids);
}

#[tokio::test]
async fn dropped_it_leaves_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let native =
        Native::start(Options { servers: 1, proxies: 1, ..options(directory.path()) }).await.unwrap();
    let pids = pids(&native.status().await);
    drop(native);
    tokio::task::spawn_blocking(move || all_gone(&pids)).await.unwrap();
}

#[tokio::test]
async fn what_cannot_start_ends_with_its_log_and_leaves_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let mut broken = options(directory.path());
    broken.environment = vec![("WS_PING_INTERVAL_SECS".into(), "soon".into())];
    let message = format!("{:#}", Native::start(broken).await.unwrap_err());
    assert!(message.contains("wsproxy-") && message.contains("WS_PING_INTERVAL_SECS"), "{message}");
}

#[tokio::test]
async fn a_port_in_use_is_said_before_anything_starts() {
    let directory = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let state_dir = directory.path().join("state");
    let error =
        Native::start(Options { ws_port: port, ..options(&state_dir) }).await.unwrap_err().to_string();
    assert!(error.contains(&port.to_string()) && error.contains("--ws-port"), "{error}");
    assert!(!state_dir.exists(), "something was started");
}

#[tokio::test]
async fn absurd_numbers_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    for (servers, proxies) in [(0, 3), (2, 0), (2, 1000)] {
        let error =
            Native::start(Options { servers, proxies, ..options(directory.path()) }).await.unwrap_err();
        assert!(error.to_string().contains("1 to 64"), "{error}");
    }
}

#[tokio::test]
async fn the_secret_is_on_no_command_line_and_in_no_log() {
    let directory = tempfile::tempdir().unwrap();
    let key = "a-key-that-nobody-else-would-ever-type-0123456789";
    let secret = JwtSecret::new(key).unwrap();
    let native =
        Native::start(Options { servers: 1, proxies: 1, secret, ..options(directory.path()) }).await.unwrap();
    let status = native.status().await;
    for process in &status.processes {
        let command = std::fs::read_to_string(format!("/proc/{}/cmdline", process.pid)).unwrap();
        assert!(!command.contains(key), "{command}");
        assert!(!std::fs::read_to_string(&process.log).unwrap().contains(key), "{}", process.name);
    }
    native.stop().await;
}

#[tokio::test]
async fn a_process_that_dies_is_told_with_its_status() {
    let directory = tempfile::tempdir().unwrap();
    let native =
        Native::start(Options { servers: 2, proxies: 1, ..options(directory.path()) }).await.unwrap();
    let victim = native.status().await.processes.into_iter().find(|p| p.name == "server-2").unwrap();
    kill(nix::unistd::Pid::from_raw(victim.pid.cast_signed()), Signal::SIGKILL).unwrap();
    all_gone(&[victim.pid]);
    let deadline = tokio::time::Instant::now() + rig::PATIENCE;
    loop {
        let status = native.status().await;
        let now = status.processes.iter().find(|p| p.name == "server-2").unwrap();
        if now.state.starts_with("ended") {
            break;
        }
        assert!(tokio::time::Instant::now() < deadline, "{}", now.state);
        tokio::task::yield_now().await;
    }
    native.stop().await;
}

/// What strangers can reach: no counters, no Redis, and no address of their own invention.
#[tokio::test]
async fn strangers_are_kept_to_their_doors() {
    let directory = tempfile::tempdir().unwrap();
    let native =
        Native::start(Options { servers: 1, proxies: 1, ..options(directory.path()) }).await.unwrap();
    let status = native.status().await;
    let redis = status.processes.iter().find(|process| process.name == "redis").unwrap();
    assert_eq!(redis.port, None);
    assert!(redis.socket.as_ref().unwrap().exists());
    let ws_url = native.ws_url().replace("ws://", "http://");
    for door in [&native.api_url(), &ws_url] {
        for path in ["/metrics", "/metrics?x=1", "/%6detrics", "/metrics/"] {
            assert_eq!(reqwest::get(format!("{door}{path}")).await.unwrap().status(), 404, "{door}{path}");
        }
    }
    let http = reqwest::Client::new();
    let mut told = Vec::new();
    for n in 0..40 {
        let answer = http
            .get(format!("{ws_url}/agent/ws/0b8a1c52-3b0e-4f57-9d1f-5b7f8a2c9e11"))
            .header("connection", "upgrade")
            .header("upgrade", "websocket")
            .header("sec-websocket-version", "13")
            .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
            .header("authorization", "Bearer not-a-token")
            .header("x-forwarded-for", format!("198.51.100.{n}"));
        told.push(answer.send().await.unwrap().status().as_u16());
    }
    assert_eq!((told[0], told[39]), (403, 429), "{told:?}");
    let mut session = Session::open(&native.api_url(), &native.ws_url()).await;
    session.plays(5).await;
    session.close().await;
    let port = status.processes.iter().find(|process| process.name == "wsproxy-1").unwrap().port.unwrap();
    let metrics =
        reqwest::get(format!("http://127.0.0.1:{port}/metrics")).await.unwrap().text().await.unwrap();
    assert!(metrics.contains("wsproxy_bad_token_sources 1\n"), "{metrics}");
    native.stop().await;
}

#[tokio::test]
async fn redis_has_a_port_where_one_is_asked_for() {
    let directory = tempfile::tempdir().unwrap();
    let options = Options { servers: 1, proxies: 1, redis_port: Some(0), ..options(directory.path()) };
    let native = Native::start(options).await.unwrap();
    let redis = native.status().await.processes.into_iter().find(|process| process.name == "redis").unwrap();
    std::net::TcpStream::connect(("127.0.0.1", redis.port.unwrap())).unwrap();
    native.stop().await;
}

#[tokio::test]
async fn a_state_directory_behind_a_link_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink("/tmp", directory.path().join("link")).unwrap();
    let error = Native::start(options(&directory.path().join("link/state"))).await.unwrap_err();
    assert!(format!("{error:#}").contains("symbolic link"), "{error:#}");
}
