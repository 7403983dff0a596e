//! Starts, watches and ends a whole stack: embedded in one process, or native with real Redis and HAProxy.
//! It serves no token itself and measures nothing.

pub mod control;
mod docker;
pub mod embedded;
pub mod fault;
mod files;
pub mod inventory;
mod limits;
pub mod native;
mod probe;
pub mod program;
pub mod published;
mod relay;
mod secret;
pub mod supervisor;

pub use files::{open_log, private_directory};
pub use limits::raise_open_files;
pub use secret::JwtSecret;

/// How far the stack's processes stand back behind the load client on the same machine, as `nice` counts.
pub const NICENESS: i32 = 10;

/// The same for servers: the simulator's punctuality is part of what is measured with, so it goes before what is measured.
pub const SERVER_NICENESS: i32 = 4;

/// The same for Redis. Where CPU runs short, tokens had better wait behind it than before it: gateways and HAProxy merge what waits for
/// them, which takes less of the CPU.
pub const REDIS_NICENESS: i32 = 7;
