//! Heartbeats of servers. A server writes its heartbeat and the mark of the Redis in which it has restored its history, reads
//! those of its peers, and ends the queries of dead peers. The write also proves that Redis takes writes: without it the
//! server is not ready.

use super::{
    Inner,
    link::Link,
    lost_queries::{self, Reconciliation},
    readiness,
    scripts::HEARTBEAT,
};
use crate::{
    BusError, Counters,
    rules::{NO_BEAT, Restoration, heartbeat},
};
use redis::aio::MultiplexedConnection;
use std::{
    collections::HashMap,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};
use tokio::{
    sync::{mpsc, oneshot},
    time::{MissedTickBehavior, interval, sleep},
};

/// Interval of heartbeats, each of which is also a poll of the peers. A dead peer is noticed after 2.4 to 3.2 seconds.
const INTERVAL: Duration = Duration::from_millis(800);
/// Interval of further heartbeats while claims wait for peers, so that they wait no longer than necessary.
const WAITING_INTERVAL: Duration = Duration::from_millis(100);
/// A poll whose reply took longer proves nothing about the peers.
const LATE: Duration = Duration::from_millis(1200);
/// Number of polls from one comparison of the listed queries with the played ones to the next, unless one takes longer.
const RECONCILE_EVERY: u64 = 3;

/// A request to leave the list of servers. The reply is true if the server has left.
pub(super) type Leave = oneshot::Sender<Result<bool, BusError>>;

/// Writes heartbeats, and looks after the peers, until this server leaves the list of servers.
pub(super) async fn run(inner: Arc<Inner>, ready: readiness::Condition, mut leaves: mpsc::Receiver<Leave>) {
    let mut ticks = interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut heartbeats = Heartbeats::new(inner);
    loop {
        let is_poll = tokio::select! {
            _ = ticks.tick() => true,
            () = heartbeats.inner.incarnation.restoration_done() => false,
            Some(reply) = leaves.recv() => {
                let outcome = leave(&heartbeats.inner).await;
                let has_left = matches!(outcome, Ok(true));
                // The caller may have been cancelled.
                let _ = reply.send(outcome);
                if has_left {
                    return ready.set(false);
                }
                continue;
            }
            () = sleep(WAITING_INTERVAL), if heartbeats.is_awaited() => false,
        };
        heartbeats.beat(is_poll, &ready).await;
    }
}

/// What the task remembers from one heartbeat to the next.
struct Heartbeats {
    inner: Arc<Inner>,
    /// Number of heartbeats written, which is also the number in the heartbeat.
    writes: u64,
    polls: u64,
    last_poll: Instant,
    /// This server has been allowed to claim at least once.
    may_have_claimed: bool,
    /// The last heartbeat contained the mark of the Redis in which this server has restored, or it has not restored yet.
    reported: bool,
    reconciliation: Reconciliation,
}

impl Heartbeats {
    fn new(inner: Arc<Inner>) -> Self {
        let last_poll = Instant::now();
        let reconciliation = Reconciliation::default();
        Self {
            inner,
            writes: 0,
            polls: 0,
            last_poll,
            may_have_claimed: false,
            reported: true,
            reconciliation,
        }
    }

    /// Returns whether claims wait, here or at peers, for what the next heartbeat will read or report.
    fn is_awaited(&self) -> bool {
        !self.reported || self.inner.restoration() == Restoration::Waiting
    }

    /// Writes one heartbeat, reads those of the peers, and does what follows from them. Heartbeats between two polls do not
    /// count as polls, so however many are written, a living peer is not declared dead.
    async fn beat(&mut self, is_poll: bool, ready: &readiness::Condition) {
        self.polls += u64::from(is_poll);
        let asked = Instant::now();
        let connection = self.inner.commands.connected().await;
        let value = self.next_value();
        let reply = Box::pin(write_and_read(&self.inner, connection.clone(), value)).await;
        let answered = reply.is_ok();
        let in_time = asked.elapsed() < LATE && self.last_poll.elapsed() < INTERVAL + LATE;
        let own = self.record(reply, is_poll, in_time);
        let inner = &self.inner;
        // A server that has just started is ready once it may claim. If it has to wait for peers later, its callers wait.
        self.may_have_claimed |= inner.restoration() > Restoration::Waiting;
        ready.set(answered && self.may_have_claimed);
        if is_poll && let Err(error) = self.reconcile(connection.clone(), own).await {
            tracing::debug!("the comparison of listed and played queries failed, trying again: {error}");
        }
        let inner = &self.inner;
        if answered && let Err(error) = handle_dead_peers(inner, &connection).await {
            tracing::warn!(%error, "ending the queries of dead servers failed, trying again");
        }
        if is_poll {
            Counters::show(&inner.counters.kept_dropped, inner.history.lock().dropped());
            self.last_poll = Instant::now();
        }
    }

    /// Compares listed and played queries. Begins at every [`RECONCILE_EVERY`]th poll, and reads on at the polls after it if the
    /// list is long. `own` is this server's heartbeat as Redis lists it.
    async fn reconcile(
        &mut self,
        connection: MultiplexedConnection,
        own: Option<String>,
    ) -> Result<(), BusError> {
        let Some(own) = own.filter(|_| self.inner.incarnation.is_restored()) else {
            self.reconciliation.reset();
            return Ok(());
        };
        if self.polls.is_multiple_of(RECONCILE_EVERY) {
            self.reconciliation.begin();
        }
        Box::pin(self.reconciliation.read_on(&self.inner, connection, &own)).await
    }

