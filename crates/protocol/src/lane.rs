//! A lane merges what comes live with what is read from the log into one ordered stream a session.
//! It holds positions only, never events: whatever it cannot place at once, the log still has.

use crate::{Kind, Position, Prefix};

/// What to do with an event that came live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// It is the next one: hand it on.
    Forward,
    /// It is the next one and means something to the gateway alone: take note, hand nothing on.
    Note,
    /// It was handed on before, or the log will bring it.
    Seen,
    /// Something before it is missing: read the log from [`Lane::last`].
    Behind,
    /// Events that were passed already are lost, as was found out later: say that everything after `from`, up to and
    /// with `to`, is gone.
    Gap {
        /// The last position before the gap.
        from: Position,
        /// The last position in it.
        to: Position,
    },
}

/// What to do with an event that the log holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Logged {
    /// Hand it on.
    Forward,
    /// Take note, hand nothing on.
    Note,
    /// It was handed on before.
    Seen,
    /// Say that everything after `from` up to and with `to` is gone; then do the same as for `then`.
    Gap {
        /// The last position before the gap.
        from: Position,
        /// The last position in it.
        to: Position,
        /// The event behind the gap is for the client.
        forward: bool,
    },
    /// Something before it is missing, and may still come into the log: stop here, read again later.
    Await,
}

/// What a lane does about events that the log lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gaps {
    /// The log has forgotten them for good: they are announced.
    Announce,
    /// The log itself may have been forgotten and is being restored: they are waited for.
    Await,
}

/// What follows once the end of the log was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogEnd {
    /// Live from here on.
    CaughtUp,
    /// More came live in the meantime: read again.
    Again,
    /// The log lacks what came live before it was read: everything after `from` up to and with `to` is gone.
    Missing {
        /// The last position before the gap.
        from: Position,
        /// The last position in it.
        to: Position,
    },
    /// The log lacks something that may still come into it: read again later.
    Await,
}

/// The ordered lane of one session. Starts behind: read the log before anything live is handed on.
#[derive(Clone, Debug)]
pub struct Lane {
    last: Position,
    /// The highest position that came live while behind.
    newest: Position,
    interruptions: u64,
    live: bool,
}

/// What was known when a read of the log began. Only a read that began after an event was published, and after the
/// last interruption, can prove that nothing is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    newest: Position,
    interruptions: u64,
}

impl Lane {
    /// A lane whose reader has everything up to and with `last`.
    #[must_use]
    pub const fn after(last: Position) -> Self {
        Self { last, newest: Position::ZERO, interruptions: 0, live: false }
    }

    /// The position up to which everything was handed on.
    #[must_use]
    pub const fn last(&self) -> Position {
        self.last
    }

    /// Taken before a read of the log begins at [`Lane::last`].
    #[must_use]
    pub const fn mark(&self) -> Mark {
        Mark { newest: self.newest, interruptions: self.interruptions }
    }

    /// Live events are handed on as they come.
    #[must_use]
    pub const fn is_live(&self) -> bool {
        self.live
    }

    /// The subscription was interrupted: what came meanwhile is in the log alone.
    pub const fn interrupted(&mut self) {
        self.live = false;
        self.interruptions += 1;
    }

    /// An event came live.
    pub fn live(&mut self, event: Prefix) -> Step {
        if event.position <= self.last {
            // A merge of logs dropped something behind this lane's back: the log's entry alone would never be read here.
            return match event.kind {
                Kind::Gap { from } => Step::Gap { from, to: event.position },
                // A first end was lost with the log, and its place was announced as a gap.
                Kind::Closed if event.position == self.last => Step::Note,
                _ => Step::Seen,
            };
        }
        if !self.live {
            self.newest = self.newest.max(event.position);
            return Step::Seen;
        }
        if self.is_next(event) && !matches!(event.kind, Kind::Gap { .. }) {
            self.last = event.position;
            return if event.kind.is_for_client() { Step::Forward } else { Step::Note };
        }
        self.newest = event.position;
        self.live = false;
        Step::Behind
    }

