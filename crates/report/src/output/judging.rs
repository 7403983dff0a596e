//! What a run is judged by, while it goes on and at its end.
//! It asks a run to stop where a threshold is broken for good; it ends nothing by force.

use super::{RunInfo, figures, info, summary::integrity};
use measure::{
    Breach, Evidence, Interval, Judgement, Objective, RULES, Reading, RunData, Steady, Totals,
    defects::Defect,
    exit_code, judge,
    threshold::{
        Comparison, Figure, Outcome, Over, RunFigures, State, Threshold, Windows, exactly, figure_text,
        judge_all,
    },
};
use plan::Stop;
use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

/// Always on: integrity outranks everything.
fn integrity_rules() -> [Threshold; RULES.len()] {
    RULES.map(|rule| exactly(rule.name(), 0))
}

/// Those of the rules of integrity that only positions can break.
const BY_POSITION: [&str; 5] =
    ["tokens_lost", "tokens_duplicated", "tokens_reordered", "events_duplicated", "events_reordered"];

/// Why it is unknown whether something is missing.
const UNVERIFIED: &str = "unverified: the server numbers nothing";
const NO_DIGEST: &str = "unverified: no answer came with a digest";
const NOT_MEASURED: &str = "not measured: no token was announced or received";

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
        integrity_rules().into_iter().chain(self.thresholds.iter().cloned()).collect()
    }

    /// What else a run is judged by, unless a threshold of the user's bounds the failures of the same unit: every query and
    /// every session must be ok, and in an open model nothing may be dropped.
    fn defaults(&self, run: &RunData, info: &RunInfo) -> Vec<Threshold> {
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
            // A session fails with its queries; where those may fail, it is judged by its own steps.
            defaults.push(if queries {
                exactly("sessions_broken", 0)
            } else {
                exactly("sessions_ok", attempted.1)
            });
        }
        let open = info.schedule.as_ref().is_some_and(|schedule| schedule.model().is_open());
        let cut_short = info.interrupted || info.aborted.is_some();
        if open && (!cut_short || info.arrivals_dropped > 0) && !replaced(&["dropped_iterations"], &[]) {
            defaults.push(exactly("dropped_iterations", 0));
        }
        defaults
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

/// Whether a threshold bounds a count or share of failures (`most`) from above, or of successes (`least`) from below.
fn bounds_failures(threshold: &Threshold, most: &[&str], least: &[&str]) -> bool {
    let Figure::Scalar(name) = threshold.figure else { return false };
    let (above, below) = match threshold.comparison {
        Comparison::Below | Comparison::AtMost => (true, false),
        Comparison::Above | Comparison::AtLeast => (false, true),
        Comparison::Equal => (true, true),
        Comparison::NotEqual => (false, false),
    };
    match threshold.over {
        Over::Run => above && most.contains(&name) || below && least.contains(&name),
        // Every window of a run bounds all of it; so many successes in each of them bound no failures.
        Over::Window(_) => above && most.contains(&name),
        Over::Steady => false,
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
            excused: None,
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
    /// Of the always-on thresholds of integrity.
    integrity: Vec<Outcome>,
    pub(super) objectives: Arc<[Objective]>,
    pub(super) exit_code: u8,
}

impl Conclusion {
    pub(super) fn of(run: &RunData, info: &RunInfo, judging: &Judging) -> Self {
        let scalars = figures::scalars(run, info, !judging.objectives.is_empty());
        let excused = figures::excused(run, info);
        let figures = RunFigures {
            metrics: &run.metrics,
            scalars: &scalars,
            excused: excused.as_ref(),
            beside: &run.beside,
            steady: run.steady.as_ref(),
            windows: &run.windows,
        };
        let integrity = judge_all(&integrity_rules(), &figures);
        let evidence = Evidence {
            defaults: judge_all(&judging.defaults(run, info), &figures),
            thresholds: judge_all(&judging.thresholds, &figures),
            breaches: breaches(&integrity, run),
            ..info::evidence(run, info)
        };
        let mut judgement = judge(&evidence);
        if let Some(why) = &info.aborted {
            judgement.reason = format!("{} The run was ended early: {why}.", judgement.reason);
        }
        let exit_code = exit_code(judgement.verdict, info.interrupted);
        Self { evidence, judgement, integrity, objectives: Arc::clone(&judging.objectives), exit_code }
    }

    /// Every threshold: integrity, the defaults, the user's.
    pub(super) fn checks<'a>(&'a self, run: &'a RunData) -> impl Iterator<Item = Check<'a>> {
        let integrity = self.integrity.iter().map(|outcome| {
            let held = outcome.state == State::Held;
            let unknown = unknown(run, figure(outcome)).filter(|_| held);
            Check { outcome, unknown, example: example(run, figure(outcome)).filter(|_| !held) }
        });
        let others = self.evidence.defaults.iter().chain(&self.evidence.thresholds);
        integrity.chain(others.map(|outcome| Check { outcome, unknown: None, example: None }))
    }
}

/// A threshold, for the outputs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Check<'a> {
    pub(super) outcome: &'a Outcome,
    /// It held only because there was nothing to see: why.
    pub(super) unknown: Option<&'static str>,
    /// The beginning of the first frame that broke it.
    pub(super) example: Option<&'a str>,
}

