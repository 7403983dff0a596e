//! A running Compose stack whose numbers of containers and variables change, and are restored at the end.
//! Redis and HAProxy are left alone. HAProxy finds the containers in the DNS of Docker.

use crate::{
    docker::{self, Container, PublishedPorts, Source},
    injection::stack_containers,
    inventory::Inventory,
    published::on_loopback,
    role::Role,
    stack_ref::StackRef,
    statistics::{self, Instance},
};
use anyhow::{Context, bail};
use std::{
    collections::BTreeSet,
    net::SocketAddr,
    thread::sleep,
    time::{Duration, Instant},
};

/// The roles whose containers change.
const ROLES: [Role; 2] = [Role::Server, Role::Wsproxy];
/// Time limit for a container to become healthy, and for HAProxy to see all of them.
const READY_TIMEOUT: Duration = Duration::from_secs(60);
/// Interval between two looks at HAProxy.
const LOOK: Duration = Duration::from_millis(200);
/// Prints HAProxy's statistics in its container, which has no curl.
const STATISTICS: &str =
    r"exec 3<>/dev/tcp/127.0.0.1/8404 && printf 'GET /;csv HTTP/1.0\r\n\r\n' >&3 && cat <&3";

/// A Compose stack whose servers and gateways change. Dropping it restores them.
#[derive(Debug)]
pub struct ComposeStack {
    source: Source,
    /// The numbers of containers before the first change.
    before: [(Role, u16); 2],
    was_changed: bool,
}

impl ComposeStack {
    /// Finds a running stack. `None`: the only one.
    ///
    /// # Errors
    /// The stack does not run, several run, or Docker does not respond.
    pub fn find(project: Option<&str>) -> anyhow::Result<Self> {
        let of = |role| stack_containers(project, role);
        let (servers, gateways) = (of(Role::Server)?, of(Role::Wsproxy)?);
        let source = Source::of(gateways.first().context("the stack has no gateway")?)?;
        let count = |containers: &[Container]| u16::try_from(containers.len()).unwrap_or(u16::MAX);
        let before = [(Role::Server, count(&servers)), (Role::Wsproxy, count(&gateways))];
        Ok(Self { source, before, was_changed: false })
    }

    /// Returns the name of the project.
    #[must_use]
    pub fn project(&self) -> &str {
        &self.source.project
    }

    /// Returns the URLs of the API and of the gateways, at every HAProxy.
    ///
    /// # Errors
    /// Docker does not respond, or HAProxy publishes no port on a loopback address.
    pub fn urls(&self) -> anyhow::Result<(Vec<String>, Vec<String>)> {
        let mut urls = (Vec::new(), Vec::new());
        for haproxy in self.haproxies()? {
            let ports: PublishedPorts =
                serde_json::from_str(&haproxy.inspect("{{json .NetworkSettings.Ports}}")?)
                    .context("unexpected output of `docker inspect`: expected a JSON table of ports")?;
            let at = |port: &str| -> Option<SocketAddr> {
                ports.get(port)?.as_ref()?.iter().filter_map(on_loopback).min()
            };
            let published = |port: &str| {
                at(port)
                    .with_context(|| format!("{} publishes no port for {port} on 127.0.0.1", haproxy.name()))
            };
            urls.0.push(format!("http://{}", published("8080/tcp")?));
            urls.1.push(format!("ws://{}", published("8081/tcp")?));
        }
        Ok(urls)
    }

    fn haproxies(&self) -> anyhow::Result<Vec<Container>> {
        let mut all = docker::containers(Some(self.project()))?;
        all.retain(|container| container.service == "haproxy");
        if all.is_empty() {
            bail!("Compose stack {} has no haproxy", self.project());
        }
        Ok(all)
    }

