//! Refusals by a real Redis: for a while, for one session, or for good.

use crate::support::{
    Fixture, PATIENCE, PrivateRedis, Reader, ask, command, eventually, expected, key, make_log_unusable,
    open, query_batch, ready, request, terminator_batch, unchanged,
};
use bus::{Appended, Batch, Broker, BusError, ClaimError, LaneEnd, Refusal, Role, Start, StoreMemory};
use protocol::{Kind, Position, SessionId, encode_error};
use redis::{Value, aio::MultiplexedConnection};
use std::{sync::Arc, time::Duration};
use tokio::time::{sleep, timeout};

/// Appends as a worker does: repeatedly, from the first entry that was not taken. Returns how often the bus stopped.
async fn append_all(bus: &Arc<dyn Broker>, mut batch: Batch) -> usize {
    let mut stops = 0;
    let attempts = async {
        while !batch.is_empty() {
            let stopped = match bus.append(&batch).await {
                Ok(Appended { taken, stopped, refused, stale, .. }) => {
                    assert!(refused.is_empty() && stale.is_empty(), "{refused:?} {stale:?}");
                    batch.advance(taken);
                    stopped
                }
                Err(error) => Some(error),
            };
            if let Some(error) = stopped {
                stops += 1;
                let passes = matches!(error, BusError::Unreachable(_) | BusError::Restoring);
                assert!(passes || error.refusal() == Some(Refusal::Passing), "{error}");
                sleep(Duration::from_millis(5)).await;
            }
        }
    };
    timeout(PATIENCE, attempts).await.expect("the bus takes the batch");
    stops
}

/// A cause of refusals of every write, the command that begins it, and the command that ends it.
const DENIALS: [(&str, &str, &str); 3] = [
    ("NOREPLICAS", "CONFIG SET min-replicas-to-write 1", "CONFIG SET min-replicas-to-write 0"),
    ("OOM", "CONFIG SET maxmemory 1", "CONFIG SET maxmemory 0"),
    ("READONLY", "REPLICAOF 127.0.0.1 1", "REPLICAOF NO ONE"),
];

#[tokio::test]
async fn streams_outlast_every_kind_of_refusal() {
    for (cause, begin, end) in DENIALS {
        let bus = Fixture::redis(unchanged).await;
        let mut connection = bus.connection().await;
        let (session, reader) = bus.live().await;
        let generation = bus.claim(session, "q").await;
        append_all(&bus.server, query_batch(session, generation, 1..=3, false)).await;
        command(&mut connection, begin).await;
        let refused = bus.server.append(&query_batch(session, generation, 4..=6, false)).await.unwrap_err();
        assert!(matches!(&refused, BusError::Refused(words) if words.starts_with(cause)), "{refused}");
        let heal = async {
            sleep(Duration::from_millis(300)).await;
            command(&mut connection, end).await;
        };
        let (stops, ()) =
            tokio::join!(append_all(&bus.server, query_batch(session, generation, 4..=6, false)), heal);
        assert!(stops > 3, "{cause}: it was stopped {stops} times only");
        append_all(&bus.server, query_batch(session, generation, 7..=9, true)).await;
        reader.until_events(&expected(generation, 9)).await;
        assert!(reader.recorder.read(|recorded| recorded.gaps.is_empty()));
        // The session takes its next query.
        eventually(cause, async || bus.server.claim(session, request("q2", "")).await.is_ok()).await;
    }
}

/// Refusals begin and end all the time, at any point within the calls of several sessions.
#[tokio::test]
async fn refusals_between_any_two_calls_leave_no_hole() {
    let bus = Fixture::redis(unchanged).await;
    let mut connection = bus.connection().await;
    let mut streams = Vec::new();
    for _ in 0..4 {
        let (session, reader) = bus.live().await;
        let generation = bus.claim(session, "q").await;
        streams.push((session, generation, reader));
    }
    let toggle = async {
        loop {
            for (_, begin, end) in &DENIALS[..2] {
                command(&mut connection, begin).await;
                sleep(Duration::from_millis(3)).await;
                command(&mut connection, end).await;
                sleep(Duration::from_millis(1)).await;
            }
        }
    };
    let append = async {
        let mut stops = 0;
        for step in 0..60 {
            let mut batch = Batch::default();
            for (session, generation, _) in &streams {
                let from = 1 + step * 20;
                let own = query_batch(*session, *generation, from..=from + 19, step == 59);
                own.iter().for_each(|entry| batch.push_entry(&entry));
            }
            stops += append_all(&bus.server, batch).await;
        }
        stops
    };
    let stops = tokio::select! { stops = append => stops, () = toggle => unreachable!("it toggles forever") };
    command(&mut connection, DENIALS[0].2).await;
    command(&mut connection, DENIALS[1].2).await;
    assert!(stops > 0, "nothing was refused");
    for (_, generation, reader) in &streams {
        reader.until_events(&expected(*generation, 1200)).await;
    }
}

