//! One query as the client sees it: what was announced, what arrived, and when it is over.
//! It is judged by its tokens alone, and imports no socket and no clock.

mod outcome;

use crate::{
    socket::Arrival,
    stream::{Gaps, Stamps, Stream},
};
use measure::{
    QuerySamples,
    contents::ContentStatus,
    defects::{Defect, Defects, excerpt},
    record::{Failure, FailureKind},
};
use protocol::{Event, Kind, Position, RunResponse};
use std::time::{Duration, Instant};

/// Generations seen before the answer to `/run` says which one is ours. More than a retried call can make.
const MOST_GENERATIONS: usize = 4;

/// An error's code is cut off here.
const LONGEST_CODE: usize = 64;

/// An ideal beyond this is a fault of the server's arithmetic.
const LONGEST_IDEAL: Duration = Duration::from_secs(7 * 24 * 3600);

/// How a query came to its end, where not by its own terminator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Its terminator came, and nothing more is waited for.
    Finished,
    /// The deadline came first.
    TimedOut,
    /// `/run` was refused.
    Rejected,
    /// Its session could not go on, or a later claim ended it.
    Failed,
    /// The run was ended.
    Abandoned,
}

/// How far a query is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Its terminator is still to come.
    Running,
    /// The terminator came before other events; they may still come.
    Settling,
    /// Nothing more is to come.
    Finished,
}

/// What an event turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrived {
    /// One of this query's.
    Ours(Gaps),
    /// One of this query's, again.
    Again,
    /// The terminator of a later claim, made because this query's server is gone.
    EndedByPeer,
    /// Of an earlier query: the caller knows which of its events came.
    Earlier,
    /// None of this query's: noted as a defect.
    Foreign,
}

/// A query that was sent, or is about to be.
#[derive(Debug)]
pub struct Query {
    /// From 1.
    pub num: u32,
    /// Made by us: a repeat of the call starts nothing.
    pub id: String,
    /// When the plan wanted it sent.
    pub scheduled: Instant,
    /// When it was.
    pub sent: Option<Instant>,
    /// What `/run` answered.
    pub answer: Option<RunResponse>,
    /// What came while it ran that ought not to have come; what its own stream counts is added at its end.
    pub defects: Defects,
    /// What its tokens measured; it counts if the query ends `ok`.
    pub samples: QuerySamples,
    /// Tokens of earlier queries that came again while this one ran.
    pub tokens_repeated: u64,
    /// How long the client itself did not read.
    pub paused: Duration,
    /// It is not sent before the session has a socket.
    pub waits_for_socket: bool,
    /// Why its last socket was lost.
    pub last_loss: Option<String>,
    /// What went wrong first.
    pub failure: Option<Failure>,
    streams: Vec<Stream>,
    /// The code of a later claim's error event, which ended the query.
    ended_with: Option<String>,
    /// Generations up to this one belong to earlier queries.
    floor: u64,
    end: Option<(Instant, End)>,
}

impl Query {
    /// A query whose generation will be above `floor`.
    #[must_use]
    pub fn new(num: u32, id: String, scheduled: Instant, floor: u64) -> Self {
        Self {
            num,
            id,
            scheduled,
            sent: None,
            answer: None,
            defects: Defects::default(),
            samples: QuerySamples::default(),
            tokens_repeated: 0,
            paused: Duration::ZERO,
            waits_for_socket: true,
            last_loss: None,
            failure: None,
            streams: Vec::new(),
            ended_with: None,
            floor,
            end: None,
        }
    }

    /// Takes an event in, which came in `frame`; `excused`: whether a planned fault made its simulator late.
    pub fn arrive(
        &mut self,
        event: &Event<'_>,
        frame: &str,
        arrival: Arrival,
        stall_limit: Duration,
        excused: Option<bool>,
    ) -> Arrived {
        let generation = event.position.map_or(0, |position| position.generation);
        if event.position.is_some() && generation <= self.floor {
            return Arrived::Earlier;
        }
        if self.generation().is_some_and(|ours| ours != generation) {
            if event.position.is_none() {
                return self.defect(Defect::Unreadable, frame);
            }
            let for_us = event.query_id.as_deref().is_none_or(|id| id == self.id);
            let ends_us = event.kind == Kind::Error && for_us;
            return if ends_us {
                self.ended_by_peer(event, arrival.at)
            } else {
                self.defect(Defect::Foreign, frame)
            };
        }
        if event.query_id.as_deref().is_some_and(|id| !self.is_ours(id)) {
            return self.defect(Defect::Foreign, frame);
        }
        let Some(index) = self.stream(generation) else { return self.defect(Defect::Foreign, frame) };
        if self.answer.is_none() {
            self.streams[index].begun_with.get_or_insert_with(|| excerpt(frame.as_bytes()).into());
        }
        self.take(index, event, frame, arrival, stall_limit, excused)
    }

