//! One open WebSocket, or one HTTP connection for streams of events. Reads it, decodes its messages with their arrival times, and answers
//! pings and close frames.

use crate::{
    event_loop,
    frames::{self, BadFrame, Frames, Message},
    http_stream::{BadHttp, HttpStream, StreamPart},
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

/// Size of the read buffer in bytes: room for some hundred tokens.
const READ_BUFFER: usize = 32 << 10;
/// Upper limit in bytes of control frames that wait to be sent. Beyond it, pings are not answered.
const MAX_UNSENT: usize = 64 << 10;

/// When a message arrived, and with which read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// The kernel's timestamp if there is one, else the time of the read.
    pub at: Instant,
    /// How much earlier than `at` the message may have arrived, at most.
    pub slack: Duration,
    /// Number of the read within the session, over all its sockets. Messages of one read share it.
    pub read: u64,
}

impl Arrival {
    /// Creates an arrival that is known exactly.
    #[must_use]
    pub const fn exact(at: Instant, read: u64) -> Self {
        Self { at, slack: Duration::ZERO, read }
    }
}

/// The read buffer of a worker. All its sockets share it, because only one of them reads at a time.
#[derive(Default)]
pub struct Buffers(Cell<Option<Box<[u8]>>>);

impl Buffers {
    fn take(self: &Rc<Self>) -> Chunk {
        let bytes = self.0.take().unwrap_or_else(|| vec![0; READ_BUFFER].into());
        Chunk { bytes, length: 0, spread: Duration::ZERO, home: Rc::clone(self) }
    }
}

/// The bytes of one read. Dropping it returns the buffer.
pub struct Chunk {
    bytes: Box<[u8]>,
    length: usize,
    /// How much earlier than the last byte the other bytes may have arrived, at most.
    spread: Duration,
    home: Rc<Buffers>,
}

