//! The results of a run: counts of sessions, queries and tokens, failures, and merged distributions.
//! It adds up finished queries and sessions and keeps none of them.

use super::{
    Concurrency, Failures, FiguresByGenerator, HopTrend, Interval, ReadingTotals, ReconnectStorm, Steady,
    TokenCounts, threshold::Windows,
};
use crate::contents::ContentStatus;
use crate::defects::Defects;
use crate::record::{LossCause, Moment, QueryRecord, QueryStatus, SessionRecord};
use crate::timeline::Timelines;
use protocol::SessionId;
use serde::{Deserialize, Serialize};
use std::{cmp::Reverse, collections::BTreeMap, time::Duration};

/// Largest number of distinct error codes: those that sort first. The others are counted together.
const MAX_CODES: usize = 50;
const FURTHER_CODES: &str = "(further codes)";

/// The longest time between two consecutive events of any query.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LongestGap {
    /// Length of the gap.
    pub gap: Duration,
    /// Session.
    pub session: Option<SessionId>,
    /// Index of the session, from 0.
    pub session_index: u64,
    /// Number of the query, from 1.
    pub query_num: u32,
}

/// Sessions by outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionCounts {
    /// All sessions that were attempted.
    pub total: u64,
    /// Sessions in which every query was ok and no step failed.
    pub ok: u64,
    /// Sessions in which a step of the session itself failed: create, connect, reconnect, close.
    pub broken: u64,
    /// Sessions that the end of the run cut off before anything failed.
    pub cut_off: u64,
    /// Not ok only because of queries that timed out while the generator was stalled.
    pub excused: u64,
    /// Sessions whose server spoke the old contract.
    pub old_contract: u64,
    /// Sessions that lost a socket at least once.
    pub with_reconnects: u64,
    /// Sessions that paused reading, as planned.
    pub paused: u64,
    /// Sum of the lifetimes of all sessions.
    pub time: Duration,
}

/// A query counts as late if it is later than its drawn schedule by more than this.
const LATE: Duration = Duration::from_millis(250);

/// Complete queries that were late.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LateQueries {
    /// Number of queries.
    pub count: u64,
    /// Largest lateness.
    pub most: Duration,
}

/// Queries by status.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct QueryCounts {
    /// All queries that were attempted, including those that could not be sent.
    pub total: u64,
    pub ok: u64,
    pub incomplete: u64,
    pub timeout: u64,
    pub error: u64,
    pub rejected: u64,
    pub abandoned: u64,
    /// Timeouts during which the generator was stalled for more than a second.
    pub excused: u64,
    /// Queries with a first token, last token or terminator that a planned fault of their server delayed.
    pub faulted: u64,
    /// Complete queries whose contents could not be compared with a digest.
    pub contents_unverified: u64,
    /// Queries that were sent.
    pub sent: u64,
    /// Sum of the durations of sent queries.
    pub time: Duration,
}

impl SessionCounts {
    pub(crate) fn merge(&mut self, other: &Self) {
        let Self { total, ok, broken, cut_off, excused, old_contract, with_reconnects, paused, time } = other;
        self.total += total;
        self.ok += ok;
        self.broken += broken;
        self.cut_off += cut_off;
        self.excused += excused;
        self.old_contract += old_contract;
        self.with_reconnects += with_reconnects;
        self.paused += paused;
        self.time += *time;
    }
}

impl QueryCounts {
    pub(crate) fn merge(&mut self, other: &Self) {
        let Self { total, ok, incomplete, timeout, error, rejected, abandoned, .. } = other;
        let Self { excused, faulted, contents_unverified, sent, time, .. } = other;
        self.total += total;
        self.ok += ok;
        self.incomplete += incomplete;
        self.timeout += timeout;
        self.error += error;
        self.rejected += rejected;
        self.abandoned += abandoned;
        self.excused += excused;
        self.faulted += faulted;
        self.contents_unverified += contents_unverified;
        self.sent += sent;
        self.time += *time;
    }

    /// Returns the number of queries that the end of the run did not cut off.
    #[must_use]
    pub const fn judged(&self) -> u64 {
        self.total - self.abandoned
    }

    /// Returns the number of failed queries, without those that the end of the run cut off.
    #[must_use]
    pub const fn failed(&self) -> u64 {
        self.judged() - self.ok
    }
}

