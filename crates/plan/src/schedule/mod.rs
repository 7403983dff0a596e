//! When sessions come and go and when queries are due, from a run's start: pure values, made once before the run.
//! They know no clock and no socket, and nothing that the system does moves them.

mod arrivals;
mod ramp;
mod spread;
mod stages;
mod steady;
pub mod trace;

pub use arrivals::{NoProcess, Process};
pub use spread::{NoSpread, Spread};
pub use stages::{NoStages, Stage, Stages};

use ramp::Ramp;
use std::time::Duration;

/// What the load follows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Model {
    /// A number of sessions; each sends its next query when the one before has ended.
    #[default]
    Closed,
    /// A number of sessions that changes over time.
    Staged,
    /// Sessions that arrive at a rate, whatever became of those before.
    OpenSessions,
    /// Queries that arrive at a rate, over sessions that were connected before.
    OpenQueries,
}

impl Model {
    /// Its name in the summary.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Staged => "staged",
            Self::OpenSessions => "open (sessions)",
            Self::OpenQueries => "open (queries)",
        }
    }

    /// The load does not wait for the system.
    #[must_use]
    pub const fn is_open(self) -> bool {
        matches!(self, Self::OpenSessions | Self::OpenQueries)
    }
}

/// A part of the schedule, over which its target changes linearly.
#[derive(Clone, Debug, PartialEq)]
pub struct Phase {
    /// What it is called in tables.
    pub name: String,
    /// From the start of the run.
    pub start: Duration,
    /// `None`: when the last session has sent its queries.
    pub end: Option<Duration>,
    /// The target at its start: sessions present, in open models arrivals a second.
    pub from: f64,
    /// The target at its end.
    pub target: f64,
}

/// A user's presence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Visit {
    /// When it comes.
    pub start: Duration,
    /// When it has to go, at the end of its query; `None`: when it has sent its queries.
    pub until: Option<Duration>,
    /// The length that each answer is to have.
    pub tokens: Option<u32>,
}

/// A query that is due whatever became of those before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// From the start of the run.
    pub at: Duration,
    /// The length that its answer is to have.
    pub tokens: Option<u32>,
}

#[derive(Clone, Debug)]
enum Visits {
    Even { ramp: Ramp, sessions: u64, until: Option<Duration> },
    Listed(Vec<Visit>),
}

/// The plan of a run.
#[derive(Clone, Debug)]
pub struct Schedule {
    model: Model,
    phases: Vec<Phase>,
    visits: Visits,
    arrivals: Vec<Arrival>,
    most: u64,
    /// The phases' targets are not what is scheduled from second to second.
    uneven: bool,
}

impl Default for Schedule {
    fn default() -> Self {
        Self::closed(0, Duration::ZERO, None)
    }
}

impl Schedule {
    /// `sessions` sessions that start evenly over `ramp_up`, and last until they have sent their queries, or until `duration`.
    #[must_use]
    pub fn closed(sessions: u64, ramp_up: Duration, duration: Option<Duration>) -> Self {
        let target = sessions as f64;
        let ramp_end = duration.map_or(ramp_up, |duration| ramp_up.min(duration));
        let mut phases = vec![Phase {
            name: "ramp-up".into(),
            start: Duration::ZERO,
            end: Some(ramp_end),
            from: 0.0,
            target,
        }];
        if duration.is_none_or(|duration| duration > ramp_end) {
            phases.push(Phase { name: "hold".into(), start: ramp_end, end: duration, from: target, target });
        }
        let visits = Visits::Even { ramp: Ramp::new(sessions, ramp_up), sessions, until: duration };
        Self { model: Model::Closed, phases, visits, arrivals: Vec::new(), most: sessions, uneven: false }
    }

    /// Sessions that follow the stages.
    #[must_use]
    pub fn staged(stages: &Stages) -> Self {
        let (mut start, mut from) = (Duration::ZERO, 0.0);
        let mut phases = Vec::new();
        for (number, stage) in stages.0.iter().enumerate() {
            let (end, target) = (start + stage.duration, stage.target as f64);
            let name = format!("stage {}", number + 1);
            phases.push(Phase { name, start, end: Some(end), from, target });
            (start, from) = (end, target);
        }
        let visits = Visits::Listed(stages.visits());
        Self {
            model: Model::Staged,
            phases,
            visits,
            arrivals: Vec::new(),
            most: stages.most(),
            uneven: false,
        }
    }

    /// A session at each of `arrivals`, over `duration`, at most `most` at once.
    #[must_use]
    pub fn open_sessions(arrivals: &[Arrival], duration: Duration, most: u64, uneven: bool) -> Self {
        let visit = |arrival: &Arrival| Visit { start: arrival.at, until: None, tokens: arrival.tokens };
        let visits = Visits::Listed(arrivals.iter().map(visit).collect());
        let phases = vec![arriving(arrivals.len(), Duration::ZERO, duration)];
        Self { model: Model::OpenSessions, phases, visits, arrivals: Vec::new(), most, uneven }
    }

