//! How promptly this thread's event loop runs: when it last returned from the kernel, how late its timers are, and how long
//! it was delayed in total. Without a kernel timestamp, this bounds how long an event waited before the loop saw it.
//! A loop that is woken for nearly every event waits a little first, so that several events share a wake-up.

use std::{
    cell::Cell,
    thread,
    time::{Duration, Instant},
};
use tokio::runtime::Builder;

/// After a wait in the kernel that is shorter than this, an event may have been there before the wait.
const SHORT_WAIT: Duration = Duration::from_micros(200);
/// Tokio rounds timers up to whole milliseconds. A timer that is late by this much is on time.
const TIMER_STEP: Duration = Duration::from_millis(1);
/// A longer delay of the loop is a standstill: queries that timed out meanwhile may have failed because of the generator.
const STANDSTILL: Duration = Duration::from_secs(1);

/// How long a busy loop lets events gather. Timers can be late by that much more, while an arrival's time comes from the kernel.
const GATHER: Duration = Duration::from_micros(250);
/// Time over which the waits of a loop are counted.
const COUNTED: Duration = Duration::from_millis(10);
/// A loop with more waits than this in [`COUNTED`] begins to gather events.
const BUSY_WAITS: u32 = 40;
/// A loop that gathers events stops when it has fewer waits than this in [`COUNTED`].
const QUIET_WAITS: u32 = 10;

/// Whether a loop is woken so often that events should gather. A function of the times of its waits.
#[derive(Clone, Copy, Debug)]
struct Gathering {
    since: Instant,
    waits: u32,
    is_on: bool,
}

impl Gathering {
    const fn new(now: Instant) -> Self {
        Self { since: now, waits: 0, is_on: false }
    }

    /// Counts a wait that begins at `now`. Returns whether events should gather first.
    fn wait(&mut self, now: Instant) -> bool {
        if now.saturating_duration_since(self.since) >= COUNTED {
            let least = if self.is_on { QUIET_WAITS } else { BUSY_WAITS };
            *self = Self { since: now, waits: 0, is_on: self.waits >= least };
        }
        self.waits += 1;
        self.is_on
    }
}

/// When this thread's loop entered and left the kernel, and how late its probe was.
#[derive(Clone, Copy, Debug)]
struct PollTimes {
    /// The last return from the kernel.
    returned: Instant,
    /// The last entry into the kernel.
    entered: Instant,
    /// When the loop began to let events gather before that entry, if it did.
    gathers_since: Option<Instant>,
    /// No event that the loop sees now had happened at this instant.
    unseen_since: Instant,
    /// When the next probe is due.
    next_probe: Option<Instant>,
    /// How late the last probe was, beyond rounding.
    lateness: Duration,
    gathering: Gathering,
}

impl PollTimes {
    const fn new(now: Instant) -> Self {
        Self {
            returned: now,
            entered: now,
            gathers_since: None,
            unseen_since: now,
            next_probe: None,
            lateness: Duration::ZERO,
            gathering: Gathering::new(now),
        }
    }

    const fn enter(&mut self, now: Instant, gathers_since: Option<Instant>) {
        (self.entered, self.gathers_since) = (now, gathers_since);
    }

    fn leave(&mut self, now: Instant) {
        let waited = now.saturating_duration_since(self.entered) >= SHORT_WAIT;
        // What came while events gathered was there before the wait.
        self.unseen_since = if waited { self.gathers_since.unwrap_or(now) } else { self.returned };
        self.returned = now;
    }

    /// Notes that the probe due at `intended` woke at `woken`, and that the next one is due at `next`.
    fn probe(&mut self, intended: Instant, woken: Instant, next: Instant) {
        self.lateness = late(intended, woken);
        self.next_probe = Some(next);
    }

    /// Returns how late a probe is that is due and has not run.
    fn overdue(&self, now: Instant) -> Duration {
        self.next_probe.map_or(Duration::ZERO, |due| late(due, now))
    }

    fn unseen(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.unseen_since) + self.lateness.max(self.overdue(now))
    }
}

/// Returns how late a timer due at `due` is at `now`, beyond rounding.
fn late(due: Instant, now: Instant) -> Duration {
    now.saturating_duration_since(due).saturating_sub(TIMER_STEP)
}

thread_local! {
    static POLL_TIMES: Cell<Option<PollTimes>> = const { Cell::new(None) };
}

fn with<T>(now: Instant, act: impl FnOnce(&mut PollTimes) -> T) -> T {
    POLL_TIMES.with(|cell| {
        let mut times = cell.take().unwrap_or_else(|| PollTimes::new(now));
        let result = act(&mut times);
        cell.set(Some(times));
        result
    })
}

/// Makes a single-threaded runtime note when it enters the kernel and returns from it, and gather events while it is busy.
pub fn watch(builder: &mut Builder) -> &mut Builder {
    builder.on_thread_park(enter).on_thread_unpark(leave)
}

fn enter() {
    let now = Instant::now();
    let gathers = with(now, |times| {
        times.enter(now, None);
        times.gathering.wait(now)
    });
    if gathers {
        thread::sleep(GATHER);
        let after = Instant::now();
        with(after, |times| times.enter(after, Some(now)));
    }
}

fn leave() {
    let now = Instant::now();
    with(now, |times| times.leave(now));
}

