//! Which running queries wait for an event, since when, and how long a wait their schedules allow. A guard holds the entry of each query
//! and removes it when dropped, so that no exit path can forget it.

use parking_lot::Mutex;
use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// A query has stopped when it has had no event for this multiple of the longest gap of its schedule.
const LONGEST_GAPS: u32 = 10;
/// Shortest time without an event after which a query has stopped. Systems pause for shorter times and go on.
const SHORTEST: Duration = Duration::from_secs(3);
/// Stands for a query whose silence is intended.
const INTENDED: u64 = u64::MAX;

/// Returns how long a query may have no event. `gap`: the longest gap of its schedule, the time to the first token included. `e2el`: the
/// length of its schedule, which no gap exceeds. `None` if neither is announced.
#[must_use]
pub fn allowed(gap: Option<Duration>, e2el: Option<Duration>) -> Option<Duration> {
    Some(gap.map(|gap| gap * LONGEST_GAPS).or(e2el)?.max(SHORTEST))
}

/// A running query that waits for an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Silence {
    /// Time of the run at which the last event arrived, or at which the query began.
    pub since: Duration,
    /// Time that has passed since then.
    pub lasted: Duration,
    /// How long it may last.
    pub allowed: Duration,
    /// Whether an event of the query has arrived. Otherwise it waits for its first token.
    pub is_answered: bool,
}

/// The running queries of a run. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Silences(Arc<Mutex<Table>>);

#[derive(Debug, Default)]
struct Table {
    /// The start of the run.
    epoch: Option<Instant>,
    next: u64,
    queries: BTreeMap<u64, Arc<Entry>>,
}

/// A running query. All times are in milliseconds.
#[derive(Debug, Default)]
struct Entry {
    /// Time of the run of its last event, or [`INTENDED`].
    since: AtomicU64,
    /// How long it may have no event. 0 if that is not known.
    allowed: AtomicU64,
    /// Whether it had an event.
    is_answered: AtomicBool,
}

impl Silences {
    /// Sets the start of the run.
    pub fn begin(&self, epoch: Instant) {
        self.0.lock().epoch = Some(epoch);
    }

    /// Adds a query that begins now and may be silent for `allowed`, until the returned guard is dropped. `None`: that is not known yet.
    #[must_use]
    pub fn enter(&self, allowed: Option<Duration>) -> SilenceGuard {
        let now = Instant::now();
        let mut table = self.0.lock();
        let (number, epoch) = (table.next, table.epoch.unwrap_or(now));
        table.next += 1;
        let entry = Arc::<Entry>::default();
        table.queries.insert(number, Arc::clone(&entry));
        let guard = SilenceGuard { table: Arc::clone(&self.0), number, entry, epoch };
        guard.begin(now);
        guard.allow(allowed);
        guard
    }

    /// Returns the queries that have had no event for longer than their schedules allow. Those of which that is not known are left out.
    #[must_use]
    pub fn too_long(&self) -> Vec<Silence> {
        let table = self.0.lock();
        let Some(now) = table.epoch.map(|epoch| millis(epoch.elapsed())) else { return Vec::new() };
        let silence = |entry: &Arc<Entry>| {
            let (since, allowed) =
                (entry.since.load(Ordering::Relaxed), entry.allowed.load(Ordering::Relaxed));
            let lasted = now.saturating_sub(since);
            (since != INTENDED && allowed > 0 && lasted > allowed).then(|| Silence {
                since: Duration::from_millis(since),
                lasted: Duration::from_millis(lasted),
                allowed: Duration::from_millis(allowed),
                is_answered: entry.is_answered.load(Ordering::Relaxed),
            })
        };
        table.queries.values().filter_map(silence).collect()
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(INTENDED)
}

/// Holds the entry of a running query until it is dropped.
#[derive(Debug)]
pub struct SilenceGuard {
    table: Arc<Mutex<Table>>,
    number: u64,
    entry: Arc<Entry>,
    epoch: Instant,
}

impl SilenceGuard {
    /// Notes that an event arrived.
    pub fn heard(&self, at: Instant) {
        self.begin(at);
        self.entry.is_answered.store(true, Ordering::Relaxed);
    }

    /// Notes that a silence begins.
    fn begin(&self, at: Instant) {
        self.entry.since.store(millis(at.saturating_duration_since(self.epoch)), Ordering::Relaxed);
    }

    /// Notes how long the query may be silent. `None` changes nothing.
    pub fn allow(&self, allowed: Option<Duration>) {
        if let Some(allowed) = allowed {
            self.entry.allowed.store(millis(allowed).max(1), Ordering::Relaxed);
        }
    }

    /// Notes that events are kept away on purpose from now on.
    pub fn intend(&self) {
        self.entry.since.store(INTENDED, Ordering::Relaxed);
    }

    /// Notes that events can arrive again, if they were kept away on purpose.
    pub fn resume(&self, at: Instant) {
        if self.entry.since.load(Ordering::Relaxed) == INTENDED {
            self.begin(at);
        }
    }
}

impl Drop for SilenceGuard {
    fn drop(&mut self) {
        self.table.lock().queries.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn the_schedule_tells_how_long_a_silence_may_be() {
        assert_eq!(allowed(Some(Duration::from_millis(50)), Some(s(90))), Some(SHORTEST));
        assert_eq!(allowed(Some(s(2)), Some(s(90))), Some(s(20)));
        assert_eq!((allowed(None, Some(s(90))), allowed(None, None)), (Some(s(90)), None));
    }

    /// A run that began ten seconds ago.
    fn run() -> (Silences, Instant) {
        let silences = Silences::default();
        let epoch = Instant::now().checked_sub(s(10)).unwrap();
        silences.begin(epoch);
        (silences, epoch)
    }

    #[test]
    fn only_queries_that_are_silent_for_too_long_are_listed() {
        let (silences, epoch) = run();
        let queries = [Some(s(3)), Some(s(3)), None, Some(s(60))].map(|allowed| silences.enter(allowed));
        for query in [&queries[0], &queries[2], &queries[3]] {
            query.heard(epoch + s(2));
        }
        let found = silences.too_long();
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!((found[0].since, found[0].allowed, found[0].is_answered), (s(2), s(3), true));
        assert!(found[0].lasted >= s(8) && found[0].lasted < s(20), "{found:?}");
        queries[2].allow(Some(s(4)));
        queries[3].allow(None);
        assert_eq!(silences.too_long().len(), 2);
        drop(queries);
        assert!(silences.too_long().is_empty());
    }

    #[test]
    fn an_intended_silence_is_not_one() {
        let (silences, epoch) = run();
        let query = silences.enter(Some(s(3)));
        query.intend();
        assert!(silences.too_long().is_empty());
        query.resume(epoch + s(5));
        assert_eq!((silences.too_long()[0].since, silences.too_long()[0].is_answered), (s(5), false));
        query.resume(epoch + s(9));
        assert_eq!(silences.too_long()[0].since, s(5), "it was not intended any more");
    }
}
