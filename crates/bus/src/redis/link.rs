//! One supervised connection to Redis: opened, probed, opened again with backoff when it breaks.
//! Callers get the connection of this moment or an error; nobody ever connects inside a call.

use super::{clock::Clock, incarnation::Incarnation, readiness::Link as Lamp};
use crate::{BusError, Counters, rules::Refusal};
use async_trait::async_trait;
use parking_lot::Mutex;
use redis::{
    AsyncConnectionConfig, Client, InfoDict, RedisError, RedisResult, Script, ServerError, Value,
    aio::MultiplexedConnection,
};
use std::{
    sync::{Arc, Once},
    time::{Duration, Instant},
};
use tokio::{sync::Notify, time};

/// A connection that does not answer a PING for this long is given up.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(5);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
const PROBE_INTERVAL: Duration = Duration::from_secs(1);
/// A probe that takes longer says that the connection cannot serve now.
const PROBE_LATE: Duration = Duration::from_secs(1);
const BACKOFF: std::ops::Range<Duration> = Duration::from_millis(50)..Duration::from_secs(1);
/// A connection younger than this is not left because of a refusal.
const REOPEN_AFTER: Duration = Duration::from_secs(2);
/// Commands that wait for the driver at most, before callers wait.
const DRIVER_QUEUE: usize = 4096;
/// Bytes that gather before the driver flushes.
const WRITE_BOUNDARY: usize = 64 * 1024;

/// What a link does besides carrying commands.
#[async_trait]
pub(super) trait Purpose: Send + Sync + 'static {
    /// Adds what the connection's configuration needs; `broken` is for its push handler.
    fn configure(&self, config: AsyncConnectionConfig, broken: Arc<Notify>) -> AsyncConnectionConfig;

    /// The connection stands; the link counts as up when this returns.
    async fn connected(&self, connection: &mut MultiplexedConnection) -> RedisResult<()>;

    /// Whether the connection still does what it is for; false or a failure ends it.
    async fn works(&self, connection: &mut MultiplexedConnection) -> RedisResult<bool> {
        connection.send_packed_command(&redis::cmd("PING")).await.map(|_| true)
    }
}

pub(super) struct Link {
    client: Client,
    name: &'static str,
    current: Mutex<Option<MultiplexedConnection>>,
    up: Notify,
    /// When the present connection was opened.
    opened: Mutex<Option<Instant>>,
    /// The present connection is to be left, for this reason.
    leave: Notify,
    left_for: Mutex<Option<String>>,
}

impl Link {
    pub(super) fn new(client: Client, name: &'static str) -> Arc<Self> {
        Arc::new(Self {
            client,
            name,
            current: Mutex::new(None),
            up: Notify::new(),
            opened: Mutex::new(None),
            leave: Notify::new(),
            left_for: Mutex::new(None),
        })
    }

    /// The connection, if it stands.
    pub(super) fn connection(&self) -> Result<MultiplexedConnection, BusError> {
        match &*self.current.lock() {
            Some(connection) => Ok(connection.clone()),
            None => Err(BusError::Unreachable("not connected to Redis".to_owned())),
        }
    }

    /// Waits until the connection stands.
    pub(super) async fn connected(&self) -> MultiplexedConnection {
        loop {
            let up = self.up.notified();
            tokio::pin!(up);
            up.as_mut().enable();
            if let Ok(connection) = self.connection() {
                return connection;
            }
            up.await;
        }
    }

    /// What a command's failure on this link means for its caller. An instance that only others can make writable again is
    /// left: the link connects anew, perhaps to another one.
    pub(super) fn failure(&self, error: &RedisError) -> BusError {
        let failure = Self::failed(error);
        if let BusError::Refused(words) = &failure {
            self.refused(words);
        }
        failure
    }

