//! Distributions of delays and lengths, and their text form. Samples are plain numbers without a unit.

use rand::{Rng, RngExt};
use rand_distr::StandardNormal;
use std::{fmt, ops::RangeInclusive, str::FromStr};

/// A distribution over non-negative numbers. A sample outside the caller's range is set to the nearer end of the range.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Distribution {
    /// Always the same value.
    Fixed(f64),
    /// Uniform between two bounds, both included.
    Uniform {
        /// The lower bound.
        low: f64,
        /// The upper bound.
        high: f64,
    },
    /// Normal. Cutting its lower tail off at the range's lower end raises the mean if the deviation is large.
    Normal {
        /// The mean.
        mean: f64,
        /// The standard deviation.
        deviation: f64,
    },
    /// Log-normal: the logarithm is normal with mean ln(median) and standard deviation sigma.
    LogNormal {
        /// The median.
        median: f64,
        /// The standard deviation of the logarithm.
        sigma: f64,
    },
}

impl Distribution {
    /// Draws a sample and sets it to the nearer end of `range` if it lies outside.
    pub fn sample(&self, rng: &mut impl Rng, range: &RangeInclusive<f64>) -> f64 {
        let drawn = match *self {
            Self::Fixed(value) => value,
            Self::Uniform { low, high } => rng.random_range(low..=high),
            Self::Normal { mean, deviation } => deviation.mul_add(standard_normal(rng), mean),
            Self::LogNormal { median, sigma } => median * (sigma * standard_normal(rng)).exp(),
        };
        drawn.clamp(*range.start(), *range.end())
    }

    /// Checks that every parameter that is a value, and not a spread, lies in `range`.
    ///
    /// # Errors
    /// The parameter that does not.
    pub fn within(&self, range: &RangeInclusive<f64>) -> Result<(), String> {
        let values: &[f64] = match self {
            Self::Fixed(value) => &[*value],
            Self::Uniform { low, high } => &[*low, *high],
            Self::Normal { mean, .. } => &[*mean],
            Self::LogNormal { median, .. } => &[*median],
        };
        match values.iter().find(|value| !range.contains(value)) {
            Some(value) => Err(format!("{value} is not between {} and {}", range.start(), range.end())),
            None => Ok(()),
        }
    }

    /// Returns the value of a fixed distribution.
    #[must_use]
    pub const fn fixed(&self) -> Option<f64> {
        match self {
            Self::Fixed(value) => Some(*value),
            _ => None,
        }
    }
}

fn standard_normal(rng: &mut impl Rng) -> f64 {
    rng.sample(StandardNormal)
}

impl fmt::Display for Distribution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(value) => write!(f, "fixed:{value}"),
            Self::Uniform { low, high } => write!(f, "uniform:{low},{high}"),
            Self::Normal { mean, deviation } => write!(f, "normal:{mean},{deviation}"),
            Self::LogNormal { median, sigma } => write!(f, "lognormal:{median},{sigma}"),
        }
    }
}

/// The text does not describe a distribution.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{text}` is not a distribution ({why}): use `50`, `fixed:50`, `uniform:20,80`, `normal:50,10` (mean, deviation) or `lognormal:50,0.5` (median, sigma)"
)]
pub struct ParseDistributionError {
    text: String,
    why: &'static str,
}

impl FromStr for Distribution {
    type Err = ParseDistributionError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse(text.trim())
            .map_err(|why| ParseDistributionError { text: text.chars().take(64).collect(), why })
    }
}

fn parse(text: &str) -> Result<Distribution, &'static str> {
    let (name, parameters) = text.split_once(':').unwrap_or(("fixed", text));
    let numbers = parameters.split(',').map(number).collect::<Result<Vec<_>, _>>()?;
    match (name, numbers[..].as_ref()) {
        ("fixed", &[value]) => Ok(Distribution::Fixed(value)),
        ("uniform", &[low, high]) if low <= high => Ok(Distribution::Uniform { low, high }),
        ("uniform", &[_, _]) => Err("the lower bound is above the upper bound"),
        ("normal", &[mean, deviation]) => Ok(Distribution::Normal { mean, deviation }),
        ("lognormal", &[median, _]) if median <= 0.0 => Err("the median must be above 0"),
        ("lognormal", &[_, sigma]) if sigma > 10.0 => Err("sigma must be at most 10"),
        ("lognormal", &[median, sigma]) => Ok(Distribution::LogNormal { median, sigma }),
        ("fixed" | "uniform" | "normal" | "lognormal", _) => Err("wrong number of parameters"),
        _ => Err("unknown name"),
    }
}

