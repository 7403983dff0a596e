//! What the engine says of the run: one record a query, one a session, and per-token samples.
//! Every output (CSV, summary, hlog, text, terminal) is a consumer of these and knows no socket.

use crate::{contents::ContentStatus, defects::Defects};
use protocol::{EventCounts, SessionId};
use std::time::Duration;

/// A moment of the run: time since its start, from one monotonic clock.
pub type Moment = Duration;

/// How a query ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum QueryStatus {
    /// Every expected token, once, in order, before the deadline.
    Ok,
    /// The terminator came, but tokens are missing, doubled or out of order.
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

/// Which step of a session failed. A kind, not a text: outputs count by it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum FailureKind {
    /// `POST /session/create`.
    Create,
    /// Opening the socket for the first time.
    Connect,
    /// Opening it again, after all attempts.
    Reconnect,
    /// `POST /run`.
    Run,
    /// The stream itself: an error event, a gap, a token wrong.
    Stream,
    /// No terminator in time.
    Timeout,
    /// `POST /close`.
    Close,
    /// The socket was closed for good, with this code.
    Closed(u16),
}

/// A failure: what was being done, and the details for a person.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Which step.
    pub kind: FailureKind,
    /// HTTP status or close code where there is one.
    pub code: Option<u16>,
    /// For a person: what was done, with which value.
    pub message: String,
}

/// Why something may have happened earlier than measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Uncertainty {
    /// The generator saw it late.
    pub arrival: Duration,
    /// The simulator was late itself.
    pub simulator: Duration,
    /// Whether a planned fault of its own server made the simulator late; `None` in a run that plans no such fault.
    pub excused: Option<bool>,
}

impl Uncertainty {
    /// How much earlier, with the excuse.
    #[must_use]
    pub fn most(&self) -> Duration {
        if self.excused == Some(true) { self.arrival } else { self.arrival + self.simulator }
    }

    /// How much earlier without the excuse, in a run that plans faults of servers.
    #[must_use]
    pub fn unexcused(&self) -> Option<Duration> {
        self.excused.map(|_| self.arrival + self.simulator)
    }
}

/// One query, whatever became of it. Also written for the queries of sessions that failed before they could send them.
#[derive(Clone, Debug)]
pub struct QueryRecord {
    /// `None` when the session was never created.
    pub session: Option<SessionId>,
    /// From 0: which of the run's sessions.
    pub session_index: u64,
    /// From 1.
    pub query_num: u32,
    /// When the plan wanted it sent.
    pub scheduled: Moment,
    /// When it was sent; `None` when it never was.
    pub sent: Option<Moment>,
    /// When the first non-empty token came.
    pub first_token: Option<Moment>,
    /// When the last token came.
    pub last_token: Option<Moment>,
    /// When the terminator came.
    pub done: Option<Moment>,
    /// How much earlier each of these may have come.
    pub first_uncertainty: Uncertainty,
    /// Of the last token.
    pub last_uncertainty: Uncertainty,
    /// Of the terminator.
    pub done_uncertainty: Uncertainty,
    /// Of the wait between `scheduled` and `sent`, the time without a socket.
    pub socket_wait: Duration,
    /// When it was given up or finished.
    pub ended: Moment,
    /// How it ended.
    pub status: QueryStatus,
    /// What `/run` announced; `None` for a rejected run or a server of the old contract.
    pub tokens_expected: Option<u64>,
    /// What came of it.
    pub tally: EventCounts,
    /// Of `tally.tokens_lost`: sent while the socket was open.
    pub lost_connected: u64,
    /// Of `tally.tokens_lost`: sent while the socket was down.
    pub lost_in_gap: u64,
    /// What came that ought not to have come.
    pub defects: Defects,
    /// What it says, against the server's digest.
    pub contents: ContentStatus,
    /// The longest time between two events in a row, its terminator included; none where the client itself paused.
    pub longest_gap: Option<Duration>,
    /// How much further apart two events in a row came than they were due, at most.
    pub held_up: Duration,
    /// How long the client itself did not read.
    pub paused: Duration,
    /// The code of the error event that ended it.
    pub error_code: Option<String>,
    /// It timed out, and the generator stood still for over a second meanwhile.
    pub excused: bool,
    /// Gaps over `--stall-ms`.
    pub stall_count: u64,
    /// The excess of those gaps, summed.
    pub stall: Duration,
    /// By the drawn schedule: run call to first token.
    pub ideal_ttft: Option<Duration>,
    /// By the drawn schedule: run call to terminator.
    pub ideal_e2el: Option<Duration>,
    /// What went wrong first.
    pub failure: Option<Failure>,
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

