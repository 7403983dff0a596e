//! A TCP connection whose reads know when their bytes reached this machine, by the kernel where it says so.
//! It frames nothing; TLS goes over it.

use crate::{pulse, stamps};
use http::Uri;
use hyper_util::{
    client::legacy::connect::{Connected, Connection, HttpConnector},
    rt::TokioIo,
};
use parking_lot::Mutex;
use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, Interest, ReadBuf},
    net::TcpStream,
};
use tower_service::Service;

/// When the last bytes of a read arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrived {
    /// By the kernel; without its timestamp the moment of the read.
    pub at: Instant,
    /// How much earlier it may have been.
    pub slack: Duration,
    /// The kernel said so.
    pub is_stamped: bool,
    /// The read took as much as it had room for: more may have been there already.
    pub full: bool,
}

/// When a connection last wrote, and when what it read last arrived. An HTTP call finds its own times here.
#[derive(Clone, Copy, Debug, Default)]
pub struct Times {
    /// The last write, and how long the loop had not looked at the kernel by then.
    pub written: Option<(Instant, Duration)>,
    /// The last read.
    pub arrived: Option<Arrived>,
}

impl Times {
    /// How much later than `from`, when it was ordered, the last write was made by the loop's own doing.
    #[must_use]
    pub fn own_delay(&self, from: Instant) -> Duration {
        self.written.map_or(Duration::ZERO, |(at, unseen)| at.saturating_duration_since(from).min(unseen))
    }
}

/// Where the times of an HTTP connection are found: an extension of each answer.
pub type SharedTimes = Arc<Mutex<Times>>;

/// A connection.
#[derive(Debug)]
pub struct Tcp {
    stream: TcpStream,
    arrived: Option<Arrived>,
    /// Reads go to the kernel whether or not the runtime knows that there is something.
    at_once: bool,
    /// Where others look for its times.
    shared: Option<SharedTimes>,
}

impl Tcp {
    /// Wraps a connection, and asks the kernel for timestamps. Where it has none, reads count when they happen.
    #[must_use]
    pub fn new(stream: TcpStream) -> Self {
        kernel::ask_for_stamps(&stream);
        Self { stream, arrived: None, at_once: false, shared: None }
    }

    /// The same; its times are noted in `times`.
    #[must_use]
    pub fn noting(stream: TcpStream, times: SharedTimes) -> Self {
        Self { shared: Some(times), ..Self::new(stream) }
    }

    /// The socket.
    #[must_use]
    pub const fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// When the bytes of the last read arrived.
    #[must_use]
    pub const fn arrived(&self) -> Option<Arrived> {
        self.arrived
    }

    /// Has reads go to the kernel at once: the runtime may not have looked yet.
    pub const fn read_at_once(&mut self, at_once: bool) {
        self.at_once = at_once;
    }

    fn note(&mut self, bytes: usize, room: usize, stamp: Option<i64>) {
        let now = Instant::now();
        let stamp = stamp.and_then(|stamp| stamps::arrival(stamp, now));
        let (at, slack) = stamp.map_or_else(|| (now, pulse::unseen(now)), |at| (at, Duration::ZERO));
        // What came later did not arrive earlier.
        let at = self.arrived.map_or(at, |before| at.max(before.at));
        let arrived = Arrived { at, slack, is_stamped: stamp.is_some(), full: bytes == room };
        self.arrived = Some(arrived);
        if let Some(times) = &self.shared {
            times.lock().arrived = Some(arrived);
        }
    }
}

