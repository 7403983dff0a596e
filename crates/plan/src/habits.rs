//! What a session does of its own accord to make a gateway's life hard: it cuts its socket, stops reading, comes late.
//! It only draws the moments, from the run's seed and the session's number; it touches no socket.

use crate::{Behaviour, Load};
use rand::{RngExt, SeedableRng, rngs::SmallRng};
use std::time::Duration;

/// A pause may not begin in the last part of a query: it would often be over before.
const LATEST_PAUSE: f64 = 0.8;
/// A session without a number of queries pauses in one of its first.
const PAUSE_WITHIN: u32 = 3;
/// Taken for a query's length where the server names no ideal.
const BLIND_LENGTH: Duration = Duration::from_secs(1);

/// One session's habits.
#[derive(Debug)]
pub struct Habits {
    random: SmallRng,
    cuts_a_second: f64,
    pause: Option<Pause>,
    late: Option<(Duration, Duration)>,
    resumes: bool,
}

/// Once, the session stops reading for a while.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pause {
    /// In which of its queries, from 1.
    pub query: u32,
    /// At which part of the query's ideal duration.
    pub at: f64,
    /// For how long.
    pub length: Duration,
}

impl Pause {
    /// From the query's sending to the pause, when the query ideally lasts `ideal`.
    #[must_use]
    pub fn after(&self, ideal: Option<Duration>) -> Duration {
        ideal.unwrap_or(BLIND_LENGTH).mul_f64(self.at)
    }
}

impl Habits {
    /// The habits of session `index`.
    #[must_use]
    pub fn of(habits: &Behaviour, load: &Load, index: u64) -> Self {
        let mut random =
            SmallRng::seed_from_u64(load.seed.rotate_left(32) ^ index.wrapping_mul(0xD1B5_4A32_D192_ED03));
        let pause = habits
            .stall
            .filter(|stall| is_chosen(index, load.clients, stall.sessions(load.clients), load.seed));
        let pause = pause.map(|stall| Pause {
            query: random.random_range(1..=load.queries.unwrap_or(PAUSE_WITHIN)),
            at: random.random_range(0.0..LATEST_PAUSE),
            length: stall.time,
        });
        let resumes = habits.resume && habits.late_connect.is_none();
        Self { random, cuts_a_second: habits.drop_rate, pause, late: habits.late_connect, resumes }
    }

    /// From a socket's opening to its cut: an exponential time, so that a fixed share of all open sockets is cut a second.
    pub fn next_cut(&mut self) -> Option<Duration> {
        if self.cuts_a_second <= 0.0 {
            return None;
        }
        let drawn: f64 = self.random.random();
        Duration::try_from_secs_f64(-(1.0 - drawn).ln() / self.cuts_a_second).ok()
    }

    /// The session's one pause.
    #[must_use]
    pub const fn pause(&self) -> Option<Pause> {
        self.pause
    }

    /// A client of the old contract: a socket a query, opened after the query was submitted.
    #[must_use]
    pub const fn is_late(&self) -> bool {
        self.late.is_some()
    }

    /// How long after its submission the next query's socket is opened.
    pub fn lateness(&mut self) -> Option<Duration> {
        let (least, most) = self.late?;
        Some(least + (most - least).mul_f64(self.random.random()))
    }

    /// Names the last position when it reconnects.
    #[must_use]
    pub const fn resumes(&self) -> bool {
        self.resumes
    }
}

/// Exactly `wanted` of `all` sessions, spread evenly, beginning where the seed says.
fn is_chosen(index: u64, all: u64, wanted: u64, seed: u64) -> bool {
    let (all, wanted) = (u128::from(all.max(1)), u128::from(wanted));
    let place = (u128::from(index) + u128::from(seed)) % all;
    (place + 1) * wanted / all > place * wanted / all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Stall, Who};

    const QUIET: Behaviour = Behaviour { drop_rate: 0.0, stall: None, late_connect: None, resume: true };

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

    fn habits(behaviour: &Behaviour, index: u64) -> Habits {
        Habits::of(behaviour, &load(), index)
    }

    #[test]
    fn as_many_are_chosen_as_were_asked_for() {
        for (all, wanted, seed) in [(1000, 50, 7), (7, 3, u64::MAX), (10, 10, 1), (10, 0, 1), (1, 1, 9)] {
            let chosen = (0..all).filter(|&index| is_chosen(index, all, wanted, seed)).count() as u64;
            assert_eq!(chosen, wanted, "{wanted} of {all}");
        }
    }

    #[test]
    fn cuts_come_at_the_rate_that_was_asked_for() {
        let config = Behaviour { drop_rate: 0.1, ..QUIET };
        let mean =
            (0..1000).map(|index| habits(&config, index).next_cut().unwrap().as_secs_f64()).sum::<f64>()
                / 1e3;
        assert!((9.0..11.0).contains(&mean), "{mean} s between cuts where 10 were asked for");
        let draw = || {
            let mut habits = habits(&config, 3);
            [habits.next_cut(), habits.next_cut()]
        };
        assert_eq!(draw(), draw());
    }

    #[test]
    fn a_pause_lies_inside_a_query() {
        let stall = Stall { who: Who::Share(0.05), time: Duration::from_secs(10) };
        let config = Behaviour { stall: Some(stall), ..QUIET };
        let pauses: Vec<_> = (0..1000).filter_map(|index| habits(&config, index).pause()).collect();
        assert_eq!(pauses.len(), 50);
        for pause in pauses {
            assert!((1..=4).contains(&pause.query) && pause.at < LATEST_PAUSE);
            assert_eq!(pause.length, Duration::from_secs(10));
            assert!(pause.after(Some(Duration::from_secs(9))) < Duration::from_secs(8));
        }
    }

    #[test]
    fn who_has_no_habits_does_nothing_of_its_own() {
        let mut plain = habits(&QUIET, 1);
        assert_eq!((plain.next_cut(), plain.pause(), plain.lateness()), (None, None, None));
        assert!(plain.resumes() && !plain.is_late());
        let range = (Duration::from_secs(1), Duration::from_secs(2));
        let mut late = habits(&Behaviour { late_connect: Some(range), ..QUIET }, 1);
        assert!((1.0..2.0).contains(&late.lateness().unwrap().as_secs_f64()));
        assert!(!late.resumes() && late.is_late());
    }
}
