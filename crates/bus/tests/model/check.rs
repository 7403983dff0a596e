//! What must be true when everything has healed and nothing has happened for a while.

use crate::{
    broker::{is_terminator, tokens_of},
    plan::{ClientKind, Fault},
    world::{World, session, short, violated},
};
use bus::rules::{LogEntry, Status};
use protocol::{Kind, Position, Prefix};
use std::collections::BTreeMap;

impl World {
    pub(crate) fn check_end(&mut self) {
        for n in 0..self.clients.len() {
            self.check_session(n);
        }
    }

    fn check_session(&mut self, n: usize) {
        let id = session(n);
        if !self.clients[n].is_done() {
            return violated!(self, "client-{n} waits forever: {}", self.clients[n].state());
        }
        self.expire();
        let record = self.broker.memory.records.get(&id).cloned().unwrap_or_default();
        if self.clients[n].is_expired {
            return self.check_expired(n);
        }
        if let Some(owner) = &record.running {
            violated!(self, "{} {} still runs at {owner}", short(id), record.generation);
        }
        if self.is_expired(id) {
            // It expired after it was closed, and its log with it.
            return self.check_expired(n);
        }
        if record.status != Some(Status::Closed) {
            violated!(self, "{} is {:?}, and was closed", short(id), record.status);
        }
        let log: Vec<Prefix> = record.log.iter().map(|LogEntry { prefix, .. }| *prefix).collect();
        let mut ends: BTreeMap<u64, Prefix> = BTreeMap::new();
        for entry in &log {
            if let Some(end) = ends.get(&entry.position.generation)
                && entry.kind != Kind::Closed
            {
                violated!(
                    self,
                    "{}: {} is behind its terminator {}",
                    short(id),
                    entry.position,
                    end.position
                );
            }
            if is_terminator(*entry) {
                ends.insert(entry.position.generation, *entry);
            }
        }
        for ((of, generation), (query, owner)) in self.broker.claims.clone() {
            if of != id {
                continue;
            }
            let promised = self.clients[n].promised.get(&query) == Some(&generation);
            match ends.get(&generation) {
                // A terminator is only missing if Redis lost it before its acknowledgement. The client then heard of
                // a gap.
                None if promised && !self.plan.forgets() => {
                    violated!(self, "{}: {query} {generation} of {owner} has no terminator", short(id));
                }
                Some(end) if promised => self.check_query(n, *end, &query, &owner),
                _ => {}
            }
        }
        self.check_received(n, &log);
        self.check_lanes(n);
    }

    /// Checks that every query of an expired session had an end, or was announced as lost.
    fn check_expired(&mut self, n: usize) {
        let client = &self.clients[n];
        let announced = |generation: &&u64| {
            client.ended.contains_key(generation)
                || client.gaps.iter().any(|(_, to)| to.generation >= **generation)
        };
        let silent: Vec<u64> = client.promised.values().filter(|g| !announced(g)).copied().collect();
        if !silent.is_empty() && !client.timed_out {
            violated!(self, "client-{n}: no end of {silent:?}, and its session is gone");
        }
    }

    /// Checks that a query is complete if its server had no fault.
    fn check_query(&mut self, n: usize, end: Prefix, query: &str, owner: &str) {
        let healthy = !self.plan.faults.iter().any(|(_, fault)| match *fault {
            Fault::PauseServer(slot, _)
            | Fault::KillServer(slot, _)
            | Fault::CutServer(slot)
            | Fault::DelayServer(slot, _) => owner.starts_with(&format!("server-{}", slot + 1)),
            _ => false,
        });
        let healthy = healthy && !self.clients[n].closed_early;
        if healthy && (end.kind != Kind::Done || end.position.seq != tokens_of(query) + 1) {
            violated!(
                self,
                "client-{n}: {query} ended with {:?} {}, and {owner} had no fault",
                end.kind,
                end.position
            );
        }
    }

    /// Checks that everything in the log was received or announced, and nothing else was received.
    fn check_received(&mut self, n: usize, log: &[Prefix]) {
        let client = &self.clients[n];
        let positions: Vec<Position> =
            log.iter().filter(|entry| entry.kind.is_for_client()).map(|entry| entry.position).collect();
        let in_gap = |at: &Position| client.gaps.iter().any(|(from, to)| from < at && at <= to);
        let missing: Vec<_> =
            positions.iter().filter(|at| !client.received.contains_key(at) && !in_gap(at)).collect();
        let dropped = |at: &Position| {
            log.first().is_some_and(|first| match first.kind {
                Kind::Gap { .. } => *at <= first.position,
                // The server had dropped what was idle for longer than the time to live.
                Kind::Fence { prev: Some(prev) } => self.plan.ttl.is_some() && *at <= prev,
                _ => false,
            }) || log.windows(2).any(|two| match two[1].kind {
                Kind::Fence { prev } => {
                    two[0].position < *at && prev.map_or(*at < two[1].position, |prev| *at <= prev)
                }
                Kind::Gap { from } => from < *at && *at <= two[1].position,
                _ => false,
            })
        };
        let strange: Vec<_> =
            client.received.keys().filter(|at| !positions.contains(at) && !dropped(at)).collect();
        let twice: Vec<_> =
            client.received.iter().filter(|&(_, &count)| count > 1).map(|(at, _)| at).collect();
        let lost_silently: Vec<_> = client
            .promised
            .values()
            .filter(|generation| !client.ended.contains_key(generation))
            .filter(|&&g| {
                !client.gaps.iter().any(|(from, to)| (from.generation..=to.generation).contains(&g))
            })
            .collect();
        let also_logged: Vec<_> =
            positions.iter().filter(|at| !client.received.contains_key(at) && in_gap(at)).collect();
        let calm = self.plan.faults.iter().all(|(_, fault)| {
            matches!(
                fault,
                Fault::PauseServer(..)
                    | Fault::KillServer(..)
                    | Fault::CutServer(_)
                    | Fault::DelayServer(..)
                    | Fault::LoseAnswer(_)
            )
        });
        let whole = self.plan.keep == 1000;
        let once = self.plan.clients[n] != ClientKind::OldContract || (calm && !client.disturbed);
        let text = if !also_logged.is_empty() && whole {
            format!("heard of a gap with {also_logged:?}, and the log has them")
        } else if !missing.is_empty() {
            format!("never received {missing:?}")
        } else if !strange.is_empty() && whole {
            format!("received what the log lacks: {strange:?}")
        } else if !lost_silently.is_empty() {
            format!("no end of {lost_silently:?}")
        } else if !twice.is_empty() && once {
            format!("received twice: {twice:?}")
        } else {
            return;
        };
        violated!(self, "client-{n}: {text}");
    }

    /// Checks that no gateway holds a closed session.
    fn check_lanes(&mut self, n: usize) {
        if let Some(holder) = self.holders(n).first() {
            violated!(self, "{} is closed, and {holder} does not know it", short(session(n)));
        }
    }

    /// Checks that at most one gateway holds the session.
    pub(crate) fn check_holders(&mut self, n: usize) {
        let holders = self.holders(n);
        if self.plan.lingers && holders.len() > 1 {
            violated!(self, "{} is held by {holders:?}", short(session(n)));
        }
    }

    fn holders(&self, n: usize) -> Vec<String> {
        let open = self.slots.iter().filter(|slot| slot.session == session(n) && self.holds(slot));
        open.map(|slot| self.name(slot.proxy).to_owned()).collect()
    }
}
