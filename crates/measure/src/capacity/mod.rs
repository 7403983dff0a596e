//! The search for the ceiling of a system: the highest load that meets the objectives.
//!
//! [`Search`] decides which load comes next and what is known so far. [`Pilot`] turns the seconds of a run into steps: it waits until a
//! new load is established, measures, and judges. [`StepWindow`] holds the measurements of a step, and [`Slo`] is an objective. [`Limit`]
//! names what breaks first. All of it is pure: the run that it steers is somewhere else.

mod belief;
mod limit;
mod pilot;
mod search;
mod slo;
mod window;

pub use limit::Limit;
pub use pilot::{Action, Pilot, Running, StepSettings};
pub use search::{Ceiling, End, Limits, Search};
pub use slo::{Slo, SloError};
pub use window::{Outcome, Resource, Step, StepWindow};
