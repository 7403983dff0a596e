//! What servers do for each other and for a broker that forgot: heartbeats, the queries of peers that are gone, and giving
//! back what they keep.

use crate::{
    broker::{Answer, Request},
    world::{LinkId, Pid, World, note},
};
use bus::rules::{Standing, heartbeat};
use protocol::SessionId;
use std::{cell::RefCell, rc::Rc};

const BEAT: u64 = 1_000;
/// An answer that took longer proves nothing.
const LATE: u64 = 1_500;
/// What is listed for a server is compared with what it plays at every so many heartbeats.
const RECONCILE_EVERY: u64 = 3;

impl World {
    /// A connection stands again. To a broker of another life, everything is given back before anything else.
    pub(crate) fn server_connected(&mut self, pid: Pid, link: LinkId) {
        if link == self.servers[&pid].appends {
            return self.pump(pid);
        }
        let incarnation = self.broker.incarnation;
        let name = self.name(pid).to_owned();
        self.call(link, Request::Subscribe { sessions: Vec::new(), control: Some(name.clone()) }, |_, _| {});
        if self.servers[&pid].restored == Some(incarnation) {
            return self.pump(pid);
        }
        let mut kept: Vec<_> =
            self.servers[&pid].history.sessions().map(|(id, kept)| (id, kept.clone())).collect();
        kept.sort_by_key(|&(id, _)| id);
        if kept.is_empty() {
            return self.gave_back(pid, incarnation);
        }
        let left = Rc::new(RefCell::new(kept.len()));
        // Whoever keeps much takes long: its sessions come back one after the other.
        let took = self.plan.restores_for[self.servers[&pid].slot.min(1)];
        let each = took / kept.len() as u64;
        for (n, (session, kept)) in (1..).zip(kept) {
            let (left, owner) = (left.clone(), name.clone());
            self.within(pid, n * each, move |world| {
                let request = Request::Restore { session, kept: Box::new(kept), owner };
                world.call(link, request, move |world, answer| {
                    // Without an answer the next connection begins again.
                    if answer.is_some() && world.links[link].incarnation == incarnation {
                        *left.borrow_mut() -= 1;
                        if *left.borrow() == 0 {
                            world.gave_back(pid, incarnation);
                        }
                    }
                });
            });
        }
    }

    fn gave_back(&mut self, pid: Pid, incarnation: u64) {
        note!(self, "{}: has restored everything", self.name(pid));
        self.server(pid).restored = Some(incarnation);
        self.look(pid);
        self.pump(pid);
        let closed = self.servers[&pid].history.sessions().filter(|(_, kept)| kept.closed);
        self.server(pid).to_close = closed.map(|(session, _)| session).collect();
        self.close_again(pid);
    }

    /// Once everybody has given back what they knew, what was closed here is closed behind all of it.
    pub(crate) fn close_again(&mut self, pid: Pid) {
        if self.standing(pid) < Standing::Whole {
            return self.within(pid, 100, move |world| world.close_again(pid));
        }
        for session in self.servers[&pid].to_close.clone() {
            self.mark(pid, session);
        }
    }

    fn mark(&mut self, pid: Pid, session: SessionId) {
        if self.standing(pid) < Standing::Whole {
            return self.within(pid, 100, move |world| world.mark(pid, session));
        }
        let link = self.servers[&pid].commands;
        self.call(link, Request::Close { session, whole: true, old: self.is_old() }, move |world, answer| {
            if answer.is_none() {
                world.within(pid, 100, move |world| world.mark(pid, session));
            } else {
                world.server(pid).to_close.remove(&session);
            }
        });
    }

    /// Between two polls, for as long as claims wait.
    pub(crate) fn look(&mut self, pid: Pid) {
        if self.servers[&pid].leaves {
            return;
        }
        let link = self.servers[&pid].commands;
        let (name, beat) = (self.name(pid).to_owned(), self.heartbeat(pid));
        self.call(link, Request::Beat { name, beat }, move |world, answer| {
            if let Some(Answer::Beats(beats)) = answer {
                world.peers(pid, link, &beats, false);
            }
        });
    }

