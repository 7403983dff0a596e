//! The bus over Redis: hashes for what is atomic, a stream a session for its log, pub/sub for what is live.
//! One connection for commands, one for appends, one to four that subscribe; their number never grows with sessions.

mod link;
mod note;
mod pipeline;
mod readiness;
mod scripts;
mod subscriber;

use crate::{
    Appended, Attachment, Batch, Broker, BusConfig, BusError, CatchUp, Claim, ClaimError, ClaimRequest,
    Control, Counters, CountersSnapshot, Delivery, Outlet, Start,
    attachment::Backend,
    hub::{Hub, Page, Slot},
    memory::{CONTROL_QUEUE, TAKEOVER_WAIT},
};
use async_trait::async_trait;
use bytes::Bytes;
use link::{Commands, Link, Purpose};
use parking_lot::Mutex;
use protocol::{Gaps, Names, Position, Prefix, SessionId};
use readiness::Readiness;
use redis::{
    Client, FromRedisValue, IntoConnectionInfo, ProtocolVersion, ScriptInvocation, Value,
    io::tcp::TcpSettings,
};
use scripts::Scripts;
use std::sync::Arc;
use subscriber::{Share, Subscriber, Subscribing};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};

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
    names: Names,
    scripts: Arc<Scripts>,
    counters: Arc<Counters>,
    hub: Arc<Hub>,
    commands: Arc<Link>,
    appends: Arc<Link>,
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
        let counters = Arc::<Counters>::default();
        let hub = Arc::<Hub>::default();
        let readiness = Readiness::new();
        let scripts = Arc::new(Scripts::new());
        let mut tasks = JoinSet::new();
        let (control, control_reader) = mpsc::channel(CONTROL_QUEUE);
        let mut supervise = |link: &Arc<Link>, purpose: Arc<dyn Purpose>| {
            tasks.spawn(link.clone().supervise(purpose, readiness.link(), counters.clone()));
        };

        let commands = Link::new(client.clone(), "commands");
        supervise(&commands, Arc::new(Commands(Vec::new())));
        let appends = Link::new(client.clone(), "appends");
        supervise(&appends, Arc::new(Commands(vec![scripts.terminate.clone()])));
        let of = config.subscriber_connections.clamp(1, MAX_SUBSCRIBERS);
        let subscribers: Vec<_> = (0..of)
            .map(|index| {
                let link = Link::new(client.clone(), "subscriber");
                let control = (index == 0).then(|| (names.control(&config.instance), control.clone()));
                let share = Share { index, of };
                let subscriber = Subscriber::new(
                    hub.clone(),
                    share,
                    link.clone(),
                    names.clone(),
                    control,
                    counters.clone(),
                );
                supervise(&link, Arc::new(Subscribing(subscriber.clone())));
                subscriber
            })
            .collect();
        for subscriber in &subscribers {
            tasks.spawn(subscriber.clone().run());
        }
        let inner = Arc::new(Inner { config, names, scripts, counters, hub, commands, appends, subscribers });
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

    fn delivery(&self) -> &'static str {
        match self.config.delivery {
            Delivery::Log => "log",
            Delivery::PubSub => "pubsub",
        }
    }

    async fn invoke<T: FromRedisValue>(&self, script: &ScriptInvocation<'_>) -> Result<T, BusError> {
        let mut connection = self.commands.connection()?;
        script.invoke_async(&mut connection).await.map_err(|error| Link::failed(&error))
    }

    async fn call<T: FromRedisValue>(&self, pipeline: &redis::Pipeline) -> Result<T, BusError> {
        let mut connection = self.commands.connection()?;
        pipeline.query_async(&mut connection).await.map_err(|error| Link::failed(&error))
    }
}

#[async_trait]
impl Broker for RedisBroker {
    async fn create(&self, session: SessionId) -> Result<(), BusError> {
        let meta = self.inner.names.meta(session);
        let mut pipeline = redis::pipe();
        pipeline.cmd("HSET").arg(&meta).arg("status").arg("active").ignore();
        pipeline.cmd("EXPIRE").arg(&meta).arg(self.inner.ttl()).ignore();
        self.inner.call(&pipeline).await
    }

    async fn claim(&self, session: SessionId, request: ClaimRequest) -> Result<Claim, ClaimError> {
        let inner = &self.inner;
        let mut script = inner.scripts.claim.key(inner.names.meta(session));
        script
            .key(inner.names.log(session))
            .key(inner.names.attach(session))
            .arg(request.query_id)
            .arg(request.answer)
            .arg(&inner.config.instance)
            .arg(inner.ttl())
            .arg(inner.config.log_entries)
            .arg(inner.delivery())
            .arg(inner.names.down(session));
        let (outcome, generation, answer): (String, u64, String) = inner.invoke(&script).await?;
        match outcome.as_str() {
            "claimed" => Ok(Claim { generation, repeat_of: None }),
            "repeat" => Ok(Claim { generation, repeat_of: Some(answer) }),
            "closed" => Err(ClaimError::Closed),
            "busy" => Err(ClaimError::Busy),
            _ => Err(ClaimError::Unknown),
        }
    }

