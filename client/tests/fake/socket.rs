//! The gateway of the scripted server: sends the log of a session to its socket, and closes it as the script defines.

use super::Fake;
use futures_util::{SinkExt, StreamExt};
use protocol::Position;
use std::{sync::Arc, time::Duration};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Message,
        handshake::server::{ErrorResponse, Request, Response as Upgrade},
        protocol::{
            CloseFrame,
            frame::{
                Frame,
                coding::{CloseCode, Data, OpCode},
            },
        },
    },
};

pub(super) async fn accept(listener: TcpListener, fake: Arc<Fake>) {
    while let Ok((stream, peer)) = listener.accept().await {
        fake.seen.lock().unwrap().peers.insert(peer.ip());
        if fake.script.impatient.is_some() {
            socket2::SockRef::from(&stream).set_send_buffer_size(4096).unwrap();
        }
        tokio::spawn(socket(stream, Arc::clone(&fake)));
    }
}

/// Ends a socket with a close frame, unless the code is 0.
async fn end(socket: &mut WebSocketStream<TcpStream>, code: u16, text: &'static str) {
    if code != 0 {
        let frame = CloseFrame { code: CloseCode::from(code), reason: text.into() };
        let _ = socket.send(Message::Close(Some(frame))).await;
    }
}

#[allow(clippy::result_large_err)]
async fn socket(stream: TcpStream, fake: Arc<Fake>) {
    let mut session = None;
    let mut resume = None;
    let mut refused = false;
    let upgraded = tokio_tungstenite::accept_hdr_async(stream, |request: &Request, mut response: Upgrade| {
        let before = {
            let mut seen = fake.seen.lock().unwrap();
            seen.sockets += 1;
            seen.sockets - 1
        };
        if let Some(refusal) = fake.refusal("socket", before) {
            refused = true;
            let mut answer = ErrorResponse::new(None);
            *answer.status_mut() = refusal.status();
            *answer.headers_mut() = refusal.headers().clone();
            return Err(answer);
        }
        session = protocol::parse_ws_path(request.uri().path()).ok().map(|(_, id)| id);
        resume = request.headers().get("last-event-id").map(|id| id.to_str().unwrap().to_owned());
        fake.seen.lock().unwrap().heads.push((request.uri().to_string(), request.headers().clone()));
        if let Some(expected) = fake.script.authorization {
            assert_eq!(request.headers()["authorization"], expected);
        }
        if fake.script.stamped.is_some() && request.uri().query().is_some_and(|query| query.contains("hops="))
        {
            let boot_id = host::boot_id().unwrap().parse().unwrap();
            response.headers_mut().insert(protocol::BOOT_ID_HEADER, boot_id);
        }
        Ok(response)
    })
    .await;
    let (Ok(mut socket), Some(id), false) = (upgraded, session, refused) else { return };
    let first = {
        let mut sessions = fake.sessions.lock().unwrap();
        let session = sessions.get_mut(&id).unwrap();
        session.sockets += 1;
        session.sockets == 1
    };
    fake.seen.lock().unwrap().resumed_after.extend(resume.clone());
    // A server of the old contract does not know the header.
    let ignored = fake.script.old_contract && fake.script.close_after.is_some();
    let after: Option<Position> = resume.filter(|_| !ignored).map(|text| text.parse().unwrap());
    let mut changed = fake.changed.subscribe();
    let mut cursor = match after {
        Some(_) => 0,
        None => std::mem::take(&mut fake.sessions.lock().unwrap().get_mut(&id).unwrap().handed_on),
    };
    let mut sent = 0;
    let mut greeted = after.is_none();
    loop {
        let (events, closed) = {
            let sessions = fake.sessions.lock().unwrap();
            let session = &sessions[&id];
            (session.log[cursor..].to_vec(), session.closed)
        };
        cursor += events.len();
        for (position, frame) in events {
            if !fake.script.forgetful && after.is_some_and(|after| position <= after) {
                continue;
            }
            if let Some((_, code, text)) = fake.script.close.filter(|(count, ..)| first && sent >= *count) {
                end(&mut socket, code, text).await;
                return;
            }
            let is_terminator = frame.contains(r#""type":"done""#);
            let patience = fake.script.impatient.unwrap_or(Duration::MAX);
            match tokio::time::timeout(patience, socket.send(message(frame))).await {
                Ok(Ok(())) => sent += 1,
                Ok(Err(_)) => {
                    fake.seen.lock().unwrap().resets += 1;
                    return;
                }
                Err(_) => {
                    fake.seen.lock().unwrap().out_of_patience += 1;
                    return;
                }
            }
            if let Some((code, text)) = fake.script.close_after.filter(|_| is_terminator) {
                fake.sessions.lock().unwrap().get_mut(&id).unwrap().handed_on = cursor;
                end(&mut socket, code, text).await;
                return;
            }
        }
        if let Some((_, code, text)) =
            fake.script.close.filter(|(count, ..)| first && sent > 0 && sent >= *count)
        {
            end(&mut socket, code, text).await;
            return;
        }
        if !greeted && !fake.script.mute {
            greeted = true;
            let to = protocol::encode_resumed(after.unwrap_or_default());
            let _ = socket.send(Message::text(to)).await;
        }
        if closed {
            let frame = CloseFrame { code: CloseCode::Normal, reason: "session closed".into() };
            let _ = socket.send(Message::Close(Some(frame))).await;
            return;
        }
        tokio::select! {
            biased;
            message = socket.next() => match message {
                Some(Ok(Message::Close(_))) => {
                    let _ = socket.flush().await;
                    fake.seen.lock().unwrap().farewells += 1;
                    fake.sessions.lock().unwrap().get_mut(&id).unwrap().handed_on = cursor;
                    return;
                }
                Some(Ok(_)) => {}
                Some(Err(_)) | None => {
                    fake.seen.lock().unwrap().resets += 1;
                    return;
                }
            },
            changed = changed.changed() => if changed.is_err() {
                return;
            }
        }
    }
}

/// Converts a frame of the log. A frame that begins with `\0` becomes a binary message, with `\x01` a frame with a reserved bit.
fn message(frame: String) -> Message {
    if let Some(text) = frame.strip_prefix('\x01') {
        let mut frame = Frame::message(text.to_owned(), OpCode::Data(Data::Text), true);
        frame.header_mut().rsv1 = true;
        return Message::Frame(frame);
    }
    match frame.strip_prefix('\0') {
        Some(binary) => Message::binary(binary.as_bytes().to_vec()),
        None => Message::text(frame),
    }
}
