//! Decides from polls of heartbeats which generators are lost. Pure: the caller passes the time.

use crate::timing::Timing;
use std::time::{Duration, Instant};

/// The heartbeats that one observer saw.
///
/// A generator is lost only if [`Timing::unchanged_polls`] polls in a row succeeded and saw the same heartbeat. Polls that failed, and
/// a time without polls, say nothing about a generator. After them nobody is lost for [`Timing::calm`], and counting begins again:
/// the generators had the same outage, or the observer itself did not run.
#[derive(Debug)]
pub(crate) struct Watch<H> {
    seen: Vec<Seen<H>>,
    unchanged_polls: u32,
    calm: Duration,
    /// Polls that are further apart than this count as an outage.
    outage: Duration,
    last_poll: Option<Instant>,
    calm_until: Option<Instant>,
}

#[derive(Debug)]
struct Seen<H> {
    heartbeat: Option<H>,
    polls: u32,
}

impl<H: PartialEq> Watch<H> {
    pub(crate) fn new(generators: u32, timing: &Timing) -> Self {
        Self {
            seen: (0..generators).map(|_| Seen { heartbeat: None, polls: 0 }).collect(),
            unchanged_polls: timing.unchanged_polls,
            calm: timing.calm,
            outage: timing.heartbeat * timing.unchanged_polls,
            last_poll: None,
            calm_until: None,
        }
    }

    /// Notes a poll that failed.
    pub(crate) const fn failed(&mut self) {
        self.last_poll = None;
    }

    /// Notes a poll that succeeded and saw these heartbeats, one for each generator in order. Returns whether any has changed.
    pub(crate) fn saw(&mut self, heartbeats: impl IntoIterator<Item = Option<H>>, now: Instant) -> bool {
        if self.last_poll.is_none_or(|last| now - last > self.outage) {
            self.calm_until = now.checked_add(self.calm);
            self.seen.iter_mut().for_each(|seen| seen.polls = 0);
        }
        self.last_poll = Some(now);
        let mut changed = false;
        for (seen, heartbeat) in self.seen.iter_mut().zip(heartbeats) {
            changed |= seen.heartbeat != heartbeat;
            if seen.heartbeat == heartbeat && seen.polls > 0 {
                seen.polls += 1;
            } else {
                *seen = Seen { heartbeat, polls: 1 };
            }
        }
        changed
    }

    /// Returns whether the generator is lost, by the polls so far.
    pub(crate) fn is_lost(&self, generator: u32, now: Instant) -> bool {
        let seen = &self.seen[generator as usize];
        // The first poll that saw a heartbeat did not see it unchanged.
        seen.polls > self.unchanged_polls && self.calm_until.is_some_and(|calm| now >= calm)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLL: Duration = Duration::from_millis(500);

    struct Bench {
        watch: Watch<u64>,
        now: Instant,
    }

    impl Bench {
        /// A watch of two generators whose calm after the first poll has passed.
        fn settled() -> Self {
            let mut bench = Self { watch: Watch::new(2, &Timing::default()), now: Instant::now() };
            for beat in 0..10 {
                bench.poll([Some(beat), Some(beat)]);
            }
            bench
        }

        fn poll(&mut self, heartbeats: [Option<u64>; 2]) -> [bool; 2] {
            self.now += POLL;
            self.watch.saw(heartbeats, self.now);
            [0, 1].map(|generator| self.watch.is_lost(generator, self.now))
        }
    }

    #[test]
    fn three_unchanged_heartbeats_in_three_polls_are_a_loss() {
        let mut bench = Bench::settled();
        assert_eq!(bench.poll([Some(10), Some(10)]), [false, false]);
        assert_eq!(bench.poll([Some(10), Some(11)]), [false, false]);
        assert_eq!(bench.poll([Some(10), Some(12)]), [false, false]);
        assert_eq!(bench.poll([Some(10), Some(13)]), [true, false]);
        // A missing heartbeat is a heartbeat that does not change.
        for lost in [false, false, false, true] {
            assert_eq!(bench.poll([Some(10), None])[1], lost);
        }
    }

    #[test]
    fn a_poll_that_failed_is_no_sign_of_a_loss() {
        let mut bench = Bench::settled();
        bench.poll([Some(10), Some(10)]);
        bench.poll([Some(10), Some(11)]);
        bench.poll([Some(10), Some(12)]);
        for _ in 0..100 {
            bench.now += POLL;
            bench.watch.failed();
            assert!(!bench.watch.is_lost(0, bench.now) && !bench.watch.is_lost(1, bench.now));
        }
    }

    #[test]
    fn after_an_outage_no_generator_is_lost_for_three_seconds() {
        for gap in [Duration::ZERO, Duration::from_secs(10)] {
            let mut bench = Bench::settled();
            if gap.is_zero() {
                bench.watch.failed();
            }
            bench.now += gap;
            for poll in 0..10u64 {
                let calm = poll < 6;
                assert_eq!(bench.poll([Some(99), Some(100 + poll)]), [!calm, false], "{gap:?}, poll {poll}");
            }
        }
    }

    #[test]
    fn polls_just_within_the_outage_limit_continue_the_count() {
        let mut bench = Bench::settled();
        bench.poll([Some(10), Some(10)]);
        for beat in 11..14 {
            bench.now += Duration::from_secs(1);
            let [lost, other] = bench.poll([Some(10), Some(beat)]);
            assert_eq!((lost, other), (beat == 13, false));
        }
    }
}
