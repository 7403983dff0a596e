//! A stack of plain processes: a private Redis, servers, gateways, and HAProxy in front, started in that order, each
//! only when the last is ready. It survives nothing: when this process ends, however it ends, all of them end.

mod binaries;
mod haproxy;
mod instance;
mod ports;
mod process;
mod redis;
mod spawner;
mod status;

pub use binaries::Binaries;
pub use ports::free as free_port;
pub use process::private_directory;
pub use status::{ProcessStatus, Status};

use crate::{limits, secret::JwtSecret};
use anyhow::{Context, bail};
use futures_util::future::try_join_all;
use haproxy::{Front, Haproxy};
use instance::{Environment, Instance};
use process::Process;
use serde::{Deserialize, Serialize};
use std::{fmt, path::PathBuf, time::Duration};
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
    /// Logs, HAProxy's files and Redis's directory go here. One stack a directory.
    pub state_dir: PathBuf,
    /// The programs.
    pub binaries: Binaries,
    /// Signs and checks tokens.
    pub secret: JwtSecret,
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
            state_dir,
            binaries,
            secret: JwtSecret::random(),
            environment: Vec::new(),
        }
    }
}

/// A running stack. Dropped, its processes are killed; [`Native::stop`] lets them end in order.
#[derive(Debug)]
pub struct Native {
    options: Options,
    environment: Environment,
    redis: (Process, u16),
    haproxy: Haproxy,
    instances: Vec<Instance>,
    /// Instances that `scale` took away, while they drain.
    retiring: JoinSet<()>,
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
        let front = check_front(&options)?;
        limits::raise_open_files().context("cannot raise the limit of open files")?;
        private_directory(&options.state_dir)?;
        private_directory(&options.state_dir.join("logs"))?;
        let reserved = [front.api, front.ws, front.stats];
        let redis = redis::start(&options.binaries.redis, &options.state_dir, &reserved).await?;
        let environment = Environment {
            state: options.state_dir.clone(),
            redis_url: redis::url(&options.state_dir, redis.1),
            secret: options.secret.clone(),
            server_workers: options.server_workers,
            extra: options.environment.clone(),
        };
        let mut wanted: Vec<(Role, u16)> = (1..=options.servers).map(|n| (Role::Server, n)).collect();
        wanted.extend((1..=options.proxies).map(|n| (Role::Wsproxy, n)));
        let instances = start_all(&options.binaries, &environment, wanted).await?;
        let haproxy =
            Haproxy::start(&options.binaries.haproxy, &options.state_dir, front, &instances).await?;
        info!(servers = options.servers, proxies = options.proxies, "the stack is up");
        Ok(Self { options, environment, redis, haproxy, instances, retiring: JoinSet::new() })
    }

    /// `http://127.0.0.1:8080`, as it were.
    #[must_use]
    pub fn api_url(&self) -> String {
        format!("http://{}", ports::local(self.haproxy.front().api))
    }

    /// `ws://127.0.0.1:8081`, as it were.
    #[must_use]
    pub fn ws_url(&self) -> String {
        format!("ws://{}", ports::local(self.haproxy.front().ws))
    }

    /// HAProxy's statistics; `/metrics` under it is for Prometheus.
    #[must_use]
    pub fn stats_url(&self) -> String {
        format!("http://{}", ports::local(self.haproxy.front().stats))
    }

    /// Brings the number of a role's instances to `count`: new ones take part when they are ready; those with the highest
    /// numbers leave HAProxy first and then drain in the background. Open sockets elsewhere stay.
    ///
    /// # Errors
    /// What did not become ready. New instances that failed are gone; those that run stay.
    pub async fn scale(&mut self, role: Role, count: u16) -> anyhow::Result<()> {
        check_count(role, count)?;
        while self.retiring.try_join_next().is_some() {}
        let numbers = |instances: &[Instance]| -> Vec<u16> {
            instances.iter().filter(|i| i.role() == role).map(Instance::number).collect()
        };
        let have = numbers(&self.instances).len();
        let next = numbers(&self.instances).into_iter().max().unwrap_or(0) + 1;
        let missing = usize::from(count).saturating_sub(have);
        let wanted = (next..).take(missing).map(|number| (role, number)).collect();
        let started = start_all(&self.options.binaries, &self.environment, wanted).await?;
        self.instances.extend(started);
        let leaving: Vec<u16> = numbers(&self.instances).into_iter().skip(usize::from(count)).collect();
        let (gone, kept): (Vec<_>, Vec<_>) =
            self.instances.drain(..).partition(|i| i.role() == role && leaving.contains(&i.number()));
        self.instances = kept;
        let reloaded = self.haproxy.reload(&self.instances).await;
        for instance in gone {
            self.retiring.spawn(async move { instance.process.stop(DRAIN_GRACE).await });
        }
        reloaded
    }

    /// Ends everything: instances by SIGTERM, together; then HAProxy; then Redis. What does not end in time is killed.
    pub async fn stop(mut self) {
        let Self { redis, haproxy, instances, retiring, .. } = &mut self;
        let mut ending = JoinSet::new();
        for instance in instances.drain(..) {
            ending.spawn(async move { instance.process.stop(STOP_GRACE).await });
        }
        ending.join_all().await;
        // What still drains has had its time.
        retiring.shutdown().await;
        haproxy.process.stop(STOP_GRACE).await;
        redis.0.stop(STOP_GRACE).await;
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
    ];
    for (index, (port, flag)) in wanted.iter().enumerate() {
        if let Some((_, other)) = wanted[..index].iter().find(|(earlier, _)| earlier == port && *port != 0) {
            bail!("{other} and {flag} are both {port}: give each its own");
        }
    }
    ports::check(&wanted)?;
    Ok(Front { api: options.api_port, ws: options.ws_port, stats: options.stats_port })
}

/// Starts instances side by side; the first failure ends those already started.
async fn start_all(
    binaries: &Binaries,
    environment: &Environment,
    wanted: Vec<(Role, u16)>,
) -> anyhow::Result<Vec<Instance>> {
    let program = |role| match role {
        Role::Server => &binaries.server,
        Role::Wsproxy => &binaries.wsproxy,
    };
    let starting =
        wanted.iter().map(|&(role, number)| Instance::start(role, number, program(role), environment));
    try_join_all(starting).await
}
