//! The deadline of a query: one timer, reset when the query's time limit becomes known or its terminator arrives early.

use std::{
    pin::Pin,
    time::{Duration, Instant},
};
use tokio::time::Sleep;

/// A shorter total delay of the event loop does not move a deadline.
const LEAST_DELAY: Duration = Duration::from_millis(20);
/// How long events may follow their terminator on an open socket.
const SETTLE: Duration = Duration::from_secs(1);

/// The deadline of a query.
pub(super) struct Deadline {
    timer: Pin<Box<Sleep>>,
    /// The query's own deadline, which the timer may precede while the query settles.
    last: Instant,
    settling: bool,
    /// The total delay of the worker's event loop that the deadline allows for.
    loop_delay: Duration,
}

impl Deadline {
    /// Creates a deadline at `at`. `loop_delay` is the present total delay of the event loop.
    pub(super) fn new(at: Instant, loop_delay: Duration) -> Self {
        Self { timer: Box::pin(tokio::time::sleep_until(at.into())), last: at, settling: false, loop_delay }
    }

    /// Moves the deadline to `at` and ends settling.
    pub(super) fn set(&mut self, at: Instant) {
        self.last = at;
        self.settling = false;
        self.timer.as_mut().reset(at.into());
    }

    /// Moves the deadline by `by`: time that the client itself spends.
    pub(super) fn extend(&mut self, by: Duration) {
        self.set(self.last + by);
    }

    /// Moves the deadline by the increase of the event loop's total delay. Returns false if the increase is below 20 ms.
    pub(super) fn allow_for(&mut self, loop_delay: Duration) -> bool {
        let more = loop_delay.saturating_sub(self.loop_delay);
        if more < LEAST_DELAY {
            return false;
        }
        self.loop_delay = loop_delay;
        self.extend(more);
        true
    }

    /// Gives events that follow the terminator one more second, but not more than the query's deadline. Only the first call has
    /// an effect.
    pub(super) fn settle(&mut self) {
        let at = Instant::now() + SETTLE;
        if !self.settling && at < self.last {
            self.settling = true;
            self.timer.as_mut().reset(at.into());
        }
    }

    /// Returns whether the timer runs for events that follow the terminator.
    pub(super) const fn is_settling(&self) -> bool {
        self.settling
    }

    /// Continues to wait for the query's own deadline, after settling. Returns false if it has passed.
    pub(super) fn continue_after_settling(&mut self) -> bool {
        let is_left = Instant::now() < self.last;
        if is_left {
            self.set(self.last);
        }
        is_left
    }

    /// Waits for the deadline. Cancel safe.
    pub(super) async fn reached(&mut self) {
        self.timer.as_mut().await;
    }
}
