//! What the results contain, and the names of their files.

use measure::sizing::{costs::MeasuredCeiling, guide::Machine, point::Point};

/// Ending of the summary of a run.
pub(super) const SUMMARY: &str = "_summary.json";
/// Ending of the result of a search.
pub(super) const CAPACITY: &str = "_capacity.json";

/// What the files contain.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// All points, also those that cannot be used.
    pub points: Vec<Point>,
    /// The ceilings that searches found.
    pub ceilings: Vec<MeasuredCeiling>,
    /// The machine of the first usable point.
    pub machine: Machine,
}
