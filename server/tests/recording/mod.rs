//! A bus for tests: it records what it gets, and fails, stalls or refuses on demand. It has no lanes.

#![allow(dead_code, reason = "every test uses another part of it")]

use async_trait::async_trait;
use bus::{
    Appended, AttachError, Attachment, Batch, Broker, BusError, Claim, ClaimError, ClaimRequest, Control,
    CountersSnapshot, Outlet, Plays, Refused, Start,
};
use bytes::Bytes;
use parking_lot::Mutex;
use protocol::{Kind, Position, Prefix, SessionId};
use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::{mpsc, watch};

/// The recording bus.
pub struct RecordingBroker {
    state: Mutex<State>,
    /// While false, appends wait.
    gate: watch::Sender<bool>,
    ready: watch::Sender<bool>,
    control: mpsc::Sender<Control>,
    control_reader: Mutex<Option<mpsc::Receiver<Control>>>,
    plays: Arc<Plays>,
}

/// How an append fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Nothing arrived.
    Lost,
    /// Everything arrived, and the reply was lost.
    AnswerLost,
    /// The bus refused the call permanently.
    Refused,
}

#[derive(Default)]
struct State {
    sessions: HashMap<SessionId, Session>,
    events: Vec<(SessionId, Prefix, String)>,
    appends: usize,
    largest_append: usize,
    failures: Vec<Failure>,
    claim_failures: Vec<Failure>,
    stale: Vec<(SessionId, u64)>,
    refused: Vec<(SessionId, u64, String)>,
    /// Terminators that were published but not logged when their claims were released.
    released: Vec<(SessionId, Prefix, String)>,
    /// The error for each release of a claim, if releases are refused.
    refusing_releases: Option<String>,
    /// Number of entries of each append and each release.
    calls: Vec<usize>,
    claimed_at: Vec<tokio::time::Instant>,
    left: bool,
    /// Every n-th entry is refused with this error, counted over all appends.
    refusing: Option<(usize, String)>,
    entries_tried: usize,
}

#[derive(Default)]
struct Session {
    closed: bool,
    running: bool,
    generation: u64,
    query_id: String,
    answer: String,
    top: Position,
}

impl Default for RecordingBroker {
    fn default() -> Self {
        let (control, reader) = mpsc::channel(64);
        Self {
            state: Mutex::default(),
            gate: watch::Sender::new(true),
            ready: watch::Sender::new(true),
            control,
            control_reader: Mutex::new(Some(reader)),
            plays: Arc::default(),
        }
    }
}

impl RecordingBroker {
    /// Returns the events of all sessions in the order of arrival.
    pub fn events(&self) -> Vec<(SessionId, Prefix, String)> {
        self.state.lock().events.clone()
    }

    /// Returns the events of one session.
    pub fn events_of(&self, session: SessionId) -> Vec<(Prefix, String)> {
        let events = self.events();
        events.into_iter().filter(|event| event.0 == session).map(|event| (event.1, event.2)).collect()
    }

    /// Returns the [`shape`] of one session's events.
    pub fn shape_of(&self, session: SessionId) -> (usize, Option<Kind>) {
        shape(&self.events_of(session))
    }

    /// Returns the number of appends.
    pub fn appends(&self) -> usize {
        self.state.lock().appends
    }

    /// Returns the bytes of the largest append.
    pub fn largest_append(&self) -> usize {
        self.state.lock().largest_append
    }

    /// Makes the next appends fail, one per element.
    pub fn fail_appends(&self, failures: &[Failure]) {
        self.state.lock().failures.extend(failures);
    }

    /// Makes the next claims fail, one per element.
    pub fn fail_claims(&self, failures: &[Failure]) {
        self.state.lock().claim_failures.extend(failures);
    }

    /// Rejects events of this generation as stale from now on.
    pub fn fence_off(&self, session: SessionId, generation: u64) {
        self.state.lock().stale.push((session, generation));
    }

    /// Refuses events of this generation with this error, until [`Self::accept`].
    pub fn refuse(&self, session: SessionId, generation: u64, words: &str) {
        self.state.lock().refused.push((session, generation, words.to_owned()));
    }

    /// Refuses releases of claims with this error, until [`Self::accept`].
    pub fn refuse_releases(&self, words: &str) {
        self.state.lock().refusing_releases = Some(words.to_owned());
    }

    /// Returns the terminators of a session that were published but not logged.
    pub fn released(&self, session: SessionId) -> Vec<(Prefix, String)> {
        let state = self.state.lock();
        let of = state.released.iter().filter(|released| released.0 == session);
        of.map(|released| (released.1, released.2.clone())).collect()
    }

