//! A stack of plain processes: a private Redis, servers, gateways, and HAProxy in front, started in that order, each
//! only when the last is ready. It survives nothing: when this process ends, however it ends, all of them end.

mod binaries;
mod faults;
mod haproxy;
mod instance;
mod leftovers;
mod links;
mod ports;
mod process;
mod redis;
mod slot;
mod spawner;
mod status;

pub use binaries::{Binaries, Program, Programs};
pub use ports::free as free_port;
pub use redis::Persistence;
pub use status::{LinkStatus, ProcessStatus, Status};

use crate::{files::private_directory, limits, secret::JwtSecret};
use anyhow::{Context, bail};
use futures_util::future::try_join_all;
use haproxy::{Front, Haproxy};
use instance::{Environment, Instance};
use links::Links;
use parking_lot::Mutex;
use redis::Redis;
use serde::{Deserialize, Serialize};
use std::{fmt, path::PathBuf, sync::Arc, time::Duration};
use tokio::task::JoinSet;
use tracing::info;

/// More instances than any one machine has a use for.
const MAX_INSTANCES: u16 = 64;
/// What a process gets between SIGTERM and SIGKILL when the whole stack ends.
const STOP_GRACE: Duration = Duration::from_secs(10);
/// What an instance gets that `scale` takes away: it drains, and its sessions move.
const DRAIN_GRACE: Duration = Duration::from_secs(60);

/// What an instance does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// The LLM simulator.
    Server,
    /// The WebSocket gateway.
    Wsproxy,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Server => "server",
            Self::Wsproxy => "wsproxy",
        })
    }
}

/// What to start.
#[derive(Clone, Debug)]
pub struct Options {
    /// How many servers.
    pub servers: u16,
    /// How many gateways.
    pub proxies: u16,
    /// Workers a server; its own default where absent.
    pub server_workers: Option<usize>,
    /// HAProxy's port for HTTP calls; 0 takes a free one.
    pub api_port: u16,
    /// HAProxy's port for sockets; 0 takes a free one.
    pub ws_port: u16,
    /// HAProxy's port for statistics; 0 takes a free one.
    pub stats_port: u16,
    /// A TCP port for Redis, which has a unix socket: 0 takes a free one. Without it there is a port only where the path of the
    /// state directory is not fit for a socket's address.
    pub redis_port: Option<u16>,
    /// Logs, HAProxy's files and Redis's directory go here. One stack a directory.
    pub state_dir: PathBuf,
    /// The programs.
    pub binaries: Binaries,
    /// Signs and checks tokens.
    pub secret: JwtSecret,
    /// What Redis writes to disk.
    pub persistence: Persistence,
    /// A relay in every link from the start, clients' too: faults then meet open connections, and everything costs more.
    pub relays: bool,
    /// More environment for servers and gateways.
    pub environment: Vec<(String, String)>,
}

impl Options {
    /// Two servers and three gateways behind free ports, with a random secret.
    #[must_use]
    pub fn new(state_dir: PathBuf, binaries: Binaries) -> Self {
        Self {
            servers: 2,
            proxies: 3,
            server_workers: None,
            api_port: 0,
            ws_port: 0,
            stats_port: 0,
            redis_port: None,
            state_dir,
            binaries,
            secret: JwtSecret::random(),
            persistence: Persistence::None,
            relays: false,
            environment: Vec::new(),
        }
    }
}

/// A running stack. Dropped, its processes are killed; [`Native::stop`] lets them end in order. Orders that change it are
/// to be given one after another; [`Native::status`] answers meanwhile.
#[derive(Debug)]
pub struct Native {
    options: Options,
    environment: Environment,
    links: Arc<Links>,
    redis: Redis,
    haproxy: Haproxy,
    /// Where people reach HAProxy.
    front: Front,
    instances: Mutex<Vec<Arc<Instance>>>,
    /// Instances that `scale` took away, while they drain.
    retiring: Mutex<JoinSet<()>>,
}

impl Native {
    /// Starts everything; returns when HAProxy sends to all of it.
    ///
    /// # Errors
    /// Names the port in use, the program that is missing, or what did not become ready with the end of its log.
    /// Nothing is left running.
    pub async fn start(options: Options) -> anyhow::Result<Self> {
        check_count(Role::Server, options.servers)?;
        check_count(Role::Wsproxy, options.proxies)?;
        let mut front = check_front(&options)?;
        limits::raise_open_files().context("cannot raise the limit of open files")?;
        private_directory(&options.state_dir)?;
        private_directory(&options.state_dir.join("logs"))?;
        let links = Arc::new(Links::new(options.state_dir.clone(), options.relays));
        let reserved = [front.api, front.ws, front.stats];
        let binaries = &options.binaries;
        let redis = Redis::start(
            &binaries.redis,
            &options.state_dir,
            options.persistence,
            options.redis_port,
            &reserved,
        )
        .await?;
        let environment = Environment {
            state: options.state_dir.clone(),
            redis_port: redis.port(),
            secret: options.secret.clone(),
            server_workers: options.server_workers,
            extra: options.environment.clone(),
        };
        let mut wanted: Vec<(Role, u16)> = (1..=options.servers).map(|n| (Role::Server, n)).collect();
        wanted.extend((1..=options.proxies).map(|n| (Role::Wsproxy, n)));
        let instances = start_all(binaries, &environment, &links, wanted).await?;
        // With relays it is they who stand at the doors, and HAProxy behind them.
        let doors = if options.relays { Front { api: 0, ws: 0, ..front } } else { front };
        let haproxy = Haproxy::start(&binaries.haproxy, &options.state_dir, doors, &instances).await?;
        let inner = haproxy.front();
        front = match options.relays {
            true => Front {
                api: links.enter_door("link:api", front.api, inner.api)?,
                ws: links.enter_door("link:ws", front.ws, inner.ws)?,
                ..inner
            },
            false => inner,
        };
        info!(servers = options.servers, proxies = options.proxies, "the stack is up");
        let instances = Mutex::new(instances);
        Ok(Self { options, environment, links, redis, haproxy, front, instances, retiring: Mutex::default() })
    }

