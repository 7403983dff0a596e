//! Reads the criteria of the verdict: thresholds, objectives of goodput, and whether a broken threshold ends the run.

use super::check::Check;
use crate::cli::RunArgs;
use load::watch;
use measure::{
    Metric, Objective, Statistic,
    threshold::{self, Figure, Scope, Threshold},
};
use plan::Stop;
use report::output;
use settings::plural::counted;
use std::time::Duration;

/// Criteria of the verdict.
#[derive(Clone, Debug, Default)]
pub struct CriteriaConfig {
    /// Thresholds of the user, in addition to the rules that always apply.
    pub thresholds: Vec<Threshold>,
    /// Limits that a good query meets.
    pub objectives: Vec<Objective>,
    /// Time of the run from which on a threshold that can no longer be met ends it. `None`: never.
    pub abort_after: Option<Duration>,
}

impl CriteriaConfig {
    /// Returns a warning for each threshold on a figure that this run cannot measure.
    pub(super) fn unanswerable(&self, has_steady_state: bool, embedded: bool) -> Vec<String> {
        let warning = |threshold: &Threshold, why: &str| {
            format!("--threshold `{}` makes this run INVALID: {why}", threshold.text)
        };
        let asks = |threshold: &&Threshold| threshold.scope == Scope::Steady && !has_steady_state;
        let steady = self.thresholds.iter().filter(asks).take(1).map(|threshold| {
            let why = "its schedule has no steady state of 10 s or more. Extend it with --duration";
            warning(threshold, why)
        });
        // The parts of an embedded stack run in this process. Only the API and the gateway have an address.
        let thresholds: &[Threshold] = if embedded { &self.thresholds } else { &[] };
        let unread = watch::unmeasured(thresholds, &[], &[]).map(|threshold| {
            let why = "an embedded stack does not have this figure, because it runs inside the client (available are health_ms \
                       and health_failures of {api} and {gateway}, rss_mb and cpu_share of {client}). Start a stack with \
                       `streamstress stack up --detach`";
            warning(threshold, why)
        });
        steady.chain(unread).collect()
    }

    /// Returns a warning for each threshold on a percentile that needs more samples than this run is planned to have.
    pub(crate) fn too_few(&self, sessions: f64, queries: f64, tokens: f64) -> Vec<String> {
        let warning = |threshold: &Threshold| {
            let Figure::Duration(metric, Statistic::Percentile(percent)) = threshold.figure else {
                return None;
            };
            let (samples, of) = match metric {
                Metric::Create | Metric::Connect | Metric::Close => (sessions, "sessions"),
                Metric::Itl | Metric::FrameGap | Metric::Delivery | Metric::PaceLag => (tokens, "tokens"),
                // How many tokens the gateway stamps, if any, is not known.
                Metric::HopPace | Metric::HopBus | Metric::HopGateway | Metric::HopNetwork => return None,
                Metric::ReconnectGap | Metric::FirstSocket | Metric::ReplayDelivery | Metric::LoopLag => {
                    return None;
                }
                _ => (queries, "queries"),
            };
            let needed = measure::samples_needed(percent);
            #[allow(clippy::cast_precision_loss)]
            let short = samples < needed as f64;
            short.then(|| {
                format!(
                    "--threshold `{}` cannot be judged, which makes the run INVALID: p({percent}) needs {needed} samples, but \
                     the plan has about {}. Plan more of them, or use a lower percentile",
                    threshold.text,
                    counted(samples.round(), of)
                )
            })
        };
        self.thresholds.iter().filter_map(warning).collect()
    }

    /// Returns the criteria for the results. A threshold that ends the run early cancels `stop`.
    #[must_use]
    pub fn resolve(&self, stop: &Stop) -> output::Criteria {
        let abort = |delay| output::Abort { delay, stop: stop.clone(), ..output::Abort::default() };
        output::Criteria {
            thresholds: self.thresholds.clone(),
            objectives: self.objectives.clone().into(),
            abort: self.abort_after.map(abort),
        }
    }
}

pub(super) fn criteria(check: &mut Check, args: &RunArgs) -> CriteriaConfig {
    let mut criteria = CriteriaConfig::default();
    for text in args.thresholds.iter().flat_map(|text| threshold::split(text)) {
        match text.parse() {
            Ok(threshold) => criteria.thresholds.push(threshold),
            Err(error) => check.error(format!("--{error}")),
        }
    }
    for text in args.goodput.iter().flat_map(|text| threshold::split(text)) {
        match text.parse() {
            Ok(objective) => criteria.objectives.push(objective),
            Err(error) => check.error(error.to_string()),
        }
    }
    let wants_goodput = criteria.thresholds.iter().find(|threshold| threshold.subject().contains("goodput"));
    if let Some(threshold) = wants_goodput.filter(|_| criteria.objectives.is_empty()) {
        let text = &threshold.text;
        check.error(format!("--threshold `{text}` needs objectives: add for example --goodput e2el:3000"));
    }
    criteria.abort_after = abort_after(check, args);
    criteria
}

