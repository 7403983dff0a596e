//! Decides how many gateways a stack should have from their open sockets, by the rule of a Kubernetes HorizontalPodAutoscaler. This module
//! reads no clock and starts nothing: it is a function of the readings so far.

mod decision;
mod rule;

pub use decision::{Autoscaler, Decision, Reason};
pub use rule::Rule;
