//! Counts active sessions or queries over time. A guard holds each count and removes it when dropped, so that no exit path can
//! forget it.

use crate::silence::Silences;
use parking_lot::Mutex;
use std::{
    collections::{BTreeMap, btree_map::Entry},
    sync::Arc,
    time::{Duration, Instant},
};

/// Precision of the times for which something has been active.
const STEP: Duration = Duration::from_millis(100);

/// Counter of active sessions or queries. Clones share the count.
#[derive(Clone, Debug, Default)]
pub struct ActiveCounter(Arc<Mutex<Count>>);

/// What is active in a run. Clones share the counters.
#[derive(Clone, Debug, Default)]
pub struct Activity {
    /// Open sessions.
    pub sessions: ActiveCounter,
    /// Those of them that are created, or that open their first socket.
    pub opening: ActiveCounter,
    /// Running queries.
    pub queries: ActiveCounter,
    /// The same queries, with the time since their last events.
    pub silences: Silences,
}

/// The active time of each second, in nanoseconds: of sessions, of those that open, and of queries.
type ActiveTimes = [BTreeMap<u64, u64>; 3];

impl Activity {
    fn counters(&self) -> [&ActiveCounter; 3] {
        [&self.sessions, &self.opening, &self.queries]
    }

    /// Sets the start of the run, from which the seconds count.
    pub fn begin(&self, epoch: Instant) {
        self.counters().iter().for_each(|counter| counter.begin(epoch));
        self.silences.begin(epoch);
    }

    /// Removes and returns the active times of the seconds that are over.
    #[must_use]
    pub fn take_complete(&self) -> ActiveTimes {
        self.counters().map(|counter| counter.take_before(u64::MAX))
    }

    /// Removes and returns the active times of all seconds, including the one that is not over.
    #[must_use]
    pub fn take_all(&self) -> ActiveTimes {
        self.counters().map(ActiveCounter::take_all)
    }
}

#[derive(Debug, Default)]
struct Count {
    now: u64,
    /// The start of the run. Time is counted only after it is known.
    epoch: Option<Instant>,
    /// The time of the run up to which active time is added to `seconds`.
    counted_until: Duration,
    /// Active time by second of the run, in nanoseconds, summed over all that were active.
    seconds: BTreeMap<u64, u64>,
    /// Number of those that are active, by the time of the run at which they began, in steps of [`STEP`].
    begun: BTreeMap<u128, u64>,
}

impl ActiveCounter {
    /// Sets the start of the run, from which the seconds count.
    pub fn begin(&self, epoch: Instant) {
        self.0.lock().epoch = Some(epoch);
    }

    /// Increments the count until the returned guard is dropped.
    #[must_use]
    pub fn enter(&self) -> ActiveGuard {
        let mut count = self.0.lock();
        count.advance();
        count.now += 1;
        let begun = count.step();
        *count.begun.entry(begun).or_default() += 1;
        ActiveGuard { count: Arc::clone(&self.0), begun }
    }

    /// Returns for how long those that are active have been active, each time with their number. A time is at most 100 ms too short.
    #[must_use]
    pub fn times(&self) -> Vec<(Duration, u64)> {
        let count = self.0.lock();
        let now = count.step();
        let time = |begun: u128| STEP * u32::try_from(now.saturating_sub(begun + 1)).unwrap_or(u32::MAX);
        count.begun.iter().map(|(&begun, &number)| (time(begun), number)).collect()
    }

    /// Returns the current count.
    #[must_use]
    pub fn now(&self) -> u64 {
        self.0.lock().now
    }

    /// Removes and returns the active time of each second before `end`, in nanoseconds, summed over all that were active. Seconds
    /// that are not over are left out.
    #[must_use]
    pub fn take_before(&self, end: u64) -> BTreeMap<u64, u64> {
        let mut count = self.0.lock();
        count.advance();
        let end = end.min(count.counted_until.as_secs());
        let rest = count.seconds.split_off(&end);
        std::mem::replace(&mut count.seconds, rest)
    }

    /// Removes and returns the active time of all seconds, including the one that is not over.
    #[must_use]
    pub fn take_all(&self) -> BTreeMap<u64, u64> {
        let mut count = self.0.lock();
        count.advance();
        std::mem::take(&mut count.seconds)
    }
}

impl Count {
    /// Returns the time of the run, in steps of [`STEP`].
    fn step(&self) -> u128 {
        self.epoch.map_or(0, |epoch| epoch.elapsed().as_millis() / STEP.as_millis())
    }

    /// Adds the active time until now.
    fn advance(&mut self) {
        if let Some(epoch) = self.epoch {
            self.advance_to(epoch.elapsed());
        }
    }

    fn advance_to(&mut self, until: Duration) {
        while self.counted_until < until {
            let second = self.counted_until.as_secs();
            let end = until.min(Duration::from_secs(second + 1));
            if self.now > 0 {
                let passed = u64::try_from((end - self.counted_until).as_nanos()).unwrap_or(u64::MAX);
                *self.seconds.entry(second).or_default() += passed * self.now;
            }
            self.counted_until = end;
        }
    }
}

/// Holds one count of an [`ActiveCounter`] until it is dropped.
#[derive(Debug)]
pub struct ActiveGuard {
    count: Arc<Mutex<Count>>,
    begun: u128,
}

impl Drop for ActiveGuard {
    fn drop(&mut self) {
        let mut count = self.count.lock();
        count.advance();
        count.now -= 1;
        if let Entry::Occupied(mut number) = count.begun.entry(self.begun) {
            *number.get_mut() -= 1;
            if *number.get() == 0 {
                number.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guards_hold_the_count() {
        let active = ActiveCounter::default();
        let first = active.enter();
        drop((first, active.enter()));
        let _third = active.enter();
        assert_eq!(active.now(), 1);
        assert!(active.take_all().is_empty(), "the run has not begun");
    }

    #[test]
    fn the_times_of_those_that_are_active_are_known() {
        let active = ActiveCounter::default();
        let early = active.enter();
        active.begin(Instant::now().checked_sub(Duration::from_secs(2)).unwrap());
        let _late = (active.enter(), active.enter());
        let times = active.times();
        assert_eq!(times.iter().map(|(_, number)| *number).collect::<Vec<_>>(), [1, 2]);
        assert!((1_900..2_500).contains(&times[0].0.as_millis()), "since the start: {times:?}");
        assert!(times[1].0 < Duration::from_millis(500), "{times:?}");
        drop(early);
        assert_eq!(active.times().len(), 1);
    }

    #[test]
    fn active_time_belongs_to_its_second() {
        let ms = Duration::from_millis;
        let mut count = Count::default();
        for (until, now) in [(400, 2), (1_500, 1), (1_750, 0), (3_100, 3), (3_200, 0)] {
            count.advance_to(ms(until));
            count.now = now;
        }
        // Two from 0.4 s to 1.5 s, one until 1.75 s, three from 3.1 s to 3.2 s.
        assert_eq!(count.seconds, [(0, 1_200_000_000), (1, 1_250_000_000), (3, 300_000_000)].into());
    }

    #[test]
    fn only_seconds_that_are_over_are_taken() {
        let active = ActiveCounter::default();
        active.begin(Instant::now().checked_sub(Duration::from_millis(2_500)).unwrap());
        let _open = active.enter();
        std::thread::sleep(Duration::from_millis(600));
        let taken = active.take_before(u64::MAX);
        assert_eq!(taken.keys().copied().collect::<Vec<_>>(), [2], "second 3 is not over: {taken:?}");
        assert!(active.take_all().keys().all(|second| *second >= 3));
    }
}