/// Notes how late a probe woke, and when the next one is due.
pub fn probe(intended: Instant, woken: Instant, next: Instant) {
    with(woken, |times| times.probe(intended, woken, next));
}

/// Returns how long an event that the loop sees at `now` may have waited for it, at most.
#[must_use]
pub fn unseen(now: Instant) -> Duration {
    with(now, |times| times.unseen(now))
}

/// The delays of a worker's event loop so far. Its probe updates them; while the loop is delayed, they grow with the overdue
/// probe.
#[derive(Debug)]
pub struct LoopDelay {
    /// When the probe should wake next.
    next: Cell<Instant>,
    /// The end of the last standstill.
    stood_still: Cell<Option<Instant>>,
    /// The total delay so far.
    total: Cell<Duration>,
}

impl LoopDelay {
    /// Creates the delays of a loop whose first probe is due at `next`.
    #[must_use]
    pub const fn new(next: Instant) -> Self {
        Self { next: Cell::new(next), stood_still: Cell::new(None), total: Cell::new(Duration::ZERO) }
    }

    /// Notes that the probe woke at `woken`, and that the next one is due at `next`.
    pub fn probed(&self, woken: Instant, next: Instant) {
        let delay = late(self.next.get(), woken);
        self.total.set(self.total.get() + delay);
        if delay > STANDSTILL {
            self.stood_still.set(Some(woken));
        }
        self.next.set(next);
    }

    /// Returns the total delay of the loop from its start to `now`.
    pub fn total(&self, now: Instant) -> Duration {
        self.total.get() + late(self.next.get(), now)
    }

    /// Returns whether the loop stood still for more than 1 s between `since` and `now`.
    pub fn stood_still(&self, since: Instant, now: Instant) -> bool {
        self.stood_still.get().is_some_and(|until| until >= since)
            || now.saturating_duration_since(self.next.get().max(since)) > STANDSTILL
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn an_event_during_a_delay_may_have_waited_for_all_of_it() {
        let start = Instant::now();
        let mut times = PollTimes::new(start);
        times.enter(start, None);
        times.leave(start + ms(10));
        assert_eq!(times.unseen(start + ms(10)), ms(0), "the loop was waiting for it");
        assert_eq!(times.unseen(start + ms(13)), ms(3));
        // The loop is busy for 50 ms, and finds something as soon as it looks.
        times.enter(start + ms(60), None);
        times.leave(start + ms(60));
        assert_eq!(times.unseen(start + ms(61)), ms(51));
        // Events gathered for 2 ms before a wait of 5 ms.
        times.enter(start + ms(64), Some(start + ms(62)));
        times.leave(start + ms(69));
        assert_eq!(times.unseen(start + ms(69)), ms(7));
    }

    #[test]
    fn a_loop_gathers_events_while_it_is_woken_often() {
        let start = Instant::now();
        let mut gathering = Gathering::new(start);
        // Ten waits per millisecond, then two, then one in two milliseconds.
        let mut gathers = |from: u32, to: u32, step: u32| {
            let waits = (from..to).step_by(step as usize);
            waits.map(|at| gathering.wait(start + at * Duration::from_micros(100))).collect::<Vec<_>>()
        };
        let busy = gathers(0, 200, 1);
        assert!(!busy[..100].contains(&true) && busy[100..].iter().all(|gathers| *gathers));
        assert!(gathers(200, 600, 5).iter().all(|gathers| *gathers), "fewer waits are the purpose");
        let quiet = gathers(600, 1_000, 20);
        assert!(!quiet[6..].contains(&true), "{quiet:?}");
    }

    #[test]
    fn a_late_timer_adds_to_it() {
        let start = Instant::now();
        let mut times = PollTimes::new(start);
        times.enter(start, None);
        times.leave(start + ms(20));
        times.probe(start + ms(19), start + ms(20), start + ms(40));
        assert_eq!(times.unseen(start + ms(20)), ms(0), "timers are rounded up");
        // Woken late by the scheduler: the probe has not run yet.
        times.enter(start + ms(20), None);
        times.leave(start + ms(70));
        assert_eq!(times.unseen(start + ms(70)), ms(29));
        times.probe(start + ms(40), start + ms(70), start + ms(80));
        assert_eq!(times.unseen(start + ms(70)), ms(29));
    }

    #[test]
    fn delays_add_up_and_a_long_one_is_a_standstill() {
        let start = Instant::now();
        let delay = LoopDelay::new(start);
        delay.probed(start + ms(1), start + ms(20));
        assert_eq!(delay.total(start + ms(21)), ms(0), "timers are rounded up");
        assert_eq!(delay.total(start + ms(31)), ms(10), "the probe is overdue");
        delay.probed(start + ms(31), start + ms(40));
        assert_eq!(delay.total(start + ms(40)), ms(10));
        assert!(!delay.stood_still(start, start + ms(40)));
        assert!(delay.stood_still(start, start + ms(1_041)), "the probe has been overdue for more than 1 s");
        delay.probed(start + ms(1_100), start + ms(1_120));
        assert!(delay.stood_still(start, start + ms(1_110)));
        assert!(!delay.stood_still(start + ms(1_101), start + ms(1_110)), "the standstill was before");
    }
}
