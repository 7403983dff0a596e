//! The bus over Redis. Hashes and streams hold the state, scripts change it in atomic steps, and pub/sub carries live
//! events. A process has one connection for commands, one for appends and up to four for subscriptions. Their number
//! does not grow with sessions.

mod append;
mod attach;
mod backend;
mod claim;
mod clock;
mod control;
mod heartbeat;
mod incarnation;
mod link;
mod lost_queries;
mod memory;
mod per_session;
mod readiness;
mod reading;
mod release_claims;
mod renewal;
mod restoration;
mod scripts;
mod subscriber;

use crate::{
    Appended, AttachError, Attachment, Batch, Broker, BusConfig, BusError, CONTROL_QUEUE, Claim, ClaimError,
    ClaimRequest, Control, Counters, CountersSnapshot, Delivery, Outlet, Role, Start, StoreMemory,
    hub::Hub,
    rules::{AcknowledgedHistory, FULL, Plays, Restoration, RestorationBarrier},
};
use async_trait::async_trait;
use bytes::Bytes;
use clock::Clock;
use incarnation::Incarnation;
use link::{CommandHooks, Link, LinkHooks};
use parking_lot::Mutex;
use per_session::SkippedSessions;
use protocol::{GapPolicy, Names, SessionId};
use readiness::Readiness;
use reading::Reading;
use redis::{
    Client, FromRedisValue, IntoConnectionInfo, ProtocolVersion, ScriptInvocation,
    aio::MultiplexedConnection, io::tcp::TcpSettings,
};
use restoration::Cursors;
use scripts::Scripts;
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Instant,
};
use subscriber::{Partition, Subscriber, SubscriberHooks};
use tokio::{
    sync::{Notify, mpsc, oneshot, watch},
    task::JoinSet,
};
use uuid::Uuid;

/// The largest number of connections that subscribe.
const MAX_SUBSCRIBERS: usize = 4;

/// A bus over Redis.
pub struct RedisBroker {
    inner: Arc<Inner>,
    control_reader: Mutex<Option<mpsc::Receiver<Control>>>,
    readiness: Readiness,
    /// The broker's background tasks, such as the supervisors of links. They end when the broker is dropped.
    _tasks: JoinSet<()>,
}

struct Inner {
    config: BusConfig,
    /// This process's name on the bus. It contains a random part, so a restarted process does not own the queries of
    /// the process before it.
    owner: String,
    names: Names,
    incarnation: Arc<Incarnation>,
    /// A server's acknowledged history, which it restores after Redis loses data.
    history: Mutex<AcknowledgedHistory>,
    /// Makes claims wait until every peer has restored its acknowledged history.
    barrier: Mutex<RestorationBarrier>,
    /// Notified when a closed session's log lacks its end because logs may not be complete.
    close_again: Notify,
    /// Number of closes whose `closed` entries may still be missing in their logs. Zero once all are written.
    unwritten_ends: AtomicU64,
    /// The cursors that a gateway released, which it restores after Redis loses data.
    cursors: Mutex<Cursors>,
    /// Sessions whose commands Redis refuses.
    skipped_sessions: SkippedSessions,
    /// The queries that this process plays.
    plays: Arc<Plays>,
    /// Requests to the heartbeat task to leave the list of servers. `None` in a process that writes no heartbeat.
    leaving: Option<mpsc::Sender<oneshot::Sender<Result<bool, BusError>>>>,
    /// This server is leaving or has left, so nothing can be claimed here.
    left: AtomicBool,
    scripts: Arc<Scripts>,
    counters: Arc<Counters>,
    hub: Arc<Hub>,
    commands: Arc<Link>,
    /// Redis' time, measured on the connection for commands.
    clock: Arc<Clock>,
    /// Redis' memory as it was read last. `None` in gateways, and while it is not known.
    memory: Mutex<Option<StoreMemory>>,
    appends: Arc<Link>,
    reading: Reading,
    subscribers: Vec<Arc<Subscriber>>,
}

