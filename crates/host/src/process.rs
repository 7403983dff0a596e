//! Reads from `/proc` what the kernel counts for processes and threads.

use std::{fs, io, iter::Sum, time::Duration};

/// Microseconds per tick in `/proc/PID/stat`. The kernel converts its own unit to this fixed one.
const TICK_US: u64 = 10_000;

/// Keeps transparent huge pages away from this process and the children that inherit it. The allocator asks for them, and each thread's
/// first small allocation then takes 2 MiB. A kernel that refuses leaves them.
pub fn use_small_pages() {
    let _ = nix::sys::prctl::set_thp_disable(true);
}

/// CPU time, memory and threads of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// User and system time since the process started.
    pub cpu: Duration,
    /// Resident memory in KiB.
    pub rss_kib: u64,
    /// Highest resident memory so far, in KiB.
    pub peak_rss_kib: u64,
    /// Number of threads.
    pub threads: u64,
}

impl Usage {
    /// Reads the usage of a process.
    ///
    /// # Errors
    /// The process has ended.
    pub fn of(pid: u32) -> io::Result<Self> {
        let read = |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}"));
        let (stat, status) = (read("stat")?, read("status")?);
        Self::parse(&stat, &status).ok_or_else(|| io::Error::other("stat or status lacks a field"))
    }

    fn parse(stat: &str, status: &str) -> Option<Self> {
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_ascii_whitespace().next()?.parse().ok()
        };
        Some(Self {
            cpu: cpu_time(stat)?,
            rss_kib: field("VmRSS:")?,
            peak_rss_kib: field("VmHWM:")?,
            threads: field("Threads:")?,
        })
    }
}

/// Returns the CPU time of a thread of a process, or `None` if it has ended.
#[must_use]
pub fn thread_cpu(pid: u32, thread: u32) -> Option<Duration> {
    cpu_time(&fs::read_to_string(format!("/proc/{pid}/task/{thread}/stat")).ok()?)
}

/// Returns when a process started, in ticks since the machine started, or `None` if it has ended. A later process with the same id
/// has another start.
#[must_use]
pub fn started(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(19)?.parse().ok()
}

/// Reads user and system time. The process name may contain any character, so that parsing starts after the last bracket.
fn cpu_time(stat: &str) -> Option<Duration> {
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
    let mut next = || fields.next()?.parse::<u64>().ok();
    Some(Duration::from_micros((next()? + next()?) * TICK_US))
}

/// Returns the processes that a process has started with its main thread.
#[must_use]
pub fn children(pid: u32) -> Vec<u32> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_ascii_whitespace().filter_map(|child| child.parse().ok()).collect()
}

/// How long threads waited for a CPU, and how often they got one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Waited {
    /// Time in which the threads were ready to run and had no CPU.
    pub time: Duration,
    /// Number of times that the threads were scheduled.
    pub turns: u64,
}

impl Waited {
    /// Returns how long the calling thread has waited since its start, or `None` if the kernel does not count it.
    #[must_use]
    pub fn of_this_thread() -> Option<Self> {
        Self::parse(&fs::read_to_string("/proc/thread-self/schedstat").ok()?)
    }

    /// Reads `<run ns> <wait ns> <slices>`.
    fn parse(schedstat: &str) -> Option<Self> {
        let mut numbers = schedstat.split_ascii_whitespace().skip(1).map(str::parse);
        let (time, turns) = (numbers.next()?.ok()?, numbers.next()?.ok()?);
        Some(Self { time: Duration::from_nanos(time), turns })
    }

    /// Returns the increase since `before`.
    #[must_use]
    pub const fn since(self, before: Self) -> Self {
        Self { time: self.time.saturating_sub(before.time), turns: self.turns.saturating_sub(before.turns) }
    }

    /// Returns the waiting time beyond the cost of the wake-ups, each of which costs `wake_up`.
    #[must_use]
    pub fn beyond(self, wake_up: Duration) -> Duration {
        self.time.saturating_sub(wake_up.mul_f64(self.turns as f64))
    }
}

impl Sum for Waited {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), |sum, one| Self { time: sum.time + one.time, turns: sum.turns + one.turns })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_the_kernel_are_parsed() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 1 0 0 0 150 50 0 0 20 0 3 0 100 1 1";
        let status = "Name:\tx\nVmHWM:\t  4096 kB\nVmRSS:\t  2048 kB\nThreads:\t3\n";
        let cpu = Duration::from_secs(2);
        let usage = Usage { cpu, rss_kib: 2048, peak_rss_kib: 4096, threads: 3 };
        assert_eq!(Usage::parse(stat, status), Some(usage));
        for text in ["", "7 (a", "7 (a) S 1", "VmHWM: 1 kB\nVmRSS: x kB\nThreads: 1"] {
            assert_eq!((cpu_time(text), Usage::parse(stat, text)), (None, None), "{text}");
        }
    }

    #[test]
    fn this_process_has_a_usage_and_a_missing_one_is_an_error() {
        assert!(Usage::of(std::process::id()).unwrap().rss_kib > 100);
        assert!(Usage::of(u32::MAX).is_err());
    }

    #[test]
    fn the_start_tells_a_process_from_a_later_one_with_its_id() {
        let child = std::process::Command::new("true").spawn().unwrap();
        let (own, later) = (started(std::process::id()).unwrap(), started(child.id()).unwrap());
        assert!(later >= own, "{later} {own}");
        child.wait_with_output().unwrap();
        assert_eq!(started(u32::MAX), None);
    }

    #[test]
    fn reads_the_wait_and_the_turns() {
        let waited = Waited { time: Duration::from_nanos(4500), turns: 6 };
        assert_eq!(Waited::parse("123 4500 6\n"), Some(waited));
        assert_eq!((Waited::parse(""), Waited::parse("1 x 2"), Waited::parse("1 2")), (None, None, None));
        assert_eq!(waited.beyond(Duration::from_nanos(700)), Duration::from_nanos(300));
        assert_eq!(waited.beyond(Duration::from_nanos(800)), Duration::ZERO);
    }
}
