//! Servers: claims, streams, one append in flight, the acknowledged history and the restoration barrier.

use crate::{
    broker::{Push, tokens_of, word},
    world::{LinkId, Pid, World, note, short, violated},
};
use bus::rules::{
    AcknowledgedHistory, AppendOutcome, ClaimOutcome, Claiming, LogEntry, Play, Plays, Restoration,
    RestorationBarrier,
};
use protocol::{Kind, Position, Prefix, SessionId, encode_done, encode_error, encode_token};
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

pub(crate) struct Stream {
    query: String,
    next: u64,
    tokens: u64,
}

pub(crate) struct Server {
    pub(crate) slot: usize,
    pub(crate) commands: LinkId,
    pub(crate) appends: LinkId,
    pub(crate) history: AcknowledgedHistory,
    pub(crate) barrier: RestorationBarrier,
    pub(crate) beat: u64,
    /// Number of heartbeats written.
    pub(crate) written: u64,
    /// The last heartbeat contained the mark in which it has restored, or it has not restored yet.
    pub(crate) reported: bool,
    pub(crate) poll_open: Option<u64>,
    pub(crate) polled_at: u64,
    /// The incarnation of the broker in which this server has restored its history.
    pub(crate) restored: Option<u64>,
    pub(crate) streams: BTreeMap<(SessionId, u64), Stream>,
    pub(crate) outbox: VecDeque<(SessionId, LogEntry)>,
    pub(crate) in_flight: bool,
    pub(crate) plays: Arc<Plays>,
    /// Queries from their claim until their terminator is acknowledged.
    played: BTreeMap<(SessionId, u64), Play>,
    /// Sessions that are still to be closed again.
    pub(crate) to_close: BTreeSet<SessionId>,
    /// It takes no more calls.
    pub(crate) draining: bool,
    /// It has asked to leave the list of servers, and writes no more heartbeats.
    pub(crate) leaves: bool,
    /// Number of calls to create or close a session that wait for the broker.
    pub(crate) open_calls: u64,
}

/// The reply to a call of `/run`.
#[derive(Clone, Debug)]
pub(crate) enum RunResponse {
    Streaming { generation: u64 },
    Unknown,
    Busy,
    Later,
    Closed,
}

/// The reply to a call of `/close`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CloseResponse {
    Done,
    Unknown,
    Later,
}

pub(crate) type Reply = Box<dyn FnOnce(&mut World, RunResponse)>;

impl World {
    pub(crate) fn start_server(&mut self, slot: usize) {
        let life = self.servers.values().filter(|server| server.slot == slot).count();
        if slot == self.server_slots.len() {
            self.server_slots.push(usize::MAX);
            self.answers_to_lose.push(0);
        }
        let pid = self.start_process(format!("server-{}{}", slot + 1, "'".repeat(life)));
        note!(self, "{} starts", self.name(pid));
        self.server_slots[slot] = pid;
        let server = Server {
            slot,
            commands: usize::MAX,
            appends: usize::MAX,
            history: AcknowledgedHistory::new(
                1 << 24,
                Duration::from_millis(self.plan.ttl.unwrap_or(600_000)),
                self.plan.keep,
            ),
            barrier: RestorationBarrier::default(),
            beat: 0,
            written: 0,
            reported: true,
            poll_open: None,
            polled_at: 0,
            restored: None,
            streams: BTreeMap::new(),
            outbox: VecDeque::new(),
            in_flight: false,
            plays: Arc::default(),
            played: BTreeMap::new(),
            to_close: BTreeSet::new(),
            draining: false,
            leaves: false,
            open_calls: 0,
        };
        self.servers.insert(pid, server);
        let (commands, appends) = (self.open_link(pid), self.open_link(pid));
        let server = self.server(pid);
        (server.commands, server.appends) = (commands, appends);
        self.within(pid, 10, move |world| world.poll(pid));
        self.within(pid, 20, move |world| world.renew(pid, commands));
    }

    /// Returns whether the server plays this query: the terminator is not acknowledged yet.
    pub(crate) fn plays(&self, pid: Pid, session: SessionId, generation: u64) -> bool {
        self.servers[&pid].played.contains_key(&(session, generation))
    }

