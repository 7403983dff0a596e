//! Distributions that values are drawn from, in one notation for all programs.
//!
//! | text | values |
//! |---|---|
//! | `50` or `fixed:50` | always 50 |
//! | `uniform:20,80` or `20..80` | uniform from 20 to 80 |
//! | `normal:50,10` | normal with mean 50 and standard deviation 10 |
//! | `lognormal:50,0.5` | log-normal with median 50; the standard deviation of the logarithm is 0.5 |
//! | `exp:50` | exponential with mean 50 |
//!
//! Durations may have a unit. A number without a unit counts the setting's own unit. Parameters may also be separated by colons.
//!
//! ```
//! use settings::distribution::{Distribution, Unit};
//!
//! let ttft = Distribution::parse("lognormal:250ms,0.5", Unit::Milliseconds)?;
//! assert_eq!(ttft, Distribution::LogNormal(250.0, 0.5));
//! let think_time = Distribution::parse("uniform:500ms,3s", Unit::Seconds)?;
//! assert_eq!(think_time, Distribution::parse("0.5..3", Unit::Seconds)?);
//! assert!(Distribution::parse("20s", Unit::None).is_err(), "a number of tokens has no unit");
//! # Ok::<(), settings::value::Invalid>(())
//! ```

use crate::{duration, value::Invalid};
use rand::{Rng, RngExt};
use rand_distr::{Exp1, StandardNormal};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::{fmt, ops::RangeInclusive, time::Duration};

/// The distribution of a random value that is never negative.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Distribution {
    /// Always this value.
    Fixed(f64),
    /// Uniform between the lowest and the highest value.
    Uniform(f64, f64),
    /// Exponential with this mean.
    Exponential(f64),
    /// Normal with this mean and standard deviation. Negative draws become 0.
    Normal(f64, f64),
    /// Log-normal with this median and standard deviation of the logarithm.
    LogNormal(f64, f64),
}

/// The unit of a value that is written without one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// The values are plain numbers, so that units are invalid.
    None,
    /// Seconds.
    Seconds,
    /// Milliseconds.
    Milliseconds,
}

impl Distribution {
    /// Reads a distribution. Values of durations become numbers of `unit`.
    ///
    /// # Errors
    /// The text has another form, or a parameter is negative or too large.
    pub fn parse(text: &str, unit: Unit) -> Result<Self, Invalid> {
        parse(text.trim(), unit).ok_or_else(|| Invalid {
            kind: "distribution",
            expected: match unit {
                Unit::None => "for example 50, uniform:20,80, normal:50,10, lognormal:50,0.5 or exp:50",
                _ => "for example 50ms, uniform:20ms,80ms, normal:50ms,10ms, lognormal:50ms,0.5 or exp:50ms",
            }
            .into(),
        })
    }

    /// Returns a parser of distributions for a flag.
    pub fn parser(unit: Unit) -> impl Fn(&str) -> Result<Self, Invalid> + Clone + Send + Sync {
        move |text| Self::parse(text, unit)
    }

    /// Returns a parser of distributions for a flag. The parameters that are values, and not spreads, must lie in `range`.
    pub fn parser_in(
        unit: Unit,
        range: RangeInclusive<f64>,
    ) -> impl Fn(&str) -> Result<Self, Invalid> + Clone + Send + Sync {
        move |text| {
            let distribution = Self::parse(text, unit)?;
            let [a, b] = distribution.parameters();
            let is_spread = matches!(distribution, Self::Normal(..) | Self::LogNormal(..));
            if range.contains(&a) && (is_spread || range.contains(&b)) {
                return Ok(distribution);
            }
            let expected = format!("values from {} to {}", range.start(), range.end());
            Err(Invalid { kind: "distribution", expected })
        }
    }

    /// Draws one value, at least 0. A seed gives the same values in every version.
    pub fn draw(&self, random: &mut impl Rng) -> f64 {
        let drawn = match *self {
            Self::Fixed(value) => value,
            Self::Uniform(least, most) => random.random_range(least..=most),
            Self::Exponential(mean) => mean * random.sample::<f64, _>(Exp1),
            Self::Normal(mean, deviation) => deviation.mul_add(random.sample(StandardNormal), mean),
            Self::LogNormal(median, sigma) => {
                median * (sigma * random.sample::<f64, _>(StandardNormal)).exp()
            }
        };
        drawn.max(0.0)
    }

    /// Returns the value of a fixed distribution.
    #[must_use]
    pub const fn fixed(&self) -> Option<f64> {
        match self {
            Self::Fixed(value) => Some(*value),
            _ => None,
        }
    }

