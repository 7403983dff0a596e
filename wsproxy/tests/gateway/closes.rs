//! When the gateway ends a socket by itself, and what the client is told.

use crate::rig::{Client, KEY, Proxy, Seen, Writer, sign, soon, unix_seconds};
use protocol::{Claims, CloseReason, LEEWAY_SECONDS};
use std::time::Duration;

#[tokio::test]
async fn a_closed_session_ends_after_its_last_event() {
    let mut writer = Writer::new().await;
    let proxy = Proxy::start(&writer.bus).await;
    let mut client = proxy.connect(writer.session).await;
    writer.query(3).await;
    writer.bus.close(writer.session).await.unwrap();
    assert_eq!(client.query().await.0, writer.positions(1, 4));
    assert_eq!(client.close_code().await, 1000);
    assert_eq!(client.next().await, Seen::End);
    proxy.metric(r#"wsproxy_closes_total{reason="session_closed"} 1"#).await;
}

#[tokio::test]
async fn a_client_that_answers_pings_stays() {
    let mut writer = Writer::new().await;
    let proxy = Proxy::start_with(&writer.bus, |config| {
        config.ping_interval = Duration::from_millis(20);
        config.ping_timeout = Duration::from_secs(10);
    })
    .await;
    let mut client = proxy.connect(writer.session).await;
    let reading = tokio::spawn(async move { client.query().await });
    soon(async {
        let pongs = |text: &str| -> u64 {
            let line = text.lines().find_map(|line| line.strip_prefix("wsproxy_pongs_total "));
            line.unwrap().parse().unwrap()
        };
        while pongs(&proxy.get("/metrics").await.1) < 3 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    writer.query(1).await;
    assert_eq!(soon(reading).await.unwrap().0, writer.positions(1, 2));
}

#[tokio::test]
async fn a_client_that_answers_no_ping_is_closed() {
    let writer = Writer::new().await;
    let proxy = Proxy::start_with(&writer.bus, |config| {
        config.ping_interval = Duration::from_millis(20);
        config.ping_timeout = Duration::from_millis(100);
    })
    .await;
    let mut client = proxy.connect(writer.session).await;
    // Not read, the client answers nothing.
    proxy.metric(r#"wsproxy_closes_total{reason="no_pong"} 1"#).await;
    assert_eq!(client.close_code().await, 4003);
}

#[tokio::test]
async fn a_closed_socket_whose_client_is_gone_is_given_up() {
    let writer = Writer::new().await;
    let proxy = Proxy::start_with(&writer.bus, |config| {
        config.ping_interval = Duration::from_millis(20);
        config.ping_timeout = Duration::from_millis(40);
        config.close_timeout = Duration::from_millis(40);
    })
    .await;
    let _silent = proxy.connect(writer.session).await;
    proxy.metric(r#"wsproxy_closes_total{reason="no_pong"} 1"#).await;
    proxy.metric("wsproxy_connections 0").await;
}

#[tokio::test]
async fn a_token_runs_out_while_connected() {
    let writer = Writer::new().await;
    let proxy =
        Proxy::start_with(&writer.bus, |config| config.close_timeout = Duration::from_millis(200)).await;
    let now = unix_seconds();
    let claims = Claims { session_id: writer.session, iat: now, exp: Some(now + 2 - LEEWAY_SECONDS) };
    let mut request = proxy.request(writer.session);
    request.headers_mut().insert("authorization", format!("Bearer {}", sign(KEY, &claims)).parse().unwrap());
    let mut client = Client::open(proxy.address, request).await.unwrap();
    assert_eq!(client.close_code().await, 4004);
}

#[tokio::test]
async fn a_drain_tells_every_client_to_move_and_loses_nothing() {
    let mut writer = Writer::new().await;
    let other = Writer::on(&writer.bus).await;
    let mut proxy = Proxy::start(&writer.bus).await;
    let (mut client, mut second) = (proxy.connect(writer.session).await, proxy.connect(other.session).await);
    writer.claim().await;
    writer.tokens(3, 5).await;
    proxy.shutdown.cancel();
    // The clients have not answered yet: the gateway waits for them.
    soon(async {
        while proxy.get("/ready").await.0 != 503 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    assert_eq!(proxy.get("/health").await.0, 200);
    let (status, _, headers) = proxy.refusal(proxy.request(writer.session)).await;
    assert_eq!((status, headers.contains_key("retry-after")), (503, true));
    let (tokens, close) = client.query().await;
    assert_eq!(tokens, writer.positions(1, 3));
    let delay = |close: Seen| match close {
        Seen::Close(1012, text) => CloseReason::reconnect_after_ms(&text).unwrap(),
        other => panic!("{other:?}"),
    };
    assert_ne!(delay(close), delay(second.next().await), "each client has a delay of its own");
    assert_eq!((client.next().await, second.next().await), (Seen::End, Seen::End));
    soon(&mut proxy.task).await.unwrap().unwrap();
    let next = Proxy::start(&writer.bus).await;
    let mut client = next.connect(writer.session).await;
    writer.tokens(2, 5).await;
    writer.done().await;
    assert_eq!(client.query().await.0, writer.positions(4, 6));
}

#[tokio::test]
async fn a_drain_does_not_wait_for_ever() {
    let writer = Writer::new().await;
    let mut proxy = Proxy::start_with(&writer.bus, |config| config.drain = Duration::from_millis(50)).await;
    let _silent = proxy.connect(writer.session).await;
    proxy.shutdown.cancel();
    soon(&mut proxy.task).await.unwrap().unwrap();
}
