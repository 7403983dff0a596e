//! A supervised connection to Redis. The supervisor opens it, probes it, and reopens it with backoff when it breaks.
//! Callers get the present connection or an error at once. No caller waits for a connection attempt.

use super::{clock::Clock, incarnation::Incarnation, readiness::Condition};
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

/// How long a command may wait for its reply. After that the connection counts as broken.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(5);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
const PROBE_INTERVAL: Duration = Duration::from_secs(1);
/// A probe that takes longer shows that the connection cannot serve now.
const PROBE_LATE: Duration = Duration::from_secs(1);
const BACKOFF: std::ops::Range<Duration> = Duration::from_millis(50)..Duration::from_secs(1);
/// Age from which a connection is reopened because of a refusal.
const REOPEN_AFTER: Duration = Duration::from_secs(2);
/// Number of commands that may wait for the driver before their callers wait.
const DRIVER_QUEUE: usize = 4096;
/// Number of bytes that the driver gathers before it flushes.
const WRITE_BOUNDARY: usize = 64 * 1024;

/// What differs between links: their configuration, the work after connecting, and the probe.
#[async_trait]
pub(super) trait LinkHooks: Send + Sync + 'static {
    /// Adds settings to the connection's configuration. The push handler notifies `broken` when the connection breaks.
    fn configure(&self, config: AsyncConnectionConfig, broken: Arc<Notify>) -> AsyncConnectionConfig;

    /// Prepares a new connection. The link counts as up when this returns.
    async fn connected(&self, connection: &mut MultiplexedConnection) -> RedisResult<()>;

    /// Returns whether the connection still serves its purpose. False or an error ends the connection.
    async fn probe(&self, connection: &mut MultiplexedConnection) -> RedisResult<bool> {
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
    /// Notified when the present connection is to be reopened, with the reason.
    reopen: Notify,
    reopen_reason: Mutex<Option<String>>,
}

impl Link {
    pub(super) fn new(client: Client, name: &'static str) -> Arc<Self> {
        Arc::new(Self {
            client,
            name,
            current: Mutex::new(None),
            up: Notify::new(),
            opened: Mutex::new(None),
            reopen: Notify::new(),
            reopen_reason: Mutex::new(None),
        })
    }

    /// Returns the present connection, or an error at once if there is none.
    pub(super) fn connection(&self) -> Result<MultiplexedConnection, BusError> {
        match &*self.current.lock() {
            Some(connection) => Ok(connection.clone()),
            None => Err(BusError::Unreachable("not connected to Redis".to_owned())),
        }
    }

    /// Waits until there is a connection.
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

    /// Returns what a command's failure on this link means for its caller. If the instance cannot become writable by
    /// itself, the link connects again, perhaps to another instance.
    pub(super) fn failure(&self, error: &RedisError) -> BusError {
        let failure = Self::failed(error);
        if let BusError::Refused(words) = &failure {
            self.refused(words);
        }
        failure
    }

    /// Reopens the connection if this refusal needs another one.
    pub(super) fn refused(&self, words: &str) {
        if Refusal::needs_another_connection(words)
            && self.current.lock().is_some()
            && self.opened.lock().is_none_or(|at| at.elapsed() > REOPEN_AFTER)
        {
            *self.reopen_reason.lock() = Some(words.to_owned());
            self.reopen.notify_one();
        }
    }

    /// Returns what a command's failure means for its caller. The supervisor learns of a broken connection from the
    /// driver or from its probe, not from here: the command may have used an earlier connection.
    pub(super) fn failed(error: &RedisError) -> BusError {
        if is_broken(error) {
            BusError::Unreachable(error.to_string())
        } else {
            BusError::Refused(words(error))
        }
    }

    /// Keeps the connection open, forever.
    pub(super) async fn supervise(
        self: Arc<Self>,
        hooks: Arc<dyn LinkHooks>,
        ready: Condition,
        counters: Arc<Counters>,
    ) {
        let mut backoff = BACKOFF.start;
        let mut warned = false;
        loop {
            match self.open(&*hooks).await {
                Ok((connection, broken)) => {
                    tracing::debug!(link = self.name, "connected to Redis");
                    (backoff, warned) = (BACKOFF.start, false);
                    *self.opened.lock() = Some(Instant::now());
                    *self.current.lock() = Some(connection.clone());
                    ready.set(true);
                    self.up.notify_waiters();
                    let why = tokio::select! {
                        why = watch(&*hooks, connection, &broken, &ready) => why,
                        () = self.reopen.notified() => {
                            self.reopen_reason.lock().take().unwrap_or_else(|| "it refuses writes".to_owned())
                        }
                    };
                    *self.current.lock() = None;
                    ready.set(false);
                    Counters::add(&counters.disconnects, 1);
                    tracing::warn!(link = self.name, "lost the connection to Redis ({why}), reconnecting");
                }
                Err(error) => {
                    if !std::mem::replace(&mut warned, true) {
                        tracing::warn!(link = self.name, "cannot reach Redis ({error}), will keep trying");
                    }
                    time::sleep(backoff).await;
                    backoff = (backoff * 2).min(BACKOFF.end);
                }
            }
        }
    }

