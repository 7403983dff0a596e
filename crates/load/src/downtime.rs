//! The times during which a session had no socket. Lost tokens are classified by them: lost while connected or not.
//! In doubt the socket counts as open, so that a loss is attributed to a reconnect only if it surely happened then.

use std::time::{Duration, Instant};

/// The intervals without a socket, oldest first. The last one may be without an end.
#[derive(Clone, Debug, Default)]
pub struct Downtime {
    intervals: Vec<(Instant, Option<Instant>)>,
}

impl Downtime {
    /// Starts an interval when the socket is lost. Does nothing if the socket is down already.
    pub fn begin(&mut self, at: Instant) {
        if !self.is_down() {
            self.intervals.push((at, None));
        }
    }

    /// Ends the interval when a new socket is open. Returns its length, or `None` if the socket was not down.
    pub fn end(&mut self, at: Instant) -> Option<Duration> {
        let (since, until @ None) = self.intervals.last_mut()? else { return None };
        *until = Some(at);
        Some(at.saturating_duration_since(*since))
    }

    /// Returns how long the socket was down between two instants.
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

    /// Returns whether the socket was down at any time between two instants.
    #[must_use]
    pub fn touches(&self, from: Instant, to: Instant) -> bool {
        self.intervals.iter().any(|&(since, until)| since <= to && until.is_none_or(|until| until >= from))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlaps_with_intervals_are_measured() {
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
