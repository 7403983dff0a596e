//! Records that the engine produces: one per query, one per session, and samples of lag.
//! Every output (CSV, summary, histogram log, text, live view) is made from these records.

use crate::{contents::ContentStatus, defects::Defects};
use protocol::{EventCounts, SessionId};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// A moment of the run: time since its start, from one monotonic clock.
pub type Moment = Duration;

/// How a query ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum QueryStatus {
    /// Every expected token, once, in order, before the deadline.
    Ok,
    /// The terminator came, but tokens are missing, duplicated or out of order.
    Incomplete,
    /// No terminator before the deadline.
    Timeout,
    /// The stream ended in an `error` event, or its session could not go on.
    Error,
    /// `/run` was refused.
    Rejected,
    /// The run was ended before it could finish.
    Abandoned,
}

impl QueryStatus {
    /// Returns its name in every output.
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

/// Step of a session that failed. Outputs count failures by this kind.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum FailureKind {
    /// `POST /session/create`.
    Create,
    /// Opening the socket for the first time.
    Connect,
    /// Opening the socket again, after all attempts failed.
    Reconnect,
    /// `POST /run`.
    Run,
    /// The stream: an error event, a gap or a wrong token.
    Stream,
    /// No terminator in time.
    Timeout,
    /// `POST /close`.
    Close,
    /// The socket was closed for good, with this code.
    Closed(u16),
}

/// A failure: the step, a code and a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Step that failed.
    pub kind: FailureKind,
    /// HTTP status or close code, if there is one.
    pub code: Option<u16>,
    /// Message for the user: what failed, with the value concerned.
    pub message: String,
}

/// How much earlier than measured an event may have happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Uncertainty {
    /// Uncertainty of the arrival time: the generator may have read the event late.
    pub arrival: Duration,
    /// Lateness of the simulator.
    pub simulator: Duration,
    /// Whether a planned fault of the server caused the lateness of the simulator. `None` in a run without such faults.
    pub excused: Option<bool>,
}

impl Uncertainty {
    /// Returns the total uncertainty. Leaves out lateness of the simulator that a planned fault caused.
    #[must_use]
    pub fn total(&self) -> Duration {
        if self.excused == Some(true) { self.arrival } else { self.arrival + self.simulator }
    }

    /// Returns the total uncertainty including excused lateness, or `None` in a run without faults of servers.
    #[must_use]
    pub fn unexcused(&self) -> Option<Duration> {
        self.excused.map(|_| self.arrival + self.simulator)
    }
}

/// Record of one query, successful or not. Queries of sessions that failed before sending them have a record too.
#[derive(Clone, Debug)]
pub struct QueryRecord {
    /// `None` when the session was never created.
    pub session: Option<SessionId>,
    /// Index of the session in the run, from 0.
    pub session_index: u64,
    /// Number of the query in its session, from 1.
    pub query_num: u32,
    /// The id that the client gave it. Empty if it was never sent.
    pub query_id: Box<str>,
    /// Scheduled time of the send.
    pub scheduled: Moment,
    /// Actual time of the send. `None` if it was never sent.
    pub sent: Option<Moment>,
    /// Arrival of the first non-empty token.
    pub first_token: Option<Moment>,
    /// Arrival of the last token.
    pub last_token: Option<Moment>,
    /// Arrival of the terminator.
    pub done: Option<Moment>,
    /// Uncertainty of `first_token`.
    pub first_uncertainty: Uncertainty,
    /// Uncertainty of `last_token`.
    pub last_uncertainty: Uncertainty,
    /// Uncertainty of `done`.
    pub done_uncertainty: Uncertainty,
    /// Time between `scheduled` and `sent` during which the socket was down.
    pub socket_wait: Duration,
    /// Time at which it finished or was given up.
    pub ended: Moment,
    /// How it ended.
    pub status: QueryStatus,
    /// Number of tokens that `/run` announced. `None` for a rejected run or a server of the old contract.
    pub tokens_expected: Option<u64>,
    /// Counts of its events.
    pub tally: EventCounts,
    /// Tokens in `tally.tokens_lost` that were sent while the socket was open.
    pub lost_connected: u64,
    /// Tokens in `tally.tokens_lost` that were sent while the socket was down.
    pub lost_in_gap: u64,
    /// Defects of its events and frames.
    pub defects: Defects,
    /// Result of comparing its contents with the digest of the server.
    pub contents: ContentStatus,
    /// Longest time between consecutive events, the terminator included. `None` if the client itself paused reading.
    pub longest_gap: Option<Duration>,
    /// Largest amount by which the gap between consecutive events exceeded the scheduled gap.
    pub held_up: Duration,
    /// Time during which the client deliberately did not read.
    pub paused: Duration,
    /// Code of the error event that ended it.
    pub error_code: Option<String>,
    /// Whether it timed out while the generator was stalled for more than a second.
    pub excused: bool,
    /// Number of gaps longer than `--stall-threshold`.
    pub stall_count: u64,
    /// Sum of the time by which those gaps exceeded `--stall-threshold`.
    pub stall: Duration,
    /// Ideal time from the run call to the first token, by the drawn schedule.
    pub ideal_ttft: Option<Duration>,
    /// Ideal time from the run call to the terminator, by the drawn schedule.
    pub ideal_e2el: Option<Duration>,
    /// First failure.
    pub failure: Option<Failure>,
    /// Tokens of the answer, without reasoning, as the server of a foreign dialect counted them. `None` if it did not.
    pub tokens_reported: Option<u64>,
    /// Events with text of the model's reasoning. They are not tokens of the answer.
    pub reasoning_events: u64,
    /// Arrival of the first of these events.
    pub first_reasoning: Option<Moment>,
}

