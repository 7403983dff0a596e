//! Redis comes and goes, and servers die: what was acknowledged is given back, and every query has one end.

#[allow(dead_code, reason = "shared with the contract tests, which use the rest")]
mod support;

use bus::{Appended, Batch, Broker, BusError, Claim, ClaimError, ClaimRequest, Role, Start};
use protocol::{Position, SessionId};
use std::{
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};
use support::{
    Fixture, PATIENCE, PrivateRedis, Reader, as_it_is, expected, open, query_batch, ready, with_pubsub,
};
use tokio::time::timeout;
use uuid::Uuid;

/// Appends as a server does: again and again until the bus takes it.
async fn append(bus: &Arc<dyn Broker>, batch: &Batch) -> Appended {
    let attempts = async {
        loop {
            match bus.append(batch).await {
                Ok(appended) => return appended,
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    };
    timeout(PATIENCE, attempts).await.expect("the bus takes a batch")
}

/// Claims as a server does.
async fn claim(bus: &Arc<dyn Broker>, session: SessionId, query: &str) -> Claim {
    let attempts = async {
        loop {
            let request = ClaimRequest { query_id: query.to_owned(), answer: String::new() };
            match bus.claim(session, request).await {
                Ok(claim) => return claim,
                Err(ClaimError::Bus(_)) => tokio::time::sleep(Duration::from_millis(10)).await,
                Err(error) => panic!("{error}"),
            }
        }
    };
    timeout(PATIENCE, attempts).await.expect("the bus answers a claim")
}

async fn flush(bus: &Fixture) {
    let mut connection = bus.redis.as_ref().expect("a Redis").connection().await;
    let _: () = redis::cmd("FLUSHALL").query_async(&mut connection).await.expect("flush");
}

/// One stream while all data is lost: a socket that stays, one that comes back, one that was never there.
async fn nothing_is_lost(mut bus: Fixture, lose: impl AsyncFnOnce(&mut Fixture)) {
    let session = bus.session().await;
    let first = bus.play(session, "q1", 12).await;
    let generation = claim(&bus.server, session, "q2").await.generation;
    let whole = [expected(first, 12), expected(generation, 20)].concat();
    let stays = Reader::live(&bus.gateway, session, Start::After(Position::ZERO)).await;
    append(&bus.server, &query_batch(session, generation, 1..=9, false)).await;
    stays.until_events(&whole[..13 + 9]).await;

    lose(&mut bus).await;
    append(&bus.server, &query_batch(session, generation, 10..=20, true)).await;
    stays.until_events(&whole).await;

    let next = claim(&bus.server, session, "q3").await.generation;
    append(&bus.server, &query_batch(session, next, 1..=2, true)).await;
    let whole = [whole, expected(next, 2)].concat();
    stays.until_events(&whole).await;
    for from in [0, 1, 12, 13, 20, 33] {
        let start = if from == 0 { Position::ZERO } else { whole[from - 1] };
        let returns = Reader::live(&bus.other_gateway, session, Start::After(start)).await;
        returns.until_events(&whole[from..]).await;
        assert!(returns.notebook.read(|notes| notes.gaps.is_empty()));
    }
    assert!(stays.notebook.read(|notes| notes.gaps.is_empty()));
}

#[tokio::test]
async fn a_redis_that_comes_back_empty_is_given_everything_back() {
    nothing_is_lost(Fixture::redis(as_it_is).await, async |bus| {
        bus.redis.as_mut().expect("a Redis").restart_empty();
    })
    .await;
}

#[tokio::test]
async fn a_redis_that_was_flushed_is_given_everything_back() {
    nothing_is_lost(Fixture::redis(as_it_is).await, async |bus| flush(bus).await).await;
}

#[tokio::test]
async fn a_lane_that_missed_the_end_hears_of_it_after_the_loss() {
    let mut bus = Fixture::redis(as_it_is).await;
    let session = bus.session().await;
    let generation = bus.play(session, "q", 5).await;
    bus.redis.as_mut().unwrap().restart_empty();
    // The gateway may be back before the server: then its lane finds an empty log and thinks that it has everything.
    let fresh = open(bus.redis.as_ref().unwrap(), "fresh", Role::Gateway, as_it_is);
    ready(&fresh).await;
    let reader = Reader::attach(&fresh, session, Start::After(Position::ZERO)).await;
    reader.catch_up().await;
    reader.until_events(&expected(generation, 5)).await;
}

#[tokio::test]
async fn what_is_unknown_may_still_be_given_back() {
    let bus = Fixture::redis(as_it_is).await;
    let stranger = SessionId::new(Uuid::new_v4());
    let request = || ClaimRequest { query_id: "q".to_owned(), answer: String::new() };
    assert!(matches!(bus.server.claim(stranger, request()).await, Err(ClaimError::Unknown)));
    flush(&bus).await;
    let unsure = bus.server.claim(stranger, request()).await;
    assert!(matches!(unsure, Err(ClaimError::Bus(BusError::Restoring))), "{unsure:?}");
    assert!(matches!(bus.server.close(stranger).await, Err(BusError::Restoring)));
}

#[tokio::test]
async fn a_closed_session_stays_closed() {
    let mut bus = Fixture::redis(as_it_is).await;
    let session = bus.session().await;
    let generation = bus.play(session, "q", 2).await;
    assert!(bus.server.close(session).await.unwrap());
    bus.redis.as_mut().unwrap().restart_empty();
    let closed = timeout(PATIENCE, async {
        loop {
            let request = ClaimRequest { query_id: "q2".to_owned(), answer: String::new() };
            match bus.server.claim(session, request).await {
                Err(ClaimError::Bus(_)) => tokio::time::sleep(Duration::from_millis(10)).await,
                other => return other,
            }
        }
    })
    .await
    .expect("an answer");
    assert!(matches!(closed, Err(ClaimError::Closed)), "{closed:?}");
    ready(&bus.gateway).await;
    let reader = Reader::live(&bus.gateway, session, Start::Cursor).await;
    reader.until("the end", |notes| notes.end.is_some()).await;
    assert_eq!(reader.notebook.events(), expected(generation, 2));
}

#[tokio::test]
async fn cursors_and_holders_are_given_back_too() {
    let bus = Fixture::redis(as_it_is).await;
    let (ended, held) = (bus.session().await, bus.session().await);
    let generation = bus.play(ended, "q", 4).await;
    let reader = Reader::live(&bus.gateway, ended, Start::Cursor).await;
    reader.until_events(&expected(generation, 4)).await;
    reader.attachment.release(Some(Position::new(generation, 5))).await.unwrap();
    let holder = Reader::live(&bus.gateway, held, Start::Cursor).await;
    flush(&bus).await;
    let second = claim(&bus.server, ended, "q2").await.generation;
    append(&bus.server, &query_batch(ended, second, 1..=3, true)).await;
    // An attachment elsewhere notices the loss as well, and waits until it is made good.
    let reader = timeout(PATIENCE, async {
        loop {
            let notebook = Arc::default();
            match bus.other_gateway.attach(ended, Start::Cursor, Arc::clone(&notebook) as _).await {
                Ok(attachment) if attachment.start() != Position::ZERO => {
                    return Reader { attachment, notebook };
                }
                _ => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    })
    .await
    .expect("the cursor is back");
    reader.catch_up().await;
    reader.until_events(&expected(second, 3)).await;
    let _newcomer = Reader::live(&bus.other_gateway, held, Start::After(Position::ZERO)).await;
    holder.until("its end", |notes| notes.end == Some(bus::LaneEnd::TakenOver)).await;
}

/// A server in a runtime of its own that stands still while it is told to, as a stopped process does.
struct Standing {
    orders: mpsc::Sender<Option<Duration>>,
    server: Arc<dyn Broker>,
    runtime: Option<std::thread::JoinHandle<()>>,
}

impl Standing {
    fn start(bus: &Fixture, adjust: support::Adjust) -> Self {
        let (orders, inbox) = mpsc::channel::<Option<Duration>>();
        let (give, take) = mpsc::channel();
        let url = bus.redis.as_ref().expect("a Redis").url();
        let runtime = std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async move {
                let mut config = bus::BusConfig::new(url, "standing");
                config.name_prefix = "test:".to_owned();
                adjust(&mut config);
                let server = bus::open(config).expect("a bus");
                ready(&server).await;
                give.send(server).expect("somebody waits");
                loop {
                    match inbox.try_recv() {
                        Ok(Some(time)) => std::thread::sleep(time),
                        Ok(None) | Err(mpsc::TryRecvError::Disconnected) => return,
                        Err(mpsc::TryRecvError::Empty) => tokio::time::sleep(Duration::from_millis(5)).await,
                    }
                }
            });
        });
        let server = take.recv_timeout(PATIENCE).expect("the server is ready");
        Self { orders, server, runtime: Some(runtime) }
    }
}

impl Drop for Standing {
    fn drop(&mut self) {
        let _ = self.orders.send(None);
        if let Some(runtime) = self.runtime.take() {
            let _ = runtime.join();
        }
    }
}

#[tokio::test]
async fn a_dead_servers_query_ends_within_five_seconds_and_nothing_follows() {
    let bus = Fixture::redis(as_it_is).await;
    let standing = Standing::start(&bus, as_it_is);
    let (session, healthy) = (bus.session().await, bus.session().await);
    let reader = Reader::live(&bus.gateway, session, Start::Cursor).await;
    let generation = claim(&standing.server, session, "lost").await.generation;
    append(&standing.server, &query_batch(session, generation, 1..=3, false)).await;
    let running = claim(&bus.server, healthy, "q").await.generation;
    reader.until_events(&expected(generation, 2)).await;

    let stood_still = Instant::now();
    standing.orders.send(Some(Duration::from_secs(6))).unwrap();
    reader.until("the error", |notes| notes.events.len() == 4).await;
    assert!(stood_still.elapsed() < Duration::from_secs(5), "it took {:?}", stood_still.elapsed());
    assert_eq!(reader.notebook.events(), expected(generation, 3));

    // It wakes up and goes on: nobody hears it, and it is told to stop.
    let appended = append(&standing.server, &query_batch(session, generation, 4..=9, true)).await;
    assert_eq!(appended.stale, [(session, generation)]);
    let next = claim(&bus.server, session, "q2").await.generation;
    append(&bus.server, &query_batch(session, next, 1..=1, true)).await;
    reader.until_events(&[expected(generation, 3), expected(next, 1)].concat()).await;
    let again = Reader::live(&bus.other_gateway, session, Start::After(Position::new(generation, 4))).await;
    again.until_events(&expected(next, 1)).await;
    let taken = append(&bus.server, &query_batch(healthy, running, 1..=1, true)).await;
    assert_eq!(taken.stale, [], "a healthy query was ended");
}

/// A client that stays, and one that has reconnected and receives nothing but the terminator: it continues after the position
/// that the client named.
#[tokio::test]
async fn a_dead_servers_query_ends_without_a_log_too() {
    let bus = Fixture::redis(with_pubsub).await;
    let standing = Standing::start(&bus, with_pubsub);
    let mut readers = Vec::new();
    for returns in [false, true] {
        let session = bus.session().await;
        let reader = Reader::live(&bus.gateway, session, Start::Cursor).await;
        let generation = claim(&standing.server, session, "lost").await.generation;
        append(&standing.server, &query_batch(session, generation, 1..=3, false)).await;
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
    standing.orders.send(Some(Duration::from_secs(5))).unwrap();
    for (reader, expected) in readers {
        reader.until_events(&expected).await;
    }
}

/// Another server, as far as its heartbeats are concerned.
struct Peer {
    connection: redis::aio::MultiplexedConnection,
    beat: u64,
}

impl Peer {
    async fn start(redis: &PrivateRedis) -> Self {
        let mut peer = Self { connection: redis.connection().await, beat: 0 };
        peer.beat("old").await;
        peer
    }

    async fn beat(&mut self, restored: &str) {
        self.beat += 1;
        let mut beat = redis::cmd("HSET");
        beat.arg("test:servers").arg("peer").arg(format!("{} restored={restored}", self.beat));
        let () = beat.query_async(&mut self.connection).await.expect("HSET");
    }

    async fn mark(&mut self) -> String {
        redis::cmd("GET").arg("test:bus:mark").query_async(&mut self.connection).await.expect("GET")
    }

    /// The fence at the beginning of the session's log.
    async fn first_fence(&mut self, session: SessionId) -> String {
        let mut first = redis::cmd("XRANGE");
        first.arg(format!("test:session:{session}:log")).arg("-").arg("+").arg("COUNT").arg(1);
        let entries: Vec<(String, (String, String))> =
            first.query_async(&mut self.connection).await.expect("XRANGE");
        entries[0].1.1.clone()
    }
}

/// Waits until the server has read its peers' heartbeats twice more.
async fn polled_twice(bus: &Fixture) {
    let mut connection = bus.redis.as_ref().expect("a Redis").connection().await;
    let (mut first, mut changes) = (None, 0);
    timeout(PATIENCE, async {
        while changes < 2 {
            let beats: std::collections::HashMap<String, String> = redis::cmd("HGETALL")
                .arg("test:servers")
                .query_async(&mut connection)
                .await
                .expect("HGETALL");
            let own = beats.into_iter().find(|(name, _)| name.starts_with("server."));
            changes += i32::from(first.is_some() && own != first);
            first = own;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .expect("the server polls");
}

/// The servers that Redis lists, by their instances.
async fn servers(bus: &Fixture) -> Vec<String> {
    let mut connection = bus.redis.as_ref().expect("a Redis").connection().await;
    let mut names: Vec<String> =
        redis::cmd("HKEYS").arg("test:servers").query_async(&mut connection).await.expect("HKEYS");
    names.iter_mut().for_each(|name| name.truncate(name.find('.').unwrap_or(name.len())));
    names.sort();
    names
}

#[tokio::test]
async fn a_server_that_has_drained_is_not_waited_for_after_a_loss() {
    let bus = Fixture::redis(as_it_is).await;
    let other = open(bus.redis.as_ref().unwrap(), "other", Role::Server, as_it_is);
    ready(&other).await;
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
    claim(&bus.server, session, "q").await;
    let fence = Peer::start(bus.redis.as_ref().unwrap()).await.first_fence(session).await;
    assert!(fence.contains(r#""prev":"0-0""#), "{fence}");
}

/// Its peers must find a query that it leaves behind.
#[tokio::test]
async fn a_server_with_an_open_claim_does_not_leave() {
    let bus = Fixture::redis(as_it_is).await;
    let (session, reader) = {
        let session = bus.session().await;
        (session, Reader::live(&bus.gateway, session, Start::Cursor).await)
    };
    // In flight, and later claimed in Redis.
    let play = bus.server.plays().claiming(session);
    assert!(!bus.server.leave().await.unwrap());
    let generation = claim(&bus.server, session, "q").await.generation;
    drop(play);
    assert!(!bus.server.leave().await.unwrap());
    assert_eq!(servers(&bus).await, ["server"]);
    append(&bus.server, &query_batch(session, generation, 1..=2, true)).await;
    reader.until_events(&expected(generation, 2)).await;
    assert!(bus.server.leave().await.unwrap());
    assert_eq!(servers(&bus).await, Vec::<String>::new());
}

/// Renewals keep the keys of what is played and of what is held for longer than the TTL. After a loss both come back: the server
/// restores what it plays, and a session that only a gateway holds takes queries again once no server is waited for.
#[tokio::test]
async fn what_only_renewals_keep_alive_is_restored() {
    let bus = Fixture::redis(|config| config.session_ttl = Duration::from_secs(2)).await;
    let (played, held, left) = (bus.session().await, bus.session().await, bus.session().await);
    let holder = Reader::live(&bus.gateway, held, Start::Cursor).await;
    let mut play = bus.server.plays().claiming(played);
    let generation = claim(&bus.server, played, "q").await.generation;
    play.claimed(generation);
    for seq in 1..=12 {
        append(&bus.server, &query_batch(played, generation, seq..=seq, false)).await;
        tokio::time::sleep(Duration::from_millis(400)).await;
    }
    // Whatever happens to a session makes the server forget those that were idle for longer than the TTL.
    bus.session().await;
    flush(&bus).await;
    append(&bus.server, &query_batch(played, generation, 13..=15, true)).await;
    let reader = Reader::live(&bus.other_gateway, played, Start::After(Position::ZERO)).await;
    reader.until_events(&expected(generation, 15)).await;
    // While a server may still know more of it, the session stays unknown.
    let mut connection = bus.redis.as_ref().unwrap().connection().await;
    timeout(PATIENCE, async {
        let mut get = redis::cmd("HGET");
        get.arg(format!("test:session:{held}:meta")).arg("held");
        while get.query_async::<Option<u8>>(&mut connection).await.expect("HGET") != Some(1) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .expect("the gateway restores what it holds");
    let young = try_claim(&bus.server, held, "q").await;
    assert!(matches!(young, Err(ClaimError::Bus(BusError::Restoring))), "{young:?}");
    bus.redis.as_ref().unwrap().age().await;
    let next = claim(&bus.server, held, "q").await.generation;
    append(&bus.server, &query_batch(held, next, 1..=2, true)).await;
    holder.until_events(&expected(next, 2)).await;
    let unknown = timeout(PATIENCE, async {
        loop {
            match try_claim(&bus.server, left, "q").await {
                Err(ClaimError::Bus(_)) => tokio::time::sleep(Duration::from_millis(10)).await,
                other => return other,
            }
        }
    });
    let unknown = unknown.await.expect("an answer");
    assert!(matches!(unknown, Err(ClaimError::Unknown)), "one that nothing renewed expired: {unknown:?}");
}

async fn try_claim(bus: &Arc<dyn Broker>, session: SessionId, query: &str) -> Result<Claim, ClaimError> {
    bus.claim(session, ClaimRequest { query_id: query.to_owned(), answer: String::new() }).await
}

#[tokio::test]
async fn claims_wait_for_a_peer_that_still_restores() {
    let bus = Fixture::redis(as_it_is).await;
    let mut peer = Peer::start(bus.redis.as_ref().unwrap()).await;
    let session = bus.session().await;
    // Long enough that the peer was seen in an answer, and is known when Redis has lost it.
    tokio::time::sleep(Duration::from_millis(1_000)).await;
    flush(&bus).await;
    let lost = Instant::now();
    while lost.elapsed() < Duration::from_millis(3_600) {
        let claimed = try_claim(&bus.server, session, "q").await;
        assert!(matches!(claimed, Err(ClaimError::Bus(BusError::Restoring))), "{claimed:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
        peer.beat("old").await;
    }
    let mark = peer.mark().await;
    peer.beat(&mark).await;
    timeout(Duration::from_secs(1), claim(&bus.server, session, "q")).await.expect("all have restored");
    assert!(peer.first_fence(session).await.contains(r#""prev":"0-0""#));
}

#[tokio::test]
async fn a_peer_that_does_not_come_back_is_given_up_and_the_fence_says_so() {
    let bus = Fixture::redis(as_it_is).await;
    let mut peer = Peer::start(bus.redis.as_ref().unwrap()).await;
    let session = bus.session().await;
    tokio::time::sleep(Duration::from_millis(1_000)).await;
    flush(&bus).await;
    let lost = Instant::now();
    claim(&bus.server, session, "q").await;
    let took = lost.elapsed();
    assert!(took > Duration::from_secs(2) && took < Duration::from_secs(6), "{took:?}");
    let fence = peer.first_fence(session).await;
    assert!(fence.contains(r#""prev":null"#), "{fence}");
}

/// A session that is closed before all servers have restored gets its end later: the server that closed it writes it.
#[tokio::test]
async fn a_server_leaves_only_after_the_ends_of_its_closed_sessions_are_written() {
    let bus = Fixture::redis(as_it_is).await;
    let _silent = Peer::start(bus.redis.as_ref().unwrap()).await;
    let session = bus.session().await;
    let reader = Reader::live(&bus.gateway, session, Start::Cursor).await;
    tokio::time::sleep(Duration::from_millis(1_000)).await;
    flush(&bus).await;
    let closed = timeout(PATIENCE, async {
        loop {
            match bus.server.close(session).await {
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
                Ok(closed) => return closed,
            }
        }
    });
    assert!(closed.await.expect("the silent peer is given up"));
    assert!(!bus.server.leave().await.unwrap(), "the end is not written yet");
    reader.until("its end", |notes| notes.end.is_some()).await;
    timeout(PATIENCE, async {
        while !bus.server.leave().await.unwrap() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .expect("the server leaves");
}

#[tokio::test]
async fn a_server_that_starts_after_the_loss_knows_that_redis_is_young() {
    let bus = Fixture::redis(as_it_is).await;
    flush(&bus).await;
    ready(&bus.server).await;
    let fresh = open(bus.redis.as_ref().unwrap(), "fresh", Role::Server, as_it_is);
    ready(&fresh).await;
    let stranger = SessionId::new(Uuid::new_v4());
    let unsure = try_claim(&fresh, stranger, "q").await;
    assert!(matches!(unsure, Err(ClaimError::Bus(BusError::Restoring))), "{unsure:?}");
    bus.redis.as_ref().unwrap().age().await;
    let unknown = timeout(PATIENCE, async {
        loop {
            match try_claim(&fresh, stranger, "q").await {
                Err(ClaimError::Bus(_)) => tokio::time::sleep(Duration::from_millis(10)).await,
                other => return other,
            }
        }
    });
    let unknown = unknown.await.expect("an answer");
    assert!(matches!(unknown, Err(ClaimError::Unknown)), "{unknown:?}");
}

#[tokio::test]
async fn a_call_for_an_earlier_query_is_recognised_after_a_loss() {
    let bus = Fixture::redis(as_it_is).await;
    let session = bus.session().await;
    for query in ["first", "second", "third"] {
        bus.play(session, query, 1).await;
    }
    flush(&bus).await;
    assert!(claim(&bus.server, session, "third").await.repeat_of.is_some());
    for query in ["first", "second"] {
        let again = try_claim(&bus.server, session, query).await;
        assert!(matches!(again, Err(ClaimError::Past)), "{query}: {again:?}");
    }
}

#[tokio::test]
async fn a_redis_that_pauses_ends_no_healthy_query() {
    let bus = Fixture::redis(as_it_is).await;
    let other = open(bus.redis.as_ref().unwrap(), "other", Role::Server, as_it_is);
    ready(&other).await;
    let sessions = [bus.session().await, bus.session().await];
    let [first, second] = sessions;
    let generations = [claim(&bus.server, first, "q").await, claim(&other, second, "q").await];
    bus.redis.as_ref().unwrap().pause(Duration::from_secs(5)).await;
    // Longer than a peer needs to be taken for dead.
    tokio::time::sleep(Duration::from_secs(4)).await;
    for (server, (session, claim)) in
        [&bus.server, &other].into_iter().zip(sessions.into_iter().zip(generations))
    {
        let appended = append(server, &query_batch(session, claim.generation, 1..=1, true)).await;
        assert_eq!(appended.stale, []);
    }
}
