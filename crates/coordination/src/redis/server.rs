//! The control Redis: its address, the keys of a run, the scripts, and a connection that is opened again after a failure.

use crate::timing::Timing;
use parking_lot::Mutex;
use redis::{
    Client, Connection, ConnectionAddr, ConnectionInfo, FromRedisValue, IntoConnectionInfo as _, RedisError,
    RedisResult, Script, ScriptInvocation, Value, from_redis_value_ref, io::tcp::TcpSettings,
};
use std::{
    net::{SocketAddr, ToSocketAddrs as _},
    time::Duration,
};

/// The address of a control Redis is unusable.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "invalid control Redis {address:?} ({reason}): expected redis://[USER:PASSWORD@]HOST:PORT[/DATABASE] or redis+unix:///PATH"
)]
pub struct AddressError {
    address: String,
    reason: String,
}

/// One script for each atomic step.
pub(super) struct Scripts {
    pub(super) claim: Script,
    pub(super) heartbeat: Script,
    pub(super) ready: Script,
    pub(super) withdraw: Script,
    pub(super) release: Script,
    pub(super) restore: Script,
    pub(super) append: Script,
    pub(super) look: Script,
    pub(super) lose: Script,
    pub(super) lead: Script,
    pub(super) command: Script,
    pub(super) conclude: Script,
}

impl Scripts {
    fn new() -> Self {
        let script = |body: &str| Script::new(&[include_str!("scripts/lib.lua"), body].concat());
        Self {
            claim: script(include_str!("scripts/claim.lua")),
            heartbeat: script(include_str!("scripts/heartbeat.lua")),
            ready: script(include_str!("scripts/ready.lua")),
            withdraw: script(include_str!("scripts/withdraw.lua")),
            release: script(include_str!("scripts/release.lua")),
            restore: script(include_str!("scripts/restore.lua")),
            append: script(include_str!("scripts/append.lua")),
            look: script(include_str!("scripts/look.lua")),
            lose: script(include_str!("scripts/lose.lua")),
            lead: script(include_str!("scripts/lead.lua")),
            command: script(include_str!("scripts/command.lua")),
            conclude: script(include_str!("scripts/conclude.lua")),
        }
    }
}

/// A control Redis.
pub(super) struct Server {
    info: ConnectionInfo,
    /// The address to which the last connection was opened. A slow name server must not delay heartbeats.
    resolved: Mutex<Option<SocketAddr>>,
    /// The address without credentials, for messages.
    target: String,
    pub(super) timing: Timing,
    pub(super) scripts: Scripts,
}

impl Server {
    pub(super) fn new(url: &str, timing: Timing) -> Result<Self, AddressError> {
        let invalid = |error: redis::RedisError| AddressError {
            address: settings::address::redacted_text(url),
            reason: error.to_string(),
        };
        let info = url.into_connection_info().map_err(invalid)?;
        let target = info.addr().to_string();
        let info = info.set_tcp_settings(TcpSettings::default().set_nodelay(true));
        Ok(Self { info, resolved: Mutex::default(), target, timing, scripts: Scripts::new() })
    }

    pub(super) fn target(&self) -> &str {
        &self.target
    }

    /// Time to live of all keys, in milliseconds.
    pub(super) fn ttl_ms(&self) -> u64 {
        millis(self.timing.keep)
    }

    /// Opens a connection on which no reply takes longer than `response`. Looks the name up again if its last address fails.
    fn connect(&self, response: Duration) -> RedisResult<Connection> {
        let ConnectionAddr::Tcp(host, port) = self.info.addr() else {
            return self.open(self.info.clone(), response);
        };
        let known = self.resolved.lock().take();
        let addresses = match known {
            Some(address) => vec![address],
            None => (host.as_str(), *port).to_socket_addrs()?.collect(),
        };
        let no_address = std::io::Error::new(std::io::ErrorKind::NotFound, "the name has no address");
        let mut outcome = Err(RedisError::from(no_address));
        for address in addresses {
            let info =
                self.info.clone().set_addr(ConnectionAddr::Tcp(address.ip().to_string(), address.port()));
            outcome = self.open(info, response);
            if outcome.is_ok() {
                *self.resolved.lock() = Some(address);
                break;
            }
        }
        outcome
    }

    fn open(&self, info: ConnectionInfo, response: Duration) -> RedisResult<Connection> {
        let connection = Client::open(info)?.get_connection_with_timeout(self.timing.response)?;
        connection.set_read_timeout(Some(response))?;
        connection.set_write_timeout(Some(response))?;
        Ok(connection)
    }
}

/// Returns whether Redis refused a write because it is full.
pub(super) fn is_full(error: &RedisError) -> bool {
    error.code() == Some("OOM")
}

/// Returns what failed, for messages.
pub(super) fn describe(error: &RedisError) -> String {
    if is_full(error) { "it is full: raise its maxmemory".to_owned() } else { error.to_string() }
}

pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

pub(super) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// A connection that is opened when it is needed. After any failure the next call opens another one, because the failed one may be
/// broken, late with replies, or lead to a Redis that must not be written to.
#[derive(Default)]
pub(super) struct Link {
    connection: Option<Connection>,
    /// How long a reply may take. `None`: [`Timing::response`].
    response: Option<Duration>,
}

