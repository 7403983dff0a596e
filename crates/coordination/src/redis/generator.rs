//! A generator that holds a shard in the control Redis.

use super::{
    clock::Clock,
    delivery::deliver,
    heart::Heart,
    member::{Ended, Member},
    server::{Link, Refused, micros, millis},
};
use crate::{
    generator::{BarrierError, Claimed, FinishError, Generator},
    leader::Leadership,
    outbox::Kind,
    run::{Command, MAX_PAYLOAD, MAX_STATUS, QUEUE, Start, TooLarge},
};
use redis::RedisResult;
use std::{
    sync::{
        Arc,
        mpsc::{Receiver, sync_channel},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

pub(super) struct RedisGenerator {
    member: Arc<Member>,
    threads: Vec<JoinHandle<()>>,
}

/// What a poll at the barrier returned.
enum Barrier {
    Came(u32),
    /// The start by Redis' clock, in microseconds.
    Start(u64),
    /// Redis has lost its data, and this generator has restored its part.
    Restored,
    Void(Ended),
}

impl RedisGenerator {
    /// Starts the threads of a claimed shard.
    pub(super) fn start(member: Member) -> Claimed {
        let member = Arc::new(member);
        let (commands, received): (_, Receiver<Command>) = sync_channel(QUEUE);
        let (leadership, led): (_, Receiver<Leadership>) = sync_channel(1);
        let heart = Heart::new(member.clone(), commands, leadership);
        let delivering = member.clone();
        let threads = vec![thread::spawn(move || heart.run()), thread::spawn(move || deliver(&delivering))];
        let shard = member.shard;
        Claimed { shard, generator: Box::new(Self { member, threads }), commands: received, leadership: led }
    }

    fn poll(&self, link: &mut Link, round_trip_us: u64) -> RedisResult<Barrier> {
        let (member, timing) = (&self.member, &self.member.server.timing);
        let mut call = member.server.scripts.ready.key(member.keys.run());
        call.arg(member.shard)
            .arg(&member.token)
            .arg(round_trip_us)
            .arg(millis(timing.claim_expiry))
            .arg(micros(timing.start_delay))
            .arg(member.server.ttl_ms());
        let reply = link.script(&member.server, &call)?;
        Ok(match reply.refused()? {
            Some(Refused::Unknown) => {
                member.restore(link)?;
                Barrier::Restored
            }
            Some(Refused::Replaced(_)) => Barrier::Void(Ended::Replaced),
            Some(Refused::Lost(reason)) => Barrier::Void(Ended::Lost(reason)),
            None if reply.word() == "start" => Barrier::Start(reply.value(1)?),
            None => Barrier::Came(reply.value(1)?),
        })
    }

    /// Takes back that this generator is ready. Returns the start in Redis' time if the run has started meanwhile.
    fn withdraw(&self, link: &mut Link) -> Option<u64> {
        let member = &self.member;
        let mut call = member.server.scripts.withdraw.key(member.keys.run());
        call.arg(member.shard).arg(&member.token);
        // Without an answer, the heartbeats end, and the run cannot start with this generator for long.
        let reply = link.script(&member.server, &call).ok()?;
        if reply.word() == "start" { reply.value(1).ok() } else { None }
    }

    /// Returns the start by this process's clock. Measures the clock again, because clocks drift while generators wait.
    fn agree(&self, link: &mut Link, start_us: u64) -> Result<Start, BarrierError> {
        let member = &self.member;
        let timing = &member.server.timing;
        let target = || member.server.target().to_owned();
        let deadline = Instant::now() + timing.start_delay;
        let clock = loop {
            match Clock::measure(&member.server, link) {
                Ok(clock) => break clock,
                Err(error) if Instant::now() >= deadline => {
                    return Err(BarrierError::Unreachable { target: target(), reason: error.to_string() });
                }
                Err(_) => thread::sleep(timing.barrier_poll),
            }
        };
        let start = clock.start(start_us);
        let now = Instant::now();
        let late = match start {
            Some(start) if start.error > timing.clock_error => {
                let (error, most) = (start.error, timing.clock_error);
                return Err(BarrierError::Inaccurate { error, most, target: target() });
            }
            Some(start) if start.at > now => {
                let mut state = member.state.lock();
                state.start_us = Some(start_us);
                state.start = Some(start);
                return Ok(start);
            }
            Some(start) => now - start.at,
            None => Duration::MAX,
        };
        Err(BarrierError::Missed { late, target: target() })
    }

    fn void(&self, ended: &Ended) -> BarrierError {
        match ended {
            Ended::Replaced => BarrierError::Replaced { shard: self.member.shard },
            Ended::Lost(_) => {
                let target = self.member.server.target().to_owned();
                BarrierError::Unreachable { target, reason: ended.reason() }
            }
        }
    }
}

impl Generator for RedisGenerator {
    fn shard(&self) -> u32 {
        self.member.shard
    }

    fn ready(&self, within: Duration, waiting: &mut dyn FnMut(u32) -> bool) -> Result<Start, BarrierError> {
        let member = &self.member;
        let deadline = Instant::now() + within;
        let mut link = Link::default();
        let mut clock: Option<Clock> = None;
        // The present number, and the largest: others may give up a moment earlier.
        let (mut came, mut most) = (0, 0);
        loop {
            let measured = match clock {
                Some(clock) => Ok(clock),
                None => Clock::measure(&member.server, &mut link),
            };
            let polled = measured.and_then(|measured| {
                clock = Some(measured);
                member.state.lock().round_trip_us = Some(measured.longest_us());
                self.poll(&mut link, measured.longest_us())
            });
            let failure = match polled {
                Ok(Barrier::Start(start_us)) => return self.agree(&mut link, start_us),
                Ok(Barrier::Void(ended)) => return Err(self.void(&ended)),
                Ok(Barrier::Came(number)) => {
                    (came, most) = (number, most.max(number));
                    None
                }
                Ok(Barrier::Restored) => None,
                Err(error) => Some(error.to_string()),
            };
            let cancelled = !waiting(came);
            if cancelled || Instant::now() >= deadline {
                // The last generator may have come meanwhile.
                if let Some(start_us) = self.withdraw(&mut link) {
                    return self.agree(&mut link, start_us);
                }
                if cancelled {
                    return Err(BarrierError::Cancelled);
                }
                return Err(match failure {
                    Some(reason) => {
                        BarrierError::Unreachable { target: member.server.target().to_owned(), reason }
                    }
                    None => BarrierError::Incomplete { came: most, of: member.run.generators, within },
                });
            }
            thread::sleep(member.server.timing.barrier_poll);
        }
    }

    fn send(&self, part: Vec<u8>) -> Result<(), TooLarge> {
        let checked = TooLarge::check("a part", &part, MAX_PAYLOAD);
        let mut state = self.member.state.lock();
        if checked.is_ok() && state.ended.is_none() {
            state.outbox.push(Kind::Part, part, Instant::now());
        } else {
            state.outbox.refuse();
        }
        drop(state);
        self.member.changed.notify_all();
        checked
    }

    fn dropped(&self) -> u64 {
        self.member.state.lock().outbox.dropped()
    }

    fn note(&self, status: Vec<u8>) -> Result<(), TooLarge> {
        TooLarge::check("a status", &status, MAX_STATUS)?;
        self.member.state.lock().status = status.into();
        Ok(())
    }

    fn finish(&self, report: Vec<u8>, within: Duration) -> Result<(), FinishError> {
        TooLarge::check("a report", &report, MAX_PAYLOAD)?;
        let member = &self.member;
        let deadline = Instant::now() + within;
        let mut state = member.state.lock();
        state.outbox.push(Kind::Report, report, Instant::now());
        member.changed.notify_all();
        loop {
            if state.finished {
                return Ok(());
            }
            if let Some(ended) = &state.ended {
                return Err(FinishError::Lost { reason: ended.reason() });
            }
            if member.changed.wait_until(&mut state, deadline).timed_out() {
                let (parts, target) = (state.outbox.waiting(), member.server.target().to_owned());
                return Err(FinishError::Undelivered { parts, within, target });
            }
        }
    }

    fn verdict(&self, within: Duration) -> Option<Vec<u8>> {
        let member = &self.member;
        let deadline = Instant::now() + within;
        let mut link = Link::default();
        loop {
            let verdict: RedisResult<Option<Vec<u8>>> = link.call(&member.server, |connection| {
                redis::cmd("HGET").arg(member.keys.run()).arg("verdict").query(connection)
            });
            let left = deadline.saturating_duration_since(Instant::now());
            match verdict {
                Ok(Some(verdict)) => return Some(verdict),
                _ if left.is_zero() => return None,
                _ => thread::sleep(member.server.timing.heartbeat.min(left)),
            }
        }
    }
}

impl Drop for RedisGenerator {
    fn drop(&mut self) {
        let member = &self.member;
        let leaves = {
            let mut state = member.state.lock();
            state.closing = true;
            !state.finished && state.ended.is_none()
        };
        member.changed.notify_all();
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
        if leaves {
            let mut call = member.server.scripts.release.key(member.keys.owned());
            call.arg(member.shard).arg(&member.token).arg("it ended without a result");
            // If this fails, the others notice that the heartbeats stopped.
            let _ = Link::default().script(&member.server, &call);
        }
    }
}
