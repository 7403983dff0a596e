//! HAProxy before the instances: the base configuration of the Compose stack, and backends for the present instances.
//! A change of the instances needs a reload: a new worker takes the ports over, and the old worker keeps its open sockets until they
//! end.

use super::{
    instance::{self, Instance},
    paths,
    ports::{self, TakenPorts},
    process::{Process, Spec},
    slot::Slot,
};
use crate::{files, probe, role::Role, statistics};
use anyhow::{Context, bail};
use nix::sys::signal::Signal;
use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    fmt::Write as _,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::{
    process::Command,
    time::{sleep, timeout},
};
use tracing::warn;

const BASE: &str = include_str!("../../../../docker/haproxy/base.cfg");
/// Time limit for a start or a reload to take effect.
const READY_TIMEOUT: Duration = Duration::from_secs(15);
/// Time that a new worker has to take over before the signal is sent again.
const RELOAD_TIMEOUT: Duration = Duration::from_secs(2);
/// Number of signals for one reload.
const RELOAD_ATTEMPTS: usize = 5;
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Distance between the ports of one HAProxy and those of the next one.
pub(crate) const PORT_STEP: u16 = 10;

/// The ports on which clients reach one HAProxy.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PublicPorts {
    pub(crate) api: u16,
    pub(crate) ws: u16,
    pub(crate) stats: u16,
}

impl PublicPorts {
    /// Returns the ports of HAProxy number `number`, if these are the ports of the first one. A zero stays zero.
    pub(crate) fn of_number(self, number: u16) -> Option<Self> {
        let above = PORT_STEP.checked_mul(number - 1)?;
        let shift = |port: u16| if port == 0 { Some(0) } else { port.checked_add(above) };
        Some(Self { api: shift(self.api)?, ws: shift(self.ws)?, stats: shift(self.stats)? })
    }

    /// Returns the environment variables of HAProxy's configuration.
    fn env(self) -> Vec<(String, OsString)> {
        [("API_BIND", self.api), ("WS_BIND", self.ws), ("STATS_BIND", self.stats)]
            .map(|(name, port)| (name.to_owned(), ports::loopback(port).to_string().into()))
            .to_vec()
    }

    pub(crate) fn all(self) -> [u16; 3] {
        [self.api, self.ws, self.stats]
    }

    /// Replaces each zero by a free port.
    fn with_free_ports(self, taken: &TakenPorts) -> anyhow::Result<Self> {
        let choose = |port: u16| if port == 0 { taken.take_free() } else { Ok(port) };
        Ok(Self { api: choose(self.api)?, ws: choose(self.ws)?, stats: choose(self.stats)? })
    }

    /// Returns whether another process has taken a port that `with_free_ports` chose.
    fn were_taken(self, wanted: Self) -> bool {
        std::iter::zip(self.all(), wanted.all()).any(|(port, wanted)| wanted == 0 && !ports::is_free(port))
    }
}

/// The load balancer, running or down.
#[derive(Debug)]
pub(crate) struct Haproxy {
    name: String,
    number: u16,
    slot: Slot,
    program: PathBuf,
    state_dir: PathBuf,
    ports: PublicPorts,
    /// A task waits for HAProxy to be resumed, and reloads it then.
    reload_is_due: AtomicBool,
}

/// The statistics that HAProxy has to show after a start or a reload.
struct Expected {
    /// Names of all instances.
    instances: BTreeSet<String>,
    /// Names of the instances that must be up.
    up: BTreeSet<String>,
    /// Process id of the replaced worker, whose statistics are ignored.
    old_worker: Option<u32>,
}

