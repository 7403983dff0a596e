//! Coordination on one machine: the parent process listens on a unix socket, and its children connect to it.
//!
//! The parent leads. A child is lost when its socket closes, or when it sends nothing during several heartbeat intervals. If the parent
//! ends, each child receives [`crate::Command::Abort`]. All processes share one monotonic clock, so the start is exact.

mod child;
mod frame;
mod parent;

pub use child::Child;
pub use parent::{ListenError, Parent};
