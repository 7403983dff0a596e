//! A minimal gateway on tokio-tungstenite, to compare `wsproxy` with. It has the same channels, paths and JWT check, and one task
//! and one queue per socket. It has no log, no resume and no pings.

use anyhow::{Context, bail};
use futures_util::{SinkExt, StreamExt};
use parking_lot::Mutex;
use protocol::{Names, Prefix, Secret, SessionId, Verifier, parse_ws_path};
use redis::aio::PubSubSink;
use std::{collections::HashMap, path::PathBuf, sync::Arc};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, UnixListener},
    sync::mpsc,
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Message, Utf8Bytes,
        handshake::derive_accept_key,
        protocol::{Role, WebSocketConfig},
    },
};

/// Messages that may wait for one socket. Further ones are dropped.
const QUEUE: usize = 256;
/// Most messages that are written before the socket is flushed.
const BATCH: usize = 64;
/// Longest head of a request, in bytes.
const MAX_HEAD: usize = 16 << 10;

/// Configuration of the gateway.
#[derive(Debug)]
pub struct Settings {
    /// Port on loopback to listen on.
    pub port: u16,
    /// Unix socket to listen on in addition.
    pub unix_socket: Option<PathBuf>,
    /// URL of Redis.
    pub redis_url: String,
    /// Key that tokens are signed with.
    pub secret: Secret,
    /// Whether to use buffers of 1 KiB (read) and 4 KiB (write) instead of the library's 128 KiB each.
    pub small_buffers: bool,
}

type Queues = Arc<Mutex<HashMap<String, mpsc::Sender<Utf8Bytes>>>>;

struct Peer {
    verifier: Verifier,
    sockets: Option<WebSocketConfig>,
    queues: Queues,
    subscriptions: tokio::sync::Mutex<PubSubSink>,
}

/// Serves until the process ends.
///
/// # Errors
/// Redis is not reachable, or the port or unix socket is in use.
pub async fn serve(settings: Settings) -> anyhow::Result<()> {
    let client = redis::Client::open(settings.redis_url).context("REDIS_URL is not a Redis URL")?;
    let (sink, mut messages) = client.get_async_pubsub().await.context("cannot reach Redis")?.split();
    let small = || WebSocketConfig::default().read_buffer_size(1 << 10).write_buffer_size(4 << 10);
    let peer = Arc::new(Peer {
        verifier: Verifier::new(&settings.secret),
        sockets: settings.small_buffers.then(small),
        queues: Queues::default(),
        subscriptions: tokio::sync::Mutex::new(sink),
    });
    let tcp = TcpListener::bind(("127.0.0.1", settings.port)).await.context("cannot listen")?;
    let unix = settings.unix_socket.map(UnixListener::bind).transpose()?;
    loop {
        tokio::select! {
            message = messages.next() => {
                let Some(message) = message else { bail!("Redis closed the connection") };
                peer.forward(&message);
            }
            accepted = tcp.accept() => {
                let (stream, _) = accepted?;
                stream.set_nodelay(true)?;
                tokio::spawn(peer.clone().serve(stream));
            }
            accepted = async { unix.as_ref().expect("this branch is only polled if there is a unix socket").accept().await }, if unix.is_some() => {
                tokio::spawn(peer.clone().serve(accepted?.0));
            }
        }
    }
}

impl Peer {
    fn forward(&self, message: &redis::Msg) {
        let for_client =
            Prefix::parse(message.get_payload_bytes()).is_some_and(|prefix| prefix.kind.is_for_client());
        let queue = self.queues.lock().get(message.get_channel_name()).cloned();
        if let (true, Some(queue), Ok(text)) = (for_client, queue, message.get_payload::<String>()) {
            // A full queue drops the message: the gateway has no log.
            let _ = queue.try_send(text.into());
        }
    }

    async fn serve<S: AsyncRead + AsyncWrite + Unpin>(self: Arc<Self>, mut stream: S) {
        // Bad requests and closed connections are ignored.
        let Ok(Some((session, accept))) = self.admit(&mut stream).await else { return };
        let channel = Names::default().down(session);
        let (queue, waiting) = mpsc::channel(QUEUE);
        self.queues.lock().insert(channel.clone(), queue);
        let _ = self.stream(stream, &channel, &accept, waiting).await;
        self.queues.lock().remove(&channel);
        let _ = self.subscriptions.lock().await.unsubscribe(&channel).await;
    }

    /// Reads the head of a request. Returns the session and the value of `Sec-WebSocket-Accept`, or `None` for a request that is not a
    /// handshake: that is a check for readiness and gets status 200.
    async fn admit<S>(&self, stream: &mut S) -> anyhow::Result<Option<(SessionId, String)>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let head = read_head(stream).await?;
        let Some(request) = Request::parse(&head) else {
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").await?;
            return Ok(None);
        };
        let (_, session) = parse_ws_path(request.path)?;
        self.verifier.verify(request.token, session, host::unix_time())?;
        let accept = derive_accept_key(request.key.as_bytes());
        Ok(Some((session, accept)))
    }

    async fn stream<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        mut stream: S,
        channel: &str,
        accept: &str,
        mut waiting: mpsc::Receiver<Utf8Bytes>,
    ) -> anyhow::Result<()> {
        self.subscriptions.lock().await.subscribe(channel).await?;
        let answer = format!(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Accept: {accept}\r\n\r\n"
        );
        stream.write_all(answer.as_bytes()).await?;
        let mut socket = WebSocketStream::from_raw_socket(stream, Role::Server, self.sockets).await;
        let mut texts = Vec::with_capacity(1);
        loop {
            tokio::select! {
                count = waiting.recv_many(&mut texts, BATCH) => {
                    if count == 0 {
                        return Ok(());
                    }
                    for text in texts.drain(..) {
                        socket.feed(Message::Text(text)).await?;
                    }
                    socket.flush().await?;
                }
                message = socket.next() => match message {
                    Some(message) => drop(message?),
                    None => return Ok(()),
                },
            }
        }
    }
}

async fn read_head<S: AsyncRead + Unpin>(stream: &mut S) -> anyhow::Result<String> {
    let mut head = Vec::with_capacity(1024);
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read_buf(&mut head).await? == 0 || head.len() > MAX_HEAD {
            bail!("the request is incomplete or has more than {MAX_HEAD} bytes");
        }
    }
    Ok(String::from_utf8(head)?)
}

/// The parts of a handshake that the gateway uses.
struct Request<'a> {
    path: &'a str,
    key: &'a str,
    token: &'a str,
}

impl<'a> Request<'a> {
    fn parse(head: &'a str) -> Option<Self> {
        let mut lines = head.lines();
        let path = lines.next()?.split(' ').nth(1)?;
        let headers: Vec<(&str, &str)> = lines.filter_map(|line| line.split_once(": ")).collect();
        let header = |wanted: &str| {
            headers.iter().find(|(name, _)| name.eq_ignore_ascii_case(wanted)).map(|(_, value)| *value)
        };
        let token = header("authorization")?.strip_prefix("Bearer ")?;
        Some(Self { path, key: header("sec-websocket-key")?, token })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handshake_and_a_check_for_readiness() {
        let head = "GET /a/ws/1 HTTP/1.1\r\nsec-websocket-key: k\r\nAuthorization: Bearer t\r\n\r\n";
        let request = Request::parse(head).unwrap();
        assert_eq!((request.path, request.key, request.token), ("/a/ws/1", "k", "t"));
        assert!(Request::parse("GET /ready HTTP/1.1\r\nHost: x\r\n\r\n").is_none());
    }
}