    /// Returns the number of entries of each append and each release, in order.
    pub fn calls(&self) -> Vec<usize> {
        self.state.lock().calls.clone()
    }

    /// Returns the times of all calls to claim.
    pub fn claimed_at(&self) -> Vec<tokio::time::Instant> {
        self.state.lock().claimed_at.clone()
    }

    /// Returns whether the server has left the bus.
    pub fn has_left(&self) -> bool {
        self.state.lock().left
    }

    /// Accepts events and releases of all sessions again.
    pub fn accept(&self) {
        let mut state = self.state.lock();
        state.refusing_releases = None;
        state.refused.clear();
        state.refusing = None;
    }

    /// Refuses every `nth` entry with this error, as an instance that refuses writes. 1 refuses all entries.
    pub fn refuse_every(&self, nth: usize, words: &str) {
        self.state.lock().refusing = Some((nth, words.to_owned()));
    }

    /// Lets appends through, or makes them wait.
    pub fn open_gate(&self, open: bool) {
        self.gate.send_replace(open);
    }

    /// Sets whether the bus is ready.
    pub fn set_ready(&self, ready: bool) {
        self.ready.send_replace(ready);
    }

    /// Waits until `wanted` returns true. Fails after five seconds.
    pub async fn until(&self, what: &str, wanted: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(5);
        while !wanted(self) {
            assert!(Instant::now() < deadline, "timeout while waiting for: {what}");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Waits until a terminator of the session arrived, and returns all its events.
    pub async fn until_terminated(&self, session: SessionId) -> Vec<(Prefix, String)> {
        let ended = |events: &[(Prefix, String)]| events.last().is_some_and(|(p, _)| p.kind.is_terminator());
        self.until("a terminator", |bus| ended(&bus.events_of(session))).await;
        self.events_of(session)
    }
}

#[async_trait]
impl Broker for RecordingBroker {
    async fn create(&self, session: SessionId) -> Result<(), BusError> {
        self.state.lock().sessions.insert(session, Session::default());
        Ok(())
    }

    async fn claim(&self, session: SessionId, request: ClaimRequest) -> Result<Claim, ClaimError> {
        let mut state = self.state.lock();
        state.claimed_at.push(tokio::time::Instant::now());
        let failure = (!state.claim_failures.is_empty()).then(|| state.claim_failures.remove(0));
        match failure {
            Some(Failure::Lost) => return Err(BusError::Unreachable("set to fail".into()).into()),
            Some(Failure::Refused) => {
                let words = "WRONGTYPE Operation against a key holding the wrong kind of value";
                return Err(BusError::Refused(words.into()).into());
            }
            _ => {}
        }
        let session = state.sessions.get_mut(&session).ok_or(ClaimError::Unknown)?;
        if session.query_id == request.query_id {
            return Ok(Claim { generation: session.generation, repeat_of: Some(session.answer.clone()) });
        }
        if session.closed {
            return Err(ClaimError::Closed);
        }
        if session.running {
            return Err(ClaimError::Busy);
        }
        session.running = true;
        session.generation += 1;
        session.query_id = request.query_id;
        session.answer = request.answer;
        match failure {
            Some(_) => Err(BusError::Unreachable("set to lose the answer".into()).into()),
            None => Ok(Claim { generation: session.generation, repeat_of: None }),
        }
    }

    async fn recall(&self, session: SessionId, query_id: &str) -> Result<Option<Claim>, BusError> {
        let state = self.state.lock();
        let session = state.sessions.get(&session).filter(|session| session.query_id == query_id);
        Ok(session
            .map(|session| Claim { generation: session.generation, repeat_of: Some(session.answer.clone()) }))
    }

    async fn append(&self, batch: &Batch) -> Result<Appended, BusError> {
        let mut gate = self.gate.subscribe();
        let _ = gate.wait_for(|open| *open).await;
        let mut state = self.state.lock();
        state.appends += 1;
        state.calls.push(batch.len());
        state.largest_append = state.largest_append.max(batch.bytes());
        let failure = (!state.failures.is_empty()).then(|| state.failures.remove(0));
        if failure == Some(Failure::Lost) {
            return Err(BusError::Unreachable("set to fail".into()));
        }
        let mut appended = Appended::default();
        for (index, entry) in batch.iter().enumerate() {
            let id = (entry.session, entry.prefix.position.generation);
            if appended.refused.iter().any(|refused| (refused.session, refused.generation) == id) {
                appended.taken += 1;
                continue;
            }
            state.entries_tried += 1;
            if let Some((nth, words)) = &state.refusing
                && state.entries_tried.is_multiple_of(*nth)
            {
                let error = BusError::Refused(words.clone());
                if appended.taken == 0 {
                    return Err(error);
                }
                appended.stopped = Some(error);
                break;
            }
            appended.taken += 1;
            if state.stale.contains(&id) {
                appended.stale.push(id);
                continue;
            }
            if let Some((session, generation, words)) =
                state.refused.iter().find(|refused| (refused.0, refused.1) == id).cloned()
            {
                appended.refused.push(Refused { index, session, generation, words });
                continue;
            }
            let session = state.sessions.entry(entry.session).or_default();
            if entry.prefix.position <= session.top {
                continue;
            }
            if session.top.generation == id.1 {
                assert_eq!(entry.prefix.position, session.top.next(), "a hole is left behind");
            }
            session.top = entry.prefix.position;
            session.running &= !entry.prefix.kind.is_terminator();
            let frame = String::from_utf8(entry.frame.to_vec()).expect("frames are UTF-8");
            state.events.push((entry.session, entry.prefix, frame));
            appended.unheard += 1;
        }
        match failure {
            Some(_) => Err(BusError::Unreachable("set to lose the answer".into())),
            None => Ok(appended),
        }
    }

    async fn release_claims(&self, terminators: &Batch) -> Result<Appended, BusError> {
        let mut state = self.state.lock();
        state.calls.push(terminators.len());
        let mut appended = Appended { taken: terminators.len(), ..Appended::default() };
        for (index, entry) in terminators.iter().enumerate() {
            assert!(entry.prefix.kind.is_terminator(), "{:?} releases nothing", entry.prefix);
            let (session, generation) = (entry.session, entry.prefix.position.generation);
            if let Some(words) = state.refusing_releases.clone() {
                appended.refused.push(Refused { index, session, generation, words });
                continue;
            }
            let frame = String::from_utf8(entry.frame.to_vec()).expect("frames are UTF-8");
            state.sessions.entry(session).or_default().running = false;
            state.released.push((session, entry.prefix, frame));
        }
        Ok(appended)
    }

    fn plays(&self) -> &Arc<Plays> {
        &self.plays
    }

    async fn close(&self, session: SessionId) -> Result<bool, BusError> {
        let cancel = {
            let mut state = self.state.lock();
            let Some(known) = state.sessions.get_mut(&session) else { return Ok(false) };
            known.closed = true;
            known.running.then_some(Control::Cancel { session, generation: known.generation })
        };
        if let Some(cancel) = cancel {
            let _ = self.control.send(cancel).await;
        }
        Ok(true)
    }

    async fn attach(
        &self,
        _session: SessionId,
        _start: Start,
        _outlet: Arc<dyn Outlet>,
    ) -> Result<Attachment, AttachError> {
        Err(BusError::Refused("this bus has no lanes".into()).into())
    }

    async fn send_up(&self, _session: SessionId, _message: Bytes) -> Result<(), BusError> {
        Err(BusError::Refused("this bus has no lanes".into()))
    }

    fn control(&self) -> Option<mpsc::Receiver<Control>> {
        self.control_reader.lock().take()
    }

    async fn leave(&self) -> Result<bool, BusError> {
        let idle = self.plays.sessions().is_empty();
        self.state.lock().left |= idle;
        Ok(idle)
    }

    fn ready(&self) -> watch::Receiver<bool> {
        self.ready.subscribe()
    }

    fn counters(&self) -> CountersSnapshot {
        CountersSnapshot { appended: self.state.lock().events.len() as u64, ..CountersSnapshot::default() }
    }
}

/// Checks that the events have one generation and the sequence numbers 1, 2, 3 …. Returns the number of tokens and the kind of the
/// terminator, for example `(18, Some(Kind::Done))`.
pub fn shape(events: &[(Prefix, String)]) -> (usize, Option<Kind>) {
    let generation = events.first().map_or(0, |(prefix, _)| prefix.position.generation);
    let positions: Vec<_> = events.iter().map(|(prefix, _)| prefix.position).collect();
    assert!(
        (1..).map(|seq| Position::new(generation, seq)).zip(&positions).all(|(next, at)| next == *at),
        "{positions:?}"
    );
    let tokens = events.iter().filter(|(prefix, _)| prefix.kind == Kind::Token).count();
    let last = events.last().map(|(prefix, _)| prefix.kind).filter(|kind| kind.is_terminator());
    (tokens, last)
}
