//! One open WebSocket: its frames cut where a read put them, and a note of when each read brought bytes.
//! It opens nothing, does not reconnect and judges no message.

use crate::{
    frames::{self, BadFrame, Frames, Message},
    tcp::Tcp,
};
use bytes::{Buf, Bytes};
use futures_util::FutureExt;
use socket2::SockRef;
use std::{
    cell::Cell,
    fmt,
    future::poll_fn,
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::client::TlsStream;

/// Some hundred tokens.
const READ_BUFFER: usize = 32 << 10;
/// Control frames that wait for the transport; beyond this a ping has no answer.
const MAX_UNSENT: usize = 64 << 10;
/// When bytes came, and with which read: frames of one read share the number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// The moment of their arrival by the kernel, or of the read.
    pub at: Instant,
    /// How much earlier they may have arrived.
    pub slack: Duration,
    /// Counts the reads of a session, over all its sockets.
    pub read: u64,
}

impl Arrival {
    /// An arrival that is known exactly.
    #[must_use]
    pub const fn exact(at: Instant, read: u64) -> Self {
        Self { at, slack: Duration::ZERO, read }
    }
}

/// Where reads land. All sockets of a worker share one buffer, as only one of them reads at a time.
#[derive(Default)]
pub struct Buffers(Cell<Option<Box<[u8]>>>);

impl Buffers {
    fn take(self: &Rc<Self>) -> Chunk {
        let bytes = self.0.take().unwrap_or_else(|| vec![0; READ_BUFFER].into());
        Chunk { bytes, length: 0, inside: Duration::ZERO, home: Rc::clone(self) }
    }
}

/// What one read brought; its buffer is used again afterwards.
pub struct Chunk {
    bytes: Box<[u8]>,
    length: usize,
    /// How much earlier than its last byte the others may have arrived.
    inside: Duration,
    home: Rc<Buffers>,
}

impl Chunk {
    /// The bytes; none at the connection's end.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

impl fmt::Debug for Chunk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Chunk").field("length", &self.length).finish_non_exhaustive()
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        self.home.0.set(Some(std::mem::take(&mut self.bytes)));
    }
}

/// A message that came down a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard<'a> {
    /// A text, as the contract has it.
    Text(&'a str),
    /// A binary message.
    Binary(&'a [u8]),
}

/// The peer's last word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Farewell {
    /// Its code, where it gave one.
    pub code: Option<u16>,
    /// Its text.
    pub text: String,
}

/// An open socket.
#[derive(Debug)]
pub struct Socket {
    transport: Transport,
    frames: Frames,
    /// What came right behind the answer to the upgrade.
    early: Bytes,
    /// Control frames that the transport has not taken yet.
    unsent: Vec<u8>,
    /// The transport has taken what it may not have sent.
    unflushed: bool,
    said_farewell: bool,
    last: Arrival,
}

impl Socket {
    /// A socket over `transport` that brought `early` with the answer to the upgrade; its reads count on from `last`.
    pub(crate) fn new(transport: Transport, early: Bytes, last: Arrival) -> Self {
        let (frames, unsent) = Default::default();
        Self { transport, frames, early, unsent, unflushed: false, said_farewell: false, last }
    }

    /// The last read that brought bytes.
    #[must_use]
    pub const fn last(&self) -> Arrival {
        self.last
    }

    /// Waits for bytes and reads once. May be dropped and called again at any time.
    ///
    /// # Errors
    /// The connection broke.
    pub async fn read(&mut self, buffers: &Rc<Buffers>) -> io::Result<Chunk> {
        poll_fn(|cx| self.poll_read(cx, buffers)).await
    }

    fn poll_read(&mut self, cx: &mut Context<'_>, buffers: &Rc<Buffers>) -> Poll<io::Result<Chunk>> {
        if let Poll::Ready(Err(_)) = self.poll_send(cx) {
            // What came before the connection broke, a close frame at best, is still to be read; then the read says it too.
            self.unsent = Vec::new();
        }
        let mut chunk = buffers.take();
        if self.early.has_remaining() {
            chunk.length = self.early.remaining().min(chunk.bytes.len());
            self.early.copy_to_slice(&mut chunk.bytes[..chunk.length]);
            if !self.early.has_remaining() {
                self.early = Bytes::new();
            }
        } else {
            let mut space = ReadBuf::new(&mut chunk.bytes);
            ready!(Pin::new(&mut self.transport).poll_read(cx, &mut space))?;
            chunk.length = space.filled().len();
        }
        if chunk.length > 0 {
            let before = self.last;
            let arrived = self.transport.tcp().arrived();
            let (at, slack, full) = arrived.map_or_else(
                || (Instant::now(), Duration::ZERO, false),
                |arrived| (arrived.at, arrived.slack, arrived.full),
            );
            // The read before took all that was there then.
            chunk.inside = slack.max(at.saturating_duration_since(before.at));
            let slack = if full { chunk.inside } else { slack };
            self.last = Arrival { at, slack, read: before.read + 1 };
        }
        Poll::Ready(Ok(chunk))
    }

