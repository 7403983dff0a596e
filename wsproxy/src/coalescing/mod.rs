//! Merges a session's tokens into fewer segments while the gateway is behind, and stays out of the way while it is not.
//! It writes nothing itself: outboxes ask it how many events a segment carries, and are reminded of what they hold back.

mod pressure;

use crate::{gateway::Gateway, outbox::Outbox, roster::Roster};
use parking_lot::Mutex;
pub(crate) use pressure::Peers;
use pressure::Pressure;
use prometheus_client::metrics::gauge::Gauge;
use std::{
    cmp::Ordering as Order,
    collections::BinaryHeap,
    sync::{
        Arc, Weak,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{sync::Notify, time::sleep_until};
use tokio_util::sync::CancellationToken;

/// How often the event loop's lag is looked at while there are sockets.
const LOOK: Duration = Duration::from_millis(20);

/// One write in so many asks its peer.
const ASK_EVERY: u32 = 16;

/// Outboxes that let go before other tasks have their turn.
const CHUNK: usize = 64;

/// How a gateway's outboxes merge tokens.
#[derive(Debug)]
pub(crate) struct Coalescing {
    /// No event is held back for longer; zero: none is held back at all.
    most: Duration,
    /// Events a segment: 1 while the gateway keeps up.
    batch: AtomicU32,
    writes: AtomicU32,
    asked: AtomicU32,
    unread: AtomicU32,
    reminders: Mutex<BinaryHeap<Reminder>>,
    /// The first reminder was put in.
    wake: Notify,
    shown: Shown,
}

/// What a scrape shows of it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Shown {
    /// Events that a segment carries at most.
    pub(crate) batch: Gauge,
    /// The event loop's lag in seconds, the median of the last looks.
    pub(crate) lag: Gauge<f64, AtomicU64>,
}

/// An outbox that holds events back until `due`.
#[derive(Debug)]
struct Reminder {
    due: Instant,
    outbox: Weak<Outbox>,
}

impl Ord for Reminder {
    /// The earliest is the greatest.
    fn cmp(&self, other: &Self) -> Order {
        other.due.cmp(&self.due)
    }
}

impl PartialOrd for Reminder {
    fn partial_cmp(&self, other: &Self) -> Option<Order> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Reminder {
    fn eq(&self, other: &Self) -> bool {
        self.due == other.due
    }
}

impl Eq for Reminder {}

impl Coalescing {
    /// Holds events back for `most` at the longest; `shown` tells how many a segment carries.
    pub(crate) fn new(most: Duration, shown: Shown) -> Self {
        shown.batch.set(1);
        Self {
            most,
            batch: AtomicU32::new(1),
            writes: AtomicU32::new(0),
            asked: AtomicU32::new(0),
            unread: AtomicU32::new(0),
            reminders: Mutex::default(),
            wake: Notify::new(),
            shown,
        }
    }

    /// Events a segment should carry at this moment.
    pub(crate) fn batch(&self) -> usize {
        self.batch.load(Ordering::Relaxed) as usize
    }

    /// From here on a segment carries so many.
    pub(crate) fn set(&self, batch: u32) {
        self.shown.batch.set(i64::from(batch));
        self.batch.store(batch, Ordering::Relaxed);
    }

    /// Counts a write, and says whether its peer should be asked at the next one if it has read it.
    pub(crate) fn asks(&self) -> bool {
        self.writes.fetch_add(1, Ordering::Relaxed).is_multiple_of(ASK_EVERY) && !self.most.is_zero()
    }

    /// A peer was asked.
    pub(crate) fn answered(&self, has_read: bool) {
        self.asked.fetch_add(1, Ordering::Relaxed);
        self.unread.fetch_add(u32::from(!has_read), Ordering::Relaxed);
    }

    /// Whether an event that followed its predecessor after `gap` may wait for as many more as a segment carries: not
    /// where they would hardly come in time.
    pub(crate) fn is_worth_waiting(&self, gap: Duration) -> bool {
        gap <= self.most
    }

    /// Reminds `outbox` when what it holds since `since` must go out. At most one reminder an outbox.
    pub(crate) fn remind(&self, outbox: Weak<Outbox>, since: Instant) {
        let mut reminders = self.reminders.lock();
        reminders.push(Reminder { due: since + self.most, outbox });
        if reminders.len() == 1 {
            self.wake.notify_one();
        }
    }

    /// No event is held back for longer.
    pub(crate) const fn most(&self) -> Duration {
        self.most
    }

    async fn watch(&self, roster: &Roster) {
        let started = Instant::now();
        let mut pressure = Pressure::default();
        loop {
            // Without sockets there is nothing to merge, and no reason to wake up often.
            let pause = if roster.is_empty() { 25 * LOOK } else { LOOK };
            let intended = Instant::now() + pause;
            sleep_until(intended.into()).await;
            let woken = Instant::now();
            let batch = pressure.look(woken - started, woken - intended, self.peers());
            self.shown.lag.set(pressure.lag().as_secs_f64());
            self.set(if self.most.is_zero() { 1 } else { batch });
        }
    }

    /// Those that were asked since the last time.
    pub(crate) fn peers(&self) -> Peers {
        let take = |count: &AtomicU32| count.swap(0, Ordering::Relaxed);
        Peers { asked: take(&self.asked), behind: take(&self.unread) }
    }

    async fn release(&self) {
        let mut due = Vec::new();
        loop {
            let next = self.reminders.lock().peek().map(|first| first.due);
            match next {
                None => self.wake.notified().await,
                Some(next) => sleep_until(next.into()).await,
            }
            let now = Instant::now();
            {
                let mut reminders = self.reminders.lock();
                while reminders.peek().is_some_and(|first| first.due <= now) {
                    due.extend(reminders.pop());
                }
            }
            for (n, reminder) in due.drain(..).enumerate() {
                if let Some(outbox) = reminder.outbox.upgrade() {
                    outbox.release(now);
                }
                if n % CHUNK == CHUNK - 1 {
                    tokio::task::yield_now().await;
                }
            }
        }
    }
}

/// Measures how far behind the gateway's event loop is, until `stop`.
pub(crate) async fn watch(gateway: Arc<Gateway>, stop: CancellationToken) {
    stop.run_until_cancelled(gateway.terms.coalescing.watch(&gateway.roster)).await;
}

/// Lets events go whose time has come, until `stop`. A task of its own: what it writes must not pass for lag.
pub(crate) async fn release(gateway: Arc<Gateway>, stop: CancellationToken) {
    stop.run_until_cancelled(gateway.terms.coalescing.release()).await;
}