fn abort_after(check: &mut Check, args: &RunArgs) -> Option<Duration> {
    let text = args.abort_delay.as_ref();
    let delay = check.duration("--abort-delay", text, Duration::ZERO, Duration::ZERO);
    if text.is_some() && !args.abort_on_fail {
        check.error("--abort-delay has no effect without --abort-on-fail: use both or neither".to_owned());
    }
    args.abort_on_fail.then_some(delay)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(args: &RunArgs) -> (CriteriaConfig, Vec<String>) {
        let mut check = Check::default();
        let criteria = criteria(&mut check, args);
        (criteria, check.errors)
    }

    fn args(thresholds: &[&str], goodput: &[&str]) -> RunArgs {
        let owned = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect();
        RunArgs { thresholds: owned(thresholds), goodput: owned(goodput), ..RunArgs::default() }
    }

    #[test]
    fn several_a_flag_and_several_flags() {
        let (criteria, faults) = judge(&args(
            &["error_rate<0.1 tokens_lost==0", "e2el_ms:p95<3000,ttft_ms:p99<450"],
            &["ttft:450 e2el:3000"],
        ));
        assert_eq!(faults, Vec::<String>::new());
        assert_eq!((criteria.thresholds.len(), criteria.objectives.len()), (4, 2));
        assert_eq!(criteria.abort_after, None);
        assert_eq!(criteria.unanswerable(false, true), Vec::<String>::new());
    }

    #[test]
    fn what_a_run_cannot_answer_is_reported_before_it() {
        let steady = judge(&args(&["e2el_ms{steady}:p95<3000"], &[])).0;
        assert!(steady.unanswerable(false, false)[0].contains("`e2el_ms{steady}:p95<3000` makes"));
        assert_eq!(steady.unanswerable(true, true), Vec::<String>::new());
        let processes =
            judge(&args(&["rss_mb{redis}<50 rss_mb{client}<900 health_ms:p95<9 restarts<1"], &[])).0;
        assert_eq!(processes.unanswerable(true, false), Vec::<String>::new(), "its stack is not known yet");
        let warnings = processes.unanswerable(true, true);
        assert_eq!(warnings.len(), 2, "{warnings:?}");
        assert!(
            warnings[0].contains("`rss_mb{redis}<50` makes this run INVALID")
                && warnings[1].contains("`restarts<1`")
        );
    }

    #[test]
    fn a_percentile_that_a_run_is_too_small_for_is_reported_before_it() {
        let criteria = judge(&args(
            &["e2el_ms:p99.99<3000 e2el_ms{steady}:p99<9 itl_ms:p99.9<90 connect_ms[30s]:p99.9<9 loop_lag_ms:p99.9<9"],
            &[],
        ))
        .0;
        let warnings = criteria.too_few(10.0, 50.0, 900.0);
        assert_eq!(warnings.len(), 3, "{warnings:#?}");
        assert!(
            warnings[0].contains("`e2el_ms:p99.99<3000`") && warnings[0].contains("10000 samples"),
            "{}",
            warnings[0]
        );
        assert!(
            warnings[0].contains("about 50 queries") && warnings[1].contains("about 900 tokens"),
            "{warnings:#?}"
        );
        assert!(warnings[2].contains("about 10 sessions"), "{warnings:#?}");
        assert_eq!(criteria.too_few(1e3, 1e4, 1e3), Vec::<String>::new());
    }

    #[test]
    fn every_fault_is_listed() {
        let faults = judge(&RunArgs {
            abort_delay: Some("soon".into()),
            ..args(&["e2e_ms:p9<1", "goodput_share>0.9"], &["itl:3"])
        })
        .1;
        for expected in [
            "`e2e_ms:p9<1`",
            "`goodput_share>0.9` needs",
            "invalid objective \"itl:3\" for --goodput: expected",
            "invalid duration \"soon\" for --abort-delay",
            "both or neither",
        ] {
            assert!(faults.iter().any(|fault| fault.contains(expected)), "{expected}: {faults:#?}");
        }
    }

    #[test]
    fn a_delay_of_an_abort() {
        let asked = RunArgs { abort_on_fail: true, abort_delay: Some("1m".into()), ..RunArgs::default() };
        assert_eq!(judge(&asked).0.abort_after, Some(Duration::from_secs(60)));
        let at_once = RunArgs { abort_on_fail: true, ..RunArgs::default() };
        assert_eq!(judge(&at_once).0.abort_after, Some(Duration::ZERO));
    }
}
