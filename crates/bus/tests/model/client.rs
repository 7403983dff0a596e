//! Clients: one that resumes after what it received last, and one of the old contract that says nothing. Each checks
//! every event that it receives against all that it had been told before.

use crate::{
    broker::word,
    plan::{Manner, PROXIES},
    server::{CloseAnswer, RunAnswer},
    socket::{Down, SocketId},
    world::{World, forbidden, note, session, violated},
};
use protocol::{Event, Frame, Kind, Position, Prefix};
use std::collections::{BTreeMap, BTreeSet};

const HTTP_PATIENCE: u64 = 2_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Creating,
    Connecting,
    /// Between two queries, for a while.
    Idle,
    Asking,
    /// Asked, answered: waits for this generation's terminator.
    Reading(u64),
    /// Waits for its close to be answered.
    Leaving,
    Closing,
    Done,
}

pub(crate) struct Client {
    manner: Manner,
    phase: Phase,
    query: u64,
    /// The call that is out; answers to earlier ones count for nothing.
    call: u64,
    /// Everything up to here was received or announced as a gap.
    pub(crate) last: Position,
    socket: Option<SocketId>,
    open: bool,
    /// How often each event came.
    pub(crate) received: BTreeMap<Position, u32>,
    pub(crate) gaps: Vec<(Position, Position)>,
    pub(crate) ended: BTreeMap<u64, Prefix>,
    /// What its calls were answered with.
    pub(crate) promised: BTreeMap<String, u64>,
    /// A second socket, a cut, a lost gateway: an old client may have got something twice.
    pub(crate) disturbed: bool,
    lost_sockets: BTreeSet<SocketId>,
    /// A gateway said that nothing follows.
    pub(crate) told_closed: bool,
    /// It closed its session while one of its queries ran, as far as it knew.
    pub(crate) closed_early: bool,
    /// It was told that its session is unknown: it had expired.
    pub(crate) gone: bool,
    /// It waited too long for the end of a query.
    pub(crate) timed_out: bool,
    idled: u64,
}

impl Client {
    pub(crate) fn is_done(&self) -> bool {
        self.phase == Phase::Done
    }
}

impl World {
    pub(crate) fn start_client(&mut self, n: usize, manner: Manner) {
        self.clients.push(Client {
            manner,
            phase: Phase::Creating,
            query: 0,
            call: 0,
            last: Position::ZERO,
            socket: None,
            open: false,
            received: BTreeMap::new(),
            gaps: Vec::new(),
            ended: BTreeMap::new(),
            promised: BTreeMap::new(),
            disturbed: false,
            lost_sockets: BTreeSet::new(),
            told_closed: false,
            closed_early: false,
            gone: false,
            timed_out: false,
            idled: 0,
        });
        let delay = self.random.between(50, 400);
        self.after(delay, move |world| world.create(n));
    }

    fn any_server(&mut self) -> usize {
        self.random.between(0, self.server_slots.len() as u64 - 1) as usize
    }

    fn create(&mut self, n: usize) {
        let slot = self.any_server();
        let pid = self.server_slots[slot];
        self.clients[n].call += 1;
        let call = self.clients[n].call;
        self.within(pid, 2, move |world| {
            world.create_session(pid, session(n), move |world| {
                world.after(2, move |world| {
                    if world.clients[n].call == call {
                        world.clients[n].call += 1;
                        world.next(n);
                    }
                });
            });
        });
        self.after(HTTP_PATIENCE, move |world| {
            if world.clients[n].call == call {
                world.create(n);
            }
        });
    }

    /// What a client does once it has nothing to wait for.
    fn next(&mut self, n: usize) {
        if self.is_idle(n) {
            return;
        }
        let total = self.plan.queries;
        let client = &mut self.clients[n];
        if client.query == total {
            client.phase = Phase::Closing;
            let delay = if self.plan.lingers { 6_000 } else { 1 };
            return self.after(delay, move |world| {
                world.check_hands(n);
                world.close(n);
            });
        }
        match client.manner {
            Manner::Resumes | Manner::Impatient if client.socket.is_none() && client.query == 0 => {
                client.phase = Phase::Connecting;
                self.open(n);
            }
            _ => {
                client.phase = Phase::Asking;
                client.query += 1;
                self.ask(n);
            }
        }
    }

