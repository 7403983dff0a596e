//! The conclusion of a run: the outcome of every check, the verdict and the exit code.

use super::{
    Criteria, RunInfo,
    criteria::{Stretches, integrity_thresholds},
    figures, info,
    ratios::integrity,
};
use measure::{
    Breach, Evidence, Judgement, Objective, RunData,
    defects::Defect,
    exit_code, judge,
    threshold::{Figure, Outcome, RunFigures, State, judge_all},
};
use std::sync::Arc;

/// Integrity figures that need numbered events. A server that does not number its events cannot break them.
const BY_POSITION: [&str; 5] =
    ["tokens_lost", "tokens_duplicated", "tokens_reordered", "events_duplicated", "events_reordered"];

/// Reasons why an integrity check held without proving anything. The first word is shown alone where space is short.
const UNVERIFIED: &str = "unverified: the server does not number its events";
const NO_DIGEST: &str = "unverified: no response carried a digest";
const NOT_MEASURED: &str = "not measured: no token was announced or received";

/// The verdict on a run with everything that it is based on.
#[derive(Debug)]
pub(super) struct Conclusion {
    pub(super) evidence: Evidence,
    pub(super) judgement: Judgement,
    /// Outcomes of the integrity thresholds, which apply to every run.
    integrity: Vec<Outcome>,
    pub(super) objectives: Arc<[Objective]>,
    pub(super) exit_code: u8,
}

impl Conclusion {
    /// Judges a finished run.
    pub(super) fn of(run: &RunData, info: &RunInfo, criteria: &Criteria) -> Self {
        let (steady, windows) = (run.steady.as_ref(), &run.windows);
        Self::with(run, info, criteria, Stretches { readings: &run.readings, steady, windows })
    }

    /// Judges a run with these readings, steady state and windows. During a run, they are not part of `run` yet.
    pub(super) fn with(run: &RunData, info: &RunInfo, criteria: &Criteria, stretches: Stretches<'_>) -> Self {
        let Stretches { readings, steady, windows } = stretches;
        let scalars = figures::scalars(run, info, !criteria.objectives.is_empty());
        let excused = figures::excused(run, info);
        let figures = RunFigures {
            metrics: &run.metrics,
            scalars: &scalars,
            excused: excused.as_ref(),
            readings,
            steady,
            windows,
        };
        let integrity = judge_all(&integrity_thresholds(), &figures);
        let evidence = Evidence {
            defaults: judge_all(&criteria.defaults(run, info), &figures),
            thresholds: judge_all(&criteria.thresholds, &figures),
            breaches: breaches(&integrity, run),
            ..info::evidence(run, info)
        };
        let mut judgement = judge(&evidence);
        if let Some(why) = &info.aborted {
            judgement.reason = format!("{} The run was stopped early: {why}.", judgement.reason);
        }
        let exit_code = exit_code(judgement.verdict, info.interrupted);
        Self { evidence, judgement, integrity, objectives: Arc::clone(&criteria.objectives), exit_code }
    }

    /// Returns every check: integrity thresholds, default thresholds, then those of the user.
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

/// A threshold and its outcome, for the outputs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Check<'a> {
    pub(super) outcome: &'a Outcome,
    /// Why the check held without proving anything, for example because the server numbers no events.
    pub(super) unknown: Option<&'static str>,
    /// Beginning of the first frame that broke it.
    pub(super) example: Option<&'a str>,
}

/// Returns the name of the figure of an integrity threshold.
const fn figure(outcome: &Outcome) -> &'static str {
    match outcome.threshold.figure {
        Figure::Scalar(name) => name,
        _ => "",
    }
}

/// Returns why it is unknown whether an integrity threshold holds, or `None` if it is known.
fn unknown(run: &RunData, name: &str) -> Option<&'static str> {
    let no_digest = run.queries.ok > 0 && run.queries.contents_unverified == run.queries.ok;
    match integrity(run) {
        "not measured" => Some(NOT_MEASURED),
        "unverified" if BY_POSITION.contains(&name) => Some(UNVERIFIED),
        _ if name == "queries_corrupt" && no_digest => Some(NO_DIGEST),
        _ => None,
    }
}

/// Returns the beginning of the first frame that was counted for a figure.
fn example<'a>(run: &'a RunData, name: &str) -> Option<&'a str> {
    let defect = match name {
        "tokens_duplicated" => Some(Defect::Duplicated),
        "tokens_reordered" => Some(Defect::Reordered),
        _ => Defect::ALL.into_iter().find(|defect| defect.name() == name),
    };
    run.defects.example(defect?)
}

/// Returns the broken integrity rules, each with an example. Leaves out an `events_…` figure that has the same count as its
/// `tokens_…` figure: all of its events were tokens, and they are already listed.
fn breaches(integrity: &[Outcome], run: &RunData) -> Vec<Breach> {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it was a count")]
    let counted = |outcome: &Outcome| (figure(outcome), outcome.value.unwrap_or_default() as u64);
    let counts: Vec<_> = integrity.iter().map(counted).filter(|(_, count)| *count > 0).collect();
    let is_listed_as_tokens = |name: &str, count| {
        name.strip_prefix("events_").is_some_and(|rest| counts.contains(&(&*format!("tokens_{rest}"), count)))
    };
    let listed = counts.iter().filter(|(name, count)| !is_listed_as_tokens(name, *count));
    listed
        .map(|&(name, count)| Breach {
            count,
            what: name.replace('_', " "),
            example: example(run, name).map(|frame| format!("`{frame}`")),
        })
        .collect()
}

impl Check<'_> {
    /// Returns the value as text, followed by the beginning of the first frame that broke the check.
    pub(super) fn value_text(&self) -> String {
        let text = self.outcome.value_text();
        self.example.map_or_else(|| text.clone(), |frame| format!("{text}  first: {frame}"))
    }

    /// Returns the first word of the reason why the outcome is unknown, for example `unverified`.
    pub(super) fn unknown_word(&self) -> Option<&'static str> {
        Some(self.unknown?.split_once(':')?.0)
    }
}
