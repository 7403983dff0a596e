//! The result of one run of a sweep.

use super::{ROLES, Turn, cpu_key, rss_key};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

/// How a run of a sweep ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// All criteria are met.
    #[serde(rename = "PASS")]
    Pass,
    /// A criterion is not met.
    #[serde(rename = "FAIL")]
    Fail,
    /// The measurement cannot be trusted.
    #[serde(rename = "INVALID")]
    Invalid,
    /// The stack or the run did not start, or the run wrote no summary.
    #[serde(rename = "NO RESULT")]
    NoResult,
}

impl Outcome {
    /// Returns the name in texts.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pass => "PASS",
            Self::Fail => "FAIL",
            Self::Invalid => "INVALID",
            Self::NoResult => "NO RESULT",
        }
    }
}

/// One run of a sweep.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// Number of the variant, from 1.
    pub variant: usize,
    /// Number of the repetition, from 1.
    pub repetition: usize,
    /// Common start of the names of the run's files, from the directory of the sweep's files. Empty if there are none.
    pub run: String,
    /// How the run ended.
    pub verdict: Outcome,
    /// Why.
    pub reason: String,
    /// Figures by their keys.
    pub figures: BTreeMap<String, f64>,
}

/// The summary of a run does not count as the result of a point.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfinished {
    /// The run was interrupted.
    #[error("the run was interrupted")]
    Interrupted,
    /// The file is not a summary.
    #[error("the run's summary has no verdict")]
    NoSummary,
}

impl Point {
    /// Returns the point of a run without a result.
    #[must_use]
    pub fn without_result(turn: Turn, reason: String) -> Self {
        let Turn { variant, repetition } = turn;
        let (run, figures) = (String::new(), BTreeMap::new());
        Self { variant, repetition, run, verdict: Outcome::NoResult, reason, figures }
    }

    /// Reads the `_summary.json` of a run.
    ///
    /// # Errors
    /// The run was interrupted, or `summary` is not the summary of a run.
    pub fn of_summary(turn: Turn, run: String, summary: &Value) -> Result<Self, Unfinished> {
        if summary["interrupted"].as_bool() == Some(true) {
            return Err(Unfinished::Interrupted);
        }
        let verdict = match summary["verdict"].as_str() {
            Some("PASS") => Outcome::Pass,
            Some("FAIL") => Outcome::Fail,
            Some("INVALID") => Outcome::Invalid,
            _ => return Err(Unfinished::NoSummary),
        };
        let reason = summary["verdict_reason"].as_str().unwrap_or_default().to_owned();
        let Turn { variant, repetition } = turn;
        Ok(Self { variant, repetition, run, verdict, reason, figures: figures(summary) })
    }

    /// Returns which run of the sweep this is.
    #[must_use]
    pub const fn turn(&self) -> Turn {
        Turn { variant: self.variant, repetition: self.repetition }
    }

    /// Returns whether the run has a result, so that it is not played again.
    #[must_use]
    pub const fn is_finished(&self) -> bool {
        !matches!(self.verdict, Outcome::NoResult)
    }
}

fn figures(summary: &Value) -> BTreeMap<String, f64> {
    let mut figures = BTreeMap::new();
    let mut add = |key: String, value: Option<f64>| {
        figures.extend(value.filter(|value| value.is_finite()).map(|value| (key, value)));
    };
    for key in ["queries_ok", "queries_total"] {
        add(key.to_owned(), summary[key].as_f64());
    }
    for metric in ["e2el", "ttft"] {
        for statistic in ["p50", "p99"] {
            let value = summary["metrics"][format!("{metric}_ms")][statistic].as_f64();
            add(format!("{metric}_{statistic}_ms"), value);
        }
    }
    add("tokens_per_s".to_owned(), summary["output_throughput"].as_f64());
    let broken = ["tokens_lost", "tokens_duplicated", "tokens_reordered"].map(|key| summary[key].as_f64());
    add("tokens_broken".to_owned(), broken.into_iter().sum());
    let health = |quantity: &str, role: &str| summary["health"][format!("{quantity}{{{role}}}")].as_f64();
    for role in ROLES {
        add(cpu_key(role), health("cpu_share", role));
        add(rss_key(role), health("rss_mb", role));
    }
    let stack: Vec<f64> = ROLES[1..].iter().filter_map(|role| health("cpu_share", role)).collect();
    add(cpu_key("stack"), (!stack.is_empty()).then(|| stack.iter().sum()));
    figures
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const TURN: Turn = Turn { variant: 3, repetition: 2 };

    #[test]
    fn the_figures_come_from_the_summary() {
        let summary = json!({
            "verdict": "FAIL", "verdict_reason": "too slow", "queries_ok": 9, "queries_total": 10,
            "metrics": { "e2el_ms": { "p50": 900.5, "p99": 1200 }, "ttft_ms": { "p50": 3 } },
            "output_throughput": 180.5, "tokens_lost": 2, "tokens_duplicated": 1, "tokens_reordered": 0,
            "health": { "cpu_share{wsproxy}": 0.25, "cpu_share{redis}": 0.5, "cpu_share{client}": 0.1, "rss_mb{redis}": 12.5 },
        });
        let point = Point::of_summary(TURN, "x".into(), &summary).unwrap();
        assert_eq!((point.turn(), point.verdict, point.reason.as_str()), (TURN, Outcome::Fail, "too slow"));
        assert!(point.is_finished());
        let expected = [
            ("cpu_cores_client", 0.1),
            ("cpu_cores_redis", 0.5),
            ("cpu_cores_stack", 0.75),
            ("cpu_cores_wsproxy", 0.25),
            ("e2el_p50_ms", 900.5),
            ("e2el_p99_ms", 1200.0),
            ("queries_ok", 9.0),
            ("queries_total", 10.0),
            ("rss_mb_redis", 12.5),
            ("tokens_broken", 3.0),
            ("tokens_per_s", 180.5),
            ("ttft_p50_ms", 3.0),
        ];
        assert_eq!(point.figures, expected.map(|(key, value)| (key.to_owned(), value)).into());
    }

    #[test]
    fn what_is_not_finished_is_played_again() {
        let point = |summary: &Value| Point::of_summary(TURN, String::new(), summary);
        let interrupted = json!({ "verdict": "PASS", "interrupted": true });
        assert_eq!(point(&interrupted), Err(Unfinished::Interrupted));
        assert_eq!(point(&json!([1])), Err(Unfinished::NoSummary));
        assert!(!Point::without_result(TURN, "the stack did not start".into()).is_finished());
    }

    #[test]
    fn a_point_is_stored() {
        let point = Point::without_result(TURN, "why".into());
        let text = serde_json::to_string(&point).unwrap();
        assert!(text.contains("\"NO RESULT\""), "{text}");
        assert_eq!(serde_json::from_str::<Point>(&text).unwrap(), point);
    }
}
