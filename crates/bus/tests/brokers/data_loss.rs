//! Redis loses data, and servers die: acknowledged events are restored, and every query has exactly one end.

use crate::support::{
    Fixture, Reader, ask, claim, command, eventually, expected, key, open, query_batch, ready, request,
    servers::{PausableServer, Peer, polled_twice, servers},
    unchanged, with_pubsub,
};
use bus::{Appended, Batch, Broker, BusError, Claim, ClaimError, LaneEnd, Role, Start};
use protocol::{Position, SessionId};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::time::timeout;
use uuid::Uuid;

/// Appends as a server does: repeatedly, until the bus takes the batch.
async fn append(bus: &Arc<dyn Broker>, batch: &Batch) -> Appended {
    let mut appended = None;
    eventually("the bus takes a batch", async || {
        appended = bus.append(batch).await.ok();
        appended.is_some()
    })
    .await;
    appended.expect("it was set")
}

async fn flush(bus: &Fixture) {
    command(&mut bus.connection().await, "FLUSHALL").await;
}

/// Deletes all data after each server has read the heartbeats of its peers, so that it knows whom to wait for.
async fn flush_once_peers_are_known(bus: &Fixture) {
    tokio::time::sleep(Duration::from_millis(1_000)).await;
    flush(bus).await;
}

/// All data is lost during a stream. One client stays connected, and others connect at every position afterwards.
async fn nothing_is_lost(mut bus: Fixture, lose: impl AsyncFnOnce(&mut Fixture)) {
    let session = bus.session().await;
    let first = bus.play(session, "q1", 12).await;
    let generation = claim(&bus.server, session, "q2").await.unwrap().generation;
    let whole = [expected(first, 12), expected(generation, 20)].concat();
    let stays = Reader::live(&bus.gateway, session, Start::After(Position::ZERO)).await;
    append(&bus.server, &query_batch(session, generation, 1..=9, false)).await;
    stays.until_events(&whole[..13 + 9]).await;

    lose(&mut bus).await;
    append(&bus.server, &query_batch(session, generation, 10..=20, true)).await;
    stays.until_events(&whole).await;

    let next = claim(&bus.server, session, "q3").await.unwrap().generation;
    append(&bus.server, &query_batch(session, next, 1..=2, true)).await;
    let whole = [whole, expected(next, 2)].concat();
    stays.until_events(&whole).await;
    for from in [0, 1, 12, 13, 20, 33] {
        let start = if from == 0 { Position::ZERO } else { whole[from - 1] };
        let returns = Reader::live(&bus.other_gateway, session, Start::After(start)).await;
        returns.until_events(&whole[from..]).await;
        assert!(returns.recorder.read(|recorded| recorded.gaps.is_empty()));
    }
    assert!(stays.recorder.read(|recorded| recorded.gaps.is_empty()));
}

#[tokio::test]
async fn everything_is_restored_after_an_empty_restart() {
    nothing_is_lost(Fixture::redis(unchanged).await, async |bus| {
        bus.redis.as_mut().expect("a Redis").restart_empty();
    })
    .await;
}

#[tokio::test]
async fn everything_is_restored_after_a_flush() {
    nothing_is_lost(Fixture::redis(unchanged).await, async |bus| flush(bus).await).await;
}

#[tokio::test]
async fn a_lane_that_read_an_empty_log_receives_the_restored_events() {
    let mut bus = Fixture::redis(unchanged).await;
    let session = bus.session().await;
    let generation = bus.play(session, "q", 5).await;
    bus.redis.as_mut().unwrap().restart_empty();
    // The gateway may reconnect before the server. Its lane then reads an empty log to the end.
    let fresh = open(bus.redis_server(), "fresh", Role::Gateway, unchanged);
    ready(&fresh).await;
    let reader = Reader::attach(&fresh, session, Start::After(Position::ZERO)).await;
    reader.catch_up().await;
    reader.until_events(&expected(generation, 5)).await;
}

#[tokio::test]
async fn an_unknown_session_may_still_be_restored() {
    let bus = Fixture::redis(unchanged).await;
    let stranger = SessionId::new(Uuid::new_v4());
    assert!(matches!(try_claim(&bus.server, stranger, "q").await, Err(ClaimError::Unknown)));
    flush(&bus).await;
    let unsure = try_claim(&bus.server, stranger, "q").await;
    assert!(matches!(unsure, Err(ClaimError::Bus(BusError::Restoring))), "{unsure:?}");
    assert!(matches!(bus.server.close(stranger).await, Err(BusError::Restoring)));
}

