//! Coordination over a control Redis, for generators on several machines.
//!
//! Each generator has two connections: one for heartbeats every 500 ms, one for its parts. The lowest living shard leads; it has a
//! third one, over which it polls. Everything of a run is in one hash, a stream of commands, and a stream of parts per shard, and
//! expires an hour after the last heartbeat. Each step is a script that runs inside Redis and may be repeated.
//!
//! If Redis is away, generators keep their last 60 s of parts. If it comes back without its data, each generator restores its claim
//! and these parts, and the leader its commands.

mod claiming;
mod clock;
mod delivery;
mod generator;
mod heart;
mod leading;
mod member;
mod server;

pub use server::AddressError;

use crate::{
    generator::{ClaimError, Claimed, Coordinator},
    leader::Leadership,
    run::Run,
    timing::Timing,
};
use claiming::Claiming;
use generator::RedisGenerator;
use leading::{Leading, RedisLeader};
use member::{Member, State};
use parking_lot::{Condvar, Mutex};
use server::{Keys, Link, Server};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

/// The key of the mark that the bus of a stack without a name prefix writes into its Redis.
pub const BUS_MARK: &str = "bus:mark";

/// How long a request is kept after the time in which it should be answered, if the process that asks has died.
const ABANDONED: Duration = Duration::from_secs(5);

/// A control Redis, in which generators claim shards and from which results can be read for an hour.
#[derive(Clone)]
pub struct Control {
    server: Arc<Server>,
    bus_mark: Option<String>,
}

/// A run that was read from outside.
#[derive(Debug)]
pub struct Collected {
    /// The run.
    pub run: Run,
    /// Its events from the beginning. The leader can only conclude, and does not replace a verdict.
    pub leadership: Leadership,
}

/// Why a run cannot be read from the control Redis.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CollectError {
    /// There is no such run, or its hour is over.
    #[error(
        "{target} holds no run {id:?}: results are kept for an hour; merge the generators' files instead"
    )]
    Unknown {
        /// The run.
        id: String,
        /// Address of the Redis.
        target: String,
    },
    /// The run has not started.
    #[error("run {id} has not started: its {generators} generators have not all come")]
    NotStarted {
        /// The run.
        id: String,
        /// Number of generators of the run.
        generators: u32,
    },
    /// The Redis cannot be reached.
    #[error(
        "cannot reach {target} ({reason}): check the address, that it is running, and what its user may do"
    )]
    Unreachable {
        /// Address of the Redis.
        target: String,
        /// What failed.
        reason: String,
    },
}

/// Why the leader of a run gave no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    /// There is no such run, or Redis cannot be reached.
    #[error(transparent)]
    Run(#[from] CollectError),
    /// The run has its verdict.
    #[error("run {id} has ended")]
    Over {
        /// The run.
        id: String,
    },
    /// Other requests wait.
    #[error("{waiting} requests wait for the leader of run {id}: try again later")]
    TooMany {
        /// The run.
        id: String,
        /// Number of waiting requests.
        waiting: usize,
    },
    /// The leader did not read the request. Nothing happened.
    #[error("the leader of run {id} did not read the request within {} s, and nothing was changed: check that it is still running", .within.as_secs_f64())]
    NotRead {
        /// The run.
        id: String,
        /// How long it was waited for.
        within: Duration,
    },
    /// The leader read the request and gave no answer.
    #[error("the leader of run {id} gave no answer within {} s: the request may have been executed, see the results of the run", .within.as_secs_f64())]
    NoAnswer {
        /// The run.
        id: String,
        /// How long it was waited for.
        within: Duration,
    },
}

impl Control {
    /// Returns the control Redis with this address. Connects when it is used.
    ///
    /// # Errors
    /// The address is not a Redis URL.
    pub fn new(url: &str, timing: Timing) -> Result<Self, AddressError> {
        Ok(Self { server: Arc::new(Server::new(url, timing)?), bus_mark: Some(BUS_MARK.to_owned()) })
    }

    /// Refuses a Redis that holds this key. By default this is [`BUS_MARK`]. `None` allows every Redis.
    #[must_use]
    pub fn refuse_key(mut self, key: Option<&str>) -> Self {
        self.bus_mark = key.map(str::to_owned);
        self
    }

    /// Reads a run that has started from outside: its events from the beginning, as its leader received them.
    ///
    /// # Errors
    /// Every [`CollectError`].
    pub fn collect(&self, id: &str) -> Result<Collected, CollectError> {
        let target = || self.server.target().to_owned();
        let unknown = || CollectError::Unknown { id: id.to_owned(), target: target() };
        let keys = Keys::new(id, 0).ok_or_else(unknown)?;
        let mut link = Link::default();
        let read: redis::RedisResult<(Option<String>, Option<u32>, Option<String>)> =
            link.call(&self.server, |connection| {
                redis::cmd("HMGET")
                    .arg(keys.run())
                    .arg(&["fingerprint", "generators", "start"])
                    .query(connection)
            });
        let (fingerprint, generators, start) =
            read.map_err(|error| CollectError::Unreachable { target: target(), reason: error.to_string() })?;
        let (fingerprint, generators) = fingerprint.zip(generators).ok_or_else(unknown)?;
        if start.is_none() {
            return Err(CollectError::NotStarted { id: id.to_owned(), generators });
        }
        let keys = Keys::new(id, generators).ok_or_else(unknown)?;
        let leading = Leading::from_outside(self.server.clone(), keys, generators);
        let run = Run { id: id.to_owned(), generators, fingerprint };
        Ok(Collected { run, leadership: RedisLeader::start(leading) })
    }

