//! The time of a sampled token by hop: simulator, bus, gateway, network. The gateway adds its own two times to these tokens.

mod growth;
mod part;
mod trend;

pub use growth::{HopGrowth, HopMean};
pub use trend::HopTrend;

use crate::{Interval, Metric};

/// Error of two times of one clock, in microseconds: reading the clock, and converting the kernel's receive timestamp. A hop that seems
/// to end earlier than it began by at most this much took no time.
pub const CLOCK_ERROR_US: u64 = 50;

/// A part of a token's way from its due time to the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hop {
    /// From the due time until the simulator hands the token to the bus.
    Pace,
    /// From there until the gateway has read the token from the bus.
    Bus,
    /// From there until the gateway passes the token to the socket.
    Gateway,
    /// From there until the token arrives at the client.
    Network,
}

impl Hop {
    /// Number of hops.
    pub const COUNT: usize = Self::ALL.len();

    /// All hops, in the order in which a token passes them.
    pub const ALL: [Self; 4] = [Self::Pace, Self::Bus, Self::Gateway, Self::Network];

    /// Returns the metric of the hop.
    #[must_use]
    pub const fn metric(self) -> Metric {
        match self {
            Self::Pace => Metric::HopPace,
            Self::Bus => Metric::HopBus,
            Self::Gateway => Metric::HopGateway,
            Self::Network => Metric::HopNetwork,
        }
    }

    /// Returns where the token is meanwhile, as outputs name it.
    #[must_use]
    pub const fn place(self) -> &'static str {
        match self {
            Self::Pace => "simulator",
            Self::Bus => "bus",
            Self::Gateway => "gateway",
            Self::Network => "network",
        }
    }

    /// Returns the limits of the hop, as outputs describe it.
    #[must_use]
    pub const fn limits(self) -> &'static str {
        match self {
            Self::Pace => "due → handed to the bus",
            Self::Bus => "handed to the bus → read by the gateway",
            Self::Gateway => "read by the gateway → passed to the socket",
            Self::Network => "passed to the socket → received by the client",
        }
    }
}

/// The times of a sampled token, in microseconds. Simulator, gateway and client each use the clock of their host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenTimes {
    /// When it was due, by the simulator's clock.
    pub due: u64,
    /// When the simulator handed it to the bus, by the simulator's clock.
    pub sent: u64,
    /// When the gateway had read it from the bus, by the gateway's clock.
    pub received: u64,
    /// When the gateway passed it to the socket, by the gateway's clock.
    pub written: u64,
    /// When it arrived, by the client's clock.
    pub arrived: u64,
}

/// Which hosts use one clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SharedClocks {
    /// Simulator and gateway.
    pub bus: bool,
    /// Gateway and client.
    pub network: bool,
}

/// The time of a token by hop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HopSplit {
    /// Microseconds by [`Hop`]. `None` if the hop lies between two clocks.
    pub us: [Option<u64>; Hop::COUNT],
    /// Whether a time was moved because a hop seemed to end before it began, by no more than [`CLOCK_ERROR_US`].
    pub clamped: bool,
}

/// A hop ended before it began by more than the error of the clock, so that the times contradict each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImpossibleTimes;

impl TokenTimes {
    /// Splits the token's time by hop. With one clock for all hosts, bus, gateway and network add up to the delivery time.
    ///
    /// # Errors
    /// The times contradict each other.
    pub fn split(&self, shared: SharedClocks) -> Result<HopSplit, ImpossibleTimes> {
        let Self { due, sent, received, written, arrived } = *self;
        let mut clamped = false;
        let mut span = |from: u64, to: u64| {
            clamped |= to < from;
            if to.saturating_add(CLOCK_ERROR_US) < from {
                Err(ImpossibleTimes)
            } else {
                Ok(to.saturating_sub(from))
            }
        };
        let pace = span(due, sent)?;
        let mut hops = [0; 3];
        let times = [sent, received, written, arrived];
        let known = [shared.bus, true, shared.network];
        // A time between two others of its clock is moved between them, so that the hops still add up.
        let first = usize::from(!shared.bus);
        let last = if shared.network { 3 } else { 2 };
        span(times[first], times[last])?;
        let mut at = times[first];
        for (hop, pair) in times.windows(2).enumerate().take(last).skip(first) {
            span(pair[0], pair[1])?;
            let next = pair[1].min(times[last]).max(at);
            hops[hop] = next - at;
            at = next;
        }
        let [bus, gateway, network] = std::array::from_fn(|hop| known[hop].then_some(hops[hop]));
        Ok(HopSplit { us: [Some(pace), bus, gateway, network], clamped })
    }
}

/// What a stretch of a run shows about the hops.
#[derive(Clone, Debug, PartialEq)]
pub struct HopFigures {
    /// Number of sampled tokens of complete queries.
    pub samples: u64,
    /// Samples in which a time was moved by no more than the error of the clock.
    pub clamped: u64,
    /// Sampled tokens whose times contradict each other. They are in no distribution.
    pub impossible: u64,
    /// Number of samples by [`Hop`]: fewer than `samples` where a hop lies between two clocks.
    pub measured: [u64; Hop::COUNT],
}

