//! Merges a session's tokens into fewer TCP segments while the gateway is overloaded. It decides how many events a segment carries, and
//! reminds outboxes of what they hold back. The outboxes write.

mod pressure;

use parking_lot::Mutex;
pub(crate) use pressure::Peers;
use pressure::Pressure;
use prometheus_client::metrics::gauge::Gauge;
use std::{
    cmp::Ordering as Order,
    collections::BinaryHeap,
    sync::{
        Weak,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{sync::Notify, time::sleep_until};

/// Time between samples of the event loop's lag while sockets are open.
const LOOK: Duration = Duration::from_millis(20);

/// After every n-th write, the outbox checks whether its peer has read it.
const ASK_EVERY: u32 = 16;

/// Number of outboxes that are released before other tasks run.
const CHUNK: usize = 64;

/// The merging of tokens in one gateway.
#[derive(Debug)]
pub(crate) struct Coalescing {
    /// The longest time that an event is held back. Zero turns merging off.
    most: Duration,
    /// Events per segment: 1 while the gateway keeps up.
    batch: AtomicU32,
    writes: AtomicU32,
    asked: AtomicU32,
    unread: AtomicU32,
    reminders: Mutex<BinaryHeap<Reminder>>,
    /// Notified when the first reminder is added.
    wake: Notify,
    shown: Shown,
}

/// The metrics of merging.
#[derive(Clone, Debug, Default)]
pub(crate) struct Shown {
    /// Largest number of events per segment.
    pub(crate) batch: Gauge,
    /// The event loop's lag in seconds, as the median of the last samples.
    pub(crate) lag: Gauge<f64, AtomicU64>,
}

/// An outbox that can hold events back.
pub(crate) trait HoldsEvents: Send + Sync {
    /// Writes the events that have been held back for as long as they may be at `now`.
    fn release(&self, now: Instant);
}

/// An outbox that holds events back until `due`.
#[derive(Debug)]
struct Reminder {
    due: Instant,
    outbox: Weak<dyn HoldsEvents>,
}

impl Ord for Reminder {
    /// The earliest reminder is the greatest, because `BinaryHeap` pops the greatest.
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
    /// Creates the merging with `most` as the longest time that an event is held back. `shown` gets the metrics.
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

    /// Returns the current number of events per segment.
    pub(crate) fn batch(&self) -> usize {
        self.batch.load(Ordering::Relaxed) as usize
    }

    /// Sets the number of events per segment.
    pub(crate) fn set(&self, batch: u32) {
        self.shown.batch.set(i64::from(batch));
        self.batch.store(batch, Ordering::Relaxed);
    }

    /// Counts a write. Returns whether the outbox should check at the next write if the peer has read this one.
    pub(crate) fn asks(&self) -> bool {
        self.writes.fetch_add(1, Ordering::Relaxed).is_multiple_of(ASK_EVERY) && !self.most.is_zero()
    }

    /// Counts the result of such a check.
    pub(crate) fn answered(&self, has_read: bool) {
        self.asked.fetch_add(1, Ordering::Relaxed);
        self.unread.fetch_add(u32::from(!has_read), Ordering::Relaxed);
    }

    /// Returns whether it is useful to hold back an event that came `gap` after the one before. It is not if the next one is not expected
    /// in time.
    pub(crate) fn is_worth_waiting(&self, gap: Duration) -> bool {
        gap <= self.most
    }

    /// Schedules the release of `outbox`, which holds events back since `since`. An outbox has at most one reminder.
    pub(crate) fn remind(&self, outbox: Weak<dyn HoldsEvents>, since: Instant) {
        let mut reminders = self.reminders.lock();
        reminders.push(Reminder { due: since + self.most, outbox });
        if reminders.len() == 1 {
            self.wake.notify_one();
        }
    }

    /// Returns the longest time that an event is held back.
    pub(crate) const fn most(&self) -> Duration {
        self.most
    }

    /// Measures how far behind the gateway's event loop is. Never returns.
    pub(crate) async fn watch(&self, is_idle: impl Fn() -> bool) {
        let started = Instant::now();
        let mut pressure = Pressure::default();
        loop {
            // Without sockets there is nothing to merge, and no reason to wake up often.
            let pause = if is_idle() { 25 * LOOK } else { LOOK };
            let intended = Instant::now() + pause;
            sleep_until(intended.into()).await;
            let woken = Instant::now();
            let batch = pressure.look(woken - started, woken - intended, self.peers());
            self.shown.lag.set(pressure.lag().as_secs_f64());
            self.set(if self.most.is_zero() { 1 } else { batch });
        }
    }

    /// Returns the checks of peers since the last call, and resets them.
    pub(crate) fn peers(&self) -> Peers {
        let take = |count: &AtomicU32| count.swap(0, Ordering::Relaxed);
        Peers { asked: take(&self.asked), behind: take(&self.unread) }
    }

    /// Releases events when their time has come. Never returns. It runs in a task of its own, because the time of its writes must not
    /// count as lag.
    pub(crate) async fn release(&self) {
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
