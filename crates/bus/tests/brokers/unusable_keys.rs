//! Keys of one session have the wrong type. Work over several sessions skips that session and continues with the
//! others.

use crate::support::{
    Fixture, Reader, Recorder, ask, claim, command, eventually, expected, key, query_batch, servers::servers,
    unchanged,
};
use bus::{AttachError, BusError, ClaimError, LaneEnd, Start};
use protocol::Position;
use redis::aio::MultiplexedConnection;
use std::sync::Arc;

/// Replaces some keys by strings, and deletes others. If `loses`, the mark changes too, so every process restores its
/// data.
async fn break_keys(
    connection: &mut MultiplexedConnection,
    broken: &[String],
    deleted: &[String],
    loses: bool,
) {
    let mut steps = redis::pipe();
    steps.atomic();
    for key in broken {
        steps.set(key, "neither hash nor stream").ignore();
    }
    for key in deleted {
        steps.del(key).ignore();
    }
    if loses {
        steps.set("test:bus:mark", "old:2").ignore();
    }
    let () = steps.query_async(connection).await.expect("Redis takes the changes");
}

/// Clients receive the end of a query before the server counts it.
async fn until_ended(bus: &Fixture, ended: u64, refused: u64) {
    eventually("the counts", async || {
        let counters = bus.server.counters();
        (counters.buried, counters.refused_sessions) == (ended, refused)
    })
    .await;
}

#[tokio::test]
async fn a_server_restores_the_other_sessions() {
    let bus = Fixture::redis(unchanged).await;
    let mut connection = bus.connection().await;
    let sessions = [bus.session().await, bus.session().await, bus.session().await, bus.session().await];
    let [bad_log, bad_meta, lost, closed] = sessions;
    for session in [bad_log, bad_meta, closed] {
        bus.play(session, "q", 2).await;
    }
    let generation = bus.play(lost, "q", 3).await;
    for session in [bad_meta, closed] {
        assert!(bus.server.close(session).await.unwrap());
    }
    let broken = [key(bad_log, "log"), key(bad_meta, "meta")];
    let deleted = [key(lost, "log"), key(lost, "meta"), key(closed, "log"), key(closed, "meta")];
    break_keys(&mut connection, &broken, &deleted, true).await;

    let next = claim(&bus.server, lost, "q2").await.unwrap().generation;
    bus.server.append(&query_batch(lost, next, 1..=1, true)).await.unwrap();
    let reader = Reader::live(&bus.gateway, lost, Start::After(Position::ZERO)).await;
    reader.until_events(&[expected(generation, 3), expected(next, 1)].concat()).await;
    assert!(matches!(claim(&bus.server, closed, "q2").await, Err(ClaimError::Closed)));
    let reader = Reader::live(&bus.gateway, closed, Start::Cursor).await;
    reader.until_end(LaneEnd::SessionClosed).await;
    assert_eq!(bus.server.counters().refused_sessions, 2, "each session counts once");
    let refused = claim(&bus.server, bad_log, "q2").await;
    assert!(matches!(refused, Err(ClaimError::Bus(BusError::Refused(_)))), "{refused:?}");
}

/// Redis accepts this value, and the restoration cannot parse it. No refusal of a known kind is involved.
#[tokio::test]
async fn a_meta_hash_that_cannot_be_parsed_is_skipped() {
    let bus = Fixture::redis(unchanged).await;
    let mut connection = bus.connection().await;
    let (bad, lost) = (bus.session().await, bus.session().await);
    bus.play(bad, "q", 1).await;
    bus.play(lost, "q", 1).await;
    command(&mut connection, &format!("HSET {} gen seven", key(bad, "meta"))).await;
    break_keys(&mut connection, &[], &[key(lost, "meta")], true).await;
    claim(&bus.server, lost, "q2").await.unwrap();
    assert_eq!(bus.server.counters().refused_sessions, 1);
}

#[tokio::test]
async fn a_gateway_restores_the_other_holders_and_cursors() {
    let bus = Fixture::redis(unchanged).await;
    let mut connection = bus.connection().await;
    let sessions = [bus.session().await, bus.session().await, bus.session().await, bus.session().await];
    let [bad_held, held, bad_cursor, cursor] = sessions;
    let _bad = Reader::live(&bus.gateway, bad_held, Start::Cursor).await;
    let reader = Reader::live(&bus.gateway, held, Start::Cursor).await;
    let mut last = Position::ZERO;
    for session in [bad_cursor, cursor] {
        let generation = bus.play(session, "q", 2).await;
        last = Position::new(generation, 3);
        let released = Reader::live(&bus.gateway, session, Start::After(Position::ZERO)).await;
        released.attachment.release(Some(last)).await.unwrap();
    }
    let broken = [key(bad_held, "attach"), key(bad_cursor, "attach")];
    break_keys(&mut connection, &broken, &[key(held, "attach"), key(cursor, "attach")], true).await;

    eventually("the gateway's restoration", async || {
        match bus.gateway.attach(cursor, Start::Cursor, Arc::new(Recorder::default())).await {
            Err(AttachError::Bus(BusError::Restoring)) => false,
            attached => attached.unwrap().start() == last,
        }
    })
    .await;
    let get = format!("HGET {} holder", key(held, "attach"));
    eventually("the holder", async || ask::<Option<String>>(&mut connection, &get).await.is_some()).await;
    assert_eq!(bus.gateway.counters().refused_sessions, 2);
    let _second = Reader::live(&bus.other_gateway, held, Start::Cursor).await;
    reader.until_end(LaneEnd::TakenOver).await;
}

