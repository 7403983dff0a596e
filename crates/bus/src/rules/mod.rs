//! The rules of delivery as pure functions over one session's record: every atomic step that a broker knows. The memory
//! bus runs them, Redis runs the same as scripts, and a model drives them through every fault; they do no I/O and read no clock.

mod attach;
mod barrier;
mod expiry;
mod history;
mod log;
mod plays;
mod refusal;

pub use attach::{Attach, Attached, Attaching};
pub use barrier::{MISSED_BEATS, NO_BEAT, RestorationBarrier, Standing, heartbeat, is_newer};
pub use expiry::{Part, Renewed};
pub use history::{AcknowledgedHistory, AcknowledgedRecord};
pub use log::{LogEntry, merge};
pub use plays::{Play, Plays};
pub(crate) use refusal::HOLE;
pub use refusal::Refusal;

use protocol::{Kind, Position, Prefix, encode_closed, encode_fence, with_position};
use std::collections::{BTreeMap, VecDeque};

/// What a step tells the world. The function that takes it answers how many heard it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect<'a> {
    /// To whoever is subscribed to the session.
    Publish {
        /// The event's place and kind.
        prefix: Prefix,
        /// The event.
        frame: &'a [u8],
    },
    /// To a server: the session was closed; end this generation.
    Cancel {
        /// Which server.
        owner: &'a str,
        /// Which of the session's queries.
        generation: u64,
    },
    /// To a gateway: an attachment with this epoch exists.
    Takeover {
        /// Which gateway.
        holder: &'a str,
        /// The newcomer's epoch.
        epoch: u64,
    },
    /// To a gateway: the attachment with this epoch was released, and the session's cursor is this.
    Released {
        /// Which gateway.
        holder: &'a str,
        /// The epoch that ended.
        epoch: u64,
        /// The cursor that is kept now.
        cursor: Position,
    },
}

/// Who hears effects.
pub type Audience<'a> = &'a mut dyn FnMut(Effect<'_>) -> u64;

/// Whether a session takes queries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// It does, one at a time.
    Active,
    /// No more.
    Closed,
}

/// Earlier queries whose ids a session remembers.
pub const PAST_QUERIES: usize = 8;

/// What a claim needs to know.
#[derive(Clone, Copy, Debug)]
pub struct Claiming<'a> {
    /// The client's id of the query.
    pub query: &'a str,
    /// The answer that the claim stores, for repeats of the query.
    pub answer: &'a str,
    /// The server that will play it.
    pub owner: &'a str,
    /// The broker's own time, in milliseconds.
    pub now_ms: u64,
    /// Entries of earlier queries that the log keeps.
    pub keep: usize,
    /// The last generation of the session that the claimant knows, 0 for none.
    pub known: u64,
    /// Every server has restored what it kept: the log's last position is the last one that was acknowledged.
    pub whole: bool,
    /// The broker lists the claimant as a server. Peers remove a server that they take for dead, and nobody would end a query
    /// that it claims later: a call may be executed after its caller died.
    pub listed: bool,
}

/// What the end of a closed session's log needs to know.
#[derive(Clone, Copy, Debug)]
pub struct Ending {
    /// The broker's own time, in milliseconds.
    pub now_ms: u64,
    /// Every server has restored what it kept. Otherwise another one may know of a later query, and lanes would end before
    /// they have it.
    pub whole: bool,
}

/// What a claim came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claimed {
    /// The session is the caller's.
    Now {
        /// The new generation.
        generation: u64,
        /// The last position before it: what its fence says. `None` where the log may lack something.
        prev: Option<Position>,
    },
    /// The same query was claimed before.
    Before {
        /// Its generation.
        generation: u64,
        /// The last position before it.
        prev: Option<Position>,
        /// What was kept with it.
        answer: String,
    },
    /// No such session.
    Unknown,
    /// An earlier query of the session: a call that came late must not run it again.
    Past,
    /// The session is closed.
    Closed,
    /// Another query runs.
    Busy,
    /// The broker does not list the claimant: it claims again after its next heartbeat.
    Unlisted,
}

