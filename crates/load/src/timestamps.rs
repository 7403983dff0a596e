//! Converts the kernel's receive timestamps from the wall clock to the monotonic clock.
//! The offset between the clocks is sampled continuously. After a step of the wall clock, timestamps are rejected for 1 s.

use parking_lot::Mutex;
use std::{
    sync::{
        LazyLock,
        atomic::{AtomicI64, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant, SystemTime},
};

/// How long a sample of the offset is used, in nanoseconds.
const SAMPLE_EVERY: i64 = 10_000_000;
/// A drift of the offset by more than 1/200 of the elapsed time is a step. The kernel slews by at most 1/2000.
const DRIFT: i64 = 200;
/// The inaccuracy of a sample in nanoseconds, which the drift may exceed without being a step.
const JITTER: i64 = 200_000;
/// A timestamp more than this many nanoseconds in the future shows that the wall clock was set.
const AHEAD: i64 = 50_000;
/// The two clocks must be read within this time, otherwise the reading is repeated.
const PROMPT: Duration = Duration::from_micros(5);
/// A timestamp older than this many nanoseconds is accepted only with a fresh sample of the offset.
const OLD: i64 = 5_000_000;
/// Timestamps are rejected for this many nanoseconds after a step, because bytes may wait in a socket since before it.
const DISTRUST: i64 = 1_000_000_000;

/// The offset between the wall clock and the monotonic clock, and until when it is distrusted. All values are nanoseconds.
#[derive(Clone, Copy, Debug, Default)]
struct Offset {
    offset: i64,
    sampled: Option<i64>,
    distrust_until: Option<i64>,
    steps: u64,
}

impl Offset {
    /// Adds a sample of both clocks. Returns whether the wall clock was set since the previous sample.
    fn update(&mut self, now: i64, wall: i64) -> bool {
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

/// Converts kernel timestamps. There is one instance, as the machine has one wall clock.
struct WallClock {
    anchor: Instant,
    state: Mutex<Offset>,
    // Copies of the state that conversions read without the lock. They need no common order: a conversion with an old offset
    // and a new step is at most off by what the next sample corrects.
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
        state.update(self.ns(now), wall);
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

/// Reads both clocks within a few microseconds. If the thread were interrupted in between, the offset would seem to have stepped.
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

/// Converts a kernel timestamp (nanoseconds of the wall clock) that came with a read at `read`. `None` if it is not plausible.
#[must_use]
pub fn arrival(stamp: i64, read: Instant) -> Option<Instant> {
    CLOCK.arrival(stamp, read)
}

/// Samples the offset. Regular calls detect a step of the wall clock even while no bytes arrive.
pub fn sample() {
    CLOCK.sample();
}

/// Returns how often the wall clock was set since this process started.
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
        /// A clock that the kernel slews at its maximum rate has not stepped. A jump beyond the drift is a step.
        #[test]
        fn a_step_is_detected_and_a_drift_is_not(
            gaps in prop::collection::vec(1i64..2_000, 1..50), ppm in -500i64..=500, step in prop_oneof![-10_000i64..-25, 25i64..10_000],
        ) {
            let mut offset = Offset::default();
            let (mut now, mut wall) = (0, 1_700_000_000_000 * MS);
            for gap in gaps {
                now += gap * MS;
                wall += gap * MS + gap * ppm;
                prop_assert!(!offset.update(now, wall));
            }
            prop_assert!(offset.update(now + MS, wall + MS + step * MS));
            prop_assert_eq!((offset.steps, offset.distrust_until), (1, Some(now + MS + DISTRUST)));
            prop_assert!(!offset.update(now + 2 * MS, wall + 2 * MS + step * MS), "a step is counted once");
        }
    }

    #[test]
    fn recent_timestamps_are_converted_and_future_ones_rejected() {
        let (now, wall) = both_clocks();
        let at = arrival(wall - 3 * MS, now).unwrap();
        let age = now.duration_since(at);
        assert!((2_900..3_100).contains(&age.as_micros()), "{age:?}");
        let old = arrival(wall - 500 * MS, now).unwrap();
        assert!((499..=501).contains(&now.duration_since(old).as_millis()));
        assert_eq!(arrival(wall + 20 * MS, now), None);
    }

    #[test]
    fn timestamps_are_rejected_for_a_second_after_a_step() {
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
        // Makes the next sample look like a step by one hour.
        clock.state.lock().offset -= 3_600_000 * MS;
        clock.sample();
        assert_eq!((clock.steps.load(Relaxed), clock.arrival(wall - MS, now)), (1, None));
        let later = now + Duration::from_secs(2);
        let stamp = wall + 2_000 * MS - MS;
        clock.sampled.store(clock.ns(later), Relaxed);
        assert_eq!(clock.arrival(stamp, later).map(|at| later - at > Duration::ZERO), Some(true));
    }
}
