//! HAProxy in front: the configuration that Docker has too, and backends written for the instances there are.
//! A change is a reload: the new worker takes the ports over, the old one keeps its open sockets until they end.

use super::{
    Role,
    instance::{self, Instance},
    ports,
    process::{Process, Spec},
    slot::Slot,
};
use crate::{files, probe};
use anyhow::{Context, bail};
use nix::sys::signal::Signal;
use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    fmt::Write as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::{
    process::Command,
    time::{sleep, timeout},
};
use tracing::warn;

const BASE: &str = include_str!("../../../../docker/haproxy/base.cfg");
const PATIENCE: Duration = Duration::from_secs(15);
/// What a new worker gets to take over before the order is given again.
const RELOAD_PATIENCE: Duration = Duration::from_secs(2);
const RELOADS: usize = 5;
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Where people reach the stack.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Front {
    pub(crate) api: u16,
    pub(crate) ws: u16,
    pub(crate) stats: u16,
}

impl Front {
    fn env(self) -> Vec<(String, OsString)> {
        [("API_BIND", self.api), ("WS_BIND", self.ws), ("STATS_BIND", self.stats)]
            .map(|(name, port)| (name.to_owned(), ports::local(port).to_string().into()))
            .to_vec()
    }

    fn ports(self) -> [u16; 3] {
        [self.api, self.ws, self.stats]
    }

    /// The same with free ports in the place of zeros.
    fn chosen(self) -> anyhow::Result<Self> {
        let mut taken = self.ports().to_vec();
        let mut choose = |port: u16| -> anyhow::Result<u16> {
            let chosen = if port == 0 { ports::free(&taken)? } else { port };
            taken.push(chosen);
            Ok(chosen)
        };
        Ok(Self { api: choose(self.api)?, ws: choose(self.ws)?, stats: choose(self.stats)? })
    }

    /// Whether a port that was free when it was chosen is not any more.
    fn lost_of(self, wanted: Self) -> bool {
        std::iter::zip(self.ports(), wanted.ports())
            .any(|(port, wanted)| wanted == 0 && !ports::is_free(port))
    }
}

/// The load balancer, running or down.
#[derive(Debug)]
pub(crate) struct Haproxy {
    slot: Slot,
    program: PathBuf,
    state: PathBuf,
    front: Front,
}

/// What HAProxy is waited for to say.
struct Wanted {
    known: BTreeSet<String>,
    up: BTreeSet<String>,
    /// A worker that has been told to make room: its word counts no more.
    not_from: Option<u32>,
}

impl Haproxy {
    /// Starts HAProxy before these instances and waits until it sends to all of them. A wanted port of 0 becomes a free one.
    pub(crate) async fn start(
        program: &Path,
        state: &Path,
        wanted: Front,
        instances: &[Arc<Instance>],
    ) -> anyhow::Result<Self> {
        files::replace(&base_file(state), BASE)?;
        files::replace(&backends_file(state), &backends(instances))?;
        let mut attempt = 1;
        loop {
            let front = wanted.chosen()?;
            check(program, state, front).await?;
            let slot = Slot::new(launch(program, state, front, false).await?);
            let haproxy = Self { slot, program: program.to_owned(), state: state.to_owned(), front };
            let everything = Wanted { known: names(instances), up: names(instances), not_from: None };
            let Err(error) = haproxy.wait_for(everything).await else { return Ok(haproxy) };
            let lost_the_race = haproxy.slot.process().ended().is_some() && front.lost_of(wanted);
            if !lost_the_race || attempt == ports::ATTEMPTS {
                return Err(error);
            }
            warn!("somebody else took a port of HAProxy's first: trying others");
            attempt += 1;
        }
    }

    /// Starts what is down, on the same ports, and waits until it sends to all instances that are ready.
    pub(crate) async fn start_again(&self, instances: &[Arc<Instance>]) -> anyhow::Result<()> {
        files::replace(&backends_file(&self.state), &backends(instances))?;
        check(&self.program, &self.state, self.front).await?;
        let mut up = BTreeSet::new();
        for instance in instances.iter().filter(|instance| instance.runs()) {
            if instance::ready(instance.port()).await.is_ok() {
                up.insert(instance.name());
            }
        }
        self.slot.replace(launch(&self.program, &self.state, self.front, true).await?);
        self.wait_for(Wanted { known: names(instances), up, not_from: None }).await
    }

