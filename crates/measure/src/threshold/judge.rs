//! Thresholds against the figures of a run: held, broken, or not to be judged and why.
//! It makes no verdict; that has an order of its own.

use super::{
    Figure, Operator, Scope, Threshold, Windows, distribution_of, names::COUNTED, stretch_figure,
    window::Worst,
};
use crate::{Distribution, Interval, ReadingTotals, Statistic, Steady, Trust};
use std::collections::BTreeMap;

/// A bound of more than so many times the value says nothing of the measurement.
const MAX_TIMES: f64 = 10.0;

/// What became of a threshold.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// Which.
    pub threshold: Threshold,
    /// Whether the figure kept to it.
    pub state: State,
    /// The figure: of windows, the worst one's.
    pub value: Option<f64>,
    /// Of windows: the second at which the worst one began.
    pub worst_from_s: Option<u64>,
    /// Broken by failures that do not depend on time, so that a slow generator cannot be the cause.
    pub certain: bool,
    /// The figure is one of a latency whose measurement error is too large to be trusted.
    pub untrusted: bool,
}

/// Whether a figure kept to its threshold.
#[derive(Clone, Debug, PartialEq)]
pub enum State {
    /// It did.
    Held,
    /// It did not.
    Broken,
    /// Nobody can say, and why.
    Unknown(String),
    /// The limit lies between the lower and the upper value of a latency, milliseconds: its measurement error hides the answer.
    Undecided {
        /// The figure is at least this.
        low: f64,
        /// And at most this.
        high: f64,
    },
}

impl Outcome {
    /// The value as a person reads it: `p(95)=948.2`, `0.004`; of windows with where the worst one was.
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

    /// Whether it is one of a latency that has bounds, and was judged: held or broken, whatever the error.
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

/// A figure to about four digits, and whole where it is whole.
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

/// The figures of a whole run, for its thresholds.
#[derive(Debug)]
pub struct RunFigures<'a> {
    /// Durations.
    pub metrics: &'a Interval,
    /// Counts, rates and shares by name; those without a value are of nothing.
    pub scalars: &'a BTreeMap<&'static str, Option<f64>>,
    /// The scalars as if the queries that timed out while the generator stood still had been ok; `None` without such.
    pub excused: Option<&'a BTreeMap<&'static str, Option<f64>>>,
    /// What was read beside the run.
    pub readings: &'a ReadingTotals,
    /// The steady state, where the run had one.
    pub steady: Option<&'a Steady>,
    /// The worst windows.
    pub windows: &'a Windows,
}

/// Judges every threshold, in their order.
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
    let state = match &value {
        Ok(value) => trust.judge(threshold, *value),
        Err(why) => State::Unknown(why.clone()),
    };
    let certain = state == State::Broken && is_certain(threshold, figures);
    let untrusted = trust.untrusted;
    Outcome { threshold: threshold.clone(), state, value: value.ok(), worst_from_s, certain, untrusted }
}

/// Whether failures that do not depend on time broke a threshold. Of a stretch this is known only if no query is excused.
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

/// How far a figure of a latency can be relied on. Nothing of any other figure.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct FigureTrust {
    /// Between which values the figure lies, milliseconds.
    pub span: Option<(f64, f64)>,
    /// Its measurement error is too large.
    pub untrusted: bool,
}

impl FigureTrust {
    fn of(threshold: &Threshold, interval: &Interval) -> Self {
        let Figure::Duration(metric, statistic) = threshold.figure else { return Self::default() };
        interval.trust(metric).map_or_else(Self::default, |trust| Self::from_trust(&trust, statistic))
    }

    pub(super) fn from_trust(trust: &Trust<'_>, statistic: Statistic) -> Self {
        let span = trust.span_ms(statistic).filter(|(low, high)| low < high);
        Self { span, untrusted: !trust.is_trusted(statistic) }
    }

    /// The verdict on a figure, unless the limit lies where the truth may be on either side of it.
    pub(super) fn judge(&self, threshold: &Threshold, value: f64) -> State {
        let (operator, limit) = (threshold.operator, threshold.limit);
        let (low, high) = self.span.map_or((value, value), |(low, high)| (low.min(value), high.max(value)));
        let holds = |value| operator.holds(value, limit);
        let hidden = match operator {
            Operator::Equal | Operator::NotEqual => low < high && (low..=high).contains(&limit),
            _ => holds(low) != holds(high),
        };
        match holds(value) {
            _ if hidden => State::Undecided { low, high },
            true => State::Held,
            false => State::Broken,
        }
    }
}

fn over_run(threshold: &Threshold, figures: &RunFigures<'_>) -> Result<f64, String> {
    match &threshold.figure {
        Figure::Duration(metric, statistic) => statistic.of(figures.metrics.get(*metric)),
        Figure::Scalar(name) => {
            figures.scalars.get(name).copied().flatten().ok_or_else(|| "it was not measured".to_owned())
        }
        Figure::Reading(selector) => figures.readings.figure(selector),
    }
}

fn over_steady(threshold: &Threshold, figures: &RunFigures<'_>) -> Result<f64, String> {
    let Some(steady) = figures.steady else {
        return Err("the run held no steady state of 10 s or more".to_owned());
    };
    let nothing = Distribution::default();
    let metrics = &steady.metrics;
    let distribution = distribution_of(&threshold.figure, metrics).unwrap_or(&nothing);
    stretch_figure(&threshold.figure, distribution, metrics.counts(), metrics.tokens(), steady.seconds())
}

/// A threshold of ours: that a count of the run is this one.
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
    use crate::{BoundedSample, Metric, Quantity, Reading};

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
        readings.add(&Reading { quantity: Quantity::RssMb, label: "redis".into(), value: 20.0 });
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
        check("rss_mb{haproxy}<10", None, "unknown nothing watched it in this run");
        check("delivery_ratio==1", None, "unknown it was not measured");
        check("ttft_ms:p95<96", None, "unknown there are no samples");
        check("e2el_ms:p99.9<96", None, "unknown p(99.9) needs 1000 samples, and there are 100");
        check("e2el_ms{steady}:p95<95", None, "unknown the run held no steady state of 10 s or more");
        check("e2el_ms{steady}:p95<95", Some(&steady), "held p(95)=5");
        check("request_throughput{steady}>1", Some(&steady), "broken 0");
        check("error_rate{steady}<1", Some(&steady), "unknown there is no such figure in that stretch");
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
