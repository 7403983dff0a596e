//! Distributions that values are drawn from: `2`, `1..5`, `exp:5`, `normal:5:2`, `lognormal:MEDIAN:SIGMA`.
//! Drawn values are never negative. Their unit is the caller's.

use rand::{Rng, RngExt};
use rand_distr::{Distribution as _, Exp, LogNormal, Normal};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::{fmt, str::FromStr};

/// The distribution of a random value.
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

/// A text that describes no distribution.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "invalid value `{0}`: expected a number, LOW..HIGH, exp:MEAN, normal:MEAN:DEVIATION or lognormal:MEDIAN:SIGMA, for example 1..5"
)]
pub struct InvalidDistribution(String);

impl Distribution {
    /// Draws one value, at least 0.
    pub fn draw(&self, random: &mut impl Rng) -> f64 {
        let drawn = match *self {
            Self::Fixed(value) => value,
            Self::Uniform(least, most) => least + (most - least) * random.random::<f64>(),
            Self::Exponential(mean) => Exp::new(1.0 / mean).map_or(mean, |law| law.sample(random)),
            Self::Normal(mean, deviation) => {
                Normal::new(mean, deviation).map_or(mean, |law| law.sample(random))
            }
            Self::LogNormal(median, sigma) => {
                LogNormal::new(median.ln(), sigma).map_or(median, |law| law.sample(random))
            }
        };
        drawn.max(0.0)
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

impl From<f64> for Distribution {
    fn from(value: f64) -> Self {
        Self::Fixed(value)
    }
}

impl FromStr for Distribution {
    type Err = InvalidDistribution;

    fn from_str(text: &str) -> Result<Self, InvalidDistribution> {
        let text = text.trim();
        parse(text).ok_or_else(|| InvalidDistribution(text.to_owned()))
    }
}

fn parse(text: &str) -> Option<Distribution> {
    let number = |text: &str| text.trim().parse::<f64>().ok();
    if let Some(value) = number(text) {
        return Some(Distribution::Fixed(value));
    }
    if let Some((least, most)) = text.split_once("..") {
        let (least, most) = (number(least)?, number(most)?);
        return (least <= most).then_some(Distribution::Uniform(least, most));
    }
    let (law, figures) = text.split_once(':')?;
    let spread = match (law.trim(), figures.split_once(':')) {
        ("exp", None) => Distribution::Exponential(number(figures).filter(|&mean| mean > 0.0)?),
        ("normal", Some((mean, deviation))) => Distribution::Normal(number(mean)?, number(deviation)?),
        ("lognormal", Some((median, sigma))) => {
            // Beyond 3, single draws exceed the median a million times.
            let sigma = number(sigma).filter(|sigma| (0.0..=3.0).contains(sigma))?;
            Distribution::LogNormal(number(median).filter(|&median| median > 0.0)?, sigma)
        }
        _ => return None,
    };
    Some(spread)
}

impl fmt::Display for Distribution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Fixed(value) => write!(f, "{value}"),
            Self::Uniform(least, most) => write!(f, "{least}..{most}"),
            Self::Exponential(mean) => write!(f, "exp:{mean}"),
            Self::Normal(mean, deviation) => write!(f, "normal:{mean}:{deviation}"),
            Self::LogNormal(median, sigma) => write!(f, "lognormal:{median}:{sigma}"),
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

impl<'de> Deserialize<'de> for Distribution {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Number(f64),
            Text(String),
        }
        match Written::deserialize(deserializer)? {
            Written::Number(value) => Ok(Self::Fixed(value)),
            Written::Text(text) => text.parse().map_err(de::Error::custom),
        }
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
            ("-1", Some(Distribution::Fixed(-1.0))),
            (" 1..5 ", Some(Distribution::Uniform(1.0, 5.0))),
            ("exp:3", Some(Distribution::Exponential(3.0))),
            ("normal:5:2", Some(Distribution::Normal(5.0, 2.0))),
            ("lognormal:200:0.4", Some(Distribution::LogNormal(200.0, 0.4))),
            ("5..1", None),
            ("exp:0", None),
            ("exp:1:2", None),
            ("normal:5", None),
            ("lognormal:0:1", None),
            ("lognormal:5:9", None),
            ("often", None),
            ("", None),
        ] {
            assert_eq!(text.parse().ok(), spread, "{text}");
            if let Some(spread) = spread {
                assert_eq!(spread.to_string().parse(), Ok(spread));
            }
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
}
