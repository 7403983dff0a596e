//! A snapshot of everything that the live view shows. It is made from counters and from the status that the collector publishes.

use crate::output::{EventSink, LiveStatus, SharedStatus};
use measure::{
    FaultLog, FaultRecord,
    live::{LiveCounters, LiveTotals, totals},
};
use plan::{
    Estimate, LiveSchedule, Stop,
    schedule::{Model, Phase},
};
use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

/// Time over which rates are computed.
const RATES_OVER: Duration = Duration::from_secs(2);

/// Sources of the live view.
#[derive(Debug)]
pub struct Sources {
    /// URL of the system under test.
    pub target: String,
    /// Start of the run.
    pub epoch: Instant,
    /// Schedule of the run.
    pub schedule: LiveSchedule,
    /// Duration and number of queries that were expected before the run.
    pub estimate: Estimate,
    /// Counters of the workers, or of the generators.
    pub counters: Vec<Arc<LiveCounters>>,
    /// Log of the faults.
    pub faults: Arc<FaultLog>,
    /// Status that the collector publishes.
    pub shared_status: SharedStatus,
    /// Sink of the events, if they are wanted.
    pub events: Option<EventSink>,
    /// Stops the run, and knows whether it is stopping.
    pub stop: Stop,
}

/// Rates per second over the last seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rates {
    pub tokens: f64,
    pub queries: f64,
    pub connects: f64,
}

/// What the live view shows.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    pub target: String,
    pub elapsed: Duration,
    /// End of the schedule, if it is known.
    pub end: Option<Duration>,
    /// Expected length of the run, from the progress so far.
    pub estimate: Duration,
    pub phases: Vec<Phase>,
    pub is_stopping: bool,
    pub sessions_open: u64,
    /// Sessions that the schedule plans now, in open models the largest possible number.
    pub sessions_planned: u64,
    pub queries_planned: u64,
    /// The schedule ends by time, so `queries_planned` depends on how long queries take.
    pub are_queries_estimated: bool,
    /// Targets of the phases are arrivals per second, not sessions.
    pub is_open: bool,
    pub totals: LiveTotals,
    pub rates: Rates,
    pub live_status: LiveStatus,
    pub faults: Vec<FaultRecord>,
    pub events_dropped: u64,
    pub message: Option<String>,
    pub shows_help: bool,
}

/// Takes snapshots. Keeps the counters of the last seconds to compute rates.
#[derive(Debug)]
pub struct SnapshotBuilder {
    sources: Sources,
    samples: VecDeque<(Duration, LiveTotals)>,
}

impl SnapshotBuilder {
    pub fn new(sources: Sources) -> Self {
        Self { sources, samples: VecDeque::new() }
    }

    pub const fn stop(&self) -> &Stop {
        &self.sources.stop
    }

    pub fn take(&mut self, message: Option<String>, shows_help: bool) -> Snapshot {
        let sources = &self.sources;
        let elapsed = Instant::now().saturating_duration_since(sources.epoch);
        let totals = totals(sources.counters.iter().map(AsRef::as_ref));
        self.samples.push_back((elapsed, totals));
        while self.samples.front().is_some_and(|(at, _)| elapsed.saturating_sub(*at) > RATES_OVER) {
            self.samples.pop_front();
        }
        let first = self.samples.front().copied().unwrap_or_default();
        let (schedule, estimate) = (sources.schedule.current(), &sources.estimate);
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
            sessions_open: totals.open_sessions(),
            sessions_planned,
            queries_planned: estimate.queries.round() as u64,
            are_queries_estimated: estimate.by_clock && schedule.model() != Model::OpenQueries,
            is_open: schedule.model().is_open(),
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
    fn rates_cover_the_time_between_two_snapshots() {
        let ms = Duration::from_millis;
        let before = LiveTotals { tokens: 100, queries: 5, ..LiveTotals::default() };
        let now = LiveTotals { tokens: 350, queries: 6, connects: 2, ..LiveTotals::default() };
        let found = rates((ms(1_000), before), (ms(1_500), now));
        assert_eq!(found, Rates { tokens: 500.0, queries: 2.0, connects: 4.0 });
        assert_eq!(rates((ms(0), before), (ms(0), now)), Rates::default());
    }
}