    /// The log held this event; events come in the log's order.
    pub fn logged(&mut self, event: Prefix, gaps: Gaps) -> Logged {
        if event.position <= self.last {
            return Logged::Seen;
        }
        let from = self.last;
        let next = self.is_next(event);
        if !next && gaps == Gaps::Await {
            return Logged::Await;
        }
        self.last = event.position;
        let forward = event.kind.is_for_client();
        match (next, event.kind) {
            (_, Kind::Gap { .. }) => Logged::Gap { from, to: event.position, forward },
            (true, _) if forward => Logged::Forward,
            (true, _) => Logged::Note,
            (false, Kind::Fence { prev }) => {
                Logged::Gap { from, to: prev.unwrap_or(event.position), forward }
            }
            (false, _) => Logged::Gap { from, to: event.position.previous(), forward },
        }
    }

    /// A read that began at `mark` reached the end of the log.
    pub fn log_end(&mut self, mark: Mark, gaps: Gaps) -> LogEnd {
        if mark.interruptions != self.interruptions {
            LogEnd::Again
        } else if self.last >= self.newest {
            self.live = true;
            LogEnd::CaughtUp
        } else if self.last >= mark.newest {
            LogEnd::Again
        } else if gaps == Gaps::Await {
            LogEnd::Await
        } else {
            let from = std::mem::replace(&mut self.last, mark.newest);
            LogEnd::Missing { from, to: mark.newest }
        }
    }

