//! A figure that is drawn anew each time: `2`, `1..5`, `exp:5`, `normal:5:2`, `lognormal:MEDIAN:SIGMA`.
//! It knows neither what the figure is of nor its unit, and never draws less than nothing.

use rand::{Rng, RngExt};
use rand_distr::{Distribution as _, Exp, LogNormal, Normal};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::{fmt, str::FromStr};

/// How a figure is spread.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Spread {
    /// Always the same.
    Fixed(f64),
    /// Evenly between the two.
    Uniform(f64, f64),
    /// Exponential, with this mean.
    Exponential(f64),
    /// Normal, with this mean and deviation; what falls below 0 is 0.
    Normal(f64, f64),
    /// Log-normal: its median, and the deviation of its logarithm.
    LogNormal(f64, f64),
}

/// A text that is no spread.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is no figure: give a number, or 1..5, exp:MEAN, normal:MEAN:DEVIATION or lognormal:MEDIAN:SIGMA"
)]
pub struct NoSpread(String);

impl Spread {
    /// Draws one.
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

    /// What it is on average; of a normal one as if nothing were cut off.
    #[must_use]
    pub fn mean(&self) -> f64 {
        match *self {
            Self::Fixed(mean) | Self::Exponential(mean) | Self::Normal(mean, _) => mean,
            Self::Uniform(least, most) => f64::midpoint(least, most),
            Self::LogNormal(median, sigma) => median * (sigma * sigma / 2.0).exp(),
        }
    }

    /// Its figures, to hold them against bounds.
    #[must_use]
    pub const fn ends(&self) -> [f64; 2] {
        match *self {
            Self::Fixed(value) | Self::Exponential(value) => [value, value],
            Self::Uniform(a, b) | Self::Normal(a, b) | Self::LogNormal(a, b) => [a, b],
        }
    }
}

impl From<f64> for Spread {
    fn from(value: f64) -> Self {
        Self::Fixed(value)
    }
}

impl FromStr for Spread {
    type Err = NoSpread;

    fn from_str(text: &str) -> Result<Self, NoSpread> {
        let text = text.trim();
        parse(text).ok_or_else(|| NoSpread(text.to_owned()))
    }
}

fn parse(text: &str) -> Option<Spread> {
    let number = |text: &str| text.trim().parse::<f64>().ok();
    if let Some(value) = number(text) {
        return Some(Spread::Fixed(value));
    }
    if let Some((least, most)) = text.split_once("..") {
        let (least, most) = (number(least)?, number(most)?);
        return (least <= most).then_some(Spread::Uniform(least, most));
    }
    let (law, figures) = text.split_once(':')?;
    let spread = match (law.trim(), figures.split_once(':')) {
        ("exp", None) => Spread::Exponential(number(figures).filter(|&mean| mean > 0.0)?),
        ("normal", Some((mean, deviation))) => Spread::Normal(number(mean)?, number(deviation)?),
        ("lognormal", Some((median, sigma))) => {
            // A wider one draws figures that no run holds.
            let sigma = number(sigma).filter(|sigma| (0.0..=3.0).contains(sigma))?;
            Spread::LogNormal(number(median).filter(|&median| median > 0.0)?, sigma)
        }
        _ => return None,
    };
    Some(spread)
}

impl fmt::Display for Spread {
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

impl Serialize for Spread {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match *self {
            Self::Fixed(value) => serializer.serialize_f64(value),
            _ => serializer.collect_str(self),
        }
    }
}

impl<'de> Deserialize<'de> for Spread {
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
            ("2", Some(Spread::Fixed(2.0))),
            ("-1", Some(Spread::Fixed(-1.0))),
            (" 1..5 ", Some(Spread::Uniform(1.0, 5.0))),
            ("exp:3", Some(Spread::Exponential(3.0))),
            ("normal:5:2", Some(Spread::Normal(5.0, 2.0))),
            ("lognormal:200:0.4", Some(Spread::LogNormal(200.0, 0.4))),
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
        fn draws_have_the_mean_that_it_says(a in 1.0f64..100.0, b in 0.1f64..0.8, seed: u64) {
            let mut random = SmallRng::seed_from_u64(seed);
            for spread in
                [Spread::Fixed(a), Spread::Uniform(a, a + b), Spread::Exponential(a), Spread::Normal(a, a * b / 4.0), Spread::LogNormal(a, b)]
            {
                let draws: Vec<f64> = (0..20_000).map(|_| spread.draw(&mut random)).collect();
                prop_assert!(draws.iter().all(|&drawn| drawn >= 0.0));
                let mean = draws.iter().sum::<f64>() / draws.len() as f64;
                prop_assert!((mean / spread.mean() - 1.0).abs() < 0.05, "{spread}: {mean}");
            }
        }
    }
}
