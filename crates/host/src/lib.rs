//! Reads the operating system for all programs: clocks, the kernel's boot id, and inherited signal settings.
//! It opens no socket and depends on no other crate of the workspace, so that `protocol` can stay free of I/O.

mod clock;
mod hangup;

pub use clock::{ClockAnchor, boot_id, monotonic_us, unix_time};
pub use hangup::hangup_is_ignored;
