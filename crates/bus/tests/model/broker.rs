//! The broker: a record a session, heartbeats, subscriptions, and a memory that can fail. Every step on a record is the one of
//! `bus::rules`; what the step says goes out on the connections that listen.

use crate::world::{Action, LinkId, Outside, World, forbidden, note, short, violated};
use bus::rules::{
    AcknowledgedRecord, Append, Attach, Attached, Attaching, Claimed, Claiming, Effect, Ending, LogEntry,
    NO_BEAT, Part, Record, is_newer,
};
use protocol::{Kind, Position, Prefix, SessionId, encode_error};
use std::collections::{BTreeMap, BTreeSet};

/// How long after it was sent an attachment may be executed, later the caller has given up.
const LONGEST_ATTACH: u64 = 1000;

/// So long after its mark was made Redis is young: what it does not know may still be restored.
pub(crate) const YOUNG: u64 = 10_000;

/// Behind such a claim a gap is announced, whether or not anything was lost.
pub(crate) const UNSURE_CLAIM: &str = "claimed before all had restored";

/// A connection as the broker knows it.
pub(crate) type Connection = (LinkId, u64);

#[derive(Clone, Default)]
pub(crate) struct Memory {
    pub(crate) records: BTreeMap<SessionId, Record>,
    /// What each server wrote last: its heartbeat, and the mark to which it has restored.
    pub(crate) beats: BTreeMap<String, String>,
    /// When each part of a session expires.
    pub(crate) expires: BTreeMap<(SessionId, Part), u64>,
}

#[derive(Default)]
pub(crate) struct Broker {
    pub(crate) memory: Memory,
    pub(crate) incarnation: u64,
    pub(crate) up_since: u64,
    pub(crate) down: bool,
    pub(crate) paused: bool,
    pub(crate) waiting: Vec<Action>,
    /// Until then it refuses the servers' writes.
    pub(crate) refuses_until: u64,
    pub(crate) subscriptions: BTreeMap<SessionId, BTreeSet<Connection>>,
    pub(crate) control: BTreeMap<String, Connection>,
    pub(crate) snapshots: BTreeMap<u64, Memory>,
    /// When each server's beat was heard last, forgotten by nobody: it judges the ends of lost queries.
    pub(crate) heard: BTreeMap<String, u64>,
    /// Whoever was claimed, forgotten by nobody: the query and its server.
    pub(crate) claims: BTreeMap<(SessionId, u64), (String, String)>,
    /// Queries that a peer has ended, and the place of the fence behind, forgotten by nobody.
    pub(crate) fences_of_lost_queries: BTreeMap<(SessionId, u64), Position>,
    /// When a server touched each session last, forgotten by nobody.
    pub(crate) touched: BTreeMap<SessionId, u64>,
}

#[derive(Clone)]
pub(crate) enum Request {
    Create {
        session: SessionId,
    },
    Claim {
        session: SessionId,
        query: String,
        answer: String,
        owner: String,
        known: u64,
        whole: bool,
        old: bool,
    },
    Append {
        entries: Vec<(SessionId, LogEntry)>,
        whole: bool,
    },
    Restore {
        session: SessionId,
        kept: Box<AcknowledgedRecord>,
        owner: String,
    },
    Beat {
        name: String,
        beat: String,
    },
    List {
        names: Vec<String>,
    },
    Running {
        owner: String,
    },
    EndLostQuery {
        session: SessionId,
        owner: String,
        beat: String,
        generation: u64,
        by: String,
        whole: bool,
    },
    Forget {
        owner: String,
        beat: String,
    },
    /// A server that has drained takes itself off the list.
    Leave {
        owner: String,
    },
    Close {
        session: SessionId,
        whole: bool,
        old: bool,
    },
    /// Gives the sessions their full time to live.
    Renew {
        sessions: Vec<SessionId>,
        by_server: bool,
    },
    Attach {
        session: SessionId,
        holder: String,
        sent: u64,
        patience: u64,
        after: Option<Position>,
        young: bool,
    },
    Subscribe {
        sessions: Vec<SessionId>,
        control: Option<String>,
    },
    Unsubscribe {
        session: SessionId,
    },
    Read {
        session: SessionId,
        after: Position,
        limit: usize,
    },
    Release {
        session: SessionId,
        epoch: u64,
        cursor: Option<Position>,
    },
    Reattach {
        session: SessionId,
        holder: String,
        epoch: u64,
        active: bool,
    },
    RestoreCursor {
        session: SessionId,
        epoch: u64,
        cursor: Position,
    },
}

