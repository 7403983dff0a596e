//! Assigns samples of memory to the phases of the run, and warns before the memory of this machine or of Redis runs out.

use super::inventory::Member;
use host::{MemoryRoom, Usage};
use measure::{
    live::{LiveCounters, LiveTotals, totals},
    memory::{LowMemory, MemoryOf, Phase, note_available},
    observations::Observations,
    role,
};
use parking_lot::Mutex;
use std::{collections::BTreeMap, fmt, sync::Arc};

/// How many generations of child processes are included.
pub(super) const GENERATIONS: u32 = 3;

/// Receives a warning for the user during the run.
pub type Warn = Box<dyn Fn(String) + Send>;

/// Tells the phase of each second from the live counters of all workers.
#[derive(Debug)]
pub(super) struct PhaseTracker {
    counters: Vec<Arc<LiveCounters>>,
    before: LiveTotals,
}

impl PhaseTracker {
    pub(super) const fn new(counters: Vec<Arc<LiveCounters>>) -> Self {
        Self {
            counters,
            before: LiveTotals {
                connects: 0,
                started: 0,
                ended: 0,
                queries: 0,
                tokens: 0,
                lost: 0,
                errors: 0,
                dropped: 0,
            },
        }
    }

    /// Returns the phase since the last call.
    pub(super) fn next(&mut self) -> Phase {
        let now = totals(self.counters.iter().map(AsRef::as_ref));
        Phase::of(&std::mem::replace(&mut self.before, now), &now)
    }
}

/// Adds the memory of processes, and the sums of their roles, to a phase.
pub(super) fn add(seen: &Mutex<Observations>, phase: Phase, processes: &[(String, f64)]) {
    let mut observations = seen.lock();
    let mut roles: BTreeMap<&str, f64> = BTreeMap::new();
    for (name, mb) in processes {
        observations.memory.add(name, phase, *mb);
        if role(name) != name {
            *roles.entry(role(name)).or_default() += mb;
        }
    }
    for (role, mb) in roles {
        observations.memory.add(role, phase, mb);
    }
}

/// Reads the memory of the members and of this process now, and adds it to a phase outside the run.
pub(super) fn sample_outside(members: &[Member], phase: Phase, seen: &Mutex<Observations>) {
    let members =
        members.iter().filter_map(|member| Some((member.name.clone(), member.pid?, member.has_children)));
    let all = members.chain([("client".to_owned(), std::process::id(), true)]);
    let read = |(name, pid, has_children): (String, u32, bool)| {
        Some((name, family_mb(pid, if has_children { GENERATIONS } else { 0 })?))
    };
    let processes: Vec<_> = all.filter_map(read).collect();
    add(seen, phase, &processes);
}

/// Returns the memory of a process and `generations` generations of its children, in MB.
fn family_mb(pid: u32, generations: u32) -> Option<f64> {
    let own = Usage::of(pid).ok()?.rss_kib as f64 / 1024.0;
    let children = if generations > 0 { host::children(pid) } else { Vec::new() };
    Some(own + children.into_iter().filter_map(|child| family_mb(child, generations - 1)).sum::<f64>())
}

/// Warns once before the memory of this machine runs out, and once before that of Redis does.
pub(super) struct MemoryWatch {
    warn: Warn,
    has_warned_of_redis: bool,
}

impl fmt::Debug for MemoryWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MemoryWatch")
    }
}

impl MemoryWatch {
    pub(super) fn new(warn: Warn) -> Self {
        Self { warn, has_warned_of_redis: false }
    }

    /// Reads the available memory of this machine at a second of the run, and looks at what was read of Redis.
    pub(super) fn look(&mut self, second: u64, seen: &Mutex<Observations>) {
        if !self.has_warned_of_redis {
            let warning = seen.lock().low_redis.as_ref().map(LowMemory::warning);
            if let Some(warning) = warning {
                self.has_warned_of_redis = true;
                (self.warn)(warning);
            }
        }
        let Some(room) = MemoryRoom::read() else { return };
        let of = if room.is_control_group { MemoryOf::ControlGroup } else { MemoryOf::Machine };
        // The lock is released before the warning is printed, which can block.
        let warning =
            note_available(&mut seen.lock().low_memory, second, room.available_mb, room.total_mb, of);
        if let Some(warning) = warning {
            (self.warn)(warning);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_are_the_sums_of_their_processes_in_a_phase() {
        let seen = Mutex::new(Observations::default());
        let processes = [("wsproxy-1", 10.0), ("wsproxy-2", 20.0), ("redis", 5.0)];
        add(&seen, Phase::Streaming, &processes.map(|(name, mb)| (name.to_owned(), mb)));
        let observations = seen.lock();
        let means: Vec<_> = observations
            .memory
            .iter()
            .map(|(name, mut phases)| (name, phases.next().unwrap().1.mean_mb))
            .collect();
        assert_eq!(means, [("redis", 5.0), ("wsproxy", 30.0), ("wsproxy-1", 10.0), ("wsproxy-2", 20.0)]);
    }

    #[test]
    fn a_redis_that_fills_up_is_warned_of_once() {
        let (warn, warnings) = std::sync::mpsc::channel();
        let mut watch = MemoryWatch::new(Box::new(move |warning| warn.send(warning).unwrap()));
        let seen = Mutex::new(Observations::default());
        watch.look(1, &seen);
        seen.lock().low_redis =
            Some(LowMemory { second: 5, available_mb: 70.0, total_mb: 768.0, of: MemoryOf::Redis });
        watch.look(2, &seen);
        watch.look(3, &seen);
        let of_redis =
            || warnings.try_iter().filter(|warning| warning.starts_with("Redis")).collect::<Vec<_>>();
        let expected = "Redis has only 70 of 768 MB of memory left (5 s into the run): at its limit Redis refuses every write, and \
            queries stop; raise its `maxmemory` or use fewer sessions";
        assert_eq!(of_redis(), [expected]);
    }

    #[test]
    fn this_process_is_read_before_and_after_a_run() {
        let seen = Mutex::new(Observations::default());
        sample_outside(&[], Phase::Idle, &seen);
        sample_outside(&[], Phase::After, &seen);
        let observations = seen.lock();
        let (name, phases) = observations.memory.iter().next().unwrap();
        let phases: Vec<_> = phases.map(|(phase, memory)| (phase, memory.max_mb > 1.0)).collect();
        assert_eq!((name, phases), ("client", vec![(Phase::Idle, true), (Phase::After, true)]));
    }
}