    /// Reads once what is there by now, whether or not the runtime has noticed; `None`: nothing is.
    ///
    /// # Errors
    /// The connection broke.
    pub fn read_now(&mut self, buffers: &Rc<Buffers>) -> Option<io::Result<Chunk>> {
        self.transport.tcp_mut().read_at_once(true);
        let read = poll_fn(|cx| self.poll_read(cx, buffers)).now_or_never();
        self.transport.tcp_mut().read_at_once(false);
        read
    }

    /// Shows the messages that `chunk` completes to `take`, and when each arrived; pings are answered with the next read. The farewell, if it came.
    ///
    /// # Errors
    /// The peer broke the protocol; the messages before that were shown.
    pub fn hear(
        &mut self,
        chunk: &Chunk,
        mut take: impl FnMut(Heard<'_>, Arrival),
    ) -> Result<Option<Farewell>, BadFrame> {
        let Self { frames, unsent, said_farewell, last, .. } = self;
        let (end, inside) = (*last, Arrival { slack: chunk.inside, ..*last });
        let arrival = |is_end| if is_end { end } else { inside };
        let mut farewell = None;
        frames.feed(chunk.bytes(), |message, is_end| match message {
            Message::Text(text) => take(Heard::Text(text), arrival(is_end)),
            Message::Binary(bytes) => take(Heard::Binary(bytes), arrival(is_end)),
            Message::Ping(payload) if unsent.len() < MAX_UNSENT => frames::pong(unsent, payload),
            Message::Close(code, text) => {
                if !std::mem::replace(said_farewell, true) {
                    frames::farewell(unsent, code);
                }
                farewell = Some(Farewell { code, text: text.to_owned() });
            }
            Message::Ping(_) | Message::Pong => {}
        })?;
        Ok(farewell)
    }

    /// Hands the transport what it takes at once of what is still to be sent.
    pub fn send_now(&mut self) {
        let _ = poll_fn(|cx| self.poll_send(cx)).now_or_never();
    }

    /// Says that the client is done, and waits until the transport has taken it. What still comes can be read.
    ///
    /// # Errors
    /// The connection broke.
    pub async fn say_farewell(&mut self) -> io::Result<()> {
        if !std::mem::replace(&mut self.said_farewell, true) {
            frames::farewell(&mut self.unsent, None);
        }
        poll_fn(|cx| self.poll_send(cx)).await
    }

    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { transport, unsent, unflushed, .. } = self;
        while !unsent.is_empty() {
            let sent = ready!(Pin::new(&mut *transport).poll_write(cx, unsent))?;
            unsent.drain(..sent);
            *unflushed = true;
        }
        if *unflushed {
            // A ping every half minute needs no buffer in between.
            *unsent = Vec::new();
            ready!(Pin::new(transport).poll_flush(cx))?;
            *unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Once dropped, the connection ends as if its host had gone: with a reset, and no farewell of any layer.
    pub fn reset_when_dropped(&self) {
        let _ = SockRef::from(self.transport.tcp().stream()).set_linger(Some(Duration::ZERO));
    }
}

/// TCP, with or without TLS.
#[derive(Debug)]
pub enum Transport {
    /// `ws://`
    Plain(Tcp),
    /// `wss://`
    Tls(Box<TlsStream<Tcp>>),
}

impl Transport {
    /// Whether there is TLS over it.
    pub(crate) const fn is_tls(&self) -> bool {
        matches!(self, Self::Tls(_))
    }

    /// The connection below.
    pub(crate) fn tcp(&self) -> &Tcp {
        match self {
            Self::Plain(stream) => stream,
            Self::Tls(stream) => stream.get_ref().0,
        }
    }

    fn tcp_mut(&mut self) -> &mut Tcp {
        match self {
            Self::Plain(stream) => stream,
            Self::Tls(stream) => stream.get_mut().0,
        }
    }
}

impl AsyncRead for Transport {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Transport {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
