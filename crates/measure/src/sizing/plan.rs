//! How many processes, cores and descriptors a number of users needs.

use super::{
    basis::{Basis, Measured},
    costs::{Limits, RoleCosts},
    model::Curve,
    point::GENERATOR,
};
use serde::Serialize;

/// Role that a stack has only once: more users than one Redis can serve need more stacks.
const ONE_PER_STACK: &str = "redis";
/// Share of descriptors that a limit leaves free, for connections that open before others have closed.
const SPARE: f64 = 0.25;
/// Limits of descriptors are multiples of this.
const DESCRIPTOR_STEP: f64 = 1024.0;

/// What the plan is made from.
#[derive(Clone, Debug)]
pub struct Known<'a> {
    /// Costs of all roles.
    pub costs: &'a [RoleCosts],
    /// Limits of all roles, in the same order.
    pub limits: &'a [Limits],
    /// The chosen law.
    pub curve: Curve,
    /// The loads that were measured.
    pub measured: &'a Measured,
    /// Share to leave free.
    pub headroom: f64,
    /// CPU cores of a machine.
    pub machine_cores: Option<f64>,
    /// Memory of a machine in MB.
    pub machine_mb: Option<f64>,
}

/// The processes of a role in a plan.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Part {
    /// Name of the role.
    pub role: String,
    /// Number of processes.
    pub instances: u32,
    /// Users of one process.
    pub users_each: f64,
    /// CPU cores of one process.
    pub cores_each: Option<f64>,
    /// Share of the threads of one process that it uses.
    pub cpu_share: Option<f64>,
    /// CPU cores of all processes.
    pub cores: Option<f64>,
    /// Memory of one process, in MB.
    pub rss_mb_each: Option<f64>,
    /// Memory of all processes, in MB.
    pub rss_mb: Option<f64>,
    /// Open descriptors of one process.
    pub descriptors_each: Option<f64>,
    /// Limit of descriptors to set for one process.
    pub descriptor_limit: Option<f64>,
    /// What the figures are based on.
    #[serde(flatten)]
    pub basis: Basis,
}

/// What a number of users needs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Plan {
    /// Users that are open at the same time.
    pub users: f64,
    /// Number of stacks: more than one if one Redis is not enough.
    pub stacks: u32,
    /// Processes by role, without the load generator.
    pub parts: Vec<Part>,
    /// CPU cores of the whole plan.
    pub cores: f64,
    /// Memory of the whole plan, in MB.
    pub rss_mb: f64,
    /// Number of machines, with the headroom. `None` if the size of a machine is not known.
    pub machines: Option<u32>,
    /// Tokens per second, if no process is busier than in the measurements.
    pub tokens_per_s: f64,
    /// Share of the tokens per second that the stack as it was measured would deliver to so many users.
    pub efficiency: f64,
    /// What the worst figure is based on.
    #[serde(flatten)]
    pub basis: Basis,
    /// Roles whose processes are full without a user, so that the plan lacks them.
    pub impossible: Vec<String>,
    /// Roles whose CPU cost is not known, so that the plan lacks them.
    pub unknown: Vec<String>,
}

impl Known<'_> {
    /// Returns what this number of users needs.
    #[must_use]
    pub fn plan(&self, users: f64) -> Plan {
        let roles: Vec<_> = self.planned().collect();
        let needed = |limits: &Limits| match limits.soft {
            None => Some(1),
            Some(soft) if soft.users < 1.0 => None,
            Some(soft) => Some(whole(users / soft.users)),
        };
        let redis = roles.iter().find(|(role, _)| role.role == ONE_PER_STACK);
        let stacks = redis.and_then(|(_, limits)| needed(limits)).unwrap_or(1);
        let (mut impossible, mut unknown) = (Vec::new(), Vec::new());
        let mut parts = Vec::new();
        for (role, limits) in roles {
            if role.cores.is_none() {
                unknown.push(role.role.clone());
                continue;
            }
            match needed(limits) {
                // Every stack has the same processes.
                Some(instances) => parts.push(self.part(role, users, instances.div_ceil(stacks) * stacks)),
                None => impossible.push(role.role.clone()),
            }
        }
        let sum = |of: fn(&Part) -> Option<f64>| parts.iter().filter_map(of).sum::<f64>();
        let (cores, rss_mb) = (sum(|part| part.cores), sum(|part| part.rss_mb));
        let usable = 1.0 - self.headroom;
        let by_cpu = self.machine_cores.map(|one| whole(cores / (one * usable)));
        let by_memory = self.machine_mb.map(|one| whole(rss_mb / (one * usable)));
        let basis = parts.iter().fold(self.measured.basis(users), |worst, part| worst.or_worse(part.basis));
        Plan {
            users,
            stacks,
            cores,
            rss_mb,
            machines: by_cpu.map(|by_cpu| by_cpu.max(by_memory.unwrap_or(1))),
            tokens_per_s: self.curve.lambda * users,
            efficiency: self.curve.efficiency(users),
            basis,
            parts,
            impossible,
            unknown,
        }
    }

    /// Iterates over the roles of the stack. An embedded stack is part of the generator's process.
    fn planned(&self) -> impl Iterator<Item = (&RoleCosts, &Limits)> {
        let is_embedded = self.costs.iter().all(|role| role.role == GENERATOR);
        self.costs.iter().zip(self.limits).filter(move |(role, _)| is_embedded || role.role != GENERATOR)
    }

    fn part(&self, role: &RoleCosts, users: f64, instances: u32) -> Part {
        let count = f64::from(instances);
        let users_each = users / count;
        let each = |cost: Option<super::costs::Cost>| cost.map(|cost| cost.line.at(users_each));
        let (cores_each, rss_mb_each) = (each(role.cores), each(role.rss_mb));
        let descriptors_each = each(role.descriptors);
        Part {
            role: role.role.clone(),
            instances,
            users_each,
            cores_each,
            cpu_share: cores_each.map(|cores| cores / role.threads),
            cores: cores_each.map(|cores| cores * count),
            rss_mb_each,
            rss_mb: rss_mb_each.map(|mb| mb * count),
            descriptors_each,
            descriptor_limit: descriptors_each.map(descriptor_limit),
            basis: role.measured.basis(users_each),
        }
    }
}

/// Returns the limit of descriptors to set for a process that needs this many.
#[must_use]
pub fn descriptor_limit(needed: f64) -> f64 {
    (needed * (1.0 + SPARE) / DESCRIPTOR_STEP).ceil().max(1.0) * DESCRIPTOR_STEP
}

/// Returns the next whole number, at least 1.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn whole(number: f64) -> u32 {
    // A result of exactly n processes must not become n + 1 by rounding.
    let processes = (number - 1e-9).ceil().clamp(1.0, f64::from(u32::MAX / 2)) as u32;
    // Not a number becomes 0.
    processes.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_processes_are_enough() {
        for (number, expected) in [(0.2, 1), (2.0, 2), (2.01, 3), (f64::NAN, 1), (1e30, u32::MAX / 2)] {
            assert_eq!(whole(number), expected, "{number}");
        }
    }

    #[test]
    fn a_limit_of_descriptors_has_a_spare_quarter() {
        assert_eq!([10.0, 819.0, 820.0].map(descriptor_limit), [1024.0, 1024.0, 2048.0]);
    }
}
