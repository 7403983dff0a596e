//! Queries whose server cannot end them: those of a dead server, and those that Redis lists for this server although it does not
//! play them. Each gets an error terminator and a fence.

use super::{
    Inner,
    link::Link,
    per_session::{self, OnUnknown, SESSIONS},
    scripts::eval,
};
use crate::{BusError, Counters, rules::Restoration};
use host::monotonic_us;
use protocol::{Position, SessionId, encode_error};
use redis::{Pipeline, aio::MultiplexedConnection};
use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

/// Code and message of the terminator.
const CODE: &str = "server_lost";
const MESSAGE: &str = "the server of this query is gone";

/// How long a heartbeat may wait for the pages of [`Reconciliation`]. The remaining pages are read after the next one.
const PAGES_TIME: Duration = Duration::from_millis(200);

/// The comparison of the queries that Redis lists for this server with those that it plays. A server may run tens of thousands of
/// queries, so the list is read in pages: Redis serves other clients in between, and heartbeats are not late.
#[derive(Default)]
pub(super) struct Reconciliation {
    listing: Option<Listing>,
}

impl Reconciliation {
    /// Begins to read the list, unless the last read has not ended yet.
    pub(super) fn begin(&mut self) {
        self.listing.get_or_insert_default();
    }

    /// Forgets a read that has not ended.
    pub(super) fn reset(&mut self) {
        self.listing = None;
    }

    /// Reads on for a limited time, if a read has begun. At its end, ends the queries that this server does not play according to
    /// this read and the one before. `beat` is this server's heartbeat.
    pub(super) async fn read_on(
        &mut self,
        inner: &Inner,
        mut connection: MultiplexedConnection,
        beat: &str,
    ) -> Result<(), BusError> {
        let Some(mut listing) = self.listing.take() else { return Ok(()) };
        let began = Instant::now();
        while listing.next_page(inner, &mut connection, &inner.owner).await? {
            if began.elapsed() >= PAGES_TIME {
                self.listing = Some(listing);
                return Ok(());
            }
        }
        let lost = inner.plays.reconcile(listing.found);
        if lost.is_empty() {
            return Ok(());
        }
        let ended = end_queries(inner, &mut connection, (&inner.owner, beat), &lost).await?;
        if ended > 0 {
            tracing::warn!(
                queries = ended,
                "ended queries that Redis listed for this server and that it did not play"
            );
        }
        Ok(())
    }
}

/// A read of a server's hash of running queries, in pages. It finds every query that is listed from its begin to its end.
#[derive(Default)]
struct Listing {
    cursor: u64,
    /// Session and generation. A page may repeat what an earlier one had.
    found: HashMap<SessionId, u64>,
}

impl Listing {
    /// Reads the next page. Returns false if it was the last one.
    async fn next_page(
        &mut self,
        inner: &Inner,
        connection: &mut MultiplexedConnection,
        server: &str,
    ) -> Result<bool, BusError> {
        let mut ask = redis::cmd("HSCAN");
        ask.arg(inner.names.running(server)).arg(self.cursor).arg("COUNT").arg(SESSIONS);
        let (cursor, queries): (u64, Vec<(String, String)>) =
            ask.query_async(connection).await.map_err(|error| Link::failed(&error))?;
        self.cursor = cursor;
        for (session, generation) in queries {
            if let (Ok(session), Ok(generation)) = (session.parse(), generation.parse()) {
                self.found.insert(session, generation);
            }
        }
        Ok(cursor != 0)
    }
}

/// Ends the queries of a dead server, and takes it off the list. `beat` is the heartbeat that did not change.
pub(super) async fn end_dead_server(
    inner: &Inner,
    mut connection: MultiplexedConnection,
    server: &str,
    beat: &str,
) -> Result<(), BusError> {
    let queries = running(inner, &mut connection, server).await?;
    tracing::warn!(server, queries = queries.len(), "a server is dead, ending its queries");
    end_queries(inner, &mut connection, (server, beat), &queries).await?;
    let mut forget = inner.scripts.forget_server.key(inner.names.servers());
    forget.key(inner.names.running(server));
    forget.arg(server).arg(beat).invoke_async(&mut connection).await.map_err(|error| Link::failed(&error))
}

