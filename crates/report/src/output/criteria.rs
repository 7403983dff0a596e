//! The criteria of a run: thresholds, goodput objectives and integrity rules, and the observer that checks them every second.
//! The observer asks the run to stop when a threshold can no longer be met. It never stops a run by force.

use super::{RunInfo, figures};
use measure::{
    INTEGRITY_RULES, Interval, Objective, Reading, ReadingTotals, RunData, Steady,
    threshold::{
        Figure, Operator, Outcome, RunFigures, Scope, Threshold, Windows, exactly, figure_text, judge_all,
    },
};
use plan::{Stop, schedule::Schedule};
use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

/// Returns the integrity thresholds, which apply to every run and come before all other checks.
pub(super) fn integrity_thresholds() -> [Threshold; INTEGRITY_RULES.len()] {
    INTEGRITY_RULES.map(|rule| exactly(rule.name(), 0))
}

/// Criteria by which a run is judged.
#[derive(Clone, Debug, Default)]
pub struct Criteria {
    /// Thresholds that the user gave.
    pub thresholds: Vec<Threshold>,
    /// Objectives that a query must meet to count as goodput. Empty if goodput is not measured.
    pub objectives: Arc<[Objective]>,
    /// Stops the run when a threshold can no longer be met (`--abort-on-fail`).
    pub abort: Option<Abort>,
}

/// Stops a run early.
#[derive(Clone, Debug, Default)]
pub struct Abort {
    /// Earliest time of the run at which it may be stopped.
    pub delay: Duration,
    /// Signal that makes the run start no more sessions and queries.
    pub stop: Stop,
    /// Reason, set when the run is stopped.
    pub reason: Arc<OnceLock<String>>,
}

impl Criteria {
    /// Returns the thresholds that are known before the run starts, integrity first.
    fn planned(&self) -> Vec<Threshold> {
        integrity_thresholds().into_iter().chain(self.thresholds.iter().cloned()).collect()
    }

    /// Returns the default thresholds: every query and every session must be ok, and an open model must not drop arrivals.
    /// A threshold of the user that bounds failures of the same unit replaces the default.
    pub(super) fn defaults(&self, run: &RunData, info: &RunInfo) -> Vec<Threshold> {
        let replaced = |most: &[&str], least: &[&str]| {
            self.thresholds.iter().any(|threshold| bounds_failures(threshold, most, least))
        };
        let queries = replaced(&["error_rate", "queries_failed"], &["queries_ok"]);
        let sessions = replaced(&["sessions_failed"], &["success_rate", "sessions_ok"]);
        let attempted = (run.queries.judged(), run.sessions.total - run.sessions.cut_off);
        let mut defaults = Vec::new();
        if !queries && attempted.0 > 0 {
            defaults.push(exactly("queries_ok", attempted.0));
        }
        if !sessions && attempted.1 > 0 {
            // A failed query makes its session fail too. If failed queries are allowed, count only sessions whose own steps
            // (create, connect, close) failed.
            defaults.push(if queries {
                exactly("sessions_broken", 0)
            } else {
                exactly("sessions_ok", attempted.1)
            });
        }
        let open = info.schedule.as_ref().is_some_and(|schedule| schedule.model().is_open());
        let cut_short = info.interrupted || info.aborted.is_some();
        if open && (!cut_short || info.generator.arrivals.busy > 0) && !replaced(&["dropped_iterations"], &[])
        {
            defaults.push(exactly("dropped_iterations", 0));
        }
        defaults
    }

    /// Returns an observer that checks the thresholds after every second.
    pub(super) fn observer(&self) -> Observer {
        Observer {
            thresholds: self.thresholds.clone(),
            goodput: !self.objectives.is_empty(),
            windows: Windows::of(&self.planned()),
            steady: Vec::new(),
            steady_from_s: None,
            abort: self.abort.clone(),
        }
    }
}

/// Returns whether a threshold bounds failures: one of the figures in `most` from above, or one in `least` from below.
fn bounds_failures(threshold: &Threshold, most: &[&str], least: &[&str]) -> bool {
    let Figure::Scalar(name) = threshold.figure else { return false };
    let (above, below) = match threshold.operator {
        Operator::Below | Operator::AtMost => (true, false),
        Operator::Above | Operator::AtLeast => (false, true),
        Operator::Equal => (true, true),
        Operator::NotEqual => (false, false),
    };
    match threshold.scope {
        Scope::Run => above && most.contains(&name) || below && least.contains(&name),
        // An upper bound on failures in every window also bounds the whole run. A lower bound on successes per window does
        // not: it says nothing about how many queries failed.
        Scope::Window(_) => above && most.contains(&name),
        Scope::Steady => false,
    }
}

/// What thresholds look at besides the sums of a run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stretches<'a> {
    pub(super) readings: &'a ReadingTotals,
    pub(super) steady: Option<&'a Steady>,
    pub(super) windows: &'a Windows,
}

