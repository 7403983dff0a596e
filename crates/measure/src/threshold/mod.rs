//! Thresholds: limits for figures of the whole run, of its steady state or of its worst window.
//! A missing figure makes the outcome unknown; it never counts as a pass.

mod judge;
mod names;
mod parse;
mod state;
mod window;

pub use judge::{Outcome, RunFigures, exactly, figure_text, judge_all};
pub use names::{RUN_NAMES, STRETCH_NAMES};
pub use parse::{ThresholdError, split};
pub use state::{FigureTrust, State};
pub use window::{Broken, Windows, Worst};

use super::{Distribution, IntegrityRule, Interval, IntervalCounts, Metric, ReadingSelector, Statistic};
use std::{fmt, time::Duration};

/// A threshold, for example `e2el_ms[30s]:p95<3000`.
#[derive(Clone, Debug, PartialEq)]
pub struct Threshold {
    /// Text as the user wrote it.
    pub text: String,
    /// Figure that is limited.
    pub figure: Figure,
    /// Part of the run.
    pub scope: Scope,
    /// Comparison operator.
    pub operator: Operator,
    /// Limit.
    pub limit: f64,
}

/// Figure of a threshold.
#[derive(Clone, Debug, PartialEq)]
pub enum Figure {
    /// A statistic of a measured duration, in milliseconds.
    Duration(Metric, Statistic),
    /// A count, a rate or a share, by its name.
    Scalar(&'static str),
    /// A monitoring reading: `health_ms:p99`, `rss_mb{redis}`.
    Reading(ReadingSelector),
}

/// Part of the run over which a figure is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The whole run.
    Run,
    /// The steady state.
    Steady,
    /// Sliding windows of that length in steps of one second. The worst one decides.
    Window(Duration),
}

/// Comparison operator of a threshold.
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
    /// Returns the operator as it is written.
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

    /// Returns whether `value` meets `limit`. Compares exactly, as the user wrote it.
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

    /// Returns how bad `value` is. Larger is worse.
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
    /// Returns the name of the figure with its scope: `e2el_ms[30s] p(95)`.
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

    /// Returns whether the figure is a latency whose samples have bounds.
    #[must_use]
    pub fn is_of_a_latency(&self) -> bool {
        let Figure::Duration(metric, statistic) = &self.figure else { return false };
        metric.primary().is_some() && !matches!(statistic, Statistic::Count)
    }

    /// Returns the statistic, for figures with a distribution.
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

/// Returns a count, rate or share of a second, a window or the steady state. Returns `None` for a name that is known only for
/// the whole run, or for a share without queries.
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

/// Returns a figure of a window or the steady state, or why there is none.
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
            .ok_or_else(|| "it has no value in this part of the run".to_owned()),
        Figure::Reading(_) => Err("it is a monitoring reading".to_owned()),
    }
}

/// Returns the distribution of a duration, or `None` for other figures.
pub(crate) fn distribution_of<'a>(figure: &Figure, interval: &'a Interval) -> Option<&'a Distribution> {
    match figure {
        Figure::Duration(metric, _) => Some(interval.get(*metric)),
        _ => None,
    }
}