/// What an append of one event came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Append {
    /// It is in the log and was published to so many.
    Taken {
        /// How many heard it.
        heard: u64,
    },
    /// The log had it already.
    Repeated,
    /// A terminator whose place another event had: it has this place now.
    Moved {
        /// Its place.
        position: Position,
    },
    /// The log holds later events of the query and lacks this one: it can never be added.
    Hole,
    /// A later generation exists: its writer must stop.
    Stale,
}

/// One session as a broker holds it: what Redis has in a hash, a stream and another hash.
#[derive(Clone, Debug, Default)]
pub struct Record {
    /// `None`: no such session.
    pub status: Option<Status>,
    /// A gateway restored that the session takes queries; without effect once the status is known.
    pub held: bool,
    /// The generation of the last claim.
    pub generation: u64,
    /// The last position before that, where it was known.
    pub prev: Option<Position>,
    /// The query of the last claim.
    pub query: String,
    /// What was kept with it.
    pub answer: String,
    /// Generation and id of the queries before it, oldest first.
    pub past: VecDeque<(u64, String)>,
    /// Who plays it, while it runs.
    pub running: Option<String>,
    /// Empty where events are only published.
    pub log: VecDeque<LogEntry>,
    /// The epoch of the newest attachment.
    pub epoch: u64,
    /// The gateway that has it.
    pub holder: Option<String>,
    /// Up to here everything was handed to a socket that ended cleanly.
    pub cursor: Position,
    /// The epoch whose release set the cursor.
    pub cursor_epoch: u64,
    /// The parts that steps have given their full time to live.
    pub renewed: Renewed,
}

impl Record {
    /// Makes an active, idle session; one that exists stays as it is.
    pub fn create(&mut self) {
        self.status.get_or_insert(Status::Active);
        self.renew(&[Part::Meta]);
    }

    /// Lets a session take queries that a gateway restored and no server did: once so much time has passed since the loss that
    /// no server is waited for.
    pub fn adopt(&mut self) {
        if self.held {
            self.status.get_or_insert(Status::Active);
        }
    }

    /// The last entry's position, zero for an empty log.
    #[must_use]
    pub fn top(&self) -> Position {
        self.log.back().map_or(Position::ZERO, |entry| entry.prefix.position)
    }

    /// Claims the session for a query and fences off every earlier writer.
    pub fn claim(&mut self, claiming: Claiming<'_>, logged: bool, out: Audience<'_>) -> Claimed {
        let Claiming { query, answer, owner, now_ms, keep, known, whole, listed } = claiming;
        if !listed {
            return Claimed::Unlisted;
        }
        let Some(status) = self.status else { return Claimed::Unknown };
        if self.generation > 0 && self.query == query {
            let answer = self.answer.clone();
            return Claimed::Before { generation: self.generation, prev: self.prev, answer };
        }
        if self.past.iter().any(|(_, past)| past == query) {
            return Claimed::Past;
        }
        if status == Status::Closed {
            return Claimed::Closed;
        }
        if self.running.is_some() {
            return Claimed::Busy;
        }
        let top = self.top();
        let last = self.generation.max(top.generation).max(known);
        let generation = (last + 1).max(now_ms);
        let prev = whole.then_some(top);
        if logged {
            let surplus = self.log.len().saturating_sub(keep);
            self.log.drain(..surplus);
            self.log.shrink_to(keep);
        }
        self.fence(generation, prev, logged, out);
        let last = std::mem::replace(&mut self.query, query.to_owned());
        if self.generation > 0 {
            self.past.push_back((self.generation, last));
            self.past.drain(..self.past.len().saturating_sub(PAST_QUERIES));
        }
        (self.generation, self.prev) = (generation, prev);
        self.answer = answer.to_owned();
        self.running = Some(owner.to_owned());
        self.renew(&Part::ALL);
        Claimed::Now { generation, prev }
    }

