//! What a run is judged by, while it goes on and at its end.
//! It asks a run to stop where a threshold is broken for good; it ends nothing by force.

use super::{RunInfo, figures, info, summary::integrity};
use crate::{
    measure::{
        Evidence, Interval, Judgement, Objective, Reading, RunData, Steady, Totals, exit_code, judge,
        threshold::{Outcome, RunFigures, State, Threshold, Windows, exactly, figure_text, judge_all},
    },
    signals::Stop,
};
use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

/// Always on: integrity outranks everything.
const INTEGRITY: [&str; 3] = ["tokens_lost", "tokens_duplicated", "tokens_reordered"];

/// Why nobody can say whether something is missing.
pub(super) const UNVERIFIED: &str = "unverified: the server numbers nothing";

/// What a run is to be judged by.
#[derive(Clone, Debug, Default)]
pub struct Judging {
    /// The user's thresholds.
    pub thresholds: Vec<Threshold>,
    /// What a good query meets; none: nobody asked for goodput.
    pub objectives: Arc<[Objective]>,
    /// The steady state, by the schedule.
    pub steady: Option<(Duration, Duration)>,
    /// Whom to tell when a threshold is broken for good.
    pub abort: Option<Abort>,
}

/// Ends a run early.
#[derive(Clone, Debug, Default)]
pub struct Abort {
    /// Not before this time of the run.
    pub delay: Duration,
    /// Told to start nothing more.
    pub stop: Stop,
    /// Why it was.
    pub reason: Arc<OnceLock<String>>,
}

impl Judging {
    /// What is known before the run, integrity first.
    fn planned(&self) -> Vec<Threshold> {
        let integrity = INTEGRITY.map(|name| exactly(name, 0));
        integrity.into_iter().chain(self.thresholds.iter().cloned()).collect()
    }

    /// All that a run is judged by. Where the user says nothing, every query and every session must be ok.
    fn all(&self, run: &RunData) -> Vec<Threshold> {
        let mut all = self.planned();
        if self.thresholds.is_empty() {
            let everything = [("queries_ok", run.queries.total), ("sessions_ok", run.sessions.total)];
            let attempted = everything.into_iter().filter(|(_, total)| *total > 0);
            all.extend(attempted.map(|(name, total)| exactly(name, total)));
        }
        all
    }

    /// What looks at the seconds as they go by.
    pub(super) fn observer(&self) -> Observer {
        Observer {
            thresholds: self.thresholds.clone(),
            goodput: !self.objectives.is_empty(),
            windows: Windows::of(&self.planned()),
            steady: self.steady.and_then(Steady::of),
            abort: self.abort.clone(),
        }
    }
}

/// Looks at the seconds of a run as they are over.
#[derive(Debug)]
pub(super) struct Observer {
    thresholds: Vec<Threshold>,
    goodput: bool,
    windows: Windows,
    steady: Option<Steady>,
    abort: Option<Abort>,
}

impl Observer {
    pub(super) fn second(&mut self, second: u64, interval: &Interval, readings: &[Reading]) {
        self.windows.second(second, interval, readings);
        if let Some(steady) = &mut self.steady {
            steady.second(second, interval);
        }
        let due = |abort: &&Abort| second + 1 >= abort.delay.as_secs();
        let Some(abort) = self.abort.as_ref().filter(due) else { return };
        if let Some(broken) = self.windows.broken() {
            let reason = format!("{}, and it was {}", broken.threshold, figure_text(broken.value));
            let _ = abort.reason.set(format!("it broke {reason} after {} s", second + 1));
            abort.stop.starting.cancel();
            self.abort = None;
        }
    }

    /// What the user's thresholds would come to if the run were over.
    pub(super) fn standing(&self, run: &RunData, beside: &Totals) -> Vec<Outcome> {
        let figures = RunFigures {
            metrics: &run.metrics,
            scalars: &figures::scalars(run, &RunInfo::default(), self.goodput),
            beside,
            steady: self.steady.as_ref(),
            windows: &self.windows,
        };
        judge_all(&self.thresholds, &figures)
    }

    /// The run is over: nothing is left to be ended early.
    pub(super) fn run_is_over(&mut self) {
        self.abort = None;
    }

    pub(super) fn hand_over(self, run: &mut RunData) {
        run.steady = self.steady.and_then(|steady| steady.ended_at(self.windows.end()));
        run.windows = self.windows;
    }
}

/// A run judged.
#[derive(Debug)]
pub(super) struct Conclusion {
    pub(super) evidence: Evidence,
    pub(super) judgement: Judgement,
    /// Of every threshold, integrity first.
    outcomes: Vec<Outcome>,
    pub(super) objectives: Arc<[Objective]>,
    pub(super) exit_code: u8,
}

impl Conclusion {
    pub(super) fn of(run: &RunData, info: &RunInfo, judging: &Judging) -> Self {
        let scalars = figures::scalars(run, info, !judging.objectives.is_empty());
        let figures = RunFigures {
            metrics: &run.metrics,
            scalars: &scalars,
            beside: &run.beside,
            steady: run.steady.as_ref(),
            windows: &run.windows,
        };
        let outcomes = judge_all(&judging.all(run), &figures);
        let thresholds = outcomes[INTEGRITY.len()..][..judging.thresholds.len()].to_vec();
        let evidence = Evidence { thresholds, ..info::evidence(run, info) };
        let mut judgement = judge(&evidence);
        if let Some(why) = &info.aborted {
            judgement.reason = format!("{} The run was ended early: {why}.", judgement.reason);
        }
        let exit_code = exit_code(judgement.verdict, info.interrupted);
        Self { evidence, judgement, outcomes, objectives: Arc::clone(&judging.objectives), exit_code }
    }

    /// Every threshold, and whether nobody can say: of integrity, where the server numbers nothing.
    pub(super) fn checks(&self, run: &RunData) -> impl Iterator<Item = (&Outcome, bool)> {
        let unverified = integrity(run) == "unverified";
        let is_blind = move |index, outcome: &Outcome| {
            unverified && index < INTEGRITY.len() && outcome.state == State::Held
        };
        self.outcomes.iter().enumerate().map(move |(index, outcome)| (outcome, is_blind(index, outcome)))
    }
}