    /// Takes in an event of the stream at `index`.
    fn take(
        &mut self,
        index: usize,
        event: &Event<'_>,
        frame: &str,
        arrival: Arrival,
        stall_limit: Duration,
        excused: Option<bool>,
    ) -> Arrived {
        let announced = self.answer.as_ref().and_then(|answer| answer.tokens);
        let stream = &mut self.streams[index];
        if event.kind == Kind::Error && stream.error.is_none() {
            stream.error = Some(describe_error(event));
            stream.error_code = Some(error_code(event));
        }
        let has_text = !event.content.is_empty();
        let seq = event.position.map(|position| position.seq);
        let stamps = Stamps { due_us: event.due_us, sent_us: event.sent_us, excused };
        let before = stream.out_of_place();
        let Some(gaps) = stream.arrive(seq, event.kind, has_text, stamps, arrival, stall_limit) else {
            self.defects.show(Defect::Duplicated, frame.as_bytes());
            self.samples.give_up();
            return Arrived::Again;
        };
        let seq = seq.unwrap_or_else(|| stream.ledger.highest());
        if event.kind.is_terminator() {
            stream.contents.ended(seq, event.digest);
        } else {
            stream.contents.token(seq, &event.content);
        }
        let after = stream.out_of_place();
        let corrupt = stream.contents.status() == ContentStatus::Corrupt;
        let unannounced = !event.kind.is_terminator() && announced.is_some_and(|announced| seq > announced);
        if (after, corrupt, unannounced) != (before, false, false) {
            let shown = [
                (after.0 > before.0, Defect::Reordered),
                (after.1 > before.1, Defect::AfterTerminator),
                (corrupt, Defect::Corrupt),
                (unannounced, Defect::Unannounced),
            ];
            shown
                .iter()
                .filter(|(is, _)| *is)
                .for_each(|(_, what)| self.defects.show(*what, frame.as_bytes()));
            self.samples.give_up();
        }
        Arrived::Ours(gaps)
    }

    /// Before the answer it is unknown whether the server took our id over or gave its own.
    fn is_ours(&self, query_id: &str) -> bool {
        let Some(answer) = &self.answer else { return true };
        query_id == self.id || answer.query_id.as_deref().is_none_or(|given| given == query_id)
    }

    fn defect(&mut self, defect: Defect, frame: &str) -> Arrived {
        self.defects.note(defect, frame.as_bytes());
        Arrived::Foreign
    }

    /// Where the stream of this generation is, made where it is new.
    fn stream(&mut self, generation: u64) -> Option<usize> {
        match self.streams.iter().rposition(|stream| stream.generation == generation) {
            Some(index) => Some(index),
            None if self.streams.len() < MOST_GENERATIONS => {
                // One as a rule: a vector left to itself makes room for four.
                self.streams.reserve_exact(1);
                self.streams.push(Stream::new(generation));
                Some(self.streams.len() - 1)
            }
            None => None,
        }
    }

    fn ended_by_peer(&mut self, event: &Event<'_>, at: Instant) -> Arrived {
        self.fail(FailureKind::Stream, None, describe_error(event));
        self.ended_with = Some(error_code(event));
        self.finish(at, End::Failed);
        if let Some(position) = event.position {
            self.floor = self.floor.max(position.generation);
        }
        Arrived::EndedByPeer
    }

    /// The generation that `/run` announced.
    fn generation(&self) -> Option<u64> {
        self.answer.as_ref().and_then(|answer| answer.generation)
    }

    /// `/run` answered.
    pub fn answered(&mut self, answer: RunResponse) {
        if let Some(generation) = answer.generation {
            self.disown(generation);
        }
        self.streams.iter_mut().for_each(|stream| stream.begun_with = None);
        self.answer = Some(answer);
    }

