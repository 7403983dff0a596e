//! Relays between two parts of the stack, over TCP or unix sockets. On request a relay delays or blocks data, or closes its
//! connections. It does not parse the data, and its connections and buffers are limited.

mod impairment;
mod pump;
#[cfg(test)]
mod tests;

pub(crate) use impairment::{Flow, Impairment};

use guard::{Acceptor, accept_now};
use pump::{pump, until_open};
use std::{
    fmt, fs, io,
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::{
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    sync::{Semaphore, watch},
    task::JoinHandle,
    time::sleep,
};
use tokio_util::either::Either;

/// Connections of a relay at a time: as many as HAProxy accepts on one machine.
const MAX_CONNECTIONS: usize = 100_000;
const BACKLOG: u32 = 16_384;

/// The address of a listening socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Address {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => path.display().fmt(f),
        }
    }
}

type Stream = Either<TcpStream, UnixStream>;

/// A way to end connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Termination {
    Close,
    /// Sends RST to both sides of TCP connections. Closes others.
    Reset,
}

/// Numbers of connections of a relay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Accepted since the start.
    pub(crate) accepted: u64,
    /// Open now.
    pub(crate) open: u64,
    /// Ended on request.
    pub(crate) broken: u64,
    /// Refused because there were too many, or because no process listens at the target.
    pub(crate) refused: u64,
}

#[derive(Debug, Default)]
struct Counters {
    accepted: AtomicU64,
    open: AtomicU64,
    broken: AtomicU64,
    refused: AtomicU64,
}

struct Shared {
    target: Address,
    impairment: watch::Sender<Impairment>,
    /// Number of requests to end all connections, and the way of the last one.
    terminations: watch::Sender<(u64, Termination)>,
    counters: Counters,
}

/// A running relay. Dropping it ends all its connections.
pub(crate) struct Relay {
    address: Address,
    shared: Arc<Shared>,
    accept_task: JoinHandle<()>,
    /// Ends an impairment that has a duration.
    timer: parking_lot::Mutex<Option<JoinHandle<()>>>,
}

impl Relay {
    /// Listens at `listen`, where port 0 selects a free port, and connects to `target`, which does not have to listen yet.
    pub(crate) fn start(listen: &Address, target: Address) -> io::Result<Self> {
        let (listener, address) = Listener::bind(listen)?;
        let shared = Arc::new(Shared {
            target,
            impairment: watch::Sender::new(Impairment::default()),
            terminations: watch::Sender::new((0, Termination::Close)),
            counters: Counters::default(),
        });
        let accept_task = tokio::spawn(accept(listener, Arc::clone(&shared)));
        Ok(Self { address, shared, accept_task, timer: parking_lot::Mutex::default() })
    }

    /// Returns the address at which the relay listens.
    pub(crate) fn address(&self) -> &Address {
        &self.address
    }

    pub(crate) fn impairment(&self) -> Impairment {
        *self.shared.impairment.borrow()
    }

    pub(crate) fn set_delay(&self, delay: Duration) {
        self.shared.impairment.send_modify(|impairment| impairment.delay = delay);
    }

    pub(crate) fn set_jitter(&self, jitter: Duration) {
        self.shared.impairment.send_modify(|impairment| impairment.jitter = jitter);
    }

    /// Sets the flow, and after `time` resets it to [`Flow::Free`].
    pub(crate) fn set_flow(&self, flow: Flow, time: Option<Duration>) {
        let mut timer = self.timer.lock();
        if let Some(earlier) = timer.take() {
            earlier.abort();
        }
        self.shared.impairment.send_modify(|impairment| impairment.flow = flow);
        if let Some(time) = time {
            let shared = Arc::clone(&self.shared);
            *timer = Some(tokio::spawn(async move {
                sleep(time).await;
                shared.impairment.send_modify(|impairment| impairment.flow = Flow::Free);
            }));
        }
    }

    /// Removes the impairment. Connections stay open.
    pub(crate) fn heal(&self) {
        self.set_flow(Flow::Free, None);
        self.shared.impairment.send_replace(Impairment::default());
    }

    /// Ends all connections. Returns their number.
    pub(crate) fn end_connections(&self, termination: Termination) -> u64 {
        let open = self.shared.counters.open.load(Relaxed);
        self.shared.terminations.send_modify(|(count, last)| (*count, *last) = (*count + 1, termination));
        open
    }

