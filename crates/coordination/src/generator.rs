//! The generator's side: claim a shard, wait for the others, send parts, follow commands, finish.

use crate::{
    leader::Leadership,
    run::{Command, Run, Start, TooLarge},
};
use settings::plural::counted;
use std::{sync::mpsc::Receiver, time::Duration};

/// A place where the generators of a run meet.
pub trait Coordinator: Send + Sync {
    /// Claims a shard: `wanted`, counted from 0, or any free one. `host` names this generator in messages.
    ///
    /// Blocks for a few seconds if a shard is held by a generator that may be dead.
    ///
    /// # Errors
    /// Every [`ClaimError`]. Nothing was claimed then.
    fn claim(&self, run: &Run, host: &str, wanted: Option<u32>) -> Result<Claimed, ClaimError>;
}

/// A claimed shard. Heartbeats are sent while `generator` exists.
pub struct Claimed {
    /// The shard, counted from 0.
    pub shard: u32,
    /// The link to the other generators and to the leader.
    pub generator: Box<dyn Generator>,
    /// Commands of the leader, each once and in order. The last one is [`Command::Abort`] if the link or the leader's trust is lost.
    pub commands: Receiver<Command>,
    /// Receives at most one value: this process leads the run from then on. Without a value, another process leads.
    pub leadership: Receiver<Leadership>,
}

impl std::fmt::Debug for Claimed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Claimed").field("shard", &self.shard).finish_non_exhaustive()
    }
}

/// A generator that holds a shard.
///
/// Dropping it before the start frees the shard. Dropping it after the start without [`Self::finish`] makes the shard a lost one.
pub trait Generator: Send + Sync {
    /// Returns the shard, counted from 0.
    fn shard(&self) -> u32;

    /// Reports that this generator is ready, and waits at most `within` until all are. `waiting` is called several times per
    /// second with the number of generators that came; it returns whether to wait on.
    ///
    /// # Errors
    /// Every [`BarrierError`]. Drop the generator then: the run cannot start with it.
    fn ready(&self, within: Duration, waiting: &mut dyn FnMut(u32) -> bool) -> Result<Start, BarrierError>;

    /// Sends a part to the leader. Never blocks: parts that cannot be delivered are kept for [`crate::Timing::buffer`].
    ///
    /// # Errors
    /// The part has more than [`crate::MAX_PAYLOAD`] bytes. It counts as dropped.
    fn send(&self, part: Vec<u8>) -> Result<(), TooLarge>;

    /// Returns the number of parts that were dropped. If it is not zero, the run's result is partial. It is an upper limit: a part
    /// that was on its way when it became too old may still have arrived. [`crate::Event::Dropped`] is exact.
    fn dropped(&self) -> u64;

    /// Sets the status that the next heartbeat carries. A later status replaces an earlier one.
    ///
    /// # Errors
    /// The status has more than [`crate::MAX_STATUS`] bytes. The earlier one stays.
    fn note(&self, status: Vec<u8>) -> Result<(), TooLarge>;

    /// Delivers all parts and then `report`, the last that this generator sends. Waits at most `within`.
    ///
    /// # Errors
    /// Every [`FinishError`]. The leader then counts this shard as lost when the generator is dropped.
    fn finish(&self, report: Vec<u8>, within: Duration) -> Result<(), FinishError>;

    /// Waits at most `within` for the leader's verdict. Returns `None` if there is none, or if the leader cannot be reached.
    fn verdict(&self, within: Duration) -> Option<Vec<u8>>;
}

