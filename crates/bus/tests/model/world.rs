//! The world: a simulated clock, processes that die and pause, connections that are cut, requests that arrive late, and
//! the history of all this. It runs in one thread, always executes what is due next, and reads no real clock.

use crate::{
    broker::{Broker, Connection},
    client::Client,
    plan::{PROXIES, Plan, SERVERS},
    proxy::{Proxy, Slot},
    random::Random,
    server::Server,
    socket::Socket,
};
use protocol::SessionId;
use std::{
    any::Any,
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};
use uuid::Uuid;

/// How long a caller waits for the broker before it reconnects, in ms.
const PATIENCE: u64 = 1000;
/// Simulated time, in ms, after which an unfinished history counts as stuck.
const END: u64 = 90_000;
/// [`END`] for histories in which sessions expire.
const END_WITH_TTL: u64 = 600_000;
/// Number of steps after which a history counts as an endless loop.
const STEPS: u64 = 200_000;

pub(crate) type Action = Box<dyn FnOnce(&mut World)>;
/// A step at the broker, whose result is `None` if the broker refused it.
type Step = Box<dyn FnOnce(&mut World, Connection) -> Option<Box<dyn Any>>>;
pub(crate) type Pid = usize;
pub(crate) type LinkId = usize;

#[derive(Default)]
pub(crate) struct Process {
    pub(crate) name: String,
    pub(crate) alive: bool,
    pub(crate) paused: bool,
    deferred: Vec<Action>,
}

/// A process's connection to the broker.
#[derive(Default)]
pub(crate) struct Link {
    pub(crate) of: Pid,
    pub(crate) up: bool,
    pub(crate) connection: u64,
    /// The incarnation of the broker to which it is connected.
    pub(crate) incarnation: u64,
    arrival: u64,
    reply: u64,
    /// Additional delay of what is sent on this connection, in ms.
    slow_by: u64,
}

type OnResult = Box<dyn FnOnce(&mut World, Option<Box<dyn Any>>)>;

struct Pending {
    link: LinkId,
    then: OnResult,
}

/// What the broker may do with a call.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Call {
    /// Execute it.
    Always,
    /// Refuse it while it refuses the writes of servers.
    Write,
    /// The same. The server then reconnects, and its restoration begins again.
    Restoration,
}

/// Classes of histories in which more fails than the design promises to survive. Even then no event inside a query is
/// skipped without a gap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Excluded {
    /// Redis lost what only one server knew, and that server died before it restored it.
    ServerDiedBeforeRestoring,
    /// Redis lost what only one server knew, and that server had not restored it ten seconds later.
    ServerRestoresLate,
    /// Redis lost a claim that another server had reported to the client. The claim's own server was paused and did not
    /// receive the reply.
    UnansweredClaimLost,
    /// Redis lost the end that a peer had given to a query, and the query's server was alive.
    EndOfLostQueryLost,
    /// Redis lost what a new server had written, before a peer had read the server's first heartbeat.
    NewServerUnknown,
    /// Redis lost a session that was idle for longer than its time to live and that no gateway held, or the last
    /// renewal of a session that was about to expire.
    IdleSessionLost,
}

pub(crate) struct World {
    pub(crate) plan: Plan,
    pub(crate) now: u64,
    /// What is due, by time and order.
    queue: BTreeMap<(u64, u64), Action>,
    numbers: u64,
    pub(crate) random: Random,
    epoch: Instant,
    pub(crate) broker: Broker,
    pub(crate) processes: Vec<Process>,
    pub(crate) links: Vec<Link>,
    pending: BTreeMap<u64, Pending>,
    pub(crate) servers: BTreeMap<Pid, Server>,
    pub(crate) server_slots: Vec<Pid>,
    pub(crate) proxies: BTreeMap<Pid, Proxy>,
    pub(crate) proxy_slots: [Pid; PROXIES],
    pub(crate) slots: Vec<Slot>,
    pub(crate) sockets: Vec<Socket>,
    pub(crate) clients: Vec<Client>,
    /// Number of replies to clients that are to be lost, by server slot.
    pub(crate) answers_to_lose: Vec<u32>,
    pub(crate) covered: BTreeSet<&'static str>,
    pub(crate) history: Option<Vec<String>>,
    pub(crate) violation: Option<String>,
    pub(crate) excluded: Option<Excluded>,
    /// Sessions that were idle until they expired.
    pub(crate) expired: BTreeSet<SessionId>,
    /// Servers that are the only ones that can restore what the broker lost in its last restart.
    pub(crate) sole_sources: BTreeSet<Pid>,
}