    /// A query at each of `arrivals`, counted from the moment at which `sessions` sessions have had `ramp_up` to connect.
    #[must_use]
    pub fn open_queries(
        arrivals: Vec<Arrival>,
        duration: Duration,
        sessions: u64,
        ramp_up: Duration,
        uneven: bool,
    ) -> Self {
        let connect = Phase {
            name: "connect".into(),
            start: Duration::ZERO,
            end: Some(ramp_up),
            from: 0.0,
            target: 0.0,
        };
        let phases = vec![connect, arriving(arrivals.len(), ramp_up, duration)];
        // A tenth is kept for the last ones to connect.
        let visits = Visits::Even { ramp: Ramp::new(sessions, ramp_up.mul_f64(0.9)), sessions, until: None };
        let arrivals =
            arrivals.into_iter().map(|arrival| Arrival { at: arrival.at + ramp_up, ..arrival }).collect();
        Self { model: Model::OpenQueries, phases, visits, arrivals, most: sessions, uneven }
    }

    /// What the load follows.
    #[must_use]
    pub const fn model(&self) -> Model {
        self.model
    }

    /// Its parts, in order.
    #[must_use]
    pub fn phases(&self) -> &[Phase] {
        &self.phases
    }

    /// How many sessions come.
    #[must_use]
    pub fn sessions(&self) -> u64 {
        match &self.visits {
            Visits::Even { sessions, .. } => *sessions,
            Visits::Listed(visits) => visits.len() as u64,
        }
    }

    /// Sessions present at once, at most.
    #[must_use]
    pub const fn most_concurrent(&self) -> u64 {
        self.most
    }

    /// The presence of session `index`, from 0; a later one never starts before.
    #[must_use]
    pub fn visit(&self, index: u64) -> Visit {
        match &self.visits {
            Visits::Even { ramp, until, .. } => {
                Visit { start: ramp.start(index), until: *until, tokens: None }
            }
            Visits::Listed(visits) => {
                let last = Visit { start: Duration::MAX, until: None, tokens: None };
                usize::try_from(index).ok().and_then(|index| visits.get(index).copied()).unwrap_or(last)
            }
        }
    }

    /// The sessions of `worker` among `workers`, by index.
    pub fn share(&self, worker: usize, workers: usize) -> impl Iterator<Item = u64> + use<> {
        (worker as u64..self.sessions()).step_by(workers.max(1))
    }

    /// Queries that are due by themselves: of [`Model::OpenQueries`] alone.
    #[must_use]
    pub fn arrivals(&self) -> &[Arrival] {
        &self.arrivals
    }

    /// What arrives at a rate, in open models.
    #[must_use]
    pub fn offered(&self) -> Option<Offered> {
        let count = match self.model {
            Model::OpenSessions => self.sessions(),
            Model::OpenQueries => self.arrivals.len() as u64,
            Model::Closed | Model::Staged => return None,
        };
        let phase = self.phases.last()?;
        Some(Offered { count, start: phase.start, duration: phase.end?.saturating_sub(phase.start) })
    }

    /// When the last phase ends, where the schedule knows it.
    #[must_use]
    pub fn end(&self) -> Option<Duration> {
        self.phases.last().and_then(|phase| phase.end)
    }

    /// What is scheduled for second `second` of the run: sessions present at its end, in open models arrivals in it.
    #[must_use]
    pub fn target_in(&self, second: u64) -> f64 {
        let (start, end) = (Duration::from_secs(second), Duration::from_secs(second.saturating_add(1)));
        match (self.model, &self.visits) {
            (Model::OpenQueries, _) => count(&self.arrivals, start, end, |arrival| arrival.at),
            (Model::OpenSessions, Visits::Listed(visits)) => count(visits, start, end, |visit| visit.start),
            _ => self.target_at(end.saturating_sub(Duration::from_nanos(1))),
        }
    }

    fn target_at(&self, at: Duration) -> f64 {
        let phase =
            self.phases.iter().find(|phase| at >= phase.start && phase.end.is_none_or(|end| at < end));
        phase.map_or(0.0, |phase| match phase.end {
            None => phase.target,
            Some(end) => {
                let part = (at - phase.start).as_secs_f64() / (end - phase.start).as_secs_f64();
                phase.from + (phase.target - phase.from) * part
            }
        })
    }

    /// The longest time over which at least 95 % of the highest target is scheduled, in whole seconds;
    /// none under 10 s, or where the schedule does not know its own end.
    #[must_use]
    pub fn steady_window(&self) -> Option<(Duration, Duration)> {
        if self.uneven { None } else { steady::window(&self.phases) }
    }
}

/// What an open model offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offered {
    /// Arrivals.
    pub count: u64,
    /// When the first may come.
    pub start: Duration,
    /// Over so long.
    pub duration: Duration,
}

impl Offered {
    /// Arrivals a second.
    #[must_use]
    pub fn rate(&self) -> f64 {
        if self.duration.is_zero() { 0.0 } else { self.count as f64 / self.duration.as_secs_f64() }
    }
}

/// How many of `list`, which is sorted, are from `start` to before `end`.
fn count<T>(list: &[T], start: Duration, end: Duration, at: impl Fn(&T) -> Duration) -> f64 {
    let before = |moment| list.partition_point(|one| at(one) < moment);
    (before(end) - before(start)) as f64
}

fn arriving(count: usize, start: Duration, duration: Duration) -> Phase {
    let rate = if duration.is_zero() { 0.0 } else { count as f64 / duration.as_secs_f64() };
    Phase { name: "arrivals".into(), start, end: Some(start + duration), from: rate, target: rate }
}

#[cfg(test)]
mod tests;
