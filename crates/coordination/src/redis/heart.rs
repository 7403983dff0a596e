//! The thread that sends a generator's heartbeats, passes on commands, and notices when this generator has to lead.

use super::{
    leading::{Leading, RedisLeader},
    member::{Ended, Member},
    server::{Link, Refused, describe},
};
use crate::{leader::Leadership, run::Command, watch::Watch};
use redis::RedisResult;
use std::{
    sync::{
        Arc,
        mpsc::{SyncSender, TrySendError},
    },
    time::Instant,
};

/// What a thread that sends heartbeats knows.
pub(super) struct Heart {
    member: Arc<Member>,
    link: Link,
    beat: u64,
    commands: SyncSender<Command>,
    /// `None` when this generator leads, or when the run is over.
    leadership: Option<SyncSender<Leadership>>,
    /// The heartbeats of all lower shards.
    lower: Watch<String>,
    seen: Vec<Option<String>>,
    failing: bool,
}

impl Heart {
    pub(super) fn new(
        member: Arc<Member>,
        commands: SyncSender<Command>,
        leadership: SyncSender<Leadership>,
    ) -> Self {
        let lower = Watch::new(member.shard, &member.server.timing);
        // A connection that stalls is replaced before the generator seems dead.
        let link = Link::within(member.server.timing.heartbeat);
        let leadership = Some(leadership);
        Self { member, link, beat: 0, commands, leadership, lower, seen: Vec::new(), failing: false }
    }

    /// Sends heartbeats until the claim is void or given up.
    pub(super) fn run(mut self) {
        let timing = self.member.server.timing.clone();
        loop {
            let began = Instant::now();
            let pause = match self.beat() {
                Ok(()) => {
                    self.failing = false;
                    timing.heartbeat
                }
                Err(error) => {
                    self.lower.failed();
                    if !std::mem::replace(&mut self.failing, true) {
                        tracing::warn!(
                            "cannot reach the control Redis {} ({}), trying again",
                            self.member.server.target(),
                            describe(&error)
                        );
                    }
                    timing.barrier_poll.min(timing.heartbeat)
                }
            };
            let mut state = self.member.state.lock();
            while !state.is_over() && Instant::now() < began + pause {
                self.member.changed.wait_until(&mut state, began + pause);
            }
            if state.closing {
                return;
            }
            if let Some(ended) = state.ended.clone() {
                drop(state);
                return self.abort(&ended);
            }
        }
    }

    fn beat(&mut self) -> RedisResult<()> {
        self.beat += 1;
        let member = self.member.clone();
        let call = {
            let state = member.state.lock();
            let mut call = member.server.scripts.heartbeat.key(member.keys.run());
            call.key(member.keys.commands())
                .key(member.keys.parts(member.shard))
                .arg(member.shard)
                .arg(&member.token)
                .arg(self.beat)
                .arg(&state.status[..])
                .arg(state.last_command)
                .arg(member.server.ttl_ms())
                // Who leads watches all generators in another way.
                .arg(if self.leadership.is_some() { member.shard } else { 0 });
            call
        };
        let reply = self.link.script(&member.server, &call)?;
        match reply.refused()? {
            Some(Refused::Unknown) => return member.restore(&mut self.link),
            Some(Refused::Replaced(_)) => {
                member.end(Ended::Replaced);
                return Ok(());
            }
            Some(Refused::Lost(reason)) => {
                member.end(Ended::Lost(reason));
                return Ok(());
            }
            None => {}
        }
        let (leader, start_us): (Option<u32>, Option<u64>) = (reply.value(1)?, reply.value(2)?);
        let knows_start = {
            let mut state = member.state.lock();
            state.leader = leader.or(state.leader);
            state.start_us = state.start_us.or(start_us);
            state.start_us.is_some()
        };
        if knows_start && (start_us.is_none() || leader.is_none()) {
            // An older copy of the data.
            member.restore(&mut self.link)?;
        }
        if member.state.lock().outbox.may_lack(reply.value(5)?) {
            member.changed.notify_all();
        }
        self.pass_on(reply.value(3)?);
        self.seen = reply.value(4)?;
        self.lower.saw(self.seen.iter().cloned(), Instant::now());
        self.consider_leading(leader, knows_start)
    }

    /// Passes commands to the program. What finds no room is read again with the next heartbeat.
    fn pass_on(&self, commands: Vec<(u64, String, Vec<u8>)>) {
        for (number, kind, bytes) in commands {
            let command = match &*kind {
                "abort" => Command::Abort(String::from_utf8_lossy(&bytes).into_owned()),
                _ => Command::Custom(bytes),
            };
            match self.commands.try_send(command) {
                Err(TrySendError::Full(_)) => return,
                // Without a receiver, the program does not follow commands.
                Ok(()) | Err(TrySendError::Disconnected(_)) => self.member.state.lock().last_command = number,
            }
        }
    }

    /// Starts to lead if this generator is the leader, or if all lower ones are dead.
    fn consider_leading(&mut self, leader: Option<u32>, started: bool) -> RedisResult<()> {
        let member = self.member.clone();
        if self.leadership.is_none() || !started {
            return Ok(());
        }
        if leader == Some(member.shard) {
            self.lead();
            return Ok(());
        }
        let now = Instant::now();
        if member.shard == 0 || !(0..member.shard).all(|lower| self.lower.is_lost(lower, now)) {
            return Ok(());
        }
        let timing = &member.server.timing;
        let silent = (timing.heartbeat * timing.unchanged_polls).as_secs_f64();
        let mut call = member.server.scripts.lead.key(member.keys.run());
        call.arg(member.shard).arg(&member.token).arg(format!("no heartbeat for {silent} s"));
        for heartbeat in &self.seen {
            call.arg(heartbeat.as_deref().unwrap_or_default());
        }
        let reply = self.link.script(&member.server, &call)?;
        match reply.word() {
            "ok" => self.lead(),
            "over" => self.leadership = None,
            _ => {}
        }
        Ok(())
    }

    fn lead(&mut self) {
        let Some(leadership) = self.leadership.take() else { return };
        let member = &self.member;
        member.state.lock().leader = Some(member.shard);
        let leading = Leading::of_generator(member.clone());
        // Without a receiver, the program does not lead.
        let _ = leadership.try_send(RedisLeader::start(leading));
    }

    /// Tells the program to stop, as the last command.
    fn abort(self, ended: &Ended) {
        let mut abort = Command::Abort(ended.reason());
        while let Err(TrySendError::Full(command)) = self.commands.try_send(abort) {
            abort = command;
            let mut state = self.member.state.lock();
            if state.closing {
                return;
            }
            self.member.changed.wait_for(&mut state, self.member.server.timing.barrier_poll);
        }
    }
}
