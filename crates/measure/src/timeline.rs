//! Timelines: what happened to one query, token by token. Only those of the slowest and of some broken queries are kept.
//! The memory that they take does not grow with the length of the run.

pub use super::samples::TimedToken;
use super::{
    QuerySamples,
    record::{LossCause, Moment, QueryRecord, QueryStatus},
    samples,
};
use protocol::{MissingRange, SessionId};
use serde::{Deserialize, Serialize};
use std::{
    cmp::Reverse,
    collections::{BTreeSet, BinaryHeap},
    time::Duration,
};

/// Number of the slowest queries whose timelines are kept.
pub const SLOWEST: usize = 20;
/// Number of the broken queries whose timelines are kept.
pub const BROKEN: usize = 200;
/// Largest number of notes of a query.
pub const MAX_NOTES: usize = 64;
/// Largest size in bytes of a query's packed tokens: at least 5,000 tokens.
const MAX_BYTES: usize = 64 << 10;

/// Something that happened to a query's session besides the arrival of new tokens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// When it happened.
    pub at: Moment,
    /// What happened.
    pub event: NoteEvent,
}

/// What happened to a query's session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NoteEvent {
    /// An attempt of `/run` failed, with this message.
    CallFailed(String),
    /// The socket was lost: the cause, and the text of the close frame or of the error.
    SocketLost(LossCause, String),
    /// A socket was opened. Holds the time since the loss of the one before, if there was one.
    SocketOpened(Option<Duration>),
    /// Events were sent again after a reconnect, as allowed: the first and the last sequence number, and how many.
    Replayed(u64, u64, u64),
    /// The gateway announced that it cannot deliver the events after the first position, up to the second one.
    Gap(String, String),
    /// Events arrived that had arrived before: the first and the last sequence number, and how many.
    Duplicates(u64, u64, u64),
    /// The client paused reading for this long, on purpose.
    Paused(Duration),
}

/// The timeline of a query.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueryTimeline {
    /// The id that the client gave the query.
    pub query_id: Box<str>,
    /// Session.
    pub session: Option<SessionId>,
    /// Index of the session, from 0.
    pub session_index: u64,
    /// Number of the query in its session, from 1.
    pub query_num: u32,
    /// Name of the server that generated the answer, if it stated one.
    pub server: Option<String>,
    /// How the query ended.
    pub status: QueryStatus,
    /// When it was due.
    pub due: Moment,
    /// When it was sent.
    pub sent: Option<Moment>,
    /// When the response to `/run` arrived.
    pub accepted: Option<Moment>,
    /// Arrival of the first token with text.
    pub first_token: Option<Moment>,
    /// Arrival of the last token.
    pub last_token: Option<Moment>,
    /// Arrival of the terminator.
    pub done: Option<Moment>,
    /// When it finished or was given up.
    pub ended: Moment,
    /// Ideal time to the first token, by the drawn schedule.
    pub ideal_ttft: Option<Duration>,
    /// Ideal time to the terminator, by the drawn schedule.
    pub ideal_e2el: Option<Duration>,
    /// Number of announced tokens.
    pub tokens_expected: Option<u64>,
    /// Tokens that arrived, were lost, arrived again and arrived out of order.
    pub tokens: [u64; 4],
    /// Sequence numbers that did not arrive: first and last of each range.
    pub missing: Vec<(u64, u64)>,
    /// Why it failed.
    pub failure: Option<String>,
    /// What happened to its session meanwhile.
    pub notes: Vec<Note>,
    /// Notes beyond [`MAX_NOTES`].
    pub notes_left_out: u64,
    /// How late it was. `None` for a broken query.
    pub slowness: Option<Duration>,
    /// Whether tokens were lost or defects arrived. Such queries come first.
    pub is_corrupt: bool,
    packed: Vec<u8>,
}

