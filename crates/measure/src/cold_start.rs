//! How long instances that were started during a run took until they served.

use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

/// The times at which instances served their first session or query, by name of the instance. Times count from the Unix epoch. An
/// instance that was started again has several.
pub type FirstServed = BTreeMap<String, BTreeSet<Duration>>;

/// The start of an instance. Times count from the command that started it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ColdStart {
    /// Name of the instance, for example `wsproxy-4`.
    pub instance: String,
    /// When the command came, since the Unix epoch.
    pub commanded: Duration,
    /// Time until the process reported that it is ready.
    pub ready: Duration,
    /// Time until every load balancer sent to it. `None` if that was not observed.
    pub serving: Option<Duration>,
    /// Time until it served its first session (a gateway) or query (a server). `None` if it served none, or ended before that was read.
    pub first_served: Option<Duration>,
}

impl ColdStart {
    /// Looks for the first session or query among the times of `seen`, before `until`: when the same instance was started again.
    pub(crate) fn look(&mut self, seen: &FirstServed, until: Option<Duration>) {
        let after = seen.get(&self.instance).and_then(|times| times.range(self.commanded..).next());
        let found = after.filter(|&&at| until.is_none_or(|until| at < until));
        self.first_served = found.map(|&at| at.saturating_sub(self.commanded)).or(self.first_served);
    }
}

/// Returns the shortest and the longest of some durations, or `None` without any.
#[must_use]
pub fn range(times: impl IntoIterator<Item = Duration>) -> Option<(Duration, Duration)> {
    times.into_iter().fold(None, |range, time| match range {
        None => Some((time, time)),
        Some((least, most)) => Some((time.min(least), time.max(most))),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_start_gets_the_first_session_after_it_and_before_the_next_start() {
        let seen = FirstServed::from([("wsproxy-4".to_owned(), BTreeSet::from([s(50), s(103), s(120)]))]);
        let start = |instance: &str, commanded| ColdStart {
            instance: instance.into(),
            commanded: s(commanded),
            ready: s(1),
            serving: None,
            first_served: None,
        };
        let look = |instance: &str, commanded, until: Option<u64>| {
            let mut start = start(instance, commanded);
            start.look(&seen, until.map(s));
            start.first_served
        };
        assert_eq!(look("wsproxy-4", 100, None), Some(s(3)));
        assert_eq!(look("wsproxy-4", 104, Some(110)), None, "the session at 120 is one of the next start");
        assert_eq!(look("wsproxy-4", 104, Some(130)), Some(s(16)));
        assert_eq!(look("wsproxy-4", 121, None), None);
        assert_eq!(look("wsproxy-5", 1, None), None);
        assert_eq!((range([]), range([s(3), s(1), s(2)])), (None, Some((s(1), s(3)))));
    }
}
