//! A connection over TCP or a unix socket, with one interface. A load balancer on the same host uses the unix socket, which costs a quarter
//! of a hop over loopback.

use crate::sources::Peer;
use std::{
    io::{self, IoSlice},
    net::Shutdown,
    os::fd::AsRawFd,
    path::Path,
    pin::Pin,
    task::{Context, Poll},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
};

/// The longest frame that is copied into one buffer, in bytes: a plain write costs less than a vectored one.
const PIECE: usize = 512;

/// The listeners of a gateway: a TCP port and an optional unix socket.
#[derive(Debug)]
pub struct Listeners {
    tcp: TcpListener,
    unix: Option<UnixListener>,
}

impl From<TcpListener> for Listeners {
    fn from(tcp: TcpListener) -> Self {
        Self { tcp, unix: None }
    }
}

impl Listeners {
    /// Adds a unix socket.
    #[must_use]
    pub fn and_unix(self, unix: UnixListener) -> Self {
        Self { unix: Some(unix), ..self }
    }

    /// Returns the address of the TCP port.
    ///
    /// # Errors
    /// The error of the system.
    pub fn local_addr(&self) -> io::Result<std::net::SocketAddr> {
        self.tcp.local_addr()
    }

    /// Accepts the next connection of either listener.
    pub(crate) async fn accept(&self) -> io::Result<(Socket, Peer)> {
        let unix = async {
            match &self.unix {
                Some(unix) => unix.accept().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            accepted = self.tcp.accept() => {
                let (stream, address) = accepted?;
                stream.set_nodelay(true)?;
                Ok((Socket::Tcp(stream), Peer::Ip(address.ip())))
            }
            accepted = unix => Ok((Socket::Unix(accepted?.0), Peer::Unix)),
        }
    }
}

/// Listens on the unix socket at `path`, and replaces one that a dead process left.
///
/// # Errors
/// Another process listens there, or the path cannot be used.
pub(crate) fn bind_unix(path: &Path) -> io::Result<UnixListener> {
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        return Err(io::ErrorKind::AddrInUse.into());
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    UnixListener::bind(path)
}

/// An accepted connection.
#[derive(Debug)]
pub(crate) enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// Calls a method of either stream.
macro_rules! either {
    ($socket:expr, $stream:ident => $call:expr) => {
        match $socket {
            Socket::Tcp($stream) => $call,
            Socket::Unix($stream) => $call,
        }
    };
}

impl Socket {
    pub(crate) fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        either!(self, stream => stream.try_read(buffer))
    }

    pub(crate) fn try_write_vectored(&self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        either!(self, stream => stream.try_write_vectored(parts))
    }

    /// Writes a frame's header and payload. Returns how many bytes the socket took.
    pub(crate) fn try_write_frame(&self, [header, payload]: [&[u8]; 2]) -> io::Result<usize> {
        let len = header.len() + payload.len();
        if len > PIECE {
            return self.try_write_vectored(&[header, payload].map(IoSlice::new));
        }
        let mut piece = [0; PIECE];
        piece[..header.len()].copy_from_slice(header);
        piece[header.len()..len].copy_from_slice(payload);
        either!(self, stream => stream.try_write(&piece[..len]))
    }

    /// Returns the bytes of memory that hold what the peer has not read. `None` for TCP, which only knows what the peer's kernel has not
    /// acknowledged: that depends more on the distance than on the peer.
    pub(crate) fn unread(&self) -> Option<usize> {
        match self {
            Self::Tcp(_) => None,
            Self::Unix(stream) => unread(stream),
        }
    }

    /// Waits until the socket can be read. Only one task may wait at a time, because a new waker replaces the old one. The runtime's future
    /// for several tasks is ten times as large.
    pub(crate) fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, stream => stream.poll_read_ready(cx))
    }

    /// Waits until the socket can be written. Only one task may wait at a time: see [`Socket::poll_readable`].
    pub(crate) fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, stream => stream.poll_write_ready(cx))
    }

    pub(crate) fn set_send_buffer(&self, bytes: usize) -> io::Result<()> {
        either!(self, stream => socket2::SockRef::from(stream).set_send_buffer_size(bytes))
    }

    /// Ends our side; the other's may still come.
    pub(crate) fn shutdown_write(&self) -> io::Result<()> {
        either!(self, stream => socket2::SockRef::from(stream).shutdown(Shutdown::Write))
    }
}

/// `SIOCOUTQ`, which has the number of `TIOCOUTQ`; see unix(7).
#[allow(
    unsafe_code,
    reason = "no crate wraps this ioctl: it writes one integer, which it is given the place of"
)]
fn unread(stream: &UnixStream) -> Option<usize> {
    mod request {
        nix::ioctl_read_bad!(outq, nix::libc::TIOCOUTQ, nix::libc::c_int);
    }
    let mut bytes = 0;
    unsafe { request::outq(stream.as_raw_fd(), &raw mut bytes) }.ok()?;
    usize::try_from(bytes).ok()
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        either!(self.get_mut(), stream => Pin::new(stream).poll_read(cx, buffer))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        either!(self.get_mut(), stream => Pin::new(stream).poll_write(cx, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        either!(self.get_mut(), stream => Pin::new(stream).poll_write_vectored(cx, parts))
    }

    fn is_write_vectored(&self) -> bool {
        either!(self, stream => stream.is_write_vectored())
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self.get_mut(), stream => Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self.get_mut(), stream => Pin::new(stream).poll_shutdown(cx))
    }
}
