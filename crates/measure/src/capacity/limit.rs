//! What limits the system, with the evidence for it.

use super::{Ceiling, End, Outcome, Step};
use crate::role;
use serde::{Deserialize, Serialize};

/// Share of a resource from which it counts as full.
const FULL: f64 = 0.9;
/// Processes that execute everything on one core.
const ONE_CORE: [&str; 1] = ["redis"];
/// Steps within this multiple of the ceiling's upper end tell what breaks first.
const NEAR: f64 = 1.5;

/// What limits the system, or the search.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limit {
    /// The objective that breaks first, or `the generator`.
    pub by: String,
    /// What was seen when it broke: the figure, and resources that were full.
    pub evidence: Vec<String>,
}

impl Limit {
    /// Returns the limit that the steps show. `cores`: CPU cores of this machine. `None` if nothing was too much.
    #[must_use]
    pub fn of(steps: &[Step], ceiling: &Ceiling, end: Option<End>, cores: f64) -> Option<Self> {
        if end == Some(End::GeneratorLimit) {
            let (_, reason) = lowest(steps, |outcome| match outcome {
                Outcome::Unmeasurable(reason) => Some(reason),
                _ => None,
            })?;
            return Some(Self { by: "the generator".to_owned(), evidence: vec![reason.to_owned()] });
        }
        let high = ceiling.high? * NEAR;
        let broken = |step: &Step| match &step.outcome {
            Outcome::Broken(reason) if step.load <= high => Some(subject(reason).to_owned()),
            _ => None,
        };
        let mut subjects: Vec<(String, usize)> = Vec::new();
        for found in steps.iter().filter_map(broken) {
            match subjects.iter_mut().find(|(subject, _)| *subject == found) {
                Some((_, times)) => *times += 1,
                None => subjects.push((found, 1)),
            }
        }
        // The first of equals, as it is the one of the earlier steps.
        let most = subjects.iter().map(|(_, times)| *times).max()?;
        let by = subjects.into_iter().find(|(_, times)| *times == most)?.0;
        let (step, reason) = lowest(steps, |outcome| match outcome {
            Outcome::Broken(reason) if subject(reason) == by => Some(reason),
            _ => None,
        })?;
        let evidence =
            std::iter::once(format!("at {}: {reason}", step.load)).chain(full(step, cores)).collect();
        Some(Self { by, evidence })
    }
}

/// Returns the lowest load with such an outcome, and the reason.
fn lowest<'a>(
    steps: &'a [Step],
    reason: impl Fn(&'a Outcome) -> Option<&'a String>,
) -> Option<(&'a Step, &'a str)> {
    let with_reason = steps.iter().filter_map(|step| Some((step, reason(&step.outcome)?.as_str())));
    with_reason.min_by(|(a, _), (b, _)| a.load.total_cmp(&b.load))
}

/// Returns what a reason is about: `e2el_ms p(99)` of `e2el_ms p(99)=1320, limit 1000`, `failed queries` of `failed queries: 3 of 9`.
fn subject(reason: &str) -> &str {
    reason.split(['=', ':']).next().unwrap_or_default()
}

/// Returns the resources that were full in a step.
fn full(step: &Step, cores: f64) -> Vec<String> {
    // A role is listed beside its processes.
    let roles = step.resources.iter().filter(|resource| role(&resource.name) == resource.name);
    let mut used: Vec<(&str, f64)> =
        roles.filter_map(|role| Some((role.name.as_str(), role.cores?))).collect();
    used.sort_by(|(_, a), (_, b)| b.total_cmp(a));
    let total: f64 = used.iter().map(|(_, cores)| cores).sum();
    let mut full = Vec::new();
    if total >= FULL * cores {
        let parts: Vec<_> = used.iter().map(|(name, cores)| format!("{name} {cores:.2}")).collect();
        full.push(format!(
            "the CPU of this machine was full: {total:.2} of {cores:.0} cores ({})",
            parts.join(", ")
        ));
    }
    for (name, cores) in used.iter().filter(|(name, cores)| ONE_CORE.contains(name) && *cores >= FULL) {
        full.push(format!("{name} used {cores:.2} cores, and has one for all commands"));
    }
    full
}

#[cfg(test)]
mod tests {
    use super::super::{Resource, StepWindow};
    use super::*;

    fn step(load: f64, outcome: Outcome, resources: &[(&str, f64)]) -> Step {
        let mut step = StepWindow::default().step(load, outcome, 0, &[], None);
        step.resources = resources
            .iter()
            .map(|(name, cores)| Resource { name: (*name).to_owned(), cores: Some(*cores), rss_mb: None })
            .collect();
        step
    }

    fn broken(reason: &str) -> Outcome {
        Outcome::Broken(reason.to_owned())
    }

    #[test]
    fn the_first_to_break_and_what_was_full() {
        let ceiling = Ceiling { value: 100.0, low: 95.0, high: Some(105.0), confidence: 0.9, noise: 0.01 };
        let busy =
            [("client", 0.5), ("haproxy", 0.6), ("redis", 0.4), ("wsproxy", 0.45), ("wsproxy-1", 0.45)];
        let steps = [
            step(96.0, Outcome::Held, &busy),
            step(110.0, broken("e2el_ms p(99)=1400, limit 1350"), &busy),
            step(108.0, broken("e2el_ms p(99)=1370, limit 1350"), &busy),
            step(1000.0, broken("tokens_lost=7"), &busy),
        ];
        let limit = Limit::of(&steps, &ceiling, Some(End::Found), 2.0).unwrap();
        assert_eq!(limit.by, "e2el_ms p(99)");
        let cpu = "the CPU of this machine was full: 1.95 of 2 cores (haproxy 0.60, client 0.50, wsproxy 0.45, redis 0.40)";
        assert_eq!(limit.evidence, ["at 108: e2el_ms p(99)=1370, limit 1350", cpu]);
        let idle = [step(110.0, broken("failed queries: 12 of 110"), &[("redis", 0.95)])];
        let limit = Limit::of(&idle, &ceiling, Some(End::Found), 8.0).unwrap();
        assert_eq!(limit.by, "failed queries");
        assert_eq!(limit.evidence[1], "redis used 0.95 cores, and has one for all commands");
    }

    #[test]
    fn the_generator_is_named_as_such() {
        let ceiling = Ceiling { value: 100.0, low: 100.0, high: None, confidence: 0.9, noise: 0.01 };
        let late = Outcome::Unmeasurable("the generator's event loop was late by 300 ms (p99)".to_owned());
        let limit = Limit::of(&[step(128.0, late, &[])], &ceiling, Some(End::GeneratorLimit), 2.0).unwrap();
        assert_eq!((limit.by.as_str(), limit.evidence.len()), ("the generator", 1));
        assert_eq!(Limit::of(&[step(128.0, Outcome::Held, &[])], &ceiling, Some(End::AboveRange), 2.0), None);
    }
}