    /// Sets the numbers of servers and gateways, or those before the first change where none is given, and variables of both. Containers
    /// whose variables differ are replaced. Returns when all are healthy and HAProxy sends them sessions. Blocks.
    ///
    /// # Errors
    /// Compose or Docker fails, a variable is not one that the configuration passes on, a container does not become healthy, or
    /// `is_cancelled` returned true.
    pub fn change(
        &mut self,
        servers: Option<u16>,
        gateways: Option<u16>,
        variables: &[(String, String)],
        is_cancelled: &dyn Fn() -> bool,
    ) -> anyhow::Result<()> {
        let [(_, servers_before), (_, gateways_before)] = self.before;
        let counts = [
            (Role::Server, servers.unwrap_or(servers_before)),
            (Role::Wsproxy, gateways.unwrap_or(gateways_before)),
        ];
        self.was_changed = true;
        docker::compose(&self.source.up("", &counts), variables)?;
        let containers: Vec<Container> = ROLES
            .iter()
            .map(|&role| stack_containers(Some(self.project()), role))
            .collect::<anyhow::Result<Vec<_>>>()?
            .concat();
        for variable in variables {
            check_variable(&containers, variable)?;
        }
        for container in &containers {
            if is_cancelled() {
                bail!("interrupted");
            }
            container.wait_until_healthy(READY_TIMEOUT)?;
        }
        for haproxy in self.haproxies()? {
            self.wait_until_seen(&haproxy, containers.len(), is_cancelled)?;
        }
        Ok(())
    }

    /// Waits until `count` servers and gateways run and HAProxy sends to exactly their addresses. The number of those that are up is not
    /// enough: HAProxy learns from DNS that a container was replaced. Until then it sends to the address of the old one, which can belong
    /// to another container by now.
    fn wait_until_seen(
        &self,
        haproxy: &Container,
        count: usize,
        is_cancelled: &dyn Fn() -> bool,
    ) -> anyhow::Result<()> {
        let inventory = Inventory::of(StackRef::Compose { project: Some(self.project().to_owned()) });
        let deadline = Instant::now() + READY_TIMEOUT;
        loop {
            if is_cancelled() {
                bail!("interrupted");
            }
            let running: BTreeSet<_> = inventory.members()?.iter().filter_map(|member| member.http).collect();
            let seen = up(&haproxy.exec(&["bash", "-c", STATISTICS])?)?;
            if running.len() == count && seen == running {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!(
                    "after {READY_TIMEOUT:?} {} sends to {seen:?}, and the containers that run are {running:?}: expected {count} of both; \
                     see `docker logs {}`",
                    haproxy.name(),
                    haproxy.id
                );
            }
            sleep(LOOK);
        }
    }

    /// Restores the numbers of containers, and the variables that this process and the configuration give them, if they were changed.
    ///
    /// # Errors
    /// Those of [`Self::change`].
    pub fn restore(&mut self) -> anyhow::Result<()> {
        if !self.was_changed {
            return Ok(());
        }
        let restored = self.change(None, None, &[], &|| false);
        // What failed is not tried again.
        self.was_changed = false;
        restored
    }
}

impl Drop for ComposeStack {
    fn drop(&mut self) {
        // `restore` reports errors. Here it is the last attempt, also during a panic.
        let _ = self.restore();
    }
}

/// Checks that some container has a variable. Compose ignores those that its configuration does not name.
fn check_variable(containers: &[Container], (name, value): &(String, String)) -> anyhow::Result<()> {
    let line = format!("{name}={value}");
    for container in containers {
        let variables = container.inspect("{{range .Config.Env}}{{println .}}{{end}}")?;
        if variables.lines().any(|variable| variable == line) {
            return Ok(());
        }
    }
    bail!("the Compose file does not pass {name} on: add it to `environment` of `server` or `wsproxy`")
}

/// Returns the addresses of the instances that are up, from HAProxy's statistics.
fn up(response: &str) -> anyhow::Result<BTreeSet<SocketAddr>> {
    let instances = statistics::instances(response).into_iter().filter(|instance| instance.is_up);
    let address = |instance: Instance| {
        instance.address.parse().with_context(|| {
            format!(
                "the statistics of HAProxy have no address of {}: restart HAProxy, so that it reads its present configuration, with \
                 `docker compose restart haproxy`",
                instance.name
            )
        })
    };
    instances.map(address).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_instances_that_are_up_are_seen() {
        let csv = "# pxname,svname,status,addr\napi,server1,UP,10.0.0.2:8000\napi,BACKEND,UP,\nws,wsproxy1,DOWN,10.0.0.3:4040\n\
                   ws,wsproxy2,UP 1/2,10.0.0.4:4040\nws,wsproxy3,MAINT (resolution),\n";
        let expected = ["10.0.0.2:8000", "10.0.0.4:4040"].map(|address| address.parse().unwrap());
        assert_eq!(up(csv).unwrap(), expected.into());
        let old = up("# pxname,svname,status\nws,wsproxy1,UP\n").unwrap_err().to_string();
        assert!(old.contains("no address of wsproxy1") && old.contains("restart haproxy"), "{old}");
    }
}
