//! The bus inside one process: sessions, logs and lanes in maps, the same promises as over Redis.
//! An append hands its events to the lanes itself, so nothing is queued in between and nothing can overflow.

use crate::{
    Appended, Attachment, Batch, Broker, BusConfig, BusError, CatchUp, Claim, ClaimError, ClaimRequest,
    Control, Counters, CountersSnapshot, Delivery, LaneEnd, Outlet, Start,
    attachment::Backend,
    batch::Entry,
    hub::{PageEnd, Slot},
};
use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use protocol::{Kind, Position, Prefix, SessionId, encode_closed, encode_fence};
use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use tokio::sync::{Notify, mpsc, watch};

/// How long a newcomer without a position waits for the cursor of the socket that it takes over from.
pub(crate) const TAKEOVER_WAIT: Duration = Duration::from_millis(500);

/// How many [`Control`] messages wait for their reader at most.
pub(crate) const CONTROL_QUEUE: usize = 4096;

/// Expired sessions are swept out at every so many creations.
const SWEEP_EVERY: usize = 1024;

/// A bus inside one process.
pub struct MemoryBroker(Arc<Inner>);

struct Inner {
    config: BusConfig,
    counters: Arc<Counters>,
    sessions: Mutex<Sessions>,
    control: mpsc::Sender<Control>,
    control_reader: Mutex<Option<mpsc::Receiver<Control>>>,
    ready: watch::Sender<bool>,
}

#[derive(Default)]
struct Sessions {
    by_id: HashMap<SessionId, Arc<Session>>,
    created: usize,
}

#[derive(Default)]
struct Session {
    state: Mutex<State>,
    released: Notify,
}

struct State {
    /// Made by `create`; a session that was only attached to has no meta.
    exists: bool,
    closed: bool,
    generation: u64,
    running: bool,
    query_id: String,
    answer: String,
    log: VecDeque<(Prefix, Box<[u8]>)>,
    /// The highest position ever written.
    top: Position,
    touched: Instant,
    slot: Option<Arc<Slot>>,
    epoch: u64,
    released_epoch: u64,
    cursor: Position,
    cursor_epoch: u64,
}

impl Default for State {
    fn default() -> Self {
        Self {
            exists: false,
            closed: false,
            generation: 0,
            running: false,
            query_id: String::new(),
            answer: String::new(),
            log: VecDeque::new(),
            top: Position::ZERO,
            touched: Instant::now(),
            slot: None,
            epoch: 0,
            released_epoch: 0,
            cursor: Position::ZERO,
            cursor_epoch: 0,
        }
    }
}

impl State {
    /// Writes an event to the log and hands it to the lane; false if no lane is open.
    fn publish(&mut self, delivery: Delivery, prefix: Prefix, frame: &[u8]) -> bool {
        self.top = self.top.max(prefix.position);
        if delivery == Delivery::Log {
            self.log.push_back((prefix, frame.into()));
        }
        match &self.slot {
            Some(slot) => {
                slot.live(prefix, frame);
                true
            }
            None => false,
        }
    }

    fn publish_closed(&mut self, delivery: Delivery) {
        let position = self.top.next();
        let mut frame = Vec::new();
        encode_closed(&mut frame, position);
        self.publish(delivery, Prefix { position, kind: Kind::Closed }, &frame);
    }
}

impl MemoryBroker {
    /// An empty bus.
    #[must_use]
    pub fn new(config: BusConfig) -> Self {
        let (control, reader) = mpsc::channel(CONTROL_QUEUE);
        Self(Arc::new(Inner {
            config,
            counters: Arc::default(),
            sessions: Mutex::default(),
            control,
            control_reader: Mutex::new(Some(reader)),
            ready: watch::Sender::new(true),
        }))
    }
}

impl Inner {
    fn get(&self, session: SessionId) -> Option<Arc<Session>> {
        self.sessions.lock().by_id.get(&session).cloned()
    }

    fn get_or_insert(&self, session: SessionId) -> Arc<Session> {
        let mut sessions = self.sessions.lock();
        sessions.created += 1;
        if sessions.created.is_multiple_of(SWEEP_EVERY) {
            let ttl = self.config.session_ttl;
            sessions.by_id.retain(|_, session| {
                let state = session.state.lock();
                state.running || state.slot.is_some() || state.touched.elapsed() < ttl
            });
        }
        sessions.by_id.entry(session).or_default().clone()
    }

    fn append_one(&self, entry: &Entry<'_>, appended: &mut Appended) {
        let Prefix { position, kind } = entry.prefix;
        let stale = (entry.session, position.generation);
        let Some(session) = self.get(entry.session) else {
            appended.stale.push(stale);
            return;
        };
        let mut state = session.state.lock();
        if position.generation < state.generation {
            if appended.stale.last() != Some(&stale) {
                appended.stale.push(stale);
            }
            return;
        }
        if position <= state.top {
            return;
        }
        Counters::add(&self.counters.appended, 1);
        if !state.publish(self.config.delivery, entry.prefix, entry.frame) {
            appended.unheard += 1;
        }
        if kind.is_terminator() {
            state.running = false;
            state.touched = Instant::now();
            if state.closed {
                state.publish_closed(self.config.delivery);
            }
        }
    }
}

#[async_trait]
impl Broker for MemoryBroker {
    async fn create(&self, session: SessionId) -> Result<(), BusError> {
        let entry = self.0.get_or_insert(session);
        let mut state = entry.state.lock();
        state.exists = true;
        state.touched = Instant::now();
        Ok(())
    }

