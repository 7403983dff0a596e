//! Sockets between gateways and clients. Bytes arrive in order until the socket is cut, which each end notices
//! separately.

use crate::{
    plan::ClientKind,
    proxy::SlotId,
    world::{Pid, World, session},
};
use protocol::{Position, Prefix};

pub(crate) type SocketId = usize;

/// A socket between a gateway and a client.
pub(crate) struct Socket {
    pub(crate) client: usize,
    pub(crate) proxy: Pid,
    pub(crate) slot: Option<SlotId>,
    pub(crate) cut: bool,
    down: u64,
    up: u64,
}

/// What a gateway sends to a client.
#[derive(Clone, Debug)]
pub(crate) enum Down {
    Open,
    Refused,
    Event {
        prefix: Prefix,
        frame: Box<[u8]>,
    },
    Gap {
        from: Position,
        to: Position,
    },
    Resumed,
    Close {
        taken_over: bool,
    },
    /// The reply to the client's close.
    Closed,
}

impl World {
    /// Sends something to the client.
    pub(crate) fn down(&mut self, id: SocketId, what: Down) {
        let lag = self.lag();
        let socket = &mut self.sockets[id];
        let at = socket.down.max(self.now + lag);
        socket.down = at;
        self.after(at - self.now, move |world| {
            if !world.sockets[id].cut {
                world.client_receives(id, what);
            }
        });
    }

    pub(crate) fn open_socket(&mut self, client: usize, pid: Pid, start: Option<Position>) -> SocketId {
        self.sockets.push(Socket { client, proxy: pid, slot: None, cut: false, down: 0, up: 0 });
        let id = self.sockets.len() - 1;
        let (lag, session) = (self.lag(), session(client));
        self.sockets[id].up = self.now + lag;
        self.within(pid, lag, move |world| {
            if !world.sockets[id].cut {
                world.attach(pid, session, id, start);
            }
        });
        id
    }

    /// The client closes the socket after it has received everything.
    pub(crate) fn close_socket(&mut self, id: SocketId) {
        let lag = self.lag();
        let Socket { proxy, slot, up, .. } = self.sockets[id];
        let at = up.max(self.now + lag);
        self.sockets[id].up = at;
        self.within(proxy, at - self.now, move |world| {
            if world.sockets[id].cut {
                return;
            }
            if let Some(slot) = slot {
                let cursor = world.slots[slot].handed_over;
                world.release(slot, Some(cursor));
            }
            world.down(id, Down::Closed);
        });
    }

    /// Cuts a socket. Each end notices later, and what was on its way is lost.
    pub(crate) fn cut_socket(&mut self, id: SocketId) {
        if std::mem::replace(&mut self.sockets[id].cut, true) {
            return;
        }
        let (client, proxy) = (self.sockets[id].client, self.sockets[id].proxy);
        let (early, late) = (self.random.between(1, 60), self.random.between(1, 400));
        // A client of the old contract does not come back before its gateway has noticed. It names no position, so the
        // gateway, which believes that the dead socket received everything, would continue after the lost events.
        let resumes = self.plan.clients[client] != ClientKind::OldContract;
        let (here, there) = if resumes { (early, late) } else { (early + 400, early) };
        self.after(here, move |world| world.client_lost(id));
        self.within(proxy, there, move |world| {
            if let Some(slot) = world.sockets[id].slot {
                world.slots[slot].ended = true;
                world.release(slot, None);
            }
        });
    }
}
