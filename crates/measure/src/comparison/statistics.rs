//! Estimates how much a figure changed: ratios of durations and differences of shares. Each has a confidence interval, and the
//! probability that chance alone causes a growth of this size. Random draws come from a seed.
//!
//! Sources: Efron and Tibshirani, *An Introduction to the Bootstrap* (1993), chapters 8 and 13 (percentile interval, resampling
//! of whole clusters); Hesterberg, *What Teachers Should Know About the Bootstrap* (2015), section 3.3 (the expanded percentile
//! interval for small samples); Welch, *The generalization of Student's problem*, Biometrika 34 (1947); Newcombe, *Interval
//! estimation for the difference between independent proportions*, Statistics in Medicine 17 (1998), method 10; Rao and Scott,
//! *A simple method for the analysis of clustered binary data*, Biometrics 48 (1992) (the design effect); Holm, *A simple
//! sequentially rejective multiple test procedure*, Scandinavian Journal of Statistics 6 (1979).

use rand::{RngExt, SeedableRng, rngs::SmallRng};
use std::f64::consts::FRAC_PI_2;

/// Number of resamples per side.
const RESAMPLES: usize = 2_000;
/// Probability beyond each end of a 95 % interval.
pub(super) const ALPHA: f64 = 0.025;
/// Standard normal quantile of a two-sided 95 % interval.
const Z: f64 = 1.959_964;

/// A value with its 95 % confidence interval.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    /// The estimated value.
    pub value: f64,
    /// Lower end of the interval.
    pub low: f64,
    /// Upper end of the interval.
    pub high: f64,
}

/// A change that was tested against a bound.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tested {
    /// The estimated change.
    pub estimate: Estimate,
    /// Probability of a change at least as large if the true change equals the bound.
    pub p: f64,
}

/// A part of a whole, for example the failed queries among all queries of a session.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Share {
    /// Size of the part.
    pub part: f64,
    /// Size of the whole.
    pub whole: f64,
}

impl Share {
    /// Returns the sum of several shares.
    #[must_use]
    pub fn sum<'a>(shares: impl IntoIterator<Item = &'a Self>) -> Self {
        shares.into_iter().fold(Self::default(), |sum, share| Self {
            part: sum.part + share.part,
            whole: sum.whole + share.whole,
        })
    }

    /// Returns part / whole, or 0 if the whole is 0.
    #[must_use]
    pub fn value(&self) -> f64 {
        if self.whole > 0.0 { self.part / self.whole } else { 0.0 }
    }
}

/// Durations of queries, each with its session. Queries of one session resemble each other, so resampling draws whole
/// sessions.
#[derive(Clone, Debug, Default)]
pub struct Sessions {
    /// Values with their sessions, sorted by value.
    values: Vec<(f64, usize)>,
    sessions: usize,
}

impl Sessions {
    /// Creates a sample from values, each with the number of its session, from 0 to `sessions` - 1.
    #[must_use]
    pub fn new(mut values: Vec<(f64, usize)>, sessions: usize) -> Self {
        values.sort_unstable_by(|(a, _), (b, _)| a.total_cmp(b));
        Self { values, sessions }
    }

    /// Returns the number of sessions.
    #[must_use]
    pub const fn sessions(&self) -> usize {
        self.sessions
    }

    /// Returns every value with its session, smallest first.
    pub fn values(&self) -> impl Iterator<Item = (f64, usize)> {
        self.values.iter().copied()
    }

    /// Returns the number of values.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.values.len()
    }

    /// Returns whether the sample has no values.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// Returns the smallest value that the share `quantile` (0 to 1) of all values does not exceed. `None` without values.
    #[must_use]
    pub fn quantile(&self, quantile: f64) -> Option<f64> {
        self.weighted(quantile, &vec![1; self.sessions], self.values.len() as u64)
    }

    /// Returns the quantile of the sample in which each session occurs as often as `weights` says. `total` is the number of
    /// values in that sample.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
    fn weighted(&self, quantile: f64, weights: &[u32], total: u64) -> Option<f64> {
        let rank = ((quantile * total as f64).ceil() as u64).clamp(1, total.max(1));
        let mut seen = 0;
        let reached = |&&(_, session): &&(f64, usize)| {
            seen += u64::from(weights[session]);
            seen >= rank
        };
        self.values.iter().find(reached).map(|&(value, _)| value)
    }

    /// Returns the logarithm of the quantile in each of [`RESAMPLES`] resamples.
    fn replicates(&self, quantile: f64, rng: &mut SmallRng) -> Vec<f64> {
        let (mut weights, mut sizes) = (vec![0u32; self.sessions], vec![0u64; self.sessions]);
        self.values.iter().for_each(|&(_, session)| sizes[session] += 1);
        let one = |_| {
            weights.fill(0);
            let mut total = 0;
            for _ in 0..self.sessions {
                let drawn = rng.random_range(0..self.sessions);
                weights[drawn] += 1;
                total += sizes[drawn];
            }
            self.weighted(quantile, &weights, total).unwrap_or(f64::NAN).ln()
        };
        (0..RESAMPLES).map(one).collect()
    }
}

