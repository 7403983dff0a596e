//! Lanes without a broker: finds the lane of a message and lets the lane decide about it. Benchmarks and tests use this
//! to measure that step alone. Gateways get their lanes from [`Broker::attach`](crate::Broker::attach).

use crate::{
    Counters, Delivery, Outlet,
    hub::Hub,
    open_lane::{OpenLane, PageEnd},
};
use protocol::{GapPolicy, Position, Prefix, SessionId};
use std::sync::Arc;

/// Open lanes that are live from the beginning of their sessions.
#[derive(Default)]
pub struct Lanes {
    hub: Arc<Hub>,
    counters: Arc<Counters>,
}

impl Lanes {
    /// Opens the session's lane to `outlet`, as if the session's log had just been read and was empty.
    pub fn open(&self, session: SessionId, outlet: Arc<dyn Outlet>) {
        let lane = OpenLane::new(outlet, Delivery::Log, self.counters.clone());
        self.hub.begin_attach(session, lane.clone()).attached(1);
        lane.begin(Position::ZERO);
        let (_, read_start) = lane.begin_read();
        lane.end_read(read_start, PageEnd::EndOfLog, GapPolicy::Announce);
    }

    /// Delivers a message of a session's down channel, as the reader of a Redis connection does. Returns false if the
    /// channel, the session or the frame is unknown.
    pub fn message(&self, channel: &[u8], frame: &[u8]) -> bool {
        let lane = SessionId::from_down_channel(channel, "").and_then(|session| self.hub.get(session));
        let (Some(lane), Some(prefix)) = (lane, Prefix::parse(frame)) else { return false };
        lane.live(prefix, frame);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::LaneEnd;
    use protocol::{Names, encode_fence, encode_token};
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
    use uuid::Uuid;

    #[derive(Default)]
    struct Counting {
        events: AtomicU64,
        behind: AtomicU64,
    }

    impl Outlet for Counting {
        fn event(&self, _: Prefix, _: &[u8]) {
            self.events.fetch_add(1, Relaxed);
        }
        fn gap(&self, _: Position, _: Position) {}
        fn behind(&self) {
            self.behind.fetch_add(1, Relaxed);
        }
        fn end(&self, _: LaneEnd) {}
    }

    #[test]
    fn tokens_are_delivered_in_order_and_a_hole_makes_the_lane_read_the_log() {
        let (lanes, outlet) = (Lanes::default(), Arc::new(Counting::default()));
        let session = SessionId::new(Uuid::from_u128(7));
        lanes.open(session, outlet.clone());
        let channel = Names::default().down(session);
        let say = |seq: u64| {
            let mut frame = Vec::new();
            match seq {
                0 => encode_fence(&mut frame, 1, Some(Position::ZERO)),
                _ => encode_token(&mut frame, Position::new(1, seq), "x", "q", 0, 0),
            }
            assert!(lanes.message(channel.as_bytes(), &frame));
        };
        (0..=3).for_each(say);
        assert_eq!((outlet.events.load(Relaxed), outlet.behind.load(Relaxed)), (3, 0));
        say(5);
        assert_eq!((outlet.events.load(Relaxed), outlet.behind.load(Relaxed)), (3, 1));
        assert!(!lanes.message(b"session:x:down", b""));
    }
}
