//! The answer to a comparison: each figure tested against what is accepted, all of them together corrected for their number.
//! Pure: the runs were read before.

use super::{
    CompareOptions, ComparedFigure, Comparison, Decision, FigureChange, FigureKind,
    read::{Run, pooled},
    statistics::{
        Estimate, Sessions, Share, Tested, difference_of_runs, difference_of_shares, holm, ratio_of_runs,
        ratio_of_sessions,
    },
    text,
};

/// Runs per side from which the noise between runs is measured. Below that it is assumed.
const RUNS_A_SIDE: usize = 4;
/// Sessions per side from which the noise within runs can be taken.
const SESSIONS_A_SIDE: usize = 20;
/// Values that must lie above a percentile, on each side.
const ABOVE: f64 = 5.0;
/// Nobody is told to make more runs than these.
const MAX_RUNS: f64 = 100.0;

/// A figure that waits for the others' tests.
struct PendingFigure {
    change: FigureChange,
    /// How probable so large a growth is by chance; none where there is nothing to test.
    p: Option<f64>,
    /// What is compared allows the answer that it regressed, or that it did not.
    may_regress: bool,
    may_pass: bool,
    /// What to say where it is neither.
    unclear: String,
}

pub(super) fn judge(options: &CompareOptions, baseline: &[Run], candidate: &[Run]) -> Comparison {
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
    // Durations first, as people expect them.
    let (durations, shares): (Vec<_>, Vec<_>) =
        changes.into_iter().partition(|change| change.kind == FigureKind::Duration);
    let warnings = pair.warnings(&durations);
    let changes = durations.into_iter().chain(shares.into_iter().rev()).collect();
    Comparison { decision, reason, changes, warnings, tolerance: options.tolerance }
}

/// Tests all figures as one family.
fn decide(pending: &mut [PendingFigure]) {
    let (indices, p): (Vec<_>, Vec<_>) =
        pending.iter().enumerate().filter_map(|(index, pending)| Some((index, pending.p?))).unzip();
    let mut falls = vec![false; pending.len()];
    for (index, falls_here) in indices.into_iter().zip(holm(&p)) {
        falls[index] = falls_here;
    }
    for (pending, falls) in pending.iter_mut().zip(falls) {
        pending.change.decision = match pending.p {
            Some(_) if falls && pending.may_regress => Decision::Regressed,
            Some(_) if pending.may_pass => Decision::Pass,
            _ => Decision::CannotTell,
        };
        if pending.change.decision == Decision::CannotTell {
            pending.change.note = std::mem::take(&mut pending.unclear);
        }
    }
}

/// What is compared.
struct Pair<'a> {
    options: &'a CompareOptions,
    baseline: &'a [Run],
    candidate: &'a [Run],
}

