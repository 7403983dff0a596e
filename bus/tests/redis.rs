//! What only a real Redis can do: be absent, forget its scripts, cut its subscribers off.

#[allow(dead_code, reason = "shared with the contract tests, which use the rest")]
mod support;

use bus::{BusConfig, BusError, Start};
use protocol::{Kind, Position, Prefix, SessionId, encode_closed, encode_fence};
use redis::Value;
use std::{sync::Arc, time::Duration};
use support::{Fixture, Notebook, PATIENCE, PrivateRedis, Reader, as_it_is, expected, query_batch, ready};
use tokio::time::timeout;
use uuid::Uuid;

/// Closes every connection that subscribes.
async fn cut_subscribers(connection: &mut redis::aio::MultiplexedConnection) {
    let mut kill = redis::cmd("CLIENT");
    let _: Value = kill.arg("KILL").arg("TYPE").arg("pubsub").query_async(connection).await.unwrap();
}

#[tokio::test]
async fn absent_at_start_and_then_there() {
    let mut redis = PrivateRedis::prepare();
    let bus = bus::open(BusConfig::new(redis.url(), "early")).unwrap();
    assert!(!*bus.ready().borrow());
    let session = SessionId::new(Uuid::new_v4());
    assert!(matches!(bus.create(session).await, Err(BusError::Unreachable(_))));
    redis.launch();
    ready(&bus).await;
    bus.create(session).await.unwrap();
    let reader = Reader::live(&bus, session, Start::Cursor).await;
    let fixture =
        Fixture { server: bus.clone(), gateway: bus.clone(), other_gateway: bus, redis: Some(redis) };
    let generation = fixture.play(session, "q", 3).await;
    reader.until_events(&expected(generation, 3)).await;
}

#[tokio::test]
async fn a_url_that_is_none_is_refused_without_repeating_it() {
    for url in ["", "http://x", "redis://:secret@:notaport"] {
        let error = bus::open(BusConfig::new(url, "x")).map(|_| ()).unwrap_err();
        assert!(matches!(error, BusError::Config(_)), "{error}");
        assert!(!error.to_string().contains("secret"), "{error}");
    }
}

#[tokio::test]
async fn cut_subscribers_come_back_and_lanes_read_what_they_missed() {
    let bus = Fixture::redis(as_it_is).await;
    let session = bus.session().await;
    let silent = bus.session().await;
    let reader = Reader::live(&bus.gateway, session, Start::Cursor).await;
    let quiet = Reader::live(&bus.gateway, silent, Start::Cursor).await;
    let generation = bus.claim(session, "q").await;
    let mut connection = bus.redis.as_ref().unwrap().connection().await;
    for seq in 1..=60 {
        if seq % 20 == 10 {
            cut_subscribers(&mut connection).await;
        }
        bus.server.append(&query_batch(session, generation, seq..=seq, seq == 60)).await.unwrap();
    }
    // Everything this lane will ever hear was said while its connection was down.
    let unheard = bus.play(silent, "q", 2).await;
    reader.until_events(&expected(generation, 60)).await;
    quiet.until_events(&expected(unheard, 2)).await;
    assert!(reader.notebook.read(|notes| notes.gaps.is_empty()));
}

#[tokio::test]
async fn scripts_that_were_forgotten_are_loaded_again() {
    let bus = Fixture::redis(as_it_is).await;
    let session = bus.session().await;
    let reader = Reader::live(&bus.gateway, session, Start::Cursor).await;
    let generation = bus.claim(session, "q").await;
    let mut connection = bus.redis.as_ref().unwrap().connection().await;
    let _: Value = redis::cmd("SCRIPT").arg("FLUSH").query_async(&mut connection).await.unwrap();
    let batch = query_batch(session, generation, 1..=2, true);
    timeout(PATIENCE, async { while bus.server.append(&batch).await.is_err() {} }).await.expect("appended");
    reader.until_events(&expected(generation, 2)).await;
    bus.claim(session, "q2").await;
}

/// An entry's id, and its fields with their values.
type LogEntry = (String, Vec<(String, Vec<u8>)>);

