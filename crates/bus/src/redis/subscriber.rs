//! One connection that subscribes for thousands of sessions. The driver passes messages directly to their lanes.
//! SUBSCRIBE and UNSUBSCRIBE are sent in batches. The hub's sessions are those to be subscribed.

use super::{control::ControlMessage, link::Link, link::LinkHooks};
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

/// Largest number of channels in one SUBSCRIBE.
const SUBSCRIBE_BATCH: usize = 500;

/// The sessions of one subscriber: partition `index` of `count`. Sessions are assigned by their ids.
#[derive(Clone, Copy, Debug)]
pub(super) struct Partition {
    pub(super) index: usize,
    pub(super) count: usize,
}

impl Partition {
    pub(super) fn index_of(session: SessionId, count: usize) -> usize {
        (session.uuid().as_u128() % count as u128) as usize
    }

    fn contains(self, session: SessionId) -> bool {
        Self::index_of(session, self.count) == self.index
    }
}

pub(super) struct Subscriber {
    hub: Arc<Hub>,
    partition: Partition,
    link: Arc<Link>,
    names: Names,
    /// The process's control channel. Only the first subscriber subscribes to it.
    control_channel: String,
    control: mpsc::Sender<Control>,
    /// Notified when the connection has subscribed to all its channels.
    back: Notify,
    /// The channel on which this subscriber sends messages to itself.
    probe: String,
    /// Number of messages of any kind that arrived.
    received: AtomicU64,
    /// `received` at the last probe.
    received_before: AtomicU64,
    counters: Arc<Counters>,
    pending: Mutex<Pending>,
    wake: Notify,
}

/// What waits for the next batch. Its size is limited by the number of sessions that are attached or were just
/// released.
#[derive(Default)]
struct Pending {
    subscribe: HashMap<SessionId, Vec<oneshot::Sender<()>>>,
    unsubscribe: HashSet<SessionId>,
}

impl Subscriber {
    pub(super) fn new(
        hub: Arc<Hub>,
        partition: Partition,
        link: Arc<Link>,
        names: Names,
        owner: &str,
        control: mpsc::Sender<Control>,
        counters: Arc<Counters>,
    ) -> Arc<Self> {
        Arc::new(Self {
            hub,
            partition,
            link,
            control_channel: names.control(owner),
            control,
            back: Notify::new(),
            probe: names.probe(owner, partition.index),
            names,
            received: AtomicU64::new(0),
            received_before: AtomicU64::new(0),
            counters,
            pending: Mutex::default(),
            wake: Notify::new(),
        })
    }

    pub(super) const fn link(&self) -> &Arc<Link> {
        &self.link
    }

    /// Waits until a new connection has subscribed to all its channels.
    pub(super) async fn reconnected(&self) {
        self.back.notified().await;
    }

    /// Lets [`Self::reconnected`] return once more, because the report after it failed.
    pub(super) fn report_again(&self) {
        self.back.notify_one();
    }

    /// Subscribes to a session of the hub. Returns when Redis has confirmed it.
    pub(super) async fn subscribe(&self, session: SessionId) -> Result<(), BusError> {
        self.link.connection()?;
        let (confirm, confirmed) = oneshot::channel();
        self.pending.lock().subscribe.entry(session).or_default().push(confirm);
        self.wake.notify_one();
        confirmed.await.map_err(|_| BusError::Unreachable("lost Redis while subscribing".to_owned()))
    }

    /// Unsubscribes from the session, unless the hub has it again by the time of the next batch.
    pub(super) fn unsubscribe(&self, session: SessionId) {
        self.pending.lock().unsubscribe.insert(session);
        self.wake.notify_one();
    }

