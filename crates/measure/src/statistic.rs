//! Statistics of a distribution in milliseconds: mean, minimum, maximum, percentile, and the sample count.

use crate::Distribution;
use std::{fmt, str::FromStr};

/// A statistic of a distribution.
#[derive(Clone, Copy, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum Statistic {
    Mean,
    Min,
    Max,
    /// Number of samples, not milliseconds.
    Count,
    /// Percentile, 0 to 100.
    Percentile(f64),
}

impl Statistic {
    /// Computes the statistic of a distribution.
    ///
    /// # Errors
    /// There are no samples, or too few for so high a percentile.
    pub fn of(self, distribution: &Distribution) -> Result<f64, String> {
        let count = distribution.count();
        #[allow(clippy::cast_precision_loss)]
        if self == Self::Count {
            return Ok(count as f64);
        }
        let figures = distribution.summary().ok_or("there are no samples")?;
        match self {
            Self::Mean => Ok(figures.mean),
            Self::Min => Ok(figures.min),
            Self::Max => Ok(figures.max),
            Self::Count => unreachable!("returned above"),
            Self::Percentile(percent) => {
                let needed = samples_needed(percent);
                if count < needed {
                    return Err(format!("{self} needs {needed} samples and has {count}"));
                }
                distribution.quantile_ms(percent / 100.0).ok_or_else(|| "there are no samples".to_owned())
            }
        }
    }
}

/// Returns the number of samples that a percentile needs. Above p99 at least one sample must lie above the percentile, so
/// p99.9 needs 1,000.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
pub fn samples_needed(percent: f64) -> u64 {
    if percent > 99.0 && percent < 100.0 { (100.0 / (100.0 - percent)).round() as u64 } else { 1 }
}

/// Removes the rounding error of a percentage that was computed from a share.
fn shortest(percent: f64) -> f64 {
    (percent * 1e6).round() / 1e6
}

impl fmt::Display for Statistic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mean => f.write_str("avg"),
            Self::Min => f.write_str("min"),
            Self::Max => f.write_str("max"),
            Self::Count => f.write_str("count"),
            Self::Percentile(percent) => write!(f, "p({percent})"),
        }
    }
}

impl FromStr for Statistic {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let unknown = || {
            format!(
                "unknown statistic `{text}`: expected avg, min, med, max, count or a percentile such as p95"
            )
        };
        Ok(match text {
            "avg" | "mean" => Self::Mean,
            "min" => Self::Min,
            "max" => Self::Max,
            "med" | "median" => Self::Percentile(50.0),
            "count" => Self::Count,
            _ => {
                let number = text.strip_prefix('p').ok_or_else(unknown)?;
                let bare = number.strip_prefix('(').and_then(|rest| rest.strip_suffix(')')).unwrap_or(number);
                if !bare.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') {
                    return Err(unknown());
                }
                let percent: f64 = bare.parse().map_err(|_| unknown())?;
                if !(0.0..=100.0).contains(&percent) {
                    return Err(unknown());
                }
                if percent > 0.0 && percent < 1.0 {
                    return Err(format!(
                        "percentiles count from 0 to 100, and `{text}` is below 1: did you mean p{}?",
                        shortest(percent * 100.0)
                    ));
                }
                Self::Percentile(percent)
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_as_the_tools_write_them() {
        for (text, shown) in [
            ("p95", "p(95)"),
            ("p(99.9)", "p(99.9)"),
            ("med", "p(50)"),
            ("mean", "avg"),
            ("avg", "avg"),
            ("p100", "p(100)"),
            ("count", "count"),
        ] {
            assert_eq!(
                text.parse::<Statistic>().map(|statistic| statistic.to_string()),
                Ok(shown.to_owned())
            );
        }
        for bad in ["", "p", "p()", "p101", "p-1", "pNaN", "p1e1", "95", "P95", "p(95"] {
            let error = bad.parse::<Statistic>().unwrap_err();
            assert!(error.starts_with(&format!("unknown statistic `{bad}`")), "{error}");
        }
        for (share, meant) in [("p0.95", "p95?"), ("p(0.5)", "p50?"), ("p0.999", "p99.9?"), ("p.07", "p7?")] {
            let error = share.parse::<Statistic>().unwrap_err();
            assert!(error.ends_with(&format!("did you mean {meant}")), "{error}");
        }
        assert_eq!("p0".parse(), Ok(Statistic::Percentile(0.0)));
    }

    #[test]
    fn a_percentile_needs_its_samples() {
        let mut distribution = Distribution::default();
        (1..=999).for_each(|ms| distribution.record(ms * 1_000_000));
        let of =
            |text: &str, distribution: &Distribution| text.parse::<Statistic>().unwrap().of(distribution);
        assert_eq!(of("p99.9", &distribution), Err("p(99.9) needs 1000 samples and has 999".to_owned()));
        distribution.record(1_000_000_000);
        assert!((of("p99.9", &distribution).unwrap() - 999.0).abs() < 2.0);
        assert_eq!(of("count", &distribution), Ok(1000.0));
        assert_eq!(of("max", &distribution), Ok(1000.0));
        assert_eq!(of("avg", &distribution), Ok(500.5));
        assert!(of("p99", &Distribution::default()).is_err());
        assert_eq!(of("count", &Distribution::default()), Ok(0.0));
    }
}
