//! Handles what a client sends: pings, pongs, close frames, and JSON objects for the session's up channel. Answers go through the outbox,
//! so they do not split an event's frame and share its bound.

use crate::{
    decoder::{Decoder, Item},
    frame::Opcode,
    outbox::{Outbox, Phase},
    socket::Socket,
};
use bus::Broker;
use bytes::{Buf, Bytes};
use guard::Room;
use protocol::{CloseReason, SessionId};
use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};

/// Size of a read, in bytes. Longer payloads are read directly into the message.
const CHUNK: usize = 256;

/// How reading from a client ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The client sent a close frame, and ours was sent or queued.
    Handshake,
    /// The client broke a rule and was sent a close frame. Its further bytes are discarded.
    Violation,
    /// The connection ended without the client's close frame.
    Eof,
    /// The connection failed.
    Lost,
}

/// Whether a client keeps the limit on the rate of its messages.
enum Pace {
    /// Within the limit.
    Fine,
    /// Above the limit: this message is dropped.
    Over,
    /// Above twice the burst: the client ignores refusals, so it is closed.
    Flood,
}

/// One socket's reader.
pub(crate) struct Inbound {
    decoder: Decoder,
    /// Bytes that arrived together with the request.
    early: Bytes,
    chunk: [u8; CHUNK],
    /// The part of `chunk` that was read from the socket and not yet decoded.
    begin: usize,
    end: usize,
    /// The outbox knows that a message is arriving.
    arriving: bool,
    /// The time up to which the message rate is used up: see [`Rate`](crate::rate::Rate).
    spent: Duration,
    outbox: Arc<Outbox>,
    bus: Arc<dyn Broker>,
    session: SessionId,
}

impl Inbound {
    /// Creates the reader of the socket of `outbox`. `early` holds the bytes that arrived together with the request.
    pub(crate) fn new(outbox: Arc<Outbox>, bus: Arc<dyn Broker>, session: SessionId, early: Bytes) -> Self {
        let shared = outbox.shared();
        let decoder = Decoder::new(shared.max_message, Room::new(shared.inbound.clone()));
        Self {
            decoder,
            early,
            chunk: [0; CHUNK],
            begin: 0,
            end: 0,
            arriving: false,
            spent: Duration::ZERO,
            outbox,
            bus,
            session,
        }
    }

