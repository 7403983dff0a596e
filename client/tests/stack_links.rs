//! Faults of links in a native stack, with relays that are inserted at the first fault or at the start.

mod rig;

use rig::{
    stacks::{inject, inject_error, options, parse, wait_until_ready},
    traffic::Session,
};
use stack::native::{LinkStatus, Native, Options};
use std::time::Duration;
use tokio::time::Instant;

async fn link(native: &Native, name: &str) -> LinkStatus {
    native.status().await.links.into_iter().find(|link| link.name == name).unwrap()
}

/// Runs a session with one query. Returns how long it took.
async fn run_session(native: &Native, tokens: u32) -> Duration {
    let start = Instant::now();
    let mut session = Session::open(&native.api_url(), &native.ws_url()).await;
    session.completes(tokens).await;
    session.close().await;
    start.elapsed()
}

#[tokio::test]
async fn a_half_open_link_to_redis_delays_tokens_until_heal() {
    let directory = tempfile::tempdir().unwrap();
    let native = Native::start(Options { proxies: 1, ..options(directory.path()) }).await.unwrap();
    run_session(&native, 3).await;
    assert!(native.status().await.links.is_empty());
    // The first fault inserts a relay, and the gateway reconnects through it.
    inject(&native, "link:redis/wsproxy-1:delay=30ms").await;
    wait_until_ready(&native).await;
    assert!(link(&native, "link:redis/wsproxy-1").await.open > 0);
    let mut session = Session::open(&native.api_url(), &native.ws_url()).await;
    let run = session.run(10, 20.0).await;
    session.event(&run, 1).await;
    let held = Duration::from_millis(700);
    let start = Instant::now();
    inject(&native, "link:redis/wsproxy-1:half-open=700ms").await;
    assert_eq!(session.rest(&run, 2).await.len(), 9);
    assert!(start.elapsed() >= held, "{:?}", start.elapsed());
    inject(&native, "link:redis/wsproxy-1:heal").await;
    assert_eq!(link(&native, "link:redis/wsproxy-1").await.state, "normal");
    assert!(!inject(&native, "link:redis/wsproxy-1:cut").await.detail.contains(": 0 connections"));
    wait_until_ready(&native).await;
    session.completes(10).await;
    native.stop().await;
}

#[tokio::test]
async fn a_delay_before_instances_affects_new_connections() {
    let directory = tempfile::tempdir().unwrap();
    let native = Native::start(Options { proxies: 1, ..options(directory.path()) }).await.unwrap();
    for name in ["link:wsproxy-1", "link:server-1"] {
        assert!(inject_error(&native, &format!("{name}:cut")).await.contains("--relays"));
        assert!(native.check(&parse(&format!("{name}:cut"))).is_err());
        inject(&native, &format!("{name}:delay=100ms")).await;
    }
    assert!(inject_error(&native, "link:ws:cut").await.contains("--relays"));
    // Create, upgrade, run and close, each in both directions.
    assert!(run_session(&native, 3).await >= Duration::from_millis(800));
    inject(&native, "link:wsproxies:heal").await;
    inject(&native, "link:servers:heal").await;
    assert!(link(&native, "link:server-1").await.accepted > 0);
    // A gateway keeps its relay after a restart, and a new gateway has none.
    inject(&native, "wsproxy-1:restart").await;
    native.scale(stack::native::Role::Wsproxy, 2).await.unwrap();
    run_session(&native, 3).await;
    assert_eq!(native.status().await.links.len(), 2);
    native.stop().await;
}

#[tokio::test]
async fn with_relays_everywhere_open_sockets_are_affected() {
    let directory = tempfile::tempdir().unwrap();
    let relays = Options { relays: true, ..options(directory.path()) };
    let native = Native::start(relays).await.unwrap();
    assert_eq!(
        native.status().await.links.len(),
        2 + 3 + 3,
        "two public ports, three instances, their links to Redis"
    );
    for (fault, held) in
        [("link:ws:half-open=400ms", true), ("link:wsproxies:half-open=400ms", true), ("link:ws:cut", false)]
    {
        let mut session = Session::open(&native.api_url(), &native.ws_url()).await;
        let run = session.run(20, 10.0).await;
        session.event(&run, 1).await;
        let start = Instant::now();
        let injected = inject(&native, fault).await;
        if held {
            assert_eq!(session.rest(&run, 2).await.len(), 19);
            assert!(start.elapsed() >= Duration::from_millis(400), "{fault}: {:?}", start.elapsed());
        } else {
            assert!(!injected.detail.starts_with('0'), "{injected:?}");
            assert!(session.ends_without_close_frame().await);
        }
    }
    inject(&native, "link:api:reset").await;
    run_session(&native, 3).await;
    native.stop().await;
}
