//! Reads all connections of a rival on one thread, opens each one again when it breaks, and checks off every token.

use super::stream::Stream;
use crate::{
    latency::{Arrival, Latency, histogram, percentile_ms},
    reader::{Progress, last_number},
};
use anyhow::bail;
use hdrhistogram::Histogram;
use host::{Waited, monotonic_us};
use protocol::{EventCounts, ExpectedRange, Kind, Ledger, Observation, Prefix};
use std::{
    cell::RefCell,
    net::SocketAddr,
    ops::Range,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::LocalSet,
    time::{MissedTickBehavior, interval, sleep},
};

const BUFFER: usize = 16 << 10;
/// Time between two looks at the clock, which also show how late the thread is.
const TICK: Duration = Duration::from_millis(1);
/// Shortest time before a connection is opened again, and the range of what is added to it.
const PAUSE_MS: [u64; 2] = [50, 100];

/// What every connection reads, and where.
pub(super) struct Reader {
    pub(super) address: SocketAddr,
    pub(super) streams: Vec<Box<dyn Stream>>,
    /// Tokens of one connection.
    pub(super) expected: u64,
    pub(super) window: Range<u64>,
    pub(super) progress: Arc<Progress>,
    /// Connections that are live.
    pub(super) live: Arc<AtomicUsize>,
}

/// What was received on all connections.
#[derive(Debug)]
pub(super) struct Heard {
    pub(super) tally: EventCounts,
    pub(super) latency: Latency,
    /// The longest time between two tokens, of each connection, in microseconds.
    pub(super) pauses: Histogram<u32>,
    /// Lateness of the thread, in microseconds.
    pub(super) lag: Histogram<u32>,
    /// Connections that ended, and attempts that failed.
    pub(super) broken: u64,
    /// Why the last one ended.
    pub(super) last_error: Option<String>,
    /// Share of the time for which the thread waited for a CPU.
    pub(super) waited: f64,
}

/// What the tasks of the connections share.
struct Shared {
    address: SocketAddr,
    progress: Arc<Progress>,
    live: Arc<AtomicUsize>,
    latency: RefCell<Latency>,
    accounts: RefCell<Vec<Account>>,
    errors: RefCell<(u64, Option<String>)>,
}

/// The tokens of one connection.
#[derive(Debug, Default)]
struct Account {
    ledger: Ledger,
    last: Option<Arrival>,
    pause_us: u64,
}

impl Account {
    /// Checks off a token. Returns whether it is new.
    fn take(&mut self, text: &str, latency: &mut Latency) -> anyhow::Result<bool> {
        let Some((seq, due_us, sent_us)) = token(text.as_bytes()) else { bail!("`{text}` is not a token") };
        let received_us = monotonic_us();
        let is_new = self.ledger.observe(seq, Kind::Token, Some(sent_us)) != Observation::Duplicate;
        if is_new {
            let arrival = Arrival { due_us, sent_us, received_us, slack_us: 0 };
            latency.received(&arrival, self.last.as_ref());
            if let Some(last) = self.last.replace(arrival) {
                self.pause_us = self.pause_us.max(received_us - last.received_us);
            }
        }
        Ok(is_new)
    }
}

