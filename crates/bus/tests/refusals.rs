//! A Redis that refuses: for a while, for one session, or for good. Each refusal is the real one.

#[allow(dead_code, reason = "shared with the contract tests, which use the rest")]
mod support;

use bus::{Appended, Batch, Broker, BusError, ClaimError, Refusal, Role, Start};
use protocol::{Kind, Position, SessionId, encode_error};
use redis::{AsyncCommands, Value, aio::MultiplexedConnection};
use std::{ops::RangeInclusive, sync::Arc, time::Duration};
use support::{Fixture, PATIENCE, PrivateRedis, Reader, as_it_is, expected, open, query_batch, ready};
use tokio::time::{sleep, timeout};

async fn command(connection: &mut MultiplexedConnection, words: &str) -> Value {
    let mut words = words.split(' ');
    let mut command = redis::cmd(words.next().expect("a command"));
    for word in words {
        command.arg(word);
    }
    command.query_async(connection).await.expect("Redis takes the command")
}

/// Appends as a worker does: from the first entry that was not taken, again and again. Returns how often it was stopped.
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

/// Ways to refuse every write, and to take them again.
const DENIALS: [(&str, &str, &str); 3] = [
    ("NOREPLICAS", "CONFIG SET min-replicas-to-write 1", "CONFIG SET min-replicas-to-write 0"),
    ("OOM", "CONFIG SET maxmemory 1", "CONFIG SET maxmemory 0"),
    ("READONLY", "REPLICAOF 127.0.0.1 1", "REPLICAOF NO ONE"),
];

#[tokio::test]
async fn streams_outlast_every_kind_of_refusal() {
    for (cause, begin, end) in DENIALS {
        let bus = Fixture::redis(as_it_is).await;
        let mut connection = bus.redis.as_ref().unwrap().connection().await;
        let session = bus.session().await;
        let reader = Reader::live(&bus.gateway, session, Start::Cursor).await;
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
        assert!(reader.notebook.read(|notes| notes.gaps.is_empty()));
        // The session takes its next query.
        timeout(PATIENCE, async {
            while bus.server.claim(session, request("q2")).await.is_err() {
                sleep(Duration::from_millis(10)).await;
            }
        })
        .await
        .unwrap_or_else(|_| panic!("{cause}: the session stays busy"));
    }
}

fn request(query: &str) -> bus::ClaimRequest {
    bus::ClaimRequest { query_id: query.to_owned(), answer: String::new() }
}