impl Haproxy {
    /// Starts HAProxy and waits until it sends to all instances. A wanted port of 0 becomes a free one.
    pub(crate) async fn start(
        name: String,
        number: u16,
        program: &Path,
        state_dir: &Path,
        wanted: PublicPorts,
        taken: &TakenPorts,
        instances: &[Arc<Instance>],
    ) -> anyhow::Result<Self> {
        files::replace(&base_file(state_dir), BASE)?;
        files::replace(&backends_file(state_dir), &backends(instances))?;
        let mut attempt = 1;
        loop {
            let ports = wanted.with_free_ports(taken)?;
            check(program, state_dir, ports).await?;
            let slot = Slot::new(launch(&name, program, state_dir, ports, false).await?);
            let (program, state_dir) = (program.to_owned(), state_dir.to_owned());
            let reload_is_due = AtomicBool::new(false);
            let haproxy = Self { name: name.clone(), number, slot, program, state_dir, ports, reload_is_due };
            let expected = Expected { instances: names(instances), up: names(instances), old_worker: None };
            let Err(error) = haproxy.wait_for(expected).await else { return Ok(haproxy) };
            let port_was_taken = haproxy.slot.process().ended().is_some() && ports.were_taken(wanted);
            if !port_was_taken || attempt == ports::ATTEMPTS {
                return Err(error);
            }
            warn!(name, "another process took a port of HAProxy: trying other ports");
            attempt += 1;
        }
    }

    /// Starts HAProxy after its end, on the same ports, and waits until it sends to all instances that are ready.
    pub(crate) async fn start_again(&self, instances: &[Arc<Instance>]) -> anyhow::Result<()> {
        self.configure(instances).await?;
        let mut up = BTreeSet::new();
        for instance in instances.iter().filter(|instance| instance.is_running()) {
            if instance::ready(instance.port()).await.is_ok() {
                up.insert(instance.name());
            }
        }
        let launched = launch(&self.name, &self.program, &self.state_dir, self.ports, true).await?;
        self.slot.replace(launched);
        self.wait_for(Expected { instances: names(instances), up, old_worker: None }).await
    }

