//! The bus between LLM servers and gateways: create, claim, append, attach, release. [`Broker`] is the interface.
//! [`MemoryBroker`] implements it inside one process, [`RedisBroker`] between processes. Servers append events in
//! batches, and gateways receive them through lanes, so a token costs neither a wake-up nor an allocation here. The bus
//! knows neither HTTP nor WebSockets nor what an event contains.

mod attachment;
mod batch;
mod counters;
mod hub;
mod lanes;
mod memory;
mod open_lane;
mod redis;
pub mod rules;

pub use attachment::Attachment;
pub use batch::{Batch, Entry};
pub use counters::{Counters, CountersSnapshot};
pub use lanes::Lanes;
pub use memory::MemoryBroker;
pub use open_lane::CatchUp;
pub use redis::RedisBroker;
pub use rules::{Play, Plays, Refusal};

use async_trait::async_trait;
use bytes::Bytes;
use protocol::{Position, Prefix, SessionId};
use std::{sync::Arc, time::Duration};
use tokio::sync::{mpsc, watch};

/// Length of the queue of [`Control`] messages.
const CONTROL_QUEUE: usize = 4096;

/// How events travel from servers to gateways.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Delivery {
    /// Events are written to the session's log, then published. A lane that missed events reads them from the log.
    #[default]
    Log,
    /// Events are only published. An event that no gateway received is lost.
    PubSub,
}

impl Delivery {
    /// Returns the name of the setting's value.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Log => "log",
            Self::PubSub => "pubsub",
        }
    }
}

impl std::str::FromStr for Delivery {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.trim() {
            "log" => Ok(Self::Log),
            "pubsub" => Ok(Self::PubSub),
            _ => Err("expected log or pubsub".into()),
        }
    }
}

/// The part of a process on the bus.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Role {
    /// Claims and appends. Writes heartbeats, ends the queries of dead peers, and restores its acknowledged history if
    /// the broker loses data.
    #[default]
    Server,
    /// Attaches. Restores the sessions that it holds and their cursors if the broker loses data.
    Gateway,
}

/// The configuration of a broker.
#[derive(Clone, Debug)]
pub struct BusConfig {
    /// `memory://`, `redis://host:port/db`, `rediss://…` or `redis+unix:///path`.
    pub url: String,
    /// This process's name on the bus, unique in the stack. Other processes send it [`Control`] messages under this
    /// name.
    pub instance: String,
    /// The part of this process.
    pub role: Role,
    /// How long a session's keys live at least without a claim, a terminator, an attachment or a renewal. Rounded down to
    /// seconds, at least one. They live up to a quarter longer.
    pub session_ttl: Duration,
    /// How events travel. Servers and gateways must use the same value.
    pub delivery: Delivery,
    /// Number of events of earlier queries that a log keeps when the next query begins.
    pub log_entries: usize,
    /// Limit, in bytes, for a server's acknowledged history. See [`rules::AcknowledgedHistory`].
    pub keep_bytes: usize,
    /// Number of connections that subscribe, from 1 to 4. Sessions are spread over them.
    pub subscriber_connections: usize,
    /// Prefix of every key and channel, so that tests can share a Redis.
    pub name_prefix: String,
}

impl BusConfig {
    /// Returns the defaults for this URL and instance: a server with a TTL of 3 hours, 250 log entries of earlier queries and 64 MiB of
    /// history.
    #[must_use]
    pub fn new(url: impl Into<String>, instance: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            instance: instance.into(),
            role: Role::Server,
            session_ttl: Duration::from_secs(10_800),
            delivery: Delivery::Log,
            log_entries: 250,
            keep_bytes: 64 << 20,
            subscriber_connections: 1,
            name_prefix: String::new(),
        }
    }
}

/// Why a call to the bus failed. The outcome of the call is unknown, and every call may be repeated.
#[derive(Clone, Debug, thiserror::Error)]
pub enum BusError {
    /// There is no connection, or it broke during the call.
    #[error("the bus is unreachable: {0}")]
    Unreachable(String),
    /// The broker has lost data, which is being restored. Try again in about a second.
    #[error("the bus is being restored")]
    Restoring,
    /// The broker executed the call after its deadline, so the call changed nothing. Try again in about a second.
    #[error("Redis took too long to attach the session, twice; it may be overloaded or paused")]
    Late,
    /// The broker refused the command. Contains its error reply.
    #[error("the bus refused: {0}")]
    Refused(String),
    /// The configuration does not describe a bus.
    #[error("{0}")]
    Config(String),
}

