//! The outcome of a query: its status, its losses and their circumstances, and its record for the outputs.

use super::{End, Query, millis};
use crate::downtime::Downtime;
use host::ClockAnchor;
use measure::{
    contents::ContentStatus,
    defects::{Defect, Defects},
    record::{FailureKind, Moment, QueryRecord, QueryStatus, Uncertainty},
    timeline::{Notes, QueryTimeline},
};
use protocol::{EventCounts, ExpectedRange, Kind, SessionId};
use settings::plural::counted;
use std::time::{Duration, Instant};

impl Query {
    pub(super) fn tally(&self) -> EventCounts {
        let expected = self.last_expected();
        let owed = self.owed();
        let tally = match (self.own_stream(), expected) {
            (Some(stream), Some(expected)) => stream.ledger.counts(expected, owed),
            (Some(stream), None) => stream.ledger.observed(),
            (None, Some(expected)) => protocol::Ledger::default().counts(expected, owed),
            (None, None) => EventCounts::default(),
        };
        EventCounts {
            tokens_unsent: if self.is_abandoned() { 0 } else { tally.tokens_unsent },
            tokens_duplicated: tally.tokens_duplicated + self.tokens_repeated,
            events_duplicated: tally.events_duplicated + self.defects.count(Defect::Duplicated),
            ..tally
        }
    }

    /// Returns the expected number of tokens: the announced one, else that of the sequence numbers before the terminator that do not
    /// belong to other events.
    fn expected(&self) -> Option<u64> {
        let others = self.own_stream().map_or(0, |stream| stream.ledger.others());
        self.last_expected().map(|last| last.saturating_sub(others))
    }

    /// Returns the sequence number of the last expected token.
    fn last_expected(&self) -> Option<u64> {
        let announced = self.response.as_ref()?.tokens;
        let numbered = || self.own_stream().filter(|stream| stream.generation > 0);
        announced.or_else(|| numbered().map(|stream| stream.ledger.last_token()))
    }

    fn is_abandoned(&self) -> bool {
        self.end.is_none_or(|(_, end)| end == End::Abandoned)
    }

    /// Returns which positions the server owed: after the run's end or a peer's terminator only those below the highest that arrived.
    fn owed(&self) -> ExpectedRange {
        if self.is_abandoned() || self.ended_with.is_some() {
            ExpectedRange::UpToHighest
        } else {
            ExpectedRange::Announced
        }
    }

    /// Returns all defects: those noted on arrival, and those that the query's own stream counts.
    pub(super) fn all_defects(&self, tally: &EventCounts) -> Defects {
        let mut defects = self.defects.clone();
        defects.add(Defect::Duplicated, tally.events_duplicated - defects.count(Defect::Duplicated));
        defects.add(Defect::Reordered, tally.events_reordered);
        defects.add(Defect::Unannounced, tally.tokens_unannounced);
        if let Some(stream) = self.own_stream() {
            defects.add(Defect::AfterTerminator, stream.after_terminator);
            defects.add(Defect::Corrupt, u64::from(stream.contents.status() == ContentStatus::Corrupt));
        }
        defects
    }

    pub(super) fn status(&self, tally: &EventCounts, defects: &Defects) -> QueryStatus {
        match self.end.map_or(End::Abandoned, |(_, end)| end) {
            End::TimedOut => QueryStatus::Timeout,
            End::Rejected => QueryStatus::Rejected,
            End::Failed => QueryStatus::Error,
            End::Abandoned => QueryStatus::Abandoned,
            End::Finished => {
                let Some(stream) = self.own_stream() else { return QueryStatus::Incomplete };
                let whole = stream.ledger.is_complete() && tally.tokens_lost == 0 && tally.events_lost == 0;
                match stream.ledger.terminator() {
                    Some(Kind::Error) => QueryStatus::Error,
                    Some(_) if whole && !defects.any() => QueryStatus::Ok,
                    _ => QueryStatus::Incomplete,
                }
            }
        }
    }

    /// Returns the number of lost tokens that were certainly sent while the session had no socket.
    fn lost_in_gap(&self, ended: Instant, downtime: &Downtime, clock: Option<&ClockAnchor>) -> u64 {
        let (Some(expected), Some(sent)) = (self.expected(), self.sent) else {
            return 0;
        };
        let Some(clock) = clock else { return 0 };
        let empty = protocol::Ledger::default();
        let ledger = self.own_stream().map_or(&empty, |stream| &stream.ledger);
        let neighbour = |us: Option<u64>, otherwise| match us {
            Some(us) => clock.instant(us),
            None => Some(otherwise),
        };
        let tokens_of = |first: u64, last: u64| last.min(expected).saturating_add(1).saturating_sub(first);
        ledger
            .missing(self.last_expected().unwrap_or(expected))
            .iter()
            .filter(|hole| {
                let from = neighbour(hole.before_us, sent);
                let to = neighbour(hole.after_us, ended);
                from.zip(to).is_some_and(|(from, to)| downtime.touches(from, to))
            })
            .map(|hole| tokens_of(hole.first, hole.last))
            .sum()
    }

