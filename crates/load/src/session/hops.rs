//! The time of sampled tokens by hop. A hop between two hosts is measured only if both use one clock.

use crate::context::HostClock;
use host::ClockAnchor;
use measure::{QuerySamples, SharedClocks, TokenTimes};
use protocol::Event;
use std::time::Instant;

/// Upper limit of the tokens whose times are kept until the server's clock is known. Further ones are not sampled.
const MOST_UNDATED: usize = 64;

/// The hops of a session's tokens: which clocks their times come from.
#[derive(Debug, Default)]
pub(super) struct Hops {
    /// The clock of the server that plays the present query. `None` until it responded to the `/run`, and if it names none.
    server: Option<HostClock>,
    /// The clock of the present socket's gateway. `None` if it names none.
    gateway: Option<HostClock>,
    /// Tokens that arrived before the server's clock was known.
    undated: Vec<(u32, Sampled)>,
}

/// A token with the gateway's times.
#[derive(Clone, Copy, Debug)]
struct Sampled {
    times: TokenTimes,
    /// When the socket was opened that it arrived on, by the client's clock.
    opened_us: u64,
}

impl Hops {
    /// Begins a query. The clock of the server that will play it is not known yet.
    pub(super) fn query_began(&mut self) {
        self.server = None;
        self.undated.clear();
    }

    /// Notes the clock of the gateway behind a new socket.
    pub(super) fn socket_opened(&mut self, gateway: Option<HostClock>) {
        self.gateway = gateway;
    }

    /// Notes the clock of the server. Adds the tokens that waited for this to `samples`, if a query runs.
    pub(super) fn server_known(&mut self, server: Option<HostClock>, mut samples: Option<&mut QuerySamples>) {
        self.server = server;
        for (number, token) in std::mem::take(&mut self.undated) {
            if let (Some(server), Some(samples)) = (&self.server, &mut samples) {
                samples.of_earlier(number);
                self.sample(token, server, samples);
            }
        }
    }

    /// Samples a token with the gateway's times that arrived at `arrived` on a socket that was opened at `opened`. A token that was sent
    /// before waited for the socket and is left out.
    pub(super) fn token(
        &mut self,
        event: &Event<'_>,
        arrived: Instant,
        opened: Instant,
        clock: &ClockAnchor,
        samples: &mut QuerySamples,
    ) {
        let (Some(stamps), Some(due), Some(sent)) = (event.stamps, event.due_us, event.sent_us) else {
            return;
        };
        let times = TokenTimes {
            due,
            sent,
            received: stamps.received_us,
            written: stamps.written_us,
            arrived: clock.us(arrived),
        };
        let token = Sampled { times, opened_us: clock.us(opened) };
        match &self.server {
            Some(server) => self.sample(token, server, samples),
            None if self.undated.len() < MOST_UNDATED => {
                self.undated.push((samples.last_token(), token));
            }
            None => {}
        }
    }

    fn sample(&self, token: Sampled, server: &HostClock, samples: &mut QuerySamples) {
        if *server == HostClock::Own && token.times.sent < token.opened_us {
            return;
        }
        let shared = SharedClocks {
            bus: self.gateway.as_ref() == Some(server),
            network: self.gateway == Some(HostClock::Own),
        };
        samples.hops(token.times.split(shared));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use measure::{HopFigures, Interval, Metric};
    use protocol::{Frame, GatewayStamps, Position, StampedToken, encode_token};
    use std::time::Duration;

    /// Returns the measurements of one token that took 1, 2, 3 and 4 ms in its hops. `gateway_ahead` is added to the gateway's times.
    fn sampled(hops: &mut Hops, gateway_ahead: u64, opened_after: Duration) -> Interval {
        let (now, clock) = (Instant::now(), ClockAnchor::now());
        let due = clock.us(now);
        let (mut frame, at) = (Vec::new(), due + 3_000 + gateway_ahead);
        encode_token(&mut frame, Position::new(7, 1), "word", "q", due, due + 1_000);
        let stamps = GatewayStamps { received_us: at, written_us: at + 3_000 };
        let frame = StampedToken::new(&frame, stamps).unwrap().into_frame();
        let Ok(Frame::Event(event)) = Frame::parse(std::str::from_utf8(&frame).unwrap()) else { panic!() };
        let (mut samples, mut interval) = (QuerySamples::default(), Interval::default());
        hops.token(&event, now + Duration::from_millis(10), now + opened_after, &clock, &mut samples);
        samples.record(&mut interval);
        interval
    }

    fn means(interval: &Interval) -> [Option<f64>; 4] {
        [Metric::HopPace, Metric::HopBus, Metric::HopGateway, Metric::HopNetwork]
            .map(|metric| interval.get(metric).summary().map(|figures| figures.mean.round()))
    }

    fn other(name: &str) -> Option<HostClock> {
        Some(HostClock::Other(name.into()))
    }

    #[test]
    fn a_hop_between_two_hosts_needs_one_clock() {
        const DAY_US: u64 = 86_400_000_000;
        let own = Some(HostClock::Own);
        for (server, gateway, ahead, expected) in [
            (own.clone(), own.clone(), 0, [Some(1.0), Some(2.0), Some(3.0), Some(4.0)]),
            (own.clone(), other("a"), DAY_US, [Some(1.0), None, Some(3.0), None]),
            (own.clone(), None, DAY_US, [Some(1.0), None, Some(3.0), None]),
            (other("a"), other("a"), 0, [Some(1.0), Some(2.0), Some(3.0), None]),
            (other("a"), own.clone(), 0, [Some(1.0), None, Some(3.0), Some(4.0)]),
            (None, own, 0, [None; 4]),
        ] {
            let mut hops = Hops { server, gateway, undated: Vec::new() };
            assert_eq!(means(&sampled(&mut hops, ahead, Duration::ZERO)), expected, "{hops:?}");
        }
    }

    fn one_host() -> Hops {
        Hops { server: Some(HostClock::Own), gateway: Some(HostClock::Own), undated: Vec::new() }
    }

    #[test]
    fn times_that_contradict_each_other_are_counted_and_not_sampled() {
        let interval = sampled(&mut one_host(), 60_000_000, Duration::ZERO);
        assert_eq!(means(&interval), [None; 4]);
        assert_eq!(HopFigures::of(&interval).unwrap().impossible, 1);
    }

    #[test]
    fn a_token_that_waited_for_its_socket_is_left_out() {
        assert_eq!(means(&sampled(&mut one_host(), 0, Duration::from_millis(5))), [None; 4]);
    }

    #[test]
    fn tokens_wait_until_the_clock_of_the_server_is_known() {
        for (server, expected) in
            [(Some(HostClock::Own), [Some(1.0), Some(2.0), Some(3.0), Some(4.0)]), (None, [None; 4])]
        {
            let mut hops = Hops::default();
            hops.socket_opened(Some(HostClock::Own));
            assert_eq!(means(&sampled(&mut hops, 0, Duration::ZERO)), [None; 4]);
            let (mut samples, mut interval) = (QuerySamples::default(), Interval::default());
            hops.server_known(server, Some(&mut samples));
            samples.record(&mut interval);
            assert_eq!(means(&interval), expected);
        }
        let mut hops = Hops::default();
        (0..2 * MOST_UNDATED).for_each(|_| drop(sampled(&mut hops, 0, Duration::ZERO)));
        assert_eq!(hops.undated.len(), MOST_UNDATED);
    }
}
