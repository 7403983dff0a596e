//! The CSV of a run: one row a query, the origin's ten columns first, ours behind them.
//! Also queries that failed before their first token and those that could never be sent have a row.

use super::text::printable;
use crate::{
    faults::FaultLog,
    measure::FinishedSession,
    record::{Moment, QueryRecord, QueryStatus, SessionRecord},
};
use std::{io, time::Duration};

/// The header.
pub(super) const COLUMNS: [&str; 42] = [
    "session_id",
    "query_num",
    "latency",
    "tokens",
    "create_time",
    "connect_time",
    "close_time",
    "reconnect_attempts",
    "successful_reconnects",
    "error",
    "session_index",
    "status",
    "scheduled_s",
    "sent_s",
    "ended_s",
    "queue_ms",
    "ttft_ms",
    "ttft_sched_ms",
    "e2el_ms",
    "e2el_sched_ms",
    "tpot_ms",
    "ttft_overhead_ms",
    "e2el_overhead_ms",
    "stall_count",
    "stall_ms",
    "tokens_expected",
    "tokens_received",
    "tokens_lost",
    "tokens_duplicated",
    "tokens_reordered",
    "lost_connected",
    "lost_in_gap",
    "events_received",
    "failure",
    "failure_code",
    "error_code",
    "longest_gap_ms",
    "events_after_terminator",
    "paused_ms",
    "sockets_cut",
    "announced_gaps",
    "fault",
];

impl QueryStatus {
    /// The name in every output.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Incomplete => "incomplete",
            Self::Timeout => "timeout",
            Self::Error => "error",
            Self::Rejected => "rejected",
            Self::Abandoned => "abandoned",
        }
    }
}

/// Writes the rows of a finished session.
pub(super) fn write(
    out: &mut csv::Writer<impl io::Write>,
    finished: &FinishedSession,
    faults: &FaultLog,
) -> csv::Result<()> {
    finished.queries.iter().try_for_each(|query| out.write_record(row(&finished.session, query, faults)))
}

fn row(session: &SessionRecord, query: &QueryRecord, faults: &FaultLog) -> [String; COLUMNS.len()] {
    let since =
        |to: Option<Moment>, from: Option<Moment>| to.zip(from).map(|(to, from)| millis_between(to, from));
    let scheduled = Some(query.scheduled);
    let (ttft, e2el) = (since(query.first_token, query.sent), since(query.done, query.sent));
    let above = |observed: Option<f64>, ideal: Option<Duration>| {
        observed.zip(ideal).map(|(observed, ideal)| observed - millis_between(ideal, Duration::ZERO))
    };
    let tally = &query.tally;
    let failure =
        query.failure.as_ref().or(session.failure.as_ref()).filter(|_| query.status != QueryStatus::Ok);
    [
        query.session.map(|id| id.to_string()).unwrap_or_default(),
        query.query_num.to_string(),
        number(e2el.map(|ms| ms / 1e3), 6),
        tally.tokens_received.to_string(),
        seconds(session.create),
        seconds(session.connect),
        seconds(session.close),
        session.reconnect_attempts.to_string(),
        session.reconnects.len().to_string(),
        failure.map(|failure| printable(&failure.message)).unwrap_or_default(),
        query.session_index.to_string(),
        query.status.name().to_owned(),
        seconds(scheduled),
        seconds(query.sent),
        seconds(Some(query.ended)),
        number(since(query.sent, scheduled), 3),
        number(ttft, 3),
        number(since(query.first_token, scheduled), 3),
        number(e2el, 3),
        number(since(query.done, scheduled), 3),
        #[allow(clippy::cast_precision_loss)]
        number(crate::measure::tpot_ns(query).map(|ns| ns as f64 / 1e6), 3),
        number(above(ttft, query.ideal_ttft), 3),
        number(above(e2el, query.ideal_e2el), 3),
        query.stall_count.to_string(),
        number(Some(millis_between(query.stall, Duration::ZERO)), 3),
        query.tokens_expected.map(|n| n.to_string()).unwrap_or_default(),
        tally.tokens_received.to_string(),
        tally.tokens_lost.to_string(),
        tally.tokens_duplicated.to_string(),
        tally.tokens_reordered.to_string(),
        query.lost_connected.to_string(),
        query.lost_in_gap.to_string(),
        tally.events_received.to_string(),
        failure.map(|failure| failure.kind.name().to_owned()).unwrap_or_default(),
        failure.and_then(|failure| failure.code).map(|code| code.to_string()).unwrap_or_default(),
        query.error_code.as_deref().map(printable).unwrap_or_default(),
        number(query.longest_gap.map(|gap| millis_between(gap, Duration::ZERO)), 3),
        query.events_after_terminator.to_string(),
        number(Some(millis_between(query.paused, Duration::ZERO)), 3),
        session.sockets_cut.to_string(),
        session.announced_gaps.to_string(),
        faults.felt(query.sent.unwrap_or(query.scheduled), query.ended),
    ]
}

/// `to − from` in milliseconds; negative where `to` came first.
fn millis_between(to: Duration, from: Duration) -> f64 {
    #[allow(clippy::cast_precision_loss)]
    let ms = (crate::measure::nanos(to) - crate::measure::nanos(from)) as f64 / 1e6;
    ms
}

fn seconds(duration: Option<Duration>) -> String {
    number(duration.map(|duration| duration.as_secs_f64()), 6)
}

fn number(value: Option<f64>, digits: usize) -> String {
    value.map(|value| format!("{value:.digits$}")).unwrap_or_default()
}
