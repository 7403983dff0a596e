//! A second socket for a session: it gets everything except what the first one certainly received.

use crate::rig::{Client, Proxy, Seen, Writer, soon};
use protocol::Kind;
use std::time::{Duration, Instant};

/// The second socket takes over while tokens flow and the first is read: between the two, every token once.
async fn takeover(writer: &mut Writer, first: &Proxy, second: &Proxy) {
    let mut old = first.connect(writer.session).await;
    writer.claim().await;
    writer.tokens(7, 5).await;
    assert_eq!(old.next().await, Seen::Event(writer.positions(1, 1)[0], Kind::Token));
    let reading = tokio::spawn(async move {
        let seen = old.query().await;
        assert_eq!(old.next().await, Seen::End, "the answer to our close is out");
        seen
    });
    let mut new = second.connect(writer.session).await;
    let (rest, then) = soon(reading).await.unwrap();
    assert_eq!(rest, writer.positions(2, 7));
    assert!(matches!(then, Seen::Close(4001, _)), "{then:?}");
    writer.tokens(3, 5).await;
    writer.done().await;
    assert_eq!(new.query().await.0, writer.positions(8, 11));
}

#[tokio::test]
async fn on_one_gateway() {
    let mut writer = Writer::new().await;
    let proxy = Proxy::start(&writer.bus).await;
    takeover(&mut writer, &proxy, &proxy).await;
}

#[tokio::test]
async fn across_two_gateways() {
    let mut writer = Writer::new().await;
    let (first, second) = (Proxy::start(&writer.bus).await, Proxy::start(&writer.bus).await);
    takeover(&mut writer, &first, &second).await;
}

/// What the old socket's kernel took and its client never read must come again.
#[tokio::test]
async fn from_a_client_that_does_not_answer() {
    let mut writer = Writer::new().await;
    let proxy = Proxy::start(&writer.bus).await;
    let _dead = proxy.connect(writer.session).await;
    writer.query(5).await;
    proxy.metric("wsproxy_events_total 6").await;
    let before = Instant::now();
    let mut new = proxy.connect(writer.session).await;
    assert!(before.elapsed() < Duration::from_secs(2), "a newcomer waits half a second at most");
    assert_eq!(new.query().await.0, writer.positions(1, 6));
}

/// A connection that ends without a close frame proves nothing, whatever its kernel acknowledged.
#[tokio::test]
async fn from_a_client_whose_connection_ends_without_a_close_frame() {
    let mut writer = Writer::new().await;
    let proxy = Proxy::start(&writer.bus).await;
    let dead = proxy.connect(writer.session).await;
    writer.query(5).await;
    proxy.metric("wsproxy_events_total 6").await;
    let taking_over = tokio::spawn({
        let (address, request) = (proxy.address, proxy.request(writer.session));
        async move { Client::open(address, request).await.unwrap() }
    });
    proxy.metric(r#"wsproxy_closes_total{reason="taken_over"} 1"#).await;
    drop(dead);
    let mut new = soon(taking_over).await.unwrap();
    assert_eq!(new.query().await.0, writer.positions(1, 6));
}

/// The old contract's client: connect, read to `done`, close, and on without waiting for the answer to its close frame.
#[tokio::test]
async fn from_a_client_that_sent_its_close_frame() {
    let mut writer = Writer::new().await;
    let (first, second) = (Proxy::start(&writer.bus).await, Proxy::start(&writer.bus).await);
    let mut left_open = Vec::new();
    for round in 0..20 {
        let proxy = if round % 3 == 0 { &first } else { &second };
        let mut client = proxy.connect(writer.session).await;
        writer.query(5).await;
        assert_eq!(client.query().await.0, writer.positions(1, 6), "round {round}: nothing earlier again");
        soon(client.0.close(None)).await.unwrap();
        if round % 2 == 0 {
            left_open.push(client);
        }
    }
}
