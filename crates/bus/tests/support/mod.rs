//! What the bus's tests stand on: a private Redis that ends with its owner, and an outlet that takes notes.

use bus::{
    AttachError, Attachment, Batch, Broker, BusConfig, BusError, CatchUp, ClaimRequest, Delivery, LaneEnd,
    Outlet, Role,
};
use protocol::{Kind, Position, Prefix, SessionId, encode_done, encode_token};
use std::{
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{sync::Notify, time::timeout};
use uuid::Uuid;

/// Nothing here takes longer, unless it never comes.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// A `redis-server` of one's own, on a unix socket in a directory of its own.
pub struct PrivateRedis {
    child: Option<Child>,
    directory: tempfile::TempDir,
}

impl PrivateRedis {
    /// Not started yet.
    pub fn prepare() -> Self {
        Self { child: None, directory: tempfile::tempdir().expect("a temporary directory") }
    }

    pub fn start() -> Self {
        let mut redis = Self::prepare();
        redis.launch();
        redis
    }

    pub fn launch(&mut self) {
        // setpriv ends the server even where this process is killed and runs no destructor.
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "redis-server", "--port", "0", "--save", "", "--appendonly", "no"])
            .arg("--unixsocket")
            .arg(self.directory.path().join("redis.sock"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("start redis-server: run scripts/test.sh, which installs it");
        self.child = Some(child);
    }

    /// Kills the server and starts it again, without its data.
    pub fn restart_empty(&mut self) {
        self.end();
        self.launch();
    }

    /// Stops the process for a while; its connections stay.
    pub async fn pause(&self, time: Duration) {
        let pid = self.child.as_ref().expect("it runs").id().to_string();
        let signal = |name: &str| Command::new("kill").args([name, &pid]).status().expect("kill runs");
        assert!(signal("-STOP").success());
        tokio::time::sleep(time).await;
        assert!(signal("-CONT").success());
    }

    fn end(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    pub fn url(&self) -> String {
        format!("redis+unix://{}", self.directory.path().join("redis.sock").display())
    }

    /// Makes Redis old: as if it had been up for long, so that nothing is waited for.
    pub async fn age(&self) {
        let mut connection = self.connection().await;
        let info: redis::InfoDict =
            redis::cmd("INFO").arg("server").query_async(&mut connection).await.expect("INFO");
        let run_id: String = info.get("run_id").expect("a run id");
        let mut set = redis::cmd("MSET");
        set.arg("test:bus:mark").arg("old:1").arg("test:bus:run").arg(run_id);
        let () = set.query_async(&mut connection).await.expect("MSET");
    }

    /// A connection beside the bus, once the server answers.
    pub async fn connection(&self) -> redis::aio::MultiplexedConnection {
        let client = redis::Client::open(self.url()).expect("a url");
        timeout(PATIENCE, async {
            loop {
                match client.get_multiplexed_async_connection().await {
                    Ok(connection) => return connection,
                    Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
                }
            }
        })
        .await
        .expect("redis-server answers")
    }
}

impl Drop for PrivateRedis {
    fn drop(&mut self) {
        self.end();
    }
}

/// One server's and two gateways' view of one bus.
pub struct Fixture {
    pub server: Arc<dyn Broker>,
    pub gateway: Arc<dyn Broker>,
    pub other_gateway: Arc<dyn Broker>,
    /// `None` on the memory bus. Last, so that it outlives its clients.
    pub redis: Option<PrivateRedis>,
}

/// A process's bus over this Redis.
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

    /// A session that exists.
    pub async fn session(&self) -> SessionId {
        let session = SessionId::new(Uuid::new_v4());
        self.server.create(session).await.expect("create");
        session
    }

    /// Claims the session for a query of its own.
    pub async fn claim(&self, session: SessionId, query: &str) -> u64 {
        let request = ClaimRequest { query_id: query.to_owned(), answer: String::new() };
        self.server.claim(session, request).await.expect("claim").generation
    }

    /// Claims the session and plays a whole query of so many tokens.
    pub async fn play(&self, session: SessionId, query: &str, tokens: u64) -> u64 {
        let generation = self.claim(session, query).await;
        self.server.append(&query_batch(session, generation, 1..=tokens, true)).await.expect("append");
        generation
    }
}

pub async fn ready(bus: &Arc<dyn Broker>) {
    let mut ready = bus.ready();
    timeout(PATIENCE, ready.wait_for(|&ready| ready)).await.expect("the bus gets ready").expect("a watch");
}

/// Tokens `seqs` of a generation, and its terminator behind them where asked for.
pub fn query_batch(
    session: SessionId,
    generation: u64,
    seqs: std::ops::RangeInclusive<u64>,
    done: bool,
) -> Batch {
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

/// The positions that a client of this query gets: its tokens and the terminator.
pub fn expected(generation: u64, tokens: u64) -> Vec<Position> {
    (1..=tokens + 1).map(|seq| Position::new(generation, seq)).collect()
}

#[derive(Debug, Default)]
pub struct Notes {
    pub events: Vec<Position>,
    pub gaps: Vec<(Position, Position)>,
    pub end: Option<LaneEnd>,
    behind: bool,
}

/// An outlet that takes notes of all that it hears.
#[derive(Default)]
pub struct Notebook {
    notes: Mutex<Notes>,
    changed: Notify,
}

impl Notebook {
    pub fn read<T>(&self, look: impl FnOnce(&mut Notes) -> T) -> T {
        look(&mut self.notes.lock().expect("no test panics with the notes in hand"))
    }

    fn change(&self, change: impl FnOnce(&mut Notes)) {
        self.read(change);
        self.changed.notify_one();
    }

    pub fn events(&self) -> Vec<Position> {
        self.read(|notes| notes.events.clone())
    }
}

impl Outlet for Notebook {
    fn event(&self, prefix: Prefix, frame: &[u8]) {
        assert_eq!(Prefix::parse(frame), Some(prefix));
        self.change(|notes| notes.events.push(prefix.position));
    }

    fn gap(&self, from: Position, to: Position) {
        self.change(|notes| notes.gaps.push((from, to)));
    }

    fn behind(&self) {
        self.change(|notes| notes.behind = true);
    }

    fn end(&self, end: LaneEnd) {
        self.change(|notes| assert!(notes.end.replace(end).is_none(), "a lane ends once"));
    }
}

/// An attached socket without the socket.
pub struct Reader {
    pub attachment: Attachment,
    pub notebook: Arc<Notebook>,
}

impl Reader {
    /// Attaches; where the broker is being given back what it forgot, again in a moment, as a client does.
    pub async fn attach(bus: &Arc<dyn Broker>, session: SessionId, start: bus::Start) -> Self {
        let notebook = Arc::new(Notebook::default());
        let attached = async {
            loop {
                match bus.attach(session, start, notebook.clone()).await {
                    Err(AttachError::Bus(BusError::Restoring)) => {
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                    attached => return attached.expect("attach"),
                }
            }
        };
        let attachment = timeout(PATIENCE, attached).await.expect("restored in time");
        Self { attachment, notebook }
    }

    /// Attached and caught up.
    pub async fn live(bus: &Arc<dyn Broker>, session: SessionId, start: bus::Start) -> Self {
        let reader = Self::attach(bus, session, start).await;
        reader.catch_up().await;
        reader
    }

    /// Reads the log in small pages until live or ended; what it lacks is asked for again, as a gateway does.
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

    /// Keeps the lane caught up, as a gateway does, until the notes say what is waited for.
    pub async fn until(&self, what: &str, mut done: impl FnMut(&Notes) -> bool) {
        let wait = async {
            loop {
                if self.notebook.read(|notes| std::mem::take(&mut notes.behind)) {
                    self.catch_up().await;
                }
                if self.notebook.read(|notes| done(notes)) {
                    return;
                }
                self.notebook.changed.notified().await;
            }
        };
        if timeout(PATIENCE, wait).await.is_err() {
            panic!("waited for {what}: {:?}", self.notebook.read(|notes| format!("{notes:?}")));
        }
    }

    pub async fn until_events(&self, expected: &[Position]) {
        self.until("events", |notes| notes.events.len() >= expected.len()).await;
        assert_eq!(self.notebook.events(), expected);
    }
}

pub fn with_pubsub(config: &mut BusConfig) {
    config.delivery = Delivery::PubSub;
}

pub fn with_short_log(config: &mut BusConfig) {
    config.log_entries = 5;
}

pub fn as_it_is(_: &mut BusConfig) {}
