//! Opens WebSockets to the gateway over one or several endpoints: TCP, TLS and the HTTP upgrade.
//! An endpoint to which no connection can be made, with TLS if the URL asks for it, is skipped. Nothing else is repeated here.

use crate::{
    backoff::{is_retryable, retry_after},
    endpoint::{DialOptions, Endpoint, no_address},
    event_loop,
    explain::{self, TransportError, describe},
    socket::{Arrival, Socket, Transport},
    tcp,
};
use bytes::Bytes;
use futures_util::{FutureExt, future::join_all};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use plan::Target;
use protocol::{BOOT_ID_HEADER, Position, SessionId};
use settings::{
    address::replace_headers,
    secret::{Secret, Secrets},
};
use std::{
    io,
    net::IpAddr,
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::time::{timeout, timeout_at};
use tokio_tungstenite::tungstenite::handshake::{client::generate_key, derive_accept_key};

/// Time limit of TCP, TLS and upgrade together.
const OPEN_TIMEOUT: Duration = Duration::from_secs(30);
/// Time limit of TCP and TLS together, if there is an endpoint left that was not tried, and in the check before the run.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Upper limit in bytes of the body that is read when the upgrade is refused.
const LONGEST_REFUSAL: usize = 16 << 10;
/// Time limit of reading that body.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(1);
/// Upper limit in bytes of a boot id, which is a UUID.
const LONGEST_BOOT_ID: usize = 64;
/// The characters that are not escaped in a path or a query.
const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Why a socket could not be opened.
#[derive(Clone, Debug)]
pub struct OpenError {
    /// The status of the response to the upgrade, if there was one.
    pub status: Option<u16>,
    /// A description for people.
    pub message: String,
    /// The minimum delay before another attempt. `None`: another attempt would fail as well.
    pub retry_after: Option<Duration>,
}

/// A new socket and when it was opened.
#[derive(Debug)]
pub struct Opened {
    /// The socket.
    pub socket: Socket,
    /// When the response to the upgrade arrived: the kernel's timestamp if there is one, else the time of the read.
    pub at: Instant,
    /// The part of the time until `at` that the generator itself may have caused, at most.
    pub slack: Duration,
}

/// A connection to an endpoint, with TLS if its URL asks for it.
struct Connected<'a> {
    transport: Transport,
    /// The part of the time to connect that the generator itself may have caused, at most.
    slack: Duration,
    endpoint: &'a Endpoint,
}

/// Opens sockets to the gateway.
pub struct Connector {
    /// The endpoints, at least one.
    endpoints: Vec<Endpoint>,
    path: String,
    headers: HeaderMap,
    token: Option<Secret>,
    secrets: Secrets,
    local_ips: Vec<IpAddr>,
    /// Keeps the kernel's receive timestamps enabled while the connector exists.
    _stamping: Option<std::net::UdpSocket>,
}

impl Connector {
    /// Resolves the hosts of all endpoints, once for the whole run.
    ///
    /// # Errors
    /// A host has no address, or its name is not a valid server name.
    pub async fn resolve(target: &Target, tls: Arc<rustls::ClientConfig>) -> anyhow::Result<Self> {
        let mut endpoints = Vec::new();
        if target.published.is_empty() {
            endpoints.push(Endpoint::resolve(&target.ws, &tls).await?);
        }
        for &address in &target.published {
            endpoints.push(Endpoint::published(&target.ws, address, &tls)?);
        }
        for url in &target.more_ws {
            endpoints.push(Endpoint::resolve(url, &tls).await?);
        }
        Ok(Self {
            endpoints,
            path: path(target),
            headers: target.headers.clone(),
            token: target.token.clone(),
            secrets: target.secrets.clone(),
            local_ips: target.local_ips.clone(),
            _stamping: tcp::keep_stamping(),
        })
    }

    /// The endpoints over which sockets are spread, at least one.
    #[must_use]
    pub fn endpoints(&self) -> &[Endpoint] {
        &self.endpoints
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
        dial: DialOptions,
    ) -> Result<Opened, OpenError> {
        let token = self.token.as_ref().unwrap_or(token);
        let opened = self.open_with(session, token, resume, last_read, dial).await;
        opened.map_err(|mut error| {
            let mut secrets = self.secrets.clone();
            secrets.add(token.reveal());
            error.message = secrets.hide(&error.message);
            error
        })
    }

