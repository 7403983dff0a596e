//! The log of events from which all browsers read. It has a limit in bytes. A browser that falls behind the oldest event misses some.

use parking_lot::Mutex;
use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};
use tokio::sync::watch;

/// Bytes of the events that are kept, and of those that every browser needs.
const LIMIT: usize = 8 << 20;
/// Bytes after which a browser gets what it reads next as a batch of its own. A slow browser holds one batch.
const BATCH: usize = 256 << 10;
/// Most events that every browser needs: configuration, plans, faults and amendments.
const MOST_PINNED: usize = 512;

/// An event with its position. Positions begin at 1.
pub(crate) type Entry = (u64, Arc<str>);

/// What a browser reads next.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Batch {
    pub(crate) entries: Vec<Entry>,
    /// Events that it missed before these.
    pub(crate) missed: u64,
}

/// The log.
#[derive(Debug)]
pub(crate) struct Feed {
    log: Mutex<Log>,
    /// Position of the newest event.
    newest: watch::Sender<u64>,
    missed: AtomicU64,
}

#[derive(Debug, Default)]
struct Log {
    /// Position of the first event of the present run.
    begin: u64,
    entries: VecDeque<Entry>,
    bytes: usize,
    /// Events that every browser needs, however late it comes.
    pinned: Vec<Entry>,
    pinned_bytes: usize,
}

impl Default for Feed {
    fn default() -> Self {
        Self { log: Mutex::default(), newest: watch::Sender::new(0), missed: AtomicU64::new(0) }
    }
}

impl Feed {
    /// Forgets what was before, because a new run begins.
    pub(crate) fn begin(&self) {
        let mut log = self.log.lock();
        *log = Log { begin: *self.newest.borrow() + 1, ..Log::default() };
    }

    /// Appends an event. `is_needed`: every browser needs it, however late it comes.
    pub(crate) fn push(&self, event: &str, is_needed: bool) {
        let mut log = self.log.lock();
        let position = *self.newest.borrow() + 1;
        let entry: Entry = (position, event.into());
        if is_needed && log.pinned.len() < MOST_PINNED && log.pinned_bytes + event.len() <= LIMIT {
            log.pinned_bytes += event.len();
            log.pinned.push(entry.clone());
        }
        log.bytes += event.len();
        log.entries.push_back(entry);
        while log.bytes > LIMIT {
            let Some((_, oldest)) = log.entries.pop_front() else { break };
            log.bytes -= oldest.len();
        }
        self.newest.send_replace(position);
    }

    /// Returns at most `most` events after a position, and none beyond [`BATCH`] bytes but the first.
    pub(crate) fn after(&self, position: u64, most: usize) -> Batch {
        let log = self.log.lock();
        let oldest = log.entries.front().map_or(u64::MAX, |(oldest, _)| *oldest);
        let first = position.saturating_add(1).max(log.begin);
        let pinned = log.pinned.iter().filter(|(at, _)| *at >= first && *at < oldest);
        let skipped = log.entries.partition_point(|(at, _)| *at < first);
        let next = pinned.chain(log.entries.iter().skip(skipped)).take(most);
        let mut bytes = 0;
        let entries: Vec<_> = next
            .take_while(|(_, event)| {
                let is_first = bytes == 0;
                bytes += event.len();
                is_first || bytes <= BATCH
            })
            .cloned()
            .collect();
        // Positions of one batch have no gaps except before `oldest`.
        let missed = entries.last().map_or(0, |(last, _)| last + 1 - first - entries.len() as u64);
        self.missed.fetch_add(missed, Relaxed);
        Batch { entries, missed }
    }

    /// Returns a receiver of the newest position.
    pub(crate) fn newest(&self) -> watch::Receiver<u64> {
        self.newest.subscribe()
    }

    /// Returns how many events browsers missed so far.
    pub(crate) fn missed(&self) -> u64 {
        self.missed.load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn positions(batch: &Batch) -> Vec<u64> {
        batch.entries.iter().map(|(at, _)| *at).collect()
    }

    #[test]
    fn a_browser_continues_after_its_position() {
        let feed = Feed::default();
        assert_eq!(feed.after(0, 10), Batch::default());
        (0..5).for_each(|n| feed.push(&n.to_string(), n == 0));
        assert_eq!(positions(&feed.after(0, 10)), [1, 2, 3, 4, 5]);
        assert_eq!(positions(&feed.after(3, 1)), [4]);
        assert_eq!(feed.after(5, 10), Batch::default());
        feed.begin();
        assert_eq!(feed.after(2, 10), Batch::default(), "of the earlier run nothing is missed");
        feed.push("new", true);
        assert_eq!(positions(&feed.after(2, 10)), [6]);
    }

    #[test]
    fn memory_has_a_limit_and_what_a_slow_browser_misses_is_counted() {
        let feed = Feed::default();
        feed.push("needed", true);
        let large = "x".repeat(1 << 20);
        (0..20).for_each(|_| feed.push(&large, false));
        let needed = feed.after(0, 100);
        assert_eq!(needed, Batch { entries: vec![(1, "needed".into())], missed: 0 });
        let rest = feed.after(1, 100);
        assert_eq!((positions(&rest), rest.missed), (vec![14], 12), "one large event is a batch");
        assert_eq!(feed.missed(), 12);
        assert!(feed.log.lock().bytes <= LIMIT);
    }

    #[test]
    fn needed_events_and_batches_have_limits_in_bytes() {
        let feed = Feed::default();
        let large = "x".repeat(1 << 20);
        (0..20).for_each(|_| feed.push(&large, true));
        assert!(feed.log.lock().pinned_bytes <= LIMIT);
        feed.begin();
        let small = "x".repeat(100 << 10);
        (0..5).for_each(|_| feed.push(&small, false));
        assert_eq!(positions(&feed.after(0, 100)), [21, 22]);
        assert_eq!(positions(&feed.after(22, 100)), [23, 24]);
        assert_eq!(feed.missed(), 0);
    }
}
