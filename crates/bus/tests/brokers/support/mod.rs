//! What the tests of the bus share: a private Redis that ends with its owner, and an outlet that records what it
//! receives.

mod private_redis;
pub mod servers;

pub use private_redis::PrivateRedis;

use bus::{
    AttachError, Attachment, Batch, Broker, BusConfig, BusError, CatchUp, Claim, ClaimError, ClaimRequest,
    Delivery, LaneEnd, Outlet, Refusal, Role, Start,
};
use protocol::{Kind, Position, Prefix, SessionId, encode_done, encode_token};
use redis::{FromRedisValue, aio::MultiplexedConnection};
use std::{
    ops::RangeInclusive,
    process::Command,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{sync::Notify, time::timeout};
use uuid::Uuid;

/// Time limit of every wait. Nothing takes this long unless it never happens.
pub const PATIENCE: Duration = Duration::from_secs(10);

impl PrivateRedis {
    /// Kills the server and starts it again without its data.
    pub fn restart_empty(&mut self) {
        self.end();
        self.launch();
    }

    /// Stops the process for a while. Its connections stay open.
    pub async fn pause(&self, time: Duration) {
        let pid = self.pid().to_string();
        let signal = |name: &str| Command::new("kill").args([name, &pid]).status().expect("kill runs");
        assert!(signal("-STOP").success());
        tokio::time::sleep(time).await;
        assert!(signal("-CONT").success());
    }

    /// Makes the mark old, so that no restoration is awaited.
    pub async fn age(&self) {
        let mut connection = self.connection().await;
        let info: redis::InfoDict = ask(&mut connection, "INFO server").await;
        let run_id: String = info.get("run_id").expect("a run id");
        command(&mut connection, &format!("MSET test:bus:mark old:1 test:bus:run {run_id}")).await;
    }

    /// Returns a connection that the bus does not use, once the server replies.
    pub async fn connection(&self) -> MultiplexedConnection {
        let client = redis::Client::open(self.url()).expect("a url");
        let mut connection = None;
        eventually("redis-server replies", async || {
            connection = client.get_multiplexed_async_connection().await.ok();
            connection.is_some()
        })
        .await;
        connection.expect("it was set")
    }
}

/// Sends a command whose words are separated by spaces. Returns the reply.
pub async fn ask<T: FromRedisValue>(connection: &mut MultiplexedConnection, text: &str) -> T {
    let mut words = text.split(' ');
    let mut command = redis::cmd(words.next().expect("a command"));
    command.arg(words.collect::<Vec<_>>());
    command.query_async(connection).await.unwrap_or_else(|error| panic!("{text}: {error}"))
}

/// Sends a command whose words are separated by spaces.
pub async fn command(connection: &mut MultiplexedConnection, text: &str) {
    ask::<()>(connection, text).await;
}

/// Waits until `done` returns true.
pub async fn eventually(what: &str, mut done: impl AsyncFnMut() -> bool) {
    let wait = async {
        while !done().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("waited for {what}"));
}

/// A bus as seen by one server and two gateways.
pub struct Fixture {
    pub server: Arc<dyn Broker>,
    pub gateway: Arc<dyn Broker>,
    pub other_gateway: Arc<dyn Broker>,
    /// `None` on the memory bus. Last, so that it outlives its clients.
    pub redis: Option<PrivateRedis>,
}

/// Opens a process's bus over this Redis.
pub fn open(redis: &PrivateRedis, instance: &str, role: Role, adjust: Adjust) -> Arc<dyn Broker> {
    let mut config = BusConfig::new(redis.url(), instance);
    config.role = role;
    config.name_prefix = "test:".to_owned();
    config.subscriber_connections = 3;
    adjust(&mut config);
    bus::open(config).expect("a Redis bus")
}

pub type Adjust = fn(&mut BusConfig);

impl Fixture {
    pub async fn memory(adjust: Adjust) -> Self {
        let mut config = BusConfig::new("memory://", "all");
        adjust(&mut config);
        let bus = bus::open(config).expect("the memory bus");
        Self { server: bus.clone(), gateway: bus.clone(), other_gateway: bus, redis: None }
    }

    pub async fn redis(adjust: Adjust) -> Self {
        let redis = PrivateRedis::start();
        redis.age().await;
        let open = |instance: &str, role| open(&redis, instance, role, adjust);
        let server = open("server", Role::Server);
        let (gateway, other_gateway) = (open("gateway", Role::Gateway), open("other-gateway", Role::Gateway));
        for bus in [&server, &gateway, &other_gateway] {
            ready(bus).await;
        }
        Self { server, gateway, other_gateway, redis: Some(redis) }
    }

    pub fn redis_server(&self) -> &PrivateRedis {
        self.redis.as_ref().expect("the fixture has a Redis")
    }

    /// Returns a connection to Redis that the bus does not use.
    pub async fn connection(&self) -> MultiplexedConnection {
        self.redis_server().connection().await
    }

    /// Creates a session.
    pub async fn session(&self) -> SessionId {
        let session = SessionId::new(Uuid::new_v4());
        self.server.create(session).await.expect("create");
        session
    }

    /// Opens the bus of another server.
    pub async fn open_server(&self, instance: &str) -> Arc<dyn Broker> {
        let server = open(self.redis_server(), instance, Role::Server, unchanged);
        ready(&server).await;
        server
    }

    /// Creates a session and attaches it to the gateway.
    pub async fn live(&self) -> (SessionId, Reader) {
        self.live_from(Start::Cursor).await
    }

    /// Creates a session and attaches a reader that starts there, until it is live.
    pub async fn live_from(&self, start: Start) -> (SessionId, Reader) {
        let session = self.session().await;
        (session, Reader::live(&self.gateway, session, start).await)
    }

    /// Claims the session for a query. Returns the generation.
    pub async fn claim(&self, session: SessionId, query: &str) -> u64 {
        self.server.claim(session, request(query, "")).await.expect("claim").generation
    }

    /// Claims the session and plays a query of this many tokens. Returns the generation.
    pub async fn play(&self, session: SessionId, query: &str, tokens: u64) -> u64 {
        let generation = self.claim(session, query).await;
        self.server.append(&query_batch(session, generation, 1..=tokens, true)).await.expect("append");
        generation
    }
}

pub async fn ready(bus: &Arc<dyn Broker>) {
    let mut ready = bus.ready();
    timeout(PATIENCE, ready.wait_for(|&ready| ready)).await.expect("the bus becomes ready").expect("a watch");
}

pub fn request(query_id: &str, answer: &str) -> ClaimRequest {
    ClaimRequest { query_id: query_id.to_owned(), answer: answer.to_owned() }
}

/// Claims as a server does: again while Redis is unreachable, refuses for now, or is being restored.
pub async fn claim(bus: &Arc<dyn Broker>, session: SessionId, query: &str) -> Result<Claim, ClaimError> {
    let mut claimed = None;
    eventually("a claim", async || {
        let outcome = bus.claim(session, request(query, "")).await;
        let again = |error: &ClaimError| matches!(error, ClaimError::Bus(error) if error.refusal() != Some(Refusal::Final));
        claimed = Some(outcome).filter(|outcome| !outcome.as_ref().is_err_and(again));
        claimed.is_some()
    })
    .await;
    claimed.expect("it was set")
}

/// Returns the key of a part of a session: `meta`, `log` or `attach`.
pub fn key(session: SessionId, part: &str) -> String {
    format!("test:session:{session}:{part}")
}

/// Replaces a session's log by a string, so that Redis refuses to read it and to add to it.
pub async fn make_log_unusable(connection: &mut MultiplexedConnection, session: SessionId) {
    command(connection, &format!("SET {} unusable", key(session, "log"))).await;
}

/// Returns the tokens `seqs` of a generation, and the terminator after them if `done`.
pub fn query_batch(session: SessionId, generation: u64, seqs: RangeInclusive<u64>, done: bool) -> Batch {
    let mut batch = Batch::default();
    let last = *seqs.end();
    for seq in seqs {
        let at = Position::new(generation, seq);
        batch.push(session, at, Kind::Token, |out| encode_token(out, at, "word ", "q", 1, 2));
    }
    if done {
        let at = Position::new(generation, last + 1);
        batch.push(session, at, Kind::Done, |out| encode_done(out, at, "q", 1, 2));
    }
    batch
}

/// Returns the terminator of a query, at this sequence number.
pub fn terminator_batch(session: SessionId, generation: u64, seq: u64) -> Batch {
    query_batch(session, generation, RangeInclusive::new(seq, seq - 1), true)
}

/// Returns the positions that a client of this query receives: its tokens and the terminator.
pub fn expected(generation: u64, tokens: u64) -> Vec<Position> {
    (1..=tokens + 1).map(|seq| Position::new(generation, seq)).collect()
}

#[derive(Debug, Default)]
pub struct Recorded {
    pub events: Vec<Position>,
    pub gaps: Vec<(Position, Position)>,
    pub end: Option<LaneEnd>,
    behind: bool,
}

/// An outlet that records everything it receives.
#[derive(Default)]
pub struct Recorder {
    recorded: Mutex<Recorded>,
    changed: Notify,
}

impl Recorder {
    pub fn read<T>(&self, look: impl FnOnce(&mut Recorded) -> T) -> T {
        look(&mut self.recorded.lock().expect("no test panics while it holds the lock"))
    }

    fn change(&self, change: impl FnOnce(&mut Recorded)) {
        self.read(change);
        self.changed.notify_one();
    }

    pub fn events(&self) -> Vec<Position> {
        self.read(|recorded| recorded.events.clone())
    }
}

impl Outlet for Recorder {
    fn event(&self, prefix: Prefix, frame: &[u8]) {
        assert_eq!(Prefix::parse(frame), Some(prefix));
        self.change(|recorded| recorded.events.push(prefix.position));
    }

    fn gap(&self, from: Position, to: Position) {
        self.change(|recorded| recorded.gaps.push((from, to)));
    }

    fn behind(&self) {
        self.change(|recorded| recorded.behind = true);
    }

    fn end(&self, end: LaneEnd) {
        self.change(|recorded| assert!(recorded.end.replace(end).is_none(), "a lane ends once"));
    }
}

/// An attached lane, with a recorder in place of a socket.
pub struct Reader {
    pub attachment: Attachment,
    pub recorder: Arc<Recorder>,
}

impl Reader {
    /// Attaches. Repeats the call while the broker is being restored, as a client does.
    pub async fn attach(bus: &Arc<dyn Broker>, session: SessionId, start: Start) -> Self {
        let (recorder, mut attachment) = (Arc::new(Recorder::default()), None);
        eventually("the restoration", async || {
            attachment = match bus.attach(session, start, recorder.clone()).await {
                Err(AttachError::Bus(BusError::Restoring)) => None,
                attached => Some(attached.expect("attach")),
            };
            attachment.is_some()
        })
        .await;
        Self { attachment: attachment.expect("it was set"), recorder }
    }

    /// Attaches and catches up.
    pub async fn live(bus: &Arc<dyn Broker>, session: SessionId, start: Start) -> Self {
        let reader = Self::attach(bus, session, start).await;
        reader.catch_up().await;
        reader
    }

    /// Reads the log in small pages until the lane is live or has ended. Reads again what the log still lacks, as a
    /// gateway does.
    pub async fn catch_up(&self) {
        let pages = async {
            loop {
                match self.attachment.catch_up(7).await {
                    Ok(CatchUp::More) => {}
                    Ok(CatchUp::Live { .. } | CatchUp::Ended) => return,
                    Ok(CatchUp::Wait) | Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
                }
            }
        };
        timeout(PATIENCE, pages).await.expect("the log has everything in time");
    }

    /// Keeps the lane caught up, as a gateway does, until `done` returns true.
    pub async fn until(&self, what: &str, mut done: impl FnMut(&Recorded) -> bool) {
        let wait = async {
            loop {
                if self.recorder.read(|recorded| std::mem::take(&mut recorded.behind)) {
                    self.catch_up().await;
                }
                if self.recorder.read(|recorded| done(recorded)) {
                    return;
                }
                self.recorder.changed.notified().await;
            }
        };
        if timeout(PATIENCE, wait).await.is_err() {
            panic!("waited for {what}: {:?}", self.recorder.read(|recorded| format!("{recorded:?}")));
        }
    }

    /// Waits until the lane ends.
    pub async fn until_end(&self, end: LaneEnd) {
        self.until("the end", |recorded| recorded.end == Some(end)).await;
    }

    pub async fn until_events(&self, expected: &[Position]) {
        self.until("events", |recorded| recorded.events.len() >= expected.len()).await;
        assert_eq!(self.recorder.events(), expected);
    }
}

pub fn with_pubsub(config: &mut BusConfig) {
    config.delivery = Delivery::PubSub;
}

pub fn with_short_log(config: &mut BusConfig) {
    config.log_entries = 5;
}

pub fn unchanged(_: &mut BusConfig) {}
