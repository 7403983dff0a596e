//! A stack of plain processes: a private Redis, servers and gateways, and HAProxy. They start in this order, each when the previous
//! ones are ready. When this process ends for any reason, all of them end.

mod binaries;
mod faults;
mod haproxy;
mod instance;
mod leftovers;
mod links;
mod paths;
mod ports;
mod process;
mod redis;
mod slot;
mod spawner;
mod status;

pub use crate::role::Role;
pub use binaries::{Binaries, Program, Programs};
pub use ports::free as free_port;
pub use redis::Persistence;
pub use status::{LinkStatus, ProcessStatus, Status};

use crate::{files::private_directory, secret::JwtSecret};
use anyhow::bail;
use futures_util::future::try_join_all;
use haproxy::{Haproxy, PublicPorts};
use instance::{Environment, Instance};
use links::Links;
use parking_lot::Mutex;
use redis::Redis;
use std::{path::PathBuf, sync::Arc, time::Duration};
use tokio::task::JoinSet;
use tracing::info;

/// Limit of instances per role: more than one machine can use.
const MAX_INSTANCES: u16 = 64;
/// Time between SIGTERM and SIGKILL at the end of the stack.
const STOP_GRACE: Duration = Duration::from_secs(10);
/// Time between SIGTERM and SIGKILL for an instance that `scale` removes: it drains, and its sessions move.
const DRAIN_GRACE: Duration = Duration::from_secs(60);

/// Configuration of a native stack.
#[derive(Clone, Debug)]
pub struct Options {
    /// Number of servers, 1 to 64.
    pub servers: u16,
    /// Number of gateways, 1 to 64.
    pub proxies: u16,
    /// Worker threads of each server. `None` keeps the server's default.
    pub server_workers: Option<usize>,
    /// HAProxy's port for HTTP calls; 0 selects a free port.
    pub api_port: u16,
    /// HAProxy's port for WebSockets; 0 selects a free port.
    pub ws_port: u16,
    /// HAProxy's port for statistics; 0 selects a free port.
    pub stats_port: u16,
    /// TCP port for Redis in addition to its unix socket; 0 selects a free port. With `None` Redis has a port only if the path of the
    /// state directory does not fit into a socket's address.
    pub redis_port: Option<u16>,
    /// Directory for sockets, logs, HAProxy's files and Redis's data. Each stack needs a separate one.
    pub state_dir: PathBuf,
    /// Programs of the stack.
    pub binaries: Binaries,
    /// JWT key.
    pub secret: JwtSecret,
    /// Writes that Redis stores on disk.
    pub persistence: Persistence,
    /// Whether every link has a relay from the start, including those of clients. Faults then affect open connections, and every
    /// token costs more CPU time.
    pub relays: bool,
    /// Additional environment variables of servers and gateways.
    pub environment: Vec<(String, String)>,
}

impl Options {
    /// Returns a configuration with two servers and three gateways, free ports and a random JWT key.
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

/// A running stack. Dropping it kills its processes; [`Native::stop`] ends them in order. Calls that change the stack must not
/// overlap. [`Native::status`] can be called at any time.
#[derive(Debug)]
pub struct Native {
    options: Options,
    environment: Environment,
    links: Arc<Links>,
    redis: Redis,
    haproxy: Haproxy,
    /// The ports on which clients reach HAProxy, through relays if there are any.
    ports: PublicPorts,
    instances: Mutex<Vec<Arc<Instance>>>,
    /// Tasks that drain the instances that `scale` has removed.
    retiring: Mutex<JoinSet<()>>,
}

impl Native {
    /// Starts a stack. Returns when HAProxy sends to all instances.
    ///
    /// # Errors
    /// A port is in use, a number is out of range, or a process did not start or become ready; then the message has the end of its
    /// log. No process is left running.
    pub async fn start(options: Options) -> anyhow::Result<Self> {
        check_count(Role::Server, options.servers)?;
        check_count(Role::Wsproxy, options.proxies)?;
        let wanted = check_ports(&options)?;
        host::raise_open_files();
        private_directory(&options.state_dir)?;
        private_directory(&options.state_dir.join("logs"))?;
        let links = Arc::new(Links::new(options.state_dir.clone(), options.relays));
        let reserved = [wanted.api, wanted.ws, wanted.stats];
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
            state_dir: options.state_dir.clone(),
            redis_port: redis.port(),
            secret: options.secret.clone(),
            server_workers: options.server_workers,
            extra: options.environment.clone(),
        };
        let mut numbers: Vec<(Role, u16)> = (1..=options.servers).map(|n| (Role::Server, n)).collect();
        numbers.extend((1..=options.proxies).map(|n| (Role::Wsproxy, n)));
        let instances = start_all(binaries, &environment, &links, numbers).await?;
        // With relays, clients connect to them, and HAProxy listens on free ports behind.
        let inner = if options.relays { PublicPorts { api: 0, ws: 0, ..wanted } } else { wanted };
        let haproxy = Haproxy::start(&binaries.haproxy, &options.state_dir, inner, &instances).await?;
        let mut ports = haproxy.ports();
        if options.relays {
            ports.api = links.insert_before_haproxy("link:api", wanted.api, ports.api)?;
            ports.ws = links.insert_before_haproxy("link:ws", wanted.ws, ports.ws)?;
        }
        info!(servers = options.servers, proxies = options.proxies, "the stack is ready");
        let instances = Mutex::new(instances);
        Ok(Self { options, environment, links, redis, haproxy, ports, instances, retiring: Mutex::default() })
    }