    /// Begins or continues a pause between two queries, in histories where sessions may expire.
    fn is_idle(&mut self, n: usize) -> bool {
        let Some(ttl) = self.plan.ttl else { return false };
        let client = &mut self.clients[n];
        if client.phase == Phase::Idle {
            return true;
        }
        if client.idled > client.query {
            return false;
        }
        client.idled = client.query + 1;
        if !self.random.percent(40) {
            return false;
        }
        let for_ms = self.random.between(ttl / 2, 2 * ttl);
        let leaves = self.random.percent(50);
        let client = &mut self.clients[n];
        client.phase = Phase::Idle;
        note!(self, "client-{n}: is idle for {for_ms} ms");
        let client = &mut self.clients[n];
        let socket = client.socket.take_if(|_| leaves && client.manner == Manner::Resumes);
        if let Some(socket) = socket {
            client.disturbed = true;
            self.close_socket(socket);
        }
        self.after(for_ms, move |world| {
            let client = &mut world.clients[n];
            client.phase = Phase::Connecting;
            match (client.manner, client.socket) {
                (Manner::OldContract, _) | (_, Some(_)) => world.next(n),
                (_, None) => world.open(n),
            }
        });
        true
    }

    /// Its session is unknown: that is right where it was idle for too long, and nowhere else.
    fn unknown(&mut self, n: usize) {
        if !self.is_expired(session(n)) {
            return violated!(self, "client-{n}: its session is unknown");
        }
        self.covered.insert("an expired session was answered with 404");
        let client = &mut self.clients[n];
        (client.gone, client.phase, client.call) = (true, Phase::Done, 0);
    }

    /// A query that never ends: after a while the client repeats its call, and hears that the session is gone.
    fn give_up_reading(&mut self, n: usize, generation: u64) {
        if self.clients[n].phase == Phase::Reading(generation) && self.is_expired(session(n)) {
            self.clients[n].timed_out = true;
            self.clients[n].phase = Phase::Asking;
            self.ask(n);
        }
    }

    fn open(&mut self, n: usize) {
        let pid = self.proxy_slots[self.random.between(0, PROXIES as u64 - 1) as usize];
        if !self.is_alive(pid) {
            let delay = self.random.between(10, 100);
            return self.after(delay, move |world| {
                if world.clients[n].socket.is_none() {
                    world.open(n);
                }
            });
        }
        let client = &mut self.clients[n];
        let start = (client.manner != Manner::OldContract).then_some(client.last);
        client.open = false;
        note!(self, "client-{n}: connects to {}, after {start:?}", self.name(pid));
        let socket = self.open_socket(n, pid, start);
        self.clients[n].socket = Some(socket);
    }

    /// Posts the query, and posts it again until there is an answer.
    fn ask(&mut self, n: usize) {
        let slot = self.any_server();
        let pid = self.server_slots[slot];
        let call = self.number();
        self.clients[n].call = call;
        let query = format!("c{n}q{}", self.clients[n].query);
        if !self.is_alive(pid) {
            return self.after(50, move |world| world.ask_again(n, call));
        }
        note!(self, "client-{n}: asks {query} of {}", self.name(pid));
        let lag = self.lag();
        let attempt = call;
        self.within(pid, lag, move |world| {
            let asked = query.clone();
            let reply = Box::new(move |world: &mut World, answer: RunAnswer| {
                if world.answers_to_lose[slot] > 0 {
                    world.answers_to_lose[slot] -= 1;
                    note!(world, "server in slot {slot}: its answer {answer:?} is lost");
                    return world.after(20, move |world| world.ask_again(n, call));
                }
                let lag = world.lag();
                world.after(lag, move |world| world.answered(n, call, asked, &answer));
            });
            world.run_query(pid, session(n), query, attempt, reply);
        });
        self.after(HTTP_PATIENCE, move |world| {
            if world.plan.clients[n] == Manner::Impatient && world.random.percent(30) {
                world.skip(n, call);
            } else {
                world.ask_again(n, call);
            }
        });
    }

    /// Asks no more for this query, and for the next one after a pause.
    fn skip(&mut self, n: usize, call: u64) {
        if self.clients[n].call == call && self.clients[n].phase == Phase::Asking {
            note!(self, "client-{n}: gives its query up");
            self.covered.insert("a client gave a query up");
            self.clients[n].call = 0;
            let pause = self.random.between(1, 6_000);
            self.after(pause, move |world| world.next(n));
        }
    }

    fn ask_again(&mut self, n: usize, call: u64) {
        if self.clients[n].call == call && self.clients[n].phase == Phase::Asking {
            self.ask(n);
        }
    }

