//! The steps: each is taken by a script on Redis and by a rule on the record, and must have the same outcome.

use super::*;
use crate::{
    redis::attach::Returned,
    rules::{AppendOutcome, AttachOutcome, Attached, Attaching, ClaimOutcome, Claiming, Ending, LostQuery},
};
use protocol::{encode_done, encode_error, encode_token};

impl Bench<'_> {
    pub(super) fn apply(&mut self, op: Op) {
        match op {
            Op::Create => self.create(),
            Op::Claim(server, query, how) => self.claim(server, query, how),
            Op::Append(server, how) => self.append(server, how),
            Op::Close(server, how) => self.close(server, how),
            Op::Attach(gateway, how, after) => self.attach(gateway, how, after),
            Op::Release(nth, cursor) => self.release(nth, cursor),
            Op::Reattach(nth, active) => self.reattach(nth, active),
            Op::ReleaseClaim(server) => self.release_claim(server),
            Op::RestoreCursor(nth) => self.restore_cursor(nth),
            Op::EndLostQuery(server, complete) => self.end_lost_query(server, complete),
            Op::Restore(server) => self.restore(server),
            Op::Remember => self.remember(),
            Op::RollBack => self.roll_back(),
            Op::Forget => {
                self.ask::<Value>(redis::cmd("DEL").arg(&self.keys()));
                self.record = Record::default();
            }
            Op::Expire(part) => {
                let key = self.keys()[part as usize].clone();
                self.ask::<Value>(redis::cmd("DEL").arg(key));
                self.record.expire(part);
            }
        }
    }

    fn down(&self) -> String {
        self.names.down(self.session)
    }

    fn create(&mut self) {
        let keys = self.keys();
        self.ask::<Value>(redis::cmd("HSETNX").arg(&keys[0]).arg("status").arg("active"));
        for key in keys {
            self.ask::<Value>(redis::cmd("EXPIRE").arg(key).arg(TTL));
        }
        self.record.create();
    }

    fn claim(&mut self, server: usize, query: u8, [complete, listed, old]: [bool; 3]) {
        let [meta, log, attach] = self.keys();
        let (query, answer) = (format!("q{query}"), format!("by {server}"));
        let owner = SERVERS[server];
        let servers = Names::default().servers();
        let mut list = redis::cmd(if listed { "HSET" } else { "HDEL" });
        self.ask::<Value>(list.arg(&servers).arg(owner).arg(listed.then_some("still")));
        let keys = [meta, log, attach, running(server), MARK.to_owned(), servers];
        let mut call = self.script(|s| &s.claim, &keys);
        let known = self.servers[server].generation;
        call.arg(&query).arg(&answer).arg(owner).arg(TTL).arg(KEEP).arg("log").arg(self.down());
        call.arg(self.session.to_string()).arg("mark").arg(known).arg(u8::from(complete)).arg(u8::from(old));
        let (outcome, generation, prev, stored): (String, u64, String, String) = self.ask(&call);
        let prev: Option<Position> = prev.parse().ok();
        let (now_ms, keep) = (generation, KEEP);
        let (query, answer) = (&*query, &*answer);
        let claiming = Claiming { query, answer, owner, now_ms, keep, known, complete, listed };
        if old {
            self.record.adopt();
        }
        let claimed = self.record.claim(claiming, true, &mut |_| 0);
        let same = match outcome.as_str() {
            "claimed" => ClaimOutcome::Now { generation, prev },
            "repeat" => ClaimOutcome::Before { generation, prev, answer: stored },
            "unknown" => ClaimOutcome::Unknown,
            "past" => ClaimOutcome::Past,
            "closed" => ClaimOutcome::Closed,
            "unlisted" => ClaimOutcome::Unlisted,
            other => {
                assert_eq!(other, "busy");
                ClaimOutcome::Busy
            }
        };
        assert_eq!(claimed, same);
        if let ClaimOutcome::Now { generation, prev } = claimed {
            let own = &mut self.servers[server];
            (own.generation, own.next) = (generation, 1);
            own.history.claimed(self.session, (generation, prev), query, answer, self.now);
        }
    }

    fn append(&mut self, server: usize, [terminator, again, complete]: [bool; 3]) {
        let ([_, log, _], down) = (self.keys(), self.down());
        let Server { generation, next, .. } = self.servers[server];
        if generation == 0 {
            return;
        }
        let seq = if again { (next - 1).max(1) } else { next };
        let position = Position::new(generation, seq);
        let kind = if terminator { Kind::Done } else { Kind::Token };
        let mut frame = Vec::new();
        if terminator {
            encode_done(&mut frame, position, "q", 1, 2);
        } else {
            encode_token(&mut frame, position, "word", "q", 1, 2);
        }
        let prefix = Prefix { position, kind };
        self.ask::<Value>(redis::cmd("SET").arg("mark").arg("m"));
        let mut call = self.script(|s| &s.append, &["mark".to_owned(), running(server), log]);
        call.arg("m").arg(TTL).arg("log").arg(u8::from(complete)).arg(position.to_string()).arg(&frame);
        call.arg(if terminator { "" } else { &down });
        let (taken, _, mut why, detail): (usize, u64, String, String) = self.ask(&call);
        let ending = Ending { now_ms: self.time(), complete };
        let outcome = self.record.append(prefix, &frame, ending, true, &mut |_| 0);
        let refused = matches!(outcome, AppendOutcome::Stale | AppendOutcome::Hole);
        let superseded = self.record.top().generation > generation;
        if terminator && !refused && !superseded && self.record.lacks_end() {
            if why == "lacks_end" {
                why = if detail.is_empty() { String::new() } else { "moved".to_owned() };
            } else {
                assert_eq!(outcome, AppendOutcome::Repeated, "{why}");
            }
        }
        let same = match (taken, why.as_str()) {
            (1, "moved") => AppendOutcome::Moved { position: detail.parse().expect("a position") },
            (0, "stale") => AppendOutcome::Stale,
            (0, "hole") => AppendOutcome::Hole,
            (1, "") if outcome == AppendOutcome::Repeated => outcome,
            other => {
                assert_eq!(other, (1, ""));
                AppendOutcome::Taken { receivers: 0 }
            }
        };
        assert_eq!(outcome, same);
        let (prefix, frame) = match outcome {
            AppendOutcome::Moved { position: to } => {
                (Prefix { position: to, kind }, protocol::with_position(&frame, position, to))
            }
            _ => (prefix, frame),
        };
        let own = &mut self.servers[server];
        own.next = own.next.max(seq + 1);
        match outcome {
            AppendOutcome::Stale => own.history.fenced_off(self.session, generation),
            AppendOutcome::Hole => {}
            _ => own.history.appended(self.session, prefix, &frame, self.now),
        }
    }

    fn close(&mut self, server: usize, [complete, old]: [bool; 2]) {
        let [meta, log, _] = self.keys();
        if old {
            self.record.adopt();
        }
        let mut call = self.script(|s| &s.close, &[meta, log, MARK.to_owned(), running(server)]);
        call.arg("").arg(self.session.to_string()).arg(TTL).arg("log").arg(self.down()).arg("mark");
        let known: i64 = self.ask(call.arg(u8::from(complete)).arg(u8::from(old)).arg(SERVERS[server]));
        let ending = Ending { now_ms: self.time(), complete };
        assert_eq!(i64::from(self.record.close(SERVERS[server], ending, true, &mut |_| 0)), known);
    }

    fn release(&mut self, nth: usize, cursor: bool) {
        let [.., attach] = self.keys();
        let Some(&(_, epoch)) = self.epochs.iter().rev().nth(nth) else { return };
        let cursor = cursor.then(|| self.record.top());
        let mut call = self.script(|s| &s.release, &[attach]);
        call.arg("").arg(self.session.to_string()).arg(TTL).arg(epoch);
        self.ask::<Value>(call.arg(cursor.map_or_else(String::new, |cursor| cursor.to_string())));
        self.record.release(epoch, cursor, &mut |_| 0);
    }

    fn reattach(&mut self, nth: usize, active: bool) {
        let [meta, log, attach] = self.keys();
        let Some(&(gateway, epoch)) = self.epochs.iter().rev().nth(nth) else { return };
        let mut call = self.script(|s| &s.reattach, &[attach, meta, log]);
        call.arg(epoch).arg(GATEWAYS[gateway]).arg(TTL).arg("").arg(self.session.to_string());
        let newest: u64 = self.ask(call.arg(u8::from(active)));
        assert_eq!(self.record.reattach(GATEWAYS[gateway], epoch, active, &mut |_| 0), newest);
    }

    fn restore_cursor(&mut self, nth: usize) {
        let [.., attach] = self.keys();
        let Some(&(_, epoch)) = self.epochs.iter().rev().nth(nth) else { return };
        let cursor = Position::new(epoch, 1);
        let mut call = self.script(|s| &s.restore_cursor, &[attach]);
        call.arg(epoch).arg(cursor.to_string()).arg(TTL).arg("").arg(self.session.to_string());
        self.ask::<Value>(&call);
        self.record.restore_cursor(epoch, cursor, &mut |_| 0);
    }

    fn end_lost_query(&mut self, server: usize, complete: bool) {
        let [meta, log, attach] = self.keys();
        let generation = self.record.generation;
        let terminator = |position| {
            let mut frame = Vec::new();
            encode_error(&mut frame, position, "server_lost", "gone", "q", 1, 2);
            frame
        };
        let tail = terminator(Position::ZERO)[br#"{"id":"0-0""#.len()..].to_vec();
        let by = 1 - server;
        let keys = [meta, log, running(server), Names::default().servers(), attach, running(by)];
        let mut call = self.script(|s| &s.end_lost_query, &keys);
        call.arg(SERVERS[server]).arg(generation).arg(self.session.to_string()).arg(tail).arg(TTL);
        call.arg("log").arg(self.down()).arg("still").arg(u8::from(complete)).arg(SERVERS[by]);
        let outcome: (bool, bool) = self.ask(&call);
        let ending = Ending { now_ms: self.time(), complete };
        let lost = LostQuery { owner: SERVERS[server], generation, by: SERVERS[by] };
        let record = &mut self.record;
        let ended = record.end_lost_query(lost, ending, terminator, true, &mut |_| 0);
        let same = if ended {
            (true, record.lacks_end())
        } else {
            (false, record.take_over_end(lost, ending, &mut |_| 0))
        };
        assert_eq!(outcome, same);
    }

    /// Remembers both sides, for [`Op::RollBack`].
    fn remember(&mut self) {
        let keys = self.keys().into_iter().chain([0, 1].map(running));
        let dumps: Vec<_> = keys
            .map(|key| {
                let dump: Option<Vec<u8>> = self.ask(redis::cmd("DUMP").arg(&key));
                dump.map(|dump| (key, dump))
            })
            .collect();
        self.remembered = Some((self.record.clone(), dumps.into_iter().flatten().collect()));
    }

    fn roll_back(&mut self) {
        let Some((record, dumps)) = self.remembered.clone() else { return };
        self.record = record;
        self.ask::<Value>(redis::cmd("DEL").arg(&self.keys()).arg(&[0, 1].map(running)));
        for (key, dump) in dumps {
            self.ask::<Value>(redis::cmd("RESTORE").arg(key).arg(0).arg(dump));
        }
    }

    fn release_claim(&mut self, server: usize) {
        let Server { generation, next, .. } = self.servers[server];
        let (meta, down) = (self.names.meta(self.session), self.names.down(self.session));
        let position = Position::new(generation, next);
        let mut frame = Vec::new();
        encode_error(&mut frame, position, "refused", "refused", "q", 1, 2);
        self.ask::<Value>(redis::cmd("SET").arg("mark").arg("m"));
        let keys = [meta, running(server), "mark".to_owned()];
        let mut call = self.script(|s| &s.release_claim, &keys);
        call.arg("m").arg(self.session.to_string()).arg(SERVERS[server]).arg(generation).arg(next);
        let (outcome, receivers, _): (String, u64, String) = self.ask(call.arg(&frame).arg(TTL).arg(down));
        let prefix = Prefix { position, kind: Kind::Error };
        let released = self.record.release_claim(SERVERS[server], prefix, &frame, &mut |_| 0);
        assert_eq!(released, (outcome == "released").then_some(receivers));
        if released.is_some() {
            self.servers[server].history.appended(self.session, prefix, &frame, self.now);
        } else {
            self.servers[server].history.fenced_off(self.session, generation);
        }
        let running: HashMap<String, u64> = self.ask(redis::cmd("HGETALL").arg(running(server)));
        let listed = running.get(&self.session.to_string()).copied();
        let has_owner = self.record.running.is_some() || self.record.end_owner.is_some();
        let may_stay = |listed| listed > generation || has_owner && listed == self.record.generation;
        assert!(listed.is_none_or(may_stay), "{listed:?} is still listed");
    }

    fn attach(&mut self, gateway: usize, [late, young]: [bool; 2], after: Option<(u64, u64)>) {
        let [meta, log, attach] = self.keys();
        let (seconds, micros): (u64, u64) = self.ask(&redis::cmd("TIME"));
        let now_ms = seconds * 1000 + micros / 1000;
        let deadline_ms = if late { now_ms - 1 } else { now_ms + 60_000 };
        let top = self.record.top();
        let after = after.map(|(generation, seq)| Position::new(top.generation + generation, top.seq + seq));
        let after = after.filter(|&after| after != Position::ZERO);
        let mut call = self.script(|s| &s.attach, &[attach, meta, log, "mark".to_owned()]);
        call.arg("").arg(self.session.to_string()).arg(TTL).arg(GATEWAYS[gateway]).arg(deadline_ms);
        call.arg(after.map_or_else(String::new, |after| after.to_string()));
        let returned: Returned = self.ask(call.arg(u8::from(young)).arg("log"));
        let (outcome, epoch, before, notified, cursor, generation, said_top, ahead, _, active) = returned;
        // The epoch is the broker's time, unless the epoch before it is higher.
        let now_ms = if outcome == "attached" { epoch } else { now_ms };
        let attaching = Attaching { holder: GATEWAYS[gateway], now_ms, deadline_ms, after, young };
        let same = match outcome.as_str() {
            "late" => AttachOutcome::Late,
            "beyond" => AttachOutcome::Beyond { top: said_top.parse().expect("a position") },
            _ => {
                let cursor = cursor.parse().expect("a position");
                self.epochs.push((gateway, epoch));
                let (ahead, active) = (ahead == 1, active == 1);
                AttachOutcome::Done(Attached { epoch, before, notified, cursor, generation, ahead, active })
            }
        };
        assert_eq!(self.record.attach(attaching, &mut |_| 0), same);
    }

    fn restore(&mut self, server: usize) {
        let [meta, log, _] = self.keys();
        let Some(acknowledged) = self.servers[server].history.get(self.session).cloned() else { return };
        let ours = running(server);
        let mut call = self.script(|s| &s.restore, &[meta, log, ours]);
        call.arg(TTL).arg("log").arg(self.names.down(self.session)).arg(self.session.to_string());
        call.arg(SERVERS[server]).arg(1).arg(u8::from(acknowledged.closed)).arg(acknowledged.generation);
        call.arg(text_of(acknowledged.prev)).arg(&acknowledged.query).arg(&acknowledged.answer);
        call.arg(u8::from(acknowledged.running)).arg(past_of(&acknowledged));
        for entry in acknowledged.entries() {
            call.arg(entry.prefix.position.to_string()).arg(&entry.frame[..]);
        }
        self.ask::<Value>(&call);
        self.record.restore(&acknowledged, SERVERS[server], true, &mut |_| 0);
    }

    /// Returns Redis' time according to the first fence that the record lacks; 0 if there is none.
    fn time(&mut self) -> u64 {
        let positions = self.log().into_iter().map(|(id, _)| id.parse::<Position>().expect("a position"));
        let known = |at: &Position| self.record.log.iter().any(|entry| entry.prefix.position == *at);
        let positions: Vec<Position> = positions.collect();
        positions.into_iter().find(|at| at.seq == 0 && !known(at)).map_or(0, |at| at.generation)
    }
}

/// Returns the key of a server's running queries.
fn running(server: usize) -> String {
    Names::default().running(SERVERS[server])
}
