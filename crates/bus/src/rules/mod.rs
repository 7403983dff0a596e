//! The rules of delivery: every atomic step of a broker, as a pure function on one session's record. They do no I/O and
//! read no clock. They have three users: the memory bus runs them, a property test compares the Redis scripts with
//! them, and a model drives them through every fault.

mod append;
mod attach;
mod barrier;
mod claim;
mod close;
mod expiry;
mod history;
mod log;
mod plays;
mod refusal;
mod restore;

pub use append::AppendOutcome;
pub use attach::{AttachOutcome, Attached, Attaching};
pub use barrier::{MISSED_BEATS, NO_BEAT, Restoration, RestorationBarrier, heartbeat, is_newer};
pub use claim::{ClaimOutcome, Claiming, PAST_QUERIES};
pub use close::{Ending, LostQuery};
pub use expiry::{FULL, OVER, Part, Renewed};
pub use history::{AcknowledgedHistory, AcknowledgedRecord};
pub use log::{LogEntry, merge};
pub use plays::{Play, Plays};
pub(crate) use refusal::HOLE;
pub use refusal::Refusal;

use protocol::{Kind, Position, Prefix, encode_fence};
use std::collections::VecDeque;

/// A message that a step sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect<'a> {
    /// To the subscribers of the session.
    Publish {
        /// The event's position and kind.
        prefix: Prefix,
        /// The event's frame.
        frame: &'a [u8],
    },
    /// To a server: the session was closed, so this generation must end.
    Cancel {
        /// The server.
        owner: &'a str,
        /// The generation of the running query.
        generation: u64,
    },
    /// To a gateway: another attachment has taken the session over.
    Takeover {
        /// The gateway that had the session.
        holder: &'a str,
        /// The epoch of the new attachment.
        epoch: u64,
    },
    /// To a gateway: the attachment that it took over was released.
    Released {
        /// The gateway that has the session.
        holder: &'a str,
        /// The epoch of the released attachment.
        epoch: u64,
        /// The session's cursor after the release.
        cursor: Position,
    },
}

/// Sends an effect and returns the number of its receivers.
pub type EffectSink<'a> = &'a mut dyn FnMut(Effect<'_>) -> u64;

/// Whether a session takes queries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// It takes queries, one at a time.
    Active,
    /// It takes no more queries.
    Closed,
}

/// One session in a broker. Redis stores it in two hashes and a stream.
#[derive(Clone, Debug, Default)]
pub struct Record {
    /// `None` if the session does not exist.
    pub status: Option<Status>,
    /// A gateway has restored that the session takes queries. Has no effect once the status is known.
    pub held: bool,
    /// The generation of the last claim; 0 for none.
    pub generation: u64,
    /// The last position before that generation, if it was known.
    pub prev: Option<Position>,
    /// The query id of the last claim.
    pub query: String,
    /// The answer stored with the last claim.
    pub answer: String,
    /// Generation and id of the queries before it, oldest first.
    pub past: VecDeque<(u64, String)>,
    /// The server that plays the query; `None` if no query is running.
    pub running: Option<String>,
    /// The server that is to write the `closed` entry of this closed and idle session, because logs were not complete when
    /// the session was closed or its query ended. Redis lists the session for that server as it lists running queries, so
    /// that a peer takes over if the server dies.
    pub end_owner: Option<String>,
    /// The log, oldest entry first. Empty if events are only published.
    pub log: VecDeque<LogEntry>,
    /// The epoch of the newest attachment; 0 for none.
    pub epoch: u64,
    /// The gateway that has the session.
    pub holder: Option<String>,
    /// Everything up to this position was handed to a socket that ended cleanly.
    pub cursor: Position,
    /// The epoch of the attachment that stored the cursor.
    pub cursor_epoch: u64,
    /// The parts that steps have renewed.
    pub renewed: Renewed,
}

impl Record {
    /// Creates an active, idle session. Does nothing if the session exists.
    pub fn create(&mut self) {
        self.status.get_or_insert(Status::Active);
        self.renew(&Part::ALL);
    }

    /// Makes a session active that only a gateway has restored. To be called once the mark is so old that no server is
    /// expected to restore the session.
    pub fn adopt(&mut self) {
        if self.held {
            self.status.get_or_insert(Status::Active);
        }
    }

    /// Returns the position of the log's last entry; zero for an empty log.
    #[must_use]
    pub fn top(&self) -> Position {
        self.log.back().map_or(Position::ZERO, |entry| entry.prefix.position)
    }

    /// Returns whether the log holds this position, with this frame if one is given.
    fn holds(&self, position: Position, frame: Option<&[u8]>) -> bool {
        let found = self.log.binary_search_by_key(&position, |entry| entry.prefix.position);
        found.is_ok_and(|index| frame.is_none_or(|frame| *self.log[index].frame == *frame))
    }

    /// Writes and publishes a fence that names `prev`.
    fn fence(&mut self, generation: u64, prev: Option<Position>, logged: bool, out: EffectSink<'_>) {
        let mut frame = Vec::new();
        encode_fence(&mut frame, generation, prev);
        let prefix = Prefix { position: Position::new(generation, 0), kind: Kind::Fence { prev } };
        self.write(prefix, &frame, logged, out);
    }

    /// Adds an entry to the log and publishes it.
    fn write(&mut self, prefix: Prefix, frame: &[u8], logged: bool, out: EffectSink<'_>) {
        if logged {
            self.log.push_back(LogEntry::new(prefix, frame));
        }
        out(Effect::Publish { prefix, frame });
    }
}
