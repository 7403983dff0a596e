//! One connection that subscribes for thousands of sessions: messages go from the driver straight into their lanes.
//! SUBSCRIBE and UNSUBSCRIBE are gathered and sent in batches; what is to be subscribed is what the hub holds.

use super::{link::Link, link::Purpose, note::Note};
use crate::{BusError, Control, Counters, hub::Hub};
use async_trait::async_trait;
use parking_lot::Mutex;
use protocol::{Names, Prefix, SessionId};
use redis::{AsyncConnectionConfig, PushInfo, PushKind, RedisResult, Value, aio::MultiplexedConnection};
use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};
use tokio::sync::{Notify, mpsc, oneshot};

/// Channels in one SUBSCRIBE at most.
const SUBSCRIBE_BATCH: usize = 500;

/// Which of how many: sessions are spread over the subscribers by their ids.
#[derive(Clone, Copy, Debug)]
pub(super) struct Share {
    pub(super) index: usize,
    pub(super) of: usize,
}

impl Share {
    pub(super) fn index_of(session: SessionId, of: usize) -> usize {
        (session.uuid().as_u128() % of as u128) as usize
    }

    fn holds(self, session: SessionId) -> bool {
        Self::index_of(session, self.of) == self.index
    }
}

pub(super) struct Subscriber {
    hub: Arc<Hub>,
    share: Share,
    link: Arc<Link>,
    names: Names,
    /// The process's control channel, which the first of the subscribers hears.
    control_channel: String,
    control: mpsc::Sender<Control>,
    /// The subscription stands, again perhaps.
    back: Notify,
    /// What it publishes to itself.
    probe: String,
    /// Messages of any kind that arrived.
    heard: AtomicU64,
    /// `heard` at the last look.
    heard_before: AtomicU64,
    counters: Arc<Counters>,
    pending: Mutex<Pending>,
    wake: Notify,
}

/// What waits for the next batch: bounded by the sessions that are attached or were just released.
#[derive(Default)]
struct Pending {
    subscribe: HashMap<SessionId, Vec<oneshot::Sender<()>>>,
    unsubscribe: HashSet<SessionId>,
}

impl Subscriber {
    pub(super) fn new(
        hub: Arc<Hub>,
        share: Share,
        link: Arc<Link>,
        names: Names,
        owner: &str,
        control: mpsc::Sender<Control>,
        counters: Arc<Counters>,
    ) -> Arc<Self> {
        Arc::new(Self {
            hub,
            share,
            link,
            control_channel: names.control(owner),
            control,
            back: Notify::new(),
            probe: names.probe(owner, share.index),
            names,
            heard: AtomicU64::new(0),
            heard_before: AtomicU64::new(0),
            counters,
            pending: Mutex::default(),
            wake: Notify::new(),
        })
    }

    /// Waits until the subscription stands again.
    pub(super) async fn came_back(&self) {
        self.back.notified().await;
    }

    /// What was to be said after it came back was not said.
    pub(super) fn said_nothing(&self) {
        self.back.notify_one();
    }

    /// Subscribes to a session that the hub holds; returns when Redis has confirmed it.
    pub(super) async fn subscribe(&self, session: SessionId) -> Result<(), BusError> {
        self.link.connection()?;
        let (confirm, confirmed) = oneshot::channel();
        self.pending.lock().subscribe.entry(session).or_default().push(confirm);
        self.wake.notify_one();
        confirmed.await.map_err(|_| BusError::Unreachable("lost Redis while subscribing".to_owned()))
    }

    /// The hub no longer holds the session, unless somebody attaches to it again in the meantime.
    pub(super) fn unsubscribe(&self, session: SessionId) {
        self.pending.lock().unsubscribe.insert(session);
        self.wake.notify_one();
    }

    /// Sends the batches, for ever. What fails is dropped: its callers hear of it, and a new connection subscribes to all.
    pub(super) async fn run(self: Arc<Self>) {
        loop {
            self.wake.notified().await;
            loop {
                let (leave, join) = self.next_batch();
                if leave.is_empty() && join.is_empty() {
                    break;
                }
                let mut connection = self.link.connected().await;
                if let Err(error) = self.send_batch(&mut connection, &leave, join).await {
                    tracing::warn!("{}", Link::failed(&error));
                }
            }
        }
    }

    #[expect(clippy::type_complexity, reason = "two halves of one batch, used once")]
    fn next_batch(&self) -> (Vec<SessionId>, Vec<(SessionId, Vec<oneshot::Sender<()>>)>) {
        let mut pending = self.pending.lock();
        let leave = std::mem::take(&mut pending.unsubscribe);
        let leave = leave.into_iter().filter(|&session| !self.hub.contains(session)).collect();
        let some: Vec<SessionId> = pending.subscribe.keys().take(SUBSCRIBE_BATCH).copied().collect();
        let join = some.into_iter().filter_map(|session| pending.subscribe.remove_entry(&session));
        // Whoever gave up meanwhile has left no lane: a subscription for it would stay for ever.
        let join = join.filter(|&(session, _)| self.hub.contains(session)).collect();
        (leave, join)
    }

