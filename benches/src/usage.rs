//! CPU time and memory of processes and of the machine, from Linux' `/proc`, and what lies between two looks.
//! It judges nothing, and a process that has gone is an error: a measurement without it would be wrong.

use anyhow::Context;
use std::{
    collections::BTreeMap,
    fs,
    time::{Duration, Instant},
};

/// Ticks a second in `stat`: fixed for programs, whatever the kernel counts in.
const TICKS: f64 = 100.0;

/// A process to look at, and what it counts as.
#[derive(Clone, Debug)]
pub(crate) struct Watched {
    /// Several processes may count as one: all gateways, say.
    pub(crate) group: String,
    pub(crate) pid: u32,
    /// Its children do its work.
    pub(crate) with_children: bool,
}

/// One look at everything.
#[derive(Clone, Debug)]
pub(crate) struct Look {
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

/// What a group of processes took between two looks.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Usage {
    /// CPU seconds.
    pub(crate) cpu_s: f64,
    /// The busiest thread's share of a core.
    pub(crate) busiest_thread: f64,
}

/// What was taken between two looks.
#[derive(Clone, Debug)]
pub(crate) struct Between {
    pub(crate) groups: BTreeMap<String, Usage>,
    /// Share of all cores that was not idle, steal included.
    pub(crate) machine: f64,
    /// Share of all cores that somebody else's machine had.
    pub(crate) steal: f64,
}

impl Look {
    /// Looks at these processes now.
    pub(crate) fn at(watched: &[Watched]) -> anyhow::Result<Self> {
        let mut groups = BTreeMap::<String, Group>::new();
        for Watched { group, pid, with_children } in watched {
            let group_so_far = groups.entry(group.clone()).or_default();
            group_so_far.add(*pid).with_context(|| format!("{group} (process {pid}) cannot be looked at"))?;
            for child in if *with_children { children(*pid) } else { Vec::new() } {
                group_so_far.add(child)?;
            }
        }
        let machine = machine(&fs::read_to_string("/proc/stat")?).context("/proc/stat has no line `cpu`")?;
        Ok(Self { at: Instant::now(), machine, groups })
    }

    /// Resident memory of a group, in KiB.
    pub(crate) fn rss_kib(&self, group: &str) -> f64 {
        self.groups.get(group).map_or(0.0, |group| group.rss_kib)
    }

    /// The most resident memory that the processes of a group had so far, in KiB.
    pub(crate) fn peak_rss_kib(&self, group: &str) -> f64 {
        self.groups.get(group).map_or(0.0, |group| group.peak_rss_kib)
    }

    /// What was taken since `before`.
    pub(crate) fn since(&self, before: &Self) -> Between {
        let seconds = self.at.duration_since(before.at).as_secs_f64().max(1e-3);
        let groups = self.groups.iter().map(|(name, now)| {
            let none = Group::default();
            let then = before.groups.get(name).unwrap_or(&none);
            let thread = |(id, cpu): (&u32, &f64)| cpu - then.threads.get(id).unwrap_or(&0.0);
            let busiest = now.threads.iter().map(thread).fold(0.0, f64::max);
            (name.clone(), Usage { cpu_s: now.cpu_s - then.cpu_s, busiest_thread: busiest / seconds })
        });
        let total = (self.machine.total_s - before.machine.total_s).max(1e-3);
        Between {
            groups: groups.collect(),
            machine: (self.machine.busy_s - before.machine.busy_s) / total,
            steal: (self.machine.steal_s - before.machine.steal_s) / total,
        }
    }
}

impl Group {
    fn add(&mut self, pid: u32) -> anyhow::Result<()> {
        let read = |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}"));
        self.cpu_s += cpu_s(&read("stat")?).context("its stat has no times")?;
        let status = read("status")?;
        self.rss_kib += kib(&status, "VmRSS:").context("its status has no VmRSS")?;
        self.peak_rss_kib += kib(&status, "VmHWM:").context("its status has no VmHWM")?;
        for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
            let thread = thread?.file_name().to_string_lossy().parse()?;
            // A thread may have ended meanwhile: it was not the busiest.
            let cpu = read(&format!("task/{thread}/stat")).ok().and_then(|stat| cpu_s(&stat));
            self.threads.insert(thread, cpu.unwrap_or(0.0));
        }
        Ok(())
    }
}

/// How long the calling thread has waited for a CPU since it began; `None` where the kernel keeps no such count.
pub(crate) fn thread_wait() -> Option<Duration> {
    let text = fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    text.split_ascii_whitespace().nth(1)?.parse().ok().map(Duration::from_nanos)
}

/// The processes that this one has started.
pub(crate) fn children(pid: u32) -> Vec<u32> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_ascii_whitespace().filter_map(|child| child.parse().ok()).collect()
}

/// User and system time. The name in it may hold anything, so what follows its last bracket is read.
fn cpu_s(stat: &str) -> Option<f64> {
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
    let mut next = || fields.next()?.parse::<f64>().ok();
    Some((next()? + next()?) / TICKS)
}

fn kib(status: &str, name: &str) -> Option<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

/// `cpu user nice system idle iowait irq softirq steal …`.
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
    fn the_kernels_words() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 1 0 0 0 150 50 0 0 20 0 3 0 100 1 1";
        assert_eq!(cpu_s(stat), Some(2.0));
        assert_eq!(kib("Name:\tx\nVmRSS:\t  2048 kB\n", "VmRSS:"), Some(2048.0));
        let whole = Machine { busy_s: 8.0, steal_s: 1.0, total_s: 20.0 };
        assert_eq!(machine("cpu  100 100 300 1000 200 100 100 100 5 5\ncpu0 1"), Some(whole));
        for text in ["", "7 (a) S 1", "cpu 1 2 3", "VmRSS: x kB"] {
            assert_eq!((cpu_s(text), kib(text, "VmRSS:"), machine(text)), (None, None, None), "{text}");
        }
    }

    fn look(seconds: u64, cpu_s: f64, threads: &[(u32, f64)], machine: Machine) -> Look {
        let group = Group { cpu_s, threads: threads.iter().copied().collect(), ..Group::default() };
        let start = Instant::now();
        Look {
            at: start + Duration::from_secs(seconds),
            machine,
            groups: [("gateway".to_owned(), group)].into(),
        }
    }

    #[test]
    fn shares_are_of_one_core_and_of_the_machine() {
        let before = look(0, 1.0, &[(1, 0.5)], Machine { busy_s: 10.0, steal_s: 1.0, total_s: 20.0 });
        let after =
            look(10, 7.0, &[(1, 1.5), (2, 5.0)], Machine { busy_s: 20.0, steal_s: 3.0, total_s: 40.0 });
        let between = after.since(&before);
        let usage = &between.groups["gateway"];
        assert!((usage.cpu_s - 6.0).abs() < 1e-9 && (usage.busiest_thread - 0.5).abs() < 1e-3);
        assert_eq!((between.machine, between.steal), (0.5, 0.1));
    }

    #[test]
    fn this_process_is_one_and_a_gone_one_is_an_error() {
        let me = Watched { group: "me".into(), pid: std::process::id(), with_children: true };
        assert!(Look::at(std::slice::from_ref(&me)).unwrap().rss_kib("me") > 100.0);
        let error = Look::at(&[Watched { pid: u32::MAX, ..me }]).unwrap_err();
        assert!(error.to_string().contains("4294967295"), "{error}");
    }
}
