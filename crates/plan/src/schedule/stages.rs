//! A number of sessions that follows stages, `2m:100,3m:300,2m:0`: when each session starts and ends.
//! The session that started last ends first, so that early sessions last long. Nothing here reads a clock.

use super::times::SessionTimes;
use settings::duration;
use std::{fmt, str::FromStr, time::Duration};

/// Upper limit of the number of stages.
const MOST_STAGES: usize = 1_000;

/// A stage: the number of sessions changes linearly from the previous stage's target to `target`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stage {
    /// Length of the stage.
    pub duration: Duration,
    /// Open sessions at its end.
    pub target: u64,
}

/// Consecutive stages. The first one starts from 0 sessions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stages(pub Vec<Stage>);

/// A text that is not a list of stages.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "invalid stage `{0}`: expected DURATION:SESSIONS, separated by commas, for example 2m:100,5m:100,1m:0"
)]
pub struct InvalidStages(String);

impl FromStr for Stages {
    type Err = InvalidStages;

    fn from_str(text: &str) -> Result<Self, InvalidStages> {
        let stage = |part: &str| {
            let (duration, target) = part.split_once(':')?;
            Some(Stage { duration: duration::parse(duration)?, target: target.trim().parse().ok()? })
        };
        let stages: Result<Vec<_>, _> = text
            .split(',')
            .map(|part| stage(part).ok_or_else(|| InvalidStages(part.trim().to_owned())))
            .collect();
        stages.map(Self).and_then(|stages| {
            if stages.0.len() > MOST_STAGES {
                Err(InvalidStages(format!("number {}, of at most {MOST_STAGES}", MOST_STAGES + 1)))
            } else {
                Ok(stages)
            }
        })
    }
}

/// Writes the notation of the command line.
impl fmt::Display for Stages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, stage) in self.0.iter().enumerate() {
            let comma = if number > 0 { "," } else { "" };
            write!(f, "{comma}{}s:{}", stage.duration.as_secs_f64(), stage.target)?;
        }
        Ok(())
    }
}

impl Stages {
    /// Returns the highest target.
    #[must_use]
    pub fn most(&self) -> u64 {
        self.0.iter().map(|stage| stage.target).max().unwrap_or(0)
    }

    /// Returns the number of sessions that will start. Each rise consists of new sessions.
    #[must_use]
    pub fn session_count(&self) -> u64 {
        let targets = self.0.iter().map(|stage| stage.target);
        let before = std::iter::once(0).chain(targets.clone());
        before.zip(targets).fold(0, |sum, (from, to)| sum.saturating_add(to.saturating_sub(from)))
    }

    /// Returns the times of all sessions, sorted by start. At any time as many are open as the stages define, rounded up.
    #[must_use]
    pub fn sessions(&self) -> Vec<SessionTimes> {
        let mut list = SessionList::default();
        let mut start = Duration::ZERO;
        for stage in &self.0 {
            list.change(start, stage);
            start += stage.duration;
        }
        list.ended_at(start)
    }
}

/// A list of sessions that grows stage by stage.
#[derive(Debug, Default)]
pub(super) struct SessionList {
    sessions: Vec<SessionTimes>,
    /// The open sessions as a stack: the one that started last ends first.
    open: Vec<usize>,
}

impl SessionList {
    /// Returns the sessions that start before `at`. Those that would end later have no end any more.
    pub(super) fn before(at: Duration, sessions: impl Iterator<Item = SessionTimes>) -> Self {
        let mut list = Self::default();
        for mut session in sessions.take_while(|session| session.start < at) {
            if session.until.is_none_or(|until| until > at) {
                session.until = None;
                list.open.push(list.sessions.len());
            }
            list.sessions.push(session);
        }
        list
    }

    /// Returns the number of sessions, open or ended.
    pub(super) const fn len(&self) -> usize {
        self.sessions.len()
    }

    /// Returns the number of open sessions.
    pub(super) const fn open(&self) -> usize {
        self.open.len()
    }

    /// Adds a stage that begins at `start`: opens sessions, or ends those that started last.
    pub(super) fn change(&mut self, start: Duration, stage: &Stage) {
        let from = self.open.len() as u64;
        let steps = stage.target.abs_diff(from);
        let moment = |step: u64| {
            let nanos = stage.duration.as_nanos() * u128::from(step) / u128::from(steps.max(1));
            start + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
        };
        for step in 0..steps {
            if stage.target > from {
                self.open.push(self.sessions.len());
                self.sessions.push(SessionTimes { start: moment(step), until: None, tokens: None });
            } else if let Some(ending) = self.open.pop() {
                self.sessions[ending].until = Some(moment(step + 1));
            }
        }
    }

    /// Returns all sessions. The open ones end at `end`.
    pub(super) fn ended_at(mut self, end: Duration) -> Vec<SessionTimes> {
        for index in self.open {
            self.sessions[index].until = Some(end);
        }
        self.sessions
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn stages(text: &str) -> Stages {
        text.parse().unwrap()
    }

    #[test]
    fn texts() {
        let stage = |seconds, target| Stage { duration: Duration::from_secs(seconds), target };
        assert_eq!(stages("2m:100, 90s:0").0, [stage(120, 100), stage(90, 0)]);
        for bad in ["", "2m", "2m:-1", "x:5", "2m:5,", ":"] {
            assert!(bad.parse::<Stages>().is_err(), "{bad}");
        }
    }

    #[test]
    fn the_session_that_started_last_ends_first() {
        let sessions = stages("10s:2,10s:2,10s:0").sessions();
        let seconds: Vec<_> = sessions
            .iter()
            .map(|session| (session.start.as_secs(), session.until.unwrap().as_secs()))
            .collect();
        assert_eq!(seconds, [(0, 30), (5, 25)]);
        let at_once = stages("0s:3,7s:3").sessions();
        assert!(
            at_once.iter().all(|session| session.start.is_zero() && session.until.unwrap().as_secs() == 7)
        );
    }

    proptest! {
        #[test]
        fn the_number_of_open_sessions_follows_the_stages(list in prop::collection::vec((0u64..300, 0u64..200), 1..8), at in 0.0f64..1.0) {
            let stages = Stages(list.iter().map(|&(s, target)| Stage { duration: Duration::from_secs(s), target }).collect());
            let sessions = stages.sessions();
            prop_assert_eq!(sessions.len() as u64, stages.session_count());
            prop_assert!(sessions.is_sorted_by_key(|session| session.start));
            prop_assert!(sessions.iter().all(|session| session.until.is_some_and(|until| until >= session.start)));
            let total: u64 = list.iter().map(|(s, _)| s).sum();
            let at = total as f64 * at;
            let (mut start, mut from, mut wanted) = (0.0, 0.0, 0.0);
            for &(seconds, target) in &list {
                let seconds = seconds as f64;
                if at >= start && at < start + seconds {
                    wanted = from + (target as f64 - from) * (at - start) / seconds;
                }
                (start, from) = (start + seconds, target as f64);
            }
            let at = Duration::from_secs_f64(at);
            let present = sessions.iter().filter(|session| session.start <= at && session.until.is_some_and(|until| at < until)).count();
            prop_assert!((present as f64 - wanted).abs() <= 1.001, "{} of {}", present, wanted);
        }
    }
}
