//! When sessions start and end and when queries are due, counted from the run's start.
//! A schedule is computed once before the run. Nothing that the system under test does can change it.

mod amendment;
mod arrivals;
mod ramp;
mod stages;
mod steady;
mod times;
pub mod trace;

pub use amendment::{AmendError, Amendment, Change, MAX_AMENDMENTS, MAX_PLANNED, SHORTEST_TRANSITION};
pub use arrivals::{ArrivalSource, InvalidProcess, Process};
pub use stages::{InvalidStages, Stage, Stages};
pub use times::{Arrival, Phase, SessionTimes};

use crate::shard::Shard;
use ramp::Ramp;
use stages::SessionList;
use std::time::Duration;
use steady::Plateau;

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
    /// Where the arrivals of an open model come from.
    source: ArrivalSource,
    /// Changes during the run, in order.
    amendments: Vec<Amendment>,
    /// The first phase that does not belong to an amended part of the plan.
    planned_from: usize,
    /// Steady states of the parts of the plan that were amended.
    earlier_plateaus: Vec<Plateau>,
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
        Self::new(Model::Closed, phases, times, sessions)
    }

    /// Creates a whole schedule without arrivals of queries.
    const fn new(model: Model, phases: Vec<Phase>, sessions: Sessions, most: u64) -> Self {
        Self {
            model,
            phases,
            sessions,
            shard: Shard::WHOLE,
            arrivals: Vec::new(),
            most,
            source: ArrivalSource::Listed,
            amendments: Vec::new(),
            planned_from: 0,
            earlier_plateaus: Vec::new(),
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
        Self::new(Model::Staged, phases, Sessions::Listed(stages.sessions()), stages.most())
    }

    /// Returns the schedule of one session per arrival during `duration`, at most `most` at a time.
    #[must_use]
    pub fn open_sessions(arrivals: &[Arrival], duration: Duration, most: u64, source: ArrivalSource) -> Self {
        let sessions = Sessions::Listed(arrivals.iter().map(SessionTimes::arriving).collect());
        let phases = vec![arriving(arrivals.len(), Duration::ZERO, duration)];
        Self { source, ..Self::new(Model::OpenSessions, phases, sessions, most) }
    }

    /// Returns the schedule of one query per arrival, sent over `sessions` sessions. The arrivals count from the end of
    /// `ramp_up`, within which all sessions connect.
    #[must_use]
    pub fn open_queries(
        arrivals: Vec<Arrival>,
        duration: Duration,
        sessions: u64,
        ramp_up: Duration,
        source: ArrivalSource,
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
        Self { arrivals, source, ..Self::new(Model::OpenQueries, phases, times, sessions) }
    }

    /// Returns a whole schedule with one more change. What is planned before the change stays as it is. After it, a closed model
    /// has the given number of sessions until its end, and an open model arrivals at the given rate.
    ///
    /// # Errors
    /// The change is not possible in this model or at this time.
    pub fn amended(&self, amendment: Amendment) -> Result<Self, AmendError> {
        match (self.model.is_open(), amendment.change) {
            (true, _) if self.source == ArrivalSource::Listed => return Err(AmendError::Trace),
            (true, Change::Clients(_)) => return Err(AmendError::NeedsRate),
            (false, Change::ArrivalRate(_)) => return Err(AmendError::NeedsClients),
            _ => {}
        }
        let connected = self.phases.first().and_then(|phase| phase.end).unwrap_or_default();
        if self.model == Model::OpenQueries && amendment.at() < connected {
            return Err(AmendError::TooEarly { connected_s: connected.as_secs_f64() });
        }
        let end = self.end().ok_or(AmendError::NoEnd)?;
        let (at, complete) = (amendment.at(), amendment.complete_at());
        if complete > end {
            let (end_s, complete_s) = (end.as_secs_f64(), complete.as_secs_f64());
            return Err(AmendError::TooLate { end_s, complete_s });
        }
        if let Some(earlier) = self.amendments.last().filter(|earlier| earlier.at() >= at) {
            return Err(AmendError::OutOfOrder { at_s: earlier.at_s });
        }
        if self.amendments.len() >= MAX_AMENDMENTS {
            return Err(AmendError::TooMany);
        }
        let mut amended = self.clone();
        let (from, target) = match amendment.change {
            Change::Clients(clients) => amended.change_sessions(amendment, clients, end)?,
            Change::ArrivalRate(rate) => amended.change_rate(amendment, rate, end)?,
        };
        amended.replace_phases(amendment, (from, target), end);
        amended.amendments.push(amendment);
        Ok(amended)
    }

    /// Changes the number of sessions. Returns it before and after the change.
    fn change_sessions(
        &mut self,
        amendment: Amendment,
        clients: u64,
        end: Duration,
    ) -> Result<(f64, f64), AmendError> {
        let (at, duration) = (amendment.at(), amendment.complete_at() - amendment.at());
        let all = (0..self.all_sessions()).map(|index| self.session(index));
        let mut list = SessionList::before(at, all);
        let from = list.open();
        let planned = (list.len() as u64).saturating_add(clients.saturating_sub(from as u64));
        if planned > MAX_PLANNED {
            return Err(AmendError::TooManyPlanned { planned: planned as f64 });
        }
        list.change(at, &Stage { duration, target: clients });
        self.sessions = Sessions::Listed(list.ended_at(end));
        self.most = self.most.max(clients);
        Ok((from as f64, clients as f64))
    }

    /// Replaces the arrivals after the amendment with some at another rate. Returns the rate after the change, twice: it changes at
    /// once.
    fn change_rate(
        &mut self,
        amendment: Amendment,
        rate: f64,
        end: Duration,
    ) -> Result<(f64, f64), AmendError> {
        let ArrivalSource::Drawn { process, seed } = self.source else { return Err(AmendError::Trace) };
        if !(0.001..=1e6).contains(&rate) {
            return Err(AmendError::InvalidRate(rate));
        }
        let at = amendment.at();
        let expected = rate * (end - at).as_secs_f64();
        if expected > MAX_PLANNED as f64 {
            return Err(AmendError::TooManyPlanned { planned: expected });
        }
        let seed = seed.wrapping_add(u64::from(amendment.number).wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let moments = process.moments(rate, end - at, seed, (MAX_PLANNED * 2) as usize);
        let arrivals = moments.into_iter().map(|moment| Arrival { at: at + moment, tokens: None });
        if let Sessions::Listed(sessions) = &mut self.sessions {
            sessions.truncate(sessions.partition_point(|session| session.start < at));
            sessions.extend(arrivals.map(|arrival| SessionTimes::arriving(&arrival)));
        } else {
            self.arrivals.truncate(self.arrivals.partition_point(|arrival| arrival.at < at));
            self.arrivals.extend(arrivals);
        }
        Ok((rate, rate))
    }

    /// Replaces the phases after the amendment with its transition and the time after it.
    fn replace_phases(&mut self, amendment: Amendment, (from, target): (f64, f64), end: Duration) {
        let (at, complete) = (amendment.at(), amendment.complete_at());
        self.earlier_plateaus.extend(self.plateau().and_then(|plateau| plateau.before(at)));
        let is_open = self.model.is_open();
        let cut = |phase: &Phase| Phase {
            end: Some(at),
            target: if is_open { phase.target } else { from },
            ..phase.clone()
        };
        let ends_before = |phase: &Phase| phase.end.is_some_and(|end| end <= at);
        self.phases = self
            .phases
            .iter()
            .filter(|phase| phase.start < at || ends_before(phase))
            .map(|phase| if ends_before(phase) { phase.clone() } else { cut(phase) })
            .collect();
        let name = format!("amendment {}", amendment.number);
        self.phases.push(Phase {
            name: format!("{name}, change"),
            start: at,
            end: Some(complete),
            from,
            target,
        });
        self.planned_from = self.phases.len();
        self.phases.push(Phase { name, start: complete, end: Some(end), from: target, target });
    }

    /// Returns the part of a whole schedule that one generator plays. The schedules of all shards together are the whole one.
    #[must_use]
    pub fn part(&self, shard: Shard) -> Self {
        let share = 1.0 / f64::from(shard.count());
        let smaller =
            |phase: &Phase| Phase { from: phase.from * share, target: phase.target * share, ..phase.clone() };
        let arrivals = shard.numbers(self.arrivals.len() as u64, 0, 1);
        Self {
            phases: self.phases.iter().map(smaller).collect(),
            sessions: self.sessions.clone(),
            shard,
            arrivals: arrivals.map(|number| self.arrivals[number as usize]).collect(),
            most: shard.size(self.most),
            earlier_plateaus: self
                .earlier_plateaus
                .iter()
                .map(|plateau| Plateau { level: plateau.level * share, ..*plateau })
                .collect(),
            amendments: self.amendments.clone(),
            ..*self
        }
    }

    /// Returns the changes during the run, in order.
    #[must_use]
    pub fn amendments(&self) -> &[Amendment] {
        &self.amendments
    }

    /// Returns the stages that have the same load as this schedule with its changes. `None` for an open model.
    #[must_use]
    pub fn as_stages(&self) -> Option<Stages> {
        if self.model.is_open() {
            return None;
        }
        let stage = |phase: &Phase| {
            Some(Stage {
                duration: phase.end?.saturating_sub(phase.start),
                target: phase.target.round() as u64,
            })
        };
        self.phases.iter().map(stage).collect::<Option<_>>().map(Stages)
    }

    /// Returns whether the plan can be changed while it runs.
    #[must_use]
    pub fn is_amendable(&self) -> bool {
        let has_known_load = !self.model.is_open() || self.source != ArrivalSource::Listed;
        self.end().is_some() && has_known_load
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
                // A session that an amendment removed, and that had started because the amendment came late, ends at once.
                let last = SessionTimes { start: Duration::MAX, until: Some(Duration::ZERO), tokens: None };
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
        let start = self.phases.get(usize::from(self.model == Model::OpenQueries))?.start;
        Some(Offered { count, start, duration: self.end()?.saturating_sub(start) })
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
        phase.map_or(0.0, |phase| phase.target_at(at))
    }

    /// Returns the start and end of the longest time during which at least 95 % of the highest target is scheduled, in whole
    /// seconds. `None` if it is shorter than 10 s, or if its end depends on the system under test. No change of an amended plan lies
    /// in it.
    #[must_use]
    pub fn steady_window(&self) -> Option<(Duration, Duration)> {
        let plateaus = self.earlier_plateaus.iter().copied().chain(self.plateau());
        Plateau::best(plateaus).map(|plateau| (plateau.from, plateau.to))
    }

    /// Returns all times during which nearly the highest target of a part of the plan is scheduled, in order. A part ends with the next
    /// amendment. The steady window is one of them.
    pub fn plateaus(&self) -> impl Iterator<Item = (Duration, Duration)> {
        let plateaus = self.earlier_plateaus.iter().copied().chain(self.plateau());
        plateaus.map(|plateau| (plateau.from, plateau.to))
    }

    /// Returns the steady state of what is planned after the last amendment.
    fn plateau(&self) -> Option<Plateau> {
        // The arrivals of a trace vary within its phase, so that the target does not describe each second.
        if self.model.is_open() && self.source == ArrivalSource::Listed {
            return None;
        }
        Plateau::of(&self.phases[self.planned_from..])
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
