//! Counters that the workers turn and the progress line and the live view read: one set a worker, so that none waits for another.
//! They are for the eye alone; every result comes from the records.

use std::sync::atomic::{AtomicU64, Ordering};

/// One worker's counters.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct LiveCounters {
    /// Sockets opened, again or for the first time.
    pub connects: AtomicU64,
    /// Sessions that ended.
    pub ended: AtomicU64,
    /// Queries that ended.
    pub queries: AtomicU64,
    /// Tokens received.
    pub tokens: AtomicU64,
    /// Tokens lost.
    pub lost: AtomicU64,
    /// Queries and steps that failed.
    pub errors: AtomicU64,
    /// Queries and arrivals that the plan held and that never started.
    pub dropped: AtomicU64,
}

impl LiveCounters {
    /// Turns a counter on.
    pub fn add(counter: &AtomicU64, n: u64) {
        counter.fetch_add(n, Ordering::Relaxed);
    }
}

/// The sums of all workers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct LiveTotals {
    pub connects: u64,
    pub ended: u64,
    pub queries: u64,
    pub tokens: u64,
    pub lost: u64,
    pub errors: u64,
    pub dropped: u64,
}

/// Adds the shards up.
pub fn totals<'a>(counters: impl IntoIterator<Item = &'a LiveCounters>) -> LiveTotals {
    let mut totals = LiveTotals::default();
    for counters in counters {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        totals.connects += get(&counters.connects);
        totals.ended += get(&counters.ended);
        totals.queries += get(&counters.queries);
        totals.tokens += get(&counters.tokens);
        totals.lost += get(&counters.lost);
        totals.errors += get(&counters.errors);
        totals.dropped += get(&counters.dropped);
    }
    totals
}