/// The name of what a threshold of integrity is about.
const fn figure(outcome: &Outcome) -> &'static str {
    match outcome.threshold.figure {
        Figure::Scalar(name) => name,
        _ => "",
    }
}

/// Why it is unknown whether a threshold of integrity held.
fn unknown(run: &RunData, name: &str) -> Option<&'static str> {
    let no_digest = run.queries.ok > 0 && run.queries.contents_unverified == run.queries.ok;
    match integrity(run) {
        "not measured" => Some(NOT_MEASURED),
        "unverified" if BY_POSITION.contains(&name) => Some(UNVERIFIED),
        _ if name == "queries_corrupt" && no_digest => Some(NO_DIGEST),
        _ => None,
    }
}

/// The beginning of the first frame that counted for a figure.
fn example<'a>(run: &'a RunData, name: &str) -> Option<&'a str> {
    let defect = match name {
        "tokens_duplicated" => Some(Defect::Duplicated),
        "tokens_reordered" => Some(Defect::Reordered),
        _ => Defect::ALL.into_iter().find(|defect| defect.name() == name),
    };
    run.defects.example(defect?)
}

/// What is broken, with examples. Events are named where more of them than tokens are concerned.
fn breaches(integrity: &[Outcome], run: &RunData) -> Vec<Breach> {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it was a count")]
    let counted = |outcome: &Outcome| (figure(outcome), outcome.value.unwrap_or_default() as u64);
    let counts: Vec<_> = integrity.iter().map(counted).filter(|(_, count)| *count > 0).collect();
    let is_told_already = |name: &str, count| {
        name.strip_prefix("events_").is_some_and(|rest| counts.contains(&(&*format!("tokens_{rest}"), count)))
    };
    let told = counts.iter().filter(|(name, count)| !is_told_already(name, *count));
    told.map(|&(name, count)| Breach {
        count,
        what: name.replace('_', " "),
        example: example(run, name).map(|frame| format!("`{frame}`")),
    })
    .collect()
}

impl Check<'_> {
    /// The figure with the beginning of the first frame that broke it.
    pub(super) fn shown(&self) -> String {
        let shown = self.outcome.shown();
        self.example.map_or_else(|| shown.clone(), |frame| format!("{shown}  first: {frame}"))
    }

    /// The reason in a word: `unverified`.
    pub(super) fn unknown_word(&self) -> Option<&'static str> {
        Some(self.unknown?.split_once(':')?.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use measure::{
        defects::Defects,
        record::{QueryRecord, QueryStatus},
    };
    use protocol::EventCounts;

    /// Why a run was ended early in whose first second this query ended.
    fn ended_early(query: &QueryRecord, defects: &Defects) -> Option<String> {
        let abort = Abort::default();
        let judging = Judging { abort: Some(abort.clone()), ..Judging::default() };
        let mut interval = Interval::default();
        interval.query_ended(query, &[]);
        interval.session_ended(defects);
        judging.observer().second(0, &interval, &[]);
        assert_eq!(abort.stop.starting.is_cancelled(), abort.reason.get().is_some());
        abort.reason.get().cloned()
    }

    #[test]
    fn every_rule_of_integrity_ends_a_run_early() {
        let fine = QueryRecord::sample(QueryStatus::Ok);
        for defect in Defect::ALL {
            let mut defects = Defects::default();
            defects.note(defect, b"frame");
            let spoilt = QueryRecord { defects: defects.clone(), ..fine.clone() };
            for why in [ended_early(&spoilt, &Defects::default()), ended_early(&fine, &defects)] {
                let told = why.is_some_and(|why| why.contains(&format!("{}==0", defect.name())));
                assert_eq!(told, defect.is_judged(), "{}", defect.name());
            }
        }
        for (name, tally) in [
            ("tokens_lost", EventCounts { tokens_lost: 1, ..fine.tally }),
            ("tokens_duplicated", EventCounts { tokens_duplicated: 1, ..fine.tally }),
            ("tokens_reordered", EventCounts { tokens_reordered: 1, ..fine.tally }),
        ] {
            let why = ended_early(&QueryRecord { tally, ..fine.clone() }, &Defects::default());
            assert!(why.unwrap().contains(name), "{name}");
        }
        assert_eq!(ended_early(&fine, &Defects::default()), None);
    }
}
