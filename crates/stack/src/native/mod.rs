//! A stack of plain processes: a private Redis, servers and gateways, and HAProxy. They start in this order, each when the previous
//! ones are ready. When this process ends for any reason, all of them end.

mod binaries;
mod cold_start;
mod faults;
mod haproxies;
mod haproxy;
mod instance;
mod leftovers;
mod links;
mod paths;
mod ports;
mod process;
mod redis;
mod scaling;
mod slot;
mod spawner;
mod status;

pub use crate::role::Role;
pub use binaries::{Binaries, Program, Programs};
pub use ports::free as free_port;
pub use redis::Persistence;
pub use status::{HaproxyStatus, LinkStatus, ProcessStatus, Status};

use crate::{autoscale::Rule, fault::Link, files::private_directory, secret::JwtSecret};
use anyhow::bail;
use cold_start::{Command, StartTimes};
use futures_util::future::try_join_all;
use haproxies::Haproxies;
use haproxy::{Haproxy, PORT_STEP, PublicPorts};
use instance::{Environment, Instance};
use links::Links;
use parking_lot::Mutex;
use ports::TakenPorts;
use redis::Redis;
use std::{
    collections::BTreeSet,
    path::PathBuf,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};
use tokio::task::JoinSet;
use tracing::info;

/// Limit of instances per role: more than one machine can use.
const MAX_INSTANCES: u16 = 64;
/// Limit of HAProxy instances.
const MAX_HAPROXIES: u16 = 16;
/// Time between SIGTERM and SIGKILL at the end of the stack.
const STOP_GRACE: Duration = Duration::from_secs(10);

/// Configuration of a native stack.
#[derive(Clone, Debug)]
pub struct Options {
    /// Number of servers, 1 to 64.
    pub servers: u16,
    /// Number of gateways, 1 to 64.
    pub proxies: u16,
    /// Number of HAProxy instances, 1 to 16. All of them send to all servers and gateways.
    pub haproxies: u16,
    /// Worker threads of each server. `None` keeps the server's default.
    pub server_workers: Option<usize>,
    /// Port of the first HAProxy for HTTP calls; 0 selects a free port for each. The ports of each further HAProxy are 10 above those of
    /// the previous one.
    pub api_port: u16,
    /// Port of the first HAProxy for WebSockets; 0 selects a free port for each.
    pub ws_port: u16,
    /// Port of the first HAProxy for statistics; 0 selects a free port for each.
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
    /// Rule by which the supervisor changes the number of gateways. `proxies` is the number at the start.
    pub autoscale: Option<Rule>,
}