    /// Nothing is missing between `last` and this event.
    fn is_next(&self, event: Prefix) -> bool {
        match event.kind {
            // Where it is not known what came before, there may be something.
            Kind::Fence { prev } => prev.is_some_and(|prev| prev <= self.last),
            Kind::Gap { from } => from <= self.last,
            _ => event.position == self.last.next(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A session's history as the log holds it: generations of some tokens and a terminator each, a marker at the end.
    fn history(lengths: &[u64]) -> Vec<Prefix> {
        let mut events = Vec::new();
        let mut prev = Position::ZERO;
        for (n, &length) in lengths.iter().enumerate() {
            let generation = 100 + 7 * n as u64;
            events.push(Prefix {
                position: Position::new(generation, 0),
                kind: Kind::Fence { prev: Some(prev) },
            });
            for seq in 1..=length {
                events.push(Prefix { position: Position::new(generation, seq), kind: Kind::Token });
            }
            prev = Position::new(generation, length + 1);
            events.push(Prefix { position: prev, kind: Kind::Done });
        }
        events.push(Prefix { position: prev.next(), kind: Kind::Closed });
        events
    }

    fn for_client(events: &[Prefix]) -> Vec<Position> {
        events.iter().filter(|e| e.kind.is_for_client()).map(|e| e.position).collect()
    }

    /// Reads the whole log once, as a gateway does.
    fn read(lane: &mut Lane, log: &[Prefix], out: &mut Vec<Position>) -> LogEnd {
        let mark = lane.mark();
        for &event in log.iter().filter(|e| e.position > lane.last()).copied().collect::<Vec<_>>().iter() {
            match lane.logged(event, Gaps::Announce) {
                Logged::Forward => out.push(event.position),
                Logged::Note | Logged::Seen => {}
                Logged::Gap { from, to, .. } => panic!("a gap after {from} up to {to} in a whole log"),
                Logged::Await => panic!("{event:?} was not the next one in a whole log"),
            }
        }
        lane.log_end(mark, Gaps::Announce)
    }

    #[derive(Clone, Debug)]
    enum Happening {
        /// The next event is written to the log and published.
        Publish,
        /// …and published a second time, as after a lost acknowledgement.
        PublishAgain,
        /// …and lost on its way to the lane, which is told.
        Interrupt,
        /// …and lost on its way, silently.
        Lose,
        /// The lane's owner reads the log.
        Read,
    }

    fn happening() -> impl Strategy<Value = Happening> {
        prop_oneof![
            8 => Just(Happening::Publish),
            1 => Just(Happening::PublishAgain),
            1 => Just(Happening::Interrupt),
            1 => Just(Happening::Lose),
            2 => Just(Happening::Read),
        ]
    }

    proptest! {
        /// Whatever is repeated, lost or interrupted: with the log at hand, the client gets each event once, in order.
        #[test]
        fn every_event_once_and_in_order(
            lengths in proptest::collection::vec(0u64..6, 1..5),
            happenings in proptest::collection::vec(happening(), 0..80),
        ) {
            let events = history(&lengths);
            let mut lane = Lane::after(Position::ZERO);
            let mut written = 0;
            let mut out = Vec::new();
            for happening in happenings {
                if matches!(happening, Happening::Read) {
                    if !lane.is_live() {
                        let end = read(&mut lane, &events[..written], &mut out);
                        prop_assert!(!matches!(end, LogEnd::Missing { .. }), "a whole log lacks something");
                    }
                    continue;
                }
                let Some(&event) = events.get(written) else { continue };
                written += 1;
                let copies = match happening {
                    Happening::Publish => 1,
                    Happening::PublishAgain => 2,
                    Happening::Interrupt => { lane.interrupted(); 0 }
                    _ => 0,
                };
                for _ in 0..copies {
                    if lane.live(event) == Step::Forward {
                        out.push(event.position);
                    }
                }
                prop_assert_eq!(&out[..], &for_client(&events)[..out.len()]);
            }
            lane.interrupted();
            while read(&mut lane, &events[..written], &mut out) != LogEnd::CaughtUp {}
            prop_assert_eq!(out, for_client(&events[..written]));
        }

        /// A trimmed log is announced: what is handed on and what is announced make up everything.
        #[test]
        fn what_was_trimmed_is_announced(lengths in proptest::collection::vec(0u64..6, 1..5), trimmed in 0usize..30, start in 0usize..30) {
            let events = history(&lengths);
            let log = &events[trimmed.min(events.len() - 1)..];
            let from = start.min(events.len() - 1);
            let last = if from == 0 { Position::ZERO } else { events[from - 1].position };
            let mut lane = Lane::after(last);
            let (mut out, mut gaps) = (Vec::new(), Vec::new());
            for &event in log {
                match lane.logged(event, Gaps::Announce) {
                    Logged::Forward => out.push(event.position),
                    Logged::Gap { from, to, forward } => {
                        gaps.push((from, to));
                        if forward { out.push(event.position); }
                    }
                    Logged::Note | Logged::Seen | Logged::Await => {}
                }
            }
            for position in for_client(&events[from..]) {
                let told = gaps.iter().any(|&(from, to)| from < position && position <= to);
                prop_assert!(out.contains(&position) != told, "{position} handed on and announced, or neither");
            }
        }
    }

    #[test]
    fn a_stale_writer_reaches_nobody() {
        let mut lane = Lane::after(Position::ZERO);
        assert_eq!(
            {
                let mark = lane.mark();
                lane.log_end(mark, Gaps::Announce)
            },
            LogEnd::CaughtUp
        );
        let token = |generation, seq| Prefix { position: Position::new(generation, seq), kind: Kind::Token };
        let fence = |generation, prev| Prefix {
            position: Position::new(generation, 0),
            kind: Kind::Fence { prev: Some(prev) },
        };
        assert_eq!(lane.live(fence(5, Position::ZERO)), Step::Note);
        assert_eq!(lane.live(token(5, 1)), Step::Forward);
        assert_eq!(lane.live(fence(9, Position::new(5, 1))), Step::Note);
        assert_eq!(lane.live(token(5, 2)), Step::Seen);
        assert_eq!(lane.live(token(9, 1)), Step::Forward);
    }

    #[test]
    fn what_came_before_an_unsure_fence_is_waited_for_and_then_announced() {
        let token = |generation, seq| Prefix { position: Position::new(generation, seq), kind: Kind::Token };
        let fence = Prefix { position: Position::new(9, 0), kind: Kind::Fence { prev: None } };
        let mut lane = Lane::after(Position::new(5, 3));
        let mark = lane.mark();
        assert_eq!(lane.log_end(mark, Gaps::Await), LogEnd::CaughtUp);
        assert_eq!(lane.live(fence), Step::Behind);
        assert_eq!(lane.logged(fence, Gaps::Await), Logged::Await);
        // What was restored meanwhile is handed on.
        assert_eq!(lane.logged(token(5, 4), Gaps::Await), Logged::Forward);
        assert_eq!(
            lane.logged(fence, Gaps::Announce),
            Logged::Gap { from: Position::new(5, 4), to: fence.position, forward: false }
        );
        assert_eq!(lane.logged(token(9, 1), Gaps::Announce), Logged::Forward);
    }

    #[test]
    fn a_lost_range_is_announced_before_and_behind_the_lane() {
        let at = |seq| Position::new(5, seq);
        let gap = Prefix { position: at(8), kind: Kind::Gap { from: at(3) } };
        let mut behind = Lane::after(at(3));
        assert_eq!(behind.logged(gap, Gaps::Await), Logged::Gap { from: at(3), to: at(8), forward: false });
        let mut incomplete = Lane::after(at(2));
        assert_eq!(incomplete.logged(gap, Gaps::Await), Logged::Await);
        let mut live = Lane::after(at(3));
        let mark = live.mark();
        assert_eq!(live.log_end(mark, Gaps::Announce), LogEnd::CaughtUp);
        assert_eq!(live.live(gap), Step::Behind);
        let mut beyond = Lane::after(Position::new(9, 1));
        assert_eq!(beyond.live(gap), Step::Gap { from: at(3), to: at(8) });
        assert_eq!(beyond.last(), Position::new(9, 1));
    }

    #[test]
    fn a_read_across_an_interruption_proves_nothing() {
        let mut lane = Lane::after(Position::ZERO);
        let before = lane.mark();
        lane.interrupted();
        assert_eq!(lane.log_end(before, Gaps::Announce), LogEnd::Again);
        assert!(!lane.is_live());
    }

    #[test]
    fn what_may_still_come_is_waited_for() {
        let token = |generation, seq| Prefix { position: Position::new(generation, seq), kind: Kind::Token };
        let mut lane = Lane::after(Position::new(5, 3));
        let restored = lane.clone();
        assert_eq!(lane.logged(token(5, 5), Gaps::Await), Logged::Await);
        assert_eq!(lane.last(), restored.last());
        assert_eq!(lane.live(token(5, 9)), Step::Seen);
        let mark = lane.mark();
        assert_eq!(lane.log_end(mark, Gaps::Await), LogEnd::Await);
        assert!(!lane.is_live());
        for seq in 4..=9 {
            assert_eq!(lane.logged(token(5, seq), Gaps::Await), Logged::Forward);
        }
        assert_eq!(lane.log_end(mark, Gaps::Await), LogEnd::CaughtUp);
    }

    #[test]
    fn what_the_log_lacks_is_announced_after_a_read_that_began_later() {
        let mut lane = Lane::after(Position::new(5, 3));
        let lost = Prefix { position: Position::new(5, 9), kind: Kind::Token };
        assert_eq!(
            {
                let mark = lane.mark();
                lane.log_end(mark, Gaps::Announce)
            },
            LogEnd::CaughtUp
        );
        let before = lane.mark();
        assert_eq!(lane.live(lost), Step::Behind);
        assert_eq!(lane.log_end(before, Gaps::Announce), LogEnd::Again);
        assert_eq!(
            {
                let mark = lane.mark();
                lane.log_end(mark, Gaps::Announce)
            },
            LogEnd::Missing { from: Position::new(5, 3), to: lost.position }
        );
        assert_eq!(
            {
                let mark = lane.mark();
                lane.log_end(mark, Gaps::Announce)
            },
            LogEnd::CaughtUp
        );
    }

    #[test]
    fn an_end_whose_place_was_passed_as_a_gap_is_noted() {
        let at = |seq| Position::new(5, seq);
        let closed = Prefix { position: at(4), kind: Kind::Closed };
        let mut lane = Lane::after(at(3));
        assert_eq!(lane.live(closed), Step::Seen, "it is behind: the log will bring it");
        let mark = lane.mark();
        assert_eq!(lane.log_end(mark, Gaps::Announce), LogEnd::Missing { from: at(3), to: at(4) });
        assert_eq!(lane.live(closed), Step::Note);
        assert_eq!(lane.live(Prefix { position: at(3), kind: Kind::Closed }), Step::Seen);
    }
}
