//! How each fault is injected, and how it heals.

use crate::{
    broker::YOUNG,
    plan::{Fault, Memory},
    server::Server,
    world::{Excluded, Pid, World, note},
};
use bus::rules::{Record, Status};
use protocol::{Position, SessionId};
use std::collections::{BTreeMap, BTreeSet};

type Records = BTreeMap<SessionId, Record>;

/// Start of the simulated clock, in ms. Faults of the plan happen this much later.
const START: u64 = 1000;

impl World {
    pub(crate) fn schedule_fault(&mut self, at: u64, fault: Fault) {
        if let Fault::RestartRedis(Memory::RolledBack(by), _) = fault {
            self.after((at + START).saturating_sub(by + self.now), |world| {
                world.broker.snapshots.insert(world.now, world.broker.memory.clone());
            });
        }
        self.after(at, move |world| {
            note!(world, "FAULT: {fault}");
            world.inject(fault);
        });
    }

    fn inject(&mut self, fault: Fault) {
        match fault {
            Fault::CutSocket(client) => {
                if let Some(socket) = self.clients[client].current_socket() {
                    self.cut_socket(socket);
                }
            }
            Fault::TakeOver(client) => self.take_over(client),
            Fault::CutPubsub(slot) => self.cut_proxy(slot, true),
            Fault::CutCommands(slot) => self.cut_proxy(slot, false),
            Fault::DelayCommands(slot, by) => self.delay_proxy(slot, by),
            Fault::DelayServer(slot, by) => self.delay_server(slot, by),
            Fault::CutServer(slot) => self.cut_server(slot),
            Fault::KillProxy(slot, down) => {
                let pid = self.proxy_slots[slot];
                if self.is_alive(pid) {
                    self.lose_proxy(pid);
                    self.after(down, move |world| world.start_proxy(slot));
                }
            }
            Fault::PauseServer(slot, down) => {
                let pid = self.server_slots[slot];
                if self.is_alive(pid) && !self.processes[pid].paused {
                    self.pause(pid);
                    self.after(down, move |world| world.wake(pid));
                }
            }
            Fault::KillServer(slot, down) => {
                let pid = self.server_slots[slot];
                if self.is_alive(pid) {
                    self.kill(pid);
                    self.after(down, move |world| world.start_server(slot));
                }
            }
            Fault::DrainServer(slot, down) => self.drain_server(slot, down),
            Fault::AddServer => self.start_server(self.server_slots.len()),
            Fault::LoseAnswer(slot) => self.answers_to_lose[slot] += 1,
            Fault::PauseRedis(down) => {
                if !self.broker.down && !self.broker.paused {
                    self.broker.paused = true;
                    self.after(down, World::resume_broker);
                }
            }
            Fault::RefuseWrites(down) => {
                self.broker.refuses_until = self.broker.refuses_until.max(self.now + down);
            }
            Fault::RestartRedis(memory, down) => {
                if !self.broker.down {
                    self.restart_broker(memory, down);
                }
            }
        }
        self.find_lost_sources();
    }

    /// Excludes the history if a server is dead that was the only one to know what the broker lost.
    pub(crate) fn find_lost_sources(&mut self) {
        if self.excluded.is_none()
            && self.sole_sources.iter().any(|&pid| {
                !self.is_alive(pid) && (!self.has_restored(pid) || !self.servers[&pid].to_close.is_empty())
            })
        {
            self.excluded = Some(Excluded::ServerDiedBeforeRestoring);
        }
    }

