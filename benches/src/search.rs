//! `bench search`: finds the highest clean load. The load grows in steps until a run is not clean, then the interval between
//! the last clean load and that one is halved. The plan is pure; every load runs on a new rig.

use crate::{
    args::Search,
    gateway::measure_load,
    record::{Record, Verdict},
};
use std::io::Write as _;

/// The loads to try next, in tokens per second.
#[derive(Clone, Copy, Debug)]
struct Plan {
    step: f64,
    to: f64,
    within: f64,
    next: f64,
    clean: Option<f64>,
    unclean: Option<f64>,
    /// A run at this load was INVALID already.
    is_second_try: bool,
}

impl Plan {
    const fn new(from: f64, step: f64, to: f64, within: f64) -> Self {
        Self { step, to, within, next: from, clean: None, unclean: None, is_second_try: false }
    }

    /// Returns the next load, or `None` if the search is over.
    fn load(&self) -> Option<f64> {
        let near = match (self.clean, self.unclean) {
            (Some(clean), Some(unclean)) => unclean - clean <= self.within,
            (None, Some(unclean)) => unclean <= self.within,
            (Some(clean), None) => clean >= self.to,
            (None, None) => false,
        };
        (!near).then_some(self.next)
    }

    /// Takes the verdict on the last load. Returns whether it counts: after an INVALID run the same load is tried once more,
    /// because the generator may have been disturbed.
    fn report(&mut self, verdict: Verdict) -> bool {
        self.is_second_try = verdict == Verdict::Invalid && !self.is_second_try;
        if self.is_second_try {
            return false;
        }
        if verdict == Verdict::Clean {
            self.clean = Some(self.next);
        } else {
            self.unclean = Some(self.next);
        }
        self.next = match (self.clean, self.unclean) {
            (clean, Some(unclean)) => f64::midpoint(clean.unwrap_or(0.0), unclean),
            (_, None) => (self.next + self.step).min(self.to),
        };
        true
    }
}

/// Searches, and returns the record of the highest clean load with the reasons why a higher one was not clean.
pub(crate) async fn measure(options: &Search) -> anyhow::Result<Record> {
    let mut plan = Plan::new(options.from, options.step, options.to, options.within);
    let (mut best, mut worst) = (None::<Record>, None::<Record>);
    while let Some(rate) = plan.load() {
        let connections = (rate / options.shape.per_connection).round().max(1.0) as usize;
        let record = measure_load(&options.target, options.shape, connections).await?;
        let _ = writeln!(std::io::stderr(), "{}", line(rate, &record));
        let is_clean = record.verdict == Verdict::Clean;
        if plan.report(record.verdict) {
            *(if is_clean { &mut best } else { &mut worst }) = Some(record);
        }
    }
    Ok(summary(options.target.variant(), best, worst))
}

fn line(rate: f64, record: &Record) -> String {
    let notes: Vec<&str> = record.reasons.iter().chain(&record.saturated).map(String::as_str).collect();
    format!("{rate:>9.0} tokens/s: {:?}; {}", record.verdict, notes.join("; "))
}

/// Returns the figures of the highest clean load and the reasons of the lowest load that was not clean. If that load was
/// INVALID twice, the search found the generator's limit, and the figure is a lower bound for the gateway.
fn summary(variant: String, best: Option<Record>, worst: Option<Record>) -> Record {
    let mut record = Record::new("search", variant);
    let clean = best.as_ref().and_then(|best| best.figure("tokens_per_second")).unwrap_or(0.0);
    record.add("highest_clean_tokens_per_second", clean);
    record.figures.extend(best.into_iter().flat_map(|best| best.figures));
    match worst {
        Some(worst) => {
            let at = worst.figure("tokens_per_second").unwrap_or(0.0);
            record.reasons = worst.reasons.iter().map(|reason| format!("at {at:.0}/s {reason}")).collect();
            record.saturated = worst.saturated.iter().map(|what| format!("at {at:.0}/s {what}")).collect();
            if worst.verdict == Verdict::Invalid {
                record.reasons.push("so the gateway's own limit is higher".into());
            }
            record.verdict = if clean > 0.0 { Verdict::Clean } else { worst.verdict };
        }
        None => record.reasons.push("the highest load that was tried is clean: use a larger --to".into()),
    }
    record
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn search(limit: f64, mut plan: Plan) -> (Option<f64>, Vec<f64>) {
        let mut tried = Vec::new();
        while let Some(load) = plan.load() {
            tried.push(load);
            plan.report(if load <= limit { Verdict::Clean } else { Verdict::NotClean });
        }
        (plan.clean, tried)
    }

    #[test]
    fn up_in_steps_then_by_halves() {
        let plan = Plan::new(40.0, 20.0, 200.0, 5.0);
        assert_eq!(search(87.0, plan), (Some(85.0), vec![40.0, 60.0, 80.0, 100.0, 90.0, 85.0]));
        assert_eq!(search(500.0, plan).0, Some(200.0));
        assert_eq!(search(12.0, plan), (Some(10.0), vec![40.0, 20.0, 10.0, 15.0]));
        assert_eq!(search(0.0, plan).0, None);
    }

    proptest! {
        #[test]
        fn it_ends_near_the_limit(limit in 5.0f64..300.0, from in 1.0f64..100.0) {
            let plan = Plan::new(from, 20.0, 200.0, 5.0);
            let (clean, tried) = search(limit, plan);
            prop_assert!(tried.len() < 30);
            if let Some(clean) = clean {
                prop_assert!(clean <= limit && (limit - clean <= 5.0 || clean >= 200.0));
            } else {
                prop_assert!(limit <= 5.0 || from > limit);
            }
        }
    }

    #[test]
    fn a_generator_that_failed_gets_a_second_try() {
        let mut plan = Plan::new(40.0, 20.0, 200.0, 5.0);
        let mut report = |verdict| (plan.report(verdict), plan.load());
        assert_eq!(report(Verdict::Invalid), (false, Some(40.0)));
        assert_eq!(report(Verdict::Clean), (true, Some(60.0)), "it was only unlucky");
        assert_eq!(report(Verdict::Invalid), (false, Some(60.0)));
        assert_eq!(report(Verdict::Invalid), (true, Some(50.0)), "that is its limit");
        assert_eq!(
            report(Verdict::NotClean),
            (true, Some(45.0)),
            "what the gateway did wrong counts at once"
        );
    }

    #[test]
    fn a_search_that_met_the_generators_limit_found_a_lower_bound() {
        let record = |rate, verdict, reason: &str| {
            let mut record = Record::new("gateway", "x".into());
            record.add("tokens_per_second", rate);
            record.verdict = verdict;
            record.reasons.push(reason.to_owned());
            record
        };
        let best = record(80.0, Verdict::Clean, "");
        let late = record(100.0, Verdict::Invalid, "late");
        let full = record(100.0, Verdict::NotClean, "3 tokens were lost");
        let found = summary("x".into(), Some(best.clone()), Some(late.clone()));
        assert_eq!(found.reasons, ["at 100/s late", "so the gateway's own limit is higher"]);
        assert_eq!(
            (found.verdict, found.figure("highest_clean_tokens_per_second")),
            (Verdict::Clean, Some(80.0))
        );
        let found = summary("x".into(), None, Some(late));
        assert_eq!(found.verdict, Verdict::Invalid, "nothing was found");
        let found = summary("x".into(), Some(best), Some(full));
        assert_eq!((found.verdict, found.reasons.len()), (Verdict::Clean, 1));
        assert_eq!(found.figure("highest_clean_tokens_per_second"), Some(80.0));
    }
}
