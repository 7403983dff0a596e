//! Heartbeats of servers. A server writes its heartbeat and the mark to which it has restored, reads those of its peers, and ends
//! the queries of dead peers. The write also proves that Redis takes writes: without it the server is not ready.

use super::{
    Inner,
    link::Link,
    per_session::{self, OnUnknown},
    readiness,
    restoration::eval,
    scripts::HEARTBEAT,
};
use crate::{
    BusError, Counters,
    rules::{NO_BEAT, Standing, heartbeat},
};
use host::monotonic_us;
use protocol::{Position, SessionId, encode_error};
use redis::{Pipeline, Value, aio::MultiplexedConnection};
use std::{
    collections::HashMap,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};
use tokio::{
    sync::{mpsc, oneshot},
    time::{MissedTickBehavior, interval, sleep},
};

/// A heartbeat and a look at the peers' this often: one that is gone is noticed after 2.4 to 3.2 seconds.
const INTERVAL: Duration = Duration::from_millis(800);
/// Between two heartbeats, for as long as claims wait for peers, they are looked at this often.
const LOOK: Duration = Duration::from_millis(100);
/// An answer that took longer proves nothing about the peers.
const LATE: Duration = Duration::from_millis(1200);
/// What is listed for this server is compared with what it plays at every so many heartbeats.
const RECONCILE_EVERY: u64 = 3;
/// Queries that are ended in one go.
const QUERIES: usize = 256;

/// What the terminator of a query says whose server is gone.
const CODE: &str = "server_lost";
const MESSAGE: &str = "the server of this query is gone";

/// Writes heartbeats and looks at the peers', until this server leaves.
pub(super) async fn run(
    inner: Arc<Inner>,
    lamp: readiness::Link,
    mut leaves: mpsc::Receiver<oneshot::Sender<Result<bool, BusError>>>,
) {
    let mut ticks = interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut last, mut polls, mut writes) = (Instant::now(), 0_u64, 0_u64);
    let (mut may_have_claimed, mut said) = (false, true);
    loop {
        let poll = tokio::select! {
            _ = ticks.tick() => true,
            () = inner.incarnation.gave_back() => false,
            Some(reply) = leaves.recv() => {
                let left = leave(&inner).await;
                let gone = matches!(left, Ok(true));
                // Whoever asked may have given up waiting.
                let _ = reply.send(left);
                if gone {
                    return lamp.set(false);
                }
                continue;
            }
            () = sleep(LOOK), if !said || inner.standing() == Standing::Waiting => false,
        };
        polls += u64::from(poll);
        writes += 1;
        let asked = Instant::now();
        let connection = inner.commands.connected().await;
        let restored = inner.incarnation.given_back();
        let old = inner.incarnation.is_old();
        let lists_all = restored.as_ref().is_some_and(|mark| inner.barrier.lock().lists_all(mark, old));
        said = restored.is_none() || lists_all;
        let value = heartbeat(writes, restored.as_deref().filter(|_| lists_all));
        let answer = Box::pin(round(&inner, connection.clone(), value)).await;
        let answered = answer.is_ok();
        let mut own = None;
        match answer {
            Ok((mark, beats)) => {
                own = beats.get(&inner.owner).cloned();
                let peers = beats.iter().filter(|(name, _)| **name != inner.owner);
                let peers = peers.map(|(name, beat)| (name.as_str(), beat.as_str()));
                let in_time = asked.elapsed() < LATE && last.elapsed() < INTERVAL + LATE;
                let mut barrier = inner.barrier.lock();
                match (poll, in_time) {
                    (true, true) => barrier.answered(&mark, peers),
                    (true, false) => {
                        barrier.looked(&mark, peers);
                        barrier.unanswered();
                    }
                    (false, _) => barrier.looked(&mark, peers),
                }
            }
            Err(error) => {
                tracing::debug!(%error, "no heartbeat");
                inner.barrier.lock().unanswered();
            }
        }
        // A server that starts is not ready before it may claim; one that waits for its peers later lets its callers wait.
        may_have_claimed |= inner.standing() > Standing::Waiting;
        lamp.set(answered && may_have_claimed);
        if poll
            && polls.is_multiple_of(RECONCILE_EVERY)
            && inner.incarnation.is_restored()
            && let Some(own) = own
            && let Err(error) = Box::pin(reconcile(&inner, connection.clone(), &own)).await
        {
            tracing::debug!("the running queries were not reconciled, trying again: {error}");
        }
        if answered && let Err(error) = look_after(&inner, &connection).await {
            tracing::warn!(%error, "peers that are gone were not looked after, trying again");
        }
        if poll {
            Counters::show(&inner.counters.kept_dropped, inner.history.lock().dropped());
            last = Instant::now();
        }
    }
}

