//! Compares thresholds with the figures of a run: held, broken, unknown or undecided.

use super::{
    Figure, FigureTrust, Operator, Scope, State, Threshold, Windows, distribution_of, names::COUNTED,
    stretch_figure, window::Worst,
};
use crate::{Distribution, Hop, HopFigures, Interval, Quantity, ReadingTotals, Steady};
use settings::plural::counted;
use std::collections::BTreeMap;

/// A limit further from the value than this factor does not decide whether the measurement is good enough.
const MAX_TIMES: f64 = 10.0;

/// Outcome of a threshold.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// Threshold.
    pub threshold: Threshold,
    /// State.
    pub state: State,
    /// Value of the figure. For windows, that of the worst one.
    pub value: Option<f64>,
    /// Second at which the worst window began.
    pub worst_from_s: Option<u64>,
    /// Whether failures that do not depend on time broke it, so that a slow generator cannot be the cause.
    pub certain: bool,
    /// Whether the figure is a latency with too large a measurement error.
    pub untrusted: bool,
}

impl Outcome {
    /// Returns the value as text: `p(95)=948.2`, `0.004`. For windows with the start of the worst one.
    #[must_use]
    pub fn value_text(&self) -> String {
        let Some(value) = self.value else {
            return match &self.state {
                State::Unknown(why) => why.clone(),
                _ => String::new(),
            };
        };
        let name = self.threshold.statistic().map(|statistic| format!("{statistic}=")).unwrap_or_default();
        let from = self.worst_from_s.map(|second| format!(" (from {second} s)")).unwrap_or_default();
        let mark = if self.untrusted { "~" } else { "" };
        let span = match self.state {
            State::Undecided { low, high } => {
                format!(", between {} and {}", figure_text(low), figure_text(high))
            }
            _ => String::new(),
        };
        format!("{name}{mark}{}{from}{span}", figure_text(value))
    }

    /// Returns whether the threshold decided a latency in spite of its measurement error, with a limit near enough to the value.
    #[must_use]
    pub fn decides_a_latency(&self) -> bool {
        let decided = matches!(self.state, State::Held | State::Broken) && self.threshold.is_of_a_latency();
        let limit = self.threshold.limit.abs();
        let is_near = |value: f64| match self.threshold.operator {
            Operator::Below | Operator::AtMost | Operator::Equal => limit <= MAX_TIMES * value,
            Operator::Above | Operator::AtLeast => limit * MAX_TIMES >= value,
            Operator::NotEqual => false,
        };
        decided && self.value.is_some_and(|value| is_near(value.abs()))
    }
}

/// Formats a figure with about four digits, without a fraction if it is a whole number.
#[must_use]
pub fn figure_text(value: f64) -> String {
    let digits = match value.abs() {
        _ if value.fract() == 0.0 => 0,
        size if size >= 1000.0 => 0,
        size if size >= 100.0 => 1,
        size if size >= 1.0 => 2,
        _ => 5,
    };
    format!("{value:.digits$}")
}

/// Figures of a run for its thresholds.
#[derive(Debug)]
pub struct RunFigures<'a> {
    /// Distributions and counts of the whole run.
    pub metrics: &'a Interval,
    /// Counts, rates and shares by name. `None` where there is nothing to compute it from.
    pub scalars: &'a BTreeMap<&'static str, Option<f64>>,
    /// The scalars computed as if queries that timed out during a stall of the generator had been ok. `None` without such
    /// queries.
    pub excused: Option<&'a BTreeMap<&'static str, Option<f64>>>,
    /// Monitoring readings.
    pub readings: &'a ReadingTotals,
    /// Steady state, if the run had one.
    pub steady: Option<&'a Steady>,
    /// Worst windows.
    pub windows: &'a Windows,
}

/// Returns the outcomes of all thresholds, in their order.
#[must_use]
pub fn judge_all(thresholds: &[Threshold], figures: &RunFigures<'_>) -> Vec<Outcome> {
    thresholds.iter().map(|threshold| judge(threshold, figures)).collect()
}

fn judge(threshold: &Threshold, figures: &RunFigures<'_>) -> Outcome {
    let (value, worst_from_s, trust) = match threshold.scope {
        Scope::Window(_) => match figures.windows.worst(threshold) {
            Ok(Worst { value, from_s, trust }) => (Ok(value), Some(from_s), trust),
            Err(why) => (Err(why), None, FigureTrust::default()),
        },
        Scope::Run => (over_run(threshold, figures), None, FigureTrust::of(threshold, figures.metrics)),
        Scope::Steady => {
            let trust = figures.steady.map(|steady| FigureTrust::of(threshold, &steady.metrics));
            (over_steady(threshold, figures), None, trust.unwrap_or_default())
        }
    };
    let stretch = match threshold.scope {
        Scope::Steady => figures.steady.map_or(figures.metrics, |steady| &steady.metrics),
        Scope::Run | Scope::Window(_) => figures.metrics,
    };
    let value = value.and_then(|value| split_problem(threshold, stretch).map_or(Ok(value), Err));
    let state = match &value {
        Ok(value) => trust.judge(threshold, *value),
        Err(why) => State::Unknown(why.clone()),
    };
    let certain = state == State::Broken && is_certain(threshold, figures);
    let untrusted = trust.untrusted;
    Outcome { threshold: threshold.clone(), state, value: value.ok(), worst_from_s, certain, untrusted }
}

