//! A second socket for a session: it gets every event except those that the first client confirmed in its close frame.

use crate::rig::{Client, Proxy, Seen, Writer, soon, start};
use protocol::Kind;
use std::time::{Duration, Instant};

/// The second socket takes over during a stream while the first client reads. Together they get every token once.
async fn takeover(writer: &mut Writer, first: &Proxy, second: &Proxy) {
    let mut old = first.connect(writer.session).await;
    writer.claim().await;
    writer.tokens(7, 5).await;
    assert_eq!(old.next().await, Seen::Event(writer.positions(1, 1)[0], Kind::Token));
    let reading = tokio::spawn(async move {
        let seen = old.query().await;
        assert_eq!(
            old.next().await,
            Seen::End,
            "the connection must end after the response to the close frame"
        );
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
    let (mut writer, proxy) = start().await;
    takeover(&mut writer, &proxy, &proxy).await;
}

#[tokio::test]
async fn across_two_gateways() {
    let mut writer = Writer::new().await;
    let (first, second) = (Proxy::start(&writer.bus).await, Proxy::start(&writer.bus).await);
    takeover(&mut writer, &first, &second).await;
}

/// Events that the kernel of the first client accepted, but the client did not read, must come again.
#[tokio::test]
async fn from_a_client_that_does_not_answer() {
    let (mut writer, proxy) = start().await;
    let _dead = proxy.connect(writer.session).await;
    writer.query(5).await;
    proxy.metric("wsproxy_events_total 6").await;
    let before = Instant::now();
    let mut new = proxy.connect(writer.session).await;
    assert!(
        before.elapsed() < Duration::from_secs(2),
        "the second socket must wait for at most half a second"
    );
    assert_eq!(new.query().await.0, writer.positions(1, 6));
}

/// If a connection ends without a close frame, its events come again, because data that the kernel acknowledged may not have been read.
#[tokio::test]
async fn from_a_client_whose_connection_ends_without_a_close_frame() {
    let (mut writer, proxy) = start().await;
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

/// A client of the old contract connects, reads to `done`, sends a close frame, and opens the next socket without waiting for the
/// response.
#[tokio::test]
async fn from_a_client_that_sent_its_close_frame() {
    let mut writer = Writer::new().await;
    let (first, second) = (Proxy::start(&writer.bus).await, Proxy::start(&writer.bus).await);
    let mut left_open = Vec::new();
    for round in 0..20 {
        let proxy = if round % 3 == 0 { &first } else { &second };
        let mut client = proxy.connect(writer.session).await;
        writer.query(5).await;
        assert_eq!(
            client.query().await.0,
            writer.positions(1, 6),
            "round {round}: no earlier event may come again"
        );
        soon(client.0.close(None)).await.unwrap();
        if round % 2 == 0 {
            left_open.push(client);
        }
    }
}
