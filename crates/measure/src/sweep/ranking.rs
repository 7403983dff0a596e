//! Compares the variants of a sweep. A difference that is not larger than the spread of repetitions is within the noise.
//!
//! Two repetitions are sometimes equal by chance. Their own spread would then make a small difference look real, so the spreads of all
//! variants count as well: their median, times a factor for the number of repetitions. The factors were chosen by simulation, see the test.

use super::{Figure, RANKED, Spread, VariantSummary, Wanted};

/// How a variant compares with the best one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Standing {
    /// The difference is not larger than the spread of repetitions, or than it usually is by chance.
    WithinNoise,
    /// The figure is worse. The share is the relative difference from the best one, or infinite if the best one is 0.
    Worse(f64),
    /// One of the two has a single repetition, so that its spread is unknown.
    Unknown,
}

/// The variants by one figure.
#[derive(Clone, Debug, PartialEq)]
pub struct Ranking {
    /// The figure.
    pub figure: Figure,
    /// Which direction is better.
    pub wanted: Wanted,
    /// Number of the best variant, from 1, with its figure.
    pub best: (usize, Spread),
    /// The other variants from best to worst: number, figure and standing.
    pub others: Vec<(usize, Spread, Standing)>,
}

/// Ranks the variants by each figure of [`RANKED`] that at least two of them have. Variants with a run that did not pass are left out:
/// their figures may be good because they did less.
#[must_use]
pub fn rank(variants: &[VariantSummary]) -> Vec<Ranking> {
    RANKED.into_iter().filter_map(|(figure, wanted)| by(figure, wanted, variants)).collect()
}

fn by(figure: Figure, wanted: Wanted, variants: &[VariantSummary]) -> Option<Ranking> {
    let passed = variants.iter().filter(|variant| variant.runs.all_passed());
    let mut all: Vec<(usize, Spread)> =
        passed.filter_map(|variant| Some((variant.number, *variant.figures.get(figure.key)?))).collect();
    all.sort_by(|(_, a), (_, b)| match wanted {
        Wanted::Low => a.median.total_cmp(&b.median),
        Wanted::High => b.median.total_cmp(&a.median),
    });
    let usual = usual_difference(&all);
    let (best, others) = all.split_first().filter(|(_, others)| !others.is_empty())?;
    let standing = |other: &(usize, Spread)| (other.0, other.1, compare(best.1, other.1, usual));
    Some(Ranking { figure, wanted, best: *best, others: others.iter().map(standing).collect() })
}

/// Returns how large a difference can usually be by chance, from the spreads of all variants.
fn usual_difference(all: &[(usize, Spread)]) -> f64 {
    let repeated: Vec<_> = all.iter().map(|(_, spread)| spread).filter(|spread| spread.count > 1).collect();
    let fewest = repeated.iter().map(|spread| spread.count).min().unwrap_or(0);
    // The spread of few repetitions is smaller than that of many.
    let factor = match fewest {
        ..=2 => 4.0,
        3 => 2.0,
        _ => 1.25,
    };
    let widths = repeated.iter().map(|spread| spread.width()).collect();
    Spread::of(widths).map_or(0.0, |widths| widths.median * factor)
}

fn compare(best: Spread, other: Spread, usual: f64) -> Standing {
    if best.count < 2 || other.count < 2 {
        return Standing::Unknown;
    }
    let difference = (other.median - best.median).abs();
    if difference <= best.width().max(other.width()).max(usual) {
        return Standing::WithinNoise;
    }
    Standing::Worse(difference / best.median.abs())
}

#[cfg(test)]
mod tests {
    use super::super::{Outcomes, Variant, variants};
    use super::*;
    use rand::{RngExt, SeedableRng, rngs::SmallRng};

    fn settings(count: usize) -> Vec<Variant> {
        let values: Vec<_> = (1..=count).map(|value| value.to_string()).collect();
        variants(&[format!("wsproxy={}", values.join(",")).parse().unwrap()]).unwrap()
    }

