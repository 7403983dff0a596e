//! How much a figure changed and how sure that is: bootstrap intervals of a ratio, and one of a difference of shares.
//! Pure and seeded: the same samples give the same answer. It knows no file and makes no verdict.
//!
//! Sources: Efron and Tibshirani, *An Introduction to the Bootstrap* (1993), chapters 8 and 13 (percentile interval, resampling
//! of whole clusters); Hesterberg, *What Teachers Should Know About the Bootstrap* (2015), section 3.3 (the expanded percentile
//! interval for small samples); Newcombe, *Interval estimation for the difference between independent proportions*, Statistics
//! in Medicine 17 (1998), method 10.

use rand::{RngExt, SeedableRng, rngs::SmallRng};

/// Resamples of each side.
const RESAMPLES: usize = 2_000;
/// Two sides of 95 %.
const Z: f64 = 1.959_964;
/// 97.5 % of Student's t, by degrees of freedom from 1.
const T: [f64; 30] = [
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
    2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
];

/// A value with its 95 % confidence interval.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    /// The value itself.
    pub value: f64,
    /// The interval's lower end.
    pub low: f64,
    /// The interval's upper end.
    pub high: f64,
}

/// Durations of queries with the session that each belongs to. Queries of one session resemble each other, so sessions
/// are drawn whole.
#[derive(Clone, Debug, Default)]
pub struct Sessions {
    /// Value and session, sorted by value.
    values: Vec<(f64, usize)>,
    sessions: usize,
}

impl Sessions {
    /// Of values, each with the number of its session, from 0 to below `sessions`.
    #[must_use]
    pub fn new(mut values: Vec<(f64, usize)>, sessions: usize) -> Self {
        values.sort_unstable_by(|(a, _), (b, _)| a.total_cmp(b));
        Self { values, sessions }
    }

    /// How many sessions.
    #[must_use]
    pub const fn sessions(&self) -> usize {
        self.sessions
    }

    /// Every value with its session, smallest first.
    pub fn values(&self) -> impl Iterator<Item = (f64, usize)> {
        self.values.iter().copied()
    }

    /// How many values.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.values.len()
    }

    /// Nothing is in it.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// The smallest value that `quantile` (0 to 1) of all do not exceed; `None` of nothing.
    #[must_use]
    pub fn quantile(&self, quantile: f64) -> Option<f64> {
        self.weighted(quantile, &vec![1; self.sessions])
    }

    /// The same where each session counts as often as `weights` says.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
    fn weighted(&self, quantile: f64, weights: &[u32]) -> Option<f64> {
        let total: u64 = self.values.iter().map(|&(_, session)| u64::from(weights[session])).sum();
        let rank = ((quantile * total as f64).ceil() as u64).clamp(1, total.max(1));
        let mut seen = 0;
        let reached = |&&(_, session): &&(f64, usize)| {
            seen += u64::from(weights[session]);
            seen >= rank
        };
        self.values.iter().find(reached).map(|&(value, _)| value)
    }

    fn replicates(&self, quantile: f64, rng: &mut SmallRng) -> Vec<f64> {
        let mut weights = vec![0u32; self.sessions];
        let one = |_| {
            weights.fill(0);
            (0..self.sessions).for_each(|_| weights[rng.random_range(0..self.sessions)] += 1);
            self.weighted(quantile, &weights).unwrap_or(f64::NAN).ln()
        };
        (0..RESAMPLES).map(one).collect()
    }
}

/// Candidate / baseline of a percentile, the noise taken from the sessions of each side.
/// `None` where a side has nothing, or a percentile is not above 0.
#[must_use]
pub fn ratio_of_sessions(
    baseline: &Sessions,
    candidate: &Sessions,
    quantile: f64,
    seed: u64,
) -> Option<Estimate> {
    let above_zero = |value: &f64| *value > 0.0;
    let of_baseline = baseline.quantile(quantile).filter(above_zero)?;
    let of_candidate = candidate.quantile(quantile).filter(above_zero)?;
    let mut rng = SmallRng::seed_from_u64(seed);
    let baselines = baseline.replicates(quantile, &mut rng);
    let candidates = candidate.replicates(quantile, &mut rng);
    let few = baseline.sessions.min(candidate.sessions);
    interval(of_candidate / of_baseline, &baselines, &candidates, few)
}

