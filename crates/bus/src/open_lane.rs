//! An open lane: what happens to a session's events on their way to the outlet, and how the lane learns that another attachment
//! has taken its session over.

use crate::{Counters, Delivery, LaneEnd, Outlet};
use parking_lot::Mutex;
use protocol::{GapPolicy, Kind, Lane, LiveAction, LoggedAction, Position, Prefix, ReadEnd, ReadStart};
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};
use tokio::sync::Notify;

/// One open lane and its outlet.
pub(crate) struct OpenLane {
    outlet: Arc<dyn Outlet>,
    delivery: Delivery,
    counters: Arc<Counters>,
    state: Mutex<State>,
    predecessor: Notify,
    /// Set once the release of the attachment has begun.
    release_started: AtomicBool,
}

struct State {
    lane: Lane,
    start: Position,
    /// The client named this start, and the broker does not have it. The broker may have lost it.
    start_unconfirmed: bool,
    /// The session took queries when it was attached, or a query was claimed since.
    active: bool,
    /// The attachment's epoch in its session; 0 until the broker has assigned it.
    epoch: u64,
    /// The client's last known position if nothing is logged: the one that it named, or the last one published since.
    published: Position,
    /// The highest epoch known to have taken the session over.
    superseded_by: u64,
    /// The highest epoch known to have been released, and the cursor that was stored then.
    released: (u64, Position),
    ended: bool,
}

/// The outcome of [`Attachment::catch_up`](crate::Attachment::catch_up).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CatchUp {
    /// The lane is live. Nothing is to be done until the outlet's `behind` is called again.
    Live {
        /// The position up to which everything was delivered.
        at: Position,
    },
    /// A page was delivered, and there is more to read. Call again when there is room.
    More,
    /// The log lacks events that may still be restored. Call again after about 200 ms.
    Wait,
    /// The lane has ended, and the outlet's `end` was called.
    Ended,
}

/// Where a page of the log ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PageEnd {
    /// At the page's limit: the log may hold more.
    Full,
    /// At the end of the log.
    EndOfLog,
    /// At missing positions that may still be restored.
    Hole,
}

impl OpenLane {
    pub(crate) fn new(outlet: Arc<dyn Outlet>, delivery: Delivery, counters: Arc<Counters>) -> Arc<Self> {
        let state = State {
            lane: Lane::after(Position::ZERO),
            start: Position::ZERO,
            start_unconfirmed: false,
            active: false,
            epoch: 0,
            published: Position::ZERO,
            superseded_by: 0,
            released: (0, Position::ZERO),
            ended: false,
        };
        Arc::new(Self {
            outlet,
            delivery,
            counters,
            state: Mutex::new(state),
            predecessor: Notify::new(),
            release_started: AtomicBool::new(false),
        })
    }

    /// Marks the release as begun. Returns false if it had begun before.
    pub(crate) fn start_release(&self) -> bool {
        !self.release_started.swap(true, Ordering::Relaxed)
    }

    /// Sets the epoch that the broker has assigned to the attachment.
    pub(crate) fn set_epoch(&self, epoch: u64) {
        let mut state = self.state.lock();
        state.epoch = epoch;
        if state.superseded_by > epoch {
            self.end_locked(&mut state, LaneEnd::TakenOver);
        }
    }

    /// Starts the stream after `start`. Call it before the lane delivers anything. Without a log, live events may have
    /// been delivered already.
    pub(crate) fn begin(&self, start: Position) {
        let mut state = self.state.lock();
        state.start = start;
        state.lane = Lane::after(start);
        state.published = state.published.max(start);
    }

    /// Notes that the session takes queries.
    pub(crate) fn set_active(&self) {
        self.state.lock().active = true;
    }

    /// Returns whether the session takes queries, as far as is known here.
    pub(crate) fn is_active(&self) -> bool {
        let state = self.state.lock();
        state.active && !state.ended
    }

    /// Notes that the broker does not have the start of the stream, and may have lost it.
    pub(crate) fn set_start_unconfirmed(&self) {
        self.state.lock().start_unconfirmed = true;
    }

    /// Returns whether the start of the stream is still to be confirmed.
    pub(crate) fn is_start_unconfirmed(&self) -> bool {
        self.state.lock().start_unconfirmed
    }

    /// Compares the start of the stream with the log's last position, `top`. Returns true while the start is above
    /// `top` and may still be restored. Once it no longer can be, announces the positions between as a gap.
    pub(crate) fn waits_for_start(&self, top: Position, gaps: GapPolicy) -> bool {
        let mut state = self.state.lock();
        let at = state.lane.last();
        if !state.start_unconfirmed || state.ended {
            return false;
        }
        if top < at && gaps == GapPolicy::Wait {
            return true;
        }
        state.start_unconfirmed = false;
        if top < at {
            self.gap(top, at);
        }
        false
    }

    pub(crate) fn start(&self) -> Position {
        self.state.lock().start
    }

    pub(crate) fn epoch(&self) -> u64 {
        self.state.lock().epoch
    }