/// Checks the thresholds of a run after every second.
#[derive(Debug)]
pub(super) struct Observer {
    thresholds: Vec<Threshold>,
    goodput: bool,
    windows: Windows,
    /// The times that may be the steady state of the run. An amendment can end one and add another.
    steady: Vec<Steady>,
    /// First second of the one that is the steady state of the schedule as it is now.
    steady_from_s: Option<u64>,
    abort: Option<Abort>,
}

impl Observer {
    /// Takes over the steady states of the schedule, which changes with amendments. Call it before the first second of a new one.
    pub(super) fn plan(&mut self, schedule: &Schedule) {
        for planned in schedule.plateaus().filter_map(Steady::of) {
            match self.steady.iter_mut().find(|known| known.from_s == planned.from_s) {
                Some(known) => known.to_s = planned.to_s,
                None => self.steady.push(planned),
            }
        }
        self.steady_from_s = schedule.steady_window().and_then(Steady::of).map(|steady| steady.from_s);
    }

    /// Returns the steady state of the schedule as it is now.
    fn steady(&self) -> Option<&Steady> {
        self.steady.iter().find(|steady| Some(steady.from_s) == self.steady_from_s)
    }

    /// Adds a complete second with the monitoring readings of that second. Stops the run if a threshold is broken for good.
    pub(super) fn second(&mut self, second: u64, interval: &Interval, readings: &[Reading]) {
        self.windows.second(second, interval, readings);
        self.steady.iter_mut().for_each(|steady| steady.second(second, interval));
        let due = |abort: &&Abort| second + 1 >= abort.delay.as_secs();
        let Some(abort) = self.abort.as_ref().filter(due) else { return };
        if let Some(broken) = self.windows.broken() {
            let (threshold, value) = (&broken.threshold, figure_text(broken.value));
            let _ =
                abort.reason.set(format!("{threshold} was broken after {} s (value {value})", second + 1));
            abort.stop.starting.cancel();
            self.abort = None;
        }
    }

    /// Returns the outcomes that the thresholds of the user would have if the run ended now.
    pub(super) fn outcomes_so_far(&self, run: &RunData, readings: &ReadingTotals) -> Vec<Outcome> {
        let figures = RunFigures {
            metrics: &run.metrics,
            scalars: &figures::scalars(run, &RunInfo::default(), self.goodput),
            excused: None,
            readings,
            steady: self.steady(),
            windows: &self.windows,
        };
        judge_all(&self.thresholds, &figures)
    }

    /// Returns the steady state, the windows and the readings so far, to judge the run as it stands.
    pub(super) fn so_far<'a>(&'a self, readings: &'a ReadingTotals) -> Stretches<'a> {
        Stretches { readings, steady: self.steady(), windows: &self.windows }
    }

    /// Ends the observation, so that the remaining seconds cannot stop the run.
    pub(super) fn run_is_over(&mut self) {
        self.abort = None;
    }

    /// Moves the steady state and the windows into the results of the run.
    pub(super) fn move_into(self, run: &mut RunData) {
        run.steady = self.steady().cloned().and_then(|steady| steady.ended_at(self.windows.end()));
        run.windows = self.windows;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use measure::{
        defects::{Defect, Defects},
        record::{QueryRecord, QueryStatus},
    };
    use protocol::EventCounts;

    /// Returns why a run is stopped early if this query and these defects belong to its first second.
    fn stop_reason(query: &QueryRecord, defects: &Defects) -> Option<String> {
        let abort = Abort::default();
        let criteria = Criteria { abort: Some(abort.clone()), ..Criteria::default() };
        let mut interval = Interval::default();
        interval.query_ended(query, &[]);
        interval.session_ended(defects);
        criteria.observer().second(0, &interval, &[]);
        assert_eq!(abort.stop.starting.is_cancelled(), abort.reason.get().is_some());
        abort.reason.get().cloned()
    }

    #[test]
    fn every_integrity_rule_stops_a_run_early() {
        let fine = QueryRecord::sample(QueryStatus::Ok);
        for defect in Defect::ALL {
            let mut defects = Defects::default();
            defects.note(defect, b"frame");
            let spoilt = QueryRecord { defects: defects.clone(), ..fine.clone() };
            for why in [stop_reason(&spoilt, &Defects::default()), stop_reason(&fine, &defects)] {
                let stopped = why.is_some_and(|why| why.contains(&format!("{}==0", defect.name())));
                assert_eq!(stopped, defect.is_judged(), "{}", defect.name());
            }
        }
        for (name, tally) in [
            ("tokens_lost", EventCounts { tokens_lost: 1, ..fine.tally }),
            ("tokens_duplicated", EventCounts { tokens_duplicated: 1, ..fine.tally }),
            ("tokens_reordered", EventCounts { tokens_reordered: 1, ..fine.tally }),
        ] {
            let why = stop_reason(&QueryRecord { tally, ..fine.clone() }, &Defects::default());
            assert!(why.unwrap().contains(name), "{name}");
        }
        assert_eq!(stop_reason(&fine, &Defects::default()), None);
    }
}