    /// Appends an event and publishes it. A terminator releases its claim in the same step.
    pub fn append(
        &mut self,
        prefix: Prefix,
        frame: &[u8],
        ending: Ending,
        logged: bool,
        out: Audience<'_>,
    ) -> Append {
        let generation = prefix.position.generation;
        let terminator = prefix.kind.is_terminator();
        if terminator && self.generation != 0 && self.generation != generation {
            return self.superseded(prefix, frame);
        }
        if terminator {
            self.renew(&Part::ALL);
        }
        let top = self.top();
        let outcome = if !logged || prefix.position > top {
            if logged {
                if self.log.is_empty() {
                    self.renew(&[Part::Log]);
                }
                self.log.push_back(LogEntry::new(prefix, frame));
            }
            Append::Taken { heard: out(Effect::Publish { prefix, frame }) }
        } else if top.generation > generation {
            return self.superseded(prefix, frame);
        } else if self.holds(prefix.position, terminator.then_some(frame)) {
            out(Effect::Publish { prefix, frame });
            Append::Repeated
        } else if !terminator {
            return Append::Hole;
        } else if self.running.is_none() {
            return Append::Repeated;
        } else {
            let position = top.next();
            let frame = with_position(frame, prefix.position, position);
            self.write(Prefix { position, ..prefix }, &frame, logged, out);
            Append::Moved { position }
        };
        if terminator {
            let ran = self.running.take().is_some();
            self.end_log(ran, ending, logged, out);
        }
        outcome
    }

    /// What an event of an earlier generation comes to: it may have been taken, and the answer lost.
    fn superseded(&self, prefix: Prefix, frame: &[u8]) -> Append {
        if self.holds(prefix.position, Some(frame)) { Append::Repeated } else { Append::Stale }
    }

    /// Releases the owner's claim, although the log refuses its terminator for good: the terminator is published and not logged.
    /// Returns how many heard it, `None` where the claim has ended otherwise.
    pub fn release_claim(
        &mut self,
        owner: &str,
        prefix: Prefix,
        frame: &[u8],
        out: Audience<'_>,
    ) -> Option<u64> {
        let Prefix { position, .. } = prefix;
        if self.generation != position.generation || self.running.as_deref() != Some(owner) {
            return None;
        }
        self.running = None;
        self.renew(&[Part::Meta]);
        let heard = out(Effect::Publish { prefix, frame });
        if self.status == Some(Status::Closed) {
            let position = position.next();
            let mut frame = Vec::new();
            encode_closed(&mut frame, position);
            out(Effect::Publish { prefix: Prefix { position, kind: Kind::Closed }, frame: &frame });
        }
        Some(heard)
    }

    /// Whether the log holds this position, with this frame where one is given.
    fn holds(&self, position: Position, frame: Option<&[u8]>) -> bool {
        let found = self.log.binary_search_by_key(&position, |entry| entry.prefix.position);
        found.is_ok_and(|index| frame.is_none_or(|frame| *self.log[index].frame == *frame))
    }

    /// Closes the session: its running query's server is told to end it. False for one that does not exist. The log gets
    /// its mark only where it is whole; said again, this marks a log that lacks it.
    pub fn close(&mut self, ending: Ending, logged: bool, out: Audience<'_>) -> bool {
        let Some(before) = self.status else { return false };
        self.status = Some(Status::Closed);
        self.renew(&[Part::Meta, Part::Log]);
        if let Some(owner) = &self.running {
            out(Effect::Cancel { owner, generation: self.generation });
        } else if ending.whole && (before != Status::Closed || (logged && !self.is_marked())) {
            self.mark_closed(ending.now_ms, logged, out);
        }
        true
    }

    /// Whether the log of a session that is closed and idle lacks its end: it was not whole when it could have been marked.
    /// Closing the session again marks it.
    #[must_use]
    pub fn lacks_end(&self) -> bool {
        self.status == Some(Status::Closed) && self.running.is_none() && !self.is_marked()
    }

    fn is_marked(&self) -> bool {
        self.log.back().is_some_and(|entry| entry.prefix.kind == Kind::Closed)
    }