/// Estimates candidate / baseline of a percentile and tests the ratio against `bound`. The noise is that between the sessions
/// of each side. `None` if a side has no values, or if a percentile is not above 0.
#[must_use]
pub fn ratio_of_sessions(
    baseline: &Sessions,
    candidate: &Sessions,
    quantile: f64,
    bound: f64,
    seed: u64,
) -> Option<Tested> {
    let above_zero = |value: &f64| *value > 0.0;
    let of_baseline = baseline.quantile(quantile).filter(above_zero)?;
    let of_candidate = candidate.quantile(quantile).filter(above_zero)?;
    let mut rng = SmallRng::seed_from_u64(seed);
    let baselines = baseline.replicates(quantile, &mut rng);
    let candidates = candidate.replicates(quantile, &mut rng);
    let few = baseline.sessions.min(candidate.sessions);
    let mut logs: Vec<_> =
        candidates.iter().zip(&baselines).map(|(candidate, baseline)| candidate - baseline).collect();
    if few < 2 || logs.iter().any(|log| !log.is_finite()) {
        return None;
    }
    logs.sort_unstable_by(f64::total_cmp);
    let (tail, value) = (tail(few), of_candidate / of_baseline);
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
    let at = |quantile: f64| {
        logs[((quantile * (logs.len() - 1) as f64).round() as usize).min(logs.len() - 1)].exp()
    };
    let estimate = Estimate { value, low: at(tail).min(value), high: at(1.0 - tail).max(value) };
    #[allow(clippy::cast_precision_loss)]
    let p = (logs.partition_point(|log| *log <= bound.ln()) + 1) as f64 / (logs.len() + 1) as f64;
    Some(Tested { estimate, p })
}

/// Estimates candidate / baseline of a figure and tests the ratio against `bound`. The value of a side is the geometric mean of
/// its runs, and the noise is that between the runs. `None` if a side has fewer than two runs, or if a value is not above 0.
#[must_use]
pub fn ratio_of_runs(baseline: &[f64], candidate: &[f64], bound: f64) -> Option<Tested> {
    if baseline.iter().chain(candidate).any(|&figure| figure <= 0.0 || !figure.is_finite()) {
        return None;
    }
    let logs = |figures: &[f64]| figures.iter().map(|figure| figure.ln()).collect::<Vec<_>>();
    let Tested { estimate: Estimate { value, low, high }, p } =
        difference_of_runs(&logs(baseline), &logs(candidate), bound.ln())?;
    Some(Tested { estimate: Estimate { value: value.exp(), low: low.exp(), high: high.exp() }, p })
}

/// Estimates candidate − baseline of a figure's mean over the runs by Welch's t, and tests the difference against `bound`.
/// `None` if a side has fewer than two runs.
#[must_use]
#[allow(clippy::cast_precision_loss)]
pub fn difference_of_runs(baseline: &[f64], candidate: &[f64], bound: f64) -> Option<Tested> {
    // Mean, variance of the mean, and its term in the degrees of freedom.
    let moments = |figures: &[f64]| {
        let n = figures.len() as f64;
        let mean = figures.iter().sum::<f64>() / n;
        let variance = figures.iter().map(|figure| (figure - mean).powi(2)).sum::<f64>() / (n - 1.0) / n;
        (mean, variance, variance * variance / (n - 1.0))
    };
    if baseline.len().min(candidate.len()) < 2 {
        return None;
    }
    let (before, after) = (moments(baseline), moments(candidate));
    let (value, variance) = (after.0 - before.0, before.1 + after.1);
    // A rounding error is not noise.
    let error = variance.sqrt().max(1e-12 * (before.0.abs() + after.0.abs()));
    if error == 0.0 || variance == 0.0 {
        let p = if value - bound > error { 0.0 } else { 1.0 };
        return Some(Tested { estimate: Estimate { value, low: value, high: value }, p });
    }
    let least = baseline.len().min(candidate.len()) as f64 - 1.0;
    let freedom = (variance * variance / (before.2 + after.2)).max(least);
    let half = t_quantile(freedom) * error;
    let estimate = Estimate { value, low: value - half, high: value + half };
    Some(Tested { estimate, p: t_above((value - bound) / error, freedom) })
}

/// Estimates candidate − baseline of a share with Newcombe's interval (made from two Wilson intervals), and tests the
/// difference against `bound`. Failures within one session are not independent, so the sizes of both sides are divided by
/// the design effect. `None` if a whole is 0.
#[must_use]
pub fn difference_of_shares(baseline: &[Share], candidate: &[Share], bound: f64) -> Option<Tested> {
    let effect = design_effect(baseline, candidate);
    let smaller = |shares: &[Share]| {
        let Share { part, whole } = Share::sum(shares);
        (whole > 0.0).then_some(Share { part: part / effect, whole: whole / effect })
    };
    let (before, after) = (smaller(baseline)?, smaller(candidate)?);
    let value = after.value() - before.value();
    let ends = |z: f64| {
        let (before, after) = (wilson(before, z), wilson(after, z));
        let low = value - (after.value - after.low).hypot(before.high - before.value);
        (low, value + (after.high - after.value).hypot(before.value - before.low))
    };
    let (low, high) = ends(Z);
    // The interval that just touches the bound.
    let touching = bisected(0.0, 40.0, |z| ends(z).0 > bound);
    let p = if value > bound { normal_below(-touching) } else { 1.0 };
    Some(Tested { estimate: Estimate { value, low, high }, p })
}