    fn heartbeat(&mut self, pid: Pid) -> String {
        let old = self.is_old();
        let server = self.server(pid);
        let restored = server.restored.map(|restored| restored.to_string());
        let lists_all = restored.as_ref().is_some_and(|mark| server.barrier.lists_all(mark, old));
        server.said = restored.is_none() || lists_all;
        server.written += 1;
        heartbeat(server.written, restored.as_deref().filter(|_| lists_all))
    }

    fn looks(&self, pid: Pid) -> bool {
        !self.servers[&pid].leaves && (!self.servers[&pid].said || self.standing(pid) == Standing::Waiting)
    }

    pub(crate) fn poll(&mut self, pid: Pid) {
        let now = self.now;
        let server = self.server(pid);
        if server.leaves {
            return;
        }
        let stood_still = now > std::mem::replace(&mut server.polled_at, now) + BEAT + LATE;
        if server.poll_open.is_some() || stood_still {
            server.barrier.unanswered();
        }
        self.send_beat(pid);
        self.within(pid, BEAT, move |world| world.poll(pid));
    }

    fn send_beat(&mut self, pid: Pid) {
        let name = self.name(pid).to_owned();
        let (sent, number) = (self.now, self.number());
        let server = self.server(pid);
        server.beat += 1;
        let link = server.commands;
        server.poll_open = Some(number);
        let beat = self.heartbeat(pid);
        let own = beat.clone();
        self.call(link, Request::Beat { name, beat }, move |world, answer| {
            let late = world.now > sent + LATE;
            let server = world.server(pid);
            if server.poll_open == Some(number) {
                server.poll_open = None;
            }
            match answer {
                Some(Answer::Beats(beats)) if !late => {
                    let number = server.beat;
                    world.peers(pid, link, &beats, true);
                    if number.is_multiple_of(RECONCILE_EVERY) && world.is_restored(pid) {
                        world.reconcile(pid, link, own);
                    }
                }
                _ => server.barrier.unanswered(),
            }
        });
    }

    /// Ends the queries that the broker lists for this server and that it does not play.
    fn reconcile(&mut self, pid: Pid, link: LinkId, beat: String) {
        let owner = self.name(pid).to_owned();
        self.call(link, Request::Running { owner: owner.clone() }, move |world, answer| {
            let Some(Answer::Running(running)) = answer else { return };
            let whole = world.standing(pid) == Standing::Whole;
            for (session, generation) in world.servers[&pid].plays.reconcile(running) {
                let (owner, by, beat) = (owner.clone(), owner.clone(), beat.clone());
                world.end_query(
                    pid,
                    link,
                    Request::EndLostQuery { session, owner, beat, generation, by, whole },
                );
            }
        });
    }

    fn end_query(&mut self, pid: Pid, link: LinkId, request: Request) {
        let Request::EndLostQuery { session, .. } = request else { return };
        self.call(link, request, move |world, answer| {
            if let Some(Answer::LostQueryEnded { unmarked: true }) = answer {
                world.lacks_end(pid, session);
            }
        });
    }

    fn peers(&mut self, pid: Pid, link: LinkId, beats: &[(String, String)], polled: bool) {
        let mark = self.links[link].incarnation.to_string();
        let peers = beats.iter().map(|(name, beat)| (name.as_str(), beat.as_str()));
        let barrier = &mut self.server(pid).barrier;
        if polled {
            barrier.answered(&mark, peers);
        } else {
            barrier.looked(&mark, peers);
        }
        let names = barrier.unlisted();
        if !names.is_empty() {
            self.call(link, Request::List { names }, |_, _| {});
        }
        if self.looks(pid) {
            self.within(pid, 100, move |world| {
                if world.looks(pid) {
                    world.look(pid);
                }
            });
        }
        if !self.is_restored(pid) {
            return;
        }
        for (owner, beat) in self.servers[&pid].barrier.gone(self.is_old()) {
            let by = self.name(pid).to_owned();
            self.call(link, Request::Running { owner: owner.clone() }, move |world, answer| {
                let Some(Answer::Running(running)) = answer else { return };
                if running.is_empty() {
                    return world.call(link, Request::Forget { owner, beat }, |_, _| {});
                }
                let whole = world.standing(pid) == Standing::Whole;
                for (session, generation) in running {
                    let (owner, beat, by) = (owner.clone(), beat.clone(), by.clone());
                    let request = Request::EndLostQuery { session, owner, beat, generation, by, whole };
                    world.end_query(pid, link, request);
                }
            });
        }
    }
}