    /// A server gives a broker that may have forgotten what it kept of the session. Silent lanes hear the log's last entry
    /// once more: whoever lacks it reads the log again. A closed session's log is not marked yet: another server may know of a
    /// later query. Once all have had their time, whoever closed it closes it again.
    pub fn restore(&mut self, kept: &AcknowledgedRecord, owner: &str, logged: bool, out: Audience<'_>) {
        self.status = Some(if kept.closed { Status::Closed } else { self.status.unwrap_or(Status::Active) });
        self.restore_past(kept);
        self.renew(&[Part::Meta, Part::Log]);
        if kept.generation > self.generation {
            (self.generation, self.prev) = (kept.generation, kept.prev);
            (self.query, self.answer) = (kept.query.clone(), kept.answer.clone());
            self.running = kept.running.then(|| owner.to_owned());
        } else if kept.generation == self.generation
            && !kept.running
            && self.running.as_deref() == Some(owner)
        {
            self.running = None;
        }
        if !logged {
            return;
        }
        let before = std::mem::take(&mut self.log);
        let before: Vec<LogEntry> = before.into();
        self.log = merge(&before, kept.entries()).into();
        for LogEntry { prefix, frame } in &self.log {
            let known = || before.binary_search_by_key(&prefix.position, |entry| entry.prefix.position);
            if matches!(prefix.kind, Kind::Gap { .. }) && known().is_err() {
                out(Effect::Publish { prefix: *prefix, frame });
            }
        }
        if let Some(LogEntry { prefix, frame }) = self.log.back() {
            out(Effect::Publish { prefix: *prefix, frame });
        }
    }

    /// Adds the queries that a server knows of, so that a call that is repeated after the loss does not run again.
    fn restore_past(&mut self, kept: &AcknowledgedRecord) {
        let newest = self.generation.max(kept.generation);
        let mut past: BTreeMap<u64, String> = self.past.drain(..).chain(kept.past.iter().cloned()).collect();
        past.insert(self.generation, self.query.clone());
        past.insert(kept.generation, kept.query.clone());
        past.retain(|&generation, _| generation > 0 && generation < newest);
        self.past = past.into_iter().collect();
        self.past.drain(..self.past.len().saturating_sub(PAST_QUERIES));
    }

    /// A peer ends the query of a server that is gone: an error terminator behind what there is, and a fence behind that, so
    /// that nothing follows should the server wake up again. `terminator` writes the frame for a position. False where
    /// the claim has ended otherwise.
    pub fn end_lost_query(
        &mut self,
        owner: &str,
        generation: u64,
        ending: Ending,
        terminator: impl FnOnce(Position) -> Vec<u8>,
        logged: bool,
        out: Audience<'_>,
    ) -> bool {
        if self.generation != generation || self.running.as_deref() != Some(owner) {
            return false;
        }
        self.running = None;
        self.renew(&Part::ALL);
        let top = self.top();
        if !logged {
            // Only the gateway that sent the last event knows which one it was: sequence 0 stands for the next one.
            let position = Position::new(generation, 0);
            let prefix = Prefix { position, kind: Kind::Error };
            out(Effect::Publish { prefix, frame: &terminator(position) });
        } else if top.generation <= generation {
            let last = if top.generation == generation { top } else { Position::new(generation, 0) };
            let position = last.next();
            let prefix = Prefix { position, kind: Kind::Error };
            self.write(prefix, &terminator(position), logged, out);
            self.fence((generation + 1).max(ending.now_ms), Some(position), logged, out);
        }
        self.end_log(true, ending, logged, out);
        true
    }

    /// Marks the end of a closed session once its query has ended. `ran`: it has just ended.
    fn end_log(&mut self, ran: bool, ending: Ending, logged: bool, out: Audience<'_>) {
        let due = if logged { ending.whole && !self.is_marked() } else { ran };
        if due && self.status == Some(Status::Closed) {
            self.mark_closed(ending.now_ms, logged, out);
        }
    }

