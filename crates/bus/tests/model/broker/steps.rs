//! What the broker does with a call: it takes a step of `bus::rules`, sends its effects, and checks what must never happen.

use super::{Broker, Connection, Push, UNSURE_CLAIM};
use crate::world::{Excluded, World, forbidden, note, short, violated};
use bus::rules::{
    AcknowledgedRecord, AppendOutcome, AttachOutcome, Attached, Attaching, ClaimOutcome, Claiming, Effect,
    Ending, LogEntry, LostQuery, NO_BEAT, Record, is_newer,
};
use protocol::{SessionId, encode_error};

/// How long after it was sent an attachment may be executed, in ms. Later its caller has given up.
const LONGEST_ATTACH: u64 = 1000;

impl World {
    /// Takes one step on a session's record and sends its effects.
    pub(crate) fn step<T>(
        &mut self,
        session: SessionId,
        step: impl FnOnce(&mut Record, &mut dyn FnMut(Effect<'_>) -> u64) -> T,
    ) -> T {
        let mut out = Vec::new();
        let Broker { memory, subscriptions, control, .. } = &mut self.broker;
        let listeners: Vec<Connection> = subscriptions.get(&session).into_iter().flatten().copied().collect();
        let record = memory.records.entry(session).or_default();
        let outcome = step(record, &mut |effect| {
            let (to, push) = match effect {
                Effect::Publish { prefix, frame } => {
                    out.extend(
                        listeners
                            .iter()
                            .map(|&to| (to, Push::Event { session, prefix, frame: frame.into() })),
                    );
                    return listeners.len() as u64;
                }
                Effect::Cancel { owner, generation } => (owner, Push::Cancel { session, generation }),
                Effect::Takeover { holder, epoch } => (holder, Push::Takeover { session, epoch }),
                Effect::Released { holder, epoch, cursor } => {
                    (holder, Push::Released { session, epoch, cursor })
                }
            };
            let Some(&to) = control.get(to) else { return 0 };
            out.push((to, push));
            1
        });
        self.renewed(session);
        for ((link, connection), push) in out {
            self.send_back(link, connection, move |world| world.receive_push(link, push));
        }
        outcome
    }

    /// Returns whether the connection is still open, as far as the broker knows.
    fn is_open(&self, (link, connection): Connection) -> bool {
        self.links[link].connection == connection
    }

    /// Makes messages for these sessions, and those for a process of this name, go to the connection `from`.
    pub(crate) fn subscribe(&mut self, from: Connection, sessions: &[SessionId], control: Option<String>) {
        if !self.is_open(from) {
            return;
        }
        for &session in sessions {
            self.broker.subscriptions.entry(session).or_default().insert(from);
        }
        if let Some(name) = control {
            self.broker.control.insert(name, from);
        }
    }

    pub(crate) fn broker_create(&mut self, session: SessionId) {
        self.step(session, |record, _| record.create());
        self.broker.touched.insert(session, self.now);
    }

    /// Closes a session. Returns whether it exists.
    pub(crate) fn broker_close(
        &mut self,
        session: SessionId,
        owner: &str,
        complete: bool,
        old: bool,
    ) -> bool {
        self.adopt(session, old);
        let ending = Ending { now_ms: self.now, complete };
        let exists = self.step(session, |record, out| record.close(owner, ending, true, out));
        note!(self, "broker: closes {} → {exists}", short(session));
        exists
    }

    pub(crate) fn broker_claim(&mut self, session: SessionId, claiming: Claiming<'_>) -> ClaimOutcome {
        let Claiming { query, owner, now_ms, .. } = claiming;
        let claimed = self.step(session, |record, out| record.claim(claiming, true, out));
        note!(self, "{owner}: claims {} for {query} → {claimed:?}", short(session));
        if let ClaimOutcome::Now { generation, prev } = claimed {
            if prev.is_none() {
                self.covered.insert(UNSURE_CLAIM);
            }
            self.broker.touched.insert(session, now_ms);
            self.broker.claims.insert((session, generation), (query.to_owned(), owner.to_owned()));
        }
        claimed
    }

    /// Appends entries. Returns their outcomes, and the closed sessions whose logs lack their end.
    pub(crate) fn broker_append(
        &mut self,
        entries: &[(SessionId, LogEntry)],
        complete: bool,
    ) -> (Vec<AppendOutcome>, Vec<SessionId>) {
        let (mut outcomes, mut lacks_end) = (Vec::new(), Vec::new());
        let ending = Ending { now_ms: self.now, complete };
        for &(session, LogEntry { prefix, ref frame }) in entries {
            let outcome = self.step(session, |record, out| record.append(prefix, frame, ending, true, out));
            if prefix.kind.is_terminator() {
                self.broker.touched.insert(session, self.now);
                let taken = !matches!(outcome, AppendOutcome::Stale | AppendOutcome::Hole);
                if taken && self.broker.memory.records.get(&session).is_some_and(Record::lacks_end) {
                    lacks_end.push(session);
                }
            }
            note!(self, "broker: {} {:?} {} → {outcome:?}", short(session), prefix.kind, prefix.position);
            outcomes.push(outcome);
        }
        (outcomes, lacks_end)
    }

    pub(crate) fn broker_restore(
        &mut self,
        session: SessionId,
        acknowledged: &AcknowledgedRecord,
        owner: &str,
    ) {
        let before = self.broker.memory.records.get(&session).map(|r| (r.log.len(), r.status, r.generation));
        self.step(session, |record, out| record.restore(acknowledged, owner, true, out));
        let record = &self.broker.memory.records[&session];
        let after = (record.log.len(), record.status, record.generation);
        if before != Some(after) {
            self.covered.insert("restored something");
        }
        note!(
            self,
            "{owner}: restores {} → {} entries up to {}, before {before:?}",
            short(session),
            after.0,
            self.broker.memory.records[&session].top()
        );
    }

    /// Writes a heartbeat, and returns those of the peers.
    pub(crate) fn broker_heartbeat(&mut self, name: &str, beat: String) -> Vec<(String, String)> {
        let beats = &mut self.broker.memory.beats;
        if is_newer(&beat, beats.get(name).map(String::as_str)) {
            self.broker.last_beats.insert(name.to_owned(), self.now);
            beats.insert(name.to_owned(), beat);
        } else {
            self.covered.insert("a heartbeat came late");
        }
        let beats = &self.broker.memory.beats;
        let beats = beats.iter().filter(|(peer, _)| **peer != name);
        beats.map(|(peer, beat)| (peer.clone(), beat.clone())).collect()
    }

    /// Lists servers that have not written a heartbeat.
    pub(crate) fn list_servers(&mut self, names: Vec<String>) {
        for name in names {
            self.broker.memory.beats.entry(name).or_insert_with(|| NO_BEAT.to_owned());
        }
    }

    /// Returns the queries that are listed for a server.
    pub(crate) fn running_at(&self, owner: &str) -> Vec<(SessionId, u64)> {
        let records = self.broker.memory.records.iter();
        let running = records.filter(|(_, record)| is_listed_for(record, owner));
        running.map(|(&session, record)| (session, record.generation)).collect()
    }

    /// Returns whether this is still the server's last heartbeat.
    pub(crate) fn has_last_beat(&self, owner: &str, beat: &str) -> bool {
        self.broker.memory.beats.get(owner).is_some_and(|last| last == beat)
    }

    /// Removes a server from the list unless a query runs at it. Returns whether it was removed.
    pub(crate) fn remove_idle_server(&mut self, owner: &str) -> bool {
        let idle = !self.broker.memory.records.values().any(|record| is_listed_for(record, owner));
        if idle {
            self.broker.memory.beats.remove(owner);
        }
        idle
    }

    pub(crate) fn broker_attach(
        &mut self,
        session: SessionId,
        attaching: Attaching<'_>,
        sent: u64,
    ) -> AttachOutcome {
        let Attaching { holder, now_ms, after, .. } = attaching;
        let outcome = self.step(session, |record, out| record.attach(attaching, out));
        note!(self, "{holder}: attaches to {} after {after:?} → {outcome:?}", short(session));
        match outcome {
            AttachOutcome::Done(Attached { notified, .. }) => {
                if notified > 0 {
                    self.covered.insert("taken over");
                }
                if now_ms > sent + LONGEST_ATTACH {
                    forbidden!(self, "{holder} took {} over {} ms late", short(session), now_ms - sent);
                }
            }
            AttachOutcome::Late => {
                self.covered.insert("attached too late");
            }
            AttachOutcome::Beyond { top } => {
                self.covered.insert("position refused");
                if !self.plan.loses_data() && !self.is_expired(session) {
                    violated!(self, "{holder} refused {after:?}, and the log ends at {top}");
                }
            }
        }
        outcome
    }

    /// Makes a session active that no server has restored in time, and a gateway has.
    pub(crate) fn adopt(&mut self, session: SessionId, old: bool) {
        let unknown = |record: &Record| record.held && record.status.is_none();
        if old && self.broker.memory.records.get(&session).is_some_and(unknown) {
            self.covered.insert("restored by its gateway alone");
            self.step(session, |record, _| record.adopt());
        }
    }

    /// Ends a query. Returns whether the session is closed and its log lacks its end.
    pub(crate) fn end_lost_query(
        &mut self,
        session: SessionId,
        owner: &str,
        generation: u64,
        by: &str,
        complete: bool,
    ) -> bool {
        let query =
            self.broker.claims.get(&(session, generation)).map_or(String::new(), |(query, _)| query.clone());
        let now_ms = self.now;
        let lost = LostQuery { owner, generation, by };
        let ended = self.step(session, |record, out| {
            let terminator = |position| {
                let mut frame = Vec::new();
                encode_error(&mut frame, position, "server_lost", "gone", &query, now_ms, now_ms);
                frame
            };
            record.end_lost_query(lost, Ending { now_ms, complete }, terminator, true, out)
        });
        note!(self, "{by}: ends the lost query {} {generation} of {owner} → {ended}", short(session));
        if !ended {
            let ending = Ending { now_ms, complete };
            return self.step(session, |record, out| record.take_over_end(lost, ending, out));
        }
        let lacks_end = self.broker.memory.records[&session].lacks_end();
        self.covered.insert("ended a lost query");
        // The fence behind the query's end. Another fence may precede the session's end.
        let log = self.broker.memory.records[&session].log.iter().map(|entry| entry.prefix.position);
        let fence = log.into_iter().find(|at| at.seq == 0 && at.generation > generation);
        if let Some(fence) = fence {
            self.broker.fences_of_lost_queries.insert((session, generation), fence);
        }
        let pid = self.processes.iter().position(|process| process.name == owner);
        if owner == by {
            self.covered.insert("ended a query that its server did not play");
            if pid.is_some_and(|pid| self.plays(pid, session, generation)) {
                violated!(self, "{by} ended {generation} of {}, which it plays", short(session));
            }
            return lacks_end;
        }
        // The server is dead or counts as dead, so what only it knows is lost.
        if pid.is_some_and(|pid| self.sole_sources.contains(&pid) && !self.has_restored(pid)) {
            self.excluded.get_or_insert(Excluded::ServerDiedBeforeRestoring);
        }
        let alive = pid.is_some_and(|pid| self.is_alive(pid));
        let silent = self.now - self.broker.last_beats.get(owner).copied().unwrap_or(0);
        if alive && silent < 2_000 {
            violated!(
                self,
                "{by} ended {generation} of {owner}, whose last heartbeat was {silent} ms before"
            );
        }
        lacks_end
    }
}

/// Returns whether the broker lists the session for this server: it plays the query, or is to write the log's end.
fn is_listed_for(record: &Record, owner: &str) -> bool {
    [&record.running, &record.end_owner].iter().any(|server| server.as_deref() == Some(owner))
}
