//! The hub: which session's lane is open here, and what its events do on their way out. Every broker shares it;
//! it knows neither how events arrive nor where a log is kept.

use crate::{Counters, Delivery, LaneEnd, Outlet};
use parking_lot::Mutex;
use protocol::{Gaps, Kind, Lane, LogEnd, Logged, Mark, Position, Prefix, SessionId, Step};
use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};
use tokio::sync::Notify;

/// One open lane and its outlet.
pub(crate) struct Slot {
    outlet: Arc<dyn Outlet>,
    delivery: Delivery,
    counters: Arc<Counters>,
    state: Mutex<State>,
    predecessor: Notify,
    /// Its end was told to the broker, or is being told.
    left: AtomicBool,
}

struct State {
    lane: Lane,
    start: Position,
    /// Which attachment of the session this is: 0 until the broker has numbered it.
    epoch: u64,
    /// The highest epoch that is known to have taken the session over.
    superseded_by: u64,
    /// The highest epoch that is known to have been released, and the cursor that was kept then.
    released: (u64, Position),
    ended: bool,
}

/// How a page of the log ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Page {
    /// The log may hold more.
    Full,
    /// It was the log's end.
    Last,
    /// At a hole that may still be filled.
    Holed,
}

/// What a finished page means for its reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PageEnd {
    Live(Position),
    More,
    Wait,
    Ended,
}

impl Slot {
    pub(crate) fn new(outlet: Arc<dyn Outlet>, delivery: Delivery, counters: Arc<Counters>) -> Arc<Self> {
        let state = State {
            lane: Lane::after(Position::ZERO),
            start: Position::ZERO,
            epoch: 0,
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
            left: AtomicBool::new(false),
        })
    }

    /// The broker has numbered the attachment.
    pub(crate) fn numbered(&self, epoch: u64) {
        self.state.lock().epoch = epoch;
    }

    /// The attachment ends: true for the first that says so.
    pub(crate) fn left(&self) -> bool {
        !self.left.swap(true, Ordering::Relaxed)
    }

    /// The broker has numbered the attachment and knows where its stream starts. False if another has superseded it.
    pub(crate) fn begin(&self, epoch: u64, start: Position) -> bool {
        let mut state = self.state.lock();
        state.epoch = epoch;
        state.start = start;
        state.lane = Lane::after(start);
        if state.superseded_by > epoch {
            self.end_locked(&mut state, LaneEnd::TakenOver);
        }
        !state.ended
    }

    pub(crate) fn start(&self) -> Position {
        self.state.lock().start
    }

    pub(crate) fn epoch(&self) -> u64 {
        self.state.lock().epoch
    }

    /// Another attachment with this epoch exists.
    pub(crate) fn superseded(&self, by: u64) {
        let mut state = self.state.lock();
        state.superseded_by = state.superseded_by.max(by);
        if state.epoch != 0 && state.epoch < by {
            self.end_locked(&mut state, LaneEnd::TakenOver);
        }
    }

    /// The attachment with this epoch was released, and the session's cursor is this.
    pub(crate) fn predecessor_released(&self, epoch: u64, cursor: Position) {
        let mut state = self.state.lock();
        if epoch > state.released.0 {
            state.released = (epoch, cursor);
        }
        self.predecessor.notify_waiters();
    }

    /// Waits until the attachment with this epoch, or a later one, has been released; the session's cursor then.
    pub(crate) async fn released(&self, epoch: u64) -> Position {
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

    /// An event came live.
    pub(crate) fn live(&self, prefix: Prefix, frame: &[u8]) {
        let mut state = self.state.lock();
        if state.ended {
            return;
        }
        let step = match self.delivery {
            Delivery::Log => state.lane.live(prefix),
            Delivery::PubSub if prefix.kind.is_for_client() => Step::Forward,
            Delivery::PubSub => Step::Note,
        };
        match step {
            Step::Forward => self.forward(prefix, frame),
            Step::Note => self.note(&mut state, prefix.kind),
            Step::Seen => Counters::add(&self.counters.skipped, 1),
            Step::Behind => {
                Counters::add(&self.counters.fell_behind, 1);
                self.outlet.behind();
            }
        }
    }

    /// The subscription was interrupted and stands again: whatever came meanwhile is in the log alone.
    pub(crate) fn resubscribed(&self) {
        let mut state = self.state.lock();
        state.lane.interrupted();
        if !state.ended && self.delivery == Delivery::Log {
            self.outlet.behind();
        }
    }

    /// A read of the log begins: from which position, and the mark to end it with.
    pub(crate) fn begin_read(&self) -> (Position, Mark) {
        let state = self.state.lock();
        (state.lane.last(), state.lane.mark())
    }

    /// Hands on one event that the log holds. False when what follows must wait for what is missing before it.
    pub(crate) fn logged(&self, prefix: Prefix, frame: &[u8], gaps: Gaps) -> bool {
        let mut state = self.state.lock();
        if state.ended {
            return false;
        }
        match state.lane.logged(prefix, gaps) {
            Logged::Forward => self.forward(prefix, frame),
            Logged::Note => self.note(&mut state, prefix.kind),
            Logged::Seen => {}
            Logged::Gap { from, to, forward } => {
                self.gap(from, to);
                if forward { self.forward(prefix, frame) } else { self.note(&mut state, prefix.kind) }
            }
            Logged::Await => return false,
        }
        true
    }

    /// A page was handed on.
    pub(crate) fn end_read(&self, mark: Mark, page: Page, gaps: Gaps) -> PageEnd {
        Counters::add(&self.counters.pages_read, 1);
        let mut state = self.state.lock();
        if state.ended {
            return PageEnd::Ended;
        }
        if self.delivery == Delivery::PubSub {
            return PageEnd::Live(state.lane.last());
        }
        match page {
            Page::Full => return PageEnd::More,
            Page::Holed => return PageEnd::Wait,
            Page::Last => {}
        }
        match state.lane.log_end(mark, gaps) {
            LogEnd::CaughtUp => PageEnd::Live(state.lane.last()),
            LogEnd::Again => PageEnd::More,
            LogEnd::Missing { from, to } => {
                self.gap(from, to);
                PageEnd::More
            }
            LogEnd::Await => PageEnd::Wait,
        }
    }

    fn forward(&self, prefix: Prefix, frame: &[u8]) {
        Counters::add(&self.counters.forwarded, 1);
        self.outlet.event(prefix, frame);
    }

    fn gap(&self, from: Position, to: Position) {
        Counters::add(&self.counters.gaps, 1);
        self.outlet.gap(from, to);
    }

    fn note(&self, state: &mut State, kind: Kind) {
        if kind == Kind::Closed {
            self.end_locked(state, LaneEnd::SessionClosed);
        }
    }
}

