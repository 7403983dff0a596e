//! A server says that it is alive, listens to its peers, and ends the queries of those that are gone.
//! Its write is also the proof that Redis takes writes: without it the server is not ready.

use super::{Inner, link::Link, readiness, restoration::eval};
use crate::{BusError, Counters, rules::Vigil};
use protocol::{Position, encode_error, monotonic_us};
use redis::{Pipeline, aio::MultiplexedConnection};
use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::time::{MissedTickBehavior, interval};

/// A heartbeat and a look at the peers' this often: one that is gone is noticed after 2.4 to 3.2 seconds.
const INTERVAL: Duration = Duration::from_millis(800);
/// An answer that took longer proves nothing about the peers.
const LATE: Duration = Duration::from_millis(1200);
/// Queries that are ended in one go.
const QUERIES: usize = 256;

/// What the terminator of a query says whose server is gone.
const CODE: &str = "server_lost";
const MESSAGE: &str = "the server of this query is gone";

/// Beats for ever.
pub(super) async fn run(inner: Arc<Inner>, lamp: readiness::Link) {
    let mut vigil = Vigil::default();
    let mut ticks = interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last = Instant::now();
    for beat in 1_u64.. {
        ticks.tick().await;
        let asked = Instant::now();
        let connection = inner.commands.connected().await;
        let beats = Box::pin(round(&inner, connection.clone(), beat)).await;
        lamp.set(beats.is_ok());
        Counters::show(&inner.counters.kept_dropped, inner.keeper.lock().dropped());
        match beats {
            Ok(beats) if asked.elapsed() < LATE && last.elapsed() < INTERVAL + LATE => {
                let alive = beats.iter().map(|(name, beat)| (name.as_str(), beat.as_str()));
                for server in vigil.answered(alive) {
                    if let Err(error) =
                        Box::pin(bury(&inner, connection.clone(), &server, &beats[&server])).await
                    {
                        tracing::warn!(server, %error, "the queries of a server that is gone were not ended, trying again");
                    }
                }
            }
            Ok(_) => vigil.unanswered(),
            Err(error) => {
                tracing::debug!(%error, "no heartbeat");
                vigil.unanswered();
            }
        }
        last = Instant::now();
    }
}

/// One beat; the beats of all servers.
async fn round(
    inner: &Inner,
    mut connection: MultiplexedConnection,
    beat: u64,
) -> Result<HashMap<String, String>, BusError> {
    let mut pipeline = redis::pipe();
    let servers = inner.names.servers();
    pipeline.cmd("HSET").arg(&servers).arg(&inner.owner).arg(beat).ignore();
    pipeline.cmd("EXPIRE").arg(&servers).arg(inner.ttl()).ignore();
    pipeline.cmd("EXPIRE").arg(inner.names.running(&inner.owner)).arg(inner.ttl()).ignore();
    pipeline.cmd("GET").arg(inner.incarnation.mark_key());
    pipeline.cmd("HGETALL").arg(&servers);
    let (mark, beats): (Option<Vec<u8>>, HashMap<String, String>) =
        pipeline.query_async(&mut connection).await.map_err(|error| Link::failed(&error))?;
    if inner.incarnation.saw_mark(mark.as_deref()) { Ok(beats) } else { Err(BusError::Restoring) }
}

/// Ends the queries of a server that is gone.
async fn bury(
    inner: &Inner,
    mut connection: MultiplexedConnection,
    server: &str,
    beat: &str,
) -> Result<(), BusError> {
    let failed = |error: redis::RedisError| Link::failed(&error);
    let running = inner.names.running(server);
    let mut ask = redis::pipe();
    ask.cmd("HGETALL").arg(&running);
    let (queries,): (HashMap<String, u64>,) = ask.query_async(&mut connection).await.map_err(failed)?;
    tracing::warn!(server, queries = queries.len(), "a server is gone, ending its queries");
    let queries: Vec<_> = queries
        .into_iter()
        .filter_map(|(session, generation)| Some((session.parse().ok()?, generation)))
        .collect();
    inner.scripts.bury.load_async(&mut connection).await.map_err(failed)?;
    for some in queries.chunks(QUERIES) {
        let mut ask = redis::pipe();
        for &(session, _) in some {
            ask.cmd("HGET").arg(inner.names.meta(session)).arg("query");
        }
        let ids: Vec<Option<String>> = ask.query_async(&mut connection).await.map_err(failed)?;
        let mut end = Pipeline::new();
        for (&(session, generation), id) in some.iter().zip(ids) {
            let keys =
                [inner.names.meta(session), inner.names.log(session), running.clone(), inner.names.servers()];
            let mut call = eval(inner.scripts.bury.get_hash(), &keys);
            call.arg(server)
                .arg(generation)
                .arg(session.to_string())
                .arg(terminator_behind_its_id(&id.unwrap_or_default()))
                .arg(inner.ttl())
                .arg(inner.delivery())
                .arg(inner.names.down(session))
                .arg(beat);
            end.add_command(call);
        }
        let ended: Vec<u64> = end.query_async(&mut connection).await.map_err(failed)?;
        Counters::add(&inner.counters.buried, ended.iter().sum());
    }
    let mut forget = inner.scripts.forget_server.key(inner.names.servers());
    forget.arg(server).arg(beat).invoke_async(&mut connection).await.map_err(failed)
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