    /// `http://127.0.0.1:8080`, as it were.
    #[must_use]
    pub fn api_url(&self) -> String {
        format!("http://{}", ports::local(self.front.api))
    }

    /// `ws://127.0.0.1:8081`, as it were.
    #[must_use]
    pub fn ws_url(&self) -> String {
        format!("ws://{}", ports::local(self.front.ws))
    }

    /// HAProxy's statistics; `/metrics` under it is for Prometheus.
    #[must_use]
    pub fn stats_url(&self) -> String {
        format!("http://{}", ports::local(self.front.stats))
    }

    /// Brings the number of a role's instances to `count`: new ones take part when they are ready; those with the highest
    /// numbers leave HAProxy first and then drain in the background. Open sockets elsewhere stay.
    ///
    /// # Errors
    /// What did not become ready. New instances that failed are gone; those that run stay.
    pub async fn scale(&self, role: Role, count: u16) -> anyhow::Result<()> {
        check_count(role, count)?;
        while self.retiring.lock().try_join_next().is_some() {}
        let all = self.instances();
        let numbers: Vec<u16> = all.iter().filter(|i| i.role() == role).map(|i| i.number()).collect();
        let next = numbers.iter().max().unwrap_or(&0) + 1;
        let missing = usize::from(count).saturating_sub(numbers.len());
        let wanted = (next..).take(missing).map(|number| (role, number)).collect();
        let started = start_all(&self.options.binaries, &self.environment, &self.links, wanted).await?;
        let leaving = numbers.get(usize::from(count)..).unwrap_or_default();
        let (gone, kept): (Vec<_>, Vec<_>) =
            all.into_iter().chain(started).partition(|i| i.role() == role && leaving.contains(&i.number()));
        self.instances.lock().clone_from(&kept);
        let reloaded = self.haproxy.reload(&kept).await;
        for instance in gone {
            let links = Arc::clone(&self.links);
            self.retiring.lock().spawn(async move {
                instance.slot().process().stop(DRAIN_GRACE).await;
                links.forget(&instance.name());
            });
        }
        reloaded
    }

    /// Ends everything: instances by SIGTERM, together; then HAProxy; then Redis. What does not end in time is killed.
    /// The logs stay.
    pub async fn stop(self) {
        let mut ending = JoinSet::new();
        for instance in self.instances() {
            ending.spawn(async move { instance.slot().process().stop(STOP_GRACE).await });
        }
        ending.join_all().await;
        // What still drains has had its time.
        let mut retiring = std::mem::take(&mut *self.retiring.lock());
        retiring.shutdown().await;
        self.haproxy.slot().process().stop(STOP_GRACE).await;
        self.redis.slot().process().stop(STOP_GRACE).await;
        leftovers::sweep(&self.options.state_dir);
    }

    /// Those that take part, by role and number, running or down.
    fn instances(&self) -> Vec<Arc<Instance>> {
        self.instances.lock().clone()
    }

    fn program(&self, role: Role) -> &Program {
        program(&self.options.binaries, role)
    }
}

fn check_count(role: Role, count: u16) -> anyhow::Result<()> {
    if (1..=MAX_INSTANCES).contains(&count) {
        return Ok(());
    }
    bail!("{count} instances of {role} are out of range: give 1 to {MAX_INSTANCES}")
}

/// The ports that people were promised, checked before anything starts.
fn check_front(options: &Options) -> anyhow::Result<Front> {
    let wanted = [
        (options.api_port, "--api-port"),
        (options.ws_port, "--ws-port"),
        (options.stats_port, "--stats-port"),
        (options.redis_port.unwrap_or(0), "--redis-port"),
    ];
    for (index, (port, flag)) in wanted.iter().enumerate() {
        if let Some((_, other)) = wanted[..index].iter().find(|(earlier, _)| earlier == port && *port != 0) {
            bail!("{other} and {flag} are both {port}: give each its own");
        }
    }
    ports::check(&wanted)?;
    Ok(Front { api: options.api_port, ws: options.ws_port, stats: options.stats_port })
}

fn program(binaries: &Binaries, role: Role) -> &Program {
    match role {
        Role::Server => &binaries.programs.server,
        Role::Wsproxy => &binaries.programs.wsproxy,
    }
}

/// Starts instances side by side; the first failure ends those already started.
async fn start_all(
    binaries: &Binaries,
    environment: &Environment,
    links: &Links,
    wanted: Vec<(Role, u16)>,
) -> anyhow::Result<Vec<Arc<Instance>>> {
    let starting = wanted.iter().map(|&(role, number)| async move {
        links.prepare(role, number)?;
        let instance = Instance::start(role, number, program(binaries, role), environment).await?;
        links.complete(&instance)?;
        Ok::<_, anyhow::Error>(Arc::new(instance))
    });
    try_join_all(starting).await
}
