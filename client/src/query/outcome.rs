//! What a query came to: its status, what it lost and where, and its record for the outputs.
//! It only reads what arrived; nothing arrives here.

use super::{End, Query, millis};
use crate::{
    downtime::Downtime,
    record::{FailureKind, Moment, QueryRecord, QueryStatus},
};
use protocol::{ClockAnchor, Kind, SessionId, Tally};
use std::time::{Duration, Instant};

impl Query {
    pub(super) fn tally(&self) -> Tally {
        let expected = self.answer.as_ref().and_then(|answer| answer.tokens);
        let tally = match (self.own_stream(), expected) {
            (Some(stream), Some(expected)) => stream.ledger.tally(expected),
            (Some(stream), None) => stream.ledger.unverified(),
            (None, Some(expected)) => protocol::Ledger::default().tally(expected),
            (None, None) => Tally::default(),
        };
        Tally {
            tokens_duplicated: tally.tokens_duplicated + self.repeated.tokens_duplicated,
            events_duplicated: tally.events_duplicated + self.repeated.events_duplicated,
            ..tally
        }
    }

    fn after_terminator(&self) -> u64 {
        self.stray + self.own_stream().map_or(0, |stream| stream.after_terminator)
    }

    pub(super) fn status(&self, tally: &Tally) -> QueryStatus {
        match self.end.map_or(End::Abandoned, |(_, end)| end) {
            End::TimedOut => QueryStatus::Timeout,
            End::Rejected => QueryStatus::Rejected,
            End::Failed => QueryStatus::Error,
            End::Abandoned => QueryStatus::Abandoned,
            End::Finished => {
                let Some(stream) = self.own_stream() else { return QueryStatus::Incomplete };
                let whole = stream.ledger.is_complete() && tally.tokens_lost == 0 && tally.events_lost == 0;
                let clean = tally.events_duplicated == 0 && tally.events_reordered == 0;
                let clean = clean && self.foreign == 0 && self.after_terminator() == 0;
                let unannounced = self
                    .answer
                    .as_ref()
                    .and_then(|answer| answer.tokens)
                    .is_some_and(|tokens| tally.tokens_received > tokens);
                match stream.ledger.terminator() {
                    Some(Kind::Error) => QueryStatus::Error,
                    Some(_) if whole && clean && !unannounced => QueryStatus::Ok,
                    _ => QueryStatus::Incomplete,
                }
            }
        }
    }

    /// Of the lost tokens, those that surely fell into a time without a socket.
    fn lost_in_gap(&self, ended: Instant, downtime: &Downtime, clock: Option<&ClockAnchor>) -> u64 {
        let (Some(expected), Some(sent)) = (self.answer.as_ref().and_then(|answer| answer.tokens), self.sent)
        else {
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
            .missing(expected)
            .iter()
            .filter(|hole| {
                let from = neighbour(hole.before_us, sent);
                let to = neighbour(hole.after_us, ended);
                from.zip(to).is_some_and(|(from, to)| downtime.touches(from, to))
            })
            .map(|hole| tokens_of(hole.first, hole.last))
            .sum()
    }

    /// The query for the outputs. `clock` maps the server's times where both ends share it.
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
        let tally = self.tally();
        let status = self.status(&tally);
        self.explain(status, &tally);
        let lost_in_gap = self.lost_in_gap(ended, downtime, clock).min(tally.tokens_lost);
        let stream = self.own_stream();
        let answer = self.answer.as_ref();
        QueryRecord {
            session,
            session_index,
            query_num: self.num,
            scheduled: moment(self.scheduled),
            sent: self.sent.map(&moment),
            first_token: stream.and_then(|stream| stream.first_token).map(&moment),
            last_token: stream.and_then(|stream| stream.last_token).map(|arrival| moment(arrival.at)),
            done: stream.and_then(|stream| stream.done).map(&moment),
            ended: moment(ended),
            status,
            tokens_expected: answer.and_then(|answer| answer.tokens),
            lost_connected: tally.tokens_lost - lost_in_gap,
            lost_in_gap,
            tally,
            events_after_terminator: self.after_terminator(),
            longest_gap: stream.and_then(|stream| stream.longest_gap).filter(|_| self.paused.is_zero()),
            held_up: stream.map_or(Duration::ZERO, |stream| stream.held_up),
            paused: self.paused,
            error_code: self.error_code().map(str::to_owned).filter(|_| status == QueryStatus::Error),
            excused: false,
            stall_count: stream.map_or(0, |stream| stream.stall_count),
            stall: stream.map_or(Duration::ZERO, |stream| stream.stall),
            ideal_ttft: answer.and_then(|answer| millis(answer.ideal_ttft_ms)),
            ideal_e2el: answer.and_then(|answer| millis(answer.ideal_e2el_ms)),
            failure: self.failure.clone().filter(|_| status != QueryStatus::Ok),
        }
    }

    /// Every query that is not ok says why.
    fn explain(&mut self, status: QueryStatus, tally: &Tally) {
        let error = self.own_stream().and_then(|stream| stream.error.clone());
        match status {
            QueryStatus::Ok | QueryStatus::Abandoned | QueryStatus::Rejected => {}
            QueryStatus::Timeout => {
                let message = format!("no terminator in time after {} tokens", tally.tokens_received);
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
                let message = format!(
                    "{} tokens lost, {} events duplicated, {} reordered, {} of other queries, {} behind the terminator",
                    tally.tokens_lost,
                    tally.events_duplicated,
                    tally.events_reordered,
                    self.foreign,
                    self.after_terminator()
                );
                self.fail(FailureKind::Stream, None, message);
            }
        }
    }
}
