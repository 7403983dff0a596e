//! Draws when a session misbehaves on purpose: when it cuts its socket, pauses reading, or connects late.
//! All draws depend only on the run's seed and the session's index. Nothing here touches a socket.

use crate::workload::{Behaviour, Load};
use rand::{RngExt, SeedableRng, rngs::SmallRng};
use std::time::Duration;

/// A pause starts within this part of a query's ideal duration. A later pause would often start after the query's end.
const LATEST_PAUSE: f64 = 0.8;
/// A session without a fixed number of queries pauses in one of its first three.
const PAUSE_WITHIN: u32 = 3;
/// The assumed duration of a query whose server states no ideal duration.
const ASSUMED_DURATION: Duration = Duration::from_secs(1);

/// The drawn behaviour of one session.
#[derive(Debug)]
pub struct SessionBehaviour {
    random: SmallRng,
    cuts_per_second: f64,
    pause: Option<PlannedPause>,
    late: Option<(Duration, Duration)>,
    resumes: bool,
}

/// The one pause in reading that a session makes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PlannedPause {
    /// The number of the query during which the session pauses, from 1.
    pub query: u32,
    /// The start of the pause as a part of the query's ideal duration, 0 to 0.8.
    pub at: f64,
    /// The length of the pause.
    pub duration: Duration,
}

impl PlannedPause {
    /// Returns the time from the sending of the query to the pause. `ideal` is the query's ideal duration, if the server
    /// states one.
    #[must_use]
    pub fn after(&self, ideal: Option<Duration>) -> Duration {
        ideal.unwrap_or(ASSUMED_DURATION).mul_f64(self.at)
    }
}

impl SessionBehaviour {
    /// Draws the behaviour of session `index`. Equal seeds and indices give equal draws.
    #[must_use]
    pub fn draw(behaviour: &Behaviour, load: &Load, index: u64) -> Self {
        let mut random =
            SmallRng::seed_from_u64(load.seed.rotate_left(32) ^ index.wrapping_mul(0xD1B5_4A32_D192_ED03));
        let pause = behaviour
            .pause
            .filter(|pause| is_chosen(index, load.clients, pause.count(load.clients), load.seed));
        let pause = pause.map(|pause| PlannedPause {
            query: random.random_range(1..=load.queries.unwrap_or(PAUSE_WITHIN)),
            at: random.random_range(0.0..LATEST_PAUSE),
            duration: pause.duration,
        });
        let resumes = behaviour.resume && behaviour.late_connect.is_none();
        Self { random, cuts_per_second: behaviour.drop_rate, pause, late: behaviour.late_connect, resumes }
    }

    /// Draws the time from a socket's opening to its cut. `None` if this run cuts no sockets.
    ///
    /// The times are exponential: only then is the same share of the open sockets cut in each second, whatever their age.
    pub fn next_cut(&mut self) -> Option<Duration> {
        if self.cuts_per_second <= 0.0 {
            return None;
        }
        let drawn: f64 = self.random.random();
        Duration::try_from_secs_f64(-(1.0 - drawn).ln() / self.cuts_per_second).ok()
    }

    /// Returns the session's pause in reading, if it makes one.
    #[must_use]
    pub const fn pause(&self) -> Option<PlannedPause> {
        self.pause
    }

    /// Returns whether the session opens one socket per query, after it submitted the query, as clients of the old contract do.
    #[must_use]
    pub const fn connects_late(&self) -> bool {
        self.late.is_some()
    }

    /// Draws the time from the next query's submission to the opening of its socket. `None` if the session connects first.
    pub fn next_connect_delay(&mut self) -> Option<Duration> {
        let (least, most) = self.late?;
        Some(least + (most - least).mul_f64(self.random.random()))
    }

    /// Returns whether the session names its last position when it reconnects.
    #[must_use]
    pub const fn resumes(&self) -> bool {
        self.resumes
    }
}

/// Returns whether session `index` is one of the `wanted` sessions out of `all`. They are exactly `wanted`, evenly spread;
/// the seed decides where they start.
fn is_chosen(index: u64, all: u64, wanted: u64, seed: u64) -> bool {
    let (all, wanted) = (u128::from(all.max(1)), u128::from(wanted));
    let place = (u128::from(index) + u128::from(seed)) % all;
    (place + 1) * wanted / all > place * wanted / all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::{ReadingPause, Selection};

    const QUIET: Behaviour = Behaviour { drop_rate: 0.0, pause: None, late_connect: None, resume: true };

    fn load() -> Load {
        Load {
            clients: 1000,
            queries: Some(4),
            ramp_up: Duration::ZERO,
            burst: false,
            query_timeout: None,
            stall_limit: Duration::from_millis(250),
            grace: Duration::ZERO,
            workers: 1,
            seed: 7,
        }
    }

    fn drawn(behaviour: &Behaviour, index: u64) -> SessionBehaviour {
        SessionBehaviour::draw(behaviour, &load(), index)
    }

    #[test]
    fn the_wanted_number_of_sessions_is_chosen() {
        for (all, wanted, seed) in [(1000, 50, 7), (7, 3, u64::MAX), (10, 10, 1), (10, 0, 1), (1, 1, 9)] {
            let chosen = (0..all).filter(|&index| is_chosen(index, all, wanted, seed)).count() as u64;
            assert_eq!(chosen, wanted, "{wanted} of {all}");
        }
    }

    #[test]
    fn cuts_come_at_the_configured_rate() {
        let config = Behaviour { drop_rate: 0.1, ..QUIET };
        let mean =
            (0..1000).map(|index| drawn(&config, index).next_cut().unwrap().as_secs_f64()).sum::<f64>() / 1e3;
        assert!((9.0..11.0).contains(&mean), "{mean} s between cuts, expected 10 s");
        let draw = || {
            let mut session = drawn(&config, 3);
            [session.next_cut(), session.next_cut()]
        };
        assert_eq!(draw(), draw());
    }

    #[test]
    fn a_pause_lies_inside_a_query() {
        let pause = ReadingPause { sessions: Selection::Share(0.05), duration: Duration::from_secs(10) };
        let config = Behaviour { pause: Some(pause), ..QUIET };
        let pauses: Vec<_> = (0..1000).filter_map(|index| drawn(&config, index).pause()).collect();
        assert_eq!(pauses.len(), 50);
        for pause in pauses {
            assert!((1..=4).contains(&pause.query) && pause.at < LATEST_PAUSE);
            assert_eq!(pause.duration, Duration::from_secs(10));
            assert!(pause.after(Some(Duration::from_secs(9))) < Duration::from_secs(8));
        }
    }

    #[test]
    fn without_configured_behaviour_nothing_is_drawn() {
        let mut plain = drawn(&QUIET, 1);
        assert_eq!((plain.next_cut(), plain.pause(), plain.next_connect_delay()), (None, None, None));
        assert!(plain.resumes() && !plain.connects_late());
        let range = (Duration::from_secs(1), Duration::from_secs(2));
        let mut late = drawn(&Behaviour { late_connect: Some(range), ..QUIET }, 1);
        assert!((1.0..2.0).contains(&late.next_connect_delay().unwrap().as_secs_f64()));
        assert!(!late.resumes() && late.connects_late());
    }
}
