//! Reads the operating system for all programs: clocks, the kernel's boot id, and inherited signal settings.
//! It opens no socket and depends on no other crate of the workspace, so that `protocol` can stay free of I/O.

#[cfg(not(target_os = "linux"))]
compile_error!("Streamstress runs on Linux only: build it there, or in a Linux container or virtual machine");

mod clock;
mod hangup;

pub use clock::{ClockAnchor, boot_id, monotonic_us, unix_time};
pub use hangup::hangup_is_ignored;
