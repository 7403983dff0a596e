//! What the watch observes, and where it writes.

use measure::ReadingBuffer;
use plan::Target;
use settings::address::Address;
use std::path::PathBuf;

/// The configuration of a watch.
#[derive(Debug)]
pub struct WatchConfig {
    /// The target, whose public addresses are checked.
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

impl WatchConfig {
    /// Returns the further addresses of the API and of the gateway with their names in health checks: `api-2`, `gateway-2` …
    pub(super) fn more_public(&self) -> impl Iterator<Item = (String, &Address)> {
        let more = [("api", &self.target.more_api), ("gateway", &self.target.more_ws)];
        let more = more.into_iter().filter(|_| self.target.foreign.is_none());
        more.flat_map(|(name, addresses)| {
            (2..).zip(addresses).map(move |(number, address)| (format!("{name}-{number}"), address))
        })
    }
}
