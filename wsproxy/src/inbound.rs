//! What a client sends: pongs, closes, and JSON objects for the session's up channel. It writes nothing itself; answers
//! go through the outbox, so they never cut into an event's frame and are bounded with the rest.

use crate::{
    outbox::{Outbox, Phase},
    socket::Socket,
};
use bus::Broker;
use bytes::Bytes;
use protocol::{CloseReason, SessionId};
use std::{
    io::{self, Read, Write},
    sync::Arc,
};
use tokio_tungstenite::tungstenite::{
    Error, Message, Utf8Bytes, WebSocket,
    error::ProtocolError,
    protocol::{Role, WebSocketConfig},
};

/// Read buffer of a socket, in bytes; longer messages grow it while they arrive.
const READ_BUFFER: usize = 256;

/// How a client's side of the conversation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// Close frames went both ways, or the client's came and ours is on its way.
    Handshake,
    /// The client broke a rule: it has been told, and what it sends from here on is not read as frames.
    Violation,
    /// The connection ended without the client's close frame.
    Eof,
    /// The connection failed.
    Lost,
}

/// One socket's reader.
pub(crate) struct Inbound {
    frames: WebSocket<Wire>,
    outbox: Arc<Outbox>,
    bus: Arc<dyn Broker>,
    session: SessionId,
}

impl Inbound {
    /// Reads the socket of `outbox`; `early` is what came right behind the request.
    pub(crate) fn new(
        outbox: Arc<Outbox>,
        bus: Arc<dyn Broker>,
        session: SessionId,
        max_message: usize,
        early: Vec<u8>,
    ) -> Self {
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER)
            .write_buffer_size(0)
            .max_message_size(Some(max_message))
            .max_frame_size(Some(max_message));
        let wire = Wire(outbox.clone());
        let frames = WebSocket::from_partially_read(wire, early, Role::Server, Some(config));
        Self { frames, outbox, bus, session }
    }

    /// Reads until the client's side ends.
    pub(crate) async fn run(&mut self) -> End {
        loop {
            tokio::task::coop::consume_budget().await;
            match self.frames.read() {
                Ok(Message::Text(text)) => Box::pin(self.up(text)).await,
                Ok(Message::Binary(_)) => return self.violation(CloseReason::Binary),
                Ok(Message::Pong(_)) => self.outbox.pong(),
                Ok(Message::Close(_)) => self.outbox.closed_by_peer(),
                Ok(Message::Ping(_) | Message::Frame(_)) => {}
                Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                    let Some(socket) = self.outbox.socket() else { return End::Lost };
                    if socket.readable().await.is_err() {
                        return End::Lost;
                    }
                }
                Err(Error::ConnectionClosed | Error::AlreadyClosed) => return End::Handshake,
                Err(Error::Protocol(ProtocolError::ResetWithoutClosingHandshake)) => return End::Eof,
                Err(Error::Protocol(_) | Error::AttackAttempt) => {
                    return self.violation(CloseReason::Protocol);
                }
                Err(Error::Capacity(_)) => return self.violation(CloseReason::TooLarge),
                Err(Error::Utf8(_)) => return self.violation(CloseReason::BadUtf8),
                Err(_) => return End::Lost,
            }
        }
    }

    fn violation(&self, reason: CloseReason) -> End {
        self.outbox.close(reason);
        End::Violation
    }

    /// Publishes a client's message, or tells it why not. The next message is read when the bus has taken this one.
    async fn up(&self, text: Utf8Bytes) {
        if self.outbox.phase() != Phase::Open {
            return;
        }
        let refused = match check_message(&text) {
            Err(fault) => Some(fault),
            Ok(()) => {
                let sent = self.bus.send_up(self.session, Bytes::from(text)).await;
                sent.err().map(|error| format!("message was not published, send it again: {error}"))
            }
        };
        self.outbox.up_message(refused.as_deref());
    }
}

/// A message must be a JSON object.
fn check_message(text: &str) -> Result<(), String> {
    if !text.trim_ascii_start().starts_with('{') {
        return Err("message is not a JSON object".into());
    }
    serde_json::from_str::<serde::de::IgnoredAny>(text)
        .map(|_| ())
        .map_err(|error| format!("message is not valid JSON: {error}"))
}

/// Reads and forgets until the client's side ends, so that a last close frame is not lost to a reset.
pub(crate) async fn discard(socket: &Socket) {
    let mut buffer = [0; 1024];
    loop {
        match socket.try_read(&mut buffer) {
            Ok(1..) => tokio::task::coop::consume_budget().await,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if socket.readable().await.is_err() {
                    return;
                }
            }
            Ok(0) | Err(_) => return,
        }
    }
}

/// What tungstenite takes for its stream: reads come from the socket, writes go to the outbox and never block.
struct Wire(Arc<Outbox>);

impl Read for Wire {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.socket().ok_or(io::ErrorKind::NotConnected)?.try_read(buffer)
    }
}

impl Write for Wire {
    fn write(&mut self, frames: &[u8]) -> io::Result<usize> {
        self.0.send_encoded(frames);
        Ok(frames.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_json_objects_go_up() {
        for good in ["{}", r#" {"type":"stop"}"#, "{\"a\":[1,2,{\"b\":null}]}\n"] {
            assert_eq!(check_message(good), Ok(()), "{good}");
        }
        for bad in ["", "[]", "1", "\"x\"", "{", "{}{}", "{'a':1}", "{\"a\":}", &"{\"a\":".repeat(100_000)] {
            assert!(check_message(bad).is_err(), "{bad:.40}");
        }
    }
}
