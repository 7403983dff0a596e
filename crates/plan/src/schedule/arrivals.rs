//! Arrival times of sessions or queries in an open model. They are drawn before the run and do not depend on the system.
//! The same process and seed give the same times on every machine.

use rand::{RngExt, SeedableRng, rngs::SmallRng};
use rand_distr::{Distribution as _, Exp, Gamma};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::{fmt, str::FromStr, time::Duration};

/// The arrival process: how the times between two arrivals vary around their mean.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Process {
    /// All times are equal.
    #[default]
    Constant,
    /// Exponential times: arrivals are independent of each other.
    Poisson,
    /// Gamma-distributed times with this coefficient of variation, 0.05 to 10. Above 1 arrivals come in bursts, below 1 they
    /// are more regular than Poisson arrivals.
    Gamma(f64),
}

/// Where the arrivals of a plan come from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ArrivalSource {
    /// They are drawn at a rate.
    Drawn {
        /// How the times between them vary.
        process: Process,
        /// Seed of the draws.
        seed: u64,
    },
    /// They are listed, in a trace, or there are none.
    Listed,
}

/// A text that names no arrival process.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "invalid arrival process `{0}`: expected constant, poisson or gamma:CV with CV from 0.05 to 10, for example gamma:2"
)]
pub struct InvalidProcess(String);

impl FromStr for Process {
    type Err = InvalidProcess;

    fn from_str(text: &str) -> Result<Self, InvalidProcess> {
        let variation = |text: &str| text.parse().ok().filter(|cv| (0.05..=10.0).contains(cv));
        match text.trim() {
            "constant" => Some(Self::Constant),
            "poisson" => Some(Self::Poisson),
            other => other.strip_prefix("gamma:").and_then(variation).map(Self::Gamma),
        }
        .ok_or_else(|| InvalidProcess(text.to_owned()))
    }
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Constant => f.write_str("constant"),
            Self::Poisson => f.write_str("poisson"),
            Self::Gamma(variation) => write!(f, "gamma:{variation}"),
        }
    }
}

impl Serialize for Process {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Process {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

impl Process {
    /// Draws the arrival times within `duration`, `rate` per second on average and at most `most`. They are sorted.
    #[must_use]
    pub fn moments(&self, rate: f64, duration: Duration, seed: u64, most: usize) -> Vec<Duration> {
        let mut random = SmallRng::seed_from_u64(seed);
        let mut gap = self.gaps(rate);
        let mut moments = Vec::new();
        let mut at = match self {
            Self::Constant => 0.0,
            _ => gap(&mut random),
        };
        while moments.len() < most {
            // Compared after rounding to nanoseconds: the list must not hold a time that equals `duration`.
            let moment = Duration::try_from_secs_f64(at).unwrap_or(Duration::MAX);
            if moment >= duration {
                break;
            }
            moments.push(moment);
            at = match self {
                // A quotient, not a running sum: the rounding errors of a million additions would add up.
                Self::Constant => moments.len() as f64 / rate,
                _ => at + gap(&mut random),
            };
        }
        moments
    }

    fn gaps(self, rate: f64) -> Box<dyn FnMut(&mut SmallRng) -> f64> {
        let mean = 1.0 / rate;
        let evenly = move |random: &mut SmallRng| 2.0 * mean * random.random::<f64>();
        match self {
            Self::Constant => Box::new(move |_| mean),
            Self::Poisson => match Exp::new(rate) {
                Ok(law) => Box::new(move |random| law.sample(random)),
                Err(_) => Box::new(evenly),
            },
            Self::Gamma(variation) => match Gamma::new(variation.powi(-2), mean * variation * variation) {
                Ok(law) => Box::new(move |random| law.sample(random)),
                Err(_) => Box::new(evenly),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn texts() {
        for text in ["constant", "poisson", "gamma:2", "gamma:0.5"] {
            assert_eq!(text.parse::<Process>().unwrap().to_string(), text);
        }
        for text in ["", "gamma", "gamma:0", "gamma:-1", "gamma:nan", "gamma:99", "weibull"] {
            assert!(text.parse::<Process>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_constant_rate_is_counted_exactly() {
        let moments = Process::Constant.moments(50.0, Duration::from_secs(10), 1, usize::MAX);
        assert_eq!(moments.len(), 500);
        assert_eq!(moments[499], Duration::from_millis(9_980));
        assert_eq!(Process::Constant.moments(50.0, Duration::from_secs(10), 1, 7).len(), 7);
        assert!(Process::Poisson.moments(50.0, Duration::ZERO, 1, 7).is_empty());
    }

    fn variation(moments: &[Duration]) -> (f64, f64) {
        let gaps: Vec<f64> = moments.windows(2).map(|pair| (pair[1] - pair[0]).as_secs_f64()).collect();
        let n = gaps.len() as f64;
        let mean = gaps.iter().sum::<f64>() / n;
        let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / n;
        (mean, variance.sqrt() / mean)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn moments_grow_and_have_their_mean_and_variation(rate in 1.0f64..2000.0, seed: u64, cv in 0.3f64..2.0) {
            let duration = Duration::from_secs_f64(40_000.0 / rate);
            for (process, expected) in [(Process::Constant, 0.0), (Process::Poisson, 1.0), (Process::Gamma(cv), cv)] {
                let moments = process.moments(rate, duration, seed, usize::MAX);
                prop_assert!(moments.is_sorted());
                prop_assert!(moments.last().is_some_and(|&last| last < duration));
                prop_assert!((moments.len() as f64 / 40_000.0 - 1.0).abs() < 0.08, "{process}: {}", moments.len());
                let (mean, measured) = variation(&moments);
                prop_assert!((mean * rate - 1.0).abs() < 0.08, "{process}: mean {mean}");
                prop_assert!((measured - expected).abs() < 0.06 + expected * 0.08, "{process}: {measured}");
                prop_assert_eq!(&moments, &process.moments(rate, duration, seed, usize::MAX));
            }
        }
    }
}
