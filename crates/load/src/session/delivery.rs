//! The delivery time of tokens: from the server's sending to the arrival. It is known only if both use the same clock.

use host::ClockAnchor;
use measure::QuerySamples;
use std::time::Instant;

/// Upper limit of the times that are kept until the server's clock is known. Further ones are not sampled.
const MOST_UNDATED: usize = 256;

/// A token's times.
#[derive(Clone, Copy, Debug)]
struct Times {
    arrived: Instant,
    /// When the server sent it, in microseconds of wire time.
    sent_us: u64,
    /// When the socket was opened that it arrived on.
    opened: Instant,
}

/// Samples delivery times.
#[derive(Debug)]
pub(super) struct DeliveryTimes {
    /// Whether the server uses this machine's clock. `None` until it responded to a `/run`.
    shared_clock: Option<bool>,
    /// Tokens that arrived before that was known: their numbers and times.
    undated: Vec<(u32, Times)>,
    /// When the present socket was opened.
    opened: Instant,
}

impl DeliveryTimes {
    /// Creates the samples of a session. `shared_clock`: what other sessions know about the server's clock.
    pub(super) fn new(shared_clock: Option<bool>) -> Self {
        Self { shared_clock, undated: Vec::new(), opened: Instant::now() }
    }

    /// Notes that a socket was opened at `at`.
    pub(super) const fn socket_opened(&mut self, at: Instant) {
        self.opened = at;
    }

    /// Returns when the present socket was opened.
    pub(super) const fn opened(&self) -> Instant {
        self.opened
    }

    /// Returns whether the server is known to use this machine's clock.
    pub(super) const fn is_clock_shared(&self) -> bool {
        matches!(self.shared_clock, Some(true))
    }

    /// Notes whether the server uses this machine's clock. Adds the samples that waited for this to `samples`, if a query runs.
    pub(super) fn clock_known(
        &mut self,
        shared: bool,
        clock: &ClockAnchor,
        mut samples: Option<&mut QuerySamples>,
    ) {
        self.shared_clock = Some(shared);
        for (token, times) in std::mem::take(&mut self.undated) {
            if let (true, Some(samples)) = (shared, &mut samples) {
                samples.of_earlier(token);
                times.sample(clock, samples);
            }
        }
    }

    /// Samples a token that arrived at `arrived` and was sent at `sent_us` of wire time.
    pub(super) fn token(
        &mut self,
        arrived: Instant,
        sent_us: u64,
        clock: &ClockAnchor,
        samples: &mut QuerySamples,
    ) {
        let times = Times { arrived, sent_us, opened: self.opened };
        match self.shared_clock {
            Some(true) => times.sample(clock, samples),
            None if self.undated.len() < MOST_UNDATED => {
                self.undated.push((samples.last_token(), times));
            }
            Some(false) | None => {}
        }
    }
}

impl Times {
    /// A token that was sent before its socket was opened waited for that. It is sampled as a replay.
    fn sample(&self, clock: &ClockAnchor, samples: &mut QuerySamples) {
        let Some(sent) = clock.instant(self.sent_us) else { return };
        let ns = match self.arrived.checked_duration_since(sent) {
            Some(took) => measure::nanos(took),
            None => -measure::nanos(sent - self.arrived),
        };
        samples.delivery(ns, sent < self.opened);
    }
}
