//! The bus between LLM servers and gateways: claim, append, attach, release. One interface, two brokers:
//! [`MemoryBroker`] inside one process and [`RedisBroker`] between many. Events travel in batches on the way in and
//! through lanes on the way out, so a token costs no wake-up and no allocation of its own here. Nothing here knows
//! HTTP, WebSockets or what an event says.

mod attachment;
mod batch;
mod counters;
mod hub;
mod lanes;
mod memory;
mod redis;
pub mod rules;

pub use attachment::{Attachment, CatchUp};
pub use batch::{Batch, Entry};
pub use counters::{Counters, CountersSnapshot};
pub use lanes::Lanes;
pub use memory::MemoryBroker;
pub use redis::RedisBroker;
pub use rules::{Play, Plays, Refusal};

use async_trait::async_trait;
use bytes::Bytes;
use protocol::{Position, Prefix, SessionId};
use std::{sync::Arc, time::Duration};
use tokio::sync::{mpsc, watch};

/// How events travel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Delivery {
    /// Into the session's log, then published: what a lane missed it reads again.
    #[default]
    Log,
    /// Published alone, the old way: what nobody heard is gone.
    PubSub,
}

impl std::str::FromStr for Delivery {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "log" => Ok(Self::Log),
            "pubsub" => Ok(Self::PubSub),
            other => Err(format!("`{other}` is no way of delivery: use `log` or `pubsub`")),
        }
    }
}

/// What a process does on the bus.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Role {
    /// Claims and appends: it says that it is alive, looks after its peers' queries, and keeps what it said for a broker that
    /// forgets.
    #[default]
    Server,
    /// Attaches: it says again what it holds to a broker that forgets.
    Gateway,
}

/// What every broker is built from.
#[derive(Clone, Debug)]
pub struct BusConfig {
    /// `memory://` or `redis://host:port/db`.
    pub url: String,
    /// This process's name on the bus; other processes send it [`Control`] messages under it. Unique in the stack.
    pub instance: String,
    /// What this process does.
    pub role: Role,
    /// How long a session's keys live after its last claim or terminator.
    pub session_ttl: Duration,
    /// How events travel. Servers and gateways must agree.
    pub delivery: Delivery,
    /// How many events of earlier queries a log keeps when the next query begins.
    pub log_entries: usize,
    /// What a server keeps at most, in bytes, of acknowledged events for a broker that forgets.
    pub keep_bytes: usize,
    /// Connections that subscribe, 1 to 4; sessions are spread over them.
    pub subscriber_connections: usize,
    /// Put before every key and channel, so that tests can share a Redis.
    pub name_prefix: String,
}

impl BusConfig {
    /// The defaults for this URL and instance.
    #[must_use]
    pub fn new(url: impl Into<String>, instance: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            instance: instance.into(),
            role: Role::Server,
            session_ttl: Duration::from_secs(10_800),
            delivery: Delivery::Log,
            log_entries: 1_000,
            keep_bytes: 64 << 20,
            subscriber_connections: 1,
            name_prefix: String::new(),
        }
    }
}

/// The bus did not answer, or not as it should. Nothing is known about the call's outcome: every call may be repeated.
#[derive(Clone, Debug, thiserror::Error)]
pub enum BusError {
    /// No connection, or lost in the middle.
    #[error("the bus is unreachable: {0}")]
    Unreachable(String),
    /// The broker had forgotten something, and is being given back what is known: try again in a moment.
    #[error("the bus is being restored")]
    Restoring,
    /// The broker executed the call too late, so it changed nothing: try again in a moment.
    #[error("Redis took too long to attach the session, twice; it may be overloaded or paused")]
    Late,
    /// The broker refused the command, in its own words.
    #[error("the bus refused: {0}")]
    Refused(String),
    /// The configuration does not describe a bus.
    #[error("{0}")]
    Config(String),
}

/// Why a session was not attached. Its former attachment goes on.
#[derive(Clone, Debug, thiserror::Error)]
pub enum AttachError {
    /// The client names a position that the session does not have.
    #[error(
        "`{position}` is beyond the session's last event, `{top}`: name an event that you received, or `0`"
    )]
    Beyond {
        /// What the client names.
        position: Position,
        /// The last position in the session's log.
        top: Position,
    },
    /// The bus failed.
    #[error(transparent)]
    Bus(#[from] BusError),
}

impl BusError {
    /// What kind of refusal it is, if it is one.
    #[must_use]
    pub fn refusal(&self) -> Option<Refusal> {
        match self {
            Self::Refused(words) => Some(Refusal::of(words)),
            _ => None,
        }
    }
}

/// Why a session was not claimed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ClaimError {
    /// No such session.
    #[error("session not found")]
    Unknown,
    /// The session ran this query before its last one.
    #[error("this query was run before")]
    Past,
    /// The session was closed.
    #[error("session is closed")]
    Closed,
    /// Another query is running.
    #[error("a query is running already")]
    Busy,
    /// The bus failed.
    #[error(transparent)]
    Bus(#[from] BusError),
}

/// A query that wants to run.
#[derive(Clone, Debug)]
pub struct ClaimRequest {
    /// The client's id of the query; a repeat of the last one starts nothing.
    pub query_id: String,
    /// What the caller will want back when the claim is repeated: kept, not read.
    pub answer: String,
}

/// A session claimed for one query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The generation: whoever holds the claim numbers its events 1, 2, 3 … in it.
    pub generation: u64,
    /// The same query was claimed before, with this answer: start nothing.
    pub repeat_of: Option<String>,
}