/// Why a session was not attached. An earlier attachment of the session continues.
#[derive(Clone, Debug, thiserror::Error)]
pub enum AttachError {
    /// The client names a position above the session's last event.
    #[error(
        "`{position}` is beyond the session's last event, `{top}`: name an event that you received, or `0`"
    )]
    Beyond {
        /// The position that the client names.
        position: Position,
        /// The last position in the session's log.
        top: Position,
    },
    /// The bus failed.
    #[error(transparent)]
    Bus(#[from] BusError),
}

impl BusError {
    /// Returns the kind of refusal, or `None` for other errors.
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
    /// The session does not exist.
    #[error("session not found")]
    Unknown,
    /// The session ran this query before its last one.
    #[error("this query was run before")]
    Past,
    /// The session was closed.
    #[error("session is closed")]
    Closed,
    /// Another query of the session is running.
    #[error("a query is running already")]
    Busy,
    /// The bus failed.
    #[error(transparent)]
    Bus(#[from] BusError),
}

/// A query to be claimed.
#[derive(Clone, Debug)]
pub struct ClaimRequest {
    /// The client's id of the query. Repeating the claim of the last query starts nothing.
    pub query_id: String,
    /// Opaque text that is stored with the claim and returned if the claim is repeated.
    pub answer: String,
}

/// A session that is claimed for one query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The generation. The holder of the claim numbers its events 1, 2, 3 … in it.
    pub generation: u64,
    /// Set if the same query was claimed before: the answer stored with that claim. Nothing is to be started.
    pub repeat_of: Option<String>,
}

/// The outcome of an append.
#[derive(Clone, Debug, Default)]
pub struct Appended {
    /// Number of entries at the front of the batch that are settled: taken by the bus, stale or refused. The others are
    /// to be appended again.
    pub taken: usize,
    /// Number of events that the bus took and that had no subscriber.
    pub unheard: u64,
    /// Generations that are no longer the highest of their session. Their writers must stop.
    pub stale: Vec<(SessionId, u64)>,
    /// Entries that were refused for a reason that concerns only their session. Later entries of the same generation
    /// were skipped.
    pub refused: Vec<Refused>,
    /// Why the bus took nothing after the settled entries.
    pub stopped: Option<BusError>,
}

/// An entry that was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Index of the entry in the batch.
    pub index: usize,
    /// The session of the entry.
    pub session: SessionId,
    /// The generation of the entry.
    pub generation: u64,
    /// The error reply of Redis.
    pub words: String,
}

/// Where the stream of an attached session starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// After this position, up to which the client has everything.
    After(Position),
    /// After the session's stored cursor, because the client names no position.
    Cursor,
}

impl Start {
    /// Returns the position that the client names.
    pub(crate) fn named(self) -> Option<Position> {
        match self {
            Self::After(position) => Some(position),
            Self::Cursor => None,
        }
    }
}

/// A message from another process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Control {
    /// For a server: the session was closed, so the query of this generation must end.
    Cancel {
        /// The session.
        session: SessionId,
        /// The generation of the query.
        generation: u64,
    },
}

/// Why a lane ended by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LaneEnd {
    /// The session was closed, and all its events were delivered.
    SessionClosed,
    /// Another connection attached to the session.
    TakenOver,
}

/// The gateway's end of a lane. The bus calls it from the reader of its connection while the lane is locked, so the
/// methods must neither block nor call the bus.
pub trait Outlet: Send + Sync + 'static {
    /// Delivers the session's next event. The frame is to be sent verbatim.
    fn event(&self, prefix: Prefix, frame: &[u8]);

    /// Delivers the session's next event, which has just arrived from its server: it was not read from the log. Has the meaning of
    /// [`Outlet::event`].
    fn live_event(&self, prefix: Prefix, frame: &[u8]) {
        self.event(prefix, frame);
    }

    /// Reports that the positions after `from`, up to and including `to`, can no longer be delivered.
    fn gap(&self, from: Position, to: Position);

    /// Reports that the lane must read the log: call [`Attachment::catch_up`] from a task when there is room for a
    /// page.
    fn behind(&self);

    /// Reports that everything up to and including `at` was delivered, and that live events follow. Called before the
    /// first live event.
    fn caught_up(&self, at: Position) {
        let _ = at;
    }

    /// Reports that no event follows.
    fn end(&self, end: LaneEnd);
}