    /// The events of other generations than `ours` are defects: unnumbered ones cannot be placed, others are foreign.
    fn disown(&mut self, ours: u64) {
        for stream in self.streams.extract_if(.., |stream| stream.generation != ours) {
            let defect = if stream.generation == 0 { Defect::Unreadable } else { Defect::Foreign };
            let tally = stream.ledger.observed();
            self.defects.add(defect, tally.events_received + tally.events_duplicated);
            if let Some(frame) = &stream.begun_with {
                self.defects.show(defect, frame.as_bytes());
            }
        }
    }

    /// The stream that this query is judged by: the announced one, else the newest.
    #[must_use]
    pub fn own_stream(&self) -> Option<&Stream> {
        match self.generation() {
            Some(generation) => self.streams.iter().find(|stream| stream.generation == generation),
            None => self.streams.iter().max_by_key(|stream| stream.generation),
        }
    }

    /// The gateway cannot have the events after `from`, up to and with `to`, any more.
    pub fn announce_gap(&mut self, from: Position, to: Position) {
        if to.generation <= self.floor {
            return;
        }
        let message = format!("the gateway announced a gap from {from} to {to}");
        self.fail(FailureKind::Stream, None, message);
        let generation = self.generation().unwrap_or(to.generation);
        if let Some(index) = self.stream(generation) {
            let stream = &mut self.streams[index];
            let up_to = if to.generation > generation { u64::MAX } else { to.seq };
            stream.announced_gap = stream.announced_gap.max(up_to);
        }
    }

    /// How far the query is. Nothing is over before `/run` has answered.
    #[must_use]
    pub fn progress(&self) -> Progress {
        if self.end.is_some() {
            return Progress::Finished;
        }
        let (Some(answer), Some(stream)) = (&self.answer, self.own_stream()) else {
            return Progress::Running;
        };
        let all_gone = answer.tokens.is_some_and(|tokens| stream.announced_gap > tokens);
        if stream.ledger.terminator().is_none() {
            return if all_gone { Progress::Finished } else { Progress::Running };
        }
        let announced = |last: u64| last <= stream.announced_gap;
        if stream.generation == 0 || stream.ledger.missing(0).iter().all(|hole| announced(hole.last)) {
            return Progress::Finished;
        }
        Progress::Settling
    }

    /// Returns whether the terminator and every position below it came. Of a server that numbers nothing, the terminator is enough.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.own_stream().is_some_and(|stream| {
            stream.ledger.terminator().is_some()
                && (stream.generation == 0 || stream.ledger.missing(0).is_empty())
        })
    }

    /// The run ends here for this query, unless it ended before.
    pub fn finish(&mut self, at: Instant, end: End) {
        self.end.get_or_insert((at, end));
    }

    /// Notes what went wrong, unless something did before.
    pub fn fail(&mut self, kind: FailureKind, code: Option<u16>, message: String) {
        self.failure.get_or_insert(Failure { kind, code, message });
    }

    /// Where a lost socket resumes: after this, everything may be missing.
    #[must_use]
    pub fn resume_after(&self) -> Option<Position> {
        let stream = self.own_stream().filter(|stream| stream.generation > 0)?;
        Some(Position::new(stream.generation, stream.contiguous().max(announced(stream))))
    }

    /// The last position that came, or was announced as gone.
    #[must_use]
    pub fn last_position(&self) -> Option<Position> {
        let newest = self.streams.iter().max_by_key(|stream| stream.generation)?;
        let seq = newest.ledger.highest().max(announced(newest));
        (newest.generation > 0).then(|| Position::new(newest.generation, seq))
    }

    /// Whether the event at `position` came.
    #[must_use]
    pub fn has(&self, position: Position) -> bool {
        let mut streams = self.streams.iter();
        streams.any(|stream| stream.generation == position.generation && stream.has(position.seq))
    }

    /// Whether `position` is behind the terminator of its generation, which this query had.
    #[must_use]
    pub fn is_behind_terminator(&self, position: Position) -> bool {
        let mut streams = self.streams.iter();
        streams.any(|stream| {
            stream.generation == position.generation && stream.is_behind_terminator(position.seq)
        })
    }

    /// The code of the error event that ended the query.
    #[must_use]
    pub fn error_code(&self) -> Option<&str> {
        let own = || self.own_stream().and_then(|stream| stream.error_code.as_deref());
        self.ended_with.as_deref().or_else(own)
    }

    /// Generations up to this one are none of a later query's.
    #[must_use]
    pub fn ceiling(&self) -> u64 {
        let seen = self.streams.iter().map(|stream| stream.generation).max().unwrap_or(0);
        self.floor.max(seen).max(self.generation().unwrap_or(0))
    }
}

