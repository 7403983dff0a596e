//! The leader's side: see what the generators do, command them, and keep the verdict.

use crate::run::{Command, TooLarge};
use std::{
    sync::{Arc, mpsc::Receiver},
    time::{Duration, Instant},
};

/// The right and the means to lead a run. The leader judges the run and writes its results.
///
/// With a control Redis, keep the process's generator until the run is concluded: a leader lives as long as its heartbeats.
pub struct Leadership {
    /// Commands the generators. The run is led while it exists.
    pub leader: Arc<dyn Leader>,
    /// What happened since the beginning of the run, also before this process led. The channel ends when every shard has finished or
    /// is lost, and after [`Event::Replaced`]. A consumer that is slow delays the generators' parts, and loses none.
    pub events: Receiver<Event>,
}

impl std::fmt::Debug for Leadership {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Leadership").finish_non_exhaustive()
    }
}

/// Commands the generators of a run.
pub trait Leader: Send + Sync {
    /// Sends a command to all generators. Never blocks.
    ///
    /// # Errors
    /// Every [`CommandError`]. No generator receives the command then.
    fn command(&self, command: Command) -> Result<(), CommandError>;

    /// Returns whether this process still leads, as the meeting place says within this time.
    fn confirm(&self, _within: Duration) -> bool {
        true
    }

    /// Answers a request ([`Event::Request`]). Never blocks. Only a control Redis brings requests.
    fn answer(&self, _token: &str, _answer: Vec<u8>) {}

    /// Keeps the verdict, and gives it to the generators that wait for it. Waits at most `within` until it is stored.
    ///
    /// # Errors
    /// Every [`ConcludeError`].
    fn conclude(&self, verdict: Vec<u8>, within: Duration) -> Result<(), ConcludeError>;
}

/// What the leader learns of the generators. The events of a shard are in order. [`Self::Finished`] or [`Self::Lost`] is the last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A generator claimed the shard.
    Claimed {
        /// The shard, counted from 0.
        shard: u32,
        /// Host of the generator.
        host: String,
    },
    /// The generator went away before the start. Another one can claim the shard.
    Released {
        /// The shard, counted from 0.
        shard: u32,
        /// Why.
        reason: String,
    },
    /// All generators came, and start at this instant.
    Started {
        /// The instant, by this process's monotonic clock.
        at: Instant,
    },
    /// A part of a generator. Each arrives once, and in the order of [`crate::Generator::send`].
    Part {
        /// The shard, counted from 0.
        shard: u32,
        /// Number of the part in its shard. It counts from 1 and includes dropped parts.
        number: u64,
        /// The part.
        bytes: Vec<u8>,
    },
    /// Parts of a generator will never arrive: they waited longer than [`crate::Timing::buffer`], or the control Redis lost them.
    Dropped {
        /// The shard, counted from 0.
        shard: u32,
        /// Number of missing parts.
        parts: u64,
    },
    /// The generator's status has changed.
    Status {
        /// The shard, counted from 0.
        shard: u32,
        /// The status.
        bytes: Vec<u8>,
    },
    /// The generator delivered everything.
    Finished {
        /// The shard, counted from 0.
        shard: u32,
        /// Its report.
        bytes: Vec<u8>,
    },
    /// The generator is gone. Its parts until then have arrived.
    Lost {
        /// The shard, counted from 0.
        shard: u32,
        /// Why.
        reason: String,
    },
    /// Somebody outside the run asks the leader for something, and waits for [`Leader::answer`].
    Request {
        /// Names the request.
        token: String,
        /// What is asked. The program gives it a meaning.
        bytes: Vec<u8>,
    },
    /// Another process leads the run, because it saw no heartbeat of this one.
    Replaced {
        /// Shard of the new leader, counted from 0.
        by: u32,
    },
}

/// Why a command was not sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// The run has too many commands.
    #[error("the run has had {limit} commands, no more are possible: start a new run")]
    TooMany {
        /// Number of commands that a run can have.
        limit: usize,
    },
    /// The command has more bytes than allowed.
    #[error(transparent)]
    TooLarge(#[from] TooLarge),
    /// This process does not lead the run.
    #[error("this process does not lead the run (any more): only the leader can send commands")]
    NotLeading,
}

/// Why the verdict was not kept.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConcludeError {
    /// Another process leads the run.
    #[error("another process leads the run, and gives the verdict")]
    NotLeading,
    /// The verdict could not be stored in time.
    #[error("the verdict could not be stored at {target} ({reason}): the files of this process have it")]
    Unreachable {
        /// Path or address.
        target: String,
        /// What failed.
        reason: String,
    },
    /// The verdict has more bytes than allowed.
    #[error(transparent)]
    TooLarge(#[from] TooLarge),
}
