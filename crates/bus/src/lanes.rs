//! The hub's own work without a broker: which lane a message belongs to, and what the lane makes of it. It is here so that this
//! step can be measured and tested alone; gateways get their lanes from [`Broker::attach`](crate::Broker::attach).

use crate::{
    Counters, Delivery, Outlet,
    hub::{Hub, Page, Slot},
};
use protocol::{GapPolicy, Position, Prefix, SessionId};
use std::sync::Arc;

/// Open lanes, live from the beginning of their sessions.
#[derive(Default)]
pub struct Lanes {
    hub: Arc<Hub>,
    counters: Arc<Counters>,
}

impl Lanes {
    /// Opens the session's lane to `outlet`, as if its log had just been read and was empty.
    pub fn open(&self, session: SessionId, outlet: Arc<dyn Outlet>) {
        let slot = Slot::new(outlet, Delivery::Log, self.counters.clone());
        self.hub.announce(session, slot.clone()).stays(1);
        slot.begin(Position::ZERO);
        let (_, mark) = slot.begin_read();
        slot.end_read(mark, Page::Last, GapPolicy::Announce);
    }

    /// Hands on what was published on a session's down channel, as the reader of a Redis connection does. False where the
    /// channel, the session or the frame is none of ours.
    pub fn message(&self, channel: &[u8], frame: &[u8]) -> bool {
        let slot = SessionId::from_down_channel(channel, "").and_then(|session| self.hub.get(session));
        let (Some(slot), Some(prefix)) = (slot, Prefix::parse(frame)) else { return false };
        slot.live(prefix, frame);
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
    fn tokens_go_on_in_order_and_a_hole_sends_the_lane_back() {
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