impl HopFigures {
    /// Returns the figures of a stretch. `None` if no token carried the gateway's times.
    #[must_use]
    pub fn of(interval: &Interval) -> Option<Self> {
        let measured = Hop::ALL.map(|hop| interval.get(hop.metric()).count());
        let counts = interval.counts();
        let samples = measured[Hop::Gateway as usize];
        let figures =
            Self { samples, clamped: counts.hops_clamped, impossible: counts.hops_impossible, measured };
        (samples + figures.impossible > 0).then_some(figures)
    }

    /// Returns whether the times of all tokens agree with each other.
    #[must_use]
    pub const fn is_reliable(&self) -> bool {
        self.impossible == 0
    }

    /// Returns whether every sample has this hop.
    #[must_use]
    pub const fn is_complete(&self, hop: Hop) -> bool {
        self.measured[hop as usize] == self.samples
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ONE: SharedClocks = SharedClocks { bus: true, network: true };

    fn times(due: u64, steps: [u64; 4]) -> TokenTimes {
        let [sent, received, written, arrived] =
            [1, 2, 3, 4].map(|count| due + steps[..count].iter().sum::<u64>());
        TokenTimes { due, sent, received, written, arrived }
    }

    proptest! {
        /// Times in order give exactly the hops between them, and bus, gateway and network add up to the delivery time.
        #[test]
        fn hops_add_up_to_the_delivery_time(due in 0u64..1 << 50, steps in prop::array::uniform4(0u64..10_000_000)) {
            let times = times(due, steps);
            let split = times.split(ONE).unwrap();
            prop_assert_eq!(split, HopSplit { us: steps.map(Some), clamped: false });
            prop_assert_eq!(split.us[1..].iter().flatten().sum::<u64>(), times.arrived - times.sent);
        }

        /// Errors of a clock within the limit are clamped, and the hops still add up. Larger ones give no hops.
        #[test]
        fn small_errors_are_clamped_and_large_ones_refused(
            due in 1_000_000u64..1 << 50, steps in prop::array::uniform4(0u64..200),
            errors in prop::array::uniform5(-60i64..60),
        ) {
            let exact = times(due, steps);
            let moved = |time: u64, nth: usize| time.checked_add_signed(errors[nth]).unwrap();
            let times = TokenTimes {
                due: moved(exact.due, 0),
                sent: moved(exact.sent, 1),
                received: moved(exact.received, 2),
                written: moved(exact.written, 3),
                arrived: moved(exact.arrived, 4),
            };
            let chain = [times.due, times.sent, times.received, times.written, times.arrived];
            let back = |pair: &[u64]| pair[0].saturating_sub(pair[1]);
            let ends = times.sent.saturating_sub(times.arrived);
            let worst = chain.windows(2).map(back).max().unwrap().max(ends);
            match times.split(ONE) {
                Ok(split) => {
                    prop_assert!(worst <= CLOCK_ERROR_US);
                    prop_assert_eq!(split.clamped, worst > 0);
                    let sum: u64 = split.us[1..].iter().flatten().sum();
                    prop_assert_eq!(sum, times.arrived.saturating_sub(times.sent));
                }
                Err(ImpossibleTimes) => prop_assert!(worst > CLOCK_ERROR_US),
            }
        }

        /// Two clocks that have nothing to do with each other leave out only the hop between them.
        #[test]
        fn a_hop_between_two_clocks_is_left_out(
            steps in prop::array::uniform4(0u64..10_000), offsets in prop::array::uniform2(0u64..1 << 40), bus: bool, network: bool,
        ) {
            let exact = times(7, steps);
            let gateway = if bus { 0 } else { offsets[0] };
            let client = if network { gateway } else { offsets[1] };
            let times = TokenTimes {
                received: exact.received + gateway,
                written: exact.written + gateway,
                arrived: exact.arrived + client,
                ..exact
            };
            let [pace, by_bus, by_gateway, by_network] = steps;
            let expected = [Some(pace), bus.then_some(by_bus), Some(by_gateway), network.then_some(by_network)];
            prop_assert_eq!(times.split(SharedClocks { bus, network }), Ok(HopSplit { us: expected, clamped: false }));
        }

        #[test]
        fn nothing_panics_on_noise(noise: [u64; 5], bus: bool, network: bool) {
            let [due, sent, received, written, arrived] = noise;
            let _ = TokenTimes { due, sent, received, written, arrived }.split(SharedClocks { bus, network });
        }
    }

    #[test]
    fn figures_tell_which_hops_lie_between_two_clocks() {
        let mut interval = Interval::default();
        assert_eq!(HopFigures::of(&interval), None);
        for metric in [Metric::HopPace, Metric::HopGateway, Metric::HopNetwork] {
            interval.record(metric, 1_000);
        }
        let figures = HopFigures::of(&interval).unwrap();
        assert_eq!(figures.samples, 1);
        assert_eq!(Hop::ALL.map(|hop| figures.is_complete(hop)), [true, false, true, true]);
    }
}
