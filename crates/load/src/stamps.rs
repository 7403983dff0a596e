//! When bytes reached this machine, by the kernel: receive timestamps of TCP sockets, on the monotonic clock.
//! The kernel stamps by the wall clock. The offset between both clocks is sampled again and again, and after a step of the wall clock
//! no timestamp is believed for a while.

use parking_lot::Mutex;
use std::{
    sync::{
        LazyLock,
        atomic::{AtomicI64, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant, SystemTime},
};

/// A sample of the offset is used for so long.
const SAMPLE_EVERY: i64 = 10_000_000;
/// The offset may drift by one part in so many before it counts as a step: ten times what the kernel slews at most.
const DRIFT: i64 = 200;
/// …and by this much, for the sampling itself.
const JITTER: i64 = 200_000;
/// A timestamp this much ahead of the clock is one of a wall clock that was set.
const AHEAD: i64 = 50_000;
/// Both clocks are read within this, or again.
const PROMPT: Duration = Duration::from_micros(5);
/// An age from which a timestamp is only believed with a fresh sample.
const OLD: i64 = 5_000_000;
/// After a step, what still waits in a socket has a timestamp from before it.
const DISTRUST: i64 = 1_000_000_000;

/// The offset between the wall clock and the monotonic clock, and whether it can be relied on. Nanoseconds.
#[derive(Clone, Copy, Debug, Default)]
struct Offset {
    offset: i64,
    sampled: Option<i64>,
    distrust_until: Option<i64>,
    steps: u64,
}

impl Offset {
    /// Takes a sample of both clocks; true when the wall clock was set since the last one.
    fn see(&mut self, now: i64, wall: i64) -> bool {
        let offset = wall - now;
        let stepped = self.sampled.is_some_and(|sampled| {
            let allowed = JITTER + (now - sampled).max(0) / DRIFT;
            (offset - self.offset).abs() > allowed
        });
        if stepped {
            self.steps += 1;
            self.distrust_until = Some(now + DISTRUST);
        }
        (self.offset, self.sampled) = (offset, Some(now));
        stepped
    }
}

/// Converts timestamps of the kernel. The machine has one wall clock, so there is one of these.
struct WallClock {
    anchor: Instant,
    state: Mutex<Offset>,
    /// Copies of the state, for the way that takes no lock.
    offset: AtomicI64,
    sampled: AtomicI64,
    distrust_until: AtomicI64,
    steps: AtomicU64,
}

static CLOCK: LazyLock<WallClock> = LazyLock::new(|| {
    let clock = WallClock {
        anchor: Instant::now(),
        state: Mutex::default(),
        offset: AtomicI64::new(0),
        sampled: AtomicI64::new(i64::MIN / 2),
        distrust_until: AtomicI64::new(i64::MIN),
        steps: AtomicU64::new(0),
    };
    clock.sample();
    clock
});

impl WallClock {
    fn ns(&self, at: Instant) -> i64 {
        match at.checked_duration_since(self.anchor) {
            Some(after) => nanos(after),
            None => -nanos(self.anchor - at),
        }
    }

    fn instant(&self, ns: i64) -> Option<Instant> {
        let distance = Duration::from_nanos(ns.unsigned_abs());
        if ns >= 0 { self.anchor.checked_add(distance) } else { self.anchor.checked_sub(distance) }
    }

    fn sample(&self) {
        let mut state = self.state.lock();
        let (now, wall) = both_clocks();
        state.see(self.ns(now), wall);
        self.offset.store(state.offset, Relaxed);
        self.distrust_until.store(state.distrust_until.unwrap_or(i64::MIN), Relaxed);
        self.steps.store(state.steps, Relaxed);
        self.sampled.store(state.sampled.unwrap_or_default(), Relaxed);
    }

    fn arrival(&self, stamp: i64, read: Instant) -> Option<Instant> {
        let now = self.ns(read);
        let mut fresh = now - self.sampled.load(Relaxed) > SAMPLE_EVERY;
        if fresh {
            self.sample();
        }
        loop {
            let at = stamp - self.offset.load(Relaxed);
            let plausible = at <= now + AHEAD && now - at <= OLD;
            if !plausible && !fresh {
                self.sample();
                fresh = true;
                continue;
            }
            let believed = now >= self.distrust_until.load(Relaxed) && at <= now + AHEAD;
            return believed.then(|| self.instant(at.min(now))).flatten();
        }
    }
}

/// Reads both clocks close together: a thread that is interrupted in between would take that for a step.
fn both_clocks() -> (Instant, i64) {
    let mut narrowest = Duration::MAX;
    let mut best = (Instant::now(), 0);
    for _ in 0..16 {
        let before = Instant::now();
        let wall = SystemTime::now();
        let width = before.elapsed();
        if width < narrowest {
            let since = wall.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            narrowest = width;
            best = (before + width / 2, nanos(since));
        }
        if narrowest <= PROMPT {
            break;
        }
    }
    best
}

fn nanos(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}

/// Returns the moment of a kernel timestamp (nanoseconds of the wall clock) that came with a read at `read`; `None` where it cannot be
/// believed.
#[must_use]
pub fn arrival(stamp: i64, read: Instant) -> Option<Instant> {
    CLOCK.arrival(stamp, read)
}

/// Samples the offset, so that a step of the wall clock is noticed even while nothing is read.
pub fn sample() {
    CLOCK.sample();
}

/// Returns how often the wall clock was set since this process began.
#[must_use]
pub fn steps() -> u64 {
    CLOCK.steps.load(Relaxed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MS: i64 = 1_000_000;

    proptest! {
        /// A wall clock that is slewed as fast as the kernel slews was not set; one that jumped by more than its drift was.
        #[test]
        fn a_step_is_noticed_and_a_drift_is_not(
            gaps in prop::collection::vec(1i64..2_000, 1..50), ppm in -500i64..=500, step in prop_oneof![-10_000i64..-25, 25i64..10_000],
        ) {
            let mut offset = Offset::default();
            let (mut now, mut wall) = (0, 1_700_000_000_000 * MS);
            for gap in gaps {
                now += gap * MS;
                wall += gap * MS + gap * ppm;
                prop_assert!(!offset.see(now, wall));
            }
            prop_assert!(offset.see(now + MS, wall + MS + step * MS));
            prop_assert_eq!((offset.steps, offset.distrust_until), (1, Some(now + MS + DISTRUST)));
            prop_assert!(!offset.see(now + 2 * MS, wall + 2 * MS + step * MS), "a step is one step");
        }
    }

    #[test]
    fn a_stamp_of_now_is_now_and_one_of_the_future_is_none() {
        let (now, wall) = both_clocks();
        let at = arrival(wall - 3 * MS, now).unwrap();
        let age = now.duration_since(at);
        assert!((2_900..3_100).contains(&age.as_micros()), "{age:?}");
        let old = arrival(wall - 500 * MS, now).unwrap();
        assert!((499..=501).contains(&now.duration_since(old).as_millis()));
        assert_eq!(arrival(wall + 20 * MS, now), None);
    }

    #[test]
    fn a_wall_clock_that_was_set_is_not_believed_for_a_second() {
        let clock = WallClock {
            anchor: Instant::now(),
            state: Mutex::new(Offset::default()),
            offset: AtomicI64::new(0),
            sampled: AtomicI64::new(0),
            distrust_until: AtomicI64::new(i64::MIN),
            steps: AtomicU64::new(0),
        };
        clock.sample();
        let (now, wall) = both_clocks();
        assert!(clock.arrival(wall - MS, now).is_some());
        // As if it had been an hour earlier before.
        clock.state.lock().offset -= 3_600_000 * MS;
        clock.sample();
        assert_eq!((clock.steps.load(Relaxed), clock.arrival(wall - MS, now)), (1, None));
        let later = now + Duration::from_secs(2);
        let stamp = wall + 2_000 * MS - MS;
        clock.sampled.store(clock.ns(later), Relaxed);
        assert_eq!(clock.arrival(stamp, later).map(|at| later - at > Duration::ZERO), Some(true));
    }
}