impl QueryRecord {
    /// Returns a record for tests: due at 90 ms, sent at 100 ms, 18 tokens from 300 to 1,150 ms, terminator at 1,200 ms.
    #[must_use]
    pub fn sample(status: QueryStatus) -> Self {
        let ms = |ms| Some(Duration::from_millis(ms));
        Self {
            scheduled: Duration::from_millis(90),
            sent: ms(100),
            first_token: ms(300),
            last_token: ms(1_150),
            done: ms(1_200),
            ended: Duration::from_millis(1_200),
            status,
            tokens_expected: Some(18),
            tally: EventCounts { tokens_received: 18, events_received: 19, ..EventCounts::default() },
            ..Self::unsent(0, 1, Duration::ZERO)
        }
    }

    /// Returns the record of a query that was never sent because its session was never created. It was given up at `at`.
    #[must_use]
    pub fn unsent(session_index: u64, query_num: u32, at: Moment) -> Self {
        Self {
            session: None,
            session_index,
            query_num,
            query_id: Box::default(),
            scheduled: at,
            sent: None,
            first_token: None,
            last_token: None,
            done: None,
            first_uncertainty: Uncertainty::default(),
            last_uncertainty: Uncertainty::default(),
            done_uncertainty: Uncertainty::default(),
            socket_wait: Duration::ZERO,
            ended: at,
            status: QueryStatus::Error,
            tokens_expected: None,
            tally: EventCounts::default(),
            lost_connected: 0,
            lost_in_gap: 0,
            defects: Defects::default(),
            contents: ContentStatus::default(),
            longest_gap: None,
            held_up: Duration::ZERO,
            paused: Duration::ZERO,
            error_code: None,
            excused: false,
            stall_count: 0,
            stall: Duration::ZERO,
            ideal_ttft: None,
            ideal_e2el: None,
            failure: None,
            tokens_reported: None,
            reasoning_events: 0,
            first_reasoning: None,
        }
    }

    /// Returns the number of tokens that arrived: as the server counts them if it packs several into one event, else the number of events.
    #[must_use]
    pub fn answer_tokens(&self) -> u64 {
        self.tally.tokens_received.max(self.tokens_reported.unwrap_or(0))
    }

    /// Returns how late the generator sent the query. Leaves out the time during which the socket was down.
    #[must_use]
    pub fn schedule_lag(&self) -> Option<Duration> {
        Some(self.sent?.saturating_sub(self.scheduled).saturating_sub(self.socket_wait))
    }

    /// Returns how long after its due instant it was complete, without the ideal time of its answer. `None` if it is not complete, or if
    /// the client itself paused.
    #[must_use]
    pub fn slowness(&self) -> Option<Duration> {
        let is_complete = self.status == QueryStatus::Ok && self.paused.is_zero();
        let took = self.done.filter(|_| is_complete)?.saturating_sub(self.scheduled);
        Some(took.saturating_sub(self.ideal_e2el.unwrap_or_default()))
    }

    /// Returns whether a planned fault made its simulator late.
    #[must_use]
    pub fn is_faulted(&self) -> bool {
        [self.first_uncertainty, self.last_uncertainty, self.done_uncertainty]
            .iter()
            .any(|uncertainty| uncertainty.excused == Some(true))
    }

    /// Returns how late the query was compared with its drawn schedule: the largest delay of the first token, of the end or
    /// between events. Returns zero if the client deliberately did not read, because that delay is not of the system.
    #[must_use]
    pub fn late_by(&self) -> Duration {
        if !self.paused.is_zero() {
            return Duration::ZERO;
        }
        let overdue = |at: Option<Moment>, ideal: Option<Duration>| {
            let due = self.sent?.saturating_add(ideal?);
            Some(at?.saturating_sub(due))
        };
        let begun = overdue(self.first_token, self.ideal_ttft);
        let ended = overdue(self.done, self.ideal_e2el);
        begun.max(ended).unwrap_or_default().max(self.held_up)
    }
}

