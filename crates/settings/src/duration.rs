//! Reads durations: `10s`, `1m30s`, `500ms`, `0.5`. A number without a unit is seconds, or the unit that the caller names.

use std::time::Duration;

/// Upper limit of a duration in a configuration: one week.
const LONGEST: Duration = Duration::from_secs(7 * 24 * 3600);

/// Reads a duration of at most a week. `None` if the text is invalid or the duration longer.
pub fn parse(text: &str) -> Option<Duration> {
    parse_unlimited(text).filter(|&duration| duration <= LONGEST)
}

/// Reads a duration of any length. `None` if the text is invalid.
pub fn parse_unlimited(text: &str) -> Option<Duration> {
    parse_in(text, 1.0)
}

/// Reads a duration of any length. A number without a unit counts units of `bare_unit` seconds. `None` if the text is invalid.
pub fn parse_in(text: &str, bare_unit: f64) -> Option<Duration> {
    let text = text.trim();
    if text.bytes().last()?.is_ascii_digit() {
        return number(text, bare_unit);
    }
    let (mut rest, mut total) = (text, Duration::ZERO);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (value, tail) = rest.split_at(digits);
        let unit_end = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, next) = tail.split_at(unit_end);
        let seconds = match unit {
            "ms" => 0.001,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        total = total.checked_add(number(value, seconds)?)?;
        rest = next;
    }
    Some(total)
}

/// Reads a number of units, which may be negative, or a duration with a unit of its own: `1500`, `-5` and `1.5s` count milliseconds if
/// `bare_unit` is one millisecond. `None` if the text is invalid or the number not finite.
pub fn number_of(text: &str, bare_unit: Duration) -> Option<f64> {
    let with_unit = || Some(parse_unlimited(text)?.as_nanos() as f64 / bare_unit.as_nanos() as f64);
    text.parse().ok().or_else(with_unit).filter(|number: &f64| number.is_finite())
}

/// Reads a number of units, each `seconds` long. Signs and exponents are invalid.
fn number(text: &str, seconds: f64) -> Option<Duration> {
    if !text.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        return None;
    }
    Duration::try_from_secs_f64(text.parse::<f64>().ok()? * seconds).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_number_has_the_unit_of_the_setting() {
        for (text, ms) in [("250", Some(250)), ("0.5s", Some(500)), ("1m", Some(60_000)), ("250x", None)] {
            assert_eq!(parse_in(text, 0.001), ms.map(Duration::from_millis), "{text:?}");
        }
    }

    #[test]
    fn a_number_may_have_a_unit() {
        for (text, ms) in [
            ("3e3", Some(3e3)),
            ("-5", Some(-5.0)),
            ("1.5s", Some(1500.0)),
            ("7ms", Some(7.0)),
            ("1m30s", Some(9e4)),
        ] {
            assert_eq!(number_of(text, Duration::from_millis(1)), ms, "{text:?}");
        }
        for text in ["", "5x", "-5s", "nan", "inf", "1e999"] {
            assert_eq!(number_of(text, Duration::from_millis(1)), None, "{text:?}");
        }
    }

    #[test]
    fn a_table_of_durations() {
        for (text, ms) in [
            ("10s", Some(10_000)),
            ("1m30s", Some(90_000)),
            ("500ms", Some(500)),
            ("0.5", Some(500)),
            (" 7 ", Some(7_000)),
            ("1.5s", Some(1_500)),
            ("1h", Some(3_600_000)),
            ("0", Some(0)),
            ("", None),
            ("s", None),
            ("10x", None),
            ("-1s", None),
            ("1e3", None),
            ("1s x", None),
            ("1.2.3s", None),
            ("9999h", None),
            ("inf", None),
        ] {
            assert_eq!(parse(text), ms.map(Duration::from_millis), "{text:?}");
        }
    }
}
