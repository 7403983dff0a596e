//! Handles what a client sends: pings, pongs, close frames, and JSON objects for the session's up channel. Answers go through the outbox,
//! so they do not split an event's frame and share its bound.

use crate::{
    decoder::{Decoder, Item},
    frame::Opcode,
    gateway::Gateway,
    outbox::{Outbox, Phase, Shared},
    socket::Socket,
};
use bytes::Bytes;
use guard::Room;
use protocol::{CloseReason, SessionId};
use std::{
    future::poll_fn,
    io,
    pin::Pin,
    sync::Arc,
    task::{Poll, ready},
    time::{Duration, Instant},
};
use tokio::task::coop::poll_proceed;

/// Size of a read, in bytes. Longer payloads are read directly into the message.
const CHUNK: usize = 256;

/// Number of items that are handled before other tasks run.
const MAX_ITEMS: usize = 32;

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

type Publishing<'a> = Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

/// What the reader does after it has handled all bytes that it could.
enum Step<'a> {
    /// More bytes may be there at once.
    Again,
    /// Wait until the socket can be read.
    Wait,
    /// Publish a message before more is decoded.
    Publish(Publishing<'a>),
    /// Reading ends.
    End(End),
}

/// One socket's reader. It has no buffer of its own: a read goes into a buffer on the stack, and what is left of it is stored only while
/// a message is published or arrives in parts.
#[derive(Default)]
pub(crate) struct Inbound {
    /// The decoder of a message that is arriving or being published.
    decoder: Option<Box<Decoder>>,
    /// Bytes that have been read and not decoded.
    undecoded: Box<[u8]>,
    /// The outbox knows that a message is arriving.
    arriving: bool,
    /// The time up to which the message rate is used up: see [`Rate`](crate::rate::Rate).
    spent: Duration,
}

/// What a reader needs of its connection.
pub(crate) struct Client {
    pub(crate) session: SessionId,
    pub(crate) outbox: Arc<Outbox>,
    pub(crate) gateway: Arc<Gateway>,
}

impl Inbound {
    /// Creates a reader. `early` holds the bytes that arrived together with the request.
    pub(crate) fn new(early: &[u8]) -> Self {
        Self { undecoded: early.into(), ..Self::default() }
    }

    /// Reads and handles items until the client's side ends. Its state is small, because every open socket has one.
    pub(crate) fn run<'a>(&'a mut self, client: &'a Client) -> impl Future<Output = End> + 'a {
        let mut publishing: Option<Publishing<'a>> = None;
        poll_fn(move |cx| {
            loop {
                if let Some(published) = &mut publishing {
                    ready!(published.as_mut().poll(cx));
                    publishing = None;
                }
                match self.step(client) {
                    Step::Again => ready!(poll_proceed(cx)).made_progress(),
                    Step::Wait => {
                        let Some(socket) = client.outbox.socket() else { return Poll::Ready(End::Lost) };
                        if ready!(socket.poll_readable(cx)).is_err() {
                            return Poll::Ready(End::Lost);
                        }
                    }
                    Step::Publish(started) => publishing = Some(started),
                    Step::End(end) => return Poll::Ready(end),
                }
            }
        })
    }

    /// Reads once, unless bytes are left, and handles the items in them. The decoder lives on the stack, and moves to the heap if it is
    /// needed afterwards.
    fn step<'a>(&mut self, client: &'a Client) -> Step<'a> {
        let mut decoder = match self.decoder.take() {
            Some(decoder) => *decoder,
            None => client.decoder(),
        };
        // A message that was published before this step has been handled.
        decoder.settle();
        let left = std::mem::take(&mut self.undecoded);
        let mut chunk = [0; CHUNK];
        let read = if left.is_empty() { client.read(&mut decoder, &mut chunk) } else { Ok(Some(&left[..])) };
        let step = match read {
            Ok(None) => Step::End(End::Eof),
            Ok(Some(mut input)) => {
                let step = self.handle_all(client, &mut decoder, &mut input);
                self.undecoded = input.into();
                step
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.set_arriving(client, decoder.is_unfinished());
                Step::Wait
            }
            Err(_) => Step::End(End::Lost),
        };
        if decoder.is_unfinished() || matches!(step, Step::Publish(_)) {
            self.decoder = Some(Box::new(decoder));
        }
        step
    }

    /// Decodes and handles items until `input` is empty, up to a message to publish or [`MAX_ITEMS`].
    fn handle_all<'a>(&mut self, client: &'a Client, decoder: &mut Decoder, input: &mut &[u8]) -> Step<'a> {
        for _ in 0..MAX_ITEMS {
            let item = match decoder.next(input) {
                Ok(Some(item)) => item,
                Ok(None) => break,
                Err(reason) => return Step::End(client.violation(reason, reason.text())),
            };
            if !decoder.is_unfinished() {
                self.set_arriving(client, false);
            }
            match self.handle(client, item) {
                Step::Again => decoder.settle(),
                step => return step,
            }
        }
        Step::Again
    }

    /// Tells the outbox whether a message is arriving. The sweep compares the time.
    fn set_arriving(&mut self, client: &Client, arriving: bool) {
        if self.arriving != arriving {
            self.arriving = arriving;
            client.outbox.set_arriving(arriving.then(Instant::now));
        }
    }

    /// Handles one item.
    fn handle<'a>(&mut self, client: &'a Client, item: Item) -> Step<'a> {
        if let Item::Close(payload) = item {
            client.outbox.closed_by_peer();
            client.outbox.answer(Opcode::Close, &payload);
            return Step::End(End::Handshake);
        }
        let pace = self.pace(client.outbox.shared());
        match (item, pace) {
            (_, Pace::Flood) => return Step::End(client.close_flood()),
            (Item::Pong, _) => client.outbox.pong(),
            (Item::Ping(payload), Pace::Fine) => client.outbox.answer(Opcode::Pong, &payload),
            (Item::Text(text), Pace::Fine) => return Step::Publish(Box::pin(client.publish(text))),
            (Item::NoRoom, _) => {
                client.outbox.shared().metrics.up_no_room.inc();
                client.refuse("the gateway has no room for the message, send it again later");
            }
            (Item::Text(_), Pace::Over) => {
                client.refuse("too many messages (MAX_UP_RATE), this one was dropped: send fewer");
            }
            (Item::Ping(_), Pace::Over) | (Item::Close(_), _) => {}
        }
        Step::Again
    }

    /// Counts a message against the client's rate.
    fn pace(&mut self, shared: &Shared) -> Pace {
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
}

impl Client {
    fn decoder(&self) -> Decoder {
        let shared = self.outbox.shared();
        Decoder::new(shared.max_message, Room::new(shared.inbound.clone()))
    }

    /// Reads from the socket, into the message that is arriving if it has much to come, and otherwise into `chunk`. Returns the bytes to
    /// decode, or `None` at the end of the client's side.
    fn read<'a>(&self, decoder: &mut Decoder, chunk: &'a mut [u8; CHUNK]) -> io::Result<Option<&'a [u8]>> {
        let socket = self.outbox.socket().ok_or(io::ErrorKind::NotConnected)?;
        if let Some(space) = decoder.space(CHUNK) {
            let count = socket.try_read(space)?;
            decoder.read_direct(count);
            return Ok((count > 0).then_some(&[]));
        }
        let count = socket.try_read(chunk)?;
        Ok((count > 0).then_some(&chunk[..count]))
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
        match self.gateway.bus.send_up(self.session, Bytes::from(text)).await {
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
                if poll_fn(|cx| socket.poll_readable(cx)).await.is_err() {
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