impl RedisBroker {
    /// Opens a bus, and connects in the background. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// The URL is not a Redis URL.
    pub fn open(config: BusConfig) -> Result<Self, BusError> {
        let client = client(&config.url)?;
        let readiness = Readiness::new();
        let (control, control_reader) = mpsc::channel(CONTROL_QUEUE);
        let (reading, reads) = Reading::new();
        let (leaving, leaves) = mpsc::channel(1);
        let inner = Arc::new(Inner::new(config, &client, &readiness, (control, leaving, reading)));
        let mut tasks = JoinSet::new();
        inner.spawn_links(&readiness, &mut tasks);
        tasks.spawn(reading::run(inner.clone(), reads));
        tasks.spawn(restoration::run(inner.clone()));
        tasks.spawn(renewal::run(inner.clone()));
        if inner.config.role == Role::Server {
            tasks.spawn(heartbeat::run(inner.clone(), readiness.condition(), leaves));
            tasks.spawn(memory::run(inner.clone()));
        }
        Ok(Self { inner, control_reader: Mutex::new(Some(control_reader)), readiness, _tasks: tasks })
    }
}

/// Returns a client that speaks RESP3, with Nagle's algorithm off. The error does not contain the URL, which may
/// contain a password.
fn client(url: &str) -> Result<Client, BusError> {
    let wrong = |error: redis::RedisError| {
        BusError::Config(format!(
            "invalid Redis URL for REDIS_URL ({error}): expected for example redis://127.0.0.1:6379/0"
        ))
    };
    let info = url.into_connection_info().map_err(wrong)?;
    let settings = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
    let info = info.set_redis_settings(settings).set_tcp_settings(TcpSettings::default().set_nodelay(true));
    Client::open(info).map_err(wrong)
}

impl Inner {
    fn new(
        config: BusConfig,
        client: &Client,
        readiness: &Readiness,
        (control, leaving, reading): (mpsc::Sender<Control>, mpsc::Sender<heartbeat::Leave>, Reading),
    ) -> Self {
        let names = Names::with_prefix(config.name_prefix.clone());
        let owner = format!("{}.{:08x}", config.instance, Uuid::new_v4().as_fields().0);
        let counters = Arc::<Counters>::default();
        let hub = Arc::<Hub>::default();
        let scripts = Arc::new(Scripts::new());
        let incarnation = Incarnation::new(&names, scripts.clone(), readiness.condition());
        let count = config.subscriber_connections.clamp(1, MAX_SUBSCRIBERS);
        let subscribers = (0..count).map(|index| {
            let (link, partition) = (Link::new(client.clone(), "subscriber"), Partition { index, count });
            let (names, control) = (names.clone(), control.clone());
            Subscriber::new(hub.clone(), partition, link, names, &owner, control, counters.clone())
        });
        Self {
            subscribers: subscribers.collect(),
            history: Mutex::new(AcknowledgedHistory::new(
                config.keep_bytes,
                config.session_ttl,
                config.log_entries,
            )),
            barrier: Mutex::default(),
            close_again: Notify::new(),
            unwritten_ends: AtomicU64::new(0),
            cursors: Mutex::default(),
            skipped_sessions: SkippedSessions::default(),
            plays: Arc::default(),
            leaving: (config.role == Role::Server).then_some(leaving),
            left: AtomicBool::new(false),
            commands: Link::new(client.clone(), "commands"),
            clock: Arc::new(Clock::new()),
            memory: Mutex::default(),
            appends: Link::new(client.clone(), "appends"),
            config,
            owner,
            names,
            incarnation,
            scripts,
            counters,
            hub,
            reading,
        }
    }

    /// Spawns the supervisors of all links, and the tasks that send the subscribers' batches.
    fn spawn_links(&self, readiness: &Readiness, tasks: &mut JoinSet<()>) {
        let mut supervise = |link: &Arc<Link>, hooks: Arc<dyn LinkHooks>| {
            tasks.spawn(link.clone().supervise(hooks, readiness.condition(), self.counters.clone()));
        };
        let hooks = |scripts, clock: Arc<Clock>| {
            Arc::new(CommandHooks { scripts, incarnation: self.incarnation.clone(), clock })
        };
        supervise(&self.commands, hooks(Vec::new(), self.clock.clone()));
        // Each connection measures Redis' time for itself. Appends have no deadlines, so no other code reads this clock.
        supervise(&self.appends, hooks(vec![self.scripts.append.clone()], Arc::new(Clock::new())));
        for subscriber in &self.subscribers {
            supervise(subscriber.link(), Arc::new(SubscriberHooks(subscriber.clone())));
        }
        for subscriber in &self.subscribers {
            tasks.spawn(subscriber.clone().run());
        }
    }

