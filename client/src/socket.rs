//! One WebSocket: our own TCP connection with small buffers, and a note of when each read brought bytes.
//! It does not reconnect and judges no frame.

use crate::{
    backoff::{is_retryable, retry_after},
    config::Target,
    secret::Secret,
};
use anyhow::Context as _;
use http::{HeaderMap, HeaderValue, Request, StatusCode, header};
use protocol::{Position, SessionId};
use rustls::pki_types::ServerName;
use socket2::SockRef;
use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpSocket, TcpStream},
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_tungstenite::{
    WebSocketStream, client_async_with_config,
    tungstenite::{Error, handshake::client::generate_key, protocol::WebSocketConfig},
};

/// TCP, TLS, upgrade and a live subscription take no longer than this.
const OPEN_TIMEOUT: Duration = Duration::from_secs(30);
/// A coalesced read or two. It is zeroed for every read, so that a large one costs more than it saves.
const READ_BUFFER: usize = 1024;
const WRITE_BUFFER: usize = 256;
/// Some tens of tokens: a reader who stops is felt at the other end within seconds.
const NARROW_BUFFER: u32 = 4096;
const MAX_WRITE_BUFFER: usize = 64 * 1024;
const MAX_MESSAGE: usize = 16 << 20;

/// An open socket.
pub type Socket = WebSocketStream<Stamped<Transport>>;

/// When bytes came, and with which read: frames of one read share the number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// The moment of the read.
    pub at: Instant,
    /// Counts the reads of a session, over all its sockets.
    pub read: u64,
}

/// Notes the moment and the number of each read that brings bytes.
#[derive(Debug)]
pub struct Stamped<S> {
    inner: S,
    last: Arrival,
}

impl<S> Stamped<S> {
    /// Counts on from `last`.
    pub const fn new(inner: S, last: Arrival) -> Self {
        Self { inner, last }
    }

    /// The last read that brought bytes.
    pub const fn last(&self) -> Arrival {
        self.last
    }
}