    /// Delays the server's calls by this many ms, on one of its connections or on both.
    pub(crate) fn delay_server(&mut self, slot: usize, by: u64) {
        let server = &self.servers[&self.server_slots[slot]];
        let (commands, appends) = (server.commands, server.appends);
        let which = self.random.between(0, 2);
        if which != 0 {
            self.delay(appends, by);
        }
        if which != 1 {
            self.delay(commands, by);
        }
    }

    pub(crate) fn server(&mut self, pid: Pid) -> &mut Server {
        self.servers.get_mut(&pid).expect("a server has this number")
    }

    pub(crate) fn cut_server(&mut self, slot: usize) {
        let server = &self.servers[&self.server_slots[slot]];
        let (commands, appends) = (server.commands, server.appends);
        let both = self.random.percent(50);
        self.cut(appends);
        if both {
            self.cut(commands);
        }
    }

    pub(crate) fn is_restored(&self, pid: Pid) -> bool {
        let server = &self.servers[&pid];
        self.leads_to_restored_broker(pid, server.commands)
    }

    /// Returns whether the connection leads to a broker in which this server has restored its history.
    fn leads_to_restored_broker(&self, pid: Pid, link: LinkId) -> bool {
        let link = &self.links[link];
        link.up && self.servers[&pid].restored == Some(link.incarnation)
    }

    /// Returns whether this server may claim, and whether logs are complete.
    pub(crate) fn restoration(&self, pid: Pid) -> Restoration {
        let server = &self.servers[&pid];
        let mark = self.links[server.commands].incarnation.to_string();
        if !self.is_restored(pid) {
            return Restoration::Waiting;
        }
        server.barrier.restoration(&mark, self.is_old())
    }

    fn may_claim(&self, pid: Pid) -> bool {
        self.restoration(pid) > Restoration::Waiting
    }

    pub(crate) fn create_session(
        &mut self,
        pid: Pid,
        session: SessionId,
        reply: impl FnOnce(&mut World) + 'static,
    ) {
        // A server that drains replies to no call. The client tries another one.
        if self.servers[&pid].draining {
            return;
        }
        let link = self.servers[&pid].commands;
        self.server(pid).open_calls += 1;
        let step = move |world: &mut World| world.broker_create(session);
        self.call_write(link, step, move |world, created| {
            world.server(pid).open_calls -= 1;
            if created.is_none() {
                return world.within(pid, 20, move |world| world.create_session(pid, session, reply));
            }
            let now = world.instant();
            world.server(pid).history.created(session, now);
            reply(world);
        });
    }

    pub(crate) fn close_session(
        &mut self,
        pid: Pid,
        session: SessionId,
        reply: impl FnOnce(&mut World, CloseResponse) + 'static,
    ) {
        if !self.may_claim(pid) || self.servers[&pid].draining {
            return self.within(pid, 1, move |world| reply(world, CloseResponse::Later));
        }
        self.server(pid).open_calls += 1;
        let link = self.servers[&pid].commands;
        let (complete, old) = (self.restoration(pid) == Restoration::Complete, self.is_old());
        let owner = self.name(pid).to_owned();
        let step = move |world: &mut World| world.broker_close(session, &owner, complete, old);
        self.call_write(link, step, move |world, exists| {
            world.server(pid).open_calls -= 1;
            let done = match exists {
                Some(true) => CloseResponse::Done,
                Some(false) if old => CloseResponse::Unknown,
                _ => CloseResponse::Later,
            };
            if done == CloseResponse::Done {
                let now = world.instant();
                world.server(pid).history.closed(session, now);
                if !complete {
                    world.server(pid).to_close.insert(session);
                    world.close_again(pid);
                }
            }
            reply(world, done);
        });
    }

    /// Handles a call of `/run`. It continues until its outcome is known, even if the caller has given up.
    pub(crate) fn run_query(
        &mut self,
        pid: Pid,
        session: SessionId,
        query: String,
        attempt: u64,
        reply: Reply,
    ) {
        if !self.may_claim(pid) || self.servers[&pid].draining {
            return reply(self, RunResponse::Later);
        }
        let play = self.servers[&pid].plays.claiming(session);
        self.claim(pid, session, query, attempt, (play, reply));
    }