    fn rows(key: &str, values: &[Vec<f64>]) -> Vec<VariantSummary> {
        let row = |(index, (settings, values)): (usize, (Variant, &Vec<f64>))| VariantSummary {
            number: index + 1,
            settings,
            verdict: "PASS".to_owned(),
            runs: Outcomes { pass: values.len(), ..Outcomes::default() },
            figures: [(key.to_owned(), Spread::of(values.clone()).unwrap())].into(),
        };
        settings(values.len()).into_iter().zip(values).enumerate().map(row).collect()
    }

    #[test]
    fn a_difference_within_the_spread_is_noise() {
        let rows = rows("e2el_p99_ms", &[vec![100.0, 110.0], vec![104.0, 112.0], vec![149.0, 151.0]]);
        let ranking = rank(&rows).pop().unwrap();
        assert_eq!((ranking.best.0, ranking.best.1.median), (1, 105.0));
        assert_eq!(ranking.others[0].2, Standing::WithinNoise);
        let (number, _, Standing::Worse(share)) = ranking.others[1] else { panic!("{ranking:?}") };
        assert_eq!((number, (share * 1000.0).round()), (3, 429.0));
    }

    #[test]
    fn throughput_is_better_if_it_is_high() {
        let ranking = rank(&rows("tokens_per_s", &[vec![10.0, 10.0], vec![30.0, 30.0], vec![20.0, 20.0]]))
            .pop()
            .unwrap();
        assert_eq!(ranking.best.0, 2);
        assert_eq!(ranking.others.iter().map(|other| other.0).collect::<Vec<_>>(), [3, 1]);
    }

    #[test]
    fn one_repetition_decides_nothing() {
        let ranking = rank(&rows("e2el_p99_ms", &[vec![100.0], vec![900.0]])).pop().unwrap();
        assert_eq!(ranking.others[0].2, Standing::Unknown);
    }

    #[test]
    fn a_variant_that_did_not_pass_is_not_ranked() {
        let mut rows = rows("e2el_p99_ms", &[vec![1.0, 1.0], vec![100.0, 110.0], vec![90.0, 99.0]]);
        rows[0].runs = Outcomes { pass: 1, fail: 1, ..Outcomes::default() };
        assert_eq!(rank(&rows).pop().unwrap().best.0, 3);
        rows[1].runs = Outcomes { invalid: 2, ..Outcomes::default() };
        assert!(rank(&rows).is_empty(), "one variant alone is not compared");
    }

    #[test]
    fn two_equal_repetitions_do_not_hide_the_noise_of_the_others() {
        let rows = rows(
            "e2el_p99_ms",
            &[vec![100.0, 100.0], vec![103.0, 103.0], vec![100.0, 108.0], vec![101.0, 109.0]],
        );
        let ranking = rank(&rows).pop().unwrap();
        assert!(ranking.others.iter().all(|other| other.2 == Standing::WithinNoise), "{ranking:?}");
    }

    /// Returns the share of sweeps of four equal variants in which a variant looks worse than the best one.
    fn wrong(repetitions: usize, rng: &mut SmallRng) -> f64 {
        // A sum of twelve uniform draws is nearly normal.
        let mut normal = || (0..12).map(|_| rng.random_range(0.0..1.0)).sum::<f64>();
        let mut looks_different = |_: &i32| {
            let values: Vec<Vec<f64>> =
                (0..4).map(|_| (0..repetitions).map(|_| 1000.0 + normal()).collect()).collect();
            let ranking = rank(&rows("e2el_p99_ms", &values)).pop().unwrap();
            ranking.others.iter().any(|other| matches!(other.2, Standing::Worse(_)))
        };
        (0..2_000).filter(|sweep| looks_different(sweep)).count() as f64 / 2_000.0
    }

    /// docs/sweep.md states these shares.
    #[test]
    fn equal_variants_rarely_look_different() {
        let mut rng = SmallRng::seed_from_u64(7);
        let shares = [2, 3, 4].map(|repetitions| wrong(repetitions, &mut rng));
        assert!(shares[0] < 0.1 && shares[1] < 0.05 && shares[2] < 0.05, "{shares:?}");
    }
}
