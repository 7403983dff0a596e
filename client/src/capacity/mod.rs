//! `streamstress capacity`: finds the highest load that meets the objectives.
//!
//! It plays one ordinary run. A thread receives every second of it, lets [`measure::capacity::Pilot`] decide, and amends the plan of
//! the run like `streamstress amend`. The load therefore changes without a pause, and every output of a run shows the search as well.

mod command;
mod options;
mod steer;

pub(crate) use command::capacity;
