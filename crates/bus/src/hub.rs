//! The hub: which session's lane is open here, and what its events do on their way out. Every broker shares it;
//! it knows neither how events arrive nor where a log is kept.

use crate::{Counters, Delivery, LaneEnd, Outlet};
use parking_lot::Mutex;
use protocol::{
    GapPolicy, Kind, Lane, LiveAction, LoggedAction, Position, Prefix, ReadEnd, ReadStart, SessionId,
};
use std::{
    collections::{HashMap, hash_map::Entry},
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
    /// The client named this start and the broker, which may have lost data, does not have it (yet).
    unproven: bool,
    /// The session took queries when it was attached, or a query was claimed since.
    active: bool,
    /// Which attachment of the session this is: 0 until the broker has numbered it.
    epoch: u64,
    /// The last position that the client has as far as is known, where nothing is logged: the one that it named, or the last
    /// one that was published since.
    published: Position,
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
            unproven: false,
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
            left: AtomicBool::new(false),
        })
    }

    /// The attachment ends: true for the first that says so.
    pub(crate) fn left(&self) -> bool {
        !self.left.swap(true, Ordering::Relaxed)
    }

    /// The broker has numbered the attachment.
    pub(crate) fn numbered(&self, epoch: u64) {
        let mut state = self.state.lock();
        state.epoch = epoch;
        if state.superseded_by > epoch {
            self.end_locked(&mut state, LaneEnd::TakenOver);
        }
    }

    /// Starts the stream behind `start`. The lane has handed nothing on yet; without a log, events may have been handed on
    /// already.
    pub(crate) fn begin(&self, start: Position) {
        let mut state = self.state.lock();
        state.start = start;
        state.lane = Lane::after(start);
        state.published = state.published.max(start);
    }

    /// The session takes queries, as the broker says.
    pub(crate) fn found_active(&self) {
        self.state.lock().active = true;
    }

    /// Whether the session takes queries, as far as is known here.
    pub(crate) fn is_active(&self) -> bool {
        let state = self.state.lock();
        state.active && !state.ended
    }

    /// The broker may have lost what lies before the start of the stream.
    pub(crate) fn doubt_start(&self) {
        self.state.lock().unproven = true;
    }

    /// Whether it is still to be found out if the start of the stream exists.
    pub(crate) fn doubts_start(&self) -> bool {
        self.state.lock().unproven
    }

    /// The log ends at `top`. True while the start of the stream lies above it and may still be restored. When it can no
    /// longer be, the positions in between are announced: they do not exist, or are lost.
    pub(crate) fn waits_for_start(&self, top: Position, gaps: GapPolicy) -> bool {
        let mut state = self.state.lock();
        let at = state.lane.last();
        if !state.unproven || state.ended {
            return false;
        }
        if top < at && gaps == GapPolicy::Wait {
            return true;
        }
        state.unproven = false;
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
            Delivery::PubSub if prefix.kind.is_for_client() => {
                return self.published(&mut state, prefix, frame);
            }
            Delivery::PubSub => LiveAction::Note,
        };
        match step {
            LiveAction::Forward => self.forward(prefix, frame),
            LiveAction::Note => self.note(&mut state, prefix.kind),
            LiveAction::Ignore => Counters::add(&self.counters.skipped, 1),
            LiveAction::ReadLog => {
                Counters::add(&self.counters.fell_behind, 1);
                self.outlet.behind();
            }
            LiveAction::Gap { from, to } => self.gap(from, to),
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
    pub(crate) fn begin_read(&self) -> (Position, ReadStart) {
        let state = self.state.lock();
        (state.lane.last(), state.lane.read_start())
    }

    /// Hands on one event that the log holds. False when what follows must wait for what is missing before it.
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

    /// A page was handed on.
    pub(crate) fn end_read(&self, mark: ReadStart, page: Page, gaps: GapPolicy) -> PageEnd {
        Counters::add(&self.counters.pages_read, 1);
        let mut state = self.state.lock();
        if state.ended {
            return PageEnd::Ended;
        }
        if self.delivery == Delivery::PubSub {
            return self.caught_up(&state);
        }
        match page {
            Page::Full => return PageEnd::More,
            Page::Holed => return PageEnd::Wait,
            Page::Last => {}
        }
        match state.lane.log_end(mark, gaps) {
            ReadEnd::CaughtUp => self.caught_up(&state),
            ReadEnd::ReadAgain => PageEnd::More,
            ReadEnd::Missing { from, to } => {
                self.gap(from, to);
                PageEnd::More
            }
            ReadEnd::Wait => PageEnd::Wait,
        }
    }

    fn caught_up(&self, state: &State) -> PageEnd {
        let at = state.lane.last();
        self.outlet.caught_up(at);
        PageEnd::Live(at)
    }

    /// Without a log a peer that ends a dead server's query does not know its last position: it names sequence 0, and the
    /// event gets the next one here.
    fn published(&self, state: &mut State, prefix: Prefix, frame: &[u8]) {
        let Position { generation, seq } = prefix.position;
        if seq > 0 {
            state.published = state.published.max(prefix.position);
            return self.forward(prefix, frame);
        }
        let last = Some(state.published).filter(|last| last.generation == generation);
        let position = last.unwrap_or(prefix.position).next();
        state.published = position;
        let unnumbered = format!(r#"{{"id":"{}""#, prefix.position);
        let rest = frame.strip_prefix(unnumbered.as_bytes()).unwrap_or_default();
        let numbered = [format!(r#"{{"id":"{position}""#).as_bytes(), rest].concat();
        self.forward(Prefix { position, ..prefix }, &numbered);
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
        match kind {
            Kind::Closed => self.end_locked(state, LaneEnd::SessionClosed),
            Kind::Fence { .. } => state.active = true,
            _ => {}
        }
    }
}

/// A lane that is subscribed but does not have its session yet: the former lane goes on until the broker has decided. Dropped
/// before that, because the call failed or its caller went away, it leaves everything as it was.
pub(crate) struct Newcomer {
    hub: Arc<Hub>,
    session: SessionId,
    slot: Arc<Slot>,
}

impl Newcomer {
    /// The broker has given it the session with this epoch: it takes the place of the lane that has it here. Of two newcomers
    /// the one with the higher epoch stays, whichever is told first.
    pub(crate) fn stays(self, epoch: u64) {
        self.slot.numbered(epoch);
        let mut sessions = self.hub.sessions.lock();
        let former = match sessions.holders.entry(self.session) {
            Entry::Occupied(mut held) if held.get().epoch() <= epoch => Some(held.insert(self.slot.clone())),
            Entry::Occupied(held) => {
                let newest = held.get().epoch();
                drop(sessions);
                return self.slot.superseded(newest);
            }
            Entry::Vacant(place) => {
                place.insert(self.slot.clone());
                None
            }
        };
        drop(sessions);
        if let Some(former) = former {
            former.end(LaneEnd::TakenOver);
        }
    }
}

impl Drop for Newcomer {
    fn drop(&mut self) {
        self.hub.sessions.lock().retire(self.session, &self.slot);
    }
}

/// The sessions whose lanes are open here.
#[derive(Default)]
pub(crate) struct Hub {
    sessions: Mutex<Sessions>,
}

#[derive(Default)]
struct Sessions {
    /// One lane a session, the newest: it gets the events.
    holders: HashMap<SessionId, Arc<Slot>>,
    /// Lanes that are being attached. They hear who else has the session and get no events.
    newcomers: HashMap<SessionId, Vec<Arc<Slot>>>,
}

impl Sessions {
    fn retire(&mut self, session: SessionId, slot: &Arc<Slot>) {
        if let Entry::Occupied(mut waiting) = self.newcomers.entry(session) {
            waiting.get_mut().retain(|newcomer| !Arc::ptr_eq(newcomer, slot));
            if waiting.get().is_empty() {
                waiting.remove();
            }
        }
    }

    fn contains(&self, session: SessionId) -> bool {
        self.holders.contains_key(&session) || self.newcomers.contains_key(&session)
    }
}

impl Hub {
    /// Registers a lane that is about to be attached.
    pub(crate) fn announce(self: &Arc<Self>, session: SessionId, slot: Arc<Slot>) -> Newcomer {
        self.sessions.lock().newcomers.entry(session).or_default().push(slot.clone());
        Newcomer { hub: self.clone(), session, slot }
    }

    /// Returns the lane that has the session.
    pub(crate) fn get(&self, session: SessionId) -> Option<Arc<Slot>> {
        self.sessions.lock().holders.get(&session).cloned()
    }

    /// Returns every lane of the session, those that are being attached included.
    pub(crate) fn all(&self, session: SessionId) -> Vec<Arc<Slot>> {
        let sessions = self.sessions.lock();
        let newcomers = sessions.newcomers.get(&session).into_iter().flatten();
        newcomers.chain(sessions.holders.get(&session)).cloned().collect()
    }

    pub(crate) fn contains(&self, session: SessionId) -> bool {
        self.sessions.lock().contains(session)
    }

    /// Closes this lane if it has the session; true if the session has none here any more.
    pub(crate) fn remove(&self, session: SessionId, slot: &Arc<Slot>) -> bool {
        let mut sessions = self.sessions.lock();
        sessions.retire(session, slot);
        if sessions.holders.get(&session).is_some_and(|current| Arc::ptr_eq(current, slot)) {
            sessions.holders.remove(&session);
        }
        !sessions.contains(session)
    }

    /// The sessions at this moment, those that are being attached included.
    pub(crate) fn sessions(&self) -> Vec<SessionId> {
        let sessions = self.sessions.lock();
        let newcomers = sessions.newcomers.keys().filter(|session| !sessions.holders.contains_key(session));
        sessions.holders.keys().chain(newcomers).copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;
    use uuid::Uuid;

    #[derive(Default)]
    struct Ended(AtomicUsize, Mutex<Vec<(Position, Position)>>, Mutex<Vec<Position>>);

    impl Outlet for Ended {
        fn event(&self, prefix: Prefix, frame: &[u8]) {
            assert_eq!(Prefix::parse(frame), Some(prefix));
            self.2.lock().push(prefix.position);
        }
        fn gap(&self, from: Position, to: Position) {
            self.1.lock().push((from, to));
        }
        fn behind(&self) {}
        fn end(&self, _: LaneEnd) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn slot() -> (Arc<Ended>, Arc<Slot>) {
        let ended = Arc::new(Ended::default());
        (ended.clone(), Slot::new(ended, Delivery::Log, Arc::default()))
    }

    #[test]
    fn a_holder_survives_every_newcomer_that_comes_to_nothing() {
        let hub = Arc::new(Hub::default());
        let session = SessionId::new(Uuid::from_u128(1));
        let (ended, holder) = slot();
        hub.announce(session, holder.clone()).stays(5);
        let newcomers: Vec<_> = (0..3).map(|_| hub.announce(session, slot().1)).collect();
        assert_eq!(hub.all(session).len(), 4);
        assert!(hub.get(session).is_some_and(|current| Arc::ptr_eq(&current, &holder)));
        drop(newcomers);
        assert_eq!((hub.all(session).len(), ended.0.load(Ordering::Relaxed)), (1, 0));
        assert!(hub.remove(session, &holder));
        assert!(!hub.contains(session) && hub.sessions().is_empty());
    }

    #[test]
    fn of_two_newcomers_the_higher_epoch_stays_whichever_is_told_first() {
        for first in [0, 1] {
            let hub = Arc::new(Hub::default());
            let session = SessionId::new(Uuid::from_u128(1));
            let (former_ended, former) = slot();
            hub.announce(session, former).stays(5);
            let (ended, slots): (Vec<_>, Vec<_>) = (0..2).map(|_| slot()).unzip();
            let mut newcomers: Vec<_> =
                slots.iter().map(|slot| Some(hub.announce(session, slot.clone()))).collect();
            for nth in [first, 1 - first] {
                newcomers[nth].take().expect("told once").stays(6 + nth as u64);
            }
            assert!(hub.get(session).is_some_and(|current| Arc::ptr_eq(&current, &slots[1])));
            let ended = [&former_ended, &ended[0], &ended[1]].map(|ended| ended.0.load(Ordering::Relaxed));
            assert_eq!(ended, [1, 1, 0]);
        }
    }

    /// Without a log a peer's terminator names sequence 0, and gets the position after the last one that the client has.
    #[test]
    fn a_terminator_of_unknown_sequence_continues_after_the_resume_position() {
        let at = Position::new;
        let say = |slot: &Slot, kind, position| {
            let mut frame = Vec::new();
            match kind {
                Kind::Error => protocol::encode_error(&mut frame, position, "server_lost", "gone", "q", 0, 0),
                _ => protocol::encode_token(&mut frame, position, "x", "q", 0, 0),
            }
            slot.live(Prefix { position, kind }, &frame);
        };
        let cases = [
            ("it resumes in the query", None, at(7, 5), vec![], vec![at(7, 6)]),
            ("and received more", None, at(7, 5), vec![at(7, 9)], vec![at(7, 9), at(7, 10)]),
            ("more came before it began", Some(at(7, 8)), at(7, 5), vec![], vec![at(7, 8), at(7, 9)]),
            ("it resumes in an earlier query", None, at(6, 5), vec![], vec![at(7, 1)]),
            ("it has nothing", None, Position::ZERO, vec![], vec![at(7, 1)]),
        ];
        for (name, early, start, tokens, expected) in cases {
            let ended = Arc::new(Ended::default());
            let slot = Slot::new(ended.clone(), Delivery::PubSub, Arc::default());
            early.into_iter().for_each(|position| say(&slot, Kind::Token, position));
            slot.begin(start);
            tokens.into_iter().for_each(|position| say(&slot, Kind::Token, position));
            say(&slot, Kind::Error, at(7, 0));
            assert_eq!(*ended.2.lock(), expected, "{name}");
        }
    }

    #[test]
    fn a_start_that_is_not_restored_in_time_is_announced() {
        let at = Position::new;
        for restored in [false, true] {
            let (outlet, slot) = slot();
            slot.numbered(1);
            slot.doubt_start();
            slot.begin(at(7, 5));
            assert!(slot.waits_for_start(at(7, 3), GapPolicy::Wait));
            let top = if restored { at(7, 5) } else { at(7, 3) };
            let gaps = if restored { GapPolicy::Wait } else { GapPolicy::Announce };
            assert!(!slot.waits_for_start(top, gaps) && !slot.doubts_start());
            let announced = if restored { vec![] } else { vec![(at(7, 3), at(7, 5))] };
            assert_eq!(*outlet.1.lock(), announced);
        }
    }
}