/// A lane that the broker has not numbered yet. Dropped before, because the call failed or its caller went away, it puts
/// the former lane back, which reads what it missed.
pub(crate) struct Newcomer {
    hub: Arc<Hub>,
    session: SessionId,
    slot: Arc<Slot>,
    former: Option<Arc<Slot>>,
}

impl Newcomer {
    /// It has the session now; the former lane has not.
    pub(crate) fn stays(mut self) {
        if let Some(former) = self.former.take() {
            former.end(LaneEnd::TakenOver);
        }
    }
}

impl Drop for Newcomer {
    fn drop(&mut self) {
        let Some(former) = self.former.take() else { return };
        let mut slots = self.hub.slots.lock();
        let own = slots.get(&self.session).is_some_and(|current| Arc::ptr_eq(current, &self.slot));
        // One that has left meanwhile would stay for ever.
        let back = own && !former.left.load(Ordering::Relaxed);
        if back {
            slots.insert(self.session, former.clone());
        }
        drop(slots);
        if back { former.resubscribed() } else { former.end(LaneEnd::TakenOver) }
    }
}

/// The sessions whose lanes are open here: one lane a session, the newest.
#[derive(Default)]
pub(crate) struct Hub {
    slots: Mutex<HashMap<SessionId, Arc<Slot>>>,
}

impl Hub {
    /// Opens the session's lane in the place of the one that it had here before, which hears nothing until it is known
    /// which of them stays.
    pub(crate) fn insert(self: &Arc<Self>, session: SessionId, slot: Arc<Slot>) -> Newcomer {
        let former = self.slots.lock().insert(session, slot.clone());
        Newcomer { hub: self.clone(), session, slot, former }
    }

    pub(crate) fn get(&self, session: SessionId) -> Option<Arc<Slot>> {
        self.slots.lock().get(&session).cloned()
    }

    pub(crate) fn contains(&self, session: SessionId) -> bool {
        self.slots.lock().contains_key(&session)
    }

    /// Closes this lane if it is still the session's; true if the session has none here any more.
    pub(crate) fn remove(&self, session: SessionId, slot: &Arc<Slot>) -> bool {
        let mut slots = self.slots.lock();
        let own = slots.get(&session).is_some_and(|current| Arc::ptr_eq(current, slot));
        if own {
            slots.remove(&session);
        }
        own
    }

    /// The sessions at this moment.
    pub(crate) fn sessions(&self) -> Vec<SessionId> {
        self.slots.lock().keys().copied().collect()
    }
}
