//! The scripts against the rules: any sequence of steps on a real Redis and on a record comes to the same outcomes, the
//! same fields and the same log, whatever is lost or rolled back in between.

use super::Scripts;
use crate::{
    redis::{
        attach::Returned,
        restoration::{eval, past_of, text_of},
    },
    rules::{
        AcknowledgedHistory, Append, Attach, Attached, Attaching, Claimed, Claiming, Ending, Part, Record,
        Status,
    },
};
use proptest::prelude::*;
use protocol::{Kind, Names, Position, Prefix, SessionId, encode_done, encode_error, encode_token};
use redis::{Cmd, Connection, RedisResult, Value};
use std::{
    collections::HashMap,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};
use uuid::Uuid;

/// Holds `mark`.
const MARK: &str = "bus:mark";
const TTL: u64 = 60;
/// What is left of each key's time to live before a step.
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
        /// Whether every server has restored what it kept.
        whole: bool,
        /// Whether Redis lists the server.
        listed: bool,
        /// Whether the mark is old.
        old: bool,
    },
    /// The next event of the server's last claim, or one that it sends again.
    Append {
        server: usize,
        terminator: bool,
        again: bool,
        whole: bool,
    },
    Close {
        whole: bool,
        old: bool,
    },
    Attach {
        gateway: usize,
        late: bool,
        /// So far above the log's top, in generations and in sequence numbers; `None` names nothing.
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
        whole: bool,
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
            .prop_map(|(server, query, whole, listed, old)| Op::Claim { server, query, whole, listed, old }),
        14 => (server.clone(), prop::bool::weighted(0.2), prop::bool::weighted(0.2), any::<bool>())
            .prop_map(|(server, terminator, again, whole)| Op::Append { server, terminator, again, whole }),
        1 => any::<[bool; 2]>().prop_map(|[whole, old]| Op::Close { whole, old }),
        3 => (0..GATEWAYS.len(), prop::bool::weighted(0.2), prop::option::of((0..2u64, 0..3u64)), any::<bool>())
            .prop_map(|(gateway, late, after, young)| Op::Attach { gateway, late, after, young }),
        2 => (0..3usize, any::<bool>()).prop_map(|(nth, cursor)| Op::Release { nth, cursor }),
        1 => (0..3usize, any::<bool>()).prop_map(|(nth, active)| Op::Reattach { nth, active }),
        2 => server.clone().prop_map(|server| Op::ReleaseClaim { server }),
        1 => (0..3usize).prop_map(|nth| Op::RestoreCursor { nth }),
        2 => (server.clone(), any::<bool>()).prop_map(|(server, whole)| Op::EndLostQuery { server, whole }),
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

/// A server as it sees its last claim.
struct Server {
    history: AcknowledgedHistory,
    generation: u64,
    next: u64,
}

/// Both sides, and what their users remember.
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

/// Keys and what `DUMP` says of them.
type Dumps = Vec<(String, Vec<u8>)>;
/// Meta, log, attachment.
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

    fn take(&mut self, op: Op) {
        let [meta, log, attach] = self.keys();
        let (session, down) = (self.session, self.names.down(self.session));
        let running = |server: usize| Names::default().running(SERVERS[server]);
        match op {
            Op::Create => {
                self.ask::<Value>(redis::cmd("HSETNX").arg(&meta).arg("status").arg("active"));
                self.ask::<Value>(redis::cmd("EXPIRE").arg(meta).arg(TTL));
                self.record.create();
            }
            Op::Claim { server, query, whole, listed, old } => {
                let (query, answer) = (format!("q{query}"), format!("by {server}"));
                let servers = Names::default().servers();
                let heartbeat = redis::cmd("HSET").arg(&servers).arg(SERVERS[server]).arg("still").clone();
                let removal = redis::cmd("HDEL").arg(&servers).arg(SERVERS[server]).clone();
                self.ask::<Value>(if listed { &heartbeat } else { &removal });
                let keys = [meta, log, attach, running(server), MARK.to_owned(), servers];
                let mut call = self.script(|s| &s.claim, &keys);
                let known = self.servers[server].generation;
                call.arg(&query).arg(&answer).arg(SERVERS[server]).arg(TTL).arg(KEEP).arg("log").arg(down);
                let (outcome, generation, prev, kept): (String, u64, String, String) = self.ask(
                    call.arg(session.to_string())
                        .arg("mark")
                        .arg(known)
                        .arg(u8::from(whole))
                        .arg(u8::from(old)),
                );
                let prev: Option<Position> = prev.parse().ok();
                let claiming = Claiming {
                    query: &query,
                    answer: &answer,
                    owner: SERVERS[server],
                    now_ms: generation,
                    keep: KEEP,
                    known,
                    whole,
                    listed,
                };
                if old {
                    self.record.adopt();
                }
                let claimed = self.record.claim(claiming, true, &mut |_| 0);
                let same = match outcome.as_str() {
                    "claimed" => Claimed::Now { generation, prev },
                    "repeat" => Claimed::Before { generation, prev, answer: kept },
                    "unknown" => Claimed::Unknown,
                    "past" => Claimed::Past,
                    "closed" => Claimed::Closed,
                    "unlisted" => Claimed::Unlisted,
                    other => {
                        assert_eq!(other, "busy");
                        Claimed::Busy
                    }
                };
                assert_eq!(claimed, same);
                if let Claimed::Now { generation, prev } = claimed {
                    let own = &mut self.servers[server];
                    (own.generation, own.next) = (generation, 1);
                    own.history.claimed(session, (generation, prev), &query, &answer, self.now);
                }
            }
            Op::Append { server, terminator, again, whole } => {
                let Server { generation, next, .. } = self.servers[server];
                if generation == 0 {
                    return;
                }
                let seq = if again { (next - 1).max(1) } else { next };
                let position = Position::new(generation, seq);
                let kind = if terminator { Kind::Done } else { Kind::Token };
                let mut frame = Vec::new();
                if terminator {
                    encode_done(&mut frame, position, "q", 1, 2);
                } else {
                    encode_token(&mut frame, position, "word", "q", 1, 2);
                }
                let prefix = Prefix { position, kind };
                self.ask::<Value>(redis::cmd("SET").arg("mark").arg("m"));
                let mut call = self.script(|s| &s.append, &["mark".to_owned(), running(server), log]);
                call.arg("m").arg(TTL).arg("log").arg(u8::from(whole)).arg(position.to_string()).arg(&frame);
                call.arg(if terminator { "" } else { &down });
                let (taken, _, mut why, detail): (usize, u64, String, String) = self.ask(&call);
                let ending = Ending { now_ms: self.time(), whole };
                let outcome = self.record.append(prefix, &frame, ending, true, &mut |_| 0);
                let refused = matches!(outcome, Append::Stale | Append::Hole);
                let superseded = self.record.top().generation > generation;
                if terminator && !refused && !superseded && self.record.lacks_end() {
                    if why == "unmarked" {
                        why = if detail.is_empty() { String::new() } else { "moved".to_owned() };
                    } else {
                        assert_eq!(outcome, Append::Repeated, "{why}");
                    }
                }
                let same = match (taken, why.as_str()) {
                    (1, "moved") => Append::Moved { position: detail.parse().expect("a position") },
                    (0, "stale") => Append::Stale,
                    (0, "hole") => Append::Hole,
                    (1, "") if outcome == Append::Repeated => outcome,
                    other => {
                        assert_eq!(other, (1, ""));
                        Append::Taken { heard: 0 }
                    }
                };
                assert_eq!(outcome, same);
                let (prefix, frame) = match outcome {
                    Append::Moved { position: to } => {
                        (Prefix { position: to, kind }, protocol::with_position(&frame, position, to))
                    }
                    _ => (prefix, frame),
                };
                let own = &mut self.servers[server];
                own.next = own.next.max(seq + 1);
                match outcome {
                    Append::Stale => own.history.fenced_off(session, generation),
                    Append::Hole => {}
                    _ => own.history.appended(session, prefix, &frame, self.now),
                }
            }
            Op::Close { whole, old } => {
                if old {
                    self.record.adopt();
                }
                let mut call = self.script(|s| &s.close, &[meta, log, MARK.to_owned()]);
                call.arg("").arg(session.to_string()).arg(TTL).arg("log").arg(down).arg("mark");
                let known: i64 = self.ask(call.arg(u8::from(whole)).arg(u8::from(old)));
                let ending = Ending { now_ms: self.time(), whole };
                assert_eq!(i64::from(self.record.close(ending, true, &mut |_| 0)), known);
            }
            Op::Attach { gateway, late, after, young } => self.attach(gateway, late, after, young),
            Op::Release { nth, cursor } => {
                let Some(&(_, epoch)) = self.epochs.iter().rev().nth(nth) else { return };
                let cursor = cursor.then(|| self.record.top());
                let mut call = self.script(|s| &s.release, &[attach]);
                call.arg("").arg(session.to_string()).arg(TTL).arg(epoch);
                self.ask::<Value>(call.arg(cursor.map_or_else(String::new, |cursor| cursor.to_string())));
                self.record.release(epoch, cursor, &mut |_| 0);
            }
            Op::Reattach { nth, active } => {
                let Some(&(gateway, epoch)) = self.epochs.iter().rev().nth(nth) else { return };
                let mut call = self.script(|s| &s.reattach, &[attach, meta, log]);
                call.arg(epoch).arg(GATEWAYS[gateway]).arg(TTL).arg("").arg(session.to_string());
                let newest: u64 = self.ask(call.arg(u8::from(active)));
                assert_eq!(self.record.reattach(GATEWAYS[gateway], epoch, active, &mut |_| 0), newest);
            }
            Op::ReleaseClaim { server } => self.release_claim(server),
            Op::RestoreCursor { nth } => {
                let Some(&(_, epoch)) = self.epochs.iter().rev().nth(nth) else { return };
                let cursor = Position::new(epoch, 1);
                let mut call = self.script(|s| &s.restore_cursor, &[attach]);
                call.arg(epoch).arg(cursor.to_string()).arg(TTL).arg("").arg(session.to_string());
                self.ask::<Value>(&call);
                self.record.restore_cursor(epoch, cursor, &mut |_| 0);
            }
            Op::EndLostQuery { server, whole } => {
                let generation = self.record.generation;
                let terminator = |position| {
                    let mut frame = Vec::new();
                    encode_error(&mut frame, position, "server_lost", "gone", "q", 1, 2);
                    frame
                };
                let tail = terminator(Position::ZERO)[br#"{"id":"0-0""#.len()..].to_vec();
                let keys = [meta, log, running(server), Names::default().servers(), attach];
                let mut call = self.script(|s| &s.end_lost_query, &keys);
                call.arg(SERVERS[server]).arg(generation).arg(session.to_string()).arg(tail).arg(TTL);
                let ended: u8 = self.ask(call.arg("log").arg(down).arg("still").arg(u8::from(whole)));
                let ending = Ending { now_ms: self.time(), whole };
                let same = self.record.end_lost_query(
                    SERVERS[server],
                    generation,
                    ending,
                    terminator,
                    true,
                    &mut |_| 0,
                );
                assert_eq!(ended, u8::from(same) + u8::from(same && self.record.lacks_end()));
            }
            Op::Restore { server } => self.restore(server),
            Op::Remember => {
                let keys = self.keys();
                let dumps = keys.map(|key| {
                    let dump: Option<Vec<u8>> = self.ask(redis::cmd("DUMP").arg(&key));
                    dump.map(|dump| (key, dump))
                });
                self.remembered = Some((self.record.clone(), dumps.into_iter().flatten().collect()));
            }
            Op::RollBack => {
                let Some((record, dumps)) = self.remembered.clone() else { return };
                self.record = record;
                self.ask::<Value>(redis::cmd("DEL").arg(&self.keys()));
                for (key, dump) in dumps {
                    self.ask::<Value>(redis::cmd("RESTORE").arg(key).arg(0).arg(dump));
                }
            }
            Op::Forget => {
                self.ask::<Value>(redis::cmd("DEL").arg(&self.keys()));
                self.record = Record::default();
            }
            Op::Expire(part) => {
                let key = self.keys()[part as usize].clone();
                self.ask::<Value>(redis::cmd("DEL").arg(key));
                self.record.expire(part);
            }
        }
    }

    /// Shortens what is left of every key's time to live.
    fn age(&mut self) {
        for key in self.keys() {
            self.ask::<Value>(redis::cmd("EXPIRE").arg(key).arg(LEFT));
        }
    }

    /// The parts whose keys have more time to live than was left.
    fn renewed(&mut self) -> Vec<Part> {
        let keys = self.keys();
        let renewed = Part::ALL.into_iter().zip(keys).filter(|(_, key)| {
            let left: i64 = self.ask(redis::cmd("TTL").arg(key));
            assert_ne!(left, -1, "{key} never expires");
            left > LEFT.cast_signed()
        });
        renewed.map(|(part, _)| part).collect()
    }

    fn release_claim(&mut self, server: usize) {
        let Server { generation, next, .. } = self.servers[server];
        let (meta, down) = (self.names.meta(self.session), self.names.down(self.session));
        let position = Position::new(generation, next);
        let mut frame = Vec::new();
        encode_error(&mut frame, position, "refused", "refused", "q", 1, 2);
        self.ask::<Value>(redis::cmd("SET").arg("mark").arg("m"));
        let keys = [meta, self.names.running(SERVERS[server]), "mark".to_owned()];
        let mut call = self.script(|s| &s.release_claim, &keys);
        call.arg("m").arg(self.session.to_string()).arg(SERVERS[server]).arg(generation).arg(next);
        let (outcome, heard, _): (String, u64, String) = self.ask(call.arg(&frame).arg(TTL).arg(down));
        let prefix = Prefix { position, kind: Kind::Error };
        let released = self.record.release_claim(SERVERS[server], prefix, &frame, &mut |_| 0);
        assert_eq!(released, (outcome == "released").then_some(heard));
        if released.is_some() {
            self.servers[server].history.appended(self.session, prefix, &frame, self.now);
        } else {
            self.servers[server].history.fenced_off(self.session, generation);
        }
        let running: HashMap<String, u64> =
            self.ask(redis::cmd("HGETALL").arg(self.names.running(SERVERS[server])));
        let listed = running.get(&self.session.to_string()).copied();
        assert!(listed.is_none_or(|listed| listed > generation), "{listed:?} is still listed");
    }

    fn attach(&mut self, gateway: usize, late: bool, after: Option<(u64, u64)>, young: bool) {
        let [meta, log, attach] = self.keys();
        let (seconds, micros): (u64, u64) = self.ask(&redis::cmd("TIME"));
        let now_ms = seconds * 1000 + micros / 1000;
        let deadline_ms = if late { now_ms - 1 } else { now_ms + 60_000 };
        let top = self.record.top();
        let after = after.map(|(generation, seq)| Position::new(top.generation + generation, top.seq + seq));
        let after = after.filter(|&after| after != Position::ZERO);
        let mut call = self.script(|s| &s.attach, &[attach, meta, log, "mark".to_owned()]);
        call.arg("").arg(self.session.to_string()).arg(TTL).arg(GATEWAYS[gateway]).arg(deadline_ms);
        call.arg(after.map_or_else(String::new, |after| after.to_string()));
        let returned: Returned = self.ask(call.arg(u8::from(young)).arg("log"));
        let (outcome, epoch, before, told, cursor, generation, said_top, ahead, _, active) = returned;
        // The epoch is the broker's time, unless it would not grow.
        let now_ms = if outcome == "attached" { epoch } else { now_ms };
        let attaching = Attaching { holder: GATEWAYS[gateway], now_ms, deadline_ms, after, young };
        let same = match outcome.as_str() {
            "late" => Attach::Late,
            "beyond" => Attach::Beyond { top: said_top.parse().expect("a position") },
            _ => {
                let cursor = cursor.parse().expect("a position");
                self.epochs.push((gateway, epoch));
                let (ahead, active) = (ahead == 1, active == 1);
                Attach::Done(Attached { epoch, before, told, cursor, generation, ahead, active })
            }
        };
        assert_eq!(self.record.attach(attaching, &mut |_| 0), same);
    }

    fn restore(&mut self, server: usize) {
        let [meta, log, _] = self.keys();
        let Some(kept) = self.servers[server].history.get(self.session).cloned() else { return };
        let ours = self.names.running(SERVERS[server]);
        let mut call = self.script(|s| &s.restore, &[meta, log, ours]);
        call.arg(TTL).arg("log").arg(self.names.down(self.session)).arg(self.session.to_string());
        call.arg(SERVERS[server]).arg(1).arg(u8::from(kept.closed)).arg(kept.generation);
        call.arg(text_of(kept.prev)).arg(&kept.query).arg(&kept.answer).arg(u8::from(kept.running));
        call.arg(past_of(&kept));
        for entry in kept.entries() {
            call.arg(entry.prefix.position.to_string()).arg(&entry.frame[..]);
        }
        self.ask::<Value>(&call);
        self.record.restore(&kept, SERVERS[server], true, &mut |_| 0);
    }

    /// Redis' time, as the first fence says that the record lacks; 0 where there is none.
    fn time(&mut self) -> u64 {
        let positions = self.log().into_iter().map(|(id, _)| id.parse::<Position>().expect("a position"));
        let known = |at: &Position| self.record.log.iter().any(|entry| entry.prefix.position == *at);
        let positions: Vec<Position> = positions.collect();
        positions.into_iter().find(|at| at.seq == 0 && !known(at)).map_or(0, |at| at.generation)
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

    /// What Redis would hold if it followed the rules.
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
        if let Some(owner) = &record.running {
            set("running", "1".to_owned());
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
        bench.take(Op::Create);
        for op in ops {
            bench.age();
            drop(bench.record.take_renewed());
            bench.take(op);
            prop_assert_eq!(bench.redis(), bench.expected(), "after {:?}", op);
            if !matches!(op, Op::RollBack) {
                let renewed: Vec<Part> = bench.record.take_renewed().collect();
                prop_assert_eq!(bench.renewed(), renewed, "renewed by {:?}", op);
            }
        }
    });
}

#[test]
fn a_server_is_listed_while_queries_run_in_its_name() {
    let redis = PrivateRedis::start();
    let mut connection = redis.connection();
    let (servers, running) = (Names::default().servers(), Names::default().running(SERVERS[0]));
    let mut bench = Bench::new(&mut connection);
    bench.ask::<Value>(redis::cmd("HSET").arg(&servers).arg(SERVERS[0]).arg("still"));
    bench.ask::<Value>(redis::cmd("HSET").arg(&running).arg("session").arg(7));
    for (queries, forgotten) in [(1, 0), (0, 1)] {
        if queries == 0 {
            bench.ask::<Value>(redis::cmd("DEL").arg(&running));
        }
        let mut call = bench.script(|s| &s.forget_server, &[servers.clone(), running.clone()]);
        assert_eq!(bench.ask::<u64>(call.arg(SERVERS[0]).arg("still")), forgotten);
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
