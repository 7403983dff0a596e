//! One query as the client sees it: what the server announced, which events arrived, and whether it is finished.
//! A query is judged by its tokens. Nothing here reads a clock or a socket.

mod outcome;

use crate::{
    socket::Arrival,
    stream::{ServerTimes, Stream, TokenIntervals},
};
use measure::{
    QuerySamples,
    contents::ContentStatus,
    defects::{Defect, Defects, excerpt},
    record::{Failure, FailureKind},
};
use protocol::{Event, Kind, Position, RunResponse};
use std::time::{Duration, Instant};

/// Upper limit of the generations whose events are kept until the response to `/run` names the query's own. A repeated call
/// cannot create more.
const MOST_GENERATIONS: usize = 4;

/// Upper limit in characters of an error code.
const LONGEST_CODE: usize = 64;

/// Longer ideal durations are ignored as errors of the server.
const LONGEST_IDEAL: Duration = Duration::from_secs(7 * 24 * 3600);

/// The error code of a stream that ended without a terminator.
const TRUNCATED: &str = "truncated";

/// What a foreign dialect tells besides its tokens.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stated {
    /// Tokens of the answer as the server counts them.
    pub tokens: Option<u64>,
    /// Events with text of the model's reasoning.
    pub reasoning: u64,
    /// Arrival of the first of them.
    pub first_reasoning: Option<Instant>,
}

/// How a query ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Its terminator arrived, and no further event is awaited.
    Finished,
    /// Its deadline passed.
    TimedOut,
    /// `/run` was refused.
    Rejected,
    /// Its session failed, or a later claim ended it.
    Failed,
    /// The run ended.
    Abandoned,
}

/// The progress of a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Its terminator has not arrived.
    Running,
    /// The terminator arrived before other events, which may still arrive.
    Settling,
    /// No further event is awaited.
    Finished,
}

/// What an event means for the query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventOutcome {
    /// A new event of this query.
    Ours(TokenIntervals),
    /// A duplicate of an event of this query.
    Duplicate,
    /// The terminator of a later claim, which a peer made because the query's server is dead.
    EndedByPeer,
    /// An event of an earlier query. The caller knows which of those events arrived.
    Earlier,
    /// An event of another query or session. It was counted as a defect.
    Foreign,
}

/// A query that was sent or is about to be sent.
#[derive(Debug)]
pub struct Query {
    /// The number of the query in its session, from 1.
    pub num: u32,
    /// The id that the client chose. A repeated call with this id starts no second query.
    pub id: String,
    /// When the plan wanted the query sent.
    pub scheduled: Instant,
    /// When the query was sent.
    pub sent: Option<Instant>,
    /// The response to `/run`.
    pub response: Option<RunResponse>,
    /// When the response arrived.
    pub accepted_at: Option<Instant>,
    /// Defects noted while the query ran. Those that its own stream counts are added at its end.
    pub defects: Defects,
    /// The samples of its tokens. They count only if the query ends `ok`.
    pub samples: QuerySamples,
    /// Number of duplicate tokens of earlier queries that arrived while this query ran.
    pub tokens_repeated: u64,
    /// How long the client paused reading.
    pub paused: Duration,
    /// The query is not sent before the session has a socket.
    pub waits_for_socket: bool,
    /// Why the last socket was lost.
    pub last_loss: Option<String>,
    /// The first failure.
    pub failure: Option<Failure>,
    /// What a foreign dialect tells besides its tokens.
    pub stated: Stated,
    streams: Vec<Stream>,
    /// The code of the error event with which a later claim ended the query.
    ended_with: Option<String>,
    /// The highest generation that belongs to earlier queries.
    floor: u64,
    end: Option<(Instant, End)>,
}

impl Query {
    /// Creates a query whose generation will be above `floor`.
    #[must_use]
    pub fn new(num: u32, id: String, scheduled: Instant, floor: u64) -> Self {
        Self {
            num,
            id,
            scheduled,
            sent: None,
            response: None,
            accepted_at: None,
            defects: Defects::default(),
            samples: QuerySamples::default(),
            tokens_repeated: 0,
            paused: Duration::ZERO,
            waits_for_socket: true,
            last_loss: None,
            failure: None,
            stated: Stated::default(),
            streams: Vec::new(),
            ended_with: None,
            floor,
            end: None,
        }
    }

