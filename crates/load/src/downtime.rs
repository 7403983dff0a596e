//! When a session's socket was down, so that a lost token can be laid at the right door.
//! In doubt the socket counts as open: a loss is only excused when it surely fell into a gap.

use std::time::{Duration, Instant};

/// The intervals without a socket, oldest first.
#[derive(Clone, Debug, Default)]
pub struct Downtime {
    intervals: Vec<(Instant, Option<Instant>)>,
}

impl Downtime {
    /// The socket was lost.
    pub fn begin(&mut self, at: Instant) {
        if !self.is_down() {
            self.intervals.push((at, None));
        }
    }

    /// A new socket is open. Answers how long there was none.
    pub fn end(&mut self, at: Instant) -> Option<Duration> {
        let (since, until @ None) = self.intervals.last_mut()? else { return None };
        *until = Some(at);
        Some(at.saturating_duration_since(*since))
    }

    /// How long the socket was down between two moments.
    #[must_use]
    pub fn within(&self, from: Instant, to: Instant) -> Duration {
        let overlap = |&(since, until): &(Instant, Option<Instant>)| {
            until.unwrap_or(to).min(to).saturating_duration_since(since.max(from))
        };
        self.intervals.iter().map(overlap).sum()
    }

    fn is_down(&self) -> bool {
        matches!(self.intervals.last(), Some((_, None)))
    }

    /// Whether the socket was down at any time between two moments.
    #[must_use]
    pub fn touches(&self, from: Instant, to: Instant) -> bool {
        self.intervals.iter().any(|&(since, until)| since <= to && until.is_none_or(|until| until >= from))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_overlaps_a_gap_is_in_it() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut downtime = Downtime::default();
        assert!(!downtime.touches(at(0), at(100)));
        assert_eq!(downtime.end(at(1)), None);
        downtime.begin(at(10));
        assert!(downtime.touches(at(12), at(13)), "a gap without an end goes on");
        assert_eq!(downtime.end(at(20)), Some(Duration::from_secs(10)));
        for (from, to, inside) in
            [(0, 9, false), (5, 12, true), (12, 15, true), (15, 30, true), (5, 30, true), (21, 30, false)]
        {
            assert_eq!(downtime.touches(at(from), at(to)), inside, "{from}..{to}");
        }
        downtime.begin(at(40));
        for (from, to, seconds) in
            [(0, 9, 0), (5, 12, 2), (12, 15, 3), (15, 30, 5), (5, 50, 20), (45, 50, 5), (21, 30, 0)]
        {
            assert_eq!(downtime.within(at(from), at(to)), Duration::from_secs(seconds), "{from}..{to}");
        }
    }
}