impl QueryTimeline {
    /// Creates the timeline of a query from its record, the samples of its tokens and the ranges that are missing. `notes` are those of
    /// its session.
    #[must_use]
    pub fn new(
        record: &QueryRecord,
        samples: &QuerySamples,
        missing: &[MissingRange],
        mut notes: Notes,
    ) -> Self {
        let tally = &record.tally;
        // Failed calls are known last.
        notes.list.sort_by_key(|note| note.at);
        Self {
            query_id: record.query_id.clone(),
            session: record.session,
            session_index: record.session_index,
            query_num: record.query_num,
            server: None,
            status: record.status,
            due: record.scheduled,
            sent: record.sent,
            accepted: None,
            first_token: record.first_token,
            last_token: record.last_token,
            done: record.done,
            ended: record.ended,
            ideal_ttft: record.ideal_ttft,
            ideal_e2el: record.ideal_e2el,
            tokens_expected: record.tokens_expected,
            tokens: [
                tally.tokens_received,
                tally.tokens_lost,
                tally.tokens_duplicated,
                tally.tokens_reordered,
            ],
            missing: missing.iter().take(MAX_NOTES).map(|range| (range.first, range.last)).collect(),
            failure: record.failure.as_ref().map(|failure| failure.message.clone()),
            notes: notes.list,
            notes_left_out: notes.left_out,
            slowness: record.slowness(),
            is_corrupt: is_corrupt(record),
            packed: samples.packed(MAX_BYTES),
        }
    }

    /// Returns the tokens in the order of their arrival. Those of a very long answer may be missing at its end.
    #[must_use]
    pub fn tokens_in_order(&self) -> Vec<TimedToken> {
        samples::tokens(&self.packed)
    }
}

/// Notes about a session, limited in number.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Notes {
    list: Vec<Note>,
    left_out: u64,
}

impl Notes {
    /// Adds a note. A repeat of events is joined with the one before.
    pub fn add(&mut self, at: Moment, event: NoteEvent) {
        use NoteEvent::{Duplicates, Replayed};
        if let (Some(Note { event: Replayed(_, end, n), .. }), &Replayed(_, last, _))
        | (Some(Note { event: Duplicates(_, end, n), .. }), &Duplicates(_, last, _)) =
            (self.list.last_mut(), &event)
        {
            (*end, *n) = (last, *n + 1);
        } else if self.list.len() < MAX_NOTES {
            self.list.push(Note { at, event });
        } else {
            self.left_out += 1;
        }
    }

    /// Returns the notes of a query that ended at `ended`. Those from then on remain for the next one.
    pub fn take_until(&mut self, ended: Moment) -> Self {
        let later = self.list.iter().position(|note| note.at > ended).unwrap_or(self.list.len());
        let rest = self.list.split_off(later);
        let list = std::mem::replace(&mut self.list, rest);
        Self { list, left_out: std::mem::take(&mut self.left_out) }
    }
}

fn is_corrupt(query: &QueryRecord) -> bool {
    query.tally.tokens_lost > 0 || query.defects.any()
}

/// What a query's timeline is kept for.
fn is_broken(status: QueryStatus) -> bool {
    !matches!(status, QueryStatus::Ok | QueryStatus::Abandoned)
}

/// Decides which timelines a worker makes: those that may be among the kept ones of the whole run.
#[derive(Debug, Default)]
pub(crate) struct Candidates {
    slowest: BinaryHeap<Reverse<Duration>>,
    corrupt: usize,
    broken: usize,
}

impl Candidates {
    /// Returns whether a query that ended may be among the kept ones, and counts it then.
    pub(crate) fn admit(&mut self, query: &QueryRecord) -> bool {
        if is_broken(query.status) {
            let count = if is_corrupt(query) { &mut self.corrupt } else { &mut self.broken };
            *count += 1;
            return *count <= BROKEN;
        }
        let Some(slowness) = query.slowness() else { return false };
        if self.slowest.len() >= SLOWEST {
            if self.slowest.peek().is_some_and(|&Reverse(least)| slowness <= least) {
                return false;
            }
            self.slowest.pop();
        }
        self.slowest.push(Reverse(slowness));
        true
    }
}

/// The kept timelines: a function of all that were added, in any order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timelines {
    slowest: BTreeSet<Ranked<(Reverse<Duration>, u64, u32)>>,
    broken: BTreeSet<Ranked<(bool, Moment, u64, u32)>>,
}

/// A timeline with its rank. Two timelines with one rank are those of one query.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Ranked<R> {
    rank: R,
    timeline: QueryTimeline,
}

impl<R: Ord> PartialEq for Ranked<R> {
    fn eq(&self, other: &Self) -> bool {
        self.rank == other.rank
    }
}

impl<R: Ord> Eq for Ranked<R> {}

impl<R: Ord> PartialOrd for Ranked<R> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<R: Ord> Ord for Ranked<R> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.rank.cmp(&other.rank)
    }
}

fn keep<R: Ord>(set: &mut BTreeSet<Ranked<R>>, most: usize, rank: R, timeline: QueryTimeline) {
    set.insert(Ranked { rank, timeline });
    if set.len() > most {
        set.pop_last();
    }
}