impl AsyncRead for Tcp {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let tcp = self.get_mut();
        let space = buf.initialize_unfilled();
        let room = space.len();
        let (bytes, stamp) = loop {
            if tcp.at_once {
                match kernel::receive(&tcp.stream, space) {
                    Ok(received) => break received,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Poll::Pending,
                    Err(error) => return Poll::Ready(Err(error)),
                }
            }
            ready!(tcp.stream.poll_read_ready(cx))?;
            let mut received = None;
            let result = tcp.stream.try_io(Interest::READABLE, || {
                let (bytes, stamp) = kernel::receive(&tcp.stream, space)?;
                received = Some((bytes, stamp));
                // The kernel has no more, so the runtime need not try: what it does itself after a short read.
                if bytes > 0 && bytes < room { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
            });
            match (received, result) {
                (Some(received), _) => break received,
                (None, Err(error)) if error.kind() != io::ErrorKind::WouldBlock => {
                    return Poll::Ready(Err(error));
                }
                (None, _) => {}
            }
        };
        if bytes > 0 {
            tcp.note(bytes, room, stamp);
        }
        buf.advance(bytes);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Tcp {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let tcp = self.get_mut();
        let written = ready!(Pin::new(&mut tcp.stream).poll_write(cx, buf));
        tcp.wrote();
        Poll::Ready(written)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let tcp = self.get_mut();
        let written = ready!(Pin::new(&mut tcp.stream).poll_write_vectored(cx, bufs));
        tcp.wrote();
        Poll::Ready(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

impl Tcp {
    fn wrote(&self) {
        if let Some(times) = &self.shared {
            let now = Instant::now();
            times.lock().written = Some((now, pulse::unseen(now)));
        }
    }
}

impl Connection for Tcp {
    fn connected(&self) -> Connected {
        let connected = self.stream.connected();
        match &self.shared {
            Some(times) => connected.extra(Arc::clone(times)),
            None => connected,
        }
    }
}

/// Makes connections for HTTP whose times are noted.
#[derive(Clone, Debug)]
pub struct Noting(pub HttpConnector);

impl Service<Uri> for Noting {
    type Response = TokioIo<Tcp>;
    type Error = <HttpConnector as Service<Uri>>::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, to: Uri) -> Self::Future {
        let connecting = self.0.call(to);
        Box::pin(async move {
            let stream = connecting.await?.into_inner();
            Ok(TokioIo::new(Tcp::noting(stream, SharedTimes::default())))
        })
    }
}

/// Has the kernel stamp what arrives from now on, until the returned socket is dropped: it begins a moment after the first socket asked,
/// and ends with the last.
#[must_use]
pub fn keep_stamping() -> Option<std::net::UdpSocket> {
    let socket = std::net::UdpSocket::bind((std::net::Ipv4Addr::LOCALHOST, 0)).ok()?;
    kernel::ask_for_stamps(&socket);
    Some(socket)
}

#[cfg(target_os = "linux")]
mod kernel {
    use nix::{
        errno::Errno,
        sys::socket::{
            ControlMessageOwned, MsgFlags, TimestampingFlag, recvmsg, setsockopt, sockopt::Timestamping,
        },
    };
    use std::{
        io::{self, IoSliceMut},
        os::fd::{AsFd, AsRawFd},
    };
    use tokio::net::TcpStream;

    /// Room for one timestamp, aligned as control messages are.
    #[repr(align(8))]
    struct Control([u8; 128]);

    /// A kernel that refuses has no timestamps; then reads count.
    pub(super) fn ask_for_stamps(socket: &impl AsFd) {
        let flags =
            TimestampingFlag::SOF_TIMESTAMPING_RX_SOFTWARE | TimestampingFlag::SOF_TIMESTAMPING_SOFTWARE;
        let _ = setsockopt(socket, Timestamping, &flags);
    }

    /// Reads once; the timestamp of the last byte, nanoseconds of the wall clock.
    pub(super) fn receive(stream: &TcpStream, space: &mut [u8]) -> io::Result<(usize, Option<i64>)> {
        loop {
            let mut control = Control([0; 128]);
            let mut parts = [IoSliceMut::new(space)];
            match recvmsg::<()>(stream.as_raw_fd(), &mut parts, Some(&mut control.0), MsgFlags::empty()) {
                Ok(message) => {
                    let stamp = message
                        .cmsgs()
                        .ok()
                        .and_then(|mut messages| messages.find_map(|message| stamp(&message)));
                    return Ok((message.bytes, stamp));
                }
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn stamp(message: &ControlMessageOwned) -> Option<i64> {
        let ControlMessageOwned::ScmTimestampsns(stamps) = message else { return None };
        let (seconds, nanos) = (stamps.system.tv_sec(), stamps.system.tv_nsec());
        let stamp = seconds.checked_mul(1_000_000_000)?.checked_add(nanos)?;
        (stamp > 0).then_some(stamp)
    }
}

#[cfg(not(target_os = "linux"))]
mod kernel {
    use std::io;
    use tokio::net::TcpStream;

    pub(super) const fn ask_for_stamps<T>(_: &T) {}

    pub(super) fn receive(stream: &TcpStream, space: &mut [u8]) -> io::Result<(usize, Option<i64>)> {
        stream.try_read(space).map(|bytes| (bytes, None))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    async fn pair() -> (Tcp, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (server, _) = listener.accept().await.unwrap();
        server.set_nodelay(true).unwrap();
        (Tcp::new(client), server)
    }

    async fn read(tcp: &mut Tcp) -> (usize, Arrived) {
        let bytes = tcp.read(&mut [0; 64]).await.unwrap();
        (bytes, tcp.arrived().unwrap())
    }

    /// The first reads after timestamps were first asked for may lack one.
    async fn warm(tcp: &mut Tcp, server: &mut TcpStream) {
        for _ in 0..200 {
            server.write_all(b"x").await.unwrap();
            if read(tcp).await.1.is_stamped {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("this kernel gives no receive timestamps");
    }

    #[tokio::test]
    async fn a_read_that_is_late_still_knows_when_its_bytes_came() {
        let (mut tcp, mut server) = pair().await;
        warm(&mut tcp, &mut server).await;
        for stall in [1, 20, 100] {
            let before = Instant::now();
            server.write_all(b"token").await.unwrap();
            let after = Instant::now();
            // The whole thread stands still, as an overloaded generator does.
            std::thread::sleep(Duration::from_millis(stall));
            let (bytes, arrived) = read(&mut tcp).await;
            assert_eq!(bytes, 5);
            let margin = Duration::from_micros(200);
            assert!(
                arrived.at + margin >= before && arrived.at <= after + margin,
                "{arrived:?} {before:?}..{after:?}"
            );
            assert!(arrived.is_stamped && arrived.slack.is_zero());
        }
    }

    #[tokio::test]
    async fn a_read_at_once_needs_no_readiness_and_never_waits() {
        use futures_util::FutureExt;
        let (mut tcp, mut server) = pair().await;
        warm(&mut tcp, &mut server).await;
        tcp.read_at_once(true);
        assert!(tcp.read(&mut [0; 64]).now_or_never().is_none());
        server.write_all(b"token").await.unwrap();
        assert_eq!(tcp.read(&mut [0; 3]).now_or_never().unwrap().unwrap(), 3);
        assert!(tcp.arrived().unwrap().full, "there is more");
        assert_eq!(tcp.read(&mut [0; 64]).now_or_never().unwrap().unwrap(), 2);
        tcp.read_at_once(false);
        server.write_all(b"more").await.unwrap();
        assert_eq!(read(&mut tcp).await.0, 4);
        drop(server);
        assert_eq!(tcp.read(&mut [0; 64]).await.unwrap(), 0);
    }
}
