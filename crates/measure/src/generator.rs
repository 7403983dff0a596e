//! What a generator reports at its end besides its parts: its load on its host, its arrivals, its clock, its connections.

use super::{
    Distribution, FaultRecord, QueryCounts, RunData, SessionCounts, TokenCounts,
    observations::EndpointHistory,
};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, time::Duration};

/// The counts of arrivals in open models, and of planned queries that never started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Arrivals {
    /// Queries and sessions that were planned and never started.
    pub dropped: u64,
    /// Arrivals that started on time.
    pub on_time: u64,
    /// Arrivals that were dropped because every session was busy.
    pub busy: u64,
    /// Arrivals that were due before the run ended.
    pub due: u64,
}

impl Arrivals {
    /// Adds the counts of `other`.
    pub const fn add(&mut self, other: &Self) {
        self.dropped += other.dropped;
        self.on_time += other.on_time;
        self.busy += other.busy;
        self.due += other.due;
    }
}

/// The report of a generator at its end.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct GeneratorReport {
    /// Name of its host.
    pub host: String,
    /// Running times of its workers, summed.
    pub wall: Duration,
    /// Time that its threads waited for a CPU. `None` if the system does not count it.
    pub cpu_waited: Option<Duration>,
    /// The same time without the cost of normal wake-ups.
    pub cpu_starved: Option<Duration>,
    /// Cost of a wake-up on its host, measured before the run.
    pub wake_up_cost: Option<Duration>,
    /// Counts of arrivals.
    pub arrivals: Arrivals,
    /// Whether it and the simulator use the same clock. `None` before the first response and with old servers.
    pub shared_clock: Option<bool>,
    /// Connections and failures of each gateway address.
    pub endpoints: Vec<EndpointHistory>,
    /// Steps of the wall clock during the run.
    pub clock_steps: u64,
    /// The planned faults with their effects on its sessions.
    pub faults: Vec<FaultRecord>,
    /// How much later than the common start it began.
    pub start_delay: Duration,
    /// Error of its view of the common start: by how much its clock may differ from that of the coordinator. Zero if both share a
    /// clock.
    pub clock_error: Duration,
    /// Numbers of the amendments that it made in time.
    pub amendments: Vec<u32>,
    /// Whether a signal ended it.
    pub interrupted: bool,
    /// Files that it could not write, each with the reason.
    pub unwritten: Vec<String>,
}

impl GeneratorReport {
    /// Returns the share of time that its threads waited for a CPU, 0 to 1.
    #[must_use]
    pub fn cpu_wait_share(&self) -> Option<f64> {
        self.cpu_waited.map(|time| share(time, self.wall))
    }

    /// Returns the same share without the cost of normal wake-ups.
    #[must_use]
    pub fn cpu_starved_share(&self) -> Option<f64> {
        self.cpu_starved.map(|time| share(time, self.wall))
    }

    /// Merges the reports of all generators into that of the run. Returns an empty report for none.
    #[must_use]
    pub fn merged<'a>(reports: impl IntoIterator<Item = &'a Self>) -> Self {
        let mut reports = reports.into_iter();
        let Some(mut merged) = reports.next().cloned() else { return Self::default() };
        for report in reports {
            merged.add(report);
        }
        merged
    }

    fn add(&mut self, other: &Self) {
        let sum = |one: Option<Duration>, other: Option<Duration>| Some(one? + other?);
        self.wall += other.wall;
        self.cpu_waited = sum(self.cpu_waited, other.cpu_waited);
        self.cpu_starved = sum(self.cpu_starved, other.cpu_starved);
        self.wake_up_cost = self.wake_up_cost.max(other.wake_up_cost);
        self.arrivals.add(&other.arrivals);
        self.shared_clock = match (self.shared_clock, other.shared_clock) {
            (Some(one), Some(other)) => Some(one && other),
            (one, other) => one.or(other),
        };
        for endpoint in &other.endpoints {
            match self.endpoints.iter_mut().find(|known| known.name == endpoint.name) {
                Some(known) => known.add(endpoint),
                None => self.endpoints.push(endpoint.clone()),
            }
        }
        self.clock_steps += other.clock_steps;
        for (known, fault) in self.faults.iter_mut().zip(&other.faults) {
            known.add_effects(fault);
        }
        self.start_delay = self.start_delay.max(other.start_delay);
        self.clock_error = self.clock_error.max(other.clock_error);
        self.interrupted |= other.interrupted;
        self.unwritten.extend(other.unwritten.iter().cloned());
    }
}

fn share(time: Duration, of: Duration) -> f64 {
    time.as_secs_f64() / of.as_secs_f64().max(f64::MIN_POSITIVE)
}

/// Figures of one generator, from its parts.
#[derive(Clone, Debug, Default)]
pub struct GeneratorFigures {
    /// Sessions by outcome.
    pub sessions: SessionCounts,
    /// Queries by status.
    pub queries: QueryCounts,
    /// Counts of tokens.
    pub tokens: TokenCounts,
    /// Lag of its event loops.
    pub loop_lag: Distribution,
    /// End-to-end latency of its queries.
    pub e2el: Distribution,
}

/// Figures of each generator by the index of its shard.
pub type FiguresByGenerator = BTreeMap<u32, GeneratorFigures>;

impl GeneratorFigures {
    /// Adds the sums of a part.
    pub fn add_sums(&mut self, sums: &RunData) {
        self.sessions.merge(&sums.sessions);
        self.queries.merge(&sums.queries);
        self.tokens.merge(&sums.tokens);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(host: &str, wall: u64, starved: Option<u64>, endpoint: (&str, u64, bool)) -> GeneratorReport {
        let (name, connected, is_dead) = endpoint;
        let endpoints =
            vec![EndpointHistory { name: name.into(), connected, is_dead, ..EndpointHistory::default() }];
        GeneratorReport {
            host: host.into(),
            wall: Duration::from_secs(wall),
            cpu_starved: starved.map(Duration::from_secs),
            shared_clock: Some(true),
            endpoints,
            ..GeneratorReport::default()
        }
    }

    #[test]
    fn reports_merge() {
        let one = report("a", 10, Some(1), ("ws://x", 5, true));
        let two =
            GeneratorReport { shared_clock: Some(false), ..report("b", 30, Some(7), ("ws://x", 6, false)) };
        let merged = GeneratorReport::merged([&one, &two]);
        assert_eq!(merged.cpu_starved_share(), Some(0.2));
        assert_eq!(merged.shared_clock, Some(false));
        let endpoint = &merged.endpoints[0];
        assert_eq!((merged.endpoints.len(), endpoint.connected, endpoint.is_dead), (1, 11, false));
        let uncounted = report("c", 1, None, ("ws://y", 1, false));
        let merged = GeneratorReport::merged([&one, &uncounted]);
        assert_eq!((merged.cpu_starved_share(), merged.endpoints.len()), (None, 2));
        assert_eq!(GeneratorReport::merged([]), GeneratorReport::default());
    }
}