macro_rules! note {
    ($world:expr, $($arg:tt)*) => {
        if $world.history.is_some() {
            let line = format!("t={:<6}{}", $world.now, format_args!($($arg)*));
            $world.write(line);
        }
    };
}
pub(crate) use note;

/// Records a violation, unless the history is excluded.
macro_rules! violated {
    ($world:expr, $($arg:tt)*) => {
        if $world.excluded.is_none() {
            $crate::world::forbidden!($world, $($arg)*);
        }
    };
}
pub(crate) use violated;

/// Records a violation of what must never happen, even in excluded histories.
macro_rules! forbidden {
    ($world:expr, $($arg:tt)*) => {{
        let text = format!($($arg)*);
        $crate::world::note!($world, "VIOLATED: {text}");
        $world.violation.get_or_insert(text);
    }};
}
pub(crate) use forbidden;

pub(crate) fn session(n: usize) -> SessionId {
    SessionId::new(Uuid::from_u128(n as u128 + 1))
}

pub(crate) fn short(session: SessionId) -> String {
    format!("session-{}", session.uuid().as_u128())
}

impl World {
    pub(crate) fn new(plan: &Plan, verbose: bool) -> Self {
        let mut world = Self {
            plan: plan.clone(),
            now: 1000,
            queue: BTreeMap::new(),
            numbers: 0,
            random: Random::new(plan.seed ^ 0xABCD_EF01),
            epoch: Instant::now(),
            broker: Broker::default(),
            processes: Vec::new(),
            links: Vec::new(),
            pending: BTreeMap::new(),
            servers: BTreeMap::new(),
            server_slots: Vec::new(),
            proxies: BTreeMap::new(),
            proxy_slots: [0; PROXIES],
            slots: Vec::new(),
            sockets: Vec::new(),
            clients: Vec::new(),
            answers_to_lose: Vec::new(),
            covered: BTreeSet::new(),
            history: verbose.then(Vec::new),
            violation: None,
            excluded: None,
            expired: BTreeSet::new(),
            sole_sources: BTreeSet::new(),
        };
        for slot in 0..SERVERS {
            world.start_server(slot);
            // These servers have known each other for long.
            let pid = world.server_slots[slot];
            world.within(pid, 150, move |world| world.observe(pid));
        }
        for slot in 0..PROXIES {
            world.start_proxy(slot);
        }
        for (n, &kind) in plan.clients.iter().enumerate() {
            world.start_client(n, kind);
        }
        for &(at, fault) in &plan.faults {
            world.schedule_fault(at, fault);
        }
        world
    }

    /// Runs until all clients are done and nothing has happened for a while.
    pub(crate) fn run(&mut self) {
        let (mut quiet_since, mut excluded_since, mut steps) = (None, None, 0);
        let end = if self.plan.ttl.is_some() { END_WITH_TTL } else { END };
        let last_fault = self.plan.faults.last().map_or(0, |&(at, _)| at + 6000);
        while let Some(((at, _), action)) = self.queue.pop_first() {
            self.now = at;
            action(self);
            if self.violation.is_some() {
                return;
            }
            // In an excluded history, losses are announced or queries time out, so nothing is checked after a while.
            if self.excluded.is_some() && at > *excluded_since.get_or_insert(at) + 15_000 {
                return;
            }
            if self.clients.iter().all(Client::is_done) && self.all_restored() {
                let since = *quiet_since.get_or_insert(at);
                if at > last_fault && at > since + 12_000 {
                    break;
                }
            } else {
                quiet_since = None;
            }
            steps += 1;
            if at > end || steps > STEPS {
                break;
            }
        }
        if self.excluded.is_none() {
            self.check_end();
        }
    }

