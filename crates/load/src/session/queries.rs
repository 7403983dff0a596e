//! The queries of a session: the current one, the previous one, and how the finished ones ended.

use crate::query::{End, Progress, Query};
use measure::{
    defects::{Defect, Defects},
    record::{Failure, QueryStatus},
};
use protocol::{Event, Position, RunResponse};
use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    time::Instant,
};

/// Upper limit of the failed attempts of a call that are kept for the query's timeline.
const MOST_FAILURES: usize = 8;

/// The progress of a query's call. Shared between the call, which sets it, and the session.
#[derive(Default)]
pub(super) struct CallProgress {
    sent: Cell<Option<Instant>>,
    /// The first failed attempts.
    failures: RefCell<Vec<(Instant, String)>>,
    refusal: RefCell<Option<Box<Failure>>>,
}

impl CallProgress {
    /// Notes when the query was sent.
    pub(super) fn sent(&self, at: Instant) {
        self.sent.set(Some(at));
    }

    /// Notes the failure of an attempt. It is a refusal if the server returned a status.
    pub(super) fn failed(&self, failure: &Failure) {
        let mut failures = self.failures.borrow_mut();
        if failures.len() < MOST_FAILURES {
            failures.push((Instant::now(), failure.message.clone()));
        }
        *self.refusal.borrow_mut() = failure.code.map(|_| Box::new(failure.clone()));
    }
}

/// The queries of a session.
#[derive(Default)]
pub(super) struct Queries {
    /// The query that runs, or that ran last.
    current: Option<Query>,
    /// The query before the current one. Tells late events from duplicates.
    previous: Option<Box<Query>>,
    /// The last position of all queries before the current one.
    last: Position,
    /// The progress of the current query's call.
    call: Rc<CallProgress>,
    /// Number of queries that began.
    begun: u32,
    /// Number of queries that ended `ok`.
    ok: u32,
    /// Number of queries that the run's end cut off.
    cut_off: u32,
    /// Number of queries that timed out while the generator stood still.
    excused: u32,
}

impl Queries {
    /// Starts query `num`, which is due at `due`. Returns its id and the progress of its call.
    pub(super) fn begin(
        &mut self,
        num: u32,
        due: Instant,
        waits_for_socket: bool,
    ) -> (String, Rc<CallProgress>) {
        let mut query = Query::new(num, uuid::Uuid::new_v4().to_string(), due, self.last.generation);
        query.waits_for_socket = waits_for_socket;
        let id = query.id.clone();
        self.current = Some(query);
        self.begun = num;
        self.call = Rc::default();
        (id, Rc::clone(&self.call))
    }

    /// Returns the query that runs or ran last.
    pub(super) const fn current(&self) -> Option<&Query> {
        self.current.as_ref()
    }

    /// Returns the query that runs or ran last.
    pub(super) const fn current_mut(&mut self) -> Option<&mut Query> {
        self.current.as_mut()
    }

    /// Returns the server's response to the current query's `/run`.
    pub(super) fn response(&self) -> Option<&RunResponse> {
        self.current.as_ref().and_then(|query| query.response.as_ref())
    }

    /// Returns when the current query was sent.
    pub(super) fn sent(&self) -> Option<Instant> {
        self.call.sent.get()
    }

    /// Takes the failed attempts of the call of the query that was taken last.
    pub(super) fn take_call_failures(&self) -> Vec<(Instant, String)> {
        self.call.failures.take()
    }

    /// Notes that the current query was sent, if it was not before. Returns whether this was the first time.
    pub(super) fn was_sent(&self, at: Instant) -> bool {
        let is_first = self.call.sent.get().is_none();
        if is_first {
            self.call.sent(at);
        }
        is_first
    }

    /// Notes that the server refused an attempt of the current query.
    pub(super) fn was_refused(&self, failure: &Failure) {
        self.call.failed(failure);
    }

    /// Returns the refusal of the current query if the server has refused the last complete attempt of `/run` and no event of the
    /// query has arrived.
    pub(super) fn refusal(&self) -> Option<Failure> {
        let query = self.current.as_ref()?;
        let is_unanswered = query.response.is_none() && query.own_stream().is_none();
        self.call.refusal.borrow().as_deref().filter(|_| is_unanswered).cloned()
    }

    /// Returns the progress of the current query. Finished if there is none.
    pub(super) fn progress(&self) -> Progress {
        self.current.as_ref().map_or(Progress::Finished, Query::progress)
    }

