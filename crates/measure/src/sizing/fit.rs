//! Fits the laws of scalability to measured points, and states how wrong they are.
//!
//! The squares of the *relative* errors are minimised, because the scatter of a throughput grows with it. With
//! q(N) = N·λ⁻¹ slowdown = a + b(N−1) + cN(N−1), a law is X = N/q, so that a = 1/λ, b = σ/λ and c = κ/λ. This is linear in N/X, which
//! gives the start of the Gauss-Newton steps. Parameters must not be negative: each choice of parameters that are zero is fitted by
//! itself, and the best one without a negative parameter is the result. There are at most four, so this is exact and needs no solver
//! for constraints.

use super::{
    linear::solve,
    model::{Curve, Law, Sample},
    parameters::ParameterErrors,
};
use serde::Serialize;

/// Largest number of Gauss-Newton steps. Each multiplies the error; a few are enough.
const STEPS: usize = 60;
/// Largest number of times that a step is halved before the search ends.
const HALVINGS: usize = 30;
/// Relative improvement below which the search ends.
const ENOUGH: f64 = 1e-15;
/// Another law must be better than the preferred one by more than this on the held-out points: less is rounding.
const ROUNDING: f64 = 1e-6;

/// How wrong a law is, as shares of the measured throughput.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct CurveErrors {
    /// Root mean square over the points of the fit.
    pub fit: f64,
    /// Mean of the absolute errors over the held-out points.
    pub held_out: f64,
    /// Mean of the absolute errors over all points, each predicted from all others.
    pub leave_one_out: f64,
}

/// A law that was fitted.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Fitted {
    /// The law with its parameters.
    pub curve: Curve,
    /// Standard errors of the parameters.
    pub parameter_errors: ParameterErrors,
    /// How wrong it is.
    pub errors: CurveErrors,
}

/// Fits every law, and returns them with the chosen one first: the universal scalability law, unless another one has a smaller error on
/// the held-out points. `None` if a law cannot be fitted, for example to fewer than three points.
#[must_use]
pub fn choose(fit_to: &[Sample], held_out: &[Sample]) -> Option<Vec<Fitted>> {
    let all: Vec<Sample> = fit_to.iter().chain(held_out).copied().collect();
    let mut laws = Law::ALL
        .into_iter()
        .map(|law| {
            let curve = fit(law, fit_to)?;
            let errors = CurveErrors {
                fit: root_mean_square(&curve, fit_to),
                held_out: mean_absolute(held_out.iter().map(|sample| relative(&curve, sample))),
                leave_one_out: leave_one_out(law, &all)?,
            };
            Some(Fitted { curve, parameter_errors: ParameterErrors::of(&curve, fit_to), errors })
        })
        .collect::<Option<Vec<_>>>()?;
    let best = (1..laws.len()).fold(0, |best, next| {
        if laws[next].errors.held_out < laws[best].errors.held_out - ROUNDING { next } else { best }
    });
    laws[..=best].rotate_right(1);
    Some(laws)
}

/// Fits a law. `None` if there are fewer points than it has parameters, or if a value is not a positive number.
#[must_use]
pub fn fit(law: Law, samples: &[Sample]) -> Option<Curve> {
    let most = samples.iter().map(|sample| sample.0).fold(0.0, f64::max);
    let valid = |&(users, rate): &Sample| users >= 1.0 && rate > 0.0 && users.is_finite() && rate.is_finite();
    let masks: &[&[usize]] = match law {
        Law::Usl => &[&[0], &[0, 1], &[0, 2], &[0, 1, 2]],
        Law::Amdahl => &[&[0], &[0, 1]],
        Law::Linear => &[&[0]],
    };
    if samples.len() < masks[masks.len() - 1].len() || !samples.iter().all(valid) {
        return None;
    }
    let rows: Vec<Row> = samples.iter().map(|&(users, rate)| Row::new(users, rate, most)).collect();
    let possible = masks.iter().filter_map(|free| gauss_newton(&rows, free));
    let best = possible.min_by(|a, b| a.1.total_cmp(&b.1))?.0;
    let lambda = 1.0 / best[0];
    Some(Curve { law, lambda, sigma: best[1] * lambda / most, kappa: best[2] * lambda / most / most })
}

/// A point in the units of the fit: users are scaled by their maximum, so that no sum mixes 1 with 10¹⁰.
struct Row {
    basis: [f64; 3],
    /// Users per token per second.
    inverse: f64,
}

impl Row {
    fn new(users: f64, rate: f64, most: f64) -> Self {
        Self {
            basis: [1.0, (users - 1.0) / most, users * (users - 1.0) / most / most],
            inverse: users / rate,
        }
    }

