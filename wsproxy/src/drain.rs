//! The schedule of a drain: a pause for load balancers, then close frames spread over a window. It is pure arithmetic.
//!
//! The close frames themselves are spread, and not only the delays that they name. Until its close frame a stream continues, so it is
//! interrupted for one reconnect and not for the window. Clients that ignore the delay arrive spread too. The delay only spreads the
//! clients of one slice.

use std::time::Duration;

/// Time between two groups of close frames.
pub(crate) const SLICE: Duration = Duration::from_millis(50);

/// The delays that close frames name are below this, in milliseconds: one slice.
const JITTER_MS: u64 = SLICE.as_millis() as u64;

/// The schedule of a drain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DrainSchedule {
    /// Pause in which the gateway is not ready and all sockets stay open. A load balancer that has not noticed would send closed clients
    /// back to this gateway, which would refuse them with 503.
    pub(crate) delay: Duration,
    /// Time over which the close frames are then sent.
    window: Duration,
}

impl DrainSchedule {
    /// Creates the schedule, and shortens `delay` and `window` so that a quarter of the drain is left for the last close handshakes.
    pub(crate) fn new(delay: Duration, window: Duration, drain: Duration) -> Self {
        Self { delay: delay.min(drain / 4), window: window.min(drain / 2) }
    }

    /// Returns how many of `sockets` are closed in each slice.
    pub(crate) fn slices(self, sockets: usize) -> impl Iterator<Item = usize> {
        let count = (self.window.as_millis() / SLICE.as_millis()).max(1);
        let sockets = sockets as u128;
        let closed = move |slices: u128| usize::try_from(sockets * slices / count).unwrap_or(usize::MAX);
        (0..count).map(move |slice| closed(slice + 1) - closed(slice))
    }
}

/// Returns the delay of the `nth` client, in milliseconds. Steps of the golden ratio spread any run of neighbours evenly.
pub(crate) const fn reconnect_after_ms(nth: u64) -> u64 {
    (nth * 618 % 1000) * JITTER_MS / 1000
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_short_drain_shortens_delay_and_window() {
        let seconds = Duration::from_secs;
        for (delay, window, drain, expected) in [
            (seconds(1), seconds(5), seconds(30), (seconds(1), seconds(5))),
            (seconds(9), seconds(50), seconds(20), (seconds(5), seconds(10))),
            (seconds(1), seconds(1), seconds(0), (seconds(0), seconds(0))),
        ] {
            let found = DrainSchedule::new(delay, window, drain);
            assert_eq!((found.delay, found.window), expected);
        }
    }

    #[test]
    fn delays_of_neighbours_differ_and_are_spread() {
        let mut delays: Vec<_> = (0..100).map(reconnect_after_ms).collect();
        assert!(delays.windows(2).all(|pair| pair[0] != pair[1]));
        delays.sort_unstable();
        let even = (0..100).zip(&delays).all(|(nth, delay): (u64, &u64)| delay.abs_diff(nth / 2) <= 3);
        assert!(even && delays[99] < JITTER_MS, "{delays:?}");
    }

    proptest! {
        #[test]
        fn each_socket_is_closed_once_and_no_slice_has_more_than_its_share(
            sockets in 0usize..100_000,
            window_ms in 0u64..60_000,
        ) {
            let window = Duration::from_millis(window_ms);
            let slices: Vec<_> = DrainSchedule { delay: Duration::ZERO, window }.slices(sockets).collect();
            prop_assert_eq!(slices.iter().sum::<usize>(), sockets);
            prop_assert!(SLICE * (slices.len() as u32 - 1) <= window);
            prop_assert!(slices.iter().all(|closed| *closed <= sockets.div_ceil(slices.len())));
        }
    }
}
