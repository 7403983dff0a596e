//! HAProxy in front: the configuration that Docker has too, and backends written for the instances there are.
//! A change is a reload: the new worker takes the ports over, the old one keeps its open sockets until they end.

use super::{
    Role,
    instance::Instance,
    ports,
    process::{Process, Spec},
};
use crate::probe;
use anyhow::{Context, bail};
use nix::sys::signal::Signal;
use std::{
    collections::BTreeSet,
    ffi::OsString,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::process::Command;
use tracing::warn;

const BASE: &str = include_str!("../../../docker/haproxy/base.cfg");
const PATIENCE: Duration = Duration::from_secs(15);

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

/// The running load balancer.
#[derive(Debug)]
pub(crate) struct Haproxy {
    pub(crate) process: Process,
    program: PathBuf,
    state: PathBuf,
    front: Front,
}

impl Haproxy {
    /// Starts HAProxy before these instances and waits until it sends to all of them. A wanted port of 0 becomes a free one.
    pub(crate) async fn start(
        program: &Path,
        state: &Path,
        wanted: Front,
        instances: &[Instance],
    ) -> anyhow::Result<Self> {
        write_file(&base_file(state), BASE)?;
        write_file(&backends_file(state), &backends(instances))?;
        let mut attempt = 1;
        loop {
            let front = wanted.chosen()?;
            check(program, state, front).await?;
            let haproxy = Self::launch(program, state, front).await?;
            let Err(error) = haproxy.wait_for(instances).await else { return Ok(haproxy) };
            let lost_the_race = haproxy.process.ended().is_some() && front.lost_of(wanted);
            if !lost_the_race || attempt == ports::ATTEMPTS {
                return Err(error);
            }
            warn!("somebody else took a port of HAProxy's first: trying others");
            attempt += 1;
        }
    }

    async fn launch(program: &Path, state: &Path, front: Front) -> anyhow::Result<Self> {
        let mut args = vec!["-W".into()];
        args.extend(files(state));
        let process = Process::start(Spec {
            name: "haproxy".into(),
            program: program.to_owned(),
            args,
            env: front.env(),
            env_remove: &["JWT_SECRET", "JWT_SECRET_FILE"],
            log: state.join("logs/haproxy.log"),
            // The master ends its workers, the old ones of a reload too.
            at_our_death: Signal::SIGTERM,
        })
        .await?;
        Ok(Self { process, program: program.to_owned(), state: state.to_owned(), front })
    }

    pub(crate) fn front(&self) -> Front {
        self.front
    }

    /// Sends to these instances from now on. When this returns, new connections meet them and no others.
    pub(crate) async fn reload(&self, instances: &[Instance]) -> anyhow::Result<()> {
        write_file(&backends_file(&self.state), &backends(instances))?;
        check(&self.program, &self.state, self.front).await?;
        self.process.signal(Signal::SIGUSR2).await;
        self.wait_for(instances).await
    }

    /// Waits until the worker that answers knows exactly these instances, all up, and both front doors answer.
    async fn wait_for(&self, instances: &[Instance]) -> anyhow::Result<()> {
        let wanted: BTreeSet<String> = instances.iter().map(Instance::name).collect();
        let Front { api, ws, stats } = self.front;
        let ready = async || {
            let answer = probe::get(ports::local(stats), "/;csv").await.map_err(|e| format!("stats: {e}"))?;
            let up = servers_up(&answer.body);
            if up != wanted {
                return Err(format!("it sends to {up:?}, wanted {wanted:?}"));
            }
            for (door, port) in [("API", api), ("WS", ws)] {
                match probe::get(ports::local(port), "/ready").await {
                    Ok(answer) if answer.status == 200 => {}
                    Ok(answer) => {
                        return Err(format!("{door} port {port}: /ready answers {}", answer.status));
                    }
                    Err(error) => return Err(format!("{door} port {port}: {error}")),
                }
            }
            Ok(())
        };
        self.process.wait_until(PATIENCE, ready).await
    }
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

fn write_file(path: &Path, text: &str) -> anyhow::Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

fn backends(instances: &[Instance]) -> String {
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

/// The servers that are up, out of HAProxy's statistics in CSV.
fn servers_up(csv: &str) -> BTreeSet<String> {
    let mut lines = csv.lines();
    let header = lines.next().unwrap_or_default().trim_start_matches("# ");
    let Some(status) = header.split(',').position(|column| column == "status") else {
        return BTreeSet::new();
    };
    lines
        .filter_map(|line| {
            let fields: Vec<&str> = line.split(',').collect();
            let name = *fields.get(1)?;
            let server = !matches!(name, "FRONTEND" | "BACKEND");
            (server && fields.get(status)?.starts_with("UP")).then(|| name.to_owned())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statistics_name_the_servers_that_are_up() {
        let csv = "# pxname,svname,qcur,status,x\napi,FRONTEND,,OPEN,\napi,server-1,0,UP,\napi,BACKEND,0,UP,\n\
                   ws,wsproxy-1,0,DOWN 1/2,\nws,wsproxy-2,0,UP 1/1,\n";
        assert_eq!(servers_up(csv), BTreeSet::from(["server-1".to_owned(), "wsproxy-2".to_owned()]));
        for text in ["", "x", "# a,b\nc", "# a,status"] {
            assert!(servers_up(text).is_empty(), "{text:?}");
        }
    }
}
