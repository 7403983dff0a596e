//! Observations of the monitor: resource usage of each process, failed health checks, restarts and scraped counters.
//! Memory does not grow with the length of the run.

use crate::{
    cold_start::FirstServed,
    memory::{LowMemory, MemoryByPhase},
    readings::role,
    series::Series,
};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

/// Largest number of processes and events that are kept.
const MAX: usize = 1_000;
/// Name of the settings that belong to a stack as a whole.
pub const STACK: &str = "stack";
/// Value of a setting that a member does not state, if another one of its role does.
const DEFAULT: &str = "default";
/// Share of a core from which a process counts as busy in a second.
const BUSY: f64 = 0.9;

/// All observations of a run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Observations {
    /// Resource usage by process.
    pub processes: BTreeMap<String, Usage>,
    /// Failed health checks by target: count, first and last second, last response.
    pub failed: BTreeMap<String, (u64, u64, u64, String)>,
    /// Processes that were replaced by a new one, and the second.
    pub restarts: Vec<(String, u64)>,
    /// Processes that ended, and the second.
    pub ended: Vec<Ended>,
    /// Instances that never answered a health check because they cannot be reached from this host.
    pub unreached: BTreeSet<String>,
    /// Counters scraped from `/metrics` of servers and gateways.
    pub stack_counters: StackCounters,
    /// When each server and gateway served its first query or session.
    pub first_served: FirstServed,
    /// Memory of processes and roles by phase of the run.
    pub memory: MemoryByPhase,
    /// The memory of the machine was about to run out.
    pub low_memory: Option<LowMemory>,
    /// The memory of Redis was about to reach its limit.
    pub low_redis: Option<LowMemory>,
    /// Why parts of the stack could not be observed.
    pub unseen: Option<String>,
    /// The last settings that each member stated, and those of the stack as a whole ([`STACK`]).
    pub stated: BTreeMap<String, Settings>,
}

/// Settings by name.
pub type Settings = BTreeMap<String, String>;

/// Counters of the stack over the run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StackCounters {
    /// Tokens that the servers passed to the bus.
    pub tokens_published: Option<u64>,
    /// Time from passing events to the bus until their acknowledgement.
    pub bus_lag: Option<BusLag>,
    /// Counters of the gateways.
    pub gateways: Option<Gateways>,
    /// Members whose counters are missing until a second of the run, or completely (`None`).
    pub missed: BTreeMap<String, Option<u64>>,
}

/// Percentiles by interpolation within buckets, milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
#[allow(missing_docs)]
pub struct BusLag {
    /// Number of events.
    pub count: u64,
    pub p50: f64,
    pub p95: f64,
    pub p99: f64,
}

/// Sums over all gateways.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Gateways {
    /// Queues that exceeded their bound.
    pub outbox_overflows: u64,
    /// Sockets that were closed because of a slow consumer.
    pub evictions: u64,
    /// Share of frames that waited for their socket, 0 to 1.
    pub queued_share: Option<f64>,
}

/// Connections of an endpoint during the run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointHistory {
    /// Scheme and authority.
    pub name: String,
    /// Whether it is one of the ports that a container publishes.
    pub is_published: bool,
    /// Accepted connections.
    pub connected: u64,
    /// Attempts to connect that were refused, timed out or failed in TLS.
    pub failed: u64,
    /// Whether connections succeeded at first, and none since the last attempt that failed.
    pub is_dead: bool,
}

impl EndpointHistory {
    /// Adds the connections of another generator. The endpoint is dead if it was dead for both.
    pub(crate) fn add(&mut self, other: &Self) {
        self.connected += other.connected;
        self.failed += other.failed;
        self.is_dead &= other.is_dead;
    }
}

/// Name of a process that ended, and the second.
pub type Ended = (String, u64);

/// Resource usage of a process.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Usage {
    /// Number of samples.
    pub samples: u64,
    /// CPU cores in use, summed over the samples.
    pub cpu_sum: f64,
    /// Seconds in which it used nine tenths of a core or more.
    pub busy_seconds: u64,
    /// Highest resident memory in MB.
    pub max_rss_mb: f64,
    /// Highest number of open descriptors.
    pub max_descriptors: u64,
    /// Limit of open descriptors.
    pub descriptor_limit: Option<u64>,
    /// Memory over time, in MB.
    pub memory: Series,
}

/// One sample of a process.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ProcessSample {
    /// Cores in use since the previous sample.
    pub cpu: Option<f64>,
    /// Resident memory, in MB.
    pub rss_mb: f64,
    /// Open file descriptors.
    pub descriptors: Option<u64>,
    /// File descriptors that it may open.
    pub descriptor_limit: Option<u64>,
    /// Number of threads.
    pub threads: u64,
}