    fn subscriber(&self, session: SessionId) -> &Arc<Subscriber> {
        &self.subscribers[Partition::index_of(session, self.subscribers.len())]
    }

    /// Returns the full time to live of keys, in seconds. Scripts renew keys when four fifths of it remain.
    fn ttl(&self) -> u64 {
        let (full, configured) = FULL;
        (self.config.session_ttl.as_secs().max(1) * full).div_ceil(configured)
    }

    fn is_logged(&self) -> bool {
        self.config.delivery == Delivery::Log
    }

    /// Returns whether lanes wait for missing events, because they may still be restored, or announce a gap.
    fn gaps(&self) -> GapPolicy {
        if self.incarnation.is_young() { GapPolicy::Wait } else { GapPolicy::Announce }
    }

    /// Checks a session that Redis does not know. Returns `Ok` if it does not exist, and [`BusError::Restoring`] if
    /// Redis may have lost it. `old`: the mark was old before Redis was asked.
    async fn is_unknown(&self, old: bool) -> Result<(), BusError> {
        let mut pipeline = redis::pipe();
        pipeline.cmd("GET").arg(self.incarnation.mark_key());
        let (mark,): (Option<Vec<u8>>,) = self.call(&pipeline).await?;
        let same = self.incarnation.check_mark(mark.as_deref());
        if same && old && !self.incarnation.is_young() { Ok(()) } else { Err(BusError::Restoring) }
    }

    /// Closes the session in Redis. Closing it again adds a `closed` entry that its log lacks. Returns false if Redis
    /// does not know the session. `old`: the mark is old.
    async fn close(&self, session: SessionId, old: bool) -> Result<bool, BusError> {
        let (mark, restoration) = self.claimable()?;
        if restoration != Restoration::Complete {
            self.unwritten_ends.fetch_add(1, Ordering::SeqCst);
            self.close_again.notify_one();
        }
        let mut script = self.scripts.close.key(self.names.meta(session));
        script
            .key(self.names.log(session))
            .key(self.incarnation.mark_key())
            .key(self.names.running(&self.owner))
            .arg(self.names.prefix())
            .arg(session.to_string())
            .arg(self.ttl())
            .arg(self.delivery())
            .arg(self.names.down(session))
            .arg(&*mark)
            .arg(u8::from(restoration == Restoration::Complete))
            .arg(u8::from(old))
            .arg(&self.owner);
        match self.invoke(&script).await? {
            -1 => Err(BusError::Restoring),
            known => Ok(known != 0),
        }
    }

    /// Remembers that a closed, idle session's log lacks its end because logs may not be complete. The session is
    /// closed again once they are.
    fn lacks_end(&self, session: SessionId) {
        self.history.lock().closed(session, Instant::now());
        self.unwritten_ends.fetch_add(1, Ordering::SeqCst);
        self.close_again.notify_one();
    }

    /// Leaves the list of servers. The heartbeat task does it, so that no heartbeat follows.
    async fn leave(&self) -> Result<bool, BusError> {
        let Some(leaving) = &self.leaving else { return Ok(true) };
        let (reply, left) = oneshot::channel();
        if leaving.send(reply).await.is_err() {
            // The heartbeat task has ended, because this server left before.
            return Ok(true);
        }
        left.await.unwrap_or(Ok(true))
    }

    fn restored(&self) -> Result<(), BusError> {
        if self.incarnation.is_restored() { Ok(()) } else { Err(BusError::Restoring) }
    }

    /// Returns whether sessions may be claimed, as far as the other servers are concerned.
    fn restoration(&self) -> Restoration {
        match self.incarnation.mark() {
            Some(mark) => self.barrier.lock().restoration(&mark, self.incarnation.is_old()),
            None => Restoration::Waiting,
        }
    }

