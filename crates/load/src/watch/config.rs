//! What the watch observes, and where it writes.

use measure::ReadingBuffer;
use plan::Target;
use std::path::PathBuf;

/// The configuration of a watch.
#[derive(Debug)]
pub struct WatchConfig {
    /// The target, whose two public addresses are checked.
    pub target: Target,
    /// TLS configuration of the checks.
    pub tls: rustls::ClientConfig,
    /// Path of `…_resources.csv`.
    pub resources: PathBuf,
    /// Path of `…_health.csv`.
    pub health: PathBuf,
    /// The readings, which thresholds use.
    pub readings: ReadingBuffer,
}