/// Everything that a run measured, or that one generator measured in a part of it. Sums, extremes and examples merge in any order
/// to the same result. What depends on complete seconds of the run is not part of that and stays where it is.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct RunData {
    /// Distributions and counts of the whole run.
    pub metrics: Interval,
    /// Sessions by outcome.
    pub sessions: SessionCounts,
    /// Queries by status.
    pub queries: QueryCounts,
    /// Counts of tokens.
    pub tokens: TokenCounts,
    /// Failures by kind.
    pub failures: Failures,
    /// Close codes received, and how often.
    pub close_codes: BTreeMap<u16, u64>,
    /// Reconnect attempts.
    pub reconnect_attempts: u64,
    /// Successful reconnects.
    pub reconnects_ok: u64,
    /// Successful reconnects by the cause of the loss.
    pub reconnects_by_cause: BTreeMap<LossCause, u64>,
    /// Highest reconnect rates.
    #[serde(skip)]
    pub reconnect_storm: ReconnectStorm,
    /// The mean time of each hop over the run.
    #[serde(skip)]
    pub hop_trend: HopTrend,
    /// Sockets that the client cut itself.
    pub sockets_cut: u64,
    /// Defects of events and frames.
    pub defects: Defects,
    /// Gaps that the gateway announced.
    pub announced_gaps: u64,
    /// Positions in the announced gaps.
    pub announced_gap_positions: u64,
    /// Complete queries that were late.
    pub late: LateQueries,
    /// The longest time between two consecutive events of a query.
    pub longest_gap: Option<LongestGap>,
    /// The timelines of some queries.
    pub timelines: Timelines,
    /// Queries that an error event ended, by its code.
    pub errors_by_code: BTreeMap<String, u64>,
    /// Gaps between tokens above the stall threshold, in complete queries.
    pub stall_count: u64,
    /// Sum of the time by which those gaps exceeded the threshold.
    pub stall: Duration,
    /// Figures of each generator.
    #[serde(skip)]
    pub generators: FiguresByGenerator,
    /// Highest concurrency.
    #[serde(skip)]
    pub concurrency: Concurrency,
    /// The steady state, if the schedule has one.
    #[serde(skip)]
    pub steady: Option<Steady>,
    /// The worst windows, for thresholds with windows.
    #[serde(skip)]
    pub windows: Windows,
    /// Monitoring readings.
    #[serde(skip)]
    pub readings: ReadingTotals,
    /// Readings that arrived too late for the row of their second.
    #[serde(skip)]
    pub readings_dropped: u64,
    /// Time of the first send.
    pub first_send: Option<Moment>,
    /// Time at which the last response ended.
    pub last_response: Option<Moment>,
}

impl RunData {
    /// Adds the measurements of an interval.
    pub fn add_interval(&mut self, interval: &Interval) {
        self.metrics.merge(interval);
    }

    /// Adds a query that ended.
    pub fn add_query(&mut self, query: &QueryRecord) {
        self.count_query(query);
        self.tokens.query_ended(query);
    }

    /// Adds a session that ended. Its `queries` must have been added before.
    pub fn add_session(&mut self, session: &SessionRecord, queries: &[QueryRecord]) {
        self.count_session(session);
        let counted_with_a_query = queries.iter().any(|query| query.failure == session.failure);
        if let Some(failure) = session.failure.as_ref().filter(|_| !counted_with_a_query) {
            self.failures.add(failure, session.ended);
        }
    }

    fn count_session(&mut self, session: &SessionRecord) {
        let counts = &mut self.sessions;
        counts.total += 1;
        counts.ok += u64::from(session.ok);
        counts.broken += u64::from(session.failure.is_some());
        counts.cut_off += u64::from(session.cut_off);
        counts.excused += u64::from(session.excused);
        counts.old_contract += u64::from(session.old_contract);
        counts.with_reconnects += u64::from(session.reconnect_attempts > 0);
        counts.time += session.ended.saturating_sub(session.started);
        self.reconnect_attempts += session.reconnect_attempts;
        self.reconnects_ok += session.reconnects.len() as u64;
        for reconnect in &session.reconnects {
            *self.reconnects_by_cause.entry(reconnect.cause).or_default() += 1;
        }
        self.sessions.paused += u64::from(session.paused);
        self.sockets_cut += session.sockets_cut;
        self.announced_gaps += session.announced_gaps;
        self.defects.merge(&session.defects);
        self.announced_gap_positions += session.announced_gap_positions;
        self.tokens.replayed += session.events_replayed;
        self.tokens.frames_rolled += session.frames_rolled;
        self.tokens.rolled += session.tokens_rolled;
        for &code in &session.close_codes {
            *self.close_codes.entry(code).or_default() += 1;
        }
    }

