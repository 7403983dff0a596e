//! What happened to a session: the times of its calls, its reconnects, gaps and defects, and its failure.

use super::planned::PlannedSession;
use crate::connection::AttemptTime;
use measure::{
    defects::{Defect, Defects},
    record::{Failure, Moment, Reconnect, SessionRecord},
    timeline::{NoteEvent, Notes},
};
use protocol::{Position, SessionId};
use std::{
    cell::Cell,
    rc::Rc,
    time::{Duration, Instant},
};

/// Collects the data of a session's record.
pub(super) struct SessionLog {
    started: Instant,
    create: Option<AttemptTime>,
    connect: Option<AttemptTime>,
    first_socket: Option<Duration>,
    close: Option<Duration>,
    /// Attempts to reconnect. Shared with the connection, which makes them.
    attempts: Rc<Cell<u64>>,
    reconnects: Vec<Reconnect>,
    sockets_cut: u64,
    paused: bool,
    announced_gaps: u64,
    announced_gap_positions: u64,
    /// Defects that arrived while no query was running.
    defects: Defects,
    events_replayed: u64,
    frames_rolled: u64,
    tokens_rolled: u64,
    close_codes: Vec<u16>,
    old_contract: bool,
    failure: Option<Failure>,
    /// What happened since the last query that was recorded.
    notes: Notes,
}

impl SessionLog {
    /// Creates the log of a session that starts now.
    pub(super) fn new() -> Self {
        Self {
            started: Instant::now(),
            create: None,
            connect: None,
            first_socket: None,
            close: None,
            attempts: Rc::default(),
            reconnects: Vec::new(),
            sockets_cut: 0,
            paused: false,
            announced_gaps: 0,
            announced_gap_positions: 0,
            defects: Defects::default(),
            events_replayed: 0,
            frames_rolled: 0,
            tokens_rolled: 0,
            close_codes: Vec::new(),
            old_contract: false,
            failure: None,
            notes: Notes::default(),
        }
    }

    /// Adds a note for the timeline of the query that runs or comes next.
    pub(super) fn note(&mut self, at: Moment, event: NoteEvent) {
        self.notes.add(at, event);
    }

    /// Takes the notes of a query that ended at `ended`.
    pub(super) fn take_notes(&mut self, ended: Moment) -> Notes {
        self.notes.take_until(ended)
    }

    /// Returns the counter of attempts to reconnect.
    pub(super) fn attempts(&self) -> Rc<Cell<u64>> {
        Rc::clone(&self.attempts)
    }

    /// Notes how long the creation of the session took.
    pub(super) const fn created(&mut self, time: AttemptTime) {
        self.create = Some(time);
    }

    /// Notes how long the opening of the session's first socket took. Later sockets do not count.
    pub(super) fn connected(&mut self, time: AttemptTime) {
        self.connect.get_or_insert(time);
    }

    /// Notes how long the session waited for its first socket because its first attempt failed.
    pub(super) const fn waited_for_first_socket(&mut self, time: Duration) {
        self.first_socket = Some(time);
    }

    /// Notes how long the closing of the session took.
    pub(super) const fn closed(&mut self, time: Duration) {
        self.close = Some(time);
    }

    /// Adds a reconnect that succeeded.
    pub(super) fn reconnected(&mut self, reconnect: Reconnect) {
        self.reconnects.push(reconnect);
    }

    /// Counts a socket that the client cut.
    pub(super) const fn socket_cut(&mut self) {
        self.sockets_cut += 1;
    }

    /// Notes that the session paused reading.
    pub(super) const fn paused(&mut self) {
        self.paused = true;
    }

    /// Counts a gap that the gateway announced: the positions after `from`, up to and including `to`.
    pub(super) fn gap_announced(&mut self, at: Moment, from: Position, to: Position) {
        self.note(at, NoteEvent::Gap(from.to_string(), to.to_string()));
        self.announced_gaps += 1;
        let before = if from.generation == to.generation { from.seq } else { 0 };
        let positions = to.seq.saturating_sub(before);
        self.announced_gap_positions = self.announced_gap_positions.saturating_add(positions);
    }

    /// Counts a defect that arrived while no query was running.
    pub(super) fn defect(&mut self, defect: Defect, frame: &[u8]) {
        self.defects.note(defect, frame);
    }

    /// Counts event `seq`, which a new socket was allowed to repeat.
    pub(super) fn event_replayed(&mut self, at: Moment, seq: u64) {
        self.events_replayed += 1;
        self.note(at, NoteEvent::Replayed(seq, seq, 1));
    }

    /// Counts a frame with this number of tokens.
    pub(super) const fn frame_rolled(&mut self, tokens: usize) {
        self.frames_rolled += 1;
        self.tokens_rolled += tokens as u64;
    }

    /// Adds the code of a close frame, if the socket ended with one.
    pub(super) fn close_code(&mut self, code: Option<u16>) {
        self.close_codes.extend(code);
    }

    /// Notes that the server follows the old contract.
    pub(super) const fn old_contract(&mut self) {
        self.old_contract = true;
    }

    /// Notes a failure, unless there was one before.
    pub(super) fn fail(&mut self, failure: Failure) {
        self.failure.get_or_insert(failure);
    }

    /// Returns the first failure.
    pub(super) const fn failure(&self) -> Option<&Failure> {
        self.failure.as_ref()
    }

    /// Returns the session's record as of `now`, without its verdict: `ok`, `cut_off` and `excused` are false.
    pub(super) fn record(
        &self,
        session: Option<SessionId>,
        planned: &PlannedSession,
        now: Instant,
        moment: impl Fn(Instant) -> Moment,
    ) -> SessionRecord {
        SessionRecord {
            session,
            index: planned.index,
            scheduled: moment(planned.scheduled),
            started: moment(self.started),
            ended: moment(now),
            create: self.create.map(|attempt| attempt.time),
            create_slack: self.create.map_or(Duration::ZERO, |attempt| attempt.slack),
            connect: self.connect.map(|attempt| attempt.time),
            connect_slack: self.connect.map_or(Duration::ZERO, |attempt| attempt.slack),
            first_socket: self.first_socket,
            close: self.close,
            reconnect_attempts: self.attempts.get(),
            reconnects: self.reconnects.clone(),
            sockets_cut: self.sockets_cut,
            paused: self.paused,
            announced_gaps: self.announced_gaps,
            announced_gap_positions: self.announced_gap_positions,
            defects: self.defects.clone(),
            events_replayed: self.events_replayed,
            frames_rolled: self.frames_rolled,
            tokens_rolled: self.tokens_rolled,
            close_codes: self.close_codes.clone(),
            ok: false,
            cut_off: false,
            excused: false,
            old_contract: self.old_contract,
            failure: self.failure.clone(),
        }
    }
}
