//! One value at a time against its bounds: what is wrong is noted, and the check goes on.
//! It reads no environment and stops at no fault.

use settings::address::redacted_text;
use std::time::Duration;
use url::Url;

const MAX_SECONDS: f64 = 7.0 * 24.0 * 3600.0;

/// The faults found so far.
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
            self.error(format!("{flag} {value} is out of range: give a number from {min} to {max}"));
        }
        value.clamp(min, max).unsigned_abs()
    }

    pub(super) fn seconds(&mut self, flag: &str, value: Option<f64>, default: f64, min: f64) -> Duration {
        let value = value.unwrap_or(default);
        if !(min..=MAX_SECONDS).contains(&value) {
            self.error(format!("{flag} {value} is out of range: give seconds from {min} to {MAX_SECONDS}"));
            return Duration::from_secs(1);
        }
        Duration::from_secs_f64(value)
    }

    pub(super) fn millis(&mut self, flag: &str, value: Option<f64>, default: f64) -> Duration {
        let value = value.unwrap_or(default);
        if !(0.0..=3_600_000.0).contains(&value) {
            self.error(format!("{flag} {value} is out of range: give milliseconds from 0 to 3600000"));
            return Duration::ZERO;
        }
        Duration::from_secs_f64(value / 1e3)
    }

    pub(super) fn name(&mut self, name: &str) -> String {
        let plain = |c: char| c.is_alphanumeric() || "-_.".contains(c);
        if name.is_empty() || name.len() > 100 || name.starts_with('.') || !name.chars().all(plain) {
            self.error(format!("--name `{name}` becomes part of file names: use letters, digits and `-_.`"));
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
                    "{flag} `{shown}` must start with {plain}:// or {secure}:// and name a host"
                ));
                None
            }
            Err(error) => {
                self.error(format!(
                    "{flag} `{shown}` is no URL ({error}): expected e.g. {plain}://127.0.0.1:8080"
                ));
                None
            }
        }
    }
}