    fn count_query(&mut self, query: &QueryRecord) {
        let counts = &mut self.queries;
        counts.total += 1;
        *match query.status {
            QueryStatus::Ok => &mut counts.ok,
            QueryStatus::Incomplete => &mut counts.incomplete,
            QueryStatus::Timeout => &mut counts.timeout,
            QueryStatus::Error => &mut counts.error,
            QueryStatus::Rejected => &mut counts.rejected,
            QueryStatus::Abandoned => &mut counts.abandoned,
        } += 1;
        counts.excused += u64::from(query.excused);
        counts.faulted += u64::from(query.is_faulted());
        let unverified = query.status == QueryStatus::Ok && query.contents != ContentStatus::Verified;
        counts.contents_unverified += u64::from(unverified);
        self.defects.merge(&query.defects);
        if let Some(sent) = query.sent {
            counts.sent += 1;
            counts.time += query.ended.saturating_sub(sent);
            self.first_send = earliest(self.first_send, Some(sent));
            self.last_response = self.last_response.max(Some(query.done.unwrap_or(query.ended)));
        }
        if let Some(code) = &query.error_code {
            self.count_error(code, 1);
        }
        self.see_gap(query.longest_gap.map(|gap| {
            let (session, session_index, query_num) = (query.session, query.session_index, query.query_num);
            LongestGap { gap, session, session_index, query_num }
        }));
        let late_by = query.late_by();
        if query.status == QueryStatus::Ok && late_by > LATE {
            self.late.count += 1;
            self.late.most = self.late.most.max(late_by);
        }
        // Like inter-token latencies, stalls count in complete queries only. The longest gap counts in all queries.
        if query.status == QueryStatus::Ok {
            self.stall_count += query.stall_count;
            self.stall += query.stall;
        }
        if let Some(failure) = &query.failure {
            self.failures.add(failure, query.ended);
        }
    }

    /// Keeps the longer gap. Of two equal ones, that of the session with the smaller index.
    fn see_gap(&mut self, gap: Option<LongestGap>) {
        let rank = |gap: &LongestGap| (gap.gap, Reverse((gap.session_index, gap.query_num)));
        self.longest_gap = [self.longest_gap, gap].into_iter().flatten().max_by_key(rank);
    }

    fn count_error(&mut self, code: &str, count: u64) {
        *self.errors_by_code.entry(code.to_owned()).or_default() += count;
        // Codes that sort first stay, so that the order in which they come does not matter.
        let mut distinct = self.errors_by_code.keys().filter(|code| *code != FURTHER_CODES);
        if distinct.clone().count() > MAX_CODES
            && let Some(last) = distinct.next_back().cloned()
        {
            let further = self.errors_by_code.remove(&last).unwrap_or_default();
            *self.errors_by_code.entry(FURTHER_CODES.to_owned()).or_default() += further;
        }
    }

    /// Merges what another generator, or an earlier part of the run, measured.
    pub fn merge(&mut self, other: &Self) {
        self.metrics.merge(&other.metrics);
        self.sessions.merge(&other.sessions);
        self.queries.merge(&other.queries);
        self.tokens.merge(&other.tokens);
        self.failures.merge(&other.failures);
        add_all(&mut self.close_codes, &other.close_codes);
        self.reconnect_attempts += other.reconnect_attempts;
        self.reconnects_ok += other.reconnects_ok;
        add_all(&mut self.reconnects_by_cause, &other.reconnects_by_cause);
        self.sockets_cut += other.sockets_cut;
        self.defects.merge(&other.defects);
        self.announced_gaps += other.announced_gaps;
        self.announced_gap_positions += other.announced_gap_positions;
        self.late.count += other.late.count;
        self.late.most = self.late.most.max(other.late.most);
        self.see_gap(other.longest_gap);
        self.timelines.merge(&other.timelines);
        for (code, count) in &other.errors_by_code {
            self.count_error(code, *count);
        }
        self.stall_count += other.stall_count;
        self.stall += other.stall;
        self.first_send = earliest(self.first_send, other.first_send);
        self.last_response = self.last_response.max(other.last_response);
    }

    /// Returns the time from the first send to the last response.
    #[must_use]
    pub fn duration(&self) -> Duration {
        self.first_send
            .zip(self.last_response)
            .map_or(Duration::ZERO, |(first, last)| last.saturating_sub(first))
    }
}

/// Returns the earlier of two moments, either of which may be missing.
fn earliest(one: Option<Moment>, other: Option<Moment>) -> Option<Moment> {
    [one, other].into_iter().flatten().min()
}

fn add_all<K: Ord + Clone>(into: &mut BTreeMap<K, u64>, from: &BTreeMap<K, u64>) {
    for (key, count) in from {
        *into.entry(key.clone()).or_default() += count;
    }
}