    /// Notes that an attachment with the epoch `by` exists. Ends the lane if its own epoch is lower.
    pub(crate) fn superseded(&self, by: u64) {
        let mut state = self.state.lock();
        state.superseded_by = state.superseded_by.max(by);
        if state.epoch != 0 && state.epoch < by {
            self.end_locked(&mut state, LaneEnd::TakenOver);
        }
    }

    /// Notes that the attachment with this epoch was released, and the session's cursor.
    pub(crate) fn predecessor_released(&self, epoch: u64, cursor: Position) {
        let mut state = self.state.lock();
        if epoch > state.released.0 {
            state.released = (epoch, cursor);
        }
        self.predecessor.notify_waiters();
    }

    /// Waits until the attachment with this epoch, or a later one, has been released. Returns the session's cursor.
    pub(crate) async fn wait_released(&self, epoch: u64) -> Position {
        loop {
            let released = self.predecessor.notified();
            tokio::pin!(released);
            released.as_mut().enable();
            let (known, cursor) = self.state.lock().released;
            if known >= epoch {
                return cursor;
            }
            released.await;
        }
    }

    pub(crate) fn end(&self, end: LaneEnd) {
        self.end_locked(&mut self.state.lock(), end);
    }

    fn end_locked(&self, state: &mut State, end: LaneEnd) {
        if std::mem::replace(&mut state.ended, true) {
            return;
        }
        if end == LaneEnd::TakenOver {
            Counters::add(&self.counters.taken_over, 1);
        }
        self.outlet.end(end);
    }

    /// Handles a live event.
    pub(crate) fn live(&self, prefix: Prefix, frame: &[u8]) {
        let mut state = self.state.lock();
        if state.ended {
            return;
        }
        let step = match self.delivery {
            Delivery::Log => state.lane.live(prefix),
            Delivery::PubSub if prefix.kind.is_for_client() => {
                return self.published(&mut state, prefix, frame);
            }
            Delivery::PubSub => LiveAction::Note,
        };
        match step {
            LiveAction::Forward => self.forward_live(prefix, frame),
            LiveAction::Note => self.note(&mut state, prefix.kind),
            LiveAction::Ignore => Counters::add(&self.counters.skipped, 1),
            LiveAction::ReadLog => {
                Counters::add(&self.counters.fell_behind, 1);
                self.outlet.behind();
            }
            LiveAction::Gap { from, to } => self.gap(from, to),
        }
    }

    /// Notes that the subscription was interrupted and is open again: what came between is only in the log.
    pub(crate) fn resubscribed(&self) {
        let mut state = self.state.lock();
        state.lane.interrupted();
        if !state.ended && self.delivery == Delivery::Log {
            self.outlet.behind();
        }
    }

    /// Begins a read of the log. Returns the position to read after, and the value to end the read with.
    pub(crate) fn begin_read(&self) -> (Position, ReadStart) {
        let state = self.state.lock();
        (state.lane.last(), state.lane.read_start())
    }

    /// Handles one event of the log. Returns false if reading must stop here, because earlier positions may still be
    /// restored or because the lane has ended.
    pub(crate) fn logged(&self, prefix: Prefix, frame: &[u8], gaps: GapPolicy) -> bool {
        let mut state = self.state.lock();
        if state.ended {
            return false;
        }
        match state.lane.logged(prefix, gaps) {
            LoggedAction::Forward => self.forward(prefix, frame),
            LoggedAction::Note => self.note(&mut state, prefix.kind),
            LoggedAction::Ignore => {}
            LoggedAction::Gap { from, to, forward } => {
                self.gap(from, to);
                if forward { self.forward(prefix, frame) } else { self.note(&mut state, prefix.kind) }
            }
            LoggedAction::Wait => return false,
        }
        true
    }

    /// Ends the read of a page.
    pub(crate) fn end_read(&self, start: ReadStart, page: PageEnd, gaps: GapPolicy) -> CatchUp {
        Counters::add(&self.counters.pages_read, 1);
        let mut state = self.state.lock();
        if state.ended {
            return CatchUp::Ended;
        }
        if self.delivery == Delivery::PubSub {
            return self.caught_up(&state);
        }
        match page {
            PageEnd::Full => return CatchUp::More,
            PageEnd::Hole => return CatchUp::Wait,
            PageEnd::EndOfLog => {}
        }
        match state.lane.log_end(start, gaps) {
            ReadEnd::CaughtUp => self.caught_up(&state),
            ReadEnd::ReadAgain => CatchUp::More,
            ReadEnd::Missing { from, to } => {
                self.gap(from, to);
                CatchUp::More
            }
            ReadEnd::Wait => CatchUp::Wait,
        }
    }

    fn caught_up(&self, state: &State) -> CatchUp {
        let at = state.lane.last();
        self.outlet.caught_up(at);
        CatchUp::Live { at }
    }