    fn fence(&mut self, generation: u64, prev: Option<Position>, logged: bool, out: Audience<'_>) {
        let mut frame = Vec::new();
        encode_fence(&mut frame, generation, prev);
        let prefix = Prefix { position: Position::new(generation, 0), kind: Kind::Fence { prev } };
        self.write(prefix, &frame, logged, out);
    }

    /// The mark comes behind a fence whose generation is at least the time: lanes may have received a claim that was lost
    /// with the broker's data and that nobody remembers, and would take a mark below it for one that they have seen.
    fn mark_closed(&mut self, now_ms: u64, logged: bool, out: Audience<'_>) {
        if logged {
            let top = self.top();
            self.fence((top.generation + 1).max(now_ms), Some(top), logged, out);
        }
        let position = self.top().next();
        let mut frame = Vec::new();
        encode_closed(&mut frame, position);
        self.write(Prefix { position, kind: Kind::Closed }, &frame, logged, out);
    }

    fn write(&mut self, prefix: Prefix, frame: &[u8], logged: bool, out: Audience<'_>) {
        if logged {
            self.log.push_back(LogEntry::new(prefix, frame));
        }
        out(Effect::Publish { prefix, frame });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::{GapPolicy, Lane, LiveAction, encode_error};

    const NOW: u64 = 9_000;

    fn event(generation: u64, seq: u64, kind: Kind) -> LogEntry {
        LogEntry::new(Prefix { position: Position::new(generation, seq), kind }, b"{}")
    }

    /// A closed session whose query 20 runs at `server`.
    fn closing() -> Record {
        let log = [event(20, 0, Kind::Fence { prev: None }), event(20, 1, Kind::Token)].into();
        let (status, running) = (Some(Status::Closed), Some("server".to_owned()));
        Record { status, generation: 20, running, log, ..Record::default() }
    }

    fn end(record: &mut Record, lost: bool, whole: bool) {
        let ending = Ending { now_ms: NOW, whole };
        if lost {
            let terminator = |position| {
                let mut frame = Vec::new();
                encode_error(&mut frame, position, "server_lost", "gone", "q", 1, 1);
                frame
            };
            assert!(record.end_lost_query("server", 20, ending, terminator, true, &mut |_| 1));
        } else {
            let LogEntry { prefix, frame } = event(20, 2, Kind::Done);
            let taken = record.append(prefix, &frame, ending, true, &mut |_| 1);
            assert_eq!(taken, Append::Taken { heard: 1 });
        }
    }

    #[test]
    fn a_log_that_may_not_be_whole_gets_no_end() {
        for lost in [false, true] {
            let mut record = closing();
            end(&mut record, lost, false);
            assert!(record.lacks_end(), "another server may know of a later query");
            record.close(Ending { now_ms: NOW, whole: false }, true, &mut |_| 1);
            assert!(record.lacks_end());
            record.close(Ending { now_ms: NOW, whole: true }, true, &mut |_| 1);
            assert!(!record.lacks_end());
            let length = record.log.len();
            record.close(Ending { now_ms: NOW, whole: true }, true, &mut |_| 1);
            assert_eq!(record.log.len(), length, "one end");
            let mut whole = closing();
            end(&mut whole, lost, true);
            assert!(!whole.lacks_end());
        }
    }

    /// A claim at 30 was lost, and its server has not heard of it: only the lane has.
    #[test]
    fn a_lane_hears_of_a_close_though_it_has_heard_of_a_claim_that_is_lost() {
        let mut record = Record { running: None, status: Some(Status::Active), ..closing() };
        let mut lane = Lane::after(Position::new(30, 0));
        lane.log_end(lane.read_start(), GapPolicy::Announce);
        let mut heard = Vec::new();
        record.close(Ending { now_ms: NOW, whole: true }, true, &mut |effect| {
            if let Effect::Publish { prefix, .. } = effect {
                heard.push((prefix.kind, lane.live(prefix)));
            }
            1
        });
        let fence = Kind::Fence { prev: Some(Position::new(20, 1)) };
        assert_eq!(heard, [(fence, LiveAction::Note), (Kind::Closed, LiveAction::Note)]);
    }
}