#[tokio::test]
async fn a_closed_session_stays_closed() {
    let mut bus = Fixture::redis(unchanged).await;
    let session = bus.session().await;
    let generation = bus.play(session, "q", 2).await;
    assert!(bus.server.close(session).await.unwrap());
    bus.redis.as_mut().unwrap().restart_empty();
    let closed = claim(&bus.server, session, "q2").await;
    assert!(matches!(closed, Err(ClaimError::Closed)), "{closed:?}");
    ready(&bus.gateway).await;
    let reader = Reader::live(&bus.gateway, session, Start::Cursor).await;
    reader.until("the end", |recorded| recorded.end.is_some()).await;
    assert_eq!(reader.recorder.events(), expected(generation, 2));
}

#[tokio::test]
async fn cursors_and_holders_are_restored() {
    let bus = Fixture::redis(unchanged).await;
    let (ended, held) = (bus.session().await, bus.session().await);
    let generation = bus.play(ended, "q", 4).await;
    let reader = Reader::live(&bus.gateway, ended, Start::Cursor).await;
    reader.until_events(&expected(generation, 4)).await;
    reader.attachment.release(Some(Position::new(generation, 5))).await.unwrap();
    let holder = Reader::live(&bus.gateway, held, Start::Cursor).await;
    flush(&bus).await;
    let second = claim(&bus.server, ended, "q2").await.unwrap().generation;
    append(&bus.server, &query_batch(ended, second, 1..=3, true)).await;
    // An attachment elsewhere notices the loss too, and waits until the cursor is restored.
    let mut reader = None;
    eventually("the cursor", async || {
        let recorder = Arc::default();
        let attached = bus.other_gateway.attach(ended, Start::Cursor, Arc::clone(&recorder) as _).await;
        let restored = attached.ok().filter(|attachment| attachment.start() != Position::ZERO);
        reader = restored.map(|attachment| Reader { attachment, recorder });
        reader.is_some()
    })
    .await;
    let reader = reader.expect("it was set");
    reader.catch_up().await;
    reader.until_events(&expected(second, 3)).await;
    let _second = Reader::live(&bus.other_gateway, held, Start::After(Position::ZERO)).await;
    holder.until_end(LaneEnd::TakenOver).await;
}

#[tokio::test]
async fn a_dead_servers_query_ends_within_five_seconds_and_nothing_follows() {
    let bus = Fixture::redis(unchanged).await;
    let pausable = PausableServer::start(&bus, unchanged);
    let (session, healthy) = (bus.session().await, bus.session().await);
    let reader = Reader::live(&bus.gateway, session, Start::Cursor).await;
    let generation = claim(&pausable.server, session, "lost").await.unwrap().generation;
    append(&pausable.server, &query_batch(session, generation, 1..=3, false)).await;
    let running = claim(&bus.server, healthy, "q").await.unwrap().generation;
    reader.until_events(&expected(generation, 2)).await;

    let stood_still = Instant::now();
    pausable.pause(Duration::from_secs(6));
    reader.until("the error", |recorded| recorded.events.len() == 4).await;
    assert!(stood_still.elapsed() < Duration::from_secs(5), "it took {:?}", stood_still.elapsed());
    assert_eq!(reader.recorder.events(), expected(generation, 3));

    // The server continues: no client receives its events, and it learns that it is stale.
    let appended = append(&pausable.server, &query_batch(session, generation, 4..=9, true)).await;
    assert_eq!(appended.stale, [(session, generation)]);
    let next = claim(&bus.server, session, "q2").await.unwrap().generation;
    append(&bus.server, &query_batch(session, next, 1..=1, true)).await;
    reader.until_events(&[expected(generation, 3), expected(next, 1)].concat()).await;
    let again = Reader::live(&bus.other_gateway, session, Start::After(Position::new(generation, 4))).await;
    again.until_events(&expected(next, 1)).await;
    let taken = append(&bus.server, &query_batch(healthy, running, 1..=1, true)).await;
    assert_eq!(taken.stale, [], "a healthy query was ended");
}

/// One client stays connected. Another one has reconnected and receives only the terminator, whose position follows the
/// one that the client named.
#[tokio::test]
async fn a_dead_servers_query_ends_without_a_log_too() {
    let bus = Fixture::redis(with_pubsub).await;
    let pausable = PausableServer::start(&bus, with_pubsub);
    let mut readers = Vec::new();
    for returns in [false, true] {
        let (session, reader) = bus.live().await;
        let generation = claim(&pausable.server, session, "lost").await.unwrap().generation;
        append(&pausable.server, &query_batch(session, generation, 1..=3, false)).await;
        reader.until_events(&expected(generation, 2)).await;
        if returns {
            let resume = Start::After(Position::new(generation, 3));
            readers.push((
                Reader::live(&bus.other_gateway, session, resume).await,
                vec![Position::new(generation, 4)],
            ));
        } else {
            readers.push((reader, expected(generation, 3)));
        }
    }
    pausable.pause(Duration::from_secs(5));
    for (reader, expected) in readers {
        reader.until_events(&expected).await;
    }
}

