//! What servers do for each other and after a loss of data: heartbeats, the end of dead peers' queries, and the
//! restoration of their histories.

use crate::world::{LinkId, Pid, World, note};
use bus::rules::{Restoration, heartbeat};
use protocol::SessionId;
use std::{cell::RefCell, rc::Rc};

const BEAT: u64 = 1_000;
/// A poll whose reply took longer proves nothing, in ms.
const LATE: u64 = 1_500;
/// Number of heartbeats from one comparison of the listed queries with the played ones to the next.
const RECONCILE_EVERY: u64 = 3;

impl World {
    /// Handles a new connection. If the broker's incarnation is new, the history is restored before anything else.
    pub(crate) fn server_connected(&mut self, pid: Pid, link: LinkId) {
        if link == self.servers[&pid].appends {
            return self.pump(pid);
        }
        let incarnation = self.broker.incarnation;
        let name = self.name(pid).to_owned();
        let control = Some(name.clone());
        self.call(link, |world, from| world.subscribe(from, &[], control), |_, _| {});
        if self.servers[&pid].restored == Some(incarnation) {
            return self.pump(pid);
        }
        let mut acknowledged: Vec<_> = self.servers[&pid]
            .history
            .sessions()
            .map(|(id, acknowledged)| (id, acknowledged.clone()))
            .collect();
        acknowledged.sort_by_key(|&(id, _)| id);
        if acknowledged.is_empty() {
            return self.restored_all(pid, incarnation);
        }
        let left = Rc::new(RefCell::new(acknowledged.len()));
        // A large history takes long: its sessions are restored one after the other.
        let took = self.plan.restores_for[self.servers[&pid].slot.min(1)];
        let each = took / acknowledged.len() as u64;
        for (n, (session, acknowledged)) in (1..).zip(acknowledged) {
            let (left, owner) = (left.clone(), name.clone());
            self.within(pid, n * each, move |world| {
                let step = move |world: &mut World| world.broker_restore(session, &acknowledged, &owner);
                world.call_restoration(link, step, move |world, restored| {
                    // Without a reply, the next connection begins again.
                    if restored.is_some() && world.links[link].incarnation == incarnation {
                        *left.borrow_mut() -= 1;
                        if *left.borrow() == 0 {
                            world.restored_all(pid, incarnation);
                        }
                    }
                });
            });
        }
    }

    fn restored_all(&mut self, pid: Pid, incarnation: u64) {
        note!(self, "{}: has restored everything", self.name(pid));
        self.server(pid).restored = Some(incarnation);
        self.observe(pid);
        self.pump(pid);
        let closed = self.servers[&pid].history.sessions().filter(|(_, acknowledged)| acknowledged.closed);
        self.server(pid).to_close = closed.map(|(session, _)| session).collect();
        self.close_again(pid);
    }

    /// Closes again what was closed here, once all servers have restored, so that the end is behind all events.
    pub(crate) fn close_again(&mut self, pid: Pid) {
        if self.restoration(pid) < Restoration::Complete {
            return self.within(pid, 100, move |world| world.close_again(pid));
        }
        for session in self.servers[&pid].to_close.clone() {
            self.write_end(pid, session);
        }
    }

    fn write_end(&mut self, pid: Pid, session: SessionId) {
        if self.restoration(pid) < Restoration::Complete {
            return self.within(pid, 100, move |world| world.write_end(pid, session));
        }
        let link = self.servers[&pid].commands;
        let (owner, old) = (self.name(pid).to_owned(), self.is_old());
        let step = move |world: &mut World| world.broker_close(session, &owner, true, old);
        self.call_write(link, step, move |world, closed| {
            if closed.is_none() {
                world.within(pid, 100, move |world| world.write_end(pid, session));
            } else {
                world.server(pid).to_close.remove(&session);
            }
        });
    }

    /// Writes a heartbeat between two polls, while claims wait.
    pub(crate) fn observe(&mut self, pid: Pid) {
        if self.servers[&pid].leaves {
            return;
        }
        let link = self.servers[&pid].commands;
        let (name, beat) = (self.name(pid).to_owned(), self.heartbeat(pid));
        let step = move |world: &mut World| world.broker_heartbeat(&name, beat);
        self.call_write(link, step, move |world, beats| {
            if let Some(beats) = beats {
                world.peers(pid, link, &beats, false);
            }
        });
    }

