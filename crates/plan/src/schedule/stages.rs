//! Sessions that follow a piecewise linear ramp, `2m:100,3m:300,2m:0`: who comes when, and who has to go when.
//! Whoever came last goes first, so a long stay stays long; it knows no clock and no session.

use super::Visit;
use settings::span;
use std::{str::FromStr, time::Duration};

/// More stages than a person writes.
const MOST_STAGES: usize = 1_000;

/// From the target before it, linearly to `target` within `duration`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stage {
    /// How long.
    pub duration: Duration,
    /// Sessions present at its end.
    pub target: u64,
}

/// Stages, one after the other, from nobody present.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stages(pub Vec<Stage>);

/// A text that is no list of stages.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no stage: give TIME:SESSIONS, separated by commas, as 2m:100,5m:100,1m:0")]
pub struct NoStages(String);

impl FromStr for Stages {
    type Err = NoStages;

    fn from_str(text: &str) -> Result<Self, NoStages> {
        let stage = |part: &str| {
            let (duration, target) = part.split_once(':')?;
            Some(Stage { duration: span::parse(duration)?, target: target.trim().parse().ok()? })
        };
        let stages: Result<Vec<_>, _> =
            text.split(',').map(|part| stage(part).ok_or_else(|| NoStages(part.trim().to_owned()))).collect();
        stages.map(Self).and_then(|stages| {
            if stages.0.len() > MOST_STAGES {
                Err(NoStages(format!("more than {MOST_STAGES} of them")))
            } else {
                Ok(stages)
            }
        })
    }
}

impl Stages {
    /// The highest target.
    #[must_use]
    pub fn most(&self) -> u64 {
        self.0.iter().map(|stage| stage.target).max().unwrap_or(0)
    }

    /// How many visits there will be: each rise is made of new ones.
    #[must_use]
    pub fn visits_count(&self) -> u64 {
        let targets = self.0.iter().map(|stage| stage.target);
        let before = std::iter::once(0).chain(targets.clone());
        before.zip(targets).fold(0, |sum, (from, to)| sum.saturating_add(to.saturating_sub(from)))
    }

    /// The visits, by their beginning. At any moment as many are present as the ramp says, rounded up.
    #[must_use]
    pub fn visits(&self) -> Vec<Visit> {
        let mut visits: Vec<Visit> = Vec::new();
        let mut present: Vec<usize> = Vec::new();
        let (mut start, mut from) = (Duration::ZERO, 0);
        for stage in &self.0 {
            let steps = stage.target.abs_diff(from);
            let moment = |step: u64| {
                let nanos = stage.duration.as_nanos() * u128::from(step) / u128::from(steps.max(1));
                start + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
            };
            for step in 0..steps {
                if stage.target > from {
                    present.push(visits.len());
                    visits.push(Visit { start: moment(step), until: None, tokens: None });
                } else if let Some(leaving) = present.pop() {
                    visits[leaving].until = Some(moment(step + 1));
                }
            }
            (start, from) = (start + stage.duration, stage.target);
        }
        for staying in present {
            visits[staying].until = Some(start);
        }
        visits
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
    fn who_came_last_goes_first() {
        let visits = stages("10s:2,10s:2,10s:0").visits();
        let seconds: Vec<_> =
            visits.iter().map(|visit| (visit.start.as_secs(), visit.until.unwrap().as_secs())).collect();
        assert_eq!(seconds, [(0, 30), (5, 25)]);
        let at_once = stages("0s:3,7s:3").visits();
        assert!(at_once.iter().all(|visit| visit.start.is_zero() && visit.until.unwrap().as_secs() == 7));
    }

    proptest! {
        #[test]
        fn presence_follows_the_ramp(list in prop::collection::vec((0u64..300, 0u64..200), 1..8), at in 0.0f64..1.0) {
            let stages = Stages(list.iter().map(|&(s, target)| Stage { duration: Duration::from_secs(s), target }).collect());
            let visits = stages.visits();
            prop_assert_eq!(visits.len() as u64, stages.visits_count());
            prop_assert!(visits.is_sorted_by_key(|visit| visit.start));
            prop_assert!(visits.iter().all(|visit| visit.until.is_some_and(|until| until >= visit.start)));
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
            let present = visits.iter().filter(|visit| visit.start <= at && visit.until.is_some_and(|until| at < until)).count();
            prop_assert!((present as f64 - wanted).abs() <= 1.001, "{} of {}", present, wanted);
        }
    }
}