impl Stamped<Transport> {
    /// Once dropped, the connection ends as if its host had gone: with a reset, and no farewell of any layer.
    pub fn reset_when_dropped(&self) {
        let _ = SockRef::from(self.inner.tcp()).set_linger(Some(Duration::ZERO));
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Stamped<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(cx, buf))?;
        if buf.filled().len() > before {
            self.last = Arrival { at: Instant::now(), read: self.last.read + 1 };
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Stamped<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

/// TCP, with or without TLS.
#[derive(Debug)]
pub enum Transport {
    /// `ws://`
    Plain(TcpStream),
    /// `wss://`
    Tls(Box<TlsStream<TcpStream>>),
}

impl Transport {
    fn tcp(&self) -> &TcpStream {
        match self {
            Self::Plain(stream) => stream,
            Self::Tls(stream) => stream.get_ref().0,
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

/// Why a socket could not be opened.
#[derive(Clone, Debug)]
pub struct OpenError {
    /// The answer to the upgrade, where there was one.
    pub status: Option<u16>,
    /// For a person.
    pub message: String,
    /// Worth another attempt, after at least this long.
    pub again: Option<Duration>,
}

/// Opens sockets to one gateway.
pub struct Connector {
    addresses: Vec<SocketAddr>,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    base: String,
    host: HeaderValue,
    path: String,
    headers: HeaderMap,
    token: Option<Secret>,
}

impl Connector {
    /// Resolves the gateway's host, once for the whole run.
    ///
    /// # Errors
    /// The host has no address, or its name cannot stand in a certificate.
    pub async fn resolve(target: &Target, tls: Arc<rustls::ClientConfig>) -> anyhow::Result<Self> {
        let url = &target.ws;
        let host = url.host_str().unwrap_or_default();
        let port = url.port_or_known_default().unwrap_or(80);
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let addresses: Vec<_> = tokio::net::lookup_host((bare, port))
            .await
            .with_context(|| format!("cannot resolve the host of {url}"))?
            .collect();
        anyhow::ensure!(!addresses.is_empty(), "the host of {url} has no address");
        let secure = url.scheme() == "wss";
        let name =
            || ServerName::try_from(bare.to_owned()).with_context(|| format!("{bare} is no server name"));
        let authority = url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
        Ok(Self {
            tls: if secure { Some((TlsConnector::from(tls), name()?)) } else { None },
            base: format!("{}://{authority}{}", url.scheme(), url.path().trim_end_matches('/')),
            host: HeaderValue::from_str(&authority)?,
            path: target.ws_path.replace("{agent}", &target.agent),
            headers: target.headers.clone(),
            token: target.token.clone(),
            addresses,
        })
    }

    /// The gateway's addresses.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Opens the socket of `session`, after `resume` where it had one before. The answer means: the subscription is live.
    ///
    /// # Errors
    /// No connection, or another answer than 101.
    pub async fn open(
        &self,
        session: SessionId,
        token: &Secret,
        resume: Option<Position>,
        last_read: u64,
        narrow: bool,
    ) -> Result<Socket, OpenError> {
        let token = self.token.as_ref().unwrap_or(token);
        let request = self.request(session, token, resume).map_err(|error| OpenError {
            status: None,
            message: format!("cannot open {}: {error}", self.base),
            again: None,
        })?;
        let opening = async {
            let transport = self.transport(narrow).await.map_err(|error| broken(&self.base, &error))?;
            let stamped = Stamped::new(transport, Arrival { at: Instant::now(), read: last_read });
            let config = WebSocketConfig::default()
                .read_buffer_size(READ_BUFFER)
                .write_buffer_size(WRITE_BUFFER)
                .max_write_buffer_size(MAX_WRITE_BUFFER)
                .max_message_size(Some(MAX_MESSAGE))
                .max_frame_size(Some(MAX_MESSAGE));
            match client_async_with_config(request, stamped, Some(config)).await {
                Ok((socket, _)) => Ok(socket),
                Err(Error::Http(answer)) => Err(refused(&self.base, answer.status(), answer.headers())),
                Err(error) => Err(broken(&self.base, &error)),
            }
        };
        tokio::time::timeout(OPEN_TIMEOUT, opening).await.unwrap_or_else(|_| {
            Err(OpenError {
                status: None,
                message: format!(
                    "{} did not answer the upgrade within {} s",
                    self.base,
                    OPEN_TIMEOUT.as_secs()
                ),
                again: Some(Duration::ZERO),
            })
        })
    }

    async fn transport(&self, narrow: bool) -> io::Result<Transport> {
        let stream =
            if narrow { self.narrow().await? } else { TcpStream::connect(self.addresses.as_slice()).await? };
        stream.set_nodelay(true)?;
        match &self.tls {
            None => Ok(Transport::Plain(stream)),
            Some((tls, name)) => Ok(Transport::Tls(Box::new(tls.connect(name.clone(), stream).await?))),
        }
    }

    /// A connection whose receive buffer must be small before it is made: the window is agreed upon then.
    async fn narrow(&self) -> io::Result<TcpStream> {
        let mut failed = io::Error::from(io::ErrorKind::AddrNotAvailable);
        for &address in &self.addresses {
            let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
            socket.set_recv_buffer_size(NARROW_BUFFER)?;
            match socket.connect(address).await {
                Ok(stream) => return Ok(stream),
                Err(error) => failed = error,
            }
        }
        Err(failed)
    }

    fn request(
        &self,
        session: SessionId,
        token: &Secret,
        resume: Option<Position>,
    ) -> Result<Request<()>, http::Error> {
        let path = self.path.replace("{session}", &session.to_string());
        let mut request = Request::get(format!("{}{path}", self.base))
            .header(header::HOST, self.host.clone())
            .header(header::CONNECTION, "Upgrade")
            .header(header::UPGRADE, "websocket")
            .header(header::SEC_WEBSOCKET_VERSION, "13")
            .header(header::SEC_WEBSOCKET_KEY, generate_key());
        if !token.reveal().is_empty() {
            let mut value = HeaderValue::from_str(&format!("Bearer {}", token.reveal()))?;
            value.set_sensitive(true);
            request = request.header(header::AUTHORIZATION, value);
        }
        if let Some(position) = resume {
            let text = if position == Position::ZERO { "0".to_owned() } else { position.to_string() };
            request = request.header("last-event-id", text);
        }
        let mut request = request.body(())?;
        for (name, value) in &self.headers {
            request.headers_mut().append(name.clone(), value.clone());
        }
        Ok(request)
    }
}

fn broken(base: &str, error: &dyn std::error::Error) -> OpenError {
    let message = format!("cannot open {base}: {}", crate::http::root_cause(error));
    OpenError { status: None, message, again: Some(Duration::ZERO) }
}

fn refused(base: &str, status: StatusCode, headers: &HeaderMap) -> OpenError {
    OpenError {
        status: Some(status.as_u16()),
        message: format!("{base} answered the upgrade with {status}"),
        again: is_retryable(status).then(|| retry_after(headers).unwrap_or_default()),
    }
}
