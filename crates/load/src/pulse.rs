//! How promptly this thread's event loop runs: when it last returned from the kernel and how late its timers are.
//! It bounds how long something waited before the loop saw it, where no kernel timestamp says so. One per thread; it waits for nothing.

use std::{
    cell::Cell,
    time::{Duration, Instant},
};
use tokio::runtime::Builder;

/// A wait in the kernel that is shorter than this may have found something that was there already.
const SHORT_WAIT: Duration = Duration::from_micros(200);
/// Tokio rounds timers up to whole milliseconds: a timer that late is in time.
pub(crate) const TIMER_STEP: Duration = Duration::from_millis(1);

#[derive(Clone, Copy, Debug)]
struct Pulse {
    /// The last return from the kernel.
    returned: Instant,
    /// When the loop last went to the kernel.
    entered: Instant,
    /// Nothing that the loop sees now was there at this moment.
    unseen_since: Instant,
    /// When the next probe is due.
    next_probe: Option<Instant>,
    /// How late the last probe was, rounding apart.
    lateness: Duration,
}

impl Pulse {
    const fn new(now: Instant) -> Self {
        Self { returned: now, entered: now, unseen_since: now, next_probe: None, lateness: Duration::ZERO }
    }

    const fn enter(&mut self, now: Instant) {
        self.entered = now;
    }

    fn leave(&mut self, now: Instant) {
        let waited = now.saturating_duration_since(self.entered) >= SHORT_WAIT;
        self.unseen_since = if waited { now } else { self.returned };
        self.returned = now;
    }

    /// A probe that was due at `intended` woke at `woken`; the next one is due at `next`.
    fn probe(&mut self, intended: Instant, woken: Instant, next: Instant) {
        self.lateness = late(intended, woken);
        self.next_probe = Some(next);
    }

    /// How late a probe is that is due and has not run yet.
    fn overdue(&self, now: Instant) -> Duration {
        self.next_probe.map_or(Duration::ZERO, |due| late(due, now))
    }

    fn unseen(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.unseen_since) + self.lateness.max(self.overdue(now))
    }
}

fn late(due: Instant, now: Instant) -> Duration {
    now.saturating_duration_since(due).saturating_sub(TIMER_STEP)
}

thread_local! {
    static PULSE: Cell<Option<Pulse>> = const { Cell::new(None) };
}

fn with<T>(now: Instant, look: impl FnOnce(&mut Pulse) -> T) -> T {
    PULSE.with(|cell| {
        let mut pulse = cell.take().unwrap_or_else(|| Pulse::new(now));
        let seen = look(&mut pulse);
        cell.set(Some(pulse));
        seen
    })
}

/// Has a runtime of one thread note when it goes to the kernel and returns.
pub fn watch(builder: &mut Builder) -> &mut Builder {
    let now = Instant::now;
    builder
        .on_thread_park(move || with(now(), |pulse| pulse.enter(now())))
        .on_thread_unpark(move || with(now(), |pulse| pulse.leave(now())))
}

/// Notes how late a probe woke, and when the next one is due.
pub fn probe(intended: Instant, woken: Instant, next: Instant) {
    with(woken, |pulse| pulse.probe(intended, woken, next));
}

/// Returns how long something that is seen at `now` may have waited for this thread's loop.
#[must_use]
pub fn unseen(now: Instant) -> Duration {
    with(now, |pulse| pulse.unseen(now))
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn what_came_during_a_stall_may_have_waited_for_all_of_it() {
        let start = Instant::now();
        let mut pulse = Pulse::new(start);
        pulse.enter(start);
        pulse.leave(start + ms(10));
        assert_eq!(pulse.unseen(start + ms(10)), ms(0), "the loop was waiting for it");
        assert_eq!(pulse.unseen(start + ms(13)), ms(3));
        // The loop is busy for 50 ms, and finds something as soon as it looks.
        pulse.enter(start + ms(60));
        pulse.leave(start + ms(60));
        assert_eq!(pulse.unseen(start + ms(61)), ms(51));
    }

    #[test]
    fn a_late_timer_adds_to_it() {
        let start = Instant::now();
        let mut pulse = Pulse::new(start);
        pulse.enter(start);
        pulse.leave(start + ms(20));
        pulse.probe(start + ms(19), start + ms(20), start + ms(40));
        assert_eq!(pulse.unseen(start + ms(20)), ms(0), "timers are rounded up");
        // Woken late by the scheduler: the probe has not run yet.
        pulse.enter(start + ms(20));
        pulse.leave(start + ms(70));
        assert_eq!(pulse.unseen(start + ms(70)), ms(29));
        pulse.probe(start + ms(40), start + ms(70), start + ms(80));
        assert_eq!(pulse.unseen(start + ms(70)), ms(29));
    }
}