    /// Reads and handles items until the client's side ends.
    pub(crate) async fn run(&mut self) -> End {
        loop {
            tokio::task::coop::consume_budget().await;
            match self.decode() {
                Ok(Some(item)) => {
                    if let Some(end) = Box::pin(self.handle(item)).await {
                        return end;
                    }
                    continue;
                }
                Ok(None) => {}
                Err(reason) => return self.violation(reason, reason.text()),
            }
            match self.read() {
                Ok(0) => return End::Eof,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.set_arriving(self.decoder.is_unfinished());
                    let Some(socket) = self.outbox.socket() else { return End::Lost };
                    if socket.readable().await.is_err() {
                        return End::Lost;
                    }
                }
                Err(_) => return End::Lost,
            }
        }
    }

    /// Decodes the next item from the bytes that have been read.
    fn decode(&mut self) -> Result<Option<Item>, CloseReason> {
        if !self.early.is_empty() {
            let mut input = &self.early[..];
            let item = self.decoder.next(&mut input);
            let left = input.len();
            self.early.advance(self.early.len() - left);
            if left == 0 {
                self.early = Bytes::new();
            }
            if !matches!(item, Ok(None)) {
                return item;
            }
        }
        let mut input = &self.chunk[self.begin..self.end];
        let item = self.decoder.next(&mut input);
        self.begin = self.end - input.len();
        item
    }

    /// Reads from the socket. All earlier bytes have been decoded.
    fn read(&mut self) -> io::Result<usize> {
        let socket = self.outbox.socket().ok_or(io::ErrorKind::NotConnected)?;
        if let Some(space) = self.decoder.space(CHUNK) {
            let count = socket.try_read(space)?;
            self.decoder.read_direct(count);
            return Ok(count);
        }
        (self.begin, self.end) = (0, 0);
        self.end = socket.try_read(&mut self.chunk)?;
        Ok(self.end)
    }

    /// Tells the outbox whether a message is arriving. The sweep compares the time.
    fn set_arriving(&mut self, arriving: bool) {
        if self.arriving != arriving {
            self.arriving = arriving;
            self.outbox.set_arriving(arriving.then(Instant::now));
        }
    }

    /// Handles one item. Returns how reading ends, if it does.
    async fn handle(&mut self, item: Item) -> Option<End> {
        if !self.decoder.is_unfinished() {
            self.set_arriving(false);
        }
        if let Item::Close(payload) = item {
            self.outbox.closed_by_peer();
            self.outbox.answer(Opcode::Close, &payload);
            return Some(End::Handshake);
        }
        let pace = self.pace();
        match (item, pace) {
            (_, Pace::Flood) => return Some(self.close_flood()),
            (Item::Pong, _) => self.outbox.pong(),
            (Item::Ping(payload), Pace::Fine) => self.outbox.answer(Opcode::Pong, &payload),
            (Item::Text(text), Pace::Fine) => self.publish(text).await,
            (Item::NoRoom, _) => {
                self.outbox.shared().metrics.up_no_room.inc();
                self.refuse("the gateway has no room for the message, send it again later");
            }
            (Item::Text(_), Pace::Over) => {
                self.refuse("too many messages (MAX_UP_RATE), this one was dropped: send fewer");
            }
            (Item::Ping(_), Pace::Over) | (Item::Close(_), _) => {}
        }
        self.decoder.settle();
        None
    }

    /// Counts a message against the client's rate.
    fn pace(&mut self) -> Pace {
        let shared = self.outbox.shared();
        let Some(rate) = shared.up_rate else { return Pace::Fine };
        let now = shared.opened.elapsed();
        self.spent = rate.after(self.spent, now);
        let excess = rate.excess(self.spent, now);
        if excess.is_zero() {
            return Pace::Fine;
        }
        shared.metrics.up_throttled.inc();
        if excess <= rate.burst { Pace::Over } else { Pace::Flood }
    }

    fn close_flood(&self) -> End {
        self.violation(CloseReason::Policy, "too many messages (MAX_UP_RATE), also after refusals")
    }

    fn violation(&self, reason: CloseReason, text: &str) -> End {
        self.outbox.close_with(reason, text);
        End::Violation
    }

    /// Publishes a client's message, or sends the client an error. The next message is read after the bus accepted this one.
    async fn publish(&self, text: String) {
        if self.outbox.phase() != Phase::Open {
            return;
        }
        if let Err(error) = check_message(&text) {
            return self.outbox.refuse_message(&error);
        }
        match self.bus.send_up(self.session, Bytes::from(text)).await {
            Ok(()) => _ = self.outbox.shared().metrics.up_messages.inc(),
            Err(error) => {
                self.outbox.refuse_message(&format!("the message was not published, send it again: {error}"));
            }
        }
    }

    fn refuse(&self, why: &str) {
        if self.outbox.phase() == Phase::Open {
            self.outbox.refuse_message(why);
        }
    }
}

/// Checks that a message is a JSON object.
fn check_message(text: &str) -> Result<(), String> {
    if !text.trim_ascii_start().starts_with('{') {
        return Err("the message is not a JSON object".into());
    }
    serde_json::from_str::<serde::de::IgnoredAny>(text)
        .map(|_| ())
        .map_err(|error| format!("the message is not valid JSON: {error}"))
}

/// Reads and discards until the client's side ends. Unread bytes would make the kernel reset the connection and lose our close frame.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_json_objects_are_published() {
        for good in ["{}", r#" {"type":"stop"}"#, "{\"a\":[1,2,{\"b\":null}]}\n"] {
            assert_eq!(check_message(good), Ok(()), "{good}");
        }
        for bad in ["", "[]", "1", "\"x\"", "{", "{}{}", "{'a':1}", "{\"a\":}", &"{\"a\":".repeat(100_000)] {
            assert!(check_message(bad).is_err(), "{bad:.40}");
        }
    }
}