impl Pair<'_> {
    fn runs(&self) -> usize {
        self.baseline.len().min(self.candidate.len())
    }

    /// The noise between runs cannot be measured.
    fn is_few(&self) -> bool {
        self.runs() < RUNS_A_SIDE
    }

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
            return (Decision::Regressed, text::grown(change, 0.0));
        }
        if let Some((run, why)) = invalid {
            let why = why.trim_end_matches('.');
            return (
                Decision::CannotTell,
                format!("{} is not a valid measurement: {why}.", run.path.display()),
            );
        }
        if let Some(change) = first(Decision::Regressed, None) {
            let accepted = match change.kind {
                FigureKind::Duration => self.options.tolerance,
                _ => self.options.failure_tolerance,
            };
            return (Decision::Regressed, text::grown(change, accepted));
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
            warnings.push(format!("the runs were not configured alike: {} differ", differing.join(", ")));
        }
        if self.is_few() && durations.iter().any(|change| change.change.is_some()) {
            let noise = text::percent(self.options.assumed_noise);
            warnings.push(format!(
                "fewer than {RUNS_A_SIDE} runs per side: two runs of one version are assumed to differ by up to {noise} \
                 (--assumed-noise); the intervals contain the noise within the runs alone"
            ));
        }
        warnings
    }

    fn duration(&self, compared: &ComparedFigure) -> PendingFigure {
        let name = compared.shown();
        let figures = |runs: &[Run]| runs.iter().map(|run| run.figure(compared)).collect::<Option<Vec<_>>>();
        let change = |sides, change, note: &str| FigureChange {
            name: name.clone(),
            kind: FigureKind::Duration,
            sides,
            change,
            decision: Decision::CannotTell,
            note: note.to_owned(),
        };
        let unknown = |sides, note: String| PendingFigure {
            change: change(sides, None, ""),
            p: None,
            may_regress: false,
            may_pass: false,
            unclear: note,
        };
        let (Some(before), Some(after)) = (figures(self.baseline), figures(self.candidate)) else {
            return unknown(None, "not every run has that figure".to_owned());
        };
        let sides = Some((typical(&before), typical(&after)));
        let least = self.options.least_ms / typical(&before).max(f64::MIN_POSITIVE);
        let most = 1.0 + self.options.tolerance.max(least);
        let tested = if self.is_few() {
            self.within_runs(compared, (typical(&before), typical(&after)), most)
        } else {
            let found = ratio_of_runs(&before, &after, most);
            found.ok_or_else(|| "a figure that is not above 0 has no ratio".to_owned())
        };
        let Tested { estimate, p } = match tested {
            Ok(tested) => tested,
            Err(why) => return unknown(sides, why),
        };
        let (may_regress, may_pass) = self.duration_may(&estimate, most, least);
        let unclear = self.unclear_duration(&estimate, most);
        let note = if self.is_few() { text::ASSUMED } else { text::BETWEEN };
        PendingFigure {
            change: change(sides, Some(estimate), note),
            p: Some(p),
            may_regress,
            may_pass,
            unclear,
        }
    }

    /// Of few runs only a difference beyond the assumed noise decides; and one that stays below `least` with that noise.
    fn duration_may(&self, estimate: &Estimate, most: f64, least: f64) -> (bool, bool) {
        let noise = self.options.assumed_noise;
        let Estimate { value, high, .. } = *estimate;
        if !self.is_few() {
            return (value > most, high <= most);
        }
        let faster = value < 1.0 - noise && high <= most;
        (value > most.max(1.0 + noise), faster || high * (1.0 + noise) <= 1.0 + least)
    }

    fn unclear_duration(&self, estimate: &Estimate, most: f64) -> String {
        let distance = (estimate.value.ln() - most.ln()).abs();
        let growth = text::growth(estimate.value);
        if self.is_few() {
            let noise = self.options.assumed_noise;
            let needed = runs_needed(1.0, (1.0 + noise).ln(), distance);
            return format!(
                "{growth} is not beyond the assumed noise of {} (or not beyond the noise within the runs); about {needed} \
                 runs per side would tell",
                text::percent(noise)
            );
        }
        let half = estimate.value.ln() - estimate.low.ln();
        let (low, high) = (text::growth(estimate.low), text::growth(estimate.high));
        if estimate.low > most {
            return format!(
                "{low} to {high} would be a regression of this figure alone, but among several figures chance makes one of \
                 that size; more runs per side would tell"
            );
        }
        #[allow(clippy::cast_precision_loss)]
        let needed = runs_needed(self.runs() as f64, half, distance);
        format!("{low} to {high} is too wide a range to tell; about {needed} runs per side would tell")
    }

    /// The noise within the runs, where their rows are there; without them only the assumed noise decides.
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
                Err("a figure that is not above 0 has no ratio".to_owned())
            };
        };
        let carried = |rows: &Sessions| {
            #[allow(clippy::cast_precision_loss)]
            let above = rows.len() as f64 * (1.0 - compared.percent / 100.0);
            rows.sessions() >= SESSIONS_A_SIDE && above >= ABOVE
        };
        if !carried(&baseline) || !carried(&candidate) {
            return Err(format!("too few queries; {SESSIONS_A_SIDE} sessions per side are the least"));
        }
        let quantile = compared.percent / 100.0;
        ratio_of_sessions(&baseline, &candidate, quantile, most, self.options.seed)
            .ok_or_else(|| "a figure that is not above 0 has no ratio".to_owned())
    }

    /// The share of failed queries, or of tokens that were lost, duplicated or reordered.
    fn share(&self, kind: FigureKind) -> Option<PendingFigure> {
        let (name, accepted) = match kind {
            FigureKind::BrokenTokens => ("broken tokens, points", 0.0),
            _ => ("failed queries, points", self.options.failure_tolerance),
        };
        let of_run = |run: &Run| run.share(kind).value();
        let of_side = |runs: &[Run]| runs.iter().flat_map(|run| run.shares(kind)).collect::<Vec<_>>();
        let (before, after) = (of_side(self.baseline), of_side(self.candidate));
        let Tested { estimate, p } = if self.is_few() {
            difference_of_shares(&before, &after, accepted)?
        } else {
            let figures = |runs: &[Run]| runs.iter().map(of_run).collect::<Vec<_>>();
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
        let unclear = format!(
            "{} ({} to {}) may be chance; about {needed} runs per side would tell",
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
            note: String::new(),
        };
        let may_pass = estimate.value <= accepted;
        Some(PendingFigure { change, p: Some(p), may_regress: beyond_noise, may_pass, unclear })
    }
}

/// So many runs per side that an interval which reaches `half` to each side with `runs` reaches `distance` alone.
fn runs_needed(runs: f64, half: f64, distance: f64) -> String {
    let needed = (runs * (half / distance).powi(2)).ceil().max(RUNS_A_SIDE as f64).max(runs + 1.0);
    if needed <= MAX_RUNS { format!("{needed:.0}") } else { format!("more than {MAX_RUNS:.0}") }
}

/// The geometric mean: what a ratio of runs is taken of.
#[allow(clippy::cast_precision_loss)]
fn typical(figures: &[f64]) -> f64 {
    match figures {
        [one] => *one,
        _ => (figures.iter().map(|figure| figure.ln()).sum::<f64>() / figures.len() as f64).exp(),
    }
}
