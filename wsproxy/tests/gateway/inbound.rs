//! Messages that a client may send, and the responses to all others.

use crate::rig::{Seen, Writer, start, start_with};
use protocol::{Kind, Position};
use std::time::Duration;
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

/// Sends these messages. The gateway must close the socket with `code`.
async fn closes(messages: Vec<Message>, code: u16) {
    let (writer, proxy) = start_with(|config| config.max_message_bytes = 1000).await;
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
async fn messages_that_break_a_rule_close_their_socket() {
    let filler: &'static [u8] = &[b'x'; 600];
    let in_parts = vec![part(Data::Text, filler, false), part(Data::Continue, filler, true)];
    for (messages, code) in [
        (vec![Message::binary(&b"{}"[..])], 1003),
        (vec![part(Data::Text, b"{\"a\":\"\xff\"}", true)], 1007),
        (vec![Message::text("x".repeat(1001))], 1009),
        (in_parts, 1009),
        (vec![part(Data::Continue, b"{}", true)], 1002),
    ] {
        closes(messages, code).await;
    }
}

#[tokio::test]
async fn fragmented_messages_are_joined() {
    let (writer, proxy) = start().await;
    let mut client = proxy.connect(writer.session).await;
    client.send(part(Data::Text, b"{\"stop\":", false)).await;
    client.send(Message::Ping("between the parts".into())).await;
    client.send(part(Data::Continue, b"true}", true)).await;
    client.send(Message::text("{}")).await;
    let _ = client.close().await;
    proxy.metric("wsproxy_up_messages_total 2").await;
}

#[tokio::test]
async fn bad_json_gets_an_error_and_the_socket_stays_open() {
    let (mut writer, proxy) = start().await;
    let mut client = proxy.connect(writer.session).await;
    for bad in ["{", "[1]", "hello"] {
        client.send(Message::text(bad)).await;
        let Seen::Other(answer) = client.next().await else { panic!("no answer to {bad}") };
        assert!(answer.starts_with(r#"{"error":"the message is not"#), "{answer}");
    }
    writer.claim().await;
    writer.tokens(1, 5).await;
    let first: Position = writer.positions(1, 1)[0];
    assert_eq!(client.next().await, Seen::Event(first, Kind::Token));
    proxy.metric("wsproxy_up_refused_total 3").await;
}

#[tokio::test]
async fn an_unfinished_message_closes_its_socket() {
    let (writer, proxy) = start_with(|config| config.message_timeout = Duration::from_millis(100)).await;
    let mut client = proxy.connect(writer.session).await;
    let other = proxy.connect(Writer::on(&writer.bus).await.session).await;
    client.send(part(Data::Text, &[b'x'; 900], false)).await;
    // Neither pings nor further parts extend the time limit.
    client.send(Message::Ping("still here".into())).await;
    let (code, text) = client.closing().await;
    assert_eq!(code, 1008, "{text}");
    assert!(text.contains("0.1 s"), "{text}");
    assert_eq!(client.next().await, Seen::End);
    proxy.metric("wsproxy_up_unfinished_total 1").await;
    proxy.metric("wsproxy_inbound_bytes 0").await;
    proxy.metric("wsproxy_connections 1").await;
    other.close().await;
}

#[tokio::test]
async fn all_messages_share_a_budget_and_small_ones_still_fit() {
    let (writer, proxy) = start_with(|config| config.inbound_bytes = 64 << 10).await;
    let mut holders = Vec::new();
    for _ in 0..4 {
        let mut holder = proxy.connect(Writer::on(&writer.bus).await.session).await;
        holder.send(part(Data::Text, &[b'x'; 16_000], false)).await;
        holders.push(holder);
    }
    // Three messages fit into the budget. The fourth did not, and returned the bytes that it held.
    proxy.metric("wsproxy_inbound_bytes 48000").await;
    let mut client = proxy.connect(writer.session).await;
    client.send(Message::text(format!(r#"{{"x":"{}"}}"#, "x".repeat(12_000)))).await;
    let Seen::Other(answer) = client.next().await else { panic!("no answer") };
    assert!(answer.contains("no room"), "{answer}");
    client.send(Message::text(r#"{"type":"stop"}"#)).await;
    proxy.metric("wsproxy_up_messages_total 1").await;
    proxy.metric("wsproxy_up_no_room_total 1").await;
    drop(holders);
    proxy.metric("wsproxy_inbound_bytes 0").await;
}

#[tokio::test]
async fn too_many_messages_are_refused_and_a_flood_closes_its_socket() {
    let (writer, proxy) = start_with(|config| config.up_rate = 5).await;
    let mut client = proxy.connect(writer.session).await;
    for _ in 0..13 {
        client.send(Message::text("{}")).await;
    }
    let Seen::Other(answer) = client.next().await else { panic!("no answer") };
    assert!(answer.contains("too many messages"), "{answer}");
    for _ in 0..40 {
        client.send(Message::Ping("x".into())).await;
    }
    let (code, text) = client.closing().await;
    assert_eq!(code, 1008, "{text}");
    let published = proxy.value("wsproxy_up_messages_total").await;
    assert!((10..13).contains(&published), "{published}");
}
