//! Helpers of the tests: a bus with a writer, gateways on free ports, and clients.

use bus::{Batch, Broker, BusConfig, ClaimRequest};
use futures_util::{SinkExt, StreamExt};
use protocol::{
    Claims, Frame, Kind, Position, Secret, SessionId, Signer, Verifier, encode_done, encode_token,
};
use std::{
    future::Future,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    task::JoinHandle,
};
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{Error, Message, client::IntoClientRequest, handshake::client::Request},
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use wsproxy::Config;

pub(crate) const KEY: &str = "a key of thirty-two bytes or more";

/// Time limit of everything that a test waits for.
const PATIENCE: Duration = Duration::from_secs(20);

/// Returns the output of `future`, which must come within the time limit.
pub(crate) async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("nothing happened for 20 s")
}

pub(crate) fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

pub(crate) fn token_for(session: SessionId) -> String {
    sign(KEY, &Claims { session_id: session, iat: unix_seconds(), exp: None })
}

pub(crate) fn sign(key: &str, claims: &Claims) -> String {
    Signer::new(&Secret::new(key).unwrap()).sign(claims)
}

/// Returns a request for the session's socket at this gateway, with a valid token.
pub(crate) fn request(address: SocketAddr, session: SessionId) -> Request {
    let mut request = bare_request(address, &format!("/agent/ws/{session}"));
    let authorization = format!("Bearer {}", token_for(session));
    request.headers_mut().insert("authorization", authorization.parse().unwrap());
    request
}

/// Returns the same request with a rollup of this many milliseconds.
pub(crate) fn rollup_request(address: SocketAddr, session: SessionId, ms: u32) -> Request {
    let mut request = request(address, session);
    *request.uri_mut() = format!("{}?rollup={ms}", request.uri()).parse().unwrap();
    request
}

/// Returns the same request with the gateway's times in every n-th token.
pub(crate) fn hops_request(address: SocketAddr, session: SessionId, every: u32) -> Request {
    let mut request = request(address, session);
    *request.uri_mut() = format!("{}?hops={every}", request.uri()).parse().unwrap();
    request
}

fn bare_request(address: SocketAddr, path: &str) -> Request {
    format!("ws://{address}{path}").into_client_request().unwrap()
}

/// Returns the head of a request for the session's socket, as it is on the wire.
pub(crate) fn raw_request(session: SessionId) -> String {
    format!(
        "GET /agent/ws/{session} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nAuthorization: Bearer {}\r\n\r\n",
        token_for(session)
    )
}

/// A bus with one session, to which the test writes as a server does.
pub(crate) struct Writer {
    pub(crate) bus: Arc<dyn Broker>,
    pub(crate) session: SessionId,
    generation: u64,
    seq: u64,
}

impl Writer {
    pub(crate) async fn new() -> Self {
        Self::on(&bus::open(BusConfig::new("memory://", "test")).unwrap()).await
    }

    /// Creates another session on the same bus.
    pub(crate) async fn on(bus: &Arc<dyn Broker>) -> Self {
        let session = SessionId::new(Uuid::new_v4());
        bus.create(session).await.unwrap();
        Self { bus: bus.clone(), session, generation: 0, seq: 0 }
    }

    /// Begins a query.
    pub(crate) async fn claim(&mut self) {
        let request = ClaimRequest { query_id: Uuid::new_v4().to_string(), answer: String::new() };
        self.generation = self.bus.claim(self.session, request).await.unwrap().generation;
        self.seq = 0;
    }

    /// Writes `count` tokens in one append, so that they are published at once.
    pub(crate) async fn batch(&mut self, count: u64) {
        let mut batch = Batch::default();
        for _ in 0..count {
            self.seq += 1;
            let (position, seq) = (Position::new(self.generation, self.seq), self.seq);
            batch.push(self.session, position, Kind::Token, |out| {
                encode_token(out, position, "word ", "q", seq, seq + 1);
            });
        }
        self.bus.append(&batch).await.unwrap();
    }

    /// Writes `count` tokens of `bytes` bytes.
    pub(crate) async fn tokens(&mut self, count: u64, bytes: usize) {
        for _ in 0..count {
            self.seq += 1;
            let (mut batch, content) = (Batch::default(), "x".repeat(bytes));
            let position = Position::new(self.generation, self.seq);
            batch.push(self.session, position, Kind::Token, |out| {
                encode_token(out, position, &content, "q", 0, 0);
            });
            self.bus.append(&batch).await.unwrap();
        }
    }