    /// Returns the name in faults: `haproxy`, or `haproxy-1` if there are several.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn number(&self) -> u16 {
        self.number
    }

    /// Returns whether the stack has no other HAProxy.
    pub(crate) fn is_only(&self) -> bool {
        self.name == "haproxy"
    }

    pub(crate) fn ports(&self) -> PublicPorts {
        self.ports
    }

    pub(crate) fn slot(&self) -> &Slot {
        &self.slot
    }

    /// Replaces the instances to which HAProxy sends. Returns when a new worker accepts new connections, and when new instances and
    /// those that were up before are up in it.
    pub(crate) async fn reload(&self, instances: &[Arc<Instance>]) -> anyhow::Result<()> {
        let name = &self.name;
        if let Some(status) = self.slot.process().ended() {
            bail!("{name} is down ({status}): start it first, with `streamstress stack fault {name}:start`");
        }
        let before = self
            .backend_servers()
            .await
            .map_err(|error| anyhow::anyhow!("cannot read the statistics of {name}: {error}"))?;
        let old = self.worker().await;
        self.configure(instances).await?;
        self.replace_worker(old).await;
        let was_up = |name: &str| before.get(name).copied().unwrap_or(true);
        let up = instances.iter().filter(|i| i.is_running() && was_up(&i.name())).map(|i| i.name()).collect();
        self.wait_for(Expected { instances: names(instances), up, old_worker: old }).await
    }

    /// Replaces the instances to which HAProxy sends, once this paused HAProxy is resumed. Does not wait for that.
    pub(crate) async fn reload_when_resumed(
        self: &Arc<Self>,
        instances: &[Arc<Instance>],
    ) -> anyhow::Result<()> {
        self.configure(instances).await?;
        if self.reload_is_due.swap(true, Relaxed) {
            return Ok(());
        }
        let (haproxy, resumed) = (Arc::downgrade(self), self.slot.process().resumed());
        tokio::spawn(async move {
            let is_running = resumed.await;
            // It is gone if the stack has ended.
            let Some(haproxy) = haproxy.upgrade() else { return };
            haproxy.reload_is_due.store(false, Relaxed);
            if is_running {
                haproxy.replace_worker(haproxy.worker().await).await;
            }
        });
        Ok(())
    }

    /// Writes the configuration for `instances` and lets HAProxy check it.
    async fn configure(&self, instances: &[Arc<Instance>]) -> anyhow::Result<()> {
        files::replace(&backends_file(&self.state_dir), &backends(instances))?;
        check(&self.program, &self.state_dir, self.ports).await
    }

    /// Signals the master to reload until another worker responds. One signal may not be enough: shortly after a start the worker
    /// already accepts connections, but the master does not handle signals yet.
    async fn replace_worker(&self, old: Option<u32>) {
        let process = self.slot.process();
        for _ in 0..RELOAD_ATTEMPTS {
            process.signal(Signal::SIGUSR2).await;
            let another = async {
                while old.is_some() && self.worker().await == old {
                    sleep(POLL_INTERVAL).await;
                }
            };
            if timeout(RELOAD_TIMEOUT, another).await.is_ok() {
                return;
            }
            warn!(name = self.name, "HAProxy did not reload after SIGUSR2: sending it again");
        }
    }

    /// Waits until HAProxy sends to an instance.
    pub(crate) async fn wait_for_instance(&self, name: &str) -> anyhow::Result<()> {
        let ready = async || match self.backend_servers().await?.get(name) {
            Some(true) => Ok(()),
            _ => Err(format!("{} does not send to {name}", self.name)),
        };
        self.slot.process().wait_until(READY_TIMEOUT, ready).await
    }

    /// Returns the instances in HAProxy's statistics, and whether they are up.
    async fn backend_servers(&self) -> Result<BTreeMap<String, bool>, String> {
        let response = probe::get(ports::loopback(self.ports.stats), "/;csv").await;
        let csv = response.map_err(|error| format!("statistics: {error}"))?.body;
        Ok(statistics::instances(&csv).into_iter().map(|instance| (instance.name, instance.is_up)).collect())
    }

    /// Returns the process id of the worker that responds now.
    async fn worker(&self) -> Option<u32> {
        parse_worker(&probe::get(ports::loopback(self.ports.stats), "/").await.ok()?.body)
    }

    /// Waits until the statistics are as expected and both roles with instances that are up respond through HAProxy.
    async fn wait_for(&self, expected: Expected) -> anyhow::Result<()> {
        let PublicPorts { api, ws, stats: _ } = self.ports;
        let ready = async || {
            if expected.old_worker.is_some() && self.worker().await == expected.old_worker {
                return Err("the old worker still responds".to_owned());
            }
            let servers = self.backend_servers().await?;
            if !servers.keys().eq(&expected.instances) {
                return Err(format!("its backends are {servers:?}, expected {:?}", expected.instances));
            }
            if let Some(down) = expected.up.iter().find(|name| servers.get(*name) != Some(&true)) {
                return Err(format!("it does not send to {down}: {servers:?}"));
            }
            for (role, port) in [(Role::Server, api), (Role::Wsproxy, ws)] {
                if !expected.up.iter().any(|name| name.starts_with(&role.to_string())) {
                    continue;
                }
                match probe::get(ports::loopback(port), "/ready").await {
                    Ok(response) if response.status == 200 => {}
                    Ok(response) => {
                        return Err(format!("{role} port {port}: /ready returned {}", response.status));
                    }
                    Err(error) => return Err(format!("{role} port {port}: {error}")),
                }
            }
            Ok(())
        };
        self.slot.process().wait_until(READY_TIMEOUT, ready).await
    }
}

/// Starts the master process.
async fn launch(
    name: &str,
    program: &Path,
    state_dir: &Path,
    ports: PublicPorts,
    append_log: bool,
) -> anyhow::Result<Process> {
    let mut args = vec!["-W".into()];
    args.extend(files(state_dir));
    Process::start(Spec {
        name: name.to_owned(),
        program: program.to_owned(),
        args,
        env: ports.env(),
        env_remove: &["JWT_SECRET", "JWT_SECRET_FILE"],
        log: paths::log(state_dir, name),
        append_log,
        // With SIGTERM the master ends its workers, including old ones.
        parent_death_signal: Signal::SIGTERM,
        niceness: crate::NICENESS,
    })
    .await
}

