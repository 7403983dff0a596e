//! What servers do for each other and for a broker that forgot: heartbeats, the queries of peers that are gone, and giving
//! back what they keep.

use crate::{
    broker::{Answer, Request},
    server::{MAYBE_KNOWN, SETTLE},
    world::{LinkId, Pid, World, note},
};
use protocol::SessionId;
use std::{cell::RefCell, rc::Rc};

const BEAT: u64 = 1_000;
/// An answer that took longer proves nothing.
const LATE: u64 = 1_500;

impl World {
    /// A connection stands again. To a broker of another life, everything is given back before anything else.
    pub(crate) fn server_connected(&mut self, pid: Pid, link: LinkId) {
        if link == self.servers[&pid].appends {
            return self.pump(pid);
        }
        let (incarnation, up_since, now) = (self.broker.incarnation, self.broker.up_since, self.now);
        let name = self.name(pid).to_owned();
        let server = self.server(pid);
        let restored = server.restored;
        self.call(link, Request::Subscribe { sessions: Vec::new(), control: Some(name.clone()) }, |_, _| {});
        if restored == Some(incarnation) {
            return self.pump(pid);
        }
        // Whoever starts beside a broker that is younger than the wait may have missed that it forgot.
        if restored.is_some() || (incarnation > 0 && now < up_since + MAYBE_KNOWN) {
            self.server(pid).noticed_at = Some(now);
        }
        // No poll: what it answers was not waited for.
        let server = self.server(pid);
        server.beat += 1;
        let beat = server.beat;
        self.call(link, Request::Beat { name: name.clone(), beat }, |_, _| {});
        let kept: Vec<_> =
            self.servers[&pid].keeper.sessions().map(|(id, kept)| (id, kept.clone())).collect();
        let mut kept = kept;
        kept.sort_by_key(|&(id, _)| id);
        let left = Rc::new(RefCell::new(kept.len()));
        if kept.is_empty() {
            self.server(pid).restored = Some(incarnation);
        }
        for (session, kept) in kept {
            let left = left.clone();
            let request = Request::Restore { session, kept: Box::new(kept), owner: name.clone() };
            self.call(link, request, move |world, answer| {
                // Without an answer the next connection begins again.
                if answer.is_some() {
                    *left.borrow_mut() -= 1;
                    if *left.borrow() == 0 {
                        note!(world, "{}: has restored everything", world.name(pid));
                        world.server(pid).restored = Some(incarnation);
                        world.pump(pid);
                        let closed =
                            world.servers[&pid].keeper.sessions().filter(|(_, kept)| kept.closed).count();
                        world.server(pid).to_close = closed;
                        world.within(pid, SETTLE, move |world| world.close_again(pid));
                    }
                }
            });
        }
    }

    /// Everybody has given back what they knew: what was closed here is closed behind all of it.
    fn close_again(&mut self, pid: Pid) {
        let mut closed: Vec<_> =
            self.servers[&pid].keeper.sessions().filter(|(_, kept)| kept.closed).map(|(id, _)| id).collect();
        closed.sort();
        for session in closed {
            self.mark(pid, session);
        }
    }

    fn mark(&mut self, pid: Pid, session: SessionId) {
        let link = self.servers[&pid].commands;
        self.call(link, Request::Close { session }, move |world, answer| {
            if answer.is_none() {
                world.within(pid, 100, move |world| world.mark(pid, session));
            } else {
                let server = world.server(pid);
                server.to_close = server.to_close.saturating_sub(1);
            }
        });
    }

    pub(crate) fn poll(&mut self, pid: Pid) {
        let now = self.now;
        let server = self.server(pid);
        let stood_still = now > std::mem::replace(&mut server.polled_at, now) + BEAT + LATE;
        if server.poll_open.is_some() || stood_still {
            server.vigil.unanswered();
        }
        self.send_beat(pid);
        self.within(pid, BEAT, move |world| world.poll(pid));
    }

    fn send_beat(&mut self, pid: Pid) {
        let name = self.name(pid).to_owned();
        let (sent, number) = (self.now, self.number());
        let server = self.server(pid);
        server.beat += 1;
        let (beat, link) = (server.beat, server.commands);
        server.poll_open = Some(number);
        self.call(link, Request::Beat { name, beat }, move |world, answer| {
            let late = world.now > sent + LATE;
            let server = world.server(pid);
            if server.poll_open == Some(number) {
                server.poll_open = None;
            }
            match answer {
                Some(Answer::Beats(beats)) if !late => world.peers(pid, &beats),
                _ => server.vigil.unanswered(),
            }
        });
    }

    fn peers(&mut self, pid: Pid, beats: &[(String, u64)]) {
        let texts: Vec<_> = beats.iter().map(|(name, beat)| (name.as_str(), beat.to_string())).collect();
        let gone = self.server(pid).vigil.answered(texts.iter().map(|(name, beat)| (*name, beat.as_str())));
        if !self.may_claim(pid) {
            return;
        }
        for owner in gone {
            let beat = beats.iter().find(|(name, _)| *name == owner).map_or(0, |&(_, beat)| beat);
            let (link, by) = (self.servers[&pid].commands, self.name(pid).to_owned());
            self.call(link, Request::Running { owner: owner.clone() }, move |world, answer| {
                let Some(Answer::Running(running)) = answer else { return };
                if running.is_empty() {
                    return world.call(link, Request::Forget { owner }, |_, _| {});
                }
                for (session, generation) in running {
                    let owner = owner.clone();
                    let request = Request::Bury { session, owner, beat, generation, by: by.clone() };
                    world.call(link, request, |_, _| {});
                }
            });
        }
    }
}