    /// Ends the query.
    pub(crate) async fn done(&mut self) {
        let mut batch = Batch::default();
        let position = Position::new(self.generation, self.seq + 1);
        batch.push(self.session, position, Kind::Done, |out| encode_done(out, position, "q", 0, 0));
        self.bus.append(&batch).await.unwrap();
    }

    /// Writes a complete query of `tokens` tokens.
    pub(crate) async fn query(&mut self, tokens: u64) {
        self.claim().await;
        self.tokens(tokens, 5).await;
        self.done().await;
    }

    /// Returns the positions `from..=to` of the query.
    pub(crate) fn positions(&self, from: u64, to: u64) -> Vec<Position> {
        (from..=to).map(|seq| Position::new(self.generation, seq)).collect()
    }
}

/// Starts a gateway on a bus with one session.
pub(crate) async fn start() -> (Writer, Proxy) {
    start_with(|_| {}).await
}

/// Starts a gateway with a changed configuration on a bus with one session.
pub(crate) async fn start_with(change: impl FnOnce(&mut Config)) -> (Writer, Proxy) {
    let writer = Writer::new().await;
    let proxy = Proxy::start_with(&writer.bus, change).await;
    (writer, proxy)
}

/// A gateway on a free port. It ends with the test.
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    pub(crate) shutdown: CancellationToken,
    pub(crate) task: JoinHandle<anyhow::Result<()>>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Proxy {
    pub(crate) async fn start(bus: &Arc<dyn Broker>) -> Self {
        Self::start_with(bus, |_| {}).await
    }

    pub(crate) async fn start_with(bus: &Arc<dyn Broker>, change: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config::default();
        change(&mut config);
        let verifier = Verifier::new(&Secret::new(KEY).unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(wsproxy::run(listener, verifier, config, bus.clone(), shutdown.clone()));
        Self { address, shutdown, task }
    }

    /// Returns a request for the session's socket, with a valid token.
    pub(crate) fn request(&self, session: SessionId) -> Request {
        request(self.address, session)
    }

    /// Returns a request for the session's socket with another value of a header.
    pub(crate) fn request_with(&self, session: SessionId, header: &'static str, value: &str) -> Request {
        let mut request = self.request(session);
        request.headers_mut().insert(header, value.parse().unwrap());
        request
    }

    pub(crate) fn bare_request(&self, path: &str) -> Request {
        bare_request(self.address, path)
    }

    pub(crate) async fn connect(&self, session: SessionId) -> Client {
        Client::open(self.address, self.request(session)).await.unwrap()
    }

    pub(crate) async fn resume(&self, session: SessionId, after: &str) -> Client {
        Client::open(self.address, self.request_with(session, "last-event-id", after)).await.unwrap()
    }

    /// Returns the status, the `detail` and the headers of a refused upgrade.
    pub(crate) async fn refusal(&self, request: Request) -> (u16, String, http::HeaderMap) {
        match Client::open(self.address, request).await {
            Err(Error::Http(answer)) => {
                let (head, body) = answer.into_parts();
                let body: protocol::ErrorBody = serde_json::from_slice(&body.unwrap_or_default()).unwrap();
                (head.status.as_u16(), body.detail, head.headers)
            }
            Err(error) => panic!("the request ended with {error}"),
            Ok(_) => panic!("the request was not refused"),
        }
    }

    pub(crate) async fn get(&self, path: &str) -> (u16, String) {
        let (address, path) = (self.address, path.to_owned());
        let get = tokio::task::spawn_blocking(move || host::http_get(address, &path));
        let response = soon(get).await.unwrap().unwrap();
        (response.status, response.body)
    }

    /// Waits until the status of `/ready` is 503.
    pub(crate) async fn unready(&self) {
        soon(async {
            while self.get("/ready").await.0 != 503 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
    }

    /// Returns the value of a metric without labels.
    pub(crate) async fn value(&self, name: &str) -> u64 {
        let (_, metrics) = self.get("/metrics").await;
        let value = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.unwrap().parse().unwrap()
    }

    /// Waits until `/metrics` contains this line.
    pub(crate) async fn metric(&self, line: &str) {
        let name = line.split_once(' ').map_or(line, |(name, _)| name);
        let mut last = String::new();
        let wait = async {
            loop {
                let (_, page) = self.get("/metrics").await;
                if page.lines().any(|found| found == line) {
                    return;
                }
                last = page.lines().filter(|found| found.starts_with(name)).collect::<Vec<_>>().join("\n");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let outcome = tokio::time::timeout(PATIENCE, wait).await;
        assert!(outcome.is_ok(), "waited for `{line}`, and it is still `{last}`");
    }
}

/// The socket of one client.
#[derive(Debug)]
pub(crate) struct Client(pub(crate) WebSocketStream<TcpStream>);

/// What a client received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    Event(Position, Kind),
    /// A rolled frame, by the positions of its tokens.
    Tokens(Vec<Position>),
    Resumed(Position),
    Gap(Position, Position),
    /// A frame that is not an event.
    Other(String),
    /// The close frame's code and text.
    Close(u16, String),
    /// The connection ended without a close frame.
    End,
}

impl Client {
    pub(crate) async fn open(address: SocketAddr, request: Request) -> Result<Self, Error> {
        Self::over(soon(TcpStream::connect(address)).await.unwrap(), request).await
    }

    /// Opens a client with a small receive buffer, so the kernel accepts little data that the client does not read.
    pub(crate) async fn open_narrow(address: SocketAddr, request: Request) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        Self::over(socket.connect(address).await.unwrap(), request).await.unwrap()
    }

    async fn over(stream: TcpStream, request: Request) -> Result<Self, Error> {
        stream.set_nodelay(true).unwrap();
        soon(client_async(request, stream)).await.map(|(socket, _)| Self(socket))
    }

    /// Returns the next item that is not a ping or pong.
    pub(crate) async fn next(&mut self) -> Seen {
        soon(async {
            loop {
                match self.0.next().await {
                    Some(Ok(Message::Text(text))) => return Seen::of(&text),
                    Some(Ok(Message::Close(Some(frame)))) => {
                        return Seen::Close(frame.code.into(), frame.reason.to_string());
                    }
                    // The response to a close frame without a code.
                    Some(Ok(Message::Close(None))) => return Seen::Close(1005, String::new()),
                    Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                    Some(Ok(other)) => panic!("the gateway sent {other:?}"),
                    Some(Err(_)) | None => return Seen::End,
                }
            }
        })
        .await
    }

    /// Returns everything up to and including the first item that is not a token.
    pub(crate) async fn query(&mut self) -> (Vec<Position>, Seen) {
        let mut positions = Vec::new();
        loop {
            match self.next().await {
                Seen::Event(position, Kind::Token) => positions.push(position),
                Seen::Tokens(rolled) => positions.extend(rolled),
                Seen::Event(position, Kind::Done) => {
                    positions.push(position);
                    return (positions, Seen::Event(position, Kind::Done));
                }
                other => return (positions, other),
            }
        }
    }

    pub(crate) async fn send(&mut self, message: Message) {
        soon(self.0.send(message)).await.unwrap();
    }

    /// Returns the code and text of the close frame, and ignores everything before it.
    pub(crate) async fn closing(&mut self) -> (u16, String) {
        loop {
            match self.next().await {
                Seen::Close(code, text) => return (code, text),
                Seen::End => panic!("the connection ended without a close frame"),
                _ => {}
            }
        }
    }

    /// Returns the code of the close frame, and ignores everything before it.
    pub(crate) async fn close_code(&mut self) -> u16 {
        self.closing().await.0
    }

    /// Sends a close frame and waits for that of the gateway.
    pub(crate) async fn close(mut self) {
        soon(self.0.close(None)).await.unwrap();
        while !matches!(self.next().await, Seen::End) {}
    }
}

impl Seen {
    fn of(text: &str) -> Self {
        let Ok(frame) = Frame::parse(text) else { return Self::Other(text.to_owned()) };
        match frame {
            Frame::Event(event) => Self::Event(event.position.unwrap(), event.kind),
            Frame::Tokens(tokens) => {
                Self::Tokens(tokens.events().map(|event| event.position.unwrap()).collect())
            }
            Frame::Resumed { to } => Self::Resumed(to),
            Frame::Gap { from, to } => Self::Gap(from, to),
            Frame::Other => Self::Other(text.to_owned()),
        }
    }
}
