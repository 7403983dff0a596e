//! How each fault is done to the world, and how it heals.

use crate::{
    broker::YOUNG,
    plan::{Fault, Memory},
    server::Server,
    world::{Outside, Pid, World, note},
};
use bus::rules::{Record, Status};
use protocol::{Position, SessionId};
use std::collections::{BTreeMap, BTreeSet};

type Records = BTreeMap<SessionId, Record>;

/// Everything happens this much later than the plan says: the world starts its clock above zero.
const START: u64 = 1000;

impl World {
    pub(crate) fn schedule_fault(&mut self, at: u64, fault: Fault) {
        if let Fault::RestartRedis { memory: Memory::RolledBack(by), .. } = fault {
            self.after((at + START).saturating_sub(by + self.now), |world| {
                world.broker.snapshots.insert(world.now, world.broker.memory.clone());
            });
        }
        self.after(at, move |world| {
            note!(world, "FAULT: {fault}");
            world.break_something(fault);
        });
    }

    fn break_something(&mut self, fault: Fault) {
        match fault {
            Fault::CutSocket(client) => {
                if let Some(socket) = self.clients[client].current_socket() {
                    self.cut_socket(socket);
                }
            }
            Fault::TakeOver(client) => self.take_over(client),
            Fault::CutPubsub(slot) => self.cut_proxy(slot, true),
            Fault::CutCommands(slot) => self.cut_proxy(slot, false),
            Fault::DelayCommands { slot, by } => self.delay_proxy(slot, by),
            Fault::DelayServer { slot, by } => self.delay_server(slot, by),
            Fault::CutServer(slot) => {
                self.cut_server(slot);
            }
            Fault::KillProxy { slot, down } => {
                let pid = self.proxy_slots[slot];
                if self.is_alive(pid) {
                    self.lose_proxy(pid);
                    self.after(down, move |world| world.start_proxy(slot));
                }
            }
            Fault::PauseServer { slot, down } => {
                let pid = self.server_slots[slot];
                if self.is_alive(pid) && !self.processes[pid].paused {
                    self.pause(pid);
                    self.after(down, move |world| world.wake(pid));
                }
            }
            Fault::KillServer { slot, down } => {
                let pid = self.server_slots[slot];
                if self.is_alive(pid) {
                    self.kill(pid);
                    self.after(down, move |world| world.start_server(slot));
                }
            }
            Fault::DrainServer { slot, down } => self.drain_server(slot, down),
            Fault::AddServer => self.start_server(self.server_slots.len()),
            Fault::LoseAnswer(slot) => self.answers_to_lose[slot] += 1,
            Fault::PauseRedis { down } => {
                if !self.broker.down && !self.broker.paused {
                    self.broker.paused = true;
                    self.after(down, World::resume_broker);
                }
            }
            Fault::RefuseWrites { down } => {
                self.broker.refuses_until = self.broker.refuses_until.max(self.now + down);
            }
            Fault::RestartRedis { memory, down } => {
                if !self.broker.down {
                    self.restart_broker(memory, down);
                }
            }
        }
        self.find_lost_bearers();
    }

    /// Finds out whether a server is dead that alone knew what the broker lost.
    pub(crate) fn find_lost_bearers(&mut self) {
        if self.outside.is_none()
            && self.bearers.iter().any(|&pid| {
                !self.is_alive(pid) && (!self.has_restored(pid) || !self.servers[&pid].to_close.is_empty())
            })
        {
            self.outside = Some(Outside::KeeperKilled);
        }
    }

    /// Who alone knows what the broker has just lost: whoever claimed a generation of which something is gone, and whoever
    /// created or closed a session that is unknown or open again.
    pub(crate) fn find_bearers(&mut self, before: &Records) {
        // What an earlier death took may not be back yet.
        let life = self.broker.incarnation - 1;
        let mut bearers = std::mem::take(&mut self.bearers);
        bearers.retain(|pid| self.servers[pid].restored != Some(life) || self.servers[pid].in_flight);
        for (&session, record) in before {
            let after = self.broker.memory.records.get(&session).cloned().unwrap_or_default();
            let left: BTreeSet<Position> = after.log.iter().map(|entry| entry.prefix.position).collect();
            let lost = record.log.iter().map(|entry| entry.prefix.position).filter(|at| !left.contains(at));
            let lost: Vec<Position> = lost.collect();
            if self.loses_end_of_lost_query(session, record, &left) {
                self.outside = Some(Outside::BurialLost);
            }
            if self.is_idle_and_lost(session, record, &after) {
                self.outside.get_or_insert(Outside::IdleForgotten);
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
                bearers.extend(owner);
                let knows = |pid| {
                    self.servers[&pid].history.get(session).is_some_and(|kept| kept.generation >= generation)
                };
                let told = self
                    .clients
                    .iter()
                    .any(|client| client.promised.values().any(|&told| told == generation));
                if told && !owner.is_some_and(knows) {
                    self.outside = Some(Outside::ClaimUnheard);
                }
            }
            if record.status != after.status {
                let closed = record.status == Some(Status::Closed);
                let knows =
                    |server: &Server| server.history.get(session).is_some_and(|kept| !closed || kept.closed);
                let mut knowing =
                    self.servers.iter().filter(|(_, server)| knows(server)).map(|(&pid, _)| pid);
                match (knowing.next(), knowing.next()) {
                    (Some(alone), None) => {
                        bearers.insert(alone);
                    }
                    (Some(one), Some(_)) if !self.is_alive(one) => {
                        bearers.insert(one);
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
        if bearers.iter().filter(|&&pid| self.is_alive(pid)).any(unknown) {
            self.outside.get_or_insert(Outside::PeerUnknown);
        }
        self.bearers = bearers;
    }

    /// A peer had ended a query of the session whose server lives. Its end is gone, or nobody tells the server of it.
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

    /// Every server may have let go of the session, and no gateway keeps it.
    fn is_idle_and_lost(&self, session: SessionId, before: &Record, after: &Record) -> bool {
        let touched = self.broker.touched.get(&session).copied().unwrap_or(self.now);
        let idle = self.plan.ttl.is_some_and(|ttl| self.now + YOUNG > touched + ttl);
        idle && !self.is_held(session)
            && before.running.is_none()
            && before.status.is_some()
            && after.status.is_none()
    }

    /// It has said everything again: what had been acknowledged, and what had not.
    pub(crate) fn has_restored(&self, pid: Pid) -> bool {
        let server = &self.servers[&pid];
        server.restored == Some(self.broker.incarnation) && !server.in_flight
    }

    /// The broker has been back for as long as anything is waited for.
    pub(crate) fn grows_old(&mut self) {
        if self.broker.down || self.now + 1 < self.broker.up_since + YOUNG {
            return;
        }
        let late = self.bearers.iter().any(|&pid| !self.has_restored(pid));
        if late && self.outside.is_none() {
            self.outside = Some(Outside::KeeperLate);
        }
    }
}
