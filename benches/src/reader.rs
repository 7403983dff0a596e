//! Reads all sockets on one thread at the least cost. It reads into one buffer, parses frames in place and records every
//! position. Per token it allocates nothing, and decodes only the first and last fields of the frame. Rolled frames are decoded completely.

use crate::{
    dial::{Opened, Socket},
    latency::{Arrival, Latency},
};
use host::{Waited, monotonic_us};
use load::frames::{self, Frames, Message};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use protocol::{EventCounts, ExpectedRange, Frame, Ledger, Prefix};
use std::{
    io::ErrorKind,
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

const BUFFER: usize = 64 << 10;
const EVENTS: usize = 1024;
/// Time between two polls of the sockets. A reader that waits in `epoll_wait` is woken for every token, and the writer pays for
/// that. This reader sleeps instead, because a client on another machine would not cost wake-ups here either. Delivery
/// times are too high by up to this time.
const PAUSE: Duration = Duration::from_millis(1);

/// State that the reader shares with the tasks that wait for it.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// Tokens received so far.
    pub(crate) received: AtomicU64,
    /// When missing tokens count as lost, in wire time. 0 while it is unknown.
    pub(crate) deadline_us: AtomicU64,
}

/// What the reader received.
#[derive(Debug)]
pub(crate) struct Received {
    pub(crate) tally: EventCounts,
    /// Connections that ended.
    pub(crate) closed: u64,
    pub(crate) latency: Latency,
    /// Share of the time for which the thread waited for a CPU.
    pub(crate) waited: f64,
}

struct Connection {
    socket: Socket,
    generation: u64,
    frames: Frames,
    ledger: Ledger,
    last: Option<Arrival>,
}

/// Reads all connections of a load.
pub(crate) struct Reader {
    connections: Vec<Connection>,
    epoll: Epoll,
    progress: Arc<Progress>,
    expected: u64,
    received: Received,
}

impl Reader {
    /// Creates a reader of these connections and the generations of their queries. Each connection should receive `expected` tokens.
    ///
    /// # Errors
    /// A socket cannot be watched, or the gateway sent a malformed frame.
    pub(crate) fn new(
        opened: Vec<(Opened, u64)>,
        expected: u64,
        window: Range<u64>,
        progress: Arc<Progress>,
    ) -> anyhow::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let mut received =
            Received { tally: EventCounts::default(), closed: 0, latency: Latency::new(window), waited: 0.0 };
        let mut connections = Vec::with_capacity(opened.len());
        for (index, (Opened { socket, early }, generation)) in opened.into_iter().enumerate() {
            socket.watch(&epoll, EpollEvent::new(EpollFlags::EPOLLIN, index as u64))?;
            let (frames, ledger) = Default::default();
            let mut connection = Connection { socket, generation, frames, ledger, last: None };
            connection.take(&early, monotonic_us(), &mut received)?;
            connections.push(connection);
        }
        Ok(Self { connections, epoll, progress, expected, received })
    }

    /// Reads until every token has arrived or the deadline is over. The sockets stay open as long as `self` lives.
    ///
    /// # Errors
    /// The gateway sent a malformed frame.
    pub(crate) fn run(&mut self) -> anyhow::Result<()> {
        let (began, waited) = (Instant::now(), Waited::of_this_thread().unwrap_or_default());
        let all = self.expected * self.connections.len() as u64;
        let mut buffer = vec![0; BUFFER];
        let mut events = vec![EpollEvent::empty(); EVENTS];
        let mut received = 0;
        // What is read now arrived after the last poll of all sockets, or that poll would have found it.
        let mut polled_us = monotonic_us();
        while received < all && !self.is_late() {
            let poll_us = monotonic_us();
            let ready = self.epoll.wait(&mut events, EpollTimeout::ZERO)?;
            for event in &events[..ready] {
                received += self.read(event.data() as usize, polled_us, &mut buffer)?;
            }
            self.progress.received.store(received, Ordering::Relaxed);
            if ready < EVENTS {
                polled_us = poll_us;
                thread::sleep(PAUSE);
            }
        }
        let waited = Waited::of_this_thread().unwrap_or_default().since(waited).time;
        self.received.waited = waited.as_secs_f64() / began.elapsed().as_secs_f64().max(1e-3);
        Ok(())
    }

    /// Closes the sockets and returns what was received.
    pub(crate) fn finish(self) -> Received {
        let Self { connections, mut received, expected, .. } = self;
        for connection in &connections {
            let tally = connection.ledger.counts(expected, ExpectedRange::Announced);
            received.tally.tokens_received += tally.tokens_received;
            received.tally.tokens_lost += tally.tokens_lost;
            received.tally.tokens_duplicated += tally.tokens_duplicated;
            received.tally.tokens_reordered += tally.tokens_reordered;
        }
        received
    }

    fn is_late(&self) -> bool {
        let deadline_us = self.progress.deadline_us.load(Ordering::Relaxed);
        deadline_us != 0 && monotonic_us() > deadline_us
    }

    /// Reads one socket once, which was last polled at `polled_us`. Returns the number of tokens.
    fn read(&mut self, index: usize, polled_us: u64, buffer: &mut [u8]) -> anyhow::Result<u64> {
        let connection = &mut self.connections[index];
        match connection.socket.read(buffer) {
            Ok(length @ 1..) => connection.take(&buffer[..length], polled_us, &mut self.received),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(0),
            Ok(0) | Err(_) => {
                connection.socket.forget(&self.epoll)?;
                self.received.closed += 1;
                Ok(0)
            }
        }
    }
}