/// Candidate / baseline of a figure, each side's the geometric mean of its runs', the noise taken from between the runs.
/// `None` where a side has fewer than two runs, or a figure is not above 0.
#[must_use]
pub fn ratio_of_runs(baseline: &[f64], candidate: &[f64], seed: u64) -> Option<Estimate> {
    let few = baseline.len().min(candidate.len());
    if few < 2 || baseline.iter().chain(candidate).any(|&figure| figure <= 0.0 || !figure.is_finite()) {
        return None;
    }
    let logs = |figures: &[f64]| figures.iter().map(|figure| figure.ln()).collect::<Vec<_>>();
    let (baseline, candidate) = (logs(baseline), logs(candidate));
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut replicates = |logs: &[f64]| -> Vec<f64> {
        let one = |_| mean((0..logs.len()).map(|_| logs[rng.random_range(0..logs.len())]), logs.len());
        (0..RESAMPLES).map(one).collect()
    };
    let (baselines, candidates) = (replicates(&baseline), replicates(&candidate));
    let of = |logs: &[f64]| mean(logs.iter().copied(), logs.len());
    interval((of(&candidate) - of(&baseline)).exp(), &baselines, &candidates, few)
}

#[allow(clippy::cast_precision_loss)]
fn mean(values: impl Iterator<Item = f64>, count: usize) -> f64 {
    values.sum::<f64>() / count as f64
}

/// The expanded percentile interval of `exp(candidate − baseline)`, of logarithms drawn from `few` things or more.
fn interval(value: f64, baselines: &[f64], candidates: &[f64], few: usize) -> Option<Estimate> {
    let mut logs: Vec<_> =
        candidates.iter().zip(baselines).map(|(candidate, baseline)| candidate - baseline).collect();
    if few < 2 || logs.iter().any(|log| !log.is_finite()) {
        return None;
    }
    logs.sort_unstable_by(f64::total_cmp);
    let tail = tail(few);
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
    let at = |quantile: f64| {
        logs[((quantile * (logs.len() - 1) as f64).round() as usize).min(logs.len() - 1)].exp()
    };
    Some(Estimate { value, low: at(tail).min(value), high: at(1.0 - tail).max(value) })
}

/// The share of resamples beyond each end: Φ(−t·√(n/(n−1))). A resample of few varies less than a new sample would.
#[allow(clippy::cast_precision_loss)]
fn tail(count: usize) -> f64 {
    let freedom = count - 1;
    let t = T.get(freedom - 1).copied().unwrap_or(Z + (Z.powi(3) + Z) / (4.0 * freedom as f64));
    normal_below(-t * (count as f64 / freedom as f64).sqrt())
}

