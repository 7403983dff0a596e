//! Compares the scripts with the rules. Any sequence of steps has the same outcomes, fields and log on a real Redis and
//! on a record, whatever is lost or rolled back in between.

#[allow(dead_code, reason = "shared with the tests of the brokers, which use the rest")]
#[path = "../../../tests/brokers/support/private_redis.rs"]
mod private_redis;
mod steps;

use super::{Scripts, eval, past_of, text_of};
use crate::rules::{AcknowledgedHistory, OVER, Part, Record, Status};
use private_redis::PrivateRedis;
use proptest::prelude::*;
use protocol::{Kind, Names, Position, Prefix, SessionId};
use redis::{Cmd, Connection, RedisResult, Value};
use std::{
    collections::HashMap,
    time::{Duration, Instant},
};
use uuid::Uuid;

/// The key of the mark. Its value is `mark`.
const MARK: &str = "bus:mark";
const TTL: u64 = 600;
/// The times to live of every key before a step, in seconds: the renewal is due, and it is not.
const LEFT: [u64; 2] = [470, 490];
const KEEP: usize = 4;
const SERVERS: [&str; 2] = ["server-a", "server-b"];
const GATEWAYS: [&str; 2] = ["gateway-a", "gateway-b"];

/// A step. Servers and gateways are given by number, attachments by how many there were after them.
#[derive(Clone, Copy, Debug)]
enum Op {
    Create,
    /// A server, a query, and whether every server has restored, Redis lists the server, and the mark is old.
    Claim(usize, u8, [bool; 3]),
    /// The next event of a server's last claim: whether it is the terminator, the last event again, and logs are complete.
    Append(usize, [bool; 3]),
    /// A server, and whether logs are complete and the mark is old.
    Close(usize, [bool; 2]),
    /// A gateway, and whether it is late and Redis is young. The client names no position, or one that is so many generations and
    /// sequence numbers away from the log's last one.
    Attach(usize, [bool; 2], Option<(u64, u64)>),
    /// An attachment, and whether it has a cursor.
    Release(usize, bool),
    /// An attachment, and whether its session is active.
    Reattach(usize, bool),
    /// The log refuses the terminator of the server's last claim.
    ReleaseClaim(usize),
    RestoreCursor(usize),
    /// A server, and whether logs are complete.
    EndLostQuery(usize, bool),
    Restore(usize),
    Remember,
    RollBack,
    Forget,
    Expire(Part),
}

fn op() -> impl Strategy<Value = Op> {
    let server = 0..SERVERS.len();
    let weighted = prop::bool::weighted;
    let claim = (server.clone(), 0..12u8, weighted(0.8), weighted(0.9), any::<bool>());
    let append = (server.clone(), weighted(0.2), weighted(0.2), any::<bool>());
    let after = prop::option::of((0..2u64, 0..3u64));
    let attach = (0..GATEWAYS.len(), weighted(0.2), after, any::<bool>());
    prop_oneof![
        2 => Just(Op::Create),
        6 => claim.prop_map(|(server, query, complete, listed, old)| Op::Claim(server, query, [complete, listed, old])),
        14 => append.prop_map(|(server, terminator, again, complete)| Op::Append(server, [terminator, again, complete])),
        1 => (server.clone(), any::<[bool; 2]>()).prop_map(|(server, how)| Op::Close(server, how)),
        3 => attach.prop_map(|(gateway, late, after, young)| Op::Attach(gateway, [late, young], after)),
        2 => (0..3usize, any::<bool>()).prop_map(|(nth, cursor)| Op::Release(nth, cursor)),
        1 => (0..3usize, any::<bool>()).prop_map(|(nth, active)| Op::Reattach(nth, active)),
        2 => server.clone().prop_map(Op::ReleaseClaim),
        1 => (0..3usize).prop_map(Op::RestoreCursor),
        2 => (server.clone(), any::<bool>()).prop_map(|(server, complete)| Op::EndLostQuery(server, complete)),
        4 => server.prop_map(Op::Restore),
        2 => Just(Op::Remember),
        1 => Just(Op::RollBack),
        1 => Just(Op::Forget),
        3 => prop_oneof![Just(Part::Meta), Just(Part::Log), Just(Part::Attachment)].prop_map(Op::Expire),
    ]
}

