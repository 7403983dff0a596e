//! Goodput: the queries that met every latency objective, as vLLM and `DistServe` count it.
//! A failed query never counts. A query with a single token has no `tpot` and meets every `tpot` objective.

use super::{nanos, tpot_ns};
use crate::record::{Moment, QueryRecord, QueryStatus};
use settings::duration;
use std::{fmt, str::FromStr, time::Duration};

/// Latency that an objective bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ObjectiveMetric {
    /// `ttft`
    Ttft,
    /// `ttft_sched`
    TtftSched,
    /// `tpot`
    Tpot,
    /// `e2el`
    E2el,
    /// `e2el_sched`
    E2elSched,
}

impl ObjectiveMetric {
    const ALL: [Self; 5] = [Self::Ttft, Self::TtftSched, Self::Tpot, Self::E2el, Self::E2elSched];

    const fn name(self) -> &'static str {
        match self {
            Self::Ttft => "ttft",
            Self::TtftSched => "ttft_sched",
            Self::Tpot => "tpot",
            Self::E2el => "e2el",
            Self::E2elSched => "e2el_sched",
        }
    }
}

/// Upper limit for a latency of a query.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Objective {
    /// Latency that is bounded.
    pub metric: ObjectiveMetric,
    /// Largest accepted value in milliseconds.
    pub max_ms: f64,
}

impl Objective {
    /// Returns whether a complete query met the objective.
    fn is_met(&self, query: &QueryRecord) -> bool {
        let since = |to: Option<Moment>, from: Option<Moment>| Some(nanos(to?) - nanos(from?));
        let scheduled = Some(query.scheduled);
        let ns = match self.metric {
            ObjectiveMetric::Ttft => since(query.first_token, query.sent),
            ObjectiveMetric::TtftSched => since(query.first_token, scheduled),
            ObjectiveMetric::E2el => since(query.done, query.sent),
            ObjectiveMetric::E2elSched => since(query.done, scheduled),
            ObjectiveMetric::Tpot => Some(tpot_ns(query).unwrap_or(0)),
        };
        #[allow(clippy::cast_precision_loss)]
        let met = ns.is_some_and(|ns| ns as f64 / 1e6 <= self.max_ms);
        met
    }
}

impl fmt::Display for Objective {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.metric.name(), self.max_ms)
    }
}

/// Invalid goodput objective.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "invalid objective \"{0}\" for --goodput: expected a metric (ttft, ttft_sched, tpot, e2el or e2el_sched) and a limit in milliseconds or with a unit, for example ttft:450 or e2el:1.5s"
)]
pub struct ObjectiveError(String);

impl FromStr for Objective {
    type Err = ObjectiveError;

    fn from_str(text: &str) -> Result<Self, ObjectiveError> {
        let parse = || {
            let (name, most) = text.split_once(':')?;
            let name = name.trim_end_matches("_ms");
            let metric = ObjectiveMetric::ALL.into_iter().find(|metric| metric.name() == name)?;
            let max_ms = duration::number_of(most, Duration::from_millis(1)).filter(|most| *most >= 0.0)?;
            Some(Self { metric, max_ms })
        };
        parse().ok_or_else(|| ObjectiveError(text.to_owned()))
    }
}

/// Returns whether the query was ok and met all `objectives`.
pub(super) fn is_good(query: &QueryRecord, objectives: &[Objective]) -> bool {
    query.status == QueryStatus::Ok && objectives.iter().all(|objective| objective.is_met(query))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::tests::query;

    fn objectives(text: &str) -> Vec<Objective> {
        text.split(' ').map(|one| one.parse().unwrap()).collect()
    }

    #[test]
    fn every_objective_counts_and_a_failed_query_meets_none() {
        // Sent at 100 ms, 10 ms late; 18 tokens from 300 to 1150 ms, done at 1200 ms.
        let ok = query(QueryStatus::Ok);
        for (text, good) in [
            ("ttft:200", true),
            ("ttft:199.9", false),
            ("ttft_sched:209", false),
            ("ttft_sched_ms:210", true),
            ("tpot:50", true),
            ("tpot:49", false),
            ("e2el:1100 ttft:450 tpot:60", true),
            ("e2el:1099 ttft:450 tpot:60", false),
            ("e2el_sched:1110", true),
        ] {
            assert_eq!(is_good(&ok, &objectives(text)), good, "{text}");
        }
        assert!(!is_good(&query(QueryStatus::Incomplete), &objectives("e2el:9000")));
        assert!(!is_good(&crate::record::QueryRecord { done: None, ..ok.clone() }, &objectives("e2el:9000")));
        let mut one_token = crate::record::QueryRecord { last_token: ok.first_token, ..ok };
        one_token.tally.tokens_received = 1;
        one_token.done = Some(Duration::from_millis(400));
        assert!(is_good(&one_token, &objectives("tpot:1")));
    }

    #[test]
    fn an_invalid_objective_is_named() {
        for bad in ["ttft", "ttft:", "itl:3", "ttft:-1", "ttft:nan", "ttft:inf", ":3", ""] {
            let error = bad.parse::<Objective>().unwrap_err().to_string();
            assert!(
                error.starts_with(&format!("invalid objective \"{bad}\" for --goodput: expected"))
                    && error.contains("ttft:450"),
                "{error}"
            );
        }
        assert_eq!(objectives("ttft_ms:450")[0].to_string(), "ttft:450");
        assert_eq!(objectives("e2el:1.5s")[0].to_string(), "e2el:1500");
    }
}
