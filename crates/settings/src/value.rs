//! Parsers of single values for `#[arg(value_parser = …)]`. They check ranges and say what is expected.

use crate::duration;
use std::{fmt::Display, ops::RangeInclusive, str::FromStr, time::Duration};

/// A value that a parser refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected {expected}")]
pub struct Invalid {
    /// The kind of value, for example `duration`.
    pub kind: &'static str,
    /// The values that are valid, with an example.
    pub expected: String,
}

/// Returns a parser of numbers in `range`.
pub fn number<T>(range: RangeInclusive<T>) -> impl Fn(&str) -> Result<T, Invalid> + Clone + Send + Sync
where
    T: FromStr + PartialOrd + Display + Clone + Send + Sync,
{
    move |text| {
        let number = text.trim().parse().ok().filter(|number| range.contains(number));
        let expected = || format!("{} to {}", range.start(), range.end());
        number.ok_or_else(|| Invalid { kind: "number", expected: expected() })
    }
}

/// Returns a parser of durations in `range`, in seconds. A number without a unit is seconds.
pub fn seconds(
    range: RangeInclusive<u64>,
) -> impl Fn(&str) -> Result<Duration, Invalid> + Clone + Send + Sync {
    let (least, most) = range.into_inner();
    move |text| duration_in(text, 1.0, Duration::from_secs(least)..=Duration::from_secs(most))
}

/// Returns a parser of durations in `range`, in milliseconds. A number without a unit is milliseconds.
pub fn milliseconds(
    range: RangeInclusive<u64>,
) -> impl Fn(&str) -> Result<Duration, Invalid> + Clone + Send + Sync {
    let (least, most) = range.into_inner();
    move |text| duration_in(text, 0.001, Duration::from_millis(least)..=Duration::from_millis(most))
}

fn duration_in(text: &str, bare_unit: f64, range: RangeInclusive<Duration>) -> Result<Duration, Invalid> {
    let duration = duration::parse_in(text, bare_unit).filter(|duration| range.contains(duration));
    let shown = |end: &Duration| if end.is_zero() { "0s".to_owned() } else { format!("{end:?}") };
    let (least, most) = (shown(range.start()), shown(range.end()));
    let expected = || format!("{least} to {most}, for example 250ms, 30s or 1h30m");
    duration.ok_or_else(|| Invalid { kind: "duration", expected: expected() })
}
