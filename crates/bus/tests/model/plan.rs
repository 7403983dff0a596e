//! The plan of a history: how clients behave, and which faults happen when. Faults can be removed one by one, which
//! shortens a failing history.

use crate::random::Random;
use std::fmt;

/// Number of slots of servers and of gateways. When a process is killed, its successor takes over the slot.
pub(crate) const SERVERS: usize = 2;
pub(crate) const PROXIES: usize = 2;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Memory {
    Kept,
    Empty,
    /// What was written in the last milliseconds is lost.
    RolledBack(u64),
}

/// A fault, with the number of a client or the slot of a process, and a time in ms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    CutSocket(usize),
    TakeOver(usize),
    CutPubsub(usize),
    CutCommands(usize),
    /// Calls of a gateway take longer, until it reconnects.
    DelayCommands(usize, u64),
    CutServer(usize),
    /// Calls of a server take longer, until it reconnects.
    DelayServer(usize, u64),
    KillProxy(usize, u64),
    PauseServer(usize, u64),
    KillServer(usize, u64),
    /// The server finishes its work and leaves the list of servers.
    DrainServer(usize, u64),
    LoseAnswer(usize),
    PauseRedis(u64),
    RefuseWrites(u64),
    RestartRedis(Memory, u64),
    AddServer,
}

impl Fault {
    /// Returns the fault's name in the table of covered cases.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::CutSocket(_) => "client's socket cut",
            Self::TakeOver(_) => "client opens a second socket",
            Self::CutPubsub(_) => "pub/sub connection cut",
            Self::CutCommands(_) => "gateway's command connection cut",
            Self::DelayCommands(..) => "gateway's commands executed late",
            Self::CutServer(_) => "server's connection cut",
            Self::DelayServer(..) => "server's commands executed late",
            Self::KillProxy(..) => "gateway killed",
            Self::PauseServer(..) => "server paused",
            Self::KillServer(..) => "server killed",
            Self::DrainServer(..) => "server drained",
            Self::LoseAnswer(_) => "server's answer lost",
            Self::PauseRedis(_) => "Redis paused",
            Self::AddServer => "another server starts",
            Self::RefuseWrites(_) => "Redis refuses writes",
            Self::RestartRedis(Memory::Kept, _) => "Redis restarted, nothing lost",
            Self::RestartRedis(Memory::Empty, _) => "Redis restarted empty",
            Self::RestartRedis(Memory::RolledBack(_), _) => "Redis rolled back",
        }
    }

    pub(crate) const fn loses_data(self) -> bool {
        matches!(self, Self::RestartRedis(Memory::Empty | Memory::RolledBack(_), _))
    }

    /// Returns for how long, in ms, the fault separates a process from the broker at most, including the time to
    /// reconnect.
    const fn lasts(self) -> u64 {
        match self {
            Self::KillProxy(_, down)
            | Self::PauseServer(_, down)
            | Self::KillServer(_, down)
            | Self::DrainServer(_, down)
            | Self::PauseRedis(down)
            | Self::RefuseWrites(down)
            | Self::RestartRedis(_, down) => down + 1_500,
            Self::DelayCommands(..) | Self::DelayServer(..) => 2_500,
            _ => 1_500,
        }
    }

    fn draw(random: &mut Random, clients: usize, loses: bool) -> Self {
        let client = random.between(0, clients as u64 - 1) as usize;
        let slot = random.between(0, 1) as usize;
        let longest = if random.percent(50) { 6000 } else { 1500 };
        let down = random.between(1, longest);
        match if loses { random.between(13, 15) } else { random.between(0, 21) } {
            0 | 1 => Self::CutSocket(client),
            2 | 3 => Self::TakeOver(client),
            4 => Self::CutPubsub(slot),
            5 => Self::CutCommands(slot),
            6 => Self::CutServer(slot),
            7 => Self::KillProxy(slot, down),
            8 => Self::PauseServer(slot, down),
            9 => Self::KillServer(slot, down),
            10 => Self::LoseAnswer(slot),
            11 => Self::PauseRedis(down / 2),
            12 => Self::RestartRedis(Memory::Kept, down / 4),
            13 => Self::RestartRedis(Memory::Empty, down / 4),
            16 => Self::DelayCommands(slot, random.between(300, 4000)),
            17 => Self::AddServer,
            20 | 21 => Self::DrainServer(slot, down),
            18 | 19 => Self::DelayServer(slot, random.between(300, 4000)),
            _ => Self::RestartRedis(Memory::RolledBack(random.between(1, 1000)), down / 4),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())?;
        match *self {
            Self::CutSocket(client) | Self::TakeOver(client) => write!(f, " ({client})"),
            Self::CutPubsub(slot)
            | Self::CutCommands(slot)
            | Self::CutServer(slot)
            | Self::LoseAnswer(slot) => {
                write!(f, " (slot {slot})")
            }
            Self::KillProxy(slot, down)
            | Self::PauseServer(slot, down)
            | Self::KillServer(slot, down)
            | Self::DrainServer(slot, down) => write!(f, " (slot {slot}) for {down} ms"),
            Self::DelayCommands(slot, by) | Self::DelayServer(slot, by) => {
                write!(f, " (slot {slot}) by {by} ms")
            }
            Self::PauseRedis(down) | Self::RefuseWrites(down) => write!(f, " for {down} ms"),
            Self::RestartRedis(Memory::RolledBack(lost), down) => {
                write!(f, " by {lost} ms, down for {down} ms")
            }
            Self::RestartRedis(_, down) => write!(f, ", down for {down} ms"),
            Self::AddServer => Ok(()),
        }
    }
}