    async fn open_with(
        &self,
        session: SessionId,
        token: &Secret,
        resume: Option<Position>,
        last_read: u64,
        dial: DialOptions,
    ) -> Result<Opened, OpenError> {
        let deadline = Instant::now() + OPEN_TIMEOUT;
        let Connected { transport, slack, endpoint } = self.connect(dial, deadline).await?;
        let request = self.request(endpoint, session, token, resume).map_err(|error| OpenError {
            status: None,
            message: format!("cannot open {}: {error}", endpoint.base),
            retry_after: None,
        })?;
        let upgraded = timeout_at(deadline.into(), upgrade(&endpoint.base, transport, request)).await;
        let Upgraded { transport, early, boot_id } = upgraded.unwrap_or_else(|_| {
            let within = OPEN_TIMEOUT.as_secs();
            Err(OpenError {
                status: None,
                message: format!("{} did not respond to the upgrade within {within} s", endpoint.base),
                retry_after: Some(Duration::ZERO),
            })
        })?;
        let arrived = transport.tcp().arrived();
        let at = arrived.map_or_else(Instant::now, |arrived| arrived.at);
        let slack = slack + arrived.map_or(Duration::ZERO, |arrived| arrived.slack);
        let socket = Socket::new(transport, early, boot_id, Arrival::exact(at, last_read));
        Ok(Opened { socket, at, slack })
    }

    fn endpoint(&self, number: u64) -> &Endpoint {
        &self.endpoints[(number % self.endpoints.len() as u64) as usize]
    }

    /// Checks that every endpoint accepts connections from the address `from` and has a trusted certificate. Takes 5 s at most.
    ///
    /// Returns the published ports that accept none, if at least one endpoint does. Sockets skip these ports.
    ///
    /// # Errors
    /// The first endpoint given as a URL that accepts none, or the first port if no port does, with the cause.
    pub async fn reach(
        &self,
        from: Option<IpAddr>,
    ) -> Result<Vec<(String, TransportError)>, (String, TransportError)> {
        let dial = DialOptions { from, ..DialOptions::default() };
        let reached =
            self.endpoints.iter().map(|endpoint| timeout(CONNECT_TIMEOUT, connect_to(endpoint, dial)));
        let mut dead = Vec::new();
        for (endpoint, reached) in self.endpoints.iter().zip(join_all(reached).await) {
            let error = match reached {
                Ok(Ok(_)) => continue,
                Ok(Err(error)) => describe(&error),
                Err(_) => {
                    let text = format!("no answer within {} s", CONNECT_TIMEOUT.as_secs());
                    TransportError { text, is_permanent: false }
                }
            };
            let failed = (endpoint.base.clone(), error);
            if !endpoint.is_published() {
                return Err(failed);
            }
            dead.push(failed);
        }
        if dead.len() == self.endpoints.len() { Err(dead.swap_remove(0)) } else { Ok(dead) }
    }

    /// Connects to the chosen endpoint, or to the next one to which a connection can be made.
    ///
    /// # Errors
    /// The first error that may pass. If there is none, the last one.
    async fn connect(&self, dial: DialOptions, deadline: Instant) -> Result<Connected<'_>, OpenError> {
        let count = self.endpoints.len() as u64;
        let mut failed: Option<OpenError> = None;
        for step in 0..count {
            let endpoint = self.endpoint(dial.endpoint.wrapping_add(step));
            let started = Instant::now();
            let is_last = step + 1 == count;
            let limit = if is_last { deadline } else { deadline.min(started + CONNECT_TIMEOUT) };
            let connecting = timeout_at(limit.into(), connect_to(endpoint, dial));
            match connecting.await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
                Ok(connected) => {
                    endpoint.counts.connected();
                    return Ok(connected);
                }
                Err(error) => {
                    endpoint.counts.failed(started);
                    if failed.as_ref().is_none_or(|failed| failed.retry_after.is_none()) {
                        failed = Some(broken(&endpoint.base, &error));
                    }
                }
            }
        }
        Err(failed.unwrap_or_else(|| broken("the gateway", &no_address())))
    }

    fn request(
        &self,
        endpoint: &Endpoint,
        session: SessionId,
        token: &Secret,
        resume: Option<Position>,
    ) -> Result<Request<Empty<Bytes>>, http::Error> {
        let path = self.path.replace("{session}", &session.to_string());
        let is_in_path = path.contains("{token}");
        let escaped = utf8_percent_encode(token.reveal(), UNRESERVED).to_string();
        let mut request = Request::get(endpoint.address.join(&path.replace("{token}", &escaped)))
            .header(header::HOST, endpoint.host.clone())
            .header(header::CONNECTION, "Upgrade")
            .header(header::UPGRADE, "websocket")
            .header(header::SEC_WEBSOCKET_VERSION, "13")
            .header(header::SEC_WEBSOCKET_KEY, generate_key());
        let secret = |text: String| {
            let mut value = HeaderValue::from_str(&text)?;
            value.set_sensitive(true);
            Ok::<_, http::Error>(value)
        };
        let token = token.reveal();
        match endpoint.address.authorization() {
            // The URL's user and password need the Authorization header, so that the token goes into the subprotocol, as
            // browsers send it.
            Some(basic) => {
                request = request.header(header::AUTHORIZATION, basic.clone());
                if !token.is_empty() && !is_in_path {
                    request =
                        request.header(header::SEC_WEBSOCKET_PROTOCOL, secret(format!("bearer, {token}"))?);
                }
            }
            None if !token.is_empty() => {
                request = request.header(header::AUTHORIZATION, secret(format!("Bearer {token}"))?);
            }
            None => {}
        }
        if let Some(position) = resume {
            let text = if position == Position::ZERO { "0".to_owned() } else { position.to_string() };
            request = request.header("last-event-id", text);
        }
        let mut request = request.body(Empty::new())?;
        replace_headers(request.headers_mut(), &self.headers);
        Ok(request)
    }
}

