//! What the threads of one generator share: its claim, its outbox, and what it learnt.

use super::server::{Keys, Link, Reply, Server};
use crate::{
    outbox::Outbox,
    run::{Run, Start},
};
use parking_lot::{Condvar, Mutex};
use redis::RedisResult;
use std::sync::Arc;

/// A generator that holds a shard in the control Redis.
pub(super) struct Member {
    pub(super) server: Arc<Server>,
    pub(super) keys: Keys,
    pub(super) run: Run,
    pub(super) host: String,
    pub(super) shard: u32,
    /// Tells this claim apart from others of the shard.
    pub(super) token: String,
    pub(super) state: Mutex<State>,
    pub(super) changed: Condvar,
}

pub(super) struct State {
    pub(super) outbox: Outbox,
    pub(super) status: Arc<[u8]>,
    /// The longest round trip, in microseconds, of a generator that is ready.
    pub(super) round_trip_us: Option<u64>,
    /// The start by Redis' clock, in microseconds.
    pub(super) start_us: Option<u64>,
    /// The start by this process's clock, when the barrier was passed.
    pub(super) start: Option<Start>,
    /// The shard that leads, as far as it is known.
    pub(super) leader: Option<u32>,
    /// Number of the last command that was received.
    pub(super) last_command: u64,
    /// The report is in the control Redis.
    pub(super) finished: bool,
    /// The claim is void.
    pub(super) ended: Option<Ended>,
    pub(super) closing: bool,
}

/// Why a claim is void.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// Another generator holds the shard.
    Replaced,
    /// The leader counts this generator as lost.
    Lost(String),
}

impl Ended {
    pub(super) fn reason(&self) -> String {
        match self {
            Self::Replaced => "another generator holds its shard".to_owned(),
            Self::Lost(reason) => format!("the leader counts it as lost: {reason}"),
        }
    }
}

impl State {
    pub(super) fn new(server: &Server) -> Self {
        Self {
            outbox: Outbox::new(server.timing.buffer, true),
            status: Arc::default(),
            round_trip_us: None,
            start_us: None,
            start: None,
            leader: None,
            last_command: 0,
            finished: false,
            ended: None,
            closing: false,
        }
    }

    pub(super) const fn is_over(&self) -> bool {
        self.closing || self.ended.is_some()
    }
}

impl Member {
    /// Marks the claim as void.
    pub(super) fn end(&self, why: Ended) {
        self.state.lock().ended.get_or_insert(why);
        self.changed.notify_all();
    }

    /// Writes the claim again, after Redis has lost its data, and sends again what the outbox still has.
    pub(super) fn restore(&self, link: &mut Link) -> RedisResult<()> {
        let call = {
            let state = self.state.lock();
            let text = |value: Option<u64>| value.map_or_else(String::new, |value| value.to_string());
            let mut call = self.server.scripts.restore.key(self.keys.run());
            call.arg(self.shard)
                .arg(&self.token)
                .arg(&self.host)
                .arg(&self.run.fingerprint)
                .arg(self.run.generators)
                .arg(text(state.round_trip_us))
                .arg(text(state.start_us))
                .arg(text(state.leader.map(u64::from)))
                .arg(self.server.ttl_ms());
            call
        };
        let reply: Reply = link.script(&self.server, &call)?;
        if reply.word() == "ok" {
            tracing::warn!(
                "the control Redis {} has lost its data: restored shard {}",
                self.server.target(),
                self.shard + 1
            );
            self.state.lock().outbox.received(0);
            self.changed.notify_all();
        } else {
            self.end(Ended::Replaced);
        }
        Ok(())
    }
}