    fn heartbeat(&mut self, pid: Pid) -> String {
        let old = self.is_old();
        let server = self.server(pid);
        let restored = server.restored.map(|restored| restored.to_string());
        let lists_all = restored.as_ref().is_some_and(|mark| server.barrier.lists_all(mark, old));
        server.reported = restored.is_none() || lists_all;
        server.written += 1;
        heartbeat(server.written, restored.as_deref().filter(|_| lists_all))
    }

    fn looks(&self, pid: Pid) -> bool {
        !self.servers[&pid].leaves
            && (!self.servers[&pid].reported || self.restoration(pid) == Restoration::Waiting)
    }

    pub(crate) fn poll(&mut self, pid: Pid) {
        let now = self.now;
        let server = self.server(pid);
        if server.leaves {
            return;
        }
        let stood_still = now > std::mem::replace(&mut server.polled_at, now) + BEAT + LATE;
        if server.poll_open.is_some() || stood_still {
            server.barrier.poll_missed();
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
        let step = move |world: &mut World| world.broker_heartbeat(&name, beat);
        self.call_write(link, step, move |world, beats| {
            let late = world.now > sent + LATE;
            let server = world.server(pid);
            if server.poll_open == Some(number) {
                server.poll_open = None;
            }
            match beats {
                Some(beats) if !late => {
                    let number = server.beat;
                    world.peers(pid, link, &beats, true);
                    if number.is_multiple_of(RECONCILE_EVERY) && world.is_restored(pid) {
                        world.reconcile(pid, link, own);
                    }
                }
                _ => server.barrier.poll_missed(),
            }
        });
    }

    /// Ends the queries that the broker lists for this server and that it does not play.
    fn reconcile(&mut self, pid: Pid, link: LinkId, beat: String) {
        let owner = self.name(pid).to_owned();
        let of = owner.clone();
        self.call(
            link,
            move |world, _| world.running_at(&of),
            move |world, running| {
                // Without a reply, what is suspected stays suspected.
                let Some(running) = running else { return };
                for query in world.servers[&pid].plays.reconcile(running) {
                    world.end_query(pid, link, query, (&owner, &beat));
                }
            },
        );
    }

    /// Ends a query of the server `owner`, unless it has written a heartbeat after `beat`.
    fn end_query(
        &mut self,
        pid: Pid,
        link: LinkId,
        (session, generation): (SessionId, u64),
        (owner, beat): (&str, &str),
    ) {
        let (owner, beat, by) = (owner.to_owned(), beat.to_owned(), self.name(pid).to_owned());
        let complete = self.restoration(pid) == Restoration::Complete;
        // In the same step, because the server may have continued since it was found silent.
        let step = move |world: &mut World| {
            world.has_last_beat(&owner, &beat)
                && world.end_lost_query(session, &owner, generation, &by, complete)
        };
        self.call_write(link, step, move |world, lacks_end| {
            if lacks_end == Some(true) {
                world.lacks_end(pid, session);
            }
        });
    }

    fn peers(&mut self, pid: Pid, link: LinkId, beats: &[(String, String)], polled: bool) {
        let mark = self.links[link].incarnation.to_string();
        let peers = beats.iter().map(|(name, beat)| (name.as_str(), beat.as_str()));
        let barrier = &mut self.server(pid).barrier;
        if polled {
            barrier.poll_answered(&mark, peers);
        } else {
            barrier.observed(&mark, peers);
        }
        let names = barrier.unlisted();
        if !names.is_empty() {
            self.call_write(link, |world| world.list_servers(names), |_, _| {});
        }
        if self.looks(pid) {
            self.within(pid, 100, move |world| {
                if world.looks(pid) {
                    world.observe(pid);
                }
            });
        }
        if !self.is_restored(pid) {
            return;
        }
        for (owner, beat) in self.servers[&pid].barrier.dead_peers(self.is_old()) {
            let of = owner.clone();
            self.call(
                link,
                move |world, _| world.running_at(&of),
                move |world, running| {
                    let Some(running) = running else { return };
                    if running.is_empty() {
                        let forget = move |world: &mut World| {
                            world.has_last_beat(&owner, &beat) && world.remove_idle_server(&owner)
                        };
                        return world.call_write(link, forget, |_, _| {});
                    }
                    for query in running {
                        world.end_query(pid, link, query, (&owner, &beat));
                    }
                },
            );
        }
    }
}