    fn answered(&mut self, n: usize, call: u64, query: String, answer: &RunAnswer) {
        if self.clients[n].call != call {
            return;
        }
        note!(self, "client-{n}: {query} → {answer:?}");
        match *answer {
            RunAnswer::Streaming { generation } => {
                let client = &mut self.clients[n];
                client.call = 0;
                client.phase = Phase::Reading(generation);
                client.idled = client.query;
                if let Some(before) = client.promised.insert(query, generation)
                    && before != generation
                    && !self.is_expired(session(n))
                {
                    violated!(self, "client-{n}: was promised {before}, then {generation}");
                }
                if self.plan.clients[n] == Manner::Impatient && self.clients[n].query < self.plan.queries {
                    let delay = self.random.between(300, 1500);
                    return self.after(delay, move |world| world.do_not_wait(n, generation));
                }
                if let Some(ttl) = self.plan.ttl {
                    self.after(3 * ttl, move |world| world.give_up_reading(n, generation));
                }
                if self.clients[n].socket.is_none() && self.clients[n].manner == Manner::OldContract {
                    let late = self.plan.ttl.filter(|_| self.random.percent(30));
                    let delay = self.random.between(1, late.map_or(600, |ttl| ttl + ttl / 2));
                    self.after(delay, move |world| {
                        if world.clients[n].socket.is_none() {
                            world.open(n);
                        }
                    });
                }
                if self.clients[n].query == self.plan.queries && self.random.percent(20) {
                    self.clients[n].closed_early = true;
                    let delay = self.random.between(1, 300);
                    self.after(delay, move |world| world.close(n));
                }
                self.read_on(n);
            }
            RunAnswer::Busy | RunAnswer::Later => {
                self.after(150, move |world| world.ask_again(n, call));
            }
            RunAnswer::Unknown => self.unknown(n),
            // An expired session that it had closed may come back for a while.
            RunAnswer::Closed if self.is_expired(session(n)) => self.unknown(n),
            RunAnswer::Closed => violated!(self, "client-{n}: its session is closed before it closed it"),
        }
    }

    fn close(&mut self, n: usize) {
        let client = &mut self.clients[n];
        let runs = client.promised.values().any(|generation| !client.ended.contains_key(generation));
        client.closed_early |= runs;
        let slot = self.any_server();
        let pid = self.server_slots[slot];
        let call = self.number();
        self.clients[n].call = call;
        self.within(pid, 2, move |world| {
            world.close_session(pid, session(n), move |world, closed| {
                if closed == CloseAnswer::Unknown && world.clients[n].call == call {
                    world.unknown(n);
                } else if closed == CloseAnswer::Done && world.clients[n].call == call {
                    world.clients[n].call = 0;
                    if world.clients[n].phase == Phase::Closing {
                        world.clients[n].phase = Phase::Done;
                    }
                }
            });
        });
        self.after(HTTP_PATIENCE, move |world| {
            if world.clients[n].call == call {
                world.close(n);
            }
        });
    }

    /// Something came down a socket.
    pub(crate) fn client_hears(&mut self, socket: SocketId, what: Down) {
        let n = self.sockets[socket].client;
        if self.clients[n].socket != Some(socket) {
            return;
        }
        match what {
            Down::Open => {
                self.clients[n].open = true;
                if self.clients[n].phase == Phase::Connecting {
                    self.next(n);
                }
            }
            Down::Event { prefix, frame } => self.receive(n, prefix, &frame),
            Down::Gap { from, to } => {
                note!(self, "client-{n}: is told of a gap after {from} up to {to}");
                let client = &mut self.clients[n];
                client.gaps.push((from, to));
                client.last = client.last.max(to);
                self.read_on(n);
            }
            Down::Refused | Down::Close { taken_over: true } => {
                note!(self, "client-{n}: {what:?}");
                self.clients[n].disturbed = true;
                self.client_lost(socket);
            }
            Down::Close { taken_over: false } => {
                note!(self, "client-{n}: its session is closed");
                self.clients[n].told_closed = true;
                self.clients[n].socket = None;
                self.close_socket(socket);
                if self.clients[n].phase == Phase::Leaving {
                    self.next(n);
                }
            }
            Down::Closed => {
                self.clients[n].socket = None;
                self.next(n);
            }
            Down::Resumed => {}
        }
    }