    /// Sends the batches, forever. A batch that fails is dropped: its callers get an error, and a new connection
    /// subscribes to everything.
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
        // A caller that was cancelled has left no lane. A subscription for it would never end.
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
            // If the caller was cancelled, its attachment has forgotten and unsubscribed the lane.
            let _ = confirm.send(());
        }
        Ok(())
    }

    fn message(&self, data: &[Value]) {
        self.received.fetch_add(1, Ordering::Relaxed);
        let [Value::BulkString(channel), Value::BulkString(payload)] = data else {
            Counters::add(&self.counters.malformed, 1);
            return;
        };
        if channel == self.control_channel.as_bytes() {
            return self.control_message(payload);
        }
        if channel == self.probe.as_bytes() {
            return;
        }
        let Some(lane) = SessionId::from_down_channel(channel, self.names.prefix())
            .and_then(|session| self.hub.get(session))
        else {
            Counters::add(&self.counters.no_lane, 1);
            return;
        };
        match Prefix::parse(payload) {
            Some(prefix) => lane.live(prefix, payload),
            None => Counters::add(&self.counters.malformed, 1),
        }
    }

    /// Returns whether a message of this subscriber to itself arrives. It arrives before the reply to PUBLISH or, since
    /// Redis 7.2, directly after it. The reply to PING comes after both.
    async fn receives_own_message(&self, connection: &mut MultiplexedConnection) -> RedisResult<bool> {
        let before = self.received.load(Ordering::Relaxed);
        let mut ask = redis::pipe();
        ask.cmd("PUBLISH").arg(&self.probe).arg("").ignore().cmd("PING").ignore();
        let () = ask.query_async(connection).await?;
        Ok(self.received.load(Ordering::Relaxed) != before)
    }

    fn control_message(&self, payload: &[u8]) {
        match serde_json::from_slice(payload) {
            Ok(ControlMessage::Cancel { session, generation }) => {
                if self.control.try_send(Control::Cancel { session, generation }).is_err() {
                    Counters::add(&self.counters.control_dropped, 1);
                }
            }
            Ok(ControlMessage::Takeover { session, epoch }) => {
                self.hub.all(session).iter().for_each(|lane| lane.superseded(epoch));
            }
            Ok(ControlMessage::Released { session, epoch, cursor }) => {
                self.hub.all(session).iter().for_each(|lane| lane.predecessor_released(epoch, cursor));
            }
            Err(_) => Counters::add(&self.counters.malformed, 1),
        }
    }
}

/// The hooks of a subscriber's link.
pub(super) struct SubscriberHooks(pub(super) Arc<Subscriber>);

#[async_trait]
impl LinkHooks for SubscriberHooks {
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

    /// Subscribes to all attached sessions. Every lane reads its log again, because it may have missed events.
    async fn connected(&self, connection: &mut MultiplexedConnection) -> RedisResult<()> {
        let subscriber = &self.0;
        connection.subscribe(&subscriber.probe).await?;
        if subscriber.partition.index == 0 {
            connection.subscribe(&subscriber.control_channel).await?;
        }
        let mut sessions = subscriber.hub.sessions();
        sessions.retain(|&session| subscriber.partition.contains(session));
        for some in sessions.chunks(SUBSCRIBE_BATCH) {
            let channels: Vec<String> = some.iter().map(|&session| subscriber.names.down(session)).collect();
            connection.subscribe(&channels[..]).await?;
        }
        for lane in sessions.into_iter().filter_map(|session| subscriber.hub.get(session)) {
            lane.resubscribed();
        }
        if subscriber.receives_own_message(connection).await? {
            subscriber.back.notify_one();
            return Ok(());
        }
        Err((redis::ErrorKind::Client, "a message to itself did not arrive").into())
    }

    /// Sends a message to itself if nothing has arrived since the last probe.
    async fn probe(&self, connection: &mut MultiplexedConnection) -> RedisResult<bool> {
        let subscriber = &self.0;
        let received = subscriber.received.load(Ordering::Relaxed);
        let silent = subscriber.received_before.swap(received, Ordering::Relaxed) == received;
        let healthy = !silent || subscriber.receives_own_message(connection).await?;
        Counters::add(&subscriber.counters.silences, u64::from(!healthy));
        Ok(healthy)
    }
}
