//! `streamstress sweep`: plays runs with varied settings and shows them as one table.
//!
//! Each run is a process of this program, so that it starts as fresh as one from a shell. If a setting of the stack varies, each run also
//! has a fresh native stack. `measure::sweep` holds the grammar, the order, and the comparison.

pub(crate) mod child;
mod command;
mod earlier;
mod options;
mod points;
mod settings;
mod stack;

pub(crate) use command::{Start, Swept, sweep};