    /// Adds an event that arrived in `frame`. `excused`: whether a planned fault made the simulator late, `None` if none is planned.
    pub fn arrive(
        &mut self,
        event: &Event<'_>,
        frame: &str,
        arrival: Arrival,
        stall_limit: Duration,
        excused: Option<bool>,
    ) -> EventOutcome {
        let generation = event.position.map_or(0, |position| position.generation);
        if event.position.is_some() && generation <= self.floor {
            return EventOutcome::Earlier;
        }
        if self.generation().is_some_and(|ours| ours != generation) {
            if event.position.is_none() {
                return self.defect(Defect::Unreadable, frame);
            }
            // A later generation ends this query only with an error event: a peer's terminator for a dead server.
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
        if self.response.is_none() {
            self.streams[index].first_frame.get_or_insert_with(|| excerpt(frame.as_bytes()).into());
        }
        self.add(index, event, frame, arrival, stall_limit, excused)
    }

    /// Adds an event of a dialect that numbers every event, if it is neither a token nor a terminator.
    pub fn other(&mut self, position: Position, frame: &str, arrival: Arrival) {
        let Some(index) = self.stream(position.generation) else { return };
        let stream = &mut self.streams[index];
        let before = stream.out_of_place();
        if !stream.other(position.seq, arrival) {
            self.defects.show(Defect::Duplicated, frame.as_bytes());
            self.samples.give_up();
            return;
        }
        let after = stream.out_of_place();
        if after != before {
            let defect = if after.0 > before.0 { Defect::Reordered } else { Defect::AfterTerminator };
            self.defects.show(defect, frame.as_bytes());
            self.samples.give_up();
        }
    }

    /// Notes whether the server's own copy of the text is the one that was received.
    pub fn compared(&mut self, is_equal: bool, frame: &str) {
        let Some(newest) = self.streams.iter_mut().max_by_key(|stream| stream.generation) else { return };
        newest.contents.settle(is_equal);
        if !is_equal {
            self.defects.show(Defect::Corrupt, frame.as_bytes());
            self.samples.give_up();
        }
    }

    /// Notes how many tokens the answer has, once its events turned out to be numbered.
    pub fn announce(&mut self, tokens: u64) {
        if let Some(response) = &mut self.response {
            response.tokens.get_or_insert(tokens);
        }
    }

    /// Ends the query because its stream ended without a terminator. Tokens behind the last one count as unsent.
    pub fn truncate(&mut self, at: Instant, message: String) {
        self.fail(FailureKind::Stream, None, message);
        self.ended_with = Some(TRUNCATED.to_owned());
        self.finish(at, End::Failed);
    }

    /// Adds an event to the stream at `index`.
    fn add(
        &mut self,
        index: usize,
        event: &Event<'_>,
        frame: &str,
        arrival: Arrival,
        stall_limit: Duration,
        excused: Option<bool>,
    ) -> EventOutcome {
        let announced = self.response.as_ref().and_then(|response| response.tokens);
        let stream = &mut self.streams[index];
        if event.kind == Kind::Error && stream.error.is_none() {
            stream.error = Some(describe_error(event));
            stream.error_code = Some(error_code(event));
        }
        let has_text = !event.content.is_empty();
        let seq = event.position.map(|position| position.seq);
        let stamps = ServerTimes { due_us: event.due_us, sent_us: event.sent_us, excused };
        let before = stream.out_of_place();
        let Some(gaps) = stream.arrive(seq, event.kind, has_text, stamps, arrival, stall_limit) else {
            self.defects.show(Defect::Duplicated, frame.as_bytes());
            self.samples.give_up();
            return EventOutcome::Duplicate;
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
        EventOutcome::Ours(gaps)
    }

    /// Returns whether `query_id` names this query. Before the response to `/run` any id may: a server may replace the client's id.
    fn is_ours(&self, query_id: &str) -> bool {
        let Some(response) = &self.response else { return true };
        query_id == self.id || response.query_id.as_deref().is_none_or(|given| given == query_id)
    }

    fn defect(&mut self, defect: Defect, frame: &str) -> EventOutcome {
        self.defects.note(defect, frame.as_bytes());
        EventOutcome::Foreign
    }

    /// Returns the index of this generation's stream, which is created if it is new. `None` if there are too many.
    fn stream(&mut self, generation: u64) -> Option<usize> {
        match self.streams.iter().rposition(|stream| stream.generation == generation) {
            Some(index) => Some(index),
            None if self.streams.len() < MOST_GENERATIONS => {
                // Usually there is one stream. A plain `push` would allocate memory for four.
                self.streams.reserve_exact(1);
                self.streams.push(Stream::new(generation));
                Some(self.streams.len() - 1)
            }
            None => None,
        }
    }

    fn ended_by_peer(&mut self, event: &Event<'_>, at: Instant) -> EventOutcome {
        self.fail(FailureKind::Stream, None, describe_error(event));
        self.ended_with = Some(error_code(event));
        self.finish(at, End::Failed);
        if let Some(position) = event.position {
            self.floor = self.floor.max(position.generation);
        }
        EventOutcome::EndedByPeer
    }

    /// Returns the generation that the response to `/run` named.
    fn generation(&self) -> Option<u64> {
        self.response.as_ref().and_then(|response| response.generation)
    }

    /// Stores the response to `/run`.
    pub fn accepted(&mut self, response: RunResponse) {
        if let Some(generation) = response.generation {
            self.reject_other_generations(generation);
        }
        self.streams.iter_mut().for_each(|stream| stream.first_frame = None);
        self.response = Some(response);
    }

    /// Counts the events of all generations except `ours` as defects: unnumbered ones as unreadable, the others as foreign.
    fn reject_other_generations(&mut self, ours: u64) {
        for stream in self.streams.extract_if(.., |stream| stream.generation != ours) {
            let defect = if stream.generation == 0 { Defect::Unreadable } else { Defect::Foreign };
            let tally = stream.ledger.observed();
            self.defects.add(defect, tally.events_received + tally.events_duplicated);
            if let Some(frame) = &stream.first_frame {
                self.defects.show(defect, frame.as_bytes());
            }
        }
    }

    /// Returns the stream that the query is judged by: the announced generation, else the newest one.
    #[must_use]
    pub fn own_stream(&self) -> Option<&Stream> {
        match self.generation() {
            Some(generation) => self.streams.iter().find(|stream| stream.generation == generation),
            None => self.streams.iter().max_by_key(|stream| stream.generation),
        }
    }

    /// Notes that the gateway cannot deliver the events after `from`, up to and including `to`.
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

    /// Returns the progress of the query. It is never finished before the response to `/run`, unless it was ended.
    #[must_use]
    pub fn progress(&self) -> Progress {
        if self.end.is_some() {
            return Progress::Finished;
        }
        let (Some(response), Some(stream)) = (&self.response, self.own_stream()) else {
            return Progress::Running;
        };
        // The terminator follows the last token, so that a gap beyond the tokens includes it.
        let all_gone = response.tokens.is_some_and(|tokens| stream.announced_gap > tokens);
        if stream.ledger.terminator().is_none() {
            return if all_gone { Progress::Finished } else { Progress::Running };
        }
        let announced = |last: u64| last <= stream.announced_gap;
        if stream.generation == 0 || stream.ledger.missing(0).iter().all(|hole| announced(hole.last)) {
            return Progress::Finished;
        }
        Progress::Settling
    }

    /// Returns whether the terminator and every position below it arrived. For unnumbered events the terminator is enough.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.own_stream().is_some_and(|stream| {
            stream.ledger.terminator().is_some()
                && (stream.generation == 0 || stream.ledger.missing(0).is_empty())
        })
    }

    /// Ends the query, unless it ended before.
    pub fn finish(&mut self, at: Instant, end: End) {
        self.end.get_or_insert((at, end));
    }

    /// Notes a failure, unless there was one before.
    pub fn fail(&mut self, kind: FailureKind, code: Option<u16>, message: String) {
        self.failure.get_or_insert(Failure { kind, code, message });
    }

    /// Returns the position after which a new socket resumes: every event up to it arrived or is announced as undeliverable.
    #[must_use]
    pub fn resume_after(&self) -> Option<Position> {
        let stream = self.own_stream().filter(|stream| stream.generation > 0)?;
        Some(Position::new(stream.generation, stream.contiguous().max(announced(stream))))
    }

    /// Returns the last position that arrived or was announced as undeliverable.
    #[must_use]
    pub fn last_position(&self) -> Option<Position> {
        let newest = self.streams.iter().max_by_key(|stream| stream.generation)?;
        let seq = newest.ledger.highest().max(announced(newest));
        (newest.generation > 0).then(|| Position::new(newest.generation, seq))
    }

    /// Returns whether the event at `position` arrived.
    #[must_use]
    pub fn has(&self, position: Position) -> bool {
        let mut streams = self.streams.iter();
        streams.any(|stream| stream.generation == position.generation && stream.has(position.seq))
    }

    /// Returns whether `position` is after the terminator of its generation, if this query has that generation.
    #[must_use]
    pub fn is_behind_terminator(&self, position: Position) -> bool {
        let mut streams = self.streams.iter();
        streams.any(|stream| {
            stream.generation == position.generation && stream.is_behind_terminator(position.seq)
        })
    }

    /// Returns the code of the error event that ended the query.
    #[must_use]
    pub fn error_code(&self) -> Option<&str> {
        let own = || self.own_stream().and_then(|stream| stream.error_code.as_deref());
        self.ended_with.as_deref().or_else(own)
    }

    /// Returns the highest generation that cannot belong to a later query.
    #[must_use]
    pub fn ceiling(&self) -> u64 {
        let seen = self.streams.iter().map(|stream| stream.generation).max().unwrap_or(0);
        self.floor.max(seen).max(self.generation().unwrap_or(0))
    }
}