/// A server dies without leaving the list, and another one ends its queries.
#[tokio::test]
async fn a_dead_servers_other_queries_end() {
    let bus = Fixture::redis(unchanged).await;
    let mut connection = bus.connection().await;
    let dies = bus.open_server("dies").await;
    let sessions = [bus.session().await, bus.session().await, bus.session().await];
    let [bad_meta, bad_log, sound] = sessions;
    let mut readers = Vec::new();
    for session in sessions {
        let generation = claim(&dies, session, "q").await.unwrap().generation;
        dies.append(&query_batch(session, generation, 1..=2, false)).await.unwrap();
        let reader = Reader::live(&bus.gateway, session, Start::After(Position::ZERO)).await;
        reader.until_events(&expected(generation, 1)).await;
        readers.push((generation, reader));
    }
    break_keys(&mut connection, &[key(bad_meta, "meta"), key(bad_log, "log")], &[], false).await;
    drop(dies);
    let (generation, reader) = &readers[2];
    reader.until_events(&expected(*generation, 2)).await;
    claim(&bus.server, sound, "q2").await.unwrap();
    // The log was replaced: a gap announces that its entries are lost, and the session takes queries again.
    let (generation, reader) = &readers[1];
    let after = Position::new(*generation, 2);
    reader
        .until("the gap", |recorded| recorded.gaps.iter().any(|&(from, to)| from == after && to > after))
        .await;
    claim(&bus.server, bad_log, "q2").await.unwrap();
    // The dead server is removed from the list all the same.
    eventually("the dead server's removal", async || servers(&bus).await.len() == 1).await;
    until_ended(&bus, 2, 1).await;
}

/// Two servers die, and the list of queries of one of them has the wrong type.
#[tokio::test]
async fn an_unreadable_list_of_one_dead_server_does_not_affect_another() {
    let bus = Fixture::redis(unchanged).await;
    let mut connection = bus.connection().await;
    let mut readers = Vec::new();
    for name in ["first", "second"] {
        let dies = bus.open_server(name).await;
        let session = bus.session().await;
        let generation = claim(&dies, session, "q").await.unwrap().generation;
        readers.push((generation, Reader::live(&bus.gateway, session, Start::After(Position::ZERO)).await));
    }
    let mut lists: Vec<String> = ask(&mut connection, "KEYS test:server:*:running").await;
    lists.sort();
    assert_eq!(lists.len(), 2, "{lists:?}");
    // Dead servers are handled in the order of their names.
    break_keys(&mut connection, &lists[..1], &[], false).await;
    let (generation, reader) = &readers[1];
    reader.until_events(&expected(*generation, 0)).await;
}

/// Claims without a player are ended by their own server.
#[tokio::test]
async fn other_queries_without_a_player_end() {
    let bus = Fixture::redis(unchanged).await;
    let mut connection = bus.connection().await;
    drop(bus.server.plays().claiming(bus.session().await));
    let (bad, sound) = (bus.session().await, bus.session().await);
    bus.claim(bad, "q").await;
    let generation = bus.claim(sound, "q").await;
    break_keys(&mut connection, &[key(bad, "meta")], &[], false).await;
    let reader = Reader::live(&bus.gateway, sound, Start::After(Position::ZERO)).await;
    reader.until_events(&expected(generation, 0)).await;
    until_ended(&bus, 1, 1).await;
}

/// An idle session whose log has the wrong type can be closed: the log is replaced by its end.
#[tokio::test]
async fn an_idle_session_with_an_unusable_log_closes() {
    let bus = Fixture::redis(unchanged).await;
    let mut connection = bus.connection().await;
    let session = bus.session().await;
    let generation = bus.play(session, "q", 2).await;
    let held = Reader::live(&bus.gateway, session, Start::After(Position::ZERO)).await;
    held.until_events(&expected(generation, 2)).await;
    break_keys(&mut connection, &[key(session, "log")], &[], false).await;
    assert!(bus.server.close(session).await.unwrap());
    assert!(bus.server.close(session).await.unwrap(), "it may be repeated");
    held.until_end(LaneEnd::SessionClosed).await;
    // The gap tells the client that events may be lost.
    let last = Position::new(generation, 3);
    assert!(
        held.recorder.read(|recorded| matches!(recorded.gaps[..], [(from, to)] if from == last && to > last))
    );
    assert!(matches!(claim(&bus.server, session, "q2").await, Err(ClaimError::Closed)));
    let late = Reader::live(&bus.other_gateway, session, Start::After(last)).await;
    late.until_end(LaneEnd::SessionClosed).await;
    assert!(late.recorder.events().is_empty());
}