/// Why a socket was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum LossCause {
    /// The gateway closed it, with this code.
    Closed(u16),
    /// It ended without a close frame, or was silent too long.
    Broken,
    /// The client cut it itself.
    Cut,
    /// The server ends connections of its age. The client opened another one, as planned.
    Limit,
}

/// A reconnect: the loss of a socket and the opening of the next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reconnect {
    /// Cause of the loss.
    pub cause: LossCause,
    /// Time from the loss to the next HTTP 101 response.
    pub gap: Duration,
}

/// Record of one session, successful or not.
#[derive(Clone, Debug)]
pub struct SessionRecord {
    /// `None` when it was never created.
    pub session: Option<SessionId>,
    /// Index in the run, from 0.
    pub index: u64,
    /// Scheduled start.
    pub scheduled: Moment,
    /// Actual start.
    pub started: Moment,
    /// Time of its end.
    pub ended: Moment,
    /// `POST /session/create`.
    pub create: Option<Duration>,
    /// Uncertainty of `create` that the generator may have caused.
    pub create_slack: Duration,
    /// TCP + upgrade + JWT + subscription live, of the first connect.
    pub connect: Option<Duration>,
    /// Uncertainty of `connect` that the generator may have caused.
    pub connect_slack: Duration,
    /// The first attempt to open the first socket to the opening of that socket, if the first attempt failed.
    pub first_socket: Option<Duration>,
    /// `POST /session/{id}/close`.
    pub close: Option<Duration>,
    /// Reconnect attempts.
    pub reconnect_attempts: u64,
    /// Successful reconnects, in order.
    pub reconnects: Vec<Reconnect>,
    /// Sockets that the client cut itself.
    pub sockets_cut: u64,
    /// Whether it paused reading once, as planned.
    pub paused: bool,
    /// Gaps that the gateway announced.
    pub announced_gaps: u64,
    /// Positions in the announced gaps. A gap across generations counts those of the newer one.
    pub announced_gap_positions: u64,
    /// Defects that belong to none of its queries.
    pub defects: Defects,
    /// Events that were sent again after a reconnect, as allowed.
    pub events_replayed: u64,
    /// Frames with the tokens of a window of a rollup.
    pub frames_rolled: u64,
    /// Tokens that arrived in these frames.
    pub tokens_rolled: u64,
    /// Close codes received, in order.
    pub close_codes: Vec<u16>,
    /// Whether every query was ok and no step failed.
    pub ok: bool,
    /// Whether the end of the run cut it off before anything failed.
    pub cut_off: bool,
    /// Whether it is not ok only because of queries that are [`QueryRecord::excused`].
    pub excused: bool,
    /// Whether the server speaks the old contract, so that integrity is unverified.
    pub old_contract: bool,
    /// First failure.
    pub failure: Option<Failure>,
}

impl SessionRecord {
    /// Returns a record for tests: a session without failure that lasted a second.
    #[must_use]
    pub fn sample() -> Self {
        let ms = Duration::from_millis;
        Self {
            session: None,
            index: 0,
            scheduled: Duration::ZERO,
            started: Duration::ZERO,
            ended: ms(1_000),
            create: Some(ms(5)),
            create_slack: Duration::ZERO,
            connect: Some(ms(3)),
            connect_slack: Duration::ZERO,
            first_socket: None,
            close: Some(ms(4)),
            reconnect_attempts: 0,
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
            ok: true,
            cut_off: false,
            excused: false,
            old_contract: false,
            failure: None,
        }
    }
}

/// Kind of a lag sample. The worker records it at once; samples that count only in complete queries wait in
/// [`crate::QuerySamples`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LagKind {
    /// `sent_us − due_us`: lateness of the simulator, also in queries that fail.
    PaceLag,
    /// Actual − intended wake-up of the client's event loop.
    LoopLag,
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn query(status: QueryStatus) -> QueryRecord {
        QueryRecord::sample(status)
    }

    #[test]
    fn late_is_what_the_drawn_schedule_had_sooner() {
        let ms = Duration::from_millis;
        let planned =
            QueryRecord { ideal_ttft: Some(ms(190)), ideal_e2el: Some(ms(1_090)), ..query(QueryStatus::Ok) };
        assert_eq!(planned.late_by(), ms(10));
        assert_eq!(query(QueryStatus::Ok).late_by(), ms(0), "its schedule is unknown");
        let begun_late = QueryRecord { ideal_ttft: Some(ms(50)), ..planned.clone() };
        assert_eq!(begun_late.late_by(), ms(150));
        let ended_late = QueryRecord { done: Some(ms(4_190)), ..planned.clone() };
        assert_eq!(ended_late.late_by(), ms(3_000));
        let held_up = QueryRecord { held_up: ms(800), ..planned };
        assert_eq!(held_up.late_by(), ms(800), "it made up for it before its end");
        let paused = QueryRecord { paused: ms(1), ..ended_late };
        assert_eq!(paused.late_by(), ms(0), "the client itself did not read");
    }
}