    /// A command was refused with these words.
    pub(super) fn refused(&self, words: &str) {
        if Refusal::needs_another_connection(words)
            && self.current.lock().is_some()
            && self.opened.lock().is_none_or(|at| at.elapsed() > REOPEN_AFTER)
        {
            *self.left_for.lock() = Some(words.to_owned());
            self.leave.notify_one();
        }
    }

    /// What a command's failure means for its caller. The supervisor learns of a broken connection by itself, from the
    /// driver or from its probe: the command may have gone through an earlier one.
    pub(super) fn failed(error: &RedisError) -> BusError {
        if is_broken(error) {
            BusError::Unreachable(error.to_string())
        } else {
            BusError::Refused(words(error))
        }
    }

    /// Keeps the connection up for ever.
    pub(super) async fn supervise(
        self: Arc<Self>,
        purpose: Arc<dyn Purpose>,
        lamp: Lamp,
        counters: Arc<Counters>,
    ) {
        let mut backoff = BACKOFF.start;
        let mut told = false;
        loop {
            match self.open(&*purpose).await {
                Ok((connection, broken)) => {
                    tracing::debug!(link = self.name, "connected to Redis");
                    (backoff, told) = (BACKOFF.start, false);
                    *self.opened.lock() = Some(Instant::now());
                    *self.current.lock() = Some(connection.clone());
                    lamp.set(true);
                    self.up.notify_waiters();
                    let why = tokio::select! {
                        why = watch(&*purpose, connection, &broken, &lamp) => why,
                        () = self.leave.notified() => {
                            self.left_for.lock().take().unwrap_or_else(|| "it takes no writes".to_owned())
                        }
                    };
                    *self.current.lock() = None;
                    lamp.set(false);
                    Counters::add(&counters.disconnects, 1);
                    tracing::warn!(link = self.name, "lost the connection to Redis ({why}), reconnecting");
                }
                Err(error) => {
                    if !std::mem::replace(&mut told, true) {
                        tracing::warn!(link = self.name, "cannot reach Redis ({error}), will keep trying");
                    }
                    time::sleep(backoff).await;
                    backoff = (backoff * 2).min(BACKOFF.end);
                }
            }
        }
    }

    async fn open(&self, purpose: &dyn Purpose) -> RedisResult<(MultiplexedConnection, Arc<Notify>)> {
        let broken = Arc::new(Notify::new());
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            .set_response_timeout(Some(RESPONSE_TIMEOUT))
            .set_pipeline_buffer_size(DRIVER_QUEUE)
            .set_write_backpressure_boundary(WRITE_BOUNDARY);
        let config = purpose.configure(config, broken.clone());
        let mut connection = self.client.get_multiplexed_async_connection_with_config(&config).await?;
        if !is_primary(&mut connection).await? {
            return Err(not_primary());
        }
        purpose.connected(&mut connection).await?;
        Ok((connection, broken))
    }
}

/// Returns when the connection is no good any more, with the reason.
async fn watch(
    purpose: &dyn Purpose,
    mut connection: MultiplexedConnection,
    broken: &Notify,
    lamp: &Lamp,
) -> String {
    loop {
        tokio::select! {
            () = broken.notified() => return "it broke".to_owned(),
            () = time::sleep(PROBE_INTERVAL) => {}
        }
        // Long before a connection is given up it counts as one that cannot serve.
        let hung = async {
            time::sleep(PROBE_LATE).await;
            lamp.set(false);
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = broken.notified() => return "it broke".to_owned(),
            () = hung => {}
            works = works(purpose, &mut connection) => match works {
                Ok(true) => lamp.set(true),
                Ok(false) => return "what is published does not arrive".to_owned(),
                Err(error) if is_not_primary(&error) => return error.to_string(),
                Err(error) if is_broken(&error) => return error.to_string(),
                Err(_) => lamp.set(true),
            }
        }
    }
}

/// A probe: the purpose's own, and whether the instance is still the one that takes writes. A replica answers reads and
/// publications too, so nothing else shows it.
async fn works(purpose: &dyn Purpose, connection: &mut MultiplexedConnection) -> RedisResult<bool> {
    if !is_primary(connection).await? {
        return Err(not_primary());
    }
    purpose.works(connection).await
}