/// How a client of a session behaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum ClientKind {
    /// Connects first, and resumes after the last position that it received.
    #[default]
    Resumes,
    /// Submits first, connects later and names no position. Uses one socket per query.
    OldContract,
    /// Resumes too, but submits the next query before it has received this one, and stays away for long.
    Impatient,
}

#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) clients: Vec<ClientKind>,
    pub(crate) queries: u64,
    /// Number of entries of earlier queries that a log keeps.
    pub(crate) keep: usize,
    /// Clients stay connected for a while before they close.
    pub(crate) lingers: bool,
    /// How long the server of each slot takes to restore its history, in ms.
    pub(crate) restores_for: [u64; 2],
    /// The sessions' time to live in ms, in histories that are long enough for it to matter. Clients are then idle for
    /// a while, and queries may take longer than the time to live.
    pub(crate) ttl: Option<u64>,
    /// Factor by which queries take longer.
    pub(crate) pace: u64,
    pub(crate) faults: Vec<(u64, Fault)>,
}

impl Plan {
    pub(crate) fn draw(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let clients: Vec<_> = (0..random.between(1, 3))
            .map(|_| match random.between(0, 9) {
                0..4 => ClientKind::Resumes,
                4..8 => ClientKind::OldContract,
                _ => ClientKind::Impatient,
            })
            .collect();
        let queries = random.between(2, 4);
        let keep = if random.percent(20) { random.between(0, 12) as usize } else { 1000 };
        let lingers = random.percent(25);
        let restores_for = [0; 2].map(|_| match random.between(0, 19) {
            0..12 => 0,
            12..19 => random.between(100, 4_000),
            _ => random.between(4_000, 12_000),
        });
        // Some faults come in a row, each while the last one heals. A loss of data during another fault needs most of
        // the rules.
        let (in_a_row, forgets) = (random.percent(40), random.percent(40));
        let spread = if in_a_row { random.between(20, 800) } else { 4800 };
        let from = random.between(200, 5000 - spread);
        let count = random.between(0, 5);
        let mut faults: Vec<_> = (0..count)
            .map(|n| {
                let loses = in_a_row && forgets && n == 0;
                (random.between(from, from + spread), Fault::draw(&mut random, clients.len(), loses))
            })
            .collect();
        if random.percent(20) {
            let longest = if random.percent(50) { 6000 } else { 500 };
            let down = random.between(1, longest);
            faults.push((random.between(from, from + spread), Fault::RefuseWrites(down)));
        }
        faults.sort_by_key(|&(at, _)| at);
        let plan = Self { seed, clients, queries, keep, lingers, restores_for, ttl: None, pace: 1, faults };
        if random.percent(6) { plan.with_ttl(&mut random) } else { plan }
    }

    /// Returns the plan with a time to live that is longer than every fault, because renewals come every third of it.
    /// Faults are spread over more time.
    fn with_ttl(mut self, random: &mut Random) -> Self {
        let stretch = random.between(1, 8);
        for (at, _) in &mut self.faults {
            *at *= stretch;
        }
        let lasting: u64 = self.faults.iter().map(|(_, fault)| fault.lasts()).sum();
        self.ttl = Some(random.between(6_000, 15_000).max((lasting + 2_000) * 3 / 2));
        self.pace = random.between(1, 30);
        self
    }

    /// Returns the plan without one fault.
    pub(crate) fn without(&self, index: usize) -> Self {
        let mut plan = self.clone();
        plan.faults.remove(index);
        plan
    }

    /// Returns whether logs may lack events that a client has not received.
    pub(crate) fn forgets(&self) -> bool {
        self.loses_data() || self.keep < 1000
    }

    pub(crate) fn loses_data(&self) -> bool {
        self.faults.iter().any(|(_, fault)| fault.loses_data())
    }
}