    async fn open(&self, hooks: &dyn LinkHooks) -> RedisResult<(MultiplexedConnection, Arc<Notify>)> {
        let broken = Arc::new(Notify::new());
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            .set_response_timeout(Some(RESPONSE_TIMEOUT))
            .set_pipeline_buffer_size(DRIVER_QUEUE)
            .set_write_backpressure_boundary(WRITE_BOUNDARY);
        let config = hooks.configure(config, broken.clone());
        let mut connection = self.client.get_multiplexed_async_connection_with_config(&config).await?;
        if !is_primary(&mut connection).await? {
            return Err(not_primary());
        }
        hooks.connected(&mut connection).await?;
        Ok((connection, broken))
    }
}

/// Waits until the connection can no longer be used. Returns the reason.
async fn watch(
    hooks: &dyn LinkHooks,
    mut connection: MultiplexedConnection,
    broken: &Notify,
    ready: &Condition,
) -> String {
    loop {
        tokio::select! {
            () = broken.notified() => return "the connection broke".to_owned(),
            () = time::sleep(PROBE_INTERVAL) => {}
        }
        // A slow connection counts as not ready long before it counts as broken.
        let hung = async {
            time::sleep(PROBE_LATE).await;
            ready.set(false);
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = broken.notified() => return "the connection broke".to_owned(),
            () = hung => {}
            healthy = probe(hooks, &mut connection) => match healthy {
                Ok(true) => ready.set(true),
                Ok(false) => return "published messages do not arrive".to_owned(),
                Err(error) if is_not_primary(&error) => return error.to_string(),
                Err(error) if is_broken(&error) => return error.to_string(),
                Err(_) => ready.set(true),
            }
        }
    }
}

/// Probes the connection, and checks that the instance is still a primary. Only its role shows this, because a replica
/// answers reads and publications too.
async fn probe(hooks: &dyn LinkHooks, connection: &mut MultiplexedConnection) -> RedisResult<bool> {
    if !is_primary(connection).await? {
        return Err(not_primary());
    }
    hooks.probe(connection).await
}

/// Returns whether the instance is a primary. A user that may not ask counts as connected to one.
async fn is_primary(connection: &mut MultiplexedConnection) -> RedisResult<bool> {
    let role: RedisResult<Vec<Value>> = redis::cmd("ROLE").query_async(connection).await;
    match role {
        Ok(role) => Ok(matches!(role.first(), Some(Value::BulkString(role)) if role == b"master")),
        Err(error) if error.code() == Some("NOPERM") => Ok(true),
        Err(error) => Err(error),
    }
}

const NOT_PRIMARY: &str = "the instance is a replica, which refuses writes";

fn not_primary() -> RedisError {
    (redis::ErrorKind::Client, NOT_PRIMARY).into()
}

fn is_not_primary(error: &RedisError) -> bool {
    error.kind() == redis::ErrorKind::Client && error.to_string().contains(NOT_PRIMARY)
}

/// Returns the error reply of Redis, for example `OOM command not allowed when used memory > 'maxmemory'.`
fn words(error: &RedisError) -> String {
    match (error.code(), error.detail()) {
        (Some(code), Some(detail)) => format!("{code} {detail}"),
        _ => error.to_string(),
    }
}

/// Returns the error reply of Redis.
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

/// The hooks of a link that only carries commands. `scripts` are those that its pipelines call by their hashes.
pub(super) struct CommandHooks {
    pub(super) scripts: Vec<Script>,
    pub(super) incarnation: Arc<Incarnation>,
    /// Redis' time, measured on this link.
    pub(super) clock: Arc<Clock>,
}

/// Warns once if Redis evicts keys when it is full, because parts of streams would then be lost without an error.
async fn warn_of_eviction(connection: &mut MultiplexedConnection) {
    static WARNED: Once = Once::new();
    let info: RedisResult<InfoDict> = redis::cmd("INFO").arg("memory").query_async(connection).await;
    // A user that may not read the setting gets no warning.
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
impl LinkHooks for CommandHooks {
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
        // Last, before the link carries commands: a caller must not write to a Redis that has lost data without
        // noticing.
        self.incarnation.check(connection).await
    }

    /// Measures Redis' time and checks the mark, so that a loss of data is noticed even if no calls are made.
    async fn probe(&self, connection: &mut MultiplexedConnection) -> RedisResult<bool> {
        self.clock.measure(connection).await?;
        let mut get = redis::cmd("GET");
        let mark: Option<Vec<u8>> = get.arg(self.incarnation.mark_key()).query_async(connection).await?;
        self.incarnation.check_mark(mark.as_deref());
        Ok(true)
    }
}
