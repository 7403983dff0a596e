//! Opens one WebSocket at the least cost: a request that was made beforehand, and a look at the answer's first line.
//! It checks no `Sec-WebSocket-Accept`; what the gateway answers is tested elsewhere.

use anyhow::{Context, bail};
use nix::sys::epoll::{Epoll, EpollEvent};
use std::{
    io::{self, Read, Write},
    net::SocketAddr,
    os::unix::net as unix,
    path::PathBuf,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UnixStream},
};

/// The longest answer that is waited for.
const MOST_HEAD: usize = 8 << 10;

/// Where a gateway is.
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

    /// Writes a control frame: where the socket does not take it at once, nobody reads at the other end.
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

/// An open WebSocket, and what came right behind the answer.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) socket: Socket,
    pub(crate) early: Vec<u8>,
}

/// Opens a WebSocket with `request`, a whole HTTP head.
///
/// # Errors
/// No connection, or an answer other than 101, which is named.
pub(crate) async fn open(address: &Address, request: &[u8]) -> anyhow::Result<Opened> {
    match address {
        Address::Tcp(address) => {
            let mut stream = TcpStream::connect(address).await.context("cannot connect over TCP")?;
            let early = shake(&mut stream, request).await?;
            Ok(Opened { socket: Socket::Tcp(stream.into_std()?), early })
        }
        Address::Unix(path) => {
            let mut stream = UnixStream::connect(path).await.context("cannot connect to the unix socket")?;
            let early = shake(&mut stream, request).await?;
            Ok(Opened { socket: Socket::Unix(stream.into_std()?), early })
        }
    }
}

/// Sends the request and reads the answer's head; what came behind it.
async fn shake<S>(stream: &mut S, request: &[u8]) -> anyhow::Result<Vec<u8>>
where
    S: AsyncReadExt + AsyncWriteExt + Unpin,
{
    stream.write_all(request).await?;
    let mut answer = Vec::with_capacity(512);
    loop {
        if stream.read_buf(&mut answer).await? == 0 {
            bail!("the gateway closed the connection in the handshake");
        }
        if let Some(end) = answer.windows(4).position(|four| four == b"\r\n\r\n") {
            let line = answer.split(|&byte| byte == b'\r').next().unwrap_or_default();
            if !line.starts_with(b"HTTP/1.1 101") {
                bail!("the gateway answers `{}`", String::from_utf8_lossy(line));
            }
            return Ok(answer.split_off(end + 4));
        }
        if answer.len() > MOST_HEAD {
            bail!("the gateway's answer has more than {MOST_HEAD} bytes");
        }
    }
}
