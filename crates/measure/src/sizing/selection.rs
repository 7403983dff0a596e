//! Which points are used: one workload only, enough of them, and some held out to check the fit.

use super::{
    basis::{Measured, SAME},
    point::{NOT_STATED, Point},
};
use settings::plural::counted;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

/// Smallest number of points of the fit.
pub const LEAST_POINTS: usize = 6;
/// Smallest number of different loads among them: a curve with three parameters needs more than three.
const LEAST_LOADS: usize = 4;
/// Largest ratio between the mean tokens per answer of two points of one workload.
const SAME_ANSWERS: f64 = 1.1;
/// Largest number of files that an error lists per value.
const LISTED: usize = 2;

/// Which points are not part of the fit, but predicted by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HoldOut {
    /// This many points with the highest loads.
    Highest(usize),
    /// The point that was measured last.
    Latest,
}

impl Default for HoldOut {
    fn default() -> Self {
        Self::Highest(1)
    }
}

/// Why the points give no guide.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Refused {
    /// The points are of several workloads, stacks or machines.
    #[error(
        "the points cannot be compared, because they differ in {differences}. Name results of one workload, one stack and one machine{choice}"
    )]
    Mixed {
        /// The conditions with their values and points.
        differences: String,
        /// How to choose some of the points, as the end of a sentence.
        choice: String,
    },
    /// No point has a condition of this name.
    #[error("no point states {name}. Choose by one of: {known}")]
    UnknownName {
        /// The name in the choice.
        name: String,
        /// The names that exist.
        known: String,
    },
    /// No point meets a condition.
    #[error("no point has {choice}. The points have: {known}")]
    NoneLeft {
        /// The condition.
        choice: String,
        /// The values that exist.
        known: String,
    },
    /// There are too few points, or too few different loads.
    #[error(
        "{found}, and {LEAST_POINTS} at {LEAST_LOADS} different loads or more are needed besides {held_out}.{unused} Measure more loads: `streamstress \
         sweep` plays several, for example with 50, 100, 150, 200, 250, 300 and 400 clients; so does `streamstress run --duration 30s --clients N` for each N, or \
         `streamstress capacity`"
    )]
    TooFew {
        /// What there is.
        found: String,
        /// What is held out.
        held_out: String,
        /// Points that cannot be used, as a sentence.
        unused: String,
    },
    /// No law can be fitted to the points.
    #[error(
        "no law of scalability can be fitted to the points: their throughputs are not usable. See the tokens_per_s of each run"
    )]
    NoFit,
}

/// The points by their use.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// Points of the fit, by load.
    pub fit_to: Vec<Point>,
    /// Points that the fit must predict, by load.
    pub held_out: Vec<Point>,
    /// Points that are not used, with the reason.
    pub unused: Vec<(Point, String)>,
}

impl Selection {
    /// Divides the points.
    ///
    /// # Errors
    /// The points are of several workloads, or too few are left.
    pub fn of(points: Vec<Point>, hold_out: HoldOut) -> Result<Self, Refused> {
        let (unused, mut usable): (Vec<_>, Vec<_>) = points
            .into_iter()
            .map(|point| (point.problem(), point))
            .partition(|(problem, _)| problem.is_some());
        let unused: Vec<_> =
            unused.into_iter().map(|(problem, point)| (point, problem.unwrap_or_default())).collect();
        usable.sort_by(|(_, a), (_, b)| a.users.total_cmp(&b.users).then_with(|| a.name.cmp(&b.name)));
        let mut usable: Vec<Point> = usable.into_iter().map(|(_, point)| point).collect();
        let differences = differences(&usable);
        if !differences.is_empty() {
            return Err(mixed(&differences));
        }
        let count = usable.len();
        let held_out = match hold_out {
            HoldOut::Highest(number) => usable.split_off(count.saturating_sub(number)),
            HoldOut::Latest => {
                let latest = (0..count).max_by(|&a, &b| usable[a].started_s.total_cmp(&usable[b].started_s));
                latest.map(|latest| usable.remove(latest)).into_iter().collect()
            }
        };
        // A fit that knows the same load would not predict it.
        let is_held_out =
            |point: &Point| held_out.iter().any(|held| (held.users / point.users - 1.0).abs() < SAME);
        let (mut twins, usable): (Vec<Point>, Vec<Point>) = usable.into_iter().partition(is_held_out);
        let mut held_out = held_out;
        held_out.append(&mut twins);
        let loads = Measured::new(usable.iter().map(|point| point.users).collect()).distinct();
        if usable.len() < LEAST_POINTS || loads < LEAST_LOADS || held_out.is_empty() {
            return Err(Refused::TooFew {
                found: format!(
                    "{} at {} can be used for the fit",
                    counted(usable.len() as u64, "points"),
                    counted(loads as u64, "different loads")
                ),
                held_out: match hold_out {
                    HoldOut::Highest(number) if number > 1 => {
                        format!("the {number} points that are held out")
                    }
                    _ => "the point that is held out".to_owned(),
                },
                unused: unused_sentence(&unused),
            });
        }
        Ok(Self { fit_to: usable, held_out, unused })
    }