    /// Returns the record for the outputs. `clock` converts the server's times; `None` if the server uses another clock.
    #[must_use]
    pub fn record(
        &mut self,
        session: Option<SessionId>,
        session_index: u64,
        moment: impl Fn(Instant) -> Moment,
        now: Instant,
        downtime: &Downtime,
        clock: Option<&ClockAnchor>,
    ) -> QueryRecord {
        let ended = self.end.map_or(now, |(at, _)| at);
        if self.generation().is_none()
            && let Some(newest) = self.own_stream().map(|stream| stream.generation)
        {
            self.reject_other_generations(newest);
        }
        let tally = self.tally();
        let defects = self.all_defects(&tally);
        let status = self.status(&tally, &defects);
        self.explain(status, &tally, &defects);
        let lost_in_gap = self.lost_in_gap(ended, downtime, clock).min(tally.tokens_lost);
        let stream = self.own_stream();
        let response = self.response.as_ref();
        QueryRecord {
            session,
            session_index,
            query_num: self.num,
            query_id: self.id.as_str().into(),
            scheduled: moment(self.scheduled),
            sent: self.sent.map(&moment),
            first_token: stream.and_then(|stream| stream.first_token).map(&moment),
            last_token: stream.and_then(|stream| stream.last_token).map(|arrival| moment(arrival.at)),
            done: stream.and_then(|stream| stream.done).map(&moment),
            first_uncertainty: stream.map_or_else(Uncertainty::default, |stream| stream.first_uncertainty),
            last_uncertainty: stream.map_or_else(Uncertainty::default, |stream| stream.last_uncertainty),
            done_uncertainty: stream.map_or_else(Uncertainty::default, |stream| stream.done_uncertainty),
            socket_wait: self
                .sent
                .filter(|_| self.waits_for_socket)
                .map_or(Duration::ZERO, |sent| downtime.within(self.scheduled, sent)),
            ended: moment(ended),
            status,
            tokens_expected: self.expected(),
            lost_connected: tally.tokens_lost - lost_in_gap,
            lost_in_gap,
            tally,
            contents: stream.map_or(ContentStatus::Unverified, |stream| stream.contents.status()),
            defects,
            longest_gap: stream.and_then(|stream| stream.longest_gap).filter(|_| self.paused.is_zero()),
            held_up: stream.map_or(Duration::ZERO, |stream| stream.held_up),
            paused: self.paused,
            error_code: self.error_code().map(str::to_owned).filter(|_| status == QueryStatus::Error),
            excused: false,
            stall_count: stream.map_or(0, |stream| stream.stall_count),
            stall: stream.map_or(Duration::ZERO, |stream| stream.stall),
            ideal_ttft: response.and_then(|response| millis(response.ideal_ttft_ms)),
            ideal_e2el: response.and_then(|response| millis(response.ideal_e2el_ms)),
            failure: self.failure.clone().filter(|_| status != QueryStatus::Ok),
            tokens_reported: self.stated.tokens,
            reasoning_events: self.stated.reasoning,
            first_reasoning: self.stated.first_reasoning.map(&moment),
        }
    }

    /// Returns the timeline of the query, from its record and the notes of its session.
    #[must_use]
    pub fn timeline(
        &self,
        record: &QueryRecord,
        moment: impl Fn(Instant) -> Moment,
        notes: Notes,
    ) -> QueryTimeline {
        let expected = self.expected().unwrap_or(0);
        let missing = self.own_stream().map_or_else(Vec::new, |stream| stream.ledger.missing(expected));
        let mut timeline = QueryTimeline::new(record, &self.samples, &missing, notes);
        timeline.server = self.response.as_ref().and_then(|response| response.server.clone());
        timeline.accepted = self.accepted_at.map(moment);
        timeline
    }

    /// Adds a failure message to a query that is not `ok` and has none.
    fn explain(&mut self, status: QueryStatus, tally: &EventCounts, defects: &Defects) {
        let error = self.own_stream().and_then(|stream| stream.error.clone());
        let loss = self.last_loss.as_ref().map(|loss| format!("{loss}; then ")).unwrap_or_default();
        match status {
            QueryStatus::Ok | QueryStatus::Abandoned | QueryStatus::Rejected => {}
            QueryStatus::Timeout => {
                let (received, listed) = (tally.tokens_received, list(defects));
                let message =
                    format!("{loss}no terminator in time after {}{listed}", counted(received, "tokens"));
                self.fail(FailureKind::Timeout, None, message);
            }
            QueryStatus::Error => {
                self.fail(
                    FailureKind::Stream,
                    None,
                    error.unwrap_or_else(|| "the stream ended in an error".into()),
                );
            }
            QueryStatus::Incomplete => {
                let message = format!("{loss}{}{}", counted(tally.tokens_lost, "tokens lost"), list(defects));
                self.fail(FailureKind::Stream, None, message);
            }
        }
    }
}

/// Lists each kind of defect that occurred, for example `, frames_unreadable 2 (first: <html>…)`.
fn list(defects: &Defects) -> String {
    let one = |defect: Defect| {
        let first = defects.example(defect).map(|frame| format!(" (first: {frame})")).unwrap_or_default();
        format!(", {} {}{first}", defect.name(), defects.count(defect))
    };
    Defect::ALL.into_iter().filter(|&defect| defects.count(defect) > 0).map(one).collect()
}
