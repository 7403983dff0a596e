//! Reads how long threads waited for a CPU from the kernel's scheduler, and measures how much of that each wake-up costs on
//! this host. Returns nothing where the kernel has no such counters.

use std::{iter::Sum, thread, time::Duration};

/// Number of wake-ups in a batch.
const WAKE_UPS: u64 = 40;
/// Number of batches, of which the median counts.
const BATCHES: usize = 5;
/// The sleep before each wake-up.
const NAP: Duration = Duration::from_micros(200);

/// How long threads waited for a CPU, and how often they got one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Waited {
    /// Time in which the threads were ready to run and had no CPU.
    pub time: Duration,
    /// Number of times that the threads were scheduled.
    pub turns: u64,
}

impl Waited {
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

/// Returns how long the calling thread has waited for a CPU since its start.
#[must_use]
pub fn thread_wait() -> Option<Waited> {
    parse(&std::fs::read_to_string("/proc/thread-self/schedstat").ok()?)
}

/// Measures the cost of a wake-up on this host without load. The kernel counts this cost as waiting for a CPU. Blocks for about
/// 50 ms.
#[must_use]
pub fn wake_up_cost() -> Option<Duration> {
    let batch = || {
        let before = thread_wait()?;
        (0..WAKE_UPS).for_each(|_| thread::sleep(NAP));
        let Waited { time, turns } = thread_wait()?.since(before);
        u32::try_from(turns).ok().filter(|&turns| turns > 0).map(|turns| time / turns)
    };
    let mut costs: Vec<_> = (0..BATCHES).filter_map(|_| batch()).collect();
    costs.sort_unstable();
    costs.get(costs.len() / 2).copied()
}

/// Reads `<run ns> <wait ns> <slices>`.
fn parse(schedstat: &str) -> Option<Waited> {
    let mut numbers = schedstat.split_ascii_whitespace().skip(1).map(str::parse);
    let (time, turns) = (numbers.next()?.ok()?, numbers.next()?.ok()?);
    Some(Waited { time: Duration::from_nanos(time), turns })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_wait_and_the_turns() {
        let waited = Waited { time: Duration::from_nanos(4500), turns: 6 };
        assert_eq!(parse("123 4500 6\n"), Some(waited));
        assert_eq!((parse(""), parse("1 x 2"), parse("1 2")), (None, None, None));
        assert_eq!(waited.beyond(Duration::from_nanos(700)), Duration::from_nanos(300));
        assert_eq!(waited.beyond(Duration::from_nanos(800)), Duration::ZERO);
    }

    #[test]
    fn a_wake_up_is_cheap() {
        let cost = wake_up_cost();
        assert!(cost.is_none_or(|cost| cost < Duration::from_millis(5)), "{cost:?}");
    }
}
