//! Faults that a run injects into the stack under test: which, when, by whom, and what became of them.
//! It breaks nothing itself, and a fault that did not happen is told, never passed over.

mod log;
mod schedule;
mod stack;

pub use log::{Fate, FaultLog, FaultRecord};
pub use schedule::{FirstSend, Schedule};
pub use stack::{injector, parse};

use std::time::Duration;

/// A fault and its time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedFault {
    /// As it was written: `wsproxy-1:kill`.
    pub spec: String,
    /// From the first send of the run.
    pub at: Duration,
}

/// Whoever breaks things.
pub trait Injector: Send + Sync {
    /// Whether there is something to break there. Breaks nothing.
    ///
    /// # Errors
    /// Nothing there, and what to do about it.
    fn check(&self, spec: &str) -> anyhow::Result<()>;

    /// Blocks until the fault is in force. Answers what was done, for a person.
    ///
    /// # Errors
    /// It did not happen.
    fn inject(&self, spec: &str) -> anyhow::Result<String>;
}