/// A busy Redis refuses a call and executes no part of it.
#[tokio::test]
async fn appends_wait_for_a_busy_redis() {
    let bus = Fixture::redis(unchanged).await;
    let redis = bus.redis_server();
    let (mut connection, mut busy) = (redis.connection().await, redis.connection().await);
    command(&mut connection, "CONFIG SET busy-reply-threshold 20").await;
    let (session, reader) = bus.live().await;
    let generation = bus.claim(session, "q").await;
    let script = async move {
        let mut eval = redis::cmd("EVAL");
        let _: Result<Value, _> = eval.arg("while true do end").arg(0).query_async(&mut busy).await;
    };
    let kill = async {
        sleep(Duration::from_millis(300)).await;
        command(&mut connection, "SCRIPT KILL").await;
    };
    let append = async {
        sleep(Duration::from_millis(60)).await;
        append_all(&bus.server, query_batch(session, generation, 1..=5, true)).await
    };
    let (_, (), stops) = tokio::join!(tokio::spawn(script), kill, append);
    assert!(stops > 0);
    reader.until_events(&expected(generation, 5)).await;
}

#[tokio::test]
async fn an_unusable_log_delays_no_other_session() {
    let bus = Fixture::redis(unchanged).await;
    let mut connection = bus.connection().await;
    let (broken, sound) = (bus.session().await, bus.session().await);
    let (broken_generation, sound_generation) = (bus.claim(broken, "q").await, bus.claim(sound, "q").await);
    make_log_unusable(&mut connection, broken).await;
    let mut batch = Batch::default();
    for (session, generation) in [(broken, broken_generation), (sound, sound_generation)] {
        query_batch(session, generation, 1..=4, true).iter().for_each(|entry| batch.push_entry(&entry));
    }
    let appended = bus.server.append(&batch).await.unwrap();
    assert!(appended.taken == 10 && appended.stopped.is_none(), "{appended:?}");
    let [refused] = &appended.refused[..] else { panic!("{appended:?}") };
    assert_eq!((refused.index, refused.session, Refusal::of(&refused.words)), (0, broken, Refusal::Final));
    let reader = Reader::live(&bus.gateway, sound, Start::After(Position::ZERO)).await;
    reader.until_events(&expected(sound_generation, 4)).await;
    // The terminator is refused while the key is not a stream, and taken afterwards.
    let terminator = terminator_batch(broken, broken_generation, 1);
    assert_eq!(bus.server.append(&terminator).await.unwrap().refused.len(), 1);
    command(&mut connection, &format!("DEL {}", key(broken, "log"))).await;
    assert!(bus.server.append(&terminator).await.unwrap().refused.is_empty());
    bus.claim(broken, "q2").await;
    // The writer of a session that no longer exists must stop.
    let last = bus.claim(sound, "q2").await;
    make_log_unusable(&mut connection, sound).await;
    command(&mut connection, &format!("DEL {}", key(sound, "meta"))).await;
    let refused = bus.server.append(&terminator_batch(sound, last, 1)).await.unwrap();
    assert_eq!((refused.stale, refused.refused), (vec![(sound, last)], vec![]));
}

/// Returns the fields of the meta hash that name the claim's owner, and whether a server lists the session as running.
async fn claimed(connection: &mut MultiplexedConnection, session: SessionId) -> (Vec<Option<String>>, bool) {
    let fields = ask(connection, &format!("HMGET {} running owner", key(session, "meta"))).await;
    let mut listed = false;
    for list in ask::<Vec<String>>(connection, "KEYS test:*running*").await {
        listed |= ask::<bool>(connection, &format!("HEXISTS {list} {session}")).await;
    }
    (fields, listed)
}

