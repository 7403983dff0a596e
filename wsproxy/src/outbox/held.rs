//! What an outbox holds back so that it goes out with the next event: how many, since when, and how fast events come.
//! Pure accounting; the frames themselves wait in the queue.

use std::time::{Duration, Instant};

/// The events at the queue's end that the socket has not been offered.
#[derive(Debug, Default)]
pub(super) struct Held {
    count: u32,
    /// Since when the first of them waits.
    since: Option<Instant>,
    /// When the last event came, as far as it matters.
    last: Option<Instant>,
    /// A reminder is on its way.
    reminded: bool,
}

/// What a reminder finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reminded {
    /// Everything went out meanwhile.
    Nothing,
    /// What was held went out; what is held now has waited since then.
    Later(Instant),
    /// It has waited for long enough.
    Due,
}

impl Held {
    pub(super) const fn count(&self) -> usize {
        self.count as usize
    }

    pub(super) const fn any(&self) -> bool {
        self.count > 0
    }

    /// The time between the last event and the one that comes `now`; `None` where no last one is known.
    pub(super) fn gap(&mut self, now: Instant) -> Option<Duration> {
        self.last.replace(now).map(|last| now.saturating_duration_since(last))
    }

    /// Nobody asks for the gap before the next event.
    pub(super) const fn forget_pace(&mut self) {
        self.last = None;
    }

    /// One more is held back; true when a reminder is needed.
    pub(super) fn hold(&mut self, now: Instant) -> bool {
        self.count += 1;
        self.since.get_or_insert(now);
        !std::mem::replace(&mut self.reminded, true)
    }

    /// All of them are offered to the socket.
    pub(super) const fn let_go(&mut self) {
        (self.count, self.since) = (0, None);
    }

    /// The reminder came; nothing waits for longer than `most`.
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
    fn nothing_waits_longer_than_it_may_and_one_reminder_is_under_way() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut held = Held::default();
        assert!(held.hold(at(0)), "the first asks for a reminder");
        assert!(!held.hold(at(40)));
        held.let_go();
        assert!(!held.hold(at(60)), "that reminder is still under way");
        assert_eq!(held.reminded(at(100), MOST), Reminded::Later(at(60)));
        assert!(!held.hold(at(110)));
        assert_eq!(held.reminded(at(160), MOST), Reminded::Due);
        held.let_go();
        assert!(held.hold(at(170)), "the next one asks anew");
        held.let_go();
        assert_eq!(held.reminded(at(270), MOST), Reminded::Nothing);
        assert_eq!((held.count(), held.any()), (0, false));
    }

    #[test]
    fn the_pace_is_known_from_the_second_event_on() {
        let start = Instant::now();
        let mut held = Held::default();
        assert_eq!(held.gap(start), None);
        assert_eq!(held.gap(start + MOST), Some(MOST));
        held.forget_pace();
        assert_eq!(held.gap(start + 2 * MOST), None);
    }
}