/// Returns a connection, once the server replies.
fn connect(redis: &PrivateRedis) -> Connection {
    let client = redis::Client::open(redis.url()).expect("a url");
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        match client.get_connection() {
            Ok(connection) => return connection,
            Err(error) => assert!(Instant::now() < deadline, "redis-server does not answer: {error}"),
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A server's last claim.
struct Server {
    history: AcknowledgedHistory,
    generation: u64,
    next: u64,
}

/// Both sides of the comparison, and what their users remember.
struct Bench<'a> {
    connection: &'a mut Connection,
    scripts: Scripts,
    names: Names,
    session: SessionId,
    record: Record,
    remembered: Option<(Record, Dumps)>,
    servers: Vec<Server>,
    epochs: Vec<(usize, u64)>,
    now: Instant,
}

/// Keys and the replies to DUMP.
type Dumps = Vec<(String, Vec<u8>)>;
/// The meta hash, the log and the attach hash.
type Seen = (HashMap<String, String>, Vec<(String, String)>, HashMap<String, String>);

impl<'a> Bench<'a> {
    fn new(connection: &'a mut Connection) -> Self {
        let server = || Server {
            history: AcknowledgedHistory::new(1 << 20, Duration::from_secs(60), KEEP),
            generation: 0,
            next: 1,
        };
        Self {
            connection,
            scripts: Scripts::new(),
            names: Names::default(),
            session: SessionId::new(Uuid::new_v4()),
            record: Record::default(),
            remembered: None,
            servers: SERVERS.iter().map(|_| server()).collect(),
            epochs: Vec::new(),
            now: Instant::now(),
        }
    }

    fn keys(&self) -> [String; 3] {
        [self.names.meta(self.session), self.names.log(self.session), self.names.attach(self.session)]
    }

    fn ask<T: redis::FromRedisValue>(&mut self, call: &Cmd) -> T {
        let answer: RedisResult<T> = call.query(self.connection);
        answer.unwrap_or_else(|error| panic!("{error}"))
    }

    fn script(&mut self, script: fn(&Scripts) -> &redis::Script, keys: &[String]) -> Cmd {
        let script = script(&self.scripts);
        script.load(self.connection).expect("the script loads");
        eval(script.get_hash(), keys)
    }

    /// Sets the time to live of every key, in seconds. Returns the parts that the record lacks.
    fn age(&mut self, left: u64) -> Vec<Part> {
        for key in self.keys() {
            self.ask::<Value>(redis::cmd("EXPIRE").arg(key).arg(left));
        }
        Part::ALL.into_iter().filter(|&part| !self.record.has(part)).collect()
    }

    /// Returns the parts whose keys have a longer time to live than all of [`LEFT`].
    fn renewed(&mut self) -> Vec<Part> {
        let keys = self.keys();
        let renewed = Part::ALL.into_iter().zip(keys).filter(|(_, key)| {
            let left: i64 = self.ask(redis::cmd("TTL").arg(key));
            assert_ne!(left, -1, "{key} never expires");
            left > LEFT[1].cast_signed()
        });
        renewed.map(|(part, _)| part).collect()
    }

    /// Returns whether every key has the time to live of a session that is over.
    fn expires_soon(&mut self) -> bool {
        let keys = self.keys();
        let left = keys.map(|key| self.ask::<i64>(redis::cmd("TTL").arg(key)));
        let known: Vec<_> = left.into_iter().filter(|&left| left != -2).collect();
        let soon = |left: &i64| *left <= OVER.as_secs().cast_signed();
        assert!(known.iter().all(soon) || !known.iter().any(soon), "only some keys expire soon: {left:?}");
        known.first().is_some_and(soon)
    }

    fn log(&mut self) -> Vec<(String, String)> {
        let key = self.names.log(self.session);
        let entries: Vec<(String, Vec<(String, String)>)> =
            self.ask(redis::cmd("XRANGE").arg(key).arg("-").arg("+"));
        entries.into_iter().map(|(id, mut fields)| (id, fields.remove(0).1)).collect()
    }

    fn redis(&mut self) -> Seen {
        let [meta, _, attach] = self.keys();
        (self.ask(redis::cmd("HGETALL").arg(meta)), self.log(), self.ask(redis::cmd("HGETALL").arg(attach)))
    }

    /// Returns whether Redis lists the session for the server that plays its query or is to write its log's end, so that a
    /// peer can take over.
    fn owner_has_listed_session(&mut self) -> bool {
        let record = &self.record;
        let Some(owner) = record.running.clone().or_else(|| record.end_owner.clone()) else { return true };
        let session = self.session.to_string();
        self.ask(redis::cmd("HEXISTS").arg(self.names.running(&owner)).arg(session))
    }

    /// Returns what Redis holds if it follows the rules.
    fn expected(&self) -> Seen {
        let record = &self.record;
        let mut meta = HashMap::new();
        let mut set = |name: &str, value: String| meta.insert(name.to_owned(), value);
        if let Some(status) = record.status {
            set("status", if status == Status::Active { "active" } else { "closed" }.to_owned());
        }
        if record.held {
            set("held", "1".to_owned());
        }
        if record.generation > 0 {
            set("gen", record.generation.to_string());
            set("prev", text_of(record.prev));
            set("query", record.query.clone());
            set("answer", record.answer.clone());
        }
        if !record.past.is_empty() {
            let past: Vec<String> =
                record.past.iter().map(|(generation, query)| format!("{generation} {query}")).collect();
            set("past", serde_json::to_string(&past).expect("strings"));
        }
        if record.running.is_some() {
            set("running", "1".to_owned());
        }
        if let Some(owner) = record.running.as_ref().or(record.end_owner.as_ref()) {
            set("owner", owner.clone());
        }
        let mut attach = HashMap::new();
        let mut set = |name: &str, value: String| attach.insert(name.to_owned(), value);
        if record.epoch > 0 {
            set("epoch", record.epoch.to_string());
        }
        if let Some(holder) = &record.holder {
            set("holder", holder.clone());
        }
        if record.cursor_epoch > 0 {
            set("cursor", record.cursor.to_string());
            set("cursor_epoch", record.cursor_epoch.to_string());
        }
        let text = |frame: &[u8]| String::from_utf8_lossy(frame).into_owned();
        let log = record.log.iter().map(|entry| (entry.prefix.position.to_string(), text(&entry.frame)));
        (meta, log.collect(), attach)
    }
}

#[test]
fn redis_follows_the_rules() {
    let redis = PrivateRedis::start();
    let connection = std::cell::RefCell::new(connect(&redis));
    let config = ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() };
    proptest!(config, |(ops in proptest::collection::vec((op(), any::<bool>()), 1..60))| {
        let mut connection = connection.borrow_mut();
        let mut bench = Bench::new(&mut connection);
        bench.ask::<Value>(redis::cmd("SET").arg(MARK).arg("mark"));
        bench.apply(Op::Create);
        for (op, is_due) in ops {
            let lacking = bench.age(LEFT[usize::from(!is_due)]);
            bench.record.take_over();
            drop(bench.record.take_renewed(false));
            let is_due = is_due || lacking.contains(&Part::Meta);
            bench.apply(op);
            prop_assert_eq!(bench.redis(), bench.expected(), "after {:?}", op);
            prop_assert!(bench.owner_has_listed_session(), "after {:?}", op);
            if !matches!(op, Op::RollBack) {
                let is_over = bench.record.take_over();
                prop_assert_eq!(bench.expires_soon(), is_over, "forgotten by {:?}", op);
                // A part that this step has made must expire too.
                let mut renewed: Vec<Part> = bench.record.take_renewed(is_due).collect();
                renewed.extend(lacking.into_iter().filter(|&part| bench.record.has(part)));
                renewed.sort();
                renewed.dedup();
                if is_over {
                    renewed.clear();
                }
                prop_assert_eq!(bench.renewed(), renewed, "renewed by {:?}", op);
            }
        }
    });
}