/// A terminator that the log never takes must not keep the session busy, nor keep a connected client waiting.
#[tokio::test]
async fn a_claim_is_released_although_the_log_refuses_its_terminator() {
    let bus = Fixture::redis(unchanged).await;
    let mut connection = bus.connection().await;
    let (session, reader) = bus.live().await;
    let generation = bus.claim(session, "q").await;
    append_all(&bus.server, query_batch(session, generation, 1..=2, false)).await;
    reader.until("two tokens", |recorded| recorded.events.len() == 2).await;
    make_log_unusable(&mut connection, session).await;
    let terminator = terminator_batch(session, generation, 3);
    let appended = bus.server.append(&terminator).await.unwrap();
    assert_eq!(Refusal::of(&appended.refused[0].words), Refusal::Final, "{appended:?}");

    // A claim of another server or of another generation is not released.
    let other = bus.open_server("other").await;
    let earlier = terminator_batch(session, generation - 1, 3);
    for (server, batch) in [(&other, &terminator), (&bus.server, &earlier)] {
        let released = server.release_claims(batch).await.unwrap();
        assert!(released.taken == 1 && released.refused.is_empty(), "{released:?}");
        assert_eq!(claimed(&mut connection, session).await.0[0].as_deref(), Some("1"));
    }
    for attempt in [1, 2] {
        let released = bus.server.release_claims(&terminator).await.unwrap();
        assert!(
            released.taken == 1 && released.refused.is_empty() && released.unheard == 0,
            "attempt {attempt}: {released:?}"
        );
        assert_eq!(claimed(&mut connection, session).await, (vec![None, None], false));
    }
    reader.until_events(&expected(generation, 2)).await;
    // While the key is wrong, nothing can be claimed, and nothing stays claimed.
    assert!(matches!(
        bus.server.claim(session, request("q2", "")).await,
        Err(ClaimError::Bus(BusError::Refused(_)))
    ));
    command(&mut connection, &format!("DEL {}", key(session, "log"))).await;
    let next = bus.play(session, "q2", 3).await;
    reader.until_events(&[expected(generation, 2), expected(next, 3)].concat()).await;
    assert!(reader.recorder.read(|recorded| recorded.gaps.is_empty()));
}

/// The lane of a session that was closed meanwhile ends after the last event.
#[tokio::test]
async fn a_claim_that_is_released_ends_a_closed_session() {
    let bus = Fixture::redis(unchanged).await;
    let mut connection = bus.connection().await;
    let (session, reader) = bus.live().await;
    let generation = bus.claim(session, "q").await;
    assert!(bus.server.close(session).await.unwrap());
    make_log_unusable(&mut connection, session).await;
    let terminator = terminator_batch(session, generation, 1);
    assert_eq!(bus.server.append(&terminator).await.unwrap().refused.len(), 1);
    bus.server.release_claims(&terminator).await.unwrap();
    reader.until_end(LaneEnd::SessionClosed).await;
    assert_eq!(reader.recorder.events(), expected(generation, 0));
}

/// A command that the user may not run inside a script is refused for good.
#[tokio::test]
async fn a_revoked_permission_is_a_final_refusal() {
    let bus = Fixture::redis(unchanged).await;
    let mut connection = bus.connection().await;
    let (session, reader) = bus.live().await;
    let generation = bus.claim(session, "q").await;
    append_all(&bus.server, query_batch(session, generation, 1..=2, false)).await;
    command(&mut connection, "ACL SETUSER default -xadd").await;
    let terminator = terminator_batch(session, generation, 3);
    let appended = bus.server.append(&terminator).await.unwrap();
    assert_eq!(Refusal::of(&appended.refused[0].words), Refusal::Final, "{appended:?}");
    let released = bus.server.release_claims(&terminator).await.unwrap();
    assert!(released.taken == 1 && released.refused.is_empty(), "{released:?}");
    reader.until_events(&expected(generation, 2)).await;
    // If the release itself is not permitted, it is refused and changes nothing.
    command(&mut connection, "ACL SETUSER default +xadd").await;
    let next = bus.claim(session, "q2").await;
    command(&mut connection, "ACL SETUSER default -hdel").await;
    let terminator = terminator_batch(session, next, 1);
    let released = bus.server.release_claims(&terminator).await.unwrap();
    assert_eq!(Refusal::of(&released.refused[0].words), Refusal::Final, "{released:?}");
    command(&mut connection, "ACL SETUSER default +hdel").await;
    append_all(&bus.server, terminator).await;
    bus.claim(session, "q3").await;
}

