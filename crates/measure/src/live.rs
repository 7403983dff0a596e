//! Live counters for the progress line and the live view. Each worker has a separate set, so that workers never contend.
//! Results do not use them, because every result comes from the records. Only the phases of memory are told by them.

use serde::{Deserialize, Serialize};
use std::sync::atomic::{AtomicU64, Ordering};

/// Counters of one worker. Aligned to two cache lines, so that workers do not share one.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct LiveCounters {
    /// Opened sockets, including reconnects.
    pub connects: AtomicU64,
    /// Started sessions.
    pub started: AtomicU64,
    /// Ended sessions.
    pub ended: AtomicU64,
    /// Ended queries.
    pub queries: AtomicU64,
    /// Received tokens.
    pub tokens: AtomicU64,
    /// Lost tokens.
    pub lost: AtomicU64,
    /// Failed queries and steps.
    pub errors: AtomicU64,
    /// Planned queries and arrivals that never started.
    pub dropped: AtomicU64,
}

impl LiveCounters {
    /// Adds `n` to a counter.
    pub fn add(counter: &AtomicU64, n: u64) {
        counter.fetch_add(n, Ordering::Relaxed);
    }
}

/// Sums over all workers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct LiveTotals {
    pub connects: u64,
    pub started: u64,
    pub ended: u64,
    pub queries: u64,
    pub tokens: u64,
    pub lost: u64,
    pub errors: u64,
    pub dropped: u64,
}

impl LiveTotals {
    /// Returns the number of open sessions.
    #[must_use]
    pub const fn open_sessions(&self) -> u64 {
        self.started.saturating_sub(self.ended)
    }
}

impl LiveCounters {
    /// Sets the counters to the sums of a generator in another process.
    pub fn set(&self, totals: &LiveTotals) {
        let LiveTotals { connects, started, ended, queries, tokens, lost, errors, dropped } = *totals;
        for (counter, value) in [
            (&self.connects, connects),
            (&self.started, started),
            (&self.ended, ended),
            (&self.queries, queries),
            (&self.tokens, tokens),
            (&self.lost, lost),
            (&self.errors, errors),
            (&self.dropped, dropped),
        ] {
            counter.store(value, Ordering::Relaxed);
        }
    }
}

/// Returns the sums over all workers.
pub fn totals<'a>(counters: impl IntoIterator<Item = &'a LiveCounters>) -> LiveTotals {
    let mut totals = LiveTotals::default();
    for counters in counters {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        totals.connects += get(&counters.connects);
        totals.started += get(&counters.started);
        totals.ended += get(&counters.ended);
        totals.queries += get(&counters.queries);
        totals.tokens += get(&counters.tokens);
        totals.lost += get(&counters.lost);
        totals.errors += get(&counters.errors);
        totals.dropped += get(&counters.dropped);
    }
    totals
}