/// What an append came to.
#[derive(Clone, Debug, Default)]
pub struct Appended {
    /// How many entries from the front are settled: taken by the bus, stale or refused. The rest is to be appended again.
    pub taken: usize,
    /// Events that the bus took and nobody was subscribed to.
    pub unheard: u64,
    /// Generations that are no longer the highest of their session: their writers must stop.
    pub stale: Vec<(SessionId, u64)>,
    /// Entries that were refused for a reason that concerns their session alone. The later entries of their generations were
    /// left out.
    pub refused: Vec<Refused>,
    /// Why the bus took nothing behind the settled entries.
    pub stopped: Option<BusError>,
}

/// An entry that was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Which entry of the batch.
    pub index: usize,
    /// Whose it is.
    pub session: SessionId,
    /// Its generation.
    pub generation: u64,
    /// Redis' own words.
    pub words: String,
}

/// Where an attached session's stream starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// The client has everything up to and with this position.
    After(Position),
    /// The client says nothing: after what was last handed to a socket of its session.
    Cursor,
}

impl Start {
    /// The position that the client names.
    pub(crate) fn named(self) -> Option<Position> {
        match self {
            Self::After(position) => Some(position),
            Self::Cursor => None,
        }
    }
}

/// What a process is told by others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Control {
    /// To a server: the session was closed; end the query of this generation.
    Cancel {
        /// Which session.
        session: SessionId,
        /// Which of its queries.
        generation: u64,
    },
}

/// Why a lane ended by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LaneEnd {
    /// The session was closed, and all its events were handed on.
    SessionClosed,
    /// Another connection attached to the session.
    TakenOver,
}

/// The gateway's end of a lane. Called on the bus's own reader with the lane locked: it must neither block nor call back.
pub trait Outlet: Send + Sync + 'static {
    /// The session's next event, to be sent verbatim.
    fn event(&self, prefix: Prefix, frame: &[u8]);

    /// Everything after `from`, up to and with `to`, cannot be had any more.
    fn gap(&self, from: Position, to: Position);

    /// The lane fell behind: call [`Attachment::catch_up`] from a task when there is room for a page.
    fn behind(&self);

    /// Everything up to and with `at` was handed on; what follows is live. Called before the first live event.
    fn caught_up(&self, at: Position) {
        let _ = at;
    }

    /// No event follows.
    fn end(&self, end: LaneEnd);
}

/// A bus. Every call may be repeated after an error.
#[async_trait]
pub trait Broker: Send + Sync + 'static {
    /// Makes an active, idle session.
    async fn create(&self, session: SessionId) -> Result<(), BusError>;

    /// Claims an active, idle session for a query: one atomic step that fences off every earlier writer.
    async fn claim(&self, session: SessionId, request: ClaimRequest) -> Result<Claim, ClaimError>;

    /// What the session's last claim came to, if it was for this query: without claiming anything.
    async fn recall(&self, session: SessionId, query_id: &str) -> Result<Option<Claim>, BusError>;

    /// Appends and publishes a batch, in its order, up to the first entry that the bus refuses as it refuses all
    /// ([`Appended::stopped`]; an error where not even the first one was settled). A terminator releases its claim in the
    /// same step. Append the rest again ([`Batch::advance`]): what is in the log already is not doubled.
    async fn append(&self, batch: &Batch) -> Result<Appended, BusError>;

    /// Releases the claims of queries whose terminators the log refuses for good, without adding the terminators to the log: each
    /// is published, so that clients that are connected hear the end. A claim of another owner or of another generation is left
    /// as it is. The outcome is read like that of [`Broker::append`].
    async fn release_claims(&self, terminators: &Batch) -> Result<Appended, BusError>;

    /// The queries that this process plays: it registers each before it claims it. What the broker lists for this process
    /// and nobody plays is ended.
    fn plays(&self) -> &Arc<Plays>;

    /// Closes a session. Its running query's server is told to end it; its socket ends after the last event.
    /// False for a session that does not exist.
    async fn close(&self, session: SessionId) -> Result<bool, BusError>;

    /// Opens the session's lane to `outlet`, taking it over from whoever has it. When this returns, the subscription is
    /// live; nothing is handed on before the first [`Attachment::catch_up`]. After an error the former attachment goes on; only
    /// where the broker's answer was lost is that unknown.
    async fn attach(
        &self,
        session: SessionId,
        start: Start,
        outlet: Arc<dyn Outlet>,
    ) -> Result<Attachment, AttachError>;

    /// Publishes a client's message to the session's up channel.
    async fn send_up(&self, session: SessionId, message: Bytes) -> Result<(), BusError>;

    /// Messages to this process. The first caller gets them; the queue is bounded, overflow is counted.
    fn control(&self) -> Option<mpsc::Receiver<Control>>;

    /// Leaves the other servers: they neither wait for this process nor look after its queries any more. Nothing can be claimed
    /// here afterwards. Returns false, and changes nothing, while a query is claimed or played here, something that the
    /// broker has lost is still being restored, or the end of a closed session is still to be written: then the others find out later that this process is gone.
    async fn leave(&self) -> Result<bool, BusError>;

    /// Whether the bus can serve now.
    fn ready(&self) -> watch::Receiver<bool>;

    /// What the bus counted since it was opened.
    fn counters(&self) -> CountersSnapshot;
}

/// Opens the bus that `config.url` names. Returns at once: a Redis that is not there yet is waited for in the background,
/// and [`Broker::ready`] tells.
///
/// # Errors
/// A URL that names no bus.
pub fn open(config: BusConfig) -> Result<Arc<dyn Broker>, BusError> {
    if config.url.starts_with("memory://") {
        return Ok(Arc::new(MemoryBroker::new(config)));
    }
    Ok(Arc::new(RedisBroker::open(config)?))
}