/// Returns the number of a token, and its times `due_us` and `sent_us`.
fn token(text: &[u8]) -> Option<(u64, u64, u64)> {
    let seq = Prefix::parse(text).filter(|prefix| prefix.kind == Kind::Token)?.position.seq;
    let (sent_us, before) = last_number(text.strip_suffix(b"}")?)?;
    let (due_us, _) = last_number(before.strip_suffix(br#","sent_us":"#)?)?;
    Some((seq, due_us, sent_us))
}

impl Reader {
    /// Reads until every token has arrived or the deadline is over.
    ///
    /// # Errors
    /// The runtime does not start.
    pub(super) fn run(self) -> anyhow::Result<Heard> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (began, waited) = (Instant::now(), Waited::of_this_thread().unwrap_or_default());
        let Self { address, streams, expected, window, progress, live } = self;
        let count = streams.len();
        let shared = Rc::new(Shared {
            address,
            progress,
            live,
            latency: RefCell::new(Latency::new(window)),
            accounts: RefCell::new((0..count).map(|_| Account::default()).collect()),
            errors: RefCell::default(),
        });
        let tasks = LocalSet::new();
        for (index, stream) in streams.into_iter().enumerate() {
            tasks.spawn_local(shared.clone().follow(index, stream));
        }
        let lag = tasks.block_on(&runtime, shared.wait(expected * count as u64));
        // Ends the tasks, which hold the other references.
        drop(tasks);
        let waited = Waited::of_this_thread().unwrap_or_default().since(waited).time;
        let waited = waited.as_secs_f64() / began.elapsed().as_secs_f64().max(1e-3);
        let Ok(shared) = Rc::try_unwrap(shared) else { bail!("a connection was not closed") };
        let mut tally = EventCounts::default();
        let mut pauses = histogram();
        for account in shared.accounts.into_inner() {
            let counts = account.ledger.counts(expected, ExpectedRange::Announced);
            tally.tokens_received += counts.tokens_received;
            tally.tokens_lost += counts.tokens_lost;
            tally.tokens_duplicated += counts.tokens_duplicated;
            tally.tokens_reordered += counts.tokens_reordered;
            pauses.saturating_record(account.pause_us.max(1));
        }
        let (broken, last_error) = shared.errors.into_inner();
        Ok(Heard { tally, latency: shared.latency.into_inner(), pauses, lag, broken, last_error, waited })
    }
}

impl Shared {
    /// Waits for all tokens or the deadline. Returns how late the thread was.
    async fn wait(&self, all: u64) -> Histogram<u32> {
        let mut lag = histogram();
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            let due = ticks.tick().await;
            lag.saturating_record(u64::try_from(due.elapsed().as_micros()).unwrap_or(u64::MAX).max(1));
            let deadline_us = self.progress.deadline_us.load(Ordering::Relaxed);
            let is_late = deadline_us != 0 && monotonic_us() > deadline_us;
            if is_late || self.progress.received.load(Ordering::Relaxed) >= all {
                return lag;
            }
        }
    }

    /// Keeps one connection open.
    async fn follow(self: Rc<Self>, index: usize, mut stream: Box<dyn Stream>) {
        let mut attempt = index as u64;
        loop {
            let mut live = false;
            if let Err(error) = self.read(index, &mut *stream, &mut live).await {
                let mut errors = self.errors.borrow_mut();
                *errors = (errors.0 + 1, Some(format!("{error:#}")));
            }
            if live {
                self.live.fetch_sub(1, Ordering::Relaxed);
            }
            // Connections do not come back all at once. The same times in every run, for every rival.
            attempt += 1;
            let [least, range] = PAUSE_MS;
            sleep(Duration::from_millis(least + attempt * 37 % range)).await;
        }
    }

    async fn read(&self, index: usize, stream: &mut dyn Stream, live: &mut bool) -> anyhow::Result<()> {
        let mut socket = TcpStream::connect(self.address).await?;
        socket.set_nodelay(true)?;
        socket.write_all(&stream.open()).await?;
        let (mut buffer, mut reply) = (Vec::with_capacity(BUFFER), Vec::new());
        loop {
            buffer.clear();
            if socket.read_buf(&mut buffer).await? == 0 {
                bail!("the server closed the connection");
            }
            self.feed(index, stream, &buffer, &mut reply)?;
            if !reply.is_empty() {
                socket.write_all(&reply).await?;
                reply.clear();
            }
            if !*live && stream.is_live() {
                *live = true;
                self.live.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    fn feed(
        &self,
        index: usize,
        stream: &mut dyn Stream,
        bytes: &[u8],
        reply: &mut Vec<u8>,
    ) -> anyhow::Result<()> {
        let (mut accounts, mut latency) = (self.accounts.borrow_mut(), self.latency.borrow_mut());
        let (mut taken, mut outcome) = (0, Ok(()));
        let fed = stream.feed(bytes, reply, &mut |text| match accounts[index].take(text, &mut latency) {
            Ok(is_new) => taken += u64::from(is_new),
            Err(error) => outcome = Err(error),
        });
        self.progress.received.fetch_add(taken, Ordering::Relaxed);
        fed.and(outcome)
    }
}

impl Heard {
    /// Returns a percentile of the thread's lateness in milliseconds: the measurement error of a delivery.
    pub(super) fn lag_ms(&self, percentile: f64) -> f64 {
        percentile_ms(&self.lag, percentile)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rivals::requests::Token;

    fn text(seq: u64, sent_us: u64) -> String {
        Token { connection: 0, seq, due_us: 5, sent_us }.text()
    }

    #[test]
    fn a_token_has_a_number_and_times() {
        assert_eq!(token(text(3, 17).as_bytes()), Some((3, 5, 17)));
        for other in ["", "{}", r#"{"id":"1-0","type":"fence","prev":null}"#] {
            assert_eq!(token(other.as_bytes()), None, "{other}");
        }
    }

    #[test]
    fn loss_repeats_and_disorder_are_counted() {
        let (mut account, mut latency) = (Account::default(), Latency::new(0..60_000_000));
        let taken: Vec<_> =
            [1, 2, 4, 2, 3, 6].map(|seq| account.take(&text(seq, 17), &mut latency).unwrap()).to_vec();
        assert_eq!(taken, [true, true, true, false, true, true]);
        let counts = account.ledger.counts(7, ExpectedRange::Announced);
        let EventCounts { tokens_received, tokens_lost, tokens_duplicated, tokens_reordered, .. } = counts;
        assert_eq!([tokens_received, tokens_lost, tokens_duplicated, tokens_reordered], [5, 2, 1, 1]);
        assert!(account.take("gibberish", &mut latency).is_err());
    }
}
