//! The periods in which a worker's outbox was full, so that their delay is not counted as the simulator's.

/// A period in which a full outbox held the streams back, in microseconds of wire time.
///
/// An event that became due in it counts as handed over when it was due, because the bus caused its delay and not the simulator.
#[derive(Clone, Copy, Debug)]
pub(super) struct Backlog {
    from_us: u64,
    /// When the outbox had room again.
    to_us: u64,
    /// The outbox was full when the worker last looked.
    full: bool,
}

impl Backlog {
    /// Starts or extends a period at `now_us`, at which the outbox is full.
    pub(super) fn held(before: Option<Self>, now_us: u64) -> Self {
        Self { from_us: before.map_or(now_us, |before| before.from_us), to_us: now_us, full: true }
    }

    /// Notes that the worker looks again at `now_us`.
    pub(super) const fn looked_at(self, now_us: u64) -> Self {
        if self.full { Self { to_us: now_us, full: false, ..self } } else { self }
    }

    /// Returns when an event that was due at `due_us` and is enqueued at `now_us` would have been handed over.
    pub(super) fn handed_over(self, due_us: u64, now_us: u64) -> u64 {
        if due_us <= self.to_us { due_us.max(self.from_us) } else { now_us }
    }
}