    fn q(&self, parameters: &[f64; 3]) -> f64 {
        self.basis.iter().zip(parameters).map(|(basis, parameter)| basis * parameter).sum()
    }
}

/// Minimises the squares of the relative errors over the `free` parameters. Returns the parameters and the sum of the squares. `None`
/// if the minimum has a negative parameter or was not found.
fn gauss_newton(rows: &[Row], free: &[usize]) -> Option<([f64; 3], f64)> {
    let mut parameters = start(rows, free)?;
    let mut squares = sum_of_squares(rows, &parameters)?;
    for _ in 0..STEPS {
        // residual = inverse / q - 1, so that its derivative by a parameter is -inverse / q² · basis.
        let weighted = rows.iter().map(|row| {
            let q = row.q(&parameters);
            let slope = |index: usize| -row.inverse / q / q * row.basis[index];
            (std::array::from_fn(slope), -(row.inverse / q - 1.0))
        });
        let Some(change) = least_squares(weighted, free) else { break };
        let Some((next, lower)) = shorter_steps(rows, &parameters, &change, squares) else { break };
        let gained = squares - lower;
        (parameters, squares) = (next, lower);
        if gained <= ENOUGH * squares {
            break;
        }
    }
    let valid = parameters[0] > 0.0 && parameters[1..].iter().all(|&parameter| parameter >= 0.0);
    valid.then_some((parameters, squares))
}

/// Returns the solution of the linear problem, or that without contention if it cannot be a start.
fn start(rows: &[Row], free: &[usize]) -> Option<[f64; 3]> {
    let linear =
        least_squares(rows.iter().map(|row| (row.basis.map(|basis| basis / row.inverse), 1.0)), free)?;
    if sum_of_squares(rows, &linear).is_some() {
        return Some(linear);
    }
    #[allow(clippy::cast_precision_loss)]
    let mean = rows.iter().map(|row| row.inverse).sum::<f64>() / rows.len() as f64;
    Some([mean, 0.0, 0.0])
}

/// Halves a step until it improves the fit.
fn shorter_steps(rows: &[Row], from: &[f64; 3], change: &[f64; 3], squares: f64) -> Option<([f64; 3], f64)> {
    (0..HALVINGS).find_map(|halving| {
        let share = 0.5_f64.powi(i32::try_from(halving).unwrap_or(i32::MAX));
        let next = std::array::from_fn(|index| from[index] + share * change[index]);
        sum_of_squares(rows, &next).filter(|&lower| lower < squares).map(|lower| (next, lower))
    })
}

/// Returns the sum of the squares of the relative errors. `None` if a throughput would not be positive.
fn sum_of_squares(rows: &[Row], parameters: &[f64; 3]) -> Option<f64> {
    rows.iter().try_fold(0.0, |sum, row| {
        let q = row.q(parameters);
        (q > 0.0).then(|| sum + (row.inverse / q - 1.0).powi(2))
    })
}

/// Solves the least-squares problem `factors · x = value` for the free parameters; the others are 0. `None` if it has no single solution.
fn least_squares(rows: impl Iterator<Item = ([f64; 3], f64)>, free: &[usize]) -> Option<[f64; 3]> {
    let size = free.len();
    let mut matrix = vec![vec![0.0; size + 1]; size];
    for (factors, value) in rows {
        for (row, &i) in free.iter().enumerate() {
            for (column, &j) in free.iter().enumerate() {
                matrix[row][column] += factors[i] * factors[j];
            }
            matrix[row][size] += factors[i] * value;
        }
    }
    let solution = solve(matrix)?;
    let mut all = [0.0; 3];
    free.iter().zip(solution).for_each(|(&index, value)| all[index] = value);
    Some(all)
}

/// Returns the error of a prediction as a share of the measured throughput. Negative if the prediction is too low.
#[must_use]
pub fn relative(curve: &Curve, &(users, rate): &Sample) -> f64 {
    curve.at(users) / rate - 1.0
}

#[allow(clippy::cast_precision_loss)]
fn root_mean_square(curve: &Curve, samples: &[Sample]) -> f64 {
    let squares: f64 = samples.iter().map(|sample| relative(curve, sample).powi(2)).sum();
    (squares / samples.len().max(1) as f64).sqrt()
}

#[allow(clippy::cast_precision_loss)]
fn mean_absolute(errors: impl ExactSizeIterator<Item = f64>) -> f64 {
    let count = errors.len().max(1) as f64;
    errors.map(f64::abs).sum::<f64>() / count
}

