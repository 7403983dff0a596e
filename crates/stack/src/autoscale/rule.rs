//! The rule of an autoscaler and its text form: `wsproxy: connections/1000, 1..8`.

use serde::{Deserialize, Serialize};
use settings::duration;
use std::{fmt, str::FromStr, time::Duration};

/// Largest number of gateways of a native stack.
const MAX: u16 = 64;
const EXAMPLE: &str = "expected for example `wsproxy: connections/1000, 1..8`";

/// How many gateways a stack should have: enough for `target` open sockets each, within bounds. The defaults of the times are those of
/// deploy/kubernetes/overlays/production/autoscaling.yaml.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Rule {
    /// Open sockets per gateway to aim at; at least 1.
    pub target: u64,
    /// Smallest number of gateways. With 0, the first refused connection starts one.
    pub min: u16,
    /// Largest number of gateways; at most 64.
    pub max: u16,
    /// Within this time the number of gateways at most doubles.
    pub up_period: Duration,
    /// The number decreases only to the highest number that was recommended in this time.
    pub down_window: Duration,
    /// Within this time at most one gateway is removed.
    pub down_period: Duration,
}

impl Rule {
    /// Returns a rule with the times of the Kubernetes manifest.
    const fn new(target: u64, min: u16, max: u16) -> Self {
        let [up_period, down_window, down_period] = DEFAULTS;
        Self { target, min, max, up_period, down_window, down_period }
    }
}

const NAMES: [&str; 3] = ["up-period", "down-window", "down-period"];
const DEFAULTS: [Duration; 3] = [Duration::from_secs(60), Duration::from_secs(600), Duration::from_secs(300)];

impl FromStr for Rule {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let invalid = |what: String| format!("invalid autoscaling rule `{text}`: {what}; {EXAMPLE}");
        let (role, rest) = text.split_once(':').ok_or_else(|| invalid("it has no role".into()))?;
        if role.trim() != "wsproxy" {
            return Err(invalid(format!(
                "only gateways (wsproxy) can be scaled by their load, not `{}`",
                role.trim()
            )));
        }
        let mut parts = rest.split(',').map(str::trim);
        let metric = parts.next().unwrap_or_default();
        let target = metric.strip_prefix("connections/").and_then(|target| target.parse().ok());
        let target = target.filter(|&target| target > 0).ok_or_else(|| {
            invalid(format!(
                "`{metric}` is not connections/N with a number of open sockets per gateway, at least 1"
            ))
        })?;
        let bounds = parts.next().unwrap_or_default();
        let numbers =
            bounds.split_once("..").and_then(|(min, max)| Some((min.parse().ok()?, max.parse().ok()?)));
        let (min, max) = numbers.ok_or_else(|| invalid(format!("`{bounds}` is not MIN..MAX")))?;
        if min > max || max == 0 || max > MAX {
            return Err(invalid(format!(
                "the bounds {bounds} are not in order, allow no gateway or exceed {MAX}"
            )));
        }
        let mut rule = Self::new(target, min, max);
        for part in parts {
            rule.set(part).map_err(&invalid)?;
        }
        Ok(rule)
    }
}

impl Rule {
    /// Reads a time, for example `down-window=60s`.
    fn set(&mut self, part: &str) -> Result<(), String> {
        let fields = [&mut self.up_period, &mut self.down_window, &mut self.down_period];
        let wrong = || {
            format!("`{part}` is not one of up-period=60s, down-window=600s and down-period=300s, at most 1h")
        };
        let (name, value) = part.split_once('=').ok_or_else(wrong)?;
        let time = duration::parse(value.trim())
            .filter(|time| *time <= Duration::from_secs(3600))
            .ok_or_else(wrong)?;
        let mut named = NAMES.into_iter().zip(fields);
        *named.find(|(known, _)| *known == name.trim()).ok_or_else(wrong)?.1 = time;
        Ok(())
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "wsproxy: connections/{}, {}..{}", self.target, self.min, self.max)?;
        let times = [self.up_period, self.down_window, self.down_period];
        for ((name, default), time) in NAMES.into_iter().zip(DEFAULTS).zip(times) {
            if time != default {
                write!(f, ", {name}={}ms", time.as_millis())?;
            }
        }
        Ok(())
    }
}

impl TryFrom<String> for Rule {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Rule> for String {
    fn from(rule: Rule) -> Self {
        rule.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_read_and_written() {
        let rule: Rule = "wsproxy: connections/1000, 1..8".parse().unwrap();
        assert_eq!(rule, Rule::new(1_000, 1, 8));
        assert_eq!(rule.to_string(), "wsproxy: connections/1000, 1..8");
        let fast: Rule = "wsproxy:connections/20,2..4,down-window=10s, up-period=0s".parse().unwrap();
        assert_eq!((fast.down_window, fast.up_period), (Duration::from_secs(10), Duration::ZERO));
        assert_eq!(fast.down_period, Duration::from_secs(300));
        assert_eq!(fast.to_string().parse::<Rule>().unwrap(), fast);
    }

    #[test]
    fn the_times_are_those_of_the_kubernetes_manifest() {
        let manifest = include_str!("../../../../deploy/kubernetes/overlays/production/autoscaling.yaml");
        let [up, window, down] = DEFAULTS.map(|time| time.as_secs());
        for line in [
            format!("- {{type: Percent, value: 100, periodSeconds: {up}}}"),
            format!("stabilizationWindowSeconds: {window}"),
            format!("- {{type: Pods, value: 1, periodSeconds: {down}}}"),
        ] {
            assert!(manifest.contains(&line), "{line}");
        }
    }

    #[test]
    fn errors_name_the_value_and_an_example() {
        for (text, why) in [
            ("", "no role"),
            ("server: connections/10, 1..2", "not `server`"),
            ("wsproxy: cpu/10, 1..2", "`cpu/10`"),
            ("wsproxy: connections/0, 1..2", "`connections/0`"),
            ("wsproxy: connections/10", "MIN..MAX"),
            ("wsproxy: connections/10, 3", "`3` is not MIN..MAX"),
            ("wsproxy: connections/10, 0..0", "allow no gateway"),
            ("wsproxy: connections/10, 4..2", "4..2"),
            ("wsproxy: connections/10, 1..65", "exceed 64"),
            ("wsproxy: connections/10, 1..4, down=3s", "`down=3s`"),
            ("wsproxy: connections/10, 1..4, down-window=2h", "at most 1h"),
        ] {
            let error = text.parse::<Rule>().unwrap_err();
            assert!(error.contains(why) && error.contains("1..8"), "{text}: {error}");
        }
    }
}