impl Request {
    const fn is_write_of_a_server(&self) -> bool {
        matches!(
            self,
            Self::Create { .. }
                | Self::Claim { .. }
                | Self::Append { .. }
                | Self::Restore { .. }
                | Self::Beat { .. }
                | Self::List { .. }
                | Self::EndLostQuery { .. }
                | Self::Forget { .. }
                | Self::Leave { .. }
                | Self::Close { .. }
                | Self::Renew { by_server: true, .. }
        )
    }
}

pub(crate) enum Answer {
    Done,
    Refused,
    Exists(bool),
    Claimed(Claimed),
    Appended {
        outcomes: Vec<Append>,
        /// Closed sessions whose logs lack their end.
        unmarked: Vec<SessionId>,
    },
    /// Whether the session is closed and its log lacks its end.
    LostQueryEnded {
        unmarked: bool,
    },
    Beats(Vec<(String, String)>),
    Running(Vec<(SessionId, u64)>),
    Attached(Attach),
    Page(Vec<LogEntry>),
    Epoch(u64),
    Left(bool),
}

/// What goes out on a connection.
#[derive(Clone, Debug)]
pub(crate) enum Said {
    Event { session: SessionId, prefix: Prefix, frame: Box<[u8]> },
    Cancel { session: SessionId, generation: u64 },
    Takeover { session: SessionId, epoch: u64 },
    Released { session: SessionId, epoch: u64, cursor: Position },
}