#[tokio::test]
async fn a_server_that_has_drained_is_not_waited_for_after_a_loss() {
    let bus = Fixture::redis(unchanged).await;
    let other = bus.open_server("other").await;
    let session = bus.session().await;
    polled_twice(&bus).await;
    assert_eq!(servers(&bus).await, ["other", "server"]);
    assert!(other.leave().await.unwrap());
    assert!(other.leave().await.unwrap(), "twice is fine");
    assert!(
        matches!(try_claim(&other, session, "q").await, Err(ClaimError::Bus(_))),
        "it claims nothing more"
    );
    polled_twice(&bus).await;
    assert_eq!(servers(&bus).await, ["server"], "no heartbeat follows");
    flush(&bus).await;
    claim(&bus.server, session, "q").await.unwrap();
    let fence = Peer::start(bus.redis_server()).await.first_fence(session).await;
    assert!(fence.contains(r#""prev":"0-0""#), "{fence}");
}

/// A query that a server leaves behind must be found by its peers.
#[tokio::test]
async fn a_server_with_an_open_claim_does_not_leave() {
    let bus = Fixture::redis(unchanged).await;
    let (session, reader) = bus.live().await;
    // A registered query, then one that is claimed in Redis.
    let play = bus.server.plays().claiming(session);
    assert!(!bus.server.leave().await.unwrap());
    let generation = claim(&bus.server, session, "q").await.unwrap().generation;
    drop(play);
    assert!(!bus.server.leave().await.unwrap());
    assert_eq!(servers(&bus).await, ["server"]);
    append(&bus.server, &query_batch(session, generation, 1..=2, true)).await;
    reader.until_events(&expected(generation, 2)).await;
    assert!(bus.server.leave().await.unwrap());
    assert_eq!(servers(&bus).await, Vec::<String>::new());
}

/// Renewals keep the keys of played and of held sessions for longer than the TTL. After a loss, both are restored: a
/// server restores what it plays, and a session that only a gateway holds takes queries again once the mark is old.
#[tokio::test]
async fn renewed_sessions_are_restored() {
    let bus = Fixture::redis(|config| config.session_ttl = Duration::from_secs(2)).await;
    let (played, held, left) = (bus.session().await, bus.session().await, bus.session().await);
    let holder = Reader::live(&bus.gateway, held, Start::Cursor).await;
    let mut play = bus.server.plays().claiming(played);
    let generation = claim(&bus.server, played, "q").await.unwrap().generation;
    play.claimed(generation);
    for seq in 1..=12 {
        append(&bus.server, &query_batch(played, generation, seq..=seq, false)).await;
        tokio::time::sleep(Duration::from_millis(400)).await;
    }
    // Any call for a session removes those from the history that were idle for longer than the TTL.
    bus.session().await;
    flush(&bus).await;
    append(&bus.server, &query_batch(played, generation, 13..=15, true)).await;
    let reader = Reader::live(&bus.other_gateway, played, Start::After(Position::ZERO)).await;
    reader.until_events(&expected(generation, 15)).await;
    // While a server may still restore the session, it counts as being restored.
    let mut connection = bus.connection().await;
    let get = format!("HGET {} held", key(held, "meta"));
    eventually("the gateway's restoration", async || {
        ask::<Option<u8>>(&mut connection, &get).await == Some(1)
    })
    .await;
    let young = try_claim(&bus.server, held, "q").await;
    assert!(matches!(young, Err(ClaimError::Bus(BusError::Restoring))), "{young:?}");
    bus.redis_server().age().await;
    let next = claim(&bus.server, held, "q").await.unwrap().generation;
    append(&bus.server, &query_batch(held, next, 1..=2, true)).await;
    holder.until_events(&expected(next, 2)).await;
    let unknown = claim(&bus.server, left, "q").await;
    assert!(matches!(unknown, Err(ClaimError::Unknown)), "one that nothing renewed expired: {unknown:?}");
}

/// Closes a session as soon as the server may, after a peer that restores nothing is given up.
async fn close(server: &Arc<dyn Broker>, session: SessionId) -> bool {
    let mut closed = None;
    eventually("the end of the silent peer", async || {
        closed = server.close(session).await.ok();
        closed.is_some()
    })
    .await;
    closed.expect("it was set")
}

async fn try_claim(bus: &Arc<dyn Broker>, session: SessionId, query: &str) -> Result<Claim, ClaimError> {
    bus.claim(session, request(query, "")).await
}

#[tokio::test]
async fn claims_wait_for_a_peer_that_still_restores() {
    let bus = Fixture::redis(unchanged).await;
    let mut peer = Peer::start(bus.redis_server()).await;
    let session = bus.session().await;
    flush_once_peers_are_known(&bus).await;
    let lost = Instant::now();
    while lost.elapsed() < Duration::from_millis(3_600) {
        let claimed = try_claim(&bus.server, session, "q").await;
        assert!(matches!(claimed, Err(ClaimError::Bus(BusError::Restoring))), "{claimed:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
        peer.beat("old").await;
    }
    let mark = peer.mark().await;
    peer.beat(&mark).await;
    timeout(Duration::from_secs(1), claim(&bus.server, session, "q"))
        .await
        .expect("all have restored")
        .unwrap();
    assert!(peer.first_fence(session).await.contains(r#""prev":"0-0""#));
}

#[tokio::test]
async fn claims_stop_waiting_for_a_dead_peer_and_the_fence_shows_it() {
    let bus = Fixture::redis(unchanged).await;
    let mut peer = Peer::start(bus.redis_server()).await;
    let session = bus.session().await;
    flush_once_peers_are_known(&bus).await;
    let lost = Instant::now();
    claim(&bus.server, session, "q").await.unwrap();
    let took = lost.elapsed();
    assert!(took > Duration::from_secs(2) && took < Duration::from_secs(6), "{took:?}");
    let fence = peer.first_fence(session).await;
    assert!(fence.contains(r#""prev":null"#), "{fence}");
}

/// A session that is closed before all servers have restored gets its end later, from the server that closed it.
#[tokio::test]
async fn a_server_leaves_only_after_the_ends_of_its_closed_sessions_are_written() {
    let bus = Fixture::redis(unchanged).await;
    let _silent = Peer::start(bus.redis_server()).await;
    let (session, reader) = bus.live().await;
    flush_once_peers_are_known(&bus).await;
    assert!(close(&bus.server, session).await);
    assert!(!bus.server.leave().await.unwrap(), "the end is not written yet");
    reader.until("its end", |recorded| recorded.end.is_some()).await;
    eventually("the server leaves", async || bus.server.leave().await.unwrap()).await;
}

/// A server closes a session before all servers have restored, and dies before it has written the session's end.
#[tokio::test]
async fn a_peer_writes_the_end_of_a_session_whose_server_died() {
    let bus = Fixture::redis(unchanged).await;
    let _silent = Peer::start(bus.redis_server()).await;
    let other = bus.open_server("other").await;
    let (session, reader) = bus.live().await;
    flush_once_peers_are_known(&bus).await;
    assert!(close(&other, session).await);
    assert!(!other.leave().await.unwrap(), "the end is not written yet");
    drop(other);
    reader.until("its end", |recorded| recorded.end.is_some()).await;
}

#[tokio::test]
async fn a_server_that_starts_after_the_loss_knows_that_redis_is_young() {
    let bus = Fixture::redis(unchanged).await;
    flush(&bus).await;
    ready(&bus.server).await;
    let fresh = bus.open_server("fresh").await;
    let stranger = SessionId::new(Uuid::new_v4());
    let unsure = try_claim(&fresh, stranger, "q").await;
    assert!(matches!(unsure, Err(ClaimError::Bus(BusError::Restoring))), "{unsure:?}");
    bus.redis_server().age().await;
    let unknown = claim(&fresh, stranger, "q").await;
    assert!(matches!(unknown, Err(ClaimError::Unknown)), "{unknown:?}");
}

#[tokio::test]
async fn an_earlier_query_is_recognised_after_a_loss() {
    let bus = Fixture::redis(unchanged).await;
    let session = bus.session().await;
    for query in ["first", "second", "third"] {
        bus.play(session, query, 1).await;
    }
    flush(&bus).await;
    assert!(claim(&bus.server, session, "third").await.unwrap().repeat_of.is_some());
    for query in ["first", "second"] {
        let again = try_claim(&bus.server, session, query).await;
        assert!(matches!(again, Err(ClaimError::Past)), "{query}: {again:?}");
    }
}

#[tokio::test]
async fn a_redis_that_pauses_ends_no_healthy_query() {
    let bus = Fixture::redis(unchanged).await;
    let other = bus.open_server("other").await;
    let sessions = [bus.session().await, bus.session().await];
    let [first, second] = sessions;
    let generations =
        [claim(&bus.server, first, "q").await.unwrap(), claim(&other, second, "q").await.unwrap()];
    bus.redis_server().pause(Duration::from_secs(5)).await;
    // Longer than a peer needs to be declared dead.
    tokio::time::sleep(Duration::from_secs(4)).await;
    for (server, (session, claim)) in
        [&bus.server, &other].into_iter().zip(sessions.into_iter().zip(generations))
    {
        let appended = append(server, &query_batch(session, claim.generation, 1..=1, true)).await;
        assert_eq!(appended.stale, []);
    }
}
