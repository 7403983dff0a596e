//! Clients: some resume after the last position that they received, and some, of the old contract, name no position.
//! Each checks every event that it receives against what it received before.

mod receiving;

use crate::{
    plan::{ClientKind, PROXIES},
    server::{CloseResponse, RunResponse},
    socket::SocketId,
    world::{World, note, session, violated},
};
use protocol::{Position, Prefix};
use std::collections::{BTreeMap, BTreeSet};

const HTTP_PATIENCE: u64 = 2_000;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    #[default]
    Creating,
    Connecting,
    /// Pauses between two queries.
    Idle,
    Asking,
    /// Waits for the terminator of this generation.
    Reading(u64),
    /// Waits for the reply to its close of the socket.
    Leaving,
    Closing,
    Done,
}

#[derive(Default)]
pub(crate) struct Client {
    kind: ClientKind,
    phase: Phase,
    query: u64,
    /// The call that is open. Replies to earlier calls are ignored.
    call: u64,
    /// Everything up to this position was received or announced as a gap.
    pub(crate) last: Position,
    socket: Option<SocketId>,
    open: bool,
    /// How often each event was received.
    pub(crate) received: BTreeMap<Position, u32>,
    pub(crate) gaps: Vec<(Position, Position)>,
    pub(crate) ended: BTreeMap<u64, Prefix>,
    /// The generations that its calls returned, by query.
    pub(crate) promised: BTreeMap<String, u64>,
    /// It had a second socket, a cut or a lost gateway, so a client of the old contract may receive events twice.
    pub(crate) disturbed: bool,
    lost_sockets: BTreeSet<SocketId>,
    /// A gateway has reported that the session is closed.
    pub(crate) close_reported: bool,
    /// It closed its session before one of its queries had ended, as far as it knew.
    pub(crate) closed_early: bool,
    /// A call returned that its session is unknown, because the session had expired.
    pub(crate) is_expired: bool,
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
    pub(crate) fn start_client(&mut self, n: usize, kind: ClientKind) {
        self.clients.push(Client { kind, ..Client::default() });
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

    /// Takes the client's next step, once it waits for nothing.
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
                world.check_holders(n);
                world.close(n);
            });
        }
        match client.kind {
            ClientKind::Resumes | ClientKind::Impatient if client.socket.is_none() && client.query == 0 => {
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
        let socket = client.socket.take_if(|_| leaves && client.kind == ClientKind::Resumes);
        if let Some(socket) = socket {
            client.disturbed = true;
            self.close_socket(socket);
        }
        self.after(for_ms, move |world| {
            let client = &mut world.clients[n];
            client.phase = Phase::Connecting;
            match (client.kind, client.socket) {
                (ClientKind::OldContract, _) | (_, Some(_)) => world.next(n),
                (_, None) => world.open(n),
            }
        });
        true
    }

    /// Handles the reply that the session is unknown, which is only right if the session was idle for too long.
    fn unknown(&mut self, n: usize) {
        if !self.is_expired(session(n)) {
            return violated!(self, "client-{n}: its session is unknown");
        }
        self.covered.insert("an expired session was answered with 404");
        let client = &mut self.clients[n];
        (client.is_expired, client.phase, client.call) = (true, Phase::Done, 0);
    }

    /// Gives up a query that does not end. The client repeats its call and finds that the session is unknown.
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
        let start = (client.kind != ClientKind::OldContract).then_some(client.last);
        client.open = false;
        note!(self, "client-{n}: connects to {}, after {start:?}", self.name(pid));
        let socket = self.open_socket(n, pid, start);
        self.clients[n].socket = Some(socket);
    }

    /// Submits the query, and submits it again until there is a reply.
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
            let reply = Box::new(move |world: &mut World, answer: RunResponse| {
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
            if world.plan.clients[n] == ClientKind::Impatient && world.random.percent(30) {
                world.skip(n, call);
            } else {
                world.ask_again(n, call);
            }
        });
    }

    /// Gives up the query, and submits the next one after a pause.
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

    fn answered(&mut self, n: usize, call: u64, query: String, answer: &RunResponse) {
        if self.clients[n].call != call {
            return;
        }
        note!(self, "client-{n}: {query} → {answer:?}");
        match *answer {
            RunResponse::Streaming { generation } => {
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
                if self.plan.clients[n] == ClientKind::Impatient && self.clients[n].query < self.plan.queries
                {
                    let delay = self.random.between(300, 1500);
                    return self.after(delay, move |world| world.do_not_wait(n, generation));
                }
                if let Some(ttl) = self.plan.ttl {
                    self.after(3 * ttl, move |world| world.give_up_reading(n, generation));
                }
                if self.clients[n].socket.is_none() && self.clients[n].kind == ClientKind::OldContract {
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
            RunResponse::Busy | RunResponse::Later => {
                self.after(150, move |world| world.ask_again(n, call));
            }
            RunResponse::Unknown => self.unknown(n),
            // An expired session that the client had closed may come back for a while.
            RunResponse::Closed if self.is_expired(session(n)) => self.unknown(n),
            RunResponse::Closed => violated!(self, "client-{n}: its session is closed before it closed it"),
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
                if closed == CloseResponse::Unknown && world.clients[n].call == call {
                    world.unknown(n);
                } else if closed == CloseResponse::Done && world.clients[n].call == call {
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

    /// Lets a client with a socket open another one. It then ignores the first.
    pub(crate) fn take_over(&mut self, n: usize) {
        let client = &self.clients[n];
        if client.socket.is_some() && client.kind != ClientKind::OldContract && client.phase != Phase::Done {
            self.open(n);
        }
    }

    /// Submits the next query before this one has ended.
    fn do_not_wait(&mut self, n: usize, generation: u64) {
        if self.clients[n].phase == Phase::Reading(generation) {
            self.clients[n].phase = Phase::Asking;
            self.clients[n].query += 1;
            self.ask(n);
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
