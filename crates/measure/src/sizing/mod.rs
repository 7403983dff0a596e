//! Sizing: what a number of users needs, from the results of earlier runs.
//!
//! Points can be chosen by their conditions ([`choice`]). Those of one workload are divided into those of the fit and those that are held out ([`selection`]). A law of scalability
//! ([`model`], [`fit`], [`parameters`]) describes the throughput, straight lines ([`mod@line`], [`costs`]) describe CPU, memory and descriptors of each role.
//! The errors at the held-out points tell how far to trust both. [`plan`] turns them into instances, and [`make`] puts everything
//! together as a [`guide`]. Each figure states whether it was measured, or how far it is beyond what was measured ([`basis`]).

pub mod basis;
pub mod choice;
pub mod costs;
pub mod fit;
pub mod guide;
pub mod line;
mod linear;
pub mod make;
pub mod model;
pub mod parameters;
pub mod plan;
pub mod point;
pub mod selection;
pub mod warnings;

#[cfg(test)]
mod tests;