    /// Returns whether no living server has a session left to restore or to close again.
    fn all_restored(&self) -> bool {
        self.servers.iter().all(|(&pid, server)| {
            !self.processes[pid].alive
                || server.restored == Some(self.broker.incarnation) && server.to_close.is_empty()
        })
    }

    pub(crate) fn write(&mut self, line: String) {
        if let Some(history) = &mut self.history {
            history.push(line);
        }
    }

    pub(crate) fn number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    pub(crate) fn instant(&self) -> Instant {
        self.epoch + Duration::from_millis(self.now)
    }

    pub(crate) fn after(&mut self, delay: u64, action: impl FnOnce(&mut World) + 'static) {
        let order = self.number();
        self.queue.insert((self.now + delay, order), Box::new(action));
    }

    /// Schedules an action inside a process. It is skipped if the process is dead by then, and waits while it is
    /// paused.
    pub(crate) fn within(&mut self, pid: Pid, delay: u64, action: impl FnOnce(&mut World) + 'static) {
        self.after(delay, move |world| {
            let process = &mut world.processes[pid];
            if process.paused {
                process.deferred.push(Box::new(action));
            } else if process.alive {
                action(world);
            }
        });
    }

    pub(crate) fn start_process(&mut self, name: String) -> Pid {
        self.processes.push(Process { name, alive: true, ..Process::default() });
        self.processes.len() - 1
    }

    pub(crate) fn name(&self, pid: Pid) -> &str {
        &self.processes[pid].name
    }

    pub(crate) fn is_alive(&self, pid: Pid) -> bool {
        self.processes[pid].alive
    }

    pub(crate) fn kill(&mut self, pid: Pid) {
        note!(self, "{} is killed", self.name(pid));
        let process = &mut self.processes[pid];
        (process.alive, process.paused) = (false, false);
        process.deferred.clear();
        for link in 0..self.links.len() {
            if self.links[link].of == pid {
                self.cut(link);
            }
        }
    }

    pub(crate) fn pause(&mut self, pid: Pid) {
        note!(self, "{} stops", self.name(pid));
        self.processes[pid].paused = true;
    }

    pub(crate) fn wake(&mut self, pid: Pid) {
        if !std::mem::take(&mut self.processes[pid].paused) {
            return;
        }
        note!(self, "{} continues", self.name(pid));
        for action in std::mem::take(&mut self.processes[pid].deferred) {
            self.within(pid, 0, action);
        }
    }

    /// Returns the delay of a message in ms: usually small.
    pub(crate) fn lag(&mut self) -> u64 {
        if self.random.percent(4) { self.random.between(10, 300) } else { self.random.between(1, 5) }
    }

    pub(crate) fn open_link(&mut self, of: Pid) -> LinkId {
        self.links.push(Link { of, ..Link::default() });
        let link = self.links.len() - 1;
        self.within(of, 1, move |world| world.connect(link));
        link
    }

    fn connect(&mut self, link: LinkId) {
        let of = self.links[link].of;
        if self.broker.down || self.broker.paused {
            let delay = self.random.between(20, 500);
            return self.within(of, delay, move |world| world.connect(link));
        }
        let connection = self.number();
        let incarnation = self.broker.incarnation;
        let end = &mut self.links[link];
        (end.up, end.connection, end.incarnation) = (true, connection, incarnation);
        (end.arrival, end.reply, end.slow_by) = (0, 0, 0);
        if self.servers.contains_key(&of) {
            self.server_connected(of, link);
        } else {
            self.proxy_connected(of, link);
        }
    }

    /// Cuts a connection. Replies on their way are lost, and requests on their way may still arrive.
    pub(crate) fn cut(&mut self, link: LinkId) {
        let of = self.links[link].of;
        if !std::mem::take(&mut self.links[link].up) {
            return;
        }
        self.links[link].connection = 0;
        let cut: Vec<u64> =
            self.pending.iter().filter(|(_, pending)| pending.link == link).map(|(&id, _)| id).collect();
        for id in cut {
            if let Some(Pending { then, .. }) = self.pending.remove(&id) {
                self.within(of, 0, move |world| then(world, None));
            }
        }
        let delay = self.random.between(5, 400);
        self.within(of, delay, move |world| world.connect(link));
    }