fn number(text: &str) -> Result<f64, &'static str> {
    let value: f64 = text.trim().parse().map_err(|_| "a parameter is not a number")?;
    if value.is_finite() && value >= 0.0 { Ok(value) } else { Err("a parameter is negative or not finite") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand::{SeedableRng, rngs::Xoshiro256PlusPlus};

    #[test]
    fn every_text_form_is_read_and_errors_repeat_the_text() {
        for (text, expected) in [
            ("50", Distribution::Fixed(50.0)),
            ("fixed:0", Distribution::Fixed(0.0)),
            (" uniform:20, 80 ", Distribution::Uniform { low: 20.0, high: 80.0 }),
            ("normal:50,10", Distribution::Normal { mean: 50.0, deviation: 10.0 }),
            ("lognormal:50,0.5", Distribution::LogNormal { median: 50.0, sigma: 0.5 }),
        ] {
            assert_eq!(text.parse(), Ok(expected));
            assert_eq!(expected.to_string().parse(), Ok(expected));
        }
        for text in [
            "",
            "x",
            "-1",
            "nan",
            "inf",
            "1e999",
            "fixed:",
            "fixed:1,2",
            "uniform:1",
            "uniform:2,1",
            "normal:1",
            "normal:1,-1",
            "lognormal:0,1",
            "lognormal:1,11",
            "gamma:1,2",
            "50ms",
        ] {
            let error = text.parse::<Distribution>().unwrap_err().to_string();
            assert!(error.contains(&format!("`{text}`")), "{error}");
        }
    }

    /// Compares mean and standard deviation of 20,000 samples with those of the distribution.
    #[test]
    fn samples_have_the_moments_of_their_distribution() {
        for (text, mean, deviation) in [
            ("fixed:50", 50.0, 0.0),
            ("uniform:20,80", 50.0, 60.0 / 12f64.sqrt()),
            ("normal:50,10", 50.0, 10.0),
            ("lognormal:50,0.5", 50.0 * 0.125f64.exp(), 50.0 * 0.125f64.exp() * (0.25f64.exp() - 1.0).sqrt()),
        ] {
            let distribution: Distribution = text.parse().unwrap();
            let mut rng = Xoshiro256PlusPlus::seed_from_u64(7);
            let draws: Vec<f64> =
                (0..20_000).map(|_| distribution.sample(&mut rng, &(0.0..=3.6e6))).collect();
            let observed = draws.iter().sum::<f64>() / draws.len() as f64;
            let variance = draws.iter().map(|x| (x - observed).powi(2)).sum::<f64>() / draws.len() as f64;
            assert!((observed - mean).abs() <= mean * 0.02, "{text}: mean {observed}, expected {mean}");
            let spread = variance.sqrt();
            assert!((spread - deviation).abs() <= deviation * 0.05, "{text}: {spread}, expected {deviation}");
        }
    }

    proptest! {
        #[test]
        fn draws_stay_in_range(seed: u64, a in 0.0f64..1e7, b in 0.0f64..10.0, kind in 0usize..4) {
            let distribution = match kind {
                0 => Distribution::Fixed(a),
                1 => Distribution::Uniform { low: a, high: a + b },
                2 => Distribution::Normal { mean: a, deviation: b * 1e6 },
                _ => Distribution::LogNormal { median: a + 1.0, sigma: b },
            };
            let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
            for _ in 0..50 {
                prop_assert!((1.0..=3.6e6).contains(&distribution.sample(&mut rng, &(1.0..=3.6e6))));
            }
        }

        #[test]
        fn parsing_never_panics(text in ".{0,80}") {
            let _ = text.parse::<Distribution>();
        }
    }
}
