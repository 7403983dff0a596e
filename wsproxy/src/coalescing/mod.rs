//! Merges a session's tokens into fewer TCP segments while the gateway is overloaded. It decides how many events a segment carries, and
//! reminds outboxes of what they hold back, also for rollups. The outboxes write.

mod pressure;

use crate::metrics::Metrics;
use parking_lot::Mutex;
pub(crate) use pressure::Peers;
use pressure::Pressure;
use std::{
    collections::BTreeMap,
    sync::{
        Weak,
        atomic::{AtomicU32, Ordering},
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
    /// The outboxes that hold events back, by the time until which they do and by their address.
    reminders: Mutex<BTreeMap<(Instant, usize), Weak<dyn HoldsEvents>>>,
    /// Notified when a reminder is added that is due before all others.
    wake: Notify,
    metrics: Metrics,
}

/// An outbox that can hold events back, while the gateway is overloaded or for a rollup.
pub(crate) trait HoldsEvents: Send + Sync {
    /// Writes the events that have been held back for as long as they may be at `now`.
    fn release(&self, now: Instant);
}

impl Coalescing {
    /// Creates the merging with `most` as the longest time that an event is held back.
    pub(crate) fn new(most: Duration, metrics: Metrics) -> Self {
        metrics.batch.set(1);
        Self {
            most,
            batch: AtomicU32::new(1),
            writes: AtomicU32::new(0),
            asked: AtomicU32::new(0),
            unread: AtomicU32::new(0),
            reminders: Mutex::default(),
            wake: Notify::new(),
            metrics,
        }
    }

    /// Returns the current number of events per segment.
    pub(crate) fn batch(&self) -> usize {
        self.batch.load(Ordering::Relaxed) as usize
    }

    /// Sets the number of events per segment.
    pub(crate) fn set(&self, batch: u32) {
        self.metrics.batch.set(i64::from(batch));
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

    /// Schedules the release of `outbox` at `due`. An outbox has at most one reminder.
    pub(crate) fn remind(&self, outbox: Weak<dyn HoldsEvents>, due: Instant) {
        // An outbox has one reminder, so its address makes the key unique.
        let address = outbox.as_ptr().cast::<()>().addr();
        let mut reminders = self.reminders.lock();
        if reminders.first_key_value().is_none_or(|(&(first, _), _)| due < first) {
            self.wake.notify_one();
        }
        reminders.insert((due, address), outbox);
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
            self.metrics.loop_delay.observe(woken - intended);
            self.metrics.lag.set(pressure.lag().as_secs_f64());
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
        loop {
            let next = self.reminders.lock().first_key_value().map(|(key, _)| key.0);
            match next {
                None => self.wake.notified().await,
                Some(next) => tokio::select! {
                    () = sleep_until(next.into()) => {}
                    // Another outbox must be released earlier: windows of rollups have different lengths.
                    () = self.wake.notified() => continue,
                },
            }
            let now = Instant::now();
            let due = {
                let mut reminders = self.reminders.lock();
                let later = reminders.split_off(&(now, usize::MAX));
                std::mem::replace(&mut *reminders, later)
            };
            for (n, outbox) in due.into_values().enumerate() {
                if let Some(outbox) = outbox.upgrade() {
                    outbox.release(now);
                }
                if n % CHUNK == CHUNK - 1 {
                    tokio::task::yield_now().await;
                }
            }
        }
    }
}