    /// Delivers an event that is not logged. A peer that ends a dead server's query does not know its last position,
    /// and therefore sends sequence 0. That event gets the position after the last one that was published here.
    fn published(&self, state: &mut State, prefix: Prefix, frame: &[u8]) {
        let Position { generation, seq } = prefix.position;
        if seq > 0 {
            state.published = state.published.max(prefix.position);
            return self.forward_live(prefix, frame);
        }
        let last = Some(state.published).filter(|last| last.generation == generation);
        let position = last.unwrap_or(prefix.position).next();
        state.published = position;
        let unnumbered = format!(r#"{{"id":"{}""#, prefix.position);
        let rest = frame.strip_prefix(unnumbered.as_bytes()).unwrap_or_default();
        let numbered = [format!(r#"{{"id":"{position}""#).as_bytes(), rest].concat();
        self.forward_live(Prefix { position, ..prefix }, &numbered);
    }

    fn forward(&self, prefix: Prefix, frame: &[u8]) {
        Counters::add(&self.counters.forwarded, 1);
        self.outlet.event(prefix, frame);
    }

    fn forward_live(&self, prefix: Prefix, frame: &[u8]) {
        Counters::add(&self.counters.forwarded, 1);
        self.outlet.live_event(prefix, frame);
    }

    fn gap(&self, from: Position, to: Position) {
        Counters::add(&self.counters.gaps, 1);
        self.outlet.gap(from, to);
    }

    fn note(&self, state: &mut State, kind: Kind) {
        match kind {
            Kind::Closed => self.end_locked(state, LaneEnd::SessionClosed),
            Kind::Fence { .. } => state.active = true,
            _ => {}
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Records what a lane delivers.
    #[derive(Default)]
    pub(crate) struct RecordingOutlet {
        events: Mutex<Vec<Position>>,
        gaps: Mutex<Vec<(Position, Position)>>,
        ends: Mutex<usize>,
    }

    impl RecordingOutlet {
        pub(crate) fn ends(&self) -> usize {
            *self.ends.lock()
        }
    }

    impl Outlet for RecordingOutlet {
        fn event(&self, prefix: Prefix, frame: &[u8]) {
            assert_eq!(Prefix::parse(frame), Some(prefix));
            self.events.lock().push(prefix.position);
        }
        fn gap(&self, from: Position, to: Position) {
            self.gaps.lock().push((from, to));
        }
        fn behind(&self) {}
        fn end(&self, _: LaneEnd) {
            *self.ends.lock() += 1;
        }
    }

    pub(crate) fn lane() -> (Arc<RecordingOutlet>, Arc<OpenLane>) {
        let outlet = Arc::new(RecordingOutlet::default());
        (outlet.clone(), OpenLane::new(outlet, Delivery::Log, Arc::default()))
    }

    /// Without a log, a peer's terminator has sequence 0. It gets the position after the last one that the client has.
    #[test]
    fn a_terminator_of_unknown_sequence_continues_after_the_resume_position() {
        let at = Position::new;
        let say = |lane: &OpenLane, kind, position| {
            let mut frame = Vec::new();
            match kind {
                Kind::Error => protocol::encode_error(&mut frame, position, "server_lost", "gone", "q", 0, 0),
                _ => protocol::encode_token(&mut frame, position, "x", "q", 0, 0),
            }
            lane.live(Prefix { position, kind }, &frame);
        };
        let cases = [
            ("it resumes in the query", None, at(7, 5), vec![], vec![at(7, 6)]),
            ("and received more", None, at(7, 5), vec![at(7, 9)], vec![at(7, 9), at(7, 10)]),
            ("more came before it began", Some(at(7, 8)), at(7, 5), vec![], vec![at(7, 8), at(7, 9)]),
            ("it resumes in an earlier query", None, at(6, 5), vec![], vec![at(7, 1)]),
            ("it has nothing", None, Position::ZERO, vec![], vec![at(7, 1)]),
        ];
        for (name, early, start, tokens, expected) in cases {
            let outlet = Arc::new(RecordingOutlet::default());
            let lane = OpenLane::new(outlet.clone(), Delivery::PubSub, Arc::default());
            early.into_iter().for_each(|position| say(&lane, Kind::Token, position));
            lane.begin(start);
            tokens.into_iter().for_each(|position| say(&lane, Kind::Token, position));
            say(&lane, Kind::Error, at(7, 0));
            assert_eq!(*outlet.events.lock(), expected, "{name}");
        }
    }

    #[test]
    fn a_start_that_is_not_restored_in_time_is_announced() {
        let at = Position::new;
        for restored in [false, true] {
            let (outlet, lane) = lane();
            lane.set_epoch(1);
            lane.set_start_unconfirmed();
            lane.begin(at(7, 5));
            assert!(lane.waits_for_start(at(7, 3), GapPolicy::Wait));
            let top = if restored { at(7, 5) } else { at(7, 3) };
            let gaps = if restored { GapPolicy::Wait } else { GapPolicy::Announce };
            assert!(!lane.waits_for_start(top, gaps) && !lane.is_start_unconfirmed());
            let announced = if restored { vec![] } else { vec![(at(7, 3), at(7, 5))] };
            assert_eq!(*outlet.gaps.lock(), announced);
        }
    }
}