    /// Returns the next heartbeat. It reports the restoration only once Redis lists all servers: see
    /// [`RestorationBarrier::lists_all`](crate::rules::RestorationBarrier::lists_all).
    fn next_value(&mut self) -> String {
        let inner = &self.inner;
        self.writes += 1;
        let restored = inner.incarnation.restored_mark();
        let old = inner.incarnation.is_old();
        let lists_all = restored.as_ref().is_some_and(|mark| inner.barrier.lock().lists_all(mark, old));
        self.reported = restored.is_none() || lists_all;
        heartbeat(self.writes, restored.as_deref().filter(|_| lists_all))
    }

    /// Passes the peers' heartbeats to the barrier. Returns this server's own heartbeat as Redis lists it.
    fn record(&self, reply: Result<Beats, BusError>, is_poll: bool, in_time: bool) -> Option<String> {
        let inner = &self.inner;
        let mut barrier = inner.barrier.lock();
        let (mark, beats) = match reply {
            Ok(reply) => reply,
            Err(error) => {
                tracing::debug!(%error, "the heartbeat was not written");
                barrier.poll_missed();
                return None;
            }
        };
        let peers = beats.iter().filter(|(name, _)| **name != inner.owner);
        let peers = peers.map(|(name, beat)| (name.as_str(), beat.as_str()));
        match (is_poll, in_time) {
            (true, true) => barrier.poll_answered(&mark, peers),
            (true, false) => {
                barrier.observed(&mark, peers);
                barrier.poll_missed();
            }
            (false, _) => barrier.observed(&mark, peers),
        }
        beats.get(&inner.owner).cloned()
    }
}

/// Takes this server off the list. Returns false while something is claimed, played or being restored here, or while the log of
/// a session that was closed here lacks its end.
async fn leave(inner: &Inner) -> Result<bool, BusError> {
    // Set before the check: a claim that does not see it has registered its query by then.
    inner.left.store(true, Ordering::SeqCst);
    let left = try_to_leave(inner).await;
    inner.left.store(matches!(left, Ok(true)), Ordering::SeqCst);
    left
}

async fn try_to_leave(inner: &Inner) -> Result<bool, BusError> {
    let unwritten_ends = inner.unwritten_ends.load(Ordering::SeqCst) > 0;
    if unwritten_ends || !inner.plays.sessions().is_empty() || !inner.incarnation.is_restored() {
        return Ok(false);
    }
    let mark = inner.incarnation.mark().ok_or(BusError::Restoring)?;
    let mut script = inner.scripts.leave.key(inner.names.servers());
    script.key(inner.names.running(&inner.owner)).key(inner.incarnation.mark_key());
    let left: u64 = inner.invoke(script.arg(&inner.owner).arg(&*mark)).await?;
    Ok(left == 1)
}

/// The mark of a Redis, and the heartbeat of each server that it lists.
type Beats = (Arc<str>, HashMap<String, String>);

/// Writes a heartbeat. Returns the mark, and the heartbeats of all servers.
async fn write_and_read(
    inner: &Inner,
    mut connection: MultiplexedConnection,
    value: String,
) -> Result<Beats, BusError> {
    let mut pipeline = redis::pipe();
    let servers = inner.names.servers();
    // Loaded every time, because a Redis that was restarted has no scripts.
    pipeline.cmd("SCRIPT").arg("LOAD").arg(HEARTBEAT).ignore();
    let hash = inner.scripts.heartbeat.get_hash();
    pipeline.cmd("EVALSHA").arg(hash).arg(1).arg(&servers).arg(&inner.owner).arg(value).ignore();
    pipeline.cmd("EXPIRE").arg(&servers).arg(inner.ttl()).ignore();
    pipeline.cmd("EXPIRE").arg(inner.names.running(&inner.owner)).arg(inner.ttl()).ignore();
    pipeline.cmd("GET").arg(inner.incarnation.mark_key());
    pipeline.cmd("HGETALL").arg(&servers);
    let (mark, beats): (Option<String>, HashMap<String, String>) =
        pipeline.query_async(&mut connection).await.map_err(|error| Link::failed(&error))?;
    match mark {
        Some(mark) if inner.incarnation.check_mark(Some(mark.as_bytes())) => Ok((mark.into(), beats)),
        _ => {
            inner.incarnation.check_mark(None);
            Err(BusError::Restoring)
        }
    }
}

/// Lists peers again that Redis has lost, and ends the queries of dead ones.
async fn handle_dead_peers(inner: &Inner, connection: &MultiplexedConnection) -> Result<(), BusError> {
    let (unlisted, dead) = {
        let mut barrier = inner.barrier.lock();
        (barrier.unlisted(), barrier.dead_peers(inner.incarnation.is_old()))
    };
    if !unlisted.is_empty() {
        let mut list = inner.scripts.list_servers.key(inner.names.servers());
        list.arg(NO_BEAT).arg(&unlisted);
        let listed: Result<(), _> = list.invoke_async(&mut connection.clone()).await;
        listed.map_err(|error| Link::failed(&error))?;
    }
    if !inner.incarnation.is_restored() {
        return Ok(());
    }
    // A failure for one server does not stop the others.
    let mut outcome = Ok(());
    for (server, beat) in dead {
        let ended = lost_queries::end_dead_server(inner, connection.clone(), &server, &beat);
        if let Err(error) = Box::pin(ended).await {
            outcome = Err(error);
        }
    }
    outcome
}