/// Returns why a threshold on a hop cannot be judged, although there are samples of it.
fn split_problem(threshold: &Threshold, metrics: &Interval) -> Option<String> {
    let Figure::Duration(metric, _) = &threshold.figure else { return None };
    let hop = Hop::ALL.into_iter().find(|hop| hop.metric() == *metric)?;
    let split = HopFigures::of(metrics)?;
    if !split.is_reliable() {
        return Some(format!(
            "the times of {} contradict each other",
            counted(split.impossible, "sampled tokens")
        ));
    }
    (!split.is_complete(hop)).then(|| "for a part of the tokens it lies between two clocks".to_owned())
}

/// Returns whether failures that do not depend on time broke a threshold. If queries are excused, this is known only for the
/// whole run.
fn is_certain(threshold: &Threshold, figures: &RunFigures<'_>) -> bool {
    let Figure::Scalar(name) = threshold.figure else { return false };
    COUNTED.contains(&name)
        && match figures.excused {
            None => true,
            Some(excused) => {
                let value = excused.get(name).copied().flatten();
                threshold.scope == Scope::Run
                    && value.is_some_and(|value| !threshold.operator.holds(value, threshold.limit))
            }
        }
}

fn over_run(threshold: &Threshold, figures: &RunFigures<'_>) -> Result<f64, String> {
    match &threshold.figure {
        Figure::Duration(metric, statistic) => statistic.of(figures.metrics.get(*metric)),
        Figure::Scalar(name) => {
            figures.scalars.get(name).copied().flatten().ok_or_else(|| "it was not measured".to_owned())
        }
        Figure::Reading(selector) if selector.quantity == Quantity::RssGrowth => {
            figures.readings.growth(selector.label.as_deref(), figures.steady)
        }
        Figure::Reading(selector) => figures.readings.figure(selector),
    }
}

fn over_steady(threshold: &Threshold, figures: &RunFigures<'_>) -> Result<f64, String> {
    let Some(steady) = figures.steady else {
        return Err("the run had no steady state of 10 s or more".to_owned());
    };
    let nothing = Distribution::default();
    let metrics = &steady.metrics;
    let distribution = distribution_of(&threshold.figure, metrics).unwrap_or(&nothing);
    stretch_figure(&threshold.figure, distribution, metrics.counts(), metrics.tokens(), steady.seconds())
}

