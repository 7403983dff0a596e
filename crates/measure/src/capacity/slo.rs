//! An objective of the search: a threshold on a step, whose limit may be a multiple of the ideal.

use super::{Step, StepWindow};
use crate::{
    Distribution, Interval, Metric, Statistic,
    threshold::{Figure, FigureTrust, Operator, Scope, State, Threshold, stretch_figure},
};
use std::str::FromStr;

/// An objective, for example `e2el_ms:p99<1.5x` or `ttft_ms:p95<800`.
#[derive(Clone, Debug, PartialEq)]
pub struct Slo {
    /// Text as the user wrote it.
    pub text: String,
    threshold: Threshold,
    /// The limit is this multiple of the ideal figure.
    factor: Option<f64>,
}

/// An objective cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("objective `{text}`: {fault}")]
pub struct SloError {
    text: String,
    fault: String,
}

/// Reads an objective: a threshold without a scope, or one whose limit ends with `x`.
///
/// ```
/// use measure::capacity::Slo;
///
/// assert!("e2el_ms:p99<1.5x".parse::<Slo>().is_ok());
/// assert!("error_rate<0.01".parse::<Slo>().is_ok());
/// let error = "e2el_ms{steady}:p99<900".parse::<Slo>().unwrap_err();
/// assert!(error.to_string().contains("judged in every step"));
/// ```
impl FromStr for Slo {
    type Err = SloError;

    fn from_str(text: &str) -> Result<Self, SloError> {
        let invalid = |fault: String| SloError { text: text.to_owned(), fault };
        let plain = text.strip_suffix('x');
        let threshold: Threshold = plain
            .unwrap_or(text)
            .parse()
            .map_err(|error: crate::threshold::ThresholdError| invalid(error.fault().to_owned()))?;
        if threshold.scope != Scope::Run {
            return Err(invalid(
                "objectives are judged in every step: leave {steady} or the window out".to_owned(),
            ));
        }
        let factor = plain.map(|_| threshold.limit);
        let Some(times) = factor else { return Ok(Self { text: text.to_owned(), threshold, factor }) };
        let is_limit = matches!(threshold.operator, Operator::Below | Operator::AtMost);
        if !matches!(threshold.figure, Figure::Duration(..)) || !is_limit {
            return Err(invalid(
                "only an upper limit of a duration can be a multiple, for example e2el_ms:p99<1.5x"
                    .to_owned(),
            ));
        }
        if times <= 1.0 {
            return Err(invalid(format!(
                "the ideal cannot be met to {times}x: expected more than 1x, for example 1.5x"
            )));
        }
        Ok(Self { text: text.to_owned(), threshold, factor })
    }
}

impl Slo {
    /// Returns whether this objective limits failed queries, so that not every query has to be complete.
    #[must_use]
    pub fn limits_failures(&self) -> bool {
        matches!(self.threshold.figure, Figure::Scalar("error_rate" | "queries_failed"))
            && matches!(self.threshold.operator, Operator::Below | Operator::AtMost | Operator::Equal)
    }

    /// Returns what the objective is about: `e2el_ms p(99)`.
    #[must_use]
    pub fn subject(&self) -> String {
        self.threshold.subject()
    }

    /// Returns whether this objective concerns the durations of answers.
    pub(super) const fn is_of_answers(&self) -> bool {
        matches!(self.threshold.figure, Figure::Duration(Metric::E2el | Metric::E2elSched, _))
    }

    /// Returns whether this objective concerns the time to the first token.
    pub(super) const fn is_of_first_tokens(&self) -> bool {
        matches!(self.threshold.figure, Figure::Duration(Metric::Ttft | Metric::TtftSched, _))
    }

    /// Returns whether this objective concerns the time between tokens.
    pub(super) const fn is_of_gaps(&self) -> bool {
        matches!(self.threshold.figure, Figure::Duration(Metric::Itl | Metric::FrameGap, _))
    }

    /// Returns by how many milliseconds a limit allows events to be late: the limit of a gap, or what the limit of an answer or of its first
    /// token has beyond the ideal. `first`: the first step, whose median replaces an ideal that is not known.
    pub(super) fn delay_ms(&self, limit_ms: f64, first: Option<&Step>) -> f64 {
        if let Some(factor) = self.factor {
            return limit_ms - limit_ms / factor;
        }
        let median = first.and_then(|first| match self.threshold.figure {
            Figure::Duration(Metric::E2el | Metric::E2elSched, _) => first.e2el_ms[0],
            Figure::Duration(Metric::Ttft | Metric::TtftSched, _) => first.ttft_ms[0],
            _ => None,
        });
        limit_ms - median.unwrap_or(0.0)
    }

