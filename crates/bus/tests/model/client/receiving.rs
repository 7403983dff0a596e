//! What a client receives, and how it checks each event.

use super::Phase;
use crate::{
    broker::word,
    plan::ClientKind,
    socket::{Down, SocketId},
    world::{World, forbidden, note, session, violated},
};
use protocol::{Event, Frame, Kind, Position, Prefix};

impl World {
    /// Handles what arrives on a socket.
    pub(crate) fn client_receives(&mut self, socket: SocketId, what: Down) {
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
                note!(self, "client-{n}: receives a gap after {from} up to {to}");
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
                self.clients[n].close_reported = true;
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
            // Until the session's close is reported, the client comes back for what it gave up or has not read.
            Phase::Done
                if client.is_expired || client.close_reported || client.kind == ClientKind::OldContract => {}
            Phase::Leaving => self.next(n),
            Phase::Creating => {}
            Phase::Asking if client.kind == ClientKind::OldContract => {}
            _ => {
                let away = if self.plan.clients[n] == ClientKind::Impatient { 3_000 } else { 300 };
                let delay = self.random.between(1, away);
                self.after(delay, move |world| {
                    if world.clients[n].socket.is_none() {
                        world.open(n);
                    }
                });
            }
        }
    }

    fn receive(&mut self, n: usize, prefix: Prefix, frame: &[u8]) {
        let at = prefix.position;
        note!(self, "client-{n}: receives {:?} {at}", prefix.kind);
        self.check_content(n, prefix, frame);
        let client = &mut self.clients[n];
        *client.received.entry(at).or_default() += 1;
        if client.kind != ClientKind::OldContract {
            let last = client.last;
            let begins = at.seq == 1 && at.generation > last.generation;
            let between = last == Position::ZERO || client.ended.contains_key(&last.generation);
            let covered = client.gaps.last().is_some_and(|&(_, to)| to >= last);
            if at <= last {
                forbidden!(self, "client-{n}: received {at} after {last}");
            } else if at != last.next() && !covered && at.seq != 1 {
                forbidden!(self, "client-{n}: received {at} after {last}, and no gap was announced");
            } else if at != last.next() && !covered && !(begins && between) {
                violated!(self, "client-{n}: received {at} after {last}, which is not a terminator");
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
            return violated!(self, "client-{n}: {text} is not an event");
        };
        let id = (session(n), prefix.position.generation);
        let Some((query, owner)) = self.broker.claims.get(&id) else {
            return violated!(
                self,
                "client-{n}: {} is of a generation that was not claimed",
                prefix.position
            );
        };
        let right = query_id.as_deref() == Some(query)
            && (prefix.kind != Kind::Token || content == word(owner, query, prefix.position.seq));
        if !right {
            violated!(self, "client-{n}: {text} is not what {owner} wrote for {query}");
        }
    }

    /// Continues once the end of the query was received.
    pub(super) fn read_on(&mut self, n: usize) {
        let client = &mut self.clients[n];
        let Phase::Reading(generation) = client.phase else { return };
        let announced = client.gaps.iter().any(|&(_, to)| to.generation > generation);
        if !client.ended.contains_key(&generation) && !announced {
            return;
        }
        match (client.kind, client.socket) {
            (ClientKind::OldContract, Some(socket)) => {
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
