//! The state of a threshold, decided in view of the measurement error of its figure.

use super::{Figure, Operator, Threshold};
use crate::{Interval, Statistic, Trust};

/// State of a threshold.
#[derive(Clone, Debug, PartialEq)]
pub enum State {
    /// The figure meets the limit.
    Held,
    /// The figure does not meet the limit.
    Broken,
    /// The figure has no value. Holds the reason.
    Unknown(String),
    /// The limit lies between the lower and the upper value of a latency in milliseconds, so the measurement error hides the
    /// outcome.
    Undecided {
        /// Lower value of the figure.
        low: f64,
        /// Upper value of the figure.
        high: f64,
    },
}

/// Measurement error of a latency figure. Empty for other figures.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct FigureTrust {
    /// Lower and upper value of the figure in milliseconds.
    pub span: Option<(f64, f64)>,
    /// Whether its measurement error is too large to trust it.
    pub untrusted: bool,
}

impl FigureTrust {
    pub(crate) fn of(threshold: &Threshold, interval: &Interval) -> Self {
        let Figure::Duration(metric, statistic) = threshold.figure else { return Self::default() };
        interval.trust(metric).map_or_else(Self::default, |trust| Self::from_trust(&trust, statistic))
    }

    pub(super) fn from_trust(trust: &Trust<'_>, statistic: Statistic) -> Self {
        let span = trust.span_ms(statistic).filter(|(low, high)| low < high);
        Self { span, untrusted: !trust.is_trusted(statistic) }
    }

    /// Compares a figure with the limit. Undecided if the true value may lie on either side of the limit.
    pub(crate) fn judge(&self, threshold: &Threshold, value: f64) -> State {
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
