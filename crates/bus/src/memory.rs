//! The bus inside one process: sessions, logs and lanes in maps. It keeps the same promises as the bus over Redis. An
//! append passes its events directly to the lanes, so no queue between them can overflow.

use crate::{
    Appended, AttachError, Attachment, Batch, Broker, BusConfig, BusError, CONTROL_QUEUE, CatchUp, Claim,
    ClaimError, ClaimRequest, Control, Counters, CountersSnapshot, Delivery, LaneEnd, Outlet, Refused, Start,
    attachment::{Backend, TAKEOVER_WAIT},
    batch::Entry,
    open_lane::{OpenLane, PageEnd},
    rules::{
        AppendOutcome, AttachOutcome, Attaching, ClaimOutcome, Claiming, Effect, Ending, HOLE, LogEntry,
        OVER, Plays, Record,
    },
};
use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use protocol::{GapPolicy, Position, SessionId};
use std::{collections::HashMap, sync::Arc, time::Instant};
use tokio::sync::{Notify, mpsc, watch};

/// Number of sessions created between two removals of expired sessions.
const SWEEP_EVERY: usize = 1024;

/// The name of the only process on this bus.
const HERE: &str = "here";

/// A bus inside one process.
pub struct MemoryBroker(Arc<Inner>);

struct Inner {
    config: BusConfig,
    plays: Arc<Plays>,
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

struct Session {
    state: Mutex<State>,
    released: Notify,
}

struct State {
    record: Record,
    touched: Instant,
    lane: Option<Arc<OpenLane>>,
    /// The newest epoch that was released.
    released_epoch: u64,
}

impl Default for Session {
    fn default() -> Self {
        let state =
            State { record: Record::default(), touched: Instant::now(), lane: None, released_epoch: 0 };
        Self { state: Mutex::new(state), released: Notify::new() }
    }
}

impl MemoryBroker {
    /// Creates an empty bus.
    #[must_use]
    pub fn new(config: BusConfig) -> Self {
        let (control, reader) = mpsc::channel(CONTROL_QUEUE);
        Self(Arc::new(Inner {
            config,
            plays: Arc::default(),
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
                let ttl = if state.record.is_over() { OVER.min(ttl) } else { ttl };
                state.record.running.is_some() || state.lane.is_some() || state.touched.elapsed() < ttl
            });
        }
        sessions.by_id.entry(session).or_default().clone()
    }

    fn is_logged(&self) -> bool {
        self.config.delivery == Delivery::Log
    }