/// A bus. Every call may be repeated after an error.
#[async_trait]
pub trait Broker: Send + Sync + 'static {
    /// Creates an active, idle session. Does nothing if the session exists.
    async fn create(&self, session: SessionId) -> Result<(), BusError>;

    /// Claims an active, idle session for a query, and fences off every earlier writer, in one atomic step.
    async fn claim(&self, session: SessionId, request: ClaimRequest) -> Result<Claim, ClaimError>;

    /// Returns the session's last claim if it was for this query. Claims nothing.
    async fn recall(&self, session: SessionId, query_id: &str) -> Result<Option<Claim>, BusError>;

    /// Appends and publishes a batch in its order. Stops at the first entry whose refusal concerns every session
    /// ([`Appended::stopped`]). A terminator releases its claim in the same step. Append the rest again
    /// ([`Batch::advance`]): an event that is already in the log is not added twice.
    ///
    /// # Errors
    /// The bus failed before the first entry was settled.
    async fn append(&self, batch: &Batch) -> Result<Appended, BusError>;

    /// Releases the claims of queries whose terminators the log refuses for good. The terminators are published, so
    /// that connected clients receive them, and not logged. A claim of another owner or another generation is not
    /// changed. The result has the meaning of [`Broker::append`]'s.
    async fn release_claims(&self, terminators: &Batch) -> Result<Appended, BusError>;

    /// Returns the queries that this process plays. It registers each query before it claims it. Queries that the
    /// broker lists for this process and that are not registered are ended.
    fn plays(&self) -> &Arc<Plays>;

    /// Closes a session. The server of its running query is asked to end it. The session's socket ends after the last
    /// event. Returns false if the session does not exist.
    async fn close(&self, session: SessionId) -> Result<bool, BusError>;

    /// Opens the session's lane to `outlet` and takes the session over from another holder. When this returns, the
    /// subscription is live. Nothing is delivered before the first [`Attachment::catch_up`]. After an error the earlier
    /// attachment continues, unless the broker's reply was lost.
    async fn attach(
        &self,
        session: SessionId,
        start: Start,
        outlet: Arc<dyn Outlet>,
    ) -> Result<Attachment, AttachError>;

    /// Publishes a client's message on the session's up channel.
    async fn send_up(&self, session: SessionId, message: Bytes) -> Result<(), BusError>;

    /// Returns the queue of messages to this process; `None` after the first call. The queue is bounded, and messages
    /// that find it full are counted in `control_dropped`.
    fn control(&self) -> Option<mpsc::Receiver<Control>>;

    /// Takes this server off the list, so that its peers neither wait for it nor end its queries. Nothing can be
    /// claimed here afterwards. Returns false and changes nothing while a query is claimed or played here, while lost
    /// data is being restored, or while a closed session's log still lacks its end. The peers then find out later that
    /// this server is dead.
    async fn leave(&self) -> Result<bool, BusError>;

    /// Returns whether the bus can serve now.
    fn ready(&self) -> watch::Receiver<bool>;

    /// Returns what the bus has counted since it was opened.
    fn counters(&self) -> CountersSnapshot;

    /// Returns how much memory the bus's store used some seconds ago. `None` if it is not known; only servers read it.
    fn store_memory(&self) -> Option<StoreMemory> {
        None
    }
}

/// The memory of the store that keeps the sessions and their logs, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreMemory {
    /// Memory that data and connections use.
    pub used: u64,
    /// The limit at which the store refuses every write; 0 if there is none.
    pub limit: u64,
}

impl StoreMemory {
    /// Returns both values for an exporter.
    #[must_use]
    pub fn readings(&self) -> [host::Reading; 2] {
        let gauge =
            |name, help, bytes| host::Reading::gauge(name, help, i64::try_from(bytes).unwrap_or(i64::MAX));
        [
            gauge("bus_memory_used_bytes", "Memory that Redis uses", self.used),
            gauge("bus_memory_limit_bytes", "Limit of Redis' memory (maxmemory), 0: none", self.limit),
        ]
    }
}

/// Opens the bus that `config.url` names, and returns at once. A Redis that is not reachable yet is awaited in the
/// background; [`Broker::ready`] reports when it serves. Redis needs a tokio runtime.
///
/// # Errors
/// The URL names neither `memory://` nor a valid Redis URL.
pub fn open(config: BusConfig) -> Result<Arc<dyn Broker>, BusError> {
    if config.url.starts_with("memory://") {
        return Ok(Arc::new(MemoryBroker::new(config)));
    }
    Ok(Arc::new(RedisBroker::open(config)?))
}