    async fn recall(&self, session: SessionId, query_id: &str) -> Result<Option<Claim>, BusError> {
        let mut pipeline = redis::pipe();
        pipeline.cmd("HMGET").arg(self.inner.names.meta(session)).arg(&["query", "gen", "answer"]);
        type Kept = (Option<String>, Option<u64>, Option<String>);
        let ((query, generation, answer),): (Kept,) = self.inner.call(&pipeline).await?;
        let same = query.as_deref() == Some(query_id);
        Ok(generation.filter(|_| same).map(|generation| Claim { generation, repeat_of: answer }))
    }

    async fn append(&self, batch: &Batch) -> Result<Appended, BusError> {
        pipeline::append(&self.inner, batch).await
    }

    async fn close(&self, session: SessionId) -> Result<bool, BusError> {
        let inner = &self.inner;
        let mut script = inner.scripts.close.key(inner.names.meta(session));
        script
            .key(inner.names.log(session))
            .arg(inner.names.prefix())
            .arg(session.to_string())
            .arg(inner.ttl())
            .arg(inner.delivery())
            .arg(inner.names.down(session));
        inner.invoke(&script).await
    }

    async fn attach(
        &self,
        session: SessionId,
        start: Start,
        outlet: Arc<dyn Outlet>,
    ) -> Result<Attachment, BusError> {
        let inner = &self.inner;
        inner.commands.connection()?;
        let slot = Slot::new(outlet, inner.config.delivery, inner.counters.clone());
        inner.hub.insert(session, slot.clone());
        // From here on a failure, or a caller that goes away, forgets the lane by dropping the attachment.
        let attachment = Attachment { session, slot: slot.clone(), backend: inner.clone() };
        let mut script = inner.scripts.attach.key(inner.names.attach(session));
        script
            .arg(inner.names.prefix())
            .arg(session.to_string())
            .arg(inner.ttl())
            .arg(&inner.config.instance);
        let (epoch, told, cursor): (u64, u64, String) = inner.invoke(&script).await?;
        let cursor = cursor.parse().unwrap_or(Position::ZERO);
        let start = match start {
            Start::After(position) => position,
            Start::Cursor if told == 0 => cursor,
            Start::Cursor => {
                // A holder that does not answer in time leaves the cursor where it was: some events come twice.
                tokio::time::timeout(TAKEOVER_WAIT, slot.released(epoch - 1)).await.unwrap_or(cursor)
            }
        };
        slot.begin(epoch, start);
        inner.subscriber(session).subscribe(session).await?;
        Ok(attachment)
    }

    async fn send_up(&self, session: SessionId, message: Bytes) -> Result<(), BusError> {
        let mut pipeline = redis::pipe();
        pipeline.cmd("PUBLISH").arg(self.inner.names.up(session)).arg(&message[..]).ignore();
        self.inner.call(&pipeline).await
    }

    fn control(&self) -> Option<mpsc::Receiver<Control>> {
        self.control_reader.lock().take()
    }

    fn ready(&self) -> watch::Receiver<bool> {
        self.readiness.subscribe()
    }

    fn counters(&self) -> CountersSnapshot {
        self.inner.counters.snapshot()
    }
}

#[async_trait]
impl Backend for Inner {
    async fn read_page(&self, session: SessionId, slot: &Slot, limit: usize) -> Result<CatchUp, BusError> {
        let (last, mark) = slot.begin_read();
        if self.config.delivery == Delivery::PubSub {
            return Ok(slot.end_read(mark, Page::Last, Gaps::Announce).into());
        }
        let mut pipeline = redis::pipe();
        pipeline
            .cmd("XRANGE")
            .arg(self.names.log(session))
            .arg(format!("({last}"))
            .arg("+")
            .arg("COUNT")
            .arg(limit.max(1));
        let (page,): (Vec<Value>,) = self.call(&pipeline).await?;
        for entry in &page {
            match logged_frame(entry).and_then(|frame| Some((Prefix::parse(frame)?, frame))) {
                Some((prefix, frame)) => {
                    slot.logged(prefix, frame, Gaps::Announce);
                }
                None => Counters::add(&self.counters.malformed, 1),
            }
        }
        let page = if page.len() < limit.max(1) { Page::Last } else { Page::Full };
        Ok(slot.end_read(mark, page, Gaps::Announce).into())
    }

    async fn release(
        &self,
        session: SessionId,
        slot: &Slot,
        cursor: Option<Position>,
    ) -> Result<(), BusError> {
        let mut script = self.scripts.release.key(self.names.attach(session));
        script
            .arg(self.names.prefix())
            .arg(session.to_string())
            .arg(self.ttl())
            .arg(slot.epoch())
            .arg(cursor.map_or_else(String::new, |cursor| cursor.to_string()));
        self.invoke(&script).await
    }

    fn forget(&self, session: SessionId, slot: &Arc<Slot>) {
        if self.hub.remove(session, slot) {
            self.subscriber(session).unsubscribe(session);
        }
    }
}

/// The frame in one entry of XRANGE's answer: `[id, [field, frame]]`.
fn logged_frame(entry: &Value) -> Option<&[u8]> {
    let Value::Array(entry) = entry else { return None };
    let Some(Value::Array(fields)) = entry.get(1) else { return None };
    match fields.get(1) {
        Some(Value::BulkString(frame)) => Some(frame),
        _ => None,
    }
}
