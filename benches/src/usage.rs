//! CPU time and memory of processes and of the machine, from `/proc`: snapshots, and the resources used between two of them.
//! A process that has ended is an error, because a measurement without it would be wrong.

use anyhow::Context;
use std::{collections::BTreeMap, fs, time::Instant};

/// Ticks per second in `stat`. Linux reports 100 to programs on every machine.
const TICKS: f64 = 100.0;

/// A process to observe, and the group in which it counts.
#[derive(Clone, Debug)]
pub(crate) struct Watched {
    /// Group name. The figures of all processes of a group are summed, for example those of all gateways.
    pub(crate) group: String,
    pub(crate) pid: u32,
    /// Whether its children count as well.
    pub(crate) with_children: bool,
}

/// The figures of all groups and of the machine at one instant.
#[derive(Clone, Debug)]
pub(crate) struct Snapshot {
    at: Instant,
    machine: Machine,
    groups: BTreeMap<String, Group>,
}

#[derive(Clone, Debug, Default)]
struct Group {
    cpu_s: f64,
    rss_kib: f64,
    peak_rss_kib: f64,
    /// CPU seconds by thread.
    threads: BTreeMap<u32, f64>,
}

/// The machine's CPU seconds, over all cores.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Machine {
    busy_s: f64,
    steal_s: f64,
    total_s: f64,
}

/// CPU time that a group used between two snapshots.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Usage {
    /// CPU seconds.
    pub(crate) cpu_s: f64,
    /// Share of a core that the busiest thread used.
    pub(crate) busiest_thread: f64,
}

/// Resources used between two snapshots.
#[derive(Clone, Debug)]
pub(crate) struct Used {
    pub(crate) groups: BTreeMap<String, Usage>,
    /// Share of all cores that was not idle, with stolen time.
    pub(crate) machine: f64,
    /// Share of all cores that other virtual machines took.
    pub(crate) steal: f64,
}

impl Snapshot {
    /// Reads the figures of these processes.
    ///
    /// # Errors
    /// A process has ended, or `/proc` has no such figure.
    pub(crate) fn take(watched: &[Watched]) -> anyhow::Result<Self> {
        let mut groups = BTreeMap::<String, Group>::new();
        for Watched { group, pid, with_children } in watched {
            let group_so_far = groups.entry(group.clone()).or_default();
            group_so_far
                .add(*pid)
                .with_context(|| format!("cannot read the figures of {group} (process {pid})"))?;
            for child in if *with_children { host::children(*pid) } else { Vec::new() } {
                group_so_far.add(child)?;
            }
        }
        let machine =
            machine(&fs::read_to_string("/proc/stat")?).context("/proc/stat has no complete line `cpu`")?;
        Ok(Self { at: Instant::now(), machine, groups })
    }

    /// Returns the resident memory of a group in KiB, 0 for an unknown group.
    pub(crate) fn rss_kib(&self, group: &str) -> f64 {
        self.groups.get(group).map_or(0.0, |group| group.rss_kib)
    }

    /// Returns the peak resident memory of a group in KiB, summed over its processes.
    pub(crate) fn peak_rss_kib(&self, group: &str) -> f64 {
        self.groups.get(group).map_or(0.0, |group| group.peak_rss_kib)
    }

    /// Returns the seconds since `before`.
    pub(crate) fn seconds_since(&self, before: &Self) -> f64 {
        self.at.duration_since(before.at).as_secs_f64().max(1e-3)
    }

    /// Returns the resources used since `before`.
    pub(crate) fn since(&self, before: &Self) -> Used {
        let seconds = self.seconds_since(before);
        let groups = self.groups.iter().map(|(name, now)| {
            let none = Group::default();
            let then = before.groups.get(name).unwrap_or(&none);
            let thread = |(id, cpu): (&u32, &f64)| cpu - then.threads.get(id).unwrap_or(&0.0);
            let busiest = now.threads.iter().map(thread).fold(0.0, f64::max);
            (name.clone(), Usage { cpu_s: now.cpu_s - then.cpu_s, busiest_thread: busiest / seconds })
        });
        let total = (self.machine.total_s - before.machine.total_s).max(1e-3);
        Used {
            groups: groups.collect(),
            machine: (self.machine.busy_s - before.machine.busy_s) / total,
            steal: (self.machine.steal_s - before.machine.steal_s) / total,
        }
    }
}

impl Group {
    fn add(&mut self, pid: u32) -> anyhow::Result<()> {
        let usage = host::Usage::of(pid)?;
        self.cpu_s += usage.cpu.as_secs_f64();
        self.rss_kib += usage.rss_kib as f64;
        self.peak_rss_kib += usage.peak_rss_kib as f64;
        for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
            let thread = thread?.file_name().to_string_lossy().parse()?;
            // A thread may have ended meanwhile. It was not the busiest one.
            let cpu = host::thread_cpu(pid, thread).unwrap_or_default();
            self.threads.insert(thread, cpu.as_secs_f64());
        }
        Ok(())
    }
}

/// Parses the line `cpu user nice system idle iowait irq softirq steal …`.
fn machine(stat: &str) -> Option<Machine> {
    let fields = stat.lines().next()?.strip_prefix("cpu ")?.split_ascii_whitespace();
    let ticks: Vec<f64> = fields.take(8).map_while(|field| field.parse().ok()).collect();
    let &[_, _, _, idle, iowait, _, _, steal] = ticks.as_slice() else { return None };
    let total: f64 = ticks.iter().sum();
    Some(Machine { busy_s: (total - idle - iowait) / TICKS, steal_s: steal / TICKS, total_s: total / TICKS })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_read_from_the_kernels_text() {
        let whole = Machine { busy_s: 8.0, steal_s: 1.0, total_s: 20.0 };
        assert_eq!(machine("cpu  100 100 300 1000 200 100 100 100 5 5\ncpu0 1"), Some(whole));
        for text in ["", "7 (a) S 1", "cpu 1 2 3"] {
            assert_eq!(machine(text), None, "{text}");
        }
    }

    fn snapshot(seconds: u64, cpu_s: f64, threads: &[(u32, f64)], machine: Machine) -> Snapshot {
        let group = Group { cpu_s, threads: threads.iter().copied().collect(), ..Group::default() };
        let start = Instant::now();
        Snapshot {
            at: start + std::time::Duration::from_secs(seconds),
            machine,
            groups: [("gateway".to_owned(), group)].into(),
        }
    }

    #[test]
    fn shares_are_of_one_core_and_of_the_machine() {
        let before = snapshot(0, 1.0, &[(1, 0.5)], Machine { busy_s: 10.0, steal_s: 1.0, total_s: 20.0 });
        let after =
            snapshot(10, 7.0, &[(1, 1.5), (2, 5.0)], Machine { busy_s: 20.0, steal_s: 3.0, total_s: 40.0 });
        let used = after.since(&before);
        let usage = &used.groups["gateway"];
        assert!((usage.cpu_s - 6.0).abs() < 1e-9 && (usage.busiest_thread - 0.5).abs() < 1e-3);
        assert_eq!((used.machine, used.steal), (0.5, 0.1));
    }

    #[test]
    fn a_process_that_has_ended_is_an_error() {
        let me = Watched { group: "me".into(), pid: std::process::id(), with_children: true };
        assert!(Snapshot::take(std::slice::from_ref(&me)).unwrap().rss_kib("me") > 100.0);
        let error = Snapshot::take(&[Watched { pid: u32::MAX, ..me }]).unwrap_err();
        assert!(error.to_string().contains("4294967295"), "{error}");
    }
}
