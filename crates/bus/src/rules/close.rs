//! The end of a session: it is closed, its last query ends, and its log gets a `closed` entry.

use super::{Effect, EffectSink, Part, Record, Status};
use protocol::{Kind, Position, Prefix, encode_closed};

/// The inputs of steps that may write the end of a closed session's log.
#[derive(Clone, Copy, Debug)]
pub struct Ending {
    /// The broker's time, in milliseconds since the epoch.
    pub now_ms: u64,
    /// Every server has restored its acknowledged history. Before that, another server may know of a later query, and
    /// lanes would end before they receive its events.
    pub complete: bool,
}

impl Record {
    /// Closes the session. The server of a running query is asked to end it. Otherwise the log gets its `closed` entry,
    /// but only if logs are complete; closing the session again later adds a missing one. Returns false if the session
    /// does not exist.
    pub fn close(&mut self, ending: Ending, logged: bool, out: EffectSink<'_>) -> bool {
        let Some(before) = self.status else { return false };
        self.status = Some(Status::Closed);
        self.renew(&[Part::Meta, Part::Log]);
        if let Some(owner) = &self.running {
            out(Effect::Cancel { owner, generation: self.generation });
        } else if ending.complete && (before != Status::Closed || (logged && !self.has_closed_entry())) {
            self.write_closed_entry(ending.now_ms, logged, out);
        }
        true
    }

    /// Returns whether the session is closed and idle, and its log lacks the `closed` entry. Closing the session again
    /// adds it.
    #[must_use]
    pub fn lacks_end(&self) -> bool {
        self.status == Some(Status::Closed) && self.running.is_none() && !self.has_closed_entry()
    }

    fn has_closed_entry(&self) -> bool {
        self.log.back().is_some_and(|entry| entry.prefix.kind == Kind::Closed)
    }

    /// Ends the query of a dead server: writes an error terminator after the last entry, and a fence after that, so
    /// that the server finds itself stale if it continues. `terminator` makes the frame for a position. Returns false
    /// if the claim has ended otherwise.
    pub fn end_lost_query(
        &mut self,
        owner: &str,
        generation: u64,
        ending: Ending,
        terminator: impl FnOnce(Position) -> Vec<u8>,
        logged: bool,
        out: EffectSink<'_>,
    ) -> bool {
        if self.generation != generation || self.running.as_deref() != Some(owner) {
            return false;
        }
        self.running = None;
        self.renew(&Part::ALL);
        let top = self.top();
        if !logged {
            // Only the gateway knows the last event that it sent. Sequence 0 means the position after that one.
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

    /// Writes the `closed` entry of a closed session whose query has ended. `ran`: the query was running until now.
    pub(super) fn end_log(&mut self, ran: bool, ending: Ending, logged: bool, out: EffectSink<'_>) {
        let due = if logged { ending.complete && !self.has_closed_entry() } else { ran };
        if due && self.status == Some(Status::Closed) {
            self.write_closed_entry(ending.now_ms, logged, out);
        }
    }

    /// Writes the `closed` entry behind a fence whose generation is at least the broker's time. Lanes may have received
    /// a claim that the broker has lost since and that no server remembers. They would ignore an entry below that
    /// claim's generation as one that they have seen.
    fn write_closed_entry(&mut self, now_ms: u64, logged: bool, out: EffectSink<'_>) {
        if logged {
            let top = self.top();
            self.fence((top.generation + 1).max(now_ms), Some(top), logged, out);
        }
        let position = self.top().next();
        let mut frame = Vec::new();
        encode_closed(&mut frame, position);
        self.write(Prefix { position, kind: Kind::Closed }, &frame, logged, out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::{AppendOutcome, LogEntry};
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

    fn end(record: &mut Record, lost: bool, complete: bool) {
        let ending = Ending { now_ms: NOW, complete };
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
            assert_eq!(taken, AppendOutcome::Taken { receivers: 1 });
        }
    }

    #[test]
    fn a_log_that_may_be_incomplete_gets_no_end() {
        for lost in [false, true] {
            let mut record = closing();
            end(&mut record, lost, false);
            assert!(record.lacks_end(), "another server may know of a later query");
            record.close(Ending { now_ms: NOW, complete: false }, true, &mut |_| 1);
            assert!(record.lacks_end());
            record.close(Ending { now_ms: NOW, complete: true }, true, &mut |_| 1);
            assert!(!record.lacks_end());
            let length = record.log.len();
            record.close(Ending { now_ms: NOW, complete: true }, true, &mut |_| 1);
            assert_eq!(record.log.len(), length, "one end");
            let mut complete = closing();
            end(&mut complete, lost, true);
            assert!(!complete.lacks_end());
        }
    }

    /// The broker lost a claim at generation 30, and its server did not receive the reply. Only the lane knows of it.
    #[test]
    fn a_lane_receives_the_close_although_it_received_a_claim_that_is_lost() {
        let mut record = Record { running: None, status: Some(Status::Active), ..closing() };
        let mut lane = Lane::after(Position::new(30, 0));
        lane.log_end(lane.read_start(), GapPolicy::Announce);
        let mut received = Vec::new();
        record.close(Ending { now_ms: NOW, complete: true }, true, &mut |effect| {
            if let Effect::Publish { prefix, .. } = effect {
                received.push((prefix.kind, lane.live(prefix)));
            }
            1
        });
        let fence = Kind::Fence { prev: Some(Position::new(20, 1)) };
        assert_eq!(received, [(fence, LiveAction::Note), (Kind::Closed, LiveAction::Note)]);
    }
}