/// Returns the end of the announced gap. `u64::MAX` means a gap into a later generation, whose end here is unknown.
fn announced(stream: &Stream) -> u64 {
    if stream.announced_gap == u64::MAX { 0 } else { stream.announced_gap }
}

/// Returns the code of an error event, shortened so that a server cannot fill the memory.
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

/// Converts a duration that a server states in milliseconds. `None` if it is negative, not finite or longer than a week.
pub fn millis(ms: Option<f64>) -> Option<Duration> {
    ms.and_then(|ms| Duration::try_from_secs_f64(ms / 1e3).ok()).filter(|&time| time <= LONGEST_IDEAL)
}

#[cfg(test)]
mod tests {
    use super::*;
    use measure::record::QueryStatus;
    use protocol::DigestField;
    use std::borrow::Cow;

    fn arrive(query: &mut Query, generation: u64, seq: u64, query_id: &str, kind: Kind) -> EventOutcome {
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
            stamps: None,
        };
        let arrival = Arrival::exact(Instant::now(), seq);
        query.arrive(&event, "frame", arrival, Duration::from_millis(250), None)
    }

    fn played(foreign: &[(u64, &str)]) -> QueryStatus {
        let mut query = Query::new(1, "ours".into(), Instant::now(), 0);
        let response = RunResponse { generation: Some(7), tokens: Some(1), ..RunResponse::default() };
        query.accepted(RunResponse { query_id: Some("ours".into()), ..response });
        for &(generation, query_id) in foreign {
            assert_eq!(arrive(&mut query, generation, 1, query_id, Kind::Token), EventOutcome::Foreign);
        }
        arrive(&mut query, 7, 1, "ours", Kind::Token);
        arrive(&mut query, 7, 2, "ours", Kind::Done);
        query.finish(Instant::now(), End::Finished);
        let tally = query.tally();
        query.status(&tally, &query.all_defects(&tally))
    }

    #[test]
    fn a_foreign_event_makes_a_query_incomplete() {
        assert_eq!(played(&[]), QueryStatus::Ok);
        assert_eq!(played(&[(9, "theirs")]), QueryStatus::Incomplete);
        assert_eq!(played(&[(7, "theirs")]), QueryStatus::Incomplete, "two claims in one millisecond");
    }

    #[test]
    fn a_hole_is_a_loss_without_an_announced_length() {
        let mut query = Query::new(1, "ours".into(), Instant::now(), 0);
        query.accepted(RunResponse { query_id: Some("ours".into()), ..RunResponse::default() });
        for (seq, kind) in [(1, Kind::Token), (3, Kind::Token), (4, Kind::Done)] {
            arrive(&mut query, 7, seq, "ours", kind);
        }
        query.finish(Instant::now(), End::TimedOut);
        let tally = query.tally();
        assert_eq!((tally.tokens_received, tally.tokens_lost, tally.tokens_unannounced), (2, 1, 0));
    }

    #[test]
    fn an_impossible_ideal_duration_is_ignored() {
        for ms in [f64::NAN, f64::INFINITY, -1.0, 1e20] {
            assert_eq!(millis(Some(ms)), None, "{ms}");
        }
    }
}