    /// Finds the servers that are the only ones to know what the broker has just lost: those that claimed a generation
    /// of which something is lost, and those that created or closed a session that is now unknown or active.
    pub(crate) fn find_sole_sources(&mut self, before: &Records) {
        // What an earlier restart lost may not be restored yet.
        let life = self.broker.incarnation - 1;
        let mut sole_sources = std::mem::take(&mut self.sole_sources);
        sole_sources.retain(|pid| self.servers[pid].restored != Some(life) || self.servers[pid].in_flight);
        for (&session, record) in before {
            let after = self.broker.memory.records.get(&session).cloned().unwrap_or_default();
            let left: BTreeSet<Position> = after.log.iter().map(|entry| entry.prefix.position).collect();
            let lost = record.log.iter().map(|entry| entry.prefix.position).filter(|at| !left.contains(at));
            let lost: Vec<Position> = lost.collect();
            if self.loses_end_of_lost_query(session, record, &left) {
                self.excluded = Some(Excluded::EndOfLostQueryLost);
            }
            if self.is_idle_and_lost(session, record, &after) {
                self.excluded.get_or_insert(Excluded::IdleSessionLost);
                continue;
            }
            let lost = lost.into_iter();
            let mut generations: BTreeSet<u64> = lost.map(|at| at.generation).collect();
            if (record.generation, &record.running) != (after.generation, &after.running) {
                generations.insert(record.generation);
            }
            for generation in generations {
                let owner = self.broker.claims.get(&(session, generation)).map(|(_, owner)| owner.as_str());
                let owner = self.processes.iter().position(|process| Some(process.name.as_str()) == owner);
                sole_sources.extend(owner);
                let knows = |pid| {
                    self.servers[&pid]
                        .history
                        .get(session)
                        .is_some_and(|acknowledged| acknowledged.generation >= generation)
                };
                let reported = self
                    .clients
                    .iter()
                    .any(|client| client.promised.values().any(|&reported| reported == generation));
                if reported && !owner.is_some_and(knows) {
                    self.excluded = Some(Excluded::UnansweredClaimLost);
                }
            }
            if record.status != after.status {
                let closed = record.status == Some(Status::Closed);
                let knows = |server: &Server| {
                    server.history.get(session).is_some_and(|acknowledged| !closed || acknowledged.closed)
                };
                let mut knowing =
                    self.servers.iter().filter(|(_, server)| knows(server)).map(|(&pid, _)| pid);
                match (knowing.next(), knowing.next()) {
                    (Some(alone), None) => {
                        sole_sources.insert(alone);
                    }
                    (Some(one), Some(_)) if !self.is_alive(one) => {
                        sole_sources.insert(one);
                    }
                    _ => {}
                }
            }
        }
        let unknown = |&pid: &Pid| {
            let knows = |(&peer, server): (&Pid, &Server)| {
                peer == pid
                    || !self.is_alive(peer)
                    || server.beat == 0
                    || server.barrier.knows(self.name(pid))
            };
            !self.servers.iter().all(knows)
        };
        if sole_sources.iter().filter(|&&pid| self.is_alive(pid)).any(unknown) {
            self.excluded.get_or_insert(Excluded::NewServerUnknown);
        }
        self.sole_sources = sole_sources;
    }

    /// Returns whether the broker has lost the end that a peer gave to a query of a living server, or whether that
    /// server still plays the query.
    fn loses_end_of_lost_query(
        &self,
        session: SessionId,
        before: &Record,
        left: &BTreeSet<Position>,
    ) -> bool {
        let fences = self.broker.fences_of_lost_queries.iter().filter(|((of, _), _)| *of == session);
        fences.filter(|(_, fence)| !left.contains(fence)).any(|(&(_, generation), fence)| {
            let (_, owner) = &self.broker.claims[&(session, generation)];
            let owner = self.processes.iter().position(|process| process.name == *owner);
            let lost = before.log.iter().any(|entry| entry.prefix.position == *fence);
            owner.is_some_and(|pid| self.is_alive(pid) && (lost || self.plays(pid, session, generation)))
        })
    }

    /// Returns whether all servers may have dropped the session from their histories, and no gateway holds it.
    fn is_idle_and_lost(&self, session: SessionId, before: &Record, after: &Record) -> bool {
        let touched = self.broker.touched.get(&session).copied().unwrap_or(self.now);
        let idle = self.plan.ttl.is_some_and(|ttl| self.now + YOUNG > touched + ttl);
        idle && !self.is_held(session)
            && before.running.is_none()
            && before.status.is_some()
            && after.status.is_none()
    }

    /// Returns whether the server has restored its history and has no append in flight.
    pub(crate) fn has_restored(&self, pid: Pid) -> bool {
        let server = &self.servers[&pid];
        server.restored == Some(self.broker.incarnation) && !server.in_flight
    }

    /// Excludes the history if a server has not restored by the time when the mark becomes old.
    pub(crate) fn grows_old(&mut self) {
        if self.broker.down || self.now + 1 < self.broker.up_since + YOUNG {
            return;
        }
        let late = self.sole_sources.iter().any(|&pid| !self.has_restored(pid));
        if late && self.excluded.is_none() {
            self.excluded = Some(Excluded::ServerRestoresLate);
        }
    }
}
