//! Decides a comparison: tests each figure against the accepted growth, and corrects for the number of figures.

use super::{
    ComparedFigure, ComparedRun, Comparison, ComparisonOptions, Decision, FigureChange, FigureKind,
    run::pooled,
    statistics::{
        Estimate, Sessions, Share, Tested, difference_of_runs, difference_of_shares, holm, ratio_of_runs,
        ratio_of_sessions,
    },
    text,
};

/// Runs per side from which the noise between runs is measured. With fewer runs it is assumed.
const RUNS_PER_SIDE: usize = 4;
/// Sessions per side from which the noise within runs is measured.
const SESSIONS_PER_SIDE: usize = 20;
/// Number of values that must lie above a percentile on each side.
const ABOVE: f64 = 5.0;
/// Largest number of runs per side that is recommended.
const MAX_RUNS: f64 = 100.0;
const NO_RATIO: &str = "a value of 0 or less has no ratio";

/// A figure before the decision, which depends on the other figures too.
struct PendingFigure {
    change: FigureChange,
    /// Probability that chance alone causes a growth of this size. `None` if the figure could not be tested.
    p: Option<f64>,
    may_regress: bool,
    may_pass: bool,
}

/// Compares the runs of two versions.
pub fn judge(options: &ComparisonOptions, baseline: &[ComparedRun], candidate: &[ComparedRun]) -> Comparison {
    let pair = Pair { options, baseline, candidate };
    let durations = options.compared.iter().map(|one| pair.duration(one));
    let mut pending: Vec<_> = [pair.share(FigureKind::BrokenTokens), pair.share(FigureKind::FailedQueries)]
        .into_iter()
        .flatten()
        .chain(durations)
        .collect();
    decide(&mut pending);
    let changes: Vec<_> = pending.into_iter().map(|pending| pending.change).collect();
    let (decision, reason) = pair.conclusion(&changes);
    // Readers expect the durations first.
    let (durations, shares): (Vec<_>, Vec<_>) =
        changes.into_iter().partition(|change| change.kind == FigureKind::Duration);
    let warnings = pair.warnings(&durations);
    let changes = durations.into_iter().chain(shares.into_iter().rev()).collect();
    Comparison { decision, reason, changes, warnings, tolerance: options.tolerance }
}

/// Decides all figures as one family of tests.
fn decide(pending: &mut [PendingFigure]) {
    let (indices, p): (Vec<_>, Vec<_>) =
        pending.iter().enumerate().filter_map(|(index, pending)| Some((index, pending.p?))).unzip();
    for (index, is_beyond_chance) in indices.into_iter().zip(holm(&p)) {
        let pending = &mut pending[index];
        pending.change.decision = if is_beyond_chance && pending.may_regress {
            Decision::Regressed
        } else if pending.may_pass {
            Decision::Pass
        } else {
            Decision::CannotTell
        };
    }
}

/// Both sides of a comparison.
struct Pair<'a> {
    options: &'a ComparisonOptions,
    baseline: &'a [ComparedRun],
    candidate: &'a [ComparedRun],
}