/// Returns the socket's path and query, with `{session}` and perhaps `{token}`.
fn path(target: &Target) -> String {
    let path = target.ws_path.replace("{agent}", &target.agent);
    let separator = if path.contains('?') { '&' } else { '?' };
    match (target.rollup_ms, target.hops) {
        (Some(ms), _) => format!("{path}{separator}rollup={ms}"),
        (None, Some(every)) => format!("{path}{separator}hops={every}"),
        (None, None) => path,
    }
}

/// A connection that was upgraded.
struct Upgraded {
    transport: Transport,
    /// The bytes that followed the response.
    early: Bytes,
    /// The boot id of the gateway's host, if the response names it.
    boot_id: Option<Box<str>>,
}

async fn connect_to(endpoint: &Endpoint, dial: DialOptions) -> io::Result<Connected<'_>> {
    let stream = endpoint.connect(dial).await?;
    let mut slack = event_loop::unseen(Instant::now());
    let transport = endpoint.secure(stream).await?;
    if transport.is_tls() {
        slack += event_loop::unseen(Instant::now());
    }
    Ok(Connected { transport, slack, endpoint })
}

/// Upgrades the connection to a WebSocket.
async fn upgrade(
    base: &str,
    transport: Transport,
    request: Request<Empty<Bytes>>,
) -> Result<Upgraded, OpenError> {
    let broken = |error: hyper::Error| broken(base, &error);
    let accept =
        request.headers().get(header::SEC_WEBSOCKET_KEY).map(|key| derive_accept_key(key.as_bytes()));
    let (mut sender, connection) = http1::handshake(TokioIo::new(transport)).await.map_err(broken)?;
    let mut upgrade = pin!(async {
        let response = sender.send_request(request).await.map_err(broken)?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Err(refused(base, response).await);
        }
        check(base, &response, accept.as_deref())?;
        let boot_id = boot_id(response.headers());
        Ok((hyper::upgrade::on(response).await.map_err(broken)?, boot_id))
    });
    // The connection's result is ignored: the request returns its error as well.
    let mut connection = pin!(connection.with_upgrades().fuse());
    let (upgraded, boot_id) = loop {
        tokio::select! {
            biased;
            upgraded = &mut upgrade => break upgraded?,
            _ = &mut connection => {}
        }
    };
    let parts = upgraded.downcast::<TokioIo<Transport>>().expect("the transport that was handed in");
    // Copied, because a slice would keep hyper's whole buffer allocated. It is usually empty.
    let early = Bytes::copy_from_slice(&parts.read_buf);
    Ok(Upgraded { transport: parts.io.into_inner(), early, boot_id })
}

/// Returns the boot id of the gateway's host. A text that is too long to be one is ignored.
fn boot_id(headers: &HeaderMap) -> Option<Box<str>> {
    let id = headers.get(BOOT_ID_HEADER)?.to_str().ok()?;
    (id.len() <= LONGEST_BOOT_ID).then(|| id.into())
}

fn broken(base: &str, error: &(dyn std::error::Error + 'static)) -> OpenError {
    let TransportError { text, is_permanent } = describe(error);
    let message = format!("cannot open {base}: {text}");
    OpenError { status: None, message, retry_after: (!is_permanent).then_some(Duration::ZERO) }
}

/// Returns the error for a response that refuses the upgrade. It includes the start of the body if that arrives within 1 s.
async fn refused(base: &str, response: Response<Incoming>) -> OpenError {
    let (head, body) = response.into_parts();
    let body = Limited::new(body, LONGEST_REFUSAL).collect();
    let body = match timeout(REFUSAL_TIMEOUT, body).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(_)) | Err(_) => Bytes::new(),
    };
    let why = explain::refusal(head.status, &head.headers, &body);
    OpenError {
        status: Some(head.status.as_u16()),
        message: format!("{base} answered the upgrade with {why}"),
        retry_after: is_retryable(head.status).then(|| retry_after(&head.headers).unwrap_or_default()),
    }
}

/// Checks the headers of a response 101. `accept` is the value that belongs to the key that was sent.
fn check<B>(base: &str, response: &Response<B>, accept: Option<&str>) -> Result<(), OpenError> {
    let text = |name| response.headers().get(name).and_then(|value| value.to_str().ok());
    let is_ours = text(header::SEC_WEBSOCKET_ACCEPT) == accept
        && text(header::UPGRADE).is_some_and(|protocol| protocol.eq_ignore_ascii_case("websocket"))
        && text(header::SEC_WEBSOCKET_EXTENSIONS).is_none();
    if is_ours {
        return Ok(());
    }
    let message =
        format!("{base} answered the upgrade with an invalid WebSocket handshake (RFC 6455, section 4.1)");
    Err(OpenError { status: None, message, retry_after: Some(Duration::ZERO) })
}