/// Returns the queries that Redis lists as running at a server: session and generation.
async fn running(
    inner: &Inner,
    connection: &mut MultiplexedConnection,
    server: &str,
) -> Result<Vec<(SessionId, u64)>, BusError> {
    let mut listing = Listing::default();
    while listing.next_page(inner, connection, server).await? {}
    Ok(listing.found.into_iter().collect())
}

/// Ends queries of a server whose heartbeat is still `beat`. A session that Redis refuses is skipped, and its query is no longer
/// listed for the server. Returns the number of queries that were ended.
async fn end_queries(
    inner: &Inner,
    connection: &mut MultiplexedConnection,
    server: (&str, &str),
    queries: &[(SessionId, u64)],
) -> Result<u64, BusError> {
    let mut ended = 0;
    inner.scripts.end_lost_query.load_async(connection).await.map_err(|error| Link::failed(&error))?;
    let complete = inner.restoration() == Restoration::Complete;
    for some in queries.chunks(SESSIONS) {
        let mut read_ids = redis::pipe();
        for &(session, _) in some {
            read_ids.cmd("HGET").arg(inner.names.meta(session)).arg("query");
        }
        let ids = per_session::send(connection, &read_ids, OnUnknown::Skip).await?;
        let mut end = Pipeline::new();
        for (&query, id) in some.iter().zip(ids) {
            // A query whose id cannot be read ends all the same, with an empty id.
            let id = id.ok().and_then(|id| redis::from_redis_value::<Option<String>>(id).ok().flatten());
            end.add_command(call(inner, server, query, &id.unwrap_or_default(), complete));
        }
        let replies = per_session::send(connection, &end, OnUnknown::Skip).await?;
        ended += record_replies(inner, some, replies);
    }
    Ok(ended)
}

/// Returns the call that ends one query.
fn call(
    inner: &Inner,
    (server, beat): (&str, &str),
    (session, generation): (SessionId, u64),
    query_id: &str,
    complete: bool,
) -> redis::Cmd {
    let names = &inner.names;
    let (meta, log, attach) = (names.meta(session), names.log(session), names.attach(session));
    let keys = [meta, log, names.running(server), names.servers(), attach, names.running(&inner.owner)];
    let mut call = eval(inner.scripts.end_lost_query.get_hash(), &keys);
    call.arg(server)
        .arg(generation)
        .arg(session.to_string())
        .arg(terminator_without_id(query_id))
        .arg(inner.ttl())
        .arg(inner.delivery())
        .arg(names.down(session))
        .arg(beat)
        .arg(u8::from(complete))
        .arg(&inner.owner);
    call
}

/// Counts the queries that were ended, and remembers the sessions whose logs lack their ends.
fn record_replies(inner: &Inner, queries: &[(SessionId, u64)], replies: Vec<per_session::Reply>) -> u64 {
    let (mut ended, mut refused) = (0, Vec::new());
    for (&(session, _), reply) in queries.iter().zip(replies) {
        match reply.map(redis::from_redis_value::<(u64, bool)>) {
            Ok(Ok((has_ended, lacks_end))) => {
                ended += has_ended;
                if lacks_end {
                    inner.lacks_end(session);
                }
            }
            Ok(Err(error)) => refused.push((session, error.to_string())),
            Err(words) => refused.push((session, words)),
        }
    }
    Counters::add(&inner.counters.buried, ended);
    inner.skip("the end of a dead server's queries", refused);
    ended
}

/// Returns the terminator's frame without its leading `{"id":"…"`, because only Redis knows its position.
fn terminator_without_id(query_id: &str) -> Vec<u8> {
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
    fn the_terminator_is_complete_with_its_id() {
        let frame = [br#"{"id":"7-3""#.to_vec(), terminator_without_id("a\"b")].concat();
        let prefix = Prefix::parse(&frame).unwrap();
        assert_eq!(prefix, Prefix { position: Position::new(7, 3), kind: Kind::Error });
        let event: serde_json::Value = serde_json::from_slice(&frame).unwrap();
        assert_eq!((event["code"].as_str(), event["query_id"].as_str()), (Some(CODE), Some("a\"b")));
    }
}
