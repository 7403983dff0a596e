//! What the broker does with a request: it takes a step of `bus::rules`, sends its effects, and checks what must never happen.

use super::{Broker, Connection, GatewayRequest, Push, Request, Response, UNSURE_CLAIM};
use crate::world::{Excluded, World, forbidden, note, short, violated};
use bus::rules::{
    AcknowledgedRecord, AppendOutcome, AttachOutcome, Attached, Attaching, ClaimOutcome, Claiming, Effect,
    Ending, LogEntry, LostQuery, NO_BEAT, Part, Record, is_newer,
};
use protocol::{SessionId, encode_error};

/// How long after it was sent an attachment may be executed, in ms. Later its caller has given up.
const LONGEST_ATTACH: u64 = 1000;

impl World {
    /// Takes one step on a session's record and sends its effects.
    fn step<T>(
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

    /// Returns whether it refuses writes now.
    pub(crate) fn refuses(&self) -> bool {
        self.now < self.broker.refuses_until
    }

    pub(crate) fn execute(&mut self, from: Connection, request: Request) -> Response {
        let now_ms = self.now;
        self.expire();
        if self.refuses() && request.is_write_of_a_server() {
            self.covered.insert("a write was refused");
            return Response::Refused;
        }
        match request {
            Request::Create { session } => {
                self.step(session, |record, _| record.create());
                self.broker.touched.insert(session, now_ms);
                return Response::Done;
            }
            Request::Claim { session, query, answer, owner, known, complete, old } => {
                self.adopt(session, old);
                let (keep, listed) = (self.plan.keep, self.broker.memory.beats.contains_key(&owner));
                let (query, answer, owner) = (&*query, &*answer, &*owner);
                let claiming = Claiming { query, answer, owner, now_ms, keep, known, complete, listed };
                return self.broker_claim(session, claiming);
            }
            Request::Append { entries, complete } => return self.broker_append(entries, complete),
            Request::Restore { session, acknowledged, owner } => {
                self.broker_restore(session, &acknowledged, &owner);
            }
            Request::Beat { name, beat } => return self.broker_heartbeat(&name, beat),
            Request::List { names } => {
                for name in names {
                    self.broker.memory.beats.entry(name).or_insert_with(|| NO_BEAT.to_owned());
                }
            }
            Request::Running { owner } => {
                let records = self.broker.memory.records.iter();
                let running = records.filter(|(_, record)| is_listed_for(record, &owner));
                let running = running.map(|(&session, record)| (session, record.generation));
                return Response::Running(running.collect());
            }
            Request::EndLostQuery { session, owner, beat, generation, by, complete } => {
                // In the same step, because the server may have continued since it was found silent.
                let lacks_end = self.broker.memory.beats.get(&owner) == Some(&beat)
                    && self.end_lost_query(session, &owner, generation, &by, complete);
                return Response::LostQueryEnded { lacks_end };
            }
            Request::Forget { owner, beat } => {
                if self.broker.memory.beats.get(&owner) == Some(&beat) {
                    self.remove_idle_server(&owner);
                }
            }
            Request::Leave { owner } => return Response::Left(self.remove_idle_server(&owner)),
            Request::Close { session, owner, complete, old } => {
                self.adopt(session, old);
                let ending = Ending { now_ms, complete };
                let exists = self.step(session, |record, out| record.close(&owner, ending, true, out));
                note!(self, "broker: closes {} → {exists}", short(session));
                return Response::Exists(exists);
            }
            Request::Renew { sessions, .. } => {
                for session in sessions {
                    self.step(session, |record, _| record.renew(&Part::ALL));
                }
            }
            Request::Subscribe { sessions, control } => self.subscribe(from, sessions, control),
            Request::Gateway(request) => return self.execute_for_gateway(from, request),
        }
        Response::Done
    }

    fn execute_for_gateway(&mut self, from: Connection, request: GatewayRequest) -> Response {
        match request {
            GatewayRequest::Attach { session, holder, sent, patience, after, young } => {
                let (now_ms, deadline_ms) = (self.now, sent + patience);
                let attaching = Attaching { holder: &holder, now_ms, deadline_ms, after, young };
                self.broker_attach(session, attaching, sent)
            }
            GatewayRequest::Unsubscribe { session } => {
                self.broker.subscriptions.entry(session).or_default().remove(&from);
                Response::Done
            }
            GatewayRequest::Read { session, after, limit } => {
                let log = self.broker.memory.records.get(&session).map(|record| &record.log);
                let page = log.into_iter().flatten().filter(|entry| entry.prefix.position > after);
                Response::Page(page.take(limit).cloned().collect())
            }
            GatewayRequest::Release { session, epoch, cursor } => {
                note!(self, "broker: {} epoch {epoch} is released, cursor {cursor:?}", short(session));
                self.step(session, |record, out| record.release(epoch, cursor, out));
                Response::Done
            }
            GatewayRequest::Reattach { session, holder, epoch, active } => {
                let newest = self.step(session, |record, out| record.reattach(&holder, epoch, active, out));
                note!(
                    self,
                    "{holder}: still has {} with epoch {epoch}; the newest is {newest}",
                    short(session)
                );
                Response::Epoch(newest)
            }
            GatewayRequest::RestoreCursor { session, epoch, cursor } => {
                self.step(session, |record, out| record.restore_cursor(epoch, cursor, out));
                Response::Done
            }
        }
    }

    fn subscribe(&mut self, from: Connection, sessions: Vec<SessionId>, control: Option<String>) {
        if !self.is_open(from) {
            return;
        }
        for session in sessions {
            self.broker.subscriptions.entry(session).or_default().insert(from);
        }
        if let Some(name) = control {
            self.broker.control.insert(name, from);
        }
    }

    fn broker_claim(&mut self, session: SessionId, claiming: Claiming<'_>) -> Response {
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
        Response::Claimed(claimed)
    }

    fn broker_append(&mut self, entries: Vec<(SessionId, LogEntry)>, complete: bool) -> Response {
        let (mut outcomes, mut lacks_end) = (Vec::new(), Vec::new());
        let ending = Ending { now_ms: self.now, complete };
        for (session, LogEntry { prefix, frame }) in entries {
            let outcome = self.step(session, |record, out| record.append(prefix, &frame, ending, true, out));
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
        Response::Appended { outcomes, lacks_end }
    }

    fn broker_restore(&mut self, session: SessionId, acknowledged: &AcknowledgedRecord, owner: &str) {
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
    fn broker_heartbeat(&mut self, name: &str, beat: String) -> Response {
        let beats = &mut self.broker.memory.beats;
        if is_newer(&beat, beats.get(name).map(String::as_str)) {
            self.broker.last_beats.insert(name.to_owned(), self.now);
            beats.insert(name.to_owned(), beat);
        } else {
            self.covered.insert("a heartbeat came late");
        }
        let beats = &self.broker.memory.beats;
        let beats = beats.iter().filter(|(peer, _)| **peer != name);
        Response::Beats(beats.map(|(peer, beat)| (peer.clone(), beat.clone())).collect())
    }

    /// Removes a server from the list unless a query runs at it. Returns whether it was removed.
    fn remove_idle_server(&mut self, owner: &str) -> bool {
        let idle = !self.broker.memory.records.values().any(|record| is_listed_for(record, owner));
        if idle {
            self.broker.memory.beats.remove(owner);
        }
        idle
    }

    fn broker_attach(&mut self, session: SessionId, attaching: Attaching<'_>, sent: u64) -> Response {
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
        Response::Attached(outcome)
    }

    /// Makes a session active that no server has restored in time, and a gateway has.
    fn adopt(&mut self, session: SessionId, old: bool) {
        let unknown = |record: &Record| record.held && record.status.is_none();
        if old && self.broker.memory.records.get(&session).is_some_and(unknown) {
            self.covered.insert("restored by its gateway alone");
            self.step(session, |record, _| record.adopt());
        }
    }

    /// Ends a query. Returns whether the session is closed and its log lacks its end.
    fn end_lost_query(
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