/// Takes this server off the list, unless something is claimed, played or still being restored here, or a session that was closed
/// here still lacks its end.
async fn leave(inner: &Inner) -> Result<bool, BusError> {
    // First, so that a claim either finds it or is registered among the plays by now.
    inner.left.store(true, Ordering::SeqCst);
    let left = try_to_leave(inner).await;
    inner.left.store(matches!(left, Ok(true)), Ordering::SeqCst);
    left
}

async fn try_to_leave(inner: &Inner) -> Result<bool, BusError> {
    let open_ends = inner.open_ends.load(Ordering::SeqCst) > 0;
    if open_ends || !inner.plays.sessions().is_empty() || !inner.incarnation.is_restored() {
        return Ok(false);
    }
    let mark = inner.incarnation.mark().ok_or(BusError::Restoring)?;
    let mut script = inner.scripts.leave.key(inner.names.servers());
    script.key(inner.names.running(&inner.owner)).key(inner.incarnation.mark_key());
    let left: u64 = inner.invoke(script.arg(&inner.owner).arg(&*mark)).await?;
    Ok(left == 1)
}

/// One heartbeat; the mark, and the heartbeats of all servers.
async fn round(
    inner: &Inner,
    mut connection: MultiplexedConnection,
    value: String,
) -> Result<(Arc<str>, HashMap<String, String>), BusError> {
    let mut pipeline = redis::pipe();
    let servers = inner.names.servers();
    // Loaded with each call: a Redis that was started again has no scripts.
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
        Some(mark) if inner.incarnation.saw_mark(Some(mark.as_bytes())) => Ok((mark.into(), beats)),
        _ => {
            inner.incarnation.saw_mark(None);
            Err(BusError::Restoring)
        }
    }
}