impl Options {
    /// Returns a configuration with two servers, three gateways and one HAProxy, free ports and a random JWT key.
    #[must_use]
    pub fn new(state_dir: PathBuf, binaries: Binaries) -> Self {
        Self {
            servers: 2,
            proxies: 3,
            haproxies: 1,
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
            autoscale: None,
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
    haproxies: Haproxies,
    taken: TakenPorts,
    /// The ports on which clients reach each HAProxy, through relays if there are any.
    ports: Vec<PublicPorts>,
    /// Time from the command until the stack was ready, in milliseconds.
    ready_ms: f64,
    instances: Mutex<Vec<Arc<Instance>>>,
    /// Tasks that drain the instances that `scale` has removed.
    retiring: Mutex<JoinSet<()>>,
    /// Whether the last reload of a HAProxy failed.
    reload_due: AtomicBool,
    /// The instances that still drain. No new instance gets their numbers, because they still use their sockets.
    draining: Arc<Mutex<BTreeSet<(Role, u16)>>>,
}

impl Native {
    /// Starts a stack. Returns when every HAProxy sends to all instances.
    ///
    /// # Errors
    /// A port is in use, a number is out of range, or a process did not start or become ready; then the message has the end of its
    /// log. No process is left running.
    pub async fn start(options: Options) -> anyhow::Result<Self> {
        let command = Command::now();
        check_count(Role::Server, options.servers)?;
        check_count(Role::Wsproxy, options.proxies)?;
        check_range("haproxy", options.haproxies, MAX_HAPROXIES)?;
        let wanted = check_ports(&options)?;
        host::raise_open_files();
        private_directory(&options.state_dir)?;
        private_directory(&options.state_dir.join("logs"))?;
        let links = Arc::new(Links::new(options.state_dir.clone(), options.relays));
        let taken = TakenPorts::new(wanted.iter().flat_map(|ports| ports.all()).collect());
        let binaries = &options.binaries;
        let redis = Redis::start(
            &binaries.redis,
            &options.state_dir,
            options.persistence,
            options.redis_port,
            &taken,
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
        let instances = start_all(binaries, &environment, &links, &taken, numbers, command).await?;
        let mut inner = wanted.clone();
        if options.relays {
            // Clients connect to relays, and HAProxy listens on free ports behind them.
            inner.iter_mut().for_each(|ports| (ports.api, ports.ws) = (0, 0));
        }
        let haproxies =
            Haproxies::start(&binaries.haproxy, &options.state_dir, &inner, &taken, &instances).await?;
        let mut ports: Vec<_> = haproxies.all().iter().map(|haproxy| haproxy.ports()).collect();
        if options.relays {
            for (wanted, (ports, haproxy)) in wanted.iter().zip(ports.iter_mut().zip(haproxies.all())) {
                ports.api = links.insert_before_haproxy(Link::Api, haproxy, wanted.api)?;
                ports.ws = links.insert_before_haproxy(Link::Ws, haproxy, wanted.ws)?;
            }
        }
        instances.iter().for_each(|instance| instance.update_start(StartTimes::serving));
        let ready_ms = command.elapsed_ms();
        info!(servers = options.servers, proxies = options.proxies, ready_ms, "the stack is ready");
        let instances = Mutex::new(instances);
        let (retiring, draining) = (Mutex::default(), Arc::default());
        Ok(Self {
            options,
            environment,
            links,
            redis,
            haproxies,
            taken,
            ports,
            ready_ms,
            instances,
            retiring,
            reload_due: AtomicBool::new(false),
            draining,
        })
    }

    /// Returns the rule by which the supervisor changes the number of gateways.
    pub(crate) const fn autoscale(&self) -> Option<&Rule> {
        self.options.autoscale.as_ref()
    }

    /// Returns the URL of the HTTP API at the first HAProxy, for example `http://127.0.0.1:8080`.
    #[must_use]
    pub fn api_url(&self) -> String {
        self.haproxies().swap_remove(0).api_url
    }

    /// Returns the URL for WebSockets at the first HAProxy, for example `ws://127.0.0.1:8081`.
    #[must_use]
    pub fn ws_url(&self) -> String {
        self.haproxies().swap_remove(0).ws_url
    }

    /// Returns the name and the URLs of every HAProxy, by number. There is at least one.
    #[must_use]
    pub fn haproxies(&self) -> Vec<HaproxyStatus> {
        let status = |(haproxy, ports): (&Arc<Haproxy>, &PublicPorts)| HaproxyStatus {
            name: haproxy.name().to_owned(),
            api_url: format!("http://{}", ports::loopback(ports.api)),
            ws_url: format!("ws://{}", ports::loopback(ports.ws)),
            stats_url: format!("http://{}", ports::loopback(ports.stats)),
        };
        self.haproxies.all().iter().zip(&self.ports).map(status).collect()
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
        self.haproxies.stop(STOP_GRACE).await;
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

/// Checks that a role can have this number of instances, 1 to 64.
pub(crate) fn check_count(role: Role, count: u16) -> anyhow::Result<()> {
    check_range(&role.to_string(), count, MAX_INSTANCES)
}

fn check_range(role: &str, count: u16, most: u16) -> anyhow::Result<()> {
    if (1..=most).contains(&count) {
        return Ok(());
    }
    bail!("invalid number of {role} instances {count}: expected 1 to {most}")
}

/// Checks that the configured ports differ and are free, before any process starts. Returns the ports of each HAProxy.
fn check_ports(options: &Options) -> anyhow::Result<Vec<PublicPorts>> {
    let first = PublicPorts { api: options.api_port, ws: options.ws_port, stats: options.stats_port };
    let mut wanted = Vec::new();
    let mut all = Vec::new();
    for number in 1..=options.haproxies {
        let Some(ports) = first.of_number(number) else {
            bail!(
                "there are not enough ports for {} HAProxy instances, whose ports are {PORT_STEP} apart: choose lower ports",
                options.haproxies
            );
        };
        let of_number = if number == 1 { String::new() } else { format!(" (of haproxy-{number})") };
        let flags = ["--api-port", "--ws-port", "--stats-port"].map(|flag| format!("{flag}{of_number}"));
        wanted.extend(ports.all().into_iter().zip(flags));
        all.push(ports);
    }
    wanted.push((options.redis_port.unwrap_or(0), "--redis-port".to_owned()));
    for (index, (port, flag)) in wanted.iter().enumerate() {
        if let Some((_, other)) = wanted[..index].iter().find(|(earlier, _)| earlier == port && *port != 0) {
            bail!("{other} and {flag} are both {port}: choose different ports");
        }
    }
    ports::check(&wanted)?;
    Ok(all)
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
    taken: &TakenPorts,
    wanted: Vec<(Role, u16)>,
    command: Command,
) -> anyhow::Result<Vec<Arc<Instance>>> {
    let starting = wanted.iter().map(|&(role, number)| async move {
        links.create(role, number)?;
        let program = program(binaries, role);
        let instance = Instance::start(role, number, program, environment, taken, command).await?;
        links.complete(&instance)?;
        Ok::<_, anyhow::Error>(Arc::new(instance))
    });
    try_join_all(starting).await
}