    /// Returns the URL of the HTTP API, for example `http://127.0.0.1:8080`.
    #[must_use]
    pub fn api_url(&self) -> String {
        format!("http://{}", ports::loopback(self.ports.api))
    }

    /// Returns the URL for WebSockets, for example `ws://127.0.0.1:8081`.
    #[must_use]
    pub fn ws_url(&self) -> String {
        format!("ws://{}", ports::loopback(self.ports.ws))
    }

    /// Returns the URL of HAProxy's statistics. Its path `/metrics` has metrics for Prometheus.
    #[must_use]
    pub fn stats_url(&self) -> String {
        format!("http://{}", ports::loopback(self.ports.stats))
    }

    /// Changes the number of instances of a role to `count`, 1 to 64. New instances get connections when they are ready. Instances with
    /// the highest numbers are removed from HAProxy first and then drain in the background. Sockets of other instances stay open.
    ///
    /// # Errors
    /// The number is out of range, or a new instance did not become ready. New instances are then ended, and the others stay.
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
        let (removed, kept): (Vec<_>, Vec<_>) =
            all.into_iter().chain(started).partition(|i| i.role() == role && leaving.contains(&i.number()));
        self.instances.lock().clone_from(&kept);
        let reloaded = self.haproxy.reload(&kept).await;
        for instance in removed {
            let links = Arc::clone(&self.links);
            self.retiring.lock().spawn(async move {
                instance.slot().process().stop(DRAIN_GRACE).await;
                links.remove(&instance.name());
            });
        }
        reloaded
    }

    /// Ends all processes with SIGTERM: the instances at the same time, then HAProxy, then Redis. A process that does not end within
    /// ten seconds is killed. The logs stay.
    pub async fn stop(self) {
        let mut ending = JoinSet::new();
        for instance in self.instances() {
            ending.spawn(async move { instance.slot().process().stop(STOP_GRACE).await });
        }
        ending.join_all().await;
        // Instances that still drain are killed now.
        let mut retiring = std::mem::take(&mut *self.retiring.lock());
        retiring.shutdown().await;
        self.haproxy.slot().process().stop(STOP_GRACE).await;
        self.redis.slot().process().stop(STOP_GRACE).await;
        leftovers::remove(&self.options.state_dir);
    }

    /// Returns the instances that HAProxy knows, running or down.
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
    bail!("invalid number of {role} instances {count}: expected 1 to {MAX_INSTANCES}")
}

/// Checks that the configured ports differ and are free, before any process starts.
fn check_ports(options: &Options) -> anyhow::Result<PublicPorts> {
    let wanted = [
        (options.api_port, "--api-port"),
        (options.ws_port, "--ws-port"),
        (options.stats_port, "--stats-port"),
        (options.redis_port.unwrap_or(0), "--redis-port"),
    ];
    for (index, (port, flag)) in wanted.iter().enumerate() {
        if let Some((_, other)) = wanted[..index].iter().find(|(earlier, _)| earlier == port && *port != 0) {
            bail!("{other} and {flag} are both {port}: choose different ports");
        }
    }
    ports::check(&wanted)?;
    Ok(PublicPorts { api: options.api_port, ws: options.ws_port, stats: options.stats_port })
}

fn program(binaries: &Binaries, role: Role) -> &Program {
    match role {
        Role::Server => &binaries.programs.server,
        Role::Wsproxy => &binaries.programs.wsproxy,
    }
}

/// Starts instances at the same time. The first failure ends those that have started.
async fn start_all(
    binaries: &Binaries,
    environment: &Environment,
    links: &Links,
    wanted: Vec<(Role, u16)>,
) -> anyhow::Result<Vec<Arc<Instance>>> {
    let starting = wanted.iter().map(|&(role, number)| async move {
        links.create(role, number)?;
        let instance = Instance::start(role, number, program(binaries, role), environment).await?;
        links.complete(&instance)?;
        Ok::<_, anyhow::Error>(Arc::new(instance))
    });
    try_join_all(starting).await
}