fn announced(stream: &Stream) -> u64 {
    if stream.announced_gap == u64::MAX { 0 } else { stream.announced_gap }
}

/// A server's text: long enough to name a kind, too short to fill memory.
fn error_code(event: &Event<'_>) -> String {
    event.code.as_deref().unwrap_or("unknown").chars().take(LONGEST_CODE).collect()
}

fn describe_error(event: &Event<'_>) -> String {
    let code = event.code.as_deref().unwrap_or("unknown");
    match event.message.as_deref() {
        Some(message) => format!("error event `{code}`: {message}"),
        None => format!("error event `{code}`"),
    }
}

/// A server's own figure, if it is one that a query can take.
pub fn millis(ms: Option<f64>) -> Option<Duration> {
    ms.and_then(|ms| Duration::try_from_secs_f64(ms / 1e3).ok()).filter(|&time| time <= LONGEST_IDEAL)
}

#[cfg(test)]
mod tests {
    use super::*;
    use measure::record::QueryStatus;
    use protocol::DigestField;
    use std::borrow::Cow;

    fn arrive(query: &mut Query, generation: u64, seq: u64, query_id: &str, kind: Kind) -> Arrived {
        let event = Event {
            position: Some(Position::new(generation, seq)),
            kind,
            content: Cow::Borrowed("word "),
            query_id: Some(Cow::Borrowed(query_id)),
            due_us: None,
            sent_us: None,
            code: None,
            message: None,
            digest: DigestField::Absent,
        };
        let arrival = Arrival::exact(Instant::now(), seq);
        query.arrive(&event, "frame", arrival, Duration::from_millis(250), None)
    }

    fn played(foreign: &[(u64, &str)]) -> QueryStatus {
        let mut query = Query::new(1, "ours".into(), Instant::now(), 0);
        let answer = RunResponse { generation: Some(7), tokens: Some(1), ..RunResponse::default() };
        query.answered(RunResponse { query_id: Some("ours".into()), ..answer });
        for &(generation, query_id) in foreign {
            assert_eq!(arrive(&mut query, generation, 1, query_id, Kind::Token), Arrived::Foreign);
        }
        arrive(&mut query, 7, 1, "ours", Kind::Token);
        arrive(&mut query, 7, 2, "ours", Kind::Done);
        query.finish(Instant::now(), End::Finished);
        let tally = query.tally();
        query.status(&tally, &query.all_defects(&tally))
    }

    #[test]
    fn what_belongs_to_another_session_spoils_a_query() {
        assert_eq!(played(&[]), QueryStatus::Ok);
        assert_eq!(played(&[(9, "theirs")]), QueryStatus::Incomplete);
        assert_eq!(played(&[(7, "theirs")]), QueryStatus::Incomplete, "two claims of one millisecond");
    }

    #[test]
    fn a_hole_is_a_loss_without_an_announcement_too() {
        let mut query = Query::new(1, "ours".into(), Instant::now(), 0);
        query.answered(RunResponse { query_id: Some("ours".into()), ..RunResponse::default() });
        for (seq, kind) in [(1, Kind::Token), (3, Kind::Token), (4, Kind::Done)] {
            arrive(&mut query, 7, seq, "ours", kind);
        }
        query.finish(Instant::now(), End::TimedOut);
        let tally = query.tally();
        assert_eq!((tally.tokens_received, tally.tokens_lost, tally.tokens_unannounced), (2, 1, 0));
    }

    #[test]
    fn an_ideal_that_no_clock_holds_is_none() {
        for ms in [f64::NAN, f64::INFINITY, -1.0, 1e20] {
            assert_eq!(millis(Some(ms)), None, "{ms}");
        }
    }
}