    /// Returns the mean. For a normal distribution it ignores that negative draws become 0.
    #[must_use]
    pub fn mean(&self) -> f64 {
        match *self {
            Self::Fixed(mean) | Self::Exponential(mean) | Self::Normal(mean, _) => mean,
            Self::Uniform(least, most) => f64::midpoint(least, most),
            Self::LogNormal(median, sigma) => median * (sigma * sigma / 2.0).exp(),
        }
    }

    /// Returns the parameters, for a check of their range. A single parameter is returned twice.
    #[must_use]
    pub const fn parameters(&self) -> [f64; 2] {
        match *self {
            Self::Fixed(value) | Self::Exponential(value) => [value, value],
            Self::Uniform(a, b) | Self::Normal(a, b) | Self::LogNormal(a, b) => [a, b],
        }
    }
}

fn parse(text: &str, unit: Unit) -> Option<Distribution> {
    let value = |text: &str| {
        let number = match unit {
            Unit::None => text.trim().parse().ok()?,
            Unit::Seconds => duration::number_of(text.trim(), Duration::from_secs(1))?,
            Unit::Milliseconds => duration::number_of(text.trim(), Duration::from_millis(1))?,
        };
        (0.0..f64::INFINITY).contains(&number).then_some(number)
    };
    let parts: Vec<&str> = match text.split_once("..") {
        Some((least, most)) => vec!["uniform", least, most],
        None if text.contains(':') => text.split([':', ',']).map(str::trim).collect(),
        None => vec!["fixed", text],
    };
    match parts[..] {
        ["fixed", fixed] => value(fixed).map(Distribution::Fixed),
        ["uniform", least, most] => {
            let (least, most) = (value(least)?, value(most)?);
            (least <= most).then_some(Distribution::Uniform(least, most))
        }
        ["exp", mean] => value(mean).filter(|&mean| mean > 0.0).map(Distribution::Exponential),
        ["normal", mean, deviation] => Some(Distribution::Normal(value(mean)?, value(deviation)?)),
        ["lognormal", median, sigma] => {
            // Beyond 3, single draws exceed the median a million times.
            let sigma = sigma.trim().parse().ok().filter(|sigma| (0.0..=3.0).contains(sigma))?;
            Some(Distribution::LogNormal(value(median).filter(|&median| median > 0.0)?, sigma))
        }
        _ => None,
    }
}

impl From<f64> for Distribution {
    fn from(value: f64) -> Self {
        Self::Fixed(value)
    }
}

impl fmt::Display for Distribution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Fixed(value) => write!(f, "{value}"),
            Self::Uniform(least, most) => write!(f, "uniform:{least},{most}"),
            Self::Exponential(mean) => write!(f, "exp:{mean}"),
            Self::Normal(mean, deviation) => write!(f, "normal:{mean},{deviation}"),
            Self::LogNormal(median, sigma) => write!(f, "lognormal:{median},{sigma}"),
        }
    }
}

impl Serialize for Distribution {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match *self {
            Self::Fixed(value) => serializer.serialize_f64(value),
            _ => serializer.collect_str(self),
        }
    }
}

/// Reads a number or a text, for `#[serde(deserialize_with)]` at a field without a unit.
///
/// # Errors
/// The text is not a distribution.
pub fn plain<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Distribution>, D::Error> {
    written(deserializer, Unit::None)
}

/// Reads a number or a text, for `#[serde(deserialize_with)]` at a field in seconds.
///
/// # Errors
/// The text is not a distribution.
pub fn seconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Distribution>, D::Error> {
    written(deserializer, Unit::Seconds)
}

/// Reads a number or a text, for `#[serde(deserialize_with)]` at a field in milliseconds.
///
/// # Errors
/// The text is not a distribution.
pub fn milliseconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Distribution>, D::Error> {
    written(deserializer, Unit::Milliseconds)
}

