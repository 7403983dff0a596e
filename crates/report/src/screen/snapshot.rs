//! All that the live view shows at one moment, as a value.
//! It is put together from counters and from the collector's standing, and changes nothing.

use crate::output::{EventSink, LiveStatus, SharedStatus};
use measure::{
    ActiveCounter, FaultLog, FaultRecord,
    live::{LiveCounters, LiveTotals, totals},
};
use plan::{
    Estimate, Stop,
    schedule::{Phase, Schedule},
};
use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

/// Rates are taken over so long.
const RATES_OVER: Duration = Duration::from_secs(2);

/// Where the figures come from.
#[derive(Debug)]
pub struct Sources {
    /// Where the run is aimed at.
    pub target: String,
    /// The beginning of the run's clock.
    pub epoch: Instant,
    /// The plan.
    pub schedule: Arc<Schedule>,
    /// What was reckoned before.
    pub estimate: Estimate,
    /// The workers' counters.
    pub counters: Vec<Arc<LiveCounters>>,
    /// Open sessions.
    pub sessions: ActiveCounter,
    /// What is broken.
    pub faults: Arc<FaultLog>,
    /// What the collector publishes.
    pub shared_status: SharedStatus,
    /// Where events go.
    pub events: Option<EventSink>,
    /// Whether the run was asked to end, and whom to ask.
    pub stop: Stop,
}

/// Of the last seconds, a second.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rates {
    pub tokens: f64,
    pub queries: f64,
    pub connects: f64,
}

/// What is shown.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    pub target: String,
    pub elapsed: Duration,
    /// When the schedule ends, where it knows.
    pub end: Option<Duration>,
    /// How long it will take in all, by what was done so far.
    pub estimate: Duration,
    pub phases: Vec<Phase>,
    pub is_stopping: bool,
    pub sessions_open: u64,
    /// Sessions that the schedule wants now, in open models those that there may be.
    pub sessions_planned: u64,
    pub queries_planned: u64,
    pub totals: LiveTotals,
    pub rates: Rates,
    pub live_status: LiveStatus,
    pub faults: Vec<FaultRecord>,
    pub events_dropped: u64,
    pub message: Option<String>,
    pub shows_help: bool,
}

/// Takes snapshots, and remembers the last looks for the rates.
#[derive(Debug)]
pub struct SnapshotBuilder {
    sources: Sources,
    looks: VecDeque<(Duration, LiveTotals)>,
}

impl SnapshotBuilder {
    pub fn new(sources: Sources) -> Self {
        Self { sources, looks: VecDeque::new() }
    }

    pub const fn stop(&self) -> &Stop {
        &self.sources.stop
    }

    pub fn take(&mut self, message: Option<String>, shows_help: bool) -> Snapshot {
        let sources = &self.sources;
        let elapsed = Instant::now().saturating_duration_since(sources.epoch);
        let totals = totals(sources.counters.iter().map(AsRef::as_ref));
        self.looks.push_back((elapsed, totals));
        while self.looks.front().is_some_and(|(at, _)| elapsed.saturating_sub(*at) > RATES_OVER) {
            self.looks.pop_front();
        }
        let first = self.looks.front().copied().unwrap_or_default();
        let (schedule, estimate) = (&sources.schedule, &sources.estimate);
        let sessions_planned = if schedule.model().is_open() {
            schedule.most_concurrent()
        } else {
            schedule.target_in(elapsed.as_secs()).round() as u64
        };
        Snapshot {
            target: sources.target.clone(),
            elapsed,
            end: schedule.end(),
            estimate: estimate
                .left(elapsed, totals.queries)
                .map_or(estimate.duration, |left| elapsed.saturating_add(left)),
            phases: schedule.phases().to_vec(),
            is_stopping: sources.stop.starting.is_cancelled(),
            sessions_open: sources.sessions.now(),
            sessions_planned,
            queries_planned: estimate.queries.round() as u64,
            totals,
            rates: rates(first, (elapsed, totals)),
            live_status: sources.shared_status.lock().clone(),
            faults: sources.faults.records(),
            events_dropped: sources.events.as_ref().map_or(0, EventSink::dropped),
            message,
            shows_help,
        }
    }
}

fn rates((from, before): (Duration, LiveTotals), (to, now): (Duration, LiveTotals)) -> Rates {
    let seconds = to.saturating_sub(from).as_secs_f64();
    if seconds <= 0.0 {
        return Rates::default();
    }
    let rate = |now: u64, before: u64| now.saturating_sub(before) as f64 / seconds;
    Rates {
        tokens: rate(now.tokens, before.tokens),
        queries: rate(now.queries, before.queries),
        connects: rate(now.connects, before.connects),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_of_the_time_between_two_looks() {
        let ms = Duration::from_millis;
        let before = LiveTotals { tokens: 100, queries: 5, ..LiveTotals::default() };
        let now = LiveTotals { tokens: 350, queries: 6, connects: 2, ..LiveTotals::default() };
        let found = rates((ms(1_000), before), (ms(1_500), now));
        assert_eq!(found, Rates { tokens: 500.0, queries: 2.0, connects: 4.0 });
        assert_eq!(rates((ms(0), before), (ms(0), now)), Rates::default());
    }
}
