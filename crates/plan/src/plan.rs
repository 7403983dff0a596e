//! The plan of a run: everything that the generator needs to know.

use crate::{
    schedule::Schedule,
    shard::Shard,
    target::{Reconnect, Target},
    users::Users,
    workload::{Behaviour, Load, PlannedFaults},
};
use std::sync::Arc;

/// Everything that the generator needs to know about a run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// How much load, and for how long.
    pub load: Load,
    /// Where the load goes.
    pub target: Target,
    /// When sessions start and end, and when queries are due.
    pub schedule: Arc<Schedule>,
    /// The kinds of users and their prompts.
    pub users: Arc<Users>,
    /// How a lost connection is opened again, and how failed calls are repeated.
    pub reconnect: Reconnect,
    /// What sessions do on purpose: cut their socket, pause reading, connect late.
    pub behaviour: Behaviour,
    /// Faults to inject into the stack under test.
    pub faults: PlannedFaults,
}

impl Plan {
    /// Returns the part of the plan that one of several generators plays. It injects no faults: only one process may do that.
    #[must_use]
    pub fn part(&self, shard: Shard) -> Self {
        let mut part = self.clone();
        part.schedule = Arc::new(self.schedule.part(shard));
        let connections = shard.size(self.target.http_connections as u64);
        part.target.http_connections = usize::try_from(connections).unwrap_or(usize::MAX).max(1);
        part.faults.planned.clear();
        part
    }
}