    /// Returns the mark of the Redis from which sessions may be claimed, and whether logs are complete.
    ///
    /// # Errors
    /// Data is still being restored, or this server has left.
    fn claimable(&self) -> Result<(Arc<str>, Restoration), BusError> {
        self.restored()?;
        if self.left.load(Ordering::SeqCst) {
            return Err(BusError::Unreachable("this server has left the bus".to_owned()));
        }
        let mark = self.incarnation.mark().ok_or(BusError::Restoring)?;
        match self.barrier.lock().restoration(&mark, self.incarnation.is_old()) {
            Restoration::Waiting => Err(BusError::Restoring),
            restoration => Ok((mark, restoration)),
        }
    }

    /// Returns the mark of the Redis that a connection leads to.
    async fn identify(&self, connection: &mut MultiplexedConnection) -> Result<Arc<str>, BusError> {
        self.incarnation.check(connection).await.map_err(|error| Link::failed(&error))?;
        self.incarnation.mark().ok_or(BusError::Restoring)
    }

    fn delivery(&self) -> &'static str {
        self.config.delivery.name()
    }

    async fn invoke<T: FromRedisValue>(&self, script: &ScriptInvocation<'_>) -> Result<T, BusError> {
        let mut connection = self.commands.connection()?;
        script.invoke_async(&mut connection).await.map_err(|error| self.commands.failure(&error))
    }

    async fn call<T: FromRedisValue>(&self, pipeline: &redis::Pipeline) -> Result<T, BusError> {
        let mut connection = self.commands.connection()?;
        pipeline.query_async(&mut connection).await.map_err(|error| self.commands.failure(&error))
    }
}

#[async_trait]
impl Broker for RedisBroker {
    async fn create(&self, session: SessionId) -> Result<(), BusError> {
        let meta = self.inner.names.meta(session);
        let mut pipeline = redis::pipe();
        pipeline.cmd("HSETNX").arg(&meta).arg("status").arg("active").ignore();
        for key in renewal::keys(&self.inner, session) {
            pipeline.cmd("EXPIRE").arg(key).arg(self.inner.ttl()).ignore();
        }
        let () = self.inner.call(&pipeline).await?;
        self.inner.history.lock().created(session, Instant::now());
        Ok(())
    }

    async fn claim(&self, session: SessionId, request: ClaimRequest) -> Result<Claim, ClaimError> {
        claim::claim(&self.inner, session, &request).await
    }

    async fn recall(&self, session: SessionId, query_id: &str) -> Result<Option<Claim>, BusError> {
        claim::recall(&self.inner, session, query_id).await
    }

    async fn append(&self, batch: &Batch) -> Result<Appended, BusError> {
        append::append(&self.inner, batch).await
    }

    async fn release_claims(&self, terminators: &Batch) -> Result<Appended, BusError> {
        release_claims::release_claims(&self.inner, terminators).await
    }

    fn plays(&self) -> &Arc<Plays> {
        &self.inner.plays
    }

    async fn close(&self, session: SessionId) -> Result<bool, BusError> {
        let inner = &self.inner;
        let old = inner.incarnation.is_old();
        let known = inner.close(session, old).await?;
        if known {
            inner.history.lock().closed(session, Instant::now());
        } else {
            inner.is_unknown(old).await?;
        }
        Ok(known)
    }

    async fn attach(
        &self,
        session: SessionId,
        start: Start,
        outlet: Arc<dyn Outlet>,
    ) -> Result<Attachment, AttachError> {
        attach::attach(&self.inner, session, start, outlet).await
    }

    async fn send_up(&self, session: SessionId, message: Bytes) -> Result<(), BusError> {
        let mut pipeline = redis::pipe();
        pipeline.cmd("PUBLISH").arg(self.inner.names.up(session)).arg(&message[..]).ignore();
        self.inner.call(&pipeline).await
    }

    fn control(&self) -> Option<mpsc::Receiver<Control>> {
        self.control_reader.lock().take()
    }

    async fn leave(&self) -> Result<bool, BusError> {
        self.inner.leave().await
    }

    fn ready(&self) -> watch::Receiver<bool> {
        self.readiness.subscribe()
    }

    fn counters(&self) -> CountersSnapshot {
        self.inner.counters.snapshot()
    }

    fn store_memory(&self) -> Option<StoreMemory> {
        *self.inner.memory.lock()
    }
}
