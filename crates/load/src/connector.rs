//! Opens WebSockets to the gateway over one or several endpoints: TCP, TLS and the HTTP upgrade.
//! An endpoint to which no connection can be made, with TLS if the URL asks for it, is skipped. Nothing else is repeated here.

use crate::{
    backoff::{is_retryable, retry_after},
    credentials::Credentials,
    endpoint::{DialOptions, Endpoint, no_address},
    event_loop,
    explain::{self, TransportError, describe},
    frames::Frames,
    http_stream::HttpStream,
    socket::{Arrival, Framing, Socket, Transport},
    tcp,
};
use bytes::Bytes;
use dialects::{Call, Dialect, Transport as Carrier};
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
/// The header in which the simulator names its host's boot id to clients of foreign dialects.
pub(crate) const FOREIGN_BOOT_ID: &str = "x-boot-id";
/// The name of this program in its calls to a foreign server.
const USER_AGENT: &str = concat!("streamstress/", env!("CARGO_PKG_VERSION"));
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
    /// The number of the endpoint.
    number: usize,
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
    /// The foreign dialect, if the target speaks one.
    dialect: Option<Dialect>,
    credentials: Credentials,
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
            dialect: target.foreign.as_ref().map(|foreign| foreign.dialect.clone()),
            credentials: Credentials::new(target.foreign.as_ref()),
            _stamping: tcp::keep_stamping(),
        })
    }

    /// The endpoints over which sockets are spread, at least one.
    #[must_use]
    pub fn endpoints(&self) -> &[Endpoint] {
        &self.endpoints
    }

    /// The key of a foreign server.
    #[must_use]
    pub const fn credentials(&self) -> &Credentials {
        &self.credentials
    }

    /// Returns `text` with every secret replaced, the keys so far among them.
    #[must_use]
    pub fn hide(&self, text: &str) -> String {
        self.secrets().hide(text)
    }

    fn secrets(&self) -> Secrets {
        let mut secrets = self.secrets.clone();
        self.credentials.add_to(&mut secrets);
        secrets
    }

    /// Where the sockets of session `index` come from.
    #[must_use]
    pub fn local_ip(&self, index: u64) -> Option<IpAddr> {
        let turn = index.checked_rem(self.local_ips.len() as u64)?;
        Some(self.local_ips[turn as usize])
    }

    /// Opens the socket of `session`, after `resume` where it had one before. The answer means: the subscription is live. `described` is
    /// the upgrade of a target file.
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
        described: Option<&Call>,
    ) -> Result<Opened, OpenError> {
        let token = self.token.as_ref().unwrap_or(token);
        let opened = self.open_with(session, token, resume, last_read, dial, described).await;
        opened.map_err(|mut error| {
            let mut secrets = self.secrets();
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
        described: Option<&Call>,
    ) -> Result<Opened, OpenError> {
        let deadline = Instant::now() + OPEN_TIMEOUT;
        let Connected { transport, slack, endpoint, number } = self.connect(dial, deadline).await?;
        let carrier = self.dialect.as_ref().map(Dialect::transport);
        if let Some(carrier @ (Carrier::Sse | Carrier::JsonLines)) = carrier {
            // The first request opens its stream. Until then there is nothing to wait for.
            let at = Instant::now();
            let has_lines = carrier == Carrier::JsonLines;
            let stream = if has_lines { HttpStream::of_lines() } else { HttpStream::default() };
            let framing = Framing::Http(stream);
            let socket =
                Socket::new(transport, framing, number, Bytes::new(), None, Arrival::exact(at, last_read));
            return Ok(Opened { socket, at, slack });
        }
        let request = match (&self.dialect, described) {
            (_, Some(upgrade)) => self.upgrade_as(endpoint, upgrade),
            (Some(dialect), None) => self.upgrade_of(endpoint, dialect),
            (None, None) => self.request(endpoint, session, token, resume),
        };
        let request = request.map_err(|error| OpenError {
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
        let framing = Framing::WebSocket(Frames::default());
        let socket = Socket::new(transport, framing, number, early, boot_id, Arrival::exact(at, last_read));
        Ok(Opened { socket, at, slack })
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
            let number = (dial.endpoint.wrapping_add(step) % count) as usize;
            let endpoint = &self.endpoints[number];
            let started = Instant::now();
            let is_last = step + 1 == count;
            let limit = if is_last { deadline } else { deadline.min(started + CONNECT_TIMEOUT) };
            let connecting = timeout_at(limit.into(), connect_to(endpoint, dial));
            match connecting.await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
                Ok(connected) => {
                    endpoint.counts.connected();
                    return Ok(Connected { number, ..connected });
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
        let mut request = upgrade_request(endpoint, &path.replace("{token}", &escaped));
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

    /// Returns the upgrade to the WebSocket of a foreign dialect.
    fn upgrade_of(
        &self,
        endpoint: &Endpoint,
        dialect: &Dialect,
    ) -> Result<Request<Empty<Bytes>>, http::Error> {
        let mut request =
            upgrade_request(endpoint, dialect.path(endpoint.address.prefix())).body(Empty::new())?;
        self.authorize(endpoint, request.headers_mut(), &[])?;
        Ok(request)
    }

    /// Returns the upgrade that a target file describes.
    fn upgrade_as(&self, endpoint: &Endpoint, upgrade: &Call) -> Result<Request<Empty<Bytes>>, http::Error> {
        let mut request = upgrade_request(endpoint, &upgrade.path).body(Empty::new())?;
        self.authorize(endpoint, request.headers_mut(), &upgrade.headers)?;
        Ok(request)
    }

    /// Adds the headers of a target file, or the key, and then the headers that the user gave.
    fn authorize(
        &self,
        endpoint: &Endpoint,
        headers: &mut HeaderMap,
        given: &[(String, String)],
    ) -> Result<(), http::Error> {
        add_headers(headers, given)?;
        // A target file tells where the key belongs.
        let is_described = self.dialect.as_ref().is_some_and(|dialect| dialect.file().is_some());
        if let Some(key) = self.credentials.key().0.filter(|_| !is_described) {
            headers.insert(header::AUTHORIZATION, secret(format!("Bearer {}", key.reveal()))?);
        } else if let Some(basic) = endpoint.address.authorization()
            && !headers.contains_key(header::AUTHORIZATION)
        {
            headers.insert(header::AUTHORIZATION, basic.clone());
        }
        replace_headers(headers, &self.headers);
        Ok(())
    }

    /// Returns the bytes of an HTTP call over a connection to the endpoint of this number.
    ///
    /// # Errors
    /// The key or a header cannot be sent.
    pub(crate) fn call(&self, number: usize, call: &Call) -> Result<Vec<u8>, http::Error> {
        let body = call.body.as_deref();
        let endpoint = &self.endpoints[number];
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, endpoint.host.clone());
        let has_lines =
            self.dialect.as_ref().is_some_and(|dialect| dialect.transport() == Carrier::JsonLines);
        let accepted = if has_lines { "application/x-ndjson" } else { "text/event-stream" };
        headers.insert(header::ACCEPT, HeaderValue::from_static(accepted));
        headers.insert(header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
        if body.is_some() {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        self.authorize(endpoint, &mut headers, &call.headers)?;
        headers.insert(header::CONTENT_LENGTH, body.map_or(0, str::len).into());
        let target = endpoint.address.join(&call.path);
        let mut bytes = format!("{} {target} HTTP/1.1\r\n", call.method).into_bytes();
        for (name, value) in &headers {
            bytes.extend_from_slice(name.as_str().as_bytes());
            bytes.extend_from_slice(b": ");
            bytes.extend_from_slice(value.as_bytes());
            bytes.extend_from_slice(b"\r\n");
        }
        bytes.extend_from_slice(b"\r\n");
        bytes.extend_from_slice(body.unwrap_or_default().as_bytes());
        Ok(bytes)
    }

    /// Returns the URL of a call for messages: without a query, which may hold a secret.
    pub(crate) fn url(&self, number: usize, path: &str) -> String {
        format!("{}{}", self.endpoints[number].base, path.split('?').next().unwrap_or_default())
    }

    /// Returns the path of a question in the target's dialect at the endpoint of this number.
    pub(crate) fn path_of(&self, number: usize, dialect: &Dialect) -> &'static str {
        dialect.path(self.endpoints[number].address.prefix())
    }
}

/// Adds the headers of a target file. They replace others of the same name.
pub(crate) fn add_headers(headers: &mut HeaderMap, given: &[(String, String)]) -> Result<(), http::Error> {
    for (name, value) in given {
        headers.insert(http::HeaderName::try_from(name.as_str())?, secret(value.clone())?);
    }
    Ok(())
}

/// Returns a header's value that is not shown in messages.
fn secret(text: String) -> Result<HeaderValue, http::Error> {
    let mut value = HeaderValue::try_from(text)?;
    value.set_sensitive(true);
    Ok(value)
}

/// Returns the request that upgrades a connection, without authorization.
fn upgrade_request(endpoint: &Endpoint, path: &str) -> http::request::Builder {
    Request::get(endpoint.address.join(path))
        .header(header::HOST, endpoint.host.clone())
        .header(header::CONNECTION, "Upgrade")
        .header(header::UPGRADE, "websocket")
        .header(header::SEC_WEBSOCKET_VERSION, "13")
        .header(header::SEC_WEBSOCKET_KEY, generate_key())
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
    Ok(Connected { transport, slack, endpoint, number: 0 })
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
    let id = headers.get(BOOT_ID_HEADER).or_else(|| headers.get(FOREIGN_BOOT_ID))?.to_str().ok()?;
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