fn names(instances: &[Arc<Instance>]) -> BTreeSet<String> {
    instances.iter().map(|instance| instance.name()).collect()
}

/// Lets HAProxy check its configuration.
async fn check(program: &Path, state_dir: &Path, ports: PublicPorts) -> anyhow::Result<()> {
    let output = Command::new(program)
        .arg("-c")
        .args(files(state_dir))
        .envs(ports.env())
        .kill_on_drop(true)
        .output()
        .await
        .with_context(|| format!("cannot run {}", program.display()))?;
    if !output.status.success() {
        bail!("haproxy refused its configuration:\n{}", String::from_utf8_lossy(&output.stderr).trim_end());
    }
    Ok(())
}

fn base_file(state_dir: &Path) -> PathBuf {
    state_dir.join("base.cfg")
}

fn backends_file(state_dir: &Path) -> PathBuf {
    state_dir.join("backends.cfg")
}

/// Returns the arguments that name the configuration files.
fn files(state_dir: &Path) -> [OsString; 4] {
    ["-f".into(), base_file(state_dir).into(), "-f".into(), backends_file(state_dir).into()]
}

/// Returns the configuration of the backends.
fn backends(instances: &[Arc<Instance>]) -> String {
    let mut text = String::from("# Generated by `streamstress stack` for the present instances.\n");
    for (role, header) in [
        (Role::Server, "\nbackend api from toward-servers\n"),
        (Role::Wsproxy, "\nbackend ws from toward-gateways\n"),
    ] {
        text.push_str(header);
        for instance in instances.iter().filter(|instance| instance.role() == role) {
            // With the instance's number as id, the consistent hash does not change when other instances are added or removed.
            let (name, address, id) = (instance.name(), instance.address(), instance.number());
            let _ = writeln!(text, "    server {name} {address} id {id}");
        }
    }
    text
}

/// Reads the process id of the worker from HAProxy's statistics page. The CSV does not contain it.
fn parse_worker(page: &str) -> Option<u32> {
    let rest = page.split_once("pid =")?.1.trim_start_matches(|c: char| !c.is_ascii_digit());
    rest[..rest.find(|c: char| !c.is_ascii_digit())?].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// HAProxy 3.3 and later refuse a frontend and a backend with the same name.
    #[test]
    fn no_frontend_has_the_name_of_a_backend() {
        let docker = include_str!("../../../../docker/haproxy/backends-docker.cfg");
        let named = |text: &str, section: &str| -> BTreeSet<String> {
            let name = |line: &str| Some(line.strip_prefix(section)?.split_whitespace().next()?.to_owned());
            text.lines().filter_map(name).collect()
        };
        let frontends = named(BASE, "frontend ");
        assert_eq!(frontends.len(), 3, "{frontends:?}");
        for text in [docker, &backends(&[])] {
            let backends = named(text, "backend ");
            assert_eq!(backends.len(), 2, "{backends:?}");
            assert!(frontends.is_disjoint(&backends), "{frontends:?} {backends:?}");
        }
    }

    #[test]
    fn the_ports_of_each_haproxy_are_ten_above_the_last_ones() {
        let first = PublicPorts { api: 8080, ws: 0, stats: 65_500 };
        let ports = |number| first.of_number(number).map(PublicPorts::all);
        assert_eq!(ports(1), Some([8080, 0, 65_500]));
        assert_eq!(ports(4), Some([8110, 0, 65_530]));
        assert_eq!(ports(5), None, "port 65540 does not exist");
    }

    #[test]
    fn the_statistics_page_names_the_worker() {
        assert_eq!(parse_worker("<b>pid = </b> 4711 (process #1, nbproc = 1)"), Some(4711));
        for text in ["", "pid =", "pid = x", "pid = 4711", "pid = 99999999999 "] {
            assert_eq!(parse_worker(text), None, "{text:?}");
        }
    }
}
