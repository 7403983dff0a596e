//! Reads all sockets on one thread at the least cost: raw reads into one buffer, frames looked at where they lie, every
//! position checked off. It allocates nothing a token and decodes nothing but a frame's first and last fields.

use crate::{
    dial::{Opened, Socket},
    latency::{Arrival, Latency},
    usage::thread_wait,
};
use host::monotonic_us;
use load::frames::{self, Frames, Message};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use protocol::{EventCounts, ExpectedRange, Ledger, Prefix};
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
/// Between two looks at the sockets. A reader that sleeps in `epoll_wait` is woken for every token, and whoever writes pays
/// for that; one that naps is not, as a client on another machine would not be. It adds as much to the delivery.
const NAP: Duration = Duration::from_millis(1);

/// What the reader and those who wait for it share.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// Tokens received so far.
    pub(crate) received: AtomicU64,
    /// When to give up what is missing, in wire time; 0 while it is not known.
    pub(crate) deadline_us: AtomicU64,
}

/// What came.
#[derive(Debug)]
pub(crate) struct Heard {
    pub(crate) tally: EventCounts,
    /// Connections that ended.
    pub(crate) closed: u64,
    /// Frames that were no token of the connection's query.
    pub(crate) strange: u64,
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

/// All connections, before they are read.
pub(crate) struct Reader {
    connections: Vec<Connection>,
    epoll: Epoll,
    progress: Arc<Progress>,
    expected: u64,
    heard: Heard,
}

impl Reader {
    /// `expected` tokens on each of these connections, which are given with their generations.
    pub(crate) fn new(
        opened: Vec<(Opened, u64)>,
        expected: u64,
        window: Range<u64>,
        progress: Arc<Progress>,
    ) -> anyhow::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let mut heard = Heard {
            tally: EventCounts::default(),
            closed: 0,
            strange: 0,
            latency: Latency::new(window),
            waited: 0.0,
        };
        let mut connections = Vec::with_capacity(opened.len());
        for (index, (Opened { socket, early }, generation)) in opened.into_iter().enumerate() {
            socket.watch(&epoll, EpollEvent::new(EpollFlags::EPOLLIN, index as u64))?;
            let (frames, ledger) = Default::default();
            let mut connection = Connection { socket, generation, frames, ledger, last: None };
            connection.take(&early, monotonic_us(), &mut heard)?;
            connections.push(connection);
        }
        Ok(Self { connections, epoll, progress, expected, heard })
    }

    /// Reads until everything has come, or the deadline is over. Keeps the sockets open as long as `self` lives.
    pub(crate) fn run(&mut self) -> anyhow::Result<()> {
        let (began, waited) = (Instant::now(), thread_wait().unwrap_or_default());
        let all = self.expected * self.connections.len() as u64;
        let mut buffer = vec![0; BUFFER];
        let mut events = vec![EpollEvent::empty(); EVENTS];
        let mut received = 0;
        // What is read came after the last look that saw all sockets, or that look would have found it.
        let mut looked_us = monotonic_us();
        while received < all && !self.is_late() {
            let look_us = monotonic_us();
            let ready = self.epoll.wait(&mut events, EpollTimeout::ZERO)?;
            for event in &events[..ready] {
                received += self.read(event.data() as usize, looked_us, &mut buffer)?;
            }
            self.progress.received.store(received, Ordering::Relaxed);
            if ready < EVENTS {
                looked_us = look_us;
                thread::sleep(NAP);
            }
        }
        let waited = thread_wait().unwrap_or(Duration::ZERO).saturating_sub(waited);
        self.heard.waited = waited.as_secs_f64() / began.elapsed().as_secs_f64().max(1e-3);
        Ok(())
    }

    /// Closes the sockets.
    pub(crate) fn finish(self) -> Heard {
        let Self { connections, mut heard, expected, .. } = self;
        for connection in &connections {
            let tally = connection.ledger.counts(expected, ExpectedRange::Announced);
            heard.tally.tokens_received += tally.tokens_received;
            heard.tally.tokens_lost += tally.tokens_lost;
            heard.tally.tokens_duplicated += tally.tokens_duplicated;
            heard.tally.tokens_reordered += tally.tokens_reordered;
        }
        heard
    }

    fn is_late(&self) -> bool {
        let deadline_us = self.progress.deadline_us.load(Ordering::Relaxed);
        deadline_us != 0 && monotonic_us() > deadline_us
    }

    /// Reads one socket once, which was last looked at at `looked_us`; how many tokens were in it.
    fn read(&mut self, index: usize, looked_us: u64, buffer: &mut [u8]) -> anyhow::Result<u64> {
        let connection = &mut self.connections[index];
        match connection.socket.read(buffer) {
            Ok(length @ 1..) => connection.take(&buffer[..length], looked_us, &mut self.heard),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(0),
            Ok(0) | Err(_) => {
                connection.socket.forget(&self.epoll)?;
                self.heard.closed += 1;
                Ok(0)
            }
        }
    }
}

impl Connection {
    /// Takes what one read brought; how many tokens were in it.
    fn take(&mut self, bytes: &[u8], looked_us: u64, heard: &mut Heard) -> anyhow::Result<u64> {
        let received_us = monotonic_us();
        let slack_us = received_us.saturating_sub(looked_us);
        let Self { socket, generation, frames, ledger, last } = self;
        let (mut tokens, mut pongs) = (0, Vec::new());
        frames.feed(bytes, |message, _| match message {
            Message::Text(text) => match token(text.as_bytes(), *generation) {
                Some((prefix, [due_us, sent_us])) => {
                    tokens += 1;
                    ledger.observe(prefix.position.seq, prefix.kind, Some(sent_us));
                    let arrival = Arrival { due_us, sent_us, received_us, slack_us };
                    heard.latency.received(&arrival, last.replace(arrival).as_ref());
                }
                None => heard.strange += 1,
            },
            Message::Ping(payload) => frames::encode_pong(&mut pongs, payload),
            Message::Close(..) | Message::Binary(_) | Message::Pong => heard.strange += 1,
        })?;
        if !pongs.is_empty() {
            socket.write(&pongs)?;
        }
        Ok(tokens)
    }
}

/// A token of this generation, when it was due and when it was handed to the bus: the last fields of an event.
fn token(frame: &[u8], generation: u64) -> Option<(Prefix, [u64; 2])> {
    let prefix = Prefix::parse(frame).filter(|prefix| prefix.position.generation == generation)?;
    let (sent_us, before) = last_number(frame.strip_suffix(b"}")?)?;
    let (due_us, _) = last_number(before.strip_suffix(br#","sent_us":"#)?)?;
    Some((prefix, [due_us, sent_us]))
}

/// The decimal number at the end, and what is before it.
fn last_number(text: &[u8]) -> Option<(u64, &[u8])> {
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
    fn a_token_tells_its_place_and_its_time() {
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