    async fn send_batch(
        &self,
        connection: &mut MultiplexedConnection,
        leave: &[SessionId],
        join: Vec<(SessionId, Vec<oneshot::Sender<()>>)>,
    ) -> RedisResult<()> {
        for some in leave.chunks(SUBSCRIBE_BATCH) {
            let channels: Vec<String> = some.iter().map(|&session| self.names.down(session)).collect();
            connection.unsubscribe(&channels[..]).await?;
        }
        if join.is_empty() {
            return Ok(());
        }
        let channels: Vec<String> = join.iter().map(|&(session, _)| self.names.down(session)).collect();
        connection.subscribe(&channels[..]).await?;
        for confirm in join.into_iter().flat_map(|(_, confirms)| confirms) {
            // A caller that went away meanwhile has had its lane forgotten, and unsubscribed, by its attachment.
            let _ = confirm.send(());
        }
        Ok(())
    }

    fn message(&self, data: &[Value]) {
        self.heard.fetch_add(1, Ordering::Relaxed);
        let [Value::BulkString(channel), Value::BulkString(payload)] = data else {
            Counters::add(&self.counters.malformed, 1);
            return;
        };
        if channel == self.control_channel.as_bytes() {
            return self.note(payload);
        }
        if channel == self.probe.as_bytes() {
            return;
        }
        let Some(slot) = SessionId::from_down_channel(channel, self.names.prefix())
            .and_then(|session| self.hub.get(session))
        else {
            Counters::add(&self.counters.no_lane, 1);
            return;
        };
        match Prefix::parse(payload) {
            Some(prefix) => slot.live(prefix, payload),
            None => Counters::add(&self.counters.malformed, 1),
        }
    }

    /// Whether a message to itself arrives. It comes before the answer to the call that published it or, from Redis 7.2 on,
    /// right behind that: the answer to a second call is behind both.
    async fn hears_itself(&self, connection: &mut MultiplexedConnection) -> RedisResult<bool> {
        let before = self.heard.load(Ordering::Relaxed);
        let mut ask = redis::pipe();
        ask.cmd("PUBLISH").arg(&self.probe).arg("").ignore().cmd("PING").ignore();
        let () = ask.query_async(connection).await?;
        Ok(self.heard.load(Ordering::Relaxed) != before)
    }

    fn note(&self, payload: &[u8]) {
        match serde_json::from_slice(payload) {
            Ok(Note::Cancel { session, generation }) => {
                if self.control.try_send(Control::Cancel { session, generation }).is_err() {
                    Counters::add(&self.counters.control_dropped, 1);
                }
            }
            Ok(Note::Takeover { session, epoch }) => {
                self.hub.all(session).iter().for_each(|slot| slot.superseded(epoch));
            }
            Ok(Note::Released { session, epoch, cursor }) => {
                self.hub.all(session).iter().for_each(|slot| slot.predecessor_released(epoch, cursor));
            }
            Err(_) => Counters::add(&self.counters.malformed, 1),
        }
    }
}

/// What the link does for its subscriber.
pub(super) struct Subscribing(pub(super) Arc<Subscriber>);

#[async_trait]
impl Purpose for Subscribing {
    fn configure(&self, config: AsyncConnectionConfig, broken: Arc<Notify>) -> AsyncConnectionConfig {
        let subscriber = self.0.clone();
        config.set_push_sender(move |push: PushInfo| {
            match push.kind {
                PushKind::Message => subscriber.message(&push.data),
                PushKind::Disconnection => broken.notify_one(),
                _ => {}
            }
            Ok::<(), ()>(())
        })
    }

    /// Subscribes again to all that is attached. Every lane reads its log again, silent ones too.
    async fn connected(&self, connection: &mut MultiplexedConnection) -> RedisResult<()> {
        let subscriber = &self.0;
        connection.subscribe(&subscriber.probe).await?;
        if subscriber.share.index == 0 {
            connection.subscribe(&subscriber.control_channel).await?;
        }
        let mut sessions = subscriber.hub.sessions();
        sessions.retain(|&session| subscriber.share.holds(session));
        for some in sessions.chunks(SUBSCRIBE_BATCH) {
            let channels: Vec<String> = some.iter().map(|&session| subscriber.names.down(session)).collect();
            connection.subscribe(&channels[..]).await?;
        }
        for slot in sessions.into_iter().filter_map(|session| subscriber.hub.get(session)) {
            slot.resubscribed();
        }
        if subscriber.hears_itself(connection).await? {
            subscriber.back.notify_one();
            return Ok(());
        }
        Err((redis::ErrorKind::Client, "a message to itself did not arrive").into())
    }

    /// Where nothing came since the last look, it says something to itself.
    async fn works(&self, connection: &mut MultiplexedConnection) -> RedisResult<bool> {
        let subscriber = &self.0;
        let heard = subscriber.heard.load(Ordering::Relaxed);
        let silent = subscriber.heard_before.swap(heard, Ordering::Relaxed) == heard;
        let works = !silent || subscriber.hears_itself(connection).await?;
        Counters::add(&subscriber.counters.silences, u64::from(!works));
        Ok(works)
    }
}
