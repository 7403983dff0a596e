//! How each fault is done to the world, and how it heals.

use crate::{
    plan::{Fault, Memory},
    world::{Outside, World, note},
};

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
            Fault::CutServer(slot) => self.cut_server(slot),
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
            Fault::LoseAnswer(slot) => self.answers_to_lose[slot] += 1,
            Fault::PauseRedis { down } => {
                if !self.broker.down && !self.broker.paused {
                    self.broker.paused = true;
                    self.after(down, World::resume_broker);
                }
            }
            Fault::RestartRedis { memory, down } => {
                if !self.broker.down {
                    self.restart_broker(memory, down);
                }
            }
        }
        self.outside = self.is_outside();
    }

    /// Whether what happens now is more than the design promises to survive.
    fn is_outside(&self) -> Option<Outside> {
        None
    }
}
