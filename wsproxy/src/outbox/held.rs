//! Counts the events that an outbox holds back to share a segment: how many, since when, and how fast events come. The frames themselves
//! are in the queue.

use std::time::{Duration, Instant};

/// The events at the end of the queue that have not been offered to the socket.
#[derive(Debug, Default)]
pub(super) struct HeldEvents {
    count: u32,
    /// Since when the first of them has waited.
    since: Option<Instant>,
    /// When the last event came, while the pace is needed.
    last: Option<Instant>,
    /// A reminder is scheduled.
    reminded: bool,
}

/// What is due when a reminder fires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reminded {
    /// Nothing: all events were written meanwhile.
    Nothing,
    /// Another reminder: the held events have waited only since this instant.
    Later(Instant),
    /// The release of the held events.
    Due,
}

impl HeldEvents {
    pub(super) const fn count(&self) -> usize {
        self.count as usize
    }

    pub(super) const fn any(&self) -> bool {
        self.count > 0
    }

    /// Returns the time from the last event to the one at `now`, or `None` if the last one is not known.
    pub(super) fn gap(&mut self, now: Instant) -> Option<Duration> {
        self.last.replace(now).map(|last| now.saturating_duration_since(last))
    }

    /// Forgets the last event, because the pace is not needed.
    pub(super) const fn forget_pace(&mut self) {
        self.last = None;
    }

    /// Counts one more held event. Returns whether a reminder must be scheduled.
    pub(super) fn hold(&mut self, now: Instant) -> bool {
        self.count += 1;
        self.since.get_or_insert(now);
        !std::mem::replace(&mut self.reminded, true)
    }

    /// Notes that all held events are offered to the socket.
    pub(super) const fn clear(&mut self) {
        (self.count, self.since) = (0, None);
    }

    /// Handles a reminder. No event waits longer than `most`.
    pub(super) fn reminded(&mut self, now: Instant, most: Duration) -> Reminded {
        self.reminded = false;
        match self.since {
            None => Reminded::Nothing,
            Some(since) if now.saturating_duration_since(since) >= most => Reminded::Due,
            Some(since) => {
                self.reminded = true;
                Reminded::Later(since)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: Duration = Duration::from_millis(100);

    #[test]
    fn no_event_waits_too_long_and_one_reminder_is_scheduled() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut held = HeldEvents::default();
        assert!(held.hold(at(0)), "the first asks for a reminder");
        assert!(!held.hold(at(40)));
        held.clear();
        assert!(!held.hold(at(60)), "that reminder is still under way");
        assert_eq!(held.reminded(at(100), MOST), Reminded::Later(at(60)));
        assert!(!held.hold(at(110)));
        assert_eq!(held.reminded(at(160), MOST), Reminded::Due);
        held.clear();
        assert!(held.hold(at(170)), "the next one asks anew");
        held.clear();
        assert_eq!(held.reminded(at(270), MOST), Reminded::Nothing);
        assert_eq!((held.count(), held.any()), (0, false));
    }

    #[test]
    fn the_pace_is_known_from_the_second_event_on() {
        let start = Instant::now();
        let mut held = HeldEvents::default();
        assert_eq!(held.gap(start), None);
        assert_eq!(held.gap(start + MOST), Some(MOST));
        held.forget_pace();
        assert_eq!(held.gap(start + 2 * MOST), None);
    }
}
