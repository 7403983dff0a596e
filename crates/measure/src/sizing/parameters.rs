//! How well the points determine the parameters of a law.

use super::{
    linear::solve,
    model::{Curve, Sample},
};
use serde::Serialize;

/// Standard errors of the parameters of a law. `None` for a parameter that is zero, which is the end of its range, and for all of them if
/// there are no more points than parameters, or if the points do not tell the parameters apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct ParameterErrors {
    /// Of λ.
    pub lambda: Option<f64>,
    /// Of σ.
    pub sigma: Option<f64>,
    /// Of κ.
    pub kappa: Option<f64>,
}

impl ParameterErrors {
    /// Returns the standard errors of a curve that was fitted to the samples: those of the linear approximation at the fit, from the
    /// scatter of the relative errors with one degree of freedom less for each parameter.
    #[must_use]
    #[allow(clippy::cast_precision_loss)]
    pub(super) fn of(curve: &Curve, samples: &[Sample]) -> Self {
        let free: Vec<usize> = [true, curve.sigma > 0.0, curve.kappa > 0.0]
            .iter()
            .enumerate()
            .filter(|(_, free)| **free)
            .map(|(index, _)| index)
            .collect();
        if samples.len() <= free.len() {
            return Self::default();
        }
        let rows: Vec<[f64; 3]> = samples.iter().map(|sample| slopes(curve, sample)).collect();
        let squares: f64 = samples.iter().map(|&(users, rate)| (curve.at(users) / rate - 1.0).powi(2)).sum();
        let scatter = (squares / (samples.len() - free.len()) as f64).sqrt();
        // Each column in its own unit: the sums would mix 1 with 10¹⁰ otherwise.
        let norms = [0, 1, 2].map(|index| rows.iter().map(|row| row[index].powi(2)).sum::<f64>().sqrt());
        let error = |index: usize| {
            let place = free.iter().position(|&of| of == index)?;
            let matrix = free.iter().enumerate().map(|(number, &i)| {
                let product =
                    |j: usize| rows.iter().map(|row| row[i] * row[j]).sum::<f64>() / norms[i] / norms[j];
                let unit = if number == place { 1.0 } else { 0.0 };
                free.iter().map(|&j| product(j)).chain([unit]).collect()
            });
            let variance = solve(matrix.collect())?[place];
            (variance.is_finite() && variance >= 0.0).then(|| scatter * variance.sqrt() / norms[index])
        };
        Self { lambda: error(0), sigma: error(1), kappa: error(2) }
    }
}

/// Returns how the relative error at a sample changes with λ, σ and κ.
fn slopes(curve: &Curve, &(users, rate): &Sample) -> [f64; 3] {
    let ratio = curve.at(users) / rate;
    let slowed = ratio * curve.efficiency(users);
    [ratio / curve.lambda, -slowed * (users - 1.0), -slowed * users * (users - 1.0)]
}

#[cfg(test)]
mod tests {
    use super::super::{fit::fit, model::Law};
    use super::*;
    use rand::{RngExt, SeedableRng, rngs::SmallRng};

    const LOADS: [f64; 8] = [10.0, 50.0, 100.0, 200.0, 400.0, 600.0, 800.0, 1_000.0];
    const KNOWN: Curve = Curve { law: Law::Usl, lambda: 20.0, sigma: 1e-3, kappa: 1e-6 };

    /// Points of a known law with errors that are about normal, with this standard deviation.
    fn noisy(deviation: f64, seed: u64) -> Vec<Sample> {
        let mut rng = SmallRng::seed_from_u64(seed);
        let mut normal = || (0..12).map(|_| rng.random_range(-0.5..0.5_f64)).sum::<f64>();
        LOADS.iter().map(|&users| (users, KNOWN.at(users) * (1.0 + deviation * normal()))).collect()
    }

    #[test]
    fn known_parameters_lie_within_their_errors_about_as_often_as_they_should() {
        let mut inside = [0; 3];
        let (runs, mut free) = (300, 0);
        for seed in 0..runs {
            let points = noisy(0.01, seed);
            let curve = fit(Law::Usl, &points).unwrap();
            let errors = ParameterErrors::of(&curve, &points);
            let all = [
                (errors.lambda, curve.lambda - KNOWN.lambda),
                (errors.sigma, curve.sigma - KNOWN.sigma),
                (errors.kappa, curve.kappa - KNOWN.kappa),
            ];
            if all.iter().any(|(error, _)| error.is_none()) {
                continue;
            }
            free += 1;
            for (count, (error, off)) in inside.iter_mut().zip(all) {
                *count += usize::from(off.abs() <= 2.571 * error.unwrap());
            }
        }
        // 2.571 standard errors are 95 % with five degrees of freedom.
        assert!(free > runs * 9 / 10, "{free} fits had no parameter at the end of its range");
        for count in inside {
            let share = count as f64 / free as f64;
            assert!((0.90..=0.99).contains(&share), "{share}: {inside:?} of {free}");
        }
    }

    #[test]
    fn what_the_points_do_not_tell_has_no_error() {
        let exact: Vec<Sample> = LOADS.iter().map(|&users| (users, 20.0 * users)).collect();
        let line = fit(Law::Linear, &exact).unwrap();
        let errors = ParameterErrors::of(&line, &exact);
        assert!(
            errors.lambda.unwrap() < 1e-9 && errors.sigma.is_none() && errors.kappa.is_none(),
            "{errors:?}"
        );
        assert_eq!(ParameterErrors::of(&KNOWN, &noisy(0.01, 1)[..3]), ParameterErrors::default());
        let one_load = vec![(100.0, 1_000.0); 8];
        assert_eq!(ParameterErrors::of(&KNOWN, &one_load).sigma, None);
    }
}
