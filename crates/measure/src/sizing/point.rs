//! A measured point: what one run, or one step of a search, needed for a number of users.

use serde::Serialize;
use std::collections::BTreeMap;

/// Smallest number of users of a point that a law can use.
const LEAST_USERS: f64 = 1.0;
/// Lateness of the generator's event loop, in milliseconds at p99, up to which the throughput is that of the system.
const LATE_LOOP_MS: f64 = 50.0;
/// The same as a share of the median of the answers' durations. The larger one counts.
const LATE_LOOP_SHARE: f64 = 0.1;

/// Value of a condition that a point does not state.
pub(super) const NOT_STATED: &str = "not stated";
/// What separates the name of a search from the number of its step.
const STEP: &str = ", step ";

/// Name of the role of the load generator. With an embedded stack it contains the stack.
pub const GENERATOR: &str = "client";

/// What the processes of a role used together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct RoleUse {
    /// Number of processes.
    pub instances: u32,
    /// Mean number of CPU cores in use, summed over the processes.
    pub cores: Option<f64>,
    /// Highest resident memory in MB, summed over the processes.
    pub rss_mb: Option<f64>,
    /// Highest number of open descriptors, summed over the processes.
    pub descriptors: Option<f64>,
}

impl RoleUse {
    /// Returns the number of processes, at least 1.
    #[must_use]
    pub fn processes(&self) -> f64 {
        f64::from(self.instances.max(1))
    }
}

/// A measured point.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Point {
    /// Where it comes from: a file, or a step in a file.
    pub name: String,
    /// Start in seconds since 1970. Orders the points by time.
    pub started_s: f64,
    /// Which seconds were measured, for example `steady state, 32 s`.
    pub window: String,
    /// Mean number of users that were open at the same time.
    pub users: f64,
    /// Unique tokens received per second.
    pub tokens_per_s: f64,
    /// Mean number of tokens of an answer.
    pub tokens_per_query: Option<f64>,
    /// 99th percentile of `e2el_ms`.
    pub e2el_p99_ms: Option<f64>,
    /// Verdict of the run (`PASS`, `FAIL`, `INVALID`) or outcome of the step (`held`, `broken`, `not measurable`).
    pub verdict: String,
    /// What each role used.
    pub roles: BTreeMap<String, RoleUse>,
    /// What makes points comparable: settings of the workload, and the machine.
    pub conditions: BTreeMap<String, String>,
    /// Version of the program.
    pub version: String,
    /// Why the point cannot be used. `None` if it can.
    pub unusable: Option<String>,
}

impl Point {
    /// Returns why the point cannot be used, also if its figures cannot be those of a load.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        let figures = [self.users, self.tokens_per_s];
        if self.unusable.is_some() {
            return self.unusable.clone();
        }
        if !figures.iter().all(|figure| figure.is_finite()) || self.users < LEAST_USERS {
            return Some(format!("it has {:.1} users: at least {LEAST_USERS} is needed", self.users));
        }
        if self.tokens_per_s <= 0.0 {
            return Some("no token was received".to_owned());
        }
        let is_embedded = self.conditions.contains_key("embedded");
        let is_observed = self.roles.keys().any(|role| role != GENERATOR);
        (!is_embedded && !is_observed).then(|| {
            "no process of its stack was observed: run the generator on the machine of the stack".to_owned()
        })
    }

    /// Returns whether the point is a step of the search in this file.
    #[must_use]
    pub fn is_step_of(&self, search: &str) -> bool {
        self.name.strip_prefix(search).is_some_and(|rest| rest.starts_with(STEP))
    }

    /// Returns the name of a step of the search in this file.
    #[must_use]
    pub fn step_name(search: &str, number: usize) -> String {
        format!("{search}{STEP}{number}")
    }

    /// Returns the tokens per second of one user.
    #[must_use]
    pub fn tokens_per_user(&self) -> f64 {
        self.tokens_per_s / self.users
    }

    /// Returns whether the load was held: all thresholds or objectives were met.
    #[must_use]
    pub fn held(&self) -> bool {
        matches!(self.verdict.as_str(), "PASS" | "held")
    }

    /// Returns whether a threshold or an objective was broken.
    #[must_use]
    pub fn broke(&self) -> bool {
        matches!(self.verdict.as_str(), "FAIL" | "broken")
    }

    /// Returns the CPU cores that all processes used together, the load generator included.
    #[must_use]
    pub fn all_cores(&self) -> f64 {
        self.roles.values().filter_map(|role| role.cores).sum()
    }
}

/// Returns why the generator was the limit of a run, from the lateness of its event loop (99th percentile) and the median duration of
/// the answers, in milliseconds. `None` if it kept up.
#[must_use]
pub fn late_generator(loop_lag_p99_ms: f64, e2el_p50_ms: f64) -> Option<String> {
    (loop_lag_p99_ms > LATE_LOOP_MS.max(e2el_p50_ms * LATE_LOOP_SHARE)).then(|| {
        format!("the generator was the limit: its event loop was late by {loop_lag_p99_ms:.0} ms (p99)")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_point_without_load_says_why() {
        let roles = [("redis".to_owned(), RoleUse::default())].into();
        let good = Point { users: 10.0, tokens_per_s: 100.0, roles, ..Point::default() };
        assert_eq!(good.problem(), None);
        for (point, why) in [
            (Point { users: 0.2, ..good.clone() }, "0.2 users"),
            (Point { users: f64::NAN, ..good.clone() }, "at least 1"),
            (Point { tokens_per_s: 0.0, ..good.clone() }, "no token"),
            (Point { roles: [].into(), ..good.clone() }, "no process of its stack"),
            (Point { unusable: Some("it was interrupted".into()), ..good }, "interrupted"),
        ] {
            assert!(point.problem().is_some_and(|problem| problem.contains(why)), "{why}");
        }
    }

    #[test]
    fn a_generator_may_be_late_by_a_tenth_of_an_answer() {
        assert_eq!(late_generator(49.0, 10.0), None);
        assert_eq!(late_generator(99.0, 1_000.0), None);
        assert!(late_generator(101.0, 1_000.0).unwrap().contains("late by 101 ms"));
    }
}
