//! The broker: records, heartbeats, subscriptions, and a memory that can fail. The steps on records are those of
//! `bus::rules`. Their effects are sent on the subscribed connections.

mod steps;

use crate::world::{Action, LinkId, World, note};
use bus::rules::{Part, Record};
use protocol::{Kind, Position, Prefix, SessionId};
use std::collections::{BTreeMap, BTreeSet};

/// How long after its mark was made Redis is young, in ms: what it lacks may still be restored.
pub(crate) const YOUNG: u64 = 10_000;

/// Covered case: after such a claim a gap is announced, whether or not anything was lost.
pub(crate) const UNSURE_CLAIM: &str = "claimed before all servers had restored";

/// A connection, as the broker knows it.
pub(crate) type Connection = (LinkId, u64);

#[derive(Clone, Default)]
pub(crate) struct Memory {
    pub(crate) records: BTreeMap<SessionId, Record>,
    /// The last heartbeat of each server, with the mark in which it has restored.
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
    /// Time until which it refuses the writes of servers.
    pub(crate) refuses_until: u64,
    pub(crate) subscriptions: BTreeMap<SessionId, BTreeSet<Connection>>,
    pub(crate) control: BTreeMap<String, Connection>,
    pub(crate) snapshots: BTreeMap<u64, Memory>,
    /// When each server's last heartbeat arrived. Never lost: the checks of ended queries use it.
    pub(crate) last_beats: BTreeMap<String, u64>,
    /// Query and server of every claim. Never lost.
    pub(crate) claims: BTreeMap<(SessionId, u64), (String, String)>,
    /// The fence behind each query that a peer has ended. Never lost.
    pub(crate) fences_of_lost_queries: BTreeMap<(SessionId, u64), Position>,
    /// When a server last touched each session. Never lost.
    pub(crate) touched: BTreeMap<SessionId, u64>,
}

/// A message that the broker sends on its own.
#[derive(Clone, Debug)]
pub(crate) enum Push {
    Event { session: SessionId, prefix: Prefix, frame: Box<[u8]> },
    Cancel { session: SessionId, generation: u64 },
    Takeover { session: SessionId, epoch: u64 },
    Released { session: SessionId, epoch: u64, cursor: Position },
}

impl World {
    /// Kills the broker, which restarts with the data that it still has.
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
        self.find_sole_sources(&before.records);
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

    /// Returns whether the mark is so old that no restoration is awaited. The first Redis has been up for long.
    pub(crate) fn is_old(&self) -> bool {
        let broker = &self.broker;
        !broker.down && (broker.incarnation == 0 || self.now >= broker.up_since + YOUNG)
    }

    pub(crate) fn resume_broker(&mut self) {
        if !std::mem::take(&mut self.broker.paused) {
            return;
        }
        note!(self, "broker: continues");
        for action in std::mem::take(&mut self.broker.waiting) {
            action(self);
        }
    }
}

/// Returns the number of tokens of a query, derived from its name so that every part of the model knows it.
pub(crate) fn tokens_of(query: &str) -> u64 {
    3 + query.bytes().map(u64::from).sum::<u64>() % 6
}

/// Returns the word that a server writes at a position.
pub(crate) fn word(owner: &str, query: &str, seq: u64) -> String {
    format!("{owner}/{query}/{seq}")
}

pub(crate) fn is_terminator(prefix: Prefix) -> bool {
    matches!(prefix.kind, Kind::Done | Kind::Error)
}