fn leave_one_out(law: Law, samples: &[Sample]) -> Option<f64> {
    let errors = (0..samples.len()).map(|left_out| {
        let mut others = samples.to_vec();
        let sample = others.remove(left_out);
        Some(relative(&fit(law, &others)?, &sample))
    });
    let errors = errors.collect::<Option<Vec<_>>>()?;
    Some(mean_absolute(errors.into_iter()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand::{RngExt, SeedableRng, rngs::SmallRng};

    const LOADS: [f64; 8] = [10.0, 50.0, 100.0, 200.0, 400.0, 600.0, 800.0, 1_000.0];

    fn samples(curve: &Curve, noise: f64, seed: u64) -> Vec<Sample> {
        let mut rng = SmallRng::seed_from_u64(seed);
        let noisy =
            |users: f64, rng: &mut SmallRng| curve.at(users) * (1.0 + noise * rng.random_range(-1.0..=1.0));
        LOADS.iter().map(|&users| (users, noisy(users, &mut rng))).collect()
    }

    fn usl(lambda: f64, sigma: f64, kappa: f64) -> Curve {
        Curve { law: Law::Usl, lambda, sigma, kappa }
    }

    proptest! {
        #[test]
        fn known_parameters_are_recovered_from_exact_points(
            lambda in 0.01..500.0_f64,
            sigma in prop_oneof![Just(0.0), 1e-5..0.5_f64],
            kappa in prop_oneof![Just(0.0), 1e-8..1e-3_f64],
        ) {
            let known = usl(lambda, sigma, kappa);
            let found = fit(Law::Usl, &samples(&known, 0.0, 1)).unwrap();
            // Relative to what the parameter does at the largest load.
            let slowdown = 1.0 / known.efficiency(1_000.0);
            prop_assert!((found.lambda / lambda - 1.0).abs() < 1e-5, "{found:?}");
            prop_assert!((found.sigma - sigma).abs() * 1e3 < 1e-5 * slowdown, "{found:?}");
            prop_assert!((found.kappa - kappa).abs() * 1e6 < 1e-5 * slowdown, "{found:?}");
        }

        #[test]
        fn no_parameter_is_negative_and_no_fit_is_worse_than_a_simpler_law(
            rates in prop::collection::vec(1.0..1e5_f64, LOADS.len()),
        ) {
            let points: Vec<Sample> = LOADS.into_iter().zip(rates).collect();
            let curves = Law::ALL.map(|law| fit(law, &points).unwrap());
            for curve in &curves {
                prop_assert!(curve.lambda > 0.0 && curve.sigma >= 0.0 && curve.kappa >= 0.0, "{curve:?}");
            }
            let [usl, amdahl, linear] = curves.map(|curve| root_mean_square(&curve, &points));
            prop_assert!(usl <= amdahl * (1.0 + 1e-9) && amdahl <= linear * (1.0 + 1e-9));
        }
    }

    #[test]
    fn noise_is_the_error_that_is_stated() {
        let known = usl(20.0, 5e-4, 5e-7);
        let points = samples(&known, 0.03, 7);
        let (fit_to, held_out) = points.split_at(7);
        let laws = choose(fit_to, held_out).unwrap();
        let errors = laws.iter().find(|fitted| fitted.curve.law == Law::Usl).unwrap().errors;
        assert!((0.003..0.03).contains(&errors.fit), "{errors:?}");
        assert!(errors.leave_one_out > errors.fit && errors.leave_one_out < 0.2, "{errors:?}");
        let exact = samples(&known, 0.0, 7);
        let laws = choose(&exact[..7], &exact[7..]).unwrap();
        assert!(laws[0].errors.held_out < 1e-6 && laws[0].errors.leave_one_out < 1e-6, "{laws:?}");
    }

    #[test]
    fn another_law_is_chosen_only_if_it_predicts_better() {
        let straight = samples(&usl(20.0, 0.0, 0.0), 0.0, 1);
        let law = |points: &[Sample]| choose(&points[..7], &points[7..]).unwrap()[0].curve.law;
        assert_eq!(law(&straight), Law::Usl, "all laws are equally good");
        assert_eq!(law(&samples(&usl(20.0, 1e-3, 1e-6), 0.0, 1)), Law::Usl);
        // The scatter bends the line, and the last point lies on it.
        let mut bent = straight;
        bent[6].1 *= 0.9;
        assert_eq!(law(&bent), Law::Linear);
    }

    #[test]
    fn what_cannot_be_fitted_has_no_curve() {
        assert_eq!(fit(Law::Usl, &[(10.0, 1.0), (20.0, 2.0)]), None);
        for bad in [(0.5, 1.0), (10.0, 0.0), (f64::INFINITY, 1.0), (10.0, f64::NAN)] {
            assert_eq!(fit(Law::Linear, &[(10.0, 1.0), bad]), None, "{bad:?}");
        }
        let same = [(10.0, 5.0); 8];
        assert!((fit(Law::Usl, &same).unwrap().at(10.0) - 5.0).abs() < 1e-9);
    }
}