    pub(crate) fn front(&self) -> Front {
        self.front
    }

    pub(crate) fn slot(&self) -> &Slot {
        &self.slot
    }

    /// Sends to these instances from now on. When this returns, new connections meet a new worker, which knows them and
    /// no others; what was up before, and what is new, is up.
    pub(crate) async fn reload(&self, instances: &[Arc<Instance>]) -> anyhow::Result<()> {
        if let Some(status) = self.slot.process().ended() {
            bail!(
                "haproxy is down ({status}): start it first, with `streamstress stack fault haproxy:start`"
            );
        }
        let before =
            self.servers().await.map_err(|error| anyhow::anyhow!("haproxy does not answer: {error}"))?;
        let old = self.worker().await;
        files::replace(&backends_file(&self.state), &backends(instances))?;
        check(&self.program, &self.state, self.front).await?;
        self.take_new_worker(old).await;
        let was_up = |name: &str| before.get(name).copied().unwrap_or(true);
        let up = instances.iter().filter(|i| i.runs() && was_up(&i.name())).map(|i| i.name()).collect();
        self.wait_for(Wanted { known: names(instances), up, not_from: old }).await
    }

    /// Tells the master to reload, again and again until another worker answers: one that has just started serves already
    /// while its master still hears nothing.
    async fn take_new_worker(&self, old: Option<u32>) {
        let process = self.slot.process();
        for _ in 0..RELOADS {
            process.signal(Signal::SIGUSR2).await;
            let another = async {
                while old.is_some() && self.worker().await == old {
                    sleep(LOOK_EVERY).await;
                }
            };
            if timeout(RELOAD_PATIENCE, another).await.is_ok() {
                return;
            }
            warn!("haproxy did not hear that it is to reload: telling it again");
        }
    }

    /// Waits until it sends to this instance.
    pub(crate) async fn wait_for_instance(&self, name: &str) -> anyhow::Result<()> {
        let ready = async || match self.servers().await?.get(name) {
            Some(true) => Ok(()),
            _ => Err(format!("it does not send to {name}")),
        };
        self.slot.process().wait_until(PATIENCE, ready).await
    }

    /// The instances that it knows, and whether they are up.
    async fn servers(&self) -> Result<BTreeMap<String, bool>, String> {
        let answer = probe::get(ports::local(self.front.stats), "/;csv").await;
        Ok(servers(&answer.map_err(|error| format!("stats: {error}"))?.body))
    }

    /// The id of the worker that answers now.
    async fn worker(&self) -> Option<u32> {
        worker(&probe::get(ports::local(self.front.stats), "/").await.ok()?.body)
    }

    async fn wait_for(&self, wanted: Wanted) -> anyhow::Result<()> {
        let Front { api, ws, stats: _ } = self.front;
        let ready = async || {
            if wanted.not_from.is_some() && self.worker().await == wanted.not_from {
                return Err("the old worker still answers".to_owned());
            }
            let servers = self.servers().await?;
            if !servers.keys().eq(&wanted.known) {
                return Err(format!("it knows {servers:?}, wanted {:?}", wanted.known));
            }
            if let Some(down) = wanted.up.iter().find(|name| servers.get(*name) != Some(&true)) {
                return Err(format!("it does not send to {down}: {servers:?}"));
            }
            for (role, port) in [(Role::Server, api), (Role::Wsproxy, ws)] {
                if !wanted.up.iter().any(|name| name.starts_with(&role.to_string())) {
                    continue;
                }
                match probe::get(ports::local(port), "/ready").await {
                    Ok(answer) if answer.status == 200 => {}
                    Ok(answer) => {
                        return Err(format!("{role}s' port {port}: /ready answers {}", answer.status));
                    }
                    Err(error) => return Err(format!("{role}s' port {port}: {error}")),
                }
            }
            Ok(())
        };
        self.slot.process().wait_until(PATIENCE, ready).await
    }
}

