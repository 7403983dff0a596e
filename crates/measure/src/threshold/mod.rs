//! Thresholds: what a figure of the run must be, over all of it, its steady state, or its worst window.
//! Pure: figures are handed in, and a figure that is not there is said to be missing, never taken for a good one.

mod judge;
mod names;
mod parse;
mod window;

pub use judge::{FigureTrust, Outcome, RunFigures, State, exactly, figure_text, judge_all};
pub use names::{RUN_NAMES, STRETCH_NAMES};
pub use parse::{ThresholdError, split};
pub use window::{Broken, Windows, Worst};

use super::{Distribution, IntegrityRule, Interval, IntervalCounts, Metric, ReadingSelector, Statistic};
use std::{fmt, time::Duration};

/// One threshold, as `e2el_ms[30s]:p95<3000`.
#[derive(Clone, Debug, PartialEq)]
pub struct Threshold {
    /// As it was written.
    pub text: String,
    /// Of what.
    pub figure: Figure,
    /// Over which stretch of the run.
    pub scope: Scope,
    /// How it is compared.
    pub operator: Operator,
    /// With what.
    pub limit: f64,
}

/// What a threshold is about.
#[derive(Clone, Debug, PartialEq)]
pub enum Figure {
    /// A statistic of a measured duration, in milliseconds.
    Duration(Metric, Statistic),
    /// A count, a rate or a share, by its name.
    Scalar(&'static str),
    /// What was read beside the run: `health_ms:p99`, `rss_mb{redis}`.
    Reading(ReadingSelector),
}

/// Over which stretch of the run a figure is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// All of it.
    Run,
    /// The steady state.
    Steady,
    /// Every window of that length, a second apart; the worst decides.
    Window(Duration),
}

/// How a figure is compared with its limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Operator {
    Below,
    AtMost,
    Above,
    AtLeast,
    Equal,
    NotEqual,
}

impl Operator {
    /// As it is written.
    #[must_use]
    pub const fn sign(self) -> &'static str {
        match self {
            Self::Below => "<",
            Self::AtMost => "<=",
            Self::Above => ">",
            Self::AtLeast => ">=",
            Self::Equal => "==",
            Self::NotEqual => "!=",
        }
    }

    /// Whether `value` keeps to `limit`. What is written is meant exactly.
    #[must_use]
    #[allow(clippy::float_cmp)]
    pub fn holds(self, value: f64, limit: f64) -> bool {
        match self {
            Self::Below => value < limit,
            Self::AtMost => value <= limit,
            Self::Above => value > limit,
            Self::AtLeast => value >= limit,
            Self::Equal => value == limit,
            Self::NotEqual => value != limit,
        }
    }

    /// How bad `value` is: the larger, the worse.
    pub(crate) fn badness(self, value: f64, limit: f64) -> f64 {
        match self {
            Self::Below | Self::AtMost => value,
            Self::Above | Self::AtLeast => -value,
            Self::Equal => (value - limit).abs(),
            Self::NotEqual => -(value - limit).abs(),
        }
    }
}

impl Threshold {
    /// The figure's name with its stretch: `e2el_ms[30s] p(95)`.
    #[must_use]
    pub fn subject(&self) -> String {
        let scope = match self.scope {
            Scope::Run => String::new(),
            Scope::Steady => "{steady}".to_owned(),
            Scope::Window(length) => format!("[{}s]", length.as_secs()),
        };
        match &self.figure {
            Figure::Duration(metric, statistic) => format!("{}_ms{scope} {statistic}", metric.name()),
            Figure::Scalar(name) => format!("{name}{scope}"),
            Figure::Reading(selector) => {
                let label = selector.label.as_ref().map(|label| format!("{{{label}}}")).unwrap_or_default();
                let statistic =
                    selector.statistic.map(|statistic| format!(" {statistic}")).unwrap_or_default();
                format!("{}{label}{scope}{statistic}", selector.quantity.name())
            }
        }
    }

    /// Whether it is about a latency whose samples have bounds.
    #[must_use]
    pub fn is_of_a_latency(&self) -> bool {
        let Figure::Duration(metric, statistic) = &self.figure else { return false };
        metric.primary().is_some() && !matches!(statistic, Statistic::Count)
    }

    /// What stands before the value: `p(95)` of a duration, nothing otherwise.
    #[must_use]
    pub fn statistic(&self) -> Option<Statistic> {
        match self.figure {
            Figure::Duration(_, statistic) => Some(statistic),
            Figure::Reading(ref selector) => selector.statistic,
            Figure::Scalar(_) => None,
        }
    }
}

impl fmt::Display for Threshold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}{}", self.subject(), self.operator.sign(), self.limit)
    }
}

/// The counts of a stretch as figures: `None` of what is not known of stretches, or of nothing.
#[allow(clippy::cast_precision_loss)]
pub fn stretch_scalar(name: &str, counts: &IntervalCounts, tokens: u64, seconds: f64) -> Option<f64> {
    let rate = |count: u64| (seconds > 0.0).then(|| count as f64 / seconds);
    let judged = counts.queries - counts.abandoned;
    let share = |part: u64, whole: u64| (whole > 0).then(|| part as f64 / whole as f64);
    match name {
        "queries_total" => Some(counts.queries as f64),
        "queries_ok" => Some((judged - counts.failed) as f64),
        "queries_failed" => Some(counts.failed as f64),
        "error_rate" => share(counts.failed, judged),
        "request_throughput" => rate(judged - counts.failed),
        "output_throughput" => rate(tokens),
        "request_goodput" => rate(counts.good),
        "goodput_share" => share(counts.good, counts.queries),
        "reconnect_attempts" => Some(counts.reconnect_attempts as f64),
        "reconnects_ok" => Some(counts.reconnects as f64),
        _ => IntegrityRule::named(name).map(|rule| rule.count(counts) as f64),
    }
}

/// A figure over a stretch, or why there is none.
pub(crate) fn stretch_figure(
    figure: &Figure,
    distribution: &Distribution,
    counts: &IntervalCounts,
    tokens: u64,
    seconds: f64,
) -> Result<f64, String> {
    match figure {
        Figure::Duration(_, statistic) => statistic.of(distribution),
        Figure::Scalar(name) => stretch_scalar(name, counts, tokens, seconds)
            .ok_or_else(|| "there is no such figure in that stretch".to_owned()),
        Figure::Reading(_) => Err("it is read beside the run".to_owned()),
    }
}

/// The distribution that a figure is of; any other where it is of none.
pub(crate) fn distribution_of<'a>(figure: &Figure, interval: &'a Interval) -> Option<&'a Distribution> {
    match figure {
        Figure::Duration(metric, _) => Some(interval.get(*metric)),
        _ => None,
    }
}