impl Connection {
    /// Processes the bytes of one read. Returns the number of tokens.
    fn take(&mut self, bytes: &[u8], polled_us: u64, received: &mut Received) -> anyhow::Result<u64> {
        let received_us = monotonic_us();
        let slack_us = received_us.saturating_sub(polled_us);
        let Self { socket, generation, frames, ledger, last } = self;
        let (mut tokens, mut pongs) = (0, Vec::new());
        frames.feed(bytes, |message, _| match message {
            // Other frames are ignored: a missing token is found by its position.
            Message::Text(text) => {
                let mut take = |seq, kind, [due_us, sent_us]: [u64; 2]| {
                    tokens += 1;
                    ledger.observe(seq, kind, Some(sent_us));
                    let arrival = Arrival { due_us, sent_us, received_us, slack_us };
                    received.latency.received(&arrival, last.replace(arrival).as_ref());
                };
                if let Some((prefix, times)) = token(text.as_bytes(), *generation) {
                    take(prefix.position.seq, prefix.kind, times);
                } else if let Ok(Frame::Tokens(tokens)) = Frame::parse(text) {
                    for event in tokens.events() {
                        let Some(at) = event.position.filter(|at| at.generation == *generation) else {
                            break;
                        };
                        if let (Some(due_us), Some(sent_us)) = (event.due_us, event.sent_us) {
                            take(at.seq, event.kind, [due_us, sent_us]);
                        }
                    }
                }
            }
            Message::Ping(payload) => frames::encode_pong(&mut pongs, payload),
            Message::Close(..) | Message::Binary(_) | Message::Pong => {}
        })?;
        if !pongs.is_empty() {
            socket.write(&pongs)?;
        }
        Ok(tokens)
    }
}

/// Returns the prefix of a token of this generation, and its times `due_us` and `sent_us`, which are the last fields of an event.
fn token(frame: &[u8], generation: u64) -> Option<(Prefix, [u64; 2])> {
    let prefix = Prefix::parse(frame).filter(|prefix| prefix.position.generation == generation)?;
    let (sent_us, before) = last_number(frame.strip_suffix(b"}")?)?;
    let (due_us, _) = last_number(before.strip_suffix(br#","sent_us":"#)?)?;
    Some((prefix, [due_us, sent_us]))
}

/// Returns the decimal number at the end of `text`, and the text before it.
pub(crate) fn last_number(text: &[u8]) -> Option<(u64, &[u8])> {
    let start = text.iter().rposition(|byte| !byte.is_ascii_digit())? + 1;
    let digits = text.get(start..).filter(|digits| !digits.is_empty())?;
    let number = digits
        .iter()
        .try_fold(0u64, |value, digit| value.checked_mul(10)?.checked_add(u64::from(digit - b'0')))?;
    Some((number, &text[..start]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::{Kind, Position, encode_token};

    #[test]
    fn a_token_has_a_position_and_times() {
        let position = Position::new(7, 3);
        let mut frame = Vec::new();
        encode_token(&mut frame, position, "x", "q", 5, 1_234_567);
        let prefix = Prefix { position, kind: Kind::Token };
        assert_eq!(token(&frame, 7), Some((prefix, [5, 1_234_567])));
        assert_eq!(token(&frame, 8), None, "another query's");
        for frame in [r#"{"type":"resumed","to":"7-3"}"#, "", r#"{"id":"7-3","type":"token"}"#] {
            assert_eq!(token(frame.as_bytes(), 7), None, "{frame}");
        }
    }
}
