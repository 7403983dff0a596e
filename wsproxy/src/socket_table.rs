//! The table of open sockets and the sweep over it, which pings all of them. One sweep replaces a timer per socket.

use crate::outbox::Outbox;
use parking_lot::Mutex;
use prometheus_client::metrics::gauge::Gauge;
use std::{
    sync::{Arc, Weak},
    time::{Duration, Instant},
};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

/// Number of sockets that are visited before other tasks run.
const CHUNK: usize = 256;

/// The outboxes of all open sockets.
#[derive(Debug, Default)]
pub(crate) struct SocketTable {
    slots: Mutex<Slots>,
    connections: Gauge,
}

#[derive(Debug, Default)]
struct Slots {
    outboxes: Vec<Option<Arc<Outbox>>>,
    free: Vec<usize>,
}

/// A socket's entry in the table. Dropping it removes the socket.
#[derive(Debug)]
pub(crate) struct SocketEntry {
    sockets: Arc<SocketTable>,
    index: usize,
}

impl Drop for SocketEntry {
    fn drop(&mut self) {
        let mut slots = self.sockets.slots.lock();
        slots.outboxes[self.index] = None;
        slots.free.push(self.index);
        self.sockets.connections.dec();
    }
}

impl SocketTable {
    /// Creates an empty table. `connections` shows its size.
    pub(crate) fn new(connections: Gauge) -> Self {
        Self { slots: Mutex::default(), connections }
    }

    /// Adds a socket.
    pub(crate) fn add(self: &Arc<Self>, outbox: Arc<Outbox>) -> SocketEntry {
        let mut slots = self.slots.lock();
        let index = slots.free.pop().unwrap_or_else(|| {
            slots.outboxes.push(None);
            slots.outboxes.len() - 1
        });
        slots.outboxes[index] = Some(outbox);
        self.connections.inc();
        SocketEntry { sockets: self.clone(), index }
    }

    /// Returns whether no socket is open.
    pub(crate) fn is_empty(&self) -> bool {
        let slots = self.slots.lock();
        slots.outboxes.len() == slots.free.len()
    }

    /// Returns the open sockets as weak references.
    pub(crate) fn outboxes(&self) -> Vec<Weak<Outbox>> {
        self.slots.lock().outboxes.iter().flatten().map(Arc::downgrade).collect()
    }

    /// Visits every socket that stays open during the visit, a chunk at a time.
    pub(crate) async fn visit(&self, mut visit: impl FnMut(&Outbox)) {
        let mut chunk = Vec::new();
        let mut next = 0;
        loop {
            {
                let slots = self.slots.lock();
                let rest = slots.outboxes.get(next..).unwrap_or_default();
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

/// Handles what is due on each socket every `interval` until `stop`, then drops the sockets that are left.
pub(crate) async fn sweep(sockets: Arc<SocketTable>, interval: Duration, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        let now = Instant::now();
        sockets.visit(|outbox| outbox.sweep(now)).await;
    }
    sockets.visit(Outbox::abandon).await;
}
