//! Measures how much of the time that threads wait for a CPU is the cost of their wake-ups on this host.

use host::Waited;
use std::{thread, time::Duration};

/// Number of wake-ups in a batch.
const WAKE_UPS: u64 = 8;
/// Number of batches, of which the median counts.
const BATCHES: usize = 5;
/// The sleep before each wake-up.
const NAP: Duration = Duration::from_micros(100);

/// Measures the cost of a wake-up on this host without load. The kernel counts this cost as waiting for a CPU. Blocks for about
/// 7 ms. Returns `None` where the kernel has no such counters.
#[must_use]
pub fn wake_up_cost() -> Option<Duration> {
    let batch = || {
        let before = Waited::of_this_thread()?;
        (0..WAKE_UPS).for_each(|_| thread::sleep(NAP));
        let Waited { time, turns } = Waited::of_this_thread()?.since(before);
        u32::try_from(turns).ok().filter(|&turns| turns > 0).map(|turns| time / turns)
    };
    let mut costs: Vec<_> = (0..BATCHES).filter_map(|_| batch()).collect();
    costs.sort_unstable();
    costs.get(costs.len() / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wake_up_is_cheap() {
        let cost = wake_up_cost();
        assert!(cost.is_none_or(|cost| cost < Duration::from_millis(5)), "{cost:?}");
    }
}
