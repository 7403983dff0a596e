//! Time to live: when the parts of a session expire, what renews them, and which of them must not expire.

use crate::{
    broker::Memory,
    world::{Excluded, LinkId, Pid, World, note, short, violated},
};
use bus::rules::{FULL, Part};
use protocol::SessionId;

/// Returns the full time to live of a part for a configured one.
fn full(ttl: u64) -> u64 {
    ttl * FULL.0 / FULL.1
}

/// Returns the time to live of a session that is over, for a configured one. It is shorter than a broker's, so that it matters here.
fn over(ttl: u64) -> u64 {
    ttl / 10
}

/// Pause after a renewal that failed, in ms.
const RETRY: u64 = 500;

impl World {
    /// Sets the times when the parts that a step has renewed expire.
    pub(crate) fn renewed(&mut self, session: SessionId) {
        let Some(ttl) = self.plan.ttl else { return };
        let (now, full) = (self.now, full(ttl));
        let memory = &mut self.broker.memory;
        let Some(record) = memory.records.get_mut(&session) else { return };
        let due = memory.expires.get(&(session, Part::Meta)).is_none_or(|&at| at < now + ttl);
        let is_over = record.take_over();
        for part in record.take_renewed(due) {
            memory.expires.insert((session, part), now + full);
        }
        for part in Part::ALL {
            if record.has(part) {
                // A part that this step has made.
                memory.expires.entry((session, part)).or_insert(now + full);
            } else {
                memory.expires.remove(&(session, part));
            }
        }
        if is_over {
            self.covered.insert("a session was over");
            for part in Part::ALL {
                if let Some(at) = memory.expires.get_mut(&(session, part)) {
                    *at = now + over(ttl);
                }
            }
        }
    }

    /// Removes parts that were not renewed in time.
    pub(crate) fn expire(&mut self) {
        if self.plan.ttl.is_none() {
            return;
        }
        let now = self.now;
        let due = self.broker.memory.expires.iter().filter(|&(_, &at)| at <= now).map(|(&what, _)| what);
        for (session, part) in due.collect::<Vec<_>>() {
            self.check_expiry(session, part);
            self.broker.memory.expires.remove(&(session, part));
            if let Some(record) = self.broker.memory.records.get_mut(&session) {
                record.expire(part);
            }
        }
    }

    /// Checks that no part expires of a session that a living server plays or a living gateway holds.
    fn check_expiry(&mut self, session: SessionId, part: Part) {
        note!(self, "broker: the {part:?} of {} expires", short(session));
        // A server or a snapshot may bring back for a while what had expired.
        if self.is_expired(session) {
            return;
        }
        let record = &self.broker.memory.records[&session];
        let (running, generation) = (record.running.clone(), record.generation);
        let player = running.and_then(|owner| self.processes.iter().position(|p| p.name == owner));
        if let Some(pid) = player.filter(|&pid| self.is_alive(pid) && self.plays(pid, session, generation)) {
            violated!(self, "the {part:?} of {} expired, and {} plays it", short(session), self.name(pid));
        }
        let holder = self.slots.iter().find(|slot| slot.session == session && self.holds(slot));
        if let Some(pid) = holder.map(|slot| slot.proxy) {
            violated!(self, "the {part:?} of {} expired, and {} holds it", short(session), self.name(pid));
        }
        // A gateway that attaches to a known session must find its log and its cursor.
        let at = |part| self.broker.memory.expires.get(&(session, part)).copied().unwrap_or(0);
        if at(Part::Meta) > at(part) {
            violated!(self, "the {part:?} of {} expired before the session", short(session));
        }
        if part == Part::Meta {
            self.covered.insert("an idle session expired");
            self.expired.insert(session);
        }
    }

    /// Renews what a process plays or holds every third of the time to live, while it is alive.
    pub(crate) fn renew(&mut self, pid: Pid, link: LinkId) {
        let Some(ttl) = self.plan.ttl else { return };
        let by_server = self.servers.contains_key(&pid);
        let sessions =
            if by_server { self.servers[&pid].plays.sessions() } else { self.proxies[&pid].held().collect() };
        let step = move |world: &mut World| {
            for session in sessions {
                world.step(session, |record, _| record.renew(&Part::ALL));
            }
        };
        let then = move |world: &mut World, renewed: Option<()>| {
            let pause = if renewed.is_some() { ttl / 3 } else { RETRY };
            world.within(pid, pause, move |world| world.renew(pid, link));
        };
        if by_server {
            self.call_write(link, step, then);
        } else {
            self.call(link, |world, _| step(world), then);
        }
    }

    /// Excludes the history if the broker has lost the last renewal of a session that may expire before the next
    /// renewal.
    pub(crate) fn find_lost_renewals(&mut self, before: &Memory, down: u64) {
        let soon = self.now + down + 2_000;
        let expires = &self.broker.memory.expires;
        let lost =
            before.expires.iter().any(|(what, &at)| expires.get(what).is_some_and(|&now| now < at.min(soon)));
        if lost {
            self.excluded.get_or_insert(Excluded::IdleSessionLost);
        }
    }

    /// Returns whether a gateway holds the session.
    pub(crate) fn is_held(&self, session: SessionId) -> bool {
        self.slots.iter().any(|slot| slot.session == session && self.holds(slot))
    }

    /// Returns whether the session was idle until it expired.
    pub(crate) fn is_expired(&self, session: SessionId) -> bool {
        self.expired.contains(&session)
    }
}