/// Writes are refused and taken again all the time, wherever that meets the calls of several sessions.
#[tokio::test]
async fn refusals_between_any_two_calls_leave_no_hole() {
    let bus = Fixture::redis(as_it_is).await;
    let mut connection = bus.redis.as_ref().unwrap().connection().await;
    let mut streams = Vec::new();
    for _ in 0..4 {
        let session = bus.session().await;
        let reader = Reader::live(&bus.gateway, session, Start::Cursor).await;
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
    let stops =
        tokio::select! { stops = append => stops, () = toggle => unreachable!("it toggles for ever") };
    command(&mut connection, DENIALS[0].2).await;
    command(&mut connection, DENIALS[1].2).await;
    assert!(stops > 0, "nothing was refused");
    for (_, generation, reader) in &streams {
        reader.until_events(&expected(*generation, 1200)).await;
    }
}

/// A busy Redis answers a call with a refusal, and runs none of it.
#[tokio::test]
async fn a_busy_redis_is_waited_for() {
    let bus = Fixture::redis(as_it_is).await;
    let redis = bus.redis.as_ref().unwrap();
    let (mut connection, mut busy) = (redis.connection().await, redis.connection().await);
    command(&mut connection, "CONFIG SET busy-reply-threshold 20").await;
    let session = bus.session().await;
    let reader = Reader::live(&bus.gateway, session, Start::Cursor).await;
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
async fn a_log_that_takes_nothing_delays_no_other_session() {
    let bus = Fixture::redis(as_it_is).await;
    let mut connection = bus.redis.as_ref().unwrap().connection().await;
    let (broken, sound) = (bus.session().await, bus.session().await);
    let (of_broken, of_sound) = (bus.claim(broken, "q").await, bus.claim(sound, "q").await);
    let log = format!("test:session:{broken}:log");
    let () = connection.set(&log, "no stream").await.unwrap();
    let mut batch = Batch::default();
    for (session, generation) in [(broken, of_broken), (sound, of_sound)] {
        query_batch(session, generation, 1..=4, true).iter().for_each(|entry| batch.push_entry(&entry));
    }
    let appended = bus.server.append(&batch).await.unwrap();
    assert!(appended.taken == 10 && appended.stopped.is_none(), "{appended:?}");
    let [refused] = &appended.refused[..] else { panic!("{appended:?}") };
    assert_eq!((refused.index, refused.session, Refusal::of(&refused.words)), (0, broken, Refusal::Final));
    let reader = Reader::live(&bus.gateway, sound, Start::After(Position::ZERO)).await;
    reader.until_events(&expected(of_sound, 4)).await;
    // Its terminator is refused as long as the log is none, and taken afterwards.
    let terminator = query_batch(broken, of_broken, std::ops::RangeInclusive::new(1, 0), true);
    assert_eq!(bus.server.append(&terminator).await.unwrap().refused.len(), 1);
    let () = connection.del(&log).await.unwrap();
    assert!(bus.server.append(&terminator).await.unwrap().refused.is_empty());
    bus.claim(broken, "q2").await;
    // Of a session that is gone nothing is tried again.
    let last = bus.claim(sound, "q2").await;
    let () = connection.set(format!("test:session:{sound}:log"), "no stream").await.unwrap();
    let () = connection.del(format!("test:session:{sound}:meta")).await.unwrap();
    let gone = bus
        .server
        .append(&query_batch(sound, last, std::ops::RangeInclusive::new(1, 0), true))
        .await
        .unwrap();
    assert_eq!((gone.stale, gone.refused), (vec![(sound, last)], vec![]));
}

/// The fields of a session's meta that say who runs it, and whether its server lists it.
async fn claimed(connection: &mut MultiplexedConnection, session: SessionId) -> (Vec<Option<String>>, bool) {
    let mut get = redis::cmd("HMGET");
    get.arg(format!("test:session:{session}:meta")).arg(&["running", "owner"]);
    let fields = get.query_async(connection).await.expect("HMGET");
    let lists: Vec<String> =
        redis::cmd("KEYS").arg("test:*running*").query_async(connection).await.expect("KEYS");
    let mut listed = false;
    for list in lists {
        listed |= connection.hexists::<_, _, bool>(list, session.to_string()).await.expect("HEXISTS");
    }
    (fields, listed)
}

/// A terminator that the log never takes must neither keep the session busy nor keep a connected client waiting.
#[tokio::test]
async fn a_claim_is_released_although_the_log_refuses_its_terminator() {
    let bus = Fixture::redis(as_it_is).await;
    let mut connection = bus.redis.as_ref().unwrap().connection().await;
    let session = bus.session().await;
    let reader = Reader::live(&bus.gateway, session, Start::Cursor).await;
    let generation = bus.claim(session, "q").await;
    append_all(&bus.server, query_batch(session, generation, 1..=2, false)).await;
    reader.until("two tokens", |notes| notes.events.len() == 2).await;
    let log = format!("test:session:{session}:log");
    let () = redis::pipe()
        .del(&log)
        .ignore()
        .set(&log, "no stream")
        .ignore()
        .query_async(&mut connection)
        .await
        .unwrap();
    let terminator = query_batch(session, generation, RangeInclusive::new(3, 2), true);
    let appended = bus.server.append(&terminator).await.unwrap();
    assert_eq!(Refusal::of(&appended.refused[0].words), Refusal::Final, "{appended:?}");

    // Not another server's claim, nor one of another generation.
    let other = open(bus.redis.as_ref().unwrap(), "other", Role::Server, as_it_is);
    ready(&other).await;
    let earlier = query_batch(session, generation - 1, RangeInclusive::new(3, 2), true);
    for (server, batch) in [(&other, &terminator), (&bus.server, &earlier)] {
        let released = server.release_claims(batch).await.unwrap();
        assert!(released.taken == 1 && released.refused.is_empty(), "{released:?}");
        assert_eq!(claimed(&mut connection, session).await.0[0].as_deref(), Some("1"));
    }
    for heard in [1, 0] {
        let released = bus.server.release_claims(&terminator).await.unwrap();
        assert!(
            released.taken == 1 && released.refused.is_empty() && released.unheard == 0,
            "{heard}: {released:?}"
        );
        assert_eq!(claimed(&mut connection, session).await, (vec![None, None], false));
    }
    reader.until_events(&expected(generation, 2)).await;
    // Nothing can be claimed while the key is wrong, and nothing stays claimed.
    assert!(matches!(
        bus.server.claim(session, request("q2")).await,
        Err(ClaimError::Bus(BusError::Refused(_)))
    ));
    let () = connection.del(&log).await.unwrap();
    let next = bus.play(session, "q2", 3).await;
    reader.until_events(&[expected(generation, 2), expected(next, 3)].concat()).await;
    assert!(reader.notebook.read(|notes| notes.gaps.is_empty()));
}

/// A session that was closed meanwhile ends behind its last event.
#[tokio::test]
async fn a_claim_that_is_released_ends_a_closed_session() {
    let bus = Fixture::redis(as_it_is).await;
    let mut connection = bus.redis.as_ref().unwrap().connection().await;
    let session = bus.session().await;
    let reader = Reader::live(&bus.gateway, session, Start::Cursor).await;
    let generation = bus.claim(session, "q").await;
    assert!(bus.server.close(session).await.unwrap());
    let log = format!("test:session:{session}:log");
    let () = redis::pipe()
        .del(&log)
        .ignore()
        .set(&log, "no stream")
        .ignore()
        .query_async(&mut connection)
        .await
        .unwrap();
    let terminator = query_batch(session, generation, RangeInclusive::new(1, 0), true);
    assert_eq!(bus.server.append(&terminator).await.unwrap().refused.len(), 1);
    bus.server.release_claims(&terminator).await.unwrap();
    reader.until("its end", |notes| notes.end == Some(bus::LaneEnd::SessionClosed)).await;
    assert_eq!(reader.notebook.events(), expected(generation, 0));
}

/// What a user may not do inside a script is refused for good.
#[tokio::test]
async fn a_permission_that_is_taken_away_is_a_final_refusal() {
    let bus = Fixture::redis(as_it_is).await;
    let mut connection = bus.redis.as_ref().unwrap().connection().await;
    let session = bus.session().await;
    let reader = Reader::live(&bus.gateway, session, Start::Cursor).await;
    let generation = bus.claim(session, "q").await;
    append_all(&bus.server, query_batch(session, generation, 1..=2, false)).await;
    command(&mut connection, "ACL SETUSER default -xadd").await;
    let terminator = query_batch(session, generation, RangeInclusive::new(3, 2), true);
    let appended = bus.server.append(&terminator).await.unwrap();
    assert_eq!(Refusal::of(&appended.refused[0].words), Refusal::Final, "{appended:?}");
    let released = bus.server.release_claims(&terminator).await.unwrap();
    assert!(released.taken == 1 && released.refused.is_empty(), "{released:?}");
    reader.until_events(&expected(generation, 2)).await;
    // Where not even that is allowed, the release is refused, and nothing changes.
    command(&mut connection, "ACL SETUSER default +xadd").await;
    let next = bus.claim(session, "q2").await;
    command(&mut connection, "ACL SETUSER default -hdel").await;
    let terminator = query_batch(session, next, RangeInclusive::new(1, 0), true);
    let released = bus.server.release_claims(&terminator).await.unwrap();
    assert_eq!(Refusal::of(&released.refused[0].words), Refusal::Final, "{released:?}");
    command(&mut connection, "ACL SETUSER default +hdel").await;
    append_all(&bus.server, terminator).await;
    bus.claim(session, "q3").await;
}

/// An event below the log's top counts as taken only where the log holds it.
#[tokio::test]
async fn a_hole_is_refused_and_a_terminator_moves_behind_what_is_there() {
    let bus = Fixture::redis(as_it_is).await;
    let mut connection = bus.redis.as_ref().unwrap().connection().await;
    let session = bus.session().await;
    let generation = bus.claim(session, "q").await;
    append_all(&bus.server, query_batch(session, generation, 1..=3, false)).await;
    let log = format!("test:session:{session}:log");
    let at = format!("{generation}-6");
    let frame = format!(r#"{{"id":"{at}","type":"token","content":"x"}}"#);
    let _: String =
        redis::cmd("XADD").arg(&log).arg(&at).arg("e").arg(frame).query_async(&mut connection).await.unwrap();
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
    let last: Vec<(String, Vec<(String, String)>)> = redis::cmd("XREVRANGE")
        .arg(&log)
        .arg("+")
        .arg("-")
        .arg("COUNT")
        .arg(2)
        .query_async(&mut connection)
        .await
        .unwrap();
    assert_eq!((last[0].0.as_str(), last[1].0.as_str()), (format!("{generation}-7").as_str(), at.as_str()));
    assert!(
        last[0].1[0].1.starts_with(&format!(r#"{{"id":"{generation}-7","type":"error","code":"overload""#))
    );
    bus.claim(session, "q2").await;
}

/// An error in reply to the mark says nothing about the data.
#[tokio::test]
async fn a_mark_that_cannot_be_read_is_no_loss() {
    let bus = Fixture::redis(as_it_is).await;
    let mut connection = bus.redis.as_ref().unwrap().connection().await;
    let session = bus.session().await;
    let generation = bus.claim(session, "q").await;
    let before = bus.server.counters().restorations;
    let keys: Vec<String> = redis::cmd("KEYS").arg("test:*mark*").query_async(&mut connection).await.unwrap();
    let [mark] = &keys[..] else { panic!("{keys:?}") };
    let () = redis::pipe()
        .atomic()
        .cmd("RENAME")
        .arg(mark)
        .arg("kept")
        .ignore()
        .cmd("RPUSH")
        .arg(mark)
        .arg("no text")
        .ignore()
        .query_async(&mut connection)
        .await
        .unwrap();
    let error = bus.server.append(&query_batch(session, generation, 1..=2, false)).await;
    let refused = matches!(&error, Ok(Appended { refused, .. }) if refused.len() == 1);
    assert!(refused, "{error:?}");
    let () = connection.rename("kept", mark).await.unwrap();
    append_all(&bus.server, query_batch(session, generation, 1..=2, true)).await;
    assert_eq!(bus.server.counters().restorations, before);
}

#[tokio::test]
async fn links_reopen_while_redis_is_full_and_leave_a_replica() {
    let redis = PrivateRedis::start();
    let gateway = open(&redis, "gateway", Role::Gateway, as_it_is);
    ready(&gateway).await;
    let mut connection = redis.connection().await;
    command(&mut connection, "CONFIG SET maxmemory 1").await;
    let (before, mut is_ready) = (gateway.counters().disconnects, gateway.ready());
    command(&mut connection, "CLIENT KILL TYPE normal SKIPME yes").await;
    command(&mut connection, "CLIENT KILL TYPE pubsub").await;
    timeout(PATIENCE, async {
        while gateway.counters().disconnects < before + 5 {
            sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .expect("the links were cut");
    ready(&gateway).await;
    command(&mut connection, "CONFIG SET maxmemory 0").await;

    command(&mut connection, "REPLICAOF 127.0.0.1 1").await;
    timeout(PATIENCE, is_ready.wait_for(|ready| !ready)).await.expect("a replica is noticed").unwrap();
    command(&mut connection, "REPLICAOF NO ONE").await;
    ready(&gateway).await;
}

/// A query that outlives the TTL of its session, and a socket that is held longer than that.
#[tokio::test]
async fn what_runs_and_what_is_held_does_not_expire() {
    let bus = Fixture::redis(|config| config.session_ttl = Duration::from_secs(2)).await;
    let mut connection = bus.redis.as_ref().unwrap().connection().await;
    let (session, held) = (bus.session().await, bus.session().await);
    let reader = Reader::live(&bus.gateway, held, Start::Cursor).await;
    let mut play = bus.server.plays().claiming(session);
    let generation = bus.claim(session, "q").await;
    play.claimed(generation);
    for seq in 1..=10 {
        append_all(&bus.server, query_batch(session, generation, seq..=seq, false)).await;
        sleep(Duration::from_millis(400)).await;
    }
    append_all(&bus.server, query_batch(session, generation, std::ops::RangeInclusive::new(11, 10), true))
        .await;
    let late = Reader::live(&bus.other_gateway, session, Start::After(Position::ZERO)).await;
    late.until_events(&expected(generation, 10)).await;
    bus.play(held, "q", 2).await;
    reader.until("its events", |notes| notes.events.len() == 3).await;
    for key in [format!("{session}:log"), format!("{session}:meta"), format!("{held}:attach")] {
        let ttl: i64 = connection.ttl(format!("test:session:{key}")).await.unwrap();
        assert!((0..=2).contains(&ttl), "{key} lives for {ttl} s");
    }
    // A log that went away is not made again for ever.
    let generation = bus.claim(session, "q2").await;
    let () = connection.del(format!("test:session:{session}:log")).await.unwrap();
    append_all(&bus.server, query_batch(session, generation, 1..=1, false)).await;
    let ttl: i64 = connection.ttl(format!("test:session:{session}:log")).await.unwrap();
    assert!((0..=2).contains(&ttl), "a log that is made again lives for {ttl} s");
}

/// A claim that nobody plays, as one whose answer was lost for good: its server ends it, and leaves the others alone.
#[tokio::test]
async fn a_query_that_nobody_plays_is_ended_by_its_own_server() {
    let bus = Fixture::redis(as_it_is).await;
    let (forgotten, played) = (bus.session().await, bus.session().await);
    let reader = Reader::live(&bus.gateway, forgotten, Start::Cursor).await;
    let mut play = bus.server.plays().claiming(played);
    let generation = bus.claim(played, "q").await;
    play.claimed(generation);
    let lost = bus.claim(forgotten, "q").await;
    append_all(&bus.server, query_batch(forgotten, lost, 1..=2, false)).await;
    reader.until("a terminator", |notes| notes.events.last() == Some(&Position::new(lost, 3))).await;
    bus.claim(forgotten, "q2").await;
    append_all(&bus.server, query_batch(played, generation, 1..=2, true)).await;
    assert_eq!(bus.server.counters().buried, 1);
}
