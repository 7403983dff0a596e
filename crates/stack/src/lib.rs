//! Starts, inspects and ends a whole stack: embedded in this process, or native with real Redis and HAProxy. Injects faults
//! into native stacks and into stacks that Docker Compose started.
//! It serves no token itself and measures nothing.

pub mod autoscale;
mod autoscaling;
pub mod compose;
pub mod control;
mod docker;
pub mod embedded;
pub mod fault;
mod files;
pub mod injection;
mod instance_metrics;
pub mod inventory;
pub mod native;
mod probe;
pub mod program;
pub mod published;
mod relay;
mod role;
pub mod scaling;
mod secret;
mod stack_ref;
mod statistics;
pub mod supervisor;

pub use files::{open_log, private_directory};
pub use secret::JwtSecret;
pub use stack_ref::StackRef;

/// Niceness of gateways and HAProxy. The stack has a lower priority than the load client on the same machine.
pub const NICENESS: i32 = 10;

/// Niceness of servers. The punctuality of the simulator is part of the measurement, so servers have a higher priority than the
/// other parts of the stack.
pub const SERVER_NICENESS: i32 = 4;

/// Niceness of Redis. If CPU time is short, tokens should wait behind Redis and not before it: gateways and HAProxy merge the
/// tokens that wait for them, which costs less CPU time.
pub const REDIS_NICENESS: i32 = 7;
