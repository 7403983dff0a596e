//! Concurrency: how many sessions and queries were active. The concurrency of a second is the mean over its time, so that those of
//! several generators add up exactly; the peak is the highest second.

use super::Interval;

/// The highest concurrency of any second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Concurrency {
    session_ns: u64,
    query_ns: u64,
}

impl Concurrency {
    /// Adds a complete second of the run, merged over all generators.
    pub fn add(&mut self, interval: &Interval) {
        self.session_ns = self.session_ns.max(interval.counts().session_ns);
        self.query_ns = self.query_ns.max(interval.counts().query_ns);
    }

    /// Returns the highest mean number of open sessions in a second.
    #[must_use]
    pub fn peak_sessions(&self) -> f64 {
        mean_in_second(self.session_ns)
    }

    /// Returns the highest mean number of running queries in a second.
    #[must_use]
    pub fn peak_queries(&self) -> f64 {
        mean_in_second(self.query_ns)
    }
}

/// Returns the mean number of sessions or queries in a second from their summed active time in nanoseconds.
#[must_use]
#[allow(clippy::cast_precision_loss, reason = "a tenth of a session is exact enough")]
pub fn mean_in_second(active_ns: u64) -> f64 {
    (active_ns as f64 / 1e8).round() / 10.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_second_counts() {
        let mut concurrency = Concurrency::default();
        for (sessions, queries) in [(1_250_000_000, 10), (3_000_000_000, 0), (0, 800_000_000)] {
            let mut interval = Interval::default();
            interval.active(sessions, queries);
            concurrency.add(&interval);
        }
        assert_eq!((concurrency.peak_sessions(), concurrency.peak_queries()), (3.0, 0.8));
    }
}