    /// Delays what is sent on the present connection by this many ms, usually for longer than its caller waits. The
    /// broker then executes commands whose callers have given up.
    pub(crate) fn delay(&mut self, link: LinkId, by: u64) {
        if self.links[link].up {
            self.links[link].slow_by = by;
        }
    }

    /// Calls the broker. `step` is executed there, and `then` here with its result, or with `None` if there was no reply.
    pub(crate) fn call<T: 'static>(
        &mut self,
        link: LinkId,
        step: impl FnOnce(&mut World, Connection) -> T + 'static,
        then: impl FnOnce(&mut World, Option<T>) + 'static,
    ) {
        self.send(Call::Always, link, step, then);
    }

    /// Calls the broker for a write of a server, which the broker may refuse.
    pub(crate) fn call_write<T: 'static>(
        &mut self,
        link: LinkId,
        step: impl FnOnce(&mut World) -> T + 'static,
        then: impl FnOnce(&mut World, Option<T>) + 'static,
    ) {
        self.send(Call::Write, link, |world, _| step(world), then);
    }

    /// Calls the broker to restore a session.
    pub(crate) fn call_restoration(
        &mut self,
        link: LinkId,
        step: impl FnOnce(&mut World) + 'static,
        then: impl FnOnce(&mut World, Option<()>) + 'static,
    ) {
        self.send(Call::Restoration, link, |world, _| step(world), then);
    }

    fn send<T: 'static>(
        &mut self,
        call: Call,
        link: LinkId,
        step: impl FnOnce(&mut World, Connection) -> T + 'static,
        then: impl FnOnce(&mut World, Option<T>) + 'static,
    ) {
        let Link { of, up, connection, incarnation, arrival, slow_by, .. } = self.links[link];
        if !up {
            return self.within(of, 1, move |world| then(world, None));
        }
        let id = self.number();
        let then = move |world: &mut World, result: Option<Box<dyn Any>>| {
            then(world, result.and_then(|result| result.downcast().ok()).map(|result| *result));
        };
        self.pending.insert(id, Pending { link, then: Box::new(then) });
        let step: Step = Box::new(move |world, from| {
            world.expire();
            if call != Call::Always && world.now < world.broker.refuses_until {
                world.covered.insert("a write was refused");
                return None;
            }
            Some(Box::new(step(world, from)))
        });
        let at = arrival.max(self.now + slow_by + self.lag());
        self.links[link].arrival = at;
        let restores = call == Call::Restoration;
        self.after(at - self.now, move |world| {
            world.arrives(id, (link, connection), incarnation, restores, step);
        });
        self.within(of, PATIENCE, move |world| {
            if world.pending.contains_key(&id) {
                note!(world, "{}: no answer, reconnects", world.name(of));
                world.cut(link);
            }
        });
    }

    fn arrives(&mut self, id: u64, from: Connection, incarnation: u64, restores: bool, step: Step) {
        if self.broker.down || self.broker.incarnation != incarnation {
            return;
        }
        if self.broker.paused {
            self.broker.waiting.push(Box::new(move |world| {
                world.arrives(id, from, incarnation, restores, step);
            }));
            return;
        }
        if !self.pending.contains_key(&id) {
            self.covered.insert("command executed after its caller gave up");
        }
        let result = step(self, from);
        let (link, connection) = from;
        self.send_back(link, connection, move |world| {
            let refused = result.is_none();
            if let Some(Pending { then, .. }) = world.pending.remove(&id) {
                then(world, result);
            }
            // A restoration that was refused begins again.
            if refused && restores {
                world.cut(link);
            }
        });
    }

    /// Sends to a process on a connection: in order, or not at all.
    pub(crate) fn send_back(
        &mut self,
        link: LinkId,
        connection: u64,
        action: impl FnOnce(&mut World) + 'static,
    ) {
        if self.links[link].connection != connection {
            return;
        }
        let at = self.links[link].reply.max(self.now + self.lag());
        self.links[link].reply = at;
        let of = self.links[link].of;
        self.within(of, at - self.now, move |world| {
            if world.links[link].connection == connection {
                action(world);
            }
        });
    }
}