impl Usage {
    /// Adds a sample of this second of the run.
    pub fn add(&mut self, second: f64, sample: &ProcessSample) {
        self.samples += 1;
        let cpu = sample.cpu.unwrap_or(0.0);
        self.cpu_sum += cpu;
        self.busy_seconds += u64::from(cpu >= BUSY);
        self.max_rss_mb = self.max_rss_mb.max(sample.rss_mb);
        self.max_descriptors = self.max_descriptors.max(sample.descriptors.unwrap_or(0));
        self.descriptor_limit = sample.descriptor_limit.or(self.descriptor_limit);
        self.remember(second, sample.rss_mb);
    }

    /// Adds the resident memory at a second.
    pub fn remember(&mut self, second: f64, rss_mb: f64) {
        self.memory.add(second, rss_mb);
    }

    /// Iterates over memory by time: second and MB.
    pub fn memory(&self) -> impl Iterator<Item = (f64, f64)> + '_ {
        self.memory.points()
    }

    /// Returns the mean number of CPU cores in use.
    #[must_use]
    #[allow(clippy::cast_precision_loss)]
    pub fn mean_cpu(&self) -> f64 {
        self.cpu_sum / self.samples.max(1) as f64
    }
}

impl Observations {
    /// Adds a sample of the process `name`. Processes beyond the first 1,000 are ignored.
    pub fn process(&mut self, name: &str, second: u64, sample: &ProcessSample) {
        if self.processes.len() < MAX || self.processes.contains_key(name) {
            #[allow(clippy::cast_precision_loss)]
            self.processes.entry(name.to_owned()).or_default().add(second as f64, sample);
        }
    }

    /// Records that a check of `target` failed in this second, with the response.
    pub fn check_failed(&mut self, target: &str, second: u64, response: String) {
        let (count, _, last, last_response) =
            self.failed.entry(target.to_owned()).or_insert_with(|| (0, second, second, String::new()));
        (*count, *last, *last_response) = (*count + 1, second, response);
    }

    /// Records that `name` served its first session or query at this time since the Unix epoch.
    pub fn first_served(&mut self, name: &str, at: Duration) {
        if self.first_served.len() < MAX || self.first_served.contains_key(name) {
            let times = self.first_served.entry(name.to_owned()).or_default();
            if times.len() < MAX {
                times.insert(at);
            }
        }
    }

    /// Records the settings that the member `name` states. Empty ones are not recorded.
    pub fn settings(&mut self, name: &str, settings: Settings) {
        if !settings.is_empty() && (self.stated.len() < MAX || self.stated.contains_key(name)) {
            self.stated.insert(name.to_owned(), settings);
        }
    }

    /// Returns the settings of each role, and those of the stack as a whole. If the members of a role differ, all values are listed.
    #[must_use]
    pub fn settings_by_role(&self) -> BTreeMap<String, Settings> {
        let mut members: BTreeMap<&str, Vec<&Settings>> = BTreeMap::new();
        for (name, settings) in &self.stated {
            members.entry(role(name)).or_default().push(settings);
        }
        let of_role = |members: Vec<&Settings>| {
            let names: BTreeSet<&String> = members.iter().flat_map(|settings| settings.keys()).collect();
            let value = |name: &String| {
                let values =
                    members.iter().map(|settings| settings.get(name).map_or(DEFAULT, String::as_str));
                values.collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>().join(", ")
            };
            names.into_iter().map(|name| (name.clone(), value(name))).collect()
        };
        members.into_iter().map(|(role, members)| (role.to_owned(), of_role(members))).collect()
    }

    /// Records that a new process of `name` was found in this second.
    pub fn restarted(&mut self, name: &str, second: u64) {
        if self.restarts.len() < MAX {
            self.restarts.push((name.to_owned(), second));
        }
    }

    /// Records that `name` had ended in this second.
    pub fn ended(&mut self, name: &str, second: u64) {
        if self.ended.len() < MAX {
            self.ended.push((name.to_owned(), second));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_members_of_a_role_have_one_list_of_settings() {
        let settings = |pairs: &[(&str, &str)]| {
            pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect::<Settings>()
        };
        let mut seen = Observations::default();
        seen.settings("server-1", settings(&[("delivery", "log")]));
        seen.settings("wsproxy-1", settings(&[("delivery", "log"), ("max-connections", "500")]));
        seen.settings("wsproxy-2", settings(&[("delivery", "log")]));
        seen.settings(STACK, settings(&[("redis-persistence", "none")]));
        seen.settings("server-2", Settings::new());
        let roles = seen.settings_by_role();
        assert_eq!(roles["server"], settings(&[("delivery", "log")]));
        assert_eq!(roles["wsproxy"], settings(&[("delivery", "log"), ("max-connections", "500, default")]));
        assert_eq!(roles[STACK], settings(&[("redis-persistence", "none")]));
    }

    #[test]
    fn the_peak_is_the_highest_sample() {
        let mut usage = Usage::default();
        for second in 0..86_400 {
            let second = f64::from(second);
            usage
                .add(second, &ProcessSample { rss_mb: 100.0 + second / 1_000.0, ..ProcessSample::default() });
        }
        assert!((usage.max_rss_mb - 186.399).abs() < 1e-6);
    }
}