    /// Returns whether the server may still answer the query before the current one: it was accepted, and its end did not arrive.
    pub(super) fn previous_may_run(&self) -> bool {
        self.previous.as_ref().is_some_and(|query| query.response.is_some() && !query.is_whole())
    }

    /// Returns the number of queries that began.
    pub(super) const fn begun(&self) -> u32 {
        self.begun
    }

    /// Returns whether every query that began ended `ok`.
    pub(super) const fn all_ok(&self) -> bool {
        self.ok == self.begun
    }

    /// Returns whether every query that began ended `ok` or was cut off by the run's end.
    pub(super) const fn all_ok_or_cut_off(&self) -> bool {
        self.ok + self.cut_off == self.begun
    }

    /// Returns whether at least one query timed out while the generator stood still, and all others ended `ok`.
    pub(super) const fn all_ok_or_excused(&self) -> bool {
        self.excused > 0 && self.ok + self.excused == self.begun
    }

    /// Ends the current query, unless it ended before. `fatal`: the failure of the whole session.
    pub(super) fn end(&mut self, end: End, fatal: Option<&Failure>) {
        let Some(query) = &mut self.current else { return };
        let mut end = end;
        if let Some(failure) = fatal {
            query.fail(failure.kind.clone(), failure.code, failure.message.clone());
            if query.progress() == Progress::Running {
                end = End::Failed;
            }
        }
        query.finish(Instant::now(), end);
    }

    /// Takes the current query in order to record it. Its positions count as those of an earlier query from now on.
    pub(super) fn take_current(&mut self) -> Option<Query> {
        let mut query = self.current.take()?;
        query.sent = self.sent();
        let generation = query.ceiling();
        let position = query.last_position().unwrap_or(Position::ZERO);
        self.last = self.last.max(position).max(Position::new(generation, 0));
        Some(query)
    }

    /// Counts a recorded query, and keeps it to recognise its late events.
    pub(super) fn recorded(&mut self, query: Query, outcome: QueryStatus, excused: bool) {
        self.ok += u32::from(outcome == QueryStatus::Ok);
        self.cut_off += u32::from(outcome == QueryStatus::Abandoned);
        self.excused += u32::from(excused);
        self.previous = Some(Box::new(query));
    }

    /// Returns the defects of the query that runs or ran last.
    pub(super) fn defects(&mut self) -> Option<&mut Defects> {
        self.current.as_mut().map(|query| &mut query.defects)
    }

    /// Notes that a peer ended the current query with the terminator at `position`.
    pub(super) fn ended_by_peer(&mut self, position: Option<Position>) {
        self.last = self.last.max(position.unwrap_or_default());
    }

    /// Counts an event of an earlier query as a defect of the current one if it arrived before or is after its terminator.
    pub(super) fn earlier_event(&mut self, event: &Event<'_>, frame: &str) {
        let (Some(position), Some(query)) = (event.position, &mut self.current) else { return };
        if self.previous.as_ref().is_some_and(|previous| previous.is_behind_terminator(position)) {
            query.defects.note(Defect::AfterTerminator, frame.as_bytes());
            return;
        }
        let remembered = self.previous.as_ref().filter(|previous| previous.ceiling() == position.generation);
        if remembered.is_none_or(|previous| previous.has(position)) {
            query.defects.note(Defect::Duplicated, frame.as_bytes());
            query.tokens_repeated += u64::from(!event.kind.is_terminator());
        }
    }

    /// Returns whether the event at `position` arrived. Events of earlier queries count as arrived.
    pub(super) fn has(&self, position: Position) -> bool {
        position.generation <= self.last.generation
            || self.current.as_ref().is_some_and(|query| query.has(position))
    }

    /// Returns the last position that arrived.
    pub(super) fn last_position(&self) -> Position {
        self.current.as_ref().and_then(Query::last_position).unwrap_or_default().max(self.last)
    }

    /// Returns the position after which a new socket resumes.
    pub(super) fn resume_after(&self) -> Position {
        self.current.as_ref().and_then(Query::resume_after).unwrap_or_default().max(self.last)
    }

    /// Returns whether the last answer is complete and no event of another one arrived. The current query may have begun before
    /// the close frame after the last answer was read; `may_have_begun` allows that, once per socket.
    pub(super) fn is_between_answers(&self, may_have_begun: bool) -> bool {
        let is_whole = |query: Option<&Query>| query.is_some_and(Query::is_whole);
        let has_events = self.current.as_ref().is_some_and(|query| query.own_stream().is_some());
        is_whole(self.current.as_ref())
            || (!has_events && may_have_begun && is_whole(self.previous.as_deref()))
    }
}