impl Chunk {
    /// Returns the bytes. Empty at the end of the connection.
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

/// A data message from the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DataMessage<'a> {
    /// A text message, the kind that the contract asks for.
    Text(&'a str),
    /// A binary message.
    Binary(&'a [u8]),
    /// A part of an HTTP response.
    Http(StreamPart<'a>),
}

/// What the bytes of a socket mean.
#[derive(Debug)]
pub(crate) enum Framing {
    /// WebSocket frames.
    WebSocket(Frames),
    /// HTTP responses. The connection carries one request after another.
    Http(HttpStream),
}

/// A violation of the protocol by the server. Nothing more can be read from the socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the messages describe the variants")]
pub enum Violation {
    #[error(transparent)]
    Frame(#[from] BadFrame),
    #[error(transparent)]
    Http(#[from] BadHttp),
}

/// The gateway's close frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CloseFrame {
    /// The code, if there is one.
    pub code: Option<u16>,
    /// The text, which may be empty.
    pub text: String,
}

/// An open socket.
#[derive(Debug)]
pub struct Socket {
    transport: Transport,
    framing: Framing,
    /// The number of the endpoint that it is connected to.
    endpoint: usize,
    /// How many requests were sent over it.
    requests: u64,
    /// The bytes that followed the response to the upgrade.
    early: Bytes,
    /// The boot id of the gateway's host, if the response to the upgrade named it and it was not taken.
    boot_id: Option<Box<str>>,
    /// Control frames that wait to be sent.
    unsent: Vec<u8>,
    /// The transport holds written bytes that need a flush.
    unflushed: bool,
    close_sent: bool,
    last: Arrival,
}

impl Socket {
    /// Creates a socket over `transport`. `early` are the bytes that followed the response to the upgrade. Read numbers continue
    /// after that of `last`.
    pub(crate) fn new(
        transport: Transport,
        framing: Framing,
        endpoint: usize,
        early: Bytes,
        boot_id: Option<Box<str>>,
        last: Arrival,
    ) -> Self {
        let unsent = Vec::new();
        let (unflushed, close_sent) = (false, false);
        Self {
            transport,
            framing,
            endpoint,
            requests: 0,
            early,
            boot_id,
            unsent,
            unflushed,
            close_sent,
            last,
        }
    }

    /// Returns the number of the endpoint that the socket is connected to.
    #[must_use]
    pub const fn endpoint(&self) -> usize {
        self.endpoint
    }

    /// Returns whether a request was sent over the socket.
    #[must_use]
    pub const fn is_used(&self) -> bool {
        self.requests > 0
    }

    /// Returns whether the socket carries HTTP requests.
    #[must_use]
    pub const fn is_http(&self) -> bool {
        matches!(self.framing, Framing::Http(_))
    }

    /// Returns whether a request can be sent: always over a WebSocket, and over HTTP if no response is awaited.
    #[must_use]
    pub const fn is_idle(&self) -> bool {
        match &self.framing {
            Framing::WebSocket(_) => true,
            Framing::Http(stream) => stream.is_idle(),
        }
    }

    /// Sends an HTTP request, or the text message `request` over a WebSocket. What the transport does not accept at once follows with the
    /// next reads.
    pub fn send(&mut self, request: &[u8]) {
        self.requests += 1;
        match &mut self.framing {
            Framing::WebSocket(_) => frames::encode_text(&mut self.unsent, request),
            Framing::Http(stream) => {
                stream.await_response();
                self.unsent.extend_from_slice(request);
            }
        }
        self.send_now();
    }

    /// Sends a text message that is no question, over a WebSocket. Too many that wait to be sent are dropped.
    pub fn send_beside(&mut self, text: &str) {
        if matches!(self.framing, Framing::WebSocket(_)) && self.unsent.len() < MAX_UNSENT {
            frames::encode_text(&mut self.unsent, text.as_bytes());
            self.send_now();
        }
    }

    /// Takes the boot id of the gateway's host, if the gateway named it.
    pub fn take_boot_id(&mut self) -> Option<Box<str>> {
        self.boot_id.take()
    }

    /// Returns the arrival of the last read that had bytes.
    #[must_use]
    pub const fn last(&self) -> Arrival {
        self.last
    }

    /// Waits for bytes and reads once. Cancel safe: the future may be dropped and created again at any time.
    ///
    /// # Errors
    /// The connection broke.
    pub async fn read(&mut self, buffers: &Rc<Buffers>) -> io::Result<Chunk> {
        poll_fn(|cx| self.poll_read(cx, buffers)).await
    }

    fn poll_read(&mut self, cx: &mut Context<'_>, buffers: &Rc<Buffers>) -> Poll<io::Result<Chunk>> {
        if let Poll::Ready(Err(_)) = self.poll_send(cx) {
            // Not returned yet: bytes that arrived before the connection broke, perhaps a close frame, are read first. The
            // read after them fails as well.
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
            // The previous read emptied the socket, so that these bytes arrived after it.
            chunk.spread = slack.max(at.saturating_duration_since(before.at));
            if self.is_http() && !full {
                // One write of a server often holds the last token, the usage and the end. The loop would have seen earlier bytes earlier.
                let now = Instant::now();
                let unseen = event_loop::unseen(now).saturating_sub(now.saturating_duration_since(at));
                chunk.spread = slack.max(chunk.spread.min(unseen));
            }
            let slack = if full { chunk.spread } else { slack };
            self.last = Arrival { at, slack, read: before.read + 1 };
        }
        Poll::Ready(Ok(chunk))
    }

    /// Reads once without waiting, even if the runtime has not noticed the bytes. `None` if there are none.
    ///
    /// # Errors
    /// The connection broke.
    pub fn read_now(&mut self, buffers: &Rc<Buffers>) -> Option<io::Result<Chunk>> {
        self.transport.tcp_mut().read_at_once(true);
        let read = poll_fn(|cx| self.poll_read(cx, buffers)).now_or_never();
        self.transport.tcp_mut().read_at_once(false);
        read
    }

    /// Calls `take` with each message that `chunk` completes and with its arrival. Returns the close frame, if it arrived. The
    /// next read sends the answers to pings.
    ///
    /// # Errors
    /// The gateway broke the protocol. `take` was called with the messages before that.
    pub fn decode(
        &mut self,
        chunk: &Chunk,
        mut take: impl FnMut(DataMessage<'_>, Arrival),
    ) -> Result<Option<CloseFrame>, Violation> {
        let Self { framing, unsent, close_sent, last, .. } = self;
        // Only a message that ends with the last byte is known to have arrived with it.
        let (end, inside) = (*last, Arrival { slack: chunk.spread, ..*last });
        let arrival = |is_end| if is_end { end } else { inside };
        let mut close = None;
        let frames = match framing {
            Framing::WebSocket(frames) => frames,
            Framing::Http(stream) if chunk.bytes().is_empty() => {
                stream.finish(|part, is_end| take(DataMessage::Http(part), arrival(is_end)))?;
                return Ok(None);
            }
            Framing::Http(stream) => {
                stream.feed(chunk.bytes(), |part, is_end| take(DataMessage::Http(part), arrival(is_end)))?;
                return Ok(None);
            }
        };
        frames.feed(chunk.bytes(), |message, is_end| match message {
            Message::Text(text) => take(DataMessage::Text(text), arrival(is_end)),
            Message::Binary(bytes) => take(DataMessage::Binary(bytes), arrival(is_end)),
            Message::Ping(payload) if unsent.len() < MAX_UNSENT => frames::encode_pong(unsent, payload),
            Message::Close(code, text) => {
                if !std::mem::replace(close_sent, true) {
                    frames::encode_close(unsent, code);
                }
                close = Some(CloseFrame { code, text: text.to_owned() });
            }
            Message::Ping(_) | Message::Pong => {}
        })?;
        Ok(close)
    }

    /// Sends as much of the waiting control frames as the transport accepts at once.
    pub fn send_now(&mut self) {
        let _ = poll_fn(|cx| self.poll_send(cx)).now_or_never();
    }

    /// Sends a close frame and waits until the transport has accepted it. The socket can still be read.
    ///
    /// # Errors
    /// The connection broke.
    pub async fn send_close(&mut self) -> io::Result<()> {
        if self.is_http() {
            return Ok(());
        }
        if !std::mem::replace(&mut self.close_sent, true) {
            frames::encode_close(&mut self.unsent, None);
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
            // Frees the buffer: it is needed only about every half minute, for a ping.
            *unsent = Vec::new();
            ready!(Pin::new(transport).poll_flush(cx))?;
            *unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Makes the socket end with a TCP reset when it is dropped, without a close frame or TLS closure, as if its host had failed.
    pub fn reset_when_dropped(&self) {
        let _ = SockRef::from(self.transport.tcp().stream()).set_linger(Some(Duration::ZERO));
    }
}

/// A TCP connection, with or without TLS.
#[derive(Debug)]
pub enum Transport {
    /// The transport of `ws://`.
    Plain(Tcp),
    /// The transport of `wss://`.
    Tls(Box<TlsStream<Tcp>>),
}

impl Transport {
    /// Returns whether the connection uses TLS.
    pub(crate) const fn is_tls(&self) -> bool {
        matches!(self, Self::Tls(_))
    }

    /// Returns the TCP connection.
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