    /// Takes a step on a session's record and delivers its effects.
    fn step<T>(
        &self,
        id: SessionId,
        state: &mut State,
        step: impl FnOnce(&mut Record, &mut dyn FnMut(Effect<'_>) -> u64) -> T,
    ) -> T {
        let State { record, lane, .. } = state;
        step(record, &mut |effect| match effect {
            Effect::Publish { prefix, frame } => lane.as_ref().map_or(0, |lane| {
                lane.live(prefix, frame);
                1
            }),
            Effect::Cancel { generation, .. } => {
                let sent = self.control.try_send(Control::Cancel { session: id, generation });
                Counters::add(&self.counters.control_dropped, u64::from(sent.is_err()));
                1
            }
            Effect::Takeover { .. } => lane.as_ref().map_or(0, |lane| {
                lane.end(LaneEnd::TakenOver);
                1
            }),
            Effect::Released { .. } => 1,
        })
    }

    fn append_one(&self, index: usize, entry: &Entry<'_>, ending: Ending, appended: &mut Appended) {
        let stale = (entry.session, entry.prefix.position.generation);
        let Some(session) = self.get(entry.session) else {
            appended.stale.push(stale);
            return;
        };
        let mut state = session.state.lock();
        let logged = self.is_logged();
        let outcome = self.step(entry.session, &mut state, |record, out| {
            record.append(entry.prefix, entry.frame, ending, logged, out)
        });
        match outcome {
            AppendOutcome::Taken { receivers } => {
                Counters::add(&self.counters.appended, 1);
                appended.unheard += u64::from(receivers == 0);
            }
            AppendOutcome::Repeated | AppendOutcome::Moved { .. } => {}
            AppendOutcome::Hole => appended.refused.push(Refused {
                index,
                session: entry.session,
                generation: stale.1,
                words: HOLE.to_owned(),
            }),
            AppendOutcome::Stale if appended.stale.last() == Some(&stale) => {}
            AppendOutcome::Stale => appended.stale.push(stale),
        }
        if entry.prefix.kind.is_terminator() {
            state.touched = Instant::now();
        }
    }
}

#[async_trait]
impl Broker for MemoryBroker {
    async fn create(&self, id: SessionId) -> Result<(), BusError> {
        let session = self.0.get_or_insert(id);
        let mut state = session.state.lock();
        state.record.create();
        state.touched = Instant::now();
        Ok(())
    }

    async fn claim(&self, id: SessionId, request: ClaimRequest) -> Result<Claim, ClaimError> {
        let session = self.0.get(id).ok_or(ClaimError::Unknown)?;
        let mut state = session.state.lock();
        let claiming = Claiming {
            query: &request.query_id,
            answer: &request.answer,
            owner: HERE,
            now_ms: unix_ms(),
            keep: self.0.config.log_entries,
            known: 0,
            complete: true,
            listed: true,
        };
        let logged = self.0.is_logged();
        let claimed = self.0.step(id, &mut state, |record, out| record.claim(claiming, logged, out));
        state.touched = Instant::now();
        match claimed {
            ClaimOutcome::Now { generation, .. } => Ok(Claim { generation, repeat_of: None }),
            ClaimOutcome::Before { generation, answer, .. } => {
                Ok(Claim { generation, repeat_of: Some(answer) })
            }
            ClaimOutcome::Unknown => Err(ClaimError::Unknown),
            ClaimOutcome::Past => Err(ClaimError::Past),
            ClaimOutcome::Closed => Err(ClaimError::Closed),
            ClaimOutcome::Busy => Err(ClaimError::Busy),
            ClaimOutcome::Unlisted => Err(BusError::Restoring.into()),
        }
    }

    async fn recall(&self, id: SessionId, query_id: &str) -> Result<Option<Claim>, BusError> {
        let Some(session) = self.0.get(id) else { return Ok(None) };
        let record = &session.state.lock().record;
        let same = record.generation > 0 && record.query == query_id;
        Ok(same.then(|| Claim { generation: record.generation, repeat_of: Some(record.answer.clone()) }))
    }

    async fn append(&self, batch: &Batch) -> Result<Appended, BusError> {
        let (mut appended, ending) = (Appended::default(), ending());
        for (index, entry) in batch.iter().enumerate() {
            let refused = |refused: &Refused| {
                (refused.session, refused.generation) == (entry.session, entry.prefix.position.generation)
            };
            if !appended.refused.iter().any(refused) {
                self.0.append_one(index, &entry, ending, &mut appended);
            }
        }
        appended.taken = batch.len();
        Counters::add(&self.0.counters.unheard, appended.unheard);
        Ok(appended)
    }

    async fn release_claims(&self, terminators: &Batch) -> Result<Appended, BusError> {
        let mut appended = Appended { taken: terminators.len(), ..Appended::default() };
        for entry in terminators.iter() {
            let Some(session) = self.0.get(entry.session) else { continue };
            let mut state = session.state.lock();
            let receivers = self.0.step(entry.session, &mut state, |record, out| {
                record.release_claim(HERE, entry.prefix, entry.frame, out)
            });
            appended.unheard += u64::from(receivers == Some(0));
            state.touched = Instant::now();
        }
        Ok(appended)
    }

    fn plays(&self) -> &Arc<Plays> {
        &self.0.plays
    }

    async fn close(&self, id: SessionId) -> Result<bool, BusError> {
        let Some(session) = self.0.get(id) else { return Ok(false) };
        let mut state = session.state.lock();
        state.touched = Instant::now();
        let logged = self.0.is_logged();
        Ok(self.0.step(id, &mut state, |record, out| record.close(HERE, ending(), logged, out)))
    }

    async fn attach(
        &self,
        id: SessionId,
        start: Start,
        outlet: Arc<dyn Outlet>,
    ) -> Result<Attachment, AttachError> {
        let session = self.0.get_or_insert(id);
        let lane = OpenLane::new(outlet, self.0.config.delivery, self.0.counters.clone());
        let attached = {
            let mut state = session.state.lock();
            let now_ms = unix_ms();
            let after = start.named();
            let attaching = Attaching { holder: HERE, now_ms, deadline_ms: now_ms, after, young: false };
            let attached = match self.0.step(id, &mut state, |record, out| record.attach(attaching, out)) {
                AttachOutcome::Done(attached) => attached,
                AttachOutcome::Late => return Err(BusError::Late.into()),
                AttachOutcome::Beyond { top } => {
                    let position = after.unwrap_or_default();
                    return Err(AttachError::Beyond { position, top });
                }
            };
            if attached.notified == 0 {
                state.released_epoch = attached.before;
            }
            state.lane = Some(lane.clone());
            lane.set_epoch(attached.epoch);
            attached
        };
        let start = match start {
            Start::After(position) => position,
            Start::Cursor => {
                // A holder that does not reply in time leaves the cursor where it was. Then some events come twice.
                let _ = tokio::time::timeout(TAKEOVER_WAIT, session.wait_released(attached.before)).await;
                session.state.lock().record.cursor
            }
        };
        lane.begin(start);
        Ok(Attachment { session: id, lane, backend: self.0.clone() })
    }

    async fn send_up(&self, _session: SessionId, _message: Bytes) -> Result<(), BusError> {
        // No code can subscribe to an up channel inside one process, so the message has no receiver.
        Ok(())
    }

    fn control(&self) -> Option<mpsc::Receiver<Control>> {
        self.0.control_reader.lock().take()
    }

    async fn leave(&self) -> Result<bool, BusError> {
        // There is no other server.
        Ok(true)
    }

    fn ready(&self) -> watch::Receiver<bool> {
        self.0.ready.subscribe()
    }

    fn counters(&self) -> CountersSnapshot {
        self.0.counters.snapshot()
    }
}

impl Session {
    /// Waits until the attachment with this epoch, or a later one, has been released.
    async fn wait_released(&self, epoch: u64) {
        loop {
            let released = self.released.notified();
            tokio::pin!(released);
            released.as_mut().enable();
            if self.state.lock().released_epoch >= epoch {
                return;
            }
            released.await;
        }
    }
}

#[async_trait]
impl Backend for Inner {
    async fn read_page(
        &self,
        id: SessionId,
        lane: &Arc<OpenLane>,
        limit: usize,
    ) -> Result<CatchUp, BusError> {
        let (last, read_start) = lane.begin_read();
        let mut page = PageEnd::EndOfLog;
        if let Some(session) = self.get(id) {
            let state = session.state.lock();
            let log = &state.record.log;
            let first = log.partition_point(|entry| entry.prefix.position <= last);
            for LogEntry { prefix, frame } in log.iter().skip(first).take(limit) {
                lane.logged(*prefix, frame, GapPolicy::Announce);
            }
            if log.len().saturating_sub(first) > limit {
                page = PageEnd::Full;
            }
        }
        Ok(lane.end_read(read_start, page, GapPolicy::Announce))
    }

    async fn release(
        &self,
        id: SessionId,
        lane: &OpenLane,
        cursor: Option<Position>,
    ) -> Result<(), BusError> {
        let Some(session) = self.get(id) else { return Ok(()) };
        let mut state = session.state.lock();
        let epoch = lane.epoch();
        self.step(id, &mut state, |record, out| record.release(epoch, cursor, out));
        state.released_epoch = state.released_epoch.max(epoch);
        state.touched = Instant::now();
        session.released.notify_waiters();
        Ok(())
    }

    fn forget(self: Arc<Self>, id: SessionId, lane: &Arc<OpenLane>) {
        let Some(session) = self.get(id) else { return };
        let mut state = session.state.lock();
        if state.lane.as_ref().is_some_and(|current| Arc::ptr_eq(current, lane)) {
            state.lane = None;
        }
    }
}

/// The parameters of a log's end. This broker never loses data, so its logs are always complete.
fn ending() -> Ending {
    Ending { now_ms: unix_ms(), complete: true }
}

fn unix_ms() -> u64 {
    u64::try_from(host::unix_time().as_millis()).unwrap_or(u64::MAX)
}
