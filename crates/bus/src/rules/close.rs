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

/// A query whose server cannot end it.
#[derive(Clone, Copy, Debug)]
pub struct LostQuery<'a> {
    /// The server that plays the query, or is to write the `closed` entry.
    pub owner: &'a str,
    /// The generation of the query.
    pub generation: u64,
    /// The server that ends the query.
    pub by: &'a str,
}

impl Record {
    /// Closes the session. The server of a running query is asked to end it. Otherwise the log gets its `closed` entry,
    /// but only if logs are complete. If they are not, the server `by` must close the session again later. Returns false if
    /// the session does not exist.
    pub fn close(&mut self, by: &str, ending: Ending, logged: bool, out: EffectSink<'_>) -> bool {
        let Some(before) = self.status else { return false };
        self.status = Some(Status::Closed);
        self.renew(&Part::ALL);
        if let Some(owner) = &self.running {
            out(Effect::Cancel { owner, generation: self.generation });
            return true;
        }
        if ending.complete && (before != Status::Closed || (logged && !self.has_closed_entry())) {
            self.write_closed_entry(ending.now_ms, logged, out);
        }
        self.end_owner = (logged && !ending.complete).then(|| by.to_owned());
        self.forget_if_over();
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
    /// that the server finds itself stale if it continues. `terminator` makes the frame for a position. If the session is
    /// closed and logs are not complete, the ending server becomes responsible for the log's end. Returns false if the claim
    /// has ended otherwise.
    pub fn end_lost_query(
        &mut self,
        LostQuery { owner, generation, by }: LostQuery<'_>,
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
        self.end_log(Some(by.to_owned()), true, ending, logged, out);
        true
    }

    /// Writes the `closed` entry for which the lost query's server was responsible, or makes the ending server responsible if
    /// logs are not complete. Returns whether it has become responsible.
    pub fn take_over_end(&mut self, lost: LostQuery<'_>, ending: Ending, out: EffectSink<'_>) -> bool {
        if self.running.is_some() || self.end_owner.as_deref() != Some(lost.owner) {
            return false;
        }
        self.end_log(Some(lost.by.to_owned()), false, ending, true, out);
        self.renew(&[Part::Log]);
        self.end_owner.is_some()
    }

    /// Writes the `closed` entry of a closed session whose query has ended. If logs are not complete, `responsible` is to
    /// write it later. `ran`: the query was running until now.
    pub(super) fn end_log(
        &mut self,
        responsible: Option<String>,
        ran: bool,
        ending: Ending,
        logged: bool,
        out: EffectSink<'_>,
    ) {
        self.end_owner = None;
        let missing = if logged { !self.has_closed_entry() } else { ran };
        if self.status != Some(Status::Closed) || !missing {
            return;
        }
        if ending.complete || !logged {
            self.write_closed_entry(ending.now_ms, logged, out);
        } else {
            self.end_owner = responsible;
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
            let lost = LostQuery { owner: "server", generation: 20, by: "peer" };
            assert!(record.end_lost_query(lost, ending, terminator, true, &mut |_| 1));
        } else {
            let LogEntry { prefix, frame } = event(20, 2, Kind::Done);
            let taken = record.append(prefix, &frame, ending, true, &mut |_| 1);
            assert_eq!(taken, AppendOutcome::Taken { receivers: 1 });
        }
    }

    #[test]
    fn a_log_that_may_be_incomplete_gets_no_end() {
        let lost = |owner| LostQuery { owner, generation: 20, by: "other" };
        for is_lost in [false, true] {
            let mut record = closing();
            end(&mut record, is_lost, false);
            assert!(record.lacks_end(), "another server may know of a later query");
            record.close("peer", Ending { now_ms: NOW, complete: false }, true, &mut |_| 1);
            assert!(record.lacks_end());
            assert_eq!(record.end_owner.as_deref(), Some("peer"));
            assert!(!record.take_over_end(
                lost("server"),
                Ending { now_ms: NOW, complete: false },
                &mut |_| 1
            ));
            assert!(record.take_over_end(lost("peer"), Ending { now_ms: NOW, complete: false }, &mut |_| 1));
            assert_eq!(record.end_owner.as_deref(), Some("other"), "the peer died");
            assert!(!record.take_over_end(lost("other"), Ending { now_ms: NOW, complete: true }, &mut |_| 1));
            assert!(!record.lacks_end() && record.end_owner.is_none());
            let length = record.log.len();
            record.close("last", Ending { now_ms: NOW, complete: true }, true, &mut |_| 1);
            assert_eq!(record.log.len(), length, "one end");
            let mut complete = closing();
            end(&mut complete, is_lost, true);
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
        record.close("server", Ending { now_ms: NOW, complete: true }, true, &mut |effect| {
            if let Effect::Publish { prefix, .. } = effect {
                received.push((prefix.kind, lane.live(prefix)));
            }
            1
        });
        let fence = Kind::Fence { prev: Some(Position::new(20, 1)) };
        assert_eq!(received, [(fence, LiveAction::Note), (Kind::Closed, LiveAction::Note)]);
    }
}