/// Lists peers again that Redis has lost, and ends the queries of those that are gone.
async fn look_after(inner: &Inner, connection: &MultiplexedConnection) -> Result<(), BusError> {
    let (unlisted, gone) = {
        let mut barrier = inner.barrier.lock();
        (barrier.unlisted(), barrier.gone(inner.incarnation.is_old()))
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
    // One that cannot be looked after must not keep the others from their ends.
    let mut outcome = Ok(());
    for (server, beat) in gone {
        if let Err(error) = Box::pin(end_dead_server(inner, connection.clone(), &server, &beat)).await {
            outcome = Err(error);
        }
    }
    outcome
}

/// Ends the queries that Redis lists for this server and that it does not play: two reads in a row found them.
async fn reconcile(inner: &Inner, mut connection: MultiplexedConnection, beat: &str) -> Result<(), BusError> {
    let listed = running(inner, &mut connection, &inner.owner).await?;
    let forgotten = inner.plays.reconcile(listed);
    if forgotten.is_empty() {
        return Ok(());
    }
    tracing::warn!(
        queries = forgotten.len(),
        "Redis lists queries that this server does not play, ending them"
    );
    end(inner, &mut connection, (&inner.owner, beat), &forgotten).await
}

/// The queries that a server runs, as Redis lists them.
async fn running(
    inner: &Inner,
    connection: &mut MultiplexedConnection,
    server: &str,
) -> Result<Vec<(SessionId, u64)>, BusError> {
    let mut ask = redis::pipe();
    ask.cmd("HGETALL").arg(inner.names.running(server));
    let (queries,): (HashMap<String, String>,) =
        ask.query_async(connection).await.map_err(|error| Link::failed(&error))?;
    let parsed = queries
        .into_iter()
        .filter_map(|(session, generation)| Some((session.parse().ok()?, generation.parse().ok()?)));
    Ok(parsed.collect())
}

/// Ends the queries of a server that is gone.
async fn end_dead_server(
    inner: &Inner,
    mut connection: MultiplexedConnection,
    server: &str,
    beat: &str,
) -> Result<(), BusError> {
    let queries = running(inner, &mut connection, server).await?;
    tracing::warn!(server, queries = queries.len(), "a server is dead, ending its queries");
    end(inner, &mut connection, (server, beat), &queries).await?;
    let mut forget = inner.scripts.forget_server.key(inner.names.servers());
    forget.key(inner.names.running(server));
    forget.arg(server).arg(beat).invoke_async(&mut connection).await.map_err(|error| Link::failed(&error))
}

/// Ends queries of a server whose heartbeat is still this one, each with an error terminator. A session that Redis refuses is
/// left out, and its query is no longer listed for the server.
async fn end(
    inner: &Inner,
    connection: &mut MultiplexedConnection,
    (server, beat): (&str, &str),
    queries: &[(SessionId, u64)],
) -> Result<(), BusError> {
    let running = inner.names.running(server);
    inner.scripts.end_lost_query.load_async(connection).await.map_err(|error| Link::failed(&error))?;
    let whole = inner.standing() == Standing::Whole;
    for some in queries.chunks(QUERIES) {
        let mut ask = redis::pipe();
        for &(session, _) in some {
            ask.cmd("HGET").arg(inner.names.meta(session)).arg("query");
        }
        let ids = per_session::send(connection, &ask, OnUnknown::LeaveOut).await?;
        let mut end = Pipeline::new();
        for (&(session, generation), id) in some.iter().zip(ids) {
            // Without its id the query ends all the same.
            let id = id.ok().and_then(|id| redis::from_redis_value::<Option<String>>(id).ok().flatten());
            let (meta, log) = (inner.names.meta(session), inner.names.log(session));
            let keys = [meta, log, running.clone(), inner.names.servers(), inner.names.attach(session)];
            let mut call = eval(inner.scripts.end_lost_query.get_hash(), &keys);
            call.arg(server)
                .arg(generation)
                .arg(session.to_string())
                .arg(terminator_behind_its_id(&id.unwrap_or_default()))
                .arg(inner.ttl())
                .arg(inner.delivery())
                .arg(inner.names.down(session))
                .arg(beat)
                .arg(u8::from(whole));
            end.add_command(call);
        }
        let replies = per_session::send(connection, &end, OnUnknown::LeaveOut).await?;
        let (mut ended, mut refused) = (0, Vec::new());
        for (&(session, _), reply) in some.iter().zip(replies) {
            match reply {
                Ok(Value::Int(2)) => {
                    ended += 1;
                    inner.lacks_end(session);
                }
                Ok(reply) => ended += u64::from(reply == Value::Int(1)),
                Err(words) => refused.push((session, words)),
            }
        }
        Counters::add(&inner.counters.buried, ended);
        inner.leave_out("the end of a dead server's queries", refused);
    }
    Ok(())
}

/// The frame of the terminator without its id, which only Redis knows.
fn terminator_behind_its_id(query_id: &str) -> Vec<u8> {
    let now_us = monotonic_us();
    let mut frame = Vec::new();
    encode_error(&mut frame, Position::ZERO, CODE, MESSAGE, query_id, now_us, now_us);
    frame.drain(..br#"{"id":"0-0""#.len());
    frame
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::{Kind, Prefix};

    #[test]
    fn the_terminator_is_whole_with_its_id() {
        let frame = [br#"{"id":"7-3""#.to_vec(), terminator_behind_its_id("a\"b")].concat();
        let prefix = Prefix::parse(&frame).unwrap();
        assert_eq!(prefix, Prefix { position: Position::new(7, 3), kind: Kind::Error });
        let event: serde_json::Value = serde_json::from_slice(&frame).unwrap();
        assert_eq!((event["code"].as_str(), event["query_id"].as_str()), (Some(CODE), Some("a\"b")));
    }
}