#[test]
fn a_server_stays_listed_while_it_has_running_queries() {
    let redis = PrivateRedis::start();
    let mut connection = connect(&redis);
    let (servers, running) = (Names::default().servers(), Names::default().running(SERVERS[0]));
    let mut bench = Bench::new(&mut connection);
    bench.ask::<Value>(redis::cmd("HSET").arg(&servers).arg(SERVERS[0]).arg("still"));
    bench.ask::<Value>(redis::cmd("HSET").arg(&running).arg("session").arg(7));
    for (queries, removed) in [(1, 0), (0, 1)] {
        if queries == 0 {
            bench.ask::<Value>(redis::cmd("DEL").arg(&running));
        }
        let mut call = bench.script(|s| &s.forget_server, &[servers.clone(), running.clone()]);
        assert_eq!(bench.ask::<u64>(call.arg(SERVERS[0]).arg("still")), removed);
    }
}

#[test]
fn a_heartbeat_that_is_executed_late_changes_nothing() {
    let redis = PrivateRedis::start();
    let mut connection = connect(&redis);
    let mut bench = Bench::new(&mut connection);
    let servers = Names::default().servers();
    for (value, listed) in [
        ("7 restored=none", "7 restored=none"),
        ("12 restored=m", "12 restored=m"),
        ("9 restored=none", "12 restored=m"),
        ("12 restored=none", "12 restored=m"),
        ("13 restored=m", "13 restored=m"),
    ] {
        let mut call = bench.script(|s| &s.heartbeat, std::slice::from_ref(&servers));
        bench.ask::<Value>(call.arg(SERVERS[0]).arg(value));
        assert_eq!(bench.ask::<String>(redis::cmd("HGET").arg(&servers).arg(SERVERS[0])), listed, "{value}");
    }
    bench.ask::<Value>(redis::cmd("HSET").arg(&servers).arg(SERVERS[0]).arg("none"));
    let mut call = bench.script(|s| &s.heartbeat, std::slice::from_ref(&servers));
    bench.ask::<Value>(call.arg(SERVERS[0]).arg("1 restored=none"));
    assert_eq!(bench.ask::<String>(redis::cmd("HGET").arg(&servers).arg(SERVERS[0])), "1 restored=none");
}
