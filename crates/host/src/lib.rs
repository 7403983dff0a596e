//! The operating system for all programs: clocks, the kernel's boot id, signals, the log and the metrics, limits and counters of
//! processes, and small requests to them. It depends on no other crate of the workspace, so that `protocol` can stay free of I/O.

#[cfg(not(target_os = "linux"))]
compile_error!("Streamstress runs on Linux only: build it there, or in a Linux container or virtual machine");

mod clock;
mod directory;
mod histogram;
mod http;
mod log;
mod memory;
mod metrics;
mod open_files;
mod process;
mod stop;

pub use clock::{ClockAnchor, boot_id, monotonic_us, unix_time};
pub use directory::is_private;
pub use histogram::{Buckets, Delays, Durations, Histogram};
pub use http::{HttpResponse, REQUEST_TIMEOUT, check_ready, exchange, http_get};
pub use log::log_to_stderr;
pub use memory::MemoryRoom;
pub use metrics::{Exporter, HistogramReading, METRICS_TYPE, Reading};
pub use open_files::{open_file_limit, open_files, raise_open_files};
pub use process::{Usage, Waited, children, started, thread_cpu, use_small_pages};
pub use stop::{StopSignals, runtime, shutdown_on_signal};