/// Returns the threshold that a count of the run equals `count`.
#[must_use]
#[allow(clippy::cast_precision_loss)]
pub fn exactly(name: &'static str, count: u64) -> Threshold {
    Threshold {
        text: format!("{name}=={count}"),
        figure: Figure::Scalar(name),
        scope: Scope::Run,
        operator: Operator::Equal,
        limit: count as f64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{BoundedSample, Metric, Reading};

    fn interval() -> Interval {
        let mut interval = Interval::default();
        (1..=100).for_each(|ms| interval.record(Metric::E2el, ms * 1_000_000));
        interval
    }

    #[test]
    fn held_broken_or_unknown() {
        let metrics = interval();
        let mut fast = Interval::default();
        fast.record(Metric::E2el, 5_000_000);
        let steady = Steady { from_s: 10, to_s: 30, metrics: fast };
        let scalars = BTreeMap::from([
            ("error_rate", Some(0.004)),
            ("tokens_lost", Some(0.0)),
            ("delivery_ratio", None),
        ]);
        let mut readings = ReadingTotals::default();
        readings.add(0, &Reading { quantity: Quantity::RssMb, label: "redis".into(), value: 20.0 });
        for second in 0..400_u32 {
            let value = 20.0 + f64::from(second) / 64.0;
            for (label, from) in [("server", 0), ("wsproxy", 0), ("wsproxy-1", 0), ("wsproxy-2", 200)] {
                if second >= from {
                    readings.add(
                        second.into(),
                        &Reading { quantity: Quantity::RssMb, label: label.into(), value },
                    );
                }
            }
        }
        let long = Steady { from_s: 10, to_s: 390, metrics: Interval::default() };
        let windows = Windows::default();
        let run = |steady| RunFigures {
            metrics: &metrics,
            scalars: &scalars,
            excused: None,
            readings: &readings,
            steady,
            windows: &windows,
        };
        let check = |text: &str, steady, expected: &str| {
            let outcome = judge(&text.parse().unwrap(), &run(steady));
            let state = match &outcome.state {
                State::Held => "held",
                State::Broken => "broken",
                State::Unknown(_) => "unknown",
                State::Undecided { .. } => "undecided",
            };
            assert_eq!(format!("{state} {}", outcome.value_text()), expected, "{text}");
        };
        check("e2el_ms:p95<96", None, "held p(95)=95.03");
        check("e2el_ms:p95<95", None, "broken p(95)=95.03");
        check("e2el_ms:max<=100", None, "held max=100");
        check("error_rate<0.005", None, "held 0.00400");
        check("tokens_lost==0", None, "held 0");
        check("rss_mb{redis}<10", None, "broken 20");
        check("rss_mb{haproxy}<10", None, "unknown it was not monitored in this run");
        check("rss_growth_mb_per_h{server}<50", Some(&long), "broken 56.25");
        check("rss_growth_mb_per_h{server}<70", Some(&long), "held 56.25");
        check(
            "rss_growth_mb_per_h{redis}<70",
            Some(&long),
            "unknown its samples cover 0 s of 380 s of steady state",
        );
        let short = "unknown its slope needs 300 s of steady state, and this run had 20 s";
        check("rss_growth_mb_per_h{server}<70", Some(&steady), short);
        check("rss_growth_mb_per_h{haproxy}<70", Some(&long), "unknown it was not monitored in this run");
        check(
            "rss_growth_mb_per_h{wsproxy}<70",
            Some(&long),
            "unknown wsproxy-2 did not run in the whole steady state, so that the sum grew or fell by its memory",
        );
        check("delivery_ratio==1", None, "unknown it was not measured");
        check("ttft_ms:p95<96", None, "unknown there are no samples");
        check("e2el_ms:p99.9<96", None, "unknown p(99.9) needs 1000 samples and has 100");
        check("e2el_ms{steady}:p95<95", None, "unknown the run had no steady state of 10 s or more");
        check("e2el_ms{steady}:p95<95", Some(&steady), "held p(95)=5");
        check("request_throughput{steady}>1", Some(&steady), "broken 0");
        check("error_rate{steady}<1", Some(&steady), "unknown it has no value in this part of the run");
    }

    #[test]
    fn a_limit_far_from_the_figure_decides_nothing() {
        let decides = |text: &str| {
            let outcome = Outcome {
                threshold: text.parse().unwrap(),
                state: State::Held,
                value: Some(900.0),
                worst_from_s: None,
                untrusted: false,
                certain: false,
            };
            outcome.decides_a_latency()
        };
        for near in ["e2el_ms:p95<9000", "e2el_ms:p50>=90", "e2el_ms:max<1000"] {
            assert!(decides(near), "{near}");
        }
        for far in
            ["e2el_ms:p95<9001", "e2el_ms:p50>=89", "e2el_ms:p50>0", "e2el_ms:count>=1", "e2el_ms:p50!=1"]
        {
            assert!(!decides(far), "{far}");
        }
    }

    #[test]
    fn a_limit_within_the_error_decides_nothing() {
        let mut metrics = Interval::default();
        for _ in 0..100 {
            let sample = BoundedSample::at_most(900_000_000, 400_000_000, None);
            metrics.record_bounded(Metric::E2el, sample);
        }
        let check = |text: &str, expected: &str, decides: bool| {
            let outcome = judge(
                &text.parse().unwrap(),
                &RunFigures {
                    metrics: &metrics,
                    scalars: &BTreeMap::new(),
                    excused: None,
                    readings: &ReadingTotals::default(),
                    steady: None,
                    windows: &Windows::default(),
                },
            );
            let state = match outcome.state {
                State::Undecided { low, high } => format!("{low:.0}..{high:.0}"),
                ref other => format!("{other:?}"),
            };
            assert_eq!((state.as_str(), outcome.decides_a_latency()), (expected, decides), "{text}");
            assert!(outcome.untrusted && outcome.value_text().contains('~'), "{}", outcome.value_text());
        };
        check("e2el_ms:p95<950", "Held", true);
        check("e2el_ms:p95<800", "500..900", false);
        check("e2el_ms:p95<901", "Held", true);
        check("e2el_ms:p95<450", "Broken", true);
        check("e2el_ms:p95>800", "500..900", false);
        check("e2el_ms:p95>450", "Held", true);
        check("e2el_ms:p95!=700", "500..900", false);
        check("e2el_ms:p95<30000", "Held", false);
    }

    #[test]
    fn figures_to_about_four_digits() {
        for (value, text) in
            [(0.0, "0"), (0.004_31, "0.00431"), (3.2481, "3.25"), (948.24, "948.2"), (12345.6, "12346")]
        {
            assert_eq!(figure_text(value), text);
        }
    }
}