    pub(crate) fn client_lost(&mut self, socket: SocketId) {
        let n = self.sockets[socket].client;
        if self.clients[n].socket != Some(socket) || !self.clients[n].lost_sockets.insert(socket) {
            return;
        }
        note!(self, "client-{n}: its socket is lost");
        let client = &mut self.clients[n];
        client.socket = None;
        client.disturbed = true;
        match client.phase {
            // Until it hears that nothing follows, it comes back for what it gave up or has not read yet.
            Phase::Done if client.gone || client.told_closed || client.manner == Manner::OldContract => {}
            Phase::Leaving => self.next(n),
            Phase::Creating => {}
            Phase::Asking if client.manner == Manner::OldContract => {}
            _ => {
                let away = if self.plan.clients[n] == Manner::Impatient { 3_000 } else { 300 };
                let delay = self.random.between(1, away);
                self.after(delay, move |world| {
                    if world.clients[n].socket.is_none() {
                        world.open(n);
                    }
                });
            }
        }
    }

    /// A client that has a socket opens another one, and listens to that one alone.
    pub(crate) fn take_over(&mut self, n: usize) {
        let client = &self.clients[n];
        if client.socket.is_some() && client.manner != Manner::OldContract && client.phase != Phase::Done {
            self.open(n);
        }
    }

    fn receive(&mut self, n: usize, prefix: Prefix, frame: &[u8]) {
        let at = prefix.position;
        note!(self, "client-{n}: receives {:?} {at}", prefix.kind);
        self.check_content(n, prefix, frame);
        let client = &mut self.clients[n];
        *client.received.entry(at).or_default() += 1;
        if client.manner != Manner::OldContract {
            let last = client.last;
            let begins = at.seq == 1 && at.generation > last.generation;
            let between = last == Position::ZERO || client.ended.contains_key(&last.generation);
            let covered = client.gaps.last().is_some_and(|&(_, to)| to >= last);
            if at <= last {
                forbidden!(self, "client-{n}: received {at} after {last}");
            } else if at != last.next() && !covered && at.seq != 1 {
                forbidden!(self, "client-{n}: received {at} after {last}, and no gap was announced");
            } else if at != last.next() && !covered && !(begins && between) {
                violated!(self, "client-{n}: received {at} after {last}, which is no end");
            }
        }
        let client = &mut self.clients[n];
        if let Some(end) = client.ended.get(&at.generation)
            && at > end.position
        {
            violated!(self, "client-{n}: received {at} behind the terminator {}", end.position);
        }
        let client = &mut self.clients[n];
        client.last = client.last.max(at);
        if prefix.kind.is_terminator() {
            if let Some(before) = client.ended.insert(at.generation, prefix)
                && before.position != at
            {
                violated!(self, "client-{n}: received a second terminator, {at}");
            }
            self.read_on(n);
        }
    }

    fn check_content(&mut self, n: usize, prefix: Prefix, frame: &[u8]) {
        let text = std::str::from_utf8(frame).unwrap_or_default();
        let Ok(Frame::Event(Event { content, query_id, .. })) = Frame::parse(text) else {
            return violated!(self, "client-{n}: {text} is no event");
        };
        let id = (session(n), prefix.position.generation);
        let Some((query, owner)) = self.broker.claims.get(&id) else {
            return violated!(self, "client-{n}: {} is of a generation that nobody claimed", prefix.position);
        };
        let right = query_id.as_deref() == Some(query)
            && (prefix.kind != Kind::Token || content == word(owner, query, prefix.position.seq));
        if !right {
            violated!(self, "client-{n}: {text} is not what {owner} wrote for {query}");
        }
    }

    /// Asks for more before it has had everything.
    fn do_not_wait(&mut self, n: usize, generation: u64) {
        if self.clients[n].phase == Phase::Reading(generation) {
            self.clients[n].phase = Phase::Asking;
            self.clients[n].query += 1;
            self.ask(n);
        }
    }

    /// Goes on once the query's end has come.
    fn read_on(&mut self, n: usize) {
        let client = &mut self.clients[n];
        let Phase::Reading(generation) = client.phase else { return };
        let gone = client.gaps.iter().any(|&(_, to)| to.generation > generation);
        if !client.ended.contains_key(&generation) && !gone {
            return;
        }
        match (client.manner, client.socket) {
            (Manner::OldContract, Some(socket)) => {
                client.phase = Phase::Leaving;
                self.close_socket(socket);
            }
            _ => {
                let delay = self.random.between(1, 200);
                client.phase = Phase::Asking;
                client.call = 0;
                self.after(delay, move |world| world.next(n));
            }
        }
    }
}

impl Client {
    pub(crate) fn current_socket(&self) -> Option<SocketId> {
        self.socket
    }

    pub(crate) fn state(&self) -> String {
        format!(
            "{:?}, query {}, last {}, socket {:?} open {}",
            self.phase, self.query, self.last, self.socket, self.open
        )
    }
}
