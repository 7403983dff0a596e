//! Compares the scripts with the rules. Any sequence of steps has the same outcomes, fields and log on a real Redis and
//! on a record, whatever is lost or rolled back in between.

mod steps;

use super::{Scripts, eval, past_of, text_of};
use crate::rules::{AcknowledgedHistory, Part, Record, Status};
use proptest::prelude::*;
use protocol::{Kind, Names, Position, Prefix, SessionId};
use redis::{Cmd, Connection, RedisResult, Value};
use std::{
    collections::HashMap,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};
use uuid::Uuid;

/// The key of the mark. Its value is `mark`.
const MARK: &str = "bus:mark";
const TTL: u64 = 60;
/// The time to live of every key before a step, in seconds.
const LEFT: u64 = 30;
const KEEP: usize = 4;
const SERVERS: [&str; 2] = ["server-a", "server-b"];
const GATEWAYS: [&str; 2] = ["gateway-a", "gateway-b"];

#[derive(Clone, Copy, Debug)]
enum Op {
    Create,
    Claim {
        server: usize,
        query: u8,
        /// Every server has restored its history.
        complete: bool,
        /// Redis lists the server.
        listed: bool,
        /// The mark is old.
        old: bool,
    },
    /// Appends the next event of the server's last claim, or the last one again.
    Append {
        server: usize,
        terminator: bool,
        again: bool,
        complete: bool,
    },
    Close {
        server: usize,
        complete: bool,
        old: bool,
    },
    Attach {
        gateway: usize,
        late: bool,
        /// Distance of the client's position from the log's last one, in generations and in sequence numbers. `None`:
        /// the client names no position.
        after: Option<(u64, u64)>,
        young: bool,
    },
    Release {
        nth: usize,
        cursor: bool,
    },
    Reattach {
        nth: usize,
        active: bool,
    },
    /// The log refuses the terminator of the server's last claim.
    ReleaseClaim {
        server: usize,
    },
    RestoreCursor {
        nth: usize,
    },
    EndLostQuery {
        server: usize,
        complete: bool,
    },
    Restore {
        server: usize,
    },
    Remember,
    RollBack,
    Forget,
    Expire(Part),
}

fn op() -> impl Strategy<Value = Op> {
    let server = 0..SERVERS.len();
    prop_oneof![
        2 => Just(Op::Create),
        6 => (server.clone(), 0..12u8, prop::bool::weighted(0.8), prop::bool::weighted(0.9), any::<bool>())
            .prop_map(|(server, query, complete, listed, old)| Op::Claim { server, query, complete, listed, old }),
        14 => (server.clone(), prop::bool::weighted(0.2), prop::bool::weighted(0.2), any::<bool>())
            .prop_map(|(server, terminator, again, complete)| Op::Append { server, terminator, again, complete }),
        1 => (server.clone(), any::<[bool; 2]>())
            .prop_map(|(server, [complete, old])| Op::Close { server, complete, old }),
        3 => (0..GATEWAYS.len(), prop::bool::weighted(0.2), prop::option::of((0..2u64, 0..3u64)), any::<bool>())
            .prop_map(|(gateway, late, after, young)| Op::Attach { gateway, late, after, young }),
        2 => (0..3usize, any::<bool>()).prop_map(|(nth, cursor)| Op::Release { nth, cursor }),
        1 => (0..3usize, any::<bool>()).prop_map(|(nth, active)| Op::Reattach { nth, active }),
        2 => server.clone().prop_map(|server| Op::ReleaseClaim { server }),
        1 => (0..3usize).prop_map(|nth| Op::RestoreCursor { nth }),
        2 => (server.clone(), any::<bool>()).prop_map(|(server, complete)| Op::EndLostQuery { server, complete }),
        4 => server.prop_map(|server| Op::Restore { server }),
        2 => Just(Op::Remember),
        1 => Just(Op::RollBack),
        1 => Just(Op::Forget),
        3 => prop_oneof![Just(Part::Meta), Just(Part::Log), Just(Part::Attachment)].prop_map(Op::Expire),
    ]
}

/// A `redis-server` that ends with the test.
struct PrivateRedis {
    child: Child,
    directory: tempfile::TempDir,
}

impl PrivateRedis {
    fn start() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "redis-server", "--port", "0", "--save", "", "--unixsocket"])
            .arg(directory.path().join("redis.sock"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("start redis-server: run scripts/test.sh, which installs it");
        Self { child, directory }
    }

    fn connection(&self) -> Connection {
        let url = format!("redis+unix://{}", self.directory.path().join("redis.sock").display());
        let client = redis::Client::open(url).expect("a url");
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            match client.get_connection() {
                Ok(connection) => return connection,
                Err(error) => assert!(Instant::now() < deadline, "redis-server does not answer: {error}"),
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for PrivateRedis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
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

    /// Sets the time to live of every key to [`LEFT`].
    fn age(&mut self) {
        for key in self.keys() {
            self.ask::<Value>(redis::cmd("EXPIRE").arg(key).arg(LEFT));
        }
    }

    /// Returns the parts whose keys have a longer time to live than [`LEFT`].
    fn renewed(&mut self) -> Vec<Part> {
        let keys = self.keys();
        let renewed = Part::ALL.into_iter().zip(keys).filter(|(_, key)| {
            let left: i64 = self.ask(redis::cmd("TTL").arg(key));
            assert_ne!(left, -1, "{key} never expires");
            left > LEFT.cast_signed()
        });
        renewed.map(|(part, _)| part).collect()
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
        let log = record
            .log
            .iter()
            .map(|entry| {
                (entry.prefix.position.to_string(), String::from_utf8_lossy(&entry.frame).into_owned())
            })
            .collect();
        (meta, log, attach)
    }
}

#[test]
fn redis_follows_the_rules() {
    let redis = PrivateRedis::start();
    let connection = std::cell::RefCell::new(redis.connection());
    let config = ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() };
    proptest!(config, |(ops in proptest::collection::vec(op(), 1..60))| {
        let mut connection = connection.borrow_mut();
        let mut bench = Bench::new(&mut connection);
        bench.ask::<Value>(redis::cmd("SET").arg(MARK).arg("mark"));
        bench.apply(Op::Create);
        for op in ops {
            bench.age();
            drop(bench.record.take_renewed());
            bench.apply(op);
            prop_assert_eq!(bench.redis(), bench.expected(), "after {:?}", op);
            prop_assert!(bench.owner_has_listed_session(), "after {:?}", op);
            if !matches!(op, Op::RollBack) {
                let renewed: Vec<Part> = bench.record.take_renewed().collect();
                prop_assert_eq!(bench.renewed(), renewed, "renewed by {:?}", op);
            }
        }
    });
}

#[test]
fn a_server_stays_listed_while_it_has_running_queries() {
    let redis = PrivateRedis::start();
    let mut connection = redis.connection();
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
    let mut connection = redis.connection();
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
