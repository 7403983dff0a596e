//! A client gets every token once and in order, however it connects and reconnects.

use crate::rig::{Seen, raw_request, soon, start};
use protocol::Position;

#[tokio::test]
async fn a_query_is_forwarded_verbatim_and_in_order() {
    let (mut writer, proxy) = start().await;
    let mut client = proxy.connect(writer.session).await;
    for _ in 0..3 {
        writer.query(18).await;
        assert_eq!(client.query().await.0, writer.positions(1, 19));
    }
    client.close().await;
    proxy.metric(r#"wsproxy_closes_total{reason="client"} 1"#).await;
    proxy.metric("wsproxy_connections 0").await;
    proxy.metric("wsproxy_events_total 57").await;
    proxy.metric("bus_forwarded_total 57").await;
}

#[tokio::test]
async fn a_client_that_connects_after_its_query_gets_everything() {
    let (mut writer, proxy) = start().await;
    writer.query(500).await;
    let mut client = proxy.connect(writer.session).await;
    assert_eq!(client.query().await.0, writer.positions(1, 501));
}

#[tokio::test]
async fn a_client_without_a_position_continues_where_its_last_socket_ended() {
    let (mut writer, proxy) = start().await;
    for _ in 0..3 {
        let mut client = proxy.connect(writer.session).await;
        writer.query(5).await;
        assert_eq!(client.query().await.0, writer.positions(1, 6));
        client.close().await;
    }
    writer.query(5).await;
    let mut client = proxy.connect(writer.session).await;
    assert_eq!(
        client.query().await.0,
        writer.positions(1, 6),
        "no event of the earlier queries may come again"
    );
}

#[tokio::test]
async fn a_client_resumes_by_position_and_gets_the_end_of_the_replay() {
    let (mut writer, proxy) = start().await;
    writer.claim().await;
    writer.tokens(10, 5).await;
    let four = writer.positions(4, 4)[0];
    let mut client = proxy.resume(writer.session, &four.to_string()).await;
    let (replayed, then) = client.query().await;
    assert_eq!(replayed, writer.positions(5, 10));
    assert_eq!(then, Seen::Resumed(writer.positions(10, 10)[0]));
    writer.tokens(1, 5).await;
    writer.done().await;
    assert_eq!(client.query().await.0, writer.positions(11, 12));
    let mut again = proxy.resume(writer.session, "0").await;
    assert_eq!(again.query().await.0, writer.positions(1, 12));
}

#[tokio::test]
async fn a_new_client_without_events_gets_an_empty_replay() {
    let (writer, proxy) = start().await;
    let mut client = proxy.resume(writer.session, "0").await;
    assert_eq!(client.next().await, Seen::Resumed(Position::ZERO));
}

#[tokio::test]
async fn a_frame_that_arrives_with_the_request_is_read() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let (writer, proxy) = start().await;
    let mut stream = tokio::net::TcpStream::connect(proxy.address).await.unwrap();
    let request = raw_request(writer.session);
    // A masked ping, mask 0, payload "hi".
    let ping = [0x89, 0x82, 0, 0, 0, 0, b'h', b'i'];
    stream.write_all(&[request.as_bytes(), &ping].concat()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\x8a\x02hi") {
        assert!(soon(stream.read_buf(&mut answer)).await.unwrap() > 0, "no pong");
    }
}