impl World {
    /// Takes one step on a session's record and sends out what it says.
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
            let (to, said) = match effect {
                Effect::Publish { prefix, frame } => {
                    out.extend(
                        listeners
                            .iter()
                            .map(|&to| (to, Said::Event { session, prefix, frame: frame.into() })),
                    );
                    return listeners.len() as u64;
                }
                Effect::Cancel { owner, generation } => (owner, Said::Cancel { session, generation }),
                Effect::Takeover { holder, epoch } => (holder, Said::Takeover { session, epoch }),
                Effect::Released { holder, epoch, cursor } => {
                    (holder, Said::Released { session, epoch, cursor })
                }
            };
            let Some(&to) = control.get(to) else { return 0 };
            out.push((to, said));
            1
        });
        self.renewed(session);
        for ((link, connection), said) in out {
            self.send_back(link, connection, move |world| world.hear(link, said));
        }
        outcome
    }

    /// Whether the connection still stands, as far as the broker knows.
    fn stands(&self, (link, connection): Connection) -> bool {
        self.links[link].connection == connection
    }

    /// Whether it refuses writes now.
    pub(crate) fn refuses(&self) -> bool {
        self.now < self.broker.refuses_until
    }

    pub(crate) fn execute(&mut self, from: Connection, request: Request) -> Answer {
        let now_ms = self.now;
        self.expire();
        if self.refuses() && request.is_write_of_a_server() {
            self.covered.insert("a write was refused");
            return Answer::Refused;
        }
        match request {
            Request::Create { session } => {
                self.step(session, |record, _| record.create());
                self.broker.touched.insert(session, now_ms);
                Answer::Done
            }
            Request::Claim { session, query, answer, owner, known, whole, old } => {
                self.adopt(session, old);
                let (query_id, keep) = (&query, self.plan.keep);
                let (answer, listed) = (&answer, self.broker.memory.beats.contains_key(&owner));
                let claiming =
                    Claiming { query: query_id, answer, owner: &owner, now_ms, keep, known, whole, listed };
                let claimed = self.step(session, |record, out| record.claim(claiming, true, out));
                note!(self, "{owner}: claims {} for {query} → {claimed:?}", short(session));
                if let Claimed::Now { generation, prev } = claimed {
                    if prev.is_none() {
                        self.covered.insert(UNSURE_CLAIM);
                    }
                    self.broker.touched.insert(session, now_ms);
                    self.broker.claims.insert((session, generation), (query, owner));
                }
                Answer::Claimed(claimed)
            }
            Request::Append { entries, whole } => {
                let (mut outcomes, mut unmarked) = (Vec::new(), Vec::new());
                let ending = Ending { now_ms, whole };
                for (session, LogEntry { prefix, frame }) in entries {
                    let outcome =
                        self.step(session, |record, out| record.append(prefix, &frame, ending, true, out));
                    let id = short(session);
                    if prefix.kind.is_terminator() {
                        self.broker.touched.insert(session, now_ms);
                        let taken = !matches!(outcome, Append::Stale | Append::Hole);
                        unmarked.extend(
                            self.broker
                                .memory
                                .records
                                .get(&session)
                                .filter(|record| taken && record.lacks_end())
                                .map(|_| session),
                        );
                    }
                    note!(self, "broker: {id} {:?} {} → {outcome:?}", prefix.kind, prefix.position);
                    outcomes.push(outcome);
                }
                Answer::Appended { outcomes, unmarked }
            }
            Request::Restore { session, kept, owner } => {
                let before =
                    self.broker.memory.records.get(&session).map(|r| (r.log.len(), r.status, r.generation));
                self.step(session, |record, out| record.restore(&kept, &owner, true, out));
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
                Answer::Done
            }
            Request::Beat { name, beat } => {
                let beats = &mut self.broker.memory.beats;
                if is_newer(&beat, beats.get(&name).map(String::as_str)) {
                    self.broker.heard.insert(name.clone(), now_ms);
                    beats.insert(name.clone(), beat);
                } else {
                    self.covered.insert("a heartbeat came late");
                }
                let beats = &self.broker.memory.beats;
                let beats = beats.iter().filter(|(peer, _)| **peer != name);
                Answer::Beats(beats.map(|(peer, beat)| (peer.clone(), beat.clone())).collect())
            }
            Request::List { names } => {
                for name in names {
                    self.broker.memory.beats.entry(name).or_insert_with(|| NO_BEAT.to_owned());
                }
                Answer::Done
            }
            Request::Running { owner } => {
                let records = self.broker.memory.records.iter();
                let running = records.filter(|(_, record)| record.running.as_deref() == Some(&owner));
                Answer::Running(running.map(|(&session, record)| (session, record.generation)).collect())
            }
            Request::EndLostQuery { session, owner, beat, generation, by, whole } => {
                // In the same step: it may have woken up since it was found silent.
                let unmarked = self.broker.memory.beats.get(&owner) == Some(&beat)
                    && self.end_lost_query(session, &owner, generation, &by, whole);
                Answer::LostQueryEnded { unmarked }
            }
            Request::Forget { owner, beat } => {
                let runs = |record: &Record| record.running.as_deref() == Some(&owner);
                if self.broker.memory.beats.get(&owner) == Some(&beat)
                    && !self.broker.memory.records.values().any(runs)
                {
                    self.broker.memory.beats.remove(&owner);
                }
                Answer::Done
            }
            Request::Leave { owner } => {
                let runs = |record: &Record| record.running.as_deref() == Some(&owner);
                let leaves = !self.broker.memory.records.values().any(runs);
                if leaves {
                    self.broker.memory.beats.remove(&owner);
                }
                Answer::Left(leaves)
            }
            Request::Close { session, whole, old } => {
                self.adopt(session, old);
                let exists =
                    self.step(session, |record, out| record.close(Ending { now_ms, whole }, true, out));
                note!(self, "broker: closes {} → {exists}", short(session));
                Answer::Exists(exists)
            }
            Request::Renew { sessions, .. } => {
                for session in sessions {
                    self.step(session, |record, _| record.renew(&Part::ALL));
                }
                Answer::Done
            }
            Request::Attach { session, holder, sent, patience, after, young } => {
                let deadline_ms = sent + patience;
                let attaching = Attaching { holder: &holder, now_ms, deadline_ms, after, young };
                let outcome = self.step(session, |record, out| record.attach(attaching, out));
                note!(self, "{holder}: attaches to {} after {after:?} → {outcome:?}", short(session));
                match outcome {
                    Attach::Done(Attached { told, .. }) => {
                        if told > 0 {
                            self.covered.insert("taken over");
                        }
                        if now_ms > sent + LONGEST_ATTACH {
                            forbidden!(
                                self,
                                "{holder} took {} over {} ms late",
                                short(session),
                                now_ms - sent
                            );
                        }
                    }
                    Attach::Late => {
                        self.covered.insert("attached too late");
                    }
                    Attach::Beyond { top } => {
                        self.covered.insert("position refused");
                        if !self.plan.loses_data() && !self.is_expired(session) {
                            violated!(self, "{holder} refused {after:?}, and the log ends at {top}");
                        }
                    }
                }
                Answer::Attached(outcome)
            }
            Request::Subscribe { sessions, control } => {
                if self.stands(from) {
                    for session in sessions {
                        self.broker.subscriptions.entry(session).or_default().insert(from);
                    }
                    if let Some(name) = control {
                        self.broker.control.insert(name, from);
                    }
                }
                Answer::Done
            }
            Request::Unsubscribe { session } => {
                self.broker.subscriptions.entry(session).or_default().remove(&from);
                Answer::Done
            }
            Request::Read { session, after, limit } => {
                let log = self.broker.memory.records.get(&session).map(|record| &record.log);
                let page = log.into_iter().flatten().filter(|entry| entry.prefix.position > after);
                Answer::Page(page.take(limit).cloned().collect())
            }
            Request::Release { session, epoch, cursor } => {
                note!(self, "broker: {} epoch {epoch} is released, cursor {cursor:?}", short(session));
                self.step(session, |record, out| record.release(epoch, cursor, out));
                Answer::Done
            }
            Request::Reattach { session, holder, epoch, active } => {
                let newest = self.step(session, |record, out| record.reattach(&holder, epoch, active, out));
                note!(
                    self,
                    "{holder}: still has {} with epoch {epoch}; the newest is {newest}",
                    short(session)
                );
                Answer::Epoch(newest)
            }
            Request::RestoreCursor { session, epoch, cursor } => {
                self.step(session, |record, out| record.restore_cursor(epoch, cursor, out));
                Answer::Done
            }
        }
    }

    /// A session that no server has restored in time, and a gateway has, takes queries.
    fn adopt(&mut self, session: SessionId, old: bool) {
        let unknown = |record: &Record| record.held && record.status.is_none();
        if old && self.broker.memory.records.get(&session).is_some_and(unknown) {
            self.covered.insert("restored by its gateway alone");
            self.step(session, |record, _| record.adopt());
        }
    }

    /// Returns whether the session is closed and its log lacks its end.
    fn end_lost_query(
        &mut self,
        session: SessionId,
        owner: &str,
        generation: u64,
        by: &str,
        whole: bool,
    ) -> bool {
        let query =
            self.broker.claims.get(&(session, generation)).map_or(String::new(), |(query, _)| query.clone());
        let now_ms = self.now;
        let ended = self.step(session, |record, out| {
            let terminator = |position| {
                let mut frame = Vec::new();
                encode_error(&mut frame, position, "server_lost", "gone", &query, now_ms, now_ms);
                frame
            };
            record.end_lost_query(owner, generation, Ending { now_ms, whole }, terminator, true, out)
        });
        note!(self, "{by}: ends the lost query {} {generation} of {owner} → {ended}", short(session));
        if !ended {
            return false;
        }
        let unmarked = self.broker.memory.records[&session].lacks_end();
        self.covered.insert("ended a lost query");
        // The one behind the query's end: another may come before the session's.
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
            return unmarked;
        }
        // Dead or taken for dead, as far as what it alone knew is concerned.
        if pid.is_some_and(|pid| self.bearers.contains(&pid) && !self.has_restored(pid)) {
            self.outside.get_or_insert(Outside::KeeperKilled);
        }
        let alive = pid.is_some_and(|pid| self.is_alive(pid));
        let silent = self.now - self.broker.heard.get(owner).copied().unwrap_or(0);
        if alive && silent < 2_000 {
            violated!(
                self,
                "{by} ended {generation} of {owner}, which had said that it lives {silent} ms before"
            );
        }
        unmarked
    }

    /// The broker dies and comes back with what it remembers.
    pub(crate) fn restart_broker(&mut self, memory: crate::plan::Memory, down: u64) {
        note!(self, "broker: dies, {memory:?}");
        let before = self.broker.memory.clone();
        match memory {
            crate::plan::Memory::Kept => {}
            crate::plan::Memory::Empty => self.broker.memory = Memory::default(),
            crate::plan::Memory::RolledBack(by) => {
                let then = self.now - by;
                if let Some((_, snapshot)) = self.broker.snapshots.range(then..).next() {
                    self.broker.memory = snapshot.clone();
                }
            }
        }
        self.broker.snapshots.clear();
        self.broker.incarnation += 1;
        self.find_bearers(&before.records);
        self.find_lost_renewals(&before, down);
        self.broker.down = true;
        self.broker.paused = false;
        self.broker.refuses_until = 0;
        self.broker.waiting.clear();
        self.broker.subscriptions.clear();
        self.broker.control.clear();
        for link in 0..self.links.len() {
            self.cut(link);
        }
        self.after(down, |world| {
            note!(world, "broker: is back");
            world.broker.down = false;
            world.broker.up_since = world.now;
            world.after(YOUNG - 1, World::grows_old);
        });
    }

    /// Whether the mark is so old that nothing is waited for any more. The first Redis has been up for long.
    pub(crate) fn is_old(&self) -> bool {
        let broker = &self.broker;
        !broker.down && (broker.incarnation == 0 || self.now >= broker.up_since + YOUNG)
    }

    pub(crate) fn resume_broker(&mut self) {
        if !std::mem::take(&mut self.broker.paused) {
            return;
        }
        note!(self, "broker: goes on");
        for action in std::mem::take(&mut self.broker.waiting) {
            action(self);
        }
    }
}

/// Tokens of a query in these models, drawn from its name so that everybody knows.
pub(crate) fn tokens_of(query: &str) -> u64 {
    3 + query.bytes().map(u64::from).sum::<u64>() % 6
}

/// The word that a server writes at a place.
pub(crate) fn word(owner: &str, query: &str, seq: u64) -> String {
    format!("{owner}/{query}/{seq}")
}

pub(crate) fn is_terminator(prefix: Prefix) -> bool {
    matches!(prefix.kind, Kind::Done | Kind::Error)
}
