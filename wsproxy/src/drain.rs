//! The timetable of a drain: how long the balancer is given to notice, and when each socket is told to move.
//! Pure arithmetic; it knows neither sockets nor a clock.
//!
//! The close frames themselves are spread over the window, not the clients' delays alone: until its turn comes a stream
//! goes on where it is, so it is interrupted for one reconnect and not for the window, and clients that reconnect without
//! reading the reason arrive spread as well. What a client is told to wait on top only smooths the step between slices.

use std::time::Duration;

/// Sockets are told in groups this far apart.
pub(crate) const SLICE: Duration = Duration::from_millis(50);

/// A client is told to wait less than this, in milliseconds: a slice, which its clients fill evenly.
const JITTER_MS: u64 = SLICE.as_millis() as u64;

/// When a drain does what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Timetable {
    /// Unready, and all sockets live on: a balancer that still sent the clients back here would send them to a 503.
    pub(crate) delay: Duration,
    /// Then the sockets are told over this time.
    window: Duration,
}

impl Timetable {
    /// Cuts `delay` and `window` to what leaves a quarter of the whole drain for the last handshakes.
    pub(crate) fn new(delay: Duration, window: Duration, drain: Duration) -> Self {
        Self { delay: delay.min(drain / 4), window: window.min(drain / 2) }
    }

    /// How many of `sockets` are told in each slice.
    pub(crate) fn slices(self, sockets: usize) -> impl Iterator<Item = usize> {
        let count = (self.window.as_millis() / SLICE.as_millis()).max(1);
        let sockets = sockets as u128;
        let told = move |slices: u128| usize::try_from(sockets * slices / count).unwrap_or(usize::MAX);
        (0..count).map(move |slice| told(slice + 1) - told(slice))
    }
}

/// What the `nth` client is told to wait, in milliseconds: steps of the golden ratio, which spread any run of neighbours.
pub(crate) const fn reconnect_after_ms(nth: u64) -> u64 {
    (nth * 618 % 1000) * JITTER_MS / 1000
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_short_drain_cuts_its_parts() {
        let seconds = Duration::from_secs;
        for (delay, window, drain, expected) in [
            (seconds(1), seconds(5), seconds(30), (seconds(1), seconds(5))),
            (seconds(9), seconds(50), seconds(20), (seconds(5), seconds(10))),
            (seconds(1), seconds(1), seconds(0), (seconds(0), seconds(0))),
        ] {
            let found = Timetable::new(delay, window, drain);
            assert_eq!((found.delay, found.window), expected);
        }
    }

    #[test]
    fn neighbours_are_told_apart_and_spread() {
        let mut told: Vec<_> = (0..100).map(reconnect_after_ms).collect();
        assert!(told.windows(2).all(|pair| pair[0] != pair[1]));
        told.sort_unstable();
        let even = (0..100).zip(&told).all(|(nth, told): (u64, &u64)| told.abs_diff(nth / 2) <= 3);
        assert!(even && told[99] < JITTER_MS, "{told:?}");
    }

    proptest! {
        #[test]
        fn everybody_is_told_once_and_no_slice_has_more_than_its_share(
            sockets in 0usize..100_000,
            window_ms in 0u64..60_000,
        ) {
            let window = Duration::from_millis(window_ms);
            let slices: Vec<_> = Timetable { delay: Duration::ZERO, window }.slices(sockets).collect();
            prop_assert_eq!(slices.iter().sum::<usize>(), sockets);
            prop_assert!(SLICE * (slices.len() as u32 - 1) <= window);
            prop_assert!(slices.iter().all(|told| *told <= sockets.div_ceil(slices.len())));
        }
    }
}
