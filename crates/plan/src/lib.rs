//! What a run will do, as pure values: how much load, where it goes, when sessions come and when queries are due.
//! A plan is a function of the configuration and the seed. Nothing here opens a socket or reads a clock.

pub mod behaviour;
mod estimate;
pub mod schedule;
mod stop;
mod target;
pub mod users;
mod workload;

pub use estimate::Estimate;
pub use stop::Stop;
pub use target::{Reconnect, Target};
pub use workload::{Behaviour, Load, PlannedFault, PlannedFaults, ReadingPause, Selection};

use schedule::Schedule;
use std::sync::Arc;
use users::Users;

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
