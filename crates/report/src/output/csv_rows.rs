//! `.csv`: one row per query. The first ten columns are those of the first version.
//! Queries that failed before their first token, or that were never sent, have a row too.

use crate::values::printable;
use measure::{
    FaultLog, QueryTimes,
    defects::Defect,
    record::{QueryRecord, QueryStatus, SessionRecord},
};
use settings::cells::CellWriter;
use std::{io, time::Duration};

/// Names of the columns.
pub(super) const COLUMNS: [&str; 58] = [
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
    "socket_wait_ms",
    "ttft_error_ms",
    "e2el_error_ms",
    "fault",
    "tokens_unsent",
    "tokens_unannounced",
    "events_foreign",
    "events_duplicated",
    "events_reordered",
    "frames_unreadable",
    "frames_binary",
    "events_unknown_type",
    "contents",
    "first_defect",
    "query_id",
    "tokens_reported",
    "reasoning_events",
];

/// Writes the rows of a session. If it still goes on, they contain what is known of it so far.
pub(super) fn write(
    out: &mut CellWriter<impl io::Write>,
    session: &SessionRecord,
    queries: &[QueryRecord],
    faults: &FaultLog,
) -> csv::Result<()> {
    queries.iter().try_for_each(|query| out.write_record(row(session, query, faults)))
}

fn row(session: &SessionRecord, query: &QueryRecord, faults: &FaultLog) -> [String; COLUMNS.len()] {
    let times = QueryTimes::of(query);
    let tally = &query.tally;
    let count = |defect| query.defects.count(defect).to_string();
    let failure =
        query.failure.as_ref().or(session.failure.as_ref()).filter(|_| query.status != QueryStatus::Ok);
    [
        query.session.map(|id| id.to_string()).unwrap_or_default(),
        query.query_num.to_string(),
        number(times.e2el_ms.map(|ms| ms / 1e3), 6),
        tally.tokens_received.to_string(),
        seconds(session.create),
        seconds(session.connect),
        seconds(session.close),
        session.reconnect_attempts.to_string(),
        session.reconnects.len().to_string(),
        failure.map(|failure| printable(&failure.message)).unwrap_or_default(),
        query.session_index.to_string(),
        query.status.name().to_owned(),
        seconds(Some(query.scheduled)),
        seconds(query.sent),
        seconds(Some(query.ended)),
        number(times.queue_ms, 3),
        number(times.ttft_ms, 3),
        number(times.ttft_sched_ms, 3),
        number(times.e2el_ms, 3),
        number(times.e2el_sched_ms, 3),
        number(times.tpot_ms, 3),
        number(times.ttft_overhead_ms, 3),
        number(times.e2el_overhead_ms, 3),
        query.stall_count.to_string(),
        millis(query.stall),
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
        number(times.longest_gap_ms, 3),
        count(Defect::AfterTerminator),
        millis(query.paused),
        session.sockets_cut.to_string(),
        session.announced_gaps.to_string(),
        millis(query.socket_wait),
        number(times.ttft_error_ms, 3),
        number(times.e2el_error_ms, 3),
        faults.affecting(query.sent.unwrap_or(query.scheduled), query.ended),
        tally.tokens_unsent.to_string(),
        count(Defect::Unannounced),
        count(Defect::Foreign),
        count(Defect::Duplicated),
        count(Defect::Reordered),
        count(Defect::Unreadable),
        count(Defect::Binary),
        count(Defect::UnknownType),
        query.contents.name().to_owned(),
        Defect::ALL
            .into_iter()
            .find_map(|defect| query.defects.example(defect))
            .unwrap_or_default()
            .to_owned(),
        query.query_id.to_string(),
        query.tokens_reported.map(|tokens| tokens.to_string()).unwrap_or_default(),
        query.reasoning_events.to_string(),
    ]
}

fn millis(duration: Duration) -> String {
    number(Some(duration.as_secs_f64() * 1e3), 3)
}

fn seconds(duration: Option<Duration>) -> String {
    number(duration.map(|duration| duration.as_secs_f64()), 6)
}

fn number(value: Option<f64>, digits: usize) -> String {
    value.map(|value| format!("{value:.digits$}")).unwrap_or_default()
}