impl Timelines {
    /// Adds a timeline. Drops the fastest or the latest one if there are too many.
    pub fn add(&mut self, timeline: QueryTimeline) {
        let (index, num) = (timeline.session_index, timeline.query_num);
        if is_broken(timeline.status) {
            // Queries that lost tokens come first, then the earlier ones: what follows is often a consequence.
            let rank = (!timeline.is_corrupt, timeline.ended, index, num);
            keep(&mut self.broken, BROKEN, rank, timeline);
        } else if let Some(slowness) = timeline.slowness {
            keep(&mut self.slowest, SLOWEST, (Reverse(slowness), index, num), timeline);
        }
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        other.slowest().chain(other.broken()).for_each(|timeline| self.add(timeline.clone()));
    }

    /// Returns the timelines of the slowest complete queries, the slowest first.
    pub fn slowest(&self) -> impl Iterator<Item = &QueryTimeline> {
        self.slowest.iter().map(|ranked| &ranked.timeline)
    }

    /// Returns the timelines of broken queries: first those that lost tokens, then the others, in the order of their ends.
    pub fn broken(&self) -> impl Iterator<Item = &QueryTimeline> {
        self.broken.iter().map(|ranked| &ranked.timeline)
    }

    /// Returns whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.slowest.is_empty() && self.broken.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A query of session `index` that was this late, or broken.
    fn query(index: u64, late: u64, status: QueryStatus) -> QueryRecord {
        let done = Duration::from_millis(1_200 + late);
        QueryRecord { session_index: index, done: Some(done), ended: done, ..QueryRecord::sample(status) }
    }

    fn timeline(record: &QueryRecord) -> QueryTimeline {
        QueryTimeline::new(record, &QuerySamples::default(), &[], Notes::default())
    }

    #[test]
    fn the_slowest_are_kept_whatever_the_order_and_the_number_of_workers() {
        let queries: Vec<_> = (0..500).map(|n| query(n, (n * 7919) % 501, QueryStatus::Ok)).collect();
        let mut whole = Timelines::default();
        queries.iter().for_each(|query| whole.add(timeline(query)));
        let mut workers = [(); 3].map(|()| (Candidates::default(), Timelines::default(), 0));
        for (n, query) in queries.iter().enumerate().rev() {
            let (candidates, kept, made) = &mut workers[n % 3];
            if candidates.admit(query) {
                *made += 1;
                kept.add(timeline(query));
            }
        }
        let mut merged = Timelines::default();
        workers.iter().for_each(|(_, kept, _)| merged.merge(kept));
        assert!(merged.slowest().eq(whole.slowest()) && merged.slowest().count() == SLOWEST);
        assert!(workers.iter().all(|(_, _, made)| *made < 120), "few of 166 are made");
        let late: Vec<_> = merged.slowest().map(|timeline| timeline.slowness).collect();
        assert!(late.is_sorted_by(|a, b| a >= b), "{late:?}");
    }

    #[test]
    fn losses_are_kept_before_other_failures() {
        let (mut kept, mut candidates) = (Timelines::default(), Candidates::default());
        for n in 0..1_000 {
            let mut record = query(n, n, QueryStatus::Timeout);
            record.tally.tokens_lost = u64::from(n % 100 == 99);
            if candidates.admit(&record) {
                kept.add(timeline(&record));
            }
        }
        let indices: Vec<_> = kept.broken().map(|timeline| timeline.session_index).collect();
        assert_eq!((indices.len(), &indices[..3]), (BROKEN, &[99, 199, 299][..]));
        assert_eq!(indices[10..13], [0, 1, 2]);
        assert!(kept.slowest().next().is_none());
        assert!(!candidates.admit(&query(1, 1, QueryStatus::Abandoned)));
    }

    #[test]
    fn notes_join_repeats_and_are_limited() {
        let (mut notes, ms) = (Notes::default(), Duration::from_millis);
        for seq in 3..9 {
            notes.add(ms(seq), NoteEvent::Replayed(seq, seq, 1));
        }
        notes.add(ms(20), NoteEvent::SocketOpened(None));
        notes.add(ms(30), NoteEvent::SocketOpened(None));
        let taken = notes.take_until(ms(20));
        assert_eq!(taken.list[0], Note { at: ms(3), event: NoteEvent::Replayed(3, 8, 6) });
        assert_eq!((taken.list.len(), notes.list.len()), (2, 1));
        for n in 0..100 {
            notes.add(ms(n), NoteEvent::SocketOpened(None));
        }
        assert_eq!((notes.list.len(), notes.left_out), (MAX_NOTES, 37));
    }
}