    /// Of a query that was never sent, in a session that was never created; given up at `at`.
    #[must_use]
    pub fn unsent(session_index: u64, query_num: u32, at: Moment) -> Self {
        Self {
            session: None,
            session_index,
            query_num,
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
        }
    }

    /// How late the generator itself sent it: a socket that was down made it wait as well, and is not the generator's doing.
    #[must_use]
    pub fn schedule_lag(&self) -> Option<Duration> {
        Some(self.sent?.saturating_sub(self.scheduled).saturating_sub(self.socket_wait))
    }

    /// A planned fault made its own simulator late.
    #[must_use]
    pub fn is_faulted(&self) -> bool {
        [self.first_uncertainty, self.last_uncertainty, self.done_uncertainty]
            .iter()
            .any(|uncertainty| uncertainty.excused == Some(true))
    }

    /// How late it was, by its drawn schedule: its first token or its end, or what held its stream up on the way.
    /// What the client itself held back says nothing of the system.
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LossCause {
    /// The gateway closed it, with this code.
    Closed(u16),
    /// It ended without a close frame, or was silent for too long.
    Broken,
    /// The client cut it itself.
    Cut,
}

/// A socket that was lost, and the next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reconnect {
    /// Why the first one was lost.
    pub cause: LossCause,
    /// From the loss to the next 101.
    pub gap: Duration,
}

/// One session, whatever became of it.
#[derive(Clone, Debug)]
pub struct SessionRecord {
    /// `None` when it was never created.
    pub session: Option<SessionId>,
    /// From 0.
    pub index: u64,
    /// When the plan wanted it started, when it was, and when it ended.
    pub scheduled: Moment,
    /// When it was started.
    pub started: Moment,
    /// When it ended.
    pub ended: Moment,
    /// `POST /session/create`.
    pub create: Option<Duration>,
    /// How much of it may be the generator's own doing.
    pub create_slack: Duration,
    /// TCP + upgrade + JWT + subscription live, of the first connect.
    pub connect: Option<Duration>,
    /// How much of it may be the generator's own doing.
    pub connect_slack: Duration,
    /// `POST /session/{id}/close`.
    pub close: Option<Duration>,
    /// Attempts to reconnect.
    pub reconnect_attempts: u64,
    /// …of which succeeded, in order.
    pub reconnects: Vec<Reconnect>,
    /// Sockets that the client cut itself.
    pub sockets_cut: u64,
    /// It stopped reading once, as it was asked to.
    pub paused: bool,
    /// Gaps that the gateway announced.
    pub announced_gaps: u64,
    /// Positions in them. Of a gap over generations: those of the newer one.
    pub announced_gap_positions: u64,
    /// What came while no query was there that it could be of.
    pub defects: Defects,
    /// Events that came again because the client asked for them again, or could not say what it had.
    pub events_replayed: u64,
    /// Close codes received, in order.
    pub close_codes: Vec<u16>,
    /// Every query ok and no step failed.
    pub ok: bool,
    /// The run's end cut it off before anything failed.
    pub cut_off: bool,
    /// Not ok only because of queries that are [`QueryRecord::excused`].
    pub excused: bool,
    /// The server speaks the old contract: integrity is unverified.
    pub old_contract: bool,
    /// What went wrong first.
    pub failure: Option<Failure>,
}

/// Samples that do not depend on a query's end: recorded by the worker that took them, straight into its histograms.
/// Those that do wait in [`crate::QuerySamples`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LagKind {
    /// `sent_us − due_us`: the simulator's own lateness, also in queries that fail.
    PaceLag,
    /// The client's own event loop: wake-up − intended.
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
        assert_eq!(query(QueryStatus::Ok).late_by(), ms(0), "nobody knows its schedule");
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