/// Asks for the instance's role. A user that may not ask counts as connected to a primary.
async fn is_primary(connection: &mut MultiplexedConnection) -> RedisResult<bool> {
    let role: RedisResult<Vec<Value>> = redis::cmd("ROLE").query_async(connection).await;
    match role {
        Ok(role) => Ok(matches!(role.first(), Some(Value::BulkString(role)) if role == b"master")),
        Err(error) if error.code() == Some("NOPERM") => Ok(true),
        Err(error) => Err(error),
    }
}

const NOT_PRIMARY: &str = "it is a replica, which takes no writes";

fn not_primary() -> RedisError {
    (redis::ErrorKind::Client, NOT_PRIMARY).into()
}

fn is_not_primary(error: &RedisError) -> bool {
    error.kind() == redis::ErrorKind::Client && error.to_string().contains(NOT_PRIMARY)
}

/// Redis' own words: `OOM command not allowed when used memory > 'maxmemory'.`
fn words(error: &RedisError) -> String {
    match (error.code(), error.detail()) {
        (Some(code), Some(detail)) => format!("{code} {detail}"),
        _ => error.to_string(),
    }
}

/// Redis' own words.
pub(super) fn words_of(error: &ServerError) -> String {
    match error.details() {
        Some(details) => format!("{} {details}", error.code()),
        None => error.code().to_owned(),
    }
}

fn is_broken(error: &RedisError) -> bool {
    error.is_io_error()
        || error.is_timeout()
        || error.is_connection_dropped()
        || error.is_unrecoverable_error()
}

/// A link that carries commands alone, and the scripts that its pipelines call by their hashes.
pub(super) struct Commands {
    pub(super) scripts: Vec<Script>,
    pub(super) incarnation: Arc<Incarnation>,
    /// Redis' time as this link knows it.
    pub(super) clock: Arc<Clock>,
}

/// Says once if Redis would rather drop keys than refuse writes: parts of streams would vanish in silence.
async fn warn_of_eviction(connection: &mut MultiplexedConnection) {
    static WARNED: Once = Once::new();
    let info: RedisResult<InfoDict> = redis::cmd("INFO").arg("memory").query_async(connection).await;
    // Where it cannot be known, nothing is said.
    let Some(policy) = info.ok().and_then(|info| info.get::<String>("maxmemory_policy")) else { return };
    if policy != "noeviction" {
        WARNED.call_once(|| {
            tracing::warn!(
                policy,
                "Redis drops keys when it is full, and streams with them: set maxmemory-policy to noeviction"
            );
        });
    }
}

#[async_trait]
impl Purpose for Commands {
    fn configure(&self, config: AsyncConnectionConfig, broken: Arc<Notify>) -> AsyncConnectionConfig {
        config.set_push_sender(move |push: redis::PushInfo| {
            if push.kind == redis::PushKind::Disconnection {
                broken.notify_one();
            }
            Ok::<(), ()>(())
        })
    }

    async fn connected(&self, connection: &mut MultiplexedConnection) -> RedisResult<()> {
        for script in &self.scripts {
            script.load_async(connection).await?;
        }
        warn_of_eviction(connection).await;
        self.clock.start(connection).await?;
        // Before the link carries anything: who writes to a Redis that forgot must know it.
        self.incarnation.check(connection).await
    }

    /// Whether it still leads to the same Redis is noticed here where no call asks.
    async fn works(&self, connection: &mut MultiplexedConnection) -> RedisResult<bool> {
        self.clock.measure(connection).await?;
        let mut get = redis::cmd("GET");
        let mark: Option<Vec<u8>> = get.arg(self.incarnation.mark_key()).query_async(connection).await?;
        self.incarnation.saw_mark(mark.as_deref());
        Ok(true)
    }
}
