//! What a client may send, and what happens when it sends something else.

use crate::rig::{Proxy, Seen, Writer};
use protocol::{Kind, Position};
use tokio_tungstenite::tungstenite::{
    Message,
    protocol::frame::{
        Frame,
        coding::{Data, OpCode},
    },
};

fn part(opcode: Data, payload: &'static [u8], last: bool) -> Message {
    Message::Frame(Frame::message(payload, OpCode::Data(opcode), last))
}

/// The gateway closes with `code` after these messages.
async fn closes(messages: Vec<Message>, code: u16) {
    let writer = Writer::new().await;
    let proxy = Proxy::start_with(&writer.bus, |config| config.max_message_bytes = 1000).await;
    let mut client = proxy.connect(writer.session).await;
    for message in messages {
        client.send(message).await;
    }
    assert_eq!(client.close_code().await, code);
    assert_eq!(client.next().await, Seen::End);
    drop(client);
    proxy.metric("wsproxy_connections 0").await;
}

#[tokio::test]
async fn binary_frames() {
    closes(vec![Message::binary(&b"{}"[..])], 1003).await;
}

#[tokio::test]
async fn text_that_is_not_utf8() {
    closes(vec![part(Data::Text, b"{\"a\":\"\xff\"}", true)], 1007).await;
}

#[tokio::test]
async fn oversized_frames() {
    closes(vec![Message::text("x".repeat(1001))], 1009).await;
}

#[tokio::test]
async fn oversized_messages_in_small_frames() {
    let filler: &'static [u8] = &[b'x'; 600];
    closes(vec![part(Data::Text, filler, false), part(Data::Continue, filler, true)], 1009).await;
}

#[tokio::test]
async fn frames_that_break_the_protocol() {
    closes(vec![part(Data::Continue, b"{}", true)], 1002).await;
}

#[tokio::test]
async fn fragmented_messages_are_put_together() {
    let writer = Writer::new().await;
    let proxy = Proxy::start(&writer.bus).await;
    let mut client = proxy.connect(writer.session).await;
    client.send(part(Data::Text, b"{\"stop\":", false)).await;
    client.send(Message::Ping("between the parts".into())).await;
    client.send(part(Data::Continue, b"true}", true)).await;
    client.send(Message::text("{}")).await;
    let _ = client.close().await;
    proxy.metric("wsproxy_up_messages_total 2").await;
}

#[tokio::test]
async fn bad_json_is_answered_and_the_socket_stays_open() {
    let mut writer = Writer::new().await;
    let proxy = Proxy::start(&writer.bus).await;
    let mut client = proxy.connect(writer.session).await;
    for bad in ["{", "[1]", "hello"] {
        client.send(Message::text(bad)).await;
        let Seen::Other(answer) = client.next().await else { panic!("no answer to {bad}") };
        assert!(answer.starts_with(r#"{"error":"message is not"#), "{answer}");
    }
    writer.claim().await;
    writer.tokens(1, 5).await;
    let first: Position = writer.positions(1, 1)[0];
    assert_eq!(client.next().await, Seen::Event(first, Kind::Token));
    proxy.metric("wsproxy_up_refused_total 3").await;
}
