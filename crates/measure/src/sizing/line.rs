//! Costs that grow with the number of users: a straight line with a base, by least squares.

use serde::Serialize;

/// A cost: `base + slope · users`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Line {
    /// Cost without users. Not negative.
    pub base: f64,
    /// Standard error of the base.
    pub base_error: f64,
    /// Cost of one user. Not negative.
    pub slope: f64,
    /// Standard error of the slope.
    pub slope_error: f64,
    /// Root mean square of the differences between line and points, in the unit of the cost.
    pub scatter: f64,
}

impl Line {
    /// Fits a line to points of users and cost. A base or slope that would be negative is zero. `None` for fewer than three points, or
    /// if all have the same number of users.
    #[must_use]
    #[allow(clippy::cast_precision_loss)]
    pub fn fit(points: &[(f64, f64)]) -> Option<Self> {
        let n = points.len() as f64;
        if points.len() < 3 {
            return None;
        }
        let mean = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / n;
        let (x, y) = (mean(|point| point.0), mean(|point| point.1));
        let sxx: f64 = points.iter().map(|point| (point.0 - x).powi(2)).sum();
        let sxy: f64 = points.iter().map(|point| (point.0 - x) * (point.1 - y)).sum();
        if sxx.is_nan() || sxx <= 1e-9 * x * x {
            return None;
        }
        let slope = sxy / sxx;
        let base = y - slope * x;
        let squares_of = |base: f64, slope: f64| -> f64 {
            points.iter().map(|point| (point.1 - base - slope * point.0).powi(2)).sum()
        };
        if slope < 0.0 {
            let scatter = (squares_of(y, 0.0) / (n - 1.0)).sqrt();
            let base_error = scatter / n.sqrt();
            return Some(Self { base: y, base_error, slope: 0.0, slope_error: 0.0, scatter });
        }
        if base < 0.0 {
            let xx: f64 = points.iter().map(|point| point.0.powi(2)).sum();
            let slope = points.iter().map(|point| point.0 * point.1).sum::<f64>() / xx;
            let scatter = (squares_of(0.0, slope) / (n - 1.0)).sqrt();
            return Some(Self {
                base: 0.0,
                base_error: 0.0,
                slope,
                slope_error: scatter / xx.sqrt(),
                scatter,
            });
        }
        let scatter = (squares_of(base, slope) / (n - 2.0)).sqrt();
        let base_error = scatter * (1.0 / n + x * x / sxx).sqrt();
        Some(Self { base, base_error, slope, slope_error: scatter / sxx.sqrt(), scatter })
    }

    /// Returns the cost at a number of users.
    #[must_use]
    pub fn at(&self, users: f64) -> f64 {
        self.base + self.slope * users
    }

    /// Returns the number of users at which the cost reaches `limit`. `None` if it does not depend on the users.
    #[must_use]
    pub fn users_at(&self, limit: f64) -> Option<f64> {
        (self.slope > 0.0).then(|| ((limit - self.base) / self.slope).max(0.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn exact_points_give_the_line_that_they_lie_on(base in 0.0..100.0_f64, slope in 0.0..10.0_f64) {
            let points: Vec<_> = [10.0, 50.0, 200.0, 400.0].map(|users| (users, base + slope * users)).to_vec();
            let line = Line::fit(&points).unwrap();
            prop_assert!((line.base - base).abs() < 1e-6 && (line.slope - slope).abs() < 1e-8, "{line:?}");
            prop_assert!(line.base_error < 1e-6 && line.slope_error < 1e-8 && line.scatter < 1e-6, "{line:?}");
        }

        #[test]
        fn neither_base_nor_slope_is_negative(costs in prop::collection::vec(0.0..100.0_f64, 4)) {
            let points: Vec<_> = [10.0, 50.0, 200.0, 400.0].into_iter().zip(costs).collect();
            let line = Line::fit(&points).unwrap();
            prop_assert!(line.base >= 0.0 && line.slope >= 0.0, "{line:?}");
        }
    }

    #[test]
    fn standard_errors_are_those_of_the_textbook() {
        let line = Line::fit(&[(1.0, 2.0), (2.0, 3.0), (3.0, 5.0), (4.0, 6.0)]).unwrap();
        assert!((line.slope - 1.4).abs() < 1e-9 && (line.base - 0.5).abs() < 1e-9, "{line:?}");
        // Residuals 0.1, -0.3, 0.3, -0.1: s² = 0.2 / 2, sxx = 5.
        assert!((line.slope_error - (0.1_f64 / 5.0).sqrt()).abs() < 1e-9, "{line:?}");
        assert!((line.base_error - (0.1_f64 * (0.25 + 6.25 / 5.0)).sqrt()).abs() < 1e-9, "{line:?}");
    }

    #[test]
    fn a_limit_is_reached_at_a_number_of_users() {
        let one = Line { base: 10.0, base_error: 0.0, slope: 0.5, slope_error: 0.0, scatter: 0.0 };
        assert_eq!(one.users_at(35.0), Some(50.0));
        assert_eq!(one.users_at(5.0), Some(0.0), "the base alone is above the limit");
        assert_eq!(Line { slope: 0.0, ..one }.users_at(35.0), None);
    }

    #[test]
    fn one_load_gives_no_line() {
        assert_eq!(Line::fit(&[(10.0, 1.0), (20.0, 2.0)]), None);
        assert_eq!(Line::fit(&[(100.0, 1.0), (100.0, 2.0), (100.0, 3.0)]), None);
    }
}
