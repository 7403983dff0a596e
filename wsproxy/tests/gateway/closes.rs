//! Closes by the gateway, and their codes.

use crate::rig::{Client, KEY, Seen, sign, soon, start, start_with, unix_seconds};
use protocol::{Claims, LEEWAY_SECONDS};
use std::time::{Duration, Instant};
use wsproxy::Config;

/// Pings every 20 ms, and waits this long for pongs and for the answer to a close frame, in milliseconds.
fn pings(timeout: u64, close_timeout: u64) -> impl FnOnce(&mut Config) {
    move |config| {
        config.ping_interval = Duration::from_millis(20);
        config.ping_timeout = Duration::from_millis(timeout);
        config.close_timeout = Duration::from_millis(close_timeout);
    }
}

#[tokio::test]
async fn a_closed_session_ends_after_its_last_event() {
    let (mut writer, proxy) = start().await;
    let mut client = proxy.connect(writer.session).await;
    writer.query(3).await;
    writer.bus.close(writer.session).await.unwrap();
    assert_eq!(client.query().await.0, writer.positions(1, 4));
    assert_eq!(client.close_code().await, 1000);
    assert_eq!(client.next().await, Seen::End);
    proxy.metric(r#"wsproxy_closes_total{reason="session_closed"} 1"#).await;
}

#[tokio::test]
async fn a_client_that_answers_pings_stays_open() {
    let (mut writer, proxy) = start_with(pings(10_000, 5_000)).await;
    let mut client = proxy.connect(writer.session).await;
    let reading = tokio::spawn(async move { client.query().await });
    soon(async {
        while proxy.value("wsproxy_pongs_total").await < 3 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    writer.query(1).await;
    assert_eq!(soon(reading).await.unwrap().0, writer.positions(1, 2));
}

#[tokio::test]
async fn a_client_that_answers_no_ping_is_closed() {
    let (writer, proxy) = start_with(pings(100, 5_000)).await;
    let mut client = proxy.connect(writer.session).await;
    // The client does not read, so it does not respond to pings.
    proxy.metric(r#"wsproxy_closes_total{reason="no_pong"} 1"#).await;
    assert_eq!(client.close_code().await, 4003);
}

#[tokio::test]
async fn a_closed_socket_whose_client_is_gone_is_dropped() {
    let (writer, proxy) = start_with(pings(40, 40)).await;
    let _silent = proxy.connect(writer.session).await;
    proxy.metric(r#"wsproxy_closes_total{reason="no_pong"} 1"#).await;
    proxy.metric("wsproxy_connections 0").await;
}

#[tokio::test]
async fn a_token_expires_while_connected() {
    let (writer, proxy) = start_with(|config| config.close_timeout = Duration::from_millis(200)).await;
    let now = unix_seconds();
    let claims = Claims { session_id: writer.session, iat: now, exp: Some(now + 2 - LEEWAY_SECONDS) };
    let request =
        proxy.request_with(writer.session, "authorization", &format!("Bearer {}", sign(KEY, &claims)));
    let mut client = Client::open(proxy.address, request).await.unwrap();
    assert_eq!(client.close_code().await, 4004);
}

/// A half-open link forwards nothing and closes nothing, so only the missing pong shows that it is broken. Afterwards the session is
/// released, and the next client also gets the events that the kernel accepted for the first one.
#[tokio::test]
async fn a_half_open_link_is_found_and_its_session_released() {
    let (mut writer, proxy) = start_with(pings(60, 40)).await;
    let _silent = proxy.connect(writer.session).await;
    writer.query(5).await;
    proxy.metric(r#"wsproxy_closes_total{reason="no_pong"} 1"#).await;
    proxy.metric("wsproxy_connections 0").await;
    let before = Instant::now();
    let mut next = proxy.connect(writer.session).await;
    assert!(
        before.elapsed() < Duration::from_millis(400),
        "the session must be released: {:?}",
        before.elapsed()
    );
    assert_eq!(next.query().await.0, writer.positions(1, 6));
}
