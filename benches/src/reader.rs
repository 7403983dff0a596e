//! Reads all sockets on one thread at the least cost: raw reads into one buffer, frames looked at where they lie, every
//! position checked off. It allocates nothing a token and decodes nothing but a frame's first and last fields.

use crate::{
    dial::{Opened, Socket},
    latency::Latency,
    usage::thread_wait,
};
use ::client::frames::{self, Frames, Message};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use protocol::{Ledger, Owed, Prefix, Tally, monotonic_us};
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
    pub(crate) tally: Tally,
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
    last_us: Option<u64>,
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
            tally: Tally::default(),
            closed: 0,
            strange: 0,
            latency: Latency::new(window),
            waited: 0.0,
        };
        let mut connections = Vec::with_capacity(opened.len());
        for (index, (Opened { socket, early }, generation)) in opened.into_iter().enumerate() {
            socket.watch(&epoll, EpollEvent::new(EpollFlags::EPOLLIN, index as u64))?;
            let (frames, ledger) = Default::default();
            let mut connection = Connection { socket, generation, frames, ledger, last_us: None };
            connection.take(&early, &mut heard)?;
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
        while received < all && !self.is_late() {
            let ready = self.epoll.wait(&mut events, EpollTimeout::ZERO)?;
            for event in &events[..ready] {
                received += self.read(event.data() as usize, &mut buffer)?;
            }
            self.progress.received.store(received, Ordering::Relaxed);
            if ready < EVENTS {
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
            let tally = connection.ledger.tally(expected, Owed::Announced);
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

    /// Reads one socket once; how many tokens were in it.
    fn read(&mut self, index: usize, buffer: &mut [u8]) -> anyhow::Result<u64> {
        let connection = &mut self.connections[index];
        match connection.socket.read(buffer) {
            Ok(length @ 1..) => connection.take(&buffer[..length], &mut self.heard),
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
    fn take(&mut self, bytes: &[u8], heard: &mut Heard) -> anyhow::Result<u64> {
        let now_us = monotonic_us();
        let Self { socket, generation, frames, ledger, last_us } = self;
        let (mut tokens, mut pongs) = (0, Vec::new());
        frames.feed(bytes, |message, _| match message {
            Message::Text(text) => match token(text.as_bytes(), *generation) {
                Some((prefix, sent_us)) => {
                    tokens += 1;
                    ledger.observe(prefix.position.seq, prefix.kind, Some(sent_us));
                    heard.latency.received(sent_us, now_us, last_us.replace(now_us));
                }
                None => heard.strange += 1,
            },
            Message::Ping(payload) => frames::pong(&mut pongs, payload),
            Message::Close(..) | Message::Binary(_) | Message::Pong => heard.strange += 1,
        })?;
        if !pongs.is_empty() {
            socket.write(&pongs)?;
        }
        Ok(tokens)
    }
}

/// A token of this generation, and when it was handed to the bus.
fn token(frame: &[u8], generation: u64) -> Option<(Prefix, u64)> {
    let prefix = Prefix::parse(frame).filter(|prefix| prefix.position.generation == generation)?;
    Some((prefix, last_number(frame.strip_suffix(b"}")?)?))
}

/// The decimal number at the end: `sent_us` is an event's last field.
fn last_number(text: &[u8]) -> Option<u64> {
    let start = text.iter().rposition(|byte| !byte.is_ascii_digit())? + 1;
    let digits = text.get(start..).filter(|digits| !digits.is_empty())?;
    digits.iter().try_fold(0u64, |value, digit| value.checked_mul(10)?.checked_add(u64::from(digit - b'0')))
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
        assert_eq!(token(&frame, 7), Some((prefix, 1_234_567)));
        assert_eq!(token(&frame, 8), None, "another query's");
        for frame in [r#"{"type":"resumed","to":"7-3"}"#, "", r#"{"id":"7-3","type":"token"}"#] {
            assert_eq!(token(frame.as_bytes(), 7), None, "{frame}");
        }
    }
}
