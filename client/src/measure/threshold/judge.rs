//! Thresholds against the figures of a run: held, broken, or not to be judged and why.
//! It makes no verdict; that has an order of its own.

use super::{
    Comparison, Figure, Over, Threshold, Windows, distribution_of, names::COUNTED, stretch_figure,
    window::Worst,
};
use crate::measure::{Distribution, Interval, Steady, Totals};
use std::collections::BTreeMap;

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
}

/// Whether a figure kept to its threshold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// It did.
    Held,
    /// It did not.
    Broken,
    /// Nobody can say, and why.
    Unknown(String),
}

impl Outcome {
    /// The value as a person reads it: `p(95)=948.2`, `0.004`; of windows with where the worst one was.
    #[must_use]
    pub fn shown(&self) -> String {
        let Some(value) = self.value else {
            return match &self.state {
                State::Unknown(why) => why.clone(),
                _ => String::new(),
            };
        };
        let name = self.threshold.statistic().map(|statistic| format!("{statistic}=")).unwrap_or_default();
        let from = self.worst_from_s.map(|second| format!(" (from {second} s)")).unwrap_or_default();
        format!("{name}{}{from}", figure_text(value))
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
    pub beside: &'a Totals,
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
    let (value, worst_from_s) = match threshold.over {
        Over::Window(_) => match figures.windows.worst(threshold) {
            Ok(Worst { value, from_s }) => (Ok(value), Some(from_s)),
            Err(why) => (Err(why), None),
        },
        Over::Run => (over_run(threshold, figures), None),
        Over::Steady => (over_steady(threshold, figures), None),
    };
    let state = match &value {
        Ok(value) if threshold.comparison.holds(*value, threshold.limit) => State::Held,
        Ok(_) => State::Broken,
        Err(why) => State::Unknown(why.clone()),
    };
    let certain = state == State::Broken && is_certain(threshold, figures);
    Outcome { threshold: threshold.clone(), state, value: value.ok(), worst_from_s, certain }
}

/// Whether failures that do not depend on time broke a threshold. Of a stretch this is known only if no query is excused.
fn is_certain(threshold: &Threshold, figures: &RunFigures<'_>) -> bool {
    let Figure::Scalar(name) = threshold.figure else { return false };
    COUNTED.contains(&name)
        && match figures.excused {
            None => true,
            Some(excused) => {
                let value = excused.get(name).copied().flatten();
                threshold.over == Over::Run
                    && value.is_some_and(|value| !threshold.comparison.holds(value, threshold.limit))
            }
        }
}

fn over_run(threshold: &Threshold, figures: &RunFigures<'_>) -> Result<f64, String> {
    match &threshold.figure {
        Figure::Duration(metric, statistic) => statistic.of(figures.metrics.get(*metric)),
        Figure::Scalar(name) => {
            figures.scalars.get(name).copied().flatten().ok_or_else(|| "it was not measured".to_owned())
        }
        Figure::Beside(question) => figures.beside.figure(question),
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
        over: Over::Run,
        comparison: Comparison::Equal,
        limit: count as f64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::{Metric, Quantity, Reading};

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
        let mut beside = Totals::default();
        beside.add(&Reading { quantity: Quantity::RssMb, label: "redis".into(), value: 20.0 });
        let windows = Windows::default();
        let run = |steady| RunFigures {
            metrics: &metrics,
            scalars: &scalars,
            excused: None,
            beside: &beside,
            steady,
            windows: &windows,
        };
        let check = |text: &str, steady, expected: &str| {
            let outcome = judge(&text.parse().unwrap(), &run(steady));
            let state = match &outcome.state {
                State::Held => "held",
                State::Broken => "broken",
                State::Unknown(_) => "unknown",
            };
            assert_eq!(format!("{state} {}", outcome.shown()), expected, "{text}");
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
    fn figures_to_about_four_digits() {
        for (value, text) in
            [(0.0, "0"), (0.004_31, "0.00431"), (3.2481, "3.25"), (948.24, "948.2"), (12345.6, "12346")]
        {
            assert_eq!(figure_text(value), text);
        }
    }
}
