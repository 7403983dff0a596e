//! How long threads waited for a CPU, as the kernel's scheduler counts it, and how much of that is the cost of waking up on this host.
//! It says nothing where the kernel keeps no such count.

use std::{iter::Sum, thread, time::Duration};

/// Wake-ups of one batch, and batches: the one in the middle counts.
const WAKE_UPS: u64 = 40;
const BATCHES: usize = 5;
/// How long each sleeps.
const NAP: Duration = Duration::from_micros(200);

/// What a thread has waited for a CPU, and how often it was given one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Waited {
    /// Ready to run, without a CPU.
    pub time: Duration,
    /// How often it was scheduled.
    pub turns: u64,
}

impl Waited {
    /// What was added since `before`.
    #[must_use]
    pub const fn since(self, before: Self) -> Self {
        Self { time: self.time.saturating_sub(before.time), turns: self.turns.saturating_sub(before.turns) }
    }

    /// The part beyond what so many wake-ups cost.
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

/// What the calling thread has waited for a CPU since it began.
#[must_use]
pub fn thread_wait() -> Option<Waited> {
    parse(&std::fs::read_to_string("/proc/thread-self/schedstat").ok()?)
}

/// Measures what a wake-up costs on this host while nothing is in its way: the kernel counts it as waiting for a CPU. Blocks for some
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

/// `<run ns> <wait ns> <slices>`.
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