    /// Returns the verdict of a run, or `None` if it has none yet.
    ///
    /// # Errors
    /// [`CollectError::Unknown`] and [`CollectError::Unreachable`].
    pub fn verdict(&self, id: &str) -> Result<Option<Vec<u8>>, CollectError> {
        let target = || self.server.target().to_owned();
        let unknown = || CollectError::Unknown { id: id.to_owned(), target: target() };
        let keys = Keys::new(id, 0).ok_or_else(unknown)?;
        let mut link = Link::default();
        let read: redis::RedisResult<(Option<String>, Option<Vec<u8>>)> =
            link.call(&self.server, |connection| {
                redis::cmd("HMGET").arg(keys.run()).arg(&["fingerprint", "verdict"]).query(connection)
            });
        match read {
            Ok((Some(_), verdict)) => Ok(verdict),
            Ok((None, _)) => Err(unknown()),
            Err(error) => Err(CollectError::Unreachable { target: target(), reason: error.to_string() }),
        }
    }

    /// Sends a request to the leader of a run that goes on, and waits at most `within` for its answer.
    ///
    /// # Errors
    /// Every [`AskError`].
    pub fn ask(&self, id: &str, request: &[u8], within: Duration) -> Result<Vec<u8>, AskError> {
        let target = || self.server.target().to_owned();
        let unknown = || CollectError::Unknown { id: id.to_owned(), target: target() };
        let unreachable = |error: redis::RedisError| CollectError::Unreachable {
            target: target(),
            reason: error.to_string(),
        };
        let keys = Keys::new(id, 0).ok_or_else(unknown)?;
        let mut link = Link::default();
        type State = (Option<String>, Option<u32>, Option<String>, bool, usize);
        let state: State = link
            .call(&self.server, |connection| {
                let mut calls = redis::pipe();
                for field in ["fingerprint", "generators", "start"] {
                    calls.hget(keys.run(), field);
                }
                calls.hexists(keys.run(), "verdict").llen(keys.requests()).query(connection)
            })
            .map_err(unreachable)?;
        match state {
            (None, ..) | (_, None, ..) => return Err(unknown().into()),
            (_, Some(generators), None, ..) => {
                return Err(CollectError::NotStarted { id: id.to_owned(), generators }.into());
            }
            (.., true, _) => return Err(AskError::Over { id: id.to_owned() }),
            (.., waiting) if waiting >= leading::MAX_REQUESTS => {
                return Err(AskError::TooMany { id: id.to_owned(), waiting });
            }
            _ => {}
        }
        let token = uuid::Uuid::new_v4().simple().to_string();
        let request = [token.as_bytes(), request].concat();
        // Longer than this call waits, so that it can take the request back.
        let expiry = i64::try_from((within + ABANDONED).as_millis()).unwrap_or(i64::MAX);
        link.call(&self.server, |connection| {
            let mut calls = redis::pipe();
            calls.atomic().rpush(keys.requests(), &request).ignore();
            calls.pexpire(keys.requests(), expiry).ignore().query::<()>(connection)
        })
        .map_err(unreachable)?;
        let deadline = Instant::now() + within;
        while Instant::now() < deadline {
            let answer: Option<Vec<u8>> = link
                .call(&self.server, |connection| {
                    redis::cmd("GETDEL").arg(keys.answer(&token)).query(connection)
                })
                .map_err(unreachable)?;
            if let Some(answer) = answer {
                return Ok(answer);
            }
            std::thread::sleep(self.server.timing.barrier_poll);
        }
        // A request that was not read is taken back.
        let taken_back: bool = link
            .call(&self.server, |connection| {
                redis::cmd("LREM").arg(keys.requests()).arg(0).arg(&request).query(connection)
            })
            .map_err(unreachable)?;
        let late: Option<Vec<u8>> = link
            .call(&self.server, |connection| redis::cmd("GETDEL").arg(keys.answer(&token)).query(connection))
            .map_err(unreachable)?;
        if let Some(answer) = late {
            return Ok(answer);
        }
        Err(if taken_back {
            AskError::NotRead { id: id.to_owned(), within }
        } else {
            AskError::NoAnswer { id: id.to_owned(), within }
        })
    }
}

impl Coordinator for Control {
    fn claim(&self, run: &Run, host: &str, wanted: Option<u32>) -> Result<Claimed, ClaimError> {
        let of = run.generators;
        let keys = Keys::new(&run.id, of).ok_or_else(|| ClaimError::InvalidRunId(run.id.clone()))?;
        if let Some(shard) = wanted.filter(|&shard| shard >= of) {
            return Err(ClaimError::OutOfRange { shard, of });
        }
        let token = uuid::Uuid::new_v4().simple().to_string();
        let bus_mark = self.bus_mark.as_deref();
        let claiming =
            Claiming { server: &self.server, keys: &keys, run, host, token: &token, wanted, bus_mark };
        let shard = claiming.claim()?;
        let state = Mutex::new(State::new(&self.server));
        let server = self.server.clone();
        let (run, host) = (run.clone(), host.to_owned());
        let member = Member { server, keys, run, host, shard, token, state, changed: Condvar::new() };
        Ok(RedisGenerator::start(member))
    }
}
