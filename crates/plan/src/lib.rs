//! What a run will do, as pure values: how much load, where it goes, when sessions come and when queries are due.
//! A plan is a function of the configuration and the seed. Nothing here opens a socket or reads a clock.

pub mod behaviour;
mod estimate;
mod live;
mod plan;
pub mod schedule;
mod shard;
mod stop;
mod target;
pub mod users;
mod workload;

pub use estimate::Estimate;
pub use live::LiveSchedule;
pub use plan::Plan;
pub use shard::{InvalidShard, MAX_GENERATORS, Shard};
pub use stop::Stop;
pub use target::{Foreign, Reconnect, Target};
pub use workload::{Behaviour, Load, PlannedFault, PlannedFaults, ReadingPause, Selection};
