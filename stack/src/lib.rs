//! Starts, watches and ends a whole stack: embedded in one process, or native with real Redis and HAProxy.
//! It serves no token itself and measures nothing.

pub mod control;
mod docker;
pub mod embedded;
pub mod fault;
pub mod inventory;
mod limits;
pub mod native;
mod probe;
mod relay;
mod secret;
pub mod supervisor;

pub use limits::raise_open_files;
pub use secret::JwtSecret;

/// How far the stack's processes stand back behind the load client on the same machine, as `nice` counts.
pub const NICENESS: i32 = 10;

/// The same for servers and Redis. The simulator's punctuality is part of what is measured with; and where CPU runs short, tokens had
/// better wait behind Redis than before it: gateways and HAProxy merge what waits for them, which takes less of the CPU.
pub const UPSTREAM_NICENESS: i32 = 4;
