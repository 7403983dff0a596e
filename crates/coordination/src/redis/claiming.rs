//! Claims a shard. If all are held, finds out whether their holders live.

use super::server::{Keys, Link, Server, millis};
use crate::{generator::ClaimError, run::Run};
use redis::RedisResult;
use std::{collections::HashMap, thread, time::Instant};

/// A claim that is being made.
pub(super) struct Claiming<'a> {
    pub(super) server: &'a Server,
    pub(super) keys: &'a Keys,
    pub(super) run: &'a Run,
    pub(super) host: &'a str,
    pub(super) token: &'a str,
    pub(super) wanted: Option<u32>,
    /// A Redis that holds a key with this name belongs to a stack.
    pub(super) bus_mark: Option<&'a str>,
}

/// What the script returned.
enum Outcome {
    Claimed(u32),
    Held(Vec<Holder>),
    Refused(ClaimError),
}

/// A shard with its holder's host and heartbeat.
type Holder = (u32, String, String);

/// What is known of a holder's heartbeat.
struct Suspicion {
    heartbeat: String,
    /// Number of polls in a row that saw it unchanged.
    unchanged: u32,
    lives: bool,
}

impl Claiming<'_> {
    /// Claims the shard, and waits for claims to expire whose holders give no sign of life.
    pub(super) fn claim(&self) -> Result<u32, ClaimError> {
        let timing = &self.server.timing;
        let patience =
            timing.claim_expiry + (timing.heartbeat + timing.response) * (timing.unchanged_polls + 2);
        let began = Instant::now();
        let deadline = began + patience;
        let mut link = Link::default();
        let mut suspicions: HashMap<u32, Suspicion> = HashMap::new();
        let mut answered = false;
        let mut checked = false;
        loop {
            match self.check_and_attempt(&mut link, &mut checked, &suspicions) {
                Ok(Outcome::Claimed(shard)) => return Ok(shard),
                Ok(Outcome::Refused(refusal)) => return Err(refusal),
                Ok(Outcome::Held(holders)) => {
                    answered = true;
                    note(&mut suspicions, &holders);
                    if suspicions.values().all(|suspicion| suspicion.lives) || Instant::now() > deadline {
                        return Err(self.taken(&holders));
                    }
                }
                Err(error) => {
                    // It may be about to start, too.
                    let gives_up = !answered && began.elapsed() > timing.claim_expiry;
                    if gives_up || Instant::now() > deadline {
                        let (target, reason) = (self.server.target().to_owned(), error.to_string());
                        return Err(ClaimError::Unreachable { target, reason });
                    }
                    // The holders may have had the same outage.
                    suspicions.values_mut().for_each(|suspicion| suspicion.unchanged = 0);
                }
            }
            thread::sleep(timing.heartbeat);
        }
    }

    fn taken(&self, holders: &[Holder]) -> ClaimError {
        match (self.wanted, holders.first()) {
            (Some(shard), Some((_, by, _))) => ClaimError::Taken { shard, by: by.clone() },
            _ => ClaimError::NoFreeShard { of: self.run.generators },
        }
    }

    /// Attempts only what [`Self::check_mark`] allows. A check that fails is not skipped: it comes again with the next attempt.
    fn check_and_attempt(
        &self,
        link: &mut Link,
        checked: &mut bool,
        suspicions: &HashMap<u32, Suspicion>,
    ) -> RedisResult<Outcome> {
        if !*checked {
            if let Some(refusal) = self.check_mark()? {
                return Ok(Outcome::Refused(refusal));
            }
            *checked = true;
        }
        self.attempt(link, suspicions)
    }

    /// Returns the refusal of a Redis that belongs to a stack.
    fn check_mark(&self) -> RedisResult<Option<ClaimError>> {
        let Some(mark) = self.bus_mark else { return Ok(None) };
        // A connection of its own, because it selects another database.
        let found = Link::default().call(self.server, |connection| {
            let own = find_key(connection, mark)?;
            // A stack uses database 0 unless its URL names another.
            redis::cmd("SELECT").arg(0).query::<()>(connection)?;
            Ok(own.or(find_key(connection, mark)?))
        })?;
        Ok(found.map(|mark| ClaimError::HoldsBus { target: self.server.target().to_owned(), mark }))
    }

    fn attempt(&self, link: &mut Link, suspicions: &HashMap<u32, Suspicion>) -> RedisResult<Outcome> {
        let timing = &self.server.timing;
        let mut call = self.server.scripts.claim.key(self.keys.owned());
        call.arg(&self.run.fingerprint)
            .arg(self.run.generators)
            .arg(self.token)
            .arg(self.host)
            .arg(self.wanted.map_or_else(String::new, |shard| shard.to_string()))
            .arg(self.server.ttl_ms())
            .arg(millis(timing.claim_expiry));
        for (shard, suspicion) in
            suspicions.iter().filter(|(_, suspicion)| suspicion.unchanged >= timing.unchanged_polls)
        {
            call.arg(*shard).arg(&suspicion.heartbeat);
        }
        let reply = link.script(self.server, &call)?;
        let id = self.run.id.clone();
        let refusal = match reply.word() {
            "claimed" => return Ok(Outcome::Claimed(reply.value(1)?)),
            "held" => return Ok(Outcome::Held(reply.value(1)?)),
            "plan" => {
                ClaimError::DifferentPlan { id, ours: self.run.fingerprint.clone(), theirs: reply.value(1)? }
            }
            "number" => {
                ClaimError::DifferentNumber { id, ours: self.run.generators, theirs: reply.value(1)? }
            }
            "started" => ClaimError::AlreadyStarted { id },
            "finished" => ClaimError::Finished { id, shard: None },
            "shard finished" => ClaimError::Finished { id, shard: self.wanted },
            other => ClaimError::Unreachable {
                target: self.server.target().to_owned(),
                reason: format!("unexpected reply {other:?}"),
            },
        };
        Ok(Outcome::Refused(refusal))
    }
}

/// Notes which heartbeats have changed since the last poll.
fn note(suspicions: &mut HashMap<u32, Suspicion>, holders: &[Holder]) {
    for (shard, _, heartbeat) in holders {
        match suspicions.get_mut(shard) {
            Some(known) if known.heartbeat == *heartbeat => known.unchanged += 1,
            Some(known) => *known = Suspicion { heartbeat: heartbeat.clone(), unchanged: 0, lives: true },
            None => {
                let new = Suspicion { heartbeat: heartbeat.clone(), unchanged: 0, lives: false };
                suspicions.insert(*shard, new);
            }
        }
    }
}

/// Looks in the present database for a key with this name, or with a prefix before it. Looks at some ten thousand keys at most: a Redis
/// with more has the key without a prefix, or belongs to something else.
fn find_key(connection: &mut redis::Connection, name: &str) -> redis::RedisResult<Option<String>> {
    if redis::cmd("EXISTS").arg(name).query(connection)? {
        return Ok(Some(name.to_owned()));
    }
    let mut cursor = 0u64;
    for _ in 0..10 {
        let (next, keys): (u64, Vec<String>) = redis::cmd("SCAN")
            .arg(cursor)
            .arg("MATCH")
            .arg(format!("*{name}"))
            .arg("COUNT")
            .arg(1000)
            .query(connection)?;
        if let Some(key) = keys.into_iter().next() {
            return Ok(Some(key));
        }
        if next == 0 {
            break;
        }
        cursor = next;
    }
    Ok(None)
}
