//! Opens WebSockets at the least cost: sends requests that were made in advance, and checks only the first line of each
//! response. `Sec-WebSocket-Accept` is not checked; the gateway's own tests do that.

use crate::latency::histogram;
use anyhow::{Context, bail};
use futures_util::{StreamExt, stream};
use hdrhistogram::Histogram;
use nix::sys::epoll::{Epoll, EpollEvent};
use std::{
    io::{self, Read, Write},
    net::SocketAddr,
    os::unix::net as unix,
    path::PathBuf,
    time::Instant,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UnixStream},
};

/// Connects at a time, unless an option sets another number.
pub(crate) const CONCURRENCY: usize = 64;
/// Longest head of a response, in bytes.
const MAX_HEAD: usize = 8 << 10;

/// The address of a gateway.
#[derive(Clone, Debug)]
pub(crate) enum Address {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

/// A connected socket that does not block.
#[derive(Debug)]
pub(crate) enum Socket {
    Tcp(std::net::TcpStream),
    Unix(unix::UnixStream),
}

impl Socket {
    pub(crate) fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => (&*stream).read(buffer),
            Self::Unix(stream) => (&*stream).read(buffer),
        }
    }

    /// Writes a control frame. Fails if the socket does not take it at once, which means that the gateway does not read.
    pub(crate) fn write(&self, frame: &[u8]) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => (&*stream).write_all(frame),
            Self::Unix(stream) => (&*stream).write_all(frame),
        }
    }

    pub(crate) fn watch(&self, epoll: &Epoll, event: EpollEvent) -> nix::Result<()> {
        match self {
            Self::Tcp(stream) => epoll.add(stream, event),
            Self::Unix(stream) => epoll.add(stream, event),
        }
    }

    pub(crate) fn forget(&self, epoll: &Epoll) -> nix::Result<()> {
        match self {
            Self::Tcp(stream) => epoll.delete(stream),
            Self::Unix(stream) => epoll.delete(stream),
        }
    }
}

/// An open WebSocket, and the bytes that followed the response.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) socket: Socket,
    pub(crate) early: Vec<u8>,
}

/// Opens a WebSocket with `request`, a whole HTTP head.
///
/// # Errors
/// The connection fails, or the status is not 101. The error contains the status line.
async fn open(address: &Address, request: &[u8]) -> anyhow::Result<Opened> {
    match address {
        Address::Tcp(address) => {
            let mut stream = TcpStream::connect(address).await.context("cannot connect over TCP")?;
            let early = handshake(&mut stream, request).await?;
            Ok(Opened { socket: Socket::Tcp(stream.into_std()?), early })
        }
        Address::Unix(path) => {
            let mut stream = UnixStream::connect(path).await.context("cannot connect to the unix socket")?;
            let early = handshake(&mut stream, request).await?;
            Ok(Opened { socket: Socket::Unix(stream.into_std()?), early })
        }
    }
}

/// The sockets of many connects.
pub(crate) struct OpenedAll {
    pub(crate) opened: Vec<Opened>,
    /// Seconds from the first request to the last response.
    pub(crate) seconds: f64,
    /// Time from the first byte of a request to its response, in microseconds.
    pub(crate) latency: Histogram<u32>,
}

/// Opens a socket for every request, in their order, `concurrency` at a time.
///
/// # Errors
/// A socket cannot be opened.
pub(crate) async fn open_all(
    address: &Address,
    requests: Vec<Vec<u8>>,
    concurrency: usize,
) -> anyhow::Result<OpenedAll> {
    let began = Instant::now();
    let dials = requests.into_iter().map(|request| async move {
        let began = Instant::now();
        let opened = open(address, &request).await;
        (opened, u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX))
    });
    let mut dials = stream::iter(dials).buffered(concurrency);
    let (mut opened, mut latency) = (Vec::new(), histogram());
    while let Some((socket, us)) = dials.next().await {
        opened.push(socket?);
        latency.saturating_record(us.max(1));
    }
    Ok(OpenedAll { opened, seconds: began.elapsed().as_secs_f64(), latency })
}

/// Sends the request and reads the head of the response. Returns the bytes that followed it.
async fn handshake<S>(stream: &mut S, request: &[u8]) -> anyhow::Result<Vec<u8>>
where
    S: AsyncReadExt + AsyncWriteExt + Unpin,
{
    stream.write_all(request).await?;
    let mut answer = Vec::with_capacity(512);
    loop {
        if stream.read_buf(&mut answer).await? == 0 {
            bail!("the gateway closed the connection during the handshake");
        }
        if let Some(end) = answer.windows(4).position(|four| four == b"\r\n\r\n") {
            let line = answer.split(|&byte| byte == b'\r').next().unwrap_or_default();
            if !line.starts_with(b"HTTP/1.1 101") {
                bail!("the gateway returned `{}` instead of status 101", String::from_utf8_lossy(line));
            }
            return Ok(answer.split_off(end + 4));
        }
        if answer.len() > MAX_HEAD {
            bail!("the head of the gateway's response has more than {MAX_HEAD} bytes");
        }
    }
}
