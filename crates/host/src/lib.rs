//! The operating system for all programs: clocks, the kernel's boot id, signals, the log, limits and counters of processes.
//! It opens no socket and depends on no other crate of the workspace, so that `protocol` can stay free of I/O.

#[cfg(not(target_os = "linux"))]
compile_error!("Streamstress runs on Linux only: build it there, or in a Linux container or virtual machine");

mod clock;
mod log;
mod open_files;
mod process;
mod stop;

pub use clock::{ClockAnchor, boot_id, monotonic_us, unix_time};
pub use log::log_to_stderr;
pub use open_files::{open_file_limit, open_files, raise_open_files};
pub use process::{Usage, Waited, children, thread_cpu};
pub use stop::{StopSignals, shutdown_on_signal};