    /// Returns the state of the objective in a step, with its figure and its limit. `first`: the measurements of the first step.
    /// They replace the ideal where the system does not announce it.
    #[must_use]
    pub fn judge(&self, step: &StepWindow, first: Option<&Step>) -> (State, Option<f64>, Option<f64>) {
        let metrics = step.metrics();
        let limit = match self.limit(metrics, first) {
            Ok(Some(limit)) => limit,
            // The first step is its own measure.
            Ok(None) => return (State::Held, self.figure(step).ok(), None),
            Err(why) => return (State::Unknown(why), None, None),
        };
        let threshold = Threshold { limit, ..self.threshold.clone() };
        match self.figure(step) {
            Ok(value) => {
                (FigureTrust::of(&threshold, metrics).judge(&threshold, value), Some(value), Some(limit))
            }
            Err(why) => (State::Unknown(why), None, Some(limit)),
        }
    }

    fn figure(&self, step: &StepWindow) -> Result<f64, String> {
        let metrics = step.metrics();
        if let Figure::Duration(metric, Statistic::Percentile(percent)) = self.threshold.figure {
            // One sample above the percentile on average. Fewer say nothing about it.
            let (count, needed) =
                (metrics.get(metric).count(), (100.0 / (100.0 - percent).max(0.01)).round());
            #[allow(clippy::cast_precision_loss)]
            if (count as f64) < needed {
                return Err(format!("p({percent}) needs {needed} samples and has {count}"));
            }
        }
        match &self.threshold.figure {
            Figure::Reading(selector) => step.readings().figure(selector),
            figure => {
                let nothing = Distribution::default();
                let distribution = crate::threshold::distribution_of(figure, metrics).unwrap_or(&nothing);
                stretch_figure(figure, distribution, metrics.counts(), metrics.tokens(), step.seconds())
            }
        }
    }

    /// Returns the limit in this step, or `None` if it has none because the first step is its own measure.
    fn limit(&self, metrics: &Interval, first: Option<&Step>) -> Result<Option<f64>, String> {
        let (Some(factor), Figure::Duration(metric, statistic)) = (self.factor, &self.threshold.figure)
        else {
            return Ok(Some(self.threshold.limit));
        };
        let ideal = match metric {
            Metric::E2el | Metric::E2elSched => metrics.ideal_e2el(),
            Metric::Ttft | Metric::TtftSched => metrics.ideal_ttft(),
            _ => &Distribution::default(),
        };
        if ideal.count() > 0 {
            return Ok(Some(factor * statistic.of(ideal)?));
        }
        let of_this =
            |(text, figure, _): &&(String, Option<f64>, Option<f64>)| *text == self.text && figure.is_some();
        let figure = first.and_then(|first| first.objectives.iter().find(of_this)?.1);
        Ok(figure.map(|figure| factor * figure))
    }
}

#[cfg(test)]
mod tests {
    use super::super::Outcome;
    use super::*;

    fn step(e2el_ms: &[i64], ideal_ms: Option<i64>) -> StepWindow {
        let mut interval = Interval::default();
        for ms in e2el_ms {
            interval.record(Metric::E2el, ms * 1_000_000);
            if let Some(ideal) = ideal_ms {
                interval.record_ideal(None, Some(ideal * 1_000_000));
            }
        }
        let mut step = StepWindow::default();
        step.second(&interval, &[]);
        step
    }

    #[test]
    fn a_multiple_refers_to_the_ideal() {
        let slo: Slo = "e2el_ms:p50<1.5x".parse().unwrap();
        let state = |ms| slo.judge(&step(&[ms, ms], Some(900)), None).0;
        assert_eq!((state(1300), state(1400)), (State::Held, State::Broken));
    }

    #[test]
    fn without_an_ideal_the_first_step_is_the_measure() {
        let slo: Slo = "e2el_ms:p50<=2x".parse().unwrap();
        let first = step(&[100, 100], None);
        assert_eq!(slo.judge(&first, None).0, State::Held);
        let first = first.step(8.0, Outcome::Held, 0, std::slice::from_ref(&slo), None);
        let state = |ms| slo.judge(&step(&[ms, ms], None), Some(&first)).0;
        assert_eq!((state(190), state(210)), (State::Held, State::Broken));
    }

    #[test]
    fn wrong_objectives_are_refused() {
        for (text, why) in [
            ("e2el_ms:p99<0.5x", "more than 1x"),
            ("e2el_ms:p99>2x", "only an upper limit"),
            ("error_rate<2x", "share from 0 to 1"),
            ("queries_failed<2x", "only an upper limit"),
            ("e2el_ms[10s]:p99<900", "judged in every step"),
            ("e2el:p99<900", "e2el_ms"),
        ] {
            let error = text.parse::<Slo>().unwrap_err().to_string();
            assert!(error.starts_with(&format!("objective `{text}`")) && error.contains(why), "{error}");
        }
    }
}