    fn claim(
        &mut self,
        pid: Pid,
        id: SessionId,
        query: String,
        attempt: u64,
        (mut play, reply): (Play, Reply),
    ) {
        let again = (query.clone(), attempt);
        if !self.may_claim(pid) {
            return self.within(pid, 50, move |world| world.claim(pid, id, again.0, again.1, (play, reply)));
        }
        let owner = self.name(pid).to_owned();
        let link = self.servers[&pid].commands;
        let answer = format!("attempt {attempt}");
        let old = self.is_old();
        let known = self.servers[&pid].history.get(id).map_or(0, |acknowledged| acknowledged.generation);
        let complete = self.restoration(pid) == Restoration::Complete;
        let (asked, stored) = (query.clone(), answer.clone());
        let step = move |world: &mut World| {
            world.adopt(id, old);
            let (now_ms, keep) = (world.now, world.plan.keep);
            let listed = world.broker.memory.beats.contains_key(&owner);
            let (query, answer, owner) = (&*asked, &*stored, &*owner);
            let claiming = Claiming { query, answer, owner, now_ms, keep, known, complete, listed };
            world.broker_claim(id, claiming)
        };
        self.call_write(link, step, move |world, claimed| {
            if matches!(claimed, Some(ClaimOutcome::Unlisted)) {
                world.covered.insert("claimed by a server that a peer had removed");
            }
            let Some(claimed) = claimed.filter(|claimed| !matches!(claimed, ClaimOutcome::Unlisted)) else {
                return world
                    .within(pid, 50, move |world| world.claim(pid, id, again.0, again.1, (play, reply)));
            };
            let own = match &claimed {
                ClaimOutcome::Now { generation, prev } => Some((*generation, *prev)),
                ClaimOutcome::Before { generation, prev, answer: stored } if *stored == answer => {
                    Some((*generation, *prev))
                }
                _ => None,
            };
            if let Some(claim) = own {
                play.claimed(claim.0);
                world.play(pid, id, claim, query, &answer, play);
                return reply(world, RunResponse::Streaming { generation: claim.0 });
            }
            play.declined();
            let outcome = match claimed {
                ClaimOutcome::Now { generation, .. } | ClaimOutcome::Before { generation, .. } => {
                    RunResponse::Streaming { generation }
                }
                ClaimOutcome::Unknown => {
                    if old {
                        RunResponse::Unknown
                    } else {
                        RunResponse::Later
                    }
                }
                ClaimOutcome::Past | ClaimOutcome::Closed => RunResponse::Closed,
                ClaimOutcome::Busy => RunResponse::Busy,
                ClaimOutcome::Unlisted => RunResponse::Later,
            };
            reply(world, outcome);
        });
    }

    fn play(
        &mut self,
        pid: Pid,
        id: SessionId,
        (generation, prev): (u64, Option<Position>),
        query: String,
        answer: &str,
        play: Play,
    ) {
        let now = self.instant();
        let server = self.server(pid);
        server.history.claimed(id, (generation, prev), &query, answer, now);
        let tokens = tokens_of(&query);
        server.streams.insert((id, generation), Stream { query, next: 1, tokens });
        server.played.insert((id, generation), play);
        self.schedule_event(pid, (id, generation));
    }

    fn schedule_event(&mut self, pid: Pid, stream: (SessionId, u64)) {
        let delay = self.random.between(5, 150) * self.plan.pace;
        self.within(pid, delay, move |world| world.emit(pid, stream));
    }

    fn emit(&mut self, pid: Pid, (id, generation): (SessionId, u64)) {
        let (name, now) = (self.name(pid).to_owned(), self.now);
        let server = self.server(pid);
        let Some(stream) = server.streams.get_mut(&(id, generation)) else { return };
        let position = Position::new(generation, stream.next);
        let mut frame = Vec::new();
        let kind = if stream.next > stream.tokens {
            encode_done(&mut frame, position, &stream.query, now, now);
            Kind::Done
        } else {
            let word = word(&name, &stream.query, stream.next);
            encode_token(&mut frame, position, &word, &stream.query, now, now);
            Kind::Token
        };
        stream.next += 1;
        server.outbox.push_back((id, LogEntry::new(Prefix { position, kind }, &frame)));
        if kind == Kind::Done {
            server.streams.remove(&(id, generation));
        } else {
            self.schedule_event(pid, (id, generation));
        }
        self.pump(pid);
    }

