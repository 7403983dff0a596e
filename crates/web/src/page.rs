//! What all requests share, and the names by which browsers reach the page.

use crate::{links::Links, program::Program, refusal::Refusal, run::Runs, token::Token, trial::Trial};
use axum::http::StatusCode;
use std::{net::IpAddr, sync::Arc};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

/// Who may use the page, and how.
#[derive(Clone, Debug, Default)]
pub struct PageSettings {
    /// Names and addresses besides loopback by which browsers reach the page.
    pub names: Vec<String>,
    /// TLS. `None`: plain HTTP.
    pub tls: Option<Arc<rustls::ServerConfig>>,
}

impl PageSettings {
    /// Returns whether `host`, perhaps with a port, names this page.
    pub(crate) fn is_own(&self, host: &str) -> bool {
        let bare = match host.rsplit_once(':') {
            Some((bare, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => bare,
            _ => host,
        };
        is_loopback(bare) || self.names.iter().any(|name| name.eq_ignore_ascii_case(bare))
    }

    /// Returns the origin of the page if a browser reaches it as `host`.
    pub(crate) fn origin(&self, host: &str) -> String {
        format!("{}://{host}", if self.tls.is_some() { "https" } else { "http" })
    }
}

/// Everything that requests share.
pub(crate) struct Page {
    pub(crate) settings: PageSettings,
    pub(crate) token: Token,
    pub(crate) program: Arc<dyn Program>,
    pub(crate) runs: Arc<Runs>,
    pub(crate) trial: Trial,
    pub(crate) links: Links,
    /// Limits the streams of events and frames.
    pub(crate) streams: Arc<Semaphore>,
    /// Limits the commands that run at the same time.
    pub(crate) calls: Arc<Semaphore>,
    /// Ends the streams of events.
    pub(crate) shutdown: CancellationToken,
}

impl Page {
    /// Returns the right to one more stream.
    ///
    /// # Errors
    /// There are too many.
    pub(crate) fn stream(&self) -> Result<OwnedSemaphorePermit, Refusal> {
        Arc::clone(&self.streams).try_acquire_owned().map_err(|_| {
            Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "too many open pages: close one of them")
        })
    }
}

/// Returns whether a host, without its port, is this machine's loopback.
pub(crate) fn is_loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    bare.eq_ignore_ascii_case("localhost")
        || bare.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_own_names_are_hosts() {
        let settings = PageSettings { names: vec!["load.example".into()], tls: None };
        for own in ["127.0.0.1:8089", "localhost", "[::1]:8089", "load.example", "LOAD.example:443"] {
            assert!(settings.is_own(own), "{own}");
        }
        for other in
            ["evil.example:8089", "", "127.0.0.1.evil.example", "load.example.evil", "load.example:x"]
        {
            assert!(!settings.is_own(other), "{other}");
        }
    }

    #[test]
    fn loopback_is_this_machine_only() {
        for here in ["localhost", "LOCALHOST", "127.0.0.1", "127.9.9.9", "[::1]", "::1"] {
            assert!(is_loopback(here), "{here}");
        }
        for elsewhere in ["", "localhost.example", "0.0.0.0", "10.0.0.1", "[::]", "127.0.0.1.example"] {
            assert!(!is_loopback(elsewhere), "{elsewhere}");
        }
    }
}