fn written<'de, D: Deserializer<'de>>(deserializer: D, unit: Unit) -> Result<Option<Distribution>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Written {
        Number(f64),
        Text(String),
    }
    match Written::deserialize(deserializer)? {
        Written::Number(value) => Ok(Some(Distribution::Fixed(value))),
        Written::Text(text) => Distribution::parse(&text, unit)
            .map(Some)
            .map_err(|error| de::Error::custom(format!("invalid distribution {text:?}: {error}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand::{SeedableRng, rngs::SmallRng};

    #[test]
    fn a_table_of_texts() {
        for (text, spread) in [
            ("2", Some(Distribution::Fixed(2.0))),
            ("fixed:0", Some(Distribution::Fixed(0.0))),
            (" 1..5 ", Some(Distribution::Uniform(1.0, 5.0))),
            (" uniform:20, 80 ", Some(Distribution::Uniform(20.0, 80.0))),
            ("exp:3", Some(Distribution::Exponential(3.0))),
            ("normal:5:2", Some(Distribution::Normal(5.0, 2.0))),
            ("normal:50,10", Some(Distribution::Normal(50.0, 10.0))),
            ("lognormal:200:0.4", Some(Distribution::LogNormal(200.0, 0.4))),
            ("lognormal:50,0.5", Some(Distribution::LogNormal(50.0, 0.5))),
            ("", None),
            ("x", None),
            ("often", None),
            ("-1", None),
            ("nan", None),
            ("inf", None),
            ("1e999", None),
            ("fixed:", None),
            ("fixed:1,2", None),
            ("uniform:1", None),
            ("uniform:2,1", None),
            ("5..1", None),
            ("exp:0", None),
            ("exp:1:2", None),
            ("normal:5", None),
            ("normal:1,-1", None),
            ("lognormal:0:1", None),
            ("lognormal:5:9", None),
            ("gamma:1,2", None),
            ("50ms", None),
        ] {
            assert_eq!(Distribution::parse(text, Unit::None).ok(), spread, "{text}");
            if let Some(spread) = spread {
                assert_eq!(Distribution::parse(&spread.to_string(), Unit::None), Ok(spread));
            }
        }
    }

    #[test]
    fn durations_have_units() {
        for (text, in_ms) in [
            ("250ms", Some(Distribution::Fixed(250.0))),
            ("250", Some(Distribution::Fixed(250.0))),
            ("uniform:1s,3s", Some(Distribution::Uniform(1e3, 3e3))),
            ("0.5s..1m", Some(Distribution::Uniform(500.0, 6e4))),
            ("normal:50ms,10", Some(Distribution::Normal(50.0, 10.0))),
            ("lognormal:7ms,0.5", Some(Distribution::LogNormal(7.0, 0.5))),
            ("lognormal:50ms,1s", None),
            ("exp:2s", Some(Distribution::Exponential(2e3))),
            ("50x", None),
        ] {
            assert_eq!(Distribution::parse(text, Unit::Milliseconds).ok(), in_ms, "{text}");
        }
        assert_eq!(Distribution::parse("250ms", Unit::Seconds), Ok(Distribution::Fixed(0.25)));
    }

    #[test]
    fn values_outside_of_the_range_are_refused_and_spreads_are_not() {
        let parse = Distribution::parser_in(Unit::None, 1.0..=100.0);
        for (text, is_valid) in [
            ("1", true),
            ("0", false),
            ("uniform:0,5", false),
            ("uniform:1,101", false),
            ("normal:5,0", true),
        ] {
            assert_eq!(parse(text).is_ok(), is_valid, "{text}");
        }
        assert_eq!(parse("0").unwrap_err().to_string(), "expected values from 1 to 100");
    }

    /// Compares mean and standard deviation of 20,000 draws with those of the distribution.
    #[test]
    fn draws_have_the_moments_of_their_distribution() {
        for (text, mean, deviation) in [
            ("fixed:50", 50.0, 0.0),
            ("uniform:20,80", 50.0, 60.0 / 12f64.sqrt()),
            ("normal:50,10", 50.0, 10.0),
            ("exp:50", 50.0, 50.0),
            ("lognormal:50,0.5", 50.0 * 0.125f64.exp(), 50.0 * 0.125f64.exp() * (0.25f64.exp() - 1.0).sqrt()),
        ] {
            let distribution = Distribution::parse(text, Unit::None).unwrap();
            let mut rng = SmallRng::seed_from_u64(7);
            let draws: Vec<f64> = (0..20_000).map(|_| distribution.draw(&mut rng)).collect();
            let observed = draws.iter().sum::<f64>() / draws.len() as f64;
            let variance = draws.iter().map(|x| (x - observed).powi(2)).sum::<f64>() / draws.len() as f64;
            assert!((observed - mean).abs() <= mean * 0.02, "{text}: mean {observed}, expected {mean}");
            let spread = variance.sqrt();
            assert!((spread - deviation).abs() <= deviation * 0.05, "{text}: {spread}, expected {deviation}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn draws_have_the_stated_mean(a in 1.0f64..100.0, b in 0.1f64..0.8, seed: u64) {
            let mut random = SmallRng::seed_from_u64(seed);
            for spread in
                [Distribution::Fixed(a), Distribution::Uniform(a, a + b), Distribution::Exponential(a), Distribution::Normal(a, a * b / 4.0), Distribution::LogNormal(a, b)]
            {
                let draws: Vec<f64> = (0..20_000).map(|_| spread.draw(&mut random)).collect();
                prop_assert!(draws.iter().all(|&drawn| drawn >= 0.0));
                let mean = draws.iter().sum::<f64>() / draws.len() as f64;
                prop_assert!((mean / spread.mean() - 1.0).abs() < 0.05, "{spread}: {mean}");
            }
        }
    }

    proptest! {
        #[test]
        fn parsing_never_panics(text in ".{0,80}") {
            let _ = Distribution::parse(&text, Unit::Seconds);
        }
    }
}