impl Link {
    /// Creates a link on which no reply takes longer than this.
    pub(super) const fn within(response: Duration) -> Self {
        Self { connection: None, response: Some(response) }
    }

    pub(super) fn call<T>(
        &mut self,
        server: &Server,
        work: impl FnOnce(&mut Connection) -> RedisResult<T>,
    ) -> RedisResult<T> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => server.connect(self.response.unwrap_or(server.timing.response))?,
        };
        let result = work(&mut connection);
        if result.is_ok() {
            self.connection = Some(connection);
        }
        result
    }

    /// Runs a script and returns its reply.
    pub(super) fn script(&mut self, server: &Server, call: &ScriptInvocation<'_>) -> RedisResult<Reply> {
        self.call(server, |connection| Ok(Reply(call.invoke(connection)?)))
    }
}

/// The reply of a script: a word, and values that belong to it.
pub(super) struct Reply(Vec<Value>);

/// Why a script refused a generator or leader.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// Redis does not know the claim or run.
    Unknown,
    /// Another generator holds the shard, or another shard leads: that shard.
    Replaced(Option<u32>),
    /// The leader counts the generator as lost.
    Lost(String),
}

impl Reply {
    pub(super) fn word(&self) -> &str {
        match self.0.first() {
            Some(Value::BulkString(word)) => str::from_utf8(word).unwrap_or_default(),
            _ => "",
        }
    }

    /// Returns the value at this place behind the word.
    pub(super) fn value<T: FromRedisValue>(&self, place: usize) -> RedisResult<T> {
        Ok(from_redis_value_ref(self.0.get(place).unwrap_or(&Value::Nil))?)
    }

    pub(super) fn refused(&self) -> RedisResult<Option<Refused>> {
        Ok(match self.word() {
            "unknown" => Some(Refused::Unknown),
            "replaced" => Some(Refused::Replaced(self.value(1)?)),
            "lost" => Some(Refused::Lost(self.value(1)?)),
            _ => None,
        })
    }
}

/// The keys of a run. The braces make a cluster keep them together, as scripts need.
#[derive(Clone, Debug)]
pub(super) struct Keys {
    prefix: String,
    generators: u32,
}

impl Keys {
    /// Returns `None` if the run's id cannot be part of a key.
    pub(super) fn new(id: &str, generators: u32) -> Option<Self> {
        let valid = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        ((1..=100).contains(&id.len()) && id.bytes().all(valid))
            .then(|| Self { prefix: format!("streamstress:{{{id}}}:"), generators })
    }

    /// A hash with everything that is not a stream. Fields of a shard end in `:<shard>`.
    pub(super) fn run(&self) -> String {
        format!("{}run", self.prefix)
    }

    /// A stream of the leader's commands, with the ids `<number>-0`.
    pub(super) fn commands(&self) -> String {
        format!("{}commands", self.prefix)
    }

    /// A stream of a shard's parts and its report, with the ids `<number>-0`.
    pub(super) fn parts(&self, shard: u32) -> String {
        format!("{}parts:{shard}", self.prefix)
    }

    /// Returns the keys that nothing is left of when no generator holds the run any more: the run, its commands, its requests, and the
    /// parts in the order of the shards.
    pub(super) fn owned(&self) -> Vec<String> {
        let parts = (0..self.generators).map(|shard| self.parts(shard));
        [self.run(), self.commands(), self.requests()].into_iter().chain(parts).collect()
    }

    /// A list of requests to the leader that it has not read.
    pub(super) fn requests(&self) -> String {
        format!("{}requests", self.prefix)
    }

    /// The leader's answer to a request.
    pub(super) fn answer(&self, token: &str) -> String {
        format!("{}answer:{token}", self.prefix)
    }

    /// Returns all keys that live as long as the run: the run, its commands, and the parts in the order of the shards.
    pub(super) fn all(&self) -> Vec<String> {
        let parts = (0..self.generators).map(|shard| self.parts(shard));
        [self.run(), self.commands()].into_iter().chain(parts).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_id_must_be_usable_in_a_key() {
        for id in ["a", "Run_1.b-c", &"x".repeat(100)] {
            assert!(Keys::new(id, 1).is_some(), "{id}");
        }
        for id in ["", "a b", "a:b", "ä", "a\n", "{a}", &"x".repeat(101)] {
            assert!(Keys::new(id, 1).is_none(), "{id}");
        }
        let keys = Keys::new("a", 2).expect("it is valid");
        let expected = [
            "streamstress:{a}:run",
            "streamstress:{a}:commands",
            "streamstress:{a}:parts:0",
            "streamstress:{a}:parts:1",
        ];
        assert_eq!(keys.all(), expected);
    }

    #[test]
    fn messages_contain_no_password() {
        let server =
            Server::new("redis://user:hunter2@127.0.0.1:6379/1", Timing::default()).expect("it is valid");
        assert_eq!(server.target(), "127.0.0.1:6379");
        for url in ["http://user:hunter2@127.0.0.1", "redis://user:hunter2@127.0.0.1:port"] {
            let error = Server::new(url, Timing::default()).err().expect("it is invalid").to_string();
            assert!(error.starts_with("invalid control Redis") && !error.contains("hunter2"), "{error}");
        }
    }
}
