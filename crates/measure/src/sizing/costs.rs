//! What each role costs per user, and how many users one of its processes can serve.

use super::{
    basis::{Basis, Measured},
    line::Line,
    point::{Point, RoleUse},
    selection::Selection,
};
use serde::Serialize;
use std::collections::BTreeMap;

/// Share of the best tokens per user that a point must have for its costs to count. With less, users wait: the CPU is that of an overload,
/// which does not grow with the users any more.
const SERVED: f64 = 0.9;
/// Share of the machine's cores, and of the threads of a process, from which they count as full.
pub const FULL: f64 = 0.9;

/// A cost that was fitted.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Cost {
    /// The cost of one process by its users.
    pub line: Line,
    /// Mean error at the held-out points, as a share of the measured cost. Negative if the line predicts too little. `None` if none of
    /// them has the figure.
    pub held_out_error: Option<f64>,
}

/// The costs of a role.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RoleCosts {
    /// Name of the role.
    pub role: String,
    /// Lowest and highest number of processes that were measured.
    pub instances: [u32; 2],
    /// Users of one process that were measured.
    #[serde(skip)]
    pub measured: Measured,
    /// Threads of one process that do the work, which limit its CPU.
    pub threads: f64,
    /// CPU cores in use.
    pub cores: Option<Cost>,
    /// Resident memory, in MB.
    pub rss_mb: Option<Cost>,
    /// Open descriptors.
    pub descriptors: Option<Cost>,
}

/// A load that the system holds, measured by a search or by runs that passed and failed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MeasuredCeiling {
    /// Users that the system holds.
    pub users: f64,
    /// Where it comes from: the search, or the point that held and the one that did not.
    pub sources: Vec<String>,
    /// What broke first, if that is known.
    pub limited_by: Option<String>,
}

/// What a measured ceiling is the limit of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "of", content = "roles")]
pub enum CeilingOf {
    /// The CPU of the machine was full, which all roles and the generator share.
    Machine,
    /// These roles used all of their threads.
    Roles(Vec<String>),
    /// Nothing was full as far as it was observed, so every role may have been the limit.
    Unknown,
}

/// A number of users with its basis.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Users {
    /// Number of users.
    pub users: f64,
    /// What the number is based on.
    #[serde(flatten)]
    pub basis: Basis,
}

/// How many users one process of a role can serve.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Limits {
    /// Name of the role.
    pub role: String,
    /// Plan with at most this many users. `None` if no cost grows with the users.
    pub soft: Option<Users>,
    /// At this many users, one process is full.
    pub hard: Option<Users>,
    /// What the hard limit is.
    pub reason: String,
}

/// Returns the tokens per second that a user must get for a point to count as served: 90 % of those of the best point.
#[must_use]
pub fn least_per_user<'a>(points: impl Iterator<Item = &'a Point>) -> f64 {
    SERVED * points.map(Point::tokens_per_user).fold(0.0, f64::max)
}

/// Returns the selection without the points whose users had to wait.
#[must_use]
pub fn served(selection: &Selection) -> Selection {
    let least = least_per_user(selection.used());
    let of = |points: &[Point]| {
        points.iter().filter(|point| point.tokens_per_user() >= least).cloned().collect::<Vec<_>>()
    };
    Selection { fit_to: of(&selection.fit_to), held_out: of(&selection.held_out), unused: Vec::new() }
}

/// Returns the costs of every role that the points have, in the order of their names.
#[must_use]
pub fn costs(selection: &Selection, threads: &BTreeMap<String, f64>) -> Vec<RoleCosts> {
    let mut roles: BTreeMap<&str, Vec<(f64, u32)>> = BTreeMap::new();
    for point in selection.used() {
        for (role, used) in &point.roles {
            roles.entry(role).or_default().push((point.users / used.processes(), used.instances.max(1)));
        }
    }
    let of = |(role, points): (&str, Vec<(f64, u32)>)| {
        let instances = points.iter().map(|point| point.1);
        RoleCosts {
            role: role.to_owned(),
            instances: [instances.clone().min().unwrap_or(1), instances.max().unwrap_or(1)],
            measured: Measured::new(points.iter().map(|point| point.0).collect()),
            threads: threads.get(role).copied().unwrap_or(1.0),
            cores: cost(selection, role, |used| used.cores),
            rss_mb: cost(selection, role, |used| used.rss_mb),
            descriptors: cost(selection, role, |used| used.descriptors),
        }
    };
    roles.into_iter().map(of).collect()
}

