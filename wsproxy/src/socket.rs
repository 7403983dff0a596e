//! The stream under a socket: TCP, or a unix socket from a load balancer on the same host, which costs a quarter of a
//! loopback hop. Whoever reads and writes it need not know which.

use crate::sources::Peer;
use std::{
    future::poll_fn,
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

/// The longest frame that is put together to be written: a plain write costs the kernel less than one of two parts.
const PIECE: usize = 512;

/// Where a gateway accepts: always a TCP port, and a unix socket where it was given one.
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
    /// Accepts on this unix socket too.
    #[must_use]
    pub fn and_unix(self, unix: UnixListener) -> Self {
        Self { unix: Some(unix), ..self }
    }

    /// The port's address.
    ///
    /// # Errors
    /// The system's own.
    pub fn local_addr(&self) -> io::Result<std::net::SocketAddr> {
        self.tcp.local_addr()
    }

    /// The next connection on either, and who is at its other end.
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

/// Takes the unix socket at `path`, in the place of one that a process left behind.
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

/// A connection.
#[derive(Debug)]
pub(crate) enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// Calls the same method on either.
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

    /// Writes a frame's header and payload, or what the socket takes of them.
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

    /// Bytes of memory that hold what the peer has not read yet. A unix socket knows; what a TCP socket could tell is what its
    /// peer's kernel has not acknowledged, which says more of the distance than of the peer.
    pub(crate) fn unread(&self) -> Option<usize> {
        match self {
            Self::Tcp(_) => None,
            Self::Unix(stream) => unread(stream),
        }
    }

    /// Waits until there is something to read, or the end. For one task at a time, whose waker takes the place of the last
    /// one's: what the runtime offers to several at once is ten times as large.
    pub(crate) async fn readable(&self) -> io::Result<()> {
        poll_fn(|cx| either!(self, stream => stream.poll_read_ready(cx))).await
    }

    /// Waits until something can be written. For one task at a time, as [`Socket::readable`] is.
    pub(crate) async fn writable(&self) -> io::Result<()> {
        poll_fn(|cx| either!(self, stream => stream.poll_write_ready(cx))).await
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
