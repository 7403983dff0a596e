//! When sessions start and end and when queries are due, counted from the run's start.
//! A schedule is computed once before the run. Nothing that the system under test does can change it.

mod arrivals;
mod ramp;
mod stages;
mod steady;
mod times;
pub mod trace;

pub use arrivals::{InvalidProcess, Process};
pub use stages::{InvalidStages, Stage, Stages};
pub use times::{Arrival, Phase, SessionTimes};

use crate::shard::Shard;
use ramp::Ramp;
use std::time::Duration;

/// The workload model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Model {
    /// A fixed number of sessions. Each sends its next query after the previous one has ended.
    #[default]
    Closed,
    /// A number of sessions that changes over time. Each sends its next query after the previous one has ended.
    Staged,
    /// Sessions arrive at a rate, whether or not earlier ones have ended.
    OpenSessions,
    /// Queries arrive at a rate and use sessions that connected earlier.
    OpenQueries,
}

impl Model {
    /// Returns the model's name in the summary.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Staged => "staged",
            Self::OpenSessions => "open (sessions)",
            Self::OpenQueries => "open (queries)",
        }
    }

    /// Returns whether the load does not wait for the system under test.
    #[must_use]
    pub const fn is_open(self) -> bool {
        matches!(self, Self::OpenSessions | Self::OpenQueries)
    }
}

/// The times of all sessions. The even form costs no memory per session.
#[derive(Clone, Debug)]
enum Sessions {
    Even { ramp: Ramp, sessions: u64, until: Option<Duration> },
    Listed(Vec<SessionTimes>),
}

/// When the sessions of a run start and end, and when its queries are due: of the whole run, or of one generator's part of it.
/// Sessions keep their index in the whole run.
#[derive(Clone, Debug)]
pub struct Schedule {
    model: Model,
    phases: Vec<Phase>,
    /// All sessions of the run. Those of the shard are played.
    sessions: Sessions,
    shard: Shard,
    /// The arrivals of the shard.
    arrivals: Vec<Arrival>,
    /// Upper limit of open sessions at a time, in the shard.
    most: u64,
    /// Arrivals vary within a phase, so that its target does not describe each of its seconds.
    uneven: bool,
}

impl Default for Schedule {
    fn default() -> Self {
        Self::closed(0, Duration::ZERO, None)
    }
}