async fn launch(program: &Path, state: &Path, front: Front, goes_on: bool) -> anyhow::Result<Process> {
    let mut args = vec!["-W".into()];
    args.extend(files(state));
    Process::start(Spec {
        name: "haproxy".into(),
        program: program.to_owned(),
        args,
        env: front.env(),
        env_remove: &["JWT_SECRET", "JWT_SECRET_FILE"],
        log: state.join("logs/haproxy.log"),
        goes_on,
        // The master ends its workers, the old ones of a reload too.
        at_our_death: Signal::SIGTERM,
        niceness: crate::NICENESS,
    })
    .await
}

fn names(instances: &[Arc<Instance>]) -> BTreeSet<String> {
    instances.iter().map(|instance| instance.name()).collect()
}

async fn check(program: &Path, state: &Path, front: Front) -> anyhow::Result<()> {
    let output = Command::new(program)
        .arg("-c")
        .args(files(state))
        .envs(front.env())
        .kill_on_drop(true)
        .output()
        .await
        .with_context(|| format!("cannot run {}", program.display()))?;
    if !output.status.success() {
        bail!("haproxy refuses its configuration:\n{}", String::from_utf8_lossy(&output.stderr).trim_end());
    }
    Ok(())
}

fn base_file(state: &Path) -> PathBuf {
    state.join("base.cfg")
}

fn backends_file(state: &Path) -> PathBuf {
    state.join("backends.cfg")
}

fn files(state: &Path) -> [OsString; 4] {
    ["-f".into(), base_file(state).into(), "-f".into(), backends_file(state).into()]
}

fn backends(instances: &[Arc<Instance>]) -> String {
    let mut text = String::from("# Written by `stack` for the instances that run now.\n");
    for (role, header) in [
        (Role::Server, "\nbackend api from toward-servers\n"),
        (Role::Wsproxy, "\nbackend ws from toward-gateways\n"),
    ] {
        text.push_str(header);
        for instance in instances.iter().filter(|instance| instance.role() == role) {
            // The id is the instance's own number: the consistent hash stays where it is when others come and go.
            let (name, address, id) = (instance.name(), instance.address(), instance.number());
            let _ = writeln!(text, "    server {name} {address} id {id}");
        }
    }
    text
}

/// The servers and whether they are up, out of HAProxy's statistics in CSV.
fn servers(csv: &str) -> BTreeMap<String, bool> {
    let mut lines = csv.lines();
    let header = lines.next().unwrap_or_default().trim_start_matches("# ");
    let Some(status) = header.split(',').position(|column| column == "status") else {
        return BTreeMap::new();
    };
    lines
        .filter_map(|line| {
            let fields: Vec<&str> = line.split(',').collect();
            let name = *fields.get(1)?;
            let server = !matches!(name, "FRONTEND" | "BACKEND");
            let up = fields.get(status)?.starts_with("UP");
            server.then(|| (name.to_owned(), up))
        })
        .collect()
}

/// The process id that HAProxy's page of statistics names; the CSV has none.
fn worker(page: &str) -> Option<u32> {
    let rest = page.split_once("pid =")?.1.trim_start_matches(|c: char| !c.is_ascii_digit());
    rest[..rest.find(|c: char| !c.is_ascii_digit())?].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statistics_name_the_servers_that_are_up() {
        let csv = "# pxname,svname,qcur,status,x\napi,FRONTEND,,OPEN,\napi,server-1,0,UP,\napi,BACKEND,0,UP,\n\
                   ws,wsproxy-1,0,DOWN 1/2,\nws,wsproxy-2,0,UP 1/1,\n";
        let expected = [("server-1", true), ("wsproxy-1", false), ("wsproxy-2", true)];
        assert_eq!(servers(csv), expected.map(|(name, up)| (name.to_owned(), up)).into());
        for text in ["", "x", "# a,b\nc", "# a,status"] {
            assert!(servers(text).is_empty(), "{text:?}");
        }
    }

    /// HAProxy 3.3 and later refuse a frontend and a backend of one name.
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
    fn the_page_names_the_worker() {
        assert_eq!(worker("<b>pid = </b> 4711 (process #1, nbproc = 1)"), Some(4711));
        for text in ["", "pid =", "pid = x", "pid = 4711", "pid = 99999999999 "] {
            assert_eq!(worker(text), None, "{text:?}");
        }
    }
}
