//! The guide as values: everything that the points tell about the size of a stack.

use super::{
    choice::Choice,
    costs::{CeilingOf, Limits, MeasuredCeiling, RoleCosts},
    fit::Fitted,
    plan::Plan,
    point::{GENERATOR, Point},
    selection::{HoldOut, Selection},
};
use serde::Serialize;
use std::collections::BTreeMap;

/// The machine that was measured.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Machine {
    /// Name of the type of machine.
    pub name: String,
    /// Number of CPU cores.
    pub cores: Option<f64>,
    /// Memory in MB.
    pub memory_mb: Option<f64>,
}

/// What to plan, and how.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Numbers of users to plan for. Empty: the highest measured load, twice and five times as many.
    pub users: Vec<f64>,
    /// Share of each limit to leave free, 0 to 0.9.
    pub headroom: f64,
    /// Points to hold out.
    pub hold_out: HoldOut,
    /// The machine that was measured.
    pub machine: Machine,
    /// Threads of one process by role, which limit its CPU. 1 if a role is not listed.
    pub threads: BTreeMap<String, f64>,
    /// Results of searches for the ceiling. Empty: the runs that passed and failed show it.
    pub ceilings: Vec<MeasuredCeiling>,
    /// Conditions of the points to use. Empty: all points.
    pub choices: Vec<Choice>,
}

impl Options {
    /// Returns the lowest ceiling of a search with a point that is used.
    #[must_use]
    pub(super) fn ceiling(&self, selection: &Selection) -> Option<MeasuredCeiling> {
        let is_used = |ceiling: &&MeasuredCeiling| {
            let of = |point: &Point| ceiling.sources.iter().any(|source| point.is_step_of(source));
            self.choices.is_empty() || selection.used().any(of)
        };
        self.ceilings.iter().filter(is_used).min_by(|a, b| a.users.total_cmp(&b.users)).cloned()
    }
}

/// A point that the fit had to predict.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Prediction {
    /// Name of the point.
    pub name: String,
    /// Number of users.
    pub users: f64,
    /// Measured tokens per second.
    pub measured: f64,
    /// Predicted tokens per second.
    pub predicted: f64,
    /// Error of the prediction as a share of the measurement.
    pub error: f64,
}

/// A point that is not used.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Unused {
    /// Name of the point.
    pub name: String,
    /// Number of users.
    pub users: f64,
    /// Why it is not used.
    pub reason: String,
}

/// The guide.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Guide {
    /// The machine that was measured.
    pub machine: Machine,
    /// What all points have in common: workload and machine.
    pub conditions: BTreeMap<String, String>,
    /// Mean number of tokens of an answer.
    pub tokens_per_query: Option<f64>,
    /// Share of each limit that is left free.
    pub headroom: f64,
    /// Lowest and highest measured load, in users.
    pub measured_users: [f64; 2],
    /// Plans, one for each number of users.
    pub plans: Vec<Plan>,
    /// How many users one process of each role can serve.
    pub limits: Vec<Limits>,
    /// The highest load that the measured stack held.
    pub ceiling: Option<MeasuredCeiling>,
    /// What the ceiling is the limit of.
    pub ceiling_of: Option<CeilingOf>,
    /// Number of points that show costs: those in which users did not wait.
    pub cost_points: usize,
    /// Costs of each role.
    pub costs: Vec<RoleCosts>,
    /// The laws with their errors, the chosen one first.
    pub laws: Vec<Fitted>,
    /// The held-out points, predicted by the chosen law.
    pub predictions: Vec<Prediction>,
    /// The points of the fit.
    pub points: Vec<Point>,
    /// The points that were held out.
    pub held_out: Vec<Point>,
    /// The points that are not used.
    pub unused: Vec<Unused>,
    /// What limits the guide, as sentences.
    pub warnings: Vec<String>,
}

impl Guide {
    /// Returns whether the stack ran in the process of the load generator, so that its roles cannot be told apart.
    #[must_use]
    pub fn is_embedded(&self) -> bool {
        !self.costs.is_empty() && self.costs.iter().all(|role| role.role == GENERATOR)
    }

    /// Iterates over the points that are used, by load.
    pub fn used(&self) -> impl Iterator<Item = &Point> {
        self.points.iter().chain(&self.held_out)
    }
}