    fn cancel(&mut self, pid: Pid, id: (SessionId, u64)) {
        let now = self.now;
        let server = self.server(pid);
        let Some(stream) = server.streams.remove(&id) else { return };
        let position = Position::new(id.1, stream.next);
        let mut frame = Vec::new();
        encode_error(&mut frame, position, "closed", "closed", &stream.query, now, now);
        server.outbox.push_back((id.0, LogEntry::new(Prefix { position, kind: Kind::Error }, &frame)));
        self.pump(pid);
    }

    /// Starts the next append, unless one is in flight or the history must be restored first.
    pub(crate) fn pump(&mut self, pid: Pid) {
        let ready = self.leads_to_restored_broker(pid, self.servers[&pid].appends);
        let server = self.server(pid);
        if server.in_flight || !ready || server.outbox.is_empty() {
            return;
        }
        server.in_flight = true;
        let batch: Vec<_> = server.outbox.drain(..).collect();
        self.append(pid, Rc::new(batch), 0);
    }

    /// Appends a batch from this entry on, call by call, until the broker has taken it. A call is taken entirely or not
    /// at all, and its reply may be lost.
    fn append(&mut self, pid: Pid, batch: Rc<Vec<(SessionId, LogEntry)>>, from: usize) {
        if !self.leads_to_restored_broker(pid, self.servers[&pid].appends) {
            return self.within(pid, 20, move |world| world.append(pid, batch, from));
        }
        let link = self.servers[&pid].appends;
        let count = self.random.between(1, (batch.len() - from) as u64) as usize;
        let entries = batch[from..from + count].to_vec();
        let complete = self.restoration(pid) == Restoration::Complete;
        let step = move |world: &mut World| world.broker_append(&entries, complete);
        self.call_write(link, step, move |world, appended| match appended {
            Some((outcomes, lacks_end)) => {
                for session in lacks_end {
                    world.lacks_end(pid, session);
                }
                world.acknowledged(pid, &batch, from, &outcomes);
            }
            None => world.within(pid, 20, move |world| world.append(pid, batch, from)),
        });
    }

    /// Remembers that a closed session's log lacks its end. The session is closed again once logs are complete.
    pub(crate) fn lacks_end(&mut self, pid: Pid, session: SessionId) {
        self.covered.insert("a closed session's log was not complete");
        let now = self.instant();
        let server = self.server(pid);
        server.history.closed(session, now);
        server.to_close.insert(session);
        self.close_again(pid);
    }

    fn acknowledged(
        &mut self,
        pid: Pid,
        batch: &[(SessionId, LogEntry)],
        from: usize,
        outcomes: &[AppendOutcome],
    ) {
        let now = self.instant();
        let mut stale = BTreeSet::new();
        for ((id, entry), outcome) in batch[from..].iter().zip(outcomes) {
            let position = entry.prefix.position;
            let generation = position.generation;
            let server = self.server(pid);
            match *outcome {
                AppendOutcome::Stale => {
                    stale.insert((*id, generation));
                    server.history.fenced_off(*id, generation);
                    server.played.remove(&(*id, generation));
                    if server.streams.remove(&(*id, generation)).is_some() {
                        self.covered.insert("stale writer stopped");
                        note!(self, "{}: {generation} is stale, stops", self.name(pid));
                    }
                }
                AppendOutcome::Hole | AppendOutcome::Moved { .. } => {
                    violated!(self, "{}: {position} of {} met {outcome:?}", self.name(pid), short(*id));
                }
                AppendOutcome::Taken { .. } | AppendOutcome::Repeated => {
                    server.history.appended(*id, entry.prefix, &entry.frame, now);
                    if entry.prefix.kind.is_terminator() {
                        server.played.remove(&(*id, generation));
                    }
                }
            }
        }
        // Waiting events of a stale stream are not sent.
        let goes_on =
            |(id, entry): &(SessionId, LogEntry)| !stale.contains(&(*id, entry.prefix.position.generation));
        let rest: Vec<_> =
            batch[from + outcomes.len()..].iter().filter(|entry| goes_on(entry)).cloned().collect();
        let server = self.server(pid);
        server.outbox.retain(goes_on);
        if !rest.is_empty() {
            return self.append(pid, Rc::new(rest), 0);
        }
        server.in_flight = false;
        self.pump(pid);
    }

    pub(crate) fn server_receives(&mut self, pid: Pid, push: &Push) {
        if let Push::Cancel { session, generation } = *push {
            note!(self, "{}: is asked to end {} {generation}", self.name(pid), short(session));
            self.cancel(pid, (session, generation));
        }
    }
}