/// The frames that Lua writes are the bytes that the protocol encodes.
#[tokio::test]
async fn fence_and_marker_are_the_protocols_own() {
    let bus = Fixture::redis(as_it_is).await;
    let session = bus.session().await;
    let generation = bus.play(session, "q", 1).await;
    bus.server.close(session).await.unwrap();
    let mut connection = bus.redis.as_ref().unwrap().connection().await;
    let log = format!("test:session:{session}:log");
    let entries: Vec<LogEntry> =
        redis::cmd("XRANGE").arg(log).arg("-").arg("+").query_async(&mut connection).await.unwrap();
    let (mut fence, mut closed) = (Vec::new(), Vec::new());
    encode_fence(&mut fence, generation, Position::ZERO);
    encode_closed(&mut closed, Position::new(generation, 3));
    assert_eq!(entries[0].1[0].1, fence);
    assert_eq!(entries[3].1[0].1, closed);
    for (id, fields) in &entries {
        assert_eq!(Prefix::parse(&fields[0].1).unwrap().position, id.parse().unwrap());
    }
    assert_eq!(Prefix::parse(&fence).unwrap().kind, Kind::Fence { prev: Position::ZERO });
}

#[tokio::test]
async fn keys_expire() {
    let bus = Fixture::redis(|config| config.session_ttl = std::time::Duration::from_secs(77)).await;
    let session = bus.session().await;
    let reader = Reader::live(&bus.gateway, session, Start::Cursor).await;
    bus.play(session, "q", 1).await;
    reader.attachment.release(None).await.unwrap();
    let mut connection = bus.redis.as_ref().unwrap().connection().await;
    for key in ["meta", "log", "attach"] {
        let ttl: i64 = redis::cmd("TTL")
            .arg(format!("test:session:{session}:{key}"))
            .query_async(&mut connection)
            .await
            .unwrap();
        assert!((1..=77).contains(&ttl), "{key} lives for {ttl} s");
    }
}

/// A takeover is said once, on a channel that may be down just then.
#[tokio::test]
async fn a_takeover_that_was_missed_is_noticed() {
    let bus = Fixture::redis(as_it_is).await;
    let session = bus.session().await;
    let first = Reader::live(&bus.gateway, session, Start::After(Position::ZERO)).await;
    let mut connection = bus.redis.as_ref().unwrap().connection().await;
    // Somebody else's attachment, of which nobody is told.
    let attach = format!("test:session:{session}:attach");
    let (epoch, ()): (u64, ()) = redis::pipe()
        .cmd("HINCRBY")
        .arg(&attach)
        .arg("epoch")
        .arg(1)
        .cmd("HSET")
        .arg(&attach)
        .arg("holder")
        .arg("another")
        .query_async(&mut connection)
        .await
        .unwrap();
    assert!(epoch > 1);
    cut_subscribers(&mut connection).await;
    first.until("its end", |notes| notes.end == Some(bus::LaneEnd::TakenOver)).await;
}

/// A newcomer that goes away while Redis is slow: who had the session before is told of it, or goes on; it never stands still.
#[tokio::test]
async fn a_newcomer_that_gives_up_leaves_nobody_deaf() {
    let bus = Fixture::redis(as_it_is).await;
    let session = bus.session().await;
    let first = Reader::live(&bus.gateway, session, Start::After(Position::ZERO)).await;
    let gives_up = async {
        let outlet = Arc::new(Notebook::default());
        let attach = bus.gateway.attach(session, Start::After(Position::ZERO), outlet);
        assert!(timeout(Duration::from_millis(100), attach).await.is_err(), "Redis stands still");
    };
    tokio::join!(bus.redis.as_ref().unwrap().pause(Duration::from_millis(400)), gives_up);
    first.until("its end", |notes| notes.end == Some(bus::LaneEnd::TakenOver)).await;
}

/// A terminator that comes twice, the second time after the session's next claim.
#[tokio::test]
async fn a_late_terminator_leaves_the_next_query_among_the_running_ones() {
    let bus = Fixture::redis(as_it_is).await;
    let session = bus.session().await;
    let first = bus.play(session, "q1", 1).await;
    let second = bus.claim(session, "q2").await;
    let late = bus.server.append(&query_batch(session, first, 1..=1, true)).await.unwrap();
    assert_eq!(late.stale, [(session, first)]);
    let mut connection = bus.redis.as_ref().unwrap().connection().await;
    let keys: Vec<String> =
        redis::cmd("KEYS").arg("test:server:*:running").query_async(&mut connection).await.unwrap();
    assert_eq!(keys.len(), 1, "one server claimed: {keys:?}");
    let running = async |connection: &mut redis::aio::MultiplexedConnection| -> Option<u64> {
        redis::cmd("HGET").arg(&keys[0]).arg(session.to_string()).query_async(connection).await.unwrap()
    };
    assert_eq!(running(&mut connection).await, Some(second));
    bus.server.append(&query_batch(session, second, 1..=1, true)).await.unwrap();
    assert_eq!(running(&mut connection).await, None);
}
