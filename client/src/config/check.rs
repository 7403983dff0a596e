//! Checks one value at a time against its range. It collects errors and continues after each.

use crate::cli::DurationText;
use settings::{address::redacted_text, duration};
use std::{ops::RangeInclusive, time::Duration};
use url::Url;

/// Upper limit of every duration: one week.
pub(super) const LONGEST_DURATION: Duration = Duration::from_secs(7 * 24 * 3600);
/// Examples of durations for error messages.
pub(super) const EXAMPLES: &str = "30s, 5m or 1h30m";

/// The config errors found so far.
#[derive(Default)]
pub(super) struct Check {
    pub(super) errors: Vec<String>,
}

impl Check {
    pub(super) fn error(&mut self, error: String) {
        self.errors.push(error);
    }

    pub(super) fn count(&mut self, flag: &str, value: Option<i64>, default: i64, min: i64, max: i64) -> u64 {
        let value = value.unwrap_or(default);
        if !(min..=max).contains(&value) {
            self.error(format!("{flag} {value} is out of range: expected a number from {min} to {max}"));
        }
        value.clamp(min, max).unsigned_abs()
    }

    /// Reads a duration of at least `min`. A number without a unit is seconds. Absent or wrong values become `default`.
    pub(super) fn duration(
        &mut self,
        flag: &str,
        text: Option<&DurationText>,
        default: Duration,
        min: Duration,
    ) -> Duration {
        self.duration_in(flag, text, 1.0, min..=LONGEST_DURATION).unwrap_or(default)
    }

    /// Reads a duration in `range`. A number without a unit counts units of `bare_unit` seconds.
    pub(super) fn duration_in(
        &mut self,
        flag: &str,
        text: Option<&DurationText>,
        bare_unit: f64,
        range: RangeInclusive<Duration>,
    ) -> Option<Duration> {
        let text = text?;
        let Some(duration) = duration::parse_in(text.as_str(), bare_unit) else {
            self.error(format!("invalid duration \"{text}\" for {flag}: expected for example {EXAMPLES}"));
            return None;
        };
        if !range.contains(&duration) {
            let (least, most) = (range.start(), range.end());
            self.error(format!(
                "{flag} {text} is out of range: expected {least:?} to {} h",
                most.as_secs_f64() / 3600.0
            ));
            return None;
        }
        Some(duration)
    }

    pub(super) fn name(&mut self, name: &str) -> String {
        let plain = |c: char| c.is_alphanumeric() || "-_.".contains(c);
        if name.is_empty() || name.len() > 100 || name.starts_with('.') || !name.chars().all(plain) {
            self.error(format!("invalid name \"{name}\" for --name: expected letters, digits and -_. because it becomes part of file names"));
        }
        name.to_owned()
    }

    pub(super) fn url(&mut self, flag: &str, text: &str, schemes: [&str; 2]) -> Option<Url> {
        let [plain, secure] = schemes;
        let shown = redacted_text(text);
        match Url::parse(text) {
            Ok(url)
                if schemes.contains(&url.scheme()) && url.host_str().is_some_and(|host| !host.is_empty()) =>
            {
                Some(url)
            }
            Ok(_) => {
                self.error(format!(
                    "invalid URL \"{shown}\" for {flag}: expected {plain}:// or {secure}:// and a host"
                ));
                None
            }
            Err(error) => {
                self.error(format!(
                    "invalid URL \"{shown}\" for {flag} ({error}): expected for example {plain}://127.0.0.1:8080"
                ));
                None
            }
        }
    }
}