impl Schedule {
    /// Returns the schedule of `sessions` sessions that start evenly over `ramp_up`. They end after their last query, or
    /// `duration` after the start of the run.
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
        let times = Sessions::Even { ramp: Ramp::new(sessions, ramp_up), sessions, until: duration };
        Self {
            model: Model::Closed,
            phases,
            sessions: times,
            shard: Shard::WHOLE,
            arrivals: Vec::new(),
            most: sessions,
            uneven: false,
        }
    }

    /// Returns the schedule of sessions whose number follows the stages.
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
        let sessions = Sessions::Listed(stages.sessions());
        Self {
            model: Model::Staged,
            phases,
            sessions,
            shard: Shard::WHOLE,
            arrivals: Vec::new(),
            most: stages.most(),
            uneven: false,
        }
    }

    /// Returns the schedule of one session per arrival during `duration`, at most `most` at a time. `uneven`: the arrivals are
    /// not at a constant rate.
    #[must_use]
    pub fn open_sessions(arrivals: &[Arrival], duration: Duration, most: u64, uneven: bool) -> Self {
        let session =
            |arrival: &Arrival| SessionTimes { start: arrival.at, until: None, tokens: arrival.tokens };
        let sessions = Sessions::Listed(arrivals.iter().map(session).collect());
        let phases = vec![arriving(arrivals.len(), Duration::ZERO, duration)];
        let shard = Shard::WHOLE;
        Self { model: Model::OpenSessions, phases, sessions, shard, arrivals: Vec::new(), most, uneven }
    }

    /// Returns the schedule of one query per arrival, sent over `sessions` sessions. The arrivals count from the end of
    /// `ramp_up`, within which all sessions connect. `uneven`: the arrivals are not at a constant rate.
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
        // The sessions start within the first nine tenths, so that the last ones have time to connect.
        let times = Sessions::Even { ramp: Ramp::new(sessions, ramp_up.mul_f64(0.9)), sessions, until: None };
        let arrivals =
            arrivals.into_iter().map(|arrival| Arrival { at: arrival.at + ramp_up, ..arrival }).collect();
        let shard = Shard::WHOLE;
        Self { model: Model::OpenQueries, phases, sessions: times, shard, arrivals, most: sessions, uneven }
    }

    /// Returns the part of a whole schedule that one generator plays. The schedules of all shards together are the whole one.
    #[must_use]
    pub fn part(&self, shard: Shard) -> Self {
        let share = 1.0 / f64::from(shard.count());
        let smaller =
            |phase: &Phase| Phase { from: phase.from * share, target: phase.target * share, ..phase.clone() };
        let arrivals = shard.numbers(self.arrivals.len() as u64, 0, 1);
        Self {
            model: self.model,
            phases: self.phases.iter().map(smaller).collect(),
            sessions: self.sessions.clone(),
            shard,
            arrivals: arrivals.map(|number| self.arrivals[number as usize]).collect(),
            most: shard.size(self.most),
            uneven: self.uneven,
        }
    }

    /// Returns the generator's part of the run that this schedule describes.
    #[must_use]
    pub const fn shard(&self) -> Shard {
        self.shard
    }

    /// Returns the workload model.
    #[must_use]
    pub const fn model(&self) -> Model {
        self.model
    }

    /// Returns the phases in order.
    #[must_use]
    pub fn phases(&self) -> &[Phase] {
        &self.phases
    }

    /// Returns the number of sessions of the whole run.
    #[must_use]
    pub fn all_sessions(&self) -> u64 {
        match &self.sessions {
            Sessions::Even { sessions, .. } => *sessions,
            Sessions::Listed(sessions) => sessions.len() as u64,
        }
    }

    /// Returns the number of sessions.
    #[must_use]
    pub fn sessions(&self) -> u64 {
        self.shard.size(self.all_sessions())
    }

    /// Returns the upper limit of open sessions at a time.
    #[must_use]
    pub const fn most_concurrent(&self) -> u64 {
        self.most
    }

    /// Returns the times of session `index` of the whole run, from 0. Sessions are sorted by their start.
    #[must_use]
    pub fn session(&self, index: u64) -> SessionTimes {
        match &self.sessions {
            Sessions::Even { ramp, until, .. } => {
                SessionTimes { start: ramp.start(index), until: *until, tokens: None }
            }
            Sessions::Listed(sessions) => {
                let last = SessionTimes { start: Duration::MAX, until: None, tokens: None };
                usize::try_from(index).ok().and_then(|index| sessions.get(index).copied()).unwrap_or(last)
            }
        }
    }

    /// Returns the indices of the sessions that worker `worker` (from 0) of `workers` runs.
    pub fn share(&self, worker: usize, workers: usize) -> impl Iterator<Item = u64> + use<> {
        self.shard.numbers(self.all_sessions(), worker, workers)
    }

    /// Returns the arrivals of queries in order. Empty in every model except [`Model::OpenQueries`].
    #[must_use]
    pub fn arrivals(&self) -> &[Arrival] {
        &self.arrivals
    }

    /// Returns the offered load of an open model.
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

    /// Returns when the last phase ends. `None` if that depends on the system under test.
    #[must_use]
    pub fn end(&self) -> Option<Duration> {
        self.phases.last().and_then(|phase| phase.end)
    }

    /// Returns the target for second `second` (from 0) of the run: sessions open at its end, in open models arrivals in it.
    #[must_use]
    pub fn target_in(&self, second: u64) -> f64 {
        let (start, end) = (Duration::from_secs(second), Duration::from_secs(second.saturating_add(1)));
        match (self.model, &self.sessions) {
            (Model::OpenQueries, _) => count(Shard::WHOLE, &self.arrivals, start, end, |arrival| arrival.at),
            (Model::OpenSessions, Sessions::Listed(sessions)) => {
                count(self.shard, sessions, start, end, |session| session.start)
            }
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

    /// Returns the start and end of the longest time during which at least 95 % of the highest target is scheduled, in whole
    /// seconds. `None` if it is shorter than 10 s, or if its end depends on the system under test.
    #[must_use]
    pub fn steady_window(&self) -> Option<(Duration, Duration)> {
        if self.uneven { None } else { steady::window(&self.phases) }
    }
}

/// The load that an open model offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offered {
    /// Number of arrivals.
    pub count: u64,
    /// Start of the arrivals, counted from the start of the run.
    pub start: Duration,
    /// Time from `start` during which arrivals come.
    pub duration: Duration,
}

impl Offered {
    /// Returns the arrivals per second.
    #[must_use]
    pub fn rate(&self) -> f64 {
        if self.duration.is_zero() { 0.0 } else { self.count as f64 / self.duration.as_secs_f64() }
    }
}

/// Returns how many elements of the sorted `list` belong to the shard, and are at or after `start` and before `end`.
fn count<T>(shard: Shard, list: &[T], start: Duration, end: Duration, at: impl Fn(&T) -> Duration) -> f64 {
    let before = |moment| shard.size(list.partition_point(|one| at(one) < moment) as u64);
    (before(end) - before(start)) as f64
}

/// Returns the phase of `count` arrivals.
fn arriving(count: usize, start: Duration, duration: Duration) -> Phase {
    let rate = if duration.is_zero() { 0.0 } else { count as f64 / duration.as_secs_f64() };
    Phase { name: "arrivals".into(), start, end: Some(start + duration), from: rate, target: rate }
}

#[cfg(test)]
mod tests;
