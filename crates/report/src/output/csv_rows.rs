//! `.csv`: one row per query. The first ten columns are those of the first version.
//! Queries that failed before their first token, or that were never sent, have a row too.

use crate::values::printable;
use measure::{
    FaultLog, QueryTimes,
    defects::Defect,
    record::{Failure, QueryRecord, QueryStatus, SessionRecord},
};
use settings::cells::CellWriter;
use std::{io, time::Duration};

/// Number of columns.
const COUNT: usize = 58;

/// Names of the columns.
pub(super) const COLUMNS: [&str; COUNT] = {
    let mut names = [""; COUNT];
    let mut column = 0;
    while column < COUNT {
        names[column] = CELLS[column].0;
        column += 1;
    }
    names
};

/// Returns what a cell of a row contains.
type Cell = fn(&Row<'_>) -> String;

/// The name of each column and its cell. New columns come last: readers may know columns by their number.
const CELLS: [(&str, Cell); COUNT] = [
    ("session_id", |row| row.query.session.map(|id| id.to_string()).unwrap_or_default()),
    ("query_num", |row| row.query.query_num.to_string()),
    ("latency", |row| number(row.times.e2el_ms.map(|ms| ms / 1e3), 6)),
    ("tokens", |row| row.query.tally.tokens_received.to_string()),
    ("create_time", |row| seconds(row.session.create)),
    ("connect_time", |row| seconds(row.session.connect)),
    ("close_time", |row| seconds(row.session.close)),
    ("reconnect_attempts", |row| row.session.reconnect_attempts.to_string()),
    ("successful_reconnects", |row| row.session.reconnects.len().to_string()),
    ("error", |row| row.failure.map(|failure| printable(&failure.message)).unwrap_or_default()),
    ("session_index", |row| row.query.session_index.to_string()),
    ("status", |row| row.query.status.name().to_owned()),
    ("scheduled_s", |row| seconds(Some(row.query.scheduled))),
    ("sent_s", |row| seconds(row.query.sent)),
    ("ended_s", |row| seconds(Some(row.query.ended))),
    ("queue_ms", |row| number(row.times.queue_ms, 3)),
    ("ttft_ms", |row| number(row.times.ttft_ms, 3)),
    ("ttft_sched_ms", |row| number(row.times.ttft_sched_ms, 3)),
    ("e2el_ms", |row| number(row.times.e2el_ms, 3)),
    ("e2el_sched_ms", |row| number(row.times.e2el_sched_ms, 3)),
    ("tpot_ms", |row| number(row.times.tpot_ms, 3)),
    ("ttft_overhead_ms", |row| number(row.times.ttft_overhead_ms, 3)),
    ("e2el_overhead_ms", |row| number(row.times.e2el_overhead_ms, 3)),
    ("stall_count", |row| row.query.stall_count.to_string()),
    ("stall_ms", |row| millis(row.query.stall)),
    ("tokens_expected", |row| row.query.tokens_expected.map(|n| n.to_string()).unwrap_or_default()),
    ("tokens_received", |row| row.query.tally.tokens_received.to_string()),
    ("tokens_lost", |row| row.query.tally.tokens_lost.to_string()),
    ("tokens_duplicated", |row| row.query.tally.tokens_duplicated.to_string()),
    ("tokens_reordered", |row| row.query.tally.tokens_reordered.to_string()),
    ("lost_connected", |row| row.query.lost_connected.to_string()),
    ("lost_in_gap", |row| row.query.lost_in_gap.to_string()),
    ("events_received", |row| row.query.tally.events_received.to_string()),
    ("failure", |row| row.failure.map(|failure| failure.kind.name().to_owned()).unwrap_or_default()),
    ("failure_code", |row| {
        row.failure.and_then(|failure| failure.code).map(|code| code.to_string()).unwrap_or_default()
    }),
    ("error_code", |row| row.query.error_code.as_deref().map(printable).unwrap_or_default()),
    ("longest_gap_ms", |row| number(row.times.longest_gap_ms, 3)),
    ("events_after_terminator", |row| row.count(Defect::AfterTerminator)),
    ("paused_ms", |row| millis(row.query.paused)),
    ("sockets_cut", |row| row.session.sockets_cut.to_string()),
    ("announced_gaps", |row| row.session.announced_gaps.to_string()),
    ("socket_wait_ms", |row| millis(row.query.socket_wait)),
    ("ttft_error_ms", |row| number(row.times.ttft_error_ms, 3)),
    ("e2el_error_ms", |row| number(row.times.e2el_error_ms, 3)),
    ("fault", |row| row.faults()),
    ("tokens_unsent", |row| row.query.tally.tokens_unsent.to_string()),
    ("tokens_unannounced", |row| row.count(Defect::Unannounced)),
    ("events_foreign", |row| row.count(Defect::Foreign)),
    ("events_duplicated", |row| row.count(Defect::Duplicated)),
    ("events_reordered", |row| row.count(Defect::Reordered)),
    ("frames_unreadable", |row| row.count(Defect::Unreadable)),
    ("frames_binary", |row| row.count(Defect::Binary)),
    ("events_unknown_type", |row| row.count(Defect::UnknownType)),
    ("contents", |row| row.query.contents.name().to_owned()),
    ("first_defect", |row| row.first_defect()),
    ("query_id", |row| row.query.query_id.to_string()),
    ("tokens_reported", |row| row.query.tokens_reported.map(|tokens| tokens.to_string()).unwrap_or_default()),
    ("reasoning_events", |row| row.query.reasoning_events.to_string()),
];

/// What a row is made of.
struct Row<'a> {
    session: &'a SessionRecord,
    query: &'a QueryRecord,
    times: QueryTimes,
    /// Why the query is not ok: its own failure, or that of its session.
    failure: Option<&'a Failure>,
    faults: &'a FaultLog,
}

impl<'a> Row<'a> {
    fn new(session: &'a SessionRecord, query: &'a QueryRecord, faults: &'a FaultLog) -> Self {
        let failure = query.failure.as_ref().or(session.failure.as_ref());
        let failure = failure.filter(|_| query.status != QueryStatus::Ok);
        Self { session, query, times: QueryTimes::of(query), failure, faults }
    }

    /// Returns the number of such defects.
    fn count(&self, defect: Defect) -> String {
        self.query.defects.count(defect).to_string()
    }

    /// Returns the text of the first defect of which there is an example.
    fn first_defect(&self) -> String {
        let example = |defect| self.query.defects.example(defect);
        Defect::ALL.into_iter().find_map(example).unwrap_or_default().to_owned()
    }

    /// Returns the faults that were in force during the query.
    fn faults(&self) -> String {
        self.faults.affecting(self.query.sent.unwrap_or(self.query.scheduled), self.query.ended)
    }
}

/// Writes the rows of a session. If it still goes on, they contain what is known of it so far.
pub(super) fn write(
    out: &mut CellWriter<impl io::Write>,
    session: &SessionRecord,
    queries: &[QueryRecord],
    faults: &FaultLog,
) -> csv::Result<()> {
    queries.iter().try_for_each(|query| {
        let row = Row::new(session, query, faults);
        out.write_record(CELLS.map(|(_, cell)| cell(&row)))
    })
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
