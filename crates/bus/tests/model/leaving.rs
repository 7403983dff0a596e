//! A server that drains: it takes no more calls, finishes its queries, leaves the list of servers and exits. Its
//! successor starts later.

use crate::world::{Pid, World, note, violated};

/// Pause in ms before the server checks again whether its work is done.
const RETRY: u64 = 20;

impl World {
    pub(crate) fn drain_server(&mut self, slot: usize, down: u64) {
        let pid = self.server_slots[slot];
        if !self.is_alive(pid) || std::mem::replace(&mut self.server(pid).draining, true) {
            return;
        }
        note!(self, "{} drains", self.name(pid));
        self.leave_when_done(pid, down);
    }

    /// Leaves once no call and no query is left, and waits until then.
    fn leave_when_done(&mut self, pid: Pid, down: u64) {
        let restored = self.is_restored(pid);
        let server = &self.servers[&pid];
        let busy = server.open_calls > 0
            || server.in_flight
            || !server.outbox.is_empty()
            || !server.plays.sessions().is_empty();
        if busy {
            return self.within(pid, RETRY, move |world| world.leave_when_done(pid, down));
        }
        if !restored || !server.to_close.is_empty() {
            return self.exit(pid, down, false);
        }
        // No heartbeat may follow, because it would list the server again.
        self.server(pid).leaves = true;
        let (link, owner) = (self.servers[&pid].commands, self.name(pid).to_owned());
        let step = move |world: &mut World| world.remove_idle_server(&owner);
        self.call_write(link, step, move |world, left| world.exit(pid, down, left == Some(true)));
    }

    fn exit(&mut self, pid: Pid, down: u64, left: bool) {
        note!(self, "{} exits, left the list: {left}", self.name(pid));
        self.covered.insert(if left { "a server left the list" } else { "a drained server stays listed" });
        let server = &self.servers[&pid];
        let (slot, done) = (server.slot, server.to_close.is_empty() && server.streams.is_empty());
        if left && !done {
            violated!(self, "{} left the list with work to do", self.name(pid));
        }
        self.kill(pid);
        self.find_lost_sources();
        self.after(down, move |world| world.start_server(slot));
    }
}