/// Why a shard was not claimed. Shards are counted from 1 in the messages.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClaimError {
    /// The run has another plan.
    #[error(
        "the other generators of run {id} have a different plan ({theirs}, here {ours}): start all with the same configuration and seed, or use another run id"
    )]
    DifferentPlan {
        /// The run.
        id: String,
        /// Fingerprint of this generator's plan.
        ours: String,
        /// Fingerprint of the run's plan.
        theirs: String,
    },
    /// The run has another number of generators.
    #[error(
        "run {id} has {}, but here --generators is {ours}: start all with the same number, or use another run id",
        counted(*theirs, "generators")
    )]
    DifferentNumber {
        /// The run.
        id: String,
        /// Number of generators given here.
        ours: u32,
        /// Number of generators of the run.
        theirs: u32,
    },
    /// Another living generator holds the shard. The run has not started.
    #[error("shard {} is held by a generator on {by}: give each generator another shard", .shard + 1)]
    Taken {
        /// The shard, counted from 0.
        shard: u32,
        /// Host of its holder.
        by: String,
    },
    /// Living generators hold all shards. The run has not started.
    #[error("all shards are held by living generators: start {}, not more", counted(*of, "generators"))]
    NoFreeShard {
        /// Number of shards.
        of: u32,
    },
    /// The run has started, so its shards are not given out again. A task that its engine restarted ends with success here.
    #[error(
        "run {id} has already started: a generator cannot join or come back; use another run id for a new run"
    )]
    AlreadyStarted {
        /// The run.
        id: String,
    },
    /// The run, or the wanted shard, has finished. A task that its engine restarted ends with success here.
    #[error("run {id} has finished{}: use another run id for a new run", .shard.map(|shard| format!(" shard {}", shard + 1)).unwrap_or_default())]
    Finished {
        /// The run.
        id: String,
        /// The finished shard, counted from 0, or `None` if the whole run has finished.
        shard: Option<u32>,
    },
    /// No such shard.
    #[error("shard {} does not exist: there are {of} shards, counted from 1", u64::from(*.shard) + 1)]
    OutOfRange {
        /// The shard, counted from 0.
        shard: u32,
        /// Number of shards.
        of: u32,
    },
    /// The name of the run cannot be used in keys.
    #[error("invalid run id {0:?}: expected 1 to 100 letters, digits, '-', '_' or '.'")]
    InvalidRunId(String),
    /// The Redis is the one that the stack under test uses.
    #[error(
        "{target} holds the key {mark} of a stack's bus: coordination would load the Redis under test; use another Redis, or force it"
    )]
    HoldsBus {
        /// Address of the Redis.
        target: String,
        /// The key that was found.
        mark: String,
    },
    /// The meeting place cannot be reached.
    #[error(
        "cannot reach {target} ({reason}): check the address, that it is running, and what its user may do"
    )]
    Unreachable {
        /// Path or address.
        target: String,
        /// What failed.
        reason: String,
    },
}

/// Why the run did not start for this generator.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BarrierError {
    /// Not all generators came in time.
    #[error("{came} of {of} generators came within {} s: check that all of them run, or wait longer", .within.as_secs_f64())]
    Incomplete {
        /// Number of generators that came.
        came: u32,
        /// Number of generators of the run.
        of: u32,
        /// How long this one waited.
        within: Duration,
    },
    /// `waiting` returned false.
    #[error("waiting for the other generators was cancelled")]
    Cancelled,
    /// The claim expired, because no heartbeat arrived in time, and another generator holds the shard.
    #[error("shard {} was claimed by another generator meanwhile: this one sent no heartbeat for too long", .shard + 1)]
    Replaced {
        /// The shard, counted from 0.
        shard: u32,
    },
    /// The start was agreed, and this generator learnt of it too late.
    #[error("the run started {} ms before this generator learnt of it: check the link to {target}", .late.as_millis())]
    Missed {
        /// How late it was.
        late: Duration,
        /// Path or address.
        target: String,
    },
    /// The start is not known well enough by this generator's clock.
    #[error("the start is known to within {} ms only, more than {} ms: the link to {target} is too slow or too busy", .error.as_millis(), .most.as_millis())]
    Inaccurate {
        /// By how much the start may be wrong.
        error: Duration,
        /// The largest error that is allowed.
        most: Duration,
        /// Path or address.
        target: String,
    },
    /// The meeting place cannot be reached.
    #[error("lost {target} before the start ({reason})")]
    Unreachable {
        /// Path or address.
        target: String,
        /// What failed.
        reason: String,
    },
}

/// Why not everything was delivered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FinishError {
    /// The time was too short.
    #[error("{parts} messages could not be delivered to {target} within {} s: merge this generator's files instead", .within.as_secs_f64())]
    Undelivered {
        /// Number of parts and reports that were not delivered.
        parts: usize,
        /// How long delivery was tried.
        within: Duration,
        /// Path or address.
        target: String,
    },
    /// The leader no longer takes anything from this generator.
    #[error("the leader does not take the result ({reason}): merge this generator's files instead")]
    Lost {
        /// Why.
        reason: String,
    },
    /// The report has more bytes than allowed.
    #[error(transparent)]
    TooLarge(#[from] TooLarge),
}