impl Pair<'_> {
    /// Returns the number of runs on the side that has fewer.
    fn runs(&self) -> usize {
        self.baseline.len().min(self.candidate.len())
    }

    /// Returns whether there are too few runs to measure the noise between runs.
    fn is_few(&self) -> bool {
        self.runs() < RUNS_PER_SIDE
    }

    /// Returns the decision about the whole comparison and its reason. Broken tokens come before everything else, because a
    /// run that lost tokens may be INVALID for that reason.
    fn conclusion(&self, changes: &[FigureChange]) -> (Decision, String) {
        let first = |decision, kind: Option<FigureKind>| {
            let fits = |change: &&FigureChange| {
                change.decision == decision && kind.is_none_or(|kind| change.kind == kind)
            };
            changes.iter().find(fits)
        };
        let all = self.baseline.iter().chain(self.candidate);
        let invalid = all.clone().find_map(|run| Some((run, run.invalid.as_ref()?)));
        if let Some(change) = first(Decision::Regressed, Some(FigureKind::BrokenTokens)) {
            return (Decision::Regressed, text::regression(change, 0.0));
        }
        if let Some((run, why)) = invalid {
            let why = why.trim_end_matches('.');
            return (Decision::CannotTell, format!("{} is not a valid measurement: {why}.", run.name));
        }
        if let Some(change) = first(Decision::Regressed, None) {
            let accepted = match change.kind {
                FigureKind::Duration => self.options.tolerance,
                _ => self.options.failure_tolerance,
            };
            return (Decision::Regressed, text::regression(change, accepted));
        }
        if let Some(change) = first(Decision::CannotTell, None) {
            return (Decision::CannotTell, format!("{}: {}.", change.name, change.note));
        }
        let (tolerance, least) = (text::percent(self.options.tolerance), self.options.least_ms);
        (
            Decision::Pass,
            format!("Nothing grew by more than {tolerance} or {least} ms, with 95 % confidence."),
        )
    }

    /// Returns what limits the comparison.
    fn warnings(&self, durations: &[FigureChange]) -> Vec<String> {
        let mut warnings = Vec::new();
        let mut differing: Vec<_> = self
            .baseline
            .first()
            .into_iter()
            .flat_map(|first| {
                self.baseline[1..].iter().chain(self.candidate).flat_map(|run| first.differing(run))
            })
            .collect();
        differing.sort();
        differing.dedup();
        if !differing.is_empty() {
            warnings.push(format!("the runs differ in these settings: {}", differing.join(", ")));
        }
        if self.is_few() && durations.iter().any(|change| change.change.is_some()) {
            let noise = text::percent(self.options.assumed_noise);
            warnings.push(format!(
                "fewer than {RUNS_PER_SIDE} runs per side: two runs of one version are assumed to differ by up to {noise} \
                 (--assumed-noise); the intervals contain only the noise within the runs"
            ));
        }
        warnings
    }

    /// Tests a percentile of a duration.
    fn duration(&self, compared: &ComparedFigure) -> PendingFigure {
        let pending = |sides, change, p, (may_regress, may_pass), note| PendingFigure {
            change: FigureChange {
                name: format!("{} p({})", compared.metric, compared.percent),
                kind: FigureKind::Duration,
                sides,
                change,
                decision: Decision::CannotTell,
                note,
            },
            p,
            may_regress,
            may_pass,
        };
        let untested = |sides, why: &str| pending(sides, None, None, (false, false), why.to_owned());
        let figures =
            |runs: &[ComparedRun]| runs.iter().map(|run| run.figure(compared)).collect::<Option<Vec<_>>>();
        let (Some(before), Some(after)) = (figures(self.baseline), figures(self.candidate)) else {
            return untested(None, "not every run has this figure");
        };
        let sides = (typical(&before), typical(&after));
        let least = self.options.least_ms / sides.0.max(f64::MIN_POSITIVE);
        let most = 1.0 + self.options.tolerance.max(least);
        let tested = if self.is_few() {
            self.within_runs(compared, sides, most)
        } else {
            ratio_of_runs(&before, &after, most).ok_or_else(|| NO_RATIO.to_owned())
        };
        match tested {
            Ok(Tested { estimate, p }) => {
                let may = self.duration_may(&estimate, most, least);
                pending(Some(sides), Some(estimate), Some(p), may, self.unclear_duration(&estimate, most))
            }
            Err(why) => untested(Some(sides), &why),
        }
    }

    /// Returns whether a duration may regress, and whether it may pass. With few runs it may regress only if it grew by more
    /// than the assumed noise. It may pass if it shrank by more than that noise, or if it grew by less than `least` even with
    /// that noise added.
    fn duration_may(&self, estimate: &Estimate, most: f64, least: f64) -> (bool, bool) {
        let noise = self.options.assumed_noise;
        let Estimate { value, high, .. } = *estimate;
        if !self.is_few() {
            return (value > most, high <= most);
        }
        let faster = value < 1.0 - noise && high <= most;
        (value > most.max(1.0 + noise), faster || high * (1.0 + noise) <= 1.0 + least)
    }

    /// Returns why a duration is undecided, and how many runs would be enough.
    fn unclear_duration(&self, estimate: &Estimate, most: f64) -> String {
        let distance = (estimate.value.ln() - most.ln()).abs();
        let growth = text::growth(estimate.value);
        if self.is_few() {
            let noise = self.options.assumed_noise;
            let needed = runs_needed(1.0, (1.0 + noise).ln(), distance);
            return format!(
                "{growth} is not beyond the assumed noise of {}, or not beyond the noise within the runs; about {needed} \
                 runs per side are needed to decide",
                text::percent(noise)
            );
        }
        let half = estimate.value.ln() - estimate.low.ln();
        let (low, high) = (text::growth(estimate.low), text::growth(estimate.high));
        if estimate.low > most {
            return format!(
                "{low} to {high} would be a regression if this were the only figure, but among several figures chance can \
                 cause a growth of this size; more runs per side are needed to decide"
            );
        }
        #[allow(clippy::cast_precision_loss)]
        let needed = runs_needed(self.runs() as f64, half, distance);
        format!("the range {low} to {high} is too wide; about {needed} runs per side are needed to decide")
    }

    /// Tests a duration with the noise within the runs if they have rows. Without rows only the assumed noise decides.
    fn within_runs(
        &self,
        compared: &ComparedFigure,
        (before, after): (f64, f64),
        most: f64,
    ) -> Result<Tested, String> {
        let (Some(baseline), Some(candidate)) =
            (pooled(self.baseline, compared), pooled(self.candidate, compared))
        else {
            let value = after / before;
            let p = if value > most { 0.0 } else { 1.0 };
            let estimate = Estimate { value, low: value, high: value };
            return if value.is_finite() && value > 0.0 {
                Ok(Tested { estimate, p })
            } else {
                Err(NO_RATIO.to_owned())
            };
        };
        let is_enough = |rows: &Sessions| {
            #[allow(clippy::cast_precision_loss)]
            let above = rows.len() as f64 * (1.0 - compared.percent / 100.0);
            rows.sessions() >= SESSIONS_PER_SIDE && above >= ABOVE
        };
        if !is_enough(&baseline) || !is_enough(&candidate) {
            return Err(format!(
                "too few queries: each side needs at least {SESSIONS_PER_SIDE} sessions, and {ABOVE} queries above the percentile"
            ));
        }
        let quantile = compared.percent / 100.0;
        ratio_of_sessions(&baseline, &candidate, quantile, most, self.options.seed)
            .ok_or_else(|| NO_RATIO.to_owned())
    }

    /// Tests the share of failed queries or of broken tokens. `None` without queries or tokens.
    fn share(&self, kind: FigureKind) -> Option<PendingFigure> {
        let (name, accepted) = match kind {
            FigureKind::BrokenTokens => ("broken tokens, points", 0.0),
            _ => ("failed queries, points", self.options.failure_tolerance),
        };
        let of_run = |run: &ComparedRun| run.share(kind).value();
        let of_side = |runs: &[ComparedRun]| runs.iter().flat_map(|run| run.shares(kind)).collect::<Vec<_>>();
        let (before, after) = (of_side(self.baseline), of_side(self.candidate));
        let Tested { estimate, p } = if self.is_few() {
            difference_of_shares(&before, &after, accepted)?
        } else {
            let figures = |runs: &[ComparedRun]| runs.iter().map(of_run).collect::<Vec<_>>();
            difference_of_runs(&figures(self.baseline), &figures(self.candidate), accepted)?
        };
        let sides = (Share::sum(&before).value(), Share::sum(&after).value());
        let beyond_noise = !self.is_few() || sides.1 > sides.0 * (1.0 + self.options.assumed_noise);
        let points = |share: f64| format!("{:+.3} points", share * 100.0);
        #[allow(clippy::cast_precision_loss)]
        let needed = {
            let distance = estimate.value - accepted;
            runs_needed(self.runs() as f64, estimate.value - estimate.low, distance)
        };
        let note = format!(
            "{} ({} to {}) may be chance; about {needed} runs per side are needed to decide",
            points(estimate.value),
            points(estimate.low),
            points(estimate.high)
        );
        let change = FigureChange {
            name: name.to_owned(),
            kind,
            sides: Some(sides),
            change: Some(estimate),
            decision: Decision::CannotTell,
            note,
        };
        let may_pass = estimate.value <= accepted;
        Some(PendingFigure { change, p: Some(p), may_regress: beyond_noise, may_pass })
    }
}

/// Returns how many runs per side shrink half the width of an interval from `half`, with `runs`, to `distance`.
fn runs_needed(runs: f64, half: f64, distance: f64) -> String {
    let needed = (runs * (half / distance).powi(2)).ceil().max(RUNS_PER_SIDE as f64).max(runs + 1.0);
    if needed <= MAX_RUNS { format!("{needed:.0}") } else { format!("more than {MAX_RUNS:.0}") }
}

/// Returns the geometric mean, from which the ratio of two sides is computed.
#[allow(clippy::cast_precision_loss)]
fn typical(figures: &[f64]) -> f64 {
    match figures {
        [one] => *one,
        _ => (figures.iter().map(|figure| figure.ln()).sum::<f64>() / figures.len() as f64).exp(),
    }
}
