//! Opens WebSockets to one gateway: TCP, TLS, the upgrade. What came right behind its answer is handed on with the socket.
//! It does not try again.

use crate::{
    backoff::{is_retryable, retry_after},
    config::Target,
    secret::Secret,
    socket::{Arrival, Socket, Transport},
};
use anyhow::Context as _;
use bytes::Bytes;
use futures_util::FutureExt;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
#[cfg(target_os = "linux")]
use nix::sys::socket::{setsockopt, sockopt::IpBindAddressNoPort};
use protocol::{Position, SessionId};
use rustls::pki_types::ServerName;
use std::{
    io,
    net::{IpAddr, SocketAddr},
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_tungstenite::tungstenite::handshake::{client::generate_key, derive_accept_key};

/// TCP, TLS, upgrade and a live subscription take no longer than this.
const OPEN_TIMEOUT: Duration = Duration::from_secs(30);
/// Some tens of tokens: a reader who stops is felt at the other end within seconds.
const NARROW_BUFFER: u32 = 4096;

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

/// How a connection is made.
#[derive(Clone, Copy, Debug, Default)]
pub struct Dial {
    /// From this address of this machine.
    pub from: Option<IpAddr>,
    /// It takes little into its buffers, so that a reader who stops is felt at the other end.
    pub narrow: bool,
}

/// Opens sockets to one gateway.
pub struct Connector {
    addresses: Vec<SocketAddr>,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    base: String,
    /// What stands before every path; usually nothing.
    prefix: String,
    host: HeaderValue,
    path: String,
    headers: HeaderMap,
    token: Option<Secret>,
    local_ips: Vec<IpAddr>,
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
        let prefix = url.path().trim_end_matches('/').to_owned();
        Ok(Self {
            tls: if secure { Some((TlsConnector::from(tls), name()?)) } else { None },
            base: format!("{}://{authority}{prefix}", url.scheme()),
            prefix,
            host: HeaderValue::from_str(&authority)?,
            path: target.ws_path.replace("{agent}", &target.agent),
            headers: target.headers.clone(),
            token: target.token.clone(),
            local_ips: target.local_ips.clone(),
            addresses,
        })
    }

    /// Where the sockets of session `index` come from.
    #[must_use]
    pub fn local_ip(&self, index: u64) -> Option<IpAddr> {
        let turn = index.checked_rem(self.local_ips.len() as u64)?;
        Some(self.local_ips[turn as usize])
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
        dial: Dial,
    ) -> Result<Socket, OpenError> {
        let token = self.token.as_ref().unwrap_or(token);
        let request = self.request(session, token, resume).map_err(|error| OpenError {
            status: None,
            message: format!("cannot open {}: {error}", self.base),
            again: None,
        })?;
        let opening = async {
            let transport = self.transport(dial).await.map_err(|error| broken(&self.base, &error))?;
            let (transport, early) = self.upgrade(transport, request).await?;
            let last = Arrival { at: Instant::now(), read: last_read };
            Ok(Socket::new(transport, early, last))
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

    /// Has the connection turned into a WebSocket; what came right behind the answer.
    async fn upgrade(
        &self,
        transport: Transport,
        request: Request<Empty<Bytes>>,
    ) -> Result<(Transport, Bytes), OpenError> {
        let broken = |error: hyper::Error| broken(&self.base, &error);
        let accept =
            request.headers().get(header::SEC_WEBSOCKET_KEY).map(|key| derive_accept_key(key.as_bytes()));
        let (mut sender, connection) = http1::handshake(TokioIo::new(transport)).await.map_err(broken)?;
        let mut upgrade = pin!(async {
            let answer = sender.send_request(request).await.map_err(broken)?;
            check(&self.base, &answer, accept.as_deref())?;
            hyper::upgrade::on(answer).await.map_err(broken)
        });
        // The connection itself ends with the upgrade, or with an error that the request hears of as well.
        let mut connection = pin!(connection.with_upgrades().fuse());
        let upgraded = loop {
            tokio::select! {
                biased;
                upgraded = &mut upgrade => break upgraded?,
                _ = &mut connection => {}
            }
        };
        let parts = upgraded.downcast::<TokioIo<Transport>>().expect("the transport that was handed in");
        // Copied: it is empty as a rule, and would keep the whole of hyper's buffer.
        Ok((parts.io.into_inner(), Bytes::copy_from_slice(&parts.read_buf)))
    }

    async fn transport(&self, dial: Dial) -> io::Result<Transport> {
        let stream = self.connect(dial).await?;
        stream.set_nodelay(true)?;
        match &self.tls {
            None => Ok(Transport::Plain(stream)),
            Some((tls, name)) => Ok(Transport::Tls(Box::new(tls.connect(name.clone(), stream).await?))),
        }
    }

    /// Whether the gateway takes connections `from` there.
    ///
    /// # Errors
    /// Why not.
    pub async fn reach(&self, from: Option<IpAddr>) -> io::Result<()> {
        self.connect(Dial { from, narrow: false }).await.map(|_| ())
    }

    /// Connects to the first of the gateway's addresses that takes it.
    async fn connect(&self, dial: Dial) -> io::Result<TcpStream> {
        let mut failed =
            io::Error::new(io::ErrorKind::AddrNotAvailable, "the gateway has no address of the same family");
        for &address in &self.addresses {
            let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
            if dial.narrow {
                // Before the connection is made: the window is agreed upon then.
                socket.set_recv_buffer_size(NARROW_BUFFER)?;
            }
            if let Some(from) = dial.from {
                if from.is_ipv4() != address.is_ipv4() {
                    continue;
                }
                // The port is chosen with the connection, as without an address: one that rests from another may be used.
                #[cfg(target_os = "linux")]
                setsockopt(&socket, IpBindAddressNoPort, &true)?;
                socket.bind((from, 0).into())?;
            }
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
    ) -> Result<Request<Empty<Bytes>>, http::Error> {
        let path = self.path.replace("{session}", &session.to_string());
        let mut request = Request::get(format!("{}{path}", self.prefix))
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
        let mut request = request.body(Empty::new())?;
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

/// Only a 101 that belongs to the key that was sent opens a WebSocket.
fn check<B>(base: &str, answer: &Response<B>, accept: Option<&str>) -> Result<(), OpenError> {
    let status = answer.status();
    let again = if status != StatusCode::SWITCHING_PROTOCOLS {
        is_retryable(status).then(|| retry_after(answer.headers()).unwrap_or_default())
    } else {
        let text = |name| answer.headers().get(name).and_then(|value| value.to_str().ok());
        let is_ours = text(header::SEC_WEBSOCKET_ACCEPT) == accept
            && text(header::UPGRADE).is_some_and(|protocol| protocol.eq_ignore_ascii_case("websocket"))
            && text(header::SEC_WEBSOCKET_EXTENSIONS).is_none();
        if is_ours {
            return Ok(());
        }
        let message =
            format!("{base} answered the upgrade with no WebSocket as it was asked for (RFC 6455, 4.1)");
        return Err(OpenError { status: None, message, again: Some(Duration::ZERO) });
    };
    let message = format!("{base} answered the upgrade with {status}");
    Err(OpenError { status: Some(status.as_u16()), message, again })
}