/// An event that is not above the log's top counts as taken only if the log holds it.
#[tokio::test]
async fn a_hole_is_refused_and_a_terminator_moves_behind_the_top() {
    let bus = Fixture::redis(unchanged).await;
    let mut connection = bus.connection().await;
    let session = bus.session().await;
    let generation = bus.claim(session, "q").await;
    append_all(&bus.server, query_batch(session, generation, 1..=3, false)).await;
    let log = key(session, "log");
    let at = format!("{generation}-6");
    let frame = format!(r#"{{"id":"{at}","type":"token","content":"x"}}"#);
    command(&mut connection, &format!("XADD {log} {at} e {frame}")).await;
    let appended = bus.server.append(&query_batch(session, generation, 4..=5, false)).await.unwrap();
    assert_eq!((appended.taken, appended.refused.len()), (2, 1));
    assert_eq!(Refusal::of(&appended.refused[0].words), Refusal::Final, "{appended:?}");

    let position = Position::new(generation, 6);
    let mut terminator = Batch::default();
    terminator.push(session, position, Kind::Error, |out| {
        encode_error(out, position, "overload", "too long", "q", 1, 2);
    });
    for _ in 0..2 {
        assert!(bus.server.append(&terminator).await.unwrap().refused.is_empty());
    }
    let last: Vec<(String, Vec<(String, String)>)> =
        ask(&mut connection, &format!("XREVRANGE {log} + - COUNT 2")).await;
    assert_eq!((last[0].0.as_str(), last[1].0.as_str()), (format!("{generation}-7").as_str(), at.as_str()));
    assert!(
        last[0].1[0].1.starts_with(&format!(r#"{{"id":"{generation}-7","type":"error","code":"overload""#))
    );
    bus.claim(session, "q2").await;
}

/// An error reply to the read of the mark does not mean that data was lost.
#[tokio::test]
async fn a_mark_that_cannot_be_read_is_not_a_loss() {
    let bus = Fixture::redis(unchanged).await;
    let mut connection = bus.connection().await;
    let session = bus.session().await;
    let generation = bus.claim(session, "q").await;
    let before = bus.server.counters().restorations;
    let mark = "test:bus:mark";
    let mut replace = redis::pipe();
    replace.atomic().rename(mark, "renamed").ignore().rpush(mark, "no text").ignore();
    let () = replace.query_async(&mut connection).await.unwrap();
    let error = bus.server.append(&query_batch(session, generation, 1..=2, false)).await;
    let refused = matches!(&error, Ok(Appended { refused, .. }) if refused.len() == 1);
    assert!(refused, "{error:?}");
    command(&mut connection, &format!("RENAME renamed {mark}")).await;
    append_all(&bus.server, query_batch(session, generation, 1..=2, true)).await;
    assert_eq!(bus.server.counters().restorations, before);
}

#[tokio::test]
async fn links_reopen_while_redis_is_full_and_leave_a_replica() {
    let redis = PrivateRedis::start();
    let gateway = open(&redis, "gateway", Role::Gateway, unchanged);
    ready(&gateway).await;
    let mut connection = redis.connection().await;
    command(&mut connection, "CONFIG SET maxmemory 1").await;
    let (before, mut is_ready) = (gateway.counters().disconnects, gateway.ready());
    command(&mut connection, "CLIENT KILL TYPE normal SKIPME yes").await;
    command(&mut connection, "CLIENT KILL TYPE pubsub").await;
    eventually("the links' end", async || gateway.counters().disconnects >= before + 5).await;
    ready(&gateway).await;
    command(&mut connection, "CONFIG SET maxmemory 0").await;

    command(&mut connection, "REPLICAOF 127.0.0.1 1").await;
    timeout(PATIENCE, is_ready.wait_for(|ready| !ready)).await.expect("a replica is noticed").unwrap();
    command(&mut connection, "REPLICAOF NO ONE").await;
    ready(&gateway).await;
}

#[tokio::test]
async fn the_memory_of_redis_is_known_and_read_again() {
    let redis = PrivateRedis::start();
    let server = open(&redis, "server", Role::Server, unchanged);
    ready(&server).await;
    eventually("the first reading", async || server.store_memory().is_some()).await;
    let first = server.store_memory().unwrap();
    assert!(first.used > 100_000 && first.limit == 0, "{first:?}");
    let mut connection = redis.connection().await;
    command(&mut connection, "CONFIG SET maxmemory 80000000").await;
    let is_limit = |memory: StoreMemory| memory.limit == 80_000_000;
    eventually("the limit", async || server.store_memory().is_some_and(is_limit)).await;
}

/// A query outlives the TTL of its session, and a socket holds another session for longer than the TTL.
#[tokio::test]
async fn running_and_held_sessions_do_not_expire() {
    let bus = Fixture::redis(|config| config.session_ttl = Duration::from_secs(2)).await;
    let mut connection = bus.connection().await;
    let (session, held) = (bus.session().await, bus.session().await);
    let reader = Reader::live(&bus.gateway, held, Start::Cursor).await;
    let mut play = bus.server.plays().claiming(session);
    let generation = bus.claim(session, "q").await;
    play.claimed(generation);
    for seq in 1..=10 {
        append_all(&bus.server, query_batch(session, generation, seq..=seq, false)).await;
        sleep(Duration::from_millis(400)).await;
    }
    append_all(&bus.server, terminator_batch(session, generation, 11)).await;
    let late = Reader::live(&bus.other_gateway, session, Start::After(Position::ZERO)).await;
    late.until_events(&expected(generation, 10)).await;
    bus.play(held, "q", 2).await;
    reader.until("its events", |recorded| recorded.events.len() == 3).await;
    for key in [key(session, "log"), key(session, "meta"), key(held, "attach")] {
        let ttl: i64 = ask(&mut connection, &format!("TTL {key}")).await;
        assert!((0..=3).contains(&ttl), "{key} has a TTL of {ttl} s");
    }
    // A log that was deleted gets a TTL when it is made again.
    let generation = bus.claim(session, "q2").await;
    command(&mut connection, &format!("DEL {}", key(session, "log"))).await;
    append_all(&bus.server, query_batch(session, generation, 1..=1, false)).await;
    let ttl: i64 = ask(&mut connection, &format!("TTL {}", key(session, "log"))).await;
    assert!((0..=3).contains(&ttl), "a log that is made again has a TTL of {ttl} s");
}

/// The list of a server's queries is read in pages, and what the server does not play is removed from it.
#[tokio::test]
async fn a_long_list_of_queries_is_compared_in_pages() {
    let bus = Fixture::redis(unchanged).await;
    let mut connection = bus.connection().await;
    let played = bus.session().await;
    let mut play = bus.server.plays().claiming(played);
    play.claimed(bus.claim(played, "q").await);
    let lists: Vec<String> = ask(&mut connection, "KEYS test:server:*:running").await;
    let [list] = &lists[..] else { panic!("{lists:?}") };
    for _ in 0..3 {
        let pairs = (0..500).map(|_| format!(" {} 7", uuid::Uuid::new_v4())).collect::<String>();
        command(&mut connection, &format!("HSET {list}{pairs}")).await;
    }
    while ask::<Vec<String>>(&mut connection, &format!("HKEYS {list}")).await != [played.to_string()] {
        sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(bus.server.counters().buried, 0, "these sessions do not exist");
}

/// A claim without a player, for example because the reply was lost: its server ends it, and no other query.
#[tokio::test]
async fn a_query_without_a_player_is_ended_by_its_own_server() {
    let bus = Fixture::redis(unchanged).await;
    let (unplayed, played) = (bus.session().await, bus.session().await);
    let reader = Reader::live(&bus.gateway, unplayed, Start::Cursor).await;
    let mut play = bus.server.plays().claiming(played);
    let generation = bus.claim(played, "q").await;
    play.claimed(generation);
    let lost = bus.claim(unplayed, "q").await;
    append_all(&bus.server, query_batch(unplayed, lost, 1..=2, false)).await;
    reader.until("a terminator", |recorded| recorded.events.last() == Some(&Position::new(lost, 3))).await;
    bus.claim(unplayed, "q2").await;
    append_all(&bus.server, query_batch(played, generation, 1..=2, true)).await;
    assert_eq!(bus.server.counters().buried, 1);
}
