//! The native stack with real Redis and HAProxy.

mod rig;

use nix::sys::signal::{Signal, kill};
use rig::{
    processes::{is_running, wait_until_ended, with_descendants},
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
    with_descendants(&status.processes.iter().map(|process| process.pid).collect::<Vec<_>>())
}

#[tokio::test]
async fn tokens_arrive_in_order_through_haproxy_while_gateways_are_added_and_removed() {
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
    assert_eq!(session.rest(&run, 3).await.len(), 58, "the old socket must survive the reload");

    // Sessions are distributed over all five gateways.
    for _ in 0..10 {
        let mut other = Session::open(&native.api_url(), &native.ws_url()).await;
        other.completes(5).await;
        other.close().await;
    }

    native.scale(Role::Server, 1).await.unwrap();
    session.completes(5).await;
    session.close().await;

    let status = native.status().await;
    // The old worker of HAProxy ends soon, with its last connection.
    assert!(status.processes.iter().all(|process| is_running(process.pid)));
    let pids = pids(&status);
    native.stop().await;
    wait_until_ended(&pids);
}

#[tokio::test]
async fn a_gateway_that_drains_does_not_disturb_a_new_one() {
    let directory = tempfile::tempdir().unwrap();
    let native = Native::start(options(directory.path())).await.unwrap();
    native.scale(Role::Wsproxy, 3).await.unwrap();
    let removed = native.scale(Role::Wsproxy, 1).await.unwrap().removed;
    assert_eq!(removed, ["wsproxy-2", "wsproxy-3"]);
    let started = native.scale(Role::Wsproxy, 3).await.unwrap().started;
    assert_eq!(started.len(), 2, "{started:?}");
    // Whatever has drained meanwhile, each new gateway has a socket and serves.
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    for _ in 0..10 {
        let mut session = Session::open(&native.api_url(), &native.ws_url()).await;
        session.completes(3).await;
        session.close().await;
    }
    let status = native.status().await;
    let gateways: Vec<_> = status.processes.iter().filter(|p| p.name.starts_with("wsproxy-")).collect();
    assert!(gateways.iter().all(|gateway| gateway.state == "ready"), "{gateways:?}");
    native.stop().await;
}

#[tokio::test]
async fn a_dropped_stack_leaves_no_process() {
    let directory = tempfile::tempdir().unwrap();
    let native =
        Native::start(Options { servers: 1, proxies: 1, ..options(directory.path()) }).await.unwrap();
    let pids = pids(&native.status().await);
    drop(native);
    tokio::task::spawn_blocking(move || wait_until_ended(&pids)).await.unwrap();
}

#[tokio::test]
async fn the_error_of_a_failed_start_has_the_end_of_the_log() {
    let directory = tempfile::tempdir().unwrap();
    let mut broken = options(directory.path());
    broken.environment = vec![("WS_PING_INTERVAL_SECS".into(), "soon".into())];
    let message = format!("{:#}", Native::start(broken).await.unwrap_err());
    assert!(message.contains("wsproxy-") && message.contains("WS_PING_INTERVAL_SECS"), "{message}");
}

#[tokio::test]
async fn a_port_in_use_is_reported_before_anything_starts() {
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
async fn numbers_out_of_range_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    for (servers, proxies) in [(0, 3), (2, 0), (2, 1000)] {
        let error =
            Native::start(Options { servers, proxies, ..options(directory.path()) }).await.unwrap_err();
        assert!(error.to_string().contains("1 to 64"), "{error}");
    }
}

#[tokio::test]
async fn the_key_is_on_no_command_line_and_in_no_log() {
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
async fn the_status_shows_that_a_process_has_ended() {
    let directory = tempfile::tempdir().unwrap();
    let native =
        Native::start(Options { servers: 2, proxies: 1, ..options(directory.path()) }).await.unwrap();
    let victim = native.status().await.processes.into_iter().find(|p| p.name == "server-2").unwrap();
    kill(nix::unistd::Pid::from_raw(victim.pid.cast_signed()), Signal::SIGKILL).unwrap();
    wait_until_ended(&[victim.pid]);
    let deadline = tokio::time::Instant::now() + rig::TIMEOUT;
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

/// Untrusted clients can reach neither metrics nor Redis, and cannot choose their address.
#[tokio::test]
async fn untrusted_clients_reach_only_the_public_ports() {
    let directory = tempfile::tempdir().unwrap();
    let native =
        Native::start(Options { servers: 1, proxies: 1, ..options(directory.path()) }).await.unwrap();
    let status = native.status().await;
    let redis = status.processes.iter().find(|process| process.name == "redis").unwrap();
    assert_eq!(redis.port, None);
    assert!(redis.socket.as_ref().unwrap().exists());
    let ws_url = native.ws_url().replace("ws://", "http://");
    for url in [&native.api_url(), &ws_url] {
        for path in ["/metrics", "/metrics?x=1", "/%6detrics", "/metrics/"] {
            assert_eq!(reqwest::get(format!("{url}{path}")).await.unwrap().status(), 404, "{url}{path}");
        }
    }
    let http = reqwest::Client::new();
    let mut codes = Vec::new();
    for n in 0..40 {
        let answer = http
            .get(format!("{ws_url}/agent/ws/0b8a1c52-3b0e-4f57-9d1f-5b7f8a2c9e11"))
            .header("connection", "upgrade")
            .header("upgrade", "websocket")
            .header("sec-websocket-version", "13")
            .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
            .header("authorization", "Bearer not-a-token")
            .header("x-forwarded-for", format!("198.51.100.{n}"));
        codes.push(answer.send().await.unwrap().status().as_u16());
    }
    assert_eq!((codes[0], codes[39]), (403, 429), "{codes:?}");
    let mut session = Session::open(&native.api_url(), &native.ws_url()).await;
    session.completes(5).await;
    session.close().await;
    let port = status.processes.iter().find(|process| process.name == "wsproxy-1").unwrap().port.unwrap();
    let metrics =
        reqwest::get(format!("http://127.0.0.1:{port}/metrics")).await.unwrap().text().await.unwrap();
    assert!(metrics.contains("wsproxy_bad_token_sources 1\n"), "{metrics}");
    native.stop().await;
}

#[tokio::test]
async fn redis_has_a_port_on_request() {
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
