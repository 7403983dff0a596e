//! What limits a guide, as sentences.

use super::{
    basis::{Basis, FAR},
    costs::{CeilingOf, FULL, least_per_user},
    guide::Guide,
    plan::Plan,
    point::Point,
};
use std::collections::BTreeSet;

/// Error at the held-out points from which the guide warns.
const LARGE_ERROR: f64 = 0.1;
/// Share of the offered tokens that the stack as it was measured must deliver, or the guide warns.
const EFFICIENT: f64 = 0.9;

/// Returns what limits a guide, as sentences. One sentence stands for all plans that it concerns.
#[must_use]
pub fn warnings(guide: &Guide) -> Vec<String> {
    let mut found = Vec::new();
    plan_warnings(guide, &mut found);
    let errors = guide.laws[0].errors;
    if errors.held_out > LARGE_ERROR {
        found.push(format!(
            "The law is wrong by {:.0} % at the held-out load. Measure more loads, or longer.",
            errors.held_out * 100.0
        ));
    }
    for role in &guide.costs {
        let costs = [("CPU", role.cores), ("memory", role.rss_mb), ("descriptors", role.descriptors)];
        for (what, cost) in costs {
            let error = cost.and_then(|cost| cost.held_out_error);
            if let Some(error) = error.filter(|error| error.abs() > LARGE_ERROR) {
                let (role, percent) = (&role.role, error.abs() * 100.0);
                let direction = if error > 0.0 { "much" } else { "little" };
                found.push(format!(
                    "The line for the {what} of {role} predicts {percent:.0} % too {direction} at the held-out load."
                ));
            }
        }
    }
    measurement_warnings(guide, &mut found);
    found
}

/// Adds warnings about plans. One warning stands for all plans that it concerns.
fn plan_warnings(guide: &Guide, found: &mut Vec<String>) {
    let concerned =
        |is: &dyn Fn(&Plan) -> bool| guide.plans.iter().filter(|plan| is(plan)).collect::<Vec<_>>();
    let far = concerned(&|plan| plan.basis.is_far());
    if let Some(last) = far.last()
        && let Basis::Extrapolated(factor) = last.basis
    {
        found.push(format!(
            "{} more than {FAR} times beyond what was measured, in total or per process, up to {factor:.1} times. Measure at least half of the users \
             with the planned numbers of processes before you rely on it.",
            named(&far, "is", "are")
        ));
    }
    let several = concerned(&|plan| plan.stacks > 1);
    if !several.is_empty() && guide.ceiling_of == Some(CeilingOf::Unknown) {
        found.push(format!(
            "{} of several whole stacks, because the measured ceiling may be the limit of any role: nothing that was observed was full. Find what \
             limits the stack to plan less.",
            named(&several, "consists", "consist")
        ));
    } else if !several.is_empty() {
        found.push(format!(
            "{} several stacks, each with a Redis and its part of the users, because one Redis is not enough.",
            named(&several, "has", "have")
        ));
    }
    let slow = concerned(&|plan| plan.efficiency < EFFICIENT);
    if let Some(last) = slow.last() {
        found.push(format!(
            "{} more than the stack as it was measured can deliver: by the law it would deliver {:.0} % of the tokens of {:.0} users. \
             The plan assumes that more processes lift that limit: measure it.",
            named(&slow, "needs", "need"),
            last.efficiency * 100.0,
            last.users
        ));
    }
    let impossible: BTreeSet<&str> =
        guide.plans.iter().flat_map(|plan| &plan.impossible).map(String::as_str).collect();
    for role in impossible {
        found.push(format!("A process of {role} is full without a user, so that the plans lack it."));
    }
    let unknown: BTreeSet<&str> =
        guide.plans.iter().flat_map(|plan| &plan.unknown).map(String::as_str).collect();
    for role in unknown {
        found.push(format!(
            "What a process of {role} costs is not known, because too few points have its CPU: the plans and their totals lack it. Measure more \
             loads at which no user waits, each for 10 s or longer."
        ));
    }
}

/// Adds warnings about how the points were measured.
fn measurement_warnings(guide: &Guide, found: &mut Vec<String>) {
    if let Some(peak) = guide.laws[0].curve.peak().filter(|&peak| peak < guide.measured_users[1] * FAR) {
        found.push(format!(
            "By the law, the stack as it was measured delivers most at {peak:.0} users. More users lower its throughput."
        ));
    }
    let full = |point: &&Point| guide.machine.cores.is_some_and(|cores| point.all_cores() >= FULL * cores);
    if let Some(first) = guide.used().filter(full).map(|point| point.users).min_by(f64::total_cmp) {
        found.push(format!(
            "The CPU of the machine was full from {first:.0} users on. The load generator shares it, so the stack alone holds more."
        ));
    }
    if let Some(cores) = guide.machine.cores {
        let least = least_per_user(guide.used());
        let waits_for_nothing_seen = |point: &&Point| {
            let seen = full(point) || guide.costs.iter().any(|role| role.is_full_at(point));
            point.tokens_per_user() < least && !seen
        };
        let first = guide.used().filter(waits_for_nothing_seen).min_by(|a, b| a.users.total_cmp(&b.users));
        if let Some(first) = first {
            found.push(format!(
                "At {:.0} users, the users had to wait, although the observed processes used only {:.2} of {cores:.0} cores. Something that was \
                 not observed limits the stack, for example other programs on this machine. If so, costs and limits are wrong: measure again on a \
                 machine that does nothing else.",
                first.users,
                first.all_cores()
            ));
        }
    }
    let lowest_broken =
        guide.used().filter(|point| point.broke()).map(|point| point.users).min_by(f64::total_cmp);
    if let (None, Some(lowest)) = (&guide.ceiling, lowest_broken) {
        found.push(format!(
            "No load held below {lowest:.0} users, which were too many, so the ceiling is not known and the plans lack it. Measure smaller loads."
        ));
    } else if guide.ceiling.is_none() {
        found.push(format!(
            "No load was too high, so the ceiling lies above {:.0} users. `streamstress capacity` finds it.",
            guide.measured_users[1]
        ));
    }
    let mixed: Vec<_> = guide
        .costs
        .iter()
        .filter(|role| role.instances[0] < role.instances[1])
        .map(|role| format!("{} to {} processes of {}", role.instances[0], role.instances[1], role.role))
        .collect();
    if !mixed.is_empty() {
        found.push(format!(
            "The points have {}. Costs are fitted per process; the law of the throughput does not know the number of processes.",
            mixed.join(" and ")
        ));
    }
    if guide.is_embedded() {
        found.push(
            "The stack ran inside the load generator (--embedded), so that its roles cannot be told apart. Measure a stack of \
             processes for numbers of gateways and servers: `streamstress stack up`."
                .to_owned(),
        );
    }
    let versions: BTreeSet<&str> = guide.used().map(|point| point.version.as_str()).collect();
    if versions.len() > 1 {
        let versions = versions.into_iter().collect::<Vec<_>>().join(", ");
        found.push(format!("The points are of several versions: {versions}."));
    }
}

/// Returns the plans as the subject of a sentence, with its verb.
fn named(plans: &[&Plan], singular: &str, plural: &str) -> String {
    let users: Vec<_> = plans.iter().map(|plan| format!("{:.0}", plan.users)).collect();
    match users.as_slice() {
        [one] => format!("The plan for {one} users {singular}"),
        [first @ .., last] => format!("The plans for {} and {last} users {plural}", first.join(", ")),
        [] => String::new(),
    }
}
