//! A relay between two parts of the stack, over TCP or unix sockets, that can be told to delay, hold back or break what
//! passes through it. It looks into nothing; its connections and what they buffer are bounded.

mod conduct;
mod pump;
#[cfg(test)]
mod tests;

pub(crate) use conduct::{Conduct, Flow};

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

/// As many as HAProxy takes on one machine.
const MAX_CONNECTIONS: usize = 100_000;
const BACKLOG: u32 = 16_384;

/// Where a socket listens.
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

/// How connections are ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Break {
    Close,
    /// RST to both sides, where they are TCP.
    Reset,
}

/// What a relay has seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Taken in, ever.
    pub(crate) accepted: u64,
    /// Open now.
    pub(crate) open: u64,
    /// Ended by order.
    pub(crate) broken: u64,
    /// Turned away: too many at once, or nobody listens behind.
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
    conduct: watch::Sender<Conduct>,
    /// Counts the orders to break, and says how the last one wants it.
    breaks: watch::Sender<(u64, Break)>,
    counters: Counters,
}

/// A running relay. Dropped, it ends with all its connections.
pub(crate) struct Relay {
    address: Address,
    shared: Arc<Shared>,
    doorman: JoinHandle<()>,
    /// Ends a spell that has a time.
    timer: parking_lot::Mutex<Option<JoinHandle<()>>>,
}

impl Relay {
    /// Listens at `listen` (port 0 takes a free one) and passes on to `target`, which need not listen yet.
    pub(crate) fn start(listen: &Address, target: Address) -> io::Result<Self> {
        let (listener, address) = Listener::bind(listen)?;
        let shared = Arc::new(Shared {
            target,
            conduct: watch::Sender::new(Conduct::default()),
            breaks: watch::Sender::new((0, Break::Close)),
            counters: Counters::default(),
        });
        let doorman = tokio::spawn(accept(listener, Arc::clone(&shared)));
        Ok(Self { address, shared, doorman, timer: parking_lot::Mutex::default() })
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> &Address {
        &self.address
    }

    pub(crate) fn conduct(&self) -> Conduct {
        *self.shared.conduct.borrow()
    }

    pub(crate) fn set_delay(&self, delay: Duration) {
        self.shared.conduct.send_modify(|conduct| conduct.delay = delay);
    }

    pub(crate) fn set_jitter(&self, jitter: Duration) {
        self.shared.conduct.send_modify(|conduct| conduct.jitter = jitter);
    }

    /// Lets this through from now on; after `time`, everything again.
    pub(crate) fn set_flow(&self, flow: Flow, time: Option<Duration>) {
        let mut timer = self.timer.lock();
        if let Some(earlier) = timer.take() {
            earlier.abort();
        }
        self.shared.conduct.send_modify(|conduct| conduct.flow = flow);
        if let Some(time) = time {
            let shared = Arc::clone(&self.shared);
            *timer = Some(tokio::spawn(async move {
                sleep(time).await;
                shared.conduct.send_modify(|conduct| conduct.flow = Flow::Free);
            }));
        }
    }

    /// As if nothing had been; open connections stay.
    pub(crate) fn heal(&self) {
        self.set_flow(Flow::Free, None);
        self.shared.conduct.send_replace(Conduct::default());
    }

    /// Ends all connections; answers how many there were.
    pub(crate) fn sever(&self, how: Break) -> u64 {
        let open = self.shared.counters.open.load(Relaxed);
        self.shared.breaks.send_modify(|(count, last)| (*count, *last) = (*count + 1, how));
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
        self.doorman.abort();
        if let Some(timer) = self.timer.lock().take() {
            timer.abort();
        }
        // Nobody turns the conduct any more: connections that wait for it must not wait for ever.
        self.heal();
        self.sever(Break::Close);
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
                // Left behind by a relay that was killed: one supervisor holds this directory.
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
    let seats = Arc::new(Semaphore::new(MAX_CONNECTIONS));
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
        let Ok(seat) = Arc::clone(&seats).try_acquire_owned() else {
            shared.counters.refused.fetch_add(1, Relaxed);
            continue;
        };
        let shared = Arc::clone(&shared);
        // Taken here: an order to break meets every connection that was accepted before it.
        let breaks = shared.breaks.subscribe();
        let open = Open::new(&shared);
        tokio::spawn(async move {
            relay(stream, &open.0, breaks).await;
            drop((open, seat));
        });
    }
}

/// Counts a connection as open while it lives.
struct Open(Arc<Shared>);

impl Open {
    fn new(shared: &Arc<Shared>) -> Self {
        shared.counters.open.fetch_add(1, Relaxed);
        Self(Arc::clone(shared))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.counters.open.fetch_sub(1, Relaxed);
    }
}

async fn relay(mut near: Stream, shared: &Shared, mut breaks: watch::Receiver<(u64, Break)>) {
    let mut conduct = shared.conduct.subscribe();
    let mut far = None;
    let carried = async {
        until_open(&mut conduct).await;
        let far = match connect(&shared.target).await {
            Ok(stream) => far.insert(stream),
            Err(_) => {
                shared.counters.refused.fetch_add(1, Relaxed);
                return;
            }
        };
        let (near_reader, near_writer) = tokio::io::split(&mut near);
        let (far_reader, far_writer) = tokio::io::split(far);
        // Either side's failure ends both directions; an end of one direction alone is passed on.
        let _ = tokio::try_join!(
            pump(near_reader, far_writer, conduct.clone()),
            pump(far_reader, near_writer, conduct.clone()),
        );
    };
    let how = tokio::select! {
        () = carried => return,
        order = breaks.changed() => match order {
            Ok(()) => breaks.borrow_and_update().1,
            Err(_) => return,
        },
    };
    shared.counters.broken.fetch_add(1, Relaxed);
    if how == Break::Reset {
        for stream in [Some(&near), far.as_ref()].into_iter().flatten() {
            if let Either::Left(stream) = stream {
                // It fails for a socket that is closed already.
                let _ = socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO));
            }
        }
    }
}