/// Returns how many times more the sessions vary than if their queries or tokens were independent, at least 1.
fn design_effect(baseline: &[Share], candidate: &[Share]) -> f64 {
    let (mut seen, mut expected) = (0.0, 0.0);
    for side in [baseline, candidate] {
        let sum = Share::sum(side);
        let share = sum.value();
        expected += share * (1.0 - share) * sum.whole;
        seen += side.iter().map(|session| (session.part - share * session.whole).powi(2)).sum::<f64>();
    }
    if expected > 0.0 { (seen / expected).max(1.0) } else { 1.0 }
}

/// Returns Wilson's interval of a share.
fn wilson(of: Share, z: f64) -> Estimate {
    let (n, share) = (of.whole, of.value());
    let centre = share + z * z / (2.0 * n);
    let half = z * (share * (1.0 - share) / n + z * z / (4.0 * n * n)).max(0.0).sqrt();
    let scale = 1.0 + z * z / n;
    Estimate { value: share, low: (centre - half) / scale, high: (centre + half) / scale }
}

/// Returns which of several hypotheses are rejected. A false alarm among all of them together has a probability of at most
/// 2.5 %.
#[must_use]
pub fn holm(p: &[f64]) -> Vec<bool> {
    let mut order: Vec<_> = (0..p.len()).collect();
    order.sort_by(|&a, &b| p[a].total_cmp(&p[b]));
    let mut rejected = vec![false; p.len()];
    for (rank, &index) in order.iter().enumerate() {
        #[allow(clippy::cast_precision_loss)]
        let left = (p.len() - rank) as f64;
        if p[index] > ALPHA / left {
            break;
        }
        rejected[index] = true;
    }
    rejected
}

/// Returns the share of resamples beyond each end of the interval: Φ(−t·√(n/(n−1))). This widens the interval of a small
/// sample, whose resamples vary less than new samples would.
#[allow(clippy::cast_precision_loss)]
fn tail(count: usize) -> f64 {
    let freedom = count as f64 - 1.0;
    normal_below(-t_quantile(freedom) * (count as f64 / freedom).sqrt())
}

/// Returns the value that Student's t exceeds with probability [`ALPHA`].
fn t_quantile(freedom: f64) -> f64 {
    if freedom > 2e3 {
        return Z;
    }
    bisected(0.0, 100.0, |t| t_above(t, freedom) > ALPHA)
}

/// Returns the probability that Student's t exceeds `t`. With t = √ν·tan θ, the density of θ is proportional to cos^(ν−1) θ.
fn t_above(t: f64, freedom: f64) -> f64 {
    if freedom > 2e3 {
        return if t < 0.0 { 1.0 - normal_below(t) } else { normal_below(-t) };
    }
    // Simpson's rule.
    let integral = |from: f64, to: f64| {
        const STEPS: u32 = 256;
        let width = (to - from) / f64::from(STEPS);
        let at = |step: u32| (from + width * f64::from(step)).cos().max(0.0).powf(freedom - 1.0);
        let inner = (1..STEPS).map(|step| at(step) * if step % 2 == 1 { 4.0 } else { 2.0 });
        (inner.sum::<f64>() + at(0) + at(STEPS)) * width / 3.0
    };
    let beyond = integral((t.abs() / freedom.sqrt()).atan(), FRAC_PI_2) / (2.0 * integral(0.0, FRAC_PI_2));
    if t < 0.0 { 1.0 - beyond } else { beyond }
}

/// Finds by bisection the value between `low` and `high` at which `is_so` becomes false.
fn bisected(mut low: f64, mut high: f64, is_so: impl Fn(f64) -> bool) -> f64 {
    for _ in 0..50 {
        let middle = f64::midpoint(low, high);
        if is_so(middle) { low = middle } else { high = middle }
    }
    low
}

/// Returns the probability of a standard normal value below a negative `z`, by Abramowitz and Stegun 26.2.17. The error is
/// below 7.5e-8.
fn normal_below(z: f64) -> f64 {
    let x = z.abs();
    let t = 1.0 / (1.0 + 0.231_641_9 * x);
    let series = [0.319_381_530, -0.356_563_782, 1.781_477_937, -1.821_255_978, 1.330_274_429];
    let sum = series.iter().rev().fold(0.0, |sum, coefficient| (sum + coefficient) * t);
    (-x * x / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt() * sum
}

#[cfg(test)]
mod tests;
