//! Who is connected: the outbox of every socket, and the one sweep that pings them all. No socket has a timer of its own.

use crate::outbox::Outbox;
use parking_lot::Mutex;
use prometheus_client::metrics::gauge::Gauge;
use std::{
    sync::{Arc, Weak},
    time::{Duration, Instant},
};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

/// How many sockets are visited before other tasks have their turn.
const CHUNK: usize = 256;

/// The outboxes of all sockets.
#[derive(Debug, Default)]
pub(crate) struct Roster {
    seats: Mutex<Seats>,
    connections: Gauge,
}

#[derive(Debug, Default)]
struct Seats {
    outboxes: Vec<Option<Arc<Outbox>>>,
    free: Vec<usize>,
}

/// A socket's place in the roster; given up when dropped.
#[derive(Debug)]
pub(crate) struct Seat {
    roster: Arc<Roster>,
    index: usize,
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut seats = self.roster.seats.lock();
        seats.outboxes[self.index] = None;
        seats.free.push(self.index);
        self.roster.connections.dec();
    }
}

impl Roster {
    /// An empty roster whose size `connections` shows.
    pub(crate) fn new(connections: Gauge) -> Self {
        Self { seats: Mutex::default(), connections }
    }

    pub(crate) fn seat(self: &Arc<Self>, outbox: Arc<Outbox>) -> Seat {
        let mut seats = self.seats.lock();
        let index = seats.free.pop().unwrap_or_else(|| {
            seats.outboxes.push(None);
            seats.outboxes.len() - 1
        });
        seats.outboxes[index] = Some(outbox);
        self.connections.inc();
        Seat { roster: self.clone(), index }
    }

    pub(crate) fn is_empty(&self) -> bool {
        let seats = self.seats.lock();
        seats.outboxes.len() == seats.free.len()
    }

    /// The sockets at this moment, none of them kept alive.
    pub(crate) fn outboxes(&self) -> Vec<Weak<Outbox>> {
        self.seats.lock().outboxes.iter().flatten().map(Arc::downgrade).collect()
    }

    /// Visits every socket that is there throughout, some at a time.
    pub(crate) async fn visit(&self, mut visit: impl FnMut(&Outbox)) {
        let mut chunk = Vec::new();
        let mut next = 0;
        loop {
            {
                let seats = self.seats.lock();
                let rest = seats.outboxes.get(next..).unwrap_or_default();
                if rest.is_empty() {
                    return;
                }
                chunk.extend(rest.iter().take(CHUNK).flatten().cloned());
            }
            next += CHUNK;
            for outbox in chunk.drain(..) {
                visit(&outbox);
            }
            tokio::task::yield_now().await;
        }
    }
}

/// Does every `interval` what is due on each socket; at the stop it gives up those that are left.
pub(crate) async fn sweep(roster: Arc<Roster>, interval: Duration, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        let now = Instant::now();
        roster.visit(|outbox| outbox.sweep(now)).await;
    }
    roster.visit(Outbox::abandon).await;
}
