//! The bus over Redis: hashes for what is atomic, a stream a session for its log, pub/sub for what is live.
//! One connection for commands, one for appends, one to four that subscribe; their number never grows with sessions.

mod append;
mod attach;
mod backend;
mod clock;
mod heartbeat;
mod incarnation;
mod link;
mod note;
mod per_session;
mod readiness;
mod reading;
mod release;
mod renewal;
mod restoration;
mod scripts;
mod subscriber;

use crate::{
    Appended, AttachError, Attachment, Batch, Broker, BusConfig, BusError, Claim, ClaimError, ClaimRequest,
    Control, Counters, CountersSnapshot, Delivery, Outlet, Role, Start,
    hub::Hub,
    memory::CONTROL_QUEUE,
    rules::{AcknowledgedHistory, Plays, RestorationBarrier, Standing},
};
use async_trait::async_trait;
use bytes::Bytes;
use clock::Clock;
use incarnation::Incarnation;
use link::{Commands, Link, Purpose};
use parking_lot::Mutex;
use per_session::LeftOut;
use protocol::{GapPolicy, Names, SessionId};
use readiness::Readiness;
use reading::Reading;
use redis::{
    Client, FromRedisValue, IntoConnectionInfo, ProtocolVersion, ScriptInvocation, io::tcp::TcpSettings,
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
use subscriber::{Share, Subscriber, Subscribing};
use tokio::{
    sync::{Notify, mpsc, oneshot, watch},
    task::JoinSet,
};
use uuid::Uuid;

/// The most connections that subscribe.
const MAX_SUBSCRIBERS: usize = 4;

/// A bus over Redis.
pub struct RedisBroker {
    inner: Arc<Inner>,
    control_reader: Mutex<Option<mpsc::Receiver<Control>>>,
    readiness: Readiness,
    /// The links' supervisors; they end with the broker.
    _tasks: JoinSet<()>,
}

struct Inner {
    config: BusConfig,
    /// This process's name on the bus. One that starts again is another: nobody takes its queries for those of the first.
    owner: String,
    names: Names,
    incarnation: Arc<Incarnation>,
    /// A server's acknowledged history, which it restores after Redis loses data.
    history: Mutex<AcknowledgedHistory>,
    /// Makes claims wait until every peer has restored its acknowledged history.
    barrier: Mutex<RestorationBarrier>,
    /// A session was closed whose log may not be whole.
    unmarked: Notify,
    /// How often something was closed whose end may still be missing in its log. Zero once all ends are written.
    open_ends: AtomicU64,
    /// A gateway's memory of what it released.
    cursors: Mutex<Cursors>,
    /// Sessions whose commands Redis refuses.
    left_out: LeftOut,
    /// The queries that this process plays.
    plays: Arc<Plays>,
    /// Asks the heartbeat's task to leave the other servers; `None` in a process that writes no heartbeat.
    leaving: Option<mpsc::Sender<oneshot::Sender<Result<bool, BusError>>>>,
    /// This server leaves, or has left: nothing can be claimed here.
    left: AtomicBool,
    scripts: Arc<Scripts>,
    counters: Arc<Counters>,
    hub: Arc<Hub>,
    commands: Arc<Link>,
    /// Redis' time as the command link knows it.
    clock: Arc<Clock>,
    appends: Arc<Link>,
    reading: Reading,
    subscribers: Vec<Arc<Subscriber>>,
}

impl RedisBroker {
    /// Starts connecting in the background; must be called inside a tokio runtime.
    ///
    /// # Errors
    /// The URL is no Redis URL.
    pub fn open(config: BusConfig) -> Result<Self, BusError> {
        let client = client(&config.url)?;
        let names = Names::with_prefix(config.name_prefix.clone());
        let owner = format!("{}.{:08x}", config.instance, Uuid::new_v4().as_fields().0);
        let counters = Arc::<Counters>::default();
        let hub = Arc::<Hub>::default();
        let readiness = Readiness::new();
        let scripts = Arc::new(Scripts::new());
        let incarnation = Incarnation::new(&names, scripts.clone(), readiness.link());
        let mut tasks = JoinSet::new();
        let (control, control_reader) = mpsc::channel(CONTROL_QUEUE);
        let mut supervise = |link: &Arc<Link>, purpose: Arc<dyn Purpose>| {
            tasks.spawn(link.clone().supervise(purpose, readiness.link(), counters.clone()));
        };

        let commands_for = |scripts, clock: &Arc<Clock>| {
            Arc::new(Commands { scripts, incarnation: incarnation.clone(), clock: clock.clone() })
        };
        let (clock, appends_clock) = (Arc::new(Clock::new()), Arc::new(Clock::new()));
        let commands = Link::new(client.clone(), "commands");
        supervise(&commands, commands_for(Vec::new(), &clock));
        let appends = Link::new(client.clone(), "appends");
        supervise(&appends, commands_for(vec![scripts.append.clone()], &appends_clock));
        let of = config.subscriber_connections.clamp(1, MAX_SUBSCRIBERS);
        let subscribers: Vec<_> = (0..of)
            .map(|index| {
                let link = Link::new(client.clone(), "subscriber");
                let subscriber = Subscriber::new(
                    hub.clone(),
                    Share { index, of },
                    link.clone(),
                    names.clone(),
                    &owner,
                    control.clone(),
                    counters.clone(),
                );
                supervise(&link, Arc::new(Subscribing(subscriber.clone())));
                subscriber
            })
            .collect();
        for subscriber in &subscribers {
            tasks.spawn(subscriber.clone().run());
        }
        let history =
            Mutex::new(AcknowledgedHistory::new(config.keep_bytes, config.session_ttl, config.log_entries));
        let cursors = Mutex::default();
        let (reading, reads) = Reading::new();
        let (leaving, leaves) = mpsc::channel(1);
        let role = config.role;
        let inner = Arc::new(Inner {
            config,
            owner,
            names,
            incarnation,
            history,
            barrier: Mutex::default(),
            unmarked: Notify::new(),
            open_ends: AtomicU64::new(0),
            cursors,
            left_out: LeftOut::default(),
            plays: Arc::default(),
            leaving: (role == Role::Server).then_some(leaving),
            left: AtomicBool::new(false),
            scripts,
            counters,
            hub,
            commands,
            clock,
            appends,
            reading,
            subscribers,
        });
        tasks.spawn(reading::run(inner.clone(), reads));
        tasks.spawn(restoration::run(inner.clone()));
        tasks.spawn(renewal::run(inner.clone()));
        if role == Role::Server {
            tasks.spawn(heartbeat::run(inner.clone(), readiness.link(), leaves));
        }
        Ok(Self { inner, control_reader: Mutex::new(Some(control_reader)), readiness, _tasks: tasks })
    }
}

/// A client that speaks RESP3 without Nagle's delay. The error never holds the URL: it may hold a password.
fn client(url: &str) -> Result<Client, BusError> {
    let wrong = |error: redis::RedisError| BusError::Config(format!("REDIS_URL is no Redis URL: {error}"));
    let info = url.into_connection_info().map_err(wrong)?;
    let settings = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
    let info = info.set_redis_settings(settings).set_tcp_settings(TcpSettings::default().set_nodelay(true));
    Client::open(info).map_err(wrong)
}

impl Inner {
    fn subscriber(&self, session: SessionId) -> &Arc<Subscriber> {
        &self.subscribers[Share::index_of(session, self.subscribers.len())]
    }

    fn ttl(&self) -> u64 {
        self.config.session_ttl.as_secs().max(1)
    }

    fn is_logged(&self) -> bool {
        self.config.delivery == Delivery::Log
    }

    /// Whether events that a log lacks may still be given back to it.
    fn gaps(&self) -> GapPolicy {
        if self.incarnation.is_young() { GapPolicy::Wait } else { GapPolicy::Announce }
    }

    /// A session that Redis does not know: it never did, unless it forgot. `old`: its mark was old before Redis was asked.
    async fn is_unknown(&self, old: bool) -> Result<(), BusError> {
        let mut pipeline = redis::pipe();
        pipeline.cmd("GET").arg(self.incarnation.mark_key());
        let (mark,): (Option<Vec<u8>>,) = self.call(&pipeline).await?;
        let same = self.incarnation.saw_mark(mark.as_deref());
        if same && old && !self.incarnation.is_young() { Ok(()) } else { Err(BusError::Restoring) }
    }

    /// Closes the session in Redis; `old` where its mark is old. Said again, it marks a log that lacks its end. False for one that Redis does not know.
    async fn close(&self, session: SessionId, old: bool) -> Result<bool, BusError> {
        let (mark, standing) = self.claimable()?;
        if standing != Standing::Whole {
            self.open_ends.fetch_add(1, Ordering::SeqCst);
            self.unmarked.notify_one();
        }
        let mut script = self.scripts.close.key(self.names.meta(session));
        script
            .key(self.names.log(session))
            .key(self.incarnation.mark_key())
            .arg(self.names.prefix())
            .arg(session.to_string())
            .arg(self.ttl())
            .arg(self.delivery())
            .arg(self.names.down(session))
            .arg(&*mark)
            .arg(u8::from(standing == Standing::Whole))
            .arg(u8::from(old));
        match self.invoke(&script).await? {
            -1 => Err(BusError::Restoring),
            known => Ok(known != 0),
        }
    }

    /// The session is closed and idle, and its log lacks its end because it may not be whole: it is closed again once it is.
    fn lacks_end(&self, session: SessionId) {
        self.history.lock().closed(session, Instant::now());
        self.open_ends.fetch_add(1, Ordering::SeqCst);
        self.unmarked.notify_one();
    }

    /// Leaves the other servers. The heartbeat's task does it, so that no heartbeat follows.
    async fn leave(&self) -> Result<bool, BusError> {
        let Some(leaving) = &self.leaving else { return Ok(true) };
        let (reply, left) = oneshot::channel();
        if leaving.send(reply).await.is_err() {
            // It has left before.
            return Ok(true);
        }
        left.await.unwrap_or(Ok(true))
    }

    fn restored(&self) -> Result<(), BusError> {
        if self.incarnation.is_restored() { Ok(()) } else { Err(BusError::Restoring) }
    }

    /// Whether sessions may be claimed from the Redis that is known, as far as the other servers are concerned.
    fn standing(&self) -> Standing {
        match self.incarnation.mark() {
            Some(mark) => self.barrier.lock().standing(&mark, self.incarnation.is_old()),
            None => Standing::Waiting,
        }
    }

    /// The mark of a Redis from which sessions may be claimed, and whether its logs are whole.
    fn claimable(&self) -> Result<(Arc<str>, Standing), BusError> {
        self.restored()?;
        if self.left.load(Ordering::SeqCst) {
            return Err(BusError::Unreachable("this server has left the bus".to_owned()));
        }
        let mark = self.incarnation.mark().ok_or(BusError::Restoring)?;
        match self.barrier.lock().standing(&mark, self.incarnation.is_old()) {
            Standing::Waiting => Err(BusError::Restoring),
            standing => Ok((mark, standing)),
        }
    }

    fn delivery(&self) -> &'static str {
        match self.config.delivery {
            Delivery::Log => "log",
            Delivery::PubSub => "pubsub",
        }
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
        pipeline.cmd("EXPIRE").arg(&meta).arg(self.inner.ttl()).ignore();
        let () = self.inner.call(&pipeline).await?;
        self.inner.history.lock().created(session, Instant::now());
        Ok(())
    }

    async fn claim(&self, session: SessionId, request: ClaimRequest) -> Result<Claim, ClaimError> {
        let inner = &self.inner;
        let old = inner.incarnation.is_old();
        let (mark, standing) = inner.claimable()?;
        let known = inner.history.lock().get(session).map_or(0, |kept| kept.generation);
        let mut script = inner.scripts.claim.key(inner.names.meta(session));
        script
            .key(inner.names.log(session))
            .key(inner.names.attach(session))
            .key(inner.names.running(&inner.owner))
            .key(inner.incarnation.mark_key())
            .key(inner.names.servers())
            .arg(&request.query_id)
            .arg(&request.answer)
            .arg(&inner.owner)
            .arg(inner.ttl())
            .arg(inner.config.log_entries)
            .arg(inner.delivery())
            .arg(inner.names.down(session))
            .arg(session.to_string())
            .arg(&*mark)
            .arg(known)
            .arg(u8::from(standing == Standing::Whole))
            .arg(u8::from(old));
        let (outcome, generation, prev, kept): (String, u64, String, String) = inner.invoke(&script).await?;
        let repeated = match outcome.as_str() {
            "claimed" => false,
            "repeat" => true,
            "past" => return Err(ClaimError::Past),
            "closed" => return Err(ClaimError::Closed),
            "busy" => return Err(ClaimError::Busy),
            "lost" => {
                inner.incarnation.saw_mark(Some(kept.as_bytes()));
                return Err(BusError::Restoring.into());
            }
            // A peer has removed this server: its next heartbeat lists it again.
            "unlisted" => return Err(BusError::Restoring.into()),
            _ => {
                inner.is_unknown(old).await?;
                return Err(ClaimError::Unknown);
            }
        };
        // A claim whose answer was lost comes back as a repeat of itself: then it is this server's all the same.
        if !repeated || kept == request.answer {
            let prev = prev.parse().ok();
            let ClaimRequest { query_id, answer } = &request;
            inner.history.lock().claimed(session, (generation, prev), query_id, answer, Instant::now());
        }
        Ok(Claim { generation, repeat_of: repeated.then_some(kept) })
    }

    async fn recall(&self, session: SessionId, query_id: &str) -> Result<Option<Claim>, BusError> {
        let mut pipeline = redis::pipe();
        pipeline.cmd("HMGET").arg(self.inner.names.meta(session)).arg(&["query", "gen", "answer"]);
        type LastClaim = (Option<String>, Option<u64>, Option<String>);
        let ((query, generation, answer),): (LastClaim,) = self.inner.call(&pipeline).await?;
        let same = query.as_deref() == Some(query_id);
        Ok(generation.filter(|_| same).map(|generation| Claim { generation, repeat_of: answer }))
    }

    async fn append(&self, batch: &Batch) -> Result<Appended, BusError> {
        append::append(&self.inner, batch).await
    }

    async fn release_claims(&self, terminators: &Batch) -> Result<Appended, BusError> {
        release::release(&self.inner, terminators).await
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
}
