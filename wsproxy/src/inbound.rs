//! What a client sends: pongs, closes, and JSON objects for the session's up channel. It writes nothing itself; answers
//! go through the outbox, so they never cut into an event's frame and are bounded with the rest.

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

/// What is read at a time, in bytes; longer payloads are read to where they stay.
const CHUNK: usize = 256;

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

/// Whether a client keeps to the rate of its messages.
enum Pace {
    Fine,
    /// Too many: this one is dropped.
    Over,
    /// Far too many: it does not heed that.
    Flood,
}

/// One socket's reader.
pub(crate) struct Inbound {
    decoder: Decoder,
    /// What came right behind the request.
    early: Bytes,
    chunk: [u8; CHUNK],
    /// The part of `chunk` that was read from the socket and not yet decoded.
    begin: usize,
    end: usize,
    /// The sweep has been told that a message is arriving.
    told: bool,
    /// The time up to which the budget of messages is spent.
    spent: Duration,
    outbox: Arc<Outbox>,
    bus: Arc<dyn Broker>,
    session: SessionId,
}

impl Inbound {
    /// Reads the socket of `outbox`; `early` is what came right behind the request.
    pub(crate) fn new(outbox: Arc<Outbox>, bus: Arc<dyn Broker>, session: SessionId, early: Bytes) -> Self {
        let terms = outbox.terms();
        let decoder = Decoder::new(terms.max_message, Room::new(terms.inbound.clone()));
        Self {
            decoder,
            early,
            chunk: [0; CHUNK],
            begin: 0,
            end: 0,
            told: false,
            spent: Duration::ZERO,
            outbox,
            bus,
            session,
        }
    }

    /// Reads until the client's side ends.
    pub(crate) async fn run(&mut self) -> End {
        loop {
            tokio::task::coop::consume_budget().await;
            match self.decode() {
                Ok(Some(item)) => {
                    if let Some(end) = Box::pin(self.obey(item)).await {
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
                    self.tell(self.decoder.is_unfinished());
                    let Some(socket) = self.outbox.socket() else { return End::Lost };
                    if socket.readable().await.is_err() {
                        return End::Lost;
                    }
                }
                Err(_) => return End::Lost,
            }
        }
    }

    /// The next thing that the client said, out of what has been read.
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

    /// Reads what the socket has; all that was read before has been decoded.
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

    /// Tells the sweep, which has the time, whether a message is arriving.
    fn tell(&mut self, arriving: bool) {
        if self.told != arriving {
            self.told = arriving;
            self.outbox.set_arriving(arriving.then(Instant::now));
        }
    }

    /// Does what the client's message asks for.
    async fn obey(&mut self, item: Item) -> Option<End> {
        if !self.decoder.is_unfinished() {
            self.tell(false);
        }
        if let Item::Close(payload) = item {
            self.outbox.closed_by_peer();
            self.outbox.answer(Opcode::Close, &payload);
            return Some(End::Handshake);
        }
        let pace = self.pace();
        match (item, pace) {
            (_, Pace::Flood) => return Some(self.flood()),
            (Item::Pong, _) => self.outbox.pong(),
            (Item::Ping(payload), Pace::Fine) => self.outbox.answer(Opcode::Pong, &payload),
            (Item::Text(text), Pace::Fine) => self.up(text).await,
            (Item::NoRoom, _) => {
                self.outbox.terms().metrics.up_no_room.inc();
                self.refuse("the gateway has no room for the message, send it again later");
            }
            (Item::Text(_), Pace::Over) => {
                self.refuse("too many messages at once, this one was dropped: send fewer");
            }
            (Item::Ping(_), Pace::Over) | (Item::Close(_), _) => {}
        }
        self.decoder.settle();
        None
    }

    /// Counts a message, and says what that makes of the client.
    fn pace(&mut self) -> Pace {
        let terms = self.outbox.terms();
        let Some(rate) = terms.up_rate else { return Pace::Fine };
        let now = terms.opened.elapsed();
        self.spent = rate.after(self.spent, now);
        let excess = rate.excess(self.spent, now);
        if excess.is_zero() {
            return Pace::Fine;
        }
        terms.metrics.up_throttled.inc();
        if excess <= rate.burst { Pace::Over } else { Pace::Flood }
    }

    fn flood(&self) -> End {
        self.violation(CloseReason::Policy, "too many messages, and no fewer after refusals")
    }

    fn violation(&self, reason: CloseReason, text: &str) -> End {
        self.outbox.close_with(reason, text);
        End::Violation
    }

    /// Publishes a client's message, or tells it why not. The next message is read when the bus has taken this one.
    async fn up(&self, text: String) {
        if self.outbox.phase() != Phase::Open {
            return;
        }
        if let Err(fault) = check_message(&text) {
            return self.outbox.refuse_message(&fault);
        }
        match self.bus.send_up(self.session, Bytes::from(text)).await {
            Ok(()) => _ = self.outbox.terms().metrics.up_messages.inc(),
            Err(error) => {
                self.outbox.refuse_message(&format!("message was not published, send it again: {error}"));
            }
        }
    }

    fn refuse(&self, why: &str) {
        if self.outbox.phase() == Phase::Open {
            self.outbox.refuse_message(why);
        }
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
