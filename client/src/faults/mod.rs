//! Faults that a run injects into the stack under test: which, when, by whom, and what became of them.
//! It breaks nothing itself, and a fault that did not happen is told, never passed over.

mod log;
mod schedule;
mod stack;

pub use log::{Fate, FaultLog, FaultRecord};
pub use schedule::{FirstSend, Schedule};
pub use stack::{injector, parse};

use std::{collections::BTreeMap, time::Duration};

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

    /// Blocks until the fault is in force. Returns what was done.
    ///
    /// # Errors
    /// It did not happen.
    fn inject(&self, spec: &str) -> anyhow::Result<Done>;

    /// Lists the servers that state another name in answers to `/run` than faults call them by: the stated name, then the name
    /// in faults.
    ///
    /// # Errors
    /// The stack does not answer.
    fn stated_names(&self) -> anyhow::Result<BTreeMap<String, String>> {
        Ok(BTreeMap::new())
    }
}

/// What a fault did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Done {
    /// For a person.
    pub detail: String,
    /// The members that it was done to, by the names that faults give them: `server-1`.
    pub members: Vec<String>,
}