    /// Iterates over the points that are used, those of the fit first.
    pub fn used(&self) -> impl Iterator<Item = &Point> {
        self.fit_to.iter().chain(&self.held_out)
    }
}

fn unused_sentence(unused: &[(Point, String)]) -> String {
    let mut text = String::new();
    for (point, why) in unused.iter().take(LISTED) {
        let _ = write!(text, " Not used: {}, because {why}.", point.name);
    }
    if unused.len() > LISTED {
        let _ = write!(text, " {} more are not used either.", unused.len() - LISTED);
    }
    text
}

/// A condition in which points differ.
struct Difference {
    /// Values and points.
    text: String,
    /// What chooses the points of one value.
    choice: Option<String>,
}

fn mixed(differences: &[Difference]) -> Refused {
    let choice = differences.iter().find_map(|difference| difference.choice.as_ref());
    Refused::Mixed {
        differences: differences
            .iter()
            .map(|difference| difference.text.as_str())
            .collect::<Vec<_>>()
            .join("; "),
        choice: choice
            .map(|choice| format!(", or choose some of these, for example with --where '{choice}'"))
            .unwrap_or_default(),
    }
}

/// Returns the conditions in which the points differ, with values and files.
fn differences(points: &[Point]) -> Vec<Difference> {
    let keys: BTreeSet<&str> =
        points.iter().flat_map(|point| point.conditions.keys().map(String::as_str)).collect();
    let mut found = Vec::new();
    for key in keys {
        let mut values: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for point in points {
            let value = point.conditions.get(key).map_or(NOT_STATED, String::as_str);
            values.entry(value).or_default().push(&point.name);
        }
        if values.len() > 1 {
            let parts: Vec<_> =
                values.iter().map(|(value, names)| format!("{value} ({})", listed(names))).collect();
            let stated = values.keys().find(|value| **value != NOT_STATED);
            found.push(Difference {
                text: format!("{key}: {}", parts.join(", ")),
                choice: stated.map(|value| format!("{key}={value}")),
            });
        }
    }
    found.extend(different_answers(points));
    found
}

/// Compares the mean tokens per answer, because the default of the servers is no setting of a run.
fn different_answers(points: &[Point]) -> Option<Difference> {
    let with_tokens = points.iter().filter_map(|point| Some((point.tokens_per_query?, point)));
    let least = with_tokens.clone().min_by(|a, b| a.0.total_cmp(&b.0))?;
    let most = with_tokens.max_by(|a, b| a.0.total_cmp(&b.0))?;
    (most.0 > least.0 * SAME_ANSWERS).then(|| Difference {
        text: format!(
            "tokens per answer: {:.1} ({}), {:.1} ({})",
            least.0, least.1.name, most.0, most.1.name
        ),
        choice: None,
    })
}

fn listed(names: &[&str]) -> String {
    let more = names.len().saturating_sub(LISTED);
    let shown = names.iter().take(LISTED).copied().collect::<Vec<_>>().join(", ");
    if more > 0 { format!("{shown} and {more} more") } else { shown }
}