    pub(crate) fn counts(&self) -> Counts {
        let Counters { accepted, open, broken, refused } = &self.shared.counters;
        Counts {
            accepted: accepted.load(Relaxed),
            open: open.load(Relaxed),
            broken: broken.load(Relaxed),
            refused: refused.load(Relaxed),
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.accept_task.abort();
        if let Some(timer) = self.timer.lock().take() {
            timer.abort();
        }
        // Connections of a half-open link would otherwise wait for ever.
        self.heal();
        self.end_connections(Termination::Close);
        if let Address::Unix(path) = &self.address {
            let _ = fs::remove_file(path);
        }
    }
}

impl fmt::Debug for Relay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Relay({} to {}, {:?})", self.address, self.shared.target, self.counts())
    }
}

enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listener {
    fn bind(address: &Address) -> io::Result<(Self, Address)> {
        match address {
            Address::Tcp(address) => {
                let socket = tokio::net::TcpSocket::new_v4()?;
                socket.set_reuseaddr(true)?;
                socket.bind(*address)?;
                let listener = socket.listen(BACKLOG)?;
                let address = listener.local_addr()?;
                Ok((Self::Tcp(listener), Address::Tcp(address)))
            }
            Address::Unix(path) => {
                // A supervisor that was killed left the socket behind. This one has the lock of the directory.
                let _ = fs::remove_file(path);
                let listener = UnixListener::bind(path)?;
                Ok((Self::Unix(listener), address.clone()))
            }
        }
    }

    async fn accept(&self) -> io::Result<Stream> {
        match self {
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                stream.set_nodelay(true)?;
                Ok(Either::Left(stream))
            }
            Self::Unix(listener) => Ok(Either::Right(listener.accept().await?.0)),
        }
    }
}

async fn connect(target: &Address) -> io::Result<Stream> {
    match target {
        Address::Tcp(address) => {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            Ok(Either::Left(stream))
        }
        Address::Unix(path) => Ok(Either::Right(UnixStream::connect(path).await?)),
    }
}

async fn accept(listener: Listener, shared: Arc<Shared>) {
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut acceptor = Acceptor::default();
    loop {
        let stream = match listener.accept().await {
            Ok(stream) => stream,
            Err(error) => {
                acceptor.failed(&error, || accept_now(listener.accept())).await;
                continue;
            }
        };
        acceptor.accepted();
        shared.counters.accepted.fetch_add(1, Relaxed);
        let Ok(permit) = Arc::clone(&permits).try_acquire_owned() else {
            shared.counters.refused.fetch_add(1, Relaxed);
            continue;
        };
        let shared = Arc::clone(&shared);
        // Both happen before the task starts, so that a termination affects every connection that was accepted before it.
        let terminations = shared.terminations.subscribe();
        let open = OpenConnection::new(&shared);
        tokio::spawn(async move {
            relay(stream, &open.0, terminations).await;
            drop((open, permit));
        });
    }
}

/// Counts a connection as open until it is dropped.
struct OpenConnection(Arc<Shared>);

impl OpenConnection {
    fn new(shared: &Arc<Shared>) -> Self {
        shared.counters.open.fetch_add(1, Relaxed);
        Self(Arc::clone(shared))
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.counters.open.fetch_sub(1, Relaxed);
    }
}

/// Connects to the target and carries data in both directions until a side or a termination ends the connection.
async fn relay(mut near: Stream, shared: &Shared, mut terminations: watch::Receiver<(u64, Termination)>) {
    let mut impairment = shared.impairment.subscribe();
    let mut far = None;
    let carry = async {
        until_open(&mut impairment).await;
        let far = match connect(&shared.target).await {
            Ok(stream) => far.insert(stream),
            Err(_) => {
                shared.counters.refused.fetch_add(1, Relaxed);
                return;
            }
        };
        let (near_reader, near_writer) = tokio::io::split(&mut near);
        let (far_reader, far_writer) = tokio::io::split(far);
        // A failure of either side ends both directions. The end of one direction is passed on.
        let _ = tokio::try_join!(
            pump(near_reader, far_writer, impairment.clone()),
            pump(far_reader, near_writer, impairment.clone()),
        );
    };
    let termination = tokio::select! {
        () = carry => return,
        changed = terminations.changed() => match changed {
            Ok(()) => terminations.borrow_and_update().1,
            Err(_) => return,
        },
    };
    shared.counters.broken.fetch_add(1, Relaxed);
    if termination == Termination::Reset {
        for stream in [Some(&near), far.as_ref()].into_iter().flatten() {
            if let Either::Left(stream) = stream {
                // This fails if the socket is closed already.
                let _ = socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO));
            }
        }
    }
}