/// The standard normal distribution below a negative `z`; Abramowitz and Stegun 26.2.17, good to 7.5e-8.
fn normal_below(z: f64) -> f64 {
    let x = z.abs();
    let t = 1.0 / (1.0 + 0.231_641_9 * x);
    let series = [0.319_381_530, -0.356_563_782, 1.781_477_937, -1.821_255_978, 1.330_274_429];
    let sum = series.iter().rev().fold(0.0, |sum, coefficient| (sum + coefficient) * t);
    (-x * x / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt() * sum
}

/// Candidate − baseline of the share that failed, with Newcombe's interval from two of Wilson's. `None` of nothing.
#[must_use]
pub fn difference_of_shares(baseline: (u64, u64), candidate: (u64, u64)) -> Option<Estimate> {
    let (before, after) = (wilson(baseline)?, wilson(candidate)?);
    let value = after.value - before.value;
    let low = value - (after.value - after.low).hypot(before.high - before.value);
    let high = value + (after.high - after.value).hypot(before.value - before.low);
    Some(Estimate { value, low, high })
}

/// Wilson's interval of a share.
#[allow(clippy::cast_precision_loss)]
fn wilson((part, whole): (u64, u64)) -> Option<Estimate> {
    if whole == 0 {
        return None;
    }
    let (n, share) = (whole as f64, part as f64 / whole as f64);
    let centre = share + Z * Z / (2.0 * n);
    let half = Z * (share * (1.0 - share) / n + Z * Z / (4.0 * n * n)).sqrt();
    let scale = 1.0 + Z * Z / n;
    Some(Estimate { value: share, low: (centre - half) / scale, high: (centre + half) / scale })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Standard normal, by Box and Muller.
    fn normal(rng: &mut SmallRng) -> f64 {
        let (u, v): (f64, f64) = (rng.random_range(f64::MIN_POSITIVE..1.0), rng.random_range(0.0..1.0));
        (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
    }

    fn runs(rng: &mut SmallRng, count: usize, median: f64, noise: f64) -> Vec<f64> {
        (0..count).map(|_| median * (noise * normal(rng)).exp()).collect()
    }

    /// Queries of sessions that differ among themselves, log-normal around `median`.
    fn sessions(rng: &mut SmallRng, count: usize, median: f64) -> Sessions {
        let mut values = Vec::new();
        for session in 0..count {
            let own = 0.3 * normal(rng);
            values.extend((0..10).map(|_| (median * (own + 0.2 * normal(rng)).exp(), session)));
        }
        Sessions::new(values, count)
    }

    /// How often the interval held the truth, in percent.
    fn coverage(trials: u32, truth: f64, mut one: impl FnMut(&mut SmallRng, u64) -> Estimate) -> u32 {
        let mut rng = SmallRng::seed_from_u64(11);
        let held = (0..trials).filter(|&trial| {
            let estimate = one(&mut rng, u64::from(trial));
            (estimate.low..=estimate.high).contains(&truth)
        });
        u32::try_from(held.count()).unwrap() * 100 / trials
    }

    #[test]
    fn the_interval_holds_the_truth_about_as_often_as_it_says_of_runs() {
        for count in [4, 5, 10] {
            let held = coverage(300, 1.2, |rng, seed| {
                let (before, after) = (runs(rng, count, 500.0, 0.05), runs(rng, count, 600.0, 0.05));
                ratio_of_runs(&before, &after, seed).unwrap()
            });
            assert!((92..=100).contains(&held), "{count} runs: {held} %");
        }
    }

    #[test]
    fn the_interval_holds_the_truth_about_as_often_as_it_says_of_sessions() {
        for quantile in [0.5, 0.95] {
            let held = coverage(100, 1.1, |rng, seed| {
                let (before, after) = (sessions(rng, 60, 500.0), sessions(rng, 60, 550.0));
                ratio_of_sessions(&before, &after, quantile, seed).unwrap()
            });
            assert!((89..=100).contains(&held), "p{quantile}: {held} %");
        }
    }

    #[test]
    fn a_large_change_is_seen_and_none_is_not() {
        let mut rng = SmallRng::seed_from_u64(5);
        let (before, after) = (runs(&mut rng, 6, 500.0, 0.01), runs(&mut rng, 6, 600.0, 0.01));
        let grown = ratio_of_runs(&before, &after, 1).unwrap();
        assert!(grown.low > 1.15 && grown.high < 1.25, "{grown:?}");
        let same = ratio_of_runs(&before, &before, 1).unwrap();
        assert!(same.low <= 1.0 && same.high >= 1.0 && (same.value - 1.0).abs() < 1e-9, "{same:?}");
        assert_eq!(ratio_of_runs(&before, &after, 1), Some(grown), "seeded");
        assert_eq!(ratio_of_runs(&[1.0], &after, 1), None);
        assert_eq!(ratio_of_runs(&[1.0, 0.0], &after, 1), None);
    }

    #[test]
    fn quantiles_are_those_of_the_sorted_list() {
        let sample = Sessions::new((1..=100).rev().map(|n| (f64::from(n), 0)).collect(), 1);
        for (quantile, expected) in [(0.0, 1.0), (0.5, 50.0), (0.95, 95.0), (0.951, 96.0), (1.0, 100.0)] {
            assert_eq!(sample.quantile(quantile), Some(expected), "{quantile}");
        }
        assert_eq!(Sessions::default().quantile(0.5), None);
        let nothing = Sessions::default();
        assert_eq!(ratio_of_sessions(&nothing, &sample, 0.5, 1), None);
    }

    #[test]
    fn the_tails_are_those_of_the_tables() {
        assert!((normal_below(-1.959_964) - 0.025).abs() < 1e-6);
        assert!((normal_below(-1.0) - 0.158_655).abs() < 1e-5);
        assert!((tail(1_000_000) - 0.025).abs() < 1e-5);
        assert!(tail(5) < 0.001 && tail(30) > 0.015);
    }

    /// Newcombe's own example: 56/70 and 48/80 differ by 0.0524 to 0.3339.
    #[test]
    fn a_difference_of_shares_is_the_published_one() {
        let found = difference_of_shares((48, 80), (56, 70)).unwrap();
        assert!((found.value - 0.2).abs() < 1e-9, "{found:?}");
        assert!((found.low - 0.0524).abs() < 1e-4 && (found.high - 0.3339).abs() < 1e-4, "{found:?}");
        assert_eq!(difference_of_shares((0, 0), (1, 2)), None);
        let none = difference_of_shares((0, 1000), (0, 1000)).unwrap();
        assert!(none.low < 0.0 && none.high > 0.0, "{none:?}");
    }
}