/// Fits a cost of one process. Points may have different numbers of processes: each process has its share of users and cost.
fn cost(selection: &Selection, role: &str, figure: fn(&RoleUse) -> Option<f64>) -> Option<Cost> {
    let samples = |points: &[Point]| -> Vec<(f64, f64)> {
        let sample = |point: &Point| {
            let used = point.roles.get(role)?;
            Some((point.users / used.processes(), figure(used)? / used.processes()))
        };
        points.iter().filter_map(sample).filter(|sample| sample.1.is_finite()).collect()
    };
    let line = Line::fit(&samples(&selection.fit_to))?;
    let errors: Vec<f64> = samples(&selection.held_out)
        .into_iter()
        .filter(|&(_, measured)| measured > 0.0)
        .map(|(users, measured)| line.at(users) / measured - 1.0)
        .collect();
    #[allow(clippy::cast_precision_loss)]
    let held_out_error = (!errors.is_empty()).then(|| errors.iter().sum::<f64>() / errors.len() as f64);
    Some(Cost { line, held_out_error })
}

/// Returns the ceiling that the runs show by themselves: the highest load that held below all loads that broke, or whose users had to wait.
/// `None` if no load was too high, or if none held below it.
#[must_use]
pub fn ceiling_of(selection: &Selection) -> Option<MeasuredCeiling> {
    let least = least_per_user(selection.used());
    let too_high = selection.used().filter(|point| point.broke() || point.tokens_per_user() < least);
    let lowest = too_high.min_by(|a, b| a.users.total_cmp(&b.users))?;
    let held = selection.used().filter(|point| point.held() && point.users < lowest.users);
    let highest = held.max_by(|a, b| a.users.total_cmp(&b.users))?;
    Some(MeasuredCeiling {
        users: highest.users,
        sources: vec![highest.name.clone(), lowest.name.clone()],
        limited_by: None,
    })
}

/// Returns what was full at the load nearest to the ceiling.
#[must_use]
pub fn what_was_full(
    selection: &Selection,
    ceiling: &MeasuredCeiling,
    costs: &[RoleCosts],
    machine_cores: Option<f64>,
) -> CeilingOf {
    let Some(nearest) = nearest(selection, ceiling.users) else { return CeilingOf::Unknown };
    if machine_cores.is_some_and(|cores| nearest.all_cores() >= FULL * cores) {
        return CeilingOf::Machine;
    }
    let full: Vec<_> =
        costs.iter().filter(|role| role.is_full_at(nearest)).map(|role| role.role.clone()).collect();
    if full.is_empty() { CeilingOf::Unknown } else { CeilingOf::Roles(full) }
}

/// Returns the point whose load is nearest to this number of users.
#[must_use]
pub fn nearest(selection: &Selection, users: f64) -> Option<&Point> {
    let distance = |point: &Point| (point.users - users).abs();
    selection.used().min_by(|a, b| distance(a).total_cmp(&distance(b)))
}

impl RoleCosts {
    /// Returns whether the processes of the role used nearly all of their threads at a point.
    #[must_use]
    pub fn is_full_at(&self, point: &Point) -> bool {
        point
            .roles
            .get(&self.role)
            .is_some_and(|used| used.cores.unwrap_or(0.0) >= FULL * self.threads * used.processes())
    }

    /// Returns how many users one process can serve. `ceiling` is the users of one process at the measured ceiling, if that is a limit
    /// of this role. The soft limit leaves `headroom` (a share) of the threads and of the ceiling free.
    #[must_use]
    pub fn limits(&self, headroom: f64, ceiling: Option<f64>) -> Limits {
        let line = self.cores.map(|cost| cost.line);
        let at = |share: f64| line.and_then(|line| line.users_at(share * self.threads));
        let (by_cpu, soft_by_cpu) = (at(1.0), at(1.0 - headroom));
        let lower = |a: Option<f64>, b: Option<f64>| match (a, b) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (one, other) => one.or(other),
        };
        let hard = lower(by_cpu, ceiling);
        let soft = lower(soft_by_cpu, ceiling.map(|ceiling| ceiling * (1.0 - headroom)));
        let users = |users: f64| Users { users, basis: self.measured.basis(users) };
        let threads = if (self.threads - 1.0).abs() < 1e-9 {
            "its one thread is full".to_owned()
        } else {
            format!("its {} threads are full", self.threads)
        };
        let reason = match hard {
            None => "no cost that grows with the users was measured".to_owned(),
            Some(hard) if ceiling == Some(hard) => "the measured ceiling".to_owned(),
            Some(_) => threads,
        };
        Limits { role: self.role.clone(), soft: soft.map(users), hard: hard.map(users), reason }
    }
}
