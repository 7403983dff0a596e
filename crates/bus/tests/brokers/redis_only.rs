//! What only a real Redis can do: be absent, lose its scripts, cut its subscribers off, reply late.

use crate::support::{
    Fixture, PATIENCE, PrivateRedis, Reader, Recorder, ask, command, expected, key, make_log_unusable,
    query_batch, ready, unchanged,
};
use bus::{AttachError, BusConfig, BusError, LaneEnd, Start};
use protocol::{Kind, Position, Prefix, SessionId, encode_closed, encode_fence};
use std::{sync::Arc, time::Duration};
use tokio::time::timeout;
use uuid::Uuid;

/// Closes every connection that subscribes.
const CUT_SUBSCRIBERS: &str = "CLIENT KILL TYPE pubsub";

/// Lets Redis subscribe and reply, but delay all writes for longer than an attachment may take.
const HOLD_WRITES: &str = "CLIENT PAUSE 1200 WRITE";

#[tokio::test]
async fn a_redis_that_starts_later_is_used() {
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
async fn an_invalid_url_is_refused_and_not_printed() {
    for url in ["", "http://x", "redis://:secret@:notaport"] {
        let error = bus::open(BusConfig::new(url, "x")).map(|_| ()).unwrap_err();
        assert!(matches!(error, BusError::Config(_)), "{error}");
        assert!(!error.to_string().contains("secret"), "{error}");
    }
}

#[tokio::test]
async fn cut_subscribers_reconnect_and_lanes_read_missed_events() {
    let bus = Fixture::redis(unchanged).await;
    let session = bus.session().await;
    let silent = bus.session().await;
    let reader = Reader::live(&bus.gateway, session, Start::Cursor).await;
    let quiet = Reader::live(&bus.gateway, silent, Start::Cursor).await;
    let generation = bus.claim(session, "q").await;
    let mut connection = bus.connection().await;
    for seq in 1..=60 {
        if seq % 20 == 10 {
            command(&mut connection, CUT_SUBSCRIBERS).await;
        }
        bus.server.append(&query_batch(session, generation, seq..=seq, seq == 60)).await.unwrap();
    }
    // All events of this lane were published while its connection was down.
    let missed = bus.play(silent, "q", 2).await;
    reader.until_events(&expected(generation, 60)).await;
    quiet.until_events(&expected(missed, 2)).await;
    assert!(reader.recorder.read(|recorded| recorded.gaps.is_empty()));
}

#[tokio::test]
async fn lost_scripts_are_loaded_again() {
    let bus = Fixture::redis(unchanged).await;
    let (session, reader) = bus.live().await;
    let generation = bus.claim(session, "q").await;
    let mut connection = bus.connection().await;
    command(&mut connection, "SCRIPT FLUSH").await;
    let batch = query_batch(session, generation, 1..=2, true);
    timeout(PATIENCE, async { while bus.server.append(&batch).await.is_err() {} }).await.expect("appended");
    reader.until_events(&expected(generation, 2)).await;
    bus.claim(session, "q2").await;
}

/// The id of a log entry, and its fields with their values.
type LogEntry = (String, Vec<(String, Vec<u8>)>);

/// Frames made in Lua have the bytes that the protocol encodes.
#[tokio::test]
async fn frames_from_lua_equal_encoded_ones() {
    let bus = Fixture::redis(unchanged).await;
    let session = bus.session().await;
    let generation = bus.play(session, "q", 1).await;
    bus.server.close(session).await.unwrap();
    let mut connection = bus.connection().await;
    let range = format!("XRANGE {} - +", key(session, "log"));
    let entries: Vec<LogEntry> = ask(&mut connection, &range).await;
    let (mut fence, mut closed) = (Vec::new(), Vec::new());
    encode_fence(&mut fence, generation, Some(Position::ZERO));
    assert_eq!(entries[0].1[0].1, fence);
    let end: Position = entries[3].0.parse().unwrap();
    assert!(end.generation > generation && entries.len() == 5, "the end is behind a fence");
    let mut behind = Vec::new();
    encode_fence(&mut behind, end.generation, Some(Position::new(generation, 2)));
    encode_closed(&mut closed, end.next());
    assert_eq!((&entries[3].1[0].1, &entries[4].1[0].1), (&behind, &closed));
    for (id, fields) in &entries {
        assert_eq!(Prefix::parse(&fields[0].1).unwrap().position, id.parse().unwrap());
    }
    assert_eq!(Prefix::parse(&fence).unwrap().kind, Kind::Fence { prev: Some(Position::ZERO) });
}

#[tokio::test]
async fn keys_expire() {
    let bus = Fixture::redis(|config| config.session_ttl = std::time::Duration::from_secs(77)).await;
    let (session, reader) = bus.live().await;
    bus.play(session, "q", 1).await;
    reader.attachment.release(None).await.unwrap();
    let mut connection = bus.connection().await;
    for part in ["meta", "log", "attach"] {
        let ttl: i64 = ask(&mut connection, &format!("TTL {}", key(session, part))).await;
        assert!((78..=97).contains(&ttl), "{part} has a TTL of {ttl} s, a quarter more than configured");
    }
    // At a third of the way from a renewal to the next one, a query renews nothing. Later it renews all keys.
    for (left, renewed) in [(90, false), (70, true)] {
        for part in ["meta", "log", "attach"] {
            command(&mut connection, &format!("EXPIRE {} {left}", key(session, part))).await;
        }
        bus.play(session, &format!("q{left}"), 1).await;
        for part in ["meta", "log", "attach"] {
            let ttl: i64 = ask(&mut connection, &format!("TTL {}", key(session, part))).await;
            assert_eq!(ttl > left, renewed, "{part} has a TTL of {ttl} s after {left} s");
        }
    }
}

/// The keys of a closed session expire after a minute, once its client has received everything.
#[tokio::test]
async fn a_session_that_is_over_expires_soon() {
    let bus = Fixture::redis(unchanged).await;
    let mut connection = bus.connection().await;
    for (closes_first, has_all, is_over) in
        [(true, true, true), (false, true, true), (true, false, false), (false, false, false)]
    {
        let (session, reader) = bus.live().await;
        let generation = bus.play(session, "q", 3).await;
        reader.until_events(&expected(generation, 3)).await;
        let cursor = has_all.then(|| Position::new(generation, 4));
        if closes_first {
            bus.server.close(session).await.unwrap();
            reader.until_end(LaneEnd::SessionClosed).await;
        }
        reader.attachment.release(cursor).await.unwrap();
        if !closes_first {
            bus.server.close(session).await.unwrap();
        }
        for part in ["meta", "log", "attach"] {
            let ttl: i64 = ask(&mut connection, &format!("TTL {}", key(session, part))).await;
            assert_eq!((1..=60).contains(&ttl), is_over, "{part} has a TTL of {ttl} s");
        }
    }
    // A later socket broke, so that its client may lack what it had asked for again.
    let (session, reader) = bus.live().await;
    let generation = bus.play(session, "q", 3).await;
    reader.attachment.release(Some(Position::new(generation, 4))).await.unwrap();
    let again = Reader::live(&bus.gateway, session, Start::After(Position::new(generation, 1))).await;
    again.attachment.release(None).await.unwrap();
    bus.server.close(session).await.unwrap();
    let ttl: i64 = ask(&mut connection, &format!("TTL {}", key(session, "log"))).await;
    assert!(ttl > 60, "{ttl}");
    // No socket ever had it, and there is nothing to receive.
    let session = bus.session().await;
    bus.server.close(session).await.unwrap();
    let ttl: i64 = ask(&mut connection, &format!("TTL {}", key(session, "log"))).await;
    assert!((1..=60).contains(&ttl), "{ttl}");
}

/// A takeover is published once, on a channel that may be disconnected at that moment.
#[tokio::test]
async fn a_missed_takeover_is_noticed() {
    let bus = Fixture::redis(unchanged).await;
    let (session, first) = bus.live_from(Start::After(Position::ZERO)).await;
    let mut connection = bus.connection().await;
    // Another attachment, of which no gateway is notified.
    let attach = key(session, "attach");
    assert!(ask::<u64>(&mut connection, &format!("HINCRBY {attach} epoch 1")).await > 1);
    command(&mut connection, &format!("HSET {attach} holder another")).await;
    command(&mut connection, CUT_SUBSCRIBERS).await;
    first.until_end(LaneEnd::TakenOver).await;
}

/// An attachment whose caller gives up before Redis executes it does not take the session from its holder.
#[tokio::test]
async fn an_abandoned_attachment_takes_nothing_over() {
    let bus = Fixture::redis(unchanged).await;
    let (session, first) = bus.live_from(Start::After(Position::ZERO)).await;
    let mut connection = bus.connection().await;
    command(&mut connection, HOLD_WRITES).await;
    for gateway in [&bus.gateway, &bus.other_gateway] {
        let outlet = Arc::new(Recorder::default());
        let attach = gateway.attach(session, Start::After(Position::ZERO), outlet);
        assert!(timeout(Duration::from_millis(100), attach).await.is_err(), "Redis holds writes");
    }
    // Redis executes this after both attachments.
    let generation = bus.play(session, "q", 5).await;
    first.until_events(&expected(generation, 5)).await;
    assert_eq!(first.recorder.read(|recorded| recorded.end), None, "a healthy socket was closed");
}

/// An attachment whose caller waits succeeds: its first call is executed too late, and the second one in time.
#[tokio::test]
async fn a_late_attachment_is_tried_again() {
    let bus = Fixture::redis(unchanged).await;
    let (session, first) = bus.live_from(Start::After(Position::ZERO)).await;
    let mut connection = bus.connection().await;
    command(&mut connection, HOLD_WRITES).await;
    let second = Reader::live(&bus.other_gateway, session, Start::After(Position::ZERO)).await;
    assert_eq!(bus.other_gateway.counters().late_attaches, 1);
    first.until_end(LaneEnd::TakenOver).await;
    let generation = bus.play(session, "q", 5).await;
    second.until_events(&expected(generation, 5)).await;
}

/// Redis stops completely, as during a fork or while it is swapped out. An attachment whose caller gives up meanwhile
/// takes nothing over.
#[tokio::test]
async fn an_abandoned_attachment_during_a_stop_takes_nothing_over() {
    let bus = Fixture::redis(unchanged).await;
    let (session, first) = bus.live_from(Start::After(Position::ZERO)).await;
    let gives_up = async {
        let attach = bus.other_gateway.attach(session, Start::Cursor, Arc::new(Recorder::default()));
        assert!(timeout(Duration::from_millis(300), attach).await.is_err(), "Redis is stopped");
    };
    tokio::join!(bus.redis_server().pause(Duration::from_millis(1600)), gives_up);
    let generation = bus.play(session, "q", 5).await;
    first.until_events(&expected(generation, 5)).await;
    assert_eq!(first.recorder.read(|recorded| recorded.end), None, "a healthy socket was closed");
}

/// An attachment that fails half-way has taken nothing over.
#[tokio::test]
async fn an_attachment_without_a_subscription_takes_nothing_over() {
    let bus = Fixture::redis(unchanged).await;
    let (session, first) = bus.live_from(Start::After(Position::ZERO)).await;
    let mut connection = bus.connection().await;
    command(&mut connection, "ACL SETUSER default -subscribe").await;
    for gateway in [&bus.gateway, &bus.other_gateway] {
        let attached = gateway.attach(session, Start::Cursor, Arc::new(Recorder::default())).await;
        assert!(matches!(attached, Err(AttachError::Bus(_))), "{attached:?}");
    }
    let generation = bus.play(session, "q", 5).await;
    first.until_events(&expected(generation, 5)).await;
    assert_eq!(first.recorder.read(|recorded| recorded.end), None);
}

/// Generations follow Redis' clock, which may be ahead of this host's. Positions are compared with the session, not
/// with a clock.
#[tokio::test]
async fn a_session_from_the_future_of_this_host_is_resumed() {
    let bus = Fixture::redis(unchanged).await;
    let session = bus.session().await;
    let mut connection = bus.connection().await;
    let now_ms = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis();
    let ahead = now_ms as u64 + 3_600_000;
    command(&mut connection, &format!("HSET {} gen {ahead}", key(session, "meta"))).await;
    let generation = bus.play(session, "q", 5).await;
    assert_eq!(generation, ahead + 1);
    let reader = Reader::live(&bus.gateway, session, Start::After(Position::new(generation, 4))).await;
    reader.until_events(&expected(generation, 5)[4..]).await;
}

/// Lanes that read their logs at the same time, as after a reconnect, share round trips. A log that cannot be read does
/// not affect the others.
#[tokio::test]
async fn lanes_that_read_at_once_share_pipelines() {
    const LANES: usize = 600;
    let bus = Fixture::redis(unchanged).await;
    let mut readers = Vec::new();
    for _ in 0..LANES {
        let session = bus.session().await;
        let generation = bus.play(session, "q", 3).await;
        let reader = Reader::attach(&bus.gateway, session, Start::Cursor).await;
        readers.push((session, generation, reader));
    }
    let mut connection = bus.connection().await;
    let (broken, _, unreadable) = readers.pop().unwrap();
    make_log_unusable(&mut connection, broken).await;
    let before = calls(&mut connection, "get").await;
    let reads = readers.iter().map(|(_, _, reader)| reader.catch_up());
    let (_, refused) = tokio::join!(futures_util::future::join_all(reads), unreadable.attachment.catch_up(7));
    assert!(matches!(refused, Err(BusError::Refused(_))), "{refused:?}");
    let asked = calls(&mut connection, "get").await - before;
    assert!(asked < 60, "{LANES} lanes took {asked} pipelines");
    for (_, generation, reader) in &readers {
        assert_eq!(reader.recorder.events(), expected(*generation, 3));
    }
}

/// Returns how often Redis has executed this command.
async fn calls(connection: &mut redis::aio::MultiplexedConnection, command: &str) -> u64 {
    let stats: String = ask(connection, "INFO commandstats").await;
    let line = format!("cmdstat_{command}:calls=");
    let found = stats.lines().find_map(|found| found.strip_prefix(&line)).unwrap_or("0,");
    found.split_once(',').unwrap().0.parse().unwrap()
}

/// A terminator that arrives twice, the second time after the session's next claim.
#[tokio::test]
async fn a_late_terminator_leaves_the_next_query_among_the_running_ones() {
    let bus = Fixture::redis(unchanged).await;
    let session = bus.session().await;
    let first = bus.play(session, "q1", 1).await;
    let second = bus.claim(session, "q2").await;
    let late = bus.server.append(&query_batch(session, first, 1..=1, true)).await.unwrap();
    assert_eq!((late.taken, late.stale), (2, Vec::new()), "the log holds both, so an answer was lost");
    let mut connection = bus.connection().await;
    let keys: Vec<String> = ask(&mut connection, "KEYS test:server:*:running").await;
    assert_eq!(keys.len(), 1, "one server claimed: {keys:?}");
    let running = format!("HGET {} {session}", keys[0]);
    assert_eq!(ask::<Option<u64>>(&mut connection, &running).await, Some(second));
    bus.server.append(&query_batch(session, second, 1..=1, true)).await.unwrap();
    assert_eq!(ask::<Option<u64>>(&mut connection, &running).await, None);
}