    async fn claim(&self, session: SessionId, request: ClaimRequest) -> Result<Claim, ClaimError> {
        let session = self.0.get(session).ok_or(ClaimError::Unknown)?;
        let mut state = session.state.lock();
        if !state.exists {
            return Err(ClaimError::Unknown);
        }
        if state.generation > 0 && state.query_id == request.query_id {
            return Ok(Claim { generation: state.generation, repeat_of: Some(state.answer.clone()) });
        }
        if state.closed {
            return Err(ClaimError::Closed);
        }
        if state.running {
            return Err(ClaimError::Busy);
        }
        let generation = state.top.generation.max(state.generation).saturating_add(1).max(unix_ms());
        let keep = self.0.config.log_entries;
        let surplus = state.log.len().saturating_sub(keep);
        state.log.drain(..surplus);
        state.log.shrink_to(keep);
        let prev = state.top;
        let mut frame = Vec::new();
        encode_fence(&mut frame, generation, prev);
        let prefix = Prefix { position: Position::new(generation, 0), kind: Kind::Fence { prev } };
        state.generation = generation;
        state.running = true;
        state.query_id = request.query_id;
        state.answer = request.answer;
        state.touched = Instant::now();
        state.publish(self.0.config.delivery, prefix, &frame);
        Ok(Claim { generation, repeat_of: None })
    }

    async fn append(&self, batch: &Batch) -> Result<Appended, BusError> {
        let mut appended = Appended::default();
        for entry in batch.iter() {
            self.0.append_one(&entry, &mut appended);
        }
        Counters::add(&self.0.counters.unheard, appended.unheard);
        Ok(appended)
    }

    async fn close(&self, id: SessionId) -> Result<bool, BusError> {
        let Some(session) = self.0.get(id) else { return Ok(false) };
        let mut state = session.state.lock();
        if !state.exists {
            return Ok(false);
        }
        let again = std::mem::replace(&mut state.closed, true);
        state.touched = Instant::now();
        if state.running {
            let cancel = Control::Cancel { session: id, generation: state.generation };
            if self.0.control.try_send(cancel).is_err() {
                Counters::add(&self.0.counters.control_dropped, 1);
            }
        } else if !again {
            state.publish_closed(self.0.config.delivery);
        }
        Ok(true)
    }

    async fn attach(
        &self,
        id: SessionId,
        start: Start,
        outlet: Arc<dyn Outlet>,
    ) -> Result<Attachment, BusError> {
        let session = self.0.get_or_insert(id);
        let slot = Slot::new(outlet, self.0.config.delivery, self.0.counters.clone());
        let epoch = {
            let mut state = session.state.lock();
            state.epoch += 1;
            if let Some(before) = state.slot.replace(slot.clone()) {
                before.end(LaneEnd::TakenOver);
            } else {
                state.released_epoch = state.epoch - 1;
            }
            state.epoch
        };
        let start = match start {
            Start::After(position) => position,
            Start::Cursor => {
                // A holder that does not answer in time leaves the cursor where it was: some events come twice.
                let _ = tokio::time::timeout(TAKEOVER_WAIT, session.released_before(epoch)).await;
                session.state.lock().cursor
            }
        };
        slot.begin(epoch, start);
        Ok(Attachment { session: id, slot, backend: self.0.clone() })
    }

    async fn send_up(&self, _session: SessionId, _message: Bytes) -> Result<(), BusError> {
        // Nobody can subscribe to an up channel inside one process yet: as with PUBLISH, nobody hears it.
        Ok(())
    }

    fn control(&self) -> Option<mpsc::Receiver<Control>> {
        self.0.control_reader.lock().take()
    }

    fn ready(&self) -> watch::Receiver<bool> {
        self.0.ready.subscribe()
    }

    fn counters(&self) -> CountersSnapshot {
        self.0.counters.snapshot()
    }
}

impl Session {
    /// Every attachment before this epoch has been released.
    async fn released_before(&self, epoch: u64) {
        loop {
            let released = self.released.notified();
            tokio::pin!(released);
            released.as_mut().enable();
            if self.state.lock().released_epoch + 1 >= epoch {
                return;
            }
            released.await;
        }
    }
}

#[async_trait]
impl Backend for Inner {
    async fn read_page(&self, id: SessionId, slot: &Slot, limit: usize) -> Result<CatchUp, BusError> {
        let (last, mark) = slot.begin_read();
        let mut at_end = true;
        if let Some(session) = self.get(id) {
            let state = session.state.lock();
            let first = state.log.partition_point(|(prefix, _)| prefix.position <= last);
            for (prefix, frame) in state.log.iter().skip(first).take(limit) {
                slot.logged(*prefix, frame);
            }
            at_end = state.log.len().saturating_sub(first) <= limit;
        }
        Ok(slot.end_read(mark, at_end).into())
    }

    async fn release(&self, id: SessionId, slot: &Slot, cursor: Option<Position>) -> Result<(), BusError> {
        let Some(session) = self.get(id) else { return Ok(()) };
        let mut state = session.state.lock();
        let epoch = slot.epoch();
        if let Some(cursor) = cursor.filter(|_| epoch > state.cursor_epoch) {
            state.cursor = cursor;
            state.cursor_epoch = epoch;
        }
        state.released_epoch = state.released_epoch.max(epoch);
        state.touched = Instant::now();
        session.released.notify_waiters();
        Ok(())
    }

    fn forget(&self, id: SessionId, slot: &Arc<Slot>) {
        let Some(session) = self.get(id) else { return };
        let mut state = session.state.lock();
        if state.slot.as_ref().is_some_and(|current| Arc::ptr_eq(current, slot)) {
            state.slot = None;
        }
    }
}

impl From<PageEnd> for CatchUp {
    fn from(end: PageEnd) -> Self {
        match end {
            PageEnd::Live(at) => Self::Live { at },
            PageEnd::More => Self::More,
            PageEnd::Ended => Self::Ended,
        }
    }
}

fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
