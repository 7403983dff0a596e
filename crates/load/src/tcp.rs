//! A TCP connection that knows when the bytes of each read arrived: by the kernel's receive timestamp if there is one, else
//! by the time of the read. TLS runs over it.

use crate::{event_loop, timestamps};
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

/// When the last byte of a read arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadArrival {
    /// The kernel's timestamp, or the time of the read.
    pub at: Instant,
    /// How much earlier than `at` the byte may have arrived. 0 with a kernel timestamp.
    pub slack: Duration,
    /// `at` is a kernel timestamp.
    pub is_stamped: bool,
    /// The read filled its buffer, so that later bytes may have arrived before the read as well.
    pub full: bool,
}

/// The times of a connection's last write and last read. An HTTP call reads its times here.
#[derive(Clone, Copy, Debug, Default)]
pub struct ConnectionTimes {
    /// The last write, and how long before it the event loop had not returned from the kernel.
    pub written: Option<(Instant, Duration)>,
    /// The arrival of the last read.
    pub arrived: Option<ReadArrival>,
}

impl ConnectionTimes {
    /// Returns the delay between `from`, when the write was requested, and the last write that the event loop itself may have
    /// caused, at most.
    #[must_use]
    pub fn own_delay(&self, from: Instant) -> Duration {
        self.written.map_or(Duration::ZERO, |(at, unseen)| at.saturating_duration_since(from).min(unseen))
    }
}

/// The times of an HTTP connection, shared with its responses: each response has them as an extension.
pub type SharedConnectionTimes = Arc<Mutex<ConnectionTimes>>;

/// A TCP connection with arrival times.
#[derive(Debug)]
pub struct Tcp {
    stream: TcpStream,
    arrived: Option<ReadArrival>,
    /// Reads call the kernel even if the runtime has not seen the socket become readable.
    at_once: bool,
    /// A copy of the times for HTTP calls.
    shared: Option<SharedConnectionTimes>,
}

impl Tcp {
    /// Wraps a connection and enables kernel timestamps on it. Without timestamps, the times of the reads count.
    #[must_use]
    pub fn new(stream: TcpStream) -> Self {
        kernel::ask_for_stamps(&stream);
        Self { stream, arrived: None, at_once: false, shared: None }
    }

    /// Wraps a connection like [`Self::new`], and stores its times in `times`.
    #[must_use]
    pub fn with_times(stream: TcpStream, times: SharedConnectionTimes) -> Self {
        Self { shared: Some(times), ..Self::new(stream) }
    }

    /// Returns the socket.
    #[must_use]
    pub const fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Returns when the last read's bytes arrived. `None` before the first read.
    #[must_use]
    pub const fn arrived(&self) -> Option<ReadArrival> {
        self.arrived
    }

    /// Sets whether reads call the kernel at once, even if the runtime has not seen the socket become readable.
    pub const fn read_at_once(&mut self, at_once: bool) {
        self.at_once = at_once;
    }

    fn note(&mut self, bytes: usize, room: usize, stamp: Option<i64>) {
        let now = Instant::now();
        let stamp = stamp.and_then(|stamp| timestamps::arrival(stamp, now));
        let (at, slack) = stamp.map_or_else(|| (now, event_loop::unseen(now)), |at| (at, Duration::ZERO));
        // TCP delivers in order, so that a later byte cannot have arrived earlier. Offsets between clocks could suggest it.
        let at = self.arrived.map_or(at, |before| at.max(before.at));
        let arrived = ReadArrival { at, slack, is_stamped: stamp.is_some(), full: bytes == room };
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
                // A short read emptied the socket. WouldBlock makes the runtime wait for the next event instead of a read in
                // vain, as tokio's own `poll_read` does.
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
        let before = tcp.now_if_shared();
        let written = ready!(Pin::new(&mut tcp.stream).poll_write(cx, buf));
        tcp.wrote(before);
        Poll::Ready(written)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let tcp = self.get_mut();
        let before = tcp.now_if_shared();
        let written = ready!(Pin::new(&mut tcp.stream).poll_write_vectored(cx, bufs));
        tcp.wrote(before);
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
    /// Returns the time just before a write, if the times are shared. After the write it would be too late: the kernel may give the
    /// CPU to the other end first, whose response would then seem to arrive before the request was sent.
    fn now_if_shared(&self) -> Option<Instant> {
        self.shared.as_ref().map(|_| Instant::now())
    }

    /// Stores the time of a write.
    fn wrote(&self, at: Option<Instant>) {
        if let Some((times, at)) = self.shared.as_ref().zip(at) {
            times.lock().written = Some((at, event_loop::unseen(at)));
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

/// Makes HTTP connections that store their times.
#[derive(Clone, Debug)]
pub struct TimedConnector(pub HttpConnector);

impl Service<Uri> for TimedConnector {
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
            Ok(TokioIo::new(Tcp::with_times(stream, SharedConnectionTimes::default())))
        })
    }
}

/// Keeps the kernel's receive timestamps enabled until the returned socket is dropped.
///
/// The kernel stamps packets while at least one socket asks for it, and starts some milliseconds after the first one asked.
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

    /// Buffer for one timestamp, aligned like a control message.
    #[repr(align(8))]
    struct Control([u8; 128]);

    /// Enables receive timestamps on the socket. A refusal is ignored: then the times of the reads count.
    pub(super) fn ask_for_stamps(socket: &impl AsFd) {
        let flags =
            TimestampingFlag::SOF_TIMESTAMPING_RX_SOFTWARE | TimestampingFlag::SOF_TIMESTAMPING_SOFTWARE;
        let _ = setsockopt(socket, Timestamping, &flags);
    }

    /// Reads once. Returns the number of bytes and the timestamp of the last one, in nanoseconds of the wall clock.
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

    async fn read(tcp: &mut Tcp) -> (usize, ReadArrival) {
        let bytes = tcp.read(&mut [0; 64]).await.unwrap();
        (bytes, tcp.arrived().unwrap())
    }

    /// Reads until timestamps appear: the first reads after they were enabled may lack one.
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
    async fn a_late_read_knows_when_its_bytes_arrived() {
        let (mut tcp, mut server) = pair().await;
        warm(&mut tcp, &mut server).await;
        for stall in [1, 20, 100] {
            let before = Instant::now();
            server.write_all(b"token").await.unwrap();
            let after = Instant::now();
            // Blocks the whole thread, as an overloaded generator does.
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
