//! The outcome of a session: the records of its queries and its own record.

use super::Session;
use crate::{context::WorkerContext, query::Query};
use measure::{
    live::LiveCounters,
    record::{QueryRecord, QueryStatus, SessionRecord},
    timeline::NoteEvent,
};
use std::{rc::Rc, time::Instant};

impl Session {
    /// Records the current query, if there is one that was not recorded.
    pub(super) fn record_current(&mut self) {
        let Some(mut query) = self.queries.take_current() else { return };
        let worker = Rc::clone(&self.worker);
        let clock = self.delivery.is_clock_shared().then_some(worker.clock());
        let moment = |instant| worker.moment(instant);
        let (index, downtime) = (self.planned.index, self.connection.downtime());
        let now = Instant::now();
        let mut record = query.record(self.id, index, moment, now, downtime, clock);
        record.excused = record.status == QueryStatus::Timeout
            && query.sent.is_some_and(|sent| worker.delay().stood_still(sent, now));
        if let Some(failure) = &mut record.failure {
            // A server may repeat secrets that it was sent in an event or a close frame.
            failure.message = self.hide(&failure.message);
        }
        if self.is_foreign() {
            record.defects.change_examples(|example| self.hide(example));
        }
        report_to_faults(&worker, &query, &record);
        self.keep_timeline(&query, &record);
        let is_failed = !matches!(record.status, QueryStatus::Ok | QueryStatus::Abandoned);
        LiveCounters::add(&worker.live().queries, 1);
        LiveCounters::add(&worker.live().lost, record.tally.tokens_lost);
        LiveCounters::add(&worker.live().errors, u64::from(is_failed));
        let samples = std::mem::take(&mut query.samples);
        self.queries.recorded(query, record.status, record.excused);
        worker.recorder().query_ended(record, &samples, || self.session_record(Instant::now()));
    }

    /// Records the timeline of a query that ended, if it may be one of those that are kept.
    fn keep_timeline(&mut self, query: &Query, record: &QueryRecord) {
        let worker = Rc::clone(&self.worker);
        let moment = |instant| worker.moment(instant);
        let mut notes = self.log.take_notes(record.ended);
        let mut recorder = worker.recorder();
        if !recorder.wants_timeline(record) {
            return;
        }
        for (at, message) in self.queries.take_call_failures() {
            notes.add(moment(at), NoteEvent::CallFailed(self.hide(&message)));
        }
        recorder.timeline(query.timeline(record, moment, notes));
    }

    /// Records the last query and the session. Returns false if the session failed.
    pub(super) fn record(mut self) -> bool {
        self.record_current();
        let now = Instant::now();
        let worker = Rc::clone(&self.worker);
        let begun = self.queries.begun();
        let unsent = begun + 1..=self.last_planned_query();
        let has_failed = self.log.failure().is_some();
        let mut queries = Vec::new();
        if has_failed {
            queries.extend(unsent.map(|num| self.unsent_query(num, now)));
            LiveCounters::add(&worker.live().errors, queries.len() as u64);
        } else if worker.stop().starting.is_cancelled() {
            worker.never_started(unsent.count() as u64);
        }
        let has_begun = begun > 0 || self.queries_planned().is_none() || self.planned_end().is_some();
        let all_ok = queries.is_empty() && self.queries.all_ok() && has_begun;
        let is_excusable = !has_failed && !all_ok && queries.is_empty();
        let record = SessionRecord {
            ok: all_ok && !has_failed,
            cut_off: is_excusable && self.queries.all_ok_or_cut_off(),
            excused: is_excusable && self.queries.all_ok_or_excused(),
            ..self.session_record(now)
        };
        worker.recorder().session_ended(record, queries);
        LiveCounters::add(&worker.live().ended, 1);
        !has_failed
    }

    fn session_record(&self, now: Instant) -> SessionRecord {
        self.log.record(self.id, &self.planned, now, |instant| self.worker.moment(instant))
    }

    /// Returns the number of the last query that the plan held for this session, whether or not it was sent.
    fn last_planned_query(&self) -> u32 {
        match self.queries_planned() {
            Some(planned) if self.planned_end().is_none() => planned,
            // Without a fixed number, a failure between two queries is recorded as that of the next query.
            _ => {
                let failed_between = self.log.failure().is_some() && self.queries.all_ok();
                self.queries.begun() + u32::from(failed_between)
            }
        }
    }

    fn unsent_query(&self, num: u32, now: Instant) -> QueryRecord {
        QueryRecord {
            session: self.id,
            failure: self.log.failure().cloned(),
            ..QueryRecord::unsent(self.planned.index, num, self.worker.moment(now))
        }
    }
}

/// Reports what the query's end shows about the effects of injected faults.
fn report_to_faults(worker: &WorkerContext, query: &Query, record: &QueryRecord) {
    let faults = &worker.run().faults;
    if let Some(code) = &record.error_code {
        faults.error_event(record.done.unwrap_or(record.ended), code);
        return;
    }
    if matches!(record.status, QueryStatus::Timeout | QueryStatus::Rejected | QueryStatus::Error) {
        let last_event = query.own_stream().and_then(|stream| stream.last_event).or(query.sent);
        faults.unrecovered(last_event.map_or(record.ended, |at| worker.moment(at)), record.ended);
    }
}
