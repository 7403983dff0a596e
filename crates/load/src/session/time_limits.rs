//! How long calls and queries may take.

use crate::query::millis;
use protocol::RunResponse;
use std::time::Duration;

/// How long a query may take beyond its ideal duration.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a call may take, or a query without an ideal duration.
const BLIND_PATIENCE: Duration = Duration::from_secs(60);

/// The time limits of a session: those of the plan's `query_timeout`, or the defaults if it is `None`.
#[derive(Clone, Copy, Debug)]
pub(super) struct TimeLimits {
    query_timeout: Option<Duration>,
}

impl TimeLimits {
    /// Creates the limits of a plan.
    pub(super) const fn new(query_timeout: Option<Duration>) -> Self {
        Self { query_timeout }
    }

    /// Returns how long a call may take, or a query whose call has no response yet.
    pub(super) fn call(self) -> Duration {
        self.query_timeout.unwrap_or(BLIND_PATIENCE)
    }

    /// Returns how long a refused query is sent again. One that is accepted later would be beyond its own limit at once.
    pub(super) fn refusals(self) -> Duration {
        self.query_timeout.unwrap_or(PATIENCE)
    }

    /// Returns how long a query with this response may take.
    pub(super) fn query(self, response: &RunResponse) -> Duration {
        let ideal = millis(response.ideal_e2el_ms);
        self.query_timeout.or(ideal.map(|ideal| ideal + PATIENCE)).unwrap_or(BLIND_PATIENCE)
    }

    /// Returns the longest delay that a gateway may request before a reconnect: as long as the query or a call may take.
    pub(super) fn reconnect(self, response: Option<&RunResponse>) -> Duration {
        response.map_or_else(|| self.call(), |response| self.query(response).max(self.call()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_query_is_accepted_when_its_own_time_is_over() {
        for query_timeout in [None, Some(1), Some(30), Some(90)] {
            let limits = TimeLimits::new(query_timeout.map(Duration::from_secs));
            for ideal_e2el_ms in [None, Some(0.0), Some(900.0)] {
                let response = RunResponse { ideal_e2el_ms, ..RunResponse::default() };
                assert!(limits.refusals() <= limits.query(&response), "{query_timeout:?} {ideal_e2el_ms:?}");
                assert!(limits.refusals() <= limits.call());
            }
        }
    }
}
